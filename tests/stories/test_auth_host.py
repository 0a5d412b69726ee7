"""One host signs in for all: whoever is signed in there is handed over to the others, once, and to nobody else."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, quote, urlencode, urlsplit

import pytest

from oidc_proxy.demo.faults import Faults
from oidc_proxy.errors import StoreFault
from tests.contracts.test_forward_auth import ASKERS, BROWSER
from tests.gateway import World, merged, running_app, settings_for
from tests.real.redis import RedisServer
from tests.stories.test_return_urls import OFF_SITE
from tests.stories.watch import STATUS, Watch, Watched, sessions, watched_world
from tests.wire import ask, authority
from tests.world import Page, free_port

HTML = {"Accept": "text/html"}


@dataclass(frozen=True)
class Place:
    """Three hosts of one gateway. Only ``auth`` is known to the provider."""

    watch: Watch
    world: World
    port: int

    def __post_init__(self) -> None:
        self.world.url = self.auth

    @property
    def auth(self) -> str:
        return f"http://auth.localhost:{self.port}"

    @property
    def wiki(self) -> str:
        return f"http://wiki.localhost:{self.port}"

    @property
    def shop(self) -> str:
        return f"http://shop.localhost:{self.port}"

    def settings(self) -> dict[str, Any]:
        return {"public_url": [self.wiki, self.auth, self.shop], "login": {"auth_origin": self.auth}}


@asynccontextmanager
async def three_hosts(config: Mapping[str, Any] | None = None) -> AsyncIterator[tuple[Place, Watched]]:
    port = free_port()
    auth, wiki, shop = (f"http://{name}.localhost:{port}" for name in ("auth", "wiki", "shop"))
    usual = {
        "public_url": [wiki, auth, shop],
        "login": {"auth_origin": auth},
        "listen": {"address": f"127.0.0.1:{port}"},
    }
    client = {
        "redirect_uris": (f"{auth}/oauth2/callback",),
        "post_logout_redirect_uris": (f"{auth}/oauth2/signed_out",),
    }
    async with watched_world(merged(usual, config or {}), client=client) as (watch, world, ann):
        yield Place(watch, world, port), ann


def ticket(browser: Watched, origin: str) -> str | None:
    """The session cookie that a browser has for a host."""
    host = urlsplit(origin).hostname
    return next((one.value for one in browser.cookies if (one.name, one.host) == ("oidc_proxy", host)), None)


def pending(browser: Watched, origin: str) -> list[str]:
    """The cookies of sign-ins under way that a browser has for a host."""
    host = urlsplit(origin).hostname
    names = [one.name for one in browser.cookies.named("oidc_proxy_login_") if one.host == host]
    return [name for name in names if not name.endswith(("tally", "farewell"))]


async def on_the_way(browser: Watched, url: str) -> str:
    """Go there signed in elsewhere, and stop before the hand-over: its address."""
    page = await browser.open(url)
    for _ in range(5):
        if "/oauth2/handover?" in page.location:
            return page.location
        page = await browser.open(page.location)
    raise AssertionError(f"no hand-over on the way to {url}")


async def works(browser: Watched, origin: str) -> bool:
    return (await browser.fetch(f"{origin}/echo")).status == 200


def assert_refused(page: Page, code: str) -> None:
    assert page.status == STATUS[code], page.text
    assert f"<code>{code}</code>" in page.text
    assert "oidc_proxy=" not in "".join(page.set_cookies)


# ── the acceptance ──


async def test_f210_one_sign_in_is_good_on_every_host() -> None:
    async with three_hosts() as (place, ann):
        deep = f"{place.wiki}/echo//a%2Fb/../c?x=%20&y"
        page = await ann.sign_in(deep, "ann", "ann")
        assert (page.status, page.url) == (200, deep)
        page = await ann.navigate(f"{place.shop}/echo/cart")
        assert (page.status, page.url) == (200, f"{place.shop}/echo/cart"), "no second form"
        assert [urlsplit(hop.url).path for hop in page.hops] == [
            "/echo/cart", "/oauth2/start", "/oauth2/handover", "/echo/cart",
        ]  # fmt: skip
        assert (await ann.navigate(f"{place.auth}/echo")).status == 200
        assert len(place.world.provider.calls("token")) == 1
        assert len(sessions(place.world)) == 1
        assert [line["host"].partition(".")[0] for line in place.world.lines(path="/oauth2/callback")] == ["auth"]
        assert not [name for origin in (place.auth, place.wiki, place.shop) for name in pending(ann, origin)]
        users = {call.headers["X-Forwarded-User"] for call in place.world.backend.requests}
        assert users == {place.world.provider.users["ann"].sub}
        assert len(place.world.lines(event="login.succeeded")) == 1
        told = place.world.lines(event="login.handed_over")
        assert [line["session"] for line in told] == [told[0]["session"]] * 2


async def test_f210_the_provider_is_sent_back_to_one_address() -> None:
    async with three_hosts() as (place, ann):
        for origin in (place.wiki, place.shop, place.auth):
            form = await ann.navigate(f"{origin}/echo")
            sent = parse_qs(urlsplit(form.hops[-1].url).query)
            assert sent["redirect_uri"] == [f"{place.auth}/oauth2/callback"]
        (line,) = place.world.lines(event="startup")
        assert line["redirect_uri"] == [f"{place.auth}/oauth2/callback"]


@pytest.mark.parametrize("name", ["forward", "nginx"])
async def test_f210_where_other_proxies_ask(name: str) -> None:
    forward_auth = {"dialects": [name], "trusted_proxies": ["127.0.0.0/8"]}
    async with three_hosts({"forward_auth": forward_auth}) as (place, ann):
        asker = ASKERS[name]

        async def asked(origin: str) -> tuple[int, str]:
            """What the proxy in front of this host is told about the browser."""
            cookie, host = ann.cookies.header(origin), authority(origin)
            question = asker.question(place.world, "GET", "/page?a=b", BROWSER[0], cookie=cookie, host=host)
            answer = await ask(f"http://127.0.0.1:{place.port}", question)
            return answer.status, next((value.decode() for value in answer.all("Location")), "")

        status, start = await asked(place.wiki)
        assert status == {"forward": 302, "nginx": 401}[name]
        assert start.startswith(f"{place.wiki}/oauth2/start?rd=")
        page = await ann.sign_in(start, "ann", "ann")
        assert page.url == f"{place.wiki}/page?a=b"
        assert (await asked(place.wiki))[0] == 200
        page = await ann.navigate((await asked(place.shop))[1])
        assert page.url == f"{place.shop}/page?a=b"
        assert len(place.world.provider.calls("token")) == 1
        assert [(await asked(origin))[0] for origin in (place.wiki, place.shop)] == [200, 200]
        await ann.navigate(f"{place.shop}/oauth2/sign_out", initiator=f"{place.shop}/")
        assert [(await asked(origin))[0] for origin in (place.wiki, place.shop)] == [status, status]


async def test_a_program_is_told_where_a_person_signs_in() -> None:
    async with three_hosts() as (place, ann):
        page = await ann.fetch(f"{place.wiki}/echo")
        assert (page.status, page.json()["login_url"]) == (401, f"{place.wiki}/oauth2/start")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
async def test_or18_nothing_but_a_get_is_repeated(method: str) -> None:
    async with three_hosts() as (place, ann):
        page = await ann.request(method, f"{place.wiki}/echo/order", headers=HTML, data=b"amount=100")
        assert page.status == 303
        assert (await ann.sign_in(page.location, "ann", "ann")).url == f"{place.wiki}/"


@pytest.mark.parametrize("method", ["HEAD", "POST", "PUT", "OPTIONS"])
async def test_only_a_get_hands_over(method: str) -> None:
    async with three_hosts() as (place, ann):
        await ann.sign_in(f"{place.shop}/echo", "ann", "ann")
        url = await on_the_way(ann, f"{place.wiki}/echo")
        page = await ann.request(method, url, headers=HTML)
        assert (page.status, page.headers["Allow"]) == (405, "GET")
        assert (await ann.navigate(url)).status == 200, "it was not spent"


async def test_what_is_fetched_in_advance_signs_nobody_in() -> None:
    async with three_hosts() as (place, ann):
        await ann.sign_in(f"{place.shop}/echo", "ann", "ann")
        page = await ann.open(f"{place.wiki}/echo")
        assert (await ann.get(page.location, Sec_Purpose="prefetch")).status == 204


# ── what a cookie is good for ──


async def test_f210_the_cookie_of_one_host_is_worth_nothing_on_another() -> None:
    async with three_hosts() as (place, ann):
        origins = [place.auth, place.wiki, place.shop]
        for origin in origins:
            await ann.sign_in(f"{origin}/echo", "ann", "ann")
        held = {origin: ticket(ann, origin) or "" for origin in origins}
        assert len(set(held.values())) == 3
        async with place.watch.browser() as eve:
            for cookie_of in origins:
                for origin in origins:
                    stolen = f"oidc_proxy={held[cookie_of]}"
                    page = await eve.request("GET", f"{origin}/echo", cookies=stolen)
                    assert page.status == (200 if cookie_of == origin else 401)
                    page = await eve.request("GET", f"{origin}/oauth2/userinfo", cookies=stolen)
                    assert page.status == (200 if cookie_of == origin else 401)
            # Nor can an application that sees its own cookie be handed over to another one with what is in it.
            for stolen in (held[place.wiki], held[place.wiki].rpartition(".")[0]):
                start = (await eve.open(f"{place.shop}/echo")).location
                page = await eve.request("GET", start, cookies=f"oidc_proxy={stolen}")
                assert page.location.startswith(place.world.provider.issuer), "she would have to sign in"


async def test_ss21_the_cookies_outlive_a_change_of_the_key() -> None:
    key, new = {"session": {"key": "k" * 40}}, {"session": {"key": "n" * 40, "previous_key": "k" * 40}}
    async with three_hosts(key) as (place, ann):
        await ann.sign_in(f"{place.wiki}/echo", "ann", "ann")
        for changed, status in ((new, 200), ({"session": {"key": "n" * 40}}, 401)):
            port = free_port()
            settings = settings_for(port, place.world.provider, place.world.backend)
            async with running_app(merged(merged(settings, place.settings()), changed), place.world.clock) as (app, _):
                app._sessions.archive.store._store = place.world.app._store  # type: ignore[attr-defined]
                headers = {"Host": authority(place.wiki)}
                cookies = ann.cookies.header(place.wiki)
                page = await ann.request("GET", f"http://127.0.0.1:{port}/echo", headers=headers, cookies=cookies)
                assert page.status == status


# ── the code ──


@asynccontextmanager
async def about_to_arrive() -> AsyncIterator[tuple[Place, Watched, str]]:
    """Ann is signed in, and her browser is about to bring a code to the wiki."""
    async with three_hosts() as (place, ann):
        await ann.sign_in(f"{place.shop}/echo", "ann", "ann")
        yield place, ann, await on_the_way(ann, f"{place.wiki}/echo/deep")


async def test_f210_a_code_is_good_once() -> None:
    async with about_to_arrive() as (place, ann, url):
        held = ann.cookies.header(place.wiki)
        assert (await ann.navigate(url)).url == f"{place.wiki}/echo/deep"
        again = await ann.open(url)
        assert (again.status, again.location) == (302, f"{place.wiki}/"), "a reload goes on to the site"
        # With the very cookies that it had: only the store knows that the code was used.
        assert_refused(await ann.request("GET", url, headers=HTML, cookies=held), "login_unknown")


async def test_f210_of_those_who_bring_a_code_at_once_one_gets_in(monkeypatch: pytest.MonkeyPatch) -> None:
    async with about_to_arrive() as (place, ann, url):
        held, store = ann.cookies.header(place.wiki), place.world.app._store
        read = store.get

        async def slow(key: str) -> bytes | None:
            """So that all have read the entry before the first has removed it."""
            value = await read(key)
            await asyncio.sleep(0.05)
            return value

        monkeypatch.setattr(store, "get", slow)
        both = await asyncio.gather(*(ann.request("GET", url, headers=HTML, cookies=held) for _ in range(4)))
        assert sorted(page.status for page in both) == [303, 400, 400, 400]


async def test_f210_a_code_without_the_cookie_opens_nothing_and_is_spent() -> None:
    async with about_to_arrive() as (place, ann, url):
        async with place.watch.browser() as eve:
            assert_refused(await eve.open(url), "login_unknown")
            assert ticket(eve, place.wiki) is None
        page = await ann.open(url)
        assert_refused(page, "login_unknown")
        assert not pending(ann, place.wiki)
        again = dict(page.links)["Sign in again"]
        assert (await ann.navigate(f"{place.wiki}{again}")).url == f"{place.wiki}/echo/deep"


async def test_lt3_f210_somebody_elses_code_signs_nobody_in() -> None:
    async with three_hosts() as (place, ann), place.watch.browser() as eve:
        await eve.sign_in(f"{place.shop}/echo", "eve", "eve")
        for under_way in (False, True):
            attack = await on_the_way(eve, f"{place.wiki}/echo")
            if under_way:
                await ann.navigate(f"{place.wiki}/echo")
            assert_refused(await ann.navigate(attack, initiator="http://evil.test/"), "login_unknown")
            assert ticket(ann, place.wiki) is None
        assert len(pending(ann, place.wiki)) == 1, "her own sign-in is not disturbed"


async def test_f210_a_hand_over_that_a_stranger_has_begun_brings_the_stranger_nothing() -> None:
    """The stranger has the cookie, the victim's browser fetches the code."""
    async with three_hosts() as (place, ann), place.watch.browser() as eve:
        await ann.sign_in(f"{place.shop}/echo", "ann", "ann")
        asked = (await eve.open(f"{place.wiki}/echo")).location
        page = await ann.navigate(asked, initiator="http://evil.test/")
        assert_refused(page, "login_unknown")
        assert ticket(ann, place.wiki) is None
        assert_refused(await eve.open(page.url), "login_unknown")
        assert ticket(eve, place.wiki) is None


