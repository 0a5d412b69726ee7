# ruff: noqa: SLF001  (aiohttp lets a subclass of its protocol see no more than this)
"""One connection of a client: aiohttp's HTTP/1.1, with the limits, the patience and the manners of a gateway."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Protocol

from aiohttp import http_parser, web, web_protocol
from aiohttp.http import RawRequestMessage, StreamWriter
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader

from oidc_proxy.errors import ProxyError, RequestFault, SettingsFault
from oidc_proxy.server.front.ending import LINGER, Lingering, reset, unread
from oidc_proxy.server.front.objections import object_to, without_trailer
from oidc_proxy.server.front.refusal import Refusal, fault_of
from oidc_proxy.server.front.request import ClientRequest, Left, Reviewed, Written
from oidc_proxy.server.front.settings import HttpSettings
from oidc_proxy.values import Instant

SILENT_LIMIT = 64 * 1024
"""Most bytes of chunk extensions and trailers that come without a byte of the body."""
QUIET = 1.0
"""Seconds without a request after which a connection is closed during a drain."""

if http_parser.HttpRequestParser is http_parser.HttpRequestParserPy:  # pragma: no cover
    # Its grammar differs from the compiled one's, and everything here was checked against that one.
    _unsafe = (
        "aiohttp runs without its compiled HTTP parser, which is the only one that is safe here; "
        "unset AIOHTTP_NO_EXTENSIONS, and install aiohttp from a wheel"
    )
    raise SettingsFault([_unsafe])


class Witness(Protocol):
    """Who is told of what no handler sees."""

    def fresh_request_id(self) -> str: ...
    def unreadable(self, fault: ProxyError, *, request_id: str, client_ip: str, bytes_out: int) -> None: ...
    def turned_away(self) -> None: ...


class Owner(Protocol):
    """The listener of a connection."""

    settings: HttpSettings
    witness: Witness
    clock: Callable[[], Instant]
    server: web.Server
    draining: bool

    def admit(self, connection: FrontProtocol) -> bool: ...
    def succeed(self, connection: FrontProtocol, heir: Reviewed) -> None: ...
    def forget(self, connection: Reviewed) -> None: ...


class _Stall:
    """Since when something has not moved. ``mark`` is anything that differs when it has."""

    __slots__ = ("mark", "since")

    def __init__(self) -> None:
        self.mark: object = None
        self.since = 0.0

    def seconds(self, mark: object, now: float) -> float:
        if mark != self.mark:
            self.mark, self.since = mark, now
        return now - self.since


class FrontProtocol(web.RequestHandler):
    """One connection of a client.

    Answers what cannot be parsed in our words and never repeats it, and holds the client to limits and to the clock.
    What takes time is seen by ``review``, which one timer calls for all connections: a request costs no timer.
    """

    __slots__ = (
        "__weakref__",
        "_after_chunks",
        "_body",
        "_body_size",
        "_deaf",
        "_head",
        "_head_began",
        "_held",
        "_idle",
        "_last",
        "_limits",
        "_owner",
        "_reading",
        "_silent",
        "_timeouts",
        "_unread",
        "_wire",
    )

    def __init__(self, owner: Owner, loop: asyncio.AbstractEventLoop, **options: Any) -> None:
        super().__init__(owner.server, loop=loop, **options)
        self._owner = owner
        self._limits, self._timeouts = owner.settings.limits, owner.settings.timeouts
        self._wire: asyncio.Transport | None = None
        self._deaf = False
        self._body: StreamReader | None = None
        self._body_size = self._silent = 0
        self._head, self._head_began, self._held, self._last = b"", 0.0, b"", b""
        self._after_chunks = False
        self._idle, self._reading, self._unread = _Stall(), _Stall(), _Stall()

    # ── the life of a connection ──

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if not self._owner.admit(self):
            transport.abort()  # type: ignore[attr-defined]
            return
        self._wire = transport  # type: ignore[assignment]
        self._idle.seconds(0, self._loop.time())
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._owner.forget(self)
        super().connection_lost(exc)
        self._wire = self._body = None

    def leave(self, heir: Reviewed) -> Left:
        """See ``ClientRequest.leave``. aiohttp is told that the connection is lost, and lets go of everything."""
        wire, owner = self._wire, self._owner
        if wire is None:
            raise ConnectionResetError("the client is gone")
        arrived = self._message_tail + self._held
        owner.succeed(self, heir)
        self.transport = self._wire = self._body = None
        self._task_handler = None  # is answering the request just now, and would be cancelled
        self._current_request = None
        super().connection_lost(None)
        return Left(wire, arrived, float(self._timeouts.write), owner.forget)

    # ── one request after the other ──

    async def start(self) -> None:
        """Answer what arrives. In the place of aiohttp's, which makes a task and a timer of every request."""
        try:
            while not self._force_close and await self._answer(*await self._next()):
                pass
        except asyncio.CancelledError:
            self.force_close()
            raise
        except Exception as error:
            self.log_exception("Unhandled exception", exc_info=error)
            self.force_close()
        if not self._force_close:
            self._task_handler = None
            if self.transport is not None:
                self.transport.close()

    async def _next(self) -> tuple[RawRequestMessage | web_protocol._ErrInfo, StreamReader]:
        """The next request, or what stands for one that cannot be read."""
        if not self._messages:
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        arrived = self._messages.popleft()
        if self._parser is not None:
            self._parser.message_consumed()
        if self._buffer_paused and len(self._messages) <= self._msg_queue_resume_size:
            self._resume_reading_if_drained()
        return arrived

    async def _answer(self, message: RawRequestMessage | web_protocol._ErrInfo, payload: StreamReader) -> bool:
        """Answer it; whether another may follow."""
        unreadable = message if isinstance(message, web_protocol._ErrInfo) else None
        head = web_protocol.ERROR if unreadable else message
        loop, handler = self._loop, self._request_handler
        # Not the running loop: asking for that is a system call.
        request = ClientRequest(head, payload, self, StreamWriter(self, loop), self._task_handler, loop)  # type: ignore[arg-type]
        self._current_request, self._request_in_progress = request, True
        try:
            if unreadable:
                response = self.handle_error(request, unreadable.status, unreadable.exc, unreadable.message)
            else:
                response = await handler(request)  # type: ignore[misc]
            self._current_request = None
            if not isinstance(response, Written) or self._upgraded:
                await self.finish_response(request, response, None)
        except ConnectionError:
            return False
        finally:
            self._current_request, self._request_in_progress = None, False
            request._task = None  # type: ignore[assignment]  # a cycle
            if self._handler_waiter is not None and not self._handler_waiter.done():
                self._handler_waiter.set_result(None)
        if not response.keep_alive or not await self._read_out(payload):
            return False
        return not self._close

    async def _read_out(self, payload: StreamReader) -> bool:
        """Drop what nobody read of a body, if it ends soon; whether it has.

        To close before would make the system send a reset, which can overtake the answer (RFC 9112 §9.6).
        """
        if payload.is_eof():
            return True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER):
                while not payload.is_eof():
                    await payload.readany()
        return payload.is_eof()

    # ── what arrives ──

    def data_received(self, data: bytes) -> None:
        """Give aiohttp's parser one message at a time.

        When something is malformed, the parser forgets what it has read before in the same piece: an honest request
        would be lost, or not, as the network happens to split the bytes. Where the cuts are, only this depends on.
        """
        data, self._held = self._held + data if self._held else data, b""
        while not self._deaf:
            if self._upgraded:
                super().data_received(data)  # keeps it: whether it is HTTP depends on what the backend answers
                return
            if data and len(self._messages) >= self._max_msg_queue_size:
                self._held = data  # aiohttp has paused reading, and calls again when it has answered some
                return
            cut = self._cut(data)
            if cut >= len(data):
                self._take(data)
                return
            self._take(data[:cut])
            data = data[cut:]

    def _cut(self, data: bytes) -> int:
        """How many bytes can be of one message: up to a blank line, which ends a head or the chunks of a body."""
        body, last = self._body, self._last
        self._last = b""
        if body is not None and not body.is_eof() and self._body_size > body.total_bytes:
            return self._body_size - body.total_bytes
        if last:
            end = (last + data[:3]).find(b"\r\n\r\n")
            if end >= 0:
                return end + 4 - len(last)
        end = data.find(b"\r\n\r\n")
        if end >= 0:
            return end + 4
        self._last = (last + data[-3:])[-3:]  # the blank line may be half here
        return len(data)

    def _take(self, data: bytes) -> None:
        """Count what aiohttp does not: whole heads, bodies, and what comes in a body without being of it."""
        count, body = self._request_count, self._body
        if body is not None and body.is_eof():
            body = self._body = None
        before = 0 if body is None else body.total_bytes
        super().data_received(data)
        if self._request_count != count:
            head, self._head = self._head + data, b""
            self._arrived(self._request_count - count, head.lstrip(b"\r\n"))
        elif body is None:
            self._part_of_head(data)
        else:
            self._part_of_body(body, len(data), before)

    def _part_of_head(self, data: bytes) -> None:
        if not self._head:
            data = data.lstrip(b"\r\n")  # a line break after a body belongs to nothing (RFC 9112 §2.2)
            self._head_began = self._loop.time()
        self._head += data
        limits = self._limits
        if len(self._head) > limits.header_bytes + limits.url_bytes:
            self._refuse(RequestFault("headers_too_large", "the head does not end within the limits"))

    def _part_of_body(self, body: StreamReader, size: int, before: int) -> None:
        limit = self._limits.body_bytes
        self._silent = self._silent + size if body.total_bytes == before else 0
        if limit and body.total_bytes > limit:
            self._break_off(body, RequestFault("body_too_large", "the body is larger than http.limits.body_bytes"))
        elif self._silent > SILENT_LIMIT:
            self._break_off(body, RequestFault("bad_request", "chunk extensions or trailers without end"))

    def _arrived(self, count: int, head: bytes) -> None:
        """Whole heads, or what can be none: one, read from ``head``, or several that had waited in the parser."""
        self._silent = 0
        for index in range(len(self._messages) - count, len(self._messages)):
            message, payload = self._messages[index]
            if isinstance(message, web_protocol._ErrInfo):
                self._turn_deaf()
                self._tell_reader(index, RequestFault("bad_request", "the framing of the body is malformed"))
                return
            try:
                self._accept(index, message, payload, head if count == 1 else b"")
            except RequestFault as objection:
                for _ in range(len(self._messages) - index):
                    self._messages.pop()
                self._refuse(objection)
                return

    def _accept(self, index: int, message: RawRequestMessage, payload: StreamReader, head: bytes) -> None:
        """Take up a request, or raise RequestFault."""
        limits = self._limits
        if self._after_chunks:
            message = without_trailer(message, head)
            self._messages[index] = (message, payload)
        object_to(message, head, limits.header_bytes)
        self._after_chunks = bool(message.chunked)
        if payload is EMPTY_PAYLOAD:
            return
        if message.method == "CONNECT":
            payload.feed_eof()  # what follows is no HTTP; aiohttp would wait for its end
            self._turn_deaf()
            return
        self._body, self._body_size = payload, int(message.headers.get("Content-Length", "0"))
        if limits.body_bytes and max(self._body_size, payload.total_bytes) > limits.body_bytes:
            self._break_off(payload, RequestFault("body_too_large", "the body is larger than http.limits.body_bytes"))

    # ── what is not accepted ──

    def _refuse(self, fault: RequestFault) -> None:
        """Answer with the fault, after the requests before; nothing more is heard."""
        self._turn_deaf()
        self._request_count += 1
        self._messages.append((web_protocol._ErrInfo(status=fault.status, exc=fault, message=""), EMPTY_PAYLOAD))
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _break_off(self, body: StreamReader, fault: RequestFault) -> None:
        """Whoever reads the body gets the fault; nothing more is heard."""
        self._turn_deaf()
        body.set_exception(fault)
        if not body.is_eof():
            body.feed_eof()  # else aiohttp would wait for the rest once more

    def _tell_reader(self, index: int, fault: RequestFault) -> None:
        """Tell whoever waits for the rest of the body before this message that it will never come."""
        body = self._messages[index - 1][1] if index > 0 else None
        if body is None and self._current_request is not None:
            body = self._current_request.content
        if body is not None and not body.is_eof():
            self._break_off(body, fault)

    def _turn_deaf(self) -> None:
        self._deaf = True
        if self.transport is not None and self._wire is not None:
            self.transport = Lingering(self._wire)  # type: ignore[assignment]

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """A whole answer to a request that no handler saw."""
        if request.writer.output_size > 0:
            raise ConnectionError("an answer was under way already")
        fault = fault_of(exc, status, self._limits.url_bytes)
        witness = self._owner.witness
        identifier = witness.fresh_request_id()
        refusal = Refusal(fault, identifier, self._owner.clock())
        if not isinstance(exc, ConnectionError):  # else it was a request that a handler has seen, and whose client left
            size = len(refusal.data)
            witness.unreadable(fault, request_id=identifier, client_ip=request.remote or "", bytes_out=size)
        return refusal

    # ── the end of the server ──

    @property
    def may_go_on(self) -> bool:
        """Whether there may be a request after the present one."""
        return not self._owner.draining or self.has_more

    @property
    def has_more(self) -> bool:
        """Whether another request has begun to arrive."""
        return bool(self._messages or self._held or self._head)

    def close_if_quiet(self, now: float) -> None:
        """Close if no request is here, none is arriving, and none has come for a while. ``now`` is loop time."""
        waiting = self._waiter is not None and not self._waiter.done() and not self.has_more
        if waiting and self._idle.seconds(self._request_count, now) >= QUIET and not self._has_unread():
            self.force_close()

    def _has_unread(self) -> bool:
        return self._wire is not None and unread(self._wire) > 0

    def cut(self) -> None:
        """Close at once, so that an answer that is under way is seen not to be whole."""
        if self._wire is None:
            return
        if self._current_request is not None:
            reset(self._wire)
        else:
            self._wire.abort()

    # ── what takes too long ──

    def review(self, now: float) -> None:
        """Hold the client to the clock. ``now`` is loop time."""
        wire = self._wire
        if wire is None:
            return
        if self._will_not_read(wire, now):
            wire.abort()
        elif self._waiter is not None and not self._waiter.done():
            self._review_waiting(now)
        elif self._current_request is not None:
            self._review_body(self._current_request.content, now)

    def _review_waiting(self, now: float) -> None:
        """No request is being answered: either a part of the next one is here, or the connection is idle."""
        timeouts = self._timeouts
        if self._head:
            if now - self._head_began > timeouts.header:
                self._refuse(RequestFault("request_timeout", "the head did not end within http.timeouts.header"))
            return
        patience = timeouts.keep_alive if self._request_count else timeouts.header
        if self._idle.seconds(self._request_count, now) > patience:
            self.force_close()

    def _review_body(self, body: StreamReader, now: float) -> None:
        if body is not self._body or body._waiter is None:
            self._reading.mark = None  # nobody waits for a byte of it
        elif self._reading.seconds((id(body), body.total_bytes), now) > self._timeouts.body:
            self._break_off(body, RequestFault("request_timeout", "the body paused longer than http.timeouts.body"))

    def _will_not_read(self, wire: asyncio.Transport, now: float) -> bool:
        size = wire.get_write_buffer_size()
        if not size:
            self._unread.mark = None
            return False
        request = self._current_request
        mark = (id(request), request.writer.output_size - size) if request is not None else (0, -size)
        return self._unread.seconds(mark, now) > self._timeouts.write
