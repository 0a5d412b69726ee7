"""Signed tokens in compact form (RFC 7515), opened: form, header, signature and kind, in this order."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from oidc_proxy.tokens.faults import TokenInvalid
from oidc_proxy.tokens.keys import ALGORITHMS, KeySet
from oidc_proxy.tokens.text import base64url, members

MAX_TOKEN = 64 * 1024
MAX_HEADER = 16 * 1024


class Kind(NamedTuple):
    """What distinguishes one kind of token from all others (RFC 8725 §3.11, §3.12)."""

    name: str
    types: frozenset[str]
    """Header `typ`, lower-case, without "application/"; "" where it may be absent."""
    labels: frozenset[str] = frozenset()
    """Payload `typ`, where Keycloak says the kind while the header says JWT for all of them."""
    foreign: frozenset[str] = frozenset()
    """Claims that only other kinds have."""
    marks: frozenset[str] = frozenset()
    """Types or labels, of which the token must bear one."""


_LABELS = frozenset({"id", "bearer", "dpop", "refresh", "offline", "logout"})
ID_TOKEN = Kind("an ID token", frozenset({"", "jwt"}), frozenset({"id"}), frozenset({"events"}))
USERINFO = Kind("signed userinfo", frozenset({"", "jwt"}), foreign=frozenset({"events", "nonce", "at_hash", "c_hash"}))
ACCESS_TOKEN = Kind(
    "an access token",
    frozenset({"", "jwt", "at+jwt"}),
    frozenset({"bearer", "dpop"}),
    frozenset({"events", "at_hash", "c_hash"}),
    marks=frozenset({"at+jwt", "bearer", "dpop"}),
)
LOGOUT_TOKEN = Kind(
    "a logout token",
    frozenset({"", "jwt", "logout+jwt"}),
    frozenset({"logout"}),
    frozenset({"nonce", "at_hash", "c_hash", "s_hash"}),
)


_COMPACT = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)")


def open_token(raw: str, keys: KeySet, algorithms: frozenset[str], kind: Kind) -> tuple[dict[str, Any], str]:
    """The payload of a signed token of this kind, and the algorithm that signed it; TokenInvalid otherwise.

    Header parameters that nobody must understand are ignored, so embedded keys and addresses of keys do nothing (RFC
    7515 §4); one that must be understood is refused, because there is none that we do (§4.1.11).
    """
    found = _COMPACT.fullmatch(raw) if isinstance(raw, str) and len(raw) <= MAX_TOKEN else None
    if not found or len(found[1]) > MAX_HEADER:
        raise TokenInvalid("malformed", "not a JWS in compact form, or too large")
    with _malformed("header"):
        header = members(base64url(found[1]))
    algorithm, typ = _check_header(header, algorithms, kind)
    with _malformed("signature"):
        signature = base64url(found[3])
    keys.check(header.get("kid"), algorithm, f"{found[1]}.{found[2]}".encode(), signature)
    with _malformed("payload"):
        claims = members(base64url(found[2]))
    _check_kind(kind, typ, claims)
    return claims, algorithm


@contextmanager
def _malformed(what: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise TokenInvalid("malformed", f"{what}: {error}") from None


def _check_header(header: Mapping[str, Any], algorithms: frozenset[str], kind: Kind) -> tuple[str, str]:
    """The algorithm and the type, where there is nothing to object to."""
    if "crit" in header or "b64" in header:
        raise TokenInvalid("critical", "the header has crit or b64")
    algorithm, kid, typ = header.get("alg"), header.get("kid", ""), header.get("typ", "")
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS.keys() & algorithms:
        raise TokenInvalid("algorithm", f"{algorithm!r:.40} is none of {', '.join(sorted(algorithms))}")
    if not isinstance(kid, str) or not isinstance(typ, str):
        raise TokenInvalid("malformed", "header: kid or typ is not a string")
    typ = typ.lower().removeprefix("application/")
    if typ not in kind.types:
        raise TokenInvalid("type", f"the header says {typ!r:.40}, which is not {kind.name}")
    return algorithm, typ


def _check_kind(kind: Kind, header_type: str, claims: Mapping[str, Any]) -> None:
    payload_type = claims.get("typ")
    label = payload_type.lower() if isinstance(payload_type, str) else ""
    if label in _LABELS - kind.labels:
        raise TokenInvalid("type", f"the payload says {label}, which is not {kind.name}")
    if kind.marks and kind.marks.isdisjoint({header_type, label}):
        raise TokenInvalid("type", f"nothing marks it as {kind.name}")
    if found := sorted(kind.foreign.intersection(claims)):
        raise TokenInvalid("type", f"{kind.name} has no {', '.join(found)}")
