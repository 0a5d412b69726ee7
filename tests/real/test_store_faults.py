"""The store while Redis is hurt: nothing of the past is ever shown, every failure is a StoreFault in time, and it comes
back by itself.

In every story two gateways use the store. One writes ever higher versions of a few keys, the other reads them all the
time, as sessions are read: through a cache that keeps what it has read until the store announces a change.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvloop
from redis.crc import key_slot

from oidc_proxy.errors import StoreFault
from oidc_proxy.server.cache import Cache
from oidc_proxy.server.store import RedisStoreSettings
from oidc_proxy.server.store.redis import RedisStore
from tests.real.redis import RedisCluster, RedisSentinels, RedisServer

pytestmark = pytest.mark.slow

KEYS = [f"key{number}" for number in range(8)]
PATIENCE = 0.5
ANNOUNCED_WITHIN = 0.25
"""Seconds in which an announcement surely arrives on this machine, however busy; on an idle one it takes 0.1 ms."""


class Gateway:
    """A store with the cache before it."""

    def __init__(self, settings: RedisStoreSettings) -> None:
        self.store = RedisStore(settings)
        self.cache: Cache[bytes] = Cache(entries=100, ttl=1e9, grace=0, clock=time.monotonic)
        self.store.watch(self.cache)

    async def look(self, key: str) -> bytes | None:
        value = self.cache.find(key)
        if value is None:
            reading = self.cache.begin(key)
            try:
                value = await self.store.get(key)
            finally:
                self.cache.finish(reading, value)
        return value


class Story:
    """What happens, and what must not have."""

    def __init__(self, settings: RedisStoreSettings) -> None:
        self.reader, self.writer = Gateway(settings), Gateway(settings)
        self.written: dict[str, list[tuple[float, int]]] = {key: [(0.0, -1)] for key in KEYS}
        self.faults: list[str] = []
        self.wrong: list[str] = []
        self.slowest = 0.0
        self.answers = 0
        self.forgetting = False
        self.writing = asyncio.Event()
        self.writing.set()
        self._version = 0

    async def read_on(self, key: str) -> None:
        while True:
            began = time.monotonic()
            value = await self._timed(self.reader.look(key))
            if not isinstance(value, StoreFault):
                self._judge(key, value, began)
            await asyncio.sleep(0.003)

    def _judge(self, key: str, value: bytes | None, asked_at: float) -> None:
        self.answers += 1
        known = max(version for at, version in self.written[key] if at < asked_at - ANNOUNCED_WITHIN or version == -1)
        if value is None:
            if known >= 0 and not self.forgetting:
                self.wrong.append(f"{key} is gone")
            return
        name, _, version = value.decode().partition(":")
        if name != key or int(version) < known:
            self.wrong.append(f"{value!r} for {key}, which is at {known}")

    async def write_on(self) -> None:
        while True:
            for key in KEYS:
                await self.writing.wait()
                self._version += 1
                version = self._version
                done = await self._timed(self.writer.store.put(key, f"{key}:{version}".encode(), 600))
                if not isinstance(done, StoreFault):
                    self.written[key] = [*self.written[key][-200:], (time.monotonic(), version)]
                await asyncio.sleep(0.005)

    async def _timed(self, work: Awaitable[Any]) -> Any:
        began = time.monotonic()
        try:
            return await work
        except StoreFault as fault:
            self.faults.append(fault.detail)
            return fault
        finally:
            self.slowest = max(self.slowest, time.monotonic() - began)

    async def recovery(self, limit: float = 15, stores: list[RedisStore] | None = None) -> float:
        """Seconds until every key can be written, and its change is announced to the reader."""
        began = time.monotonic()
        for key in KEYS:
            async with asyncio.timeout(limit):
                while not await self._goes_round(key):
                    await asyncio.sleep(0.01)
        return time.monotonic() - began

    async def _goes_round(self, key: str) -> bool:
        try:
            probe = f"probe:{key}"
            await self.writer.store.put(probe, b"1", 600)
            await self.reader.look(probe)
            invalidations = self.reader.cache.invalidations
            await self.writer.store.put(probe, b"2", 600)
            for _ in range(100):
                if self.reader.cache.invalidations > invalidations and self.reader.cache.find(probe) is None:
                    return True
                await asyncio.sleep(0.002)
        except StoreFault:
            pass
        return False

    async def quiet(self) -> None:
        """Let replicas hear of everything: what only a dead master knew is lost, and no store can help it."""
        self.writing.clear()
        await asyncio.sleep(0.4)

    @property
    def losses(self) -> int:
        return self.reader.cache.losses


@asynccontextmanager
async def story_of(settings: RedisStoreSettings) -> AsyncIterator[Story]:
    """A story that has begun; at its end, what must hold after each is asked."""
    complaints: list[Any] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    story = Story(settings)
    parts = [asyncio.create_task(story.read_on(key)) for key in KEYS] + [asyncio.create_task(story.write_on())]
    await story.recovery()
    await asyncio.sleep(0.1)
    story.faults.clear()
    try:
        yield story
        await asyncio.sleep(0.1)
    finally:
        dead = [part for part in parts if part.done()]
        for part in parts:
            part.cancel()
        results = await asyncio.gather(*parts, return_exceptions=True)
        await story.reader.store.close()
        await story.writer.store.close()
    left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    gc.collect()
    await asyncio.sleep(0)
    assert story.wrong == []
    assert not dead, results
    assert story.slowest < PATIENCE + 0.4, "a command took longer than it may"
    assert story.answers > 50
    assert not left
    assert complaints == []


@pytest.fixture(autouse=True)
def leaks(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Connections that nobody closed complain when they are collected."""
    found: list[str] = []
    gc.collect()
    monkeypatch.setattr(sys, "unraisablehook", lambda what: found.append(repr(what.exc_value)))
    yield found
    gc.collect()
    # family=1 is a socket file: Docker's client leaves one when it finds no daemon.
    assert [complaint for complaint in found if "family=1" not in complaint] == []


