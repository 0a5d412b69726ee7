"""The gateway as a process of its own: what `oidc-proxy serve --config FILE` is for whoever runs it."""

from __future__ import annotations

import asyncio
import json
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.real.parts import Process, free_port

COMMAND = (
    "/usr/bin/env",
    f"PYTHONPATH={Path(__file__).parent.parent}",
    str(Path(sys.executable).with_name("oidc-proxy")),
)
"""The command that is installed, with the code that these tests stand beside."""


class Serving:
    """A running command. ``log`` is everything that it wrote, on standard output and standard error."""

    def __init__(self, command: Sequence[str], folder: Path, url: str, admin: str) -> None:
        self.url, self.admin = url, admin
        self._file = folder / "output.log"
        self.process = Process([*COMMAND, *command], self._file)

    @property
    def log(self) -> str:
        return self._file.read_text() if self._file.exists() else ""

    def lines(self, **wanted: Any) -> list[dict[str, Any]]:
        """The log lines whose fields are these. Fails if anything else than JSON was written."""
        lines = [json.loads(line) for line in self.log.splitlines(keepends=True) if line.endswith("\n")]
        return [line for line in lines if all(line.get(name) == value for name, value in wanted.items())]

    async def ask(self, path: str) -> tuple[int, str]:
        """Status and body of a page of the administration listener."""
        return await asyncio.to_thread(_get, f"{self.admin}{path}")

    async def until(self, path: str, status: int, seconds: float = 20) -> None:
        """Wait until the administration listener answers so."""
        answer: object = None
        for _ in range(int(seconds / 0.02)):
            try:
                answer = await self.ask(path)
            except OSError as error:
                answer = error
                assert self.process.running(), f"it has ended:\n{self.log}"
            else:
                if answer[0] == status:
                    return
            await asyncio.sleep(0.02)
        raise AssertionError(f"{path} is not {status} after {seconds} s but {answer}:\n{self.process.tail()}")

    async def start(self) -> None:
        self.process.start()
        await self.until("/livez", 200)

    async def stop(self) -> None:
        """SIGTERM, and wait for the end."""
        await asyncio.to_thread(self.process.stop)


def _get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


@asynccontextmanager
async def serving(config: Mapping[str, Any], folder: Path, *options: str) -> AsyncIterator[Serving]:
    """`oidc-proxy serve` with this configuration, running.

    The administration listener gets a port of its own, and the client secret a file of its own.
    """
    admin = f"127.0.0.1:{free_port()}"
    folder.mkdir(parents=True, exist_ok=True)
    file, secret = folder / "config.yaml", folder / "client_secret"
    provider = dict(config["provider"])
    if "client_secret" in provider:
        secret.write_text(provider.pop("client_secret"))
        secret.chmod(0o600)
        provider["client_secret_file"] = str(secret)
    written = {**config, "provider": provider, "admin": {"address": admin}}
    file.write_text(yaml.safe_dump(written, allow_unicode=True))
    url = config["public_url"]
    command = ["serve", "--config", str(file), *options]
    gateway = Serving(command, folder, url if isinstance(url, str) else url[0], f"http://{admin}")
    try:
        await gateway.start()
        yield gateway
    finally:
        await gateway.stop()
