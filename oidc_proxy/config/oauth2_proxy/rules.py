"""Upstreams, who may enter, and what is open without a sign-in: oauth2-proxy's options as our upstreams and routes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from oidc_proxy.config.oauth2_proxy.draft import Draft, Given
from oidc_proxy.config.oauth2_proxy.options import OPTIONS
from oidc_proxy.config.oauth2_proxy.paths import is_path, paths_of
from oidc_proxy.config.oauth2_proxy.reading import duration
from oidc_proxy.values import Origin

WHO = "${WHO_MAY_ENTER}"
_SKIP = re.compile(r"(?P<method>[^=!]*)(?P<sign>!?=)(?P<path>.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Backend:
    """What is below a path: an upstream, or an answer; neither where another proxy passes requests on."""

    path: str
    url: str = ""
    status: int = 0

    @property
    def name(self) -> str:
        return "default" if self.path == "/" else re.sub(r"[^a-z0-9]+", "_", self.path.strip("/").lower())

    def goes(self) -> dict[str, Any]:
        """The part of a rule that says where its requests go."""
        if self.status:
            return {"respond": {"status": self.status, "body": "Authenticated"}}
        return {"upstream": self.name} if self.url and self.path != "/" else {}


@dataclass(frozen=True, slots=True)
class Opening:
    """A path that is open without a sign-in, for one method or all."""

    path: str
    method: str = ""

    def rule(self, backend: Backend, path: str) -> dict[str, Any]:
        methods = {"methods": [self.method]} if self.method else {}
        return {"path": path, **methods, "auth": "none", **backend.goes()}


@dataclass(slots=True)
class _Rules:
    """Rules under way, each path and method once: what comes first stays."""

    known: dict[tuple[str, ...], dict[str, Any]] = field(default_factory=dict)

    def add(self, rule: dict[str, Any]) -> None:
        self.known.setdefault((rule["path"], *rule.get("methods", ())), rule)

    @property
    def rules(self) -> list[dict[str, Any]]:
        return list(self.known.values())


def rules(given: Given, draft: Draft, *, forwarded_uri: bool) -> None:
    """Put ``upstreams``, ``routes`` and the part of ``forward_auth`` that depends on them."""
    backends = list(_backends(given, draft))
    asked = not backends or (given.truth("set-xauthrequest") and given.truth("reverse-proxy"))
    if asked:
        draft.put("forward_auth.dialects", ["oauth2_proxy"], "set-xauthrequest", "reverse-proxy")
        draft.put("forward_auth.legacy_202", True)
    _put_upstreams(given, draft, [backend for backend in backends if backend.url])
    openings = list(_openings(given, draft, given.text("proxy-prefix", "/oauth2")))
    if asked and forwarded_uri:
        draft.put("forward_auth.forwarded_uri", True)
        draft.say("M305", "forward_auth.forwarded_uri")
        for opening in [opening for opening in openings if opening.method]:
            openings.remove(opening)
            draft.say("M229", f"skip_auth_routes {opening.method}={opening.path}")
    made = _routes(backends or [Backend("/")], openings, _demands(given, draft), draft)
    if asked and not forwarded_uri and len(made) > 1:
        draft.say("M304", "forward_auth")
    if made != [{"path": "/"}]:
        draft.put("routes", made, "upstream", *(flag for flag in _ABOUT_RULES if given.has(flag)))


_ABOUT_RULES = (
    *("skip-auth-route", "skip-auth-regex", "skip-auth-preflight"),
    *("allowed-group", "keycloak-group", "allowed-role", "email-domain"),
    *(flag for flag, option in OPTIONS.items() if option.gate),
)


# ── where requests go ─────────────────────────────────────────────────────────────────────────────────────────────────


def _backends(given: Given, draft: Draft) -> Iterator[Backend]:
    taken: set[str] = set()
    for number, url in enumerate(given.listed("upstream")):
        about = f"upstreams[{number}]"
        backend = _backend(url, about, draft, asked=given.truth("set-xauthrequest") or given.truth("reverse-proxy"))
        if backend is not None and backend.path not in taken:
            taken.add(backend.path)
            yield backend
        elif backend is not None:
            draft.say("M221", about)


def _backend(url: str, about: str, draft: Draft, *, asked: bool) -> Backend | None:
    scheme, _, rest = url.partition("://")
    if scheme == "static" and asked and rest.startswith("2"):
        draft.say("M127", about)
        return None
    if scheme == "static":
        return _answer(rest, about, draft)
    if scheme == "unix" and rest.startswith("/"):
        return Backend("/", f"unix:{rest}")
    if scheme not in {"http", "https"}:
        draft.say("M220" if scheme == "file" else "M221", about)
        return None
    try:
        parts = urlsplit(url)
        origin = Origin.parse(f"{scheme}://{parts.netloc}")
    except ValueError:
        draft.say("M221", about)
        return None
    path = parts.path or "/"
    if parts.query or parts.fragment or not is_path(path):
        draft.say("M221", about)
        return None
    return Backend(path, str(origin))


def _answer(status: str, about: str, draft: Draft) -> Backend | None:
    if not re.fullmatch("[245][0-9]{2}", status) or int(status) not in set(HTTPStatus) - {204, 205}:
        draft.say("M225", about)
        return None
    return Backend("/", status=int(status))


def _put_upstreams(given: Given, draft: Draft, backends: list[Backend]) -> None:
    common: dict[str, Any] = {}
    if not given.truth("pass-host-header", default=True):
        common["host_header"] = "upstream"
    if given.truth("ssl-upstream-insecure-skip-verify"):
        common["tls"] = {"verify": False}
        draft.say("M129", "ssl-upstream-insecure-skip-verify")
    if given.has("upstream-timeout"):
        wait = duration(given.text("upstream-timeout"))
        if wait is None:
            draft.say("M231", "upstream-timeout")
        else:
            common["timeouts"] = {"response": str(wait)}
    if not given.truth("proxy-websockets", default=True):
        common["max_websockets"] = 0
    flags = [flag for flag in _ABOUT_UPSTREAMS if given.has(flag)]
    sections = {backend.name: {"url": backend.url, **common} for backend in backends}
    if [backend.path for backend in backends] == ["/"]:
        draft.put("upstream", backends[0].url if not common else sections["default"], "upstream", *flags)
    elif len(sections) == len(backends) > 0:
        draft.put("upstreams", sections, "upstream", *flags)
    elif backends:
        draft.say("M221", "upstream")


_ABOUT_UPSTREAMS = ("pass-host-header", "ssl-upstream-insecure-skip-verify", "upstream-timeout", "proxy-websockets")


# ── who may enter ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _demands(given: Given, draft: Draft) -> Mapping[str, list[str]]:
    """What a rule asks of a user. What cannot be said here becomes a variable that nobody has set."""
    groups, roles = _groups_and_roles(given)
    gates = [flag for flag, option in OPTIONS.items() if option.gate and given.has(flag)]
    domains = given.listed("email-domain")
    if any(domain.startswith((".", "*.")) for domain in domains) or (domains and _other_email(given)):
        if "*" not in domains:
            gates.append("email-domain")
        domains = []
    elif not domains and not given.has("authenticated-emails-file"):
        gates.append("email-domain")  # oauth2-proxy refuses to start
    for flag in gates:
        draft.say("M301", flag)
    if groups and roles:
        draft.say("M118", "allowed-role")
    demands = {
        "groups": [*groups, *([WHO] if gates else [])],
        "roles": roles,
        "email_domains": [] if "*" in domains else domains,
    }
    return {name: names for name, names in demands.items() if names}


def _groups_and_roles(given: Given) -> tuple[list[str], list[str]]:
    """Keycloak's roles are groups to oauth2-proxy, ``role:name`` and ``role:client:name``."""
    groups = [*given.listed("allowed-group"), *given.listed("keycloak-group")]
    as_groups = {name for name in groups if name.startswith("role:") and given.text("provider") == "keycloak-oidc"}
    roles = [*given.listed("allowed-role"), *(name.removeprefix("role:") for name in groups if name in as_groups)]
    return [name for name in groups if name not in as_groups], list(dict.fromkeys(roles))


