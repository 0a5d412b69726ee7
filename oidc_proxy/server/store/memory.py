"""Sessions in this process: a dict with an expiry queue."""

from __future__ import annotations

import heapq
from collections.abc import Callable

from ...values import Instant
from .port import Watcher


class MemoryStore:
    """For one process, for as long as it runs."""

    def __init__(self, clock: Callable[[], Instant]) -> None:
        self._clock = clock
        self._entries: dict[str, tuple[bytes, Instant]] = {}
        self._sets: dict[str, dict[str, Instant]] = {}
        self._expiries: list[tuple[Instant, str]] = []
        self._watchers: list[Watcher] = []

    @property
    def linked(self) -> bool:
        return True

    def watch(self, watcher: Watcher) -> None:
        self._watchers.append(watcher)

    async def get(self, key: str) -> bytes | None:
        entry = self._entries.get(key)
        return entry[0] if entry and entry[1] > self._clock() else None

    async def put(self, key: str, value: bytes, ttl: float) -> None:
        self._sweep()
        expiry = self._clock() + ttl
        self._entries[key] = value, expiry
        heapq.heappush(self._expiries, (expiry, key))
        self._tell(key)

    async def claim(self, key: str, ttl: float) -> bool:
        if await self.get(key) is not None:
            return False
        await self.put(key, b"", ttl)
        return True

    async def replace(self, key: str, expected: bytes, value: bytes, ttl: float) -> bool:
        if await self.get(key) not in {expected, value}:
            return False
        await self.put(key, value, ttl)
        return True

    async def drop(self, key: str) -> bool:
        entry = self._entries.pop(key, None)
        self._tell(key)
        return entry is not None and entry[1] > self._clock()

    async def lease(self, key: str, holder: str, ttl: float) -> bool:
        if await self.get(key) not in {None, holder.encode()}:
            return False
        await self.put(key, holder.encode(), ttl)
        return True

    async def release(self, key: str, holder: str) -> None:
        if await self.get(key) == holder.encode():
            await self.drop(key)

    async def add(self, key: str, member: str, ttl: float) -> None:
        self._sweep()
        expiry = self._clock() + ttl
        self._sets.setdefault(key, {})[member] = expiry
        heapq.heappush(self._expiries, (expiry, key))

    async def members(self, key: str) -> list[str]:
        now = self._clock()
        return [member for member, expiry in self._sets.get(key, {}).items() if expiry > now]

    async def remove(self, key: str, member: str) -> None:
        self._sets.get(key, {}).pop(member, None)

    async def ping(self) -> None:
        return None

    async def close(self) -> None:
        self._entries.clear()
        self._sets.clear()
        self._expiries.clear()

    def __len__(self) -> int:
        self._sweep()
        return len(self._entries)

    def _tell(self, key: str) -> None:
        for watcher in self._watchers:
            watcher.changed(key)

    def _sweep(self) -> None:
        """Forget what is over. A key that was written again has its later expiry further back in the queue."""
        now = self._clock()
        while self._expiries and self._expiries[0][0] <= now:
            _, key = heapq.heappop(self._expiries)
            if key in self._entries and self._entries[key][1] <= now:
                del self._entries[key]
            if key in self._sets:
                self._sets[key] = {member: expiry for member, expiry in self._sets[key].items() if expiry > now}
                if not self._sets[key]:
                    del self._sets[key]
