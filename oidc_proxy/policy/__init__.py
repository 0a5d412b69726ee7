"""Which route a request takes, and who may use it.

A backend may read a path in other ways than we do: decoded once or twice, with ``..`` resolved, slashes merged, ``;…``
cut off. A rule that one reading escapes is no rule. So a request gets to a decision only when *every* reading of its
path selects the same route; the bytes that are sent on are always the ones that came.

* ``settings``: what can be said in a rule
* ``rules``: what one rule comes to, and ``decide``, which asks it about a user
* ``routes``: all rules, indexed; ``match`` finds the one for a request
* ``readings``: everything that a backend may take a path for
* ``overlaps``: rules that lead past others by rewriting
* ``explanation``: the same decisions with their reasons, in words
"""

from __future__ import annotations

from .explanation import Check, Explanation, explain
from .overlaps import overlaps
from .routes import Routes, RoutesInvalid, compile_routes, match
from .rules import (
    Access,
    Allow,
    Anybody,
    Condition,
    Holder,
    Nobody,
    Refuse,
    Route,
    Senders,
    SignIn,
    Users,
    Verdict,
    decide,
    narrowed,
)
from .settings import RespondSettings, RouteSettings

__all__ = [
    "Access",
    "Allow",
    "Anybody",
    "Check",
    "Condition",
    "Explanation",
    "Holder",
    "Nobody",
    "Refuse",
    "RespondSettings",
    "Route",
    "RouteSettings",
    "Routes",
    "RoutesInvalid",
    "Senders",
    "SignIn",
    "Users",
    "Verdict",
    "compile_routes",
    "decide",
    "explain",
    "match",
    "narrowed",
    "overlaps",
]
