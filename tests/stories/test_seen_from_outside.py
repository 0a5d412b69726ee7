"""Whoever runs the gateway looks at its health, its metrics and its log, and sees no secret there."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from oidc_proxy.demo.faults import Faults, hanging
from tests.gateway import World, merged, running_world
from tests.wire import Peer, Recorder, Response, Script, ask, connected, message, recorder

DOCS = Path(__file__).parents[2] / "docs"
ALWAYS = {"ts", "level", "type"}


def documented(page: str, section: str = "") -> dict[str, str]:
    """The first cell of each row of a section's table, and the rest of the row."""
    text = (DOCS / page).read_text().partition(section)[2] if section else (DOCS / page).read_text()
    rows = re.findall(r"^\| `([a-z_.]+)` \|(.*)\|$", text.partition("\n## ")[0] if section else text, re.MULTILINE)
    assert rows
    return dict(rows)


ACCESS = ALWAYS | documented("logging.md", "## Requests\n").keys()


@asynccontextmanager
async def world_with(
    config: dict[str, Any] | None = None, script: Script | None = None
) -> AsyncIterator[tuple[World, Recorder]]:
    async with recorder(script) as backend:
        usual = {"upstream": backend.url, "routes": [{"path": "/public/", "auth": "none"}]}
        async with running_world(merged(usual, config or {})) as world:
            yield world, backend


async def admin(world: World, path: str, method: str = "GET") -> Response:
    url = f"http://127.0.0.1:{world.app.admin_port}"
    return await ask(url, message(url, f"{method} {path}"))


