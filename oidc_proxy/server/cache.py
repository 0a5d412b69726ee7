"""What this process has read of the store, kept for as long as nobody changes it.

The store announces every change to what was read (``Watcher``). Three things would break the promise that nothing stale
is served, and each has its counterpart here:

* An entry is changed while it is being read: the announcement comes before there is anything to forget. So a reading
  that was under way at that moment is not kept.
* Announcements stop, because the connection that brings them was lost. Then every entry is *unconfirmed*: it is read
  again before it is used, and serves as it is only while the store cannot be asked at all, and not for long.
* Anything else that nobody thought of: no entry is believed for longer than ``ttl``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from ..values import Instant

T = TypeVar("T")


@dataclass(slots=True)
class _Entry(Generic[T]):
    value: T
    epoch: int
    read_at: Instant


@dataclass(slots=True, eq=False)
class Reading:
    """A look into the store that is under way."""

    key: str
    epoch: int
    spoiled: bool = False


class Cache(Generic[T]):
    """Bounded in ``entries``; times are in seconds of ``clock``."""

    def __init__(self, *, entries: int, ttl: float, grace: float, clock: Callable[[], Instant]) -> None:
        self._most, self._ttl, self._grace, self._clock = entries, ttl, grace, clock
        self._entries: dict[str, _Entry[T]] = {}
        self._epoch = 0
        self._lost_at: dict[int, Instant] = {}
        self._readings: dict[str, list[Reading]] = {}
        self._waiting: dict[str, list[asyncio.Future[None]]] = {}
        self.on_change: Callable[[str], None] | None = None
        """Also told of every change; for what is open on behalf of a session."""
        self.hits = self.misses = self.invalidations = self.losses = 0
        """How often each has happened since the start."""

    def __len__(self) -> int:
        return len(self._entries)

    # ── as the store's watcher ──

    def changed(self, key: str) -> None:
        """Forget the entry, and do not keep what is being read of it."""
        self.invalidations += 1
        self._entries.pop(key, None)
        for reading in self._readings.get(key, ()):
            reading.spoiled = True
        for waiter in self._waiting.pop(key, ()):
            if not waiter.done():
                waiter.set_result(None)
        if self.on_change is not None:
            self.on_change(key)

    def lost(self) -> None:
        """From now on, changes may have gone unseen."""
        self.losses += 1
        now = self._clock()
        self._lost_at[self._epoch] = now
        self._lost_at = {epoch: at for epoch, at in self._lost_at.items() if now - at <= self._grace}
        self._epoch += 1

    def forget(self, key: str) -> None:
        """Read the entry again before it is used."""
        self._entries.pop(key, None)

    # ── use ──

    def find(self, key: str) -> T | None:
        """The value, if it is certainly what the store has."""
        entry = self._entries.get(key)
        if entry is None or entry.epoch != self._epoch or self._clock() - entry.read_at >= self._ttl:
            return None
        self.hits += 1
        return entry.value

    def find_unconfirmed(self, key: str) -> T | None:
        """The value, if it was certain until a moment ago; for when the store cannot be asked."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        certain_until = min(self._lost_at.get(entry.epoch, self._clock()), entry.read_at + self._ttl)
        if entry.epoch != self._epoch and entry.epoch not in self._lost_at:
            return None
        return entry.value if self._clock() - certain_until < self._grace else None

    def begin(self, key: str) -> Reading:
        """To be called before the store is asked."""
        self.misses += 1
        reading = Reading(key, self._epoch)
        self._readings.setdefault(key, []).append(reading)
        return reading

    def finish(self, reading: Reading, value: T | None) -> None:
        """To be called after, with what was found; it is kept unless it may have changed meanwhile."""
        readings = self._readings[reading.key]
        readings.remove(reading)
        if not readings:
            del self._readings[reading.key]
        if value is None or reading.spoiled or reading.epoch != self._epoch:
            return
        self._entries.pop(reading.key, None)
        if len(self._entries) >= self._most:
            del self._entries[next(iter(self._entries))]
        self._entries[reading.key] = _Entry(value, self._epoch, self._clock())

    async def wait_for_change(self, key: str, timeout: float) -> None:  # noqa: ASYNC109
        """Return when the entry is said to have changed, or after ``timeout`` seconds."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, []).append(waiter)
        try:
            await asyncio.wait([waiter], timeout=timeout)
        finally:
            waiters = self._waiting.get(key, [])
            if waiter in waiters:
                waiters.remove(waiter)
                if not waiters:
                    del self._waiting[key]
