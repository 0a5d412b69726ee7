"""WebSockets: the handshake on both sides, and what is open until a session, a patience or the process ends."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from ..errors import UpstreamFault
from ..messages import HeaderFilter, RequestHead
from ..policy import Route
from ..websocket import GOING_AWAY, POLICY_VIOLATION, TOO_BIG, WebSocketSettings, accepted
from .archive import SignedIn
from .exchange import Exchange
from .front import CLOSES, Written
from .metrics import Metrics
from .pipe import Pipe
from .sessions import Sessions
from .upstream import Backend, UpstreamResponse

SWITCHES = 101


class Upgrades:
    """All WebSockets of this process."""

    def __init__(self, sessions: Sessions, headers: HeaderFilter, metrics: Metrics) -> None:
        self._sessions, self._headers, self._metrics = sessions, headers, metrics
        self._open: dict[Backend, set[WebSocket]] = {}
        self._draining = False
        self._none_open = asyncio.Event()

    def __len__(self) -> int:
        """How many are open."""
        return sum(map(len, self._open.values()))

    def expected(
        self, exchange: Exchange, head: RequestHead, route: Route, signed_in: SignedIn | None, upstream: Backend
    ) -> bytes | None:
        """What the backend must answer with if this request offers to speak WebSocket; None if it does not.

        Raises RequestFault if it does so wrongly, and UpstreamFault if there are too many.
        """
        if not exchange.request.offers_websocket:
            return None
        accept = accepted(head, route.settings.websocket, signed_in=signed_in is not None)
        if len(self._open.get(upstream, ())) >= upstream.settings.max_websockets:
            raise UpstreamFault("upstream_saturated", "max_websockets are open")
        return accept

    async def join(
        self,
        exchange: Exchange,
        route: Route,
        signed_in: SignedIn | None,
        upstream: Backend,
        response: UpstreamResponse,
    ) -> Written:
        """Pass on the backend's 101, and join both connections. The request ends here; the exchange goes on."""
        lines = [*self._headers.to_client(response.headers), (b"X-Request-Id", exchange.request_id.encode())]
        lines += [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")]
        head = b"".join([b"HTTP/1.1 101 Switching Protocols\r\n", *(b"%b: %b\r\n" % line for line in lines), b"\r\n"])
        if exchange.request.protocol.writing_paused:
            await exchange.request.writer.drain()  # answers to requests before this one
        # From here on nothing is awaited, so neither connection is ever without somebody who hears that it is lost.
        backend = response.leave()
        socket = WebSocket(self, exchange, route.settings.websocket)
        try:
            client = exchange.request.leave(socket)
        except ConnectionError:
            backend[0].abort()
            raise
        exchange.status, exchange.bytes_out = response.status, len(head)
        self._open.setdefault(upstream, set()).add(socket)
        self._none_open.clear()
        self._metrics.websockets = len(self)
        socket.forget = (client.forget, self._open[upstream].discard)
        if signed_in is not None:
            socket.record_id = signed_in.ticket.record_id
            self._sessions.hold(signed_in, route, socket.let_go)
        exchange.lasts = True
        socket.join((client.transport, client.arrived), backend, head, client.write_timeout)
        if self._draining:
            socket.drained()
        return CLOSES

    async def drain(self, seconds: float) -> None:
        """Tell both sides of each, and wait until all are gone, for so long at most; what is left is broken off."""
        self._draining = True
        for socket in self._all():
            socket.drained()
        await self._wait(seconds)
        for socket in self._all():
            socket.abort()
        await self._wait(1)

    async def _wait(self, seconds: float) -> None:
        if len(self):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._none_open.wait()

    def _all(self) -> list[WebSocket]:
        return [socket for sockets in self._open.values() for socket in sockets]

    def gone(self, socket: WebSocket) -> None:
        """Both connections of it are."""
        if socket.record_id:
            self._sessions.release(socket.record_id, socket.let_go)
        self._metrics.websockets = len(self)
        if not len(self):
            self._none_open.set()


class WebSocket(Pipe):
    """One that is open, on behalf of a session if there is one."""

    __slots__ = ("_exchange", "_upgrades", "forget", "record_id")

    def __init__(self, upgrades: Upgrades, exchange: Exchange, settings: WebSocketSettings) -> None:
        super().__init__(float(settings.idle_timeout), int(settings.max_message))
        self._upgrades, self._exchange = upgrades, exchange
        self.record_id = ""
        self.forget: tuple[Callable[[WebSocket], None], ...] = ()

    def let_go(self, reason: str) -> None:
        """Its session has ended, or its user may no longer be here."""
        self._close(POLICY_VIOLATION, reason.replace("_", " "), reason)

    def drained(self) -> None:
        self._close(GOING_AWAY, "shutting down", "shutdown")

    def idle(self) -> None:
        self._close(GOING_AWAY, "idle", "idle_timeout")

    def too_big(self) -> None:
        self._close(TOO_BIG, "message too big", "message_too_big")

    def _close(self, code: int, words: str, reason: str) -> None:
        if not self.over:
            self._exchange.reason = reason
            self.close(code, words)

    def ended(self) -> None:
        for forget in self.forget:
            forget(self)
        self._upgrades.gone(self)
        self._exchange.bytes_in += self.client.passed
        self._exchange.bytes_out += self.backend.passed
        self._exchange.finish()
