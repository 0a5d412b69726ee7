"""Connections that last: WebSockets and event streams, with as little as possible around each.

``python -m bench.lasting PORT`` is their backend: it accepts every WebSocket and keeps silent, and begins an event
stream with one event; anything else it answers with the number of bytes that the request's body had.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import re
import resource
import sys
import time
from collections import Counter
from collections.abc import Sequence

import uvloop

EVENT = b"data: hello\n\n"
_KEY = re.compile(rb"(?im)^sec-websocket-key:[ \t]*(\S+)[ \t]*\r?$")
_LENGTH = re.compile(rb"(?im)^content-length:[ \t]*(\d+)[ \t]*\r?$")
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_CLOSE = 0x88


def raise_file_limit() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def websocket(target: str, head: str, origin: str) -> bytes:
    """A handshake; ``head`` has Host and Cookie."""
    key = base64.b64encode(os.urandom(16)).decode()
    return (
        f"GET {target} HTTP/1.1\r\n{head}Origin: {origin}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
    ).encode()


def event_stream(target: str, head: str) -> bytes:
    return f"GET {target} HTTP/1.1\r\n{head}Accept: text/event-stream\r\n\r\n".encode()


class Lasting(asyncio.Protocol):
    """The client's end of one: opened by its first answer, and then only watched until it ends."""

    __slots__ = ("_arrived", "_request", "_transport", "closed_at", "how", "opened", "upgraded")

    def __init__(self, request: bytes) -> None:
        loop = asyncio.get_running_loop()
        self._request, self._arrived = request, b""
        self.upgraded = False
        self.opened: asyncio.Future[None] | None = loop.create_future()
        self.closed_at = 0.0
        """By the monotonic clock; 0 while it is open."""
        self.how = ""
        """``close 1001`` for a close frame, ``ended`` for the regular end of a stream, ``eof`` or ``reset`` without."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        self._transport.write(self._request)
        self._request = b""

    def data_received(self, data: bytes) -> None:
        if self.opened is None:
            self._watch(data)
            return
        self._arrived += data
        head, end, rest = self._arrived.partition(b"\r\n\r\n")
        if not end:
            return
        self.upgraded = head.startswith(b"HTTP/1.1 101 ")
        if not self.upgraded and not head.startswith(b"HTTP/1.1 200 "):
            self.opened.set_exception(RuntimeError(f"refused: {self._arrived[:400]!r}"))
            self._transport.abort()
        elif self.upgraded or EVENT in rest:
            self.opened.set_result(None)
            self.opened, self._arrived = None, b""

    def _watch(self, data: bytes) -> None:
        if self.upgraded:
            if data[0] == _CLOSE:
                self.how = f"close {int.from_bytes(data[2:4], 'big')}" if len(data) >= 4 else "close"
                self._transport.write(b"\x88\x82\0\0\0\0" + data[2:4])  # the answer of a browser, masked with zeros
        elif data.endswith(b"0\r\n\r\n"):  # the stream is over; the connection may serve another request
            self._over("ended")

    def eof_received(self) -> None:
        self._over("eof")

    def connection_lost(self, exc: Exception | None) -> None:
        self._over("reset" if exc else "eof")
        if self.opened is not None and not self.opened.done():
            self.opened.set_exception(ConnectionResetError("closed before it was open"))

    def _over(self, how: str) -> None:
        if not self.closed_at:
            self.closed_at = time.monotonic()
            self.how = self.how or how

    def close(self) -> None:
        self._transport.abort()


async def open_all(port: int, requests: Sequence[bytes], at_once: int = 64) -> list[Lasting]:
    """All of them open. RuntimeError or OSError when one is not."""
    loop, places = asyncio.get_running_loop(), asyncio.Semaphore(at_once)

    async def one(request: bytes) -> Lasting:
        async with places:
            _, lasting = await loop.create_connection(lambda: Lasting(request), "127.0.0.1", port)
            if lasting.opened is not None:
                await lasting.opened
            return lasting

    async with asyncio.timeout(120):
        return list(await asyncio.gather(*map(one, requests)))


async def ended(connections: Sequence[Lasting], seconds: float) -> Counter[str]:
    """Wait until all are closed, so long at most; how they were."""
    for _ in range(int(seconds / 0.02)):
        if all(one.closed_at for one in connections):
            break
        await asyncio.sleep(0.02)
    return Counter(one.how if one.closed_at else "still open" for one in connections)


# ── the backend ──


class Backend(asyncio.Protocol):
    """One connection to the backend. ``seen`` collects the targets of all requests."""

    __slots__ = ("_arrived", "_left", "_seen", "_size", "_transport", "_upgraded")

    def __init__(self, seen: set[bytes] | None = None) -> None:
        self._seen = seen
        self._arrived = b""
        self._left = self._size = 0
        self._upgraded = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        if self._upgraded:
            if data[0] == _CLOSE:
                self._transport.write(b"\x88\0")
                self._transport.close()
            return
        while data:
            if self._left:
                taken = min(self._left, len(data))
                data = data[taken:]
                self._left -= taken
                if not self._left:
                    self._answer()
                continue
            head, end, data = (self._arrived + data).partition(b"\r\n\r\n")
            if not end:
                self._arrived = head
                return
            self._arrived = b""
            self._begin(head)

    def _begin(self, head: bytes) -> None:
        target = head.split(b" ", 2)[1]
        if self._seen is not None:
            self._seen.add(target)
        if target.startswith(b"/ws"):
            key = _KEY.search(head)
            accept = base64.b64encode(hashlib.sha1((key[1] if key else b"") + _GUID).digest())
            self._upgraded = True
            self._transport.write(
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                b"Sec-WebSocket-Accept: %b\r\n\r\n" % accept
            )
        elif target.startswith(b"/events"):
            self._transport.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
                b"%x\r\n%b\r\n" % (len(EVENT), EVENT)
            )
        else:
            length = _LENGTH.search(head)
            self._size = self._left = int(length[1]) if length else 0
            if not self._left:
                self._answer()

    def _answer(self) -> None:
        text = b"%d" % self._size
        self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(text), text))


async def serve(port: int) -> None:
    raise_file_limit()
    server = await asyncio.get_running_loop().create_server(Backend, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
