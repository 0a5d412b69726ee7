"""Streams in flat memory, and what either side sees when the other one fails, stalls or goes away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.gateway import running_world
from tests.stories.proxied import answer, eventually, get, swallow, world_with
from tests.wire import OK, Line, Peer, connected, message

MEGABYTE = 2**20


# ── when the backend fails ──


async def test_f223_px15_a_backend_that_is_gone() -> None:
    async with world_with() as (world, backend):
        port = backend.url.rpartition(":")[2]
    async with world_with({"upstream": {"url": backend.url}}) as (world, _):
        for accept in ("text/html", "application/json"):
            response = await get(world, f"Accept: {accept}")
            assert response.status == 502
            assert (b"<html" in response.body) is (accept == "text/html")
            assert port.encode() not in response.body
            assert b"onnect" not in response.body
            assert response.one("Cache-Control") == b"no-store"
        (line, *_) = world.lines(event="request.failed")
        assert (line["code"], port in line["reason"]) == ("upstream_unreachable", True)


async def test_f223_a_backend_that_is_slow() -> None:
    async with world_with({"upstream": {"timeouts": {"response": "200ms"}}}, script=swallow) as (world, _):
        began = time.monotonic()
        assert (await get(world)).status == 504
        assert time.monotonic() - began < 2


async def test_f85_a_backend_that_is_full() -> None:
    settings = {"max_connections": 1, "timeouts": {"connect": "200ms", "response": "2s"}}
    async with world_with({"upstream": settings}, script=swallow) as (world, _), connected(world.url) as line:
        await line.send(message(world.url))
        await line.send(message(world.url, "GET /public/x"))
        await asyncio.sleep(0.1)
        assert (await get(world)).status == 503


@pytest.mark.parametrize(
    "raw",
    [
        b"SSH-2.0-x\r\n", b"HTTP/1.1 200 OK\r\nA: 1\n B: 2\r\n\r\n", b"", b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", b"HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n", b"HTTP/1.1 103 x\r\n\r\n" * 100,
        b"HTTP/1.1 200 OK\r\nX: a\rSet-Cookie: b\r\n\r\n",
    ],
    ids=lambda raw: repr(raw[:40]),
)  # fmt: skip
async def test_sm23_px16_nonsense_is_answered_by_us(raw: bytes) -> None:
    async def say(peer: Peer) -> None:
        await peer.head()
        await peer.say(raw)

    async with world_with(script=say) as (world, _):
        response = await get(world)
        assert response.status == 502
        assert raw[:20] not in response.body or not raw
        assert not world.lines(event="internal_error")


@pytest.mark.parametrize(
    "raw",
    [b"Content-Length: 100\r\n\r\nhalf", b"Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
     b"Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nzz\r\n"],
)  # fmt: skip
async def test_sm23_half_an_answer_is_not_passed_off_as_a_whole_one(raw: bytes) -> None:
    async def say(peer: Peer) -> None:
        await peer.head()
        await peer.say(b"HTTP/1.1 200 OK\r\n" + raw)
        await asyncio.sleep(0.1)

    for version in ("1.1", "1.0"):
        async with world_with(script=say) as (world, _):
            async with connected(world.url) as line:
                await line.send(message(world.url, "GET /public/x", version=version))
                head = await line.reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 200")
                if version == "1.1":
                    assert not (await line.ended()).endswith(b"0\r\n\r\n")
                else:
                    with pytest.raises(ConnectionResetError):  # the end of the connection is the end of the body
                        await asyncio.wait_for(line.reader.read(), 3)
            assert world.lines(event="upstream.broke_off")


# ── streams ──


def resident() -> int:
    """Bytes of memory that this process has now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


async def watched(work: asyncio.Task[Any]) -> int:
    """Wait for the work; by how many bytes memory grew meanwhile, at its highest."""
    before = highest = resident()
    while not work.done():
        highest = max(highest, resident())
        await asyncio.sleep(0.005)
    await work
    return highest - before


