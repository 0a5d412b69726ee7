"""A decision with its reasons, made by the very code that serves requests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

from ..errors import RequestFault
from .routes import Routes, match
from .rules import Allow, Condition, Holder, Refuse, Route, SignIn, Users, Verdict, decide
from .settings import RouteSettings


@dataclass(frozen=True, slots=True)
class Check:
    """One condition and those of its names that the user has; without any it is not met. None: nobody is signed in."""

    condition: Condition
    held: tuple[str, ...] | None

    def __str__(self) -> str:
        result = "nobody is signed in" if self.held is None else f"has {', '.join(self.held) or 'none of them'}"
        return f"{self.condition.kind:<8} one of {', '.join(self.condition.any_of)}: {result}"


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a request is answered as it is. Without a route, the verdict is the fault that ended the search for one."""

    route: Route | None
    checks: tuple[Check, ...]
    verdict: Verdict | RequestFault
    sent: str | None = None
    """The path that the backend sees, if it is another one."""

    @property
    def allowed(self) -> bool:
        return isinstance(self.verdict, Allow)

    def lines(self) -> list[str]:
        """The same in words, one line a fact."""
        about = _about(self.route) if self.route else ["rule     none"]
        sent = [f"path     goes on as {self.sent}"] if self.sent else []
        return [*about, *sent, *map(str, self.checks), f"verdict  {_in_words(self.verdict)}"]


def explain(routes: Routes, *, host: str, path: str, method: str, holder: Holder | None) -> Explanation:
    """What ``match`` and ``decide`` make of a request, with every condition on the way. Raises nothing."""
    try:
        route = match(routes, host=host, path=path, method=method)
    except RequestFault as fault:
        return Explanation(None, (), fault)
    conditions = route.access.conditions if isinstance(route.access, Users) else ()
    checks = tuple(Check(condition, condition.held(holder) if holder else None) for condition in conditions)
    sent = route.rewriting.inward(path) if route.rewriting else None
    return Explanation(route, checks, decide(route, holder), sent)


def _about(route: Route) -> list[str]:
    goes = f"answer   {route.reply.status}" if route.reply else f"upstream {route.upstream or 'the default one'}"
    lines = [f"rule     {route.name}", f"matches  {_extent(route.settings)}", goes, f"auth     {route.settings.auth}"]
    if route.senders is not None:
        pages = ", ".join(["pages of the same origin", *sorted(route.senders.allowed)])
        lines.append(f"senders  only {pages}, for what is not GET, HEAD or OPTIONS")
    return lines


def _extent(settings: RouteSettings) -> str:
    what = "everything below" if settings.path.endswith("/") else "exactly"
    host = f"on {settings.host}" if settings.host else "on any host"
    methods = f"with {', '.join(settings.methods)}" if settings.methods else "with any method"
    return f"{what} {settings.path} {host} {methods}"


def _in_words(verdict: Verdict | RequestFault) -> str:
    match verdict:
        case Allow():
            return "allowed"
        case SignIn():
            return "sign-in required"
        case Refuse(reason, code):
            return f"refused ({code}): {reason}"
        case RequestFault():
            return f"refused ({verdict.code}, {verdict.status}): {verdict.detail}"
        case _:  # pragma: no cover
            assert_never(verdict)
