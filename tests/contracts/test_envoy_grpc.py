"""Envoy's `ext_authz` over gRPC: what a real client of gRPC is told, by the whole gateway, in every situation.

The table is that of the other dialects (test_forward_auth.py): a denial with the status that the visitor gets.
"""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import grpc
import pytest
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse

from oidc_proxy.demo.directory import ANN, EVE
from tests.contracts.test_forward_auth import (
    BROWSER,
    CONFIG,
    LIES,
    METHODS,
    NAMES,
    PROGRAM,
    TARGET,
    VISITORS,
    cookie_of,
)  # fmt: skip
from tests.gateway import World, merged, running_world
from tests.wire import authority

CHECK = "/envoy.service.auth.v3.Authorization/Check"
GRPC = {"grpc": {"address": "127.0.0.1:0"}, "dialects": []}
Line = tuple[str, bytes]


@asynccontextmanager
async def asked_world(change: Mapping[str, Any] | None = None) -> AsyncIterator[World]:
    async with running_world(merged(merged(CONFIG, {"forward_auth": GRPC}), change or {})) as world:
        yield world


@asynccontextmanager
async def calling(target: str) -> AsyncIterator[Any]:
    """A client; call it with the bytes of a message and a timeout."""
    async with grpc.aio.insecure_channel(target, options=[("grpc.max_send_message_length", -1)]) as channel:
        yield channel.unary_unary(CHECK)


class Told:
    """What the answer says."""

    def __init__(self, response: CheckResponse) -> None:
        self.passes = response.status.code == 0
        assert response.WhichOneof("http_response") == ("ok_response" if self.passes else "denied_response")
        self.status = 200 if self.passes else response.denied_response.status.code
        told = response.ok_response if self.passes else response.denied_response
        self.pairs = [(line.header.key.lower(), line.header.value) for line in told.headers]
        assert len(self.pairs) == len(dict(self.pairs)), "no name comes twice"
        assert {line.append_action for line in told.headers} <= {2}, "each overwrites what came"
        self.headers = dict(self.pairs)
        self.removed = set(response.ok_response.headers_to_remove)
        self.body = response.denied_response.body
        assert not response.HasField("dynamic_metadata")
        assert not response.ok_response.response_headers_to_add


def question(
    world: World, method: str = "GET", target: str = "/page", lines: Sequence[str] = (), *,
    cookie: str = "", host: str = "", raw: bool = True, demands: Mapping[str, str] | None = None,
) -> CheckRequest:  # fmt: skip
    """As Envoy 1.40 asks: pseudo-headers among the others, names in lower case."""
    host = host or authority(world.url)
    pairs = [(":method", method), (":path", target), (":authority", host), (":scheme", "http")]
    pairs += [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    pairs += [("cookie", cookie)] if cookie else []
    asked = CheckRequest()
    asked.attributes.context_extensions.update(demands or {})
    request = asked.attributes.request.http
    request.method, request.path, request.host, request.scheme, request.protocol = (
        method,
        target,
        host,
        "http",
        "HTTP/2",
    )
    for name, value in pairs:
        if raw:
            request.header_map.headers.add(key=name, raw_value=value.encode())
        else:
            request.headers[name] = f"{request.headers[name]},{value}" if name in request.headers else value
    return asked


async def ask(world: World, asked: CheckRequest | bytes, timeout: float = 10) -> Told:
    data = asked if isinstance(asked, bytes) else asked.SerializeToString()
    async with calling(f"127.0.0.1:{world.app.grpc_port}") as check:
        return Told(CheckResponse.FromString(await check(data, timeout=timeout)))


# ── the table ──

TABLE = {
    ("nobody", "browser"): (302, "start"), ("nobody", "program"): (401, ""), ("may", "any"): (200, ""),
    ("may not", "browser"): (403, ""), ("may not", "program"): (403, ""), ("outage", "browser"): (503, ""),
    ("outage", "program"): (503, ""), ("not found", "any"): (404, ""),
}  # fmt: skip


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "joined"])
@pytest.mark.parametrize(("situation", "visitor"), TABLE)
async def test_the_contract(situation: str, visitor: str, raw: bool) -> None:
    status, where = TABLE[situation, visitor]
    async with asked_world() as world:
        target = {"may not": "/staff/x", "not found": "/nothing"}.get(situation, TARGET)
        cookie = "" if situation == "nobody" else await cookie_of(world, "eve" if situation == "may not" else "ann")
        if situation == "outage":
            await world.provider.close()
            world.clock.advance(301)  # the access token is over, and cannot be renewed
        for lines in VISITORS[visitor]:
            for method in METHODS:
                told = await ask(world, question(world, method, target, lines, cookie=cookie, raw=raw))
                assert_answer(told, status, where, method, f"{world.url}{target}", world)
                if not told.passes:
                    assert_body(told, lines in BROWSER, where)


