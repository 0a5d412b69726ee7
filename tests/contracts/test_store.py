"""What sessions need of a store, asked of every store that there is."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from oidc_proxy.errors import StoreFault
from oidc_proxy.server.store import (
    MemoryStore,
    MemoryStoreSettings,
    RedisStore,
    RedisStoreSettings,
    Store,
    open_store,
)
from oidc_proxy.values import Secret
from tests.real.redis import RedisServer
from tests.world import Clock

Wait = Callable[[float], Any]


class Shelf:
    """A store under test, and how time passes for it."""

    def __init__(self, store: Store, wait: Wait) -> None:
        self.store, self.wait = store, wait


def settings(server: RedisServer, **more: Any) -> RedisStoreSettings:
    quick = {"connect": "300ms", "command": "300ms"}
    return RedisStoreSettings.model_validate({"type": "redis", "url": server.url, "timeouts": quick, **more})


@pytest.fixture(params=["memory", "redis"])
async def shelf(request: pytest.FixtureRequest) -> AsyncIterator[Shelf]:
    if request.param == "memory":
        clock = Clock()

        async def later(seconds: float) -> None:
            clock.advance(seconds)

        memory = open_store(MemoryStoreSettings(), clock)
        assert isinstance(memory, MemoryStore)
        yield Shelf(memory, later)
        await memory.close()
    else:
        shared = open_store(settings(request.getfixturevalue("redis_server")), Clock())
        assert isinstance(shared, RedisStore)
        yield Shelf(shared, lambda seconds: asyncio.sleep(seconds + 0.05))
        await shared.close()


VALUES = [b"value", b"", b"\0\r\n\xff" * 100, bytes(200_000)]


@pytest.mark.parametrize("value", VALUES, ids=["text", "nothing", "bytes", "long"])
async def test_what_is_put_is_got(shelf: Shelf, value: bytes) -> None:
    assert await shelf.store.get("key") is None
    await shelf.store.put("key", value, 60)
    assert await shelf.store.get("key") == value
    await shelf.store.put("key", b"another", 60)
    assert await shelf.store.get("key") == b"another"
    assert await shelf.store.get("Key") is None


async def test_what_is_over_is_gone(shelf: Shelf) -> None:
    await shelf.store.put("short", b"1", 0.2)
    await shelf.store.put("long", b"2", 60)
    await shelf.wait(0.2)
    assert await shelf.store.get("short") is None
    assert await shelf.store.get("long") == b"2"
    assert not await shelf.store.drop("short")
    assert not await shelf.store.replace("short", b"1", b"3", 60)
    assert await shelf.store.claim("short", 60)


@pytest.mark.parametrize("ttl", [0, -1, 0.0001])
async def test_ss7_no_time_to_live_is_no_life_for_ever(shelf: Shelf, ttl: float) -> None:
    await shelf.store.put("key", b"1", ttl)
    await shelf.store.put("other", b"1", 60)
    await shelf.store.replace("other", b"1", b"2", ttl)
    await shelf.store.claim("third", ttl)
    await shelf.wait(0.01)
    assert [await shelf.store.get(key) for key in ("key", "other", "third")] == [None, None, None]


async def test_writing_again_sets_the_time_anew(shelf: Shelf) -> None:
    await shelf.store.put("put", b"1", 0.2)
    await shelf.store.put("put", b"1", 60)
    await shelf.store.put("replaced", b"1", 0.2)
    assert await shelf.store.replace("replaced", b"1", b"2", 60)
    await shelf.store.put("shortened", b"1", 60)
    await shelf.store.put("shortened", b"1", 0.2)
    await shelf.wait(0.2)
    assert await shelf.store.get("put") == b"1"
    assert await shelf.store.get("replaced") == b"2"
    assert await shelf.store.get("shortened") is None


async def test_drop_says_whether_there_was_something(shelf: Shelf) -> None:
    await shelf.store.put("key", b"1", 60)
    assert await shelf.store.drop("key")
    assert not await shelf.store.drop("key")
    assert await shelf.store.get("key") is None
    await shelf.store.put("empty", b"", 60)
    assert await shelf.store.drop("empty")


async def test_only_the_first_claims(shelf: Shelf) -> None:
    answers = await asyncio.gather(*(shelf.store.claim("state", 60) for _ in range(50)))
    assert sorted(answers) == [False] * 49 + [True]
    assert not await shelf.store.claim("state", 60)
    assert await shelf.store.claim("other", 60)


async def test_a_refused_claim_does_not_prolong_the_first(shelf: Shelf) -> None:
    assert await shelf.store.claim("state", 0.3)
    assert not await shelf.store.claim("state", 60)
    await shelf.wait(0.3)
    assert await shelf.store.claim("state", 60)


async def test_ss13_replace_writes_only_over_what_was_read(shelf: Shelf) -> None:
    assert not await shelf.store.replace("key", b"", b"2", 60), "what is not there is not empty either"
    await shelf.store.put("key", b"1", 60)
    assert not await shelf.store.replace("key", b"0", b"2", 60)
    assert await shelf.store.get("key") == b"1"
    assert await shelf.store.replace("key", b"1", b"2", 60)
    assert not await shelf.store.replace("key", b"1", b"3", 60)
    assert await shelf.store.get("key") == b"2"
    await shelf.store.drop("key")
    assert not await shelf.store.replace("key", b"2", b"3", 60)
    assert await shelf.store.get("key") is None, "what was ended stays ended"


async def test_only_one_of_many_replaces(shelf: Shelf) -> None:
    await shelf.store.put("key", b"before", 60)
    answers = await asyncio.gather(*(shelf.store.replace("key", b"before", b"%d" % n, 60) for n in range(50)))
    assert answers.count(True) == 1
    assert await shelf.store.get("key") == b"%d" % answers.index(True)


async def test_many_keys_do_not_get_into_each_others_way(shelf: Shelf) -> None:
    keys = {f"key{number}": b"%d" % number * 50 for number in range(200)}
    await asyncio.gather(*(shelf.store.put(key, value, 60) for key, value in keys.items()))
    found = await asyncio.gather(*(shelf.store.get(key) for key in keys))
    assert dict(zip(keys, found, strict=True)) == keys


async def test_ping(shelf: Shelf) -> None:
    await shelf.store.ping()


async def test_ss4_a_storm_of_cancellations_mixes_nothing_up(shelf: Shelf) -> None:
    """CVE-2023-28858: the answer to a command that was given up must not become the answer to another one."""
    dice = random.Random(7)
    people = {name: name.encode() * 40 for name in ("ann", "bob")}
    for name, value in people.items():
        await shelf.store.put(name, value, 60)

    async def ask(name: str) -> None:
        assert await shelf.store.get(name) == people[name]
        assert await shelf.store.replace(name, people[name], people[name], 60)
        assert await shelf.store.get(f"{name}'s other") is None

    tasks = []
    for number in range(1000):
        tasks.append(asyncio.create_task(ask(("ann", "bob")[number % 2])))
        if dice.random() < 0.5:
            await asyncio.sleep(dice.random() * 0.002)
            dice.choice(tasks[-20:]).cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(result) for result in results} <= {type(None), asyncio.CancelledError}
    await asyncio.gather(*(ask(name) for name in people for _ in range(100)))


# ── what only a store outside of the process can do ──


@pytest.fixture
async def shared(redis_server: RedisServer) -> AsyncIterator[RedisStore]:
    store = RedisStore(settings(redis_server))
    yield store
    await store.close()


CALLS: dict[str, Callable[[Store], Any]] = {
    "get": lambda store: store.get("key"),
    "put": lambda store: store.put("key", b"secret-value", 60),
    "claim": lambda store: store.claim("claimed", 60),
    "replace": lambda store: store.replace("key", b"secret-value", b"2", 60),
    "drop": lambda store: store.drop("key"),
    "ping": lambda store: store.ping(),
}


async def fails(call: Callable[[Store], Any], store: Store) -> StoreFault:
    with pytest.raises(StoreFault) as caught:
        await asyncio.wait_for(call(store), 3)
    fault = caught.value
    assert (fault.code, fault.status) == ("store_unavailable", 503)
    assert fault.retry_after
    assert fault.retry_after >= 1
    assert "secret" not in f"{fault} {fault.public}"
    return fault


async def test_ss5_an_outage_is_said_and_over_when_it_is_over(shared: RedisStore, redis_server: RedisServer) -> None:
    await shared.put("key", b"secret-value", 60)
    await asyncio.gather(*(shared.get("key") for _ in range(10)))  # several connections, all soon dead
    redis_server.kill()
    for call in CALLS.values():
        await fails(call, shared)
    await redis_server.restart()
    for name, call in CALLS.items():
        await call(shared), name
    await asyncio.gather(*(shared.get("key") for _ in range(10)))


async def test_ss5_a_restart_in_between_is_not_even_noticed(shared: RedisStore, redis_server: RedisServer) -> None:
    await asyncio.gather(*(shared.get("key") for _ in range(10)))
    assert not await shared.replace("key", b"", b"", 60)
    redis_server.kill()
    await redis_server.restart()
    assert await asyncio.gather(*(shared.get("key") for _ in range(10))) == [None] * 10
    await shared.put("key", b"1", 60)
    assert await shared.replace("key", b"1", b"2", 60), "the server has forgotten the script"


async def test_ss5_a_store_that_hangs_is_not_waited_for(shared: RedisStore, redis_server: RedisServer) -> None:
    await shared.ping()
    redis_server.pause()
    try:
        await asyncio.gather(*(fails(call, shared) for call in CALLS.values()))
    finally:
        redis_server.resume()
    await shared.put("key", b"late", 60)
    for _ in range(20):  # no answer of then may come now
        assert await shared.get("key") == b"late"
        assert await shared.get("nothing") is None


async def test_ss5_more_waiters_than_connections(redis_server: RedisServer) -> None:
    store = RedisStore(settings(redis_server, max_connections=2))
    await store.put("key", b"1", 60)
    assert await asyncio.gather(*(store.get("key") for _ in range(200))) == [b"1"] * 200
    redis_server.pause()
    try:
        await asyncio.gather(*(fails(CALLS["get"], store) for _ in range(20)))
    finally:
        redis_server.resume()
    assert await asyncio.gather(*(store.get("key") for _ in range(200))) == [b"1"] * 200
    await store.close()


async def test_ss5_a_store_that_refuses_is_an_outage(
    redis_server: RedisServer, redis_servers: Callable[..., RedisServer]
) -> None:
    async with redis_server.client() as client:
        await client.lpush("oidc_proxy:key", "a list")
    store = RedisStore(settings(redis_server))
    assert (await fails(CALLS["get"], store)).detail
    await store.close()

    locked = redis_servers(password="right")
    for given in (None, "wrong-secret"):
        quick = {"type": "redis", "url": f"redis://127.0.0.1:{locked.port}/0", "password": given and Secret(given)}
        store = RedisStore(RedisStoreSettings.model_validate(quick))
        await fails(CALLS["get"], store)
        await store.close()
    store = RedisStore(RedisStoreSettings.model_validate({**quick, "password": Secret("right")}))
    await store.put("key", b"1", 60)
    await store.close()


FULL = ("CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0")
READ_ONLY = ("REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE")


@pytest.mark.parametrize(("begin", "end"), [FULL, READ_ONLY], ids=["full", "read-only"])
async def test_ss5_a_store_that_cannot_write_is_an_outage(
    shared: RedisStore, redis_server: RedisServer, begin: str, end: str
) -> None:
    await shared.put("key", b"secret-value", 60)
    async with redis_server.client() as client:
        await client.execute_command(*begin.split())
        try:
            await fails(CALLS["put"], shared)
            await fails(CALLS["claim"], shared)
            await fails(CALLS["replace"], shared)
            assert await shared.get("key") == b"secret-value"
        finally:
            await client.execute_command(*end.split())
    assert await shared.replace("key", b"secret-value", b"2", 60)


async def test_ss7_every_key_has_a_prefix_and_a_time_to_live(shared: RedisStore, redis_server: RedisServer) -> None:
    await shared.put("session:a", b"1", 30)
    await shared.put("session:b", b"1", 3000)
    await shared.replace("session:b", b"1", b"2", 30)
    await shared.claim("state:c", 30)
    entries = await redis_server.dump_all()
    assert len(entries) == 3
    for entry in entries:
        assert entry.key.startswith(b"oidc_proxy:")
        assert entry.ttl is not None
        assert 25 < entry.ttl <= 30


async def test_a_user_who_may_only_use_the_prefix_is_enough(redis_servers: Callable[..., RedisServer]) -> None:
    rules = "app on >pass resetkeys ~mine:* -@all +get +set +del +eval +evalsha +script|load +ping +hello +client"
    server = redis_servers(users=[rules])
    quick = {"type": "redis", "url": server.url_for("app", "pass"), "key_prefix": "mine:"}
    store = RedisStore(RedisStoreSettings.model_validate(quick))
    await store.ping()
    await store.put("key", b"secret-value", 60)
    assert await store.get("key") == b"secret-value"
    assert await store.claim("claimed", 60)
    assert await store.replace("key", b"secret-value", b"2", 60)
    assert await store.drop("key")
    await store.close()


async def test_two_gateways_with_other_prefixes_do_not_meet(redis_server: RedisServer) -> None:
    first, second = (RedisStore(settings(redis_server, key_prefix=prefix)) for prefix in ("a:", "b:"))
    await first.put("key", b"1", 60)
    assert await second.get("key") is None
    assert await second.claim("key", 60)
    await asyncio.gather(first.close(), second.close())


async def test_a_memory_store_forgets_what_is_over() -> None:
    clock = Clock()
    store = MemoryStore(clock)
    for number in range(1000):
        await store.put(f"key{number}", b"x", 10 + number % 2 * 100)
        await store.put("again", b"x", 10 + number)
    assert len(store) == 1001
    clock.advance(11)
    assert len(store) == 501
    clock.advance(2000)
    assert len(store) == 0
    assert not store._expiries