async def changed_state(place: Place, ann: Watched, url: str) -> Page:
    """The state of another hand-over of the same browser."""
    other = parse_qs(urlsplit((await ann.open(f"{place.wiki}/echo")).location).query)["state"][0]
    return await ann.open(re.sub(r"state=[^&]+", f"state={other}", url))


async def at_another_host(place: Place, ann: Watched, url: str) -> Page:
    """With all cookies of the right one."""
    there = url.replace(place.wiki, place.shop)
    return await ann.request("GET", there, headers=HTML, cookies=ann.cookies.header(place.wiki))


async def with_the_cookie_of_another_host(place: Place, ann: Watched, url: str) -> Page:
    line = await ann.open(f"{place.shop}/oauth2/start")
    name, value = line.set_cookies[-1].partition(";")[0].split("=", 1)
    (own,) = pending(ann, place.wiki)
    return await ann.request("GET", url, headers=HTML, cookies=f"{own}={value}; {name}={value}")


async def too_late(place: Place, ann: Watched, url: str) -> Page:
    place.world.clock.advance(61)
    return await ann.open(url)


async def garbage(place: Place, ann: Watched, url: str) -> Page:
    return await ann.open(re.sub(r"code=[^&]+", "code=%22%27<x>", url))


async def another_code(place: Place, ann: Watched, url: str) -> Page:
    return await ann.open(re.sub(r"code=[^&]+", f"code={'A' * 43}", url))


