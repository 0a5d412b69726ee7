"""One connection to a backend: requests out, responses in.

llhttp parses; what it leaves to its user is done here: limits, the end of bodies that only the close of the connection
ends, responses to HEAD, transfer codings, trailers, and bytes after the end of a response.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import AsyncIterable
from typing import Protocol

from httptools import HttpParserCallbackError, HttpParserError, HttpParserUpgrade, HttpResponseParser

from oidc_proxy.errors import RequestFault, UpstreamFault
from oidc_proxy.server.upstream.framing import announces_events, check_switch, invalid, response_framing
from oidc_proxy.server.upstream.request import UpstreamRequest
from oidc_proxy.server.upstream.response import UpstreamResponse
from oidc_proxy.server.upstream.settings import UpstreamTimeouts, Waits

HEAD_LIMIT = 64 * 1024
"""Most bytes of a response's head, its interim responses included, and of its trailers."""
HEADERS_LIMIT = 256
INTERIM_LIMIT = 16
QUEUE_LIMIT = 64 * 1024
"""Body bytes that may wait for the reader before the backend is made to wait."""

_VERSION = b"HTTP/1."
_REASON = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")


class Unanswered(UpstreamFault):
    """A connection that had served before was closed before a single byte of the response: the backend had most likely
    closed it while it was idle (RFC 9112 §9.3.1)."""

    def __init__(self) -> None:
        super().__init__("upstream_invalid_response", "the backend closed an idle connection as the request was sent")


class Owner(Protocol):
    """Who is told when a connection can serve again, and when it never will."""

    def free(self, connection: Connection) -> None: ...
    def set_apart(self, connection: Connection) -> None: ...
    def gone(self, connection: Connection) -> None: ...


