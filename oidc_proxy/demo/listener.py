"""One listening socket of the demo: what came in (`Call`) and what goes out (`Answer`), as values.

aiohttp's router and its ready-made answers stay out of the way: they decode paths, merge headers and cannot be made to
misbehave, and a test server must report exactly what it received and answer exactly what it was told to.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from ssl import SSLContext
from typing import Any, Self
from urllib.parse import parse_qsl

from aiohttp import web
from multidict import CIMultiDict

Pairs = list[tuple[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request, as received."""

    endpoint: str = ""
    """Which endpoint it was for (`token`, `jwks`, …); empty for an unknown path."""
    method: str
    target: str
    """The request target byte for byte; bytes beyond ASCII as surrogate escapes."""
    headers: CIMultiDict[str]
    """In order and with their spelling; bytes beyond UTF-8 as surrogate escapes."""
    body: bytes = b""
    """Its first MiB."""
    body_length: int = 0
    body_sha256: str = ""
    at: float = 0
    """Seconds since the epoch, by the clock of the listener."""
    base: str = ""
    """Scheme and authority that the caller used, e.g. `http://127.0.0.1:8081`."""

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def query(self) -> Pairs:
        return parse_qsl(self.target.partition("?")[2], keep_blank_values=True)

    @property
    def is_form(self) -> bool:
        return self.headers.get("Content-Type", "").partition(";")[0].strip().lower() == (
            "application/x-www-form-urlencoded"
        )

    @property
    def form_pairs(self) -> Pairs:
        """The parsed form of the body; empty when it is not a form."""
        if not self.is_form:
            return []
        return parse_qsl(self.body.decode("utf-8", "surrogateescape"), keep_blank_values=True)

    @property
    def form(self) -> dict[str, str]:
        return dict(self.form_pairs)

    @property
    def parameters(self) -> Pairs:
        """Of the form for a POST, else of the query (OpenID Connect Core 3.1.2.1: both ways are equal)."""
        return self.form_pairs if self.method == "POST" else self.query

    def cookie(self, name: str) -> str | None:
        for header in self.headers.getall("Cookie", []):
            for pair in header.split(";"):
                key, _, value = pair.strip(" \t").partition("=")
                if key == name:
                    return value
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One response, good or bad. `delay`, `hang`, `drip` and `cut` say how it goes out; times are real seconds."""

    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    count: int = 1
    """The how-manieth answer of this endpoint this is, from 1: lets a fault flap."""
    delay: float = 0
    hang: bool = False
    drip: float = 0
    """Seconds between any two bytes of the body; 0 sends it whole."""
    cut: int | None = None
    """Break the connection after so many bytes of the body, whose full length was announced."""

    def but(self, **changes: Any) -> Answer:
        """The same answer with some fields changed."""
        return replace(self, **changes)

    def with_header(self, name: str, value: str) -> Answer:
        """The header replaces all of the same name."""
        kept = tuple((key, old) for key, old in self.headers if key.lower() != name.lower())
        return replace(self, headers=(*kept, (name, value)))

    def adding(self, *headers: tuple[str, str]) -> Answer:
        return replace(self, headers=(*self.headers, *headers))


def json_answer(value: object, status: int = 200, headers: Iterable[tuple[str, str]] = ()) -> Answer:
    """JSON that no cache may keep. NaN, Infinity and lone surrogates are written as Python writes them."""
    fixed = (("Content-Type", "application/json"), ("Cache-Control", "no-store"), ("Pragma", "no-cache"))
    return Answer(status=status, headers=(*fixed, *headers), body=json.dumps(value).encode())


def redirect(location: str, *headers: tuple[str, str], status: int = 303) -> Answer:
    return Answer(status=status, headers=(("Location", location), ("Cache-Control", "no-store"), *headers))


Result = Answer | web.StreamResponse


class Listener:
    """Accepts connections and asks `handle` about each request; may be closed and opened again on the same port."""

    def __init__(
        self,
        handle: Callable[[Call, web.BaseRequest], Awaitable[Result]],
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        ssl_context: SSLContext | None = None,
        clock: Callable[[], float],
    ) -> None:
        self.handle = handle
        self.host = host
        self.port = port
        self.ssl_context = ssl_context
        self.clock = clock
        self._runner: web.ServerRunner | None = None
        self._closing = asyncio.Event()

    @property
    def base(self) -> str:
        """Scheme, host and port of the socket."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.ssl_context else 'http'}://{host}:{self.port}"

    async def open(self) -> None:
        """Open the socket; with port 0 the system chooses one, which is kept for the next time."""
        self._closing = asyncio.Event()
        server = web.Server(self._serve, access_log=None, auto_decompress=False, max_field_size=65536, lingering_time=0)
        self._runner = web.ServerRunner(server, shutdown_timeout=0.2)
        await self._runner.setup()
        await web.TCPSite(self._runner, self.host, self.port, ssl_context=self.ssl_context).start()
        self.port = int(self._runner.addresses[0][1])

    async def close(self) -> None:
        """Stop listening; answers that hang or drip are broken off."""
        self._closing.set()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        result = await self.handle(await self._read(request), request)
        return await self._send(request, result) if isinstance(result, Answer) else result

    async def _read(self, request: web.BaseRequest) -> Call:
        headers = CIMultiDict(
            (name.decode("utf-8", "surrogateescape"), value.decode("utf-8", "surrogateescape"))
            for name, value in request.raw_headers
        )
        body, length, digest = await _read_body(request)
        authority = headers.get("Host", f"{self.host}:{self.port}")
        return Call(
            method=request.method,
            target=request.raw_path,
            headers=headers,
            body=body,
            body_length=length,
            body_sha256=digest,
            at=self.clock(),
            base=f"{'https' if self.ssl_context else 'http'}://{authority}",
        )

    async def _wait(self, seconds: float | None) -> bool:
        """Wait; true when the listener is closed meanwhile."""
        try:
            await asyncio.wait_for(self._closing.wait(), seconds)
        except TimeoutError:
            return False
        return True

    async def _send(self, request: web.BaseRequest, answer: Answer) -> web.StreamResponse:
        if (answer.hang and await self._wait(None)) or (answer.delay and await self._wait(answer.delay)):
            return web.Response(status=503)
        response = web.StreamResponse(status=answer.status, headers=CIMultiDict(answer.headers))
        bodiless = request.method == "HEAD" or answer.status in (204, 304)
        if not bodiless:
            response.content_length = len(answer.body)
        await response.prepare(request)
        if not bodiless:
            await self._send_body(request, response, answer)
        return response

    async def _send_body(self, request: web.BaseRequest, response: web.StreamResponse, answer: Answer) -> None:
        body = answer.body if answer.cut is None else answer.body[: answer.cut]
        if answer.drip:
            for byte in body:
                await response.write(bytes([byte]))
                if await self._wait(answer.drip):
                    break
        elif body:
            await response.write(body)
        if answer.cut is not None:
            response.force_close()
            if request.transport is not None:
                request.transport.close()
        else:
            await response.write_eof()


class Served:
    """Whoever answers at a listener of its own. `open` after `close` gets the same port and forgets nothing."""

    _listener: Listener

    @property
    def port(self) -> int:
        return self._listener.port

    async def open(self) -> None:
        await self._listener.open()

    async def close(self) -> None:
        await self._listener.close()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()


async def _read_body(request: web.BaseRequest) -> tuple[bytes, int, str]:
    """The first MiB, the length and the digest of all; a stream that is to be upgraded is left alone."""
    digest, kept, length = hashlib.sha256(), bytearray(), 0
    if "Upgrade" not in request.headers:
        if request.headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        async for piece in request.content.iter_any():
            digest.update(piece)
            length += len(piece)
            kept += piece[: max(0, 2**20 - len(kept))]
    return bytes(kept), length, digest.hexdigest()