async def an_error(place: Place, ann: Watched, url: str) -> Page:
    return await ann.open(re.sub(r"code=[^&]+", "error=access_denied", url))


async def of_nobody(place: Place, ann: Watched, url: str) -> Page:
    return await ann.request("GET", url, headers=HTML, cookies="")


@pytest.mark.parametrize(
    "how",
    [changed_state, at_another_host, with_the_cookie_of_another_host, too_late, garbage, another_code, an_error,
     of_nobody],
)  # fmt: skip
async def test_f210_a_hand_over_that_is_not_whole_is_refused(
    how: Callable[[Place, Watched, str], Any],
) -> None:
    async with about_to_arrive() as (place, ann, url):
        before = ticket(ann, place.shop)
        assert_refused(await how(place, ann, url), "login_unknown")
        assert ticket(ann, place.wiki) is None
        assert ticket(ann, place.shop) == before
        (line,) = place.world.lines(event="login.failed")
        assert line["reason"]
        # It spoils nothing: the next try works.
        assert (await ann.navigate(f"{place.wiki}/echo")).status == 200


@pytest.mark.parametrize(
    "query", ["", "code=a", "state=b", "code=a&code=b&state=c", "code=%ff&state=c", "code=a&state="]
)
async def test_f210_an_answer_that_cannot_be_read(query: str) -> None:
    async with about_to_arrive() as (place, ann, _):
        assert_refused(await ann.open(f"{place.wiki}/oauth2/handover?{query}"), "callback_malformed")
        assert ticket(ann, place.wiki) is None


