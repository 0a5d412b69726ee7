"""Several gateways as processes of their own, sharing one store: what a load balancer has behind it.

Each has its own port and all have one public URL, that of the first. `Fleet.ask` sends a request to the one that is
meant, as a load balancer would: with the public host, over connections that stay open.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from oidc_proxy.demo.listener import Answer, Call
from oidc_proxy.sessions import Ticket
from tests.gateway import SECRET, Settings, client_for, merged
from tests.real.parts import Process, free_port
from tests.serving import Serving
from tests.world import Browser, Provider, running_provider

ROOT = Path(__file__).parents[2]
NAVIGATION = "Accept: text/html\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\n"


class Worker(Serving):
    """One gateway. ``process`` can be killed, paused and started again; ``log`` is what it wrote."""

    def __init__(self, config: Settings, folder: Path, url: str, port: int) -> None:
        self.port, admin = port, f"127.0.0.1:{free_port()}"
        own = {"listen": {"address": f"127.0.0.1:{port}"}, "admin": {"address": admin}}
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "config.yaml"
        file.write_text(yaml.safe_dump(merged(config, own), allow_unicode=True))
        command = ["serve", "--config", str(file)]
        super().__init__(command, folder, url, f"http://{admin}")
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        interpreter = [sys.executable, "-m", "oidc_proxy"]
        self.process = Process([*interpreter, *command], self._file, {"PYTHONPATH": path})
        self._idle: list[Line] = []

    @property
    def pid(self) -> int:
        child = self.process._process
        assert child is not None
        return child.pid

    async def send(self, cookies: str, path: str = "/", headers: str = "") -> Reply:
        """One request over a connection that stays open for the next. OSError when there is no answer."""
        line = self._idle.pop() if self._idle else await Line.to(self.port)
        try:
            reply = await line.ask(f"GET {path}", urlsplit(self.url).netloc, f"Cookie: {cookies}\r\n{headers}")
        except BaseException:
            line.close()
            raise
        self._idle.append(line)
        return reply

    async def administer(self, method: str, path: str) -> dict[str, Any]:
        """What the administration listener answers."""
        parts = urlsplit(self.admin)
        line = await Line.to(parts.port or 0)
        try:
            reply = await line.ask(f"{method} {path}", parts.netloc, "")
        finally:
            line.close()
        assert reply.status == 200, reply
        return dict(json.loads(reply.body))

    def hang_up(self) -> None:
        """Close the connections that were kept open."""
        for line in self._idle:
            line.close()
        self._idle.clear()


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes


class Line:
    """One connection to a gateway."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def to(cls, port: int) -> Line:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def ask(self, start: str, host: str, headers: str) -> Reply:
        self._writer.write(f"{start} HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n".encode())
        try:
            head = await self._reader.readuntil(b"\r\n\r\n")
            first, *lines = head.decode().split("\r\n")[:-2]
            fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            body = await self._reader.readexactly(int(fields.get("content-length", "0")))
        except asyncio.IncompleteReadError:
            raise ConnectionResetError("the connection ended before the answer") from None
        return Reply(int(first.split(" ", 2)[1]), fields, body)

    def close(self) -> None:
        """At once, as a client that goes away does."""
        self._writer.transport.abort()


class PlainBackend(asyncio.Protocol):
    """Answers everything with two bytes, fast."""

    answer = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(self.answer * data.count(b"\r\n\r\n"))  # type: ignore[attr-defined]


@dataclass
class Fleet:
    """``workers`` share one store and one public ``url``."""

    url: str
    workers: list[Worker]
    provider: Provider
    _turn: Any = field(default_factory=itertools.count)

    async def sign_in(self, user: str = "ann") -> str:
        """A new browser signs in; its Cookie header."""
        async with Browser() as browser:
            page = await browser.sign_in(f"{self.url}/", user, user)
            assert page.status == 200, (page.status, page.text)
            cookies = browser.cookies.header(f"{self.url}/")
        assert cookies
        return cookies

    async def ask(self, cookies: str, path: str = "/", headers: str = "") -> Reply:
        """Ask any worker, and another one when that one breaks off: as a load balancer does."""
        for _ in range(2 * len(self.workers)):
            worker = self.workers[next(self._turn) % len(self.workers)]
            with contextlib.suppress(OSError):
                return await worker.send(cookies, path, headers)
        raise ConnectionError("no worker answers")

    async def warm(self, cookies: str) -> None:
        """Let every worker read the session."""
        for worker in self.workers:
            assert (await worker.send(cookies)).status == 200

    @property
    def refreshes(self) -> int:
        """How many refresh requests the provider has seen."""
        calls = self.provider.calls("token")
        return sum(call.form.get("grant_type") == "refresh_token" for call in calls)

    def lines(self, **wanted: Any) -> list[dict[str, Any]]:
        """The log lines of all workers whose fields are these."""
        return [line for worker in self.workers for line in worker.lines(**wanted)]


def session_id(cookies: str) -> str:
    """The id of the session that a Cookie header is the ticket of."""
    values = dict(pair.split("=", 1) for pair in cookies.split("; "))
    ticket = Ticket.read(values["oidc_proxy"])
    assert ticket is not None
    return ticket.record_id


def slow_to_begin(provider: Provider, seconds: float) -> None:
    """The provider takes so long before it looks at a refresh token, and lets be who has gone meanwhile."""
    handle = provider._listener.handle

    async def late(call: Call, request: Any) -> Any:
        if call.form.get("grant_type") == "refresh_token":
            await asyncio.sleep(seconds)
            if request.transport is None or request.transport.is_closing():
                return Answer(status=503)
        return await handle(call, request)

    provider._listener.handle = late


@asynccontextmanager
async def running_fleet(
    store: Settings, folder: Path, *, count: int = 3, config: Settings | None = None, url: str | None = None
) -> AsyncIterator[Fleet]:
    """So many gateways on one store, ready, with a provider and a backend that this process has."""
    ports = [free_port() for _ in range(count)]
    url = url or f"http://127.0.0.1:{ports[0]}"
    secret = folder / "client_secret"
    secret.write_text(SECRET)
    server = await asyncio.get_running_loop().create_server(PlainBackend, "127.0.0.1", 0)
    async with running_provider(clients=[client_for(url)], path="/realms/demo") as provider:
        settings: dict[str, Any] = {
            "public_url": url,
            "provider": {"issuer": provider.issuer, "client_id": "app", "client_secret_file": str(secret)},
            "upstream": f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}",
            "store": dict(store),
            "log": {"access": False},
        }
        workers = [
            Worker(merged(settings, config or {}), folder / f"worker-{number}", url, port)
            for number, port in enumerate(ports)
        ]
        try:
            await asyncio.gather(*(_ready(worker) for worker in workers))
            yield Fleet(url, workers, provider)
        finally:
            for worker in workers:
                worker.hang_up()
                worker.process.resume()
            await asyncio.gather(*(asyncio.to_thread(worker.process.close) for worker in workers))
            server.close()


async def _ready(worker: Worker) -> None:
    await worker.start()
    await worker.until("/readyz", 200)


async def all_of(count: int, ask: Callable[[], Awaitable[Reply]]) -> list[int]:
    """The statuses of so many requests at the same time."""
    return [reply.status for reply in await asyncio.gather(*(ask() for _ in range(count)))]
