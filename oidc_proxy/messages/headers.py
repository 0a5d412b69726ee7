"""Header hygiene: what goes on to the backend, what comes back from it, and what we add."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable
from dataclasses import dataclass, field
from functools import lru_cache

from oidc_proxy.caching import NOBODY, for_one_user, for_shared_caches
from oidc_proxy.messages.cookies import OwnCookies
from oidc_proxy.messages.request import RawHeaders

_NOT_ALPHANUMERIC = re.compile(r"[^a-z0-9]")


def canonical_name(name: str) -> str:
    """The spelling in which header names are compared: WSGI, CGI and PHP fold "-", "_" and "." into one."""
    return _NOT_ALPHANUMERIC.sub("-", name.lower())


HOP_BY_HOP = frozenset({
    "connection", "proxy-connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade",
    "proxy-authenticate", "proxy-authorization", "proxy-authentication-info", "http2-settings", "content-length",
    "expect",
})  # fmt: skip
"""Headers of this hop only (RFC 9110 §7.6.1), and those that frame the message, which each side makes anew."""

NEVER_FROM_CLIENTS = frozenset({
    "forwarded", "x-real-ip", "true-client-ip", "cf-connecting-ip", "x-client-ip", "x-cluster-client-ip",
    "fastly-client-ip", "x-remote-user", "remote-user", "x-remote-email", "x-remote-groups", "x-access-token",
    "x-id-token", "x-rewrite-url", "x-original-url", "x-original-uri", "x-original-method", "x-original-host",
    "x-http-method-override", "x-method-override", "x-http-method", "x-request-id", "x-forwarded", "proxy",
    "client-ip", "forwarded-for", "proxy-client-ip", "wl-proxy-client-ip", "x-original-forwarded-for",
    "x-azure-clientip", "x-appengine-user-ip", "x-envoy-external-address", "x-envoy-original-path", "x-host",
    "x-http-host-override",
})  # fmt: skip
"""Headers by which some backend would let the client choose its identity, address, path, method or (CGI) proxy."""

TRACE_CONTEXT = frozenset({"traceparent", "tracestate", "baggage"})
"""Headers that make a request a part of a trace (W3C Trace Context and Baggage)."""

NEVER_FROM_BACKENDS = frozenset({
    "authorization", "forwarded", "x-real-ip", "x-remote-user", "remote-user", "x-request-id",
})  # fmt: skip
"""Headers of requests, which a backend can only be repeating, with what they say of the user; and our own."""

NEVER_PREFIXES = ("x-forwarded-", "x-auth-request-")


_FIELD_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_NOT_IN_VALUES = re.compile(rb"[\r\n\0]")


@dataclass(frozen=True, slots=True)
class HeaderPlan:
    """Headers of our own making, once for many requests: set after everything of those names was removed.

    ValueError for what would be more than these headers (RFC 9110 §5.5).
    """

    set: tuple[tuple[bytes, bytes], ...]
    lines: bytes = field(init=False, repr=False, compare=False)
    """The same, as they are sent."""

    def __post_init__(self) -> None:
        for name, value in self.set:
            if not _FIELD_NAME.fullmatch(name) or _NOT_IN_VALUES.search(value):
                raise ValueError("a header name that is none, or a line break or NUL in a value")
        object.__setattr__(self, "lines", b"".join([b"%b: %b\r\n" % header for header in self.set]))

    def without(self, names: Container[bytes]) -> tuple[tuple[bytes, bytes], ...]:
        """The headers but for those whose names, in lower case, are among ``names``."""
        return tuple(header for header in self.set if header[0].lower() not in names)


class HeaderFilter:
    """Decides which of the client's headers go on. ``names`` are the identity headers that we announce ourselves."""

    def __init__(self, names: Iterable[str], own_cookies: OwnCookies, *, keep_authorization: bool = False) -> None:
        announced = frozenset(canonical_name(name) for name in names)
        dropped = announced | NEVER_FROM_CLIENTS | HOP_BY_HOP | {"host"}
        self._dropped = dropped if keep_authorization else dropped | {"authorization"}
        self._dropped_from_response = announced | NEVER_FROM_BACKENDS
        self._own_cookies = own_cookies
        # Names may be as long as the listener lets headers be, so not too many are remembered.
        self._kind = lru_cache(512)(self._decide)
        self._kind_of_response = lru_cache(512)(self._decide_response)

    def _decide(self, name: bytes) -> int:
        exact = name.decode("latin-1").lower()
        text = canonical_name(exact)
        if text in self._dropped or text.startswith(NEVER_PREFIXES):
            return _NOMINATES if exact == "connection" else _GOES
        if text in TRACE_CONTEXT:
            return _TRACES
        return _COOKIES if exact == "cookie" else _STAYS

    def _decide_response(self, name: bytes) -> int:
        exact = name.decode("latin-1").lower()
        text = canonical_name(exact)
        if exact in HOP_BY_HOP or text in self._dropped_from_response or text.startswith(NEVER_PREFIXES):
            return _NOMINATES if exact == "connection" else _GOES
        if for_shared_caches(name):
            return _SHARES
        return {"set-cookie": _COOKIES, "cache-control": _CACHES}.get(exact, _STAYS)

    def to_backend(self, raw_headers: RawHeaders, *, traced: bool = False) -> list[tuple[bytes, bytes]]:
        """The client's headers that may go on, byte for byte and in order; those of a trace only with ``traced``.

        First what ``Connection`` nominates goes (RFC 9110 §7.6.1), then every look-alike; ours are added by the caller
        afterwards, so nothing that the client nominates can remove them.
        """
        kept: list[tuple[bytes, bytes]] = []
        nominated, kind_of = _NONE, self._kind
        for line in raw_headers:
            kind = kind_of(line[0])
            if kind == _STAYS or (kind == _TRACES and traced):
                kept.append(line)
            elif kind == _COOKIES:
                if others := self._own_cookies.strip(line[1]):
                    kept.append((line[0], others))
            elif kind == _NOMINATES:
                nominated |= _nominated(line[1])
        return [line for line in kept if line[0].lower() not in nominated] if nominated else kept

    def to_client(
        self, raw_headers: RawHeaders, *, private: bool = False, shared: bool = False
    ) -> list[tuple[bytes, bytes]]:
        """The backend's headers that may go on: without hop-by-hop ones, identity headers, and cookies of our names.

        Of a ``private`` answer, one that depends on who is signed in, nothing lets a shared cache store it, unless
        ``shared`` ones may do as the backend says; where it says nothing, nobody may.
        """
        kept: list[tuple[bytes, bytes]] = []
        nominated, kind_of, speaks = _NONE, self._kind_of_response, False
        for line in raw_headers:
            kind = kind_of(line[0])
            if kind == _STAYS or (kind == _COOKIES and not self._own_cookies.owns_set(line[1])):
                kept.append(line)
            elif kind == _CACHES:
                kept.append(line if shared or not private else (line[0], for_one_user(line[1])))
                speaks = True
            elif kind == _SHARES and (shared or not private):
                kept.append(line)
            elif kind == _NOMINATES:
                nominated |= _nominated(line[1])
        if nominated:
            kept = [line for line in kept if line[0].lower() not in nominated]
            speaks = speaks and b"cache-control" not in nominated
        return [*kept, *NOBODY] if private and not speaks else kept


_STAYS, _GOES, _COOKIES, _CACHES, _SHARES, _NOMINATES, _TRACES = range(7)
"""What becomes of a header line, by its name: each name is looked at once."""

_NONE: frozenset[bytes] = frozenset()
_PLAIN_CONNECTION = {b"keep-alive", b"close", b"upgrade", b"keep-alive, upgrade"}


def _nominated(value: bytes) -> frozenset[bytes]:
    """The header names that a Connection header lists, in lower case (RFC 9110 §7.6.1)."""
    if value.lower() in _PLAIN_CONNECTION:
        return _NONE
    return frozenset(token.strip(b" \t").lower() for token in value.split(b","))
