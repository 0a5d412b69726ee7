"""Who may import what.

Whatever decides is below, whatever awaits is above, and nothing looks up. Each rule has its reason; the failure says it
and what to do instead. Imports count wherever they stand: within functions and under ``TYPE_CHECKING`` too.
"""

from __future__ import annotations

import ast
import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent / "oidc_proxy"

_SOCKETS = "provider store cache upstream telemetry metrics outlet front files pipe grpc"
_ORDERS = (
    "archive refresh sessions streams upgrade cookies endpoints login handover logout account "
    "exchange checks forwarding gateway gauges admin"
)
FLOORS = (
    {"", "values", "errors"},
    {"messages", "caching", "rewriting"},
    {"tokens", "oidc", "identity", "sessions", "handover", "websocket", "policy", "forward_auth", "pages"},
    {"server", *(f"server.{name}" for name in _SOCKETS.split())},
    {f"server.{name}" for name in _ORDERS.split()},
    {"config", "server.doors", "server.app", "server.workers", "cli", "__main__"},
    {"demo"},
)
"""What lives where, from the ground up; a module may import whatever is on a lower floor. "" is the package itself."""

FLOOR = {part: number for number, parts in enumerate(FLOORS) for part in parts}
PURE = {part for parts in FLOORS[:3] for part in parts}
WHAT_A_FLOOR_IS = (
    "small words and errors, which know nothing of ours",
    "HTTP as values",
    "what things are and what follows from them: no await, no clock, no dice, no sockets",
    "one kind of socket each, and a memory of what came over it",
    "the orders of awaits, and those who read or end what they keep",
    "composition",
    "a provider and a backend to try the gateway with",
)

SAME_FLOOR = {
    "messages": {"caching"},  # what a header says of caching belongs to the hygiene of headers
    "identity": {"tokens"},  # an Identity is made of verified claims and nothing else
    "oidc": {"tokens"},  # the provider's settings hold those of its tokens
    "sessions": {"identity", "oidc", "tokens"},  # a session holds what a sign-in brought
    "handover": {"oidc", "sessions"},  # it is a sign-in that another origin does, and brings its ticket
    "policy": {"sessions", "identity", "tokens", "websocket"},
    "forward_auth": {"policy", "sessions", "identity", "tokens", "pages"},
    "server.grpc": {"server.front"},  # what a listening socket is
    "server.files": {"server.telemetry"},  # that a renewed file is no good must be heard
    # A session is looked for in memory, then in the store, and is renewed at the provider; each knows those before it.
    "server.refresh": {"server.archive"},
    "server.sessions": {"server.archive", "server.refresh"},
    "server.streams": {
        "server.archive",
        "server.exchange",
        "server.sessions",
    },  # the end of a session is the end of its streams
    "server.upgrade": {f"server.{name}" for name in ("archive", "exchange", "sessions")},
    "server.endpoints": {"server.cookies", "server.sessions"},  # what each of them works with
    "server.login": {"server.archive", "server.endpoints"},
    "server.handover": {"server.endpoints", "server.login"},  # where nobody is signed in, a hand-over begins with that
    "server.logout": {"server.endpoints"},
    # A user's own list ends sessions as signing out does, and says so in the same words.
    "server.account": {"server.archive", "server.endpoints", "server.logout"},
    "server.checks": {"server.archive"},  # what a proxy that asks is told of a session
    # What is open on behalf of a session ends with it, so the way to the backend knows sessions; it takes no decision.
    "server.forwarding": {f"server.{name}" for name in ("archive", "exchange", "sessions", "streams", "upgrade")},
    "server.gateway": {
        *(f"server.{name}" for name in ("archive", "sessions", "exchange", "checks", "forwarding")),
        *(f"server.{name}" for name in ("endpoints", "login", "handover", "logout", "account")),
    },
    "server.telemetry": {"server.metrics", "server.outlet"},  # whoever writes down what happened counts it
    # How full the memory of sessions is; whoever keeps it does not know that it is counted.
    "server.gauges": {"server.archive"},
    # Health reads the floor below. Administration ends sessions through the same door as everybody, so that an end is
    # an end in every worker; and no order of awaits knows that there is a second listener.
    "server.admin": {"server.archive", "server.sessions"},
    "server.doors": {"config"},
    "server.app": {"config", "server.doors"},
    "server.workers": {"config", "server.app", "server.doors"},
    "cli": {"config", "server.app", "server.workers"},
    "__main__": {"cli"},
}
"""What a module may import beside it on its own floor."""

