"""Where sessions are kept: one port, two stores. Bytes go in and come out; nothing here can read them.

Every entry has a time to live. A store that cannot be reached raises StoreFault("store_unavailable"): that is never the
same as an entry that is not there.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

from pydantic import Field

from ..errors import StoreFault
from ..values import Duration, Instant, Secret, Settings

if TYPE_CHECKING:
    from redis.asyncio import Redis


class MemoryStoreSettings(Settings):
    """Sessions live in this process and end with it. For one worker, and for trying things out."""

    type: Literal["memory"] = Field("memory", description="memory: sessions live in this process and end with it.")


class StoreTlsSettings(Settings):
    """TLS towards the store, for `rediss://` addresses."""

    ca_file: Path | None = Field(
        None, description="Certificates that the server's must descend from; the system's unless given."
    )
    cert_file: Path | None = Field(None, description="Client certificate.")
    key_file: Path | None = Field(None, description="Private key of the client certificate.")


class StoreTimeouts(Settings):
    """How long the store may take."""

    connect: Duration = Field(Duration(2), description="Longest wait for a connection.")
    command: Duration = Field(Duration(2), description="Longest wait for an answer.")


class RedisStoreSettings(Settings):
    """Sessions live in Redis 6.2 or newer, or Valkey, and are shared by all workers and replicas."""

    type: Literal["redis"] = Field(description="redis: sessions live in Redis or Valkey, shared by all replicas.")
    url: str = Field(
        description="Address of the server.",
        pattern=r"^(rediss?://|unix://).+",
        examples=["redis://redis:6379/0", "rediss://redis.example.com:6380/0"],
    )
    username: str | None = Field(None, description="ACL user.")
    password: Secret | None = Field(None, description="Password of the user.")
    password_file: Path | None = Field(None, description="File that holds `password`.")
    key_prefix: str = Field(
        "oidc_proxy:", description="What every key starts with, so that an ACL can limit the user to it."
    )
    tls: StoreTlsSettings = Field(StoreTlsSettings(), description="TLS towards the server.")
    timeouts: StoreTimeouts = Field(StoreTimeouts(), description="How long the server may take.")
    max_connections: int = Field(64, ge=1, description="Most connections of one worker.")


StoreSettings = Annotated[MemoryStoreSettings | RedisStoreSettings, Field(discriminator="type")]


class Store(Protocol):
    """What sessions need of a store. ``ttl`` is in seconds; every method may raise StoreFault."""

    async def get(self, key: str) -> bytes | None:
        """The value, or None when there is none or its time is over."""

    async def put(self, key: str, value: bytes, ttl: float) -> None:
        """Write, whatever was there."""

    async def claim(self, key: str, ttl: float) -> bool:
        """Take the key for as long as ``ttl``. True for the first who asks, False for everyone after."""

    async def replace(self, key: str, expected: bytes, value: bytes, ttl: float) -> bool:
        """Write only if ``expected`` is still there: what was ended meanwhile stays ended."""

    async def drop(self, key: str) -> bool:
        """Remove; whether there was something to remove."""

    async def ping(self) -> None:
        """Return if the store answers."""

    async def close(self) -> None:
        """Let go of connections."""


def open_store(settings: MemoryStoreSettings | RedisStoreSettings, clock: Callable[[], Instant]) -> Store:
    """The store that the settings name. Nothing is connected yet."""
    match settings:
        case MemoryStoreSettings():
            return MemoryStore(clock)
        case RedisStoreSettings():
            return RedisStore(settings)


class MemoryStore:
    """A dict with an expiry queue."""

    def __init__(self, clock: Callable[[], Instant]) -> None:
        self._clock = clock
        self._entries: dict[str, tuple[bytes, Instant]] = {}
        self._expiries: list[tuple[Instant, str]] = []

    async def get(self, key: str) -> bytes | None:
        entry = self._entries.get(key)
        return entry[0] if entry and entry[1] > self._clock() else None

    async def put(self, key: str, value: bytes, ttl: float) -> None:
        self._sweep()
        expiry = self._clock() + ttl
        self._entries[key] = value, expiry
        heapq.heappush(self._expiries, (expiry, key))

    async def claim(self, key: str, ttl: float) -> bool:
        if await self.get(key) is not None:
            return False
        await self.put(key, b"", ttl)
        return True

    async def replace(self, key: str, expected: bytes, value: bytes, ttl: float) -> bool:
        if await self.get(key) != expected:
            return False
        await self.put(key, value, ttl)
        return True

    async def drop(self, key: str) -> bool:
        entry = self._entries.pop(key, None)
        return entry is not None and entry[1] > self._clock()

    async def ping(self) -> None:
        return None

    async def close(self) -> None:
        self._entries.clear()
        self._expiries.clear()

    def __len__(self) -> int:
        self._sweep()
        return len(self._entries)

    def _sweep(self) -> None:
        """Forget what is over. A key that was written again has its later expiry further back in the queue."""
        now = self._clock()
        while self._expiries and self._expiries[0][0] <= now:
            _, key = heapq.heappop(self._expiries)
            if key in self._entries and self._entries[key][1] <= now:
                del self._entries[key]


_REPLACE = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1
"""


