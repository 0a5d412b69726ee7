"""TLS ends at the gateway; certificates and secrets are renewed while it runs (F106, F234)."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from oidc_proxy.errors import SettingsFault
from oidc_proxy.server import files
from oidc_proxy.server.front import ListenTlsSettings, ServerTls
from tests.gateway import SECRET, World, client_for, running_app, running_world, settings_for
from tests.stories.tls import another_certificate, certificate, server_context
from tests.wire import Line, ask, message
from tests.world import Browser, Clock, free_port, running_backend, running_provider

Pair = tuple[str, str]


@pytest.fixture(autouse=True)
def _looked_at_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "EVERY", 0.05)


def trusting(*pairs: Pair) -> ssl.SSLContext:
    return ssl.create_default_context(cadata="".join(pair[0] for pair in pairs))


def number(pair: Pair) -> int:
    return x509.load_pem_x509_certificate(pair[0].encode()).serial_number


def put(folder: Path, pair: Pair) -> dict[str, str]:
    """The settings that name them."""
    (folder / "tls.crt").write_text(pair[0])
    (folder / "tls.key").write_text(pair[1])
    return {"cert_file": str(folder / "tls.crt"), "key_file": str(folder / "tls.key")}


@asynccontextmanager
async def secured(tls: dict[str, str], **listen: Any) -> AsyncIterator[tuple[World, int]]:
    """A gateway with this certificate at https://app.test, and its port."""
    port, clock = free_port(), Clock()
    url = f"https://app.test:{port}"
    async with (
        running_provider(clients=[client_for(url)], clock=clock, path="/realms/demo") as provider,
        running_backend() as backend,
    ):
        usual = settings_for(port, provider, backend)
        usual |= {"public_url": url, "listen": {**usual["listen"], "tls": tls, **listen}}
        async with running_app(usual, clock) as (app, log):
            yield World(url, app, provider, backend, clock, log), port


@asynccontextmanager
async def line_to(port: int, context: ssl.SSLContext) -> AsyncIterator[Line]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="app.test")
    try:
        yield Line(reader, writer)
    finally:
        writer.close()


async def presented(port: int, *pairs: Pair) -> int:
    """The serial number of the certificate that a new connection sees."""
    async with line_to(port, trusting(*pairs)) as line:
        encoded = line.writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        return x509.load_der_x509_certificate(encoded).serial_number


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.01)


# ── TLS ──


async def test_f106_somebody_signs_in_over_https(tmp_path: Path) -> None:
    async with secured(put(tmp_path, certificate())) as (world, _):
        async with Browser(clock=world.clock, ssl_context=trusting(certificate())) as ann:
            page = await ann.sign_in(f"{world.url}/echo", "ann", "ann")
            assert page.status == 200
            assert dict(page.json()["headers"])["X-Forwarded-Proto"] == "https"
            assert "__Host-oidc_proxy" in {cookie.name for cookie in ann.cookies}


def handshake(port: int, change: Callable[[ssl.SSLContext], None]) -> tuple[str | None, str | None]:
    """Version and protocol that a client gets which is configured so."""
    context = trusting(certificate())
    change(context)
    with (
        socket.create_connection(("127.0.0.1", port), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname="app.test") as wrapped,
    ):
        return wrapped.version(), wrapped.selected_alpn_protocol()


def only(version: ssl.TLSVersion) -> Callable[[ssl.SSLContext], None]:
    def change(context: ssl.SSLContext) -> None:
        context.set_ciphers("DEFAULT@SECLEVEL=0")
        context.minimum_version = context.maximum_version = version

    return change


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
async def test_f106_what_is_spoken_is_new_enough(tmp_path: Path) -> None:
    def with_ciphers(context: ssl.SSLContext) -> None:
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers("AES128-GCM-SHA256:ECDHE-RSA-AES128-SHA:ECDHE-ECDSA-AES128-SHA")

    def with_protocols(context: ssl.SSLContext) -> None:
        context.set_alpn_protocols(["h2", "http/1.1"])

    async with secured(put(tmp_path, certificate())) as (_, port):
        assert await asyncio.to_thread(handshake, port, only(ssl.TLSVersion.TLSv1_2)) == ("TLSv1.2", None)
        assert await asyncio.to_thread(handshake, port, with_protocols) == ("TLSv1.3", "http/1.1")
        for change in (only(ssl.TLSVersion.TLSv1_1), with_ciphers):
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await asyncio.to_thread(handshake, port, change)


