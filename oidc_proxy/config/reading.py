"""From files, environment and options to settings; or every problem at once.

The order, low to high: defaults, files as they are given, ``OIDC_PROXY__SECTION__KEY`` variables, options. Nothing here
knows what the settings are: the classes say it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Generic, TypeAlias, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from oidc_proxy.config import fields
from oidc_proxy.config.document import Items, Scalar, Section, Tree, file_text, merge, parse, plain, read_file
from oidc_proxy.config.explain import close_name, explain, locate, position, suggestion
from oidc_proxy.config.problems import Mark, Problem, Source, in_order, sounds_secret

PREFIX = "OIDC_PROXY__"

Root = TypeVar("Root", bound=BaseModel)

Check: TypeAlias = Callable[..., Iterable[Problem]]
"""Looks at the top-level settings that its parameters name, and tells what does not go together."""


@dataclass(frozen=True, slots=True)
class Loaded(Generic[Root]):
    """What was read. ``settings`` is None when there are errors; warnings alone do not prevent it."""

    settings: Root | None
    problems: list[Problem]
    tree: Section

    @property
    def errors(self) -> list[Problem]:
        return [problem for problem in self.problems if problem.severity == "error"]

    @property
    def warnings(self) -> list[Problem]:
        return [problem for problem in self.problems if problem.severity == "warning"]


def read(
    root: type[Root],
    files: Sequence[Path],
    environ: Mapping[str, str],
    overrides: Mapping[str, str] | None = None,
    checks: Iterable[Check] = (),
) -> Loaded[Root]:
    """Read settings of the class ``root``.

    ``environ`` gives the ``OIDC_PROXY__…`` settings and fills in ``${…}`` in files; ``overrides`` are dotted paths and
    their texts. ``checks`` see the sections that are valid by themselves, even when others are not.
    """
    problems: list[Problem] = []
    tree = Section(Mark(Source("the configuration")))
    parsed = [read_file(path, environ, problems) for path in files]
    for section in filter(None, parsed):
        tree = _merged(tree, section)
    for words, source, text in _settings_as_text(environ, overrides or {}):
        _put(root, tree, words, source, text, problems)
    _complete(root, tree, problems)
    if any(section is None for section in parsed):
        # What a broken file would have said is unknown, so whatever seems to be missing may well be there.
        return Loaded(None, in_order(problems), tree)
    settings, complaints = _validate(root, tree)
    unreadable = [problem.mark for problem in problems if problem.code in ("E107", "E108")]
    problems += [complaint for complaint in complaints if complaint.mark not in unreadable]
    sections = {name: getattr(settings, name) for name in root.model_fields} if settings else _valid(root, plain(tree))
    problems += _checked(root, tree, checks, sections)
    failed = any(problem.severity == "error" for problem in problems)
    return Loaded(None if failed else settings, in_order(problems), tree)


def _merged(lower: Section, upper: Section) -> Section:
    merged = merge(lower, upper)
    assert isinstance(merged, Section)  # noqa: S101  of two sections
    return merged if lower.mark.source.is_file else replace(merged, mark=upper.mark)


# ── environment and options ───────────────────────────────────────────────────────────────────────────────────────────


def _settings_as_text(
    environ: Mapping[str, str], overrides: Mapping[str, str]
) -> Iterator[tuple[tuple[str, ...], Source, str]]:
    for name in sorted(environ):
        if name.startswith(PREFIX):
            yield (
                tuple(name.removeprefix(PREFIX).lower().split("__")),
                Source(f"environment variable {name}"),
                environ[name],
            )
    for path, text in overrides.items():
        yield tuple(path.split(".")), Source(f"option --set {path}"), text


def _put(
    root: type[BaseModel], tree: Section, words: tuple[str, ...], source: Source, text: str, problems: list[Problem]
) -> None:
    """Put one text at its place, making the sections on the way; the classes say whether it stays text."""
    mark = Mark(source)
    kind: fields.Kind = root
    for depth, word in enumerate(words):
        inner = fields.child(kind, word) if word else None
        if inner is None:
            hint = suggestion(root, kind, word)
            problems.append(Problem("E111", ".".join(words[: depth + 1]), "names no setting", hint, mark))
            return
        kind = inner
    value = _value(kind, text, source, problems)
    if value is not None:
        _section_for(tree, words[:-1], mark).put(words[-1], mark, value)


def _section_for(section: Section, words: tuple[str, ...], mark: Mark) -> Section:
    """The section at the path, made where there is none."""
    for word in words:
        below = section.values.get(word)
        if not isinstance(below, Section):
            below = Section(mark)
            section.put(word, mark, below)
        section = below
    return section


def _value(kind: fields.Kind, text: str, source: Source, problems: list[Problem]) -> Tree | None:
    """Text as it is where text is wanted, else a YAML value: ``true``, ``5``, ``[a, b]``, ``{key: value}``."""
    mark = Mark(source)
    nested = fields.structured(kind) and text.lstrip().startswith(("[", "{"))
    if not nested and (fields.textual(kind) or fields.structured(kind)):
        return Scalar(text, mark, literal=False)
    if not text:
        return Scalar(None, mark)
    return parse(text, Source(source.name), None, problems)


# ── secrets in files ──────────────────────────────────────────────────────────────────────────────────────────────────


def _complete(root: type[BaseModel], tree: Section, problems: list[Problem]) -> None:
    """Read what ``…_file`` settings name, resolve relative paths, and star secrets in the lines that are shown."""
    _complete_at(root, tree, (), problems)


def _complete_at(kind: fields.Kind, tree: Tree, path: tuple[str, ...], problems: list[Problem]) -> None:
    if isinstance(tree, Items):
        for index, value in enumerate(tree.values):
            _complete_at(fields.item(kind), value, (*path, str(index)), problems)
    elif isinstance(tree, Section):
        twins = dict(fields.twins(kind, tree))
        for key, value in list(tree.values.items()):
            inner = fields.child(kind, key, tree)
            if fields.field(kind, key, tree) is None and _may_be_secret(kind, key, tree):
                value.mark.source.hide(value.mark)
            if key not in twins.values():
                _complete_at(inner, value, (*path, key), problems)
        for key, file_key in twins.items():
            _read_twin(tree, key, file_key, path, problems)
    elif tree.value is not None and (fields.secret(kind) or sounds_secret(path[-1])):
        tree.mark.source.hide(tree.mark)
        if tree.mark.source.is_file and tree.literal and fields.secret(kind) and isinstance(tree.value, str):
            problems.append(_literal_secret(".".join(path), tree.mark))
    elif isinstance(tree.value, str) and tree.value and fields.is_path(kind):
        tree.value = _resolved(tree)


def _resolved(path: Scalar) -> str:
    """A path in a file counts from that file's folder; any other from the working directory."""
    return str((path.mark.source.folder or Path()) / path.value)


