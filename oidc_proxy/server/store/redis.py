"""Redis or Valkey: one server, one behind Sentinels, or a cluster."""

from __future__ import annotations

import asyncio
import contextlib
import math
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from redis.exceptions import AskError, ClusterDownError, MovedError, ReadOnlyError, RedisError, TryAgainError

from ...errors import StoreFault
from .cluster import ClusterServers
from .link import Command, LinkLost, Options, kind_of
from .port import Watcher
from .sentinel import ask_sentinels
from .server import Server
from .settings import RedisStoreSettings

MOST_ATTEMPTS = 5
"""How often one command is sent: to where it was redirected, or again if its connection was lost under it."""

REPLACE = """
local found = redis.call('GET', KEYS[1])
if found ~= ARGV[1] and found ~= ARGV[2] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1
"""

LEASE = """
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""

RELEASE = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
"""

# The score of a member is when its time is over, in milliseconds.
_NOW = "local time = redis.call('TIME') local now = time[1] * 1000 + math.floor(time[2] / 1000)\n"

ADD = (
    _NOW
    + """
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[2]) then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return 1
"""
)

MEMBERS = _NOW + "return redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. now, '+inf')"


class RedisStore:
    """The store port over Redis commands. Every command names one key, so that it works in a cluster.

    All of them may be sent twice when the connection is lost before the answer came; only ``drop`` may then say that
    there was nothing.
    """

    def __init__(self, settings: RedisStoreSettings) -> None:
        self._prefix = settings.key_prefix.encode()
        self._patience = float(settings.timeouts.command)
        self._watchers: list[Watcher] = []
        options = connection_options(settings)

        def make(locate: Callable[[], Awaitable[Options]]) -> Server:
            return Server(locate, patience=self._patience, changed=self._changed, lost=self._lost)

        if settings.cluster:
            self._servers: ClusterServers | OneServer = ClusterServers(options, make, self._lost, self._patience)
        elif settings.sentinel is not None:
            self._servers = OneServer(make(ask_sentinels(settings.sentinel, options, self._patience)))
        else:
            self._servers = OneServer(make(_fixed(options)))

    # ── the port ──

    @property
    def linked(self) -> bool:
        return self._servers.linked

    def watch(self, watcher: Watcher) -> None:
        self._watchers.append(watcher)

    async def get(self, key: str) -> bytes | None:
        value = await self._do(key, "GET")
        return value if isinstance(value, bytes) else None

    async def put(self, key: str, value: bytes, ttl: float) -> None:
        await self._write(key, "SET", value, "PX", _milliseconds(ttl))

    async def claim(self, key: str, ttl: float) -> bool:
        # A name of our own, so that the repetition of a command whose answer was lost does not find the key taken.
        return await self.lease(key, secrets.token_hex(16), ttl)

    async def replace(self, key: str, expected: bytes, value: bytes, ttl: float) -> bool:
        return bool(await self._write(key, REPLACE, expected, value, _milliseconds(ttl)))

    async def drop(self, key: str) -> bool:
        return bool(await self._write(key, "DEL"))

    async def lease(self, key: str, holder: str, ttl: float) -> bool:
        return bool(await self._write(key, LEASE, holder, _milliseconds(ttl)))

    async def release(self, key: str, holder: str) -> None:
        await self._write(key, RELEASE, holder)

    async def add(self, key: str, member: str, ttl: float) -> None:
        await self._do(key, ADD, member, _milliseconds(ttl))

    async def members(self, key: str) -> list[str]:
        return [member.decode() for member in await self._do(key, MEMBERS)]

    async def remove(self, key: str, member: str) -> None:
        await self._do(key, "ZREM", member)

    async def ping(self) -> None:
        async with self._faults():
            await self._servers.each(_ping)

    async def close(self) -> None:
        await self._servers.close()

    # ── commands ──

    async def _write(self, key: str, verb: str, *arguments: str | bytes | int) -> Any:
        """A command that may change an entry; the watchers know of it before whoever asked for it goes on."""
        answer = await self._do(key, verb, *arguments)
        self._tell(key)
        return answer

    async def _do(self, key: str, verb: str, *arguments: str | bytes | int) -> Any:
        """The answer to a command, or to a script if ``verb`` has several words."""
        name = self._prefix + key.encode()
        script = " " in verb
        command: Command = ("EVAL", verb, 1, name, *arguments) if script else (verb, name, *arguments)
        async with self._faults():
            return await self._routed(name, command)

    async def _routed(self, name: bytes, command: Command) -> Any:
        """Send the command to whichever server has the key."""
        asking: Server | None = None
        reason = ""
        for _ in range(MOST_ATTEMPTS):
            try:
                if asking is not None:
                    server, asking = asking, None
                    return await server.send(("ASKING",), command)
                server = await self._servers.having(name)
                return await server.send(command)
            except MovedError as error:
                reason = kind_of(error)
                await self._servers.refresh()
            except AskError as error:
                # The key's slot is being moved, and the key is there already, or will be.
                reason = kind_of(error)
                asking = self._servers.at(error.host, error.port)
            except (LinkLost, ReadOnlyError, ClusterDownError, TryAgainError) as error:
                reason = kind_of(error)
                await self._servers.refresh()
        raise StoreFault("store_unavailable", reason, retry_after=2)

    @contextlib.asynccontextmanager
    async def _faults(self) -> AsyncIterator[None]:
        """What goes wrong within, and what takes too long, as a StoreFault."""
        try:
            async with asyncio.timeout(self._patience):
                yield
        except (RedisError, OSError, TimeoutError) as error:
            raise StoreFault("store_unavailable", kind_of(error), retry_after=2) from None

    # ── announcements ──

    def _changed(self, name: bytes) -> None:
        if name.startswith(self._prefix):
            self._tell(name[len(self._prefix) :].decode("utf-8", "replace"))

    def _tell(self, key: str) -> None:
        for watcher in self._watchers:
            watcher.changed(key)

    def _lost(self) -> None:
        for watcher in self._watchers:
            watcher.lost()


