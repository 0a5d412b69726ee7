"""The gateway's own cookies among those that a browser sends, and that a backend sets."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

from oidc_proxy.messages.request import RawHeaders

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
