"""One connection to one Redis server: commands go out without waiting for one another, answers and changes come in.

The server remembers what this connection has read, and announces on it when that changes (CLIENT TRACKING). It is one
connection on purpose:

* Answers and announcements stand in one order, so a value that was read before a change never arrives after its
  announcement without being known for old.
* The server forgets what a connection has read, silently, when that connection ends. With a pool whose announcements
  are redirected elsewhere, every time-out and every cancelled request would close one, and changes would go unseen.
* A request that is cancelled or has waited long enough leaves; its answer is thrown away when it comes. No connection
  is ever left with an answer that belongs to somebody else.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import deque
from collections.abc import Callable
from typing import Any

from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    DefaultParser,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

BEAT_EVERY = 1.0
"""Seconds between two proofs that the server is there, and still the master."""

Options = dict[str, Any]
Command = tuple[str | bytes | int, ...]

HELLO: Command = "HELLO", 3
_ANNOUNCEMENT = object()


class LinkLost(RedisConnectionError):
    """The connection ended before the answer came; whether the command was obeyed is not known."""


class Link:
    """``changed`` is told of every announced key, ``flushed`` when the whole database was emptied.

    ``ended`` is told, once, as soon as the link is good for nothing any more. ``patience`` is how many seconds the
    server may take to prove that it is there.
    """

    def __init__(
        self,
        options: Options,
        *,
        patience: float,
        changed: Callable[[bytes], None],
        flushed: Callable[[], None],
        ended: Callable[[Link], None],
    ) -> None:
        self._connection = _connection(options, parser_class=_announcing(changed, flushed))
        self._patience = patience
        self._unsent: list[bytes] = []
        self._expected: deque[asyncio.Future[Any]] = deque()
        self._wake = asyncio.Event()
        self._ended, self._tell_of_the_end = asyncio.Event(), ended

    async def open(self) -> None:
        """Connect to a master that has its data in memory. RedisError, OSError or TimeoutError if it is none."""
        async with asyncio.timeout(self._patience):
            await self._connection.connect()  # type: ignore[no-untyped-call]
            _check_is_master(await _ask(self._connection, HELLO))
            await _ask(self._connection, ("PING",))  # refused while the server still loads its data
            await _ask(self._connection, ("CLIENT", "TRACKING", "ON"))

    def send(self, *commands: Command) -> asyncio.Future[Any]:
        """Send commands in one piece; the answer to the last. It may be LinkLost, and redis' ResponseError."""
        loop = asyncio.get_running_loop()
        answers = [loop.create_future() for _ in commands]
        if self._ended.is_set():
            answers[-1].set_exception(LinkLost("the connection has ended"))
            return answers[-1]
        for unwanted in answers[:-1]:
            unwanted.cancel()
        for command in commands:
            self._unsent += self._connection.pack_command(*command)
        self._expected += answers
        self._wake.set()
        return answers[-1]

    async def run(self) -> None:
        """Until the connection is lost, which may be an exception, or ``end`` is called."""
        parts = [
            asyncio.ensure_future(part) for part in (self._read(), self._write(), self._beat(), self._ended.wait())
        ]
        try:
            done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
            for part in done:
                part.result()
        finally:
            self.end()
            for part in parts:
                part.cancel()
            await asyncio.gather(*parts, return_exceptions=True)

    def end(self) -> None:
        """Give up: whoever waits for an answer gets LinkLost."""
        if self._ended.is_set():
            return
        self._ended.set()
        while self._expected:
            answer = self._expected.popleft()
            if not answer.done():
                answer.set_exception(LinkLost("the connection has ended"))
        self._tell_of_the_end(self)

    async def close(self, *, gently: bool = False) -> None:
        """Let go of the connection; ``gently`` waits until both sides have."""
        self.end()
        with contextlib.suppress(RedisError, OSError, TimeoutError):
            await self._connection.disconnect(nowait=not gently)

    async def _read(self) -> None:
        while True:
            try:
                heard = await self._connection.read_response(
                    timeout=math.inf, disconnect_on_error=False, push_request=True
                )
            except ResponseError as error:
                heard = error
            if heard is not _ANNOUNCEMENT:
                self._answer(heard)

    def _answer(self, heard: Any) -> None:
        if not self._expected:
            raise RedisConnectionError("an answer to nothing")
        answer = self._expected.popleft()
        if answer.done():  # nobody waits for it any more
            return
        if isinstance(heard, ResponseError):
            answer.set_exception(heard)
        else:
            answer.set_result(heard)

    async def _write(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            unsent, self._unsent = self._unsent, []
            await self._connection.send_packed_command(unsent, check_health=False)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(BEAT_EVERY)
            async with asyncio.timeout(self._patience):
                _check_is_master(await self.send(HELLO))


async def ask(options: Options, *commands: Command, patience: float) -> list[Any]:
    """The answers to commands on a connection of their own, for servers that are asked once."""
    connection = _connection(options)
    try:
        async with asyncio.timeout(patience):
            await connection.connect()  # type: ignore[no-untyped-call]
            return [await _ask(connection, command) for command in commands]
    finally:
        with contextlib.suppress(RedisError, OSError, TimeoutError):
            await connection.disconnect(nowait=True)


def kind_of(error: Exception) -> str:
    """What went wrong, in a word; the text of redis' errors may quote a command, and so a secret."""
    code = str(error).partition(" ")[0]
    return code if isinstance(error, ResponseError) and code.isalpha() and code.isupper() else type(error).__name__


async def _ask(connection: AbstractConnection, command: Command) -> Any:
    await connection.send_command(*command)
    return await connection.read_response()


def _check_is_master(greeting: dict[bytes, Any]) -> None:
    if greeting.get(b"role") != b"master":
        raise RedisConnectionError("the server is not a master")


def _connection(options: Options, **more: Any) -> AbstractConnection:
    arguments = {
        **options,
        **more,
        "driver_info": None,
        "protocol": 3,
        "decode_responses": False,
        # Time-outs are ours: redis' own are of asyncio.wait_for, which in Python 3.11 may swallow a cancellation.
        "socket_timeout": None,
        # Whoever asks decides whether to ask again: a connection that came back by itself would announce nothing.
        "retry": Retry(NoBackoff(), 0),
    }
    secure = arguments.pop("ssl", False)
    if "path" in arguments:
        return UnixDomainSocketConnection(**arguments)
    return SSLConnection(**arguments) if secure else Connection(**arguments)


def _announcing(changed: Callable[[bytes], None], flushed: Callable[[], None]) -> type[Any]:
    """A parser that hands announcements on in the order in which they stand among the answers."""

    class Announcing(DefaultParser):  # type: ignore[misc, valid-type]
        async def handle_push_response(self, response: list[Any], **_: Any) -> object:
            if response[0] in {b"invalidate", "invalidate"}:
                if response[1] is None:
                    flushed()
                else:
                    for key in response[1]:
                        changed(key)
            return _ANNOUNCEMENT

    return Announcing