async def test_f45_a_hand_over_that_was_asked_for_too_long_ago() -> None:
    async with three_hosts({"session": {"idle_timeout": "1d"}}) as (place, ann):
        place.world.provider.lifetimes = type(place.world.provider.lifetimes)(code=10**6, access_token=10**6)
        await ann.sign_in(f"{place.shop}/echo", "ann", "ann")
        start = (await ann.open(f"{place.wiki}/echo/deep")).location
        held = ann.cookies.header(place.wiki)
        place.world.clock.advance(601)
        url = (await ann.open(start)).location
        page = await ann.request("GET", url, headers=HTML, cookies=held)
        assert_refused(page, "login_expired")
        again = dict(page.links)["Sign in again"]
        assert (await ann.navigate(f"{place.wiki}{again}")).url == f"{place.wiki}/echo/deep"


async def test_f210_a_session_that_has_ended_meanwhile_is_not_handed_over() -> None:
    async with about_to_arrive() as (place, ann, url):
        await ann.post(f"{place.shop}/oauth2/sign_out", Origin=place.shop)
        assert not sessions(place.world)
        page = await ann.open(url)
        assert_refused(page, "login_expired")
        assert not sessions(place.world)


async def test_f210_the_session_that_came_along_ends() -> None:
    async with three_hosts() as (place, ann), place.watch.browser() as eve:
        await eve.sign_in(f"{place.wiki}/echo", "eve", "eve")
        await ann.sign_in(f"{place.shop}/echo", "ann", "ann")
        ann.cookies.store(place.wiki, f"oidc_proxy={ticket(eve, place.wiki)}; Path=/")
        assert len(sessions(place.world)) == 2
        await ann.navigate(f"{place.wiki}/oauth2/start?rd=/echo")
        assert len(sessions(place.world)) == 1
        assert not await works(eve, place.wiki)
        assert place.world.backend.requests[-1].headers["X-Forwarded-Preferred-Username"] == "ann"


