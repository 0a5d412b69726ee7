"""The values in force, as YAML, each with where it comes from; secrets as ``***``."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from oidc_proxy.config.document import Items, Scalar, Section, Tree, core_scalar
from oidc_proxy.config.problems import hide_url_password, sounds_secret
from oidc_proxy.values import Secret

_PLAIN = re.compile(r"[A-Za-z0-9_/.](?:[\w/.@+=~%()*-]|:(?=\S))*(?: (?:[\w/.@+=~%()*-]|:(?=\S))+)*", re.ASCII)


def yaml_text(value: Any) -> str:
    """A value on one line of YAML; a secret as ``***``."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case BaseModel():
            return yaml_text({name: getattr(value, name) for name in type(value).model_fields})
        case Mapping():
            entries = (f"{yaml_text(str(name))}: {yaml_text(inner)}" for name, inner in value.items())
            return "{" + ", ".join(entries) + "}"
        case tuple() | list() | frozenset():
            return "[" + ", ".join(map(yaml_text, value)) + "]"
        case _ if type(value) in (int, float):
            return repr(value)
    text = str(value)
    is_text = not isinstance(value, str) or isinstance(core_scalar(text), str)
    return text if is_text and _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class Line:
    """One setting: dotted path, value as YAML text (None for the head of a section), and where it comes from."""

    path: tuple[str, ...]
    value: str | None
    origin: str


def effective(config: BaseModel, tree: Section) -> list[Line]:
    """Every setting with its value and origin: a place in a file, a variable, an option, ``default`` or ``derived``."""
    return list(_lines((), config, tree, "default"))


def _lines(path: tuple[str, ...], value: Any, tree: Tree | None, missing: str, free: bool = False) -> Iterator[Line]:
    inner = _inner(value)
    if inner is None:
        yield Line(path, _masked(path[-1], value, free), str(tree.mark) if tree else missing)
        return
    if path:
        yield Line(path, None, str(tree.mark) if tree else missing)
    for name, member in inner.items():
        origin = _origin(value, name, tree, missing)
        yield from _lines((*path, name), member, _below(tree, name), origin, isinstance(value, Mapping))


def _origin(parent: Any, name: str, tree: Tree | None, missing: str) -> str:
    """Where a member comes from that is not written as such."""
    if isinstance(parent, BaseModel):
        info = type(parent).model_fields[name]
        if not info.is_required() and getattr(parent, name) == info.get_default(
            call_default_factory=True, validated_data={}
        ):
            return "default"
        return str(tree.mark) if isinstance(tree, Scalar) else "derived"
    return missing if tree is None else "derived"


def _inner(value: Any) -> dict[str, Any] | None:
    """The members of what is shown as a section of its own."""
    match value:
        case BaseModel():
            return {name: getattr(value, name) for name in type(value).model_fields}
        case Mapping() if value:
            return {str(name): member for name, member in value.items()}
        case tuple() if value and isinstance(value[0], BaseModel):
            return {str(index): member for index, member in enumerate(value)}
    return None


def _below(tree: Tree | None, name: str) -> Tree | None:
    if isinstance(tree, Section):
        return tree.values.get(name)
    if isinstance(tree, Items) and name.isdecimal() and int(name) < len(tree.values):
        return tree.values[int(name)]
    return None


def _masked(name: str, value: Any, free: bool) -> str:
    hidden = isinstance(value, str) and sounds_secret(name, free=free)
    if isinstance(value, Secret) or hidden:
        return '"***"'
    return yaml_text(hide_url_password(value) if isinstance(value, str) else value)


def as_yaml(lines: list[Line]) -> str:
    """A YAML document that has every setting, with the origins as comments."""
    written = []
    lists = {line.path[:-1] for line in lines if line.path[-1].isdecimal()}
    dash = False
    for line in lines:
        if line.path[-1].isdecimal() and line.path[:-1] in lists:
            dash = True
            continue
        depth = sum(part not in lists for part in _parents(line.path))
        margin = "  " * (depth - 1)
        if dash:
            margin = margin[:-2] + "- "
            dash = False
        text = f"{margin}{yaml_text(line.path[-1])}:" + (f" {line.value}" if line.value is not None else "")
        written.append(text if line.value is None else f"{text:<60} # {line.origin}")
    return "\n".join(written) + "\n"


def _parents(path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for depth in range(1, len(path) + 1):
        yield path[:depth]


def as_json(lines: list[Line]) -> str:
    """The same as a JSON list."""
    values = [
        {"path": ".".join(line.path), "value": line.value, "origin": line.origin}
        for line in lines
        if line.value is not None
    ]
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"
