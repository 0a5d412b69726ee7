"""pydantic's complaints as problems: at the place in the file, in our words, with what to write instead."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from oidc_proxy.config import fields
from oidc_proxy.config.document import Items, Scalar, Section, Tree
from oidc_proxy.config.problems import Mark, Problem, sounds_secret
from oidc_proxy.values import ByteSize, Duration


@dataclass(frozen=True, slots=True)
class Place:
    """Where a complaint belongs: the path as the user writes it, and the value, or the section that lacks it."""

    path: tuple[str, ...]
    kind: fields.Kind
    tree: Tree
    present: bool
    info: FieldInfo | None
    chosen: bool = False
    """Whether the name of a union's member has been passed, so that the next part is a key."""


def locate(root: type[BaseModel], tree: Tree, parts: Iterable[str | int]) -> Place:
    """Follow pydantic's ``loc``. Parts that are neither key nor setting (a union's members) are passed over."""
    place = Place((), root, tree, True, None)
    for part in parts:
        place = _step(place, part) or place
    return place


def _step(place: Place, part: str | int) -> Place | None:
    tree, path = place.tree, (*place.path, str(part))
    if not place.chosen and part in fields.tags(place.kind):
        return replace(place, chosen=True)
    if isinstance(part, int):
        if place.present and isinstance(tree, Items) and part < len(tree.values):
            return Place(path, fields.item(place.kind), tree.values[part], True, place.info)
        return None
    if place.present and isinstance(tree, Section) and part in tree.values:
        info = fields.field(place.kind, part, tree)
        kind = fields.child(place.kind, part, tree)
        return Place(path, kind, tree.values[part], True, info or place.info)
    info = fields.field(place.kind, part, tree)
    if info is None:
        return None
    return Place(path, info.annotation, tree, False, info)


def position(place: Place) -> Mark:
    """The mark of the value, or of the start of the section that lacks it."""
    mark = place.tree.mark
    if place.present:
        return mark
    return Mark(mark.source, mark.line, mark.column, mark.line, mark.column + 1)


Wording = tuple[str, str, str]
"""Code, message, hint."""


def _value_text(place: Place) -> str | None:
    """The value as it stands in the file, where it may be repeated."""
    tree = place.tree
    quotable = place.present and isinstance(tree, Scalar) and tree.literal and not fields.secret(place.kind)
    if not quotable or sounds_secret(place.path[-1] if place.path else ""):
        return None
    return tree.text or str(tree.value)  # type: ignore[union-attr]


def _wrong_value(place: Place, error: Mapping[str, Any]) -> Wording:
    raised = error.get("ctx", {}).get("error")
    message = str(raised) if raised is not None else str(error["msg"]).removeprefix("Value error, ")
    return "E102", message, _better_value(place, message)


def _better_value(place: Place, message: str) -> str:
    text = _value_text(place)
    if text is None:
        return ""
    kinds = [kind for kind in fields.members(place.kind) if isinstance(kind, type)]
    if text.isdecimal():
        if Duration in kinds:
            return f"did you mean {text}s?"
        if ByteSize in kinds:
            return f"did you mean {text}B?"
    if "://" not in text and "https://" in message and text.lstrip("/"):
        return f'did you mean "https://{text.lstrip("/")}"?'
    return ""


def _not_text(place: Place, error: Mapping[str, Any]) -> Wording:
    text = _value_text(place)
    if place.present and isinstance(place.tree, Scalar) and place.tree.value is not None:
        return "E103", "must be text", f'put it in quotes: "{text}"' if text else "put it in quotes"
    return "E103", "must be text", ""


def _not_list(place: Place, error: Mapping[str, Any]) -> Wording:
    text = _value_text(place)
    return "E103", "must be a list", f"write [{text}]" if text and text != "None" else "write it as [one, two]"


def _missing(place: Place, error: Mapping[str, Any]) -> Wording:
    name = place.path[-1]
    example = next(iter(place.info.examples or ()), None) if place.info else None
    return "E104", "is missing", f"add “{name}: {example}”" if isinstance(example, str) else f"add “{name}: …”"


