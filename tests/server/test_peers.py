"""What workers ask one another, and who else may not."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from oidc_proxy.server.admin import peers
from oidc_proxy.server.admin.peers import Ledger, Peers
from oidc_proxy.server.metrics import Metrics, lasting

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="several workers need Linux")


def listening() -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made.bind(b"\0oidc_proxy-test-" + os.urandom(8).hex().encode())
    made.setblocking(False)
    made.listen()
    return made


@asynccontextmanager
async def two() -> AsyncIterator[tuple[Peers, Peers, list[bytes]]]:
    """Two workers that say what they are called, and know of a third that is not there."""

    def named(name: str) -> Peers:
        async def say() -> str:
            return name

        return Peers({"name": say})

    sockets = [listening(), listening()]
    names = [each.getsockname() for each in sockets]
    names.append(b"\0oidc_proxy-test-absent")
    several = named("first"), named("second")
    for number, (each, own) in enumerate(zip(several, sockets, strict=True)):
        await each.open([own], names, number)
    yield *several, names
    for each in several:
        each.close()


async def raw(name: bytes, data: bytes) -> bytes:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made.setblocking(False)
    made.connect(name)
    reader, writer = await asyncio.open_unix_connection(sock=made)
    writer.write(data)
    async with asyncio.timeout(5):
        answer = await reader.read()
    writer.close()
    return answer


async def test_f244_whoever_is_asked_asks_the_others() -> None:
    async with two() as (first, second, _):
        for asked in (first, second):
            assert await asked.ask("name") == {0: "first", 1: "second", 2: None}


async def test_f244_one_alone_asks_nobody() -> None:
    async def say() -> str:
        return "alone"

    assert await Peers({"name": say}).ask("name") == {0: "alone"}


async def test_f244_who_is_silent_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "PATIENCE", 0.2)
    async with two() as (first, second, _):

        async def never() -> str:
            await asyncio.sleep(60)
            return ""

        second._questions = {"name": never}
        assert await first.ask("name") == {0: "first", 1: None, 2: None}


@pytest.mark.parametrize("data", [b"what\n", b"\n", b"\xff\n", b"x" * 100_000 + b"\n"])
async def test_f244_nonsense_is_not_answered(data: bytes) -> None:
    async with two() as (first, _, names):
        with contextlib.suppress(ConnectionError):  # closed with some of it unread
            assert await raw(names[0], data) == b""
        assert (await first.ask("name"))[1] == "second"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can pose as somebody else")
async def test_f244_another_user_is_not_answered() -> None:
    async with two() as (_, _, names):
        assert await raw(names[0], b"name\n") == b'"first"'
        os.seteuid(65534)  # what the kernel says of who connects is from this moment
        try:
            answer = asyncio.ensure_future(raw(names[0], b"name\n"))
            await asyncio.sleep(0)
        finally:
            os.seteuid(0)
        with contextlib.suppress(ConnectionError):
            assert await answer == b""


def test_f244_counts_are_kept_for_the_successor() -> None:
    file = os.memfd_create("test")
    ledger = Ledger(file)
    assert ledger.read() == []
    metrics = Metrics()
    metrics.logouts.inc("rp", by=1000)
    ledger.keep(lasting(metrics.snapshot()))
    metrics = Metrics()
    metrics.logouts.inc("rp")
    ledger.keep(lasting(metrics.snapshot()))  # shorter than what was there
    (kept,) = [family for family in Ledger(file).read() if family["name"] == "oidc_proxy_logout"]
    assert kept["series"] == [(["rp"], [1])] or kept["series"] == [[["rp"], [1]]]
    os.ftruncate(file, 100)
    assert ledger.read() == [], "cut off while it was written"
    os.close(file)
    Ledger(None).keep([])
    assert Ledger(None).read() == []
