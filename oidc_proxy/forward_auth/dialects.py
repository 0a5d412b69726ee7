"""How each kind of proxy asks, and how it is answered."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from http import HTTPStatus
from typing import ClassVar, Literal, Protocol, TypeAlias
from urllib.parse import quote, unquote_plus

from msgspec.structs import replace

from oidc_proxy import pages
from oidc_proxy.errors import ProxyError, RequestFault
from oidc_proxy.forward_auth.settings import ForwardAuthSettings
from oidc_proxy.identity import Identity, IdentitySettings, announce
from oidc_proxy.messages import (
    HeaderPlan,
    Origins,
    Reply,
    RequestHead,
    canonical_name,
    is_navigation,
    query_parameters,
    split_target,
)
from oidc_proxy.policy import Condition
from oidc_proxy.tokens import VerifiedClaims
from oidc_proxy.values import Duration

# ── the answer that lets a request pass ───────────────────────────────────────────────────────────────────────────────

AUTH_REQUEST_HEADERS: Mapping[str, str] = {
    "X-Auth-Request-User": "user",
    "X-Auth-Request-Email": "email",
    "X-Auth-Request-Preferred-Username": "preferred_username",
    "X-Auth-Request-Groups": "groups",
}


class Announcement:
    """The header lines of an answer that lets a request pass.

    Every name is in every answer, empty where there is nothing to say: a proxy that overwrites what it is told to, and
    removes nothing, would pass on what the client sent under a name that is missing (CVE-2026-30851).
    """

    def __init__(self, settings: IdentitySettings) -> None:
        taken = {canonical_name(name) for name in settings.headers}
        known = {name: source for name, source in AUTH_REQUEST_HEADERS.items() if canonical_name(name) not in taken}
        self._settings = settings.model_copy(update={"headers": {**settings.headers, **known}})
        names = [*self._settings.headers, *(() if settings.authorization == "none" else ("Authorization",))]
        self._nothing = dict.fromkeys((name.encode() for name in names), b"")
        self.nobody = _block(self._nothing)

    def of(self, identity: Identity, claims: VerifiedClaims, token: str | None) -> bytes:
        """The lines for this user. LoginFault as from ``identity.announce``."""
        return _block({**self._nothing, **dict(announce(identity, claims, token, self._settings).set)})


def _block(lines: Mapping[bytes, bytes]) -> bytes:
    return b"".join(b"%b: %b\r\n" % line for line in lines.items())


# ── the dialects ──────────────────────────────────────────────────────────────────────────────────────────────────────

_LONGEST_LOCATION = 4096
_NO_STORE = b"Cache-Control: no-store\r\n"
_METHOD = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,40}")
_URL = re.compile(r"(?:https?|wss?)://([^/?#]+)(/.*)", re.IGNORECASE)

Demands: TypeAlias = tuple[Condition, ...]


class Dialect(Protocol):
    """How one kind of proxy asks, and how it can be answered."""

    @property
    def path(self) -> str:
        """Where it asks."""

    @property
    def yes(self) -> int:
        """The status that lets a request pass."""

    def read(self, asked: RequestHead, origins: Origins) -> RequestHead:
        """The head of the request that is asked about.

        RequestFault("bad_request") when the proxy does not say which it is.
        """

    def demands(self, asked: RequestHead, head: RequestHead) -> Demands:
        """What the proxy's own configuration demands besides: the query of the address where it asks."""

    def more(self, head: RequestHead, plan: HeaderPlan | None) -> bytes:
        """Lines of the answer that lets this request pass, besides the announcement."""

    def sign_in(self, head: RequestHead) -> Reply:
        """The answer for a person who must sign in first."""

    def refuse(self, error: ProxyError, head: RequestHead, reply: Reply) -> Reply:
        """The answer for any other end, made of the page or document that the visitor would get from us."""


