"""A process that serves: the event loop, signals, and the way out."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import socket
import sys
from collections.abc import Coroutine, Sequence
from typing import Any

from ...config import Config
from ..app import App
from ..doors import Doors, forget_doors

SIGNALS = (signal.SIGTERM, signal.SIGINT)
BEAT = 1.0
"""Seconds between signs of life."""
READY, ALIVE, LEAVING = b"r", b"a", b"l"
"""What a worker tells its supervisor: it serves; its event loop turns; it has begun to drain."""


def one(config: Config) -> int:
    """Serve in this process, alone."""
    return _run(_alone(config))


def worker(config: Config, doors: Doors, keys: Sequence[bytes], line: socket.socket) -> int:
    """Serve in this process, as one of several; ``line`` leads to the supervisor, and ends with it."""
    return _run(_as_worker(config, doors, keys, line))


def cannot_listen(error: OSError) -> int:
    """Say so; the exit status."""
    print(f"oidc-proxy: cannot listen: {error.strerror or error}", file=sys.stderr)  # noqa: T201
    return 1


def _run(main: Coroutine[Any, Any, int]) -> int:
    try:
        import uvloop
    except ImportError:  # not on every platform
        return asyncio.run(main)
    return uvloop.run(main)


async def _alone(config: Config) -> int:
    app = App(config)
    app.telemetry.take_over_logging()
    try:
        await app.start()
    except OSError as error:
        return cannot_listen(error)
    stop = _told_to_stop()
    _settle()
    await stop.wait()
    closed = await app.close()
    forget_doors(config)
    return 0 if closed else 1


async def _as_worker(config: Config, doors: Doors, keys: Sequence[bytes], line: socket.socket) -> int:
    app = App(config, keys=keys)
    app.telemetry.take_over_logging()
    stop = _told_to_stop()
    await app.start(doors)
    asyncio.get_running_loop().add_reader(line, stop.set)  # nothing ever comes but its end
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    _settle()
    _tell(line, READY)
    beats = asyncio.create_task(_show_life(line))
    await stop.wait()
    asyncio.get_running_loop().remove_reader(line)
    _tell(line, LEAVING)
    closed = await app.close()
    beats.cancel()
    return 0 if closed else 1


def _told_to_stop() -> asyncio.Event:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in SIGNALS:
        loop.add_signal_handler(number, stop.set)
    return stop


def _settle() -> None:
    """What was imported lives as long as the process: no need to look through it again and again."""
    gc.collect()
    gc.freeze()


async def _show_life(line: socket.socket) -> None:
    while True:
        await asyncio.sleep(BEAT)
        _tell(line, ALIVE)


def _tell(line: socket.socket, word: bytes) -> None:
    with contextlib.suppress(OSError):  # it has gone, or does not listen
        line.send(word)
