"""HTTP as values: what was asked, what we answer, and the hygiene of headers in between.

Nothing here trusts a header because it is there. Forwarded headers are believed from trusted hops only; names are
compared in the one spelling that every backend could confuse them with; cookies are read from the raw bytes.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Self, TypeAlias
from urllib.parse import unquote_to_bytes

import msgspec
from multidict import CIMultiDictProxy
from pydantic import Field

from .caching import NOBODY, for_one_user, for_shared_caches
from .errors import RequestFault
from .values import Origin, Settings, canonical_host

RawHeaders: TypeAlias = Sequence[tuple[bytes, bytes]]
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network


class EndpointSettings(Settings):
    """Where the gateway's own endpoints are."""

    prefix: str = Field(
        "/oauth2",
        pattern=r"^(/[A-Za-z0-9._~-]*[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+$",
        description="What the paths of the gateway's own endpoints start with. The redirect URI that the provider must "
        "know is `public_url`, this, and /callback.",
        examples=["/_auth"],
    )


# ── the request ───────────────────────────────────────────────────────────────────────────────────────────────────────


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


def client_address(peer: str, forwarded_for: Iterable[str], trusted: Sequence[Network]) -> str:
    """The right-most address of the chain that is no trusted hop; the peer itself if it is not trusted or lies.

    ``forwarded_for`` are the values of all X-Forwarded-For lines, in order. A malformed entry ends the walk.
    """
    if not trusted:
        return peer
    client = peer
    for entry in reversed([part.strip(" \t") for line in forwarded_for for part in line.split(",")]):
        address = _address(entry) if is_trusted(client, trusted) else None
        if address is None:
            return client
        client = str(address)
    return client


_CHARACTERS = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_FORWARDED_PAIR = re.compile(
    rf"[ \t]*(?P<name>{_CHARACTERS})="
    rf'(?:(?P<token>{_CHARACTERS})|"(?P<quoted>(?:[^"\\]|\\.)*)")'
    rf"[ \t]*(?P<end>[;,]|\Z)"
)
_NODE = re.compile(r"(?P<address>\[[0-9A-Fa-f:.]+\]|[0-9.]+)(?::(?:\d{1,5}|_[A-Za-z0-9._-]+))?", re.ASCII)


def forwarded_for(lines: Iterable[str]) -> list[str]:
    """The addresses of the ``for`` parameters of Forwarded headers, in order (RFC 7239 §4).

    What names no address (``unknown``, an obfuscated node, an element without ``for``) becomes "", which ends the walk
    of ``client_address``. So does a malformed line, of which not even the last element can be told.
    """
    found: list[str] = []
    for line in lines:
        elements = _forwarded_elements(line)
        found = [""] if elements is None else found + elements
    return found


def _forwarded_elements(line: str) -> list[str] | None:
    found, address, position = [], "", 0
    while pair := _FORWARDED_PAIR.match(line, position):
        if pair["name"].lower() == "for":
            node = _NODE.fullmatch(pair["token"] or re.sub(r"\\(.)", r"\1", pair["quoted"] or ""))
            address = node["address"].strip("[]") if node else ""
        if pair["end"] != ";":
            found.append(address)
            address = ""
        if not pair["end"]:
            return found
        position = pair.end()
    return None


def forwarded_element(address: str) -> str:
    """``for=`` and an address, as Forwarded wants it (RFC 7239 §6); a peer without one is ``unknown``."""
    parsed = _address(address.partition("%")[0])
    if parsed is None:
        return "for=unknown"
    return f"for={parsed}" if parsed.version == 4 else f'for="[{parsed}]"'


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address, an IPv4 one also where it is written as IPv6 (RFC 4291 §2.5.5.2); None for anything else."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv4Address):
        return address
    # A zone may be any text, and says nothing to another host (RFC 4007 §11.2).
    return None if address.scope_id else address.ipv4_mapped or address


