"""The administration listener: health, metrics, and sessions in the hands of an administrator (F66, F231, F265)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import aiohttp
import pytest

from oidc_proxy.server.admin import AdminSettings
from oidc_proxy.sessions import Ticket
from tests.gateway import World, running_world
from tests.world import Browser

TOKEN = "an administrator's long random text"


async def ask(
    world: World, method: str, path: str, headers: Mapping[str, str] = {}
) -> tuple[int, dict[str, Any], Mapping[str, str]]:
    url = f"http://127.0.0.1:{world.app.admin_port}{path}"
    async with aiohttp.ClientSession() as http, http.request(method, url, headers=headers) as answer:
        return answer.status, await answer.json(), answer.headers


async def signed_in(world: World, browser: Browser, user: str = "ann") -> str:
    """The id of the session that the user has now."""
    page = await browser.sign_in(f"{world.url}/echo", user, user)
    assert page.status == 200
    ticket = Ticket.read(browser.cookies.named("oidc_proxy")[0].value)
    assert ticket is not None
    return ticket.record_id


def subject(world: World, user: str = "ann") -> str:
    return world.provider.users[user].sub


# ── list, show ──


async def test_f66_the_sessions_of_a_user_are_listed_without_anything_that_opens_them() -> None:
    async with running_world() as world, world.browser() as ann, world.browser() as elsewhere, world.browser() as bob:
        first, second = await signed_in(world, ann), await signed_in(world, elsewhere)
        await signed_in(world, bob, "bob")
        status, said, headers = await ask(world, "GET", f"/sessions?sub={subject(world)}")
        assert status == 200
        assert {card["id"] for card in said["sessions"]} == {first, second}
        assert headers["Cache-Control"] == "no-store"
        card = said["sessions"][0]
        assert card.keys() == {
            "id", "user", "sub", "sid_hash", "origin", "created_at", "ends_at", "alive", "address", "user_agent",
        }  # fmt: skip
        assert (card["user"], card["sub"], card["alive"]) == ("ann", subject(world), True)
        assert (card["origin"], card["address"]) == (world.url, "127.0.0.1")
        assert "Chrome/" in card["user_agent"]
        for name in ("created_at", "ends_at"):
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", card[name])
        text = json.dumps(said)
        secret = ann.cookies.named("oidc_proxy")[0].value
        tokens = [*world.provider.ledger.access_tokens, *world.provider.ledger.refresh_tokens]
        for hidden in (*secret.split("."), *tokens, *world.provider.ledger.sessions):
            assert hidden not in text


async def test_f66_one_session_is_shown_by_its_id() -> None:
    async with running_world() as world, world.browser() as ann:
        record_id = await signed_in(world, ann)
        status, card, _ = await ask(world, "GET", f"/sessions/{record_id}")
        assert (status, card["id"], card["alive"]) == (200, record_id, True)
        assert (await ask(world, "GET", "/sessions/" + "0" * 64))[0] == 404


async def test_f66_a_session_that_was_idle_for_too_long_is_shown_as_ended() -> None:
    async with running_world() as world, world.browser() as ann:
        record_id = await signed_in(world, ann)
        world.clock.advance(8 * 3600 + 1)
        assert (await ask(world, "GET", f"/sessions/{record_id}"))[1]["alive"] is False


# ── end ──


async def test_f66_an_ended_session_is_over_at_once() -> None:
    async with running_world() as world, world.browser() as ann, world.browser() as elsewhere:
        first = await signed_in(world, ann)
        await signed_in(world, elsewhere)
        assert (await ask(world, "DELETE", f"/sessions/{first}"))[:2] == (200, {"ended": [first]})
        assert (await ann.fetch(f"{world.url}/echo")).status == 401
        assert (await elsewhere.fetch(f"{world.url}/echo")).status == 200
        assert (await ask(world, "DELETE", f"/sessions/{first}"))[0] == 404
        (line,) = world.lines(event="admin.session_revoked")
        assert (line["session"], line["sub"]) == (first[:16], subject(world))
        assert world.metric("logout_total", kind="admin") == 1


async def test_f265_all_sessions_of_a_user_end_together() -> None:
    async with running_world() as world, world.browser() as ann, world.browser() as elsewhere, world.browser() as bob:
        hers = {await signed_in(world, ann), await signed_in(world, elsewhere)}
        await signed_in(world, bob, "bob")
        status, said, _ = await ask(world, "DELETE", f"/sessions?sub={subject(world)}")
        assert status == 200
        assert set(said["ended"]) == hers
        assert [(await browser.fetch(f"{world.url}/echo")).status for browser in (ann, elsewhere, bob)] == [
            401,
            401,
            200,
        ]
        assert len(world.lines(event="admin.session_revoked")) == 2
        assert (await ask(world, "GET", f"/sessions?sub={subject(world)}"))[1] == {"sessions": []}
        assert (await ask(world, "DELETE", f"/sessions?sub={subject(world)}"))[1] == {"ended": []}


async def test_f66_a_slash_at_the_end_of_the_issuer_does_not_hide_sessions() -> None:
    async with running_world({"provider": {"issuer_slash_tolerant": True}}) as world, world.browser() as ann:
        record_id = await signed_in(world, ann)
        _, said, _ = await ask(world, "GET", f"/sessions?sub={subject(world)}")
        assert [card["id"] for card in said["sessions"]] == [record_id]


# ── what is no question ──


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/sessions", 400),
        ("GET", "/sessions?sub=", 400),
        ("GET", "/sessions?sub=a&sub=b", 400),
        ("GET", "/sessions?sub=a&limit=1", 400),
        ("GET", "/sessions/", 400),
        ("GET", "/sessions/*", 400),
        ("GET", "/sessions/" + "A" * 64, 400),
        ("GET", "/sessions/" + "a" * 63, 400),
        ("DELETE", "/sessions/" + "a" * 65, 400),
        ("DELETE", "/sessions/" + "a" * 64 + "?sub=a", 400),
        ("DELETE", "/sessions/" + "a" * 64 + "%0A", 400),
        ("DELETE", "/sessions/" + "a" * 32 + "/" + "a" * 31, 400),
        ("DELETE", "/sessions", 400),
        ("DELETE", "/sessions/" + "a" * 64, 404),
        ("POST", "/sessions?sub=a", 405),
        ("HEAD", "/sessionsx", 404),
        ("GET", "/sessionsx", 404),
        ("POST", "/livez", 405),
    ],
)
async def test_f66_what_is_no_question_is_answered_as_such(method: str, path: str, status: int) -> None:
    async with running_world() as world:
        url = f"http://127.0.0.1:{world.app.admin_port}{path}"
        async with aiohttp.ClientSession() as http, http.request(method, url) as answer:
            assert answer.status == status
            assert answer.content_type == "application/json"
            if method != "HEAD":
                assert (await answer.json())["error"]


async def test_f66_a_store_that_is_away_is_no_missing_session() -> None:
    gone = {"type": "redis", "url": "redis://127.0.0.1:1/0"}
    async with running_world({"store": gone}) as world:
        for method, path in (
            ("GET", "/sessions?sub=a"),
            ("DELETE", "/sessions?sub=a"),
            ("GET", f"/sessions/{'a' * 64}"),
        ):
            status, said, headers = await ask(world, method, path)
            assert (status, said["code"]) == (503, "store_unavailable")
            assert int(headers["Retry-After"]) > 0
        assert world.metric("session_store_up") == 0
        assert world.metric("session_store_operations_total", op="members", result="failure") == 1


# ── who may ask ──


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost:9180"}, 200),
        ({"Host": "LOCALHOST"}, 200),
        ({"Host": "[::1]:9180"}, 200),
        ({"Host": "10.0.0.7"}, 200),
        ({"Host": "rebound.example"}, 403),
        ({"Host": "127.0.0.1.rebound.example"}, 403),
        ({"Host": "localhost.rebound.example"}, 403),
        ({"Host": "127.0.0.1@rebound.example"}, 403),
        ({"Host": "[::1"}, 403),
        ({"Host": ""}, 403),
        ({"Origin": "http://127.0.0.1"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 403),
        ({"Sec-Fetch-Site": "none"}, 200),
    ],
)
async def test_f66_no_browser_gets_in_on_loopback(headers: dict[str, str], status: int) -> None:
    async with running_world() as world:
        for method in ("GET", "DELETE"):
            assert (await ask(world, method, "/sessions?sub=nobody", headers))[0] == status


@pytest.mark.parametrize("address", ["127.0.0.1:0", "0.0.0.0:0"])
async def test_f66_with_a_token_only_who_says_it(address: str) -> None:
    async with running_world({"admin": {"address": address, "token": TOKEN}}) as world:
        for authorization in (
            "",
            "Bearer",
            "Bearer ",
            "Bearer wrong",
            f"Basic {TOKEN}",
            TOKEN,
            f"Bearer {TOKEN}x",
            "Bearer ü",
        ):
            headers = {"Authorization": authorization} if authorization else {}
            status, _, answered = await ask(world, "GET", "/sessions?sub=nobody", headers)
            assert (status, answered["WWW-Authenticate"]) == (401, 'Bearer realm="admin"')
        for authorization in (f"Bearer {TOKEN}", f"bearer  {TOKEN} "):
            headers = {"Authorization": authorization}
            assert (await ask(world, "GET", "/sessions?sub=nobody", headers))[:2] == (200, {"sessions": []})
        assert (await ask(world, "GET", "/livez"))[0] == 200
        assert TOKEN not in world.log.getvalue()


async def test_f66_a_listener_that_others_reach_needs_a_token() -> None:
    async with running_world({"admin": {"address": "0.0.0.0:0"}}) as world:
        status, said, _ = await ask(world, "GET", "/sessions?sub=nobody")
        assert status == 403
        assert "admin.token_file" in said["error"]


@pytest.mark.parametrize(
    ("address", "loopback"),
    [
        ("127.0.0.1:9180", True),
        ("127.8.8.8:9180", True),
        ("[::1]:9180", True),
        ("localhost:9180", True),
        ("0.0.0.0:9180", False),
        ("[::]:9180", False),
        ("10.0.0.1:9180", False),
        ("admin.example.com:9180", False),
        (None, False),
    ],
)
def test_f66_what_a_loopback_listener_is(address: str | None, loopback: bool) -> None:
    assert AdminSettings(address=address).loopback is loopback


# ── health, metrics ──


async def test_f231_a_store_that_is_away_makes_it_not_ready_but_alive() -> None:
    async with running_world({"store": {"type": "redis", "url": "redis://127.0.0.1:1/0"}}) as world:
        status, said, _ = await ask(world, "GET", "/readyz")
        assert (status, said["status"], said["checks"]["provider"]) == (503, "not ready", "ok")
        assert said["checks"]["store"] != "ok"
        assert (await ask(world, "GET", "/livez"))[0] == 200


async def test_f231_a_store_that_is_not_required_only_makes_it_degraded() -> None:
    config = {"store": {"type": "redis", "url": "redis://127.0.0.1:1/0"}, "admin": {"require_store": False}}
    async with running_world(config) as world:
        status, said, _ = await ask(world, "GET", "/readyz")
        assert (status, said["status"]) == (200, "degraded")
        assert said["checks"]["store"] != "ok"


async def test_f231_draining_is_not_ready() -> None:
    async with running_world() as world:
        assert (await ask(world, "GET", "/readyz"))[1]["status"] == "ready"
        world.app.admin.health.draining = True
        assert (await ask(world, "GET", "/readyz"))[0] == 503


async def test_f138_the_cache_and_the_store_are_seen_in_the_metrics() -> None:
    async with running_world() as world, world.browser() as ann:
        await signed_in(world, ann)
        for _ in range(3):
            await ann.fetch(f"{world.url}/echo")
        assert world.metric("sessions_cached") == 1
        assert world.metric("session_store_up") == 1
        assert world.metric("session_cache_total", result="hit") == 3
        assert world.metric("session_cache_total", result="miss") == 1
        assert (world.metric("session_invalidations_total") or 0) > 0
        assert world.metric("session_store_operations_total", op="put", result="success") == 2
        gets = world.metric("session_store_operations_total", op="get", result="success")
        assert gets
        assert world.metric("session_store_operation_duration_seconds_count", op="get") == gets
        url = f"http://127.0.0.1:{world.app.admin_port}/metrics"
        async with aiohttp.ClientSession() as http, http.get(url) as answer:
            assert b"oidc_proxy_session_cache_total" in await answer.read()


async def test_f60_a_renewal_is_counted_and_timed() -> None:
    async with running_world() as world, world.browser() as ann:
        await signed_in(world, ann)
        world.clock.advance(301)
        assert (await ann.fetch(f"{world.url}/echo")).status == 200
        assert world.metric("token_refresh_total", result="success") == 1
        assert world.metric("token_refresh_duration_seconds_count") == 1
        assert world.metric("session_lock_wait_seconds_count") == 0
