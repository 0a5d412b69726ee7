"""Real servers for tests: run as a process of this machine, or in a container where a Docker daemon answers.

A container shares the host's network, so that ports, loopback callbacks and the issuer are the same either way, and the
two are driven by the same words: `start`, `stop`, `kill`, `pause`, `resume`, `close`.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import random
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Unavailable(Exception):
    """A real part cannot be had on this machine; the text says why, and what would bring it."""


def once(made: Callable[[], T]) -> Callable[[], T]:
    """What it comes to is kept: what could not be had is not tried again for each test that wants it."""

    @cache
    def outcome() -> tuple[T] | str:
        try:
            return (made(),)
        except Unavailable as reason:
            return str(reason)

    def known() -> T:
        found = outcome()
        if isinstance(found, str):
            raise Unavailable(found)
        return found[0]

    return known


class Runner(Protocol):
    """One server that can be started and hurt, however it is run."""

    kind: str

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def kill(self) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def close(self) -> None: ...
    def running(self) -> bool: ...
    def tail(self) -> str: ...


class Process:
    """A child process with its output in a file. It cannot outlive the test run, however that run ends."""

    kind = "process"

    def __init__(self, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> None:
        self._command = list(command)
        self._log = log
        self._environment = {**os.environ, **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,
            )
        # The guard's standard input ends when the test run does, even by SIGKILL; nothing else tells a child of that.
        self._guard = subprocess.Popen(
            ["/bin/sh", "-c", 'read -r _; kill -9 "$1"', "guard", str(self._process.pid)],
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def stop(self) -> None:
        """SIGTERM, and SIGKILL after 20 seconds."""
        self.resume()
        self._signal(signal.SIGTERM)
        try:
            self._reap(timeout=20)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        self._signal(signal.SIGKILL)
        self._reap(timeout=None)

    def pause(self) -> None:
        """SIGSTOP: connections stay open, and nothing answers any more."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def close(self) -> None:
        self.kill()

    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def tail(self) -> str:
        return _last_lines(self._log.read_bytes()) if self._log.exists() else ""

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self.running():
            self._process.send_signal(number)

    def _reap(self, timeout: float | None) -> None:
        if self._process is None:
            return
        self._process.wait(timeout)
        self._process = None
        if self._guard is not None and self._guard.stdin is not None:
            self._guard.kill()
            self._guard.wait()
            self._guard.stdin.close()


class Container:
    """The same server from an image, by testcontainers, which removes the container even after a crash of the run."""

    kind = "container"

    def __init__(
        self,
        image: str,
        command: Sequence[str],
        environment: Mapping[str, str] | None = None,
        volumes: Mapping[Path, str] | None = None,
    ) -> None:
        from testcontainers.core.container import DockerContainer

        self._container = DockerContainer(image).with_command(list(command)).with_envs(**(environment or {}))
        self._container.with_kwargs(network_mode="host")
        for folder, inside in (volumes or {}).items():
            self._container.with_volume_mapping(str(folder), inside, "rw")
        self._created = False

    def start(self) -> None:
        if self._created:
            self._docker().start()
            return
        try:
            self._container.start()
        except Exception as error:  # docker's and its HTTP client's have no base of their own in common
            raise Unavailable(f"Docker could not start {self._container.image}: {error}") from error
        self._created = True

    def stop(self) -> None:
        self.resume()
        self._docker().stop(timeout=20)

    def kill(self) -> None:
        if self.running():
            self._docker().kill()

    def pause(self) -> None:
        self._docker().pause()

    def resume(self) -> None:
        if self._state() == "paused":
            self._docker().unpause()

    def close(self) -> None:
        self._container.stop()

    def running(self) -> bool:
        return self._state() in {"running", "paused"}

    def tail(self) -> str:
        return _last_lines(self._docker().logs(tail=30)) if self._created else ""

    def _docker(self) -> Any:
        return self._container.get_wrapped_container()

    def _state(self) -> str:
        if not self._created:
            return ""
        container = self._docker()
        container.reload()
        return str(container.status)


def docker_answers() -> bool:
    """Whether a Docker daemon can be used; a client without its daemon does not count."""
    try:
        from testcontainers.core.docker_client import DockerClient

        client = DockerClient(timeout=3).client
    except Exception:  # no testcontainers, no socket, no permission: all the same to us
        return False
    try:
        return bool(client.ping())
    except Exception:
        return False
    finally:
        client.close()


@cache
def _ports() -> Iterator[int]:
    """Each port in turn, in an order of this process' own: none comes again before all others were there.

    Of several processes that share the tests, each has a part of them.
    """
    worker = os.environ.get("PYTEST_XDIST_WORKER")  # gw0, gw1, …
    ports = [*(range(18_000 + int(worker[2:]) % 8, 32_000, 8) if worker else range(18_000, 32_000))]
    random.SystemRandom().shuffle(ports)
    return itertools.cycle(ports)


def free_port() -> int:
    """A port that nobody listens on, and that no other test was given lately.

    It lies below the range that systems give to outgoing connections: one of those must not take it while the server
    that a test has stopped is away.
    """
    for port in itertools.islice(_ports(), 200):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise Unavailable("no free port between 18000 and 32000")


def cache_folder() -> Path:
    """Where large parts are kept between runs: $OIDC_PROXY_TEST_CACHE, else ~/.cache/oidc-proxy-tests."""
    chosen = os.environ.get("OIDC_PROXY_TEST_CACHE")
    folder = Path(chosen) if chosen else Path.home() / ".cache" / "oidc-proxy-tests"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Other runs on this machine wait meanwhile."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _last_lines(output: bytes, count: int = 30) -> str:
    return "\n".join(output.decode(errors="replace").splitlines()[-count:])
