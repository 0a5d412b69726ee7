"""All rules, indexed, and the search for the one that a request falls under."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

from ..errors import RequestFault
from ..rewriting import Rewriting, encoded
from ..values import canonical_host
from .readings import SAME_IN_EVERY_READING, UnreadableError, Way, readings
from .rules import Route, Users
from .settings import RouteSettings


class _Layer(NamedTuple):
    """The rules of one host pattern for one method."""

    exact: Mapping[str, Route]
    prefixes: Mapping[str, Route]
    longest: int

    @classmethod
    def of(cls, routes: Iterable[Route]) -> Self:
        taken: dict[str, Route] = {}
        closed: dict[str, Route] = {}
        for route in routes:
            for path in {route.settings.path, encoded(route.settings.path)}:
                taken.setdefault(path, route)
                # Many backends do not tell /x from /x/: what requires sign-in requires it for both. What opens does
                # not, and a rule that is written for the other spelling comes first.
                if isinstance(route.access, Users) and path != "/":
                    closed.setdefault(path[:-1] if path.endswith("/") else f"{path}/", route)
        exact = {path: route for path, route in taken.items() if not path.endswith("/")}
        prefixes = {path: route for path, route in taken.items() if path.endswith("/")}
        exact |= {path: route for path, route in closed.items() if path not in taken}
        return cls(exact, prefixes, max(map(len, prefixes), default=0))


class _Table:
    """The rules for one host and one method, most specific host first."""

    __slots__ = ("_layers", "constant")

    def __init__(self, layers: Iterable[_Layer]) -> None:
        self._layers: list[_Layer] = []
        for layer in layers:
            self._layers.append(layer)
            if "/" in layer.prefixes:
                break  # takes every path, so nothing behind it is ever asked
        first = self._layers[0]
        alone = first.prefixes.get("/") if not first.exact and len(first.prefixes) == 1 else None
        self.constant = alone is not None and alone.rewriting is None
        """Whether every path has the same route, however it is read, and goes on as it is."""

    def find(self, path: str) -> Route | None:
        """The route of one reading of a path."""
        for exact, prefixes, longest in self._layers:
            route = exact.get(path)
            if route is not None:
                return route
            end = longest
            while (end := path.rfind("/", 0, end)) >= 0:
                route = prefixes.get(path[: end + 1])
                if route is not None:
                    return route
        return None


_ANY = ""
"""Stands for every host, or every method, that no rule names."""


@dataclass(frozen=True, slots=True, eq=False)
class Routes:
    """All rules, indexed by host pattern and method. Made by ``compile_routes``."""

    all: tuple[Route, ...]
    tables: Mapping[str, Mapping[str, _Table]]
    """Host pattern → method → table; ``_ANY`` stands for the rest in both."""

    def table(self, host: str, method: str) -> _Table:
        """The rules that matter for this host and method. Raises RequestFault("wrong_host")."""
        by_method = self.tables.get(host) or self.tables[self._pattern(host)]
        return by_method.get(method) or by_method[_ANY]

    def _pattern(self, host: str) -> str:
        if len(self.tables) == 1:
            return _ANY
        try:
            names = _patterns(canonical_host(_PORT.sub("", host if len(host) <= _LONGEST_HOST else "")))
        except ValueError:
            raise RequestFault("wrong_host", "the host is not a host name") from None
        return next(name for name in names if name in self.tables)


_LONGEST_HOST = 300
_PORT = re.compile(r":\d{0,5}\Z")


def _patterns(host: str) -> Iterator[str]:
    """Every way in which a rule can name this host or pattern, the most specific first."""
    if host:
        yield host
    rest = host.removeprefix("*.")
    while "." in rest:
        rest = rest.partition(".")[2]
        yield f"*.{rest}"
    yield _ANY


class RoutesInvalid(ValueError):
    """Rules that cannot be used together. ``problems`` has the index of each rule and what is wrong with it."""

    def __init__(self, problems: Sequence[tuple[int, str]]) -> None:
        super().__init__("; ".join(f"routes[{index}] {sentence}" for index, sentence in problems))
        self.problems = tuple(problems)


def compile_routes(settings: Sequence[RouteSettings], hosts: Sequence[str] = ()) -> Routes:
    """Index the rules.

    ``hosts`` are our public hosts in canonical spelling, if they are known: a rule for another host is a mistake then.
    Raises RoutesInvalid (a ValueError) for names given twice and for rules that no request can ever reach.
    """
    routes = tuple(map(Route.of, settings))
    methods = {_ANY}.union(*(route.settings.methods or () for route in routes))
    methods |= {"HEAD"} if "GET" in methods else set()
    keys = {_ANY, *hosts}.union(route.settings.host or _ANY for route in routes)
    by_host: dict[str, list[Route]] = {}
    for route in routes:
        by_host.setdefault(route.settings.host or _ANY, []).append(route)
    tables = {
        key: {method: _Table(_layers(by_host, key, method)) for method in sorted(methods)} for key in sorted(keys)
    }
    compiled = Routes(routes, tables)
    problems = [*_repeated_names(routes), *_unreachable(compiled, hosts or sorted(keys))]
    if problems:
        raise RoutesInvalid(problems)
    return compiled


def _layers(by_host: Mapping[str, Sequence[Route]], key: str, method: str) -> Iterator[_Layer]:
    for pattern in _patterns(key):
        routes = [route for route in by_host.get(pattern, ()) if route.takes(method)]
        if routes or pattern == _ANY:
            yield _Layer.of(routes)


def _repeated_names(routes: Sequence[Route]) -> Iterator[tuple[int, str]]:
    first: dict[str, Route] = {}
    for index, route in enumerate(routes):
        other = first.setdefault(route.name, route)
        if other is not route and route.settings.name:
            yield index, f"has the name “{route.name}”, which another rule has already; names are used once"


_THE_REST = RouteSettings(path="/")
"""Asks for sign-in wherever no other rule holds. That there may be nothing left for it is no mistake."""


def _unreachable(compiled: Routes, keys: Sequence[str]) -> Iterator[tuple[int, str]]:
    for index, route in enumerate(compiled.all):
        mine = [key for key in keys if (route.settings.host or _ANY) in _patterns(key)]
        takers = {
            table.find(route.settings.path): None
            for key in mine
            for method, table in compiled.tables[key].items()
            if route.takes(method)
        }
        if not mine:
            yield index, f"is for the host {route.settings.host}, which is none of the public hosts {', '.join(keys)}"
        elif route not in takers and route.settings != _THE_REST:
            names = ", ".join(f"“{taker.name}”" for taker in takers if taker)
            yield index, f"({route.name}) is never reached: everything it is for falls under {names}"


def match(routes: Routes, *, host: str, path: str, method: str) -> Route:
    """The route of a request. ``path`` is the raw path of the request line, without the query.

    ``host`` is best given in canonical spelling; another spelling of it is found as well, only slower.
    Raises RequestFault: ``not_found`` when no rule matches, ``path_ambiguous`` when not every reading of the path
    selects the same rule, ``wrong_host`` when rules differ by host and this is none.
    """
    table = routes.table(host, method)
    route = table.find(path)
    if not (table.constant or SAME_IN_EVERY_READING.fullmatch(path)):
        _check_readings(table, path, route)
        if route is not None and route.rewriting is not None:
            _check_rewritten(table, path, route, route.rewriting)
    if route is None:
        raise RequestFault("not_found", "no route matches this host, path and method")
    return route


def _check_readings(table: _Table, path: str, route: Route | None) -> None:
    """Raise RequestFault("path_ambiguous") unless every reading of the path has this route."""
    try:
        for reading, how in readings(path):
            other = table.find(reading)
            if other is not route:
                raise RequestFault("path_ambiguous", _contradiction(path, route, reading, how, other))
    except UnreadableError as error:
        raise RequestFault("path_ambiguous", f"{path[:200]!a} {error}") from None


def _check_rewritten(table: _Table, path: str, route: Route, rewriting: Rewriting) -> None:
    """Raise RequestFault("path_ambiguous") if the backend may take the rewritten path for one of another route.

    What was a segment may have become the first one, and mean something else there: ``/api/%2Fx/admin`` without
    ``/api`` is ``//x/admin`` to some. So every reading of what is sent must be what this route could have sent.
    """
    sent = rewriting.inward(path)
    try:
        for reading, how in readings(sent):
            asked = rewriting.undone(reading)
            if not asked or any(table.find(path) is not route for path in asked):
                raise RequestFault(
                    "path_ambiguous",
                    f"{path[:200]!a} would go on as {sent[:200]!a}, but {', then '.join(how)} that is "
                    f"{reading[:200]!a}, which the rule “{route.name}” is not for",
                )
    except UnreadableError as error:  # rewriting may bring more to read than what came
        raise RequestFault("path_ambiguous", f"{sent[:200]!a} {error}") from None


def _contradiction(path: str, route: Route | None, reading: str, how: Way, other: Route | None) -> str:
    names = [f"under the rule “{found.name}”" if found else "under no rule" for found in (route, other)]
    return (
        f"{path[:200]!a} as it came falls {names[0]}, "
        f"but {', then '.join(how)} it is {reading[:200]!a}, which falls {names[1]}"
    )
