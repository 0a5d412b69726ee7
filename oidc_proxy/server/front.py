"""Listeners: aiohttp's HTTP/1.1 server, with the limits and the manners of a gateway."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import http_parser, web

from .. import pages
from ..errors import RequestFault

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

MAX_LINE = 16 * 1024
MAX_HEADER = 32 * 1024
KEEP_ALIVE = 75.0

if http_parser.HttpRequestParser is http_parser.HttpRequestParserPy:  # pragma: no cover
    # Its grammar differs from the compiled one's, and everything here was checked against that one.
    raise ImportError("aiohttp runs without its compiled parser; unset AIOHTTP_NO_EXTENSIONS and install a wheel")


class FrontProtocol(web.RequestHandler):
    """One connection of a client. Answers what cannot be parsed in our words, and never repeats it."""

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """A whole answer to a request that no handler saw; the connection closes after it (RFC 9112 §9.6)."""
        if request.writer.output_size > 0:
            raise ConnectionError("an answer was under way already")
        code = "bad_request" if status < 500 else "headers_too_large" if status == 431 else "bad_request"
        reply = pages.problem(RequestFault(code), request_id="-")
        response = web.Response(status=reply.status, body=reply.body, headers=dict(reply.headers))
        response.force_close()
        return response


class Listener:
    """A port, and the connections that came through it."""

    def __init__(self, handler: Handler, address: str) -> None:
        self._server = web.Server(handler, handler_cancellation=True)
        self._host, _, port = address.rpartition(":")
        self._wanted_port = int(port)
        self._listening: asyncio.Server | None = None

    async def open(self, *, reuse_port: bool = False) -> None:
        """Start to accept. OSError when the address is taken or not ours."""
        self._listening = await asyncio.get_running_loop().create_server(
            self._protocol, self._host.strip("[]"), self._wanted_port, backlog=1024, reuse_port=reuse_port or None
        )

    def _protocol(self) -> FrontProtocol:
        options: dict[str, Any] = {
            "access_log": None,
            "auto_decompress": False,
            "keepalive_timeout": KEEP_ALIVE,
            "max_line_size": MAX_LINE,
            "max_field_size": MAX_HEADER,
        }
        return FrontProtocol(self._server, loop=asyncio.get_running_loop(), **options)

    @property
    def port(self) -> int:
        """The port that was got, where 0 was asked for."""
        if self._listening is None:
            return self._wanted_port
        listening: socket.socket = self._listening.sockets[0]
        return int(listening.getsockname()[1])

    async def close(self, grace: float) -> None:
        """Stop accepting, let requests under way finish for ``grace`` seconds, then close every connection."""
        if self._listening is not None:
            self._listening.close()
        await self._server.shutdown(grace)
