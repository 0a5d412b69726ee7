"""What is written into the head of a request, and what the head of a response says about its body. No I/O."""

from __future__ import annotations

import re
from collections.abc import Sequence
from operator import itemgetter

from oidc_proxy.errors import UpstreamFault
from oidc_proxy.server.upstream.request import UpstreamRequest

_BODY_EXPECTED = frozenset({b"POST", b"PUT", b"PATCH"})
_FRAMING = frozenset({b"content-length", b"transfer-encoding"})
_OFFER = ((b"Connection", b"Upgrade"), (b"Upgrade", b"websocket"))
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_TIMEOUT = re.compile(rb"(?i)(?:^|[ ,])timeout=(\d{1,6})")
_name = itemgetter(0)
_proven: set[bytes] = set()
"""Header names that have passed ``_prove``, so that each is looked at once."""


def invalid(detail: str) -> UpstreamFault:
    return UpstreamFault("upstream_invalid_response", detail)


def request_head(request: UpstreamRequest) -> bytes:
    """Request line and headers, with exactly one framing field or none (RFC 9112 §6). ValueError for injections."""
    method, target, headers, body = request.method, request.target, request.headers, request.body
    if request.accept is not None:
        headers = (*headers, *_OFFER)
    if body is not None:
        if body[1] is not None and body[1] < 0:
            raise ValueError("a request body of negative length")
        framing = b"Transfer-Encoding: chunked\r\n" if body[1] is None else b"Content-Length: %d\r\n" % body[1]
    else:
        framing = b"Content-Length: 0\r\n" if method in _BODY_EXPECTED else b""
    given = b"".join((method, target, *map(b"".join, headers)))
    if b"\n" in given or b"\r" in given or b"\0" in given:
        raise ValueError("a line break or NUL in the request head")
    if 32 in target or not _proven.issuperset(map(_name, headers)):
        _prove(target, headers)
    lines = b"\r\n".join((*map(b": ".join, headers), framing)) if headers else framing
    return b"".join((method, b" ", target, b" HTTP/1.1\r\n", request.ready, lines, b"\r\n"))


def _prove(target: bytes, headers: Sequence[tuple[bytes, bytes]]) -> None:
    if 32 in target:
        raise ValueError("white space in the request target")
    for name, _ in headers:
        if not _NAME.fullmatch(name) or name.lower() in _FRAMING:
            raise ValueError("a header name in the request that is malformed, or reserved for framing")
    if len(_proven) > 4096:
        _proven.clear()
    _proven.update(name for name, _ in headers)


def announces_events(headers: Sequence[tuple[bytes, bytes]]) -> bool:
    """Whether the body is an event stream (HTML §9.2)."""
    types = [value for name, value in headers if len(name) == 12 and name.lower() == b"content-type"]
    return len(types) == 1 and types[0].partition(b";")[0].strip().lower() == b"text/event-stream"


def check_switch(headers: Sequence[tuple[bytes, bytes]], accept: bytes) -> None:
    """Raise UpstreamFault unless this is the other half of our WebSocket handshake (RFC 6455 §4.1)."""
    fields: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        fields.setdefault(name.lower(), []).append(value.strip(b" \t"))
    tokens = [token.strip(b" \t").lower() for value in fields.get(b"connection", []) for token in value.split(b",")]
    if b"upgrade" not in tokens or [value.lower() for value in fields.get(b"upgrade", [])] != [b"websocket"]:
        raise invalid("status 101 that does not switch to WebSocket")
    if fields.get(b"sec-websocket-accept") != [accept]:
        raise invalid("status 101 with a wrong Sec-WebSocket-Accept")
    if fields.keys() & _FRAMING:  # RFC 9110 §8.6, RFC 9112 §6.1
        raise invalid("status 101 with a body")


def response_framing(headers: Sequence[tuple[bytes, bytes]]) -> tuple[int | None, bool, float | None]:
    """Content-Length, whether the body is chunked, and the seconds that an idle connection is kept, where announced.

    Relies on llhttp, which has refused a length beside a coding, two lengths, and lengths that are no numbers.
    """
    length, chunked, kept = None, False, None
    for name, value in headers:
        size = len(name)  # much cheaper than to fold every name
        if size == 14 and name.lower() == b"content-length":
            length = int(value)
        elif size == 17 and name.lower() == b"transfer-encoding":
            # Any other coding would have to be undone, or announced to the client (RFC 9112 §6.1).
            if chunked or value.strip(b" \t").lower() != b"chunked":
                raise invalid("a transfer coding other than chunked")
            chunked = True
        elif size == 10 and name.lower() == b"keep-alive" and (found := _TIMEOUT.search(value)):
            kept = max(int(found[1]) - 1.0, 0.5)  # less a second for the way
    return length, chunked, kept
