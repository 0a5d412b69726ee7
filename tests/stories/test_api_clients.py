"""Programs, scripts of pages and assets are told 401 in JSON; only a person looking at a page is sent to sign in."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from oidc_proxy.demo.faults import Faults, having, lacking, saying
from tests.stories.watch import sessions, watched_world
from tests.world import CHROME, Page

HTML = "text/html,application/xhtml+xml,*/*;q=0.8"


def assert_told(page: Page, url: str) -> None:
    """A 401 for a program, with nothing in it that begins a sign-in."""
    assert page.status == 401
    assert page.headers["Content-Type"] == "application/problem+json"
    assert page.headers["WWW-Authenticate"] == "Bearer", "BE-4: no error, because no token was sent"
    assert page.json()["code"] == "sign_in_required"
    assert page.json()["login_url"] == f"{url}/oauth2/start"
    assert page.json()["request_id"] == page.headers["X-Request-Id"]
    assert not page.set_cookies
    assert not page.location


@pytest.mark.parametrize(
    "headers",
    [
        {"Accept": "application/json"},
        {"Accept": "application/json, text/plain"},
        {"Accept": "application/json;q=0.9"},
        {"Accept": "application/json, text/html;q=0.5"},
        {"Accept": "*/*"},
        {},
        {"Accept": "text/html;q=0"},
        {"Accept": HTML, "X-Requested-With": "XMLHttpRequest"},
        {"Accept": HTML, "Sec-Fetch-Mode": "cors"},
        {"Accept": HTML, "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"},
        {"Accept": HTML, "Sec-Fetch-Mode": "same-origin"},
        {"Accept": HTML, "Sec-Fetch-Dest": "script"},
        {"Accept": HTML, "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "embed"},
        {"Accept": HTML, "Sec-Purpose": "prefetch"},
        {"Accept": HTML, "Sec-Purpose": "prefetch;prerender"},
        {"Accept": "text/html", "Content-Type": "application/grpc"},
        {"Accept": "text/html", "Content-Type": "application/grpc-web+proto"},
        {"Accept": HTML, "Upgrade": "websocket", "Connection": "Upgrade"},
    ],
    ids=str,
)
async def test_f52_f121_lt19_lt20_programs_get_401(headers: dict[str, str]) -> None:
    async with watched_world() as (watch, world, ann):
        page = await ann.request("GET", f"{world.url}/echo", headers=headers)
        assert_told(page, world.url)
        watch.assert_nobody_got_in()
        assert not world.provider.requests


@pytest.mark.parametrize(
    "headers",
    [
        {"Accept": HTML},
        {"Accept": "text/html"},
        {"Accept": "application/xhtml+xml"},
        {"Accept": "application/json;q=0.9, text/html"},
        {"Accept": HTML, "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"},
        {"Accept": HTML, "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"},
        {"Accept": HTML, "User-Agent": CHROME, "DNT": "1"},
    ],
    ids=str,
)
async def test_f52_f121_people_are_sent_to_sign_in(headers: dict[str, str]) -> None:
    async with watched_world() as (watch, world, ann):
        page = await ann.request("GET", f"{world.url}/echo", headers=headers)
        assert page.status == 302
        assert page.location.startswith(world.provider.issuer)
        watch.assert_nobody_got_in()


async def test_f121_lt19_fifty_requests_of_a_page_start_no_sign_in() -> None:
    async with watched_world() as (watch, world, ann):
        pages = await asyncio.gather(*(ann.fetch(f"{world.url}/echo/{number}") for number in range(50)))
        for page in pages:
            assert_told(page, world.url)
        watch.assert_nobody_got_in()
        assert not world.provider.requests
        assert not world.app._store._entries  # type: ignore[attr-defined]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
async def test_f121_a_form_that_comes_too_late_gets_303_and_a_script_401(method: str) -> None:
    async with watched_world() as (watch, world, ann):
        navigation = await ann.request(method, f"{world.url}/echo", headers={"Accept": HTML}, data=b"x=1")
        assert navigation.status == 303
        script = await ann.fetch(f"{world.url}/echo", method=method, data=b"x=1")
        assert_told(script, world.url)
        watch.assert_nobody_got_in()


@pytest.mark.parametrize("origin", ["http://evil.test", "null"])
async def test_br3_other_origins_learn_nothing(origin: str) -> None:
    async with watched_world() as (watch, world, ann):
        for path in ("/echo", "/oauth2/userinfo"):
            page = await ann.get(f"{world.url}{path}", Origin=origin, Sec_Fetch_Mode="cors")
            assert_told(page, world.url)
        preflight = await ann.request(
            "OPTIONS", f"{world.url}/echo", headers={"Origin": origin, "Access-Control-Request-Method": "PUT"}
        )
        assert_told(preflight, world.url)
        watch.assert_nobody_got_in()


async def test_br12_no_endpoint_of_ours_becomes_a_service_worker() -> None:
    """One under our prefix would see every sign-in, its code included."""
    paths = ["start", "callback?code=x&state=y", "sign_out", "signed_out", "userinfo", "session", "frontchannel_logout"]
    async with watched_world() as (_, world, ann):
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        before = len(world.backend.requests)
        for path in paths:
            page = await ann.fetch(
                f"{world.url}/oauth2/{path}", dest="serviceworker", headers={"Service-Worker": "script"}
            )
            assert (page.status, page.json()["code"]) == (403, "cross_site"), path
            assert "Service-Worker-Allowed" not in page.headers
            assert not page.set_cookies
        assert len(world.backend.requests) == before
        its = await ann.fetch(f"{world.url}/worker.js", dest="serviceworker", headers={"Service-Worker": "script"})
        assert its.status == 200, "the application may have one"


async def test_lt20_a_prefetched_start_begins_nothing() -> None:
    async with watched_world() as (watch, world, ann):
        page = await ann.get(f"{world.url}/oauth2/start", Sec_Purpose="prefetch;prerender", Accept=HTML)
        assert page.status == 204
        assert not page.set_cookies
        watch.assert_nobody_got_in()


async def test_lt4_an_image_that_starts_a_sign_in_harms_nobody() -> None:
    async with watched_world() as (_, world, ann):
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        for _ in range(5):
            await ann.fetch(f"{world.url}/oauth2/start", page="http://evil.test/", dest="image")
        assert (await ann.fetch(f"{world.url}/echo")).status == 200
        assert len(sessions(world)) == 1


# ── who is signed in ──


async def test_f67_br15_userinfo_says_who_and_shows_no_token() -> None:
    async with watched_world() as (watch, world, ann):
        url = f"{world.url}/oauth2/userinfo"
        assert_told(await ann.fetch(url), world.url)
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        page = await ann.fetch(url)
        assert page.status == 200
        told = page.json()
        assert told.keys() == {"user", "email", "groups", "preferredUsername"}
        assert told["email"] == "ann@example.test"
        assert "/staff/ops" in told["groups"]
        watch.check()


async def test_f67_s19_a_claim_that_only_userinfo_has_reaches_the_backend() -> None:
    async with watched_world({"identity": {"userinfo": "if_missing"}}) as (_, world, ann):
        world.provider.faults = Faults(id_token_claims=lacking("email", "email_verified", "groups"))
        page = await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        headers = dict(page.json()["headers"])
        assert headers["X-Forwarded-Email"] == "ann@example.test"
        (call,) = world.provider.calls("userinfo")
        assert call.headers["Authorization"].startswith("Bearer "), "ID-21"
        assert "access_token" not in call.target


async def test_s19_signed_userinfo() -> None:
    async with watched_world({"identity": {"userinfo": "always"}}, client={"userinfo_alg": "RS256"}) as (_, world, ann):
        assert (await ann.sign_in(f"{world.url}/echo", "ann", "ann")).status == 200
        (call,) = world.provider.calls("userinfo")
        assert "application/jwt" in call.headers["Accept"]


@pytest.mark.parametrize("asked", ["always", "if_missing"])
async def test_f69_userinfo_of_somebody_else_ends_the_sign_in(asked: str) -> None:
    async with watched_world({"identity": {"userinfo": asked}}) as (watch, world, ann):
        world.provider.faults = Faults(
            id_token_claims=lacking("email"), userinfo_claims=having(sub=world.provider.users["eve"].sub)
        )
        watch.assert_refused(await ann.sign_in(f"{world.url}/echo", "ann", "ann"), "userinfo_mismatch")


async def test_f67_userinfo_is_not_asked_when_nothing_is_missing_or_wanted() -> None:
    async with watched_world({"identity": {"userinfo": "never"}}) as (_, world, ann):
        world.provider.faults = Faults(id_token_claims=lacking("email"), userinfo=saying("text/plain", b"", 500))
        assert (await ann.sign_in(f"{world.url}/echo", "ann", "ann")).status == 200
        assert not world.provider.calls("userinfo")


# ── who may not ──


async def test_f77_lt21_who_may_not_gets_403_and_stays_signed_in() -> None:
    routes = [{"path": "/echo/admin/", "groups": ["/staff/ops"]}]
    async with watched_world({"routes": routes}) as (_, world, bob):
        page = await bob.sign_in(f"{world.url}/echo/admin/x", "bob", "bob")
        assert page.status == 403
        assert "<code>access_denied</code>" in page.text
        assert len(sessions(world)) == 1
        assert not world.backend.requests
        again = await bob.navigate(f"{world.url}/echo/admin/x")
        assert (again.status, len(again.hops)) == (403, 1), "no loop"
        script = await bob.fetch(f"{world.url}/echo/admin/x")
        assert (script.status, script.json()["code"]) == (403, "access_denied")
        assert "login_url" not in script.json()
        assert (await bob.fetch(f"{world.url}/echo/x")).status == 200
        assert world.lines(event="access.denied")


@pytest.mark.parametrize(
    ("groups", "status"),
    [
        (("/staff/ops",), 200),
        (("/STAFF/OPS",), 403),
        (("/staff/ops\u200b",), 403),
        (("/staff/ops-readonly",), 403),
        (("x", "/staff"), 403),
        ((), 403),
    ],
)
async def test_lt23_lt24_groups_are_compared_exactly(groups: tuple[str, ...], status: int) -> None:
    async with watched_world({"routes": [{"path": "/", "groups": ["/staff/ops"]}]}) as (_, world, ann):
        world.provider.users["ann"] = replace(world.provider.users["ann"], groups=groups)
        page = await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        assert page.status == status


@pytest.mark.parametrize(
    "claim", ["/staff/ops-readonly", {"/staff/ops": True}, 5, True, None, [["/staff/ops"]]], ids=str
)
async def test_lt24_a_claim_of_another_type_lets_nobody_in(claim: object) -> None:
    async with watched_world({"routes": [{"path": "/", "groups": ["/staff/ops"]}]}) as (_, world, ann):
        world.provider.users["ann"] = replace(world.provider.users["ann"], claims={"groups": claim})
        assert (await ann.sign_in(f"{world.url}/echo", "ann", "ann")).status == 403
        assert not world.backend.requests
