"""What was asked, and whom we were asked by."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TypeAlias
from urllib.parse import unquote_to_bytes

import msgspec
from multidict import CIMultiDictProxy
from pydantic import Field

from oidc_proxy.errors import RequestFault
from oidc_proxy.values import Origin, Settings, canonical_host

RawHeaders: TypeAlias = Sequence[tuple[bytes, bytes]]


class EndpointSettings(Settings):
    """Where the gateway's own endpoints are."""

    prefix: str = Field(
        "/oauth2",
        pattern=r"^(/[A-Za-z0-9._~-]*[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+$",
        description="What the paths of the gateway's own endpoints start with. The redirect URI that the provider must "
        "know is `public_url` (`login.auth_origin`, if that is given), this, and /callback.",
        examples=["/_auth"],
    )


class RequestHead(msgspec.Struct, frozen=True):
    """One request as it was received, with what is known about where it came from.

    ``target``, ``path`` and ``query`` are the exact characters of the request line; ``query`` is None without a "?".
    ``origin`` is the one of our own public origins that was asked; ``client`` the address that trusted hops vouch for.
    """

    method: str
    target: str
    path: str
    query: str | None
    origin: Origin
    client: str
    raw_headers: RawHeaders
    headers: CIMultiDictProxy[str]
    request_id: str
    peer: str = ""
    """The address at the other end of the connection."""
    traced: bool = False
    """Whether the trace context that came with the request may go on."""


_AUTHORITY = re.compile(r"(\[[^\]]*\]|[^:]*)((?::\d{1,5})?)", re.ASCII)
_TARGET = re.compile(r"/[!\"$-~]*")  # printable ASCII without "#": RFC 9112 §3.2.1 knows no fragment


def split_target(target: str) -> tuple[str, str | None]:
    """The path and query of a request target in origin-form (RFC 9112 §3.2.1), untouched.

    Raises RequestFault for absolute-form, authority-form, ``*``, fragments and raw non-ASCII or control characters.
    """
    if not _TARGET.fullmatch(target):
        raise RequestFault(
            "bad_request", "the request target is not in origin-form, or has characters that must be encoded"
        )
    path, mark, query = target.partition("?")
    return path, query if mark else None


class Origins:
    """Our public origins, found by the Host header of a request."""

    def __init__(self, origins: Sequence[Origin]) -> None:
        self._spellings = {f"{origin.host}:{origin.port}": origin for origin in origins}
        self._spellings |= {origin.authority: origin for origin in origins}

    def find(self, host: str) -> Origin:
        """The origin with this Host, in any case, default port or trailing dot; else RequestFault("wrong_host")."""
        found = self._spellings.get(host) or self._spellings.get(_canonical_authority(host))
        if found is None:
            raise RequestFault("wrong_host", "the Host header names none of our public origins")
        return found


def _canonical_authority(text: str) -> str:
    # What is not ASCII is no Host (RFC 3986 §3.2.2), though IDNA could make one of it.
    parts = _AUTHORITY.fullmatch(text) if text.isascii() else None
    try:
        return f"{canonical_host(parts[1])}{parts[2]}" if parts else ""
    except ValueError:
        return ""


def is_navigation(head: RequestHead) -> bool:
    """Whether a person is looking at the answer, so that a redirect to a sign-in page helps.

    Fetch metadata decides where the browser sends it (W3C Fetch Metadata §2); Accept and X-Requested-With otherwise.
    """
    headers = head.headers
    if "X-Requested-With" in headers or headers.get("Content-Type", "").startswith("application/grpc"):
        return False
    if headers.get("Upgrade") or "prefetch" in headers.get("Sec-Purpose", ""):
        return False
    mode, dest = headers.get("Sec-Fetch-Mode"), headers.get("Sec-Fetch-Dest")
    if mode is not None and mode != "navigate":
        return False
    if dest is not None and dest not in {"document", "iframe", "frame"}:
        return False
    return prefers_html(headers.get("Accept", ""))


def prefers_html(accept: str) -> bool:
    """Whether the Accept header (RFC 9110 §12.5.1) names HTML, at a quality that is not below JSON's."""
    quality = {"text/html": 0.0, "application/json": 0.0}
    for item in accept.split(","):
        media, *parameters = [part.strip().lower() for part in item.split(";")]
        weight = next((p[2:] for p in parameters if p.startswith("q=")), "1")
        media = {"application/xhtml+xml": "text/html", "application/problem+json": "application/json"}.get(media, media)
        if media in quality:
            quality[media] = max(quality[media], float(weight) if re.fullmatch(r"[01](\.\d{0,3})?", weight) else 0.0)
    return quality["text/html"] > 0 and quality["text/html"] >= quality["application/json"]


def query_parameters(query: str | None) -> Mapping[str, Sequence[str]]:
    """The parameters of one of our own endpoints, decoded, each with all its values."""
    found: dict[str, list[str]] = {}
    for pair in (query or "").split("&"):
        if pair:
            name, _, value = pair.partition("=")
            found.setdefault(_decode(name), []).append(_decode(value))
    return found


def _decode(text: str) -> str:
    try:
        return unquote_to_bytes(text.replace("+", " ")).decode("utf-8")
    except UnicodeDecodeError:
        raise RequestFault("bad_request", "a parameter is not UTF-8") from None
