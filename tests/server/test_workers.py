"""Several processes on one port, and the one that watches over them (F244); how all of it ends (F232)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from cryptography import x509

from oidc_proxy.demo.backend import Behaviour
from tests.gateway import client_for, merged, settings_for
from tests.real.parts import free_port
from tests.real.redis import RedisServer
from tests.serving import COMMAND, Serving, serving
from tests.stories.tls import another_certificate, certificate
from tests.wire import Line, connected, message
from tests.world import Backend, Browser, Provider, running_backend, running_provider

EVENTS = "/events?count=10000&interval=0.02"


class Gang(Serving):
    """The gateway with its workers."""

    def pids(self) -> list[int]:
        """The workers that live, as the kernel knows them."""
        assert self.process._process is not None
        pid = self.process._process.pid
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    async def exit_status(self, within: float = 15) -> int:
        child = self.process._process
        assert child is not None
        async with asyncio.timeout(within):
            while child.poll() is None:
                await asyncio.sleep(0.01)
        return int(child.returncode)

    def signal(self, number: signal.Signals) -> None:
        self.process._signal(number)


@asynccontextmanager
async def gang(folder: Path, store: RedisServer | None, **config: Any) -> AsyncIterator[tuple[Gang, Provider, Backend]]:
    """Two workers on one Redis; or, without it, one process."""
    port = free_port()
    shared: dict[str, Any] = {}
    if store is not None:
        shared = {"listen": {"workers": 2}, "store": {"type": "redis", "url": store.url}}
    async with (
        running_provider(clients=[client_for(f"http://127.0.0.1:{port}")], path="/realms/demo") as provider,
        running_backend() as backend,
        serving(merged(merged(settings_for(port, provider, backend), shared), config), folder) as gateway,
    ):
        gateway.__class__ = Gang
        assert isinstance(gateway, Gang)
        await gateway.until("/readyz", 200)
        yield gateway, provider, backend


async def signed_in(gateway: Serving) -> str:
    async with Browser() as ann:
        page = await ann.sign_in(f"{gateway.url}/echo", "ann", "ann")
        assert page.status == 200, page.text
        return ann.cookies.header(gateway.url)


@asynccontextmanager
async def lines(gateway: Serving, count: int) -> AsyncIterator[list[Line]]:
    """So many connections: over two workers, both have some of sixteen, but for one time in thirty thousand."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(connected(gateway.url)) for _ in range(count)]


async def asked(gateway: Serving, line: Line, cookie: str, target: str = "/echo") -> int:
    await line.send(message(gateway.url, f"GET {target}", cookie=cookie))
    return (await line.response()).status


async def metric(gateway: Serving, name: str) -> float:
    """The sum of all series whose beginning is this."""
    _, text = await gateway.ask("/metrics")
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name))


async def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.02)


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
        await until(lambda: stuck not in gateway.pids(), 40)
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


# ── the end under load ──


class Load:
    """Clients that go on until they are refused. ``broken`` is what came to a connection that was accepted."""

    def __init__(self, gateway: Serving, cookie: str) -> None:
        self._gateway, self._cookie = gateway, cookie
        self.answered = 0
        self.over = False
        self.broken: list[str] = []
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, kind: Callable[[], Awaitable[None]], count: int = 1) -> None:
        self._tasks += [asyncio.ensure_future(self._guarded(kind)) for _ in range(count)]  # type: ignore[arg-type]

    async def ended(self) -> None:
        async with asyncio.timeout(15):
            await asyncio.gather(*self._tasks)

    async def _guarded(self, kind: Callable[[], Awaitable[None]]) -> None:
        try:
            await kind()
        except ConnectionRefusedError:
            return
        except Exception as error:
            self.broken.append(f"{kind.__name__}: {error!r}")

    async def keep_alive(self) -> None:
        """One request after the other, on one connection as long as it lasts."""
        while True:
            async with connected(self._gateway.url) as line:
                closes = False
                while not closes:
                    await line.send(message(self._gateway.url, "GET /echo", cookie=self._cookie))
                    response = await line.response()
                    assert (response.status, response.cut) == (200, False)
                    self.answered += 1
                    closes = b"close" in response.all("connection")

    async def one_each(self) -> None:
        """One request a connection."""
        while not self.over:
            async with connected(self._gateway.url) as line:
                request = message(self._gateway.url, "GET /echo", "Connection: close", cookie=self._cookie)
                await line.send(request)
                response = await line.response()
                assert (response.status, response.cut) == (200, False)
                self.answered += 1

    async def slow_upload(self) -> None:
        """A body that takes longer than the drain's beginning."""
        async with connected(self._gateway.url) as line:
            start = message(self._gateway.url, "POST /echo", "Content-Length: 3000", cookie=self._cookie)
            await line.send(start)
            for _ in range(30):
                await line.send(b"x" * 100)
                await asyncio.sleep(0.1)
            response = await line.response("POST")
            assert (response.status, response.cut) == (200, False)
            assert b'"body_length": 3000' in response.body or b'"body_length":3000' in response.body
            self.answered += 1

    async def half_a_head(self) -> None:
        """A request whose end comes after the drain has begun."""
        async with connected(self._gateway.url) as line:
            request = message(self._gateway.url, "GET /echo", cookie=self._cookie)
            await line.send(request[:20])
            await asyncio.sleep(2.5)
            await line.send(request[20:])
            response = await line.response()
            assert (response.status, response.all("connection")) == (200, [b"close"])
            self.answered += 1

    async def websocket(self) -> None:
        """Messages come back, until the server says that it goes away."""
        async with aiohttp.ClientSession() as http:
            headers = {"Origin": self._gateway.url, "Cookie": self._cookie}
            url = f"{self._gateway.url}/ws"
            async with http.ws_connect(url, headers=headers, autoclose=False) as opened:
                while True:
                    with contextlib.suppress(ConnectionError):  # the good-bye may be here, unread
                        await opened.send_str("hello")
                    got = await opened.receive(5)
                    if got.type is not aiohttp.WSMsgType.TEXT:
                        break
                    assert got.data == "hello"
                    self.answered += 1
                    await asyncio.sleep(0.01)
                assert (got.type, got.data) == (aiohttp.WSMsgType.CLOSE, 1001)

    async def event_stream(self) -> None:
        """Events, until the regular end of the stream."""
        async with connected(self._gateway.url) as line:
            await line.send(message(self._gateway.url, f"GET {EVENTS}", cookie=self._cookie))
            response = await line.response()
            assert (response.status, response.cut) == (200, False)
            self.answered += 1


