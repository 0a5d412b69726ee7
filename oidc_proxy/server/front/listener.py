"""Where connections come in, and what becomes of them."""

from __future__ import annotations

import asyncio
import gc
import socket
import time
import weakref
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from aiohttp import web

from oidc_proxy.server.front.connection import FrontProtocol, Witness
from oidc_proxy.server.front.ending import LINGER
from oidc_proxy.server.front.request import Reviewed
from oidc_proxy.server.front.settings import HttpSettings
from oidc_proxy.server.front.tls import ServerTls
from oidc_proxy.values import Instant

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

LOOK = 0.02
"""Seconds between looks at the connections that are still there during a drain."""
HANDSHAKE = 3.0
"""Seconds for which a drain waits for TLS handshakes that have begun."""


class Listener:
    """Sockets that are listened on, and the connections that came through them."""

    def __init__(
        self,
        handler: Handler,
        settings: HttpSettings,
        witness: Witness,
        clock: Callable[[], Instant] = time.time,
        tls: ServerTls | None = None,
    ) -> None:
        self.settings, self.witness, self.clock, self._tls = settings, witness, clock, tls
        self.draining = False
        """Whether clients are told to come back over another connection."""
        self._handler = handler
        self._sockets: Sequence[socket.socket] = ()
        self._servers: list[asyncio.Server] = []
        self._greetings: set[asyncio.Task[Any]] = set()
        self._arriving: weakref.WeakSet[FrontProtocol] = weakref.WeakSet()
        """Connections whose TLS handshake goes on. When one fails, nobody tells us: it is forgotten with the object."""
        self._connections: set[Reviewed] = set()
        self._watch: asyncio.TimerHandle | None = None
        self.server: web.Server
        timeouts = settings.timeouts
        shortest = min(timeouts.header, timeouts.body, timeouts.write, timeouts.keep_alive)
        self._tick = min(1.0, max(0.01, shortest / 10))

    async def open(self, sockets: Sequence[socket.socket]) -> None:
        """Accept connections from these sockets, which are closed with the listener."""
        self.server = web.Server(self._handler, handler_cancellation=True)
        self._sockets = sockets
        for each in sockets:
            # The event loop gets its own descriptor, since ours must be there when the loop's is closed.
            self._servers.append(await self._serve(each.dup()))

    async def _serve(self, listening: socket.socket) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        options = {"sock": listening, "backlog": 1024, **self._tls_options()}
        if listening.family == socket.AF_UNIX:
            return await loop.create_unix_server(self._protocol, **options)
        return await loop.create_server(self._protocol, **options)

    def _tls_options(self) -> dict[str, Any]:
        if self._tls is None:
            return {}
        return {
            "ssl": self._tls.context,
            "ssl_handshake_timeout": float(self.settings.timeouts.header),
            "ssl_shutdown_timeout": LINGER,
        }

    def _protocol(self) -> FrontProtocol:
        limits = self.settings.limits
        options: dict[str, Any] = {
            "access_log": None,
            "auto_decompress": False,
            "keepalive_timeout": 0,  # ours are reviewed
            "max_line_size": int(limits.url_bytes),
            # Never equal to the one above: aiohttp's error says only the number.
            "max_field_size": int(limits.header_bytes) + (limits.header_bytes == limits.url_bytes),
            "max_headers": limits.headers,
        }
        connection = FrontProtocol(self, asyncio.get_running_loop(), **options)
        if self._tls is not None:
            self._arriving.add(connection)
        return connection

    @property
    def port(self) -> int:
        """The port that was got, where 0 was asked for; 0 where there is none."""
        for each in self._sockets:
            if each.family != socket.AF_UNIX:
                return int(each.getsockname()[1])
        return 0

    def stop_accepting(self) -> None:
        """Accept what has come already, and no more. Every answer ends its connection from now on."""
        self.draining = True
        for server in self._servers:
            server.close()
        self._servers.clear()
        for each in self._sockets:
            self._accept_waiting(each)
            each.close()
        self._sockets = ()

    def _accept_waiting(self, listening: socket.socket) -> None:
        """Take what the system has accepted for us; closing the socket would break those connections."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, _ = listening.accept()
            except OSError:
                return
            accepted.setblocking(False)
            greeting = loop.create_task(
                loop.connect_accepted_socket(self._protocol, accepted, **self._tls_options()),
            )
            self._greetings.add(greeting)
            greeting.add_done_callback(self._greeted)

    def _greeted(self, greeting: asyncio.Task[Any]) -> None:
        self._greetings.discard(greeting)
        if not greeting.cancelled():
            greeting.exception()  # a handshake that failed; seen

    async def close(self, grace: float) -> None:
        """Accept no more, let requests under way finish for ``grace`` seconds, then cut every connection off.

        Those that were given away are for their heirs to end.
        """
        loop = asyncio.get_running_loop()
        self.stop_accepting()
        if self._arriving:
            gc.collect()  # handshakes that have failed are forgotten
        end = loop.time() + grace
        while (self._connections or self._greetings or self._shaking_hands(end - grace)) and (now := loop.time()) < end:
            for connection in self._speaking_http():
                connection.close_if_quiet(now)
            await asyncio.sleep(LOOK)
        for greeting in self._greetings:
            greeting.cancel()
        for connection in self._speaking_http():
            connection.cut()
        await self.server.shutdown(0.5)
        if self._watch is not None:
            self._watch.cancel()

    def _shaking_hands(self, since: float) -> bool:
        """Whether connections may come of handshakes that were under way at that time."""
        return bool(self._arriving) and asyncio.get_running_loop().time() - since < HANDSHAKE

    def _speaking_http(self) -> list[FrontProtocol]:
        return [connection for connection in self._connections if isinstance(connection, FrontProtocol)]

    # ── called by connections ──

    def admit(self, connection: FrontProtocol) -> bool:
        """Whether there is room for one more."""
        self._arriving.discard(connection)
        if len(self._connections) >= self.settings.limits.connections:
            self.witness.turned_away()
            return False
        self._connections.add(connection)
        if self._watch is None:
            self._watch = asyncio.get_running_loop().call_later(self._tick, self._look)
        return True

    def succeed(self, connection: FrontProtocol, heir: Reviewed) -> None:
        """The connection lives on in the heir, which is reviewed in its place and counts as it did."""
        self._connections.discard(connection)
        self._connections.add(heir)

    def forget(self, connection: Reviewed) -> None:
        self._connections.discard(connection)

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for connection in tuple(self._connections):
            connection.review(now)
        self._watch = loop.call_later(self._tick, self._look) if self._connections else None