async def test_f210_a_start_of_somebody_who_is_signed_in_ends_nothing() -> None:
    async with three_hosts() as (place, ann):
        await ann.sign_in(f"{place.wiki}/echo", "ann", "ann")
        assert (await ann.navigate(f"{place.wiki}/oauth2/start?rd=/echo/x")).url == f"{place.wiki}/echo/x"
        assert len(place.world.provider.calls("token")) == 1, "it is the same session"
        assert len(sessions(place.world)) == 1
        assert await works(ann, place.wiki)


async def test_f210_no_code_and_no_ticket_is_in_a_log_or_page() -> None:
    async with about_to_arrive() as (place, ann, url):
        sent = parse_qs(urlsplit(url).query)
        await ann.navigate(url)
        assert_refused(await (stranger := place.watch.browser()).open(url), "login_unknown")
        await stranger.close()
        log = place.world.log.getvalue()
        for secret in (sent["code"][0], sent["state"][0]):
            assert secret not in log
            assert not [page for page in place.watch.answers() if secret in page.text]
        for page in place.watch.answers():
            for origin in (place.auth, place.wiki, place.shop):
                handle, key, mark = (ticket(ann, origin) or "").split(".")
                assert not [part for part in (handle, key, mark) if part in page.location + page.text]


async def test_se8_a_visitor_without_a_session_writes_nothing() -> None:
    async with three_hosts() as (place, ann):
        await ann.navigate(f"{place.wiki}/echo")
        await ann.open(f"{place.wiki}/oauth2/handover?code={'A' * 43}&state={'B' * 43}")
        assert not place.world.app._store._entries  # type: ignore[attr-defined]


