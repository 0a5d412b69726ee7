"""Listeners: aiohttp's HTTP/1.1 server, with the limits and the manners of a gateway."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

from aiohttp import http_parser, web, web_protocol
from aiohttp.http_exceptions import LineTooLong

from .. import pages
from ..errors import InternalFault, ProxyError, RequestFault

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

MAX_LINE = 16 * 1024
MAX_HEADER = 32 * 1024
KEEP_ALIVE = 75.0

if http_parser.HttpRequestParser is http_parser.HttpRequestParserPy:  # pragma: no cover
    # Its grammar differs from the compiled one's, and everything here was checked against that one.
    raise ImportError("aiohttp runs without its compiled parser; unset AIOHTTP_NO_EXTENSIONS and install a wheel")


class _Nameless(web.Response):
    """An answer that does not tell what software wrote it."""

    async def _prepare_headers(self) -> None:
        await super()._prepare_headers()
        del self.headers["Server"]


def _fault(status: int, error: BaseException | None) -> ProxyError:
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return InternalFault("internal_error")
    if isinstance(error, LineTooLong):
        return RequestFault("uri_too_long" if error.args[1] == MAX_LINE else "headers_too_large")
    return RequestFault("bad_request")


class FrontProtocol(web.RequestHandler):
    """One connection of a client. Answers what cannot be parsed in our words, and never repeats it."""

    def data_received(self, data: bytes) -> None:
        """Tell whoever waits for the rest of a body that it will never come; aiohttp would let them wait."""
        super().data_received(data)
        if self._messages and isinstance(self._messages[-1][0], web_protocol._ErrInfo):  # noqa: SLF001
            open_body = self._messages[-2][1] if len(self._messages) > 1 else None
            if open_body is None and self._current_request is not None:
                open_body = self._current_request.content
            if open_body is not None and not open_body.is_eof():
                open_body.set_exception(RequestFault("bad_request", "the framing of the body is malformed"))
                open_body.feed_eof()  # else aiohttp would wait for the rest once more

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
        reply = pages.problem(_fault(status, exc), request_id="-")
        response = _Nameless(status=reply.status, body=reply.body, headers=dict(reply.headers))
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
        self._server.pre_shutdown()  # closes those that wait for a request; shutdown would wait for them, too
        await self._server.shutdown(grace)
