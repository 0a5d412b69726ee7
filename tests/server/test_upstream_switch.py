"""What a backend may answer when it is offered to speak WebSocket, and what becomes of the connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from oidc_proxy.errors import UpstreamFault
from oidc_proxy.server.upstream import Upstream, UpstreamRequest, UpstreamResponse
from tests.server.test_upstream import HOST, OK, Peer, backend, story, upstream

ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
FIELDS = b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " + ACCEPT + b"\r\n"
YES = b"HTTP/1.1 101 Switching Protocols\r\n" + FIELDS + b"\r\n"


class Collector(asyncio.Protocol):
    """Who takes the connection over."""

    def __init__(self) -> None:
        self.data, self.lost = b"", asyncio.Event()

    def data_received(self, data: bytes) -> None:
        self.data += data

    def connection_lost(self, exc: BaseException | None) -> None:
        self.lost.set()


async def offer(client: Upstream) -> UpstreamResponse:
    return await client.send(UpstreamRequest(b"GET", b"/ws", HOST, accept=ACCEPT))


def taken(response: UpstreamResponse) -> tuple[asyncio.Transport, Collector]:
    transport, arrived = response.leave()
    collector = Collector()
    transport.set_protocol(collector)
    collector.data_received(arrived)
    transport.resume_reading()
    return transport, collector


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(3):
        while not true():
            await asyncio.sleep(0.005)


@asynccontextmanager
async def answering(*pieces: bytes, pause: float = 0.002, **settings: Any) -> AsyncIterator[tuple[Any, Upstream]]:
    """A backend that says this to the first request of each connection, and then repeats what it hears."""

    async def script(peer: Peer) -> None:
        await peer.head()
        for piece in pieces:
            await peer.say(piece)
            await asyncio.sleep(pause)
        while data := await peer.reader.read(65536):
            await peer.say(data)

    async with backend(script) as it, upstream(it.url, **settings) as client:
        yield it, client


@story
async def test_the_connection_is_given_away_and_leaves_its_place() -> None:
    async with answering(YES, max_connections=1) as (it, client):
        response = await offer(client)
        assert (response.status, response.reason) == (101, b"Switching Protocols")
        assert (b"Sec-WebSocket-Accept", ACCEPT) in response.headers
        assert b"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" in it.heads[0]
        transport, collector = taken(response)
        assert not client._pool.connections
        transport.write(b"raw \r\n\r\n bytes")
        await until(lambda: collector.data == b"raw \r\n\r\n bytes")
        response.abort()  # means nothing any more
        assert not transport.is_closing()
        other = await offer(client)
        other.abort()
        transport.close()
        await collector.lost.wait()


@story
async def test_a_place_that_becomes_free_goes_to_who_waits_for_it() -> None:
    async with answering(YES, pause=0.05, max_connections=1) as (_, client):
        first, second = asyncio.create_task(offer(client)), asyncio.create_task(offer(client))
        one, _ = taken(await first)
        two, _ = taken(await second)
        one.abort()
        two.abort()


PIECES = {
    "byte by byte": [YES[index : index + 1] for index in range(len(YES))],
    "after an interim answer": [b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + YES],
    "with bytes behind": [YES + b"behind"],
    "with many bytes behind": [YES + b"x" * 200_000],
    "in two pieces and bytes behind": [YES[:50], YES[50:] + b"behind"],
    "at the limit of a head": [YES[:-2] + b"X: " + b"x" * 65_000 + b"\r\n\r\n" + b"y" * 100_000],
    "bytes behind that look like HTTP": [YES + OK, OK],
}


@pytest.mark.parametrize("pieces", PIECES.values(), ids=PIECES.keys())
@story
async def test_nothing_is_lost_however_it_comes(pieces: list[bytes]) -> None:
    async with answering(*pieces) as (_, client):
        response = await offer(client)
        assert response.status == 101
        await asyncio.sleep(0.05)  # more may come before it is taken
        transport, collector = taken(response)
        transport.write(b"!")
        said = b"".join(pieces)
        wanted = said[said.index(b"\r\n\r\n", said.index(b"HTTP/1.1 101")) + 4 :] + b"!"
        await until(lambda: collector.data == wanted)
        transport.abort()


WRONG = {
    "another key": YES.replace(b"s3p", b"S3p"),
    "no key": b"HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    "two keys": YES[:-2] + b"Sec-WebSocket-Accept: " + ACCEPT + b"\r\n\r\n",
    "another protocol": YES.replace(b"websocket", b"h2c"),
    "two protocols": YES[:-2] + b"Upgrade: h2c\r\n\r\n",
    "no upgrade": YES.replace(b"Upgrade: websocket\r\n", b""),
    "no connection": YES.replace(b"Connection: Upgrade\r\n", b""),
    "a length": YES[:-2] + b"Content-Length: 0\r\n\r\n",
    "a coding": YES[:-2] + b"Transfer-Encoding: chunked\r\n\r\n",
    "nothing": b"HTTP/1.1 101 x\r\n\r\n",
    "an end": YES[:60],
}


@pytest.mark.parametrize("said", WRONG.values(), ids=WRONG.keys())
@story
async def test_what_is_no_switch_is_refused_and_closed(said: bytes) -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.say(said)

    async with backend(script) as it, upstream(it.url) as client:
        with pytest.raises(UpstreamFault, match="upstream_invalid_response"):
            await offer(client)
        assert not client._pool.connections


@story
async def test_a_switch_that_nobody_asked_for_is_refused() -> None:
    async with answering(YES) as (_, client):
        with pytest.raises(UpstreamFault, match="without an upgrade"):
            await client.send(UpstreamRequest(b"GET", b"/", HOST))


@story
async def test_another_answer_is_an_answer_and_the_connection_serves_nobody_else() -> None:
    async with backend(Peer.serve) as it, upstream(it.url) as client:
        response = await offer(client)
        assert (response.status, await response.read()) == (200, b"ok")
        assert not client._pool.connections
        assert await (await client.send(UpstreamRequest(b"GET", b"/", HOST))).read() == b"ok"
        assert len(it.peers) == 2


@story
async def test_an_idle_connection_that_was_closed_meanwhile_is_tried_again() -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        if peer.number == 0:
            await peer.say(OK)
            await peer.head()
            return  # closed without a word
        await peer.say(YES)
        await peer.silent()

    async with backend(script) as it, upstream(it.url) as client:
        await (await client.send(UpstreamRequest(b"GET", b"/", HOST))).read()
        response = await offer(client)
        assert response.status == 101
        assert len(it.peers) == 2
        response.abort()


@story
async def test_a_switch_that_nobody_takes_is_closed() -> None:
    async with answering(YES) as (it, client):
        response = await offer(client)
        response.abort()
        await asyncio.wait_for(it.peers[0].closed.wait(), 3)
        with pytest.raises(UpstreamFault):
            response.leave()


@story
async def test_the_end_of_all_closes_what_is_not_taken_yet() -> None:
    async with answering(YES) as (_, client):
        response = await offer(client)
        await client.close()
        with pytest.raises(UpstreamFault, match="shutting down"):
            response.leave()
