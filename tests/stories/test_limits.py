"""Clients that send too much, too slowly, or do not read: each is told, or let go, and the others are served."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import AsyncExitStack, suppress
from email.utils import parsedate_to_datetime
from typing import Any

import pytest

from tests.gateway import World
from tests.stories.proxied import ann, answer, eventually, get, world_with
from tests.wire import OK, Peer, Response, ask, connected, message

SHORT = {"header": "300ms", "body": "300ms", "write": "500ms", "keep_alive": "600ms"}
MEGABYTE = 2**20


def limits(**values: Any) -> dict[str, Any]:
    return {"http": {"limits": values}}


def timeouts(**values: str) -> dict[str, Any]:
    return {"http": {"timeouts": {**SHORT, **values}}}


def is_ours(response: Response, status: int, code: str) -> None:
    """An answer in our words, after which the connection closes."""
    assert (response.status, json.loads(response.body)["code"]) == (status, code)
    assert response.one("Connection") == b"close"
    assert response.one("Cache-Control") == b"no-store"
    assert parsedate_to_datetime(response.one("Date").decode())
    assert not response.all("Server")
    assert response.one("X-Request-Id").decode() == json.loads(response.body)["request_id"]


# ── too much ──


@pytest.mark.parametrize(
    ("settings", "line", "fields", "status", "code"),
    [
        (limits(header_bytes="2KiB"), "GET /public/x", ["X-A: " + "a" * 2048], 431, "headers_too_large"),
        (limits(header_bytes="2KiB"), "GET /public/x", ["X-A: " + "a" * 200] * 10, 431, "headers_too_large"),
        (limits(header_bytes="2KiB"), "GET /public/x", ["X-A: " + "a" * 9_000_000], 431, "headers_too_large"),
        (limits(headers=16), "GET /public/x", ["X-A: 1"] * 16, 431, "headers_too_large"),
        (limits(url_bytes="2KiB"), "GET /public/x?" + "a" * 2048, [], 414, "uri_too_long"),
        (limits(url_bytes="2KiB"), "GET /public/x?" + "a" * 9_000_000, [], 414, "uri_too_long"),
        (limits(url_bytes="2KiB", header_bytes="2KiB"), "GET /" + "a" * 2048, [], 414, "uri_too_long"),
    ],
)
async def test_sm25_f228_more_head_than_is_allowed(
    settings: dict[str, Any], line: str, fields: list[str], status: int, code: str
) -> None:
    async with world_with(settings) as (world, backend):
        for pieces in (1, 20):
            data = message(world.url, line, *fields)
            step = len(data) // pieces + 1
            async with connected(world.url) as client:
                try:
                    for at in range(0, len(data), step):
                        await client.send(data[at : at + step])
                        await asyncio.sleep(0)
                except ConnectionError:
                    pass  # the answer is there all the same
                is_ours(await client.response(), status, code)
                assert await client.ended() == b""
        assert not backend.seen
        lines = world.lines(type="access")
        assert [(entry["status"], entry["reason"], entry["path"]) for entry in lines] == [(status, code, None)] * 2
        assert world.metric("http_unreadable_requests_total", code=code) == 2


async def test_sm25_the_limits_are_as_large_as_they_say() -> None:
    async with world_with(limits(header_bytes="2KiB", url_bytes="2KiB", headers=16)) as (world, backend):
        assert (await get(world, "X-A: " + "a" * 1900)).status == 200
        assert (await get(world, line="GET /public/" + "a" * 2000)).status == 200
        assert (await get(world, *["X-A: 1"] * 15)).status == 200
        assert (await get(world, "X-A: " + "a" * 1900, line="POST /public/x", body=b"b" * 200_000)).status == 200
        assert len(backend.seen) == 4


@pytest.mark.parametrize("chunked", [True, False])
@pytest.mark.parametrize("size", [1001, 9_000_000])
async def test_rx2_f228_a_body_that_is_too_large(chunked: bool, size: int) -> None:
    async with world_with(limits(body_bytes="1kB")) as (world, backend):
        cookie = await ann(world)
        backend.seen.clear()
        for path, its in (("/public/x", ""), ("/x", cookie)):
            async with connected(world.url) as line:
                field = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {size}"
                body = b"%x\r\n%b\r\n0\r\n\r\n" % (size, b"x" * size) if chunked else b"x" * size
                with suppress(ConnectionError):
                    await line.send(message(world.url, f"POST {path}", field, cookie=its) + body)
                response = await line.response("POST")
                assert (response.status, json.loads(response.body)["code"]) == (413, "body_too_large")
                assert response.one("Connection") == b"close"
                assert await line.ended() == b""
        assert not backend.seen, "it may begin to arrive, but it never ends"
        assert (await get(world, line="POST /public/x", body=b"x" * 1000)).status == 200
        small = message(world.url, "POST /public/x", "Transfer-Encoding: chunked") + b"3e8\r\n%b\r\n0\r\n\r\n" % (
            b"x" * 1000
        )
        assert (await ask(world.url, small)).status == 200


async def test_rx1_f228_more_connections_than_there_is_room_for() -> None:
    async with world_with(limits(connections=3)) as (world, _), AsyncExitStack() as stack:
        lines = [await stack.enter_async_context(connected(world.url)) for _ in range(3)]
        for line in lines:
            await line.send(message(world.url, "GET /public/x"))
            assert (await line.response()).status == 200
        async with connected(world.url) as fourth:
            assert await fourth.ended() == b""
        assert world.metric("http_connections_refused_total") == 1
        assert len(world.lines(event="connections.full")) == 1
        lines[0].abort()
        await asyncio.sleep(0.05)
        assert (await get(world)).status == 200, "there is room again"


async def test_sm22_a_thousand_requests_at_once_wait_as_bytes() -> None:
    async with world_with() as (world, backend), connected(world.url) as line:
        backend.answer = lambda request: answer(body=request.target)
        await line.send(b"".join(message(world.url, f"GET /public/{number}") for number in range(1000)))
        most = 0
        for number in range(1000):
            assert (await line.response()).body == b"/public/%d" % number
            most = max(most, *(len(one._messages) for one in world.app._public._connections))
        assert most <= 32


# ── too slow ──


async def dripping(world: World, data: bytes, pause: float) -> tuple[Response, float]:
    """The answer to bytes that come one by one, and the seconds after which it came."""
    async with connected(world.url) as line:
        began = time.monotonic()
        reading = asyncio.create_task(line.response("POST"))
        for at in range(len(data)):
            if reading.done():
                break
            await line.send(data[at : at + 1])
            await asyncio.sleep(pause)
        response = await reading
        assert await line.ended() == b""
        return response, time.monotonic() - began


async def test_rx1_a_head_that_comes_byte_by_byte() -> None:
    async with world_with(timeouts()) as (world, backend):
        response, seconds = await dripping(world, message(world.url, "GET /public/x"), 0.02)
        is_ours(response, 408, "request_timeout")
        assert 0.2 < seconds < 1.5
        (line,) = world.lines(type="access")
        assert (line["status"], line["reason"], line["client_ip"]) == (408, "request_timeout", "127.0.0.1")
        assert not backend.seen


async def test_rx1_half_a_head_after_a_whole_request() -> None:
    """The time for a head is another than the time for which a connection may be idle."""
    async with world_with(timeouts(keep_alive="30s")) as (world, _), connected(world.url) as line:
        await line.send(message(world.url, "GET /public/x"))
        assert (await line.response()).status == 200
        await asyncio.sleep(0.6)  # idle: longer than a head may take
        await line.send(b"GET /public/x HT")
        is_ours(await line.response(), 408, "request_timeout")
        assert await line.ended() == b""


@pytest.mark.parametrize("said", [b"", b"\r\n"])
async def test_rx1_a_connection_that_says_nothing(said: bytes) -> None:
    async with world_with(timeouts(keep_alive="30s")) as (world, _), connected(world.url) as line:
        await line.send(said)
        began = time.monotonic()
        assert await line.ended() == b""
        assert 0.2 < time.monotonic() - began < 1.5
        assert not world.lines(type="access"), "it was no request"


@pytest.mark.parametrize("said", [b"", b"\r\n"])
async def test_rx1_an_idle_connection(said: bytes) -> None:
    async with world_with(timeouts()) as (world, _), connected(world.url) as line:
        for _ in range(2):
            await line.send(message(world.url, "GET /public/x") + said)
            assert (await line.response()).status == 200
            await asyncio.sleep(0.4)  # less than keep_alive, but more than a head may take
        began = time.monotonic()
        assert await line.ended() == b""
        assert time.monotonic() - began < 1.5


@pytest.mark.parametrize("chunked", [True, False])
async def test_rx2_a_body_that_stops(chunked: bool) -> None:
    async with world_with(timeouts()) as (world, backend):
        async with connected(world.url) as line:
            field = "Transfer-Encoding: chunked" if chunked else "Content-Length: 100"
            await line.send(message(world.url, "POST /public/x", field) + (b"5\r\nhello\r\n" if chunked else b"hello"))
            began = time.monotonic()
            response = await line.response("POST")
            assert (response.status, json.loads(response.body)["code"]) == (408, "request_timeout")
            assert response.one("Connection") == b"close"
            assert 0.2 < time.monotonic() - began < 1.5
            assert await line.ended() == b""
        assert not backend.seen


async def test_rx2_a_body_that_is_slow_but_comes() -> None:
    async with world_with(timeouts()) as (world, backend), connected(world.url) as line:
        await line.send(message(world.url, "POST /public/x", "Content-Length: 10"))
        for _ in range(10):
            await asyncio.sleep(0.1)
            await line.send(b"x")
        assert (await line.response("POST")).status == 200
        assert backend.last().body == b"x" * 10


async def test_rx2_a_backend_that_takes_its_time_with_a_body_is_not_the_clients_fault() -> None:
    async def hesitate(peer: Peer) -> None:
        await peer.head()
        await asyncio.sleep(1)
        left = 8 * MEGABYTE
        while left > 0:
            left -= len(await peer.reader.read(2**18))
        await peer.say(OK)

    async with world_with(timeouts(), script=hesitate) as (world, _), connected(world.url) as line:
        await line.send(message(world.url, "POST /public/x", body=b"x" * 8 * MEGABYTE))
        assert (await line.response("POST")).status == 200


async def test_rx4_a_slow_answer_is_not_the_clients_fault() -> None:
    async def think(peer: Peer) -> None:
        async for _ in peer.requests():
            await asyncio.sleep(1.2)
            await peer.say(OK)

    async with world_with(timeouts(), script=think) as (world, _):
        assert (await get(world)).status == 200
        assert (await get(world, line="POST /public/x", body=b"x")).status == 200


# ── not read ──


async def test_rx3_a_client_that_does_not_read() -> None:
    gone = asyncio.Event()

    async def pour(peer: Peer) -> None:
        await peer.head()
        try:
            await peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (100 * MEGABYTE))
            for _ in range(1600):
                await peer.say(b"x" * 65536)
        finally:
            gone.set()

    async with world_with(timeouts(), script=pour) as (world, _), connected(world.url, limit=1024) as line:
        await line.send(message(world.url, "GET /public/x"))
        await asyncio.wait_for(gone.wait(), 4)
        await eventually(lambda: world.lines(type="access"))
        assert world.metric("http_requests_in_flight") == 0


async def test_rx3_a_client_that_reads_slowly_is_served() -> None:
    size = 20 * MEGABYTE
    async with world_with(timeouts()) as (world, backend), connected(world.url, limit=1024) as line:
        backend.answer = answer(body=b"x" * size)
        await line.send(message(world.url, "GET /public/x"))
        await line.reader.readuntil(b"\r\n\r\n")
        left = size
        while left > 0:
            left -= len(await line.reader.read(2 * MEGABYTE))
            await asyncio.sleep(0.0005)
        assert left == 0


# ── our own answers ──


async def test_own_answers_say_when_they_were_made() -> None:
    async with world_with() as (world, _):
        for path in ("/x", "/oauth2/userinfo", "/oauth2/start", "/public/../x"):
            (value,) = (await get(world, line=f"GET {path}")).all("Date")
            assert abs(parsedate_to_datetime(value.decode()).timestamp() - world.clock()) < 5
        malformed = await ask(world.url, b"GET / HTTP/1.1\r\n\r\n")
        assert malformed.one("Date")


# ── requests behind a body that waits ──


@pytest.mark.parametrize("behind", ["GET /public/y", "GET  /public/y", "PROPFIND /public/y"])
@pytest.mark.parametrize("trailer", [b"", b"X-Evil: mallory\r\n"])
async def test_sm8_requests_that_waited_behind_a_body_are_looked_at_all_the_same(behind: str, trailer: bytes) -> None:
    """Many small chunks, more than the gateway takes at a time, and requests behind them in the same bytes."""
    size = MEGABYTE
    go_on = asyncio.Event()

    async def hesitate(peer: Peer) -> None:
        async for request in peer.requests():
            peer.backend.seen.append(request)
            await go_on.wait()
            await peer.say(OK)

    async with world_with(script=hesitate) as (world, backend), connected(world.url) as line:
        body = b"400\r\n%b\r\n" % (b"x" * 1024) * (size // 1024) + b"0\r\n" + trailer + b"\r\n"
        head = message(world.url, "POST /public/x", "Transfer-Encoding: chunked")
        sending = asyncio.create_task(line.send(head + body + message(world.url, behind, "X-A: 1") * 3))
        await asyncio.sleep(0.2)
        go_on.set()
        assert (await line.response("POST")).status == 200
        await sending
        statuses = set()
        for _ in range(3):
            response = await line.response()
            statuses.add(response.status)
            if response.status == 400:
                break
        assert statuses <= ({400} if "  " in behind else {200, 400})
        first, *others = backend.seen
        assert len(first.body) == size
        assert not any(b"mallory" in request.raw for request in others)
