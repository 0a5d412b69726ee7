"""What a process has read of the store: never shown when it may be of the past."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from oidc_proxy.server.cache import Cache
from oidc_proxy.server.store import MemoryStore


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def cache_of(clock: Clock, **more: Any) -> Cache[str]:
    return Cache(**{"entries": 100, "ttl": 300, "grace": 60, "clock": clock, **more})


@pytest.fixture
def cache(clock: Clock) -> Cache[str]:
    return cache_of(clock)


def read(cache: Cache[str], key: str, value: str | None) -> None:
    cache.finish(cache.begin(key), value)


def test_what_was_read_is_found(cache: Cache[str]) -> None:
    assert cache.find("key") is None
    read(cache, "key", "value")
    assert cache.find("key") == "value"
    assert cache.find("other") is None
    read(cache, "key", "newer")
    assert cache.find("key") == "newer"
    assert len(cache) == 1


def test_what_is_not_there_is_not_kept(cache: Cache[str]) -> None:
    read(cache, "key", None)
    assert len(cache) == 0


# ── the race of a reading and its announcement ──


@pytest.mark.parametrize("steps", ["announce read", "read announce"])
def test_ss10_what_changed_while_it_was_read_is_not_kept(cache: Cache[str], steps: str) -> None:
    """Whichever of the two arrives first, the old value is not what is found afterwards."""
    reading = cache.begin("key")
    for step in steps.split():
        if step == "announce":
            cache.changed("key")
        else:
            cache.finish(reading, "of the past")
    assert cache.find("key") is None
    assert cache.find_unconfirmed("key") is None
    read(cache, "key", "new")
    assert cache.find("key") == "new"


def test_ss10_the_change_of_another_key_spoils_nothing(cache: Cache[str]) -> None:
    reading = cache.begin("key")
    cache.changed("other")
    cache.finish(reading, "value")
    assert cache.find("key") == "value"


def test_ss10_of_two_readings_the_one_begun_after_the_change_is_kept(cache: Cache[str]) -> None:
    before = cache.begin("key")
    cache.changed("key")
    after = cache.begin("key")
    cache.finish(after, "new")
    cache.finish(before, "of the past")
    assert cache.find("key") == "new"


def test_ss10_two_readings_at_once_are_both_spoiled(cache: Cache[str]) -> None:
    readings = [cache.begin("key") for _ in range(2)]
    cache.changed("key")
    for reading in readings:
        cache.finish(reading, "of the past")
    assert len(cache) == 0


class SlowStore(MemoryStore):
    """Answers what was true when it was asked, when it is told to."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.asked, self.answer = asyncio.Event(), asyncio.Event()

    async def get(self, key: str) -> bytes | None:
        value = await super().get(key)
        self.asked.set()
        await self.answer.wait()
        return value


async def test_ss10_the_race_with_a_store(clock: Clock) -> None:
    """The session is read, ended by another while the answer is under way, and the answer arrives last."""
    store, cache = SlowStore(clock), cache_of(clock)
    store.watch(cache)
    await store.put("session", b"alive", 60)

    async def look() -> bytes | None:
        reading = cache.begin("session")
        value = await store.get("session")
        cache.finish(reading, value and value.decode())
        return value

    looking = asyncio.create_task(look())
    await store.asked.wait()
    assert await store.drop("session")
    store.answer.set()
    assert await looking == b"alive", "it was, when the store was asked"
    assert cache.find("session") is None
    assert await look() is None
    assert cache.find_unconfirmed("session") is None


# ── announcements stop ──


def test_ss11_after_a_loss_nothing_is_found_until_it_was_read_again(cache: Cache[str]) -> None:
    read(cache, "key", "value")
    cache.lost()
    assert cache.find("key") is None
    assert cache.find_unconfirmed("key") == "value"
    read(cache, "key", "newer")
    assert cache.find("key") == "newer"


def test_ss11_what_was_being_read_when_the_link_broke_is_not_kept(cache: Cache[str]) -> None:
    reading = cache.begin("key")
    cache.lost()
    cache.finish(reading, "perhaps of the past")
    assert cache.find("key") is None


def test_ss11_grace_counts_from_the_loss(cache: Cache[str], clock: Clock) -> None:
    read(cache, "key", "value")
    clock.now += 200
    cache.lost()
    clock.now += 59
    assert cache.find_unconfirmed("key") == "value"
    clock.now += 1
    assert cache.find_unconfirmed("key") is None