class RedisStore:
    """Redis or Valkey, one server."""

    def __init__(self, settings: RedisStoreSettings) -> None:
        self._prefix = settings.key_prefix
        self._redis = _connect(settings)
        self._replace: Callable[..., Awaitable[Any]] = self._redis.register_script(_REPLACE)

    async def get(self, key: str) -> bytes | None:
        with _translated():
            value = await self._redis.get(self._prefix + key)
        return value if isinstance(value, bytes) else None

    async def put(self, key: str, value: bytes, ttl: float) -> None:
        with _translated():
            await self._redis.set(self._prefix + key, value, px=_milliseconds(ttl))

    async def claim(self, key: str, ttl: float) -> bool:
        with _translated():
            return bool(await self._redis.set(self._prefix + key, b"", px=_milliseconds(ttl), nx=True))

    async def replace(self, key: str, expected: bytes, value: bytes, ttl: float) -> bool:
        with _translated():
            return bool(await self._replace(keys=[self._prefix + key], args=[expected, value, _milliseconds(ttl)]))

    async def drop(self, key: str) -> bool:
        with _translated():
            return bool(await self._redis.delete(self._prefix + key))

    async def ping(self) -> None:
        with _translated():
            await self._redis.ping()

    async def close(self) -> None:
        await self._redis.aclose()


def _milliseconds(ttl: float) -> int:
    return max(1, math.ceil(ttl * 1000))


def _connect(settings: RedisStoreSettings) -> Redis:
    # Imported here because a gateway with the memory store need not pay for it.
    from redis.asyncio import BlockingConnectionPool, Redis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    options: dict[str, Any] = {
        "username": settings.username,
        "password": settings.password.reveal() if settings.password else None,
        "ssl_ca_certs": settings.tls.ca_file and str(settings.tls.ca_file),
        "ssl_certfile": settings.tls.cert_file and str(settings.tls.cert_file),
        "ssl_keyfile": settings.tls.key_file and str(settings.tls.key_file),
    }
    pool = BlockingConnectionPool.from_url(
        settings.url,
        max_connections=settings.max_connections,
        timeout=settings.timeouts.command,
        socket_connect_timeout=settings.timeouts.connect,
        socket_timeout=settings.timeouts.command,
        # One more try, at once, for a connection that the server closed while it lay idle.
        retry=Retry(NoBackoff(), 1),
        **{name: value for name, value in options.items() if value is not None},
    )
    return Redis.from_pool(pool)


@contextmanager
def _translated() -> Iterator[None]:
    """Whatever goes wrong with Redis is the store's fault. Its text may quote a command, so only its kind goes on."""
    from redis.exceptions import RedisError

    try:
        yield
    except (RedisError, OSError, TimeoutError) as error:
        raise StoreFault("store_unavailable", type(error).__name__, retry_after=2) from None