def settings_of(**options: Any) -> RedisStoreSettings:
    quick = {"connect": f"{PATIENCE}s", "command": f"{PATIENCE}s"}
    return RedisStoreSettings.model_validate({"type": "redis", "timeouts": quick, **options})


@pytest.fixture
def report(record_property: Callable[[str, object], None], request: pytest.FixtureRequest) -> Callable[..., None]:
    def tell(**numbers: float) -> None:
        for name, number in numbers.items():
            record_property(name, round(number, 3))
        if request.config.option.verbose > 0:
            with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
                print("   ", request.node.name, {name: round(number, 3) for name, number in numbers.items()})  # noqa: T201

    return tell


# ── one server ──


async def killed(story: Story, server: RedisServer) -> None:
    server.kill()
    await asyncio.sleep(1)
    assert story.faults
    assert not story.reader.store.linked
    await server.restart()


async def killed_and_back_at_once(story: Story, server: RedisServer) -> None:
    server.kill()
    await server.restart()


async def paused(story: Story, server: RedisServer) -> None:
    server.pause()
    await asyncio.sleep(3)
    assert story.faults
    assert not story.reader.store.linked
    server.resume()


async def disconnected(story: Story, server: RedisServer) -> None:
    for _ in range(20):
        await asyncio.to_thread(server.ask, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await asyncio.sleep(0.05)
    assert not story.faults, "the connection is back before anybody gives up"
    assert story.losses > 5


async def flushed(story: Story, server: RedisServer) -> None:
    story.forgetting = True
    await story.quiet()
    await asyncio.to_thread(server.ask, "FLUSHALL")
    await asyncio.sleep(ANNOUNCED_WITHIN)
    assert [story.reader.cache.find(key) for key in KEYS] == [None] * len(KEYS)
    assert [await story.reader.look(key) for key in KEYS] == [None] * len(KEYS)
    story.writing.set()


async def locked(story: Story, server: RedisServer) -> None:
    """Somebody changes the password, and changes it back."""
    with server.held() as held:
        held.execute_command("CONFIG", "SET", "requirepass", "another")
        held.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await asyncio.sleep(1)
        assert "AuthenticationError" in story.faults
        held.execute_command("CONFIG", "SET", "requirepass", "")


async def demoted(story: Story, server: RedisServer) -> None:
    """The server is made a replica of another, and says READONLY."""
    await asyncio.to_thread(server.ask, "REPLICAOF", "127.0.0.1", "1")
    await asyncio.sleep(2)
    assert story.faults
    assert not story.reader.store.linked
    await asyncio.to_thread(server.ask, "REPLICAOF", "NO", "ONE")


async def slow(story: Story, server: RedisServer) -> None:
    """Answers take a while, but not too long: nobody is told that it failed."""
    for _ in range(5):
        await asyncio.to_thread(server.ask, "DEBUG", "SLEEP", "0.25")
    assert not story.faults
    assert story.losses == 0


async def too_slow(story: Story, server: RedisServer) -> None:
    await asyncio.to_thread(server.ask, "DEBUG", "SLEEP", "2")
    assert story.faults


async def full(story: Story, server: RedisServer) -> None:
    """Nothing can be written; what is there can be read."""
    await story.quiet()
    await asyncio.to_thread(server.ask, "CONFIG", "SET", "maxmemory", "1")
    with pytest.raises(StoreFault) as caught:
        await story.writer.store.put("another", b"1", 60)
    assert caught.value.detail == "OutOfMemoryError"
    for key in KEYS:
        assert await story.writer.store.get(key)
    await asyncio.to_thread(server.ask, "CONFIG", "SET", "maxmemory", "0")
    story.writing.set()


Fault = Callable[[Story, RedisServer], Awaitable[None]]
FAULTS: list[Fault] = [
    killed,
    killed_and_back_at_once,
    paused,
    disconnected,
    flushed,
    locked,
    demoted,
    slow,
    too_slow,
    full,
]
WITHOUT_LOSS: list[Fault] = [slow, full]


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_ss5_one_server(
    fault: Fault, loop: Any, redis_servers: Callable[..., RedisServer], report: Callable[..., None]
) -> None:
    server = redis_servers(persistent=True)

    async def tell() -> None:
        async with story_of(settings_of(url=server.url)) as story:
            await fault(story, server)
            report(recovery=await story.recovery(limit=3), faults=len(story.faults), slowest=story.slowest)
            assert bool(story.losses) == (fault not in WITHOUT_LOSS)
            story.faults.clear()
            await asyncio.sleep(0.3)
            assert not story.faults
        assert await connections(server) == 1, "that of this question"

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(tell())


async def connections(server: RedisServer) -> int:
    listed: bytes = await asyncio.to_thread(server.ask, "CLIENT", "LIST", "TYPE", "normal")
    return len(listed.splitlines())


async def test_ss5_closing_in_the_middle_of_anything_leaves_nothing(redis_servers: Callable[..., RedisServer]) -> None:
    server = redis_servers()
    for delay in [0, 0.0003, 0.0006, 0.001, 0.0015, 0.002, 0.003, 0.005, 0.01, 0.02]:
        for hurt in (False, True):
            store = RedisStore(settings_of(url=server.url))
            calls = [asyncio.create_task(store.get(key)) for key in KEYS]
            await asyncio.sleep(delay)
            if hurt:
                await asyncio.to_thread(server.ask, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            await store.close()
            results = await asyncio.gather(*calls, return_exceptions=True)
            assert all(result is None or isinstance(result, StoreFault) for result in results), results
    assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []
    assert await connections(server) == 1


async def test_ss5_nobody_is_there_and_then_somebody_is(redis_servers: Callable[..., RedisServer]) -> None:
    server = redis_servers()
    server.kill()
    store = RedisStore(settings_of(url=server.url))
    with pytest.raises(StoreFault):
        await store.get("key")
    with pytest.raises(StoreFault, match="ConnectionError"):
        await store.get("key")
    began = time.monotonic()
    with pytest.raises(StoreFault):
        await asyncio.gather(*(store.get("key") for _ in range(100)))
    assert time.monotonic() - began < 0.2, "an outage that is known is said at once"
    await server.restart()
    async with asyncio.timeout(3):
        while not store.linked:
            await asyncio.sleep(0.01)
    assert await store.get("key") is None
    await store.close()


# ── Sentinel ──


@pytest.fixture
def sentinels(redis_server: RedisServer) -> Iterator[RedisSentinels]:
    launched = RedisSentinels.launch()
    yield launched
    launched.close()


def behind(sentinels: RedisSentinels) -> RedisStoreSettings:
    asked = {"master": sentinels.NAME, "addresses": sentinels.addresses}
    return settings_of(url="redis://nowhere.invalid/0", sentinel=asked)


async def test_ss6_the_master_is_killed_and_the_replica_promoted(
    sentinels: RedisSentinels, report: Callable[..., None]
) -> None:
    old, new = sentinels.servers
    async with story_of(behind(sentinels)) as story:
        await story.quiet()
        old.kill()
        sentinels.sentinels[0].kill()
        story.writing.set()
        took = await story.recovery()
        report(recovery=took, faults=len(story.faults), slowest=story.slowest)
        assert await asyncio.to_thread(sentinels.master) is new
        assert story.losses
        story.faults.clear()
        await old.restart()  # it believes that it is the master, until the Sentinels see it
        await asyncio.sleep(2)
        assert not story.faults


async def test_ss6_the_master_hangs_and_comes_back_when_it_is_none(
    sentinels: RedisSentinels, report: Callable[..., None]
) -> None:
    old, new = sentinels.servers
    async with story_of(behind(sentinels)) as story:
        await story.quiet()
        old.pause()
        story.writing.set()
        report(recovery=await story.recovery(), faults=len(story.faults), slowest=story.slowest)
        assert story.losses
        old.resume()
        await asyncio.sleep(1)  # the old one still believes that it is the master, and nobody asks it
        assert (await asyncio.to_thread(new.ask, "ROLE"))[0] == b"master"
        assert story.reader.store.linked


async def test_ss6_a_switch_of_masters_that_both_live(sentinels: RedisSentinels, report: Callable[..., None]) -> None:
    async with story_of(behind(sentinels)) as story:
        await story.quiet()
        await asyncio.to_thread(sentinels.sentinels[0].ask, "SENTINEL", "FAILOVER", sentinels.NAME)
        async with asyncio.timeout(15):
            while not story.losses:
                await asyncio.sleep(0.01)
        story.writing.set()
        report(recovery=await story.recovery(), faults=len(story.faults), slowest=story.slowest)


# ── Cluster ──


@pytest.fixture
def cluster(redis_server: RedisServer) -> Iterator[RedisCluster]:
    launched = RedisCluster.launch()
    yield launched
    launched.close()


@pytest.fixture
def replicated(redis_server: RedisServer) -> Iterator[RedisCluster]:
    launched = RedisCluster.launch(replicas=1)
    yield launched
    launched.close()


def across(cluster: RedisCluster) -> RedisStoreSettings:
    return settings_of(url=cluster.url, cluster=True)


@pytest.mark.parametrize("victim", [0, 1], ids=["the node that was named", "another"])
async def test_ss6_a_master_of_a_cluster_is_killed_and_its_replica_promoted(
    replicated: RedisCluster, victim: int, report: Callable[..., None]
) -> None:
    async with story_of(across(replicated)) as story:
        await story.quiet()
        replicated.masters[victim].kill()
        story.writing.set()
        report(recovery=await story.recovery(), faults=len(story.faults), slowest=story.slowest)
        assert story.losses
        story.faults.clear()
        await replicated.masters[victim].restart()  # as a replica
        await asyncio.sleep(1)
        assert not story.faults
        assert story.reader.store.linked


async def test_ss6_a_replica_takes_over_while_its_master_lives(
    replicated: RedisCluster, report: Callable[..., None]
) -> None:
    async with story_of(across(replicated)) as story:
        await story.quiet()
        await asyncio.to_thread(replicated.replicas[0].ask, "CLUSTER", "FAILOVER")
        await asyncio.sleep(0.5)
        story.writing.set()
        report(recovery=await story.recovery(), faults=len(story.faults), slowest=story.slowest)
        assert story.losses


async def test_ss6_a_slot_moves_to_another_master(cluster: RedisCluster, report: Callable[..., None]) -> None:
    name = f"oidc_proxy:{KEYS[0]}".encode()
    slot = key_slot(name)
    async with story_of(across(cluster)) as story:
        source = await asyncio.to_thread(cluster.master_of, name)
        target = next(master for master in cluster.masters if master is not source)
        await asyncio.to_thread(cluster.begin_migration, slot, source, target)
        await asyncio.sleep(0.2)
        await asyncio.to_thread(cluster.move_keys, slot, source, target)
        await asyncio.sleep(0.3)  # everything about the key goes by ASK
        assert await asyncio.to_thread(target.ask, "CLUSTER", "COUNTKEYSINSLOT", slot) == 1
        moved = await story.recovery()
        await asyncio.to_thread(cluster.end_migration, slot, target)
        report(asking=moved, recovery=await story.recovery(), faults=len(story.faults), slowest=story.slowest)
        assert await asyncio.to_thread(cluster.master_of, name) is target
        await asyncio.sleep(0.3)
        assert not story.faults
        assert await asyncio.to_thread(target.ask, "EXISTS", name) == 1


async def test_ss6_every_connection_of_a_cluster_is_cut_again_and_again(
    cluster: RedisCluster, report: Callable[..., None]
) -> None:
    async with story_of(across(cluster)) as story:
        for _ in range(10):
            for master in cluster.masters:
                await asyncio.to_thread(master.ask, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            await asyncio.sleep(0.05)
        report(recovery=await story.recovery(), faults=len(story.faults), slowest=story.slowest)
        assert story.losses > 5


async def test_ss6_a_master_of_a_cluster_hangs_for_a_moment(cluster: RedisCluster, report: Callable[..., None]) -> None:
    async with story_of(across(cluster)) as story:
        cluster.masters[1].pause()
        await asyncio.sleep(0.7)  # less than the others take to give it up
        cluster.masters[1].resume()
        report(recovery=await story.recovery(), faults=len(story.faults), slowest=story.slowest)
