"""A port, and the connections that came through it."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from oidc_proxy.server.front.connection import FrontProtocol, Reviewed, Witness, client_request
from oidc_proxy.server.front.settings import HttpSettings
from oidc_proxy.values import Instant

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Listener:
    """A port, and the connections that came through it."""

    def __init__(
        self,
        handler: Handler,
        address: str,
        settings: HttpSettings,
        witness: Witness,
        clock: Callable[[], Instant] = time.time,
    ) -> None:
        self.settings, self.witness, self.clock = settings, witness, clock
        self.server = web.Server(handler, request_factory=client_request, handler_cancellation=True)
        self._host, _, port = address.rpartition(":")
        self._wanted_port = int(port)
        self._listening: asyncio.Server | None = None
        self._connections: set[Reviewed] = set()
        self._watch: asyncio.TimerHandle | None = None
        timeouts = settings.timeouts
        shortest = min(timeouts.header, timeouts.body, timeouts.write, timeouts.keep_alive)
        self._tick = min(1.0, max(0.01, shortest / 10))

    async def open(self, *, reuse_port: bool = False) -> None:
        """Start to accept. OSError when the address is taken or not ours."""
        self._listening = await asyncio.get_running_loop().create_server(
            self._protocol, self._host.strip("[]"), self._wanted_port, backlog=1024, reuse_port=reuse_port or None
        )

    def _protocol(self) -> FrontProtocol:
        limits = self.settings.limits
        options: dict[str, Any] = {
            "access_log": None,
            "auto_decompress": False,
            "keepalive_timeout": 86400.0,  # ours are reviewed
            "max_line_size": int(limits.url_bytes),
            # Never equal to the one above: aiohttp's error says only the number.
            "max_field_size": int(limits.header_bytes) + (limits.header_bytes == limits.url_bytes),
            "max_headers": limits.headers,
        }
        return FrontProtocol(self, asyncio.get_running_loop(), **options)

    @property
    def port(self) -> int:
        """The port that was got, where 0 was asked for."""
        if self._listening is None:
            return self._wanted_port
        listening: socket.socket = self._listening.sockets[0]
        return int(listening.getsockname()[1])

    async def close(self, grace: float) -> None:
        """Stop accepting, let requests under way finish for ``grace`` seconds, then close every connection.

        Those that were given away are for their heirs to end.
        """
        if self._listening is not None:
            self._listening.close()
        self.server.pre_shutdown()  # closes those that wait for a request; shutdown would wait for them, too
        await self.server.shutdown(grace)
        if self._watch is not None:
            self._watch.cancel()

    # ── called by connections ──

    def admit(self, connection: FrontProtocol) -> bool:
        """Whether there is room for one more."""
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
