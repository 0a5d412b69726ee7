"""oauth2-proxy's options as our settings: each function reads the options of one subject."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from oidc_proxy.config.oauth2_proxy.draft import Draft, Given
from oidc_proxy.config.oauth2_proxy.options import OPTIONS
from oidc_proxy.config.oauth2_proxy.reading import Values, duration
from oidc_proxy.config.oauth2_proxy.rules import email_claim, rules
from oidc_proxy.oidc.urls import check_redirect_rule
from oidc_proxy.values import Origin


def convert(values: Values, *, forwarded_uri: bool = False) -> Draft:
    """Our settings, with a note for every option that differs, has no counterpart or is to be decided about.

    ``forwarded_uri`` says that the proxy in front sets X-Forwarded-Uri in every check.
    """
    given, draft = Given(values), Draft()
    for subject in (_public, _provider, _sign_in, _claims):
        subject(given, draft)
    rules(given, draft, forwarded_uri=forwarded_uri)
    for subject in (_listeners, _believed, _store, _session, _announced, _log):
        subject(given, draft)
    _told(given, draft)
    draft.keep_sources(values)
    return draft


def _told(given: Given, draft: Draft) -> None:
    """The sentences of the table, and of what the table does not have."""
    for flag, value in given.values.items():
        option = OPTIONS.get(flag)
        if option is None:
            draft.say("M230", flag)
        elif option.code and not option.gate and value not in option.harmless:
            draft.say(option.code, flag)
    draft.say("M111", "ping-path")


def _moved(given: Given, draft: Draft, places: Mapping[str, str]) -> None:
    """Flag → setting that has the same value."""
    for flag, place in places.items():
        if given.has(flag):
            draft.put(place, given.values[flag], flag)


def _without_effect(given: Given, draft: Draft, code: str, *flags: str) -> None:
    for flag in flags:
        if given.has(flag):
            draft.say(code, flag)


def _secret(given: Given, draft: Draft, flag: str, place: str) -> None:
    """A reference in the place of a secret."""
    if given.has(flag):
        draft.put(place, f"${{OAUTH2_PROXY_{flag.replace('-', '_').upper()}}}", flag)
        draft.say("M302", flag)


def _missing(draft: Draft, place: str, variable: str, flag: str) -> None:
    draft.put(place, f"${{{variable}}}")
    draft.say("M303", flag)


# ── the site and its provider ─────────────────────────────────────────────────────────────────────────────────────────


def _public(given: Given, draft: Draft) -> None:
    prefix = f"/{given.text('proxy-prefix', '/oauth2').strip('/')}"
    url = given.text("redirect-url")
    try:
        parts = urlsplit(url)
        origin = Origin.parse(f"{parts.scheme}://{parts.netloc}")
    except ValueError:
        _missing(draft, "public_url", "PUBLIC_URL", "redirect-url")
    else:
        draft.put("public_url", str(origin), "redirect-url")
        if parts.path not in {"", f"{prefix}/callback"} or parts.query:
            draft.say("M122", "redirect-url")
        if not (origin.secure or origin.loopback or given.truth("cookie-secure", default=True)):
            draft.put("allow_insecure_http", True, "cookie-secure")
    if prefix != "/oauth2":
        draft.put("endpoints.prefix", prefix, "proxy-prefix")


_ISSUERS: Mapping[str, str] = {"google": "https://accounts.google.com", "gitlab": "https://gitlab.com"}
_NO_OPENID = frozenset(
    {"github", "bitbucket", "digitalocean", "facebook", "linkedin", "nextcloud", "gitea", "sourcehut"}
)
_KEYCLOAK = re.compile(r"(https?://[^?#]+/realms/[^/?#]+)/protocol/openid-connect/auth")


def _issuer(given: Given) -> str:
    kind = given.text("provider", "google")
    if given.has("oidc-issuer-url"):
        return given.text("oidc-issuer-url")
    if kind == "azure" and given.text("azure-tenant", "common") != "common":
        return f"https://login.microsoftonline.com/{given.text('azure-tenant')}/v2.0"
    realm = _KEYCLOAK.fullmatch(given.text("login-url"))
    return realm[1] if realm and kind.startswith("keycloak") else _ISSUERS.get(kind, "")


def _is_here(url: str) -> bool:
    try:
        return Origin.parse("://".join(urlsplit(url)[:2])).loopback
    except ValueError:
        return False


def _provider(given: Given, draft: Draft) -> None:
    kind, issuer = given.text("provider", "google"), _issuer(given)
    if issuer:
        draft.put("provider.issuer", issuer, "provider", "oidc-issuer-url")
        if issuer.startswith("http://") and not _is_here(issuer):
            draft.say("M308", "oidc-issuer-url")
    else:
        _missing(draft, "provider.issuer", "OIDC_ISSUER", "oidc-issuer-url")
    if kind in _NO_OPENID:
        draft.say("M219", f"provider {kind}")
    if issuer == _ISSUERS["google"]:
        hosts = ("oauth2", "www", "openidconnect")
        draft.put("provider.endpoint_origins", [f"https://{host}.googleapis.com" for host in hosts])
    if given.has("client-id"):
        draft.put("provider.client_id", given.text("client-id"), "client-id")
    else:
        _missing(draft, "provider.client_id", "OIDC_CLIENT_ID", "client-id")
    if given.has("client-secret-file"):
        draft.put("provider.client_secret_file", given.text("client-secret-file"), "client-secret-file")
    else:
        _secret(given, draft, "client-secret", "provider.client_secret")
    endpoints = ("login-url", "redeem-url", "profile-url", "oidc-jwks-url")
    if given.truth("skip-oidc-discovery"):
        draft.put("provider.discovery", False, "skip-oidc-discovery")
        _moved(given, draft, {flag: OPTIONS[flag].into for flag in endpoints})
    else:
        _without_effect(given, draft, "M132", *endpoints)
    _verified(given, draft)


def _verified(given: Given, draft: Draft) -> None:
    """How the provider and its tokens are checked."""
    authorities = given.listed("provider-ca-file")
    if authorities:
        draft.put("provider.tls.ca_file", authorities[0], "provider-ca-file")
    if len(authorities) > 1:
        draft.say("M119", "provider-ca-file")
    if given.truth("ssl-insecure-skip-verify"):
        draft.put("provider.tls.verify", False, "ssl-insecure-skip-verify")
        draft.say("M129", "ssl-insecure-skip-verify")
    if given.has("oidc-extra-audience"):
        draft.put("provider.id_token.trusted_audiences", given.listed("oidc-extra-audience"), "oidc-extra-audience")
    algorithms = given.listed("oidc-enabled-signing-alg")
    usable = [name for name in algorithms if re.fullmatch(r"(RS|PS|ES)(256|384|512)|EdDSA", name)]
    if usable:
        draft.put("provider.id_token.algorithms", usable, "oidc-enabled-signing-alg")
    if usable != algorithms:
        draft.say("M231", "oidc-enabled-signing-alg")


def _sign_in(given: Given, draft: Draft) -> None:
    scopes = given.text("scope").split()
    if not scopes and given.has("allowed-group") and given.text("provider") == "oidc":
        scopes = ["openid", "email", "profile", "groups"]
    if scopes:
        draft.put("provider.scopes", scopes, "scope")
    for name in ("prompt", "resource"):
        if given.has(name):
            draft.put(f"login.params.{name}", given.text(name), name)
    if given.has("acr-values"):
        draft.put("login.acr_values", given.text("acr-values").split(), "acr-values")
    redirects = [rule for text in given.listed("whitelist-domain") if (rule := _redirect(text, draft))]
    if redirects:
        draft.put("login.allowed_redirects", redirects, "whitelist-domain")
        draft.say("M131", "whitelist-domain")
    _pending(given, draft)


def _pending(given: Given, draft: Draft) -> None:
    """How long a sign-in may be under way, and how many."""
    if given.has("cookie-csrf-expire"):
        wait = duration(given.text("cookie-csrf-expire"))
        if wait:
            draft.put("login.timeout", str(wait), "cookie-csrf-expire")
        else:
            draft.say("M231", "cookie-csrf-expire")
    limit = given.text("cookie-csrf-per-request-limit", "0")
    if re.fullmatch("[1-9][0-9]?|100", limit):
        draft.put("login.max_pending", int(limit), "cookie-csrf-per-request-limit")
    elif limit != "0":
        draft.say("M231", "cookie-csrf-per-request-limit")


def _redirect(domain: str, draft: Draft) -> str | None:
    """``.example.com`` and ``*.example.com`` stand for what is below; a port may follow."""
    host = f"*.{domain.removeprefix('*.').removeprefix('.')}" if domain.startswith((".", "*.")) else domain
    try:
        return check_redirect_rule(f"https://{host}")
    except ValueError:
        draft.say("M223", f"whitelist_domains {domain}")
        return None


def _claims(given: Given, draft: Draft) -> None:
    if given.text("oidc-groups-claim", "groups") != "groups":
        draft.put("identity.groups_claims", [given.text("oidc-groups-claim")], "oidc-groups-claim")
    if given.truth("insecure-oidc-allow-unverified-email"):
        flag = "insecure-oidc-allow-unverified-email"
        draft.put("identity.trust_unverified_email", True, flag)
    else:
        draft.say("M107", "insecure-oidc-allow-unverified-email")
    if given.truth("skip-claims-from-profile-url"):
        draft.put("identity.userinfo", "never", "skip-claims-from-profile-url")


# ── listeners ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _address(text: str) -> tuple[str, str]:
    """As ours, and the mode of a socket: ``http://:4180``, ``unix:///run/app.sock,mode=0777``, ``fd:3``."""
    bare = re.sub(r"^(?:https?|tcp)://", "", text, flags=re.IGNORECASE)
    if re.match("unix:", bare, re.IGNORECASE):
        path, _, mode = bare[5:].removeprefix("//").partition(",mode=")
        return f"unix:{path}", mode
    return f"0.0.0.0{bare}" if bare.startswith(":") else bare.lower(), ""