async def at_rest(count: Callable[[], int]) -> int:
    """The count, once it has not moved for a while."""
    async with asyncio.timeout(10):
        before = -1
        while count() != before:
            before = count()
            await asyncio.sleep(0.25)
    return before


PIECE = b"x" * 65536
HUNDRED = 100 * MEGABYTE


async def _download(peer: Peer) -> None:
    await peer.head()
    await peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % HUNDRED)
    for _ in range(HUNDRED // len(PIECE)):
        await peer.say(PIECE)


async def _upload(peer: Peer) -> None:
    await peer.head()
    left = HUNDRED
    while left > 0:
        left -= len(await peer.reader.read(2**18))
    await peer.say(answer(body=b"%d" % left))


async def _read_all(line: Line, left: int) -> None:
    while left > 0:
        left -= len(await line.reader.read(2**18))


async def test_f218_a_hundred_megabytes_each_way_in_flat_memory() -> None:
    async def down(url: str) -> None:
        async with connected(url) as line:
            await line.send(message(url, "GET /public/x"))
            await line.reader.readuntil(b"\r\n\r\n")
            await _read_all(line, HUNDRED)

    async def up(url: str) -> None:
        async with connected(url) as line:
            await line.send(message(url, "POST /public/x", f"Content-Length: {HUNDRED}"))
            for _ in range(HUNDRED // len(PIECE)):
                await line.send(PIECE)
            assert (await line.response("POST")).body == b"0"

    for script, work in ((_download, down), (_upload, up)):
        async with world_with(script=script) as (world, _):
            grown = await watched(asyncio.create_task(work(world.url)))
            assert grown < 16 * MEGABYTE, f"{work.__name__}: {grown / MEGABYTE:.0f} MiB"


async def test_f218_a_slow_reader_holds_the_backend_back() -> None:
    said = 0

    async def pour(peer: Peer) -> None:
        nonlocal said
        await peer.head()
        await peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % HUNDRED)
        for _ in range(HUNDRED // len(PIECE)):
            await peer.say(PIECE)
            said += len(PIECE)

    async with world_with(script=pour) as (world, _), connected(world.url) as line:
        before = resident()
        await line.send(message(world.url, "GET /public/x"))
        await line.reader.readuntil(b"\r\n\r\n")
        stalled = await at_rest(lambda: said)
        assert stalled < 40 * MEGABYTE, "only what the sockets hold"
        assert resident() - before < 16 * MEGABYTE
        assert (await get(world, line="GET /x")).status == 401, "others are served meanwhile"
        assert said == stalled
        await _read_all(line, HUNDRED)


async def test_f218_a_slow_backend_holds_the_upload_back() -> None:
    go_on = asyncio.Event()

    async def hesitate(peer: Peer) -> None:
        await peer.head()
        await go_on.wait()
        await _swallow_exactly(peer, HUNDRED)
        await peer.say(OK)

    async with world_with(script=hesitate) as (world, _), connected(world.url) as line:
        sent = 0

        async def pour() -> None:
            nonlocal sent
            await line.send(message(world.url, "POST /public/x", f"Content-Length: {HUNDRED}"))
            for _ in range(HUNDRED // len(PIECE)):
                await line.send(PIECE)
                sent += len(PIECE)

        before, pouring = resident(), asyncio.create_task(pour())
        assert await at_rest(lambda: sent) < 40 * MEGABYTE
        assert resident() - before < 16 * MEGABYTE
        go_on.set()
        await pouring
        assert (await line.response("POST")).status == 200


async def _swallow_exactly(peer: Peer, left: int) -> None:
    while left > 0:
        left -= len(await peer.reader.read(2**18))


async def test_f218_events_arrive_as_they_are_said() -> None:
    async with running_world({"routes": [{"path": "/events", "auth": "none"}]}) as world, connected(world.url) as line:
        await line.send(message(world.url, "GET /events?count=3&interval=60", "Accept: text/event-stream"))
        event = await asyncio.wait_for(line.reader.readuntil(b"\n\n"), 3)
        assert event.endswith(b'data: {"number": 0}\n\n'), "the next one is a minute away"


@pytest.mark.parametrize("framing", [b"Transfer-Encoding: chunked\r\n", b""], ids=["chunks", "until the end"])
async def test_rx11_two_hundred_event_streams_take_nobodys_place(framing: bytes) -> None:
    async def events(peer: Peer) -> None:
        async for request in peer.requests():
            if request.target != b"/public/events":
                await peer.say(OK)
                continue
            piece = b"data: 1\n\n"
            body = b"%x\r\n%b\r\n" % (len(piece), piece) if framing else piece
            await peer.say(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n" + framing + b"\r\n" + body)
            await peer.closed()

    settings = {"max_connections": 2, "timeouts": {"connect": "2s", "idle": "1s"}}
    async with world_with({"upstream": settings}, script=events) as (world, backend), AsyncExitStack() as stack:
        lines = [await stack.enter_async_context(connected(world.url)) for _ in range(200)]
        for line in lines:
            await line.send(message(world.url, "GET /public/events"))
        for line in lines:
            await line.reader.readuntil(b"data: 1\n\n")
        upstream = world.app._upstreams["default"]
        assert len(upstream._pool.apart) == 200
        assert [(await get(world)).status for _ in range(5)] == [200] * 5
        assert backend.connections <= 202
        for line in lines[:100]:
            line.abort()
        await eventually(lambda: len(upstream._pool.apart) == 100)
        for line in lines[100:]:  # nothing comes for longer than the backend may pause
            with pytest.raises(ConnectionResetError):
                await asyncio.wait_for(line.reader.read(), 3)
        assert not upstream._pool.apart
        assert (await get(world)).status == 200


async def test_f218_an_upload_arrives_piece_by_piece() -> None:
    arrived: list[bytes] = []

    async def listen(peer: Peer) -> None:
        await peer.head()
        while piece := await peer.reader.read(100):
            arrived.append(piece)

    async with world_with(script=listen) as (world, _), connected(world.url) as line:
        await line.send(message(world.url, "POST /public/x", "Transfer-Encoding: chunked"))
        for number in range(3):
            await line.send(b"5\r\npart%d\r\n" % number)
            await eventually(lambda wanted=b"part%d" % number: wanted in b"".join(arrived))


# ── when the client goes away ──


@pytest.mark.parametrize("moment", ["before the answer", "in the answer", "in the upload", "a paused answer"])
async def test_f229_a_client_that_leaves_is_gone_for_the_backend_too(moment: str) -> None:
    there, gone = asyncio.Event(), asyncio.Event()

    async def linger(peer: Peer) -> None:
        await peer.head()
        there.set()
        try:
            if moment not in {"before the answer", "in the upload"}:
                await peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\nhello" % HUNDRED)
            while moment == "a paused answer":
                await peer.say(PIECE)
            await peer.closed()
        finally:
            gone.set()

    async with world_with(script=linger) as (world, _), connected(world.url) as line:
        if moment == "in the upload":
            await line.send(message(world.url, "POST /public/x", "Content-Length: 1000000") + b"x" * 1000)
        else:
            await line.send(message(world.url, "GET /public/x"))
        await there.wait()
        await asyncio.sleep(0.3 if moment == "a paused answer" else 0.05)
        assert not gone.is_set()
        line.abort()
        await asyncio.wait_for(gone.wait(), 2)
        await eventually(lambda: world.lines(type="access"))
        assert not world.lines(event="internal_error")


async def test_f229_the_next_one_is_served_after_many_have_left() -> None:
    async with world_with({"upstream": {"max_connections": 4}}, script=None) as (world, backend):
        backend.answer = lambda request: OK if request.target == b"/public/ok" else b""
        for _ in range(20):
            async with connected(world.url) as line:
                await line.send(message(world.url, "GET /public/never"))
                await asyncio.sleep(0.01)
                line.abort()
        assert (await get(world, line="GET /public/ok")).status == 200
        await eventually(lambda: world.metric("http_requests_in_flight") == 0)