class _Beyond:
    """In the place of a parser: keeps what comes after the last HTTP of a connection."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def feed_data(self, data: bytes) -> None:
        self.data += data


class Connection(asyncio.Protocol):
    """One exchange at a time: ``begin`` writes the request and gives the future response."""

    __slots__ = (
        "_accept",
        "_answer",
        "_broken",
        "_close_delimited",
        "_complete",
        "_head_only",
        "_head_size",
        "_headers",
        "_held",
        "_interims",
        "_keep",
        "_keep_alive",
        "_loop",
        "_owner",
        "_parser",
        "_paused",
        "_reason",
        "_response",
        "_sender",
        "_sent",
        "_silent",
        "_transport",
        "_used",
        "_waits",
        "_writable",
        "closed",
        "deadline",
        "fresh",
    )

    def __init__(self, owner: Owner, timeouts: UpstreamTimeouts, loop: asyncio.AbstractEventLoop) -> None:
        self.closed = False
        self.fresh = True
        """Not connected yet."""
        self.deadline = math.inf
        """Loop time at which what the connection waits for has taken too long; an idle one has then served its time."""
        self._owner = owner
        self._loop = loop
        self._keep_alive = float(timeouts.keep_alive)
        self._transport: asyncio.Transport
        self._parser = HttpResponseParser(self)
        self._writable: asyncio.Future[None] | None = None
        self._used = False
        self._answer: asyncio.Future[UpstreamResponse] | None = None
        self._response: UpstreamResponse | None = None
        self._sender: asyncio.Task[None] | None = None
        self._paused = False

    # ── the life of a connection ──

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self.fresh = False
        if self.closed:  # nobody waited for it any more
            self._transport.abort()

    def usable(self, now: float) -> bool:
        """Whether an idle connection can take another request."""
        return now < self.deadline and not self._transport.is_closing()

    def close(self) -> None:
        """Close at once. What was under way is forgotten; ``fail`` tells those who wait for it."""
        if self.closed:
            return
        self.closed = True
        if self._sender is not None:
            self._sender.cancel()
            self._sender = None
        if not self.fresh:
            if self._answer is None and self._response is None:
                self._transport.close()
            else:
                self._transport.abort()
        del self._parser  # it holds us by its callbacks
        self._answer = self._response = None
        self._owner.gone(self)

    def fail(self, fault: Exception) -> None:
        """End the exchange: whoever waits for its head or body gets the fault."""
        answer, response = self._answer, self._response
        self.close()
        if answer is not None and not answer.done():
            answer.set_exception(fault)
        if response is not None:
            response.break_off(fault)

    def expire(self) -> None:
        """The deadline has passed."""
        if self._answer is None and self._response is None:
            self.close()
        elif self._paused:  # the backend may be waiting for our reader
            self.deadline = self._loop.time() + self._waits.response
        elif not self._sent:
            self.fail(UpstreamFault("upstream_timeout", "the backend did not take the request body in time"))
        elif self._response is None:
            self.fail(UpstreamFault("upstream_timeout", "no response in time"))
        else:
            self.fail(UpstreamFault("upstream_timeout", "the response body paused for too long"))

    def eof_received(self) -> None:
        self._dropped(cleanly=True)

    def connection_lost(self, exc: Exception | None) -> None:
        self._dropped(cleanly=exc is None)

    def _dropped(self, *, cleanly: bool) -> None:
        """The backend closed the connection. llhttp has no notion of that, so it is told apart here."""
        if self.closed:
            return
        if self._response is not None:
            if cleanly and self._close_delimited:
                response = self._response
                self._finish(response)
                response.wake()
            else:
                self.fail(invalid("the backend closed the connection before the end of its response"))
        elif self._answer is not None and self._used and self._head_size == 0:
            self.fail(Unanswered())
        elif self._answer is not None:
            self.fail(invalid("the backend closed the connection without a response"))
        else:
            self.close()

    # ── sending ──

    def begin(self, head: bytes, request: UpstreamRequest, waits: Waits) -> asyncio.Future[UpstreamResponse]:
        """Write the request; the result is the response as soon as its head has arrived. Only on an idle connection."""
        self._waits = waits
        self._answer = answer = self._loop.create_future()
        self._accept = request.accept
        self._head_only = request.method == b"HEAD"
        self._head_size = self._interims = self._silent = 0
        self._headers: list[tuple[bytes, bytes]] = []
        self._reason = self._held = b""
        self._complete = self._broken = self._close_delimited = False
        self._transport.write(head)
        body = request.body
        if body is None or body[1] == 0:
            self._sent = True
            self.deadline = self._loop.time() + waits.response
        else:
            self._sent = False
            self.deadline = math.inf
            self._sender = self._loop.create_task(self._send(*body))
        return answer

    async def _send(self, pieces: AsyncIterable[bytes], length: int | None) -> None:
        """Write the body. What its source raises reaches whoever waits for the response."""
        try:
            if length is None:
                await self._send_chunks(pieces)
            else:
                await self._send_exactly(pieces, length)
        except (Exception, asyncio.CancelledError) as error:
            self._sender = None
            self.fail(error if isinstance(error, Exception) else invalid("the request body was abandoned"))
        else:
            self._sender = None
            self._sent = True
            self._await_backend()

    async def _send_chunks(self, pieces: AsyncIterable[bytes]) -> None:
        transport = self._transport
        async for piece in pieces:
            if piece:  # an empty chunk would be the end
                transport.writelines((b"%x\r\n" % len(piece), piece, b"\r\n"))
                if self._writable is not None:
                    await self._drain(self._writable)
        transport.write(b"0\r\n\r\n")

    async def _send_exactly(self, pieces: AsyncIterable[bytes], length: int) -> None:
        transport = self._transport
        async for piece in pieces:
            length -= len(piece)
            if length < 0:
                raise RequestFault("bad_request", "the request body is longer than announced")
            transport.write(piece)
            if length == 0:
                return
            if self._writable is not None:
                await self._drain(self._writable)
        raise RequestFault("bad_request", "the request body is shorter than announced")

    async def _drain(self, writable: asyncio.Future[None]) -> None:
        self.deadline = self._loop.time() + self._waits.response
        await writable
        self.deadline = math.inf  # from here it is the client who is waited for

    def pause_writing(self) -> None:
        self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        self._writable = None

    # ── receiving ──

    def data_received(self, data: bytes) -> None:
        response = self._response
        if response is None:
            if self._answer is None:  # bytes that nobody asked for
                self.close()
                return
            if self._head_size == 0 and len(data) <= HEAD_LIMIT and data.startswith(_VERSION):
                self._head_size = len(data)  # what nearly always happens: none of the limits can be met
                self._feed(data)
            else:
                self._feed_head(data)
            response = self._response
            if response is None:
                return
        else:
            before = response.queued
            self._feed(data)
            self._silent = self._silent + len(data) if response.queued == before else 0
            if self._silent > HEAD_LIMIT:
                # Chunk extensions and trailers are dropped, but they are not endless (RFC 9112 §7.1.1, §7.1.2).
                self.fail(invalid(f"more than {HEAD_LIMIT} bytes of chunk framing or trailers"))
        if self.closed:
            return
        if self._complete:
            self._finish(response) if response.status != 101 else self._stand_still()
        elif response.queued > QUEUE_LIMIT and not self._paused:
            self._paused = True
            self._transport.pause_reading()
        else:
            self._await_backend()
        response.wake()

    def _feed_head(self, data: bytes) -> None:
        """Feed bytes while the head is not complete, never more than the limit: llhttp itself has none."""
        if self._head_size < len(_VERSION):
            # llhttp would also take RTSP, ICE and leading line breaks.
            self._head_size += len(data)
            if self._held:
                data, self._held = self._held + data, b""
            if not data.startswith(_VERSION):
                if _VERSION.startswith(data):
                    self._held = data
                else:
                    self.fail(invalid("not an HTTP/1.x response"))
                return
        else:
            self._head_size += len(data)
        excess = self._head_size - HEAD_LIMIT
        if excess <= 0:
            self._feed(data)
            return
        self._feed(data[:-excess])
        if self._response is not None:
            self._feed(data[-excess:])
        elif not self.closed:
            self.fail(invalid(f"the head of the response exceeds {HEAD_LIMIT} bytes"))

    def _feed(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            if self._response is not None and self._response.status == 101:
                self._parser = _Beyond(data[error.args[0] :])  # type: ignore[assignment]
            elif self._complete:
                self._broken = True  # the response is whole; what follows it is not our business
            elif isinstance(error, HttpParserCallbackError) and isinstance(error.__context__, Exception):
                self.fail(error.__context__)  # raised by one of the methods below
            else:
                self.fail(invalid(f"malformed response: {error}"))

    def _await_backend(self) -> None:
        """Start the clock for what is expected of the backend now."""
        if not self._sent or self._paused:
            return
        self.deadline = self._loop.time() + (self._waits.response if self._response is None else self._waits.idle)

    def resume(self) -> None:
        """The reader has taken what was queued, and wants more."""
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
            self._await_backend()

    def _finish(self, response: UpstreamResponse) -> None:
        """The response is whole: let the connection serve again, if it can."""
        response.complete()
        if self._sent:  # else what is left of the request must not be flushed first
            self._response = None
        if self._broken or not (self._keep and self._sent):
            self.close()
            return
        if self._head_only:
            self._parser = HttpResponseParser(self)  # the old one may still wait for a body (RFC 9112 §6.3)
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        self._used = True
        self.deadline = self._loop.time() + self._keep_alive
        self._owner.free(self)

    def _stand_still(self) -> None:
        """Wait for whoever takes the connection after status 101."""
        self.deadline = math.inf
        self._transport.pause_reading()

    def leave(self) -> tuple[asyncio.Transport, bytes]:
        """See ``UpstreamResponse.leave``: the place in the pool is free."""
        self.closed = True
        beyond: _Beyond = self._parser  # type: ignore[assignment]
        del self._parser
        self._response = None
        self._owner.gone(self)
        return self._transport, beyond.data

    # ── called by llhttp ──

    def on_message_begin(self) -> None:
        if self._complete:
            self._broken = True

    def on_status(self, status: bytes) -> None:
        if self._response is None:
            self._reason += status

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._response is None:  # else a trailer
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        if self._complete:
            return
        status = self._parser.get_status_code()
        headers = self._headers
        if len(headers) > HEADERS_LIMIT:
            raise invalid(f"more than {HEADERS_LIMIT} headers")
        if status < 200:
            self._interim(status)
            return
        if status > 599:
            raise invalid(f"status {status}")
        answer = self._answer
        if answer is None or answer.done():
            raise invalid("the response was abandoned")
        length, chunked, kept = response_framing(headers)
        if chunked and self._parser.get_http_version() != "1.1":
            raise invalid("a transfer coding in HTTP/1.0")  # RFC 9112 §6.1
        if kept is not None:
            self._keep_alive = min(self._keep_alive, kept)
        bodiless = self._head_only or status in {204, 304}
        if status == 204 and (length or chunked):
            raise invalid("status 204 with a body")
        # A backend to which an upgrade was offered may be of two minds about what comes next on the connection.
        self._keep = self._accept is None and self._parser.should_keep_alive()
        self._complete = self._head_only
        self._close_delimited = length is None and not chunked and not bodiless
        reason = self._reason
        if not reason.isalnum() and not _REASON.fullmatch(reason):
            reason = b""
        response = UpstreamResponse(self, status, reason, tuple(headers), length, chunked, bodiless)
        self._response, self._answer = response, None
        if length is None and not bodiless and announces_events(headers):
            response.endless = True
            self._owner.set_apart(self)
        answer.set_result(response)

    def _interim(self, status: int) -> None:
        """1xx: dropped (RFC 9110 §15.2), but neither endless nor a switch of protocols that nobody asked for."""
        self._interims += 1
        if status == 101:
            self._switch()
            return
        if status < 100 or self._interims > INTERIM_LIMIT:
            raise invalid(f"status {status}" if status < 100 else f"more than {INTERIM_LIMIT} interim responses")
        self._headers, self._reason = [], b""

    def _switch(self) -> None:
        """101: the last HTTP on this connection."""
        if self._accept is None:
            raise invalid("status 101 without an upgrade")
        check_switch(self._headers, self._accept)
        answer = self._answer
        if answer is None or answer.done():
            raise invalid("the response was abandoned")
        response = UpstreamResponse(self, 101, b"Switching Protocols", tuple(self._headers), None, False, True)
        self._response, self._answer = response, None
        answer.set_result(response)

    def on_body(self, body: bytes) -> None:
        response = self._response
        if response is None or self._complete:
            self._broken = True
            return
        response.add(body)

    def on_message_complete(self) -> None:
        if self._response is not None:  # else an interim response
            self._complete = True
