"""Ann looks where she is signed in: this browser, until when; her telephone; and nobody else's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from oidc_proxy.demo.faults import Faults, refusing
from tests.gateway import World, client_for, running_app, running_world, settings_for
from tests.stories.watch import Watched, sessions, watched_world
from tests.world import Page, free_port

TOKEN_LIFE = 300
IPHONE = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) "
    "Version/18.1 Mobile/15E148 Safari/604.1"
)


class Phone(Watched):
    """Says that it is a telephone."""

    async def request(self, method: str, url: str, **given: Any) -> Page:
        headers = {**dict(given.pop("headers", {})), "User-Agent": IPHONE}
        return await super().request(method, url, headers=headers, **given)


async def session(world: World, browser: Watched, query: str = "") -> dict[str, Any]:
    page = await browser.fetch(f"{world.url}/oauth2/session{query}")
    assert page.status == 200, page.text
    assert page.headers["Content-Type"] == "application/json"
    found: dict[str, Any] = page.json()
    return found


async def listed(world: World, browser: Watched) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await session(world, browser, "?all=1"))["sessions"]
    return found


async def works(browser: Watched, world: World) -> bool:
    page = await browser.fetch(f"{world.url}/echo")
    assert page.status in {200, 401}
    return page.status == 200


# ── looking ──


async def test_f65_a_program_learns_who_is_signed_in_and_until_when() -> None:
    async with watched_world() as (_, world, ann):
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        world.clock.advance(60)
        found = await session(world, ann)
        assert found["user"] == world.provider.users["ann"].sub
        assert found["preferredUsername"] == "ann"
        assert found["groups"] == ["/staff/ops"]
        assert found["scopes"] == ["openid", "profile", "email"]
        assert found["claims"]["name"] == "Ann Archer"
        assert found["claims"].keys().isdisjoint({"nonce", "at_hash", "sid", "jti"})
        assert found["expires_in"] == {"idle": 8 * 3600 - 60, "absolute": 24 * 3600 - 60, "token": TOKEN_LIFE - 60}
        assert found["created_at"] == "2026-09-21T14:13:20.000Z"
        assert found["expires_at"]["token"] == "2026-09-21T14:18:20.000Z"
        assert found["renewable"] is True
        assert "sessions" not in found


async def test_f65_a_person_gets_a_page() -> None:
    async with watched_world() as (watch, world, ann), Phone(clock=world.clock) as phone:
        watch.browsers.append(phone)
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        world.clock.advance(60)
        await phone.sign_in(f"{world.url}/echo", "ann", "ann")
        page = await ann.navigate(f"{world.url}/oauth2/session")
        assert page.headers["Content-Type"] == "text/html; charset=utf-8"
        assert "<strong>ann</strong>" in page.text
        assert "Chrome on Linux, from 127.0.0.1" in page.text
        assert "Safari on iPhone" in page.text
        assert IPHONE not in page.text
        assert [form.action for form in page.forms] == [
            "/oauth2/sign_out",
            "/oauth2/session",
            "/oauth2/session",
            "/oauth2/sign_out",
        ]


async def test_who_is_not_signed_in_is_asked_to_and_comes_back_here() -> None:
    async with watched_world() as (_, world, ann):
        page = await ann.fetch(f"{world.url}/oauth2/session")
        assert (page.status, page.json()["code"]) == (401, "sign_in_required")
        page = await ann.sign_in(f"{world.url}/oauth2/session", "ann", "ann")
        assert page.url == f"{world.url}/oauth2/session"
        assert "<strong>ann</strong>" in page.text


async def test_f136_a_program_that_only_looks_does_not_keep_the_session_alive() -> None:
    async with watched_world({"session": {"idle_timeout": "30m"}}) as (_, world, ann):
        world.provider.lifetimes = replace(world.provider.lifetimes, access_token=10**6)
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        for minute in range(1, 30):
            world.clock.advance(60)
            assert (await session(world, ann, "?touch=0"))["expires_in"]["idle"] == (30 - minute) * 60
        world.clock.advance(61)
        assert (await ann.fetch(f"{world.url}/oauth2/session?touch=0")).status == 401
        assert not await works(ann, world)


async def test_f136_looking_does_not_renew_the_token_and_looking_normally_does() -> None:
    async with watched_world() as (_, world, ann):
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        world.clock.advance(TOKEN_LIFE + 10)
        assert (await session(world, ann, "?touch=0"))["expires_in"]["token"] == 0
        assert len(world.provider.calls("token")) == 1
        assert (await session(world, ann))["expires_in"]["token"] == TOKEN_LIFE
        assert len(world.provider.calls("token")) == 2


async def test_a_token_that_is_over_and_cannot_be_renewed_is_the_end() -> None:
    async with watched_world(client={"refresh_tokens": False}) as (_, world, ann):
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        world.clock.advance(TOKEN_LIFE + 10)
        assert (await ann.fetch(f"{world.url}/oauth2/session?touch=0")).status == 401


async def test_f261_both_browsers_are_listed_and_nobody_elses() -> None:
    async with watched_world() as (watch, world, ann), Phone(clock=world.clock) as phone, watch.browser() as bob:
        watch.browsers.append(phone)
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        world.clock.advance(60)
        await phone.sign_in(f"{world.url}/echo", "ann", "ann")
        await bob.sign_in(f"{world.url}/echo", "bob", "bob")
        found = await listed(world, phone)
        assert [(entry["browser"], entry["current"]) for entry in found] == [
            ("Chrome on Linux", False),
            ("Safari on iPhone", True),
        ]
        assert [entry["address"] for entry in found] == ["127.0.0.1"] * 2
        assert found[0]["created_at"] < found[1]["created_at"]
        assert found[1]["id"] == (await session(world, phone))["id"]
        assert len(await listed(world, bob)) == 1


async def test_userinfo_is_as_it_was() -> None:
    async with watched_world() as (_, world, ann):
        assert (await ann.fetch(f"{world.url}/oauth2/userinfo")).status == 401
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        page = await ann.fetch(f"{world.url}/oauth2/userinfo")
        assert page.json() == {
            "user": world.provider.users["ann"].sub,
            "email": "ann@example.test",
            "groups": ["/staff/ops"],
            "preferredUsername": "ann",
        }


async def test_f146_the_session_of_another_of_our_origins_is_not_shown() -> None:
    async with running_world() as world:
        port = free_port()
        here, there = f"http://127.0.0.1:{port}", f"http://localhost:{port}"
        world.provider.clients["app"] = client_for(here)
        settings = {**settings_for(port, world.provider, world.backend), "public_url": [here, there]}
        async with running_app(settings, world.clock), world.browser() as ann:
            await ann.sign_in(f"{here}/echo", "ann", "ann")
            held = ann.cookies.header(here)
            for path in ("session", "session?touch=0", "userinfo"):
                assert (await ann.request("GET", f"{there}/oauth2/{path}", cookies=held)).status == 401
                assert (await ann.request("GET", f"{here}/oauth2/{path}", cookies=held)).status == 200


# ── ending ──


async def test_f261_the_button_ends_the_other_browser_and_the_list_says_so() -> None:
    async with watched_world() as (watch, world, ann), Phone(clock=world.clock) as phone, watch.browser() as bob:
        watch.browsers.append(phone)
        for browser, name in ((ann, "ann"), (phone, "ann"), (bob, "bob")):
            await browser.sign_in(f"{world.url}/echo", name, name)
        page = await ann.navigate(f"{world.url}/oauth2/session")
        after = await ann.submit(page, {}, page.forms[1])
        assert (after.status, after.url) == (200, f"{world.url}/oauth2/session")
        assert "You are not signed in anywhere else." in after.text
        assert [await works(browser, world) for browser in (ann, phone, bob)] == [True, False, True]
        (line,) = world.lines(event="logout.own")
        assert line["sub"] == world.provider.users["ann"].sub


async def test_f261_all_others_at_once() -> None:
    async with watched_world() as (watch, world, ann), watch.browser() as phone, watch.browser() as tablet:
        for browser in (ann, phone, tablet):
            await browser.sign_in(f"{world.url}/echo", "ann", "ann")
        page = await ann.navigate(f"{world.url}/oauth2/session")
        await ann.submit(page, {}, page.forms[3])
        assert [await works(browser, world) for browser in (ann, phone, tablet)] == [True, False, False]


async def test_f265_the_last_button_signs_out_everywhere() -> None:
    async with watched_world() as (watch, world, ann), watch.browser() as phone:
        for browser in (ann, phone):
            await browser.sign_in(f"{world.url}/echo", "ann", "ann")
        page = await ann.navigate(f"{world.url}/oauth2/session")
        end = await ann.submit(page, {}, page.forms[-1])
        assert end.url.startswith(f"{world.url}/oauth2/signed_out")
        assert not sessions(world)
        assert not world.provider.ledger.session(None, world.clock())


async def test_f261_a_program_ends_one_by_its_id() -> None:
    async with watched_world() as (watch, world, ann), watch.browser() as phone:
        for browser in (ann, phone):
            await browser.sign_in(f"{world.url}/echo", "ann", "ann")
        (other,) = [entry["id"] for entry in await listed(world, ann) if not entry["current"]]
        page = await ann.fetch(f"{world.url}/oauth2/session?id={other}", method="DELETE")
        assert (page.status, page.body, page.set_cookies) == (204, b"", [])
        assert [await works(browser, world) for browser in (ann, phone)] == [True, False]
        assert (await ann.fetch(f"{world.url}/oauth2/session?id={other}", method="DELETE")).status == 404
        own = (await session(world, ann))["id"]
        page = await ann.fetch(f"{world.url}/oauth2/session?id={own}", method="DELETE")
        assert page.status == 204
        assert ann.cookies.get("oidc_proxy") is None
        assert not sessions(world)


async def test_f261_a_foreign_session_cannot_be_ended() -> None:
    async with watched_world() as (watch, world, ann), watch.browser() as bob:
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        await bob.sign_in(f"{world.url}/echo", "bob", "bob")
        foreign = (await session(world, ann))["id"]
        record = next(key for key in sessions(world) if foreign in key).removeprefix("session:")
        for name in (foreign, record, foreign[:8], "", "*", f"{foreign}%00", "all"):
            page = await bob.fetch(f"{world.url}/oauth2/session?id={name}", method="DELETE")
            assert (page.status, page.json()["code"]) == (404, "not_found")
            page = await bob.post(f"{world.url}/oauth2/session", {"end": name}, Origin=world.url)
            assert page.status == 303
        assert (await bob.fetch(f"{world.url}/oauth2/session?id=others", method="DELETE")).status == 204
        assert await works(ann, world)
        assert not world.lines(event="logout.own")


@pytest.mark.parametrize("headers", [{"Origin": "http://evil.test"}, {"Origin": "null"}, {}], ids=str)
async def test_lg1_another_site_changes_nothing(headers: dict[str, str]) -> None:
    async with watched_world() as (watch, world, ann), watch.browser() as phone:
        for browser in (ann, phone):
            await browser.sign_in(f"{world.url}/echo", "ann", "ann")
        own = (await session(world, ann))["id"]
        for method, path in (
            ("POST", f"session?end={own}"),
            ("DELETE", f"session?id={own}"),
            ("DELETE", "session?id=others"),
            ("POST", "refresh"),
        ):
            data = b"end=others" if method == "POST" else None
            form = {"Content-Type": "application/x-www-form-urlencoded"} if data else {}
            page = await ann.request(method, f"{world.url}/oauth2/{path}", headers={**form, **headers}, data=data)
            assert (page.status, page.json()["code"]) == (403, "cross_site")
        assert len(sessions(world)) == 2
        assert len(world.provider.calls("token")) == 2


# ── renewing ──


async def renewed(world: World, browser: Watched) -> Page:
    return await browser.fetch(f"{world.url}/oauth2/refresh", method="POST")


async def test_f64_the_token_is_renewed_when_asked_for() -> None:
    async with watched_world() as (_, world, ann):
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        world.clock.advance(100)
        page = await renewed(world, ann)
        assert page.status == 200
        assert page.json()["expires_in"]["token"] == TOKEN_LIFE
        assert page.json()["expires_at"]["token"] == "2026-09-21T14:20:00.000Z"
        assert len(world.provider.calls("token")) == 2
        assert (await ann.fetch(f"{world.url}/echo")).status == 200


async def test_f64_only_by_post_and_only_for_who_is_signed_in() -> None:
    async with watched_world() as (_, world, ann):
        assert (await renewed(world, ann)).status == 401
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        page = await ann.fetch(f"{world.url}/oauth2/refresh")
        assert (page.status, page.headers["Allow"]) == (405, "POST")
        assert len(world.provider.calls("token")) == 1


async def test_f64_without_a_refresh_token_nothing_changes() -> None:
    async with watched_world(client={"refresh_tokens": False}) as (_, world, ann):
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        world.clock.advance(100)
        page = await renewed(world, ann)
        assert (page.status, page.json()["renewable"]) == (200, False)
        assert page.json()["expires_in"]["token"] == TOKEN_LIFE - 100
        assert await works(ann, world)


@pytest.mark.parametrize(("error", "status", "lives"), [("invalid_grant", 401, False), ("server_error", 503, True)])
async def test_f63_f64_a_provider_that_refuses_and_one_that_fails(error: str, status: int, lives: bool) -> None:
    async with watched_world() as (_, world, ann):
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        world.provider.faults = Faults(refresh=refusing(400 if error == "invalid_grant" else 503, error))
        assert (await renewed(world, ann)).status == status
        assert await works(ann, world) is lives
