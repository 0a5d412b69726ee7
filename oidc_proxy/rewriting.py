"""Paths and addresses as the visitor writes them, and as the backend does.

Only the first part of a path is ever exchanged, and only at a slash; what follows it goes through byte for byte. On the
way back, only addresses that are certainly the backend's own become the visitor's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Self
from urllib.parse import quote

from .errors import RequestFault
from .values import Origin, canonical_host

Lines = list[tuple[bytes, bytes]]


def encoded(path: str) -> str:
    """The spelling that browsers send for a path with characters that must be encoded (RFC 3986 §2.1)."""
    return quote(path, safe="/!$&'()*+,=:@")


@dataclass(frozen=True, slots=True)
class Rewriting:
    """What visitors ask for begins with ``outside``, the backend's paths with ``inside``: both without the final slash.

    Each is there in every spelling that a request may have, the one that is sent first.
    """

    outside: tuple[str, ...]
    inside: tuple[str, ...]

    @classmethod
    def of(cls, outside: str, inside: str) -> Self:
        return cls(*((encoded(path.removesuffix("/")), path.removesuffix("/")) for path in (outside, inside)))

    @property
    def prefix(self) -> str:
        """What the backend's paths lack in front to be the visitor's, if that is all there is to it; else empty."""
        return "" if self.inside[0] else self.outside[0]

    def inward(self, path: str) -> str:
        """The path for the backend. Raises RequestFault("path_ambiguous") when it could be taken for a host's name."""
        rest = _below(self.outside, path)
        moved = "" if rest is None else f"{self.inside[0]}{rest}" or "/"
        if not moved or moved[1:2] in {"/", "\\"}:
            raise RequestFault("path_ambiguous", f"{path[:200]!a} without its first part is no path of its own")
        return moved

    def undone(self, path: str) -> tuple[str, ...]:
        """The paths of which ``inward`` could have made this one, in every spelling of their first part."""
        rest = _below(self.inside, path)
        return () if rest is None else tuple(f"{outside}{rest}" for outside in self.outside)

    def outward(self, path: str) -> str:
        """A path of the backend as the visitor must write it.

        One that has the visitor's prefix stays: the backend knows how it is reached. So does one that no visitor can
        reach this way.
        """
        known = _below(self.outside, path) is not None and self.outside[0]
        rest = None if known else _below(self.inside, path)
        return path if rest is None else f"{self.outside[0]}{rest}"


def _below(prefixes: Iterable[str], path: str) -> str | None:
    """What follows one of these prefixes: nothing, or what begins with a slash."""
    for prefix in prefixes:
        if path.startswith(prefix) and path[len(prefix) : len(prefix) + 1] in {"", "/"}:
            return path[len(prefix) :]
    return None


GO_ELSEWHERE = frozenset({"COPY", "MOVE"})
"""Methods that write to another path than the one that they ask for (RFC 4918 §9.8, §9.9)."""

_DESTINATION = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*|(?!//))(/[!\"$->@-~]*)(?:\?[!\"$-~]*)?")


def destination(values: Sequence[str]) -> str | None:
    """The path in a Destination header (RFC 4918 §10.3), whatever host it names; None without the header.

    Backends differ in which hosts they take for themselves, so the host proves nothing. Raises RequestFault for what
    not every backend reads alike.
    """
    if not values:
        return None
    found = _DESTINATION.fullmatch(values[0].strip(" \t"))
    if found is None or len(values) > 1:
        raise RequestFault("bad_request", "a Destination that is no URL, or more than one")
    return found[1]


_URL = re.compile(r"(?:(https?):)?//([^/?#]+)([^?#]*)(.*)", re.IGNORECASE | re.DOTALL)
_PATH = re.compile(r"(/[^?#]*)(.*)", re.DOTALL)
_REFRESH = re.compile(r"(\s*[0-9.]+\s*[;,]\s*(?:url\s*=\s*)?[\"']?)(.*)", re.IGNORECASE | re.DOTALL)


class AnswerAddresses:
    """Makes the addresses in a backend's answers those that the visitor knows.

    ``own`` are the origins by which the backend may call itself. Whatever only looks like one of them is left alone.
    """

    def __init__(
        self,
        own: Iterable[Origin],
        rewriting: Rewriting | None,
        *,
        location: bool,
        cookie_path: bool,
        cookie_domain: bool,
    ) -> None:
        self._own, self._rewriting = frozenset(own), rewriting
        self._hosts = frozenset(origin.host for origin in self._own) if cookie_domain else frozenset()
        self._cookie_path = rewriting is not None and cookie_path
        self.on_every_status = cookie_domain or self._cookie_path
        """Whether other answers than redirects and 201 have something to rewrite."""
        self._by_name: dict[bytes, Callable[[str, Origin], str]] = {}
        if location:
            self._by_name = {b"location": self.url, b"content-location": self.url, b"refresh": self.refresh}
        if self.on_every_status:
            self._by_name[b"set-cookie"] = self.cookie

    def __bool__(self) -> bool:
        return bool(self._by_name)

    def rewritten(self, lines: Lines, public: Origin) -> Lines:
        """The header lines, for a visitor who came by the origin ``public``. What nothing is to be done to stays."""
        return [
            (name, rewrite(value.decode("latin-1"), public).encode("latin-1"))
            if (rewrite := self._by_name.get(name.lower())) is not None
            else (name, value)
            for name, value in lines
        ]

    def url(self, text: str, public: Origin) -> str:
        """A reference (RFC 9110 §10.2.2) as the visitor can follow it."""
        if found := _URL.fullmatch(text):
            scheme, authority, path, rest = found.groups()
            schemes = (scheme,) if scheme else ("http", "https")
            if self._own.isdisjoint(filter(None, (_origin(f"{scheme}://{authority}") for scheme in schemes))):
                return text
            return f"{public}{self._outward(path or '/') if self._rewriting else path}{rest}"
        if self._rewriting is not None and (found := _PATH.fullmatch(text)):
            return f"{self._rewriting.outward(found[1])}{found[2]}"
        return text

    def refresh(self, text: str, public: Origin) -> str:
        """``5; url=…``, in the spellings that browsers take (HTML §4.2.5.3)."""
        found = _REFRESH.fullmatch(text)
        return f"{found[1]}{self.url(found[2], public)}" if found else text

    def cookie(self, text: str, public: Origin) -> str:
        """A Set-Cookie without the backend's own Domain, and with its Path as the visitor writes it."""
        pair, *attributes = text.split(";")
        seen = (self._attribute(pair, attribute) for attribute in attributes)
        return ";".join([pair, *(attribute for attribute in seen if attribute is not None)])

    def _attribute(self, pair: str, text: str) -> str | None:
        name, _, value = (part.strip(" \t") for part in text.partition("="))
        match name.lower():
            case "domain" if _host(value.removeprefix(".")) in self._hosts:
                return None
            # A __Host- cookie has the path / or is none (RFC 6265bis §4.1.3.2).
            case "path" if (
                self._cookie_path and value.startswith("/") and not pair.strip().lower().startswith("__host-")
            ):
                path = self._outward(value)
                # Path=/x/ would not be for /x itself (RFC 6265bis §5.1.4).
                return f" Path={path.removesuffix('/') if value == '/' and path != '/' else path}"
        return text

    def _outward(self, path: str) -> str:
        return path if self._rewriting is None else self._rewriting.outward(path)


def _origin(text: str) -> Origin | None:
    try:
        return Origin.parse(text)
    except ValueError:
        return None


def _host(text: str) -> str | None:
    try:
        return canonical_host(text)
    except ValueError:
        return None