def _listeners(given: Given, draft: Draft) -> None:
    secure = given.has("tls-cert-file")
    flag, usual = ("https-address", ":443") if secure else ("http-address", "127.0.0.1:4180")
    address, mode = _address(given.text(flag, usual))
    draft.put("listen.address", address, flag)
    _without_effect(given, draft, "M133", "http-address" if secure else "https-address")
    if not secure:
        _without_effect(given, draft, "M133", "tls-key-file")
    if mode:
        draft.put("listen.socket_mode", mode)
    if secure:
        draft.put("listen.tls", {"cert_file": given.text("tls-cert-file")}, "tls-cert-file")
        _moved(given, draft, {"tls-key-file": "listen.tls.key_file"})
    if given.has("metrics-address"):
        draft.put("admin.address", _address(given.text("metrics-address"))[0], "metrics-address")


def _believed(given: Given, draft: Draft) -> None:
    """Which proxies are believed, and may ask."""
    asked = "forward_auth" in draft.tree
    if not (given.truth("reverse-proxy") or asked):
        return
    networks: Any = given.listed("trusted-proxy-ip")
    if not networks and re.match(r"127\.|\[::1\]|localhost|unix:", draft.tree["listen"]["address"]):
        networks = ["127.0.0.1/32", "::1/128"]
    if not networks:
        networks = ["${TRUSTED_PROXIES}"]
        draft.say("M306", "trusted-proxy-ip")
    draft.put("listen.trusted_proxies", networks, "reverse-proxy", "trusted-proxy-ip")
    if asked:
        draft.put("forward_auth.trusted_proxies", networks, "trusted-proxy-ip")
        draft.say("M128", "reverse-proxy")


