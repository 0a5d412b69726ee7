"""`oidc-proxy serve --config FILE` as a process: it listens, answers, drains and ends (F252, F253)."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from oidc_proxy.demo.backend import Behaviour
from tests.gateway import client_for, settings_for
from tests.real.parts import free_port
from tests.serving import COMMAND, Serving, serving
from tests.world import Backend, Browser, Provider, running_backend, running_provider


@asynccontextmanager
async def served(folder: Path, **config: Any) -> AsyncIterator[tuple[Serving, Provider, Backend]]:
    """A gateway process between a provider and a backend."""
    port = free_port()
    clients = [client_for(f"http://127.0.0.1:{port}")]
    async with (
        running_provider(clients=clients, path="/realms/demo") as provider,
        running_backend() as backend,
        serving({**settings_for(port, provider, backend), **config}, folder) as gateway,
    ):
        yield gateway, provider, backend


async def test_f253_it_serves_and_every_line_of_its_output_is_json(tmp_path: Path) -> None:
    async with served(tmp_path) as (gateway, _, _), Browser() as ann:
        page = await ann.sign_in(f"{gateway.url}/echo/x?y=%20", "ann", "ann")
        assert page.json()["target"] == "/echo/x?y=%20"
        await ann.navigate(f"{gateway.url}/oauth2/nothing-of-ours")
        await gateway.until("/readyz", 200)
        assert (await gateway.ask("/metrics"))[1].count("oidc_proxy_build_info{") == 1
        assert gateway.lines(event="login.succeeded")
        started = gateway.lines(event="startup")
        assert [line["public_url"] for line in started] == [[gateway.url]]


async def test_f253_an_idle_connection_does_not_hold_up_the_end(tmp_path: Path) -> None:
    async with served(tmp_path) as (gateway, _, _), Browser() as ann:
        await asyncio.gather(*(ann.fetch(f"{gateway.url}/echo") for _ in range(3)))
        began = time.monotonic()
        await gateway.stop()
        assert time.monotonic() - began < 5
        assert gateway.lines(event="shutdown"), "it was not killed"


def test_sm26_it_does_not_start_with_another_parser_than_the_compiled_one() -> None:
    """aiohttp has a second one, in Python, whose grammar differs; an environment variable is enough to get it."""
    command = [*COMMAND, "serve", "--config", "/dev/null"]
    environment = {**os.environ, "AIOHTTP_NO_EXTENSIONS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 78
    assert done.stderr == (
        "aiohttp runs without its compiled HTTP parser, which is the only one that is safe here; "
        "unset AIOHTTP_NO_EXTENSIONS, and install aiohttp from a wheel\n"
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
async def test_f253_a_request_under_way_is_finished_before_the_end(tmp_path: Path, number: signal.Signals) -> None:
    async with served(tmp_path) as (gateway, _, backend), Browser() as ann, Browser() as late:
        await ann.sign_in(f"{gateway.url}/echo", "ann", "ann")
        backend.switches.usual = Behaviour(delay=1.5)
        waiting = asyncio.create_task(ann.fetch(f"{gateway.url}/echo/slow"))
        await asyncio.sleep(0.5)
        gateway.process._signal(number)
        await asyncio.sleep(0.2)
        with pytest.raises(OSError, match="onnect"):
            await late.fetch(f"{gateway.url}/echo")
        page = await waiting
        assert (page.status, page.json()["target"]) == (200, "/echo/slow")
        for _ in range(250):
            if not gateway.process.running():
                break
            await asyncio.sleep(0.02)
        assert not gateway.process.running()
        assert gateway.lines(event="shutdown")


async def test_f252_the_health_command_asks_the_process(tmp_path: Path) -> None:
    async def health(gateway: Serving) -> tuple[int | None, str]:
        command = [*COMMAND, "healthcheck", "--address", gateway.admin.removeprefix("http://")]
        process = await asyncio.create_subprocess_exec(*command, stderr=subprocess.PIPE)
        _, said = await process.communicate()
        return process.returncode, said.decode()

    async with served(tmp_path) as (gateway, provider, _):
        assert await health(gateway) == (0, "")
    async with served(tmp_path / "without") as (gateway, provider, _):
        await provider.close()
        status, said = await health(gateway)
        assert status == 1
        assert "provider_unavailable" in said


async def test_f253_without_its_provider_it_starts_says_so_and_recovers(tmp_path: Path) -> None:
    async with served(tmp_path) as (gateway, provider, _), Browser() as ann:
        await provider.close()
        page = await ann.navigate(f"{gateway.url}/echo")
        assert (page.status, len(page.hops)) == (503, 1)
        assert int(page.headers["Retry-After"]) >= 1
        await provider.open()
        await gateway.until("/readyz", 200)
        assert (await ann.sign_in(f"{gateway.url}/echo", "ann", "ann")).status == 200


def test_f253_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        command = [*COMMAND, "serve", "--config", "minimal.yaml", "--set", "admin={address: null}"]
        command += ["--set", f"listen.address=127.0.0.1:{taken.getsockname()[1]}"]
        environment = {"CLIENT_SECRET": "canary", "PATH": ""}
        corpus = Path(__file__).parent.parent / "corpus" / "config"
        done = subprocess.run(
            command, cwd=corpus, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
    assert done.returncode == 1
    assert "cannot listen" in done.stderr
    assert "Traceback" not in done.stderr


def test_f253_a_configuration_with_problems(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("public_url: http://127.0.0.1:1\nprovider: {issuer: 'https://x.test', client_id: a}\nupstrem: x\n")
    done = subprocess.run([*COMMAND, "serve", "-c", str(file)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 78
    assert done.stdout == ""
    assert f"{file}:3:1" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")
async def test_f253_curl_is_told_what_a_program_can_use(tmp_path: Path) -> None:
    async with served(tmp_path) as (gateway, _, _):
        command = ["curl", "-s", "-i", f"{gateway.url}/echo"]
        process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
        out, _ = await process.communicate()
        assert out.startswith(b"HTTP/1.1 401 ")
        assert b"application/problem+json" in out
        assert b'"login_url": "%b/oauth2/start"' % gateway.url.encode() in out
