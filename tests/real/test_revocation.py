"""An administrator ends a session: every process refuses it at once, although none asks the store (F66, F138)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.real.redis import RedisServer
from tests.real.workers import Fleet, Worker, running_fleet, session_id

pytestmark = pytest.mark.slow

TRIALS = 50
LONGEST = 0.05
"""Seconds from the administrator's request to the first refusal, for 99 of 100."""

BEATS = {"ping", "hello", "role", "info", "client", "client|id", "client|tracking", "config|resetstat", "subscribe"}
"""Commands that keep a connection, and this test's own."""


@pytest.fixture
async def fleet(redis_server: RedisServer, tmp_path: Path) -> AsyncIterator[Fleet]:
    async with running_fleet({"type": "redis", "url": redis_server.url}, tmp_path) as running:
        yield running


async def first_refusal(worker: Worker, cookies: str) -> float:
    """When the first answer came that refuses the session; it is asked for without a pause."""
    while True:
        status = (await worker.send(cookies)).status
        if status != 200:
            assert status == 401
            return time.monotonic()


async def revocation_times(fleet: Fleet, trials: int) -> list[float]:
    """Seconds from the administrator's request to the first refusal, for each worker and trial."""
    taken = []
    for trial in range(trials):
        cookies = await fleet.sign_in()
        await fleet.warm(cookies)
        watching = [asyncio.create_task(first_refusal(worker, cookies)) for worker in fleet.workers]
        await asyncio.sleep(0.01)
        began = time.monotonic()
        await fleet.workers[trial % len(fleet.workers)].administer("DELETE", f"/sessions/{session_id(cookies)}")
        taken += [refused - began for refused in await asyncio.gather(*watching)]
    return sorted(taken)


def percentile(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


async def test_f66_every_process_refuses_at_once(fleet: Fleet) -> None:
    taken = await revocation_times(fleet, TRIALS)
    assert len(taken) == TRIALS * len(fleet.workers)
    assert percentile(taken, 0.99) <= LONGEST, [round(seconds * 1000, 1) for seconds in taken[-5:]]


async def test_f138_requests_ask_the_store_nothing_and_an_end_is_still_seen(
    fleet: Fleet, redis_server: RedisServer
) -> None:
    cookies = await fleet.sign_in()
    await fleet.warm(cookies)
    before = await redis_server.command_stats()
    counts = await asyncio.gather(*(many(worker, cookies, 3334) for worker in fleet.workers))
    after = await redis_server.command_stats()
    assert sum(counts) >= 10_000
    asked = {name: count - before.get(name, 0) for name, count in after.items()}
    assert {name: count for name, count in asked.items() if count and name not in BEATS} == {}
    assert sum(asked.values()) < 200, "no command at all that there would be one of for each request"
    await fleet.workers[0].administer("DELETE", f"/sessions/{session_id(cookies)}")
    await asyncio.sleep(LONGEST)
    assert [(await worker.send(cookies)).status for worker in fleet.workers] == [401, 401, 401]


async def test_f265_all_sessions_of_a_user_end_on_every_process(fleet: Fleet) -> None:
    hers = [await fleet.sign_in() for _ in range(3)]
    bob = await fleet.sign_in("bob")
    for cookies in (*hers, bob):
        await fleet.warm(cookies)
    said = await fleet.workers[1].administer("DELETE", f"/sessions?sub={fleet.provider.users['ann'].sub}")
    assert set(said["ended"]) == {session_id(cookies) for cookies in hers}
    await asyncio.sleep(LONGEST)
    for worker in fleet.workers:
        assert [(await worker.send(cookies)).status for cookies in (*hers, bob)] == [401, 401, 401, 200]


async def many(worker: Worker, cookies: str, count: int) -> int:
    """So many requests, one after the other over four connections."""

    async def some() -> int:
        for _ in range(count // 4 + 1):
            assert (await worker.send(cookies)).status == 200
        return count // 4 + 1

    return sum(await asyncio.gather(*(some() for _ in range(4))))
