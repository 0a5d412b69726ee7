"""The other workers of the gateway: each is asked over a socket, and answers in JSON."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec

from ..metrics import Snapshot

PATIENCE = 1.5
"""Seconds that another worker may take: more than what it waits for itself."""

Question = Callable[[], Awaitable[object]]


class Peers:
    """The workers of one gateway. ``questions`` is what they may be asked, by name."""

    def __init__(self, questions: Mapping[str, Question]) -> None:
        self._questions = questions
        self._names: Sequence[bytes] = ()
        self._mine = 0
        self._server: asyncio.Server | None = None

    async def open(self, private: Sequence[socket.socket], names: Sequence[bytes], mine: int) -> None:
        """Answer on ``private``; ``names`` are the sockets of all workers, ``mine`` the place of this one."""
        self._names, self._mine = names, mine
        for each in private:
            self._server = await asyncio.start_unix_server(self._answer, sock=each)

    def close(self) -> None:
        if self._server is not None:
            self._server.close()

    async def ask(self, question: str) -> dict[int, Any]:
        """What each worker says; None for one that does not answer."""
        others = [number for number in range(len(self._names)) if number != self._mine]
        own, *answers = await asyncio.gather(self._own(question), *(self._ask(number, question) for number in others))
        return dict(sorted([(self._mine, own), *zip(others, answers, strict=True)]))

    async def _own(self, question: str) -> Any:
        return msgspec.to_builtins(await self._questions[question]())

    async def _ask(self, number: int, question: str) -> Any:
        try:
            async with asyncio.timeout(PATIENCE):
                return await _said(self._names[number], question)
        except (OSError, TimeoutError, msgspec.DecodeError):
            return None

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if _same_user(writer.get_extra_info("socket")):
                async with asyncio.timeout(PATIENCE):
                    question = (await reader.readline()).decode("ascii").strip()
                    writer.write(msgspec.json.encode(await self._own(question)))
                    await writer.drain()
        except (OSError, TimeoutError, ValueError, KeyError):
            pass  # whoever asked has gone, or is none of us
        finally:
            writer.close()


async def _said(name: bytes, question: str) -> Any:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        made.setblocking(False)
        made.connect(name)
        reader, writer = await asyncio.open_unix_connection(sock=made)
    except BaseException:
        made.close()
        raise
    try:
        writer.write(f"{question}\n".encode())
        return msgspec.json.decode(await reader.read())
    finally:
        writer.close()


class Ledger:
    """What a worker has told of its counts, kept for its successor: a sum over workers must never go down."""

    def __init__(self, file: int | None) -> None:
        self._file = file

    def read(self) -> Snapshot:
        """What was kept last; nothing if there was nobody before, or it was cut off while it wrote."""
        if self._file is None:
            return []
        try:
            return msgspec.json.decode(os.pread(self._file, os.fstat(self._file).st_size, 0), type=Snapshot)
        except msgspec.DecodeError:
            return []

    def keep(self, snapshot: Snapshot) -> None:
        if self._file is not None:
            text = msgspec.json.encode(snapshot)
            os.pwrite(self._file, text, 0)
            os.ftruncate(self._file, len(text))


def _same_user(connection: socket.socket) -> bool:
    """Whether the other end is a process of our own user."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, user, _ = struct.unpack("3i", credentials)
    return bool(user == os.geteuid())
