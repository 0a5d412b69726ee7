"""What one rule says: which requests it is for, and which users may make them."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, Protocol, Self, TypeAlias, assert_never

from pydantic import Field, field_validator, model_validator

from ..values import Settings, canonical_host

_NOT_IN_RULES = re.compile(r"//|/\.\.?(?=/|\Z)|[%\\;?#*\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_METHOD = re.compile(r"[!#$%&'+.^_`|~0-9A-Z-]+")


class RouteSettings(Settings):
    """One rule: which requests it is for, who may make them, and where they go.

    The most specific host wins, then the longest path, then the rule that is written first.
    """

    name: str | None = Field(
        None,
        min_length=1,
        max_length=100,
        description="What logs, metrics and `policy test` call the rule; made of methods, host and path when left out.",
        examples=["admin pages"],
    )
    host: str | None = Field(
        None,
        description="Host that the rule is for, or `*.` and a domain for every host below that domain; "
        "left out for every host.",
        examples=["admin.example.com", "*.example.com"],
    )
    path: str = Field(
        description="Path that the rule is for, written decoded. With a slash at the end it is for everything below, "
        "else for exactly this path. A rule that requires sign-in holds with and without the final slash; "
        "a rule that opens something opens only what is written.",
        examples=["/", "/admin/", "/healthz"],
    )
    methods: tuple[str, ...] | None = Field(
        None,
        min_length=1,
        description="Methods that the rule is for, HEAD going with GET; left out for all. "
        "Other methods fall to the next rule that matches.",
        examples=[["GET"], ["POST", "PUT", "DELETE"]],
    )
    auth: Literal["required", "optional", "none"] = Field(
        "required",
        description="required: only signed-in users. optional: everybody, and the backend is told who is signed in. "
        "none: everybody, and nobody is announced.",
    )
    groups: tuple[str, ...] = Field(
        (),
        description="The user must be in at least one of these groups, compared character by character.",
        examples=[["/staff/ops"]],
    )
    roles: tuple[str, ...] = Field(
        (),
        description="The user must have at least one of these roles (and be in one of `groups`, when both are given).",
        examples=[["admin", "billing:editor"]],
    )
    upstream: str | None = Field(
        None, description="Name of the upstream that the requests go to; left out for the default one."
    )

    @field_validator("host")
    @classmethod
    def _canonical_host(cls, host: str | None) -> str | None:
        if host is None:
            return None
        wildcard = "*." if host.startswith("*.") else ""
        try:
            return wildcard + canonical_host(host.removeprefix("*."))
        except ValueError:
            raise ValueError(
                "must be a host name without scheme, port and path, or `*.` and a domain; leave it out for every host"
            ) from None

    @field_validator("path")
    @classmethod
    def _plain_path(cls, path: str) -> str:
        if not path.startswith("/"):
            raise ValueError("must start with a slash")
        if path.endswith("/*"):
            raise ValueError(f"must not end with a star; write {path.rstrip('*')} for everything below")
        found = _NOT_IN_RULES.search(path)
        if found:
            raise ValueError(
                f"must not contain {found[0]!a}: write the path decoded, without patterns, query and dot segments"
            )
        return path

    @field_validator("methods")
    @classmethod
    def _usable_methods(cls, methods: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for method in methods or ():
            if not _METHOD.fullmatch(method):
                raise ValueError(
                    f"has “{method}”; write methods in upper case, such as GET, or leave `methods` out for all"
                )
        return methods

    @field_validator("groups", "roles")
    @classmethod
    def _no_empty_names(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if "" in names:
            raise ValueError("has an empty name")
        return names

    @model_validator(mode="after")
    def _conditions_need_a_user(self) -> Self:
        if self.auth != "required" and (self.groups or self.roles):
            raise ValueError(
                f"`auth: {self.auth}` lets everybody in, so `groups` and `roles` would keep nobody out; "
                "write `auth: required`, or leave them out"
            )
        return self


class Holder(Protocol):
    """Whoever holds groups and roles, and has an e-mail address."""

    @property
    def email(self) -> str | None: ...
    @property
    def groups(self) -> frozenset[str]: ...
    @property
    def roles(self) -> frozenset[str]: ...


@dataclass(frozen=True, slots=True)
class Condition:
    """One demand on a user: one of these groups, roles, e-mail addresses or their domains."""

    kind: Literal["groups", "roles", "emails", "email domains"]
    any_of: tuple[str, ...]

    def held(self, holder: Holder) -> tuple[str, ...]:
        """Those of the demanded names that the holder has; the condition is met when there is one."""
        match self.kind:
            case "groups":
                return tuple(name for name in self.any_of if name in holder.groups)
            case "roles":
                return tuple(name for name in self.any_of if name in holder.roles)
            case "emails":
                return tuple(name for name in self.any_of if name.lower() == (holder.email or "").lower())
            case "email domains":
                _, at, domain = (holder.email or "").lower().rpartition("@")
                return tuple(name for name in self.any_of if at and name.lower() == domain)
            case _:  # pragma: no cover
                assert_never(self.kind)

    def __str__(self) -> str:
        return f"one of the {self.kind} {', '.join(self.any_of)}"


@dataclass(frozen=True, slots=True)
class Nobody:
    """No sign-in is asked for, and no user is announced (``auth: none``)."""


@dataclass(frozen=True, slots=True)
class Anybody:
    """A user is announced if there is one (``auth: optional``)."""


@dataclass(frozen=True, slots=True)
class Users:
    """Signed-in users who meet every condition (``auth: required``)."""

    conditions: tuple[Condition, ...]


Access: TypeAlias = Nobody | Anybody | Users


def _access(settings: RouteSettings) -> Access:
    match settings.auth:
        case "none":
            return Nobody()
        case "optional":
            return Anybody()
        case "required":
            demands = (Condition("groups", settings.groups), Condition("roles", settings.roles))
            return Users(tuple(demand for demand in demands if demand.any_of))
        case _:  # pragma: no cover
            assert_never(settings.auth)


@dataclass(frozen=True, slots=True)
class Allow:
    """The request goes to the upstream."""


@dataclass(frozen=True, slots=True)
class SignIn:
    """Nobody is signed in, and the route asks for somebody."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """The user is known and may not. ``reason`` is for the log; ``code`` is one of RequestFault's."""

    reason: str
    code: str = "access_denied"


