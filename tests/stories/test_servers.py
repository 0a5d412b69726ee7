"""Several servers of one application: visitors notice neither which one answers nor that one is gone (F225)."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from oidc_proxy.server.metrics import exposition
from tests.frames import TEXT, opened
from tests.frames import Backend as WebSockets
from tests.gateway import World, running_world
from tests.stories.proxied import eventually, get, swallow
from tests.wire import OK, Peer, Recorder, Request, authority, connected, message, recorder
from tests.world import free_port


@asynccontextmanager
async def several(
    count: int, scripts: dict[int, Callable[[Peer], Any]] | None = None, **upstream: Any
) -> AsyncIterator[tuple[World, list[Recorder]]]:
    """A gateway before so many servers of one application; some may have a script."""
    async with world_of_servers([(scripts or {}).get(number) for number in range(count)]) as backends:
        url, *servers = [backend.url for backend in backends]
        config = {
            "upstream": {"url": url, "servers": servers, **upstream},
            "routes": [{"path": "/", "auth": "none"}],
        }
        async with running_world(config) as world:
            yield world, backends


@asynccontextmanager
async def world_of_servers(scripts: list[Callable[[Peer], Any] | None]) -> AsyncIterator[list[Recorder]]:
    if not scripts:
        yield []
        return
    async with recorder(scripts[0]) as first, world_of_servers(scripts[1:]) as rest:
        yield [first, *rest]


def up(world: World) -> dict[str, float]:
    """What the metric says of each server."""
    lines = exposition(world.app.telemetry.metrics.snapshot()).decode().splitlines()
    found = [re.match(r'oidc_proxy_upstream_up{server="(.+)",upstream="default"} (.+)', line) for line in lines]
    return {one[1]: float(one[2]) for one in found if one}


async def test_f225_all_of_them_get_requests() -> None:
    async with several(3) as (world, backends):
        for number in range(9):
            assert (await get(world, line=f"GET /{number}")).status == 200
        assert [len(backend.seen) for backend in backends] == [3, 3, 3]
        assert set(up(world).values()) == {1.0}


async def test_f225_who_has_much_to_do_gets_no_more() -> None:
    async with several(2, {0: swallow}) as (world, backends):
        async with connected(world.url) as first, connected(world.url) as second:
            for line in (first, second):
                await line.send(message(world.url, "GET /x"))
            await eventually(lambda: backends[0].connections == 1 and len(backends[1].seen) == 1)
            for _ in range(4):
                assert (await get(world)).status == 200
            assert (backends[0].connections, len(backends[1].seen)) == (1, 5)


@asynccontextmanager
async def one_down(**upstream: Any) -> AsyncIterator[tuple[World, Recorder, str]]:
    """Two servers, of which the first lets nobody connect."""
    port = free_port()
    async with recorder() as backend:
        config = {
            "upstream": {"url": f"http://127.0.0.1:{port}", "servers": [backend.url], **upstream},
            "routes": [{"path": "/", "auth": "none"}],
        }
        async with running_world(config) as world:
            yield world, backend, f"http://127.0.0.1:{port}"


async def test_f225_one_of_two_is_down_and_nobody_notices() -> None:
    async with one_down() as (world, backend, gone):
        for number in range(6):
            response = await get(world, line=f"POST /{number}", body=b"an order")
            assert response.status == 200
        assert [request.target for request in backend.seen] == [f"/{n}".encode() for n in range(6)], "each once"
        assert {request.body for request in backend.seen} == {b"an order"}
        assert up(world)[gone] == 0
        (line,) = world.lines(event="upstream.server_down")
        assert (line["server"], line["upstream"]) == (gone, "default")


async def test_f225_a_chunked_upload_finds_the_server_that_is_up() -> None:
    async with one_down() as (world, backend, _):
        for _ in range(2):
            async with connected(world.url) as line:
                await line.send(message(world.url, "POST /x", "Transfer-Encoding: chunked") + b"3\r\nabc\r\n")
                await asyncio.sleep(0.05)
                await line.send(b"3\r\ndef\r\n0\r\n\r\n")
                assert (await line.response("POST")).status == 200
            assert backend.last().body == b"abcdef"


async def test_f219_f225_a_websocket_finds_the_server_that_is_up_under_its_own_path() -> None:
    backend, gone = WebSockets(), f"http://127.0.0.1:{free_port()}"
    async with recorder(backend) as other:
        config = {
            "upstream": {"url": gone, "servers": [other.url]},
            "routes": [{"path": "/chat/", "auth": "none", "strip_prefix": "/chat"}],
        }
        async with running_world(config) as world:
            for _ in range(2):
                async with opened(world.url, path="/chat/room%2F1?x") as client:
                    side = await backend.side()
                    assert side.head.startswith(b"GET /room%2F1?x HTTP/1.1\r\n")
                    await side.say(TEXT, b"hello")
                    assert (await client.hear()).payload == b"hello"
                    side.over.set()
            assert up(world)[gone] == 0


async def test_f225_it_comes_back() -> None:
    async with one_down(health={"pause": "200ms"}) as (world, backend, gone):
        for _ in range(2):
            assert (await get(world)).status == 200
        assert len(backend.seen) == 2
        server = await asyncio.start_server(_always_ok, "127.0.0.1", int(gone.rpartition(":")[2]))
        try:
            await asyncio.sleep(0.25)
            for _ in range(4):
                assert (await get(world)).status == 200
            assert len(backend.seen) == 4, "the other two went where nobody was before"
            assert up(world)[gone] == 1
            assert world.lines(event="upstream.server_up")[-1]["server"] == gone
        finally:
            server.close()


async def _always_ok(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(OK)
    except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
        writer.close()


async def test_f225_one_request_finds_out_for_all_whether_it_is_back() -> None:
    patience = {"health": {"failures": 1, "pause": "300ms"}, "timeouts": {"response": "300ms"}}
    async with several(2, {0: swallow}, **patience) as (world, backends):
        statuses = [(await get(world)).status for _ in range(2)]
        assert sorted(statuses) == [200, 504]
        await asyncio.sleep(0.35)
        statuses = [response.status for response in await asyncio.gather(*(get(world) for _ in range(6)))]
        assert sorted(statuses) == [200] * 5 + [504]
        assert up(world)[backends[0].url] == 0


async def test_f225_who_only_fails_is_passed_over_and_a_post_is_not_repeated() -> None:
    orders: list[bytes] = []

    async def hang_up(peer: Peer) -> None:
        orders.append(await peer.head())

    async with several(2, {0: hang_up}, health={"failures": 2, "pause": "1m"}) as (world, backends):
        statuses = [(await get(world, line=f"POST /{n}", body=b"x")).status for n in range(8)]
        assert statuses.count(502) == len(orders) == 2, "its own two failures, and then no more"
        assert len(backends[1].seen) == 6
        assert not {order.split()[1] for order in orders} & {request.target for request in backends[1].seen}


async def test_f225_failures_that_are_not_in_a_row_do_not_count() -> None:
    async def every_other(peer: Peer) -> None:
        async for request in peer.requests():
            peer.backend.seen.append(request)
            if b"bad" in request.target:
                return
            await peer.say(OK)

    scripts: dict[int, Callable[[Peer], Any]] = {0: every_other, 1: every_other}
    async with several(2, scripts, health={"failures": 2, "pause": "1m"}) as (world, _):
        for _ in range(3):
            for target, status in (("/bad", 502), ("/bad", 502), ("/good", 200), ("/good", 200)):
                assert (await get(world, line=f"POST {target}", body=b"x")).status == status
        assert not world.lines(event="upstream.server_down")


async def test_f225_when_all_are_down_there_is_one_answer_and_all_are_tried() -> None:
    ports = [free_port(), free_port()]
    urls = [f"http://127.0.0.1:{port}" for port in ports]
    config = {"upstream": {"url": urls[0], "servers": urls[1:]}, "routes": [{"path": "/", "auth": "none"}]}
    async with running_world(config) as world:
        assert (await get(world)).status == 502
        assert set(up(world).values()) == {0.0}
        server = await asyncio.start_server(_always_ok, "127.0.0.1", ports[1])
        try:
            assert (await get(world)).status == 200, "a server that may be down is better than none"
        finally:
            server.close()


async def test_f225_full_is_503_and_no_fault_of_the_servers() -> None:
    scripts: dict[int, Callable[[Peer], Any]] = {0: swallow, 1: swallow}
    limits = {"max_connections": 1, "timeouts": {"connect": "200ms"}, "health": {"failures": 1}}
    async with (
        several(2, scripts, **limits) as (world, backends),
        connected(world.url) as one,
        connected(world.url) as two,
    ):
        for line in (one, two):
            await line.send(message(world.url, "GET /x"))
        await eventually(lambda: [backend.connections for backend in backends] == [1, 1])
        assert (await get(world)).status == 503
        assert set(up(world).values()) == {1.0}


async def test_f225_servers_that_say_that_they_are_ill_get_nothing() -> None:
    well = {"status": b"200 OK"}
    asked: list[Request] = []

    async def serve(peer: Peer) -> None:
        async for request in peer.requests():
            if request.target == b"/healthz?full":
                asked.append(request)
                await peer.say(b"HTTP/1.1 " + well["status"] + b"\r\nContent-Length: 0\r\n\r\n")
                continue
            peer.backend.seen.append(request)
            await peer.say(OK)

    health = {"path": "/healthz?full", "interval": "50ms", "timeout": "1s", "pause": "1m"}
    async with several(2, {0: serve}, health=health, headers={"X-Key": "ours"}) as (world, backends):
        sick = backends[0].url
        await eventually(lambda: len(asked) > 2)
        assert asked[0].one("X-Key") == b"ours"
        assert asked[0].one("Host").decode() == authority(world.url), "some know no other host"
        assert not world.lines(event="upstream.server_down")
        well["status"] = b"503 Starting"
        await eventually(lambda: world.lines(event="upstream.server_down"))
        assert up(world)[sick] == 0
        before = len(backends[0].seen)
        for _ in range(4):
            assert (await get(world)).status == 200
        assert len(backends[0].seen) == before
        (line,) = world.lines(event="upstream.server_down")
        assert line["reason"] == "/healthz?full answers 503"
        well["status"] = b"204 No Content"
        ups = len(world.lines(event="upstream.server_up"))
        await eventually(lambda: len(world.lines(event="upstream.server_up")) > ups)
        for _ in range(4):
            assert (await get(world)).status == 200
        assert len(backends[0].seen) > before


async def test_f225_a_server_that_does_not_answer_in_time_is_ill() -> None:
    health = {"path": "/healthz", "interval": "50ms", "timeout": "100ms"}
    async with several(2, {0: swallow}, health=health) as (world, backends):
        await eventually(lambda: world.lines(event="upstream.server_down"))
        (line,) = world.lines(event="upstream.server_down")
        assert line["reason"] == "no answer to /healthz in time"
        for _ in range(4):
            assert (await get(world)).status == 200
        assert len([request for request in backends[1].seen if request.target == b"/public/x"]) == 4


async def test_f225_a_single_server_can_be_asked_too_and_gets_requests_all_the_same() -> None:
    async def ill(peer: Peer) -> None:
        async for request in peer.requests():
            peer.backend.seen.append(request)
            await peer.say(b"HTTP/1.1 500 Ill\r\nContent-Length: 0\r\n\r\n" if request.target == b"/healthz" else OK)

    config = {"health": {"path": "/healthz", "interval": "50ms"}, "host_header": "upstream"}
    async with several(1, {0: ill}, **config) as (world, backends):
        await eventually(lambda: world.lines(event="upstream.server_down"))
        assert up(world) == {backends[0].url: 0}
        assert backends[0].seen[0].one("Host").decode() == authority(backends[0].url)
        assert (await get(world)).status == 200
