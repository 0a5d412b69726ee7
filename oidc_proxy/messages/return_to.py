"""Where a sign-in returns to."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self
from urllib.parse import unquote_to_bytes

from oidc_proxy.messages.request import RequestHead
from oidc_proxy.values import Origin

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