def is_trusted(address: str, trusted: Sequence[Network]) -> bool:
    """Whether the address is in one of the networks."""
    if not trusted:
        return False
    parsed = _address(address.partition("%")[0])
    return parsed is not None and any(parsed in network for network in trusted)


_REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{7,127}")


def request_id(offered: str | None, fresh: str) -> str:
    """The request id that a trusted hop gave if it is well-formed, else the fresh one."""
    return offered if offered is not None and _REQUEST_ID.fullmatch(offered) else fresh


_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


def trace_id(head: RequestHead) -> str | None:
    """The id of the trace that the request goes on in (W3C Trace Context §3.2.2); None if there is none."""
    given = head.headers.getall("traceparent", ()) if head.traced else ()
    match = _TRACEPARENT.fullmatch(given[0]) if len(given) == 1 else None
    return match[1] if match else None


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


# ── the answer ────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer of our own, whole."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes = b""

    def with_cookies(self, cookies: Iterable[Cookie]) -> Reply:
        """The same answer that also sets these cookies."""
        return Reply(self.status, (*self.headers, *(("Set-Cookie", str(cookie)) for cookie in cookies)), self.body)


@dataclass(frozen=True, slots=True)
class Cookie:
    """A cookie that we set (RFC 6265bis §4.1). ``max_age`` is in seconds; None lasts as long as the browser runs."""

    name: str
    value: str
    secure: bool
    max_age: int | None = None
    domain: str | None = None
    same_site: str = "Lax"

    def deletion(self) -> Cookie:
        """What makes the browser forget the cookie. The attributes are repeated, else a ``__Host-`` one survives."""
        return Cookie(self.name, "", self.secure, 0, self.domain, self.same_site)

    def __str__(self) -> str:
        text = f"{self.name}={self.value}; Path=/"
        if self.domain is not None:
            text += f"; Domain={self.domain}"
        if self.max_age == 0:
            # Not the epoch itself, and no Max-Age: the form that every known client honours.
            text += "; Expires=Thu, 01 Jan 1970 00:00:01 GMT"
        elif self.max_age is not None:
            text += f"; Max-Age={self.max_age}"
        return f"{text}{'; Secure' if self.secure else ''}; HttpOnly; SameSite={self.same_site}"


# ── cookies that we get ───────────────────────────────────────────────────────────────────────────────────────────────


_REMEMBERED_LINE = 2048


class OwnCookies:
    """The cookies of the gateway itself: the session's, and one for each sign-in under way.

    Names are compared exactly and split on ";" alone, because a lenient reading lets a sibling domain plant a
    ``__Host-`` cookie (``a=b __Host-x=evil``).
    """

    def __init__(self, name: str) -> None:
        self.session = name
        # A browser says the same with every request, so a line that was read is remembered; no more than a few MB.
        self._split_before = lru_cache(4096)(self._split)
        self._login = f"{name}_login_"
        self._hint = name.encode().lower()
        self._owns = re.compile(re.escape(name.encode()) + rb"(_login_[^=]*)?", re.IGNORECASE)
        self._made = re.compile(re.escape(name.encode()) + rb"(_login_[A-Za-z0-9_-]+)?")

    def login(self, suffix: str) -> str:
        """The name of the cookie of one sign-in."""
        return self._login + suffix

    def is_login(self, name: str) -> bool:
        return name.startswith(self._login)

    def owns(self, pair: bytes) -> bool:
        """Whether a browser may take ``name=value`` for ours: it trims white space, and knows prefixes in any case."""
        return self._owns.fullmatch(pair.partition(b"=")[0].strip(b" \t")) is not None

    def owns_set(self, line: bytes) -> bool:
        """Whether a Set-Cookie header would make the browser send a cookie of ours.

        One without a name and with the value ``x=y`` comes back as ``x=y`` (RFC 6265bis §5.8.3), so it is called ``x``.
        """
        return self.owns(line.partition(b";")[0].lstrip(b" \t="))

    def read(self, raw_headers: RawHeaders) -> Mapping[str, str]:
        """Our cookies by name. One that comes twice is not there: neither can be told to be ours."""
        lines = [line for header, line in raw_headers if len(header) == 6 and header.lower() == b"cookie"]
        return self._halves(lines[0] if len(lines) == 1 else b";".join(lines))[0]

    def strip(self, line: bytes) -> bytes:
        """A Cookie header's value without ours, the others byte for byte; empty if nothing is left."""
        return self._halves(line)[1]

    def _halves(self, line: bytes) -> tuple[Mapping[str, str], bytes]:
        """Our cookies in a Cookie header's value, and the value without them."""
        return self._split_before(line) if len(line) <= _REMEMBERED_LINE else self._split(line)

    def _split(self, line: bytes) -> tuple[Mapping[str, str], bytes]:
        if self._hint not in line.lower():
            return {}, line
        ours: dict[str, str] = {}
        twice: set[str] = set()
        others: list[bytes] = []
        for pair in line.split(b";"):
            if not self.owns(pair):
                others.append(pair)
            name, _, value = pair.strip(b" \t").partition(b"=")
            if self._made.fullmatch(name):
                text = name.decode("ascii")
                twice |= {text} & ours.keys()
                ours[text] = value.decode("latin-1")
        once = {name: value for name, value in ours.items() if name not in twice}
        return once, b";".join(others).strip(b" \t")


