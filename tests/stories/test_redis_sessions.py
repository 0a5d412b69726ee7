"""Sessions in a real Redis: shared by all gateways, readable by nobody, and never lost to an outage."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from urllib.parse import urlencode, urljoin, urlsplit

import pytest

from oidc_proxy.errors import StoreFault
from oidc_proxy.server.app import App
from tests.gateway import World, merged, running_app, running_world, settings_for
from tests.real.redis import RedisServer
from tests.wire import Response, ask, authority, message
from tests.world import Page, free_port

TOKEN_LIFE = 300
PUBLIC = [{"path": "/public/", "auth": "none"}]


def on(server: RedisServer, **more: Any) -> dict[str, Any]:
    store = {"type": "redis", "url": server.url, "timeouts": {"connect": "300ms", "command": "300ms"}}
    return merged({"store": store}, more)


@asynccontextmanager
async def another_gateway(world: World, server: RedisServer) -> AsyncIterator[tuple[App, str]]:
    """One more replica behind the same public URL, and where it listens."""
    port = free_port()
    usual = settings_for(urlsplit(world.url).port or 0, world.provider, world.backend)
    async with running_app(merged(usual, on(server, listen={"address": f"127.0.0.1:{port}"})), world.clock) as (app, _):
        yield app, f"http://127.0.0.1:{port}"


async def at(replica: str, world: World, target: str, cookie: str, *fields: str, method: str = "GET") -> Response:
    """A request that the load balancer sends to this replica."""
    data = message(world.url, f"{method} {target}", f"Host: {authority(world.url)}", *fields, cookie=cookie)
    return await ask(replica, data)


def bearer(page: Page) -> str:
    return dict(page.json()["headers"])["Authorization"]


async def test_two_gateways_share_a_session(redis_server: RedisServer) -> None:
    async with (
        running_world(on(redis_server)) as world,
        world.browser() as ann,
        another_gateway(world, redis_server) as (_, other),
    ):
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        cookie = ann.cookies.header(world.url)
        assert (await at(other, world, "/echo", cookie)).status == 200
        assert (await at(other, world, "/echo", "")).status == 401
        await ann.navigate(f"{world.url}/oauth2/sign_out", initiator=f"{world.url}/")
        assert (await at(other, world, "/echo", cookie)).status == 401, "signed out here is signed out there"


async def test_a_sign_in_that_begins_at_one_gateway_ends_at_another(redis_server: RedisServer) -> None:
    async with (
        running_world(on(redis_server)) as world,
        world.browser() as ann,
        another_gateway(world, redis_server) as (_, other),
    ):
        login_page = await ann.navigate(f"{world.url}/echo/deep?x=1")
        form = login_page.forms[0]
        filled = urlencode({**form.fields, "username": "ann", "password": "ann"}).encode()
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        answer = await ann.request("POST", urljoin(login_page.url, form.action), headers=kind, data=filled)
        callback = urlsplit(answer.location)
        target = f"{callback.path}?{callback.query}"
        response = await at(other, world, target, ann.cookies.header(answer.location))
        assert response.status in {302, 303}
        assert response.one("Location").decode() == f"{world.url}/echo/deep?x=1"
        for line in response.all("Set-Cookie"):
            ann.cookies.store(world.url, line.decode())
        assert (await ann.fetch(f"{world.url}/echo")).status == 200
        again = await at(world.url, world, target, ann.cookies.header(answer.location))
        assert again.status >= 400 or not again.all("Set-Cookie"), "the code is spent once, whoever is asked"
        assert len(world.provider.calls("token")) == 1


async def test_a_refreshed_token_is_the_one_that_all_gateways_use(redis_server: RedisServer) -> None:
    async with (
        running_world(on(redis_server)) as world,
        world.browser() as ann,
        another_gateway(world, redis_server) as (_, other),
    ):
        first = bearer(await ann.sign_in(f"{world.url}/echo", "ann", "ann"))
        cookie = ann.cookies.header(world.url)
        world.clock.advance(TOKEN_LIFE + 1)
        second = bearer(await ann.fetch(f"{world.url}/echo"))
        assert second != first
        assert second.encode() in (await at(other, world, "/echo", cookie)).body
        assert len(world.provider.calls("token")) == 2


async def noticed(app: App, *, there: bool) -> None:
    """Until the gateway knows, by itself, that Redis is there again, or gone."""
    async with asyncio.timeout(5):
        while app._store.linked != there:
            if there:
                with contextlib.suppress(StoreFault):
                    await app._store.ping()
            await asyncio.sleep(0.05)


async def test_ss5_an_outage_of_redis_signs_nobody_out(redis_servers: Callable[..., RedisServer]) -> None:
    """Not even where nothing may be served from memory."""
    server = redis_servers(persistent=True)
    async with running_world(on(server, store={"outage_grace": 0}, routes=PUBLIC)) as world, world.browser() as ann:
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        before = ann.cookies.header(world.url)
        server.kill()
        await noticed(world.app, there=False)
        pages = [
            await ann.fetch(f"{world.url}/echo"),
            await ann.navigate(f"{world.url}/echo"),
            await ann.fetch(f"{world.url}/oauth2/userinfo"),
        ]
        for page in pages:
            assert page.status == 503
            assert int(page.headers["Retry-After"]) >= 1
            assert not page.set_cookies
            assert len(page.hops) == 1, "no redirect, so no loop"
            assert page.headers["Cache-Control"] == "no-store"
        assert pages[0].json()["code"] == "store_unavailable"
        assert "<html" in pages[1].text
        assert str(server.port) not in pages[1].text
        assert (await ann.fetch(f"{world.url}/public/x")).status == 200, "what needs no session needs no Redis"
        assert ann.cookies.header(world.url) == before
        await server.restart()
        await noticed(world.app, there=True)
        assert (await ann.fetch(f"{world.url}/echo")).status == 200
        assert not world.lines(event="session.ended")


async def test_ss5_whoever_is_known_goes_on_while_redis_is_down_but_not_for_ever(
    redis_servers: Callable[..., RedisServer],
) -> None:
    server = redis_servers(persistent=True)
    async with (
        running_world(on(server, store={"outage_grace": "1m"})) as world,
        world.browser() as ann,
        another_gateway(world, server) as (elsewhere, other),
    ):
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        cookie = f"oidc_proxy={ann.cookies.get('oidc_proxy')}"
        server.kill()
        await noticed(world.app, there=False)
        for _ in range(3):
            for target in ("/echo", "/oauth2/userinfo"):
                page = await ann.fetch(world.url + target)
                assert page.status == 200
                assert not page.set_cookies
            world.clock.advance(19)
        stranger = await at(other, world, "/echo", cookie)
        assert stranger.status == 503, "a gateway that has never seen her cannot tell who she is"
        assert stranger.one("Retry-After")
        world.clock.advance(4)
        page = await ann.fetch(f"{world.url}/echo")
        assert (page.status, page.json()["code"]) == (503, "store_unavailable"), "she may have signed out elsewhere"
        assert not page.set_cookies
        await server.restart()
        await noticed(world.app, there=True)
        await noticed(elsewhere, there=True)
        assert (await ann.fetch(f"{world.url}/echo")).status == 200
        assert (await at(other, world, "/echo", cookie)).status == 200
        assert not world.lines(event="session.ended")


async def test_who_was_signed_out_before_redis_went_down_does_not_come_back(
    redis_servers: Callable[..., RedisServer],
) -> None:
    server = redis_servers(persistent=True)
    async with (
        running_world(on(server)) as world,
        world.browser() as ann,
        another_gateway(world, server) as (_, other),
    ):
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        cookie = ann.cookies.header(world.url)
        assert (await at(other, world, "/echo", cookie)).status == 200
        await ann.navigate(f"{world.url}/oauth2/sign_out", initiator=f"{world.url}/")
        assert (await at(other, world, "/echo", cookie)).status == 401
        server.kill()
        for gateway in (world.url, other):
            assert (await at(gateway, world, "/echo", cookie)).status == 503, "no longer in memory"


async def test_who_has_no_session_is_sent_to_sign_in_while_redis_is_down(
    redis_servers: Callable[..., RedisServer],
) -> None:
    server = redis_servers()
    async with running_world(on(server)) as world, world.browser() as bob:
        server.kill()
        page = await bob.navigate(f"{world.url}/echo")
        assert page.form_with("password"), "an anonymous visitor writes nothing to Redis"
        page = await bob.fill_sign_in(page, "bob", "bob")
        assert page.status == 503
        assert page.headers["Retry-After"]
        assert "oidc_proxy" not in {cookie.name for cookie in bob.cookies}
        await server.restart()
        await noticed(world.app, there=True)
        assert (await bob.sign_in(f"{world.url}/echo", "bob", "bob")).status == 200


async def test_ss5_a_redis_that_hangs_delays_nobody_for_long(redis_server: RedisServer) -> None:
    async with (
        running_world(on(redis_server)) as world,
        world.browser() as ann,
        another_gateway(world, redis_server) as (elsewhere, other),
    ):
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        cookie = ann.cookies.header(world.url)

        async def twenty_at(gateway: str) -> set[int]:
            asked = asyncio.gather(*(at(gateway, world, "/echo", cookie) for _ in range(20)))
            return {response.status for response in await asyncio.wait_for(asked, 5)}

        redis_server.pause()
        try:
            assert await twenty_at(world.url) == {200}, "in memory, and nothing says that it has changed"
            assert await twenty_at(other) == {503}, "not in memory"
            await noticed(world.app, there=False)
            assert await twenty_at(world.url) == {200}, "in memory until a moment ago"
        finally:
            redis_server.resume()
        await noticed(world.app, there=True)
        await noticed(elsewhere, there=True)
        assert await twenty_at(world.url) == {200}
        assert await twenty_at(other) == {200}


async def test_ss5_a_redis_that_hangs_serves_nobody_from_memory_where_that_is_not_wanted(
    redis_server: RedisServer,
) -> None:
    async with running_world(on(redis_server, store={"outage_grace": 0})) as world, world.browser() as ann:
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        redis_server.pause()
        try:
            await noticed(world.app, there=False)
            pages = await asyncio.wait_for(asyncio.gather(*(ann.fetch(f"{world.url}/echo") for _ in range(20))), 5)
            assert {page.status for page in pages} == {503}
        finally:
            redis_server.resume()
        await noticed(world.app, there=True)
        assert (await ann.fetch(f"{world.url}/echo")).status == 200


async def test_ss6_a_redis_that_lost_everything_means_signing_in_again(redis_server: RedisServer) -> None:
    async with running_world(on(redis_server)) as world, world.browser() as ann:
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        redis_server.reset()
        assert (await ann.fetch(f"{world.url}/echo")).status == 401
        page = await ann.navigate(f"{world.url}/echo")
        assert page.status == 200, "the provider still knows her"


async def test_ss27_a_cookie_from_before_is_worth_nothing(redis_server: RedisServer) -> None:
    async with running_world(on(redis_server)) as world, world.browser() as ann:
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        first = f"oidc_proxy={ann.cookies.get('oidc_proxy')}"
        await ann.sign_in(f"{world.url}/oauth2/start", "ann", "ann")
        second = f"oidc_proxy={ann.cookies.get('oidc_proxy')}"
        assert second != first
        assert (await at(world.url, world, "/echo", first)).status == 401, "a sign-in ends the session it came with"
        assert (await at(world.url, world, "/echo", second)).status == 200
        await ann.navigate(f"{world.url}/oauth2/sign_out", initiator=f"{world.url}/")
        assert (await at(world.url, world, "/echo", second)).status == 401


async def test_a_session_outlives_the_gateway(redis_server: RedisServer) -> None:
    async with running_world(on(redis_server)) as world, world.browser() as ann:
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        cookie = ann.cookies.header(world.url)
        await world.app.close()
        async with another_gateway(world, redis_server) as (_, other):
            assert (await at(other, world, "/echo", cookie)).status == 200


async def test_ss2_a_dump_of_redis_opens_nothing(redis_servers: Callable[..., RedisServer]) -> None:
    server = redis_servers(persistent=True)
    async with running_world(on(server)) as world, world.browser() as ann, world.browser() as bob:
        tokens = [bearer(await ann.sign_in(f"{world.url}/echo", "ann", "ann")).encode()[7:]]
        await bob.sign_in(f"{world.url}/echo", "bob", "bob")
        world.clock.advance(TOKEN_LIFE + 1)
        tokens.append(bearer(await ann.fetch(f"{world.url}/echo")).encode()[7:])
        await asyncio.sleep(0.05)
        cookies = [cookie.value.encode() for browser in (ann, bob) for cookie in browser.cookies]
        handles = [part for value in cookies for part in value.split(b".") if len(part) > 20]
        user = world.provider.users["ann"]
        claims = [user.sub.encode(), user.email.encode(), b"/staff/ops", b"Archer", b"preferred_username", b"refresh"]
        queries = [hop.query for hop in world.provider.calls("authorization")]
        states = [value.encode() for query in queries for name, value in query if name in {"state", "nonce"}]
        refresh = [
            call.form["refresh_token"].encode()
            for call in world.provider.calls("token")
            if "refresh_token" in call.form
        ]
        assert handles
        assert states
        assert refresh
        entries = await server.dump_all()
        assert len(entries) >= 2
        kept = [entry.key + b"\n" + entry.value for entry in entries] + list(server.files().values())
        for secret in [*tokens, *handles, *claims, *states, *refresh]:
            assert not any(secret in text for text in kept), secret
        for entry in entries:
            assert entry.ttl is not None, entry.key
            assert 0 < entry.ttl <= 24 * 3600
            assert entry.key.startswith(b"oidc_proxy:")


DAMAGES: list[Callable[[bytes], bytes]] = [
    lambda record: record[:-1],
    lambda record: record + b"x",
    lambda record: b"\2" + record[1:],
    lambda record: record[:5],
    lambda record: b"",
]


async def test_ss3_records_cannot_be_exchanged_or_altered(redis_server: RedisServer) -> None:
    async with running_world(on(redis_server)) as world, AsyncExitStack() as stack:
        ann, bob = [await stack.enter_async_context(world.browser()) for _ in range(2)]
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        await bob.sign_in(f"{world.url}/echo", "bob", "bob")
        async with redis_server.client() as client:
            first, second = [entry.key for entry in await redis_server.dump_all() if b"session:" in entry.key]
            values = await client.get(first), await client.get(second)
            await client.set(first, values[1], ex=60)
            await client.set(second, values[0], ex=60)
            for browser in (ann, bob):
                assert (await browser.fetch(f"{world.url}/echo")).status == 401
            for change in (
                lambda v: v[:-1],
                lambda v: v + b"x",
                lambda v: b"\2" + v[1:],
                lambda v: b"",
                lambda v: v[:5],
            ):
                await client.set(first, change(values[0]), ex=60)
                await client.set(second, change(values[1]), ex=60)
                for browser in (ann, bob):
                    assert (await browser.fetch(f"{world.url}/echo")).status == 401
            await client.set(first, values[0], ex=60)
            await client.set(second, values[1], ex=60)
        for browser in (ann, bob):
            assert (await browser.fetch(f"{world.url}/echo")).status == 200
        assert world.lines(event="session.unreadable")


ODD = [
    "*",
    "..",
    "sess:*",
    "a%0d%0aFLUSHALL",
    "%s%n",
    "x" * 10_000,
    "é" * 43,
    f"{'A' * 43}.{'A' * 43}=",
    "oidc_proxy:session",
]


async def test_ss1_ss23_odd_cookies_never_reach_redis(redis_server: RedisServer) -> None:
    async with running_world(on(redis_server)) as world:
        for value in ODD:
            for cookie in (f"oidc_proxy={value}", f"oidc_proxy={value}; oidc_proxy={value}", f"oidc_proxy ={value}"):
                response = await at(world.url, world, "/echo", cookie)
                assert response.status == 401, cookie[:60]
        assert not await redis_server.dump_all()
        stats = await redis_server.command_stats()
        assert not {"get", "set", "keys", "flushall"} & stats.keys()


async def test_ss4_many_people_and_many_who_give_up(redis_server: RedisServer) -> None:
    async with running_world(on(redis_server)) as world, world.browser() as ann, world.browser() as bob:
        for browser, name in ((ann, "ann"), (bob, "bob")):
            await browser.sign_in(f"{world.url}/echo", name, name)

        async def who(browser: Any, name: str) -> None:
            page = await browser.fetch(f"{world.url}/echo")
            assert page.status == 200
            assert dict(page.json()["headers"])["X-Forwarded-Preferred-Username"] == name

        tasks = []
        for number in range(300):
            tasks.append(asyncio.create_task(who(*((ann, "ann") if number % 2 else (bob, "bob")))))
            if number % 3 == 0:
                await asyncio.sleep(0.001 * (number % 7))
                tasks[number // 2].cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(result) for result in results} <= {type(None), asyncio.CancelledError}
        await who(ann, "ann")
        await who(bob, "bob")


@pytest.mark.parametrize("target", ["/echo", "/public/x"])
async def test_f137_ss16_reading_is_all_that_a_request_does(redis_server: RedisServer, target: str) -> None:
    async with running_world(on(redis_server, routes=PUBLIC)) as world, world.browser() as ann:
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        before = await redis_server.command_stats()
        for _ in range(10):
            assert (await ann.fetch(world.url + target)).status == 200
        after = await redis_server.command_stats()
        writes = {"set", "evalsha", "eval", "del", "expire", "pexpire"}
        assert {name: after.get(name) for name in writes} == {name: before.get(name) for name in writes}
        if target == "/public/x":
            assert after.get("get") == before.get("get")