LOOKS_UP = {"cli": {"demo"}}
"""`oidc-proxy demo` is a command like any other; the gateway itself never learns that there is a demo."""

EVERYWHERE = {"multidict", "yarl", "pydantic", "pydantic_core", "msgspec"}
OWNERS = {
    "aiohttp": ({"server", "demo"}, "what awaits lives in server/, and the root must be testable without a loop"),
    "redis": ({"server.store"}, "one folder knows the store, so that another can take its place"),
    "yaml": ({"config"}, "one place reads configuration, and can say file, line and column for every problem"),
    "joserfc": ({"tokens", "demo"}, "one folder verifies tokens, small enough to audit"),
    "cryptography": ({"sessions"}, "one file seals"),
    "authlib": ({"oidc"}, "one folder speaks OAuth"),
    **dict.fromkeys(
        ("grpc", "envoy", "google"),
        ({"server.grpc"}, "one file speaks gRPC, so that nobody who does without it must have it"),
    ),
    "httptools": ({"server.upstream"}, "one folder speaks HTTP to backends"),
    "prometheus_client": ({"server.metrics"}, "one file knows what numbers look like outside"),
    "uvloop": ({"server.workers"}, "one file decides what a process is"),
}
"""Who may import a library, and why nobody else."""

IMPURE = {
    **dict.fromkeys(("time", "sched"), "take `now`, in seconds since the epoch, as an argument"),
    **dict.fromkeys(("secrets", "random", "uuid"), "take random bytes as an argument"),
    **dict.fromkeys(("asyncio", "threading", "concurrent", "multiprocessing", "signal"), "put the await into server/"),
    **dict.fromkeys(("socket", "ssl", "http", "select"), "put the socket into server/"),
    **dict.fromkeys(("logging", "warnings"), "return the fact, or raise it; telemetry writes it down"),
    **dict.fromkeys(("os", "io", "shutil", "tempfile", "subprocess", "sys"), "take the content as an argument"),
    **dict.fromkeys(("pickle", "shelve", "marshal"), "decode with msgspec: what is read must not run"),
    "importlib": "import by name, so that this test can see it",
}
PURE_ENOUGH = {"http.HTTPStatus": "a table of numbers"}

IMPURE_CALLS = {
    **dict.fromkeys(("open", "print", "input", "__import__", "exec", "eval"), "take the content as an argument"),
    **dict.fromkeys(("now", "utcnow", "today"), "take `now`, in seconds since the epoch, as an argument"),
    **dict.fromkeys(("urandom", "generate_key", "uuid4"), "take random bytes as an argument"),
    **dict.fromkeys(
        (
            "read_text",
            "read_bytes",
            "write_text",
            "write_bytes",
            "exists",
            "is_file",
            "is_dir",
            "stat",
            "iterdir",
            "unlink",
        ),
        "take the content as an argument: config reads the files",
    ),
}
"""A Path may be a setting's type down there, but nobody follows it."""


class Import(NamedTuple):
    line: int
    name: str


