"""HTTP as bytes: a client that writes what it likes, and a backend that keeps every byte it was sent.

h11 reads both sides, so that what is asserted is what an independent and strict parser makes of the bytes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import h11

Fields = list[tuple[bytes, bytes]]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
PATIENCE = 5.0


class _Headed:
    headers: Fields

    def all(self, name: str) -> list[bytes]:
        """The values of every line of this name, in any case."""
        return [value for key, value in self.headers if key.lower() == name.lower().encode()]

    def one(self, name: str) -> bytes:
        """The value of the only line of this name."""
        (value,) = self.all(name)
        return value


@dataclass
class Request(_Headed):
    """What reached the backend."""

    method: bytes
    target: bytes
    headers: Fields
    body: bytes = b""
    raw: bytes = b""


@dataclass
class Response(_Headed):
    """What came back to the client. ``cut`` says that the connection ended before the response did."""

    status: int
    reason: bytes
    headers: Fields
    version: bytes
    body: bytes = b""
    interim: list[int] = field(default_factory=list)
    cut: bool = False


# ── the backend ──


class Peer:
    """The backend's end of one connection."""

    def __init__(self, backend: Recorder, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.backend, self.reader, self.writer = backend, reader, writer

    async def say(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self, request: Request, response: Response) -> None:
        """Say this response, but for what is of one connection only."""
        once = (b"connection", b"transfer-encoding")
        lines = [b"%b: %b" % (name, value) for name, value in response.headers if name.lower() not in once]
        if request.method != b"HEAD" and not response.all("Content-Length"):
            lines.append(b"Content-Length: %d" % len(response.body))
        head = b"\r\n".join([b"HTTP/1.1 %d %b" % (response.status, response.reason), *lines])
        await self.say(head + b"\r\n\r\n" + (b"" if request.method == b"HEAD" else response.body))

    async def head(self) -> bytes:
        """The next head, as bytes."""
        return await self.reader.readuntil(b"\r\n\r\n")

    async def closed(self) -> None:
        """Wait until the other side closes."""
        while await self.reader.read(65536):
            pass

    async def requests(self) -> AsyncIterator[Request]:
        """Every request on this connection. Bytes that are no request are noted, and end it."""
        parser, raw = h11.Connection(h11.SERVER), b""
        request: Request | None = None
        while True:
            try:
                event = parser.next_event()
            except h11.RemoteProtocolError as error:
                self.backend.malformed.append(f"{error}: {raw!r}")
                return
            match event:
                case h11.NEED_DATA:
                    data = await self.reader.read(65536)
                    raw += data
                    parser.receive_data(data)
                case h11.Request():
                    request = Request(event.method, event.target, list(event.headers.raw_items()))
                case h11.Data() if request is not None:
                    request.body += bytes(event.data)
                case h11.EndOfMessage() if request is not None:
                    rest = bytes(parser.trailing_data[0])
                    request.raw = raw[: len(raw) - len(rest)]
                    yield request
                    parser, raw = h11.Connection(h11.SERVER), rest
                    parser.receive_data(rest) if rest else None
                case h11.ConnectionClosed():
                    return
                case _:
                    raise AssertionError(f"unexpected {event!r}")


Script = Callable[[Peer], Awaitable[None]]


class Recorder:
    """A backend. ``answer`` is what every request gets; ``seen`` every request, ``malformed`` what was none."""

    def __init__(self) -> None:
        self.answer: bytes | Callable[[Request], bytes] = OK
        self.seen: list[Request] = []
        self.malformed: list[str] = []
        self.connections = 0
        self.url = ""

    def last(self) -> Request:
        assert not self.malformed, self.malformed
        return self.seen[-1]

    async def serve(self, peer: Peer) -> None:
        async for request in peer.requests():
            self.seen.append(request)
            await peer.say(self.answer(request) if callable(self.answer) else self.answer)


@asynccontextmanager
async def recorder(script: Script | None = None) -> AsyncIterator[Recorder]:
    """A backend on a port of its own; ``script`` is run once a connection instead of answering every request."""
    it = Recorder()
    tasks: set[asyncio.Task[None] | None] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())
        it.connections += 1
        try:
            await (script or it.serve)(Peer(it, reader, writer))
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # streams would report a cancelled callback as an error
        finally:
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    it.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield it
    finally:
        server.close()
        for task in tasks:
            if task is not None:
                task.cancel()
        await asyncio.gather(*(task for task in tasks if task), return_exceptions=True)


