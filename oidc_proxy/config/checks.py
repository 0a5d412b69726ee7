"""What no setting can know by itself: whether the settings go together.

Each function looks at the top-level settings that its parameters name. It tells what is wrong as a problem with a
dotted path; the loader finds the place. A new check is a new function in ``CHECKS``.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel

from oidc_proxy.config.problems import Problem
from oidc_proxy.forward_auth import ForwardAuthSettings
from oidc_proxy.messages import EndpointSettings
from oidc_proxy.oidc import LoginSettings, ProviderSettings
from oidc_proxy.policy import RouteSettings, RoutesInvalid, compile_routes, overlaps
from oidc_proxy.server.admin import AdminSettings
from oidc_proxy.server.front.settings import ListenSettings
from oidc_proxy.server.store import MemoryStoreSettings
from oidc_proxy.sessions import SessionSettings
from oidc_proxy.values import Origin, Secret

DEFAULT_UPSTREAM = "default"


def plain_http(public_url: Sequence[Origin], allow_insecure_http: bool) -> Iterator[Problem]:
    """Session cookies and codes must not cross a network in the clear (RFC 9700 §2.6)."""
    for index, origin in enumerate(public_url):
        if not (origin.secure or origin.loopback or allow_insecure_http):
            yield Problem(
                "E120",
                f"public_url.{index}",
                "is http on a host that is not this machine; the session cookie would cross the network in the clear",
                f"write https://{origin.host}, or add “allow_insecure_http: true”",
            )


def cookie(public_url: Sequence[Origin], session: SessionSettings) -> Iterator[Problem]:
    """Browsers drop cookies that do not fit where they come from (RFC 6265bis §5.7)."""
    settings = session.cookie
    domain = settings.domain
    if settings.same_site == "None" and not all(origin.secure for origin in public_url):
        yield Problem(
            "E121",
            "session.cookie.same_site",
            "None makes browsers refuse the cookie unless `public_url` is https",
            "write Lax, or an https `public_url`",
        )
    if settings.name.startswith("__"):
        yield Problem(
            "E121",
            "session.cookie.name",
            "must not have a prefix of its own; __Host- is put in front where the deployment allows it",
            f"write {settings.name.removeprefix('__Host-').removeprefix('__Secure-')}",
        )
    if domain is not None:
        yield from _cookie_domain(domain, public_url)


def _cookie_domain(domain: str, public_url: Sequence[Origin]) -> Iterator[Problem]:
    name, path = domain.removeprefix(".").lower(), "session.cookie.domain"
    if domain != name:
        yield Problem("E121", path, "must be in lower case, without a dot in front", f'did you mean "{name}"?')
    elif "." not in name:
        yield Problem("E121", path, "must have at least two parts; browsers refuse the cookie otherwise")
    for origin in public_url:
        if origin.host != name and not origin.host.endswith(f".{name}"):
            yield Problem(
                "E121",
                path,
                f"does not cover the host of `public_url`, {origin.host}; browsers refuse the cookie",
                "write a domain that the host is in, or remove the key",
            )


def upstreams_named(
    upstream: object,
    upstreams: Mapping[str, object],
    routes: Sequence[RouteSettings],
    forward_auth: ForwardAuthSettings,
) -> Iterator[Problem]:
    """Every route leads somewhere; where other proxies do the passing on, nothing has to."""
    names = list(upstreams)
    if upstream is not None and DEFAULT_UPSTREAM not in upstreams:
        names.append(DEFAULT_UPSTREAM)
    passed_on = [(index, route) for index, route in enumerate(routes) if route.respond is None]
    if not names and (passed_on or not routes) and not forward_auth.enabled:
        yield Problem(
            "E123",
            "upstream",
            "is missing: there is nothing to pass requests on to",
            "add “upstream: http://127.0.0.1:8080”, or `forward_auth` where another proxy passes them on",
        )
        return
    for index, route in passed_on:
        if route.upstream is not None and route.upstream not in names:
            close = get_close_matches(route.upstream, names, n=1)
            hint = f"did you mean `{close[0]}`?" if close else f"the upstreams are {', '.join(names) or 'none'}"
            yield Problem("E122", f"routes.{index}.upstream", f"there is no upstream “{route.upstream}”", hint)
        if route.upstream is None and names and DEFAULT_UPSTREAM not in names:
            yield Problem(
                "E122",
                f"routes.{index}",
                f"names no upstream, and there is none that is called {DEFAULT_UPSTREAM}",
                f"add “upstream: {names[0]}”",
            )


def something_routed(
    upstream: object, upstreams: Mapping[str, object], routes: Sequence[RouteSettings]
) -> Iterator[Problem]:
    """Without the short form ``upstream``, only what routes name is reachable."""
    if upstreams and upstream is None and not routes:
        yield Problem("E123", "routes", "is missing: no request would lead anywhere", "add “routes: [{path: /}]”")


def one_default(upstream: object, upstreams: Mapping[str, object]) -> Iterator[Problem]:
    """``upstream`` is the short form of ``upstreams.default``."""
    if upstream is not None and DEFAULT_UPSTREAM in upstreams and upstreams[DEFAULT_UPSTREAM] is not upstream:
        yield Problem("E123", "upstream", f"is also given as upstreams.{DEFAULT_UPSTREAM}", "remove one of them")


def shared_sessions(listen: ListenSettings, store: object) -> Iterator[Problem]:
    """Each worker is a process of its own and has its own memory."""
    workers = listen.workers
    if workers > 1 and isinstance(store, MemoryStoreSettings):
        yield Problem(
            "E124",
            "listen.workers",
            f"is {workers}, but the memory store is not shared: every worker would know only the sign-ins that it has "
            "served itself, and users would be asked to sign in again and again",
            "write 1, or add “store: {type: redis, url: redis://…}”",
        )


# RFC 7517 appendix A.2: an RSA key whose private part is printed there, and which people have been seen to deploy.
_RFC7517_MODULUS = (
    "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhM"
    "stn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5h"
    "ajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"
)
_PLACEHOLDERS = frozenset({"replace-me", "replaceme", "change-me", "changeme"})


def known_secrets(provider: ProviderSettings, session: SessionSettings, store: BaseModel) -> Iterator[Problem]:
    """Secrets that everybody knows."""
    sections = {"provider": provider, "session": session, "store": store}
    for name, section in sections.items():
        for path, value in _secrets(name, section):
            if _is_published(value.reveal()):
                yield Problem("E125", path, "is the example key of RFC 7517, whose private part everybody knows",
                              "make a key of your own")  # fmt: skip
            elif value.reveal().lower() in _PLACEHOLDERS:
                yield Problem("W202", path, "is still the placeholder of the example", "put the real secret there")


def _secrets(path: str, value: Any) -> Iterator[tuple[str, Secret]]:
    match value:
        case Secret():
            yield path, value
        case BaseModel():
            for name in type(value).model_fields:
                yield from _secrets(f"{path}.{name}", getattr(value, name))
        case Mapping():
            for name, inner in value.items():
                yield from _secrets(f"{path}.{name}", inner)
        case tuple() | list():
            for index, inner in enumerate(value):
                yield from _secrets(f"{path}.{index}", inner)
        case _:
            return


def _is_published(text: str) -> bool:
    """Whether the key is RFC 7517's, as a JWK or in PEM."""
    if _RFC7517_MODULUS in text:
        return True
    body = re.sub(r"-----[^-]*-----|\s", "", text)
    try:
        return base64.urlsafe_b64decode(_RFC7517_MODULUS + "==") in base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        return False


