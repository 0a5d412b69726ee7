"""What one rule comes to: which users may make its requests, and what becomes of those."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import ClassVar, Protocol, Self, TypeAlias, assert_never

from ..errors import RequestFault
from ..messages import Reply
from ..rewriting import Rewriting
from ..values import Origin
from .settings import DEMANDS, Kind, RouteSettings


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

    kind: Kind
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
            demands = (Condition(kind, getattr(settings, name)) for name, kind in DEMANDS.items())
            return Users(tuple(demand for demand in demands if demand.any_of))
        case _:  # pragma: no cover
            assert_never(settings.auth)


_HARMLESS = frozenset({"GET", "HEAD", "OPTIONS"})
"""Safe methods (RFC 9110 §9.2.1): another site may make a browser send them, and nothing happens."""


@dataclass(frozen=True, slots=True)
class Senders:
    """Whose pages may make a browser send what changes something (``cross_site: refuse``)."""

    allowed: frozenset[str]

    def check(self, method: str, origin: Origin, headers: Mapping[str, str]) -> None:
        """Raises RequestFault("cross_site") unless the browser vouches for the sender.

        Sec-Fetch-Site comes first: pages that send no referrer post ``Origin: null`` even to themselves (Fetch §3.2).
        SameSite cookies do not help against a sibling domain, to which every page of the site is the same site.
        """
        if method in _HARMLESS or headers.get("Sec-Fetch-Site") in {"same-origin", "none"}:
            return
        sender = headers.get("Origin", "")
        if sender != str(origin) and sender not in self.allowed:
            raise RequestFault("cross_site", f"a {method} that did not come from a page of this site")


def _rewriting(settings: RouteSettings) -> Rewriting | None:
    if settings.strip_prefix is not None:
        return Rewriting.of(settings.strip_prefix, "/")
    return Rewriting.of(settings.path, settings.rewrite) if settings.rewrite is not None else None


@dataclass(frozen=True, slots=True)
class Allow:
    """The request goes to the upstream."""

    decision: ClassVar = "allow"
    reason: ClassVar = ""


@dataclass(frozen=True, slots=True)
class SignIn:
    """Nobody is signed in, and the route asks for somebody."""

    decision: ClassVar = "login"
    reason: ClassVar = ""


@dataclass(frozen=True, slots=True)
class Refuse:
    """The user is known and may not. ``reason`` is for the log; ``code`` is one of RequestFault's."""

    reason: str
    code: str = "access_denied"
    decision: ClassVar = "forbidden"


Verdict: TypeAlias = Allow | SignIn | Refuse

_ALLOW, _SIGN_IN = Allow(), SignIn()


@dataclass(frozen=True, slots=True, eq=False)
class Route:
    """A rule, ready for use. ``upstream`` is the name of where it goes, None for the default one.

    What the rule does not ask for is None: an answer of our own, another path for the backend, a look at the sender.
    """

    name: str
    settings: RouteSettings
    access: Access
    upstream: str | None
    reply: Reply | None = None
    rewriting: Rewriting | None = None
    senders: Senders | None = None

    @classmethod
    def of(cls, settings: RouteSettings) -> Self:
        methods = f"{','.join(settings.methods)} " if settings.methods else ""
        name = settings.name or f"{methods}{settings.host or ''}{settings.path}"
        return cls(
            name,
            settings,
            _access(settings),
            settings.upstream,
            settings.respond.reply(shared=settings.auth == "none") if settings.respond else None,
            _rewriting(settings),
            Senders(frozenset(map(str, settings.allowed_origins))) if settings.cross_site == "refuse" else None,
        )

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