@pytest.mark.parametrize("workers", [1, 2])
async def test_f232_sigterm_under_load_fails_no_request_that_was_accepted(
    redis_server: RedisServer, tmp_path: Path, workers: int
) -> None:
    store = redis_server if workers > 1 else None
    async with gang(tmp_path, store, log={"access": False}) as (gateway, _, _):
        load = Load(gateway, await signed_in(gateway))
        load.start(load.keep_alive, 8)
        load.start(load.one_each, 4)
        load.start(load.slow_upload, 4)
        load.start(load.half_a_head, 4)
        load.start(load.event_stream, 4)
        load.start(load.websocket, 4)
        await asyncio.sleep(1)
        began = time.monotonic()
        gateway.signal(signal.SIGTERM)
        assert await gateway.exit_status() == 0
        await load.ended()
        assert load.broken == []
        assert load.answered > 100
        assert 1.5 < time.monotonic() - began < 5, "as long as the upload, and not much longer"
        assert gateway.lines(event="shutdown")


async def test_f232_the_load_balancer_has_time_to_notice(tmp_path: Path) -> None:
    http = {"timeouts": {"drain_delay": "2s"}}
    async with gang(tmp_path, None, http=http) as (gateway, _, _):
        cookie = await signed_in(gateway)
        gateway.signal(signal.SIGTERM)
        await gateway.until("/readyz", 503, 1)
        async with connected(gateway.url) as line:
            await line.send(message(gateway.url, "GET /echo", cookie=cookie))
            response = await line.response()
        assert (response.status, response.all("connection")) == (200, [b"close"])
        assert await gateway.exit_status() == 0


async def test_f232_what_takes_longer_than_the_drain_is_seen_to_be_cut_off(tmp_path: Path) -> None:
    http = {"timeouts": {"drain_max": "1s"}}
    async with gang(tmp_path, None, http=http) as (gateway, _, backend):
        cookie = await signed_in(gateway)
        backend.switches.at["/drip"] = Behaviour(size=1000, drip=0.05)
        async with connected(gateway.url) as line:
            await line.send(message(gateway.url, "GET /drip", cookie=cookie))
            reading = asyncio.create_task(line.response())
            await asyncio.sleep(0.3)
            began = time.monotonic()
            gateway.signal(signal.SIGTERM)
            response = await reading
            assert response.cut
            assert 0.9 < time.monotonic() - began < 2
        assert await gateway.exit_status() == 0


# ── TLS ──


async def test_f234_every_worker_has_the_new_certificate_and_fails_nobody(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    old, new = certificate(), another_certificate()
    both = ssl.create_default_context(cadata=old[0] + new[0])
    file, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    file.write_text(old[0])
    key.write_text(old[1])
    port = free_port()
    url = f"https://app.test:{port}"
    async with (
        running_provider(clients=[client_for(url)], path="/realms/demo") as provider,
        running_backend() as backend,
    ):
        usual = settings_for(port, provider, backend)
        usual["listen"] |= {"workers": 2, "tls": {"cert_file": str(file), "key_file": str(key)}}
        usual |= {"public_url": url, "store": {"type": "redis", "url": redis_server.url}}
        usual["routes"] = [{"path": "/", "auth": "none"}]
        broken: list[object] = []
        seen: list[bytes] = []

        async def visit() -> None:
            """A few requests over one connection."""
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=both, server_hostname="app.test")
            seen.append(writer.get_extra_info("ssl_object").getpeercert(binary_form=True))
            line = Line(reader, writer)
            for _ in range(5):
                await line.send(message(url, "GET /echo"))
                response = await line.response()
                assert (response.status, response.cut) == (200, False)
                if b"close" in response.all("connection"):
                    break
            writer.close()

        async def visits() -> None:
            try:
                while True:
                    await visit()
            except ConnectionRefusedError:
                return
            except Exception as error:
                broken.append(error)

        async with serving(usual, tmp_path) as gateway:
            load = [asyncio.ensure_future(visits()) for _ in range(4)]
            await until(lambda: len(seen) > 20)
            file.write_text(new[0])
            key.write_text(new[1])
            await until(lambda: len(gateway.lines(event="files.reloaded")) == 2)
            after = len(seen)
            await until(lambda: len(seen) > after + 40 or bool(broken))
            gateway.process._signal(signal.SIGTERM)
            await asyncio.wait_for(asyncio.gather(*load), 15)
        assert broken == []
        assert {certificate_number(each) for each in seen[:20]} == {certificate_number_of(old)}
        assert {certificate_number(each) for each in seen[after + 4 :]} == {certificate_number_of(new)}


def certificate_number(encoded: bytes) -> int:
    return x509.load_der_x509_certificate(encoded).serial_number


def certificate_number_of(pair: tuple[str, str]) -> int:
    return x509.load_pem_x509_certificate(pair[0].encode()).serial_number


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
