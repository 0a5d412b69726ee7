"""YAML files as trees in which every key and value knows its place.

The scalars are those of YAML 1.2's core schema, so that ``no``, ``on`` and ``12:30:00`` are text. Duplicate keys are
problems, tags are refused, aliases and nesting are bounded. ``${…}`` is filled in after parsing and in text only: what
a variable holds can never become structure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from oidc_proxy.config.problems import Mark, Problem, Source

MAX_FILE = 1024 * 1024
MAX_DEPTH = 40
MAX_NODES = 20_000


@dataclass(slots=True)
class Scalar:
    """A value; ``literal`` says that it stands in the source as it is, without anything filled in."""

    value: Any
    mark: Mark
    literal: bool = True
    text: str = ""
    """How it is written, where it is no text."""


@dataclass(slots=True)
class Section:
    """Keys and their values; ``keys`` has the place of each key."""

    mark: Mark
    values: dict[str, Tree] = field(default_factory=dict)
    keys: dict[str, Mark] = field(default_factory=dict)

    def put(self, key: str, mark: Mark, value: Tree) -> None:
        self.values[key], self.keys[key] = value, mark


@dataclass(slots=True)
class Items:
    """A list."""

    mark: Mark
    values: list[Tree]


Tree: TypeAlias = Scalar | Section | Items


def plain(tree: Tree) -> Any:
    """The tree as dictionaries, lists and values, for validation."""
    match tree:
        case Section():
            return {key: plain(value) for key, value in tree.values.items()}
        case Items():
            return [plain(value) for value in tree.values]
        case Scalar():
            return tree.value


def merge(lower: Tree, upper: Tree) -> Tree:
    """Both trees in one: sections are merged key by key, anything else in ``upper`` replaces what ``lower`` has."""
    if not (isinstance(lower, Section) and isinstance(upper, Section)):
        return upper
    merged = Section(lower.mark, dict(lower.values), dict(lower.keys))
    for key, value in upper.values.items():
        below = lower.values.get(key)
        merged.put(key, upper.keys[key], value if below is None else merge(below, value))
    return merged


def _prefixed(text: str) -> int:
    return int(text, 0)


# YAML 1.2.2 §10.3.2, except that digits are bounded: a longer number is text, and is refused where a number is wanted.
_CORE = (
    (re.compile(r"(null|Null|NULL|~|)"), lambda text: None),
    (re.compile(r"(true|True|TRUE)"), lambda text: True),
    (re.compile(r"(false|False|FALSE)"), lambda text: False),
    (re.compile(r"[-+]?[0-9]{1,18}"), int),
    (re.compile(r"0o[0-7]{1,20}"), _prefixed),
    (re.compile(r"0x[0-9a-fA-F]{1,15}"), _prefixed),
    (re.compile(r"[-+]?(\.[0-9]{1,40}|[0-9]{1,40}(\.[0-9]{0,40})?)([eE][-+]?[0-9]{1,3})?"), float),
)


def core_scalar(text: str) -> Any:
    """What a plain scalar means in YAML 1.2: null, a boolean, a number, or else the text itself."""
    for pattern, make in _CORE:
        if pattern.fullmatch(text):
            return make(text)
    return text


_PLAIN = "plain"
_STANDARD = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "map", "seq")}


class _Composer(yaml.SafeLoader):
    """PyYAML without its YAML 1.1 guesses: a plain scalar is marked as plain, and nothing else is said about it."""

    yaml_implicit_resolvers = {None: [(_PLAIN, re.compile(""))]}  # noqa: RUF012  as PyYAML declares it


class _Unsupported(Exception):
    def __init__(self, mark: Mark, message: str) -> None:
        self.mark, self.message = mark, message


@dataclass
class _Reader:
    """One walk over the nodes of one source."""

    source: Source
    environ: Mapping[str, str] | None
    problems: list[Problem]
    nodes: int = 0

    def mark(self, node: yaml.Node) -> Mark:
        start, end = node.start_mark, node.end_mark
        if isinstance(node, yaml.ScalarNode) and node.style in ("|", ">"):
            return Mark(self.source, start.line, start.column, end.line, 0)
        return Mark(self.source, start.line, start.column, end.line, end.column)

    def tree(self, node: yaml.Node, path: tuple[str, ...] = ()) -> Tree:
        mark = self.mark(node)
        self.nodes += 1
        if self.nodes > MAX_NODES or len(path) > MAX_DEPTH:
            raise _Unsupported(mark, "is nested or repeated too much")
        if node.tag not in _STANDARD and node.tag != _PLAIN:
            raise _Unsupported(
                mark, f"has the tag {node.tag.replace('tag:yaml.org,2002:', '!!')}; tags are not supported"
            )
        if isinstance(node, yaml.MappingNode):
            return self.section(node, mark, path)
        if isinstance(node, yaml.SequenceNode):
            return Items(mark, [self.tree(item, (*path, str(index))) for index, item in enumerate(node.value)])
        if node.tag == _PLAIN:
            value = core_scalar(node.value)
            if not isinstance(value, str):
                return Scalar(value, mark, text=node.value)
        return self.text(node.value, mark, path)

    def section(self, node: yaml.MappingNode, mark: Mark, path: tuple[str, ...]) -> Section:
        section = Section(mark)
        for key_node, value_node in node.value:
            place = self.mark(key_node)
            if not isinstance(key_node, yaml.ScalarNode):
                raise _Unsupported(place, "has a key that is not text")
            key = key_node.value
            if key in section.values:
                line = section.keys[key].line + 1
                self.source.hide(section.values[key].mark)
                self.problems.append(
                    Problem("E105", ".".join((*path, key)), f"is here twice; it was first in line {line}",
                            "remove one of them", place)
                )  # fmt: skip
            section.put(key, place, self.tree(value_node, (*path, key)))
        return section

    def text(self, text: str, mark: Mark, path: tuple[str, ...]) -> Scalar:
        if self.environ is None or "$" not in text:
            return Scalar(text, mark)
        try:
            filled = interpolate(text, self.environ, self.source.folder)
        except ValueError as error:
            hint = _HINT if str(error).startswith("has") else ""
            self.problems.append(Problem("E107", ".".join(path), str(error), hint, mark))
            return Scalar(text, mark, literal=False)
        return Scalar(filled, mark, literal=filled == text)


_HINT = "write ${NAME}, ${NAME:-default}, ${NAME:?message} or ${file:/path}; $$ is a dollar sign"
_DOLLAR = re.compile(r"\$(\$|\{([^}]*)(\}?))")
_VARIABLE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?::([-?])(.*))?", re.DOTALL)


def interpolate(text: str, environ: Mapping[str, str], folder: Path | None = None) -> str:
    """The text with ``${VAR}``, ``${VAR:-default}``, ``${VAR:?message}``, ``${file:/path}`` and ``$$`` filled in.

    What is filled in is not looked at again. ValueError says what cannot be filled in; it names variables and files,
    and never contains what they hold.
    """

    def filled(found: re.Match[str]) -> str:
        if found[1] == "$":
            return "$"
        if not found[3]:
            raise ValueError("has “${” without “}”")
        if found[2].startswith("file:"):
            return file_text((folder or Path()) / found[2].removeprefix("file:"))
        return _variable(found[2], environ)

    return _DOLLAR.sub(filled, text)


def _variable(inside: str, environ: Mapping[str, str]) -> str:
    found = _VARIABLE.fullmatch(inside)
    if not found:
        raise ValueError("has “${…}” with something inside that is not the name of a variable")
    name, operator, word = found.groups()
    value = environ.get(name)
    if operator is None:
        if value is None:
            raise ValueError(f"needs the environment variable {name}, which is not set")
        return value
    if value:
        return value
    if operator == "?":
        raise ValueError(f"needs the environment variable {name}: {word or 'it is not set, or empty'}")
    return str(word)


def file_text(path: Path) -> str:
    """What the file holds, without one newline at its end. ValueError when it cannot be read or holds nothing."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE + 1)
        text = content.decode()
    except OSError as error:
        raise ValueError(f"cannot be read from {path}: {error.strerror or 'it cannot be opened'}") from None
    except ValueError:
        raise ValueError(f"cannot be read from {path}: it is not UTF-8 text") from None
    if len(content) > MAX_FILE:
        raise ValueError(f"cannot be read from {path}: it is larger than 1 MiB")
    if text.endswith("\n"):
        text = text[:-1].removesuffix("\r")
    if not text:
        raise ValueError(f"cannot be read from {path}: it is empty")
    return text


