"""Answers to what no handler sees: in our words, and with none of what was sent."""

from __future__ import annotations

from http import HTTPStatus

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_exceptions import LineTooLong

from oidc_proxy import pages
from oidc_proxy.errors import InternalFault, ProxyError, RequestFault
from oidc_proxy.messages import http_date
from oidc_proxy.values import Instant


class Refusal(web.StreamResponse):
    """A whole answer; the connection closes after it (RFC 9112 §9.6)."""

    def __init__(self, fault: ProxyError, request_id: str, now: Instant) -> None:
        reply = pages.problem(fault, request_id=request_id)
        lines = [f"HTTP/1.1 {reply.status} {HTTPStatus(reply.status).phrase}"]
        lines += [f"{name}: {value}" for name, value in reply.headers]
        lines += [f"Date: {http_date(int(now))}", f"X-Request-Id: {request_id}"]
        lines += [f"Content-Length: {len(reply.body)}", "Connection: close", "", ""]
        self.data = "\r\n".join(lines).encode() + reply.body
        """All of it, as it goes out."""

    @property
    def keep_alive(self) -> bool:
        return False

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        await request.writer.write(self.data)
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        return None


def fault_of(error: BaseException | None, status: int, url_bytes: int) -> ProxyError:
    """Whose fault it is that aiohttp would answer with this status, because of this error.

    ``url_bytes`` is the limit that its parser was given for the request line.
    """
    if isinstance(error, ProxyError):
        return error
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return InternalFault("internal_error", type(error).__name__)
    if isinstance(error, LineTooLong):
        in_url = error.args[1] == url_bytes
        return RequestFault("uri_too_long" if in_url else "headers_too_large", "a line is too long")
    if "Too many headers" in str(error):
        return RequestFault("headers_too_large", "more headers than http.limits.headers")
    return RequestFault("bad_request", "not a well-formed HTTP/1.x request")
