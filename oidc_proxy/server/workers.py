"""Running the gateway as a process: the event loop, signals, and the way out."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys

from ..config import Config
from .app import App


def run(config: Config) -> int:
    """Serve until SIGTERM or SIGINT; the exit status."""
    try:
        import uvloop
    except ImportError:  # not on every platform
        return asyncio.run(_serve(config))
    return uvloop.run(_serve(config))


async def _serve(config: Config) -> int:
    app = App(config)
    app.telemetry.take_over_logging()
    try:
        await app.start()
    except OSError as error:
        print(f"oidc-proxy: cannot listen: {error.strerror or error}", file=sys.stderr)  # noqa: T201
        return 1
    # What was imported lives as long as the process: no need to look through it again and again.
    gc.collect()
    gc.freeze()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await stop.wait()
    await app.close()
    return 0
