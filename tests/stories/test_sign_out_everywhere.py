"""Ann has lost her telephone: one sign-out ends every session of hers, and nobody else's."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from tests.gateway import World, merged, running_app, running_world, settings_for
from tests.real.redis import RedisServer
from tests.stories.watch import sessions, watched_world
from tests.world import Browser, Page, free_port


async def works(browser: Browser, world: World) -> bool:
    page = await browser.fetch(f"{world.url}/echo")
    assert page.status in {200, 401}
    return page.status == 200


async def posted(world: World, browser: Browser, query: str = "", fields: Mapping[str, str] = {}) -> Page:
    url = f"{world.url}/oauth2/sign_out{query}"
    return await browser.post(url, fields, Origin=world.url, Accept="text/html")


@pytest.mark.parametrize(
    ("query", "fields"), [("?all=1", {}), ("", {"all": "1"}), ("?all=1", {"all": "1"})], ids=["query", "form", "both"]
)
async def test_f265_every_session_of_the_user_ends(query: str, fields: dict[str, str]) -> None:
    async with watched_world() as (watch, world, ann), watch.browser() as phone, watch.browser() as bob:
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        await phone.sign_in(f"{world.url}/echo", "ann", "ann")
        await bob.sign_in(f"{world.url}/echo", "bob", "bob")
        page = await posted(world, ann, query, fields)
        assert page.status == 303
        assert page.location.startswith(f"{world.provider.issuer}/logout?")
        assert ann.cookies.get("oidc_proxy") is None
        assert [await works(browser, world) for browser in (ann, phone, bob)] == [False, False, True]
        (line,) = world.lines(event="logout.rp")
        assert (line["sub"], line["sessions"]) == (world.provider.users["ann"].sub, 2)


@pytest.mark.parametrize(("query", "fields"), [("", {}), ("?all=0", {}), ("?all", {}), ("", {"all": "0"})])
async def test_f97_without_being_asked_only_this_one(query: str, fields: dict[str, str]) -> None:
    async with watched_world() as (watch, world, ann), watch.browser() as phone:
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        await phone.sign_in(f"{world.url}/echo", "ann", "ann")
        await posted(world, ann, query, fields)
        assert [await works(browser, world) for browser in (ann, phone)] == [False, True]


async def test_a_link_of_our_own_acts_and_any_other_asks_first() -> None:
    async with watched_world() as (watch, world, ann), watch.browser() as phone:
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        await phone.sign_in(f"{world.url}/echo", "ann", "ann")
        page = await ann.navigate(f"{world.url}/oauth2/sign_out?all=1", initiator="http://evil.test/")
        assert "Sign out everywhere?" in page.text
        assert len(sessions(world)) == 2
        end = await ann.submit(page, {})
        assert end.url.startswith(f"{world.url}/oauth2/signed_out")
        assert not sessions(world)
        world.clock.advance(2)
        for browser in (ann, phone):
            await browser.sign_in(f"{world.url}/echo", "ann", "ann")
        await ann.navigate(f"{world.url}/oauth2/sign_out?all=1", initiator=f"{world.url}/")
        assert not sessions(world)


async def test_where_a_plain_link_signs_out_it_still_does_not_everywhere() -> None:
    async with watched_world({"logout": {"allow_get": True}}) as (_, world, ann):
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        page = await ann.navigate(f"{world.url}/oauth2/sign_out?all=1", initiator="http://evil.test/")
        assert "Sign out everywhere?" in page.text
        assert len(sessions(world)) == 1


@pytest.mark.parametrize("origin", ["http://evil.test", "null"])
async def test_lg1_another_site_cannot(origin: str) -> None:
    async with watched_world() as (_, world, ann):
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        page = await ann.post(f"{world.url}/oauth2/sign_out", {"all": "1"}, Origin=origin)
        assert (page.status, page.json()["code"]) == (403, "cross_site")
        assert await works(ann, world)


async def test_who_is_not_signed_in_ends_nothing() -> None:
    async with watched_world() as (watch, world, ann), watch.browser() as stranger:
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        stale = ann.cookies.header(world.url)
        await posted(world, ann)
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        headers = {"Origin": world.url, "Cookie": stale}
        for cookie in (stale, "", "oidc_proxy=x"):
            await stranger.post(f"{world.url}/oauth2/sign_out?all=1", {}, **{**headers, "Cookie": cookie})
        assert await works(ann, world)


async def test_a_browser_that_does_not_wait_for_the_answer_is_signed_out_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with watched_world() as (watch, world, ann), watch.browser() as phone:
        for browser in (ann, phone):
            await browser.sign_in(f"{world.url}/echo", "ann", "ann")
        store, drop = world.app._store, world.app._store.drop

        async def slow(key: str) -> bool:
            await asyncio.sleep(0.05)
            return await drop(key)

        monkeypatch.setattr(store, "drop", slow)
        leaving = asyncio.create_task(posted(world, ann, "?all=1"))
        await asyncio.sleep(0.03)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        for _ in range(200):
            if not world.app._logout.busy:
                break
            await asyncio.sleep(0.01)
        assert not sessions(world)


async def test_f265_f138_every_replica_refuses_at_once(redis_server: RedisServer) -> None:
    store = {"store": {"type": "redis", "url": redis_server.url}}
    async with running_world(store) as world:
        port = free_port()
        beside = merged(settings_for(port, world.provider, world.backend), {"public_url": world.url, **store})
        async with running_app(beside, world.clock), world.browser() as ann, world.browser() as phone:
            for browser in (ann, phone):
                await browser.sign_in(f"{world.url}/echo", "ann", "ann")
            authority, held = world.url.removeprefix("http://"), phone.cookies.header(world.url)

            async def other() -> int:
                there = f"http://127.0.0.1:{port}/echo"
                page = await phone.request("GET", there, headers={"Host": authority}, cookies=held)
                return page.status

            assert [await other() for _ in range(3)] == [200, 200, 200]
            assert (await posted(world, ann, "?all=1")).status == 303
            for _ in range(100):
                if await other() == 401:
                    break
                await asyncio.sleep(0.01)
            assert await other() == 401
            assert not await works(phone, world)
