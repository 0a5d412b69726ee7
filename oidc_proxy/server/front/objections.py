"""What aiohttp's parser lets pass, but we do not, and what it gets wrong."""

from __future__ import annotations

from aiohttp.hdrs import TRANSFER_ENCODING
from aiohttp.http import HttpVersion10, HttpVersion11, RawRequestMessage
from multidict import CIMultiDict, CIMultiDictProxy

from oidc_proxy.errors import RequestFault

_VERSIONS = (HttpVersion10, HttpVersion11)
_ENDS = (b" HTTP/1.1\r\n", b" HTTP/1.0\r\n")


def object_to(message: RawRequestMessage, head: bytes, limit: int) -> None:
    """Raise RequestFault unless the request is acceptable. ``head`` is what it was read from, as far as that is known.

    ``limit`` is the most bytes of all headers together.
    """
    end = head.find(b"\r\n")
    # One space, the target, one space: llhttp reads RTSP, ICE and runs of spaces as well.
    read = end == len(message.method) + len(message.path) + 10 and head.startswith(_ENDS, end - 9)
    # Of a request that has waited in the parser the line is not known.
    if not read and (message.version not in _VERSIONS or head.startswith(message.method.encode() + b" ")):
        raise RequestFault("bad_request", "the request line is none of HTTP/1.0 or HTTP/1.1")
    coding = message.headers.get(TRANSFER_ENCODING)
    if coding is not None and (message.version != HttpVersion11 or coding.lower() != "chunked"):
        raise RequestFault("bad_request", "a transfer coding other than chunked, or in HTTP/1.0")  # RFC 9112 §6.1
    if message.upgrade and message.headers.get("Upgrade", "").lower() == "websocket" and _has_body(message):
        raise RequestFault("bad_request", "a WebSocket handshake with a body")
    if len(head) > limit and sum(len(name) + len(value) + 4 for name, value in message.raw_headers) > limit:
        raise RequestFault("headers_too_large", "the headers are larger than http.limits.header_bytes")


def _has_body(message: RawRequestMessage) -> bool:
    return message.chunked or message.headers.get("Content-Length", "0") != "0"


def without_trailer(message: RawRequestMessage, head: bytes) -> RawRequestMessage:
    """The request without the last trailer of the one before, which aiohttp's parser takes for its first header.

    Raises RequestFault if that cannot be told. The head has a line for each header, the request line and a blank one.
    """
    lines = head.count(b"\r\n") - 2
    if lines == len(message.raw_headers):
        return message
    if lines != len(message.raw_headers) - 1 or not head.endswith(b"\r\n\r\n"):
        raise RequestFault("bad_request", "a request behind trailers, of which not all is known")
    headers = CIMultiDictProxy(CIMultiDict(list(message.headers.items())[1:]))
    return message._replace(headers=headers, raw_headers=message.raw_headers[1:])
