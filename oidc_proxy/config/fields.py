"""What the settings classes say about a place: which keys it may have, what a value there may be."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, Union, get_args, get_origin

from pydantic import BaseModel, BeforeValidator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from oidc_proxy.config.document import Scalar, Section, Tree
from oidc_proxy.values import ByteSize, Duration, Secret

Kind: TypeAlias = Any
"""A type annotation."""


def _origin(kind: Kind) -> Any:
    """What the type is made from: ``tuple`` for ``tuple[str, ...]``."""
    return get_origin(kind)


def members(kind: Kind) -> list[Kind]:
    """The types that a value may have: unions taken apart, ``Annotated`` and ``None`` taken off."""
    origin = _origin(kind)
    if origin is Annotated:
        return members(get_args(kind)[0])
    if origin in (Union, types.UnionType):
        return [member for part in get_args(kind) for member in members(part)]
    return [] if kind in (None, type(None)) else [kind]


def models(kind: Kind, tree: Tree | None = None) -> list[type[BaseModel]]:
    """The settings classes that a section there may be; only the one that the section chooses by its ``type``."""
    found = [member for member in members(kind) if isinstance(member, type) and issubclass(member, BaseModel)]
    chosen = [model for model in found if isinstance(tree, Section) and _tagged(model, tree)]
    return chosen or found


def _tagged(model: type[BaseModel], section: Section) -> bool:
    for name, info in model.model_fields.items():
        value = section.values.get(name)
        if _origin(info.annotation) is Literal and isinstance(value, Scalar):
            return value.value in get_args(info.annotation)
    return False


def tags(kind: Kind) -> set[object]:
    """What the distinguishing key of a union of settings classes may be."""
    several = models(kind)
    if len(several) < 2:
        return set()
    return {
        value
        for model in several
        for info in model.model_fields.values()
        if _origin(info.annotation) is Literal
        for value in get_args(info.annotation)
    }


def item(kind: Kind) -> Kind:
    """The type of the elements of a list there, or None when it cannot be a list."""
    for member in members(kind):
        origin = _origin(member)
        if isinstance(origin, type) and issubclass(origin, Sequence | frozenset | set) and get_args(member):
            return get_args(member)[0]
    return None


def entry(kind: Kind) -> Kind:
    """The type of the values of a free dictionary there, or None when it cannot be one."""
    for member in members(kind):
        origin = _origin(member)
        if isinstance(origin, type) and issubclass(origin, Mapping) and get_args(member):
            return get_args(member)[1]
    return None


def field(kind: Kind, key: str, tree: Tree | None = None) -> FieldInfo | None:
    """The declaration of the setting ``key`` of a section there."""
    return next((model.model_fields[key] for model in models(kind, tree) if key in model.model_fields), None)


def written(info: FieldInfo) -> Kind:
    """The type of what users write, where a short form is turned into the setting's own type; else that type."""
    given = [data.json_schema_input_type for data in info.metadata if isinstance(data, BeforeValidator)]
    return next((kind for kind in given if kind is not PydanticUndefined), info.annotation)


def names(kind: Kind, tree: Tree | None = None) -> list[str]:
    """The keys that a section there may have."""
    return list(dict.fromkeys(name for model in models(kind, tree) for name in model.model_fields))


def child(kind: Kind, key: str, tree: Tree | None = None) -> Kind:
    """The type of the value at a key of a section there; None when there can be none."""
    info = field(kind, key, tree)
    return info.annotation if info else entry(kind)


def structured(kind: Kind) -> bool:
    """Whether the value may be a section or list."""
    return bool(models(kind)) or item(kind) is not None or entry(kind) is not None


def textual(kind: Kind) -> bool:
    """Whether the value may be text, so that text stays as it is, digits and all."""
    return any(map(_textual, members(kind)))


def _textual(member: Kind) -> bool:
    if _origin(member) is Literal:
        return all(isinstance(value, str) for value in get_args(member))
    if not isinstance(member, type) or structured(member):
        return False
    return issubclass(member, Duration | ByteSize) or not issubclass(member, bool | int | float)


def secret(kind: Kind) -> bool:
    """Whether a value there is a secret."""
    return Secret in members(kind)


def is_path(kind: Kind) -> bool:
    """Whether a value there is the path of a file."""
    return Path in members(kind)


def twins(kind: Kind, tree: Tree | None = None) -> Iterator[tuple[str, str]]:
    """The settings that may be given as a file: the setting's key, and the key that names the file."""
    for model in models(kind, tree):
        for name in model.model_fields:
            if f"{name}_file" in model.model_fields:
                yield name, f"{name}_file"


def every_field(root: type[BaseModel]) -> Iterator[tuple[tuple[str, ...], type[BaseModel], FieldInfo]]:
    """Every setting of the tree of classes with its path; elements are called ``[]``, entries ``NAME``."""

    def walk(path: tuple[str, ...], kind: Kind) -> Iterator[tuple[tuple[str, ...], type[BaseModel], FieldInfo]]:
        for inner, name in ((item(kind), "[]"), (entry(kind), "NAME")):
            if inner is not None:
                yield from walk((*path, name), inner)
        for model in models(kind):
            for name, info in model.model_fields.items():
                yield (*path, name), model, info
                yield from walk((*path, name), info.annotation)

    yield from walk((), root)