class OneServer:
    """All keys are at one server."""

    def __init__(self, server: Server) -> None:
        self._server = server

    @property
    def linked(self) -> bool:
        return self._server.linked

    async def having(self, name: bytes) -> Server:
        return self._server

    def at(self, host: str, port: int) -> Server:
        return self._server

    async def refresh(self) -> None:
        return None

    async def each(self, work: Callable[[Server], Awaitable[Any]]) -> None:
        await work(self._server)

    async def close(self) -> None:
        await self._server.close()


async def _ping(server: Server) -> None:
    try:
        await server.send(("PING",))
    except LinkLost:
        await server.send(("PING",))


def _milliseconds(ttl: float) -> int:
    return max(1, math.ceil(ttl * 1000))


# ── where the servers are ─────────────────────────────────────────────────────────────────────────────────────────────


def connection_options(settings: RedisStoreSettings) -> Options:
    """What redis' connections are made with. A user or password in the URL gives way to the settings' own."""
    url = urlsplit(settings.url)
    secure = url.scheme == "rediss"
    options: Options = {
        "username": settings.username or (unquote(url.username) if url.username else None),
        "password": settings.password.reveal() if settings.password else url.password and unquote(url.password),
        "socket_connect_timeout": float(settings.timeouts.connect),
    }
    if url.scheme == "unix":
        options |= {"path": url.path, "db": int(parse_qs(url.query).get("db", ["0"])[0])}
    else:
        options |= {"host": url.hostname or "localhost", "port": url.port or 6379, "db": int(url.path.strip("/") or 0)}
    if secure:
        tls = settings.tls
        files = {"ssl_ca_certs": tls.ca_file, "ssl_certfile": tls.cert_file, "ssl_keyfile": tls.key_file}
        options |= {"ssl": True, **{name: str(file) for name, file in files.items() if file is not None}}
    return {name: value for name, value in options.items() if value is not None}


def _fixed(options: Options) -> Callable[[], Awaitable[Options]]:
    async def locate() -> Options:
        return options

    return locate
