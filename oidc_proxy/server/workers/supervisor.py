"""Several processes that serve, and the one that starts them.

The supervisor serves nothing and has no event loop: it waits for signals, for the end of a worker, and for signs of
life. It holds the sockets that workers accept from, so that connections wait in them while a worker is started anew.
"""

from __future__ import annotations

import gc
import os
import selectors
import signal
import socket
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NoReturn

from ...config import Config
from ..app import App, login_keys
from ..doors import Doors, forget_doors
from ..telemetry import Telemetry
from .process import LEAVING, READY, SIGNALS, cannot_listen, worker

LOOK = 1.0
"""Seconds between looks at what nothing tells of."""
SILENCE = 30
"""Looks without a sign of life after which a worker is taken to hang."""
EARLY = 10.0
"""Seconds that a worker must have lived, else its successor is started later and later."""
SLOWEST = 5.0
"""Seconds between starts of workers that do not live."""


@dataclass(slots=True)
class _Child:
    """A process that was started, and our end of the line to it."""

    pid: int
    line: socket.socket
    born: float
    silent: int = 0


@dataclass(slots=True)
class _Place:
    """One worker of those that shall be: who has the place, or from when on it is to be filled."""

    doors: Doors
    child: _Child | None = None
    failures: int = 0
    due: float = 0.0


@dataclass(slots=True)
class _End:
    """The end of all, once it was asked for."""

    deadline: float = field(default_factory=lambda: float("inf"))
    wanted: bool = False
    status: int = 0


def several(config: Config) -> int:
    """Serve in ``listen.workers`` processes until SIGTERM or SIGINT; the exit status."""
    app = App(config)  # never started; but what is wrong with certificates is said once, before anything is opened
    try:
        doors = Doors.open(config)
    except OSError as error:
        return cannot_listen(error)
    app.telemetry.take_over_logging()
    app.announce()
    gc.collect()
    gc.freeze()  # or collecting garbage would write into what the workers share with us
    status = Supervisor(config, doors, app.telemetry, app.patience).run()
    forget_doors(config)
    app.telemetry.message("info", "shutdown")
    app.telemetry.close()
    return status