def _not_one_of(place: Place, error: Mapping[str, Any]) -> Wording:
    expected = str(error["ctx"].get("expected") or error["ctx"].get("expected_tags"))
    options = [word.strip().strip("'") for word in expected.replace(" or ", ", ").split(",")]
    close = get_close_matches(str(error["ctx"].get("tag") or _value_text(place) or "").lower(), options, n=1)
    listed = " or ".join([", ".join(options[:-1]), options[-1]]) if len(options) > 1 else options[0]
    return "E102", f"must be {listed}", f"did you mean `{close[0]}`?" if close else ""


def _no_tag(place: Place, error: Mapping[str, Any]) -> Wording:
    key = str(error["ctx"]["discriminator"]).strip("'")
    options = ", ".join(sorted(map(str, fields.tags(place.kind))))
    return "E104", f"needs the key `{key}`", f"add “{key}”: one of {options}"


def _out_of_range(place: Place, error: Mapping[str, Any]) -> Wording:
    words = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than", "multiple_of": "a multiple of"}
    limits = [f"{words[name]} {_limit(place, value)}" for name, value in error["ctx"].items() if name in words]
    return "E112", f"must be {' and '.join(limits)}", ""


def _limit(place: Place, value: Any) -> str:
    for kind in fields.members(place.kind):
        if isinstance(kind, type) and issubclass(kind, Duration | ByteSize):
            return str(kind(value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _length(place: Place, error: Mapping[str, Any]) -> Wording:
    context = error["ctx"]
    low, high = context.get("min_length"), context.get("max_length")
    unit = "characters" if error["type"].startswith("string") else "entries"
    if low == 1:
        return "E102", "must not be empty", ""
    return (
        "E102",
        f"must have at {'least' if low is not None else 'most'} {low if low is not None else high} {unit}",
        "",
    )


def _pattern(place: Place, error: Mapping[str, Any]) -> Wording:
    example = next(iter(place.info.examples or ()), None) if place.info else None
    form = f"have the form of {example}" if isinstance(example, str) else f"match {error['ctx']['pattern']}"
    return "E102", f"must {form}", ""


def _says(code: str, message: str, hint: str = "") -> Callable[[Place, Mapping[str, Any]], Wording]:
    return lambda place, error: (code, message, hint)


_WHOLE = _says("E103", "must be a whole number")
_NUMBER = _says("E103", "must be a number")
_BOOLEAN = _says("E103", "must be true or false")
_SECTION = _says("E103", "must be a section of keys")
_NETWORK = _says("E102", "must be an address or a network such as 10.0.0.0/8, without bits set beyond the prefix")

WORDINGS: dict[str, Callable[[Place, Mapping[str, Any]], Wording]] = {
    "missing": _missing,
    "value_error": _wrong_value,
    "assertion_error": _wrong_value,
    "string_type": _not_text,
    "int_type": _WHOLE,
    "int_parsing": _WHOLE,
    "int_parsing_size": _WHOLE,
    "int_from_float": _WHOLE,
    "float_type": _NUMBER,
    "float_parsing": _NUMBER,
    "finite_number": _NUMBER,
    "bool_type": _BOOLEAN,
    "bool_parsing": _BOOLEAN,
    "list_type": _not_list,
    "tuple_type": _not_list,
    "set_type": _not_list,
    "frozen_set_type": _not_list,
    "dict_type": _SECTION,
    "mapping_type": _SECTION,
    "model_type": _SECTION,
    "model_attributes_type": _SECTION,
    "path_type": _says("E103", "must be the path of a file"),
    "ip_v4_network": _NETWORK,
    "ip_v6_network": _NETWORK,
    "literal_error": _not_one_of,
    "enum": _not_one_of,
    "union_tag_invalid": _not_one_of,
    "union_tag_not_found": _no_tag,
    "greater_than": _out_of_range,
    "greater_than_equal": _out_of_range,
    "less_than": _out_of_range,
    "less_than_equal": _out_of_range,
    "multiple_of": _out_of_range,
    "string_too_short": _length,
    "string_too_long": _length,
    "too_short": _length,
    "too_long": _length,
    "string_pattern_mismatch": _pattern,
}
"""pydantic's error types; for any other its own sentence is taken."""


def explain(error: ValidationError, root: type[BaseModel], tree: Section) -> list[Problem]:
    """Every complaint of pydantic about the data of ``tree`` as a problem."""
    found = [problem for complaint in error.errors(include_url=False) for problem in _problems(root, tree, complaint)]
    return _without_echoes(found)


_NAMED_FIRST = re.compile(r"([a-z][a-z0-9_]*(?:\.[a-z0-9_]+)*) (.+)", re.DOTALL)


def _problems(root: type[BaseModel], tree: Section, complaint: Any) -> Iterator[Problem]:
    """One complaint; that of a whole section may consist of sentences that each begin with the key that is meant."""
    kind, loc = complaint["type"], complaint["loc"]
    place = locate(root, tree, loc)
    if kind != "value_error" or not fields.models(place.kind):
        yield _problem(root, tree, complaint)
        return
    for sentence in str(complaint["ctx"]["error"]).split("; "):
        named = _NAMED_FIRST.fullmatch(sentence)
        meant = locate(root, tree, (*loc, *named[1].split("."))) if named else place
        if named and len(meant.path) > len(place.path):
            yield Problem("E102", ".".join(meant.path), named[2], "", position(meant))
        else:
            yield Problem("E102", ".".join(place.path), sentence, "", position(place))


def _problem(root: type[BaseModel], tree: Section, complaint: Any) -> Problem:
    kind, loc = complaint["type"], complaint["loc"]
    if kind == "extra_forbidden":
        return unknown_key(root, tree, loc)
    place = locate(root, tree, loc)
    if kind == "union_tag_invalid" and isinstance(place.tree, Section):
        place = locate(root, tree, (*loc, str(complaint["ctx"]["discriminator"]).strip("'")))
    code, message, hint = WORDINGS.get(kind, _wrong_value)(place, complaint)
    quoted = re.search("“([^”]+)”", message)
    if quoted and isinstance(place.tree, Section) and place.present and quoted[1] in place.tree.keys:
        return Problem(code, ".".join((*place.path, quoted[1])), message, hint, place.tree.keys[quoted[1]])
    if place.present and isinstance(place.tree, Scalar) and place.tree.value is None and kind.endswith("_type"):
        hint = "give it a value, or remove the key"
    return Problem(code, ".".join(place.path), message, hint, position(place))


def unknown_key(root: type[BaseModel], tree: Section, loc: tuple[str | int, ...]) -> Problem:
    """A key that is no setting at its place; what it may have meant is looked for there first, then everywhere."""
    parent, name = locate(root, tree, loc[:-1]), str(loc[-1])
    mark = parent.tree.mark
    if isinstance(parent.tree, Section) and name in parent.tree.keys:
        mark = parent.tree.keys[name]
    return Problem(
        "E110", ".".join((*parent.path, name)), "unknown key", suggestion(root, parent.kind, name, parent.tree), mark
    )


def close_name(name: str, options: Iterable[str]) -> str | None:
    """The option that ``name`` was probably meant to be."""
    plain = name.lower().replace("-", "_")
    return next(iter(get_close_matches(plain, list(options), n=1, cutoff=0.6)), None)


def suggestion(root: type[BaseModel], kind: fields.Kind, name: str, tree: Tree | None = None) -> str:
    """What to write instead of an unknown key."""
    here = fields.names(kind, tree)
    close = close_name(name, here)
    elsewhere = [
        ".".join(path) for path, _, _ in fields.every_field(root) if path[-1] == name.lower().replace("-", "_")
    ]
    if close:
        return f"did you mean `{close}`?"
    if len(elsewhere) == 1:
        return f"did you mean `{elsewhere[0]}`?"
    return f"the keys here are {', '.join(here)}" if here else ""


def _without_echoes(problems: list[Problem]) -> list[Problem]:
    """One problem a place: a union complains once for each of its members, and of its parts as well."""
    kept: list[Problem] = []
    for problem in sorted(problems, key=lambda problem: (problem.code == "E103", -problem.path.count("."))):
        same_place = any(other.mark == problem.mark and other.path == problem.path for other in kept)
        echoed = problem.code in ("E102", "E103") and any(
            other.path.startswith(problem.path + ".") and other.path[len(problem.path) + 1 :].split(".")[0].isdecimal()
            for other in kept
        )
        if not same_place and not echoed:
            kept.append(problem)
    return kept