def shared_login_key(provider: ProviderSettings, session: SessionSettings, store: object) -> Iterator[Problem]:
    """The key that seals sign-ins under way comes from the client secret, when no other is given."""
    if session.key is None and provider.client_secret is None and not isinstance(store, MemoryStoreSettings):
        yield Problem(
            "W205",
            "session.key",
            "is not given, and there is no client secret to derive it from: every start of the program makes a key of "
            "its own, so a sign-in that starts at one replica cannot finish at another",
            "add key_file with a long random text, the same for all replicas",
        )


def trusts_everybody(listen: ListenSettings, forward_auth: ForwardAuthSettings) -> Iterator[Problem]:
    """A network of prefix length 0 lets every client choose its own address."""
    lies = {
        "listen": (listen.trusted_proxies, "which address it has; logs and limits then believe anything"),
        "forward_auth": (forward_auth.trusted_proxies, "which request it asks about, and from where that comes"),
    }
    for name, (networks, lie) in lies.items():
        for index, network in enumerate(networks):
            if network.prefixlen == 0:
                yield Problem(
                    "W203",
                    f"{name}.trusted_proxies.{index}",
                    f"trusts every client to say {lie}",
                    "write the networks of the proxies in front",
                )


def askers_known(forward_auth: ForwardAuthSettings) -> Iterator[Problem]:
    """A dialect believes what it is told, so it must be known who tells it."""
    if forward_auth.enabled and not forward_auth.trusted_proxies:
        yield Problem(
            "E129",
            "forward_auth",
            "has no trusted_proxies, so nobody could ask: nothing is believed of a proxy that is not named",
            "add “trusted_proxies: [127.0.0.1/32]” with the addresses that the proxy in front connects from, such as "
            "172.16.0.0/12 for Docker's networks or the range of the pods in Kubernetes",
        )
    if forward_auth.address is not None and not forward_auth.dialects:
        yield Problem(
            "E129",
            "forward_auth.address",
            "is where nobody could ask: there are no `dialects`, and gRPC has an address of its own",
            "add “dialects: [nginx]” or the like, or remove the key",
        )