# ── the client ──


def authority(url: str) -> str:
    return urlsplit(url).netloc


def message(
    url: str,
    line: str | bytes = "GET /",
    *fields: str | bytes,
    body: bytes = b"",
    cookie: str = "",
    version: str = "1.1",
) -> bytes:
    """A request as bytes: Host unless one of the fields is it, Content-Length if there is a body."""
    given = [entry if isinstance(entry, bytes) else entry.encode() for entry in fields]
    start = line if isinstance(line, bytes) else line.encode()
    lines = [start + f" HTTP/{version}".encode()]
    if not any(entry.lower().startswith(b"host:") for entry in given):
        lines.append(f"Host: {authority(url)}".encode())
    lines += given
    if cookie:
        lines.append(f"Cookie: {cookie}".encode())
    if body and not any(entry.lower().startswith((b"content-length:", b"transfer-encoding:")) for entry in given):
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


class Line:
    """One connection of a client."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self._rest = b""

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def response(self, method: str = "GET") -> Response:
        """The next response, whole; ``method`` is that of the request it answers."""
        async with asyncio.timeout(PATIENCE):
            return await self._response(method)

    async def _response(self, method: str) -> Response:
        parser = h11.Connection(h11.CLIENT)
        parser.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
        parser.send(h11.EndOfMessage())
        parser.receive_data(self._rest) if self._rest else None
        found: Response | None = None
        interim: list[int] = []
        while True:
            try:
                event = parser.next_event()
            except h11.RemoteProtocolError as error:
                if found is None or "peer" not in str(error):
                    raise
                found.cut = True
                return found
            match event:
                case h11.NEED_DATA:
                    try:
                        parser.receive_data(await self.reader.read(65536))
                    except ConnectionError:
                        parser.receive_data(b"")
                case h11.InformationalResponse():
                    interim.append(event.status_code)
                case h11.Response():
                    fields = list(event.headers.raw_items())
                    found = Response(event.status_code, event.reason, fields, event.http_version, interim=interim)
                case h11.Data() if found is not None:
                    found.body += bytes(event.data)
                case h11.EndOfMessage() if found is not None:
                    self._rest = bytes(parser.trailing_data[0])
                    return found
                case _:
                    raise AssertionError(f"no response, but {event!r}")

    async def ended(self) -> bytes:
        """What still comes until the other side closes. TimeoutError if it does not close."""
        async with asyncio.timeout(PATIENCE):
            try:
                return self._rest + await self.reader.read()
            except ConnectionError:
                return self._rest

    def abort(self) -> None:
        self.writer.transport.abort()


@asynccontextmanager
async def connected(url: str, limit: int = 2**16) -> AsyncIterator[Line]:
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=limit)
    try:
        yield Line(reader, writer)
    finally:
        writer.close()


async def ask(url: str, data: bytes, method: str | None = None) -> Response:
    """Send these bytes on a connection of their own; the response."""
    async with connected(url) as line:
        await line.send(data)
        return await line.response(method or data.partition(b" ")[0].decode("latin-1"))


def folded(fields: Sequence[tuple[bytes, bytes]]) -> list[str]:
    """The names as the most careless backend reads them: in lower case, with every other character a hyphen."""
    return ["".join(c if c.isalnum() else "-" for c in name.decode("latin-1").lower()) for name, _ in fields]