@dataclass(frozen=True, slots=True)
class _Whole:
    """A proxy that passes on whatever we answer, whole, unless it is a 2xx."""

    prefix: str
    yes: int = 200
    kept: Mapping[str, bytes] = field(default_factory=dict)
    """Lines that say how long a yes may be kept, by the method of the request that may pass."""

    def demands(self, asked: RequestHead, head: RequestHead) -> Demands:
        return _demands(asked.query, OWN)

    def more(self, head: RequestHead, plan: HeaderPlan | None) -> bytes:
        return self.kept.get(head.method, _NO_STORE)

    def sign_in(self, head: RequestHead) -> Reply:
        return _redirect(head, self._start(head))

    def refuse(self, error: ProxyError, head: RequestHead, reply: Reply) -> Reply:
        return reply

    def _start(self, head: RequestHead) -> str:
        return _link(head, f"{self.prefix}/start")

    def _unavailable(self, head: RequestHead) -> str:
        return _link(head, f"{self.prefix}/unavailable")


@dataclass(frozen=True, slots=True)
class Nginx(_Whole):
    """nginx `auth_request`, ingress-nginx: of an answer other than 2xx, 401 and 403 they make a 500.

    Of a 401 they keep the status; the operator's `error_page` sends the browser to its Location.
    """

    words: ClassVar = ("X-Original-URL", "X-Original-Method")

    @property
    def path(self) -> str:
        return f"{self.prefix}/authz/nginx"

    def read(self, asked: RequestHead, origins: Origins) -> RequestHead:
        return _of_url(asked, origins)

    def sign_in(self, head: RequestHead) -> Reply:
        return _located_401(self._start(head))

    def refuse(self, error: ProxyError, head: RequestHead, reply: Reply) -> Reply:
        if error.status >= HTTPStatus.INTERNAL_SERVER_ERROR and is_navigation(head):
            return _located_401(self._unavailable(head))
        return _yes_or_no(error, reply)


@dataclass(frozen=True, slots=True)
class Forward(_Whole):
    """Traefik's ForwardAuth, Caddy's `forward_auth`, HAProxy's `auth-intercept`: X-Forwarded-Method, -Host and -Uri.

    X-Forwarded-Proto is not read: a proxy behind another one often reports the wrong one, and `public_url` knows.
    """

    words: ClassVar = ("X-Forwarded-Method", "X-Forwarded-Host", "X-Forwarded-Uri")

    @property
    def path(self) -> str:
        return f"{self.prefix}/authz/forward"

    def read(self, asked: RequestHead, origins: Origins) -> RequestHead:
        method, host, uri = (_one(asked, n) for n in ("X-Forwarded-Method", "X-Forwarded-Host", "X-Forwarded-Uri"))
        return _original(asked, origins, method, host, uri)

    def demands(self, asked: RequestHead, head: RequestHead) -> Demands:
        # Caddy asks with the visitor's query unless its `uri` has a "?". One that could be a demand is taken for one:
        # else the visitor could take the configured demand away by sending the same.
        if asked.query == head.query and OWN.isdisjoint(_names(asked.query)):
            return ()
        return _demands(asked.query, OWN)


@dataclass(frozen=True, slots=True)
class Envoy(_Whole):
    """Envoy `ext_authz` over HTTP: our path, and the original one with its query behind it.

    It never gets a 5xx: that is an error to Envoy, which `failure_mode_allow` lets pass.
    """

    words: ClassVar = ("Host",)

    @property
    def path(self) -> str:
        return f"{self.prefix}/authz/envoy"

    def read(self, asked: RequestHead, origins: Origins) -> RequestHead:
        return _original(asked, origins, asked.method, _one(asked, "Host"), asked.target[len(self.path) :])

    def demands(self, asked: RequestHead, head: RequestHead) -> Demands:
        return ()  # the query is the visitor's

    def refuse(self, error: ProxyError, head: RequestHead, reply: Reply) -> Reply:
        if error.status < HTTPStatus.INTERNAL_SERVER_ERROR:
            return reply
        if is_navigation(head):
            return _redirect(head, self._unavailable(head))
        refusal = type(error)(error.code, retry_after=pages.retry_after(error))
        refusal.status = 403
        return pages.problem(refusal, request_id=head.request_id)


