"""A person whose request nobody can judge now: a page waits, asks less and less often, and leads back (F213)."""

from __future__ import annotations

import re
from html import unescape
from urllib.parse import quote

import pytest

from tests.gateway import World, running_world
from tests.world import Browser, Page

WANTED = "/page?a=b%2Fc&d=%20"
WAITS = [(5, 10), (10, 20), (20, 40), (30, 60), (30, 60)]


def page_for(world: World, rd: str, more: str = "") -> str:
    return f"{world.url}/oauth2/unavailable?rd={quote(rd, safe='')}{more}"


def next_try(page: Page) -> tuple[int, str]:
    """After how many seconds the page goes where, by itself."""
    found = re.search(r'<meta http-equiv="refresh" content="(\d+); url=([^"]*)">', page.text)
    assert found is not None, page.text
    assert page.headers["Retry-After"] == found[1]
    return int(found[1]), unescape(found[2])


async def asks_again(browser: Browser, world: World, page: Page) -> Page:
    _, url = next_try(page)
    assert url.startswith("/oauth2/unavailable?")
    return await browser.navigate(f"{world.url}{url}")


async def test_f213_the_page_comes_back_less_and_less_often_until_it_is_known_who_asks() -> None:
    async with running_world() as world, world.browser() as ann:
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        await world.provider.close()
        world.clock.advance(301)  # the access token is over, and cannot be renewed
        page = await ann.navigate(page_for(world, f"{world.url}{WANTED}"))
        for count, (least, most) in enumerate([*WAITS, *[WAITS[-1]] * 8]):
            assert page.status == 503
            wait, url = next_try(page)
            assert least <= wait <= most
            assert url.endswith(f"&tries={min(count + 1, 9)}")
            assert dict(page.links)["Try again"] == f"{world.url}{WANTED}"
            page = await asks_again(ann, world, page)
        await world.provider.open()
        world.clock.advance(60)
        page = await asks_again(ann, world, page)
        assert page.hops[-2].status == 302
        assert page.hops[-2].headers["Cache-Control"] == "no-store"
        assert page.url == f"{world.url}{WANTED}"
        assert page.status == 200


async def test_f213_who_comes_first_waits_whatever_is_known() -> None:
    """The proxy that sent it here may have had another reason; to send it back at once would be a circle."""
    async with running_world() as world, world.browser() as ann:
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        page = await ann.navigate(page_for(world, f"{world.url}{WANTED}"))
        assert page.status == 503
        page = await asks_again(ann, world, page)
        assert (page.url, page.status) == (f"{world.url}{WANTED}", 200)


async def test_f213_who_has_no_session_is_led_to_where_one_begins() -> None:
    async with running_world() as world, world.browser() as somebody:
        page = await somebody.navigate(page_for(world, f"{world.url}{WANTED}"))
        page = await asks_again(somebody, world, page)
        assert page.form_with("password")


async def test_f213_pages_that_were_refused_at_once_do_not_come_back_at_once() -> None:
    async with running_world() as world, world.browser() as somebody:
        waits = [next_try(await somebody.navigate(page_for(world, "/page")))[0] for _ in range(60)]
        assert len(set(waits)) > 2, "sixty times the same two of six happens never"
        assert set(waits) <= {5, 6, 7, 8, 9, 10}


@pytest.mark.parametrize("rd", ["https://evil.test/", "//evil.test/", "javascript:alert(1)", "/oauth2/sign_out", ""])
async def test_f213_it_leads_nowhere_else(rd: str) -> None:
    async with running_world() as world, world.browser() as ann:
        page = await ann.navigate(page_for(world, rd))
        assert dict(page.links)["Try again"] == f"{world.url}/"
        assert next_try(page)[1] == f"/oauth2/unavailable?rd={world.url}/&tries=1"
        page = await ann.get(page_for(world, rd, "&tries=1"))
        assert (page.status, page.location) == (302, f"{world.url}/")


@pytest.mark.parametrize(
    "tries", ["", "0", "-1", "10", "1e9", "x", "\u0661", "1%00", "%201", "1&tries=2", "99999999999999999999"]
)
async def test_f213_a_count_that_is_none_is_the_first(tries: str) -> None:
    async with running_world() as world, world.browser() as ann:
        page = await ann.navigate(page_for(world, "/page", f"&tries={quote(tries, safe='&=%')}"))
        wait, url = next_try(page)
        assert page.status == 503
        assert 5 <= wait <= 10
        assert url.endswith("&tries=1")