def _other_email(given: Given) -> bool:
    return "*" not in given.listed("email-domain") and email_claim(given) != "email"


def email_claim(given: Given) -> str:
    """The claim that has the e-mail address."""
    claim = given.text("oidc-email-claim", "email")
    return claim if claim != "email" else given.text("user-id-claim", "email")


# ── what is open ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _openings(given: Given, draft: Draft, prefix: str) -> Iterator[Opening]:
    """In the order in which rules need them: one method comes before all."""
    found = [
        *(opening for text in given.listed("skip-auth-route") for opening in _opening(text, draft, prefix)),
        *(
            opening
            for text in given.listed("skip-auth-regex")
            for opening in _matching("", text, f"skip_auth_regex {text}", draft, prefix)
        ),
        *([Opening("/", "OPTIONS")] if given.truth("skip-auth-preflight") else []),
    ]
    yield from sorted(dict.fromkeys(found), key=lambda opening: not opening.method)


def _opening(text: str, draft: Draft, prefix: str) -> Iterator[Opening]:
    parts = _SKIP.fullmatch(text)
    method = parts["method"].upper() if parts else ""
    about = f"skip_auth_routes {text}"
    if (parts and parts["sign"] == "!=") or not re.fullmatch("[A-Z]*", method):
        draft.say("M222", about)
        return
    yield from _matching(method, parts["path"] if parts else text, about, draft, prefix)


def _matching(method: str, pattern: str, about: str, draft: Draft, prefix: str) -> Iterator[Opening]:
    found = paths_of(pattern)
    if found is None:
        draft.say("M222", about)
        return
    paths, narrower = found
    if f"{paths[0]}/".startswith(f"/{prefix.strip('/')}/"):
        draft.say("M124", about)
        return
    if narrower:
        draft.say("M123", about)
    yield from (Opening(path, method) for path in paths)


# ── rules ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _routes(
    backends: list[Backend], openings: list[Opening], demands: Mapping[str, list[str]], draft: Draft
) -> list[dict[str, Any]]:
    made = _Rules()
    for opening in openings:
        owner = max((b for b in backends if _covers(b.path, opening.path)), key=lambda b: len(b.path), default=None)
        if owner is not None:
            made.add(opening.rule(owner, opening.path))
        for backend in backends:
            if backend is not owner and _covers(opening.path, backend.path):
                made.add(opening.rule(backend, backend.path))
        if owner is None and not any(_covers(opening.path, backend.path) for backend in backends):
            draft.say("M231", f"skip_auth_routes {opening.path}")
        if opening.method == "OPTIONS" and opening.path == "/":
            draft.say("M130", "skip-auth-preflight")
    open_to_all = {rule["path"] for rule in made.rules if "methods" not in rule}
    for backend in backends:
        if backend.path not in open_to_all:
            made.add({"path": backend.path, **demands, **backend.goes()})
    return made.rules


def _covers(path: str, other: str) -> bool:
    """Whether what is at ``other`` is at ``path`` or, if that ends with a slash, below it."""
    return other == path or (path.endswith("/") and other.startswith(path))