async def metrics(world: World) -> dict[str, float]:
    """Every sample by its name and labels."""
    response = await admin(world, "/metrics")
    assert response.status == 200
    lines = [line for line in response.body.decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


# ── health ──


async def test_livez_and_readyz_when_all_is_well() -> None:
    async with world_with() as (world, _):
        assert (await admin(world, "/livez")).status == 200
        response = await admin(world, "/readyz")
        assert response.status == 200
        assert json.loads(response.body)["checks"] == {"store": "ok", "provider": "ok", "draining": "no"}
        head = await admin(world, "/readyz", "HEAD")
        assert (head.status, head.body) == (200, b"")
        for path, method, status in (("/", "GET", 404), ("/livez/", "GET", 404), ("/livez", "POST", 405)):
            assert (await admin(world, path, method)).status == status
        assert all(line["type"] != "access" for line in world.lines()), "probes are not logged"


async def test_rx7_readyz_says_that_the_provider_is_not_there_until_it_is() -> None:
    async with world_with() as (world, _):
        await world.provider.close()
        assert (await admin(world, "/livez")).status == 200
        response = await admin(world, "/readyz")
        assert response.status == 503
        checks = json.loads(response.body)["checks"]
        assert checks["store"] == "ok"
        assert "provider_unavailable" in checks["provider"]
        assert (await metrics(world))["oidc_proxy_provider_up"] == 0
        await world.provider.open()
        world.clock.advance(5)
        assert (await admin(world, "/readyz")).status == 200
        assert (await metrics(world))["oidc_proxy_provider_up"] == 1
        await world.provider.close()
        assert (await admin(world, "/readyz")).status == 200, "what is known of it still serves"
        await world.provider.open()


async def test_readyz_does_not_wait_for_a_provider_that_hangs() -> None:
    async with world_with() as (world, _):
        world.provider.faults = Faults(discovery=hanging)
        response = await asyncio.wait_for(admin(world, "/readyz"), 3)
        assert response.status == 503
        assert json.loads(response.body)["checks"]["provider"] == "no answer within 1 s"


async def test_readyz_says_that_the_store_is_not_there() -> None:
    # It is given as long as a command may take, and a probe no longer than a second.
    store = {"type": "redis", "url": "redis://127.0.0.1:1/0", "timeouts": {"command": "500ms"}}
    async with world_with({"store": store}) as (world, _):
        assert (await admin(world, "/livez")).status == 200
        response = await admin(world, "/readyz")
        assert response.status == 503
        assert json.loads(response.body)["checks"]["store"].startswith("store_unavailable")
        assert (await metrics(world))["oidc_proxy_session_store_up"] == 0


async def test_readyz_says_no_while_requests_are_finished() -> None:
    go_on = asyncio.Event()

    async def slow(peer: Peer) -> None:
        await peer.head()
        await go_on.wait()
        await peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone")

    async with world_with(script=slow) as (world, _), connected(world.url) as line:
        await line.send(message(world.url, "GET /public/x"))
        await asyncio.sleep(0.05)
        closing = asyncio.create_task(world.app.close())
        await asyncio.sleep(0.05)
        response = await admin(world, "/readyz")
        assert response.status == 503
        assert json.loads(response.body)["checks"]["draining"] == "yes"
        assert (await admin(world, "/livez")).status == 200
        with pytest.raises(ConnectionError):
            await ask(world.url, message(world.url))
        go_on.set()
        assert (await line.response()).body == b"done"
        await closing


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics", "/healthz"])
async def test_pa24_nothing_of_this_is_on_the_public_listener(path: str) -> None:
    async with world_with() as (world, backend):
        assert (await ask(world.url, message(world.url, f"GET {path}", "User-Agent: kube-probe/1.30"))).status == 401
        assert backend.connections == 0


# ── metrics ──


async def test_metrics_move() -> None:
    async with world_with() as (world, backend), world.browser() as ann:
        before = await metrics(world)
        await ann.sign_in(f"{world.url}/x", "ann", "ann")
        await ann.get(f"{world.url}/public/x?secret=canary")
        await ann.get(f"{world.url}/public/y")
        await ann.request("PROPFIND", f"{world.url}/x")
        backend.answer = b"nonsense"
        await ann.get(f"{world.url}/public/z")
        await ask(world.url, message(world.url, "GET /x", "Host: evil.test"))
        world.clock.advance(301)
        backend.answer = b"HTTP/1.1 204 No Content\r\n\r\n"
        await ann.fetch(f"{world.url}/x")
        await ann.navigate(f"{world.url}/oauth2/sign_out", initiator=f"{world.url}/")
        after = await metrics(world)

        def rose(name: str) -> float:
            return after.get(f"oidc_proxy_{name}", 0) - before.get(f"oidc_proxy_{name}", 0)

        assert rose('http_requests_total{code="200",method="GET",route="/public/"}') == 2
        assert rose('http_requests_total{code="502",method="GET",route="/public/"}') == 1
        assert rose('http_requests_total{code="200",method="other",route="/"}') == 1
        assert rose('http_request_duration_seconds_count{route="/public/"}') == 3
        assert rose("login_started_total") == 1
        assert rose('login_completed_total{error="",result="success"}') == 1
        assert rose('token_refresh_total{result="success"}') == 1
        assert rose('errors_total{code="upstream_invalid_response"}') == 1
        assert rose('errors_total{code="wrong_host"}') == 1
        assert rose('authz_decisions_total{decision="login",reason=""}') == 1
        assert rose('authz_decisions_total{decision="allow",reason=""}') >= 4
        assert rose('logout_total{kind="rp"}') == 1
        assert after["oidc_proxy_http_requests_in_flight"] == 0
        assert after["oidc_proxy_jwks_age_seconds"] == 301
        assert any(name.startswith("oidc_proxy_build_info{") for name in after)


async def test_the_documented_metrics_are_those_that_there_are() -> None:
    async with world_with() as (world, _):
        text = (await admin(world, "/metrics")).body.decode()
        there = {name for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE)}
        there = {name for name in there if name.startswith("oidc_proxy_")}  # others are those of any Python program
        assert there == documented("metrics.md").keys()