_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


@lru_cache(2)
def http_date(instant: int) -> str:
    """Value of a Date header (RFC 9110 §5.6.7); ``instant`` in whole seconds, so that most calls cost a look-up."""
    then = datetime.fromtimestamp(instant, UTC)  # strftime would speak the language of the machine
    return f"{_DAYS[then.weekday()]}, {then:%d} {_MONTHS[then.month - 1]} {then:%Y %H:%M:%S} GMT"


# ── header hygiene ────────────────────────────────────────────────────────────────────────────────────────────────────

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


# ── where to return to ────────────────────────────────────────────────────────────────────────────────────────────────

_SAFE = re.compile(r"/(?![/\\])[!#-\[\]-~]*")
_LONGEST_RETURN = 2048


@dataclass(frozen=True, slots=True)
class ReturnTo:
    """A path and query on our own origin, always sent as an absolute URL: no spelling of it can leave us."""

    target: str

    @classmethod
    def here(cls, head: RequestHead) -> Self:
        """The very address that was asked, byte for byte; for ``//x`` as well."""
        return cls(head.target if len(head.target) <= _LONGEST_RETURN else "/")

    @classmethod
    def parse(cls, text: str, origin: Origin, own_prefix: str) -> Self | None:
        """An address that somebody else gave us, or None if it is not certainly a page of our origin.

        Strict on purpose (open redirects): printable ASCII, a path whose slashes, dots, backslashes and control
        characters are the same after decoding it twice, and none of our own endpoints. The query is not judged.
        """
        own = f"{origin}/"
        if text.startswith(own):
            text = text[len(own) - 1 :]
        if len(text) > _LONGEST_RETURN or not _SAFE.fullmatch(text):
            return None
        path = text.partition("?")[0].partition("#")[0]
        if path == own_prefix or path.startswith(f"{own_prefix}/"):
            return None
        reading = path.encode("ascii")
        for _ in range(3):
            if not _plain_path(reading):
                return None
            decoded = unquote_to_bytes(reading)
            if decoded.count(b"/") != reading.count(b"/"):
                return None
            reading = decoded
        return cls(text)

    def url(self, origin: Origin) -> str:
        """The absolute URL, for a Location header."""
        return f"{origin}{self.target}"


def _plain_path(path: bytes) -> bool:
    if any(byte < 0x20 or byte in b"\\\x7f" for byte in path) or b"//" in path:
        return False
    return not any(segment in {b".", b".."} for segment in path.split(b"/"))


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
