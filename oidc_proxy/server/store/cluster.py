"""Which server of a Redis Cluster has which key."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from typing import Any, cast

from redis.crc import key_slot
from redis.exceptions import RedisError

from ...errors import StoreFault
from .link import Command, Options, ask
from .server import LOOK_EVERY, Server

Address = tuple[str, int]
Make = Callable[[Callable[[], Awaitable[Options]]], Server]

REFRESH_AT_MOST_EVERY = 0.2
"""Seconds. A fail-over makes every command ask anew."""

PATIENCE_WITH_A_NODE = 0.5
"""Seconds after which the next node is asked."""

CLUSTER_SLOTS: Command = "CLUSTER", "SLOTS"


class ClusterServers:
    """The masters of a cluster, found from any of its nodes and found anew when keys have moved.

    ``lost`` is told when a slot has another master: what was read at the old one is announced no more.
    """

    def __init__(self, options: Options, make: Make, lost: Callable[[], None], patience: float) -> None:
        self._options, self._make, self._lost, self._patience = options, make, lost, patience
        self._seed: Address = (options["host"], options["port"])
        self._servers: dict[Address, Server] = {}
        self._asked_for: set[Address] = set()
        self._slots: dict[int, Address] = {}
        self._refreshing: asyncio.Task[None] | None = None
        self._refreshed_at = float("-inf")
        self._looking: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def linked(self) -> bool:
        """Whether every master is."""
        masters = [self._servers.get(address) for address in set(self._slots.values())]
        return bool(masters) and all(server is not None and server.linked for server in masters)

    async def having(self, name: bytes) -> Server:
        """The master that has the key."""
        if not self._slots:
            await self.refresh()
        address = self._slots.get(key_slot(name))
        if address is None:
            self._refresh_soon()
            raise StoreFault("store_unavailable", "no master serves this slot", retry_after=2)
        server = self._server(address)
        if not server.linked:
            self._refresh_soon()  # it may have been replaced; whoever asks next will know
        return server

    def at(self, host: str, port: int) -> Server:
        """The server at an address that another has named; without a host it is the one that all were asked at."""
        self._asked_for.add((host or self._seed[0], port))
        return self._server((host or self._seed[0], port))

    async def refresh(self) -> None:
        """Ask the nodes that are known, one after the other, where the slots are."""
        wait = self._refreshed_at + REFRESH_AT_MOST_EVERY - asyncio.get_running_loop().time()
        if self._slots and wait > 0:
            await asyncio.sleep(wait)
        refreshing = self._refresh_aside()
        await asyncio.wait([refreshing])  # goes on without us, for the others who wait
        if refreshing.cancelled():
            raise StoreFault("store_unavailable", "closed", retry_after=2)
        refreshing.result()

    async def each(self, work: Callable[[Server], Awaitable[Any]]) -> None:
        """Do it at every master."""
        if not self._slots:
            await self.refresh()
        done = await asyncio.gather(
            *(work(self._server(address)) for address in set(self._slots.values())), return_exceptions=True
        )
        for result in done:
            if isinstance(result, BaseException):
                self._refresh_soon()
                raise result

    async def close(self) -> None:
        """Let go of every connection."""
        self._closed = True
        tasks = [task for task in (self._looking, self._refreshing) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(server.close() for server in self._servers.values()))

    def _server(self, address: Address) -> Server:
        if address not in self._servers:
            if self._closed:
                raise StoreFault("store_unavailable", "closed", retry_after=2)
            options = {**self._options, "host": address[0], "port": address[1]}

            async def locate() -> Options:
                return options

            self._servers[address] = self._make(locate)
        return self._servers[address]

    # ── the map of slots ──

    def _refresh_soon(self) -> None:
        if asyncio.get_running_loop().time() - self._refreshed_at > REFRESH_AT_MOST_EVERY:
            self._refresh_aside()

    def _refresh_aside(self) -> asyncio.Task[None]:
        if self._closed:
            raise StoreFault("store_unavailable", "closed", retry_after=2)
        if self._looking is None:
            self._looking = asyncio.create_task(self._look())
        if self._refreshing is None:
            self._refreshing = asyncio.create_task(self._refresh())
            self._refreshing.add_done_callback(self._refreshed)
        return self._refreshing

    def _refreshed(self, task: asyncio.Task[None]) -> None:
        self._refreshing = None
        self._refreshed_at = asyncio.get_running_loop().time()
        if not task.cancelled():
            task.exception()  # seen, even if nobody waited

    async def _look(self) -> None:
        """A master may have been replaced while it still answers us, and says nothing of it."""
        while True:
            await asyncio.sleep(LOOK_EVERY)
            self._refresh_soon()

    async def _refresh(self) -> None:
        linked = [address for address, server in self._servers.items() if server.linked]
        random.shuffle(linked)  # one that is cut off from the others must not be believed for ever
        for address in dict.fromkeys([*linked, self._seed, *self._servers]):
            with contextlib.suppress(RedisError, OSError, TimeoutError, StoreFault):
                async with asyncio.timeout(min(self._patience, PATIENCE_WITH_A_NODE)):
                    ranges = await self._ask(address)
                await self._adopt(_slots(ranges, address[0]))
                return
        raise StoreFault("store_unavailable", "no node of the cluster answers", retry_after=2)

    async def _ask(self, address: Address) -> list[list[Any]]:
        server = self._servers.get(address)
        if server is not None and server.linked:
            ranges = await server.send(CLUSTER_SLOTS)
        else:
            there = {**self._options, "host": address[0], "port": address[1]}
            ranges = (await ask(there, CLUSTER_SLOTS, patience=self._patience))[0]
        return cast("list[list[Any]]", ranges)

    async def _adopt(self, slots: dict[int, Address]) -> None:
        before, self._slots = self._slots, slots
        if before and before != slots:
            self._lost()
        # One that is taking over slots has none of its own yet, but is being asked for keys (ASK).
        gone = self._servers.keys() - set(slots.values()) - self._asked_for
        self._asked_for.clear()
        await asyncio.gather(*(self._servers.pop(address).close() for address in gone))


def _slots(ranges: list[list[Any]], asked: str) -> dict[int, Address]:
    slots: dict[int, Address] = {}
    for first, last, master, *_ in ranges:
        # A node that does not know its own name means the address at which it was asked.
        host = master[0].decode() if isinstance(master[0], bytes) else master[0]
        address = (asked if host in {None, "", "?"} else host, master[1])
        slots |= dict.fromkeys(range(first, last + 1), address)
    return slots
