"""Where connections come in: sockets of all kinds, and what becomes of connections at the end (F106, F232, F245)."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import socket
import ssl
import stat
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from pydantic import ValidationError

from oidc_proxy.errors import ProxyError
from oidc_proxy.server.front import HttpSettings, Listener, ListenSettings, ListenTlsSettings, ServerTls, open_sockets
from oidc_proxy.server.front.sockets import forget_socket
from tests.stories.tls import certificate
from tests.wire import connected

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


# ── settings ──


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1:4180", "0.0.0.0:80", "[::]:4180", "localhost:0", "unix:/run/x.sock", "unix:/run/a b/é.sock", "fd:3"],
)
def test_addresses_to_listen_on(address: str) -> None:
    assert ListenSettings(address=address).address == address


@pytest.mark.parametrize(
    "address",
    [
        *("4180", ":4180", "::1:4180", "[::1]", "localhost:http", "a b:80", "localhost:80\n"),
        *("unix:x.sock", "unix:", "unix:/a\0b", "unix:/a\nb", "fd:", "fd:x", "fd:-1"),
    ],
)
def test_what_cannot_be_listened_on(address: str) -> None:
    with pytest.raises(ValidationError):
        ListenSettings(address=address)


def test_fw_10_nobody_is_trusted_unless_named() -> None:
    assert ListenSettings().trusted_proxies == ()


@pytest.mark.parametrize("mode", ["660", "rw", "07777", "0888", ""])
def test_permissions_are_three_octal_digits(mode: str) -> None:
    if mode == "660":
        assert ListenSettings(socket_mode=mode).socket_mode == mode
        return
    with pytest.raises(ValidationError):
        ListenSettings(socket_mode=mode)


# ── sockets ──


@pytest.fixture
def opened() -> Iterator[list[socket.socket]]:
    """Sockets that are closed in the end."""
    several: list[socket.socket] = []
    yield several
    for each in several:
        each.close()


def test_f244_workers_have_sockets_of_their_own_on_one_port(opened: list[socket.socket]) -> None:
    places = open_sockets("127.0.0.1:0", 3)
    opened += [each for place in places for each in place]
    assert len(opened) == 3
    assert len({each.getsockname() for each in opened}) == 1
    with pytest.raises(OSError, match="Address already in use"):
        open_sockets(f"127.0.0.1:{opened[0].getsockname()[1]}", 3)


def test_f245_a_name_with_several_addresses(opened: list[socket.socket], monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in ("127.0.0.1", "127.0.0.2")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [*found, found[0]])
    places = open_sockets("two.test:0", 2)
    opened += [each for place in places for each in place]
    assert [len(place) for place in places] == [2, 2]
    for first, second in zip(*places, strict=True):
        assert first.getsockname() == second.getsockname()


def test_f245_ipv6_is_not_ipv4(opened: list[socket.socket]) -> None:
    try:
        (place,) = open_sockets("[::1]:0")
    except OSError:
        pytest.skip("this machine has no IPv6")
    opened += place
    assert place[0].getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 1


def test_f245_the_file_of_a_socket_has_its_permissions_from_the_first_moment(
    opened: list[socket.socket], tmp_path: Path
) -> None:
    path = tmp_path / "x.sock"
    before = os.umask(0)
    try:
        place, same = open_sockets(f"unix:{path}", 2, 0o640)
        assert os.umask(0) == 0, "the process' own is as it was"
    finally:
        os.umask(before)
    opened += place
    assert place[0] is same[0]
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_f245_a_file_that_nobody_listens_on_is_replaced_and_removed(
    opened: list[socket.socket], tmp_path: Path
) -> None:
    path = tmp_path / "x.sock"
    for each in open_sockets(f"unix:{path}")[0]:
        each.close()  # as after a crash
    assert path.exists()
    opened += open_sockets(f"unix:{path}")[0]
    forget_socket(f"unix:{path}")
    assert path.exists(), "somebody listens"
    opened[0].close()
    forget_socket(f"unix:{path}")
    assert not path.exists()
    forget_socket(f"unix:{path}")
    forget_socket("127.0.0.1:80")


def test_f245_a_socket_that_is_in_use_and_a_file_of_another_kind_are_left_alone(
    opened: list[socket.socket], tmp_path: Path
) -> None:
    path, file = tmp_path / "x.sock", tmp_path / "file"
    opened += open_sockets(f"unix:{path}")[0]
    file.write_text("precious")
    for taken in (path, file):
        with pytest.raises(OSError, match="Address already in use"):
            open_sockets(f"unix:{taken}")
    assert file.read_text() == "precious"
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_f245_descriptors(opened: list[socket.socket]) -> None:
    listening, plain, datagrams = socket.create_server(("127.0.0.1", 0)), socket.socket(), socket.socketpair()
    opened += [plain, *datagrams]
    ((passed,), (same,)) = open_sockets(f"fd:{listening.detach()}", 2)
    opened.append(passed)
    assert passed is same
    assert not passed.getblocking()
    with open(os.devnull) as no_socket:  # noqa: PTH123
        for number in (no_socket.fileno(), datagrams[0].fileno(), 9999):
            with pytest.raises(OSError, match=f"descriptor {number} is no socket that listens") as raised:
                open_sockets(f"fd:{number}")
            assert raised.value.errno == errno.ENOTSOCK
    assert datagrams[0].send(b"x") == 1, "it is still open"


# ── the end ──


class Silent:
    """Who is told of what no handler sees."""

    def fresh_request_id(self) -> str:
        return "0"

    def unreadable(self, fault: ProxyError, *, request_id: str, client_ip: str, bytes_out: int) -> None:
        raise AssertionError(fault)

    def turned_away(self) -> None:
        raise AssertionError


@asynccontextmanager
async def listening(delay: float = 0, tls: ServerTls | None = None) -> AsyncIterator[tuple[Listener, str]]:
    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        await asyncio.sleep(delay)
        return web.Response(text="ok", headers={} if request.keep_alive else {"Connection": "close"})

    listener = Listener(handle, HttpSettings(), Silent(), tls=tls)
    await listener.open(open_sockets("127.0.0.1:0")[0])
    try:
        yield listener, f"http://127.0.0.1:{listener.port}"
    finally:
        await listener.close(0)


async def test_f232_who_waits_to_be_accepted_is_served() -> None:
    async with listening() as (listener, _):
        with socket.create_connection(("127.0.0.1", listener.port)) as early:
            early.sendall(REQUEST)
            # Without a look of the event loop in between: the system has accepted it, and we have not.
            for server in listener._servers:
                server.close()
            await listener.close(5)
            early.settimeout(5)
            said = early.recv(1000)
            assert said.startswith(b"HTTP/1.1 200 OK\r\n")
            assert b"Connection: close" in said
            assert early.recv(1000) == b""


async def test_f232_the_end_waits_for_nobody_who_is_idle() -> None:
    async with listening() as (listener, url), connected(url) as line:
        await line.send(REQUEST)
        assert (await line.response()).status == 200
        await asyncio.sleep(2.2)  # as long as it takes until it is seen to be idle, and to be idle for a second
        began = time.monotonic()
        await listener.close(10)
        assert time.monotonic() - began < 0.5
        assert await line.ended() == b""


async def test_f232_bytes_that_have_arrived_are_read_before_a_connection_is_closed() -> None:
    async with listening() as (listener, _):
        client = await asyncio.to_thread(socket.create_connection, ("127.0.0.1", listener.port))
        with client:
            client.sendall(REQUEST)
            await asyncio.sleep(0.05)
            assert client.recv(1000).startswith(b"HTTP/1.1 200 OK\r\n")
            (connection,) = listener._connections
            client.sendall(REQUEST)
            connection.close_if_quiet(asyncio.get_running_loop().time() + 3600)
            client.settimeout(5)
            closing = asyncio.create_task(listener.close(5))
            assert (await asyncio.to_thread(client.recv, 1000)).startswith(b"HTTP/1.1 200 OK\r\n")
            await closing


async def test_f232_requests_that_are_here_already_are_all_answered() -> None:
    async with listening(0.2) as (listener, url), connected(url) as line:
        await line.send(REQUEST * 3)
        await asyncio.sleep(0.1)
        closing = asyncio.create_task(listener.close(5))
        answers = [await line.response() for _ in range(3)]
        assert [answer.all("connection") for answer in answers] == [[], [], [b"close"]]
        assert await line.ended() == b""
        await closing


async def test_f232_at_the_end_of_its_patience_everything_is_closed() -> None:
    async with listening(60) as (listener, url), connected(url) as busy, connected(url) as idle:
        await busy.send(REQUEST)
        await idle.send(REQUEST[:10])
        await asyncio.sleep(0.05)
        began = time.monotonic()
        await listener.close(0.3)
        assert 0.3 <= time.monotonic() - began < 1.5
        for line in (busy, idle):
            assert await line.ended() == b""


@pytest.fixture
def tls(tmp_path: Path) -> ServerTls:
    pem, key = certificate()
    (tmp_path / "tls.crt").write_text(pem)
    (tmp_path / "tls.key").write_text(key)
    return ServerTls(ListenTlsSettings(cert_file=tmp_path / "tls.crt", key_file=tmp_path / "tls.key"))


async def shaking_hands(listener: Listener) -> socket.socket:
    """A connection that is accepted, and has not said hello yet."""
    client = socket.socket()
    client.setblocking(False)
    await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", listener.port))
    while not listener._arriving:
        await asyncio.sleep(0.01)
    return client


async def test_f232_who_shakes_hands_as_it_ends_is_served(tls: ServerTls) -> None:
    async with listening(tls=tls) as (listener, _):
        client = await shaking_hands(listener)
        closing = asyncio.create_task(listener.close(5))
        await asyncio.sleep(0.2)
        trusting = ssl.create_default_context(cadata=certificate()[0])
        reader, writer = await asyncio.open_connection(sock=client, ssl=trusting, server_hostname="app.test")
        writer.write(REQUEST)
        said = await asyncio.wait_for(reader.read(), 5)
        assert said.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"Connection: close" in said
        writer.close()
        await closing


async def test_f232_the_end_does_not_wait_long_for_hands_that_are_never_given(tls: ServerTls) -> None:
    async with listening(tls=tls) as (listener, _):
        (await shaking_hands(listener)).close()  # gone again
        while listener._arriving:
            await asyncio.sleep(0.01)
            gc.collect()
        with await shaking_hands(listener):  # there, and silent
            began = time.monotonic()
            await listener.close(10)
            assert 2.5 < time.monotonic() - began < 4