async def test_no_client_can_make_metrics_grow() -> None:
    async with world_with() as (world, _):

        async def visit(number: int) -> None:
            mark = f"canary{number}"
            for line in (
                f"GET /public/{mark}?{mark}", f"GET /{mark}", f"POST /oauth2/callback?state={mark}",
                f"M{mark.upper()} /x",
                f"GET /oauth2/callback?error={mark}&state={mark}", f"GET /oauth2/{mark}", f"PROPFIND /{mark}",
            ):  # fmt: skip
                await ask(world.url, message(world.url, line, f"User-Agent: {mark}"), "GET")
            await ask(world.url, message(world.url, "GET /x", f"Host: {mark}"))

        await visit(0)
        first = await metrics(world)
        for number in range(1, 6):
            await visit(number)
        then = await metrics(world)
        assert first.keys() == then.keys()
        assert "canary" not in repr(then).lower()


# ── the log ──


async def test_every_request_is_one_line_with_the_documented_fields() -> None:
    async with world_with() as (world, _), world.browser() as ann:
        await ann.sign_in(f"{world.url}/x?a=canary", "ann", "ann")
        page = await ann.get(f"{world.url}/x/y?q=canary", User_Agent="Browser/1")
        line = world.lines(type="access")[-1]
        assert line.keys() == ACCESS
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["ts"])
        assert line["request_id"] == page.headers["X-Request-Id"]
        assert (line["method"], line["path"], line["status"], line["upstream_status"]) == ("GET", "/x/y", 200, 200)
        assert (line["route"], line["decision"], line["client_ip"]) == ("/", "allow", "127.0.0.1")
        assert line["sub"] == world.provider.users["ann"].sub
        assert line["user_agent"] == "Browser/1"
        assert line["bytes_out"] > 2
        for other in world.lines(type="access"):
            assert other.keys() == ACCESS
            assert "?" not in other["path"]
        assert {line["type"] for line in world.lines()} == {"access", "audit", "app"}


async def test_f84_ss19_nothing_secret_is_logged_at_any_level() -> None:
    async with world_with() as (world, backend), world.browser() as ann:
        page = await ann.sign_in(f"{world.url}/x?q=canary-query", "ann", "ann")
        world.clock.advance(301)
        await ann.fetch(f"{world.url}/x?q=canary-query", headers={"X-Secret": "canary-header"})
        await ann.get(f"{world.url}/oauth2/callback?code=canary-code&state=canary-state")
        await ann.get(f"{world.url}/oauth2/callback?error=canary-error&error_description=canary&state=canary-state")
        await ask(world.url, message(world.url, "GET /x", "Authorization: Bearer canary", cookie="oidc_proxy=canary"))
        await ask(world.url, message(world.url, "GET http://canary/x?canary"))
        await ask(world.url, message(world.url, "GET /public/../x?canary", "Referer: canary"))
        tokens = {request.one("Authorization").decode()[7:] for request in backend.seen if request.all("Authorization")}
        cookies = {cookie.value for cookie in ann.cookies}
        queries = {hop.url.partition("?")[2] for hop in page.hops if "state=" in hop.url}
        await ann.navigate(f"{world.url}/oauth2/sign_out", initiator=f"{world.url}/")
        log = world.log.getvalue()
        assert len(tokens) == 2
        assert queries
        secrets = {pair.partition("=")[2] for query in queries for pair in query.split("&")}
        secrets = {secret for secret in secrets if len(secret) >= 20 and "%" not in secret}
        for secret in {"canary", "a secret:", *tokens, *cookies, *secrets}:
            assert secret not in log