def assert_answer(told: Told, status: int, where: str, method: str, asked: str, world: World) -> None:
    safe = method in {"GET", "HEAD"}
    assert told.status == (303 if status == 302 and not safe else status)
    assert "set-cookie" not in told.headers
    if told.passes:
        assert {name.lower() for name in [*NAMES, "Authorization"]} <= told.headers.keys() | told.removed
        return
    back = f"?rd={quote(asked, safe='/:')}" if safe else ""
    assert told.headers.get("location") == (f"{world.url}/oauth2/{where}{back}" if where else None)
    assert told.headers["cache-control"] == "no-store"
    assert len(told.headers["x-request-id"]) >= 16
    assert ("www-authenticate" in told.headers) == (told.status == 401)
    assert ("retry-after" in told.headers) == (told.status == 503)
    assert not {name.lower() for name in [*NAMES, "Authorization"]} & told.headers.keys()


def assert_body(told: Told, person: bool, where: str) -> None:
    if where:
        assert told.body == ""
    elif person:
        assert told.body.startswith("<!doctype html>")
    else:
        assert json.loads(told.body)["status"] == told.status
        assert told.headers["content-type"] == "application/problem+json"


# ── what is said of the user, and what is taken out ──


async def test_f206_the_application_hears_who_it_is_and_nothing_that_the_client_says() -> None:
    async with asked_world() as world:
        cookie = await cookie_of(world, "eve")
        told = await ask(world, question(world, cookie=cookie))
        assert told.headers["x-auth-request-user"] == told.headers["x-forwarded-user"] == EVE.sub
        assert told.headers["authorization"].startswith("Bearer ey")
        assert "cache-control" not in told.headers, "that would be the request's"
        claims = ("X-Forwarded-User: ann", "X_Auth_Request_User: ann", "X-Forwarded_Email: a@b", "X-Original-URL: /a",
                  "X-Rewrite-Url: /b", "X-Auth-Request-Access-Token: t", "x_request_id: 1", "X-Real-Ip: 192.0.2.1",
                  "X-Forwarded-Prefix: /p", "Forwarded: for=192.0.2.1")  # fmt: skip
        kept = ("X-Forwarded-For: 192.0.2.1", "X-Forwarded-Proto: https", "X-Request-Id: 0123456789", "Accept: */*",
                "X-Envoy-External-Address: 192.0.2.1", "Traceparent: 00-1-1-01", "X-Custom: 1")  # fmt: skip
        told = await ask(world, question(world, lines=[*claims, *kept], cookie=cookie))
        names = {line.partition(":")[0].lower() for line in claims}
        assert names <= told.removed | {name for name in told.headers if told.headers[name] == EVE.sub}
        assert not {line.partition(":")[0].lower() for line in kept} & (told.removed | told.headers.keys())
        for target, given in (("/public/x", cookie), ("/public/x", ""), ("/optional/x", "")):
            told = await ask(world, question(world, "GET", target, claims, cookie=given))
            assert {name.lower() for name in [*NAMES, "Authorization"]} | names <= told.removed
            assert told.headers.keys() <= {"cookie"}


