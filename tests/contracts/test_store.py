"""What sessions need of a store, asked of every store that there is."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop
from pydantic import ValidationError

from oidc_proxy.errors import StoreFault
from oidc_proxy.server.store import MemoryStore, MemoryStoreSettings, RedisStoreSettings, Store, open_store
from oidc_proxy.server.store.redis import RedisStore
from tests.contracts.conftest import GATEWAY, SHARED, SIGNED_IN, Places, Shelf, Watched
from tests.real.redis import RedisServer

VALUES = [b"value", b"", b"\0\r\n\xff" * 100, bytes(200_000), b">3\r\n$10\r\ninvalidate\r\n"]


# ── entries ──


@pytest.mark.parametrize("value", VALUES, ids=["text", "nothing", "bytes", "long", "protocol"])
async def test_what_is_put_is_got(shelf: Shelf, value: bytes) -> None:
    assert await shelf.store.get("key") is None
    await shelf.store.put("key", value, 60)
    assert await shelf.store.get("key") == value
    await shelf.store.put("key", b"another", 60)
    assert await shelf.store.get("key") == b"another"
    assert await shelf.store.get("Key") is None


@pytest.mark.parametrize("key", ["", "a b", "ü", "{a}b", "x" * 500, "new\r\nline"])
async def test_any_text_is_a_key(shelf: Shelf, key: str) -> None:
    await shelf.store.put(key, b"value", 60)
    assert await shelf.store.get(key) == b"value"
    assert await shelf.store.drop(key)
    await until(lambda: key in shelf.watched.keys)


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
    await shelf.store.lease("fourth", "ann", ttl)
    await shelf.store.add("set", "member", ttl)
    await shelf.wait(0.01)
    assert [await shelf.store.get(key) for key in ("key", "other", "third", "fourth")] == [None] * 4
    assert await shelf.store.members("set") == []


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
    assert not await shelf.again().claim("state", 60)
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


async def test_ss13_a_repeated_replace_is_no_defeat(shelf: Shelf) -> None:
    await shelf.store.put("key", b"1", 60)
    assert await shelf.store.replace("key", b"1", b"2", 60)
    assert await shelf.store.replace("key", b"1", b"2", 60), "the first answer may have been lost"
    await shelf.store.drop("key")
    assert not await shelf.store.replace("key", b"1", b"2", 60)


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
    assert shelf.store.linked


async def test_ss4_a_storm_of_cancellations_mixes_nothing_up(shelf: Shelf) -> None:
    """CVE-2023-28858: the answer to a command that was given up must not become the answer to another one."""
    dice = random.Random(7)
    people = {name: name.encode() * 40 for name in ("ann", "bob")}
    for name, value in people.items():
        await shelf.store.put(name, value, 60)
    losses = shelf.watched.losses

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
    assert shelf.watched.losses == losses, "a request that goes away takes no connection with it"


# ── leases ──


async def test_f63_a_lease_has_one_holder(shelf: Shelf) -> None:
    assert await shelf.store.lease("lease", "ann", 60)
    assert not await shelf.store.lease("lease", "bob", 60)
    assert await shelf.store.lease("lease", "ann", 60), "it can be renewed"
    await shelf.store.release("lease", "bob")
    assert not await shelf.again().lease("lease", "bob", 60), "and given up by nobody else"
    await shelf.store.release("lease", "ann")
    assert await shelf.store.lease("lease", "bob", 60)
    await shelf.store.release("nothing", "bob")


async def test_f63_a_lease_runs_out_unless_it_is_renewed(shelf: Shelf) -> None:
    assert await shelf.store.lease("left", "ann", 0.2)
    assert await shelf.store.lease("kept", "ann", 0.2)
    assert await shelf.store.lease("kept", "ann", 60)
    assert not await shelf.store.lease("left", "bob", 60)
    await shelf.wait(0.2)
    assert await shelf.store.lease("left", "bob", 60)
    assert not await shelf.store.lease("kept", "bob", 60)


async def test_only_one_of_many_gets_the_lease(shelf: Shelf) -> None:
    answers = await asyncio.gather(*(shelf.store.lease("lease", str(number), 60) for number in range(50)))
    assert answers.count(True) == 1


# ── sets ──


async def test_members_come_and_go(shelf: Shelf) -> None:
    assert await shelf.store.members("set") == []
    for member in ("a", "b", "ü"):
        await shelf.store.add("set", member, 60)
    await shelf.store.add("set", "a", 60)
    assert sorted(await shelf.store.members("set")) == ["a", "b", "ü"]
    await shelf.store.remove("set", "b")
    await shelf.store.remove("set", "b")
    await shelf.store.remove("other", "b")
    assert sorted(await shelf.store.members("set")) == ["a", "ü"]
    assert await shelf.store.members("other") == []


async def test_each_member_has_its_own_time(shelf: Shelf) -> None:
    await shelf.store.add("set", "short", 0.2)
    await shelf.store.add("set", "long", 60)
    await shelf.store.add("set", "shorter", 60)
    await shelf.store.add("set", "shorter", 0.2)
    await shelf.store.add("set", "longer", 0.2)
    await shelf.store.add("set", "longer", 60)
    await shelf.wait(0.2)
    assert sorted(await shelf.store.members("set")) == ["long", "longer"]
    await shelf.store.add("set", "last", 0.1)
    assert sorted(await shelf.store.members("set")) == ["last", "long", "longer"]


# ── changes ──


async def until(true: Callable[[], bool], seconds: float = 5) -> None:
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.001)


CHANGES: dict[str, Callable[[Store], Any]] = {
    "put": lambda store: store.put("key", b"2", 60),
    "replace": lambda store: store.replace("key", b"1", b"2", 60),
    "drop": lambda store: store.drop("key"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
async def test_what_was_read_is_announced_when_another_changes_it(shelf: Shelf, change: Callable[[Store], Any]) -> None:
    other = shelf.again()
    await other.put("key", b"1", 60)
    await other.put("bystander", b"1", 60)
    assert await shelf.store.get("key") == b"1"
    shelf.watched.keys.clear()
    await change(other)
    await until(lambda: "key" in shelf.watched.keys)
    assert await shelf.store.get("key") in {b"2", None}
    assert "bystander" not in shelf.watched.keys
    shelf.watched.keys.clear()
    await other.put("key", b"3", 60)
    await until(lambda: "key" in shelf.watched.keys)
    assert shelf.watched.losses == 0


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
async def test_what_is_written_here_is_announced_before_the_writer_goes_on(
    shelf: Shelf, change: Callable[[Store], Any]
) -> None:
    await shelf.store.put("key", b"1", 60)
    assert await shelf.store.get("key") == b"1"
    shelf.watched.keys.clear()
    await change(shelf.store)
    assert "key" in shelf.watched.keys


async def test_every_watcher_of_every_process_is_told(shelf: Shelf) -> None:
    stores = [shelf.store, shelf.again(), shelf.again()]
    watched = [Watched() for _ in stores for _ in range(2)]
    for number, watcher in enumerate(watched):
        stores[number // 2].watch(watcher)
    await shelf.store.put("key", b"1", 60)
    for store in stores:
        assert await store.get("key") == b"1"
    assert await shelf.store.drop("key")
    await until(lambda: all("key" in watcher.keys for watcher in watched))


# ── what only a store outside of the process can do ──


@pytest.fixture(params=SHARED)
async def shared(request: pytest.FixtureRequest, places: Places) -> AsyncIterator[RedisStore]:
    store = RedisStore(places.settings(request.param))
    yield store
    await store.close()


async def test_expiry_is_announced(shared: RedisStore) -> None:
    watched = Watched()
    shared.watch(watched)
    await shared.put("key", b"1", 0.3)
    assert await shared.get("key") == b"1"
    watched.keys.clear()
    await until(lambda: "key" in watched.keys)
    assert await shared.get("key") is None


async def test_before_the_first_command_nothing_is_connected(places: Places) -> None:
    store = RedisStore(places.settings("redis"))
    assert not store.linked
    await store.close()


async def test_after_the_end_every_command_is_a_fault_at_once(shared: RedisStore) -> None:
    await shared.put("key", b"1", 60)
    waiting = [asyncio.create_task(shared.get("key")) for _ in range(20)]
    await asyncio.sleep(0)
    await shared.close()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(result == b"1" or isinstance(result, StoreFault) for result in results), results
    began = time.monotonic()
    for call in CALLS.values():
        await fails(call, shared)
    assert time.monotonic() - began < 0.5
    assert not shared.linked


CALLS: dict[str, Callable[[Store], Any]] = {
    "get": lambda store: store.get("key"),
    "put": lambda store: store.put("key", b"secret-value", 60),
    "claim": lambda store: store.claim("claimed", 60),
    "replace": lambda store: store.replace("key", b"secret-value", b"2", 60),
    "drop": lambda store: store.drop("key"),
    "lease": lambda store: store.lease("lease", "ann", 60),
    "release": lambda store: store.release("lease", "ann"),
    "add": lambda store: store.add("set", "secret-member", 60),
    "members": lambda store: store.members("set"),
    "remove": lambda store: store.remove("set", "secret-member"),
    "ping": lambda store: store.ping(),
}


async def fails(call: Callable[[Store], Any], store: Store) -> StoreFault:
    with pytest.raises(StoreFault) as caught:
        await asyncio.wait_for(call(store), 3)
    fault = caught.value
    assert (fault.code, fault.status) == ("store_unavailable", 503)
    assert fault.retry_after
    assert "secret" not in f"{fault} {fault.public}"
    return fault


@pytest.fixture
async def single(places: Places) -> AsyncIterator[RedisStore]:
    store = RedisStore(places.settings("redis"))
    yield store
    await store.close()


async def test_ss7_every_key_has_a_prefix_and_a_time_to_live(single: RedisStore, redis_server: RedisServer) -> None:
    await single.put("session:a", b"1", 30)
    await single.put("session:b", b"1", 3000)
    await single.replace("session:b", b"1", b"2", 30)
    await single.claim("state:c", 30)
    await single.lease("lease:d", "ann", 30)
    await single.add("set:e", "member", 20)
    await single.add("set:e", "another", 30)
    entries = await redis_server.dump_all()
    assert len(entries) == 5
    for entry in entries:
        assert entry.key.startswith(b"oidc_proxy:")
        assert entry.ttl is not None
        assert 25 < entry.ttl <= 30


async def test_two_gateways_with_other_prefixes_do_not_meet(places: Places) -> None:
    first, second = (RedisStore(places.settings("redis", key_prefix=prefix)) for prefix in ("a:", "b:"))
    watched = Watched()
    second.watch(watched)
    await first.put("key", b"1", 60)
    assert await second.get("key") is None
    assert await second.claim("key", 60)
    watched.keys.clear()
    await first.put("key", b"1", 60)
    await second.ping()
    assert watched.keys == []
    await asyncio.gather(first.close(), second.close())


async def test_ss5_an_error_of_the_server_is_an_outage(single: RedisStore, redis_server: RedisServer) -> None:
    async with redis_server.client() as client:
        await client.lpush("oidc_proxy:key", "a list")
    assert (await fails(CALLS["get"], single)).detail == "WRONGTYPE"
    await single.put("key", b"1", 60)
    assert await single.get("key") == b"1"


@pytest.mark.parametrize(
    ("users", "options", "detail"),
    [
        ([], {"password": "wrong-secret"}, "AuthenticationError"),
        (["app on >secret ~* +@all"], {"username": "app", "password": "other-secret"}, "AuthenticationError"),
        ([GATEWAY.replace("+client|tracking", "")], SIGNED_IN, "NoPermissionError"),
        ([GATEWAY.replace("+get", "")], SIGNED_IN, "NoPermissionError"),
        ([GATEWAY.replace("~oidc_proxy:*", "~other:*")], SIGNED_IN, "NoPermissionError"),
    ],
    ids=["password", "user", "no tracking", "no get", "other keys"],
)
async def test_ss5_a_store_that_refuses_is_an_outage_with_a_reason(
    redis_servers: Callable[..., RedisServer], users: list[str], options: dict[str, str], detail: str
) -> None:
    server = redis_servers(password="right", users=users)
    url = f"redis://127.0.0.1:{server.port}/0"
    quick = {"connect": "300ms", "command": "300ms"}
    store = RedisStore(RedisStoreSettings.model_validate({"type": "redis", "url": url, "timeouts": quick, **options}))
    await fails(CALLS["get"], store)
    await asyncio.sleep(0.3)
    assert (await fails(CALLS["get"], store)).detail == detail
    await store.close()


@pytest.mark.parametrize("missing", [word for word in GATEWAY.split() if word.startswith("+")])
async def test_every_permission_that_we_ask_for_is_needed(
    redis_servers: Callable[..., RedisServer], missing: str
) -> None:
    users = [GATEWAY.replace(f"{missing} ", "", 1) if f"{missing} " in GATEWAY else GATEWAY.removesuffix(missing)]
    server = redis_servers(users=users)
    options = {"type": "redis", "url": server.url, **SIGNED_IN, "timeouts": {"command": "200ms"}}
    store = RedisStore(RedisStoreSettings.model_validate(options))
    results = await asyncio.gather(*(call(store) for call in CALLS.values()), return_exceptions=True)
    assert any(isinstance(result, StoreFault) for result in results), results
    await store.close()


async def test_a_store_on_a_socket_file(redis_servers: Callable[..., RedisServer], tmp_path: Path) -> None:
    redis_servers(config={"unixsocket": str(tmp_path / "redis.sock")})
    store = RedisStore(RedisStoreSettings(type="redis", url=f"unix://{tmp_path / 'redis.sock'}?db=3"))
    await store.put("key", b"1", 60)
    assert await store.get("key") == b"1"
    await store.close()


async def test_a_certificate_of_a_stranger_is_refused(places: Places) -> None:
    trusting = places.settings("tls")
    store = RedisStore(trusting.model_copy(update={"tls": type(trusting.tls)(), "timeouts": SHORT}))
    await fails(CALLS["get"], store)
    await store.close()


SHORT = RedisStoreSettings.model_validate(
    {"type": "redis", "url": "redis://x", "timeouts": {"connect": "300ms", "command": "300ms"}}
).timeouts


async def test_a_database_of_its_own(places: Places, redis_server: RedisServer) -> None:
    settings = places.settings("redis")
    store = RedisStore(settings.model_copy(update={"url": settings.url.removesuffix("/0") + "/5"}))
    await store.put("key", b"1", 60)
    assert await store.get("key") == b"1"
    assert [entry.database for entry in await redis_server.dump_all()] == [5]
    await store.close()


async def test_a_node_of_a_cluster_that_was_not_said_to_be_one(places: Places) -> None:
    settings = places.settings("cluster").model_copy(update={"cluster": False})
    store = RedisStore(settings)
    results = await asyncio.gather(*(store.get(f"key{n}") for n in range(10)), return_exceptions=True)
    assert {result.detail for result in results if isinstance(result, StoreFault)} == {"MovedError"}
    await store.close()


@pytest.mark.parametrize("topology", SHARED)
def test_the_same_on_uvloop(places: Places, topology: str) -> None:
    settings = places.settings(topology)

    async def story() -> None:
        first, second = RedisStore(settings), RedisStore(settings)
        watched = Watched()
        first.watch(watched)
        for number in range(20):
            await second.put("key", b"%d" % number, 60)
            assert await first.get("key") == b"%d" % number
            watched.keys.clear()
            await second.drop("key")
            await until(lambda: "key" in watched.keys)
        await asyncio.gather(first.close(), second.close())

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(story())


@pytest.mark.parametrize("topology", SHARED)
async def test_without_hiredis(places: Places, topology: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from redis._parsers import _AsyncRESP3Parser

    monkeypatch.setattr("oidc_proxy.server.store.link.DefaultParser", _AsyncRESP3Parser)
    first, second = RedisStore(places.settings(topology)), RedisStore(places.settings(topology))
    watched = Watched()
    first.watch(watched)
    await first.put("key", b"1", 60)
    await first.add("set", "member", 60)
    assert await first.members("set") == ["member"]
    for number in range(20):
        await second.put("key", b"%d" % number * 1000, 60)
        assert await first.get("key") == b"%d" % number * 1000
        assert await first.get("nothing") is None
        watched.keys.clear()
        await second.drop("key")
        await until(lambda: "key" in watched.keys)
    await asyncio.gather(first.close(), second.close())


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"url": "redis://a", "cluster": True, "sentinel": {"master": "m", "addresses": ["a:1"]}}, "not both"),
        ({"url": "unix:///a", "cluster": True}, "unix://"),
        ({"url": "redis://a/1", "cluster": True}, "database"),
    ],
)
def test_settings_that_contradict_each_other(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        RedisStoreSettings.model_validate({"type": "redis", **options})


# ── what only the store of the process itself can do ──


def test_the_settings_choose_the_store() -> None:
    assert isinstance(open_store(MemoryStoreSettings(), time.time), MemoryStore)
    assert isinstance(open_store(RedisStoreSettings(type="redis", url="redis://a"), time.time), RedisStore)


async def test_a_memory_store_forgets_what_is_over() -> None:
    now = [0.0]
    store = MemoryStore(lambda: now[0])
    for number in range(1000):
        await store.put(f"key{number}", b"x", 10 + number % 2 * 100)
        await store.put("again", b"x", 10 + number)
        await store.add("set", f"member{number}", 10 + number)
    assert len(store) == 1001
    now[0] = 11.0
    assert len(store) == 501
    now[0] = 2000.0
    assert len(store) == 0
    assert not store._expiries
    assert not store._sets
