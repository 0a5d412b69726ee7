"""WebSockets where one side or both speak TLS, which knows no half-closed connections."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from tests.frames import BINARY, CLOSE, TEXT, Backend, Side, framed, handshake, switched
from tests.gateway import World
from tests.stories.proxied import eventually, world_with
from tests.stories.tls import certificate, client_context, server_context
from tests.wire import Line, Peer, recorder

SIDES = ["client", "backend", "client and backend"]


@asynccontextmanager
async def pair(tls: str, folder: Path) -> AsyncIterator[tuple[World, Side, Side]]:
    """A gateway, and both sides of a WebSocket through it."""
    script = Backend()
    async with AsyncExitStack() as stack:
        upstream: dict[str, object] = {}
        if "backend" in tls:
            port = await stack.enter_async_context(tls_backend(script))
            ca = folder / "ca.pem"
            ca.write_text(certificate()[0])
            upstream = {"url": f"https://127.0.0.1:{port}", "tls": {"ca_file": str(ca), "server_name": "app.test"}}
        world, _ = await stack.enter_async_context(world_with({"upstream": upstream}, script))
        line = await stack.enter_async_context(client_of(world, "client" in tls))
        await line.send(handshake(world.url))
        client, backend = await switched(line), await script.side()
        yield world, client, backend
        backend.over.set()


@asynccontextmanager
async def tls_backend(script: Backend) -> AsyncIterator[int]:
    async with recorder() as it:

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await script(Peer(it, reader, writer))
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server_context())
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()


@asynccontextmanager
async def client_of(world: World, tls: bool) -> AsyncIterator[Line]:
    """A connection to the public listener; with TLS to a second port of it."""
    listener, loop = world.app._public, asyncio.get_running_loop()
    async with AsyncExitStack() as stack:
        port = listener.port
        if tls:
            server = await loop.create_server(listener._protocol, "127.0.0.1", 0, ssl=server_context())
            stack.callback(server.close)
            port = server.sockets[0].getsockname()[1]
        options = {"ssl": client_context(), "server_hostname": "app.test"} if tls else {}
        reader, writer = await asyncio.open_connection("127.0.0.1", port, **options)  # type: ignore[arg-type]
        stack.callback(writer.close)
        yield Line(reader, writer)


@pytest.mark.parametrize("tls", SIDES)
async def test_frames_of_every_size_pass_both_ways(tls: str, tmp_path: Path) -> None:
    async with pair(tls, tmp_path) as (_, client, backend):
        for size in (0, 1, 126, 65536, 3 * 2**20):
            data = os.urandom(size)
            for one, other in ((client, backend), (backend, client)):
                writing = asyncio.create_task(one.say(BINARY, data))
                seen = await other.hear()
                await writing
                assert hashlib.sha256(seen.payload).digest() == hashlib.sha256(data).digest()


@pytest.mark.parametrize("tls", SIDES)
@pytest.mark.parametrize("first", ["client", "backend"])
async def test_close_frames_pass_both_ways_whoever_is_first(tls: str, first: str, tmp_path: Path) -> None:
    async with pair(tls, tmp_path) as (world, client, backend):
        one, other = (client, backend) if first == "client" else (backend, client)
        await one.say(CLOSE, b"\x0f\xa0enough")
        assert (await other.hear()).close == (4000, "enough")
        await other.say(CLOSE, b"\x0f\xa0enough")
        other.writer.close()
        assert (await one.hear()).close == (4000, "enough")
        assert await one.ended() == b""
        one.writer.close()
        await eventually(lambda: not len(world.app._forwarding._upgrades))


@pytest.mark.parametrize("tls", SIDES)
async def test_both_are_told_of_the_end_and_may_answer(tls: str, tmp_path: Path) -> None:
    async with pair(tls, tmp_path) as (world, client, backend):
        await client.say(TEXT, b"x")
        await backend.hear()
        draining = asyncio.create_task(world.app._forwarding.drain(3))
        for side in (client, backend):
            assert (await side.hear()).close == (1001, "shutting down")
            await side.raw(framed(CLOSE, b"\x03\xe9", masked=side.masks))
            assert await side.ended() == b""
            side.writer.close()
        async with asyncio.timeout(1):
            await draining
        assert not len(world.app._forwarding._upgrades)


@pytest.mark.parametrize("tls", SIDES)
async def test_who_does_not_answer_does_not_hold_up_the_end(tls: str, tmp_path: Path) -> None:
    async with pair(tls, tmp_path) as (world, client, backend):
        async with asyncio.timeout(3):
            await world.app._forwarding.drain(0.3)
        assert not len(world.app._forwarding._upgrades)
        for side in (client, backend):
            assert (await side.hear()).close == (1001, "shutting down")


@pytest.mark.parametrize("tls", SIDES)
@pytest.mark.parametrize("lost", ["client", "backend"])
async def test_when_one_is_gone_the_other_hears_of_it(tls: str, lost: str, tmp_path: Path) -> None:
    async with pair(tls, tmp_path) as (world, client, backend):
        one, other = (client, backend) if lost == "client" else (backend, client)
        one.abort()
        assert await other.ended(1) == b""
        other.writer.close()
        await eventually(lambda: not len(world.app._forwarding._upgrades), 5)