def methods_told(routes: Sequence[RouteSettings], forward_auth: ForwardAuthSettings) -> Iterator[Problem]:
    """X-Forwarded-Uri comes without a method, so what depends on one would be decided for GET."""
    if forward_auth.forwarded_uri and "oauth2_proxy" in forward_auth.dialects:
        for index, route in enumerate(routes):
            if route.methods is not None or route.cross_site == "refuse":
                yield Problem(
                    "E131",
                    f"routes.{index}",
                    "depends on the method, which a proxy that `forward_auth.forwarded_uri` believes does not tell",
                    "let the proxy send X-Original-URL and X-Original-Method, and remove `forwarded_uri`",
                )


def one_auth_origin(public_url: Sequence[Origin], login: LoginSettings, session: SessionSettings) -> Iterator[Problem]:
    """Where one origin signs in for all, each host has a cookie of its own, and browsers bring it along."""
    auth, path = login.auth_origin, "login.auth_origin"
    if auth is None:
        return
    if auth not in public_url:
        yield Problem("E132", path, f"is {auth}, which is none of `public_url`", f"add {auth} to `public_url`")
    for index, origin in enumerate(public_url):
        if origin.scheme != auth.scheme:
            words = f"is {origin.scheme}, but login.auth_origin is {auth.scheme}; a hand-over must not leave https"
            yield Problem("E132", f"public_url.{index}", words, f"write {auth.scheme}://{origin.host}")
        elif origin.host == auth.host and origin != auth:
            words = f"has the host of {path}; ports do not separate cookies, so each would take the other's session"
            yield Problem("E132", f"public_url.{index}", words, "give each a host of its own")
    if session.cookie.domain is not None:
        words = "takes the session to the other hosts already, so that nothing is handed over"
        yield Problem("E132", "session.cookie.domain", words, f"remove it, or {path}")
    if session.cookie.same_site == "Strict":
        words = "is Strict, so browsers leave the cookie out where one host sends them to another, and sign in for ever"
        yield Problem("E132", "session.cookie.same_site", words, "write Lax")


def lifetimes(session: SessionSettings) -> Iterator[Problem]:
    """The parts of a session's life fit into each other."""
    for name in ("idle_timeout", "absolute_timeout"):
        if getattr(session, name) <= 0:
            yield Problem("E126", f"session.{name}", "must be longer than 0", "write a duration such as 8h")
    if session.idle_timeout > session.absolute_timeout:
        yield Problem(
            "E126",
            "session.idle_timeout",
            f"is {session.idle_timeout}, longer than session.absolute_timeout, which is {session.absolute_timeout}",
            f"write at most {session.absolute_timeout}, or raise absolute_timeout",
        )
    if session.touch_interval is not None and session.touch_interval >= session.idle_timeout:
        yield Problem(
            "E126",
            "session.touch_interval",
            f"must be shorter than session.idle_timeout, which is {session.idle_timeout}; "
            "sessions would end while they are used",
        )


