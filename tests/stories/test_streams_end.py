"""What is open on behalf of a session does not outlive it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TypeAlias

import aiohttp
import pytest
from yarl import URL

from oidc_proxy.demo.backend import Behaviour
from tests.gateway import World, merged, running_app, running_world, settings_for
from tests.real.redis import RedisServer
from tests.world import Browser, free_port

EVENTS = "/events?count=10000&interval=0.02"
SOON = 1.0
"""Seconds within which a stream must have ended."""


@asynccontextmanager
async def opened(world: World, browser: Browser, path: str) -> AsyncIterator[aiohttp.ClientResponse]:
    """An answer whose head has come, and of whose body something has come."""
    headers = {"Cookie": browser.cookies.header(world.url), "Accept": "*/*"}
    url = URL(f"{world.url}{path}", encoded=True)
    async with browser.http.get(url, headers=headers, timeout=aiohttp.ClientTimeout(total=30)) as answer:
        assert answer.status == 200
        assert await answer.content.readany()
        yield answer


async def rest(answer: aiohttp.ClientResponse, within: float = SOON) -> bytes:
    """What still comes until the end; aiohttp raises if the end is not a regular one."""
    async with asyncio.timeout(within):
        return await answer.read()


async def flows(answer: aiohttp.ClientResponse) -> bool:
    async with asyncio.timeout(SOON):
        return bool(await answer.content.readany())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(SOON):
        while not condition():
            await asyncio.sleep(0.01)


async def sign_out(world: World, browser: Browser, query: str = "") -> None:
    page = await browser.post(f"{world.url}/oauth2/sign_out{query}", {}, Origin=world.url)
    assert page.status == 303


End: TypeAlias = Callable[[World, Browser], Awaitable[None]]


async def by_sign_out(world: World, ann: Browser) -> None:
    await sign_out(world, ann)


async def by_back_channel(world: World, ann: Browser) -> None:
    token = world.provider.logout_token("app", sub=world.provider.users["ann"].sub)
    page = await ann.post(f"{world.url}/oauth2/backchannel_logout", {"logout_token": token})
    assert page.status == 200


ENDS = {"sign-out": by_sign_out, "back-channel": by_back_channel}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS.keys())
async def test_f264_lg12_lg14_an_event_stream_ends_and_that_of_an_active_session_goes_on(end: End) -> None:
    async with running_world() as world, world.browser() as ann, world.browser() as bob:
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        await bob.sign_in(f"{world.url}/echo", "bob", "bob")
        async with opened(world, ann, EVENTS) as hers, opened(world, bob, EVENTS) as his:
            await end(world, ann)
            await rest(hers)
            assert await flows(his)
            assert not world.lines(event="upstream.broke_off")
            (line,) = world.lines(type="access", reason="session_ended")
            assert line["path"] == "/events"


async def test_f264_lg13_the_clock_ends_a_stream_as_well() -> None:
    settings = {"session": {"idle_timeout": "48h"}}
    async with running_world(settings) as world, world.browser() as ann, world.browser() as bob:
        world.provider.lifetimes = replace(world.provider.lifetimes, access_token=10**6)
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        world.clock.advance(3600)
        await bob.sign_in(f"{world.url}/echo", "bob", "bob")
        async with opened(world, ann, EVENTS) as hers, opened(world, bob, EVENTS) as his:
            world.clock.advance(23 * 3600 + 1)
            await rest(hers, within=2.5)
            assert await flows(his)


async def test_f264_the_same_browsers_other_tab_closes_too() -> None:
    async with running_world() as world, world.browser() as ann:
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        async with opened(world, ann, EVENTS) as one, opened(world, ann, EVENTS) as other:
            await sign_out(world, ann)
            await asyncio.gather(rest(one), rest(other))
        assert not world.app._sessions._holds


async def test_f264_a_touched_or_renewed_session_keeps_its_streams() -> None:
    async with running_world() as world, world.browser() as ann:
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        async with opened(world, ann, EVENTS) as stream:
            page = await ann.fetch(f"{world.url}/oauth2/refresh", method="POST")
            assert page.status == 200
            world.clock.advance(1000)
            assert (await ann.fetch(f"{world.url}/echo")).status == 200
            await asyncio.sleep(0.2)
            assert await flows(stream)


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS.keys())
async def test_lg12_a_long_download_is_broken_off_so_that_it_does_not_look_whole(end: End) -> None:
    async with running_world() as world, world.browser() as ann:
        world.backend.switches.at["/big"] = Behaviour(size=3_000_000, drip=0.001)
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        async with opened(world, ann, "/big") as download:
            await end(world, ann)
            with pytest.raises(aiohttp.ClientError):
                await rest(download)


async def test_lg12_a_client_that_does_not_read_is_let_go_of() -> None:
    async with running_world() as world, world.browser() as ann:
        world.backend.switches.at["/big"] = Behaviour(size=50_000_000)
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        port = int(world.url.rpartition(":")[2])
        _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        cookie = ann.cookies.header(world.url)
        writer.write(f"GET /big HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nCookie: {cookie}\r\n\r\n".encode())
        await until(lambda: bool(world.app._sessions._holds))
        await sign_out(world, ann)
        await until(lambda: not world.app._sessions._holds)
        writer.close()


async def test_what_ends_by_itself_leaves_nothing_behind_and_small_answers_are_not_held() -> None:
    async with running_world() as world, world.browser() as ann:
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        async with opened(world, ann, "/events?count=3&interval=0.05") as stream:
            assert world.app._sessions._holds
            await rest(stream)
        await until(lambda: not world.app._sessions._holds)
        assert not world.lines(reason="session_ended")


async def test_one_that_cannot_be_closed_does_not_keep_the_others_open() -> None:
    async with running_world() as world, world.browser() as ann:
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        async with opened(world, ann, EVENTS) as one:
            sessions = world.app._sessions
            (held,) = sessions._holds.values()
            (route,) = held.routes.values()
            held.routes = {lambda reason: 1 / 0: route, **held.routes}  # type: ignore[dict-item,return-value]
            await sign_out(world, ann)
            await rest(one)
            assert world.lines(event="internal_error", reason="ZeroDivisionError in session_ended")
            assert not sessions._holds


async def test_what_needs_no_session_is_not_ended_by_one() -> None:
    async with running_world({"routes": [{"path": "/events", "auth": "none"}]}) as world, world.browser() as ann:
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        async with opened(world, ann, EVENTS) as stream:
            await sign_out(world, ann)
            await asyncio.sleep(0.3)
            assert await flows(stream)


async def test_f264_who_loses_the_group_that_a_route_asks_for_loses_what_is_open_there() -> None:
    routes = [{"path": "/events", "groups": ["/staff/ops"]}]
    async with running_world({"routes": routes}) as world, world.browser() as ann:
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        async with opened(world, ann, EVENTS) as stream:
            world.provider.users["ann"] = replace(world.provider.users["ann"], groups=("/staff/sales",))
            assert (await ann.post(f"{world.url}/oauth2/refresh", {}, Origin=world.url)).status == 200
            await rest(stream, within=2)
        assert world.lines(type="access", path="/events", reason="access_denied")
        assert not world.app._sessions._holds


async def test_f264_the_end_reaches_the_streams_of_another_replica(redis_server: RedisServer) -> None:
    store = {"store": {"type": "redis", "url": redis_server.url}}
    async with running_world(store) as world:
        port = free_port()
        beside = merged(settings_for(port, world.provider, world.backend), {"public_url": world.url, **store})
        async with running_app(beside, world.clock), world.browser() as ann:
            await ann.sign_in(f"{world.url}/echo", "ann", "ann")
            headers = {"Cookie": ann.cookies.header(world.url), "Host": world.url.removeprefix("http://")}
            there = f"http://127.0.0.1:{port}"
            socket = await ann.http.ws_connect(f"{there}/ws", headers={**headers, "Origin": world.url})
            async with ann.http.get(f"{there}{EVENTS}", headers=headers) as stream:
                assert await flows(stream)
                await sign_out(world, ann)
                await rest(stream)
                seen = await socket.receive(timeout=SOON)
                assert (seen.data, seen.extra) == (1008, "session ended")
