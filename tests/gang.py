"""The gateway as several processes, or as one: `oidc-proxy serve`, with its workers in sight."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from tests.gateway import client_for, merged, settings_for
from tests.real.parts import free_port
from tests.real.redis import RedisServer
from tests.serving import Serving, serving
from tests.wire import Line, connected, message
from tests.world import Backend, Browser, Provider, running_backend, running_provider


class Gang(Serving):
    """The gateway with its workers."""

    def pids(self) -> list[int]:
        """The workers that live, as the kernel knows them."""
        assert self.process._process is not None
        pid = self.process._process.pid
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    async def exit_status(self, within: float = 15) -> int:
        child = self.process._process
        assert child is not None
        async with asyncio.timeout(within):
            while child.poll() is None:
                await asyncio.sleep(0.01)
        return int(child.returncode)

    def signal(self, number: signal.Signals) -> None:
        self.process._signal(number)


@asynccontextmanager
async def gang(folder: Path, store: RedisServer | None, **config: Any) -> AsyncIterator[tuple[Gang, Provider, Backend]]:
    """Two workers on one Redis; or, without it, one process."""
    port = free_port()
    shared: dict[str, Any] = {}
    if store is not None:
        shared = {"listen": {"workers": 2}, "store": {"type": "redis", "url": store.url}}
    async with (
        running_provider(clients=[client_for(f"http://127.0.0.1:{port}")], path="/realms/demo") as provider,
        running_backend() as backend,
        serving(merged(merged(settings_for(port, provider, backend), shared), config), folder) as gateway,
    ):
        gateway.__class__ = Gang
        assert isinstance(gateway, Gang)
        await gateway.until("/readyz", 200)
        await until(lambda: store is None or len(gateway.lines(event="worker.ready")) == 2)
        yield gateway, provider, backend


async def signed_in(gateway: Serving) -> str:
    async with Browser() as ann:
        page = await ann.sign_in(f"{gateway.url}/echo", "ann", "ann")
        assert page.status == 200, page.text
        return ann.cookies.header(gateway.url)


@asynccontextmanager
async def lines(gateway: Serving, count: int) -> AsyncIterator[list[Line]]:
    """So many connections: over two workers, both have some of sixteen, but for one time in thirty thousand."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(connected(gateway.url)) for _ in range(count)]


async def asked(gateway: Serving, line: Line, cookie: str, target: str = "/echo") -> int:
    await line.send(message(gateway.url, f"GET {target}", cookie=cookie))
    return (await line.response()).status


async def metric(gateway: Serving, name: str) -> float:
    """The sum of all series whose beginning is this."""
    _, text = await gateway.ask("/metrics")
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name))


async def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Wait for what must come; so long only if it does not."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.02)


EVENTS = "/events?count=10000&interval=0.02"


class Load:
    """Clients that go on until they are refused. ``broken`` is what came to a connection that was accepted."""

    def __init__(self, gateway: Serving, cookie: str) -> None:
        self._gateway, self._cookie = gateway, cookie
        self.answered = 0
        self.over = False
        self.broken: list[str] = []
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, kind: Callable[[], Awaitable[None]], count: int = 1) -> None:
        self._tasks += [asyncio.ensure_future(self._guarded(kind)) for _ in range(count)]  # type: ignore[arg-type]

    async def ended(self) -> None:
        async with asyncio.timeout(15):
            await asyncio.gather(*self._tasks)

    async def _guarded(self, kind: Callable[[], Awaitable[None]]) -> None:
        try:
            await kind()
        except ConnectionRefusedError:
            return
        except Exception as error:
            self.broken.append(f"{kind.__name__}: {error!r}")

    async def keep_alive(self) -> None:
        """One request after the other, on one connection as long as it lasts."""
        while True:
            async with connected(self._gateway.url) as line:
                closes = False
                while not closes:
                    await line.send(message(self._gateway.url, "GET /echo", cookie=self._cookie))
                    response = await line.response()
                    assert (response.status, response.cut) == (200, False)
                    self.answered += 1
                    closes = b"close" in response.all("connection")

    async def one_each(self) -> None:
        """One request a connection."""
        while not self.over:
            async with connected(self._gateway.url) as line:
                request = message(self._gateway.url, "GET /echo", "Connection: close", cookie=self._cookie)
                await line.send(request)
                response = await line.response()
                assert (response.status, response.cut) == (200, False)
                self.answered += 1

    async def slow_upload(self) -> None:
        """A body that takes longer than the drain's beginning."""
        async with connected(self._gateway.url) as line:
            start = message(self._gateway.url, "POST /echo", "Content-Length: 3000", cookie=self._cookie)
            await line.send(start)
            for _ in range(30):
                await line.send(b"x" * 100)
                await asyncio.sleep(0.1)
            response = await line.response("POST")
            assert (response.status, response.cut) == (200, False)
            assert b'"body_length": 3000' in response.body or b'"body_length":3000' in response.body
            self.answered += 1

    async def half_a_head(self) -> None:
        """A request whose end comes after the drain has begun."""
        async with connected(self._gateway.url) as line:
            request = message(self._gateway.url, "GET /echo", cookie=self._cookie)
            await line.send(request[:20])
            await asyncio.sleep(2.5)
            await line.send(request[20:])
            response = await line.response()
            assert (response.status, response.all("connection")) == (200, [b"close"])
            self.answered += 1

    async def websocket(self) -> None:
        """Messages come back, until the server says that it goes away."""
        async with aiohttp.ClientSession() as http:
            headers = {"Origin": self._gateway.url, "Cookie": self._cookie}
            url = f"{self._gateway.url}/ws"
            async with http.ws_connect(url, headers=headers, autoclose=False) as opened:
                while True:
                    with contextlib.suppress(ConnectionError):  # the good-bye may be here, unread
                        await opened.send_str("hello")
                    got = await opened.receive(5)
                    if got.type is not aiohttp.WSMsgType.TEXT:
                        break
                    assert got.data == "hello"
                    self.answered += 1
                    await asyncio.sleep(0.01)
                assert (got.type, got.data) == (aiohttp.WSMsgType.CLOSE, 1001)

    async def event_stream(self) -> None:
        """Events, until the regular end of the stream."""
        async with connected(self._gateway.url) as line:
            await line.send(message(self._gateway.url, f"GET {EVENTS}", cookie=self._cookie))
            response = await line.response()
            assert (response.status, response.cut) == (200, False)
            self.answered += 1
