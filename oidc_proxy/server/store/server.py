"""One Redis server, wherever it is now: a link to it is kept up for as long as the store is open."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from typing import Any

from redis.exceptions import MasterDownError, ReadOnlyError, RedisError

from ...errors import StoreFault
from .link import Command, Link, LinkLost, Options, kind_of

SHORT_OUTAGE = 0.5
"""Seconds that a command waits for a link that has just been lost; after that it fails at once."""

SHORTEST_PAUSE, LONGEST_PAUSE = 0.02, 1.0
"""Seconds between two attempts to connect: longer each time."""

LOOK_EVERY = 5.0
"""Seconds between two looks at where the server is; it may have been replaced while it still answers us."""


class Server:
    """``locate`` gives the connection options for where the server is now.

    ``changed`` is told of every key that was read here and has changed; ``lost`` when changes may go unseen.
    """

    def __init__(
        self,
        locate: Callable[[], Awaitable[Options]],
        *,
        patience: float,
        changed: Callable[[bytes], None],
        lost: Callable[[], None],
    ) -> None:
        self._locate, self._changed, self._lost = locate, changed, lost
        self._patience = patience
        self._link: Link | None = None
        self._up = asyncio.Event()
        self._wait_until = 0.0
        self._reason = "not connected yet"
        self._runner: asyncio.Task[None] | None = None
        self._pause = SHORTEST_PAUSE
        self._closed = False

    @property
    def linked(self) -> bool:
        """Whether changes are being announced."""
        return self._link is not None

    async def send(self, *commands: Command) -> Any:
        """The answer to the last of the commands, which are sent in one piece.

        StoreFault while the server cannot be reached; LinkLost if it went away before it answered.
        """
        link = self._link or await self._wait()
        try:
            return await link.send(*commands)
        except (ReadOnlyError, MasterDownError) as error:
            self._reason = kind_of(error)
            link.end()  # it is a replica by now: look for the master
            raise

    async def close(self) -> None:
        """Let go of the connection. Whoever waits for it, or for an answer, gets LinkLost."""
        self._closed = True
        self._up.set()
        if self._runner is not None:
            self._runner.cancel()
            await asyncio.gather(self._runner, return_exceptions=True)

    async def _wait(self) -> Link:
        if self._runner is None and not self._closed:
            # The first link may take as long as one command may.
            self._wait_until = asyncio.get_running_loop().time() + max(SHORT_OUTAGE, self._patience)
            self._runner = asyncio.create_task(self._run())
        if not self._closed:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(self._wait_until):
                    await self._up.wait()
        if self._closed:
            raise LinkLost("closed")
        if self._link is None:
            raise StoreFault("store_unavailable", self._reason, retry_after=2)
        return self._link

    # ── the link ──

    async def _run(self) -> None:
        """Keep the link up."""
        while not self._closed:
            try:
                await self._once(await self._locate())
            except Exception as error:  # whatever it was, the next attempt may succeed
                self._reason = error.detail if isinstance(error, StoreFault) else kind_of(error)
            # Not all workers at the same moment.
            await asyncio.sleep(self._pause * random.uniform(0.5, 1))  # noqa: S311
            self._pause = min(self._pause * 2, LONGEST_PAUSE)

    async def _once(self, options: Options) -> None:
        """From a link that is made to its loss."""
        link = Link(options, patience=self._patience, changed=self._changed, flushed=self._lost, ended=self._down)
        look = asyncio.create_task(self._look(options, link))
        try:
            await link.open()
            self._link, self._pause = link, SHORTEST_PAUSE
            self._up.set()
            await link.run()
        finally:
            link.end()
            look.cancel()
            try:
                await asyncio.gather(look, return_exceptions=True)
            finally:  # even if the store is closed at this very moment
                await link.close(gently=self._closed)

    async def _look(self, options: Options, link: Link) -> None:
        """End the link when the server is elsewhere."""
        here = options
        while here == options:
            await asyncio.sleep(LOOK_EVERY)
            with contextlib.suppress(StoreFault, RedisError, OSError, TimeoutError):
                here = await self._locate()
        link.end()

    def _down(self, link: Link) -> None:
        if self._link is link:
            self._link = None
            self._up.clear()
            self._wait_until = asyncio.get_running_loop().time() + SHORT_OUTAGE
            self._lost()
