"""Server-sent events and long polling: said at once, for as long as it takes, and ended in good order."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.stories.proxied import ann, answer, eventually, world_with
from tests.wire import Line, Peer, connected, message

STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def begun(line: Line) -> bytes:
    """The head of an answer that has begun."""
    return await asyncio.wait_for(line.reader.readuntil(b"\r\n\r\n"), 3)


@pytest.mark.parametrize("path", ["/public/events", "/events"])
async def test_f218_an_event_arrives_within_a_tenth_of_a_second(path: str) -> None:
    said: list[float] = []
    loop = asyncio.get_running_loop()

    async def script(peer: Peer) -> None:
        while b"events" not in await peer.head():
            await peer.say(answer())
        await peer.say(STREAM)
        for number in range(30):
            said.append(loop.time())
            await peer.say(chunk(b"data: %d\n\n" % number))
            await asyncio.sleep(0.02)

    async with world_with(script=script) as (world, _), connected(world.url) as line:
        await line.send(message(world.url, f"GET {path}", cookie=await ann(world)))
        await begun(line)
        delays = []
        for number in range(30):
            event = await asyncio.wait_for(line.reader.readuntil(b"\n\n\r\n"), 3)
            delays.append(loop.time() - said[number])
            assert event == chunk(b"data: %d\n\n" % number)
        assert sorted(delays)[27] < 0.1, delays  # the machine may have had something else to do once or twice


async def test_f218_heartbeats_keep_a_stream_for_as_long_as_it_takes() -> None:
    """Every time-out that there is is shorter than the stream."""
    short = {"header": "500ms", "body": "500ms", "write": "500ms", "keep_alive": "500ms"}
    settings: dict[str, Any] = {
        "upstream": {"timeouts": {"response": "500ms", "idle": "500ms"}},
        "http": {"timeouts": short},
    }

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.say(STREAM)
        for _ in range(15):
            await peer.say(chunk(b": beat\n\n"))
            await asyncio.sleep(0.1)
        await peer.say(b"0\r\n\r\n")

    async with world_with(settings, script) as (world, _), connected(world.url) as line:
        await line.send(message(world.url, "GET /public/events"))
        response = await line.response()
        assert (response.body, response.cut) == (b": beat\n\n" * 15, False)


async def test_f218_a_long_poll_is_answered_when_there_is_something_to_say() -> None:
    async def script(peer: Peer) -> None:
        while True:
            await peer.head()
            await asyncio.sleep(1.2)
            await peer.say(answer(body=b"news"))

    settings = {"http": {"timeouts": {"header": "500ms", "body": "500ms", "write": "500ms", "keep_alive": "500ms"}}}
    async with world_with(settings, script) as (world, backend), connected(world.url) as line:
        for _ in range(2):
            await line.send(message(world.url, "GET /public/poll"))
            assert (await line.response()).body == b"news"
        assert backend.connections == 1


async def test_f253_at_the_end_of_the_process_event_streams_end_and_downloads_are_finished() -> None:
    go_on = asyncio.Event()

    async def script(peer: Peer) -> None:
        if b"events" in await peer.head():
            await peer.say(STREAM + chunk(b"data: 1\n\n"))
            await peer.closed()
        else:
            await peer.say(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 10\r\n\r\nhello")
            await go_on.wait()
            await peer.say(b"world")

    async with world_with(script=script) as (world, _):
        async with connected(world.url) as events, connected(world.url) as download:
            await events.send(message(world.url, "GET /public/events"))
            await download.send(message(world.url, "GET /public/file"))
            assert (await begun(events)).endswith(b"\r\n\r\n")
            await begun(download)
            closing = asyncio.create_task(world.app.close())
            rest = await events.ended()
            assert rest == chunk(b"data: 1\n\n") + b"0\r\n\r\n", "the regular end"
            assert world.lines(type="access", path="/public/events", reason="shutdown")
            assert not closing.done()
            go_on.set()
            assert await download.ended() == b"helloworld"
            await asyncio.wait_for(closing, 3)
        assert not world.lines(event="upstream.broke_off")


async def test_f253_who_does_not_read_does_not_keep_the_process() -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.say(STREAM)
        while True:
            await peer.say(chunk(b"data: " + b"x" * 65536 + b"\n\n"))

    async with world_with(script=script) as (world, _), connected(world.url) as line:
        await line.send(message(world.url, "GET /public/events"))
        await begun(line)
        line.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.sleep(0.5)
        await asyncio.wait_for(world.app.close(), 5)
        await eventually(lambda: world.lines(type="access", reason="shutdown"))
