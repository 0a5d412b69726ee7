"""How a connection ends: so that the client can read its answer, or sees that it is not whole."""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import termios
from typing import Any

LINGER = 5.0
"""Seconds in which a client that is still sending can take its answer before the connection is closed."""

_RESET = struct.pack("ii", 1, 0)


class Lingering:
    """A transport that closes its sending half first, and drops what still comes.

    Closing at once, with bytes of the client unread, would make the system send a reset, which can overtake the answer
    and destroy it (RFC 9112 §9.6).
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._leaving = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def close(self) -> None:
        transport = self._transport
        if self._leaving or transport.is_closing():
            return
        self._leaving = True
        if transport.can_write_eof():  # TLS cannot
            transport.write_eof()
        transport.resume_reading()
        asyncio.get_running_loop().call_later(LINGER, transport.abort)


def reset(transport: asyncio.Transport) -> None:
    """Break the connection: to HTTP/1.0 its mere end would be the regular end of a body (RFC 9112 §6.3)."""
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    transport.abort()


def unread(transport: asyncio.Transport) -> int:
    """How many bytes the system has for us that we have not read."""
    number = transport.get_extra_info("socket").fileno()
    return int.from_bytes(fcntl.ioctl(number, termios.FIONREAD, bytes(4)), "little")
