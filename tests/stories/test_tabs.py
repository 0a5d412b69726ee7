"""Many tabs, logged out: each signs in by itself, in any order, and ends up where it was going."""

from __future__ import annotations

import asyncio
import random

import pytest

from oidc_proxy.demo.faults import Faults, late
from tests.stories.watch import sessions, watched_world
from tests.world import Jar


def pending(jar: Jar) -> list[str]:
    """The cookies of unfinished sign-ins."""
    return [cookie.name for cookie in jar.named("oidc_proxy_login_") if not cookie.name.endswith("tally")]


@pytest.mark.parametrize("order", ["first to last", "last to first", "shuffled"])
async def test_f48_lt15_twenty_tabs_finish_in_any_order(order: str) -> None:
    async with watched_world() as (_, world, ann):
        urls = [f"{world.url}/echo/tab/{number}?n={number}" for number in range(20)]
        tabs = [(url, await ann.navigate(url)) for url in urls]
        assert len(pending(ann.cookies)) == 20
        if order == "last to first":
            tabs.reverse()
        elif order == "shuffled":
            random.Random(7).shuffle(tabs)
        for url, page in tabs:
            arrived = await ann.fill_sign_in(page, "ann", "ann")
            assert (arrived.status, arrived.url) == (200, url)
        assert not pending(ann.cookies)
        assert len(sessions(world)) == 1, "each sign-in ends the session of the one before"
        assert len(world.provider.calls("token")) == 20


async def test_f48_twenty_tabs_opened_and_finished_at_the_same_time() -> None:
    async with watched_world() as (_, world, ann):
        await ann.navigate(f"{world.url}/echo")
        ann.cookies.clear("oidc_proxy")  # she only has a cookie of the provider, for its forms
        urls = [f"{world.url}/echo/tab/{number}" for number in range(20)]
        pages = await ann.open_tabs(urls)
        done = await asyncio.gather(*(ann.fill_sign_in(page, "ann", "ann") for page in pages))
        assert [page.url for page in done] == urls
        assert {page.status for page in done} == {200}
        assert not pending(ann.cookies)
        assert (await ann.fetch(f"{world.url}/echo")).status == 200


async def test_the_tabs_of_somebody_who_is_signed_in_at_the_provider_need_no_form() -> None:
    async with watched_world() as (_, world, ann):
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        ann.cookies.clear("oidc_proxy")
        urls = [f"{world.url}/echo/tab/{number}" for number in range(8)]
        assert [page.url for page in await ann.open_tabs(urls)] == urls


@pytest.mark.parametrize("path", ["/echo", f"/echo/{'long/' * 300}"], ids=["short", "long"])
async def test_f122_lt16_rx9_two_hundred_unfinished_sign_ins_stay_bounded_and_the_newest_completes(path: str) -> None:
    async with watched_world() as (_, world, ann):
        newest = None
        for number in range(200):
            page = await ann.open(f"{world.url}{path}?n={number}")
            assert page.status == 302
            line = ann.cookies.header(world.url)
            assert len(line) < 8000, "no server in front refuses a header of this size"
            newest = page
        assert newest is not None
        assert len(pending(ann.cookies)) <= 32
        assert not world.app._store._entries, "an anonymous visitor writes nothing"  # type: ignore[attr-defined]
        form = await ann.navigate(newest.location, initiator=world.url)
        done = await ann.fill_sign_in(form, "ann", "ann")
        assert done.url == f"{world.url}{path}?n=199"
        assert done.status == 200


async def test_f122_the_limit_is_a_setting_and_the_oldest_gives_way() -> None:
    async with watched_world({"login": {"max_pending": 3}}) as (_, world, ann):
        tabs = []
        for number in range(5):
            tabs.append(await ann.navigate(f"{world.url}/echo/{number}"))
            world.clock.advance(1)
        assert len(pending(ann.cookies)) == 3
        first = await ann.fill_sign_in(tabs[0], "ann", "ann")
        assert first.status == 400
        assert "<code>login_unknown</code>" in first.text
        for number in (3, 2, 4):
            assert (await ann.fill_sign_in(tabs[number], "ann", "ann")).url == f"{world.url}/echo/{number}"


async def test_f122_what_is_over_is_cleared_away_at_the_next_sign_in() -> None:
    async with watched_world() as (_, world, ann):
        for _ in range(4):
            await ann.navigate(f"{world.url}/echo")
        # A browser whose clock is late keeps them for longer than we do.
        held = ann.cookies.header(world.url)
        world.clock.advance(601)
        page = await ann.request("GET", f"{world.url}/echo", headers={"Accept": "text/html"}, cookies=held)
        assert len([line for line in page.set_cookies if "Expires=Thu, 01 Jan 1970" in line]) == 4


async def test_a_second_tab_that_was_left_on_the_sign_in_page_still_finishes_after_a_sign_out() -> None:
    async with watched_world() as (_, world, ann):
        first, second = await ann.open_tabs([f"{world.url}/echo/1", f"{world.url}/echo/2"])
        await ann.fill_sign_in(first, "ann", "ann")
        await ann.navigate(f"{world.url}/oauth2/sign_out", initiator=f"{world.url}/")
        assert not sessions(world)
        page = await ann.fill_sign_in(second, "ann", "ann")
        assert page.url == f"{world.url}/echo/2"


async def test_lt5_a_double_click_spends_the_code_once() -> None:
    async with watched_world() as (_, world, ann):
        world.provider.faults = Faults(token=late(0.2))
        url = await ann.way_back(f"{world.url}/echo")
        held = ann.cookies.header(world.url)
        both = await asyncio.gather(*(ann.request("GET", url, cookies=held) for _ in range(2)))
        assert sorted(page.status for page in both) == [303, 400]
        assert len(world.provider.calls("token")) == 1
        assert (await ann.fetch(f"{world.url}/echo")).status == 200


async def test_f129_tabs_that_lose_the_race_for_the_session_are_no_loop() -> None:
    """Each comes back before the browser has the cookie of another; but none leads where another one led."""
    async with watched_world() as (_, world, ann):
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        for number in range(8):
            for cookie in [one for one in ann.cookies if one.name == "oidc_proxy"]:
                ann.cookies.store(world.url, f"{cookie.name}=; Path=/; Max-Age=0")
            page = await ann.navigate(f"{world.url}/echo/tab/{number}")
            assert (page.status, page.url) == (200, f"{world.url}/echo/tab/{number}")
