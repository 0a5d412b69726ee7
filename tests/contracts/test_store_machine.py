"""Whatever is done to a store, in whatever order: it answers as a few dicts would, and a cache never shows the past."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from oidc_proxy.server.cache import Cache
from oidc_proxy.server.store import Store
from oidc_proxy.server.store.redis import RedisStore
from tests.contracts.conftest import SHARED, Places, memory_shelf

pytestmark = pytest.mark.slow

T = TypeVar("T")

KEYS = st.sampled_from(["a", "b", "{a}c"])
VALUES = st.sampled_from([b"", b"1", b"2", b"\xff" * 3000])
NAMES = st.sampled_from(["ann", "bob"])
TTLS = st.sampled_from([60.0, 60.0, 60.0, 0.0])


class Bench:
    """Two processes' views of one store, the loop that both run on, and how to hurt them."""

    def __init__(self, topology: str, places: Places | None) -> None:
        self._topology, self._places = topology, places
        # The loop turns between the steps, too, as a gateway's does.
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.here, self.there, self._later = self.run(self._open())
        self.cache: Cache[bytes] = Cache(entries=100, ttl=1e9, grace=0, clock=lambda: 0.0)
        self.here.watch(self.cache)
        self.examples = 0

    @property
    def can_be_cut(self) -> bool:
        return self._places is not None

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    def cut(self) -> None:
        assert self._places is not None
        self._places.cut(self._topology)

    def wait(self) -> None:
        """Until what has no time to live is over."""
        self.run(self._later(0.005))

    async def look(self, key: str) -> bytes | None:
        """Read as the gateway does, once it has heard of everything that has happened.

        Announcements stand before later answers on the same connection: after an answer, all have been heard.
        """
        await self.here.ping()
        value = self.cache.find(key)
        if value is None:
            reading = self.cache.begin(key)
            value = await self.here.get(key)
            self.cache.finish(reading, value)
        return value

    def close(self) -> None:
        self.run(self.here.close())
        self.run(self.there.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _open(self) -> tuple[Store, Store, Any]:
        if self._places is None:
            shelf = memory_shelf()
            return shelf.store, shelf.store, shelf.wait
        options = self._places.settings(self._topology)
        return RedisStore(options), RedisStore(options), asyncio.sleep


class StoreMachine(RuleBasedStateMachine):
    def __init__(self, bench: Bench) -> None:
        super().__init__()
        self.bench = bench
        bench.examples += 1
        self.entries: dict[str, bytes] = {}
        self.holders: dict[str, str] = {}
        self.sets: dict[str, set[str]] = {}

    def key(self, name: str) -> str:
        return f"{self.bench.examples}:{name}"

    # ── entries ──

    @rule(key=KEYS, value=VALUES, ttl=TTLS)
    def put(self, key: str, value: bytes, ttl: float) -> None:
        self.bench.run(self.bench.there.put(self.key(key), value, ttl))
        self._written(key, value, ttl)

    @rule(key=KEYS, value=VALUES, ttl=TTLS, right=st.booleans(), guess=VALUES)
    def replace(self, key: str, value: bytes, ttl: float, right: bool, guess: bytes) -> None:
        expected = self.entries.get(key, guess) if right else guess
        written = self.bench.run(self.bench.there.replace(self.key(key), expected, value, ttl))
        assert written == (key in self.entries and self.entries[key] in {expected, value})
        if written:
            self._written(key, value, ttl)

    @rule(key=KEYS, here=st.booleans())
    def drop(self, key: str, here: bool) -> None:
        store = self.bench.here if here else self.bench.there
        assert self.bench.run(store.drop(self.key(key))) == (self.entries.pop(key, None) is not None)

    @rule(key=KEYS)
    def get(self, key: str) -> None:
        assert self.bench.run(self.bench.there.get(self.key(key))) == self.entries.get(key)

    def _written(self, key: str, value: bytes, ttl: float) -> None:
        self.entries[key] = value
        if ttl == 0:
            self.bench.wait()
            del self.entries[key]
            self.bench.run(self.bench.there.get(self.key(key)))  # Redis announces an expiry when it notices it

    # ── leases and claims ──

    @rule(key=KEYS, holder=NAMES)
    def lease(self, key: str, holder: str) -> None:
        got = self.bench.run(self.bench.there.lease(self.key(f"lease:{key}"), holder, 60))
        assert got == (self.holders.get(key, holder) == holder)
        self.holders.setdefault(key, holder)

    @rule(key=KEYS, holder=NAMES)
    def release(self, key: str, holder: str) -> None:
        self.bench.run(self.bench.here.release(self.key(f"lease:{key}"), holder))
        if self.holders.get(key) == holder:
            del self.holders[key]

    @rule(key=KEYS)
    def claim(self, key: str) -> None:
        """A claim is a lease that nobody can renew."""
        got = self.bench.run(self.bench.there.claim(self.key(f"lease:{key}"), 60))
        assert got == (key not in self.holders)
        self.holders.setdefault(key, "nobody")

    # ── sets ──

    @rule(key=KEYS, member=NAMES, ttl=TTLS)
    def add(self, key: str, member: str, ttl: float) -> None:
        self.bench.run(self.bench.there.add(self.key(f"set:{key}"), member, ttl))
        self.sets.setdefault(key, set()).add(member)
        if ttl == 0:
            self.bench.wait()
            self.sets[key].discard(member)

    @rule(key=KEYS, member=NAMES)
    def remove(self, key: str, member: str) -> None:
        self.bench.run(self.bench.here.remove(self.key(f"set:{key}"), member))
        self.sets.get(key, set()).discard(member)

    @rule(key=KEYS)
    def members(self, key: str) -> None:
        assert set(self.bench.run(self.bench.here.members(self.key(f"set:{key}")))) == self.sets.get(key, set())

    # ── faults ──

    @precondition(lambda self: self.bench.can_be_cut)
    @rule()
    def cut(self) -> None:
        self.bench.cut()

    @invariant()
    def a_gateway_sees_what_is(self) -> None:
        """And has it in its cache, from now until it changes."""
        for key in ("a", "b", "{a}c"):
            assert self.bench.run(self.bench.look(self.key(key))) == self.entries.get(key)


@pytest.fixture(params=["memory", *SHARED])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    opened = Bench(request.param, None if request.param == "memory" else request.getfixturevalue("places"))
    yield opened
    opened.close()


def test_any_order_of_anything(bench: Bench) -> None:
    limits = settings(
        max_examples=25,
        stateful_step_count=40,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(lambda: StoreMachine(bench), settings=limits)
    if bench.can_be_cut:
        assert bench.cache.losses
    assert bench.cache.hits > 100
    assert bench.cache.invalidations > 50
