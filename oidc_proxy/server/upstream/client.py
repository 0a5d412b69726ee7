"""Sends one request to the backend and gives its response."""

from __future__ import annotations

import asyncio
import socket
import ssl

from oidc_proxy.errors import UpstreamFault
from oidc_proxy.server.upstream.connection import Connection, Unanswered
from oidc_proxy.server.upstream.framing import request_head
from oidc_proxy.server.upstream.pool import Pool
from oidc_proxy.server.upstream.request import UpstreamRequest
from oidc_proxy.server.upstream.response import UpstreamResponse
from oidc_proxy.server.upstream.settings import Address, UpstreamSettings, Waits, tls_context


class NotConnected(UpstreamFault):
    """No connection could be opened, so that nothing of the request has been sent: another server may have it.

    ``reason`` is timeout, name, refused, tls or other.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__("upstream_timeout" if reason == "timeout" else "upstream_unreachable", detail)
        self.reason = reason


class Upstream:
    """One server and the connections to it. Belongs to one event loop, from the first request on."""

    def __init__(self, settings: UpstreamSettings, shortest: float = 0.0) -> None:
        """Opens nothing. ``shortest`` is the shortest wait that ``send`` will be asked for, 0 if there are only ours.

        SettingsFault when the TLS files cannot be used.
        """
        self.settings = settings
        self._address = Address.parse(settings.url)
        self.authority = self._address.authority.encode()
        """Value of a Host header that names the backend itself."""
        self._tls: ssl.SSLContext | None = tls_context(settings.tls) if self._address.secure else None
        self._pool = Pool(settings.max_connections, self._make)
        self._patience = float(settings.timeouts.connect)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._watch: asyncio.TimerHandle | None = None
        self.waits = Waits.of(settings.timeouts.response, settings.timeouts.idle)
        limits = [seconds for seconds in (*self.waits, shortest) if seconds]
        self._tick = min(1.0, max(0.01, min(limits, default=1.0) / 10))
        self._closed = False

    def renew_tls(self) -> None:
        """Read the TLS files again, for connections from now on. SettingsFault, and no change, when they are bad."""
        if self._tls is not None:
            self._tls = tls_context(self.settings.tls)

    @property
    def busy(self) -> int:
        """Exchanges under way."""
        return self._pool.busy

    async def send(self, request: UpstreamRequest) -> UpstreamResponse:
        """Send a request; returns when the head of the response is here, which may be before the body is sent.

        One that is ``repeatable`` is sent a second time, on a new connection, when the backend closed the idle one that
        it went out on (RFC 9112 §9.3.1). Cancelling closes the connection.

        Raises UpstreamFault: upstream_unreachable, upstream_saturated, upstream_timeout, upstream_invalid_response;
        and ValueError for what must not be written into a request.
        """
        head = request_head(request)
        loop = self._loop or self._start()
        connection = self._pool.take(loop.time())
        if connection is None or connection.fresh:
            connection = await self._ready(connection)
        again = False
        while True:
            answer = connection.begin(head, request, request.waits or self.waits)
            try:
                return await answer
            except asyncio.CancelledError:
                _forsake(connection, answer)
                raise
            except Unanswered:
                if again or not request.repeatable:
                    raise
            again = True
            connection = await self._ready(self._pool.take_fresh())

    async def close(self) -> None:
        """Close every connection; requests that are under way fail with upstream_unreachable."""
        self._closed = True
        if self._watch is not None:
            self._watch.cancel()
        self._pool.shut()
        await asyncio.sleep(0)

    async def _ready(self, connection: Connection | None) -> Connection:
        """Wait for a place if there is none, and connect if the place has no connection yet."""
        while connection is None or connection.closed:
            if self._closed:
                raise UpstreamFault("upstream_unreachable", "shutting down")
            now = asyncio.get_running_loop().time()
            connection = self._pool.take(now) or await self._pool.wait(self._patience)
        if connection.fresh:
            await self._connect(connection)
        return connection

    async def _connect(self, connection: Connection) -> None:
        try:
            async with asyncio.timeout(self._patience):
                await self._open(connection)
        except TimeoutError:
            connection.close()
            raise NotConnected("timeout", f"no connection to {self.settings.url} in time") from None
        except OSError as error:  # DNS, refusal, TLS
            connection.close()
            raise NotConnected(_reason(error), f"{self.settings.url}: {error}") from error
        except BaseException:
            connection.close()
            raise
        if connection.closed:
            raise NotConnected("other", "the new connection was closed at once")

    async def _open(self, connection: Connection) -> None:
        loop, address = asyncio.get_running_loop(), self._address
        if address.path:
            await loop.create_unix_connection(lambda: connection, address.path)
        elif self._tls is None:
            await loop.create_connection(lambda: connection, address.host, address.port)
        else:
            name = self.settings.tls.server_name or address.host
            await loop.create_connection(
                lambda: connection, address.host, address.port, ssl=self._tls, server_hostname=name
            )

    def _start(self) -> asyncio.AbstractEventLoop:
        self._loop = asyncio.get_running_loop()
        return self._loop

    def _make(self) -> Connection:
        loop = asyncio.get_running_loop()
        if self._watch is None:
            self._watch = loop.call_later(self._tick, self._look)
        return Connection(self._pool, self.settings.timeouts, loop)

    def _look(self) -> None:
        """Expire what is overdue. One timer for all connections: a timer a request would cost more than its parsing."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        pool = self._pool
        for connection in (*pool.connections, *pool.apart):
            if connection.deadline < now:
                connection.expire()
        self._watch = loop.call_later(self._tick, self._look) if pool.connections or pool.apart else None


def _reason(error: OSError) -> str:
    kinds = ((socket.gaierror, "name"), (ConnectionRefusedError, "refused"), (ssl.SSLError, "tls"))
    return next((reason for kind, reason in kinds if isinstance(error, kind)), "other")


def _forsake(connection: Connection, answer: asyncio.Future[UpstreamResponse]) -> None:
    """Nobody waits for the answer any more. It may have come in that very moment, and the connection serve others."""
    if answer.cancelled():
        connection.close()
    elif answer.exception() is None:
        answer.result().abort()