class Supervisor:
    """Keeps a worker in every place until it is told to stop."""

    def __init__(self, config: Config, doors: Sequence[Doors], telemetry: Telemetry, patience: float) -> None:
        self._config, self._telemetry, self._patience = config, telemetry, patience
        self._keys = login_keys(config)  # one for all, where there is none to derive it from
        self._places = [_Place(each) for each in doors]
        self._leaving: dict[int, _Child] = {}
        self._end = _End()
        self._looked = time.monotonic()
        self._selector = selectors.DefaultSelector()
        self._woken, self._waker = socket.socketpair()

    def run(self) -> int:
        """Until everybody has gone; 0 if nobody had to be killed."""
        self._hear_signals()
        while not self._end.wanted or self._children():
            now = time.monotonic()
            if not self._end.wanted:
                self._fill_places(now)
            self._wait()
            self._reap()
            if time.monotonic() >= self._end.deadline:
                self._kill_all()
        return self._end.status

    # ── what happens ──

    def _hear_signals(self) -> None:
        for each in (self._woken, self._waker):
            each.setblocking(False)
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        for number in (*SIGNALS, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)  # the number is written to the waker
        self._selector.register(self._woken, selectors.EVENT_READ)

    def _wait(self) -> None:
        """Until a signal comes or a worker says something, or for the time of a look."""
        began = time.monotonic()
        due = min((place.due - began for place in self._places if place.child is None), default=LOOK)
        wait = LOOK if self._end.wanted else max(0.01, min(LOOK, due))
        for key, _ in self._selector.select(wait):
            if key.fileobj is self._woken:
                if set(_read(self._woken)) & set(SIGNALS):
                    self._begin_end()
            else:
                self._hear(key.data)
        if time.monotonic() - self._looked >= LOOK:
            self._looked = time.monotonic()
            self._look_at_silence()

    def _hear(self, child: _Child) -> None:
        said = _read(child.line)
        child.silent = 0
        if not said:
            self._selector.unregister(child.line)
        if READY in said:
            self._telemetry.message("info", "worker.ready", pid=child.pid, worker=self._number(child))
        if LEAVING in said and not self._end.wanted:
            # Somebody else told it to: it gives up its place now, and goes in its own time.
            for place in self._places:
                if place.child is child:
                    place.child = None
                    self._leaving[child.pid] = child

    def _look_at_silence(self) -> None:
        """Counted in looks rather than seconds: a machine that was asleep has hung nobody."""
        for child in self._children():
            child.silent += 1
            if child.silent > SILENCE and not self._end.wanted:
                self._telemetry.message(
                    "error", "worker.hung", pid=child.pid, reason=f"no sign of life for {SILENCE} s"
                )
                os.kill(child.pid, signal.SIGKILL)
                child.silent = 0

    def _children(self) -> list[_Child]:
        return [*self._leaving.values(), *(place.child for place in self._places if place.child is not None)]

    def _number(self, child: _Child) -> int:
        return next((number for number, place in enumerate(self._places) if place.child is child), -1)

    # ── beginning ──

    def _fill_places(self, now: float) -> None:
        for place in self._places:
            if place.child is None and place.due <= now:
                try:
                    place.child = self._begin(place)
                except OSError as error:  # no memory, or too many processes or files, for now
                    self._telemetry.message("error", "worker.not_started", reason=str(error))
                    self._later(place)

    def _begin(self, place: _Place) -> _Child:
        ours, theirs = socket.socketpair()
        # A signal that comes before the worker can hear it waits.
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            pid = os.fork()
            if pid == 0:
                self._become(place, ours, theirs)
        except OSError:
            ours.close()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            theirs.close()
        ours.setblocking(False)
        child = _Child(pid, ours, time.monotonic())
        self._selector.register(ours, selectors.EVENT_READ, child)
        return child

    def _become(self, place: _Place, ours: socket.socket, theirs: socket.socket) -> NoReturn:
        """The new process: it lets go of what is the supervisor's, and serves."""
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._selector.close()
            for each in (self._woken, self._waker, ours, *(child.line for child in self._children())):
                each.close()
            kept = place.doors.sockets
            for other in self._places:
                for each in other.doors.sockets:
                    if each not in kept:
                        each.close()
            theirs.setblocking(False)
            status = worker(self._config, place.doors, self._keys, theirs)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    # ── ending ──

    def _reap(self) -> None:
        """Take note of who has ended."""
        for child in self._children():
            pid, status = os.waitpid(child.pid, os.WNOHANG)
            if pid:
                self._gone(child, os.waitstatus_to_exitcode(status))

    def _gone(self, child: _Child, code: int) -> None:
        if child.line.fileno() in self._selector.get_map():
            self._selector.unregister(child.line)
        child.line.close()
        number = self._number(child)
        self._leaving.pop(child.pid, None)
        if self._end.wanted:
            self._end.status = self._end.status or int(code != 0)
        if number >= 0:
            self._places[number].child = None
            self._left_place(self._places[number], child)
        if code != 0 or (number >= 0 and not self._end.wanted):
            reason = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
            self._telemetry.message("error", "worker.died", pid=child.pid, worker=number, reason=reason)

    def _left_place(self, place: _Place, child: _Child) -> None:
        if time.monotonic() - child.born < EARLY:
            self._later(place)
        else:
            place.failures, place.due = 0, 0.0

    def _later(self, place: _Place) -> None:
        """Fill the place after a while, which is longer each time."""
        place.failures += 1
        place.due = time.monotonic() + min(SLOWEST, 0.1 * 2 ** min(place.failures, 10))

    def _begin_end(self) -> None:
        """Let every worker drain. What they listen on is theirs alone from now on, so that they can close it."""
        if self._end.wanted:
            return
        self._end.wanted = True
        self._end.deadline = time.monotonic() + self._patience + 1  # a worker itself gives up before
        for place in self._places:
            place.doors.close()
        for child in self._children():
            os.kill(child.pid, signal.SIGTERM)

    def _kill_all(self) -> None:
        for child in self._children():
            self._telemetry.message("error", "worker.killed", pid=child.pid, reason="it did not end in time")
            os.kill(child.pid, signal.SIGKILL)
        self._end.status = 1
        self._end.deadline = float("inf")


def _read(source: socket.socket) -> bytes:
    try:
        return source.recv(4096)
    except OSError:  # reset, as a worker that was killed leaves its end
        return b""
