"""Everything that a backend may take a path for."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeAlias
from urllib.parse import unquote_to_bytes

SAME_IN_EVERY_READING = re.compile(r"(?!.*(?://|/\.\.?(?:/|\Z)))/[A-Za-z0-9\-._~!$&'()*+,=:@/]*")
"""Proves that a path has no reading but itself: unreserved characters and sub-delims without ";", no dot segment, and
no empty segment but the last, so that no step below changes it. The time is linear. Nothing is possessive in it: Python
3.11 before 3.11.5, which Debian 12 has, matches such quantifiers wrongly (gh-100061, gh-106052)."""

Way: TypeAlias = tuple[str, ...]
"""The names of the steps that lead to a reading."""

_ALL_READINGS = 1 << 16
"""Characters, of all readings together. Enough for any path that means well; a bound for those made to be slow."""


class UnreadableError(Exception):
    """What the path means cannot be told: backends differ in what they make of it."""


def readings(path: str) -> Iterator[tuple[str, Way]]:
    """Every other text that a backend may take this path for, with the steps that lead to it.

    That is the closure over all steps in any order and number, because the stages of a backend read one after another:
    a front server cuts ``;…``, a framework decodes, a file server resolves dots. Raises UnreadableError on the way.
    """
    if not path.isascii():
        raise UnreadableError("has characters that must be encoded")
    ways: dict[str, Way] = {path: ()}
    queue, left = [path], _ALL_READINGS
    for text in queue:
        if _CONTROL.search(text):
            raise UnreadableError("has control characters")
        for step in _STEPS:
            if step.concerns(text):
                reading = _take(step, text)
                if reading not in ways:
                    ways[reading] = (*ways[text], step.name)
                    yield reading, ways[reading]
                    queue.append(reading)
                    left -= len(reading)
        if left < 0:
            raise UnreadableError("can be read in too many ways")


class _Step(NamedTuple):
    """One thing that a backend may do to a path, and whether it would change this one."""

    name: str
    concerns: Callable[[str], object]
    read: Callable[[str], str]


def _take(step: _Step, text: str) -> str:
    try:
        return step.read(text)
    except UnicodeError:
        # Overlong forms end here as well: they are not UTF-8 (RFC 3629 §3), but some decoders accept them.
        raise UnreadableError("is not UTF-8 when it is decoded") from None


_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_ENCODED = re.compile(r"(?:%[0-9A-Fa-f]{2})+")
_ENCODED_SLASH = re.compile(r"%2[Ff]")
_ENCODED_NOT_SLASH = re.compile(r"(?:%(?!2[Ff])[0-9A-Fa-f]{2})+")
_ENCODED_UTF16 = re.compile(r"(?:%[uU][0-9A-Fa-f]{4})+")
_PARAMETERS = re.compile(r";[^/]*")
_EMPTY_SEGMENTS = re.compile(r"//+")
_AFTER_PATH = re.compile(r"[?#].*", re.DOTALL)
_DOT_SEGMENT = re.compile(r"/\.\.?(?:/|\Z)")


def _percent_decoder(which: re.Pattern[str]) -> Callable[[str], str]:
    return lambda text: which.sub(lambda found: unquote_to_bytes(found[0]).decode("utf-8"), text)


def _decode_utf16(text: str) -> str:
    """What IIS and old scripts make of ``%u002e``."""
    return _ENCODED_UTF16.sub(lambda found: bytes.fromhex(found[0].upper().replace("%U", "")).decode("utf-16-be"), text)


def _resolve_dots(text: str) -> str:
    """RFC 3986 §5.2.4, which keeps empty segments, and the slash at the end that ``/..`` leaves."""
    kept: list[str] = []
    segments = text.split("/")[1:]
    for segment in segments:
        if segment == "..":
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
    if segments[-1] in {".", ".."}:
        kept.append("")
    return "/" + "/".join(kept)


_STEPS = (
    _Step("percent-decoded", _ENCODED.search, _percent_decoder(_ENCODED)),
    # Servers that split before they decode (or are told to leave %2F alone) take a%2Fb for one segment, so that a
    # following ".." removes both halves.
    _Step("percent-decoded but for slashes", _ENCODED_SLASH.search, _percent_decoder(_ENCODED_NOT_SLASH)),
    _Step("%u-decoded", _ENCODED_UTF16.search, _decode_utf16),
    _Step("with backslashes as slashes", lambda text: "\\" in text, lambda text: text.replace("\\", "/")),
    _Step("without “;…” in its segments", lambda text: ";" in text, lambda text: _PARAMETERS.sub("", text)),
    _Step("cut off at the first “;”", lambda text: ";" in text, lambda text: text.partition(";")[0]),
    _Step("cut off at “?” or “#”", _AFTER_PATH.search, lambda text: _AFTER_PATH.sub("", text)),
    _Step("with slashes merged", lambda text: "//" in text, lambda text: _EMPTY_SEGMENTS.sub("/", text)),
    _Step("with dot segments resolved", _DOT_SEGMENT.search, _resolve_dots),
    # URL parsers take //x/y for host x and path /y (RFC 3986 §3.2).
    _Step(
        "with “//…” taken for a host",
        lambda text: text.startswith("//"),
        lambda text: "/" + text.lstrip("/").partition("/")[2],
    ),
)
