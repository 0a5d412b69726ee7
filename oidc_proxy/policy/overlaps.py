"""What of a backend can be asked for past the rule that is for it, because another rule rewrites its path to there."""

from __future__ import annotations

from collections.abc import Iterator

from ..rewriting import Rewriting
from .routes import Routes
from .rules import Route, Users


def overlaps(routes: Routes) -> Iterator[tuple[int, str]]:
    """For each rule that opens what another one closes: its index, and what it opens. For a warning, no more.

    Rules are about what visitors ask for, so ``/admin/`` says nothing about ``/public/admin/``, although a backend
    behind ``strip_prefix: /public`` takes both for the same.
    """
    for index, route in enumerate(routes.all):
        if route.rewriting is not None:
            others = [other for other in routes.all if other is not route and _same_backend(route, other)]
            closed = _closed_by(routes, route, route.rewriting, others)
            if closed is not None:
                yield (
                    index,
                    (
                        f"({route.name}) leads to what the rule “{closed.name}” closes at the same upstream, "
                        "and asks for less than that one"
                    ),
                )


def _closed_by(routes: Routes, route: Route, rewriting: Rewriting, others: list[Route]) -> Route | None:
    around = [other for other in others if f"{rewriting.inside[1]}/".startswith(_path(other, slash=True))]
    owner = max(around, key=lambda other: len(_path(other)), default=None)
    if owner is not None and _asks_less(route, owner):
        return owner
    table = routes.tables[route.settings.host or ""][(route.settings.methods or ("",))[0]]
    for other in others:
        asked = rewriting.undone(_path(other))
        if asked and table.find(asked[0]) is route and _asks_less(route, other):
            return other
    return None


def _same_backend(route: Route, other: Route) -> bool:
    hosts = {route.settings.host, other.settings.host} - {None}
    same = (route.upstream or "default") == (other.upstream or "default")
    return same and len(hosts) < 2 and route.reply is None and other.reply is None


def _path(route: Route, *, slash: bool = False) -> str:
    """The path that the backend sees of a rule; with ``slash`` such that only what is below it begins with it."""
    path = route.settings.path
    if route.rewriting is not None:
        path = route.rewriting.inward(path)
    return f"{path.removesuffix('/')}/" if slash else path


def _asks_less(route: Route, other: Route) -> bool:
    match route.access, other.access:
        case Users(mine), Users(theirs):
            return not set(theirs) <= set(mine)
        case _, Users():
            return True
    return False
