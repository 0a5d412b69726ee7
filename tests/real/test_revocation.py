"""An administrator ends a session: every process refuses it at once, although none asks the store (F66, F138)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from tests.real.redis import RedisServer
from tests.real.workers import Fleet, Worker, running_fleet, session_id

pytestmark = pytest.mark.slow

TRIALS = 50
MOST = 1
"""Requests that a process may still let through, of those that were sent after the administrator had his answer, in 99
of 100 times. Counted rather than timed: what a process hears of Redis comes in turn with what it is asked."""

BEATS = {"ping", "hello", "role", "info", "client", "client|id", "client|tracking", "config|resetstat", "subscribe"}
"""Commands that keep a connection, and this test's own."""


@pytest.fixture
async def fleet(redis_server: RedisServer, tmp_path: Path) -> AsyncIterator[Fleet]:
    async with running_fleet({"type": "redis", "url": redis_server.url}, tmp_path) as running:
        yield running


class Visitor:
    """Asks a worker without a pause until it refuses the session.

    ``late`` is how many requests were let through that were sent after it had ``ended``.
    """

    def __init__(self, worker: Worker, cookies: str) -> None:
        self.worker, self.cookies = worker, cookies
        self.answered = self.late = 0
        self.ended = False
        self.refused_at = 0.0

    async def visit(self) -> None:
        async with asyncio.timeout(30):
            while True:
                late = self.ended
                status = (await self.worker.send(self.cookies)).status
                if status != 200:
                    assert status == 401
                    self.refused_at = time.monotonic()
                    return
                self.answered += 1
                self.late += late


async def ended(fleet: Fleet, trial: int) -> tuple[list[Visitor], float]:
    """An administrator ends a session at one of the workers: who was visiting each of them, and when that was asked."""
    cookies = await fleet.sign_in()
    visitors = [Visitor(worker, cookies) for worker in fleet.workers]
    visits = [asyncio.create_task(visitor.visit()) for visitor in visitors]
    while not all(visitor.answered for visitor in visitors):
        await asyncio.sleep(0.001)
    began = time.monotonic()
    await fleet.workers[trial % len(fleet.workers)].administer("DELETE", f"/sessions/{session_id(cookies)}")
    for visitor in visitors:
        visitor.ended = True
    await asyncio.gather(*visits)
    return visitors, began


def percentile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


async def refused(worker: Worker, cookies: str) -> bool:
    """Whether the worker refuses the session, once it has had the requests that it may still let through."""
    statuses = [(await worker.send(cookies)).status for _ in range(MOST + 1)]
    return statuses[-1] == 401


async def test_f66_every_process_refuses_at_once(fleet: Fleet) -> None:
    late = sorted([visitor.late for trial in range(TRIALS) for visitor in (await ended(fleet, trial))[0]])
    assert len(late) == TRIALS * len(fleet.workers)
    assert percentile(late, 0.99) <= MOST, late[-5:]


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
    assert all([await refused(worker, cookies) for worker in fleet.workers])


async def test_f265_all_sessions_of_a_user_end_on_every_process(fleet: Fleet) -> None:
    hers = [await fleet.sign_in() for _ in range(3)]
    bob = await fleet.sign_in("bob")
    for cookies in (*hers, bob):
        await fleet.warm(cookies)
    said = await fleet.workers[1].administer("DELETE", f"/sessions?sub={fleet.provider.users['ann'].sub}")
    assert set(said["ended"]) == {session_id(cookies) for cookies in hers}
    for worker in fleet.workers:
        assert all([await refused(worker, cookies) for cookies in hers])
        assert (await worker.send(bob)).status == 200


async def many(worker: Worker, cookies: str, count: int) -> int:
    """So many requests, one after the other over four connections."""

    async def some() -> int:
        for _ in range(count // 4 + 1):
            assert (await worker.send(cookies)).status == 200
        return count // 4 + 1

    return sum(await asyncio.gather(*(some() for _ in range(4))))
