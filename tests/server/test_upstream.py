"""A scripted backend on real sockets, bytes in and bytes out; every story is told on asyncio's loop and on uvloop."""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import ValidationError

from oidc_proxy.errors import ProxyError, RequestFault, SettingsFault, UpstreamFault
from oidc_proxy.server.upstream import Upstream, UpstreamRequest, UpstreamResponse, UpstreamSettings
from oidc_proxy.server.upstream.connection import QUEUE_LIMIT
from oidc_proxy.server.upstream.framing import _proven, request_head
from oidc_proxy.server.upstream.settings import Address

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
HOST = [(b"Host", b"app.test")]


def story(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    def told(loop: Any, **arguments: Any) -> None:
        async def limited() -> None:
            async with asyncio.timeout(30):
                await test(**arguments)

        with asyncio.Runner(loop_factory=loop) as runner:
            runner.run(limited())

    functools.update_wrapper(told, test)
    del told.__wrapped__  # type: ignore[attr-defined]
    parameters = list(inspect.signature(test).parameters.values())
    loop = inspect.Parameter("loop", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    told.__signature__ = inspect.Signature([loop, *parameters])  # type: ignore[attr-defined]
    return pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])(
        told
    )


class Peer:
    """The backend's end of one connection."""

    def __init__(self, backend: Backend, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.backend, self.reader, self.writer = backend, reader, writer
        self.number = len(backend.peers)
        self.closed = asyncio.Event()

    async def head(self) -> bytes:
        head = await self.reader.readuntil(b"\r\n\r\n")
        self.backend.heads.append(head)
        return head

    async def say(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def serve(self, answer: bytes = OK) -> None:
        """Answer every request without a body with the same bytes."""
        while True:
            await self.head()
            await self.say(answer)

    async def silent(self) -> None:
        """Wait until the other side closes."""
        while await self.reader.read(65536):
            pass


class Backend:
    def __init__(self) -> None:
        self.peers: list[Peer] = []
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []
        self.url = ""


@asynccontextmanager
async def backend(script: Callable[[Peer], Awaitable[None]], **options: Any) -> AsyncIterator[Backend]:
    """A server that runs the script once a connection, then closes it."""
    it, tasks = Backend(), set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())
        peer = Peer(it, reader, writer)
        it.peers.append(peer)
        try:
            await script(peer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            peer.closed.set()
            writer.close()

    if path := options.pop("path", None):
        server = await asyncio.start_unix_server(connected, path)
        it.url = f"unix:{path}"
    else:
        server = await asyncio.start_server(connected, "127.0.0.1", 0, **options)
        port = server.sockets[0].getsockname()[1]
        it.url = f"https://localhost:{port}" if "ssl" in options else f"http://127.0.0.1:{port}"
    try:
        yield it
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def upstream(url: str, **settings: Any) -> AsyncIterator[Upstream]:
    client = Upstream(UpstreamSettings(url=url, **settings))
    try:
        yield client
    finally:
        await client.close()
        await asyncio.sleep(0.01)


async def everything(response: UpstreamResponse) -> bytes:
    parts = []
    while piece := await response.read():
        parts.append(piece)
    return b"".join(parts)


async def get(client: Upstream, target: bytes = b"/", method: bytes = b"GET") -> tuple[int, bytes]:
    response = await client.send(UpstreamRequest(method, target, HOST))
    return response.status, await everything(response)


async def outcome(client: Upstream, target: bytes = b"/", method: bytes = b"GET") -> tuple[Any, ...]:
    """All that a caller can see of an exchange."""
    try:
        response = await client.send(UpstreamRequest(method, target, HOST))
    except ProxyError as error:
        return (error.code,)
    body, end = b"", "complete"
    try:
        while piece := await response.read():
            body += piece
    except ProxyError as error:
        end = error.code
    return response.status, response.reason, response.headers, body, end


async def pieces(*parts: bytes, pause: float = 0) -> AsyncIterator[bytes]:
    for part in parts:
        await asyncio.sleep(pause)
        yield part


def read_chunks(data: bytes) -> bytes:
    body = b""
    while True:
        size, _, data = data.partition(b"\r\n")
        if not int(size, 16):
            assert data == b"\r\n"
            return body
        body += data[: int(size, 16)]
        assert data[int(size, 16) :][:2] == b"\r\n"
        data = data[int(size, 16) + 2 :]


BROKEN = ("upstream_invalid_response",)
CL2 = (b"Content-Length", b"2")
CHUNKED = (b"Transfer-Encoding", b"chunked")

# id → (bytes of the backend, method, what the caller sees, whether the connection serves again). A row is followed by
# the end of the connection when the caller cannot know the end otherwise.
RESPONSES: dict[str, tuple[bytes, bytes, tuple[Any, ...], bool]] = {
    "content-length": (OK, b"GET", (200, b"OK", (CL2,), b"ok", "complete"), True),
    "chunked": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nab\r\n1\r\nc\r\n0\r\n\r\n",
        b"GET",
        (200, b"OK", (CHUNKED,), b"abc", "complete"),
        True,
    ),
    "SM-8/PX-28-trailers-dropped": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n1\r\na\r\n0\r\nX-Auth-User: admin\r\n\r\n",
        b"GET",
        (200, b"OK", ((b"Transfer-Encoding", b"Chunked"),), b"a", "complete"),
        True,
    ),
    "until-close": (
        b"HTTP/1.1 200 OK\r\nX-A: \r\n\r\nuntil the end",
        b"GET",
        (200, b"OK", ((b"X-A", b""),), b"until the end", "complete"),
        False,
    ),
    "http-1.0": (
        b"HTTP/1.0 404 Not Found\r\nContent-Length: 2\r\n\r\nno",
        b"GET",
        (404, b"Not Found", (CL2,), b"no", "complete"),
        False,
    ),
    "http-1.0-keep-alive": (
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok",
        b"GET",
        (200, b"OK", ((b"Connection", b"keep-alive"), CL2), b"ok", "complete"),
        True,
    ),
    "connection-close": (
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        b"GET",
        (200, b"OK", ((b"Connection", b"close"), CL2), b"ok", "complete"),
        False,
    ),
    "exact-header-bytes": (
        (
            b"HTTP/1.1 200 Caf\xe9\r\nX_y.Z:  a \xff\xc3\xa9 b\r\nSet-Cookie: a=1\r\nset-cookie: b\r\n"
            b"Content-Length: 0\r\n\r\n"
        ),
        b"GET",
        (
            200,
            b"Caf\xe9",
            (
                (b"X_y.Z", b"a \xff\xc3\xa9 b"),
                (b"Set-Cookie", b"a=1"),
                (b"set-cookie", b"b"),
                (b"Content-Length", b"0"),
            ),
            b"",
            "complete",
        ),
        True,
    ),
    "no-reason": (b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok", b"GET", (200, b"", (CL2,), b"ok", "complete"), True),
    "reason-with-NUL": (
        b"HTTP/1.1 200 O\0K\r\nContent-Length: 2\r\n\r\nok",
        b"GET",
        (200, b"", (CL2,), b"ok", "complete"),
        True,
    ),
    "PX-14-interim": (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: </a>\r\n\r\n" + OK,
        b"GET",
        (200, b"OK", (CL2,), b"ok", "complete"),
        True,
    ),
    "SM-27-HEAD-content-length": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n",
        b"HEAD",
        (200, b"OK", (CL2,), b"", "complete"),
        True,
    ),
    "SM-27-HEAD-chunked": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HEAD",
        (200, b"OK", (CHUNKED,), b"", "complete"),
        True,
    ),
    "SM-27-HEAD-with-body": (OK, b"HEAD", (200, b"OK", (CL2,), b"", "complete"), False),
    "HEAD-zero": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HEAD",
        (200, b"OK", ((b"Content-Length", b"0"),), b"", "complete"),
        True,
    ),
    "204": (
        b"HTTP/1.1 204 No Content\r\nX: y\r\n\r\n",
        b"GET",
        (204, b"No Content", ((b"X", b"y"),), b"", "complete"),
        True,
    ),
    "304-content-length": (
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\n",
        b"GET",
        (304, b"Not Modified", (CL2,), b"", "complete"),
        True,
    ),
    "SM-20-200-to-an-upgrade": (
        b"HTTP/1.1 200 OK\r\nUpgrade: h2c\r\nConnection: Upgrade\r\nContent-Length: 2\r\n\r\nok",
        b"GET",
        (200, b"OK", ((b"Upgrade", b"h2c"), (b"Connection", b"Upgrade"), CL2), b"ok", "complete"),
        True,
    ),
    "SM-20-unasked-101": (
        b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\nraw",
        b"GET",
        BROKEN,
        False,
    ),
    "SM-20-bare-101": (b"HTTP/1.1 101 Switching\r\n\r\n", b"GET", BROKEN, False),
    "SM-23-CL+TE": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"GET",
        BROKEN,
        False,
    ),
    "SM-23-TE+CL": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"GET",
        BROKEN,
        False,
    ),
    "SM-23-two-CL": (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok", b"GET", BROKEN, False),
    "SM-23-list-CL": (b"HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok", b"GET", BROKEN, False),
    "SM-23-signed-CL": (b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok", b"GET", BROKEN, False),
    "SM-23-204-announces-body": (b"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok", b"GET", BROKEN, False),
    "SM-23-204-chunked": (
        b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET",
        BROKEN,
        False,
    ),
    "SM-23-204-body": (b"HTTP/1.1 204 No Content\r\n\r\nok", b"GET", (204, b"No Content", (), b"", "complete"), False),
    "SM-23-longer-than-CL": (OK + b"more", b"GET", (200, b"OK", (CL2,), b"ok", "complete"), False),
    "SM-23-second-response": (OK + OK, b"GET", (200, b"OK", (CL2,), b"ok", "complete"), False),
    "SM-23-1xx-flood": (b"HTTP/1.1 102 P\r\n\r\n" * 17 + OK, b"GET", BROKEN, False),
    "SM-23-HTTP/0.9": (b"<html>hello</html>", b"GET", BROKEN, False),
    "SM-23-HTTP/0.9-line": (b"HTTP/0.9 200 OK\r\nContent-Length: 2\r\n\r\nok", b"GET", BROKEN, False),
    "HTTP/2": (b"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok", b"GET", BROKEN, False),
    "RTSP": (b"RTSP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", b"GET", BROKEN, False),
    "leading-line-break": (b"\r\n" + OK, b"GET", BROKEN, False),
    "SM-23-early-close-nothing": (b"", b"GET", BROKEN, False),
    "SM-23-early-close-head": (b"HTTP/1.1 200 OK\r\nContent-", b"GET", BROKEN, False),
    "SM-23-early-close-CL": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\npart",
        b"GET",
        (200, b"OK", ((b"Content-Length", b"20"),), b"part", "upstream_invalid_response"),
        False,
    ),
    "SM-23-early-close-chunk": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nab",
        b"GET",
        (200, b"OK", (CHUNKED,), b"ab", "upstream_invalid_response"),
        False,
    ),
    "SM-23-early-close-last-chunk": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n",
        b"GET",
        (200, b"OK", (CHUNKED,), b"ab", "upstream_invalid_response"),
        False,
    ),
    "SM-6-chunk-size": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0x1\r\nc\r\n0\r\n\r\n",
        b"GET",
        (200, b"OK", (CHUNKED,), b"ab", "upstream_invalid_response"),
        False,
    ),
    "SM-4-other-coding": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"GET",
        BROKEN,
        False,
    ),
    "SM-3-identity": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nok", b"GET", BROKEN, False),
    "SM-3-two-codings": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET",
        BROKEN,
        False,
    ),
    "SM-5-chunked-1.0": (b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"GET", BROKEN, False),
    "obs-fold": (b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 2\r\n\r\nok", b"GET", BROKEN, False),
    "bare-line-feed": (b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok", b"GET", BROKEN, False),
    "space-before-colon": (b"HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nok", b"GET", BROKEN, False),
    "status-099": (b"HTTP/1.1 099 X\r\nContent-Length: 2\r\n\r\nok", b"GET", BROKEN, False),
    "status-600": (b"HTTP/1.1 600 X\r\nContent-Length: 2\r\n\r\nok", b"GET", BROKEN, False),
}


@pytest.mark.parametrize("name", RESPONSES)
@story
async def test_responses_whole_and_then_the_next_request(name: str) -> None:
    """SM-3…SM-6, SM-20, SM-23, SM-27: what the caller sees, and that nothing of it reaches the next request."""
    answer, method, expected, reused = RESPONSES[name]

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.say(answer if peer.number == 0 else OK)
        if peer.number == 0 and ("early-close" in name or name == "until-close"):
            return
        await peer.serve()

    async with backend(script) as it, upstream(it.url) as client:
        assert await outcome(client, method=method) == expected
        assert await get(client) == (200, b"ok")
        assert len(it.peers) == (1 if reused else 2)


@pytest.mark.parametrize("name", RESPONSES)
@story
async def test_responses_split_at_every_byte(name: str) -> None:
    """SM-28: wherever the network cuts, the caller sees the same."""
    answer, method, expected, _ = RESPONSES[name]

    async def script(peer: Peer) -> None:
        cut = int((await peer.head()).split(b" ")[1][1:])
        await peer.say(answer[:cut])
        await asyncio.sleep(0.005)
        await peer.say(answer[cut:])

    async with backend(script, backlog=1000) as it, upstream(it.url, max_connections=1000) as client:
        results = await asyncio.gather(
            *(outcome(client, b"/%d" % cut, method) for cut in range(len(answer) + 1)), return_exceptions=True
        )
        assert [result for result in results if result != expected] == []


@story
async def test_responses_byte_by_byte() -> None:
    """SM-28."""
    for name in ("chunked", "PX-14-interim", "exact-header-bytes", "SM-23-CL+TE"):
        answer, method, expected, _ = RESPONSES[name]

        async def script(peer: Peer, answer: bytes = answer) -> None:
            await peer.head()
            for byte in answer:
                await peer.say(bytes([byte]))
                await asyncio.sleep(0)
                await asyncio.sleep(0)

        async with backend(script) as it, upstream(it.url) as client:
            assert await outcome(client, method=method) == expected, name


@pytest.mark.parametrize(
    ("name", "head", "works"),
    [
        ("SM-25-64KiB", b"X: " + b"a" * 60_000 + b"\r\n", True),
        ("SM-23-100kB", b"X: " + b"a" * 100_000 + b"\r\n", False),
        ("SM-25-256-headers", b"X: a\r\n" * 255, True),
        ("SM-25-257-headers", b"X: a\r\n" * 256, False),
        ("SM-25-reason", b"", False),
    ],
)
@pytest.mark.parametrize("step", [1_000_000, 1000])
@story
async def test_head_limits(name: str, head: bytes, works: bool, step: int) -> None:
    """SM-23, SM-25: the limits hold however the bytes arrive, and a body behind a large head is not lost."""
    reason = b"r" * 70_000 if name == "SM-25-reason" else b"OK"
    body = b"b" * 30_000
    answer = b"HTTP/1.1 200 %b\r\nContent-Length: 30000\r\n%b\r\n%b" % (reason, head, body)

    async def script(peer: Peer) -> None:
        await peer.head()
        for start in range(0, len(answer), step):
            await peer.say(answer[start : start + step])
            await asyncio.sleep(0)

    async with backend(script) as it, upstream(it.url) as client:
        if works:
            assert await get(client) == (200, body)
        else:
            assert await outcome(client) == BROKEN


@pytest.mark.parametrize(
    "endless",
    [b"1;" + b"x" * 1000, b"0\r\n" + b"T: t\r\n" * 100, b"0\r\nT: "],
    ids=["SM-7-extension", "trailers", "trailer"],
)
@story
async def test_endless_chunk_framing_is_cut(endless: bytes) -> None:
    sent = 0

    async def script(peer: Peer) -> None:
        nonlocal sent
        await peer.head()
        await peer.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + endless)
        filler = b"T: t\r\n" * 100 if endless.endswith(b"\n") else b"x" * 1000
        while True:
            await peer.say(filler)
            sent += len(filler)

    async with backend(script) as it, upstream(it.url) as client:
        assert (await outcome(client))[-1] == "upstream_invalid_response"
        await it.peers[0].closed.wait()
        assert sent < 10_000_000  # what the kernel buffers besides