# ── sessions ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _store(given: Given, draft: Draft) -> None:
    if given.text("session-store-type", "cookie") != "redis":
        draft.say("M108", "session-store-type")
        return
    draft.put("store.type", "redis", "session-store-type")
    if given.truth("redis-use-sentinel"):
        _sentinels(given, draft)
    elif given.truth("redis-use-cluster"):
        nodes = given.listed("redis-cluster-connection-urls") or [given.text("redis-connection-url")]
        _redis_url(nodes[0], draft, "redis-cluster-connection-urls")
        draft.put("store.cluster", True, "redis-use-cluster")
        if len(nodes) > 1:
            draft.say("M120", "redis-cluster-connection-urls")
    else:
        _redis_url(given.text("redis-connection-url"), draft, "redis-connection-url")
    _moved(given, draft, {"redis-username": "store.username", "redis-ca-path": "store.tls.ca_file"})
    _secret(given, draft, "redis-password", "store.password")


def _sentinels(given: Given, draft: Draft) -> None:
    urls = [_split(url) for url in given.listed("redis-sentinel-connection-urls")]
    scheme = "rediss" if any(url and url[0] == "rediss" for url in urls) else "redis"
    master = given.text("redis-sentinel-master-name", "mymaster")
    draft.put("store.url", f"{scheme}://sentinel/0", "redis-use-sentinel")
    draft.put("store.sentinel.master", master, "redis-sentinel-master-name")
    addresses = [f"{url[1]}:{url[2] or 26379}" for url in urls if url]
    if addresses and len(addresses) == len(urls):
        draft.put("store.sentinel.addresses", addresses, "redis-sentinel-connection-urls")
    else:
        _missing(draft, "store.sentinel.addresses", "REDIS_SENTINELS", "redis-sentinel-connection-urls")
    _secret(given, draft, "redis-sentinel-password", "store.sentinel.password")


