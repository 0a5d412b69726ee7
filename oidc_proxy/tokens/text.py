"""From the text of a token to its members: so strict that no other reader can understand it differently."""

from __future__ import annotations

import base64
import json
import math
from typing import Any

MAX_DEPTH = 32


def base64url(text: str) -> bytes:
    """Strict: the one canonical spelling, without padding (RFC 7515 §2). ValueError otherwise."""
    data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if base64.urlsafe_b64encode(data).rstrip(b"=").decode() != text:
        raise ValueError("not canonical base64url")
    return data


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a member is repeated")
    return found


def check_sound(value: object, depth: int = 0) -> None:
    """Only what every reader understands alike (RFC 7493): Unicode, finite numbers of 64 bits, no abyss of nesting."""
    if depth > MAX_DEPTH:
        raise ValueError(f"nested deeper than {MAX_DEPTH}")
    match value:
        case str():
            value.encode()
        case float() if not math.isfinite(value):
            raise ValueError("a number is not finite")
        case int() if not -(2**63) <= value < 2**64:
            raise ValueError("a number is too large")
        case dict():
            for name, member in value.items():
                check_sound(name)
                check_sound(member, depth + 1)
        case list():
            for member in value:
                check_sound(member, depth + 1)


def members(data: bytes) -> dict[str, Any]:
    """The JSON object of a header or payload: UTF-8, and no name twice (RFC 7519 §4 allows to insist).

    Raises ValueError, whose text has no value of the token.
    """
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_unique)
        check_sound(value)
    except RecursionError:
        raise ValueError("nested far too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value