async def test_the_session_s_cookie_stays_behind_unless_it_is_we_who_get_it() -> None:
    async with asked_world() as world:
        held = await cookie_of(world, "ann")
        session = next(pair for pair in held.split("; ") if pair.startswith("oidc_proxy="))
        for cookie, left in ((session, None), (f"a=1; {session}; b=2", "a=1; b=2"), (f"{session}; ü=ß", "ü=ß")):
            told = await ask(world, question(world, cookie=cookie))
            assert told.headers.get("cookie") == left
            assert ("cookie" in told.removed) == (left is None)
        told = await ask(world, question(world, target="/public/x", cookie="a=1; b=2"))
        assert "cookie" not in told.headers.keys() | told.removed
        told = await ask(world, question(world, target="/oauth2/userinfo", cookie=held))
        assert (told.passes, "cookie" in told.headers.keys() | told.removed) == (True, False)
        bytes_of_nobody = question(world)
        line = bytes_of_nobody.attributes.request.http.header_map.headers.add(key="cookie")
        line.raw_value = session.encode() + b"; a=\xff"
        told = await ask(world, bytes_of_nobody)
        assert (told.passes, "cookie" in told.removed) == (True, True)


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "joined"])
async def test_what_a_client_adds_changes_no_decision(raw: bool) -> None:
    async with asked_world() as world:
        cookie = await cookie_of(world, "eve")
        for lie in LIES:
            for target, given, status in (("/page", "", 401), ("/staff/x", cookie, 403), ("/page", cookie, 200)):
                told = await ask(world, question(world, "GET", target, (lie,), cookie=given, raw=raw))
                assert told.status == status, lie
                assert ANN.sub not in told.headers.values()


# ── demands ──


@pytest.mark.parametrize(
    ("demands", "user", "status"),
    [
        ({"groups": "/staff/ops"}, "ann", 200),
        ({"groups": "/staff/ops"}, "bob", 403),
        ({"groups": "/staff/ops"}, "", 401),
        ({"groups": "/staff/sales,/staff/ops"}, "bob", 200),
        ({"roles": "staff"}, "ann", 200),
        ({"roles": "staff", "groups": "/staff/sales"}, "ann", 403),
        ({"group": "/staff/ops"}, "ann", 400),
        ({"groups": ","}, "ann", 400),
        ({"allowed_groups": "/staff/ops"}, "ann", 400),
    ],
)
async def test_the_route_of_envoy_can_demand_more(demands: Mapping[str, str], user: str, status: int) -> None:
    async with asked_world() as world:
        cookie = await cookie_of(world, user) if user else ""
        for target in ("/page", "/public/x", "/page?groups=/staff/ops"):
            assert (await ask(world, question(world, "GET", target, cookie=cookie, demands=demands))).status == status


# ── who may ask, and what is no question ──


async def test_f207_who_is_not_trusted_gets_no_answer() -> None:
    async with asked_world({"forward_auth": {"trusted_proxies": ["192.0.2.0/24"]}}) as world:
        for cookie in ("", await cookie_of(world, "ann")):
            for target in ("/public/x", "/page"):
                told = await ask(world, question(world, "GET", target, ("X-Forwarded-For: 192.0.2.1",), cookie=cookie))
                assert (told.status, json.loads(told.body)["code"]) == (403, "proxy_untrusted")
        assert "127.0.0.1 is not in forward_auth.trusted_proxies" in world.log.getvalue()


async def test_who_comes_through_a_socket_of_this_machine_counts_as_it(tmp_path: Path) -> None:
    change = {"forward_auth": {"grpc": {"address": f"unix:{tmp_path}/grpc.sock"}}, "listen": {"socket_mode": "0600"}}
    async with asked_world(change) as world:
        assert (tmp_path / "grpc.sock").stat().st_mode & 0o777 == 0o600
        async with calling(f"unix:{tmp_path}/grpc.sock") as check:
            answer = await check(question(world, "GET", "/public/x").SerializeToString())
            assert Told(CheckResponse.FromString(answer)).passes


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"path": "/public/x y"}, 400),
        ({"path": "/public/x#y"}, 400),
        ({"path": "http://evil.test/public/x"}, 400),
        ({"path": ""}, 400),
        ({"path": "/public/é"}, 400),
        ({"host": "evil.test"}, 421),
        ({"host": ""}, 421),
        ({"method": ""}, 400),
        ({"method": "GET /public/x"}, 400),
        ({"method": "TRACE"}, 405),
        ({"method": "CONNECT"}, 405),
        ({"lines": [("host", b"evil.test")]}, 400),
        ({"lines": [("x y", b"1")]}, 400),
        ({"lines": [("", b"1")]}, 400),
        ({"lines": [("é", b"1")]}, 400),
        ({"lines": [("x", b"1\r\nx-forwarded-user: ann")]}, 400),
        ({"lines": [("x", b"1\0")]}, 400),
    ],
)
async def test_what_is_no_question_is_denied_and_no_error(change: Mapping[str, Any], status: int) -> None:
    async with asked_world() as world:
        cookie = await cookie_of(world, "ann")
        for target in ("/public/x", "/page"):
            asked = question(world, "GET", target, cookie=cookie)
            for name, value in change.items():
                if name == "lines":
                    for key, text in value:
                        asked.attributes.request.http.header_map.headers.add(key=key, raw_value=text)
                else:
                    setattr(asked.attributes.request.http, name, value)
            assert (await ask(world, asked)).status == status