@dataclass(frozen=True, slots=True)
class OAuth2Proxy(_Whole):
    """nginx as it was set up for oauth2-proxy: yes, 401 or 403, and the proxy's configuration knows where to sign in.

    Without X-Original-URL the session alone is asked about, which has an answer only where there is one rule for all;
    or about X-Forwarded-Uri, where the proxy is known to overwrite it (else it is the client's: CVE-2026-40575).
    """

    words: ClassVar = ("X-Original-URL", "X-Original-Method", "X-Forwarded-Uri", "Host")
    one_rule: bool = False
    forwarded_uri: bool = False

    @property
    def path(self) -> str:
        return f"{self.prefix}/auth"

    def read(self, asked: RequestHead, origins: Origins) -> RequestHead:
        if "X-Original-URL" in asked.headers:
            return _of_url(asked, origins)
        if self.forwarded_uri:
            return _original(asked, origins, "GET", _one(asked, "Host"), _one(asked, "X-Forwarded-Uri"))
        if not self.one_rule:
            raise RequestFault("bad_request", "X-Original-URL is missing, and rules differ by path, host or method")
        return _original(asked, origins, "GET", _one(asked, "Host"), "/")

    def demands(self, asked: RequestHead, head: RequestHead) -> Demands:
        return _demands(asked.query, _OAUTH2_PROXY)

    def more(self, head: RequestHead, plan: HeaderPlan | None) -> bytes:
        bearer = next((value for name, value in plan.set if name == b"Authorization"), b"") if plan else b""
        token = _block({b"X-Auth-Request-Access-Token": bearer.removeprefix(b"Bearer ")})
        return self.kept.get(head.method, _NO_STORE) + token

    def sign_in(self, head: RequestHead) -> Reply:
        return _plain_401()

    def refuse(self, error: ProxyError, head: RequestHead, reply: Reply) -> Reply:
        if error.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return _plain_401()
        return _yes_or_no(error, reply)


@dataclass(frozen=True, slots=True)
class EnvoyGrpc(_Whole):
    """Envoy `ext_authz` over gRPC: a denial may have any status, and is never taken for an error."""

    @property
    def path(self) -> str:
        return ""  # it has a port of its own, where the path is that of the request

    def read(self, asked: RequestHead, origins: Origins) -> RequestHead:
        return _original(asked, origins, asked.method, _one(asked, "Host"), asked.target)

    def demands(self, asked: RequestHead, head: RequestHead) -> Demands:
        return ()  # they come beside the request, in a Question

    def more(self, head: RequestHead, plan: HeaderPlan | None) -> bytes:
        return b""  # what it is told goes to the application


def dialects(settings: ForwardAuthSettings, prefix: str, *, one_rule: bool) -> list[Dialect]:
    """Those that are enabled. ``one_rule`` says that every request falls under the same rule."""
    known: Mapping[str, Dialect] = {
        "nginx": Nginx(prefix, kept=_kept(settings.cache, Nginx.words)),
        "forward": Forward(prefix, kept=_kept(settings.cache, Forward.words)),
        "envoy": Envoy(prefix, kept=_kept(settings.cache, Envoy.words)),
        "oauth2_proxy": OAuth2Proxy(
            prefix,
            202 if settings.legacy_202 else 200,
            _kept(settings.cache, OAuth2Proxy.words),
            one_rule,
            settings.forwarded_uri,
        ),
    }
    return [known[name] for name in dict.fromkeys(settings.dialects)]


def _kept(seconds: Duration | None, words: Iterable[str]) -> Mapping[str, bytes]:
    """What is said of keeping a yes that is about one of these methods.

    Of those that change nothing: for others, where the request comes from and where it puts things decide as well. Of a
    handshake, Origin does; it is about GET, and no two have the same key. nginx keeps nothing whose Vary is longer than
    128 characters.
    """
    if seconds is None:
        return {}
    vary = ", ".join(("Cookie", "Authorization", "Origin", "Sec-WebSocket-Key", *words))
    return dict.fromkeys(("GET", "HEAD"), b"Cache-Control: max-age=%d\r\nVary: %b\r\n" % (seconds, vary.encode()))


