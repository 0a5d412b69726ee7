"""Who may use which connection. No I/O: it neither opens connections nor writes to them, it only says who may."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from oidc_proxy.errors import UpstreamFault
from oidc_proxy.server.upstream.connection import Connection


class Pool:
    """At most ``limit`` connections. The one used last is used next, so that the others can go when it is quiet."""

    def __init__(self, limit: int, make: Callable[[], Connection]) -> None:
        self.connections: set[Connection] = set()
        """Every one that takes a place: connecting, in use, or idle."""
        self.apart: set[Connection] = set()
        """Those in use that have given up their place."""
        self._limit = limit
        self._make = make
        self._idle: list[Connection] = []
        self._waiters: deque[asyncio.Future[Connection]] = deque()

    @property
    def busy(self) -> int:
        """How many are neither idle nor gone."""
        return len(self.connections) - len(self._idle)

    def take(self, now: float) -> Connection | None:
        """An idle connection, or a fresh one if there is a place for it."""
        while self._idle:
            connection = self._idle.pop()
            if connection.usable(now):
                return connection
            connection.close()
        return self._fresh() if len(self.connections) < self._limit else None

    def take_fresh(self) -> Connection | None:
        """A fresh connection, at the cost of an idle one if need be."""
        if self._idle and len(self.connections) >= self._limit:
            self._idle[0].close()
        return self._fresh() if len(self.connections) < self._limit else None

    async def wait(self, seconds: float) -> Connection:
        """The next connection that is freed, or a fresh one in the place of one that is gone; first come, first served.

        Raises UpstreamFault("upstream_saturated") when that takes too long.
        """
        waiter: asyncio.Future[Connection] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            async with asyncio.timeout(seconds):
                return await waiter
        except (TimeoutError, asyncio.CancelledError) as error:
            if waiter.done() and not waiter.cancelled():  # it came, but too late
                self._give_back(waiter.result())
            if isinstance(error, TimeoutError):
                raise UpstreamFault("upstream_saturated", f"all {self._limit} connections are in use") from None
            raise

    def free(self, connection: Connection) -> None:
        """The connection can serve again, if there is a place for it."""
        if connection in self.apart:
            if len(self.connections) >= self._limit:
                connection.close()
                return
            self.apart.discard(connection)
            self.connections.add(connection)
        if not self._waiters or not self._hand_over(connection):
            self._idle.append(connection)

    def set_apart(self, connection: Connection) -> None:
        """The connection is in use for as long as a client likes: others get its place."""
        self.apart.add(connection)
        self._vacate(connection)

    def gone(self, connection: Connection) -> None:
        """The connection is closed, and its place is free."""
        self.apart.discard(connection)
        with suppress(ValueError):
            self._idle.remove(connection)
        self._vacate(connection)

    def _vacate(self, connection: Connection) -> None:
        self.connections.discard(connection)
        if self._waiters and len(self.connections) < self._limit:
            fresh = self._fresh()
            if not self._hand_over(fresh):
                fresh.close()

    def shut(self) -> None:
        """Close everything, and turn away those who wait."""
        self._limit = 0
        fault = UpstreamFault("upstream_unreachable", "shutting down")
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(fault)
        self._waiters.clear()
        for connection in (*self.connections, *self.apart):
            connection.fail(fault)

    def _fresh(self) -> Connection:
        connection = self._make()
        self.connections.add(connection)
        return connection

    def _give_back(self, connection: Connection) -> None:
        if connection.fresh:
            connection.close()
        elif not connection.closed:
            self.free(connection)

    def _hand_over(self, connection: Connection) -> bool:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(connection)
                return True
        return False
