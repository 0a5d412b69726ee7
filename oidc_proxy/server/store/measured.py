"""Any store, and how often and how long it is asked. Requests that are served from memory do not come by here."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from ...errors import StoreFault
from .port import Store, Watcher

T = TypeVar("T")
Observe = Callable[[str, str, float], None]
"""Is told the operation, `success` or `failure`, and the seconds that it took."""


class MeasuredStore:
    """The store port around a store."""

    def __init__(self, store: Store, observe: Observe) -> None:
        self._store, self._observe = store, observe

    @property
    def linked(self) -> bool:
        return self._store.linked

    def watch(self, watcher: Watcher) -> None:
        self._store.watch(watcher)

    async def get(self, key: str) -> bytes | None:
        return await self._timed("get", self._store.get(key))

    async def put(self, key: str, value: bytes, ttl: float) -> None:
        await self._timed("put", self._store.put(key, value, ttl))

    async def claim(self, key: str, ttl: float) -> bool:
        return await self._timed("claim", self._store.claim(key, ttl))

    async def replace(self, key: str, expected: bytes, value: bytes, ttl: float) -> bool:
        return await self._timed("replace", self._store.replace(key, expected, value, ttl))

    async def drop(self, key: str) -> bool:
        return await self._timed("drop", self._store.drop(key))

    async def lease(self, key: str, holder: str, ttl: float) -> bool:
        return await self._timed("lease", self._store.lease(key, holder, ttl))

    async def release(self, key: str, holder: str) -> None:
        await self._timed("release", self._store.release(key, holder))

    async def add(self, key: str, member: str, ttl: float) -> None:
        await self._timed("add", self._store.add(key, member, ttl))

    async def members(self, key: str) -> list[str]:
        return await self._timed("members", self._store.members(key))

    async def remove(self, key: str, member: str) -> None:
        await self._timed("remove", self._store.remove(key, member))

    async def ping(self) -> None:
        await self._timed("ping", self._store.ping())

    async def close(self) -> None:
        await self._store.close()

    async def _timed(self, operation: str, work: Awaitable[T]) -> T:
        began = time.perf_counter()
        result = "success"
        try:
            return await work
        except StoreFault:
            result = "failure"
            raise
        finally:
            self._observe(operation, result, time.perf_counter() - began)