# ── reading ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _one(asked: RequestHead, name: str) -> str:
    values = asked.headers.getall(name, ())
    if len(values) != 1:
        raise RequestFault("bad_request", f"{name} comes {len(values)} times; the proxy that asks must set it")
    return values[0]


def _of_url(asked: RequestHead, origins: Origins) -> RequestHead:
    # nginx takes a Host with "?" or "#" in it, which must not become a part of the path: hence no such authority.
    parts = _URL.fullmatch(_one(asked, "X-Original-URL"))
    if parts is None:
        raise RequestFault("bad_request", "X-Original-URL is no absolute URL")
    return _original(asked, origins, _one(asked, "X-Original-Method"), parts[1], parts[2])


def _original(asked: RequestHead, origins: Origins, method: str, host: str, target: str) -> RequestHead:
    if not _METHOD.fullmatch(method):
        raise RequestFault("bad_request", "the method that is asked about is none")
    if method in {"CONNECT", "TRACE"}:
        raise RequestFault("method_not_allowed", f"{method} never passes")
    path, query = split_target(target)
    origin = origins.find(host)
    return replace(asked, method=method, target=target, path=path, query=query, origin=origin)


_KINDS: Mapping[str, Literal["groups", "roles", "emails", "email domains"]] = {
    "groups": "groups",
    "roles": "roles",
    "allowed_groups": "groups",
    "allowed_emails": "emails",
    "allowed_email_domains": "email domains",
}


OWN = frozenset({"groups", "roles"})
_OAUTH2_PROXY = frozenset(_KINDS) - OWN


def _names(query: str | None) -> set[str]:
    return {unquote_plus(pair.partition("=")[0]) for pair in (query or "").split("&")}


@lru_cache(256)
def _demands(query: str | None, names: frozenset[str]) -> Demands:
    """``groups=a,b&roles=c`` → one of these groups, and this role. What is not understood is a fault, not ignored."""
    return tuple(
        demand(name, names, (word for value in values for word in value.split(",")), "the address where it asks")
        for name, values in query_parameters(query).items()
    )


def demand(name: str, names: frozenset[str], words: Iterable[str], where: str) -> Condition:
    if name not in names:
        raise RequestFault("bad_request", f"the proxy demands {name!a} in {where}, which is unknown")
    any_of = tuple(filter(None, words))
    if not any_of:
        raise RequestFault("bad_request", f"the proxy demands {name} in {where}, and has nothing in it")
    return Condition(_KINDS[name], any_of)


# ── answering ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _link(head: RequestHead, path: str) -> str:
    """The absolute address of a page of ours that leads back; to the landing page what no redirect can lead back to."""
    url = f"{head.origin}{path}"
    back = f"{url}?rd={quote(f'{head.origin}{head.target}', safe='/:')}"
    return back if head.method in {"GET", "HEAD"} and len(back) <= _LONGEST_LOCATION else url


def _redirect(head: RequestHead, url: str) -> Reply:
    return pages.redirect(302 if head.method in {"GET", "HEAD"} else 303, url)


def _plain_401() -> Reply:
    return Reply(401, (("WWW-Authenticate", "Bearer"), ("Cache-Control", "no-store")))


def _located_401(url: str) -> Reply:
    reply = _plain_401()
    return Reply(401, (*reply.headers, ("Location", url)))


def _yes_or_no(error: ProxyError, reply: Reply) -> Reply:
    """403 for whatever may not pass. A proxy that asks wrongly is not told no: its own error shows the mistake."""
    if error.status in {401, 403} or error.status >= HTTPStatus.INTERNAL_SERVER_ERROR or error.code == "bad_request":
        return reply
    return Reply(403, reply.headers, reply.body)
