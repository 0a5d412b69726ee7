"""Regular expressions that are plain paths in truth, as paths of rules. Never more than the expression matches."""

from __future__ import annotations

import re

_CHARACTER = r"[A-Za-z0-9_~/@:,=.-]|\\[^A-Za-z0-9\s]"
_PATTERN = re.compile(rf"\^?(?P<text>(?:{_CHARACTER})+)(?P<tail>.*)", re.DOTALL)
_EVERYTHING = frozenset({".*", "^.*", "^.*$", "^/", "^/.*", "^/.*$"})
_PATH = re.compile(r"(?!.*(//|/\.\.?(/|\Z)))/[A-Za-z0-9_~/@:,=.+!&'() -]*")

_BELOW = frozenset({"", ".*", ".*$"})
_BOTH = frozenset({
    "(/.*)?$", "(/.*)?", "(?:/.*)?$", "(?:/.*)?", "(/|$)", "(?:/|$)", "($|/)", "(?:$|/)", "(/.*|$)", "($|/.*)",
})  # fmt: skip


def is_path(text: str) -> bool:
    """Whether rules can have this path."""
    return _PATH.fullmatch(text) is not None


def paths_of(pattern: str) -> tuple[list[str], bool] | None:
    """Paths of rules that match nothing which the expression does not, and whether they match less; None without any.

    ``^/static/`` → ``/static/``; ``^/health$`` → ``/health``; ``^/api`` → ``/api`` and ``/api/``, without ``/apical``.
    """
    if pattern in _EVERYTHING:
        return ["/"], False
    found = _PATTERN.fullmatch(pattern)
    if not found or not pattern.startswith("^"):
        return None
    text, tail = found["text"], found["tail"]
    # A dot that is repeated is the beginning of the tail; any other stands for itself, among the rest that it matches.
    if tail.startswith(("*", "+", "?", "{")):
        text, tail = _before_repetition(text, tail)
    text = re.sub(r"\\(.)", r"\1", text)
    if not is_path(text):
        return None
    return _meant(text, tail)


def _before_repetition(text: str, tail: str) -> tuple[str, str]:
    last = text[-2:] if text[-2:-1] == "\\" else text[-1:]
    return text.removesuffix(last), last + tail


def _meant(text: str, tail: str) -> tuple[list[str], bool] | None:
    closed = not text.endswith("/")
    if tail in _BELOW:
        return ([text, f"{text}/"], True) if closed else ([text], False)
    if tail in _BOTH and closed:
        return [text, f"{text}/"], tail.endswith("?")
    if tail == "$" and closed:
        return [text], False
    if tail == "/?$" and closed:
        return [text], True
    return None  # a rule for "/x/" is for everything below as well
