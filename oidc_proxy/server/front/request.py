# ruff: noqa: SLF001  (aiohttp lets a subclass of its request see no more than this)
"""A request as its connection gives it to the handler, and what the handler gives back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple, Protocol

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import HttpVersion11


class Reviewed(Protocol):
    """What is called again and again to see what takes too long."""

    def review(self, now: float) -> None: ...


class Left(NamedTuple):
    """A connection on which no HTTP is spoken any more."""

    transport: asyncio.Transport
    arrived: bytes
    """What has come behind the last request."""
    write_timeout: float
    forget: Callable[[Reviewed], None]
    """To be called with the heir once the connection is gone."""


class Connection(Protocol):
    """The connection of a request."""

    @property
    def may_go_on(self) -> bool: ...
    def leave(self, heir: Reviewed) -> Left: ...


class ClientRequest(web.BaseRequest):
    """A request, with what aiohttp leaves open."""

    @property
    def _connection(self) -> Connection:
        return self._protocol  # type: ignore[return-value]

    @property
    def keep_alive(self) -> bool:
        """Not after an upgrade that was asked for: aiohttp drops what has arrived behind it, or half of that.

        Nor during a drain, once no other request waits on this connection.
        """
        if not super().keep_alive or self._message.upgrade:
            return False
        return self._connection.may_go_on

    @property
    def offers_websocket(self) -> bool:
        """Whether the client offers to speak WebSocket instead, and what follows is not read as HTTP.

        In HTTP/1.0 there is no such offer (RFC 9110 §7.8).
        """
        message = self._message
        if not message.upgrade or message.version != HttpVersion11 or not self._protocol._upgraded:
            return False
        return [value.lower() for value in message.headers.getall("Upgrade")] == ["websocket"]

    def leave(self, heir: Reviewed) -> Left:
        """Give the connection away: whoever gets it sets its protocol. ``heir`` takes the place among the connections.

        ConnectionError if the client is gone.
        """
        return self._connection.leave(heir)


class Written(web.StreamResponse):
    """An answer whose bytes are on the wire already: it tells aiohttp only whether the connection goes on."""

    def __init__(self, keep_alive: bool) -> None:
        self._goes_on = keep_alive

    @property
    def keep_alive(self) -> bool:
        return self._goes_on

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        return None


GOES_ON, CLOSES = Written(True), Written(False)