def imports(tree: ast.AST, module: str, is_package: bool) -> Iterator[Import]:
    """Every dotted name that a module imports; relative ones resolved, and ``from a import b`` as ``a.b``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (Import(node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = module.split(".") if is_package else module.split(".")[:-1]
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            yield from (Import(node.lineno, f"{origin}.{alias.name}") for alias in node.names)


def part_of(name: str) -> str:
    """The part of the package that a dotted name belongs to: ``oidc_proxy.tokens.keys`` → ``tokens``."""
    words = name.split(".")[1:]
    if not words or (len(words) == 1 and words[0] in {"__version__", "__init__"}):
        return ""
    return ".".join(words[: 2 if words[0] == "server" else 1])


def breaches(source: str, module: str, is_package: bool = False) -> list[str]:
    """What is wrong with a module, in sentences."""
    part, tree = part_of(module), ast.parse(source)
    if part not in FLOOR:
        return [f"{module} has no floor: say in FLOORS where it lives, and in docs what it is for"]
    found = [(line, _why_not(part, name)) for line, name in imports(tree, module, is_package)]
    if part in PURE:
        found += _impurities(tree)
    return [f"{module}, line {line}: {why}" for line, why in sorted(found, key=lambda f: f[0]) if why]


def _why_not(part: str, name: str) -> str:
    top = name.partition(".")[0]
    if top == "oidc_proxy":
        return _why_not_ours(part, name)
    if top in OWNERS:
        owners, reason = OWNERS[top]
        owned = part in owners or part.partition(".")[0] in owners
        return "" if owned else f"imports {name}, which is for {' and '.join(sorted(owners))} only: {reason}"
    if top not in sys.stdlib_module_names and top not in EVERYWHERE:
        return f"imports {name}, a library that nobody owns: say in OWNERS who does, and why"
    if part in PURE and top in IMPURE and name not in PURE_ENOUGH:
        return f"imports {name}, but {part or 'the package'} decides with values: {IMPURE[top]}"
    return ""


def _why_not_ours(part: str, name: str) -> str:
    wanted = part_of(name)
    if wanted not in FLOOR:
        return f"imports {name}, which has no floor"
    here, there = FLOOR[part], FLOOR[wanted]
    if wanted == part or there < here or wanted in SAME_FLOOR.get(part, set()) | LOOKS_UP.get(part, set()):
        return ""
    where = f"on the same floor, {there}" if there == here else f"above, on floor {there}"
    return (
        f"imports {name}, but {wanted} lives {where} ({WHAT_A_FLOOR_IS[there]}), and {part or 'the package'} on floor "
        f"{here} ({WHAT_A_FLOOR_IS[here]}): take what you need as an argument, or let a floor above bring both together"
    )


def _impurities(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith):
            yield node.lineno, "awaits, but the root decides with values: put what awaits into server/"
        elif isinstance(node, ast.Call):
            match node.func:
                case ast.Name(name) | ast.Attribute(attr=name) if name in IMPURE_CALLS:
                    yield node.lineno, f"calls {name}(), but the root decides with values: {IMPURE_CALLS[name]}"


MODULES = {
    ".".join(["oidc_proxy", *path.relative_to(ROOT).with_suffix("").parts]).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
}


@pytest.mark.parametrize("module", MODULES)
def test_modules_import_downwards_and_the_root_is_pure(module: str) -> None:
    path = MODULES[module]
    found = breaches(path.read_text(encoding="utf-8"), module, path.name == "__init__.py")
    assert not found, "\n".join(found)


@pytest.mark.parametrize("module", MODULES)
def test_no_regular_expression_is_possessive_or_atomic(module: str) -> None:
    # Python 3.11 before 3.11.5, which Debian 12 has, matches them wrongly: gh-100061, gh-106052.
    if module.endswith("__main__"):
        return
    for name, value in vars(importlib.import_module(module)).items():
        if isinstance(value, re.Pattern):
            parsed = repr(re._parser.parse(value.pattern, value.flags).data)  # type: ignore[attr-defined]
            assert "POSSESSIVE" not in parsed, name
            assert "ATOMIC" not in parsed, name


def test_the_modules_are_there() -> None:
    assert {"oidc_proxy", "oidc_proxy.values", "oidc_proxy.server.store.port", "oidc_proxy.tokens.verify"} <= set(
        MODULES
    )
    assert FLOOR.keys() <= {part_of(module) for module in MODULES}  # floors are for what exists


def test_no_two_rules_contradict() -> None:
    assert sum(map(len, FLOORS)) == len(FLOOR)
    assert len(FLOORS) == len(WHAT_A_FLOOR_IS)
    for part, beside in SAME_FLOOR.items():
        assert {FLOOR[other] for other in beside} == {FLOOR[part]}
        assert not any(part in SAME_FLOOR.get(other, ()) for other in beside), "two modules that import each other"


@pytest.mark.parametrize(
    ("module", "source", "sentence"),
    [
        ("values", "from .errors import ProxyError", "values on floor 0"),
        ("values", "from oidc_proxy import errors", "errors lives on the same floor, 0"),
        ("messages", "from .sessions import Ticket", "sessions lives above, on floor 2"),
        ("policy.rules", "from ..server.store import Store", "server.store lives above, on floor 3"),
        ("policy.rules", "from ..server import store", "server.store lives above, on floor 3"),
        ("policy.rules", "from oidc_proxy.server import store as s", "server.store lives above"),
        ("policy.rules", "import oidc_proxy.server.store as s", "server.store lives above"),
        ("policy.rules", "def f():\n    from ..config import Config", "line 2: imports oidc_proxy.config.Config"),
        ("policy.rules", "if TYPE_CHECKING:\n    from ..config import Config", "take what you need as an argument"),
        ("policy.rules", "try:\n    from .. import config\nexcept ImportError: ...", "config lives above"),
        ("tokens.keys", "from ..sessions import Session", "sessions lives on the same floor, 2"),
        ("tokens.keys", "from .. import oidc", "oidc lives on the same floor, 2"),
        ("identity", "from .sessions import Session", "sessions lives on the same floor, 2"),
        ("pages", "from .policy import Route", "policy lives on the same floor, 2"),
        ("server.store", "from .telemetry import Telemetry", "server.telemetry lives on the same floor, 3"),
        ("server.store", "from . import cache", "server.cache lives on the same floor, 3"),
        ("server.store.redis", "from ..cache import Cache", "server.cache lives on the same floor, 3"),
        ("server.store.memory", "from ..archive import record_key", "server.archive lives above, on floor 4"),
        ("server.cache", "from .store import Watcher", "server.store lives on the same floor, 3"),
        ("server.cache", "from .archive import SignedIn", "server.archive lives above, on floor 4"),
        ("server.telemetry", "from .gauges import session_metrics", "server.gauges lives above, on floor 4"),
        ("server.archive", "from .refresh import Refresher", "server.refresh lives on the same floor, 4"),
        ("server.refresh", "from .sessions import Sessions", "server.sessions lives on the same floor, 4"),
        ("server.sessions", "from .admin.sessions import Administration", "server.admin lives on the same floor, 4"),
        ("server.login", "from .logout import Logout", "server.logout lives on the same floor, 4"),
        ("server.logout", "from .account import Account", "server.account lives on the same floor, 4"),
        ("server.gateway", "from .admin.health import Health", "server.admin lives on the same floor, 4"),
        ("server.admin.sessions", "from ..login import Cookies", "server.login lives on the same floor, 4"),
        ("server.provider", "from .sessions import Sessions", "server.sessions lives above, on floor 4"),
        ("server.upstream.pool", "from ..front import Listener", "server.front lives on the same floor, 3"),
        ("server.sessions", "from .login import Login", "server.login lives on the same floor, 4"),
        ("server.gateway", "from ..config import Config", "config lives above, on floor 5"),
        ("config.checks", "from ..cli import options", "cli lives on the same floor, 5"),
        ("config.checks", "from oidc_proxy.server.app import App", "server.app lives on the same floor, 5"),
        ("server.app", "from ..demo.provider import Provider", "demo lives above, on floor 6"),
        ("config.checks", "import oidc_proxy.demo", "demo lives above, on floor 6"),
        ("policy.rules", "from oidc_proxy import *", "which has no floor"),
        ("policy.rules", "from ..helpers import x", "which has no floor"),
        ("helpers", "", "oidc_proxy.helpers has no floor: say in FLOORS where it lives"),
        ("server.helpers", "", "oidc_proxy.server.helpers has no floor"),
        ("pages", "from aiohttp import web", "for demo and server only: what awaits lives in server/"),
        ("config.reading", "import aiohttp.web", "for demo and server only"),
        ("server.sessions", "def f():\n    from redis.asyncio import Redis", "for server.store only: one folder knows"),
        ("server.cache", "from redis.exceptions import RedisError", "for server.store only"),
        ("server.store", "from prometheus_client import Counter", "for server.metrics only"),
        ("server.app", "import yaml", "for config only"),
        ("server.gateway", "from envoy.service.auth.v3 import external_auth_pb2", "for server.grpc only"),
        ("oidc.metadata", "from joserfc import jwt", "for demo and tokens only"),
        ("tokens.keys", "from cryptography.hazmat.primitives import hashes", "for sessions only: one file seals"),
        ("server.provider", "import authlib.jose", "for oidc only"),
        ("server.sessions", "import requests", "imports requests, a library that nobody owns"),
        ("sessions", "import time", "take `now`, in seconds since the epoch, as an argument"),
        ("sessions", "from time import time", "take `now`"),
        ("sessions", "import secrets", "take random bytes as an argument"),
        ("oidc.urls", "from random import choice", "take random bytes as an argument"),
        ("tokens.jws", "import asyncio.locks", "put the await into server/"),
        ("messages", "import socket", "put the socket into server/"),
        ("messages", "from http import client", "put the socket into server/"),
        ("policy.routes", "import logging.handlers", "telemetry writes it down"),
        ("oidc.settings", "import os.path", "take the content as an argument"),
        ("oidc.settings", "import importlib", "so that this test can see it"),
        ("sessions", "import pickle", "what is read must not run"),
        ("oidc.settings", "text = path.read_text()", "calls read_text(), but the root decides with values"),
        ("oidc.settings", "with open('x') as f: ...", "calls open()"),
        ("pages", "from datetime import datetime\nyear = datetime.now().year", "line 2: calls now()"),
        ("messages", "async def f(): ...", "put what awaits into server/"),
    ],
)
def test_a_breach_is_seen_and_explained(module: str, source: str, sentence: str) -> None:
    found = breaches(source, f"oidc_proxy.{module}")
    assert len(found) == 1
    assert sentence in found[0]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("sessions", "from .oidc import Tokens\nfrom .tokens import VerifiedClaims\nfrom .values import Origin"),
        ("sessions", "from cryptography.exceptions import InvalidTag"),
        ("tokens.keys", "from .text import base64url\nfrom oidc_proxy.tokens.faults import Reason\nimport joserfc.jwk"),
        ("oidc.settings", "from pathlib import Path\nfrom ..tokens import IdTokenSettings"),
        ("pages", "from http import HTTPStatus"),
        ("values", "from datetime import datetime\nprinted = datetime.fromtimestamp(0)"),
        ("server.telemetry", "import logging, secrets, time\nfrom .metrics import Metrics"),
        ("server.store", "if TYPE_CHECKING:\n    from redis.asyncio import Redis"),
        ("server.store.link", "from redis.exceptions import RedisError\nfrom ...errors import StoreFault"),
        ("server.sessions", "from .cache import Cache\nfrom .refresh import Refresher\nfrom ..sessions import Ticket"),
        (
            "server.admin.health",
            "from aiohttp import web\nfrom ..store import Store\nfrom ..telemetry import Telemetry",
        ),
        ("server.admin.sessions", "from ...sessions import Card\nfrom ..sessions import Sessions"),
        ("server.gateway", "from .login import Login\nfrom .upstream import Upstream\nasync def f(): ..."),
        ("server.workers", "import uvloop, asyncio\nfrom .app import App"),
        ("cli.demo", "from oidc_proxy.demo import house\nprint(open('x'))"),
        ("demo.house", "from oidc_proxy.server.app import App\nfrom oidc_proxy.config import Config\nimport joserfc"),
    ],
)
def test_what_is_allowed_is_not_complained_about(module: str, source: str) -> None:
    assert breaches(source, f"oidc_proxy.{module}") == []


@pytest.mark.parametrize(
    ("module", "is_package", "source", "name"),
    [
        ("oidc_proxy.tokens.keys", False, "from . import text", "oidc_proxy.tokens.text"),
        ("oidc_proxy.tokens.keys", False, "from .text import x", "oidc_proxy.tokens.text.x"),
        ("oidc_proxy.tokens.keys", False, "from ..values import x", "oidc_proxy.values.x"),
        ("oidc_proxy.tokens", True, "from .text import x", "oidc_proxy.tokens.text.x"),
        ("oidc_proxy.tokens", True, "from ..values import x", "oidc_proxy.values.x"),
        ("oidc_proxy.server.upstream", True, "from ... import values", "oidc_proxy.values"),
        ("oidc_proxy.values", False, "from . import __version__", "oidc_proxy.__version__"),
        ("oidc_proxy", True, "from .values import x", "oidc_proxy.values.x"),
    ],
)
def test_relative_imports_are_resolved(module: str, is_package: bool, source: str, name: str) -> None:
    assert [found.name for found in imports(ast.parse(source), module, is_package)] == [name]
