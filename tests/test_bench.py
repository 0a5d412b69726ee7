"""The benchmarks can be run, and what they measure with can tell right from wrong."""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import os
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from bench import bulk, drain, lasting

ROOT = Path(__file__).parents[1]
MODULES = sorted(".".join(path.relative_to(ROOT).with_suffix("").parts) for path in (ROOT / "bench").rglob("*.py"))
HEAD = "Host: app.test\r\n"


@pytest.mark.parametrize("name", MODULES)
def test_every_module_can_be_imported(name: str) -> None:
    importlib.import_module(name)


# ── large bodies ──


@pytest.fixture
def bulk_backend(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    file = tmp_path / "file"
    file.write_bytes(os.urandom(3 * 2**20 + 1))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=bulk.serve, args=(listening, file), daemon=True).start()
        yield listening.getsockname()[1], file
        listening.shutdown(socket.SHUT_RDWR)  # ends the accept, which ends the thread


def test_bodies_arrive_whole_whether_they_are_looked_at_or_not(bulk_backend: tuple[int, Path]) -> None:
    port, file = bulk_backend
    size, digest = file.stat().st_size, hashlib.sha256(file.read_bytes()).hexdigest()
    for move in (lambda **how: bulk.download(port, HEAD, **how), lambda **how: bulk.upload(port, HEAD, file, **how)):
        seen, dropped = move(digest=True), move(digest=False)
        assert (seen.size, seen.digest, dropped.size, dropped.digest) == (size, digest, size, "")


def test_slow_readers_take_no_more_than_they_may(bulk_backend: tuple[int, Path]) -> None:
    taken = bulk.read_slowly(bulk_backend[0], HEAD, 3, 2**20, 1000, 0.01, 0.3)
    assert all(1000 <= count <= 30_000 for count in taken)


def test_a_body_that_is_cut_short_is_no_measurement() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def break_off() -> None:
            line, _ = listening.accept()
            with line:
                line.recv(1000)
                line.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf")

        threading.Thread(target=break_off, daemon=True).start()
        with pytest.raises(EOFError):
            bulk.download(listening.getsockname()[1], HEAD, digest=False)


# ── connections that last ──


@asynccontextmanager
async def listening(protocol: Callable[[], asyncio.Protocol]) -> AsyncIterator[int]:
    server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def test_how_each_kind_of_connection_ended() -> None:
    ends = {
        b"/ws/said": b"\x88\x02" + (1001).to_bytes(2, "big"),
        b"/ws/silent": b"",
        b"/events/ended": b"0\r\n\r\n",
        b"/events/broken": b"5\r\nhal",
    }
    parting: list[tuple[Any, bytes]] = []

    class Parting(lasting.Backend):
        def _begin(self, head: bytes) -> None:
            super()._begin(head)
            parting.append((self._transport, ends[head.split(b" ")[1]]))

    async with listening(Parting) as port:
        requests = [
            lasting.websocket(target.decode(), HEAD, "http://app.test")
            if target.startswith(b"/ws")
            else lasting.event_stream(target.decode(), HEAD)
            for target in ends
        ]
        connections = await lasting.open_all(port, requests)
        assert await lasting.ended(connections, 0.1) == {"still open": 4}
        for transport, last in parting:
            transport.write(last)
            transport.close()
        await lasting.ended(connections, 2)
        assert [one.how for one in connections] == ["close 1001", "eof", "ended", "eof"]


async def test_a_connection_that_is_refused_is_an_error() -> None:
    class Refusing(lasting.Backend):
        def _begin(self, head: bytes) -> None:
            self._transport.write(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")

    async with listening(Refusing) as port:
        with pytest.raises(RuntimeError, match="401"):
            await lasting.open_all(port, [lasting.event_stream("/events", HEAD)])


# ── the drain ──


class House:
    def __init__(self, port: int) -> None:
        self.port = port


async def _answer_half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n")


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: close\r\n\r\n0")


async def _read_and_leave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")


async def _leave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.transport.pause_reading()
    await asyncio.sleep(0.1)  # the request is here, and nobody reads it


Peer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.mark.parametrize(
    ("peer", "answered", "failed", "unread"),
    [(_answer, 1, 0, 0), (_answer_half, 0, 1, 0), (_read_and_leave, 0, 1, 0), (_leave, 0, 0, 1)],
)
async def test_what_was_read_and_not_answered_has_failed(peer: Peer, answered: int, failed: int, unread: int) -> None:
    served = 0

    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal served
        served += 1
        server.close()
        await peer(reader, writer)
        writer.close()

    server = await asyncio.start_server(once, "127.0.0.1", 0)
    tally = drain.Tally(set())
    load = drain.Load(House(server.sockets[0].getsockname()[1]), HEAD, tally)  # type: ignore[arg-type]
    await load.keep_asking("GET")
    assert (tally.answered["GET"], tally.failed["GET"], tally.unread["GET"]) == (answered, failed, unread)
    assert tally.refused["GET"] == served == 1