def parse(text: str, source: Source, environ: Mapping[str, str] | None, problems: list[Problem]) -> Tree | None:
    """The tree of one YAML text, or None when there is none; what is wrong goes into ``problems``.

    ``environ`` fills in ``${…}``; without it nothing is filled in.
    """
    reader = _Reader(source, environ, problems)
    try:
        node = yaml.compose(text, Loader=_Composer)
        return None if node is None else reader.tree(node)
    except yaml.MarkedYAMLError as error:
        ended = "end of stream" in (error.problem or "")
        place = (error.context_mark if ended else None) or error.problem_mark
        line, column = (place.line, place.column) if place else (0, 0)
        source.hide_suspects()
        reason = " ".join(filter(None, (error.context, error.problem)))
        problems.append(Problem("E101", "", reason or "is not YAML", "", Mark(source, line, column, line, column + 1)))
    except yaml.YAMLError:
        problems.append(
            Problem("E101", "", "contains a control character, which YAML does not permit", "", Mark(source))
        )
    except _Unsupported as error:
        source.hide_suspects()
        problems.append(Problem("E106", "", error.message, "", error.mark))
    except RecursionError:
        problems.append(Problem("E106", "", "is nested too much", "", Mark(source)))
    return None


def read_file(path: Path, environ: Mapping[str, str], problems: list[Problem]) -> Section | None:
    """One configuration file as a tree; an empty file is an empty section."""
    try:
        text = path.read_bytes()[: MAX_FILE + 1].decode("utf-8-sig")
    except OSError as error:
        problems.append(Problem("E100", "", f"cannot read {path}: {error.strerror}"))
        return None
    except UnicodeDecodeError as error:
        problems.append(Problem("E100", "", f"cannot read {path}: byte {error.start + 1} is not UTF-8"))
        return None
    if len(text) > MAX_FILE:
        problems.append(Problem("E100", "", f"cannot read {path}: it is larger than 1 MiB"))
        return None
    source = Source.of_file(path, text)
    count = len(problems)
    tree = parse(text, source, environ, problems)
    if tree is None and len(problems) == count:
        return Section(Mark(source))
    if tree is None or isinstance(tree, Section):
        return tree
    problems.append(Problem("E103", "", "must be a section of keys, such as “public_url: …”", "", tree.mark))
    return None
