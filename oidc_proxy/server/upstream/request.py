"""A request to a backend, as whoever sends it says it."""

from __future__ import annotations

from collections.abc import AsyncIterable, Sequence
from typing import TypeAlias

import msgspec

from oidc_proxy.server.upstream.settings import Waits

Body: TypeAlias = tuple[AsyncIterable[bytes], int | None]
"""The pieces of a request body, and its length; without a length it is sent in chunks (RFC 9112 §7.1)."""

_SAFE = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE"})


class UpstreamRequest(msgspec.Struct, frozen=True):
    """One request, whose ``ready`` and then ``headers`` go out byte for byte and in order.

    Host is among them, framing and hop-by-hop fields are not: Content-Length or Transfer-Encoding come of ``body``.
    """

    method: bytes
    target: bytes
    headers: Sequence[tuple[bytes, bytes]]
    body: Body | None = None
    """What its source raises is raised by ``send``, or by ``UpstreamResponse.read``."""
    ready: bytes = b""
    """Header lines that were proven when they were made."""
    accept: bytes | None = None
    """With it, the request offers to speak WebSocket, and may be answered by 101 with that very Sec-WebSocket-Accept;
    ``UpstreamResponse.leave`` gives the connection then."""
    waits: Waits | None = None
    """How long this exchange may take, where it is not ``timeouts`` of the settings."""

    @property
    def repeatable(self) -> bool:
        """Whether the backend may see it twice: a safe method (RFC 9110 §9.2.1), and no body that is gone by then."""
        return self.body is None and self.method in _SAFE

    def __repr__(self) -> str:
        return f"UpstreamRequest({self.method!r}, …)"  # headers have tokens, and targets may
