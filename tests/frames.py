"""WebSockets as bytes: a client and a backend that frame what they like (RFC 6455 §5.2)."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from tests.wire import OK, Line, Peer, connected, message

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
PATIENCE = 5.0


def accept_of(key: bytes) -> bytes:
    digest = hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11", usedforsecurity=False).digest()
    return base64.b64encode(digest)


def framed(opcode: int, payload: bytes = b"", *, masked: bool, fin: bool = True) -> bytes:
    size, bit = len(payload), 0x80 if masked else 0
    if size > 0xFFFF:
        length = bytes((bit | 127,)) + size.to_bytes(8, "big")
    else:
        length = bytes((bit | size,)) if size < 126 else bytes((bit | 126,)) + size.to_bytes(2, "big")
    head = bytes((opcode | (0x80 if fin else 0),)) + length
    if not masked:
        return head + payload
    mask = os.urandom(4)
    return head + mask + unmasked(payload, mask)


def unmasked(payload: bytes, mask: bytes) -> bytes:
    size = len(payload)
    key = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")).to_bytes(size, "big")


@dataclass(frozen=True)
class Frame:
    opcode: int
    payload: bytes
    masked: bool
    fin: bool

    @property
    def close(self) -> tuple[int, str]:
        """Code and reason of a close frame."""
        assert self.opcode == CLOSE
        return int.from_bytes(self.payload[:2], "big"), self.payload[2:].decode()


@dataclass
class Side:
    """One side of an open WebSocket; a client masks (§5.1)."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    masks: bool
    head: bytes = b""
    """The head of the handshake that came from the other side."""
    over: asyncio.Event = field(default_factory=asyncio.Event)

    async def raw(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def say(self, opcode: int, payload: bytes = b"", *, fin: bool = True) -> None:
        await self.raw(framed(opcode, payload, masked=self.masks, fin=fin))

    async def hear(self, within: float = PATIENCE) -> Frame:
        """The next frame. IncompleteReadError if the connection ends instead."""
        async with asyncio.timeout(within):
            first, second = await self.reader.readexactly(2)
            size = second & 0x7F
            if size > 125:
                size = int.from_bytes(await self.reader.readexactly(2 if size == 126 else 8), "big")
            mask = await self.reader.readexactly(4) if second & 0x80 else b""
            payload = await self.reader.readexactly(size)
            return Frame(first & 0xF, unmasked(payload, mask) if mask else payload, bool(mask), bool(first & 0x80))

    async def ended(self, within: float = PATIENCE) -> bytes:
        """What still comes until the connection ends, however it does."""
        async with asyncio.timeout(within):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""

    def abort(self) -> None:
        self.writer.transport.abort()


class Backend:
    """A backend that says yes to every handshake; what was opened waits in ``opened``."""

    def __init__(self, *fields: str, status: str = "101 Switching Protocols", behind: bytes = b"") -> None:
        self.opened: asyncio.Queue[Side] = asyncio.Queue()
        self.fields, self.status, self.behind = fields, status, behind
        self.ready = asyncio.Event()
        """Whether to answer handshakes now."""
        self.ready.set()
        self.accept: bytes | None = None
        """What to say instead of the right thing."""

    async def __call__(self, peer: Peer) -> None:
        while b"\r\nupgrade: " not in (head := await peer.head()).lower():
            await peer.say(OK)
        await self.ready.wait()
        lines = [line for line in head.split(b"\r\n") if line.lower().startswith((b"connection:", b"upgrade:"))]
        assert sorted(lines) == [b"Connection: Upgrade", b"Upgrade: websocket"]
        (key,) = (line for line in head.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key: "))
        accept = accept_of(key.partition(b": ")[2]) if self.accept is None else self.accept
        answer = [f"HTTP/1.1 {self.status}", "Upgrade: websocket", "Connection: Upgrade"]
        answer += [f"Sec-WebSocket-Accept: {accept.decode()}", *self.fields, "", ""]
        await peer.say("\r\n".join(answer).encode() + self.behind)
        side = Side(peer.reader, peer.writer, masks=False, head=head)
        self.opened.put_nowait(side)
        await side.over.wait()

    async def side(self) -> Side:
        async with asyncio.timeout(PATIENCE):
            return await self.opened.get()


def handshake(url: str, *fields: str, path: str = "/public/ws", origin: str | None = "", key: str = KEY) -> bytes:
    """A handshake as a browser writes it, from a page of the URL's own origin unless told."""
    usual = ["Connection: keep-alive, Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"]
    usual.append(f"Sec-WebSocket-Key: {key}")
    if origin is not None:
        usual.append(f"Origin: {origin or url}")
    return message(url, f"GET {path}", *usual, *fields)


@asynccontextmanager
async def opened(
    url: str, *fields: str, path: str = "/public/ws", origin: str | None = "", behind: bytes = b""
) -> AsyncIterator[Side]:
    """A WebSocket, open from the client's view. ``behind`` is sent with the handshake, in one piece."""
    async with connected(url) as line:
        await line.send(handshake(url, *fields, path=path, origin=origin) + behind)
        yield await switched(line)


async def switched(line: Line) -> Side:
    async with asyncio.timeout(PATIENCE):
        head = await line.reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 "), head
    lines = [text.lower() for text in head.split(b"\r\n")]
    assert b"upgrade: websocket" in lines
    assert b"connection: upgrade" in lines
    assert b"sec-websocket-accept: " + accept_of(KEY.encode()).lower() in lines
    return Side(line.reader, line.writer, masks=True, head=head)
