"""Signing out: here first, then at the provider; never because another site wanted it."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

import pytest

from oidc_proxy.demo.faults import Faults, lacking
from tests.stories.watch import Watched, sessions, watched_world
from tests.world import Page

IN_BROWSER = {"Accept": "text/html"}


async def posted(browser: Watched, url: str, **headers: str) -> Page:
    """The form of the confirmation page, sent by our own site; no redirect followed."""
    return await browser.post(f"{url}/oauth2/sign_out", {}, **{"Origin": url, "Accept": "text/html", **headers})


def parameters(url: str) -> dict[str, list[str]]:
    return parse_qs(urlsplit(url).query, strict_parsing=True)


async def test_f97_f98_lo1_lo2_lo3_a_sign_out_ends_both_sessions_and_comes_back() -> None:
    async with watched_world() as (_, world, ann):
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        page = await posted(ann, world.url)
        assert page.status == 303, "RS-10"
        assert page.location.startswith(f"{world.provider.issuer}/logout?")
        assert not sessions(world), "LO-3: here first"
        assert ann.cookies.get("oidc_proxy") is None
        sent = parameters(page.location)
        assert sent.keys() == {"id_token_hint", "client_id", "post_logout_redirect_uri", "state"}
        assert all(len(values) == 1 for values in sent.values())
        assert sent["client_id"] == ["app"]
        assert sent["post_logout_redirect_uri"] == [f"{world.url}/oauth2/signed_out"]
        end = await ann.navigate(page.location, initiator=f"{world.url}/")
        assert end.status == 200
        assert end.url.startswith(f"{world.url}/oauth2/signed_out?state=")
        assert "You are signed out" in end.text
        assert not world.provider.ledger.sessions
        assert not ann.cookies.named("oidc_proxy"), "LO-4: what was kept of the sign-out is gone"
        assert (await ann.navigate(f"{world.url}/echo")).form_with("password")


async def test_f198_the_last_page_has_a_link_and_does_not_sign_in_by_itself() -> None:
    async with watched_world() as (_, world, ann):
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        end = await ann.navigate(f"{world.url}/oauth2/sign_out", initiator=f"{world.url}/")
        assert end.url.startswith(f"{world.url}/oauth2/signed_out")
        assert dict(end.links) == {"Sign in again": "/oauth2/start"}
        assert "http-equiv" not in end.text
        before = len(world.provider.requests)
        assert (await ann.navigate(end.url)).status == 200
        assert len(world.provider.requests) == before


@pytest.mark.parametrize("state", ["", "?state=", "?state=0123456789abcdef0123456789abcdef", "?state=%00&state=x"])
async def test_lo4_the_state_of_another_sign_out_changes_nothing(state: str) -> None:
    async with watched_world() as (_, world, ann):
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        await posted(ann, world.url)
        page = await ann.open(f"{world.url}/oauth2/signed_out{state}")
        assert page.status == 200
        assert not page.set_cookies
        assert ann.cookies.named("oidc_proxy_login_farewell")


async def test_nobody_is_told_to_be_signed_out_who_is_not() -> None:
    async with watched_world() as (_, world, ann):
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        page = await ann.navigate(f"{world.url}/oauth2/signed_out", initiator="http://evil.test/")
        assert "You are signed out" not in page.text
        assert page.forms[0].action == "/oauth2/sign_out"
        assert len(sessions(world)) == 1


async def test_lg1_lt26_a_get_asks_first_and_the_button_works() -> None:
    async with watched_world() as (_, world, ann):
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        page = await ann.navigate(f"{world.url}/oauth2/sign_out", initiator="http://evil.test/")
        assert page.status == 200
        assert len(sessions(world)) == 1
        policy = page.headers["Content-Security-Policy"]
        provider = world.provider.issuer.removesuffix("/realms/demo")
        assert f"form-action 'self' {provider};" in policy, "BR-7: the answer of the form leads to the provider"
        end = await ann.submit(page, {})
        assert end.url.startswith(f"{world.url}/oauth2/signed_out")
        assert not sessions(world)


@pytest.mark.parametrize("dest", ["image", "iframe", "script", "empty"])
@pytest.mark.parametrize("site", ["http://evil.test/", "own"])
async def test_lg1_f97_no_image_frame_or_script_signs_out(dest: str, site: str) -> None:
    async with watched_world() as (_, world, ann):
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        page = f"{world.url}/" if site == "own" else site
        await ann.fetch(f"{world.url}/oauth2/sign_out", page=page, dest=dest)
        assert (await ann.fetch(f"{world.url}/echo")).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.test"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "https://127.0.0.1"},
        {"Origin": ""},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "http://evil.test", "Sec-Fetch-Site": "same-origin"},
        {},
    ],
    ids=str,
)
async def test_lg1_lo5_se9_a_post_of_another_site_does_not_sign_out(headers: dict[str, str]) -> None:
    async with watched_world() as (_, world, ann):
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        page = await ann.request("POST", f"{world.url}/oauth2/sign_out", headers={**IN_BROWSER, **headers}, data=b"")
        assert page.status == 403
        assert "<code>cross_site</code>" in page.text
        assert len(sessions(world)) == 1


async def test_f97_a_plain_link_signs_out_where_that_is_allowed() -> None:
    async with watched_world({"logout": {"allow_get": True}}) as (_, world, ann):
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        end = await ann.navigate(f"{world.url}/oauth2/sign_out")
        assert end.url.startswith(f"{world.url}/oauth2/signed_out")
        assert not sessions(world)


async def test_f97_the_sessions_in_other_browsers_live_on() -> None:
    async with watched_world() as (watch, world, ann), watch.browser() as phone:
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        await phone.sign_in(f"{world.url}/echo", "ann", "ann")
        await posted(ann, world.url)
        assert (await ann.fetch(f"{world.url}/echo")).status == 401
        assert (await phone.fetch(f"{world.url}/echo")).status == 200


async def test_ss27_the_cookie_of_before_is_worth_nothing() -> None:
    async with watched_world() as (_, world, ann):
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        stolen = ann.cookies.header(world.url)
        await posted(ann, world.url)
        assert (await ann.request("GET", f"{world.url}/echo", cookies=stolen)).status == 401


async def test_lg11_what_the_browser_shows_after_the_sign_out_is_not_from_its_cache() -> None:
    async with watched_world() as (_, world, ann):
        page = await ann.sign_in(f"{world.url}/", "ann", "ann")
        assert page.headers["Content-Type"].startswith("text/html")
        assert "no-store" in page.headers["Cache-Control"]


@pytest.mark.parametrize("hint", ["/echo", "https://other.test/?t={id_token}", "//evil.test", "%7Bid_token%7D"])
async def test_lg2_or20_no_parameter_says_where_a_sign_out_ends(hint: str) -> None:
    async with watched_world({"logout": {"provider": False}}) as (_, world, ann):
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        for name in ("rd", "post_logout_redirect_uri", "redirect_uri"):
            page = await ann.post(f"{world.url}/oauth2/sign_out?{name}={hint}", {name: hint}, Origin=world.url)
            assert (page.status, page.location) == (303, f"{world.url}/oauth2/signed_out")
        assert not sessions(world)


# ── at the provider ──


async def test_f99_ho32_s15_without_an_end_session_endpoint_the_sign_out_is_local() -> None:
    async with watched_world() as (_, world, ann):
        world.provider.faults = Faults(metadata=lacking("end_session_endpoint"))
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        page = await posted(ann, world.url)
        assert (page.status, page.location) == (303, f"{world.url}/oauth2/signed_out")
        assert not sessions(world)
        assert (await ann.navigate(page.location)).status == 200


@pytest.mark.parametrize("known", [True, False])
async def test_lg3_the_session_ends_though_the_provider_cannot_be_reached(known: bool) -> None:
    async with watched_world({"provider": {"metadata_ttl": "1m"}}) as (_, world, ann):
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        await world.provider.close()
        if not known:  # as after a restart
            world.app._provider.metadata._value = None
            world.clock.advance(100)
        page = await posted(ann, world.url)
        assert page.status == 303
        assert not sessions(world)
        if not known:
            assert page.location == f"{world.url}/oauth2/signed_out"
            assert world.lines(event="logout.provider_unreachable")
        assert (await ann.fetch(f"{world.url}/echo")).status == 401
        await world.provider.open()


async def test_s15_where_a_sign_out_ends_is_a_setting() -> None:
    settings = {"logout": {"redirect_uri": "https://www.example.test/bye?x=1"}}
    client = {"post_logout_redirect_uris": ("https://www.example.test/bye?x=1",)}
    async with watched_world(settings, client=client) as (_, world, ann):
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        there = (await posted(ann, world.url)).location
        back = await ann.open(there)
        assert back.location.startswith("https://www.example.test/bye?x=1&state=")


async def test_f98_the_provider_asks_when_the_session_here_is_already_over() -> None:
    async with watched_world() as (_, world, ann):
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        world.app._store._entries.clear()  # type: ignore[attr-defined]
        page = await posted(ann, world.url)
        sent = parameters(page.location)
        assert "id_token_hint" not in sent
        assert sent["client_id"] == ["app"]
        assert page.status == 303


async def test_an_id_token_too_long_for_an_address_is_left_out() -> None:
    async with watched_world() as (_, world, ann):
        world.provider.faults = Faults(id_token_claims=lambda claims: {**claims, "more": "x" * 9000})
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        page = await posted(ann, world.url)
        assert len(page.location) < 8000
        assert "id_token_hint" not in parameters(page.location)


async def test_a_sign_out_of_nobody_ends_in_the_same_page() -> None:
    async with watched_world() as (_, world, ann):
        end = await ann.navigate(f"{world.url}/oauth2/sign_out", initiator=f"{world.url}/")
        assert end.url.startswith(f"{world.url}/oauth2/signed_out")
        assert end.status == 200


async def test_a_sign_out_is_in_the_audit_log_once() -> None:
    async with watched_world() as (_, world, ann):
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        for _ in range(3):
            await posted(ann, world.url)
        (line,) = world.lines(event="logout.rp")
        assert line["sub"] == world.provider.users["ann"].sub
