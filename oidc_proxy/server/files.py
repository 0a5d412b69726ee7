"""Files that are read again when they have changed: certificates and secrets that somebody renews."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from ..errors import SettingsFault
from .telemetry import Telemetry

EVERY = 2.0
"""Seconds between looks."""

_Looks: TypeAlias = tuple[tuple[int, ...] | None, ...]


@dataclass(slots=True)
class _Watched:
    name: str
    paths: tuple[Path, ...]
    reload: Callable[[], None]
    looks: _Looks


class Files:
    """Looks at files every few seconds: notifications do not come from every file system, nor through links."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry
        self._watched: list[_Watched] = []
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, name: str, paths: Iterable[Path | None], reload: Callable[[], None]) -> None:
        """Call ``reload`` when one of the files has changed; SettingsFault says that what was read before stays in use.

        ``name`` is that of the setting, for the log.
        """
        there = tuple(path for path in paths if path is not None)
        if there:
            self._watched.append(_Watched(name, there, reload, _looks(there)))

    def start(self) -> None:
        """Begin to look."""
        if self._watched:
            self._timer = asyncio.get_running_loop().call_later(EVERY, self._look)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        for watched in self._watched:
            looks = _looks(watched.paths)
            if looks != watched.looks:
                watched.looks = looks
                self._reload(watched)
        self.start()

    def _reload(self, watched: _Watched) -> None:
        fields = {"setting": watched.name, "files": [str(path) for path in watched.paths]}
        try:
            watched.reload()
        except SettingsFault as fault:
            self._telemetry.metrics.reloads.inc(watched.name, "failure")
            self._telemetry.message("error", "files.reload_failed", reason=str(fault), **fields)
        else:
            self._telemetry.metrics.reloads.inc(watched.name, "success")
            self._telemetry.message("info", "files.reloaded", **fields)


def _looks(paths: Iterable[Path]) -> _Looks:
    """What differs when a file has: of what links lead to, as Kubernetes exchanges the link."""
    return tuple(_look_of(path) for path in paths)


def _look_of(path: Path) -> tuple[int, ...] | None:
    try:
        seen = path.stat()
    except OSError:
        return None
    return seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns
