"""A constant load on signed-in sessions while the store or the provider is away, and what its users see."""

from __future__ import annotations

import asyncio
import itertools
import random
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.real.redis import RedisCluster, RedisSentinels, RedisServer
from tests.real.workers import NAVIGATION, Fleet, running_fleet

RATE, SESSIONS = 200, 50
BEFORE, AFTER = 3.0, 12.0
"""Seconds of load before the fault and after its end."""

TOKEN_LIFE = range(45, 90)
"""Seconds for which access tokens live; they are renewed 30 s before their end, so renewals go on all the time."""

Fault = Callable[[Fleet], Awaitable[float]]
"""Makes the fault and ends it; the moment from which things could be well again."""


@dataclass
class Seen:
    """What the users saw. ``answers`` has moment, status and seconds of each; status 0 is no answer at all."""

    name: str
    answers: list[tuple[float, int, float]] = field(default_factory=list)
    lost: int = 0
    over_at: float = 0

    def row(self) -> str:
        count = Counter(status for _, status, _ in self.answers)
        other = sum(count.values()) - sum(count[status] for status in (200, 302, 401, 500, 503))
        bad = [at for at, status, _ in self.answers if status != 200 and at > self.over_at]
        recovery = f"{max(bad) - self.over_at:.1f} s" if bad else "0 s"
        longest = max(seconds for _, _, seconds in self.answers)
        cells = [self.name, len(self.answers), self.lost, count[500], count[302] + count[401], count[503], other]
        return "| " + " | ".join(map(str, [*cells, recovery, f"{longest:.1f} s"])) + " |"


HEADING = """\
| fault | requests | sessions lost | 500 | redirects to login | 503 | other | recovery | longest answer |
|---|---|---|---|---|---|---|---|---|"""


async def load(fleet: Fleet, cookies: list[str], seen: Seen, stop: asyncio.Event) -> None:
    """Requests at a constant rate, whatever becomes of those before."""
    under_way: set[asyncio.Task[None]] = set()
    turns, began = itertools.cycle(cookies), time.monotonic()

    async def one(cookie: str) -> None:
        at = time.monotonic()
        try:
            async with asyncio.timeout(30):
                status = (await fleet.ask(cookie, headers=NAVIGATION)).status
        except (OSError, TimeoutError):
            status = 0
        seen.answers.append((time.monotonic(), status, time.monotonic() - at))

    for number in itertools.count():
        if stop.is_set():
            break
        await asyncio.sleep(max(0.0, began + number / RATE - time.monotonic()))
        task = asyncio.create_task(one(next(turns)))
        under_way.add(task)
        task.add_done_callback(under_way.discard)
    await asyncio.gather(*under_way)


async def measure(name: str, store: Mapping[str, Any], fault: Fault) -> Seen:
    """One row of the table."""
    seen = Seen(name)
    with tempfile.TemporaryDirectory() as folder:
        async with running_fleet(store, Path(folder)) as fleet:
            cookies = []
            for _ in range(SESSIONS):
                life = random.choice(TOKEN_LIFE)
                fleet.provider.lifetimes = replace(fleet.provider.lifetimes, access_token=life)
                cookies.append(await fleet.sign_in(random.choice(["ann", "bob"])))
            for cookie in cookies:
                await fleet.warm(cookie)
            stop = asyncio.Event()
            loading = asyncio.create_task(load(fleet, cookies, seen, stop))
            await asyncio.sleep(BEFORE)
            seen.over_at = await fault(fleet)
            await asyncio.sleep(AFTER)
            stop.set()
            await loading
            for cookie in cookies:
                seen.lost += (await fleet.ask(cookie, headers=NAVIGATION)).status in {302, 401}
    return seen


# ── the faults ──


def killed(server: RedisServer, seconds: float) -> Fault:
    async def fault(fleet: Fleet) -> float:
        await asyncio.to_thread(server.kill)
        await asyncio.sleep(seconds)
        await server.restart()
        return time.monotonic()

    return fault


def paused(server: RedisServer, seconds: float) -> Fault:
    async def fault(fleet: Fleet) -> float:
        server.pause()
        await asyncio.sleep(seconds)
        server.resume()
        return time.monotonic()

    return fault


def replaced(find: Callable[[], RedisServer]) -> Fault:
    """A master dies for good. Things could be well as soon as its replica has taken over: the clock runs from here."""

    async def fault(fleet: Fleet) -> float:
        server = await asyncio.to_thread(find)
        await asyncio.to_thread(server.kill)
        at = time.monotonic()
        await asyncio.sleep(12)
        return at

    return fault


def without_provider(seconds: float) -> Fault:
    async def fault(fleet: Fleet) -> float:
        await fleet.provider.close()
        await asyncio.sleep(seconds)
        await fleet.provider.open()
        return time.monotonic()

    return fault


@asynccontextmanager
async def _server(**options: Any) -> AsyncIterator[RedisServer]:
    server = await asyncio.to_thread(lambda: RedisServer.launch(persistent=True, **options))
    try:
        yield server
    finally:
        server.close()


@asynccontextmanager
async def _closing(launch: Callable[[], Any]) -> AsyncIterator[Any]:
    servers = await asyncio.to_thread(launch)
    try:
        yield servers
    finally:
        await asyncio.to_thread(servers.close)


async def table(outage: float, provider_outage: float) -> AsyncIterator[str]:
    """The rows, each as soon as it is known."""
    yield HEADING

    async def with_redis(name: str, fault: Callable[[RedisServer], Fault]) -> str:
        async with _server() as server:
            store = {"type": "redis", "url": server.url}
            return (await measure(name, store, fault(server))).row()

    yield await with_redis(f"Redis killed for {outage:g} s", lambda server: killed(server, outage))
    yield await with_redis(f"Redis stopped (SIGSTOP) for {outage:g} s", lambda server: paused(server, outage))
    async with _closing(RedisSentinels.launch) as sentinels:
        store = {
            "type": "redis",
            "url": sentinels.servers[0].url,
            "sentinel": {"master": sentinels.NAME, "addresses": sentinels.addresses},
        }
        yield (await measure("Sentinel: master killed", store, replaced(sentinels.master))).row()
    async with _closing(lambda: RedisCluster.launch(replicas=1)) as cluster:
        store = {"type": "redis", "url": cluster.masters[1].url, "cluster": True}
        yield (await measure("Cluster: a master killed", store, replaced(lambda: cluster.masters[0]))).row()
    yield await with_redis(f"provider away for {provider_outage:g} s", lambda _: without_provider(provider_outage))