@pytest.mark.parametrize(
    ("target", "host", "location"),
    [
        ("/", "app.test", "/"),
        ("/a//b?c=%20&d", "APP.test:80", "/a//b?c=%20&d"),
        ("//evil.test/x", "app.test:8080", "//evil.test/x"),
    ],
)
async def test_f106_plain_http_leads_to_https(tmp_path: Path, target: str, host: str, location: str) -> None:
    async with secured(put(tmp_path, certificate()), redirect_https="127.0.0.1:0") as (world, _):
        plain = f"http://127.0.0.1:{world.app.redirect_port}"
        answer = await ask(plain, message(plain, f"POST {target}", f"Host: {host}", body=b"x"))
        assert (answer.status, answer.one("location").decode()) == (308, f"{world.url}{location}")
        assert answer.body == b""


@pytest.mark.parametrize(
    ("target", "host", "status"),
    [
        ("/", "evil.test", 421),
        ("/", "app.test.evil.test", 421),
        ("/", "app.test@evil.test", 421),
        ("/", "", 421),
        ("http://app.test/", "app.test", 400),
        ("/\x80", "app.test", 400),
    ],
)
async def test_f106_it_leads_nobody_elsewhere(tmp_path: Path, target: str, host: str, status: int) -> None:
    async with secured(put(tmp_path, certificate()), redirect_https="127.0.0.1:0") as (world, _):
        plain = f"http://127.0.0.1:{world.app.redirect_port}"
        line = f"GET {target}".encode("latin-1")
        answer = await ask(plain, message(plain, line, f"Host: {host}"))
        assert answer.status == status
        assert answer.all("location") == []


# ── renewal ──


async def test_f234_a_new_certificate_is_for_new_connections(tmp_path: Path) -> None:
    new = another_certificate()
    async with secured(put(tmp_path, certificate())) as (world, port), line_to(port, trusting(certificate())) as old:
        assert await presented(port, certificate()) == number(certificate())
        put(tmp_path, new)
        await until(lambda: bool(world.lines(event="files.reloaded")))
        assert await presented(port, new) == number(new)
        request = message(world.url, "GET /oauth2/userinfo")
        await old.send(request)
        assert (await old.response()).status == 401, "the connection that was there goes on"


async def test_f234_kubernetes_exchanges_a_link(tmp_path: Path) -> None:
    """Files are links into `..data`, which is a link to a folder, and is replaced in one step."""
    new = another_certificate()
    for name, pair in (("..1", certificate()), ("..2", new)):
        (tmp_path / name).mkdir()
        put(tmp_path / name, pair)
    (tmp_path / "..data").symlink_to("..1")
    for name in ("tls.crt", "tls.key"):
        (tmp_path / name).symlink_to(f"..data/{name}")
    tls = {"cert_file": str(tmp_path / "tls.crt"), "key_file": str(tmp_path / "tls.key")}
    async with secured(tls) as (world, port):
        (tmp_path / "..tmp").symlink_to("..2")
        os.replace(tmp_path / "..tmp", tmp_path / "..data")  # noqa: PTH105
        await until(lambda: bool(world.lines(event="files.reloaded")))
        assert await presented(port, new) == number(new)


async def test_f234_what_is_broken_is_not_used(tmp_path: Path) -> None:
    new = another_certificate()
    async with secured(put(tmp_path, certificate())) as (world, port):

        async def told(count: int) -> None:
            await until(lambda: len(world.lines(event="files.reload_failed")) == count)
            assert await presented(port, certificate()) == number(certificate())

        (tmp_path / "tls.crt").write_text(new[0])  # its key has not come yet
        await told(1)
        (tmp_path / "tls.key").write_text("garbage")
        await told(2)
        (tmp_path / "tls.key").unlink()
        await told(3)
        (tmp_path / "tls.key").write_text(new[1])
        await until(lambda: bool(world.lines(event="files.reloaded")))
        assert await presented(port, new) == number(new)
        (failed, *_) = world.lines(event="files.reload_failed")
        assert (failed["level"], failed["setting"]) == ("error", "listen.tls")
        assert str(tmp_path / "tls.crt") in failed["reason"]
        reloads = world.app.telemetry.metrics.reloads.series
        assert reloads == {("listen.tls", "failure"): 3, ("listen.tls", "success"): 1}