def routes_usable(
    public_url: Sequence[Origin], routes: Sequence[RouteSettings], endpoints: EndpointSettings
) -> Iterator[Problem]:
    """Every rule can be reached, names are used once, and rewriting leads past no rule."""
    for index, route in enumerate(routes):
        if route.path.startswith(f"{endpoints.prefix}/"):
            yield Problem(
                "E127",
                f"routes.{index}.path",
                f"is below {endpoints.prefix}, where the gateway's own endpoints are",
                "choose another `endpoints.prefix`",
            )
    try:
        compiled = compile_routes(routes, [origin.host for origin in public_url])
    except RoutesInvalid as error:
        for index, sentence in error.problems:
            yield Problem("E127", f"routes.{index}", sentence)
        return
    for index, sentence in overlaps(compiled):
        yield Problem("W209", f"routes.{index}", sentence, "give it the same conditions, or an upstream of its own")


def grpc_listens(listen: ListenSettings, forward_auth: ForwardAuthSettings) -> Iterator[Problem]:
    """All workers can listen where Envoy asks."""
    if forward_auth.grpc is not None and forward_auth.grpc.address.startswith("unix:") and listen.workers > 1:
        yield Problem(
            "E128",
            "forward_auth.grpc.address",
            "is a Unix domain socket, which several workers cannot share",
            "write a port, or workers: 1",
        )


def listeners_differ(
    listen: ListenSettings, admin: AdminSettings, forward_auth: ForwardAuthSettings
) -> Iterator[Problem]:
    """Each listener has an address of its own."""
    grpc = forward_auth.grpc
    taken: dict[str, str] = {}
    for name, path, address in (
        ("listen", "listen.address", listen.address),
        ("admin", "admin.address", admin.address),
        ("listen.redirect_https", "listen.redirect_https", listen.redirect_https),
        ("forward_auth", "forward_auth.address", forward_auth.address),
        ("forward_auth.grpc", "forward_auth.grpc.address", grpc.address if grpc is not None else None),
    ):
        if address is None:
            continue
        if address in taken:
            yield Problem("E128", path, f"is the address of `{taken[address]}` as well", "write another port")
        taken.setdefault(address, name)


def https_there(public_url: Sequence[Origin], listen: ListenSettings) -> Iterator[Problem]:
    """What speaks of https needs a site that is https."""
    if any(origin.secure for origin in public_url):
        return
    for name in ("tls", "redirect_https"):
        if getattr(listen, name) is not None:
            yield Problem(
                "E130",
                f"listen.{name}",
                "is for https, but `public_url` is http",
                f"write https://{public_url[0].host} there, or remove the key",
            )


def sessions_administered(admin: AdminSettings) -> Iterator[Problem]:
    """Whoever reaches a listener must not end sessions because of that alone."""
    if admin.address is not None and not admin.loopback and admin.token is None:
        yield Problem(
            "W206",
            "admin.address",
            "is reachable from other machines, and there is no `admin.token`: /sessions answers 403, so sessions "
            "can be neither listed nor ended",
            "add token_file with a long random text, or write a loopback address",
        )


def provider_protected(provider: ProviderSettings) -> Iterator[Problem]:
    """What is permitted for trials should not go unseen."""
    if not provider.tls.verify:
        yield Problem("W204", "provider.tls.verify", "is off: anybody on the way can pose as the provider")
    if provider.allow_insecure_http:
        yield Problem("W204", "provider.allow_insecure_http", "lets the provider be used without TLS")


CHECKS = (
    plain_http,
    cookie,
    upstreams_named,
    something_routed,
    one_default,
    shared_sessions,
    known_secrets,
    shared_login_key,
    trusts_everybody,
    askers_known,
    methods_told,
    one_auth_origin,
    lifetimes,
    routes_usable,
    listeners_differ,
    grpc_listens,
    https_there,
    sessions_administered,
    provider_protected,
)
