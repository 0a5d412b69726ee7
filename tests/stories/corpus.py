r"""Reads tests/corpus/requests and tests/corpus/responses: raw messages, and what must come of them.

A file has several cases. A case begins with ``### `` and its name, which begins with the row that it shows::

    ### SM-2 a length that is no number
    {post}
    Content-Length: {each}

    abc\
    | +3
    | 0x3
    => refused 400

Then comes the message, each line of it with CR LF after it, unless it ends with a backslash. ``\r \n \t \0 \\ \xHH``
stand for bytes, other characters for their UTF-8, ``{word*9}`` for the word nine times, ``{name}`` for a value that the
test knows. Lines that begin with ``| `` are variants, each a case of its own, in the place of ``{each}``. Then follows
the outcome, a line that begins with ``=> ``, and about what has arrived at the other side:

    + Name: value       exactly one line of this name, with this value
    - Name              no line that any backend could take for one of this name
    = body              the body; without such a line it is empty

A line ``< `` before the outcome says what was asked, in the case of responses. ``# `` before the first case begins a
remark.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

CORPUS = Path(__file__).parents[1] / "corpus"
_ESCAPE = re.compile(rb"\\(x[0-9A-Fa-f]{2}|[rnt0\\])")
_ESCAPES = {b"r": b"\r", b"n": b"\n", b"t": b"\t", b"0": b"\0", b"\\": b"\\"}
_REPEAT = re.compile(r"\{([^{}]+)\*(\d+)\}")


@dataclass(frozen=True)
class Case:
    """One message and its outcome, still as text."""

    name: str
    message: str
    outcome: tuple[str, ...]
    asked: str = ""
    present: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    body: str = ""
    each: str = ""

    def bytes(self, text: str, values: Mapping[str, str]) -> bytes:
        """A text of this case as bytes, with these values."""
        return as_bytes(text, {**values, "each": self.each})

    def found(self, headers: list[tuple[bytes, bytes]], body: bytes, values: Mapping[str, str]) -> None:
        """Assert that headers and body are as the outcome says."""
        folded = [_folded(name) for name, _ in headers]
        for line in self.present:
            name, _, value = self.bytes(line, values).partition(b":")
            lines = [found for key, found in headers if key.lower() == name.lower()]
            assert lines == [value.strip(b" ")], f"{name!r}: {lines}"
        for line in self.absent:
            assert _folded(self.bytes(line, values)) not in folded, line
        assert body == self.bytes(self.body, values)


def _folded(name: bytes) -> str:
    return re.sub("[^a-z0-9]", "-", name.decode("latin-1").lower())


def as_bytes(text: str, values: Mapping[str, str]) -> bytes:
    """Values, repetitions and escapes replaced."""
    for _ in range(3):  # values have values in them
        for name, value in values.items():
            text = text.replace(f"{{{name}}}", value)
    for _ in range(2):
        text = _REPEAT.sub(lambda found: found[1] * int(found[2]), text)
    return _ESCAPE.sub(_unescape, text.encode())


def _unescape(found: re.Match[bytes]) -> bytes:
    what = found[1]
    return bytes([int(what[1:], 16)]) if what[:1] == b"x" else _ESCAPES[what]


@dataclass
class _Draft:
    name: str
    lines: list[str] = field(default_factory=list)
    each: list[str] = field(default_factory=list)
    asked: str = ""
    outcome: tuple[str, ...] = ()
    present: list[str] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)
    body: str = ""

    def take(self, line: str) -> None:
        mark, _, rest = line.partition(" ")
        if self.outcome:
            match mark:
                case "+":
                    self.present.append(rest)
                case "-":
                    self.absent.append(rest)
                case "=":
                    self.body = rest
                case _:
                    assert not line, f"{self.name}: {line!r} after the outcome"
        elif mark == "=>":
            self.outcome = tuple(rest.split())
        elif mark == "|" or line == "|":
            self.each.append(rest)
        elif mark == "<":
            self.asked = rest
        else:
            assert not self.each, f"{self.name}: {line!r} after variants"
            self.lines.append(line)

    def cases(self) -> Iterator[Case]:
        assert self.outcome, f"{self.name} has no outcome"
        message = "".join(_line(line) for line in self.lines)
        assert not self.each or "{each}" in message + self.name, self.name
        for each in self.each or [""]:
            name = f"{self.name}: {each}" if self.each else self.name
            details = (tuple(self.present), tuple(self.absent), self.body, each)
            yield Case(name, message, self.outcome, self.asked, *details)


def _line(text: str) -> str:
    slashes = len(text) - len(text.rstrip("\\"))
    return text[:-1] if slashes % 2 else text + "\\r\\n"


def read(kind: str) -> list[Case]:
    """Every case of a kind, the folder below tests/corpus."""
    found: list[Case] = []
    for path in sorted((CORPUS / kind).glob("*.txt")):
        draft: _Draft | None = None
        for line in path.read_text(encoding="utf-8").split("\n"):
            if line.startswith("### "):
                found += draft.cases() if draft else ()
                draft = _Draft(f"{path.stem} {line[4:]}")
            elif draft:
                draft.take(line)
            else:
                assert not line or line.startswith("#"), f"{path}: {line!r}"
        assert draft, path
        found += draft.cases()
    names = [case.name for case in found]
    assert len(names) == len(set(names)), [name for name in names if names.count(name) > 1]
    return found