def test_f106_what_cannot_be_used_is_said_at_the_start(tmp_path: Path) -> None:
    key = serialization.load_pem_private_key(certificate()[1].encode(), None)
    locked = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"canary"),
    ).decode()
    good = put(tmp_path, certificate())
    assert ServerTls(ListenTlsSettings.model_validate(good)).files == [tmp_path / "tls.crt", tmp_path / "tls.key"]
    (tmp_path / "both.pem").write_text("".join(certificate()))
    assert ServerTls(ListenTlsSettings(cert_file=tmp_path / "both.pem")).files == [tmp_path / "both.pem"]
    for pair in ((certificate()[0], locked), (certificate()[0], another_certificate()[1]), ("", "")):
        with pytest.raises(SettingsFault, match=r"listen\.tls cannot be set up with .*tls\.crt and .*tls\.key"):
            ServerTls(ListenTlsSettings.model_validate(put(tmp_path, pair)))


async def test_f234_the_authorities_of_an_upstream_are_renewed(tmp_path: Path) -> None:
    """Connections to it that are there go on; a new one wants the new certificate."""
    (tmp_path / "ca.pem").write_text(another_certificate()[0])
    async with running_backend(ssl_context=server_context()) as backend:
        upstream = {"url": backend.url, "tls": {"ca_file": str(tmp_path / "ca.pem"), "server_name": "localhost"}}
        routes = [{"path": "/", "auth": "none"}]
        async with running_world({"upstream": upstream, "routes": routes}) as world, world.browser() as ann:
            assert (await ann.get(f"{world.url}/echo")).status == 502
            (tmp_path / "ca.pem").write_text("")
            await until(lambda: bool(world.lines(event="files.reload_failed")))
            assert world.lines(event="files.reload_failed")[0]["setting"] == "upstreams.default.tls"
            (tmp_path / "ca.pem").write_text(certificate()[0])
            await until(lambda: bool(world.lines(event="files.reloaded")))
            assert (await ann.get(f"{world.url}/echo")).status == 200


async def test_f234_the_authorities_of_the_provider_are_renewed(tmp_path: Path) -> None:
    ca, port, clock = tmp_path / "ca.pem", free_port(), Clock()
    ca.write_text(another_certificate()[0])
    url = f"http://127.0.0.1:{port}"
    async with (
        running_provider(
            clients=[client_for(url)], clock=clock, host="localhost", ssl_context=server_context()
        ) as provider,
        running_backend() as backend,
    ):
        usual = settings_for(port, provider, backend)
        usual["provider"] = {**usual["provider"], "tls": {"ca_file": str(ca)}}
        async with running_app(usual, clock) as (_, log):
            async with Browser(clock=clock, ssl_context=trusting(certificate())) as ann:
                assert (await ann.navigate(f"{url}/echo")).status == 503
                ca.write_text("garbage")
                await until(lambda: "files.reload_failed" in log.getvalue())
                ca.write_text(certificate()[0])
                await until(lambda: "files.reloaded" in log.getvalue())
                clock.advance(60)
                assert (await ann.sign_in(f"{url}/echo", "ann", "ann")).status == 200


async def test_f234_a_new_client_secret_is_used_for_the_next_sign_in(tmp_path: Path) -> None:
    secret, port, clock = tmp_path / "client_secret", free_port(), Clock()
    secret.write_text(SECRET)
    url = f"http://127.0.0.1:{port}"
    async with (
        running_provider(clients=[client_for(url)], clock=clock, path="/realms/demo") as provider,
        running_backend() as backend,
    ):
        usual = settings_for(port, provider, backend)
        usual["provider"] = {**usual["provider"], "client_secret_file": str(secret)}
        async with running_app(usual, clock) as (_, log):
            async with Browser(clock=clock) as ann:
                login_page = await ann.navigate(f"{url}/echo")
                provider.clients["app"] = replace(provider.clients["app"], secret="new canary")
                secret.write_text("")  # as a careless editor leaves it for a moment
                await until(lambda: "files.reload_failed" in log.getvalue())
                secret.write_text("new canary\n")
                await until(lambda: "files.reloaded" in log.getvalue())
                page = await ann.fill_sign_in(login_page, "ann", "ann")
                assert page.status == 200, "also a sign-in that was under way"
            assert "canary" not in log.getvalue()
