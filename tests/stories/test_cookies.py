"""The cookies of the gateway: what they are like, and that nobody gets in with anything but a real one."""

from __future__ import annotations

import asyncio
import inspect
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from oidc_proxy.demo.faults import Faults, lacking
from oidc_proxy.errors import StoreFault
from oidc_proxy.server.store import Store
from tests.gateway import World
from tests.stories.tls import client_context, server_context
from tests.stories.watch import Watched, sessions, watched_world
from tests.world import free_port

HTML = {"Accept": "text/html"}


# ── behind TLS ──


@asynccontextmanager
async def tls_in_front(port: int, gateway_port: int) -> AsyncIterator[None]:
    """Ends TLS on `port`, as a load balancer does."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", gateway_port)
        await asyncio.gather(pump(reader, back), pump(there, writer), return_exceptions=True)

    server = await asyncio.start_server(connect, "127.0.0.1", port, ssl=server_context())
    try:
        yield
    finally:
        server.close()


@asynccontextmanager
async def secure_world(name: str = "app.test", **config: object) -> AsyncIterator[tuple[World, Watched, str]]:
    """A world whose gateway is `https://app.test` to browsers."""
    front = free_port()
    url = f"https://{name}:{front}"
    client = {"redirect_uris": (f"{url}/oauth2/callback",), "post_logout_redirect_uris": (f"{url}/*",)}
    async with watched_world({"public_url": url, **config}, client=client) as (watch, world, _):
        world.url = url
        async with tls_in_front(front, world.app.port), watch.browser(ssl_context=client_context()) as ann:
            yield world, ann, url


async def test_se3_to_se7_the_session_cookie_is_a_host_cookie() -> None:
    async with secure_world() as (world, ann, url):
        page = await ann.sign_in(f"{url}/echo", "ann", "ann")
        assert page.status == 200
        assert not ann.cookies.refused
        (cookie,) = [cookie for cookie in ann.cookies if cookie.name == "__Host-oidc_proxy"]
        assert (cookie.secure, cookie.http_only, cookie.same_site, cookie.path) == (True, True, "lax", "/")
        assert (cookie.host_only, cookie.expires) == (True, None)
        pending = next(line for hop in page.hops for line in hop.headers.getall("Set-Cookie", []) if "_login_" in line)
        assert pending.startswith("__Host-oidc_proxy_login_")
        assert "; Secure" in pending
        assert len(sessions(world)) == 1


async def test_ss28_a_host_cookie_is_really_deleted() -> None:
    async with secure_world() as (_, ann, url):
        await ann.sign_in(f"{url}/echo", "ann", "ann")
        end = await ann.navigate(f"{url}/oauth2/sign_out", initiator=f"{url}/")
        assert end.url.startswith(f"{url}/oauth2/signed_out")
        assert not ann.cookies.refused
        assert not ann.cookies.named("__Host-")


async def test_f58_attributes_are_settings() -> None:
    cookie = {"name": "sid", "same_site": "Strict", "persistent": True}
    async with secure_world(session={"cookie": cookie}) as (_, ann, url):
        callback = await ann.way_back(f"{url}/echo")
        page = await ann.open(callback)
        line = next(line for line in page.set_cookies if line.startswith("__Host-sid="))
        assert "SameSite=Strict" in line
        assert "Max-Age=86400" in line


async def test_f58_a_shared_cookie_has_no_host_prefix() -> None:
    async with secure_world("a.apps.test", session={"cookie": {"domain": "apps.test"}}) as (_, ann, url):
        assert (await ann.sign_in(f"{url}/echo", "ann", "ann")).status == 200
        (cookie,) = [cookie for cookie in ann.cookies if cookie.name == "oidc_proxy"]
        assert (cookie.host, cookie.secure) == ("apps.test", True)
        await ann.navigate(f"{url}/oauth2/sign_out", initiator=f"{url}/")
        assert ann.cookies.get("oidc_proxy") is None


# ── what is in it, and whose it is ──


async def test_f57_the_cookie_is_opaque_and_small() -> None:
    async with watched_world() as (watch, world, ann):
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        value = ann.cookies.get("oidc_proxy") or ""
        assert len(value) < 100
        assert not [token for token in watch._tokens if token in value or value in token]
        (record,) = world.app._store._entries[sessions(world)[0]][:1]  # type: ignore[attr-defined]
        for token in watch._tokens:
            assert token.encode() not in record, "SE-8: the store cannot read it"
        assert value.partition(".")[0] not in sessions(world)[0], "the store does not know the handle"


async def test_lt1_f58_a_planted_cookie_never_becomes_a_session() -> None:
    planted = f"{secrets.token_urlsafe(32)}.{secrets.token_urlsafe(32)}"
    async with watched_world() as (_, world, ann):
        ann.cookies.store(world.url, f"oidc_proxy={planted}; Path=/")
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        assert ann.cookies.get("oidc_proxy") != planted
        assert (await ann.request("GET", f"{world.url}/echo", cookies=f"oidc_proxy={planted}")).status == 401


async def test_lt1_se23_each_sign_in_makes_a_new_ticket_and_ends_the_one_it_came_with() -> None:
    async with watched_world() as (watch, world, ann), watch.browser() as eve:
        await eve.sign_in(f"{world.url}/echo", "eve", "eve")
        planted = eve.cookies.header(world.url)
        ann.cookies.store(world.url, f"{planted}; Path=/")
        done = await ann.navigate(await ann.way_back(f"{world.url}/oauth2/start?rd=/echo"))
        assert dict(done.json()["headers"])["X-Forwarded-Preferred-Username"] == "ann"
        assert ann.cookies.header(world.url) != planted
        assert (await eve.fetch(f"{world.url}/echo")).status == 401
        assert len(sessions(world)) == 1


TICKET = "A" * 43 + "." + "B" * 43
BAD_LINES = [
    ";;=;  ;a", "oidc_proxy", "oidc_proxy=", "oidc_proxy=;", "oidc_proxy=*", "oidc_proxy=..", "oidc_proxy=session:*",
    "oidc_proxy=%s%n", "oidc_proxy=" + "x" * 15000, "oidc_proxy=é€", "oidc_proxy=used:abc",
    "oidc_proxy=99999999", "oidc_proxy=" + "A" * 43, f"oidc_proxy={TICKET}", f"oidc_proxy={TICKET}A",
    "oidc_proxy={own} ", "a=b oidc_proxy={own}", "a=b\toidc_proxy={own}", "\u00a0oidc_proxy={own}",
    "\u2003oidc_proxy={own}", '"a; oidc_proxy={own}"', "OIDC_PROXY={own}", "oidc_proxy ={own}", "oidc_proxy= {own}",
    'oidc_proxy="{own}"', "oidc_proxy={cut}", "oidc_proxy={own}A", "oidc_proxy={own}; oidc_proxy=x",
    "oidc_proxy=x; oidc_proxy={own}", "oidc_proxy={own}; oidc_proxy={own}", "xoidc_proxy={own}",
    "$Version=1, oidc_proxy={own}",
]  # fmt: skip
STILL_GOOD = {"oidc_proxy={own} "}
"""White space around a pair is no part of it (RFC 6265 §5.4 as servers read it)."""


@pytest.mark.parametrize("line", BAD_LINES, ids=lambda line: ascii(line)[:40])
async def test_ss1_ss23_lt2_no_other_cookie_is_a_session(line: str) -> None:
    async with watched_world() as (_, world, ann):
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        own = ann.cookies.get("oidc_proxy") or ""
        given = line.replace("{own}", own).replace("{cut}", own[:-1])
        before = len(world.backend.requests)
        for path in ("/echo", "/oauth2/userinfo"):
            page = await ann.request("GET", f"{world.url}{path}", headers={"Cookie": given})
            assert page.status == (200 if line in STILL_GOOD else 401), page.text
        page = await ann.request("GET", f"{world.url}/echo", headers={"Cookie": given, **HTML})
        assert page.status == (200 if line in STILL_GOOD else 302)
        assert (len(world.backend.requests) > before) == (line in STILL_GOOD)


async def test_lt17_a_header_that_is_too_large_is_explained() -> None:
    async with watched_world() as (watch, world, ann):
        page = await ann.request("GET", f"{world.url}/echo", headers={"Cookie": "a=" + "b" * 40000})
        assert (page.status, page.json()["code"]) == (431, "headers_too_large")
        assert "cookies" in page.json()["detail"]
        page = await ann.request("GET", f"{world.url}/echo?{'a' * 20000}")
        assert (page.status, page.json()["code"]) == (414, "uri_too_long")
        watch.assert_nobody_got_in()
        assert (await ann.sign_in(f"{world.url}/echo", "ann", "ann")).status == 200


@pytest.mark.parametrize("lines", [1, 3])
async def test_lt17_many_cookies_of_others_do_no_harm(lines: int) -> None:
    async with watched_world() as (_, world, ann):
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        crowd = "; ".join(f"c{number}={'v' * 50}" for number in range(120))
        given = [("Cookie", crowd)] * (lines - 1) + [("Cookie", f"{crowd}; {ann.cookies.header(world.url)}")]
        assert (await ann.request("GET", f"{world.url}/echo", headers=given)).status == 200


async def test_ss20_a_page_of_the_backend_never_sets_a_cookie_of_ours() -> None:
    async with watched_world() as (watch, world, ann):
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        own = {page.headers["X-Request-Id"] for page in watch.own_answers()}
        for _ in range(3):
            world.clock.advance(301)  # refreshed, and written anew
            await ann.fetch(f"{world.url}/echo")
        for page in watch.answers():
            if page.headers["X-Request-Id"] not in own:
                assert not page.set_cookies


# ── the store ──


async def test_ss6_a_store_that_lost_everything_means_another_sign_in() -> None:
    async with watched_world() as (_, world, ann):
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        for key in list(world.app._store._entries):  # type: ignore[attr-defined]
            await world.app._store.drop(key)
        assert (await ann.fetch(f"{world.url}/echo")).status == 401
        assert (await ann.navigate(f"{world.url}/echo")).status == 200, "the provider still knows her"


STORE_METHODS = [
    name for name, method in vars(Store).items() if inspect.iscoroutinefunction(method) and name != "close"
]


def break_store(world: World, broken: pytest.MonkeyPatch) -> None:
    """Whatever the store is asked, it cannot be reached."""

    async def fail(*_: object) -> None:
        raise StoreFault("store_unavailable", "ConnectionError", retry_after=2)

    assert {"get", "put", "claim", "replace", "drop", "members"} <= set(STORE_METHODS)
    for name in STORE_METHODS:
        broken.setattr(world.app._store, name, fail)


async def test_ss5_a_store_that_fails_signs_nobody_out_and_starts_no_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    config = {"routes": [{"path": "/echo/public/", "auth": "none"}], "session": {"cache": {"ttl": "1s"}}}
    async with watched_world(config) as (watch, world, ann):
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        held = ann.cookies.header(world.url)
        async with watch.browser() as bob:
            way_back = await bob.way_back(f"{world.url}/echo/deep", "bob")
            world.clock.advance(2)  # what is in memory is believed no longer
            with monkeypatch.context() as broken:
                break_store(world, broken)
                for method, path in (
                    ("GET", "/echo"), ("GET", "/oauth2/userinfo"), ("GET", "/oauth2/session"),
                    ("POST", "/oauth2/refresh"), ("POST", "/oauth2/sign_out"),
                ):  # fmt: skip
                    page = await ann.request(method, world.url + path, headers={**HTML, "Origin": world.url})
                    assert page.status == 503, path
                    assert page.headers["Retry-After"] == "2"
                    assert not page.set_cookies
                page = await bob.navigate(way_back)
                assert page.status == 503
                assert dict(page.links)["Try again"].startswith("/oauth2/start?rd=")
                assert (await ann.fetch(f"{world.url}/echo/public/x")).status == 200
            assert ann.cookies.header(world.url) == held
            assert (await ann.fetch(f"{world.url}/echo")).status == 200
            assert (await bob.navigate(f"{world.url}/echo/deep")).status == 200


async def test_ss5_a_session_in_memory_does_not_notice_a_store_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    async with watched_world() as (_, world, ann):
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        held = ann.cookies.header(world.url)
        with monkeypatch.context() as broken:
            break_store(world, broken)
            for path in ("/echo", "/oauth2/userinfo"):
                page = await ann.fetch(world.url + path)
                assert page.status == 200, path
                assert not page.set_cookies
            page = await ann.request("POST", f"{world.url}/oauth2/sign_out", headers={**HTML, "Origin": world.url})
            assert page.status == 503, "an end that is not written down would be none"
            assert not page.set_cookies
        assert ann.cookies.header(world.url) == held
        assert (await ann.fetch(f"{world.url}/echo")).status == 200


# ── browsers that do not keep what they get ──


async def test_f129_lt18_a_browser_that_does_not_keep_the_session_gets_a_page(monkeypatch: pytest.MonkeyPatch) -> None:
    async with watched_world() as (_, world, ann):
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        world.clock.advance(61)
        ann.cookies.clear("oidc_proxy")
        store = ann.cookies.store
        monkeypatch.setattr(
            ann.cookies, "store", lambda url, line: None if line.startswith("oidc_proxy=") else store(url, line)
        )
        page = await ann.navigate(f"{world.url}/echo")
        assert page.status == 400
        assert "<code>login_loop</code>" in page.text
        assert "cookies" in page.text
        assert len(page.hops) <= 12
        assert not page.set_cookies


async def test_f129_lt18_a_session_that_never_comes_back_is_a_loop_and_ends_in_a_page() -> None:
    async with watched_world() as (_, world, ann):
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        world.clock.advance(61)
        # The token is over as soon as it comes, and there is nothing to renew it with.
        world.provider.faults = Faults(
            token_values=lambda values: {**lacking("refresh_token")(values), "expires_in": 0}
        )
        ann.cookies.clear("oidc_proxy")
        page = await ann.navigate(f"{world.url}/echo")
        assert page.status == 400
        assert "<code>login_loop</code>" in page.text
        assert len(page.hops) <= 12
        assert "Sign in again" in dict(page.links)
        world.provider.faults = Faults()
        world.clock.advance(61)
        assert (await ann.navigate(f"{world.url}/echo")).status == 200


async def test_f129_cookies_that_are_blocked_end_in_a_page() -> None:
    async with watched_world() as (watch, world, ann):
        form = await ann.navigate(f"{world.url}/echo")
        ann.cookies.clear("oidc_proxy")
        watch.assert_refused(await ann.fill_sign_in(form, "ann", "ann"), "login_unknown")
        assert "this browser has no such sign-in" in world.lines(event="login.failed")[-1]["reason"]


# ── what is written down ──


async def test_br14_what_strangers_send_cannot_write_log_lines() -> None:
    evil = 'x\u2028{"level":"error","event":"forged"}\x1b[31m'
    async with watched_world() as (_, world, ann):
        world.provider.faults = Faults(
            callback=lambda pairs: [("error", "e"), ("error_description", f"a\r\n{evil}"), *pairs[2:]]
        )
        agent = "x\t{'event':'forged'}"
        await ann.navigate(f"{world.url}/echo%0a%7b%22event%22:%22forged%22%7d?q=1", headers={"User-Agent": agent})
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        await ann.request("GET", f"{world.url}/echo", headers={"X-Request-Id": '","event":"forged'})
        assert world.lines(), "every line is JSON"
        assert not world.lines(event="forged")
        assert "\x1b" not in world.log.getvalue()
        assert not [line for line in world.lines() if "?" in str(line.get("path"))], "no query"


async def test_lt27_lt28_own_pages_have_nothing_of_the_backend_and_no_markup_of_strangers() -> None:
    async with watched_world() as (watch, world, ann):
        evil = "'%22%3E%3C/script%3E%3Cscript%3Ealert(1)%3C/script%3E"
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        for path in (
            f"/oauth2/callback?code=a&state={evil}",
            f"/oauth2/signed_out?state={evil}",
            f"/oauth2/start?rd={evil}",
        ):
            page = await ann.open(f"{world.url}{path}")
            assert "<script" not in page.text
            assert '">' + "</script" not in page.text
        watch.check()
