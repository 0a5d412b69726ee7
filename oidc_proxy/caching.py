"""Who may keep an answer that depends on who asked (RFC 9111).

Caches keep answers to requests with cookies as they keep others: RFC 9111 §3.5 is about Authorization alone. A shared
one would give the next visitor what was for the one before.
"""

from __future__ import annotations

import re
from functools import lru_cache

NOBODY = ((b"Cache-Control", b"private, no-store"), (b"Vary", b"Cookie"))
"""Header lines of an answer that nobody may keep."""

_DIRECTIVE = re.compile(rb'(?:[^,"]|"(?:[^"\\]|\\.)*"?)+', re.DOTALL)
_NOT_SHARED = {b"private", b"no-store", b"no-cache"}
_SHARED = {b"public", b"s-maxage", b"private"}
_FOR_SHARED_CACHES = re.compile(rb"(?i:(?:.*-)?cdn-cache-control|surrogate-control|x-accel-expires|edge-control)")


def for_shared_caches(name: bytes) -> bool:
    """Whether only shared caches heed this header (RFC 9213, and what came before it)."""
    return _FOR_SHARED_CACHES.fullmatch(name) is not None


@lru_cache(64)
def for_one_user(value: bytes) -> bytes:
    """A Cache-Control value that lets nobody but the user's own browser store: as it is, if it is such a one."""
    directives = [text.strip(b" \t") for text in _DIRECTIVE.findall(value)]
    if not _NOT_SHARED.isdisjoint(text.lower() for text in directives):
        return value
    rest = [text for text in directives if text and text.partition(b"=")[0].rstrip(b" \t").lower() not in _SHARED]
    return b", ".join([b"private", *rest])
