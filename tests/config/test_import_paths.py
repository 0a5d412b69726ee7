"""``oidc-proxy config import``: expressions that open paths, as paths of rules, and never more than they open."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from oidc_proxy.config.oauth2_proxy.paths import paths_of
from oidc_proxy.errors import RequestFault
from oidc_proxy.policy import RouteSettings, compile_routes, match
from tests.config.imported import BACKEND, config_of, imported


@pytest.mark.parametrize(
    ("pattern", "paths"),
    [
        ("^/static/", ["/static/"]), ("^/static/.*", ["/static/"]), ("^/static/.*$", ["/static/"]),
        ("^/health$", ["/health"]), ("^/favicon.ico$", ["/favicon.ico"]), (r"^/favicon\.ico$", ["/favicon.ico"]),
        ("^/api", ["/api", "/api/"]), ("^/api.*", ["/api", "/api/"]), ("^/api(/.*)?$", ["/api", "/api/"]),
        ("^/api(/|$)", ["/api", "/api/"]), ("^/x/?$", ["/x"]), ("^/", ["/"]), (".*", ["/"]), ("^/.*$", ["/"]),
        (r"^\/a\-b\/", ["/a-b/"]),
    ],
)  # fmt: skip
def test_plain_expressions_become_paths(pattern: str, paths: list[str]) -> None:
    found = paths_of(pattern)
    assert found is not None
    assert found[0] == paths
    for path in found[0]:
        RouteSettings(path=path)


@pytest.mark.parametrize(
    "pattern",
    [
        "^/$", "^/x/$", "^/(a|b)/", "^/a|^/b", "/api", "^/api/v[0-9]+/", "^/a+", "^/a?b", r"^/\d+", "^/a//b", "^/../x",
        "^/a%2fb", "(?i)^/a", "^/a$|^/b$", "", "^", "$", "^/a.{3}$", "^/x/.*/y", "^/./x", r"^/a\z",
    ],
)  # fmt: skip
def test_other_expressions_open_nothing(pattern: str) -> None:
    assert paths_of(pattern) is None


PATTERNS = (
    "^/static/", "^/health$", "^/api", "^/api(/.*)?$", "^/x/?$", r"^/favicon\.ico$", "^/favicon.ico$", "^/a/b.*",
    "^/a(/|$)", "^/$", "^/x/$", "^/(a|b)/", "^/api/v[0-9]+/", "^/a.+", "/static/", "^/a|^/b", "^/ab?", "^/a*",
)  # fmt: skip
PROBES = (
    "/", "/a", "/a/", "/a/b", "/a/bc", "/a/b/c", "/b", "/b/", "/api", "/api/", "/apical", "/api/v1/x", "/static", "/x",
    "/static/", "/static/a", "/x/static/a", "/health", "/health/", "/healthy", "/x/", "/x/y", "/favicon.ico", "/ab",
    "/faviconxico", "/aa", "/v1", "//a", "/a//b",
)  # fmt: skip


@pytest.mark.parametrize("pattern", PATTERNS)
def test_nothing_is_open_that_was_not(pattern: str, tmp_path: Path) -> None:
    config = config_of(imported(BACKEND, f"--skip-auth-route={pattern}"), tmp_path)
    routes = compile_routes([*config.routes, *([] if config.routes[-1].path == "/" else [RouteSettings(path="/")])])
    opened = []
    for path in PROBES:
        try:
            route = match(routes, host="app.example.com", path=path, method="GET")
        except RequestFault:
            continue  # it can be read in two ways, and is refused
        if route.settings.auth == "none":
            opened.append(path)
    assert [path for path in opened if not re.search(pattern, path)] == []
    assert opened or paths_of(pattern) is None