def _split(url: str) -> tuple[str, str, int | None, str, str | None] | None:
    """Scheme, host, port, path and user of an address of Redis; who has no password may be one."""
    try:
        parts = urlsplit(url if "://" in url else f"redis://{url}")
        host = parts.hostname or ""
        return (
            parts.scheme,
            f"[{host}]" if ":" in host else host,
            parts.port,
            parts.path,
            parts.username if parts.password else None,
        )
    except ValueError:
        return None


def _redis_url(url: str, draft: Draft, flag: str) -> None:
    if url.startswith("unix://") and "@" not in url and "?" not in url:
        draft.put("store.url", url, flag)
        return
    parts = _split(url)
    if not url or parts is None or parts[0] not in {"redis", "rediss"} or not parts[1]:
        _missing(draft, "store.url", "REDIS_URL", flag)
        return
    scheme, host, port, path, user = parts
    draft.put("store.url", f"{scheme}://{host}:{port or 6379}{path}", flag)
    if user:
        draft.put("store.username", user, flag)
    if "@" in url:
        draft.put("store.password", "${OAUTH2_PROXY_REDIS_PASSWORD}", flag)
        draft.say("M302", flag)


_SAME_SITE: Mapping[str, str] = {"lax": "Lax", "strict": "Strict", "none": "None"}


def _session(given: Given, draft: Draft) -> None:
    life = duration(given.text("cookie-expire", "168h"))
    if life:
        draft.put("session.idle_timeout", str(life), "cookie-expire")
        draft.put("session.absolute_timeout", str(life), "cookie-expire")
        draft.put("session.cookie.persistent", True, "cookie-expire")
        draft.say("M103", "cookie-expire")
    elif life is None:
        draft.say("M231", "cookie-expire")
    if given.has("cookie-name"):
        name = given.text("cookie-name").removeprefix("__Host-").removeprefix("__Secure-")
        draft.put("session.cookie.name", name, "cookie-name")
    same_site = given.text("cookie-samesite").lower()
    if same_site in _SAME_SITE:
        draft.put("session.cookie.same_site", _SAME_SITE[same_site], "cookie-samesite")
    elif same_site:
        draft.say("M231", "cookie-samesite")
    _cookie_domain(given, draft)


def _cookie_domain(given: Given, draft: Draft) -> None:
    host = urlsplit(draft.tree["public_url"]).hostname or ""
    domains = [domain.removeprefix(".").lower() for domain in given.listed("cookie-domain")]
    covering = [name for name in domains if f".{host}".endswith(f".{name}")]
    if covering:
        draft.put("session.cookie.domain", max(covering, key=len), "cookie-domain")
    if domains and (len(domains) > 1 or not covering):
        draft.say("M126", "cookie-domain")


# ── what is said of users, and of requests ────────────────────────────────────────────────────────────────────────────


def _announced(given: Given, draft: Draft) -> None:
    claim = email_claim(given)
    headers = {"X-Forwarded-Preferred-Username": "preferred_username", "X-Forwarded-Groups": "groups"}
    if given.truth("prefer-email-to-user"):
        headers = {"X-Forwarded-User": claim, **headers}
    else:
        headers = {"X-Forwarded-User": "user", "X-Forwarded-Email": claim, **headers}
    passed = given.truth("pass-user-headers", default=True) or given.truth("pass-basic-auth", default=True)
    if not passed:
        headers = {}
    if claim != "email" and "forward_auth" in draft.tree:
        headers["X-Auth-Request-Email"] = claim
    which = _token(given, draft)
    if which == "access_token":
        headers["X-Forwarded-Access-Token"] = "token"
    if not passed or claim != "email" or given.truth("prefer-email-to-user") or which == "access_token":
        about_user = ("pass-user-headers", "prefer-email-to-user", "oidc-email-claim", "user-id-claim")
        draft.put("identity.headers", headers, *about_user, "pass-access-token")
    about = ("pass-access-token", "pass-authorization-header", "set-authorization-header")
    draft.put("identity.authorization", which, *about)


def _token(given: Given, draft: Draft) -> str:
    """The one token that goes on."""
    if given.truth("set-authorization-header") or given.truth("pass-authorization-header"):
        if given.truth("pass-access-token"):
            draft.say("M110", "pass-access-token")
        return "id_token"
    if given.truth("pass-access-token"):
        draft.say("M109", "pass-access-token")
        return "access_token"
    return "none"


def _log(given: Given, draft: Draft) -> None:
    places = {flag: OPTIONS[flag].into for flag in ("request-logging", "auth-logging", "show-debug-on-error")}
    _moved(given, draft, places)
    paths = given.listed("exclude-logging-path")
    if paths:
        draft.put("log.exclude_paths", paths, "exclude-logging-path")
