"""What is wrong with a configuration, where, and what to write instead; as text, JSON or GitHub annotations."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

CODES = {
    "E100": "The file cannot be read: it is missing, not UTF-8, or too large.",
    "E101": "The file is not valid YAML.",
    "E102": "The value does not fit the setting.",
    "E103": "The value has the wrong type.",
    "E104": "A setting that must be given is missing.",
    "E105": "The same key occurs twice in one section.",
    "E106": "A part of YAML that is not supported: tags, keys that are not text, or too much nesting or repetition.",
    "E107": "`${…}` names a variable that is not set or a file that cannot be read, or it is not written correctly.",
    "E108": "The file that a `…_file` setting names cannot be read or is empty.",
    "E109": "A secret is given twice: as a value and as a file.",
    "E110": "There is no setting of that name at this place.",
    "E111": "An `OIDC_PROXY__…` variable or a `--set` option names no setting.",
    "E112": "The number is outside the permitted range.",
    "E120": "`public_url` is http on a host that is not this machine.",
    "E121": "The session cookie's settings contradict each other or `public_url`; a browser would drop the cookie.",
    "E122": "A route names an upstream that does not exist.",
    "E123": "There is no upstream, no route, or a default upstream is given twice.",
    "E124": "Several workers cannot share sessions that are kept in memory.",
    "E125": "A secret is publicly known.",
    "E126": "The session's lifetimes contradict each other.",
    "E127": "The routes cannot be used together.",
    "E128": "Two listeners have the same address.",
    "E129": "Other proxies may ask, and none of them is trusted; or they have a listener, and no way to ask.",
    "E130": "A listener is for https, but the site is not.",
    "E131": "A rule depends on what a proxy that asks does not tell.",
    "E132": "`login.auth_origin` cannot sign in for the other origins of `public_url`.",
    "W201": "A secret is written in the file itself.",
    "W202": "A secret is still the placeholder of the example.",
    "W203": "Every client is trusted to say where it comes from.",
    "W204": "The provider is reached without TLS, or its certificate is not checked.",
    "W205": "Replicas cannot open each other's sign-ins under way.",
    "W206": "Sessions cannot be administered.",
    "W209": "A route that rewrites paths leads past another route.",
}
"""Stable codes: E… stops the start, W… is only said."""

DOCS = "docs/settings.md"

_SECRET_NAME = re.compile(r"secret|passw|credential|private|(^|_)keys?$", re.IGNORECASE)
_SECRET_ENTRY = re.compile(
    r"""(?<=[:,{\s"'-])[\w-]*(?:secret|passw|credential|private|key)[\w-]*(?<!_file)["']?\s*:\s*(.+)|"""
    r"""^[\w-]*(?:secret|passw|credential|private|key)[\w-]*(?<!_file)["']?\s*:\s*(.+)""",
    re.IGNORECASE,
)
_REFERENCE = re.compile(r"""(["']?)\$\{([A-Za-z0-9_]+(:\?[^}]*)?|file:[^}]*)\}\1""")
_URL_PASSWORD = re.compile(r"(?<=://)([^/@\s:]*:[^/@\s]+)(?=@)")
_LONG_WORD = re.compile(r"[A-Za-z0-9+/=_-]{20,}")


_SECRET_HEADERS = frozenset({"authorization", "proxy-authorization", "cookie", "x-api-key"})


def sounds_secret(name: str, *, free: bool = False) -> bool:
    """Whether a key of that name is likely to have a value that nobody should read.

    ``free`` says that users choose the keys there, so that it may be the name of a header.
    """
    return (bool(_SECRET_NAME.search(name)) and not name.endswith("_file")) or (
        free and name.lower() in _SECRET_HEADERS
    )


def _stars(found: re.Match[str]) -> str:
    return "*" * len(found[0])


def hide_url_password(text: str) -> str:
    """``redis://:word@host`` → ``redis://*****@host``."""
    return _URL_PASSWORD.sub(_stars, text)


@dataclass(eq=False, slots=True)
class Source:
    """Where settings come from: a file, an environment variable or an option.

    ``lines`` are for display, without secrets.
    """

    name: str
    lines: list[str] = field(default_factory=list)
    folder: Path | None = None

    @classmethod
    def of_file(cls, path: Path, text: str) -> Source:
        """A file; passwords in its URLs are starred from the start."""
        return cls(str(path), [hide_url_password(line.rstrip("\r")) for line in text.split("\n")], path.parent)

    @property
    def is_file(self) -> bool:
        return self.folder is not None

    def hide(self, mark: Mark) -> None:
        """Star what the mark covers, in every line that is shown from now on; a mere ``${NAME}`` may stay."""
        if mark.line == mark.end_line < len(self.lines):
            text = self.lines[mark.line][mark.column : mark.end_column]
            if _REFERENCE.fullmatch(text):
                return
        for number in range(mark.line, min(mark.end_line + 1, len(self.lines))):
            text = self.lines[number]
            start = mark.column if number == mark.line else 0
            end = mark.end_column if number == mark.end_line else len(text)
            self.lines[number] = text[:start] + "*" * (min(end, len(text)) - start) + text[end:]

    def hide_suspects(self) -> None:
        """Star whatever looks like a secret, in a file of which nothing is known because it is broken."""
        for number, line in enumerate(self.lines):
            found = _SECRET_ENTRY.search(line)
            start = max(found.start(1), found.start(2)) if found else len(line)
            self.lines[number] = _LONG_WORD.sub(_stars, line[:start]) + "*" * len(line[start:])


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in a source; lines and columns count from 0, as PyYAML's do, and the end is exclusive."""

    source: Source
    line: int = 0
    column: int = 0
    end_line: int = 0
    end_column: int = 0

    def __str__(self) -> str:
        return f"{self.source.name}:{self.line + 1}:{self.column + 1}" if self.source.is_file else self.source.name


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong. ``path`` is dotted; ``hint`` says what to write instead."""

    code: str
    path: str
    message: str
    hint: str = ""
    mark: Mark | None = None

    @property
    def severity(self) -> Literal["error", "warning"]:
        return "error" if self.code.startswith("E") else "warning"

    @property
    def docs(self) -> str:
        """Where the code is explained."""
        return f"{DOCS}#{self.code.lower()}"

    def __str__(self) -> str:
        subject = f"{self.path}: " if self.path else ""
        return "\n".join([f"{self.severity}[{self.code}] {subject}{self.message}", *self._place(), *self._notes()])

    def _place(self) -> list[str]:
        if self.mark is None:
            return []
        head = f"  --> {self.mark}"
        if not self.mark.source.is_file or self.mark.line >= len(self.mark.source.lines):
            return [head]
        line = self.mark.source.lines[self.mark.line]
        number = str(self.mark.line + 1)
        end = self.mark.end_column if self.mark.end_line == self.mark.line else len(line)
        carets = "^" * max(1, end - self.mark.column)
        margin = " " * len(number)
        return [
            head,
            f" {margin} |",
            f" {number} | {line}",
            f" {margin} | {' ' * self.mark.column}{carets} {self.hint}".rstrip(),
        ]

    def _notes(self) -> list[str]:
        framed = self.mark is not None and self.mark.source.is_file and self.mark.line < len(self.mark.source.lines)
        margin = " " * (len(str(self.mark.line + 1)) if framed and self.mark else 1)
        notes = [f"docs: {self.docs}"] if framed or not self.hint else [f"help: {self.hint}", f"docs: {self.docs}"]
        return [f" {margin} = {note}" for note in notes]

    def fields(self) -> dict[str, Any]:
        """What ``--format json`` prints; lines and columns count from 1 and are null where there is no file."""
        mark = self.mark if self.mark is not None and self.mark.source.is_file else None
        return {
            "severity": self.severity,
            "code": self.code,
            "path": self.path,
            "message": self.message,
            "hint": self.hint,
            "file": mark.source.name if mark else None,
            "origin": str(self.mark) if self.mark else None,
            "line": mark.line + 1 if mark else None,
            "column": mark.column + 1 if mark else None,
            "end_column": mark.end_column + 1 if mark and mark.end_line == mark.line else None,
            "docs": self.docs,
        }


def in_order(problems: Iterable[Problem]) -> list[Problem]:
    """In the order of reading: files as they were given, top to bottom; what has no place comes last."""
    problems = list(problems)
    sources = list(dict.fromkeys(id(problem.mark.source) for problem in problems if problem.mark))

    def place(problem: Problem) -> tuple[bool, int, int, int, str]:
        if problem.mark is None:
            return True, 0, 0, 0, problem.path
        mark = problem.mark
        return not mark.source.is_file, sources.index(id(mark.source)), mark.line, mark.column, problem.path

    return sorted(problems, key=place)


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _as_text(problems: Sequence[Problem], names: Sequence[str]) -> str:
    errors = sum(problem.severity == "error" for problem in problems)
    warnings = len(problems) - errors
    counts = [_counted(errors, "error")] if errors else []
    counts += [_counted(warnings, "warning")] if warnings else []
    summary = f"{' and '.join(counts) or 'no problems'} in {', '.join(names) or 'the environment'}"
    return "\n\n".join([*map(str, problems), summary])


def _as_json(problems: Sequence[Problem], names: Sequence[str]) -> str:
    return json.dumps([problem.fields() for problem in problems], indent=2, ensure_ascii=False)


def _as_github(problems: Sequence[Problem], names: Sequence[str]) -> str:
    def escaped(text: str, more: str = "") -> str:
        for character in "%\r\n" + more:
            text = text.replace(character, f"%{ord(character):02X}")
        return text

    lines = []
    for problem in problems:
        fields = problem.fields()
        places = {"file": "file", "line": "line", "column": "col", "end_column": "endColumn"}
        properties = [
            f"{new}={escaped(str(fields[old]), ':,')}" for old, new in places.items() if fields[old] is not None
        ]
        properties.append(f"title={escaped(f'{problem.code} {problem.path}'.strip(), ':,')}")
        text = f"{problem.message} ({problem.hint})" if problem.hint else problem.message
        lines.append(f"::{problem.severity} {','.join(properties)}::{escaped(text)}")
    return "\n".join(lines)


FORMATS: dict[str, Callable[[Sequence[Problem], Sequence[str]], str]] = {
    "text": _as_text,
    "json": _as_json,
    "github": _as_github,
}


def report(problems: Sequence[Problem], names: Sequence[str], form: str = "text") -> str:
    """Every problem in one of the formats; ``names`` are the files that were read."""
    return FORMATS[form](problems, names)
