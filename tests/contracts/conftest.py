"""Every store that there is, as fixtures: `shelf` is each of them in turn."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import Any

import pytest

from oidc_proxy.server.store import MemoryStore, RedisStoreSettings, Store
from oidc_proxy.server.store.redis import RedisStore
from tests.real.redis import RedisCluster, RedisSentinels, RedisServer, TlsFront

# What the store asks of a server. The second line is what its scripts do, which Redis checks as well.
COMMANDS = (
    "+get +set +del +zrem +eval +ping +client|tracking +time +zadd +zrangebyscore +zremrangebyscore +pttl +pexpire"
)
# HELLO needs no permission: it is how a user signs in.
GATEWAY = f"gateway on >gateway-secret resetkeys ~oidc_proxy:* resetchannels -@all {COMMANDS}"
GATEWAY_IN_CLUSTER = f"{GATEWAY} +cluster|slots +asking"
PATIENCE = 60_000
"""Nobody is replaced here because the machine is busy."""
AT_SENTINELS = "asker on >asker-secret resetchannels -@all +sentinel|master +sentinel|get-master-addr-by-name"

# Redis 6.2 calls a replica's and the Sentinels' own sign-in `default`, who may do everything.
SIGNED_IN = {"username": "gateway", "password": "gateway-secret"}


@dataclass
class Places:
    """Where each store is: started when first asked for, and kept for the whole run."""

    redis: RedisServer
    stack: ExitStack = field(default_factory=ExitStack)
    known: dict[str, tuple[dict[str, Any], Callable[[], None]]] = field(default_factory=dict)
    servers: dict[str, list[RedisServer]] = field(default_factory=dict)

    def settings(self, name: str, **more: Any) -> RedisStoreSettings:
        """The settings of an empty store."""
        if name not in self.known:
            self.known[name] = getattr(self, f"_{name}")()
        options, empty = self.known[name]
        empty()
        quick = {"connect": "2s", "command": "2s"}
        return RedisStoreSettings.model_validate({"type": "redis", "timeouts": quick, **options, **more})

    def cut(self, name: str) -> None:
        """Every server closes every connection."""
        for server in self.servers[name]:
            server.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    def _redis(self) -> tuple[dict[str, Any], Callable[[], None]]:
        self.servers["redis"] = [self.redis]
        return {"url": self.redis.url}, self.redis.reset

    def _tls(self) -> tuple[dict[str, Any], Callable[[], None]]:
        server = self.stack.enter_context(closing(RedisServer.launch(users=[GATEWAY])))
        self.servers["tls"] = [server]
        front = self.stack.enter_context(closing(TlsFront(server)))
        return {"url": front.url, "tls": {"ca_file": front.ca_file}, **SIGNED_IN}, server.reset

    def _sentinel(self) -> tuple[dict[str, Any], Callable[[], None]]:
        sentinels = self.stack.enter_context(
            closing(RedisSentinels.launch([GATEWAY], [AT_SENTINELS], patience=PATIENCE))
        )
        self.servers["sentinel"] = sentinels.servers[:1]
        asked = {"master": sentinels.NAME, "addresses": sentinels.addresses}
        asked |= {"username": "asker", "password": "asker-secret"}
        options = {"url": "redis://nowhere.invalid/0", "sentinel": asked, **SIGNED_IN}
        return options, lambda: sentinels.servers[0].ask("FLUSHALL")

    def _cluster(self) -> tuple[dict[str, Any], Callable[[], None]]:
        cluster = self.stack.enter_context(closing(RedisCluster.launch(users=[GATEWAY_IN_CLUSTER], patience=PATIENCE)))
        self.servers["cluster"] = cluster.masters
        return {"url": cluster.url, "cluster": True, **SIGNED_IN}, cluster.flush


@pytest.fixture(scope="session")
def places(_redis: RedisServer) -> Iterator[Places]:
    found = Places(_redis)
    with found.stack:
        yield found


class Watched:
    """A watcher that remembers."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.losses = 0

    def changed(self, key: str) -> None:
        self.keys.append(key)

    def lost(self) -> None:
        self.losses += 1


class Shelf:
    """A store under test, how time passes for it, and how to open it a second time, as another process would."""

    def __init__(self, store: Store, wait: Callable[[float], Awaitable[None]], again: Callable[[], Store]) -> None:
        self.store, self.wait, self.again = store, wait, again
        self.watched = Watched()
        store.watch(self.watched)


SHARED = ["redis", "sentinel", "cluster", "tls"]


@pytest.fixture(params=["memory", *SHARED])
async def shelf(request: pytest.FixtureRequest) -> AsyncIterator[Shelf]:
    if request.param == "memory":
        memory = memory_shelf()
        yield memory
        await memory.store.close()
        return
    places: Places = request.getfixturevalue("places")
    settings = places.settings(request.param)
    opened = [RedisStore(settings)]

    def again() -> Store:
        opened.append(RedisStore(settings))
        return opened[-1]

    async def later(seconds: float) -> None:
        await asyncio.sleep(seconds + 0.05)

    yield Shelf(opened[0], later, again)
    for store in opened:
        await store.close()


def memory_shelf() -> Shelf:
    now = [1_000_000.0]
    store = MemoryStore(lambda: now[0])

    async def later(seconds: float) -> None:
        now[0] += seconds

    return Shelf(store, later, lambda: store)