def test_ss11_every_further_loss_leaves_the_grace_of_the_first(cache: Cache[str], clock: Clock) -> None:
    read(cache, "old", "1")
    for _ in range(5):
        cache.lost()
        clock.now += 11
    read(cache, "new", "2")
    cache.lost()
    assert cache.find_unconfirmed("old") == "1"
    clock.now += 6
    assert cache.find_unconfirmed("old") is None
    assert cache.find_unconfirmed("new") == "2"
    for _ in range(1000):
        cache.lost()
        clock.now += 61
    assert cache.find_unconfirmed("new") is None
    assert len(cache._lost_at) == 1


def test_ss11_no_grace_is_none(clock: Clock) -> None:
    cache = cache_of(clock, grace=0)
    read(cache, "key", "value")
    cache.lost()
    assert cache.find_unconfirmed("key") is None


def test_ss11_what_ended_is_not_served_in_the_grace(cache: Cache[str]) -> None:
    read(cache, "key", "value")
    cache.lost()
    cache.changed("key")
    assert cache.find_unconfirmed("key") is None
    read(cache, "key", "value")
    cache.forget("key")
    assert cache.find("key") is None
    assert cache.find_unconfirmed("key") is None
    assert cache.find_unconfirmed("never read") is None


# ── bounds ──


def test_no_entry_is_believed_for_longer_than_the_safety_ttl(cache: Cache[str], clock: Clock) -> None:
    read(cache, "key", "value")
    clock.now += 299
    assert cache.find("key") == "value"
    clock.now += 1
    assert cache.find("key") is None
    assert cache.find_unconfirmed("key") == "value", "the store may be away just now"
    clock.now += 60
    assert cache.find_unconfirmed("key") is None


def test_grace_after_the_safety_ttl_counts_from_there(cache: Cache[str], clock: Clock) -> None:
    read(cache, "key", "value")
    clock.now += 330
    cache.lost()
    clock.now += 29
    assert cache.find_unconfirmed("key") == "value"
    clock.now += 1
    assert cache.find_unconfirmed("key") is None


def test_the_oldest_reading_makes_room(clock: Clock) -> None:
    cache = cache_of(clock, entries=3)
    for key in "abc":
        read(cache, key, key)
    read(cache, "a", "a again")
    read(cache, "d", "d")
    assert [cache.find(key) for key in "abcd"] == ["a again", None, "c", "d"]
    for number in range(1000):
        read(cache, str(number), "x")
    assert len(cache) == 3


def test_readings_leave_nothing_behind(cache: Cache[str]) -> None:
    readings = [cache.begin("key") for _ in range(10)]
    for reading in readings:
        cache.finish(reading, None)
    assert not cache._readings


def test_what_happens_is_counted(cache: Cache[str]) -> None:
    cache.find("key")
    read(cache, "key", "value")
    cache.find("key")
    cache.find("key")
    cache.changed("key")
    cache.lost()
    assert (cache.hits, cache.misses, cache.invalidations, cache.losses) == (2, 1, 1, 1)


# ── those who wait for a change, or are told of each ──


def test_whoever_asked_is_told_of_every_change(cache: Cache[str]) -> None:
    told: list[str] = []
    cache.changed("before")
    cache.on_change = told.append
    cache.changed("key")
    assert told == ["key"]


async def test_f63_waiting_ends_with_the_change(cache: Cache[str]) -> None:
    waiting = [asyncio.create_task(cache.wait_for_change("key", 60)) for _ in range(3)]
    other = asyncio.create_task(cache.wait_for_change("other", 60))
    await asyncio.sleep(0)
    waiting[2].cancel()
    cache.changed("key")
    async with asyncio.timeout(1):
        await asyncio.gather(*waiting[:2])
    assert not other.done()
    other.cancel()
    await asyncio.gather(other, waiting[2], return_exceptions=True)
    assert not cache._waiting


async def test_f63_whoever_stops_waiting_takes_nobody_along(cache: Cache[str]) -> None:
    impatient = asyncio.create_task(cache.wait_for_change("key", 0.01))
    patient = asyncio.create_task(cache.wait_for_change("key", 60))
    await impatient
    cache.changed("key")
    async with asyncio.timeout(1):
        await patient


async def test_f63_waiting_ends_with_the_time(cache: Cache[str]) -> None:
    async with asyncio.timeout(1):
        await cache.wait_for_change("key", 0.01)
    assert not cache._waiting
