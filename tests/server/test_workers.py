"""Several processes on one port, the one that watches over them, and where they listen (F231, F244, F245)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from oidc_proxy.demo.backend import Behaviour
from tests.gang import Load, asked, gang, lines, metric, signed_in, until
from tests.gateway import client_for, merged, settings_for
from tests.real.parts import free_port
from tests.real.redis import RedisServer
from tests.serving import COMMAND, Serving, serving
from tests.wire import Line, connected, message
from tests.world import Browser, running_backend, running_provider

# ── as with one ──


async def test_f244_a_session_is_known_to_every_worker_and_ends_in_every_worker(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    async with gang(tmp_path, redis_server) as (gateway, _, _), lines(gateway, 16) as several, Browser() as ann:
        assert len(gateway.pids()) == 2
        await ann.sign_in(f"{gateway.url}/echo", "ann", "ann")
        cookie = ann.cookies.header(gateway.url)
        assert [await asked(gateway, line, cookie) for line in several] == [200] * 16
        misses = await metric(gateway, 'oidc_proxy_session_cache_total{result="miss"}')
        assert misses in {1, 2}, "whoever signed her in knows her already"
        assert await metric(gateway, "oidc_proxy_sessions_cached ") == 2, "both workers served her"
        await ann.navigate(f"{gateway.url}/oauth2/sign_out", initiator=f"{gateway.url}/")
        assert [await asked(gateway, line, cookie) for line in several] == [401] * 16


async def test_f244_f61_a_token_that_expired_is_renewed_once_for_all_workers(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    async with gang(tmp_path, redis_server, session={"refresh": {"leeway": "0s"}}) as (gateway, provider, _):
        provider.lifetimes = replace(provider.lifetimes, access_token=2)
        cookie = await signed_in(gateway)
        began = time.monotonic()
        provider.lifetimes = replace(provider.lifetimes, access_token=300)
        async with lines(gateway, 16) as several:
            assert [await asked(gateway, line, cookie) for line in several] == [200] * 16
            await asyncio.sleep(began + 2.1 - time.monotonic())
            found = await asyncio.gather(*(asked(gateway, line, cookie) for line in several))
        assert found == [200] * 16
        assert sum(call.form.get("grant_type") == "refresh_token" for call in provider.calls("token")) == 1


async def test_f244_without_a_secret_to_derive_it_from_the_workers_share_a_key(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    """Each step of these sign-ins goes over a connection of its own, to whichever worker that is."""
    port = free_port()
    public = replace(client_for(f"http://127.0.0.1:{port}"), secret=None)
    async with (
        running_provider(clients=[public], path="/realms/demo") as provider,
        running_backend() as backend,
    ):
        usual = settings_for(port, provider, backend)
        del usual["provider"]["client_secret"]
        shared = {"listen": {"workers": 2}, "store": {"type": "redis", "url": redis_server.url}}
        async with serving(merged(usual, shared), tmp_path) as gateway:
            await gateway.until("/readyz", 200)
            for _ in range(8):
                async with Browser() as ann:
                    ann.http.connector._force_close = True  # type: ignore[union-attr]
                    assert (await ann.sign_in(f"{gateway.url}/echo", "ann", "ann")).status == 200


async def test_f231_f244_administration_speaks_for_all_workers(redis_server: RedisServer, tmp_path: Path) -> None:
    async with gang(tmp_path, redis_server) as (gateway, _, _):
        cookie = await signed_in(gateway)
        before = await metric(gateway, 'oidc_proxy_http_requests_total{code="200"')
        async with lines(gateway, 16) as several:
            for line in several:
                await asked(gateway, line, cookie)
            # Whichever worker is asked says the same.
            counts = {await metric(gateway, 'oidc_proxy_http_requests_total{code="200"') for _ in range(10)}
        assert counts == {before + 16}
        _, text = await gateway.ask("/readyz")
        assert '"workers":{"0":"ready","1":"ready"}' in text
        stopped = gateway.pids()[0]
        os.kill(stopped, signal.SIGSTOP)
        try:
            for _ in range(6):  # the one that is stopped may be the one that gets the connection
                with contextlib.suppress(OSError):
                    status, text = await gateway.ask("/readyz")
                    break
            assert status == 503
            assert re.search(r'"workers":\{"0":"(ready|no answer)","1":"(ready|no answer)"\}', text)
            assert text.count("no answer") == 1
        finally:
            os.kill(stopped, signal.SIGCONT)
        await gateway.until("/readyz", 200)


# ── who dies is replaced ──


async def test_f244_a_worker_that_is_killed_is_replaced_and_no_connection_is_refused(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    async with gang(tmp_path, redis_server) as (gateway, _, _):
        cookie = await signed_in(gateway)
        async with lines(gateway, 16) as several:
            assert [await asked(gateway, line, cookie) for line in several] == [200] * 16
        before = gateway.pids()
        failures, counted = 0, await metric(gateway, "oidc_proxy_http_requests_total")

        async def visits(count: int) -> None:
            nonlocal failures
            for _ in range(count):
                async with connected(gateway.url) as line:
                    # Sent after the death, so that what fails would be a connection that nobody ever took.
                    failures += await asked(gateway, line, cookie) != 200

        os.kill(before[0], signal.SIGKILL)
        await asyncio.gather(*(visits(25) for _ in range(4)))
        assert failures == 0
        await until(lambda: len(gateway.lines(event="worker.ready")) == 3)
        (died,) = gateway.lines(event="worker.died")
        assert (died["pid"], died["worker"], died["reason"]) == (before[0], 0, "signal SIGKILL")
        assert len(gateway.pids()) == 2
        assert before[0] not in gateway.pids()
        await gateway.until("/readyz", 200)
        assert await metric(gateway, "oidc_proxy_http_requests_total") == counted + 100, "no sum goes down"
        assert await metric(gateway, "oidc_proxy_workers ") == 2
        gateway.signal(signal.SIGTERM)
        assert await gateway.exit_status() == 0


async def test_f244_a_worker_that_is_told_to_go_gives_up_its_place_first(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    async with gang(tmp_path, redis_server) as (gateway, _, backend):
        cookie = await signed_in(gateway)
        backend.switches.at["/slow"] = Behaviour(delay=2)
        async with lines(gateway, 16) as several:
            slow = [asyncio.create_task(asked(gateway, line, cookie, "/slow")) for line in several]
            await asyncio.sleep(0.5)
            leaving = gateway.pids()[0]
            os.kill(leaving, signal.SIGTERM)
            await until(lambda: len(gateway.pids()) == 3)
            async with lines(gateway, 16) as more:
                assert [await asked(gateway, line, cookie) for line in more] == [200] * 16
            assert await asyncio.gather(*slow) == [200] * 16
        await until(lambda: leaving not in gateway.pids())
        assert not gateway.lines(event="worker.died")


async def test_f244_workers_end_when_the_supervisor_is_killed(redis_server: RedisServer, tmp_path: Path) -> None:
    async with gang(tmp_path, redis_server) as (gateway, _, backend):
        cookie = await signed_in(gateway)
        backend.switches.at["/slow"] = Behaviour(delay=1)
        pids = gateway.pids()
        async with connected(gateway.url) as line:
            slow = asyncio.create_task(asked(gateway, line, cookie, "/slow"))
            await asyncio.sleep(0.3)
            gateway.signal(signal.SIGKILL)
            assert await slow == 200, "what is under way is finished"
        await until(lambda: not any(_lives(pid) for pid in pids))


def _lives(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    return False


@pytest.mark.slow
async def test_f244_a_worker_that_hangs_is_replaced(redis_server: RedisServer, tmp_path: Path) -> None:
    async with gang(tmp_path, redis_server) as (gateway, _, _):
        stuck = gateway.pids()[1]
        os.kill(stuck, signal.SIGSTOP)
        await until(lambda: stuck not in gateway.pids(), 120)
        assert [line["pid"] for line in gateway.lines(event="worker.hung")] == [stuck]
        await until(lambda: len(gateway.lines(event="worker.ready")) == 3)
        await gateway.until("/readyz", 200)


@pytest.mark.slow
async def test_f232_a_worker_that_does_not_end_is_killed_in_the_end(redis_server: RedisServer, tmp_path: Path) -> None:
    http = {"timeouts": {"drain_max": "1s"}}
    async with gang(tmp_path, redis_server, http=http) as (gateway, _, _):
        stuck = gateway.pids()[0]
        os.kill(stuck, signal.SIGSTOP)
        began = time.monotonic()
        gateway.signal(signal.SIGTERM)
        assert await gateway.exit_status() == 1
        assert 6 < time.monotonic() - began < 10
        assert [line["pid"] for line in gateway.lines(event="worker.killed")] == [stuck]


# ── where it listens ──


def refused(tmp_path: Path, address: str, *more: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """What `serve` says that cannot listen there."""
    secret = tmp_path / "secret"
    secret.write_text("canary")
    file = tmp_path / "config.yaml"
    file.write_text(
        "public_url: http://localhost:4180\nupstream: http://127.0.0.1:1\nadmin: {address: null}\n"
        f"provider: {{issuer: 'https://x.test', client_id: a, client_secret_file: {secret}}}\n"
    )
    command = [*COMMAND, "serve", "-c", str(file), "--set", f"listen.address={address}", *more]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **options)


@pytest.mark.parametrize("others", [1, 2])
def test_f244_a_port_that_is_taken_is_said_once(tmp_path: Path, others: int) -> None:
    """Also when whoever has it would share it."""
    with socket.socket() as taken:
        if others > 1:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        more = ("--set", "listen.workers=3", "--set", "store.type=redis", "--set", "store.url=redis://127.0.0.1:1/0")
        done = refused(tmp_path, f"127.0.0.1:{taken.getsockname()[1]}", *more)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "oidc-proxy: cannot listen: Address already in use\n"


def test_f245_a_descriptor_that_is_no_listening_socket(tmp_path: Path) -> None:
    done = refused(tmp_path, "fd:0", stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "oidc-proxy: cannot listen: descriptor 0 is no socket that listens for connections\n"
    assert refused(tmp_path, "fd:77").returncode == 1


async def test_f245_a_unix_domain_socket(redis_server: RedisServer, tmp_path: Path) -> None:
    path = tmp_path / "public.sock"
    listen = {"address": f"unix:{path}", "socket_mode": "0600", "trusted_proxies": ["127.0.0.1/32"]}
    async with gang(tmp_path, redis_server, listen=listen) as (gateway, _, _):
        assert path.stat().st_mode & 0o777 == 0o600
        reader, writer = await asyncio.open_unix_connection(str(path))
        line = Line(reader, writer)
        await line.send(message(gateway.url, "GET /oauth2/userinfo", "X-Forwarded-For: 192.0.2.7"))
        assert (await line.response()).status == 401
        writer.close()
        await until(lambda: bool(gateway.lines(type="access")))
        (seen,) = gateway.lines(type="access")
        assert seen["client_ip"] == "192.0.2.7"
        gateway.signal(signal.SIGTERM)
        assert await gateway.exit_status() == 0
        assert not path.exists()


async def test_f245_systemd_passes_a_socket_on_and_a_restart_refuses_nobody(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as passed:
        url = f"http://127.0.0.1:{passed.getsockname()[1]}"
        async with (
            running_provider(clients=[client_for(url)], path="/realms/demo") as provider,
            running_backend() as backend,
        ):
            usual = settings_for(passed.getsockname()[1], provider, backend)
            config = merged(usual, {"listen": {"address": f"fd:{passed.fileno()}"}, "admin": {"address": None}})
            config["routes"] = [{"path": "/", "auth": "none"}]
            (tmp_path / "config.yaml").write_text(yaml.safe_dump(config, allow_unicode=True))
            load = Load(Serving([], tmp_path, url, ""), "")
            async with started(tmp_path, passed):
                load.start(load.one_each, 4)
                await until(lambda: load.answered > 20)
            async with started(tmp_path, passed):
                before = load.answered
                await until(lambda: load.answered > before + 20)
                load.over = True
                await load.ended()
            assert load.broken == []


@asynccontextmanager
async def started(folder: Path, passed: socket.socket) -> AsyncIterator[None]:
    command = [*COMMAND, "serve", "-c", str(folder / "config.yaml")]
    with subprocess.Popen(command, pass_fds=[passed.fileno()], stdout=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.terminate()
            await asyncio.to_thread(process.wait)
    assert process.returncode == 0
