"""Applications that others wrote, started from packages: what people put behind a gateway.

They have an environment of their own, so that nothing of theirs meets anything of ours: `requirements-apps.lock`,
installed once for a machine. litmus, the test suite for WebDAV servers, is a package of the system.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.metadata
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from tests.real.parts import Process, Unavailable, alone, cache_folder, free_port, once

LOCK = Path(__file__).parents[2] / "requirements-apps.lock"
NAMED = ("jupyter-server", "klaus", "radicale", "tuspyserver", "wsgidav")
PATIENCE = 60.0
"""Seconds that an application may take until it listens; a Jupyter server on a busy machine needs some."""


class Applications:
    """The environment that the applications are installed in."""

    def __init__(self, folder: Path) -> None:
        self.bin = folder / "bin"
        found = importlib.metadata.distributions(
            path=[str(place) for place in folder.glob("lib/python*/site-packages")]
        )
        versions = {distribution.name.lower().replace("_", "-"): distribution.version for distribution in found}
        self._names = ", ".join(f"{name} {versions[name]}" for name in NAMED)

    def __str__(self) -> str:
        return f"applications ({self._names})"

    @classmethod
    def prepared(cls) -> Applications:
        """Install them, unless that has been done before.

        :raises Unavailable: they cannot be had
        """
        return cls(_environment())

    def program(self, name: str) -> str:
        """The path of a program of the environment, or else of the machine.

        :raises Unavailable: it is in neither; there are no packages of it for every machine
        """
        own = self.bin / name
        return str(own) if own.exists() else program_of_the_system(name)

    @asynccontextmanager
    async def running(
        self, program: str, *options: str, folder: Path, environment: Mapping[str, str] | None = None
    ) -> AsyncIterator[str]:
        """A program of the environment, listening; the origin of its URL. ``{port}`` in an option becomes its port.

        ``folder`` is its home, and has its output.
        """
        port = free_port()
        command = [str(self.bin / program), *(option.replace("{port}", str(port)) for option in options)]
        folder.mkdir(parents=True, exist_ok=True)
        own = {"HOME": str(folder), "PATH": os.pathsep.join([str(self.bin), os.environ["PATH"]]), "PYTHONPATH": ""}
        process = Process(command, folder / f"{program}.log", {**own, **(environment or {})})
        process.start()
        try:
            await _listens(process, port)
            yield f"http://127.0.0.1:{port}"
        finally:
            await asyncio.to_thread(process.stop)


@once
def _environment() -> Path:
    recipe = hashlib.sha256(LOCK.read_bytes() + sys.version.encode()).hexdigest()[:8]
    folder = cache_folder() / f"applications-{recipe}"
    with alone(folder.with_suffix(".lock")):
        if not (folder / "ready").exists():
            shutil.rmtree(folder, ignore_errors=True)
            _run(sys.executable, "-m", "venv", str(folder))
            _run(
                *(str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-deps"),
                *("--disable-pip-version-check", "--require-hashes", "-r", str(LOCK)),
            )
            (folder / "ready").touch()
    return folder


async def _listens(process: Process, port: int) -> None:
    for _ in range(int(PATIENCE / 0.1)):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert process.running(), f"it has ended:\n{process.tail()}"
            await asyncio.sleep(0.1)
        else:
            return
    raise AssertionError(f"it does not listen after {PATIENCE} s:\n{process.tail()}")


def _run(*command: str) -> None:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unavailable(f"{' '.join(command[1:4])} failed: {(done.stderr or done.stdout).strip()[-2000:]}")


def program_of_the_system(name: str, package: str = "") -> str:
    """The path of a program, which comes with a package of its own name unless another is given.

    :raises Unavailable: it is not installed
    """
    path = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if path is None:
        raise Unavailable(f"no {name} (Debian: apt install {package or name})")
    return path


async def output_of(command: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None) -> str:
    """Run a client to its end; what it said on both outputs. AssertionError if it fails."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=folder,
        env={**os.environ, "HOME": str(folder), **(environment or {})},
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), 120)
    except TimeoutError:
        process.kill()
        await process.wait()
        raise AssertionError(f"{command[0]} does not end") from None
    text = output.decode(errors="replace")
    assert process.returncode == 0, f"{command[0]} ended with {process.returncode}:\n{text}"
    return text


if __name__ == "__main__":
    try:
        applications = Applications.prepared()
    except Unavailable as reason:
        sys.exit(f"applications are not available: {reason}")
    sys.stdout.write(f"{applications} are ready to be started\n")