@pytest.mark.parametrize("method", ["put", "get", "drop"])
async def test_f210_a_store_that_is_gone_signs_nobody_out(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with three_hosts() as (place, ann):
        await ann.sign_in(f"{place.shop}/echo", "ann", "ann")
        url = await on_the_way(ann, f"{place.wiki}/echo") if method != "put" else f"{place.wiki}/echo"

        async def gone(*_: object) -> None:
            raise StoreFault("store_unavailable", "gone")

        with monkeypatch.context() as patched:
            patched.setattr(place.world.app._store, method, gone)
            page = await ann.navigate(url)
            assert page.status == 503
            assert page.headers["Retry-After"]
        assert (await ann.navigate(f"{place.wiki}/echo")).status == 200
        assert len(place.world.provider.calls("token")) == 1


# ── who may ask ──


@pytest.mark.parametrize("rd", OFF_SITE, ids=lambda rd: repr(rd)[:30])
@pytest.mark.parametrize("host", ["auth", "wiki"])
async def test_or13_rd_leads_to_no_stranger(host: str, rd: str) -> None:
    async with three_hosts() as (place, ann):
        await ann.sign_in(f"{place.shop}/echo", "ann", "ann")
        own = getattr(place, host)
        rd = rd.replace("{own}", own).replace("{host}", authority(own))
        page = await ann.navigate(f"{own}/oauth2/start?rd={quote(rd, safe='')}")
        for origin in (urlsplit(hop.url).netloc for hop in page.hops):
            assert origin.partition(":")[0].endswith((".localhost", "127.0.0.1"))
        if page.form_with("password"):
            page = await ann.fill_sign_in(page, "ann", "ann")
        assert page.url == f"{own}/"


async def test_f210_rd_leads_to_any_of_the_hosts_that_share_a_sign_in() -> None:
    async with three_hosts() as (place, ann):
        target = f"{place.wiki}/echo/x?y=z"
        page = await ann.sign_in(f"{place.auth}/oauth2/start?rd={quote(target, safe='')}", "ann", "ann")
        assert page.url == target
        page = await ann.navigate(f"{place.shop}/oauth2/start?rd={quote(target, safe='')}")
        assert page.url == target


@pytest.mark.parametrize("signed_in", [False, True])
@pytest.mark.parametrize(
    "uri",
    [
        "https://evil.test/oauth2/handover", "//evil.test/oauth2/handover", "{wiki}.evil.test/oauth2/handover",
        "{wiki}@evil.test/oauth2/handover", "{wiki}/echo", "{wiki}/oauth2/handover/../../echo",
        "{auth}/oauth2/handover", "{wiki}/oauth2/handover?x=", "",
    ],
)  # fmt: skip
async def test_f210_a_code_goes_to_our_own_hosts_only(uri: str, signed_in: bool) -> None:
    async with three_hosts() as (place, ann):
        if signed_in:
            await ann.sign_in(f"{place.shop}/echo", "ann", "ann")
        uri = uri.format(wiki=place.wiki, auth=place.auth)
        query = urlencode({"redirect_uri": uri, "state": "s" * 43})
        page = await ann.open(f"{place.auth}/oauth2/start?{query}")
        assert (page.status, page.location) == (400, "")
        entries = place.world.app._store._entries  # type: ignore[attr-defined]
        assert not [key for key in entries if key.startswith("handover:")]


# ── in a certain way ──


async def test_f35_f210_who_is_asked_to_sign_in_again_does() -> None:
    async with three_hosts({"login": {"allowed_params": {"prompt": ["login"]}}}) as (place, ann):
        for origin in (place.shop, place.wiki):
            await ann.sign_in(f"{origin}/echo", "ann", "ann")
        form = await ann.navigate(f"{place.wiki}/oauth2/start?rd=/echo/safe&prompt=login&acr_values=x")
        sent = parse_qs(urlsplit(form.hops[-1].url).query)
        assert sent["prompt"] == ["login"]
        assert "acr_values" not in sent
        page = await ann.fill_sign_in(form, "ann", "ann")
        assert (page.status, page.url) == (200, f"{place.wiki}/echo/safe"), "once, and not again and again"
        assert len(place.world.provider.calls("token")) == 2
        assert len(sessions(place.world)) == 1, "the one before has ended, on every host"
        assert not await works(ann, place.shop)
        assert (await ann.navigate(f"{place.shop}/echo")).url == f"{place.shop}/echo"
        assert len(place.world.provider.calls("token")) == 2


async def test_f50_who_cancels_can_try_again_and_comes_back() -> None:
    async with three_hosts() as (place, ann):
        form = await ann.navigate(f"{place.wiki}/echo/deep")
        place.world.provider.faults = Faults(
            callback=lambda pairs: [("error", "access_denied"), *(one for one in pairs if one[0] in {"state", "iss"})]
        )
        page = await ann.fill_sign_in(form, "ann", "ann")
        assert_refused(page, "access_denied_by_provider")
        place.world.provider.faults = Faults()
        again = await ann.click(page, "Sign in again")
        if again.form_with("password"):
            again = await ann.fill_sign_in(again, "ann", "ann")
        assert again.url == f"{place.wiki}/echo/deep"


async def test_a_session_that_is_over_where_it_began_is_over_everywhere() -> None:
    async with three_hosts({"session": {"idle_timeout": "10m", "absolute_timeout": "1h"}}) as (place, ann):
        await ann.sign_in(f"{place.shop}/echo", "ann", "ann")
        await ann.navigate(f"{place.wiki}/echo")
        for _ in range(4):  # the use on one host keeps it alive for all
            place.world.clock.advance(400)
            assert await works(ann, place.wiki)
        assert await works(ann, place.shop)
        place.world.clock.advance(601)
        place.world.provider.calls("token").clear()
        assert [await works(ann, origin) for origin in (place.shop, place.wiki)] == [False, False]
        page = await ann.sign_in(f"{place.wiki}/echo", "ann", "ann")
        assert page.url == f"{place.wiki}/echo"


# ── browsers that do not keep what they are given ──


@pytest.mark.parametrize("host", ["auth", "wiki"])
async def test_f129_a_host_whose_cookie_does_not_stay_is_no_endless_loop(host: str) -> None:
    async with three_hosts() as (place, ann):
        await ann.sign_in(f"{place.shop}/echo", "ann", "ann")
        forgetful, keep = getattr(place, host), ann.cookies.store

        def store(url: str, line: str) -> None:
            if not (url.startswith(forgetful) and line.startswith("oidc_proxy=")):
                keep(url, line)

        ann.cookies.store = store  # type: ignore[method-assign]
        keep(forgetful, "oidc_proxy=; Path=/; Max-Age=0")
        page = await ann.navigate(f"{place.wiki}/echo")
        assert_refused(page, "login_loop")


async def test_f210_a_host_that_keeps_no_cookie_at_all_ends_in_a_page() -> None:
    async with three_hosts() as (place, ann):
        await ann.sign_in(f"{place.shop}/echo", "ann", "ann")
        keep = ann.cookies.store

        def store(url: str, line: str) -> None:
            if not url.startswith(place.wiki):
                keep(url, line)

        ann.cookies.store = store  # type: ignore[method-assign]
        page = await ann.navigate(f"{place.wiki}/echo")
        assert_refused(page, "login_unknown")


async def test_f122_hand_overs_that_never_finish_stay_bounded() -> None:
    async with three_hosts() as (place, ann):
        for number in range(50):
            await ann.open(f"{place.wiki}/echo?n={number}")
        assert len(pending(ann, place.wiki)) <= 32
        assert len(ann.cookies.header(place.wiki)) < 8000
        assert (await ann.sign_in(f"{place.wiki}/echo?n=x", "ann", "ann")).url == f"{place.wiki}/echo?n=x"


async def test_f48_f210_tabs_on_several_hosts_finish_in_any_order() -> None:
    async with three_hosts() as (place, ann):
        urls = [f"{origin}/echo/{number}" for number in range(4) for origin in (place.wiki, place.shop)]
        tabs = [(url, await ann.navigate(url)) for url in urls]
        for url, page in reversed(tabs):
            assert (await ann.fill_sign_in(page, "ann", "ann")).url == url
        assert len(sessions(place.world)) == 1


# ── signing out ──


@pytest.mark.parametrize("host", ["wiki", "auth"])
async def test_f210_f97_a_sign_out_on_one_host_is_one_on_all_and_comes_back(host: str) -> None:
    async with three_hosts() as (place, ann):
        origins, here = [place.auth, place.wiki, place.shop], getattr(place, host)
        for origin in origins:
            await ann.sign_in(f"{origin}/echo", "ann", "ann")
        end = await ann.navigate(f"{here}/oauth2/sign_out", initiator=f"{here}/")
        assert (end.status, urlsplit(end.url)[:3]) == (200, ("http", authority(here), "/oauth2/signed_out"))
        assert not sessions(place.world)
        assert not place.world.provider.ledger.session(None, place.world.clock())
        assert [await works(ann, origin) for origin in origins] == [False, False, False]
        assert not [one.name for one in ann.cookies if one.host == urlsplit(here).hostname]
        assert (await ann.navigate(f"{place.shop}/echo")).form_with("password"), "and at the provider"


async def test_f210_the_page_that_asks_may_lead_through_all_that_the_sign_out_leads_through() -> None:
    async with three_hosts() as (place, ann):
        await ann.sign_in(f"{place.wiki}/echo", "ann", "ann")
        page = await ann.navigate(f"{place.wiki}/oauth2/sign_out")
        assert place.auth in page.headers["Content-Security-Policy"].partition("form-action")[2]
        end = await ann.submit(page, {})
        assert end.url.startswith(f"{place.wiki}/oauth2/signed_out")
        assert not sessions(place.world)


@pytest.mark.parametrize("mark", ["-7", "-1x", "@evil.test", "-http://evil.test"])
async def test_or20_no_state_leads_a_sign_out_elsewhere(mark: str) -> None:
    async with three_hosts() as (place, ann):
        page = await ann.open(f"{place.auth}/oauth2/signed_out?state={quote('0' * 32 + mark)}")
        assert (page.status, page.location) == (200, "")


async def test_f261_the_list_of_sessions_works_on_every_host() -> None:
    async with three_hosts() as (place, ann):
        page = await ann.sign_in(f"{place.wiki}/oauth2/session", "ann", "ann")
        assert (page.status, page.url) == (200, f"{place.wiki}/oauth2/session")
        assert (await ann.fetch(f"{place.wiki}/oauth2/refresh", method="POST")).status == 200
        assert await works(ann, place.wiki)


# ── several replicas ──


async def test_f210_f138_a_code_of_one_replica_is_good_once_at_any(redis_server: RedisServer) -> None:
    store = {"store": {"type": "redis", "url": redis_server.url}}
    async with three_hosts(store) as (place, ann):
        port = free_port()
        beside = merged(settings_for(port, place.world.provider, place.world.backend), {**place.settings(), **store})
        async with running_app(beside, place.world.clock):
            await ann.sign_in(f"{place.shop}/echo", "ann", "ann")
            url = await on_the_way(ann, f"{place.wiki}/echo/deep")
            held, headers = ann.cookies.header(place.wiki), {**HTML, "Host": authority(place.wiki)}
            here, there = (url.replace(place.wiki, f"http://127.0.0.1:{at}") for at in (place.port, port))
            answers = await asyncio.gather(
                *(ann.request("GET", at, headers=headers, cookies=held) for at in (there, here, there, here))
            )
            assert sorted(page.status for page in answers) == [303, 400, 400, 400]
            (done,) = [page for page in answers if page.status == 303]
            assert done.location == f"{place.wiki}/echo/deep"
            value = next(line for line in done.set_cookies if line.startswith("oidc_proxy=")).partition(";")[0]
            for at in (place.port, port):
                page = await ann.request("GET", f"http://127.0.0.1:{at}/echo", headers=headers, cookies=value)
                assert page.status == 200
