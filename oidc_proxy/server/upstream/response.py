"""A response of a backend, as whoever asked for it sees it."""

from __future__ import annotations

import asyncio
from typing import Protocol

from oidc_proxy.server.upstream.framing import invalid


class Connection(Protocol):
    """The connection that the response comes over."""

    def resume(self) -> None: ...
    def fail(self, fault: Exception) -> None: ...
    def leave(self) -> tuple[asyncio.Transport, bytes]: ...


class UpstreamResponse:
    """A response, from its head on. Either read it to the end or abort it: until then it occupies its connection."""

    __slots__ = (
        "_chunks",
        "_connection",
        "_fault",
        "_waiter",
        "bodiless",
        "chunked",
        "content_length",
        "ended",
        "endless",
        "headers",
        "queued",
        "reason",
        "status",
    )

    def __init__(
        self,
        connection: Connection,
        status: int,
        reason: bytes,
        headers: tuple[tuple[bytes, bytes], ...],
        content_length: int | None,
        chunked: bool,
        bodiless: bool,
    ) -> None:
        self.status = status
        self.reason = reason
        self.headers = headers
        """Exactly the bytes received, hop-by-hop fields included; trailers are not."""
        self.content_length = content_length
        """As announced. With ``bodiless`` it describes a body that does not follow (RFC 9110 §8.6)."""
        self.chunked = chunked
        self.bodiless = bodiless
        """No body follows, whatever the head says: response to HEAD, 204, 304 (RFC 9112 §6.3)."""
        self.queued = 0
        """Bytes of the body that have arrived and were not read."""
        self.endless = False
        """An event stream: it lasts as long as both sides like, and does not count as one of ``max_connections``."""
        self.ended = False
        """The last byte has arrived: ``rest`` is all that is left of the body."""
        self._connection: Connection | None = connection
        self._chunks: list[bytes] = []
        self._waiter: asyncio.Future[None] | None = None
        self._fault: Exception | None = None

    async def read(self) -> bytes:
        """What has arrived of the body, at least one byte; b"" at its end. One reader at a time.

        Raises UpstreamFault when the body cannot be completed; what had arrived before is returned first.
        """
        while not self._chunks:
            if self.ended:
                return b""
            if self._fault is not None:
                raise self._fault
            if self._connection is not None:
                self._connection.resume()  # not before: whoever took the last piece may be slow to pass it on
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return self.rest()

    def rest(self) -> bytes:
        """What has arrived of the body and was not read; all that is left of it once it has ``ended``."""
        data = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        self.queued = 0
        return data

    def abort(self) -> None:
        """Nobody wants the rest: closes the connection at once, unless the response is complete already."""
        if self._connection is not None:
            self._connection.fail(invalid("the response was abandoned"))
        self._chunks.clear()

    def leave(self) -> tuple[asyncio.Transport, bytes]:
        """After status 101: the connection, which serves no requests any more, and what has come behind the head.

        It is not being read from: set its protocol, and resume. Raises UpstreamFault if the backend is gone already.
        """
        connection, self._connection = self._connection, None
        if connection is None:
            raise self._fault or invalid("the response was abandoned")
        return connection.leave()

    # ── called by the connection ──

    def add(self, piece: bytes) -> None:
        """More of the body has arrived."""
        self._chunks.append(piece)
        self.queued += len(piece)

    def complete(self) -> None:
        """The last byte has arrived."""
        self.ended = True
        self._connection = None

    def break_off(self, fault: Exception) -> None:
        """There will be no more, and it is not whole."""
        self._connection, self._fault = None, fault
        self.wake()

    def wake(self) -> None:
        """Let the reader look again."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
