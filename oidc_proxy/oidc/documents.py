"""JSON of the provider, read strictly: a document that two readers could understand differently is refused."""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

from ..errors import ProviderFault

_DEEPEST = 32
# Strings are swallowed whole, so that a bracket inside one does not count; no two parts can take the same byte, so that
# it stays linear.
_STRUCTURE = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?|[\[{]|[\]}]', re.DOTALL)


def read_json(body: bytes) -> Any:
    """The value of a JSON text (RFC 8259) in UTF-8.

    ValueError for anything else, for more than 32 levels, and where readers differ (I-JSON, RFC 7493 §2): a member that
    occurs twice, a number that is not finite, half a surrogate pair.
    """
    if _depth(body) > _DEEPEST:
        raise ValueError(f"is nested more than {_DEEPEST} levels deep")
    try:
        value = json.loads(
            body.decode("utf-8"), object_pairs_hook=_object, parse_constant=_refuse_constant, parse_float=_finite
        )
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except json.JSONDecodeError:
        raise ValueError("is not JSON") from None
    except UnicodeError:
        raise ValueError("is not UTF-8") from None
    return value


def _depth(body: bytes) -> int:
    depth = deepest = 0
    for token in _STRUCTURE.finditer(body):
        first = token[0][:1]
        if first in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif first in b"]}":
            depth -= 1
    return deepest


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("has a member twice")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError("has a number that is not finite")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        _refuse_constant(text)
    return number


def media_type(content_type: str) -> str:
    """The media type of a Content-Type header, in lower case and without its parameters."""
    return content_type.partition(";")[0].strip().lower()


def is_json(content_type: str) -> bool:
    """Whether the Content-Type says JSON: ``application/json`` or a ``+json`` type (RFC 6839)."""
    media = media_type(content_type)
    return media == "application/json" or (media.startswith("application/") and media.endswith("+json"))


def is_outage(status: int) -> bool:
    """Whether a status says that the provider cannot answer now, rather than what it answers."""
    return status == 429 or 500 <= status < 600


def read_document(what: str, status: int, content_type: str, body: bytes) -> Any:
    """The JSON of an answer that is only useful as 200 with JSON: metadata, keys (Discovery §4.2).

    ``what`` is named in the log. ProviderFault ``provider_unavailable`` for 5xx and 429, else
    ``provider_response_invalid``.
    """
    if is_outage(status):
        raise ProviderFault("provider_unavailable", f"the {what} answered with status {status}")
    if status != 200:
        raise ProviderFault("provider_response_invalid", f"the {what} answered with status {status}")
    if not is_json(content_type):
        raise ProviderFault("provider_response_invalid", f"the {what} has the content type {shown(content_type)}")
    try:
        return read_json(body)
    except ValueError as error:
        raise ProviderFault("provider_response_invalid", f"the {what} {error}") from None


# ── words of the provider in our log ──────────────────────────────────────────────────────────────────────────────────

_LONG_RUN = re.compile(r"[A-Za-z0-9_\-.~+/=%]{16,}")
_WORDS = re.compile(r"[A-Z]?[a-z]*(?:[_.-][a-z]+)*\.?")


def shown(value: object) -> str:
    """A value of the provider's metadata for the log: on one line, and not long."""
    return repr(value)[:200]


def quotable(text: str) -> str:
    """What the provider wrote to explain an error, for the log: on one line, short, and with nothing like a token.

    Some providers repeat the code or token that they refuse, so a long run of token characters that is not plainly
    made of words is left out.
    """
    line = "".join(character if character.isprintable() else " " for character in text)
    return _LONG_RUN.sub(lambda run: run[0] if _WORDS.fullmatch(run[0]) else "…", line)[:200]
