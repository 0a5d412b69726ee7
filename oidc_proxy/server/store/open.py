"""From settings to a store."""

from __future__ import annotations

from collections.abc import Callable

from ...values import Instant
from .memory import MemoryStore
from .port import Store
from .settings import MemoryStoreSettings, RedisStoreSettings


def open_store(settings: MemoryStoreSettings | RedisStoreSettings, clock: Callable[[], Instant]) -> Store:
    """The store that the settings name. Nothing is connected yet."""
    match settings:
        case MemoryStoreSettings():
            return MemoryStore(clock)
        case RedisStoreSettings():
            # Imported here because a gateway with the memory store need not pay for redis.
            from .redis import RedisStore

            return RedisStore(settings)