@story
async def test_small_chunks_with_separate_framing_are_not_mistaken_for_a_flood() -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(150):
            await peer.say(b"1;" + b"x" * 1000 + b"\r\n")
            await asyncio.sleep(0.0005)
            await peer.say(b"a\r\n")
            await asyncio.sleep(0.0005)
        await peer.say(b"0\r\n\r\n")

    async with backend(script) as it, upstream(it.url) as client:
        assert await get(client) == (200, b"a" * 150)


# ── requests ──


@story
async def test_request_bytes_and_framing() -> None:
    """F217, invariant (a): the request arrives byte for byte, with exactly one framing field."""
    headers = [(b"Host", b"app.test"), (b"x-a_B", b" \xff\xc3\xa9;,"), (b"Empty", b""), (b"X", b"1"), (b"X", b"2")]
    lines = b"Host: app.test\r\nx-a_B:  \xff\xc3\xa9;,\r\nEmpty: \r\nX: 1\r\nX: 2\r\n"

    async def script(peer: Peer) -> None:
        while True:
            head = await peer.head()
            it.bodies.append(await peer.reader.readexactly(3) if b"Content-Length: 3" in head else b"")
            await peer.say(OK)

    async with backend(script) as it, upstream(it.url) as client:

        async def sent(method: bytes, body: Any = None) -> tuple[bytes, bytes]:
            assert await everything(await client.send(UpstreamRequest(method, b"/a//b%2F;+?", headers, body))) == b"ok"
            return it.heads.pop(), it.bodies.pop()

        def head(method: bytes, framing: bytes) -> bytes:
            return method + b" /a//b%2F;+? HTTP/1.1\r\n" + lines + framing + b"\r\n"

        assert await sent(b"GET") == (head(b"GET", b""), b"")
        assert await sent(b"DELETE") == (head(b"DELETE", b""), b"")
        assert await sent(b"POST") == (head(b"POST", b"Content-Length: 0\r\n"), b"")
        assert await sent(b"PUT", (pieces(), 0)) == (head(b"PUT", b"Content-Length: 0\r\n"), b"")
        for parts in ((b"abc",), (b"ab", b"", b"c")):
            assert await sent(b"GET", (pieces(*parts), 3)) == (head(b"GET", b"Content-Length: 3\r\n"), b"abc")
        assert len(it.peers) == 1