async def test_bytes_that_are_no_message_are_denied() -> None:
    async with asked_world() as world:
        for data in (b"", b"\xff" * 100, b"\x0a\xff\xff\xff\xff\x0f", struct.pack(">Q", 1 << 62)):
            assert (await ask(world, data)).status == 400
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask(world, b"\x0a" * (2 << 20))
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("cookie", ["oidc_proxy=", "oidc_proxy=x", "oidc_proxy=" + "A" * 3000])
async def test_av_6_a_broken_cookie_is_no_session(cookie: str) -> None:
    async with asked_world() as world:
        for given in (cookie, f"{cookie}; {cookie}", f"{cookie}; {await cookie_of(world, 'ann')}"):
            assert (await ask(world, question(world, cookie=given))).status == 401


async def test_a_handshake_is_a_request_like_any_other() -> None:
    upgrade = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAA")
    async with asked_world() as world:
        cookie, ours, theirs = await cookie_of(world, "ann"), f"Origin: {world.url}", "Origin: https://evil.test"
        for given, lines, status in ((cookie, (ours,), 200), (cookie, (theirs,), 403), ("", (ours,), 401)):
            assert (await ask(world, question(world, lines=(*upgrade, *lines), cookie=given))).status == status


async def test_our_own_endpoints_are_never_sent_to_sign_in() -> None:
    async with asked_world() as world:
        for target in ("/oauth2/start?rd=/page", "/oauth2/callback?code=x&state=y", "/oauth2/sign_out"):
            assert (await ask(world, question(world, "GET", target, BROWSER[0]))).passes
        for target in ("/oauth2/startle", "/oauth2/x/../start", "/oauth2/authz/envoy"):
            assert not (await ask(world, question(world, "GET", target, PROGRAM[0]))).passes


# ── no error, ever ──


async def test_a_mistake_of_ours_is_a_denial(monkeypatch: pytest.MonkeyPatch) -> None:
    async with asked_world() as world:
        cookie = await cookie_of(world, "ann")

        def broken(*_: object) -> None:
            raise RuntimeError("a defect")

        monkeypatch.setattr(world.app._sessions, "at_hand", broken)
        told = await ask(world, question(world, cookie=cookie))
        assert (told.status, json.loads(told.body)["code"]) == (500, "internal_error")
        assert world.lines(event="internal_error")


async def test_who_waits_too_short_a_time_is_told_before_it_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    async with asked_world() as world:
        cookie = await cookie_of(world, "ann")

        async def slow(*_: object) -> None:
            await asyncio.sleep(60)

        monkeypatch.setattr(world.app._sessions, "at_hand", lambda _: None)
        monkeypatch.setattr(world.app._sessions, "current", slow)
        told = await ask(world, question(world, cookie=cookie), timeout=0.5)
        assert (told.status, json.loads(told.body)["code"]) == (503, "overloaded")
        assert told.headers["retry-after"] == "5"
        assert world.metric("http_requests_in_flight") == 0


