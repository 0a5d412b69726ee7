"""Where the master is, as the Sentinels say."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from redis.exceptions import RedisError

from ...errors import StoreFault
from .link import Options, ask
from .settings import SentinelSettings

SECOND_OPINION = 0.2
"""Seconds that the other Sentinels have once the first has answered."""


def ask_sentinels(settings: SentinelSettings, options: Options, patience: float) -> Callable[[], Awaitable[Options]]:
    """``options`` are those of the Redis servers; what Sentinels share with them is TLS and how long they may take."""
    shared = {name: value for name, value in options.items() if name.startswith(("ssl", "socket_connect_timeout"))}
    own = {"username": settings.username, "password": settings.password.reveal() if settings.password else None}
    theirs = {**shared, **{name: value for name, value in own.items() if value is not None}}
    sentinels = [{**theirs, "host": host, "port": port} for host, port in map(_address, settings.addresses)]

    async def locate() -> Options:
        host, port = await _most_recent([_opinion(sentinel, settings.master, patience) for sentinel in sentinels])
        return {**options, "host": host, "port": port}

    return locate


async def _opinion(sentinel: Options, name: str, patience: float) -> tuple[int, tuple[str, int]]:
    """The epoch of what this Sentinel knows, and the address."""
    about, address = await ask(
        sentinel, ("SENTINEL", "MASTER", name), ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", name), patience=patience
    )
    if isinstance(about, list):
        about = dict(zip(about[::2], about[1::2], strict=False))
    return int(about[b"config-epoch"]), (address[0].decode(), int(address[1]))


async def _most_recent(opinions: list[Any]) -> tuple[str, int]:
    """What the Sentinel with the highest epoch says: one that was cut off still names the master of yesterday."""
    asked = [asyncio.ensure_future(opinion) for opinion in opinions]
    try:
        for first in asyncio.as_completed(asked):
            try:
                await first
            except (RedisError, OSError, TimeoutError, ValueError, TypeError, KeyError):
                continue
            break
        await asyncio.wait(asked, timeout=SECOND_OPINION)
        known = [done.result() for done in asked if done.done() and not done.cancelled() and not done.exception()]
    finally:
        for one in asked:
            one.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
    if not known:
        raise StoreFault("store_unavailable", "no Sentinel knows the master", retry_after=2)
    address: tuple[str, int] = max(known)[1]
    return address


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or port.endswith("]"):
        host, port = text, "26379"
    return host.strip("[]"), int(port)
