"""How all of it ends (F232), and what is renewed while it runs (F234): as processes, under load."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import signal
import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
from cryptography import x509

from oidc_proxy.demo.backend import Behaviour
from tests.gang import Load, gang, signed_in, until
from tests.gateway import client_for, settings_for
from tests.real.parts import free_port
from tests.real.redis import RedisServer
from tests.serving import serving
from tests.stories.tls import another_certificate, certificate
from tests.wire import Line, connected, message
from tests.world import running_backend, running_provider

T = TypeVar("T")


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
        await until(lambda: load.answered > 100)
        began = time.monotonic()
        gateway.signal(signal.SIGTERM)
        assert await gateway.exit_status() == 0
        await load.ended()
        assert load.broken == []
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
        seen: list[bytes] = []
        enough = asyncio.Event()

        async def visits() -> None:
            """A few requests over one connection, and over the next."""
            while not enough.is_set():
                reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=both, server_hostname="app.test")
                seen.append(writer.get_extra_info("ssl_object").getpeercert(binary_form=True))
                line = Line(reader, writer)
                for _ in range(5):
                    await line.send(message(url, "GET /echo"))
                    response = await line.response()
                    assert (response.status, response.cut) == (200, False)
                writer.close()

        async with serving(usual, tmp_path) as gateway:
            load = [asyncio.ensure_future(visits()) for _ in range(4)]
            await until(lambda: len(seen) > 20)
            file.write_text(new[0])
            key.write_text(new[1])
            await until(lambda: len(gateway.lines(event="files.reloaded")) == 2)
            after = len(seen)
            await until(lambda: len(seen) > after + 40 or any(each.done() for each in load))
            enough.set()
            await asyncio.gather(*load)
            # Whoever has shaken one hand as it ends is served. Who has not been heard yet is nobody's promise.
            late = [await Handshake.begun(port, both) for _ in range(8)]
            gateway.process._signal(signal.SIGTERM)
            await until(lambda: refuses(port))
            for handshake in late:
                answer = await handshake.asked(message(url, "GET /echo"))
                assert answer.startswith(b"HTTP/1.1 200 OK\r\n"), answer
                assert b"\r\nConnection: close\r\n" in answer
        assert {certificate_number(each) for each in seen[:20]} == {certificate_number_of(old)}
        assert {certificate_number(each) for each in seen[after + 4 :]} == {certificate_number_of(new)}


class Handshake:
    """One that has begun: the server has answered our hello, and waits for the other half."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, context: ssl.SSLContext) -> None:
        self._reader, self._writer = reader, writer
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname="app.test")

    @classmethod
    async def begun(cls, port: int, context: ssl.SSLContext) -> Handshake:
        it = cls(*await asyncio.open_connection("127.0.0.1", port), context)
        with contextlib.suppress(ssl.SSLWantReadError):
            it._tls.do_handshake()
        assert await it._moved()
        return it

    async def asked(self, request: bytes) -> bytes:
        """Shake the other hand, and ask; all that the server says."""
        await self._done(self._tls.do_handshake)
        self._tls.write(request)
        said = b""
        with contextlib.suppress(ssl.SSLEOFError, ssl.SSLZeroReturnError):
            while piece := await self._done(self._tls.read):
                said += piece
        self._writer.close()
        return said

    async def _done(self, step: Callable[[], T]) -> T:
        while True:
            try:
                return step()
            except ssl.SSLWantReadError:
                await self._moved()

    async def _moved(self) -> bool:
        """Send what is to be sent, and take what comes; whether anything came."""
        self._writer.write(self._outgoing.read())
        data = await asyncio.wait_for(self._reader.read(65536), 30)
        self._incoming.write(data) if data else self._incoming.write_eof()
        return bool(data)


def refuses(port: int) -> bool:
    """Whether nobody listens there any more."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == errno.ECONNREFUSED


def certificate_number(encoded: bytes) -> int:
    return x509.load_der_x509_certificate(encoded).serial_number


def certificate_number_of(pair: tuple[str, str]) -> int:
    return x509.load_pem_x509_certificate(pair[0].encode()).serial_number
