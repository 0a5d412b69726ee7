"""Where log lines leave the process: gathered, written in few pieces, and never waited for.

Whoever reads the log may be slow, or gone. Then lines wait up to a limit, and are counted and lost beyond it: a gateway
that cannot tell what it does is better than one that does nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import stat
import sys
import time
from collections.abc import Callable

FULL = 32 * 1024
"""Bytes that are written without waiting for more."""
PAUSE = 0.1
"""Seconds that a line waits at most for others to be written with."""
RETRY = 0.001
"""Seconds after which a reader that took no more is tried again; twice as long each time in vain, up to ``PAUSE``."""
LIMIT = 1024 * 1024
"""Bytes that wait for a reader at most."""
LINGER = 1.0
"""Seconds for which the end of the process waits for the reader."""


class Outlet:
    """Lines on their way to a file, pipe, terminal or socket; None for a descriptor that is closed.

    ``recovered`` is told how many lines were lost, once there is room again.
    """

    def __init__(self, descriptor: int | None, recovered: Callable[[int], None] = lambda lost: None) -> None:
        self.lost = 0
        """Lines that were dropped, in all."""
        self._told = 0
        self._recovered = recovered
        self._lines: list[bytes] = []
        self._rest = b""
        self._size = 0
        self._timer: asyncio.TimerHandle | None = None
        self._blocked = self._complained = False
        self._retry = RETRY
        self._descriptor, self._piece = (-1, FULL) if descriptor is None else _opened(descriptor)

    def add(self, line: bytes, urgent: bool = False) -> None:
        """Write this line after those before it: at once if it is urgent, else soon."""
        if self._size + len(line) > LIMIT:
            self.lost += 1
            return
        self._lines.append(line)
        self._size += len(line)
        if self._blocked and self._timer is not None:
            return
        if urgent or self._size >= FULL:
            self.flush()
        elif self._timer is None:
            self._arm(PAUSE)

    def flush(self) -> None:
        """Write as much as the reader takes."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._blocked = None, False
        data = self._rest + b"".join(self._lines)
        self._lines.clear()
        written = 0
        try:
            while written < len(data):
                written += os.write(self._descriptor, _piece(data, written, self._piece))
        except BlockingIOError:
            self._blocked = True
        except OSError as error:  # nobody reads any more, or the disk is full
            self.lost += data.count(b"\n", written)
            self._complain(error)
            data = b""
        self._rest = data[written:]
        self._size = len(self._rest)
        if self._blocked:
            self._retry = RETRY if written else min(2 * self._retry, PAUSE)
            self._arm(self._retry)
        elif data and self.lost > self._told:
            lost, self._told = self.lost - self._told, self.lost
            self._recovered(lost)

    def close(self) -> None:
        """Write what is left; a reader that takes nothing is waited for a second."""
        until = time.monotonic() + LINGER
        self.flush()
        while self._blocked and time.monotonic() < until:
            time.sleep(RETRY)
            self.flush()

    def _arm(self, seconds: float) -> None:
        with contextlib.suppress(RuntimeError):  # no loop runs: the next line, or the end, tries again
            self._timer = asyncio.get_running_loop().call_later(seconds, self.flush)

    def _complain(self, error: OSError) -> None:
        if not self._complained:
            self._complained = True
            with contextlib.suppress(OSError, AttributeError, ValueError):
                sys.stderr.write(f"oidc-proxy: standard output: {error.strerror}; log lines are lost\n")


def _opened(descriptor: int) -> tuple[int, int]:
    """The descriptor to write to without ever waiting, and how many bytes at a time.

    Not to wait is a property of what was opened, and others share that: so it is opened once more. A socket cannot be,
    nor what belongs to another user. Several workers write to one pipe: what is not larger than PIPE_BUF is never
    mixed with others' bytes (POSIX, write). Files need no such care, and never make anybody wait.
    """
    try:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return descriptor, LIMIT
        return os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY), select.PIPE_BUF
    except OSError:
        with contextlib.suppress(OSError):
            os.set_blocking(descriptor, False)
        return descriptor, select.PIPE_BUF


def _piece(data: bytes, start: int, size: int) -> memoryview:
    """Whole lines of together at most this size, or one that is longer."""
    end = len(data)
    if end - start > size:
        end = data.rfind(b"\n", start, start + size) + 1 or data.find(b"\n", start) + 1 or end
    return memoryview(data)[start:end]