@story
async def test_chunked_request_body() -> None:
    done = asyncio.Event()

    async def script(peer: Peer) -> None:
        assert b"\r\nTransfer-Encoding: chunked\r\n\r\n" in await peer.head()
        body = read_chunks(await peer.reader.readuntil(b"0\r\n\r\n"))
        assert body == b"abc" + b"x" * 5000
        done.set()
        await peer.say(OK)
        await peer.serve()

    async with backend(script) as it, upstream(it.url) as client:
        response = await client.send(
            UpstreamRequest(b"POST", b"/", HOST, (pieces(b"ab", b"", b"c", b"x" * 5000), None))
        )
        assert await everything(response) == b"ok"
        assert done.is_set()
        assert await get(client) == (200, b"ok")
        assert len(it.peers) == 1


@pytest.mark.parametrize(
    ("method", "target", "headers"),
    [
        (b"GET", b"/a\r\nX: y", HOST),
        (b"GET", b"/a b", HOST),
        (b"GET", b"/a\0", HOST),
        (b"GET\n", b"/", HOST),
        (b"GET", b"/", [*HOST, (b"X", b"a\r\nY: b")]),
        (b"GET", b"/", [*HOST, (b"X", b"a\nb")]),
        (b"GET", b"/", [*HOST, (b"X", b"a\rb")]),
        (b"GET", b"/", [*HOST, (b"X", b"a\0")]),
        (b"GET", b"/", [*HOST, (b"X\r\nY", b"a")]),
        (b"GET", b"/", [*HOST, (b"X Y", b"a")]),
        (b"GET", b"/", [*HOST, (b"X:", b"a")]),
        (b"GET", b"/", [*HOST, (b"", b"a")]),
        (b"POST", b"/", [*HOST, (b"content-Length", b"5")]),
        (b"POST", b"/", [*HOST, (b"TRANSFER-encoding", b"chunked")]),
    ],
)
@story
async def test_injections_are_refused(method: bytes, target: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    """PX-16, PX-31: nothing of it is written, twice in a row."""
    async with backend(Peer.serve) as it, upstream(it.url) as client:
        for _ in range(2):
            with pytest.raises(ValueError, match="request"):
                await client.send(UpstreamRequest(method, target, headers))
        assert it.peers == []


@pytest.mark.parametrize(("length", "parts"), [(5, (b"abc",)), (2, (b"abc",)), (3, (b"ab", b"cd"))])
@story
async def test_body_of_another_length_than_announced(length: int, parts: tuple[bytes, ...]) -> None:
    """PX-9: never a byte beyond the announced length, and a short body is not completed by the next request."""
    received = bytearray()

    async def script(peer: Peer) -> None:
        await peer.head()
        while data := await peer.reader.read(100):
            received.extend(data)

    async with backend(script) as it, upstream(it.url) as client:
        with pytest.raises(RequestFault):
            await client.send(UpstreamRequest(b"POST", b"/", HOST, (pieces(*parts, pause=0.01), length)))
        await it.peers[0].closed.wait()
        assert len(received) <= length


@story
async def test_fault_of_the_body_source_reaches_the_caller() -> None:
    async def too_large() -> AsyncIterator[bytes]:
        yield b"a"
        raise RequestFault("body_too_large")

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.silent()

    async with backend(script) as it, upstream(it.url) as client:
        with pytest.raises(RequestFault, match="body_too_large"):
            await client.send(UpstreamRequest(b"POST", b"/", HOST, (too_large(), None)))
        await it.peers[0].closed.wait()


@story
async def test_early_response_while_the_body_is_sent() -> None:
    """The response is passed on at once; once it is complete, the rest of the body is not sent, and nothing reused."""
    pulled = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal pulled
        while True:
            pulled += 1
            yield b"x" * 1000
            await asyncio.sleep(0.002)

    async def script(peer: Peer) -> None:
        await peer.head()
        if peer.number:
            await peer.say(OK)
        else:
            await peer.reader.readexactly(2000)
            await peer.say(b"HTTP/1.1 413 Too Large\r\nContent-Length: 4\r\n\r\nno")
            await peer.reader.readexactly(5000)
            await peer.say(b"!!")
        await peer.silent()

    async with backend(script) as it, upstream(it.url) as client:
        response = await client.send(UpstreamRequest(b"POST", b"/", HOST, (endless(), None)))
        assert (response.status, await response.read()) == (413, b"no")
        assert await everything(response) == b"!!"
        await it.peers[0].closed.wait()
        stopped = pulled
        await asyncio.sleep(0.02)
        assert pulled == stopped
        assert await get(client) == (200, b"ok")
        assert len(it.peers) == 2


@story
async def test_both_directions_at_once() -> None:
    """A backend that answers while it reads, as an echo does."""

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\n")
        for _ in range(10):
            await peer.say(await peer.reader.readexactly(3))
        await peer.serve()

    async with backend(script) as it, upstream(it.url, timeouts={"idle": "300ms", "response": "300ms"}) as client:
        response = await client.send(UpstreamRequest(b"POST", b"/", HOST, (pieces(*[b"abc"] * 10, pause=0.05), 30)))
        assert await everything(response) == b"abc" * 10
        assert await get(client) == (200, b"ok")
        assert len(it.peers) == 1


@story
async def test_negative_length_is_refused() -> None:
    async with backend(Peer.serve) as it, upstream(it.url) as client:
        with pytest.raises(ValueError, match="negative"):
            await client.send(UpstreamRequest(b"POST", b"/", HOST, (pieces(), -1)))
        assert it.peers == []


def test_what_a_request_carries_is_not_shown() -> None:
    request = UpstreamRequest(
        b"GET", b"/?secret=1", [(b"Cookie", b"secret")], ready=b"Authorization: Bearer secret\r\n"
    )
    assert "secret" not in f"{request} {request!r}"


def test_header_names_are_remembered_within_bounds() -> None:
    for number in range(10_000):
        head = request_head(UpstreamRequest(b"GET", b"/", [(b"X-%d" % number, b"")]))
        assert head.endswith(b"\r\nX-%d: \r\n\r\n" % number)
    assert len(_proven) < 5000


# ── streams and back-pressure ──


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@story
async def test_100_megabytes_each_way_in_flat_memory(chunked: bool) -> None:
    """F218."""
    piece, count = b"z" * 100_000, 1000
    size = len(piece) * count
    peak = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal peak
        for number in range(count):
            if number % 50 == 0:
                peak = max(peak, resident())
            yield piece

    async def swallow(peer: Peer) -> int:
        if not chunked:
            left = size
            while left:
                left -= len(await peer.reader.read(min(left, 1 << 16)))
            return size
        total = 0
        while length := int(await peer.reader.readuntil(b"\r\n"), 16):
            await peer.reader.readexactly(length + 2)
            total += length
        await peer.reader.readexactly(2)
        return total

    async def script(peer: Peer) -> None:
        await peer.head()
        assert await swallow(peer) == size
        framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % size
        await peer.say(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n")
        for _ in range(count):
            await peer.say(b"186a0\r\n" + piece + b"\r\n" if chunked else piece)
        await peer.say(b"0\r\n\r\n" if chunked else b"")
        await peer.silent()

    async with backend(script) as it, upstream(it.url) as client:
        gc.collect()
        start = resident()
        response = await client.send(UpstreamRequest(b"POST", b"/", HOST, (body(), None if chunked else size)))
        received = number = 0
        while data := await response.read():
            received, number = received + len(data), number + 1
            if number % 50 == 0:
                peak = max(peak, resident())
        assert received == size
        assert peak - start < 16 * 2**20


@story
async def test_slow_reader_stops_the_backend() -> None:
    """RX-3."""
    sent, total = 0, 400

    async def script(peer: Peer) -> None:
        nonlocal sent
        await peer.head()
        await peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: 40000000\r\n\r\n")
        for sent in range(1, total + 1):  # noqa: B007
            await peer.say(b"x" * 100_000)
        await peer.serve()

    async with backend(script) as it, upstream(it.url, timeouts={"idle": "50ms"}) as client:
        response = await client.send(UpstreamRequest(b"GET", b"/", HOST))
        size = piece = 0
        while piece <= QUEUE_LIMIT:
            piece = len(await response.read())
            size += piece
        await asyncio.sleep(0.3)  # much longer than the idle time-out: it is the reader who is slow
        stopped = sent
        await asyncio.sleep(0.1)
        assert sent == stopped < total
        assert response.queued == 0, "nothing is read ahead for a reader that has not asked for more"
        assert size + len(await everything(response)) == 40_000_000
        assert await get(client) == (200, b"ok")
        assert len(it.peers) == 1


@story
async def test_slow_backend_stops_the_body_source() -> None:
    pulled = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal pulled
        for _ in range(400):
            pulled += 1
            yield b"x" * 100_000

    go = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.head()
        await go.wait()
        await peer.reader.readexactly(40_000_000)
        await peer.say(OK)

    async with backend(script) as it, upstream(it.url) as client:
        sending = asyncio.create_task(client.send(UpstreamRequest(b"PUT", b"/", HOST, (body(), 40_000_000))))
        stopped = -1
        while stopped != pulled:
            stopped = pulled
            await asyncio.sleep(0.2)
        assert 0 < stopped < 400
        go.set()
        assert await everything(await sending) == b"ok"


@story
async def test_events_arrive_as_they_are_sent() -> None:
    """F218: server-sent events: each is read before the backend sends the next."""
    seen = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(3):
            await peer.say(b"3\r\na\n\n\r\n")
            await seen.wait()
            seen.clear()
        await peer.silent()

    async with backend(script) as it, upstream(it.url) as client:
        response = await client.send(UpstreamRequest(b"GET", b"/", HOST))
        assert not response.ended
        for _ in range(3):
            assert await response.read() == b"a\n\n"
            seen.set()
        response.abort()
        await it.peers[0].closed.wait()


@pytest.mark.parametrize(
    ("name", "length", "chunked", "bodiless"),
    [
        ("content-length", 2, False, False),
        ("chunked", None, True, False),
        ("until-close", None, False, False),
        ("SM-27-HEAD-content-length", 2, False, True),
        ("204", None, False, True),
        ("304-content-length", 2, False, True),
    ],
)
@story
async def test_framing_facts(name: str, length: int | None, chunked: bool, bodiless: bool) -> None:
    answer, method, _, _ = RESPONSES[name]

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.say(answer)

    async with backend(script) as it, upstream(it.url) as client:
        response = await client.send(UpstreamRequest(method, b"/", HOST))
        assert (response.content_length, response.chunked, response.bodiless) == (length, chunked, bodiless)
        await everything(response)
        assert response.ended


# ── the pool ──


@story
async def test_connections_are_kept_and_reused() -> None:
    async with backend(Peer.serve) as it, upstream(it.url) as client:
        for _ in range(20):
            assert await get(client) == (200, b"ok")
        assert len(it.peers) == 1
        await asyncio.gather(*(get(client) for _ in range(20)))
        assert len(it.peers) <= 21


@story
async def test_the_whole_body_in_one_read_once_ended() -> None:
    async with backend(Peer.serve) as it, upstream(it.url) as client:
        response = await client.send(UpstreamRequest(b"GET", b"/", HOST))
        while not response.ended:
            await asyncio.sleep(0.001)
        assert [await response.read(), await response.read(), await response.read()] == [b"ok", b"", b""]


@story
async def test_saturation() -> None:
    """F225: the ones beyond the limit wait for a place, at most `timeouts.connect`."""

    async def script(peer: Peer) -> None:
        while True:
            if b"/slow" in await peer.head():
                await asyncio.sleep(0.3)
            await peer.say(OK)

    async with (
        backend(script) as it,
        upstream(it.url, max_connections=2, timeouts={"connect": "100ms"}) as client,
    ):
        slow = [asyncio.create_task(get(client, b"/slow")) for _ in range(2)]
        await asyncio.sleep(0.05)
        begun = time.monotonic()
        with pytest.raises(UpstreamFault) as caught:
            await get(client)
        assert caught.value.code == "upstream_saturated"
        assert 0.09 < time.monotonic() - begun < 0.29
        assert await asyncio.gather(*slow) == [(200, b"ok")] * 2
        assert await asyncio.gather(*(get(client) for _ in range(50))) == [(200, b"ok")] * 50
        assert len(it.peers) == 2


@story
async def test_an_event_stream_gives_up_its_place_and_may_find_another_one() -> None:
    async def script(peer: Peer) -> None:
        while True:
            if b"/events" in await peer.head():
                await peer.say(
                    b"HTTP/1.1 200 OK\r\nContent-Type: Text/Event-Stream; a=b\r\nTransfer-Encoding: chunked\r\n\r\n"
                )
                await peer.say(b"1\r\n:\r\n")
                await asyncio.sleep(0.2)
                await peer.say(b"0\r\n\r\n")
            else:
                await peer.say(OK)

    async with backend(script) as it, upstream(it.url, max_connections=1) as client:
        streams = [await client.send(UpstreamRequest(b"GET", b"/events", HOST)) for _ in range(3)]
        assert all(stream.endless for stream in streams)
        assert await get(client) == (200, b"ok")
        assert len(it.peers) == 4
        for stream in streams:
            while await stream.read():
                pass
        pool = client._pool
        assert not pool.apart
        assert len(pool.connections) == 1, "the others are closed"
        assert await get(client) == (200, b"ok")
        await client.send(UpstreamRequest(b"GET", b"/events", HOST))
        assert len(it.peers) == 4
        assert not pool.connections
        stream = await client.send(UpstreamRequest(b"GET", b"/events", HOST))
        while await stream.read():
            pass
        assert await get(client) == (200, b"ok")
        assert len(it.peers) == 5, "it found a place"


@story
async def test_places_come_back_after_every_kind_of_end() -> None:
    """One place, and it is never lost: abort, cancellation, fault, refusal, close, waiter that gave up."""

    async def script(peer: Peer) -> None:
        while True:
            head = await peer.head()
            if b"/broken" in head:
                await peer.say(b"nonsense")
            elif b"/hang" in head:
                await peer.silent()
            elif b"/endless" in head:
                await peer.say(b"HTTP/1.1 200 OK\r\n\r\nx")
                await peer.silent()
            elif b"/close" in head:
                return
            else:
                await peer.say(OK)

    async with backend(script) as it, upstream(it.url, max_connections=1) as client:
        for _ in range(3):
            assert await outcome(client, b"/broken") == BROKEN
            assert await outcome(client, b"/close", b"POST") == BROKEN
            (await client.send(UpstreamRequest(b"GET", b"/endless", HOST))).abort()
            hanging = asyncio.create_task(get(client, b"/hang"))
            await asyncio.sleep(0.01)
            waiting = [asyncio.create_task(get(client)) for _ in range(3)]
            await asyncio.sleep(0.01)
            waiting[0].cancel()
            hanging.cancel()
            waiting[1].cancel()
            assert await waiting[2] == (200, b"ok")
            assert await get(client) == (200, b"ok")
        assert len(it.peers) >= 12


@story
async def test_waiter_that_is_cancelled_as_its_turn_comes_passes_the_connection_on() -> None:
    async with backend(Peer.serve) as it, upstream(it.url, max_connections=1) as client:
        for _ in range(50):
            tasks = [asyncio.create_task(get(client)) for _ in range(8)]
            for number, task in enumerate(tasks):
                await asyncio.sleep(0.0002)
                if number % 2:
                    task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(result == (200, b"ok") for result in results[::2])
        assert await get(client) == (200, b"ok")


@story
async def test_answer_that_comes_as_the_caller_leaves() -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nab")
        await peer.silent()

    async with backend(script) as it, upstream(it.url, max_connections=1) as client:
        for number in range(3):
            sending = asyncio.create_task(client.send(UpstreamRequest(b"GET", b"/", HOST)))
            while not any(connection._response for connection in client._pool.connections):
                await asyncio.sleep(0)
            sending.cancel()
            await asyncio.wait([sending])
            assert sending.cancelled()
            async with asyncio.timeout(1):
                await it.peers[number].closed.wait()


@story
async def test_place_that_comes_as_the_caller_leaves() -> None:
    async with backend(Peer.serve) as it, upstream(it.url, max_connections=1) as client:
        assert await get(client) == (200, b"ok")
        for free in (client._pool.free, lambda connection: connection.close()):
            taken = client._pool.take(0)
            assert taken is not None
            waiting = asyncio.create_task(get(client))
            await asyncio.sleep(0)
            free(taken)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        assert client._pool.connections == set()
        assert await get(client) == (200, b"ok")
        assert len(it.peers) == 2


@story
async def test_fresh_connection_takes_the_place_of_an_idle_one() -> None:
    async with backend(Peer.serve) as it, upstream(it.url, max_connections=1) as client:
        assert await get(client) == (200, b"ok")
        (idle,) = client._pool.connections
        fresh = client._pool.take_fresh()
        assert fresh is not None
        assert fresh.fresh
        assert idle.closed
        assert client._pool.take_fresh() is None
        fresh.close()
        assert await get(client) == (200, b"ok")


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"OPTIONS"])
@story
async def test_stale_connection_is_replaced_once(method: bytes) -> None:
    """F224: the backend closes the idle connection just as the request arrives."""

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        if peer.number == 0:
            await peer.head()
            peer.writer.transport.abort()
        await peer.serve(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    async with backend(script) as it, upstream(it.url) as client:
        assert await get(client, method=method) == (200, b"")
        assert await get(client, method=method) == (200, b"")
        assert (len(it.peers), len(it.heads)) == (2, 3)


@story
async def test_stale_connection_is_replaced_only_once() -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        if peer.number == 0:
            await peer.say(OK)
            await peer.head()

    async with backend(script) as it, upstream(it.url) as client:
        assert await get(client) == (200, b"ok")
        assert await outcome(client) == BROKEN
        assert len(it.heads) == 3


@pytest.mark.parametrize("method", [b"POST", b"PUT", b"DELETE", b"PATCH", b"GET"])
@story
async def test_nothing_else_is_sent_twice(method: bytes) -> None:
    """F224, PX-29: no POST, and nothing with a body, is repeated."""

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.say(OK)
        await peer.head()

    async with backend(script) as it, upstream(it.url) as client:
        assert await get(client) == (200, b"ok")
        with pytest.raises(UpstreamFault) as caught:
            await client.send(UpstreamRequest(method, b"/", HOST, (pieces(b"a"), 1) if method == b"GET" else None))
        assert caught.value.code == "upstream_invalid_response"
        await asyncio.sleep(0.02)
        assert (len(it.peers), len(it.heads)) == (1, 2)


@story
async def test_nothing_is_repeated_once_a_byte_has_come() -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.say(OK)
        await peer.head()
        await peer.say(b"H")

    async with backend(script) as it, upstream(it.url) as client:
        assert await get(client) == (200, b"ok")
        assert await outcome(client) == BROKEN
        assert (len(it.peers), len(it.heads)) == (1, 2)


@pytest.mark.parametrize(
    "parting", [b"", b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n"], ids=["FIN", "408"]
)
@story
async def test_idle_connection_that_the_backend_closed_is_not_used(parting: bytes) -> None:
    """F224: known dead before the request, so even a POST goes out on a new one, once."""

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.say(OK)
        if peer.number == 0:
            await asyncio.sleep(0.01)
            await peer.say(parting)
            return
        await peer.serve()

    async with backend(script) as it, upstream(it.url) as client:
        assert await get(client) == (200, b"ok")
        while client._pool.connections:
            await asyncio.sleep(0.01)
        assert await get(client, method=b"POST") == (200, b"ok")
        assert (len(it.peers), len(it.heads)) == (2, 2)


@story
async def test_overdue_connection_is_not_used_even_if_it_is_still_open() -> None:
    async with backend(Peer.serve) as it, upstream(it.url, timeouts={"keep_alive": "1ms"}) as client:
        assert await get(client) == (200, b"ok")
        await asyncio.sleep(0.01)
        assert await get(client, method=b"POST") == (200, b"ok")
        assert len(it.peers) == 2


@pytest.mark.parametrize(
    ("keep_alive", "hint"),
    [("100ms", b""), ("10s", b"Keep-Alive: max=5, timeout=1\r\n")],
    ids=["ours", "theirs"],
)
@story
async def test_unused_connections_are_closed(keep_alive: str, hint: bytes) -> None:
    async def script(peer: Peer) -> None:
        await peer.serve(b"HTTP/1.1 200 OK\r\n" + hint + b"Content-Length: 2\r\n\r\nok")

    async with (
        backend(script) as it,
        upstream(it.url, timeouts={"keep_alive": keep_alive, "response": "500ms"}) as client,
    ):
        assert await get(client) == (200, b"ok")
        async with asyncio.timeout(1):
            await it.peers[0].closed.wait()
        assert await get(client) == (200, b"ok")
        assert len(it.peers) == 2


# ── time-outs, aborts, connecting ──


@story
async def test_no_response_in_time() -> None:
    """RX-4, F223."""

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.say(b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 2")
        await peer.silent()

    async with backend(script) as it, upstream(it.url, timeouts={"response": "150ms"}) as client:
        begun = time.monotonic()
        assert await outcome(client) == ("upstream_timeout",)
        assert 0.14 < time.monotonic() - begun < 1
        await it.peers[0].closed.wait()


@story
async def test_response_time_starts_when_the_request_is_sent() -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.reader.readexactly(10)
        await peer.say(OK)

    async with backend(script) as it, upstream(it.url, timeouts={"response": "300ms"}) as client:
        response = await client.send(UpstreamRequest(b"POST", b"/", HOST, (pieces(*[b"a"] * 10, pause=0.05), 10)))
        assert await everything(response) == b"ok"


@story
async def test_backend_that_takes_no_more_of_the_body() -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await asyncio.sleep(10)

    async def body() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 100_000

    async with backend(script) as it, upstream(it.url, timeouts={"response": "200ms"}) as client:
        with pytest.raises(UpstreamFault) as caught:
            await client.send(UpstreamRequest(b"POST", b"/", HOST, (body(), None)))
        assert caught.value.code == "upstream_timeout"


@story
async def test_pause_inside_the_body() -> None:
    """RX-4: only the pause counts, not the whole; what had come is delivered first."""

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.say(b"HTTP/1.1 200 OK\r\n\r\n")
        for _ in range(5):
            await peer.say(b"a")
            await asyncio.sleep(0.06)
        await peer.silent()

    async with backend(script) as it, upstream(it.url, timeouts={"idle": "250ms", "response": "200ms"}) as client:
        assert await outcome(client) == (200, b"OK", (), b"aaaaa", "upstream_timeout")
        await it.peers[0].closed.wait()

    async with backend(script) as it, upstream(it.url, timeouts={"idle": "0", "response": "200ms"}) as client:
        response = await client.send(UpstreamRequest(b"GET", b"/", HOST))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.7):
                await everything(response)
        response.abort()


@story
async def test_abort_closes_at_once() -> None:
    """F229: while the body is read, and while the head is awaited."""

    async def script(peer: Peer) -> None:
        if b"/body" in await peer.head():
            await peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nab")
        await peer.silent()

    async with backend(script) as it, upstream(it.url) as client:
        response = await client.send(UpstreamRequest(b"GET", b"/body", HOST))
        response.abort()
        async with asyncio.timeout(1):
            await it.peers[0].closed.wait()
        with pytest.raises(UpstreamFault):
            await response.read()

        sending = asyncio.create_task(
            client.send(UpstreamRequest(b"POST", b"/", HOST, (pieces(b"a", b"b", pause=0.1), None)))
        )
        await asyncio.sleep(0.15)
        sending.cancel()
        async with asyncio.timeout(1):
            await it.peers[1].closed.wait()


@story
async def test_abort_after_the_end_hurts_nobody() -> None:
    async with backend(Peer.serve) as it, upstream(it.url) as client:
        response = await client.send(UpstreamRequest(b"GET", b"/", HOST))
        await everything(response)
        other = await client.send(UpstreamRequest(b"GET", b"/", HOST))
        response.abort()
        assert await everything(other) == b"ok"
        assert len(it.peers) == 1


@story
async def test_refused_and_unknown_hosts(unused_tcp_port: int) -> None:
    """F223: 502."""
    for url in (f"http://127.0.0.1:{unused_tcp_port}", "http://no-such-host.invalid", "unix:/no/such/socket"):
        async with upstream(url, max_connections=1) as client:
            for _ in range(2):
                assert await outcome(client) == ("upstream_unreachable",)


@story
async def test_connecting_takes_too_long() -> None:
    """RX-4: a TLS handshake that never comes."""
    async with (
        backend(Peer.silent) as it,
        upstream(it.url.replace("http:", "https:"), timeouts={"connect": "100ms"}) as client,
    ):
        assert await outcome(client) == ("upstream_timeout",)
        async with asyncio.timeout(1):
            await it.peers[0].closed.wait()


@story
async def test_cancelled_while_connecting() -> None:
    async with backend(Peer.silent) as it, upstream(it.url.replace("http:", "https:"), max_connections=1) as client:
        for number in range(2):
            sending = asyncio.create_task(get(client))
            await asyncio.sleep(0.05)
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending
            async with asyncio.timeout(1):
                await it.peers[number].closed.wait()


@story
async def test_connected_when_nobody_waits_any_more() -> None:
    async with backend(Peer.silent) as it, upstream(it.url) as client:
        connection = client._pool.take(0)
        assert connection is not None
        connection.close()
        await client._open(connection)
        while not it.peers:
            await asyncio.sleep(0.01)
        await it.peers[0].closed.wait()


@story
async def test_backend_that_closes_at_once() -> None:
    async def script(peer: Peer) -> None:
        peer.writer.transport.abort()

    async with backend(script) as it, upstream(it.url, max_connections=1) as client:
        for _ in range(20):
            assert (await outcome(client))[0] in {"upstream_invalid_response", "upstream_unreachable"}


@story
async def test_close_ends_everything() -> None:
    async def script(peer: Peer) -> None:
        if b"/hang" not in await peer.head():
            await peer.say(OK)
        await peer.silent()

    async with backend(script) as it, upstream(it.url, max_connections=2) as client:
        assert await get(client) == (200, b"ok")
        tasks = [asyncio.create_task(outcome(client, b"/hang")) for _ in range(4)]
        await asyncio.sleep(0.05)
        await client.close()
        assert await asyncio.gather(*tasks) == [("upstream_unreachable",)] * 4
        assert await outcome(client) == ("upstream_unreachable",)
        for peer in it.peers:
            await peer.closed.wait()


@story
async def test_unix_socket(tmp_path: Path) -> None:
    """F226."""
    async with backend(Peer.serve, path=str(tmp_path / "s")) as it, upstream(it.url) as client:
        assert await get(client) == (200, b"ok")
        assert await get(client) == (200, b"ok")
        assert len(it.peers) == 1


# ── TLS ──


def certificate(folder: Path, name: str, issuer: tuple[Any, Any] | None = None) -> tuple[Any, Any]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    signer, signer_name = (issuer[0], issuer[1].subject) if issuer else (key, subject)
    now = datetime.now(UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(signer_name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(signer, hashes.SHA256())
    )
    encoding = serialization.Encoding.PEM
    secret = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / f"{name}.key").write_bytes(secret)
    (folder / f"{name}.pem").write_bytes(built.public_bytes(encoding))
    return key, built


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pki")
    authority = certificate(folder, "ca")
    for name in ("localhost", "app.internal", "client"):
        certificate(folder, name, authority)
    certificate(folder, "stranger")
    return folder


def server_context(pki: Path, name: str, client_ca: str | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki / f"{name}.pem", pki / f"{name}.key")
    if client_ca:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(pki / client_ca)
    return context


@pytest.mark.parametrize(
    ("server", "tls", "works"),
    [
        ("localhost", {"ca_file": "ca.pem"}, True),
        ("localhost", {}, False),
        ("localhost", {"ca_file": "stranger.pem"}, False),
        ("localhost", {"verify": False}, True),
        ("app.internal", {"ca_file": "ca.pem"}, False),
        ("app.internal", {"ca_file": "ca.pem", "server_name": "app.internal"}, True),
    ],
)
@story
async def test_tls_verification(server: str, tls: dict[str, Any], works: bool, pki: Path) -> None:
    """F222."""
    settings = {name: pki / value if name == "ca_file" else value for name, value in tls.items()}
    async with (
        backend(Peer.serve, ssl=server_context(pki, server)) as it,
        upstream(it.url, tls=settings, max_connections=1) as client,
    ):
        for _ in range(2):
            result = await outcome(client)
            assert result[0] == (200 if works else "upstream_unreachable")
        assert it.heads == [] or works


@story
async def test_client_certificate(pki: Path) -> None:
    """F222."""
    seen: list[Any] = []

    async def script(peer: Peer) -> None:
        seen.append(peer.writer.get_extra_info("peercert"))
        await peer.serve(b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n" + b"x" * 200_000)

    tls = {"ca_file": pki / "ca.pem", "cert_file": pki / "client.pem", "key_file": pki / "client.key"}
    context = server_context(pki, "localhost", client_ca="ca.pem")
    async with backend(script, ssl=context) as it, upstream(it.url, tls=tls) as client:
        assert await get(client) == (200, b"x" * 200_000)
        assert await get(client) == (200, b"x" * 200_000)
        assert len(it.peers) == 1
    assert seen[0]["subject"] == ((("commonName", "client"),),)


def test_tls_files_that_cannot_be_used(pki: Path) -> None:
    for tls in ({"ca_file": pki / "none.pem"}, {"ca_file": pki / "ca.key"}, {"cert_file": pki / "ca.pem"}):
        with pytest.raises(SettingsFault, match="tls"):
            Upstream(UpstreamSettings(url="https://localhost", tls=tls))  # type: ignore[arg-type]
    key = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"x")
    )
    (pki / "locked.key").write_bytes(key)
    with pytest.raises(SettingsFault, match="pass phrase"):
        Upstream(
            UpstreamSettings(
                url="https://localhost",
                tls={"cert_file": pki / "client.pem", "key_file": pki / "locked.key"},  # type: ignore[arg-type]
            )
        )


# ── settings ──


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://127.0.0.1:8080", Address("127.0.0.1:8080", "127.0.0.1", 8080)),
        ("http://App.Internal/", Address("app.internal", "app.internal", 80)),
        ("https://[::1]:8443", Address("[::1]:8443", "::1", 8443, secure=True)),
        ("unix:/run/app.sock", Address("localhost", path="/run/app.sock")),
        ("unix:///run/app.sock", Address("localhost", path="/run/app.sock")),
    ],
)
def test_addresses(url: str, address: Address) -> None:
    assert Address.parse(url) == address
    assert UpstreamSettings(url=url).url == url


@pytest.mark.parametrize(
    "settings",
    [
        *({"url": url} for url in ("", "app:8080", "ftp://a", "http://a/x", "http://u@a", "http://a?b", "http://a:0")),
        *({"url": url} for url in ("unix:", "unix:run/app.sock", "unix://run/app.sock")),
        *(
            {"url": "http://a", "headers": {name: value}}
            for name, value in (
                ("a b", "c"),
                ("", "c"),
                ("X", "a\r\nb"),
                ("X", " a"),
                ("Host", "b"),
                ("Connection", "close"),
            )
        ),
        {"url": "http://a", "max_connections": 0},
        {"url": "http://a", "timeouts": {"connect": "0"}},
        {"url": "http://a", "tls": {"key_file": "/k"}},
        {"url": "http://a", "tls": {"server_name": ""}},
    ],
)
def test_settings_that_cannot_work(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        UpstreamSettings(**settings)


def test_header_values_are_not_printed() -> None:
    settings = UpstreamSettings(url="http://a", headers={"X-Key": "hush", "X-Empty": ""})
    assert "hush" not in repr(settings)