def _may_be_secret(kind: fields.Kind, key: str, tree: Section) -> bool:
    """Whether a key that is no setting may be the name of a secret header, or a secret with a typing error in it."""
    meant = close_name(key, fields.names(kind, tree))
    return sounds_secret(key, free=True) or bool(
        meant and (info := fields.field(kind, meant, tree)) and fields.secret(info.annotation)
    )


def _literal_secret(path: str, mark: Mark) -> Problem:
    name = path.rpartition(".")[2]
    return Problem("W201", path, "is written in the file itself", f"use {name}_file or ${{VARIABLE}}", mark)


def _read_twin(tree: Section, key: str, file_key: str, path: tuple[str, ...], problems: list[Problem]) -> None:
    named, given = tree.values.get(file_key), tree.values.get(key)
    if not isinstance(named, Scalar) or not isinstance(named.value, str):
        return
    mark = named.mark
    if given is not None and plain(given) is not None:
        hint = f"remove one of them; {key} comes from {given.mark}"
        problems.append(
            Problem("E109", ".".join((*path, file_key)), f"is given besides {key}", hint, tree.keys[file_key])
        )
        return
    named.value = _resolved(named)
    try:
        text = file_text(Path(named.value))
    except ValueError as error:
        problems.append(Problem("E108", ".".join((*path, file_key)), str(error), "", mark))
        tree.put(key, mark, Scalar("unreadable", mark, literal=False))
        return
    tree.put(key, mark, Scalar(text, mark, literal=False))


# ── validation ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _validate(root: type[Root], tree: Section) -> tuple[Root | None, list[Problem]]:
    try:
        return root.model_validate(plain(tree)), []
    except ValidationError as error:
        return None, explain(error, root, tree)


def _valid(root: type[BaseModel], data: Mapping[str, Any]) -> dict[str, Any]:
    """The top-level settings that are valid by themselves, in a configuration that as a whole is not."""
    found: dict[str, Any] = {}
    for name, info in root.model_fields.items():
        if name not in data and info.is_required():
            continue
        value = data[name] if name in data else info.get_default(call_default_factory=True, validated_data={})
        try:
            adapter: TypeAdapter[Any] = TypeAdapter(Annotated[info.annotation, info])  # type: ignore[arg-type]
            found[name] = adapter.validate_python(value)
        except ValidationError:
            continue
    return found


def _checked(
    root: type[BaseModel], tree: Section, checks: Iterable[Check], sections: Mapping[str, Any]
) -> list[Problem]:
    """What the checks find, each at its place. A check runs when everything that it names is valid."""
    found: list[Problem] = []
    for check in checks:
        wanted = inspect.signature(check).parameters
        if wanted.keys() <= sections.keys():
            found += check(**{name: sections[name] for name in wanted})
    return [_placed(root, tree, problem) for problem in found]


def _placed(root: type[BaseModel], tree: Section, problem: Problem) -> Problem:
    parts = [int(part) if part.isdecimal() else part for part in problem.path.split(".")]
    place = locate(root, tree, parts)
    return replace(problem, path=".".join(place.path), mark=position(place))
