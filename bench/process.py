"""A program under measurement: started, watched through /proc, and ended. Linux only."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


class Missing(Exception):
    """Something cannot take part here; the text says why, and what would bring it."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of all processes together. ``pss`` counts pages that several share once, ``rss`` once for each."""

    rss: int = 0
    pss: int = 0


def find(name: str, package: str = "", *, remedy: str = "") -> str:
    """Where a program is, /usr/sbin included. Missing names the Debian package, or another remedy."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found is None:
        how = remedy or f"Debian: `apt install {package}`"
        raise Missing(f"there is no `{name}` ({how})")
    return found


class Program:
    """One program with all the processes that it starts. It cannot outlive the benchmark."""

    def __init__(
        self,
        command: Sequence[str],
        output: Path,
        *,
        core: int | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start it, on one core only if one is given; standard output and error go to the file ``output``."""
        self._output = output
        pinned = ["taskset", "--cpu-list", str(core)] if core is not None else []
        with output.open("ab") as file:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", *pinned, *command],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )

    def processes(self) -> list[int]:
        """The process ids of the program and of all its descendants."""
        parents = {pid: int(fields[1]) for pid, fields in _stats().items()}
        tree = [self._process.pid]
        for pid in tree:
            tree += [child for child, parent in parents.items() if parent == pid]
        return tree

    def cpu(self) -> float:
        """Seconds of CPU so far, user and system, those of children that have ended included."""
        stats, tree = _stats(), self.processes()
        return sum(sum(map(int, stats[pid][11:15])) for pid in tree if pid in stats) / TICKS

    def memory(self) -> Memory:
        rss = pss = 0
        for pid in self.processes():
            try:
                text = Path(f"/proc/{pid}/smaps_rollup").read_text()
            except OSError:
                continue
            values = {line.split(":")[0]: line.split() for line in text.splitlines()[1:]}
            rss += int(values["Rss"][1]) * 1024
            pss += int(values["Pss"][1]) * 1024
        return Memory(rss, pss)

    async def ready(self, port: int, seconds: float = 20) -> None:
        """Wait until it listens on a port of this machine. RuntimeError with its last lines if it does not."""
        for _ in range(int(seconds / 0.05)):
            if self._process.poll() is not None:
                break
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
                continue
            writer.close()
            return
        lines = self._output.read_text(errors="replace").splitlines()[-15:]
        raise RuntimeError(f"{self._process.args!r} does not listen on port {port}:\n" + "\n".join(lines))

    def terminate(self) -> None:
        self._process.terminate()

    async def exited(self, seconds: float) -> int | None:
        """Its exit status as soon as it has one; None if it runs for longer than that."""
        for _ in range(int(seconds / 0.01)):
            if self._process.poll() is not None:
                break
            await asyncio.sleep(0.01)
        return self._process.returncode

    def stop(self) -> None:
        """SIGTERM, and SIGKILL after five seconds."""
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def machine_busy() -> float:
    """Seconds of CPU that the whole machine has used so far, whoever it was."""
    fields = list(map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]))
    return (sum(fields) - fields[3] - fields[4]) / TICKS  # all but idle and waiting for a disk


def _stats() -> dict[int, list[str]]:
    """The fields of /proc/<pid>/stat behind the name of the program, of every process."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                text = (entry / "stat").read_text()
            except OSError:  # ended meanwhile
                continue
            found[int(entry.name)] = text.rpartition(")")[2].split()
    return found
