"""What Envoy asks over gRPC, and is told, as values."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from multidict import CIMultiDict, CIMultiDictProxy

from oidc_proxy.errors import RequestFault
from oidc_proxy.forward_auth.dialects import OWN, Demands, demand
from oidc_proxy.messages import (
    NEVER_FROM_CLIENTS,
    NEVER_PREFIXES,
    OwnCookies,
    RawHeaders,
    Reply,
    RequestHead,
    canonical_name,
)

_FIELD_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_NOT_IN_VALUES = re.compile(rb"[\r\n\0]")


@dataclass(frozen=True, slots=True)
class Question:
    """What Envoy asks, in its own words: nothing is checked yet."""

    method: str = ""
    host: str = ""
    target: str = ""
    headers: RawHeaders = ()
    extensions: Mapping[str, str] = field(default_factory=dict)

    def lines(self) -> RawHeaders:
        """The header lines, Host among them. RequestFault("bad_request") for what is no header."""
        lines = [(b"host", self.host.encode()), *(line for line in self.headers if not line[0].startswith(b":"))]
        for name, value in lines:
            if not _FIELD_NAME.fullmatch(name) or _NOT_IN_VALUES.search(value):
                raise RequestFault("bad_request", "the proxy says something of a header that is none")
        return tuple(lines)

    def demands(self) -> Demands:
        """What the proxy's route demands, in its context extensions."""
        where = "context_extensions"
        return tuple(demand(name, OWN, words.split(","), where) for name, words in self.extensions.items())


def named(lines: RawHeaders) -> CIMultiDictProxy[str]:
    """Header lines by name, their bytes read as the listener reads them."""
    pairs = ((name.decode("ascii"), value.decode("utf-8", "surrogateescape")) for name, value in lines)
    return CIMultiDictProxy(CIMultiDict(pairs))


@dataclass(frozen=True, slots=True)
class Answer:
    """What Envoy is told. 200 lets pass: ``headers`` are set in the request, then ``removed`` are taken out of it.

    Any other status is an answer for the visitor, with these headers and this body.
    """

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    removed: tuple[str, ...] = ()
    body: bytes = b""


def allowed(block: bytes, head: RequestHead, own: OwnCookies | None) -> Answer:
    """Let pass, as whom ``block`` announces. ``own`` are the cookies that stay behind, unless it comes to us."""
    said = [(name.lower(), value) for name, _, value in (line.partition(": ") for line in _texts(block))]
    names = {_folded(name) for name, _ in said}
    exact = {name for name, _ in said}
    removed = [name for name, value in said if not value]
    came = dict.fromkeys(name.decode("ascii").lower() for name, _ in head.raw_headers)
    removed += [name for name in came if name not in exact and (_folded(name) in names or _is_a_claim(name))]
    headers = [(name, value) for name, value in said if value]
    before = b"; ".join(value for name, value in head.raw_headers if name.lower() == b"cookie")
    after = own.strip(before) if own is not None else before
    if after != before:
        text = after.decode("utf-8", "ignore")  # a message has nothing but text: what is none goes, with ours
        if text and text.encode() == after:
            headers.append(("cookie", text))
        else:
            removed.append("cookie")
    return Answer(200, tuple(headers), tuple(removed))


def denied(reply: Reply, request_id: str) -> Answer:
    """The answer that the visitor gets instead."""
    return Answer(reply.status, (*reply.headers, ("X-Request-Id", request_id)), body=reply.body)


def _texts(block: bytes) -> list[str]:
    return block.decode().split("\r\n")[:-1]


_WRITTEN_BY_ENVOY = frozenset({
    "x-forwarded-for", "x-forwarded-proto", "x-forwarded-client-cert", "x-request-id", "x-envoy-external-address",
})  # fmt: skip
"""What Envoy itself makes of what the client says, before it asks."""

_folded = lru_cache(512)(canonical_name)
"""Names may be as long as Envoy lets headers be, so not too many are remembered."""


def _is_a_claim(name: str) -> bool:
    """Whether clients use a header to say who they are, or what they ask for, to whoever believes them."""
    if name in _WRITTEN_BY_ENVOY:
        return False
    folded = _folded(name)
    return folded in NEVER_FROM_CLIENTS or folded.startswith(NEVER_PREFIXES)