Verdict: TypeAlias = Allow | SignIn | Refuse

_ALLOW, _SIGN_IN = Allow(), SignIn()


@dataclass(frozen=True, slots=True, eq=False)
class Route:
    """A rule, ready for use. ``upstream`` is the name of where it goes, None for the default one."""

    name: str
    settings: RouteSettings
    access: Access
    upstream: str | None

    @classmethod
    def of(cls, settings: RouteSettings) -> Self:
        methods = f"{','.join(settings.methods)} " if settings.methods else ""
        name = settings.name or f"{methods}{settings.host or ''}{settings.path}"
        return cls(name, settings, _access(settings), settings.upstream)

    def takes(self, method: str) -> bool:
        """Whether the rule is for this method. HEAD is GET without the body (RFC 9110 §9.3.2), so they go together."""
        methods = self.settings.methods
        return methods is None or method in methods or (method == "HEAD" and "GET" in methods)


@lru_cache(1024)
def narrowed(route: Route, demands: tuple[Condition, ...]) -> Route:
    """The same rule, for signed-in users only who meet these demands as well."""
    conditions = route.access.conditions if isinstance(route.access, Users) else ()
    return replace(route, access=Users((*conditions, *demands)))


def decide(route: Route, holder: Holder | None) -> Verdict:
    """What becomes of a request on this route; ``holder`` is the signed-in user, or None."""
    match route.access:
        case Nobody() | Anybody():
            return _ALLOW
        case Users(conditions):
            if holder is None:
                return _SIGN_IN
            for condition in conditions:
                if not condition.held(holder):
                    return Refuse(f"the rule “{route.name}” asks for {condition}")
            return _ALLOW
        case _:  # pragma: no cover
            assert_never(route.access)