async def test_who_goes_away_is_no_error_and_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    async with asked_world() as world:
        cookie, gate = await cookie_of(world, "ann"), asyncio.Event()
        monkeypatch.setattr(world.app._sessions, "at_hand", lambda _: None)
        monkeypatch.setattr(world.app._sessions, "current", lambda _: gate.wait())
        going = asyncio.create_task(ask(world, question(world, cookie=cookie)))
        while world.metric("http_requests_in_flight") != 1:
            await asyncio.sleep(0.01)
        going.cancel()
        while world.metric("http_requests_in_flight") != 0:
            await asyncio.sleep(0.01)
        assert world.lines(type="access", status=499, protocol="gRPC")
        assert not world.lines(event="internal_error")


async def test_more_checks_than_there_is_room_for_are_denied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oidc_proxy.server.grpc.MOST", 2)
    async with asked_world() as world:
        cookie, gate = await cookie_of(world, "ann"), asyncio.Event()
        current = world.app._sessions.current

        async def slow(ticket: Any) -> Any:
            await gate.wait()
            return await current(ticket)

        monkeypatch.setattr(world.app._sessions, "at_hand", lambda _: None)
        monkeypatch.setattr(world.app._sessions, "current", slow)
        waiting = [asyncio.create_task(ask(world, question(world, cookie=cookie))) for _ in range(2)]
        while world.metric("http_requests_in_flight") != 2:
            await asyncio.sleep(0.01)
        told = await ask(world, question(world, "GET", "/public/x"))
        assert (told.status, json.loads(told.body)["code"]) == (503, "overloaded")
        gate.set()
        assert [(await task).status for task in waiting] == [200, 200]


async def test_what_is_under_way_is_answered_and_nothing_more_is_taken_at_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with asked_world() as world:
        cookie, gate = await cookie_of(world, "ann"), asyncio.Event()
        current = world.app._sessions.current

        async def slow(ticket: Any) -> Any:
            await gate.wait()
            return await current(ticket)

        monkeypatch.setattr(world.app._sessions, "at_hand", lambda _: None)
        monkeypatch.setattr(world.app._sessions, "current", slow)
        waiting = asyncio.create_task(ask(world, question(world, cookie=cookie)))
        while world.metric("http_requests_in_flight") != 1:
            await asyncio.sleep(0.01)
        closing = asyncio.create_task(world.app.close())
        await asyncio.sleep(0.2)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask(world, question(world, "GET", "/public/x"), timeout=1)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        gate.set()
        assert (await waiting).passes
        assert await closing


async def test_health_is_told_as_kubernetes_and_envoy_ask_for_it() -> None:
    async with asked_world() as world:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{world.app.grpc_port}") as channel:
            assert await channel.unary_unary("/grpc.health.v1.Health/Check")(b"") == b"\x08\x01"
            world.app._grpc.draining = True
            assert await channel.unary_unary("/grpc.health.v1.Health/Check")(b"") == b"\x08\x02"
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary("/envoy.service.auth.v3.Authorization/Other")(b"")
            assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


async def test_the_log_and_the_metrics_have_the_request_that_was_asked_about() -> None:
    async with asked_world() as world:
        cookie = await cookie_of(world, "ann")
        lines = ("X-Forwarded-For: 203.0.113.9", "X-Request-Id: asked-by-the-proxy", "User-Agent: seen")
        assert (await ask(world, question(world, "PUT", "/page?x=1", lines, cookie=cookie))).passes
        (line,) = world.lines(request_id="asked-by-the-proxy", type="access")
        seen = [line[name] for name in ("method", "host", "path", "route", "decision", "client_ip", "status")]
        assert seen == ["PUT", authority(world.url), "/page", "/page", "allow", "203.0.113.9", 200]
        assert (line["protocol"], line["user_agent"], line["sub"]) == ("gRPC", "seen", ANN.sub)
        assert world.metric("http_requests_total", route="/page", method="PUT", code="200") == 1
        await ask(world, question(world, lines=("X-Request-Id: refused-by-us", "Accept: text/html")))
        (line,) = world.lines(request_id="refused-by-us", type="access")
        assert (line["status"], line["decision"], line["bytes_out"]) == (302, "login", 0)
        secrets = cookie.split("oidc_proxy=")[1].split(";")[0]
        assert secrets not in world.log.getvalue()
