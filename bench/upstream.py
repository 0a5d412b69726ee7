"""CPU per exchange of the upstream client, beside aiohttp's: `python bench/upstream.py [exchanges]`.

The backend is a process of its own (raw protocol, 1 KiB answers on loopback); only this process's CPU is counted.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import sys
import time
from collections.abc import Awaitable, Callable
from multiprocessing.connection import Connection as Pipe

import aiohttp
import uvloop

from oidc_proxy.server.upstream import Upstream, UpstreamRequest, UpstreamSettings

CONCURRENCY = 32
ROUNDS = 5
ANSWER = (
    b"HTTP/1.1 200 OK\r\nDate: Sat, 21 Nov 2026 10:00:00 GMT\r\nServer: backend\r\nContent-Type: text/html\r\n"
    b"Cache-Control: private\r\nVary: Accept-Encoding\r\nX-Request-Id: 0123456789abcdef\r\nContent-Length: 1024\r\n\r\n"
) + b"x" * 1024
HEADERS = [
    (b"Host", b"app.test"),
    (b"User-Agent", b"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
    (b"Accept", b"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
    (b"Accept-Language", b"en-GB,en;q=0.5"),
    (b"Accept-Encoding", b"gzip, deflate, br"),
    (b"X-Forwarded-For", b"192.0.2.1"),
    (b"X-Forwarded-Proto", b"https"),
    (b"X-Forwarded-Host", b"app.test"),
    (b"X-Forwarded-User", b"3f6c2b0e-7c1d-4a36-9f7e-0a6c1f2b3d4e"),
    (b"X-Forwarded-Email", b"alice@example.com"),
]


class Backend(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(ANSWER * data.count(b"\r\n\r\n"))  # type: ignore[attr-defined]


def serve(pipe: Pipe) -> None:
    async def run() -> None:
        server = await asyncio.get_running_loop().create_server(Backend, "127.0.0.1", 0)
        pipe.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    uvloop.run(run())


async def measure(exchange: Callable[[], Awaitable[None]], count: int) -> tuple[float, float, float]:
    """µs per exchange: CPU in all, CPU outside the kernel, and wall clock."""

    async def client() -> None:
        for _ in range(count // CONCURRENCY):
            await exchange()

    before, wall = os.times(), time.perf_counter()
    await asyncio.gather(*(client() for _ in range(CONCURRENCY)))
    done = count // CONCURRENCY * CONCURRENCY
    wall, after = time.perf_counter() - wall, os.times()
    user, system = after.user - before.user, after.system - before.system
    return (user + system) / done * 1e6, user / done * 1e6, wall / done * 1e6


async def compare(port: int, count: int) -> None:
    upstream = Upstream(UpstreamSettings(url=f"http://127.0.0.1:{port}"))
    session = aiohttp.ClientSession(auto_decompress=False, connector=aiohttp.TCPConnector(limit=256))
    url, headers = f"http://127.0.0.1:{port}/page?a=1", [(name.decode(), value.decode()) for name, value in HEADERS]

    async def ours() -> None:
        response = await upstream.send(UpstreamRequest(b"GET", b"/page?a=1", HEADERS))
        size = 0
        while piece := await response.read():
            size += len(piece)
        assert size == 1024

    async def theirs() -> None:
        async with session.get(url, headers=headers, allow_redirects=False) as response:
            size = 0
            while piece := await response.content.readany():
                size += len(piece)
            assert size == 1024

    clients = {"oidc_proxy upstream": ours, "aiohttp ClientSession": theirs}
    best = dict.fromkeys(clients, (float("inf"),) * 3)
    for exchange in clients.values():
        await measure(exchange, 2000)
    for _ in range(ROUNDS):
        for name, exchange in clients.items():
            best[name] = min(best[name], await measure(exchange, count))
    print(f"{'client':24}{'CPU µs':>10}{'user µs':>10}{'wall µs':>10}   (best of {ROUNDS} rounds of {count})")
    for name, figures in best.items():
        print(f"{name:24}" + "".join(f"{figure:10.1f}" for figure in figures))
    await upstream.close()
    await session.close()


def main() -> None:
    ours, theirs = multiprocessing.Pipe()
    backend = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs,), daemon=True)
    backend.start()
    uvloop.run(compare(ours.recv(), int(sys.argv[1]) if len(sys.argv) > 1 else 40_000))
    backend.terminate()


if __name__ == "__main__":
    main()