async def test_br14_what_clients_send_cannot_forge_a_line() -> None:
    agent = 'x"},{"type":"audit"\x1b[31m'.replace("\x1b", "").encode()
    tricks = [
        b"User-Agent: " + agent,
        "User-Agent: a\u2028b\u2029c\u0085d\u009b31me".encode(),
        b"User-Agent: \xff\xfe caf\xe9",
        "User-Agent: \u202egnp.exe \U000e0001".encode(), b"User-Agent: " + b"\xed\xa0\x80", b"User-Agent: a\tb",
        b"User-Agent: \x9b31m", b"X-Request-Id: forged\xe2\x80\xa8line",
    ]  # fmt: skip
    async with world_with({"listen": {"trusted_proxies": ["127.0.0.1"]}}) as (world, _):
        for trick in tricks:
            before = len(world.log.getvalue())
            assert (await ask(world.url, message(world.url, "GET /public/a%E2%80%A8b", trick))).status == 200
            said = world.log.getvalue()[before:]
            assert said.count("\n") == 1
            (line,) = said.splitlines()
            assert json.loads(line)["path"] == "/public/a%E2%80%A8b", "as it came, not decoded"
            assert all(c.isprintable() for c in line), ascii(line)
            assert "forged" not in json.loads(line)["request_id"]


async def test_a_claim_cannot_forge_a_line() -> None:
    from oidc_proxy.demo.faults import having

    async with world_with() as (world, _), world.browser() as ann:
        world.provider.faults = Faults(id_token_claims=having(sub='x\u2028{"type":"audit"}\u009b'))
        await ann.sign_in(f"{world.url}/x", "ann", "ann")
        for line in world.log.getvalue().splitlines():
            assert isinstance(json.loads(line), dict)
            assert line.isprintable(), ascii(line)


async def test_audit_lines_tell_the_story_of_a_session() -> None:
    async with world_with() as (world, _), world.browser() as ann:
        await ann.sign_in(f"{world.url}/x", "ann", "ann")
        world.clock.advance(301)
        await ann.fetch(f"{world.url}/x")
        await ann.navigate(f"{world.url}/oauth2/sign_out", initiator=f"{world.url}/")
        events = [line["event"] for line in world.lines(type="audit")]
        assert events[0] == "login.succeeded"
        assert events[1] == "session.refreshed"
        assert events[2].startswith("logout.")
        events_documented = documented("logging.md", "## Audit events\n")
        for line in world.lines(type="audit"):
            fields = set(re.findall("`([a-z_]+)`", events_documented[line["event"]].rpartition("|")[2]))
            assert line.keys() - ALWAYS - {"event"} <= fields, line["event"]
        subject = world.provider.users["ann"].sub
        assert {line.get("sub") for line in world.lines(event="login.succeeded")} == {subject}


@pytest.mark.parametrize(("setting", "kind"), [("access", "access"), ("audit", "audit")])
async def test_a_kind_of_line_can_be_left_out(setting: str, kind: str) -> None:
    async with world_with({"log": {setting: False}}) as (world, _), world.browser() as ann:
        await ann.sign_in(f"{world.url}/x", "ann", "ann")
        assert kind not in {line["type"] for line in world.lines()}


async def test_what_never_was_a_request_is_answered_without_a_word_about_us() -> None:
    async with world_with() as (world, _):
        for data in (b"\x16\x03\x01\x02\x00\x01", b"GET / HTTP/9.9\r\n\r\n", b"<script>alert(1)</script>\r\n\r\n"):
            response = await ask(world.url, data, "GET")
            assert response.status == 400
            assert b"script" not in response.body, "BR-8"
            assert not response.all("Server")
            assert response.one("Cache-Control") == b"no-store"
            assert response.one("X-Content-Type-Options") == b"nosniff"


async def test_a_request_that_the_client_gave_up_is_logged_as_such() -> None:
    async def never(peer: Peer) -> None:
        await peer.closed()

    async with world_with(script=never) as (world, _), connected(world.url) as line:
        await line.send(message(world.url, "GET /public/x"))
        await asyncio.sleep(0.05)
        line.abort()
        for _ in range(100):
            if world.lines(type="access"):
                break
            await asyncio.sleep(0.01)
        assert world.lines(type="access")[0]["status"] == 499
