"""Where a sign-in returns to: the page that was asked for, byte for byte, and never anybody else's."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from tests.stories.watch import watched_world


@pytest.mark.parametrize(
    "target",
    [
        "/wiki/a%2Fb",
        "/search?u=https://x.y/z",
        "/a?x=/../b",
        "/a?b=c%2Fd&sig=%2B%2f+%20",
        "/a//b",
        "/%E2%82%AC/%e2%82%ac",
        "/echo?a=1&a=2&b",
        "//x",
        "//evil.test/",
        "//evil.test/%2e%2e",
        "///evil.test",
        "/.//evil.test",
        "/a/%2e/b;c=d",
        "/x?rd=https://evil.test/",
        "/x?a='(b)*!$,;:@[]{}|^`<>\"\\",
    ],
)
async def test_f46_or17_or22_a_deep_link_comes_back_byte_for_byte(target: str) -> None:
    async with watched_world() as (_, world, ann):
        callback = await ann.way_back(f"{world.url}{target}")
        page = await ann.open(callback)
        assert page.status == 303
        assert page.location == f"{world.url}{target}", "an absolute URL of our origin"
        await ann.open(page.location)
        assert world.backend.requests[-1].target == target


OFF_SITE = [
    "//evil.test", "///evil.test", "/\\evil.test", "\\\\evil.test", "/\t/evil.test", "/\n/evil.test", "\t//evil.test",
    " //evil.test", "\0//evil.test", "/.//evil.test", "/..//evil.test", "/a/..//evil.test", "/%2e%2e//evil.test",
    "https:evil.test", "http:evil.test", "https:///evil.test", "https://evil.test/", "javascript:alert(1)",
    "data:text/html,x", "/x\r\nSet-Cookie: a=b", "/%09/evil.test", "/%0a/evil.test", "/%5cevil.test", "/%255cevil.test",
    "/%2f/evil.test", "/\u3000/evil.test", "//evil\u3002test", "{own}@evil.test", "{own}.evil.test/", "{own}:1/",
    "{host}/x", "//{host}/x", "{own}//evil.test", "{own}/\\evil.test", "", "x", "?x", "#x",
]  # fmt: skip
OURS = ["/oauth2/start", "/oauth2/sign_out", "/oauth2/callback?code=a&state=b", "/oauth2", "/oauth2/sign_out#x"]


@pytest.mark.parametrize("rd", [*OFF_SITE, *OURS, "/" + "a" * 2100, "/" + "a" * 9000], ids=lambda rd: repr(rd)[:30])
async def test_or12_or13_rd_leads_nowhere_else(rd: str) -> None:
    async with watched_world() as (_, world, ann):
        rd = rd.replace("{own}", world.url).replace("{host}", world.url.removeprefix("http://"))
        callback = await ann.way_back(f"{world.url}/oauth2/start?rd={quote(rd, safe='')}")
        page = await ann.open(callback)
        assert (page.status, page.location) == (303, f"{world.url}/")
        assert not [line for line in page.set_cookies if not line.startswith("oidc_proxy")]


async def test_or13_rd_twice_is_no_rd() -> None:
    async with watched_world() as (_, world, ann):
        callback = await ann.way_back(f"{world.url}/oauth2/start?rd=/a&rd=//evil.test")
        assert (await ann.open(callback)).location == f"{world.url}/"


@pytest.mark.parametrize("rd", ["/search?u=https://x.y/z", "/a?x=/../b", "/a?b=c%2Fd", "/a#part", "{own}/x?y"])
async def test_or22_rd_leads_to_any_page_of_ours(rd: str) -> None:
    async with watched_world() as (_, world, ann):
        rd = rd.replace("{own}", world.url)
        callback = await ann.way_back(f"{world.url}/oauth2/start?rd={quote(rd, safe='')}")
        assert (await ann.open(callback)).location == world.url + rd.removeprefix(world.url)


async def test_s4_a_start_without_rd_ends_at_the_landing_page() -> None:
    async with watched_world({"login": {"landing": "/echo/home"}}) as (_, world, ann):
        page = await ann.sign_in(f"{world.url}/oauth2/start", "ann", "ann")
        assert page.url == f"{world.url}/echo/home"


@pytest.mark.parametrize(
    ("rd", "allowed"),
    [
        ("https://other.test/x?y", True),
        ("https://a.apps.test/x", True),
        ("https://other.test:444/", False),
        ("http://other.test/", False),
        ("https://evilapps.test/", False),
        ("https://apps.test/", False),
        ("https://other.test.evil.test/", False),
        ("https://other.test@evil.test/", False),
        ("https://user@other.test/", False),
        ("https://other.test./", False),
        ("https://other.test\\@evil.test/", False),
    ],
)
async def test_f46_or16_other_origins_only_as_listed(rd: str, allowed: bool) -> None:
    redirects = ["https://other.test", "https://*.apps.test"]
    async with watched_world({"login": {"allowed_redirects": redirects}}) as (_, world, ann):
        callback = await ann.way_back(f"{world.url}/oauth2/start?rd={quote(rd, safe='')}")
        assert (await ann.open(callback)).location == (rd if allowed else f"{world.url}/")


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_or18_nothing_but_a_get_is_repeated_after_a_sign_in(method: str) -> None:
    async with watched_world() as (watch, world, ann):
        url = f"{world.url}/echo/order?n=1"
        page = await ann.request(method, url, headers={"Accept": "text/html"}, data=b"amount=100")
        assert page.status == 303
        watch.assert_nobody_got_in()
        form = await ann.navigate(page.location)
        done = await ann.fill_sign_in(form, "ann", "ann")
        assert done.url == f"{world.url}/"
        assert [call.method for call in world.backend.requests] == ["GET"]


@pytest.mark.parametrize(
    "header",
    ["X-Auth-Request-Redirect", "X-Forwarded-Uri", "X-Original-Url", "X-Rewrite-Url", "X-Forwarded-Host", "Referer"],
)
async def test_or19_no_header_says_where_to_return(header: str) -> None:
    async with watched_world() as (_, world, ann):
        for value in ("https://evil.test/", "//evil.test/"):
            for path in ("/echo", "/oauth2/start?rd=/echo"):
                page = await ann.navigate(f"{world.url}{path}", headers={header: value})
                done = await ann.fill_sign_in(page, "ann", "ann")
                assert done.url == f"{world.url}/echo"
                ann.cookies.clear()


async def test_or20_or21_the_return_address_cannot_be_changed_on_the_way() -> None:
    async with watched_world() as (_, world, ann):
        callback = await ann.way_back(f"{world.url}/echo/own")
        page = await ann.open(f"{callback}&rd=https://evil.test/&return_to=//evil.test")
        assert page.location == f"{world.url}/echo/own"


async def test_an_address_that_is_too_long_to_keep_leads_to_the_start() -> None:
    async with watched_world() as (_, world, ann):
        callback = await ann.way_back(f"{world.url}/echo?q={'a' * 3000}")
        assert (await ann.open(callback)).location == f"{world.url}/"
