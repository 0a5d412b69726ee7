"""What sessions need of a store.

Every entry has a time to live. A store that cannot be reached raises StoreFault("store_unavailable"): that is never the
same as an entry that is not there.
"""

from __future__ import annotations

from typing import Protocol


class Watcher(Protocol):
    """Is told when what was read may no longer be so. Called from the event loop; must not block."""

    def changed(self, key: str) -> None:
        """The entry was written, dropped or forgotten, by whomever, after it was read here."""

    def lost(self) -> None:
        """From now on changes may go unseen: nothing that was read before may be used without reading it again."""


class Store(Protocol):
    """Bytes by key. ``ttl`` is in seconds; every method that awaits may raise StoreFault."""

    @property
    def linked(self) -> bool:
        """Whether the store is connected, so that changes are announced."""

    def watch(self, watcher: Watcher) -> None:
        """Tell this watcher of every later change to an entry that ``get`` has read."""

    async def get(self, key: str) -> bytes | None:
        """The value, or None when there is none or its time is over."""

    async def put(self, key: str, value: bytes, ttl: float) -> None:
        """Write, whatever was there."""

    async def claim(self, key: str, ttl: float) -> bool:
        """Take the key for as long as ``ttl``. True for the first who asks, False for everyone after."""

    async def replace(self, key: str, expected: bytes, value: bytes, ttl: float) -> bool:
        """Write only if ``expected`` is still there: what was ended meanwhile stays ended.

        True, too, if ``value`` is there already: then this is the repetition of a write whose answer was lost.
        """

    async def drop(self, key: str) -> bool:
        """Remove; whether there was something to remove."""

    async def lease(self, key: str, holder: str, ttl: float) -> bool:
        """Take the key, or keep it if ``holder`` has it. False while somebody else has it."""

    async def release(self, key: str, holder: str) -> None:
        """Give the key up, if ``holder`` has it."""

    async def add(self, key: str, member: str, ttl: float) -> None:
        """Put a member into the set, for as long as ``ttl``."""

    async def members(self, key: str) -> list[str]:
        """Those whose time is not over."""

    async def remove(self, key: str, member: str) -> None:
        """Take a member out of the set."""

    async def ping(self) -> None:
        """Return if the store answers."""

    async def close(self) -> None:
        """Let go of connections."""
