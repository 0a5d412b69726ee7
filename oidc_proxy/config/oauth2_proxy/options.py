"""Every option of oauth2-proxy v7.15, and what becomes of it.

An option is converted, behaves differently, has no counterpart, or says who may enter in a way that somebody must
decide about. The sentences' codes never change their meaning: M1 differs, M2 has no counterpart, M3 is to be decided.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    """How the value of an option is written."""

    TEXT = "text"
    TRUTH = "truth"
    LIST = "list"


TEXT, TRUTH, LIST = Kind.TEXT, Kind.TRUTH, Kind.LIST


@dataclass(frozen=True, slots=True)
class Option:
    """One option: how it is written, which setting of ours it becomes, or the code of the sentence about it."""

    kind: Kind
    into: str = ""
    code: str = ""
    harmless: tuple[object, ...] = ("",)
    """Values that say what is so in any case, and of which nothing is said."""
    gate: bool = False
    """Whether it narrows who may enter."""


SENTENCES: Mapping[str, str] = {
    "M100": "is no setting here: it is always so",
    "M101": "is chosen by the program: cookies of sign-ins under way are one each, HttpOnly, Secure on https and Lax",
    "M102": "seals nothing here: sessions do not carry over, so everybody signs in once more; `session.key` is derived "
    "from the client secret unless it is set",
    "M103": "becomes the longest life of a session; one that is not used for as long ends as well. Nothing prolongs it",
    "M104": "is not needed: tokens are renewed before they expire, and the session's cookie stays what it is",
    "M105": "is not needed: PKCE is always used, with S256",
    "M106": "has no effect: the nonce of the ID token is always checked",
    "M107": "an address that is not verified is withheld, but does not keep its user from signing in, unless a rule "
    "asks for it",
    "M108": "the session is on the server: in memory here, and gone when the program ends. Write "
    "`store: {type: redis}` to keep it or to run several processes",
    "M109": "the access token goes on as `Authorization: Bearer` as well",
    "M110": "has no effect beside the ID token: only one token goes on, as `Authorization: Bearer` and, for nginx, as "
    "X-Auth-Request-Access-Token",
    "M111": "health is asked for on the administration listener, `admin.address`, and never at the public address: "
    "change the probes from /ping to /livez, and from /ready to /readyz, at its port",
    "M112": "is always so: a person goes to the provider at once, without a page with a button; /oauth2/sign_in has "
    "one",
    "M113": "is not needed: a program, by what it accepts and by fetch metadata, gets 401 and a problem document "
    "everywhere",
    "M114": "the log is one JSON object a line on standard output; its format cannot be chosen",
    "M115": "writes no file: let whoever runs the program keep and rotate its output",
    "M116": "the client's address is read from X-Forwarded-For (`listen.client_address_header`), whatever else comes",
    "M117": "is not needed: queries go on byte for byte, and answers as they come",
    "M118": "both must hold here, a group and a role; oauth2-proxy lets in who has either",
    "M119": "is the system's or the file's, not both: put all authorities into the one file",
    "M120": "names one node; the others are found by asking it",
    "M121": "the pages are the program's own: `ui.title` and `ui.contact` say whose they are",
    "M122": "the redirect URI is `public_url`, `endpoints.prefix` and /callback; register that one at the provider",
    "M123": "opens the path itself and what is below it, but not what merely begins alike",
    "M124": "is not needed: endpoints of ours are open by themselves",
    "M125": "signing out visits the provider's own sign-out (`logout.provider`) and revokes the refresh token",
    "M126": "one domain is used for the session's cookie, the longest that covers `public_url`",
    "M127": "is not needed where another proxy asks: it passes requests on by itself",
    "M128": "is known to every check: `forward_auth.trusted_proxies` alone may ask, and is believed",
    "M129": "switches off a check of certificates, here as there; remove it as soon as you can",
    "M130": "opens OPTIONS on every path of the rules, without a user",
    "M131": "a return address must be https on the port that is named, or the default one",
    "M132": "is not needed: the provider's metadata says it, here as there",
    "M133": "has no effect, as in oauth2-proxy: there is one listener, with TLS if there is a certificate",
    "M201": "has no counterpart: users of a password file; everybody signs in at the provider",
    "M202": "has no counterpart: requests with a bearer token of their own need a session here",
    "M203": "has no counterpart: no address is let in without a sign-in",
    "M204": "has no counterpart: no Basic authorization is made up for the application",
    "M205": "has no counterpart: what clients say of themselves is always removed",
    "M206": "has no counterpart: the path of the session's cookie is always /",
    "M207": "has no counterpart: the issuer is always verified (`provider.issuer_slash_tolerant` permits one slash)",
    "M208": "has no counterpart: keys come from the provider's key set (`provider.endpoints.jwks`)",
    "M209": "has no counterpart: the audience is always read from `aud`",
    "M210": "has no counterpart: the answer always comes in the query of the redirect",
    "M211": "has no counterpart: tokens are verified by their signature, nobody is asked",
    "M212": "has no counterpart: the client is known by its secret",
    "M213": "has no counterpart: requests carry no signature for the application",
    "M214": "has no counterpart: metrics have one plain listener; put a proxy in front, or keep it local",
    "M215": "has no counterpart: TLS 1.2 or newer with the library's own suites",
    "M216": "has no counterpart: the certificate of Redis is always verified; name its authority in "
    "`store.tls.ca_file`",
    "M217": "has no counterpart: the pages take no HTML; `ui.title` and `ui.contact` say whose they are",
    "M218": "has no counterpart: groups of this provider's own interface are not asked for",
    "M219": "is no OpenID Provider, which is all that there is here; put one in between, such as Keycloak",
    "M220": "has no counterpart: files are not served; give them a server, and name that as upstream",
    "M221": "is no address of an upstream that can be used here",
    "M222": "is a regular expression, or one that rules cannot say: write a rule with a path (docs/routes.md)",
    "M223": "cannot be said as an origin: write it to `login.allowed_redirects`",
    "M224": "has no counterpart: a request id is always X-Request-Id",
    "M225": "has no counterpart: only an answer that is always the same can be made (`routes.respond`)",
    "M226": "has no counterpart: connections to the application are kept and used again",
    "M227": "has no counterpart: http is answered with a redirect by a listener of its own (`listen.redirect_https`)",
    "M228": "has no counterpart: the redirect URI is always absolute",
    "M229": "depends on the method, which nginx does not tell as it asks oauth2-proxy; it stays closed",
    "M230": "is no option of oauth2-proxy v7.15, or none that is converted",
    "M231": "cannot be used as it is written; it is left out",
    "M301": "who may enter is not known: put `groups`, `roles`, `emails` or `email_domains` in the place of "
    "${WHO_MAY_ENTER}; until then the configuration is refused",
    "M302": "is a secret and is not copied: set the variable, or name a file instead",
    "M303": "is missing: put it in the place of the variable; until then the configuration is refused",
    "M304": "rules differ by path, and nginx must say which request it asks about: let it send X-Original-URL and "
    "X-Original-Method, or, if it sets X-Forwarded-Uri in every check, set `forward_auth.forwarded_uri` (the option "
    "--forwarded-uri does)",
    "M305": "X-Forwarded-Uri is believed: make sure that the proxy sets it in the very location that asks. Where it "
    "does not, visitors choose the rule",
    "M306": "names no proxy, so oauth2-proxy believes everybody: name the networks that the proxy in front connects "
    "from",
    "M307": "names a file that is not read by itself: give it to the import as well",
    "M308": "is http, and not on this machine: write https, or set `provider.allow_insecure_http`; until then the "
    "configuration is refused",
}
"""Code → what is said of an option."""


def _made(kind: Kind, names: Mapping[str, str]) -> dict[str, Option]:
    return {flag: Option(kind, into=into) for flag, into in names.items()}


def _told(code: str, kind: Kind, *flags: str, harmless: tuple[object, ...] = ("",)) -> dict[str, Option]:
    return {flag: Option(kind, code=code, harmless=harmless) for flag in flags}


def _gates(kind: Kind, *flags: str) -> dict[str, Option]:
    return {flag: Option(kind, code="M301", harmless=("", []), gate=True) for flag in flags}


_OFF: tuple[object, ...] = (False, "")
_ON: tuple[object, ...] = (True, "")

OPTIONS: Mapping[str, Option] = {
    # the provider
    **_made(TEXT, {
        "provider": "provider.issuer", "client-id": "provider.client_id", "client-secret": "provider.client_secret",
        "client-secret-file": "provider.client_secret_file", "oidc-issuer-url": "provider.issuer",
        "login-url": "provider.endpoints.authorization", "redeem-url": "provider.endpoints.token",
        "profile-url": "provider.endpoints.userinfo", "oidc-jwks-url": "provider.endpoints.jwks",
        "scope": "provider.scopes", "prompt": "login.params", "acr-values": "login.acr_values",
        "resource": "login.params", "azure-tenant": "provider.issuer", "oidc-email-claim": "identity.headers",
        "user-id-claim": "identity.headers", "oidc-groups-claim": "identity.groups_claims",
    }),
    **_made(LIST, {
        "provider-ca-file": "provider.tls.ca_file", "oidc-extra-audience": "provider.id_token.trusted_audiences",
        "oidc-enabled-signing-alg": "provider.id_token.algorithms",
    }),
    **_made(TRUTH, {
        "skip-oidc-discovery": "provider.discovery", "ssl-insecure-skip-verify": "provider.tls.verify",
        "insecure-oidc-allow-unverified-email": "identity.trust_unverified_email",
        "skip-claims-from-profile-url": "identity.userinfo",
    }),
    **_told("M105", TEXT, "code-challenge-method", "force-code-challenge-method", harmless=("", "S256")),
    **_told("M106", TRUTH, "insecure-oidc-skip-nonce", harmless=_OFF),
    **_told("M119", TRUTH, "use-system-trust-store", harmless=_OFF),
    **_told("M100", TEXT, "approval-prompt"),
    **_told("M207", TRUTH, "insecure-oidc-skip-issuer-verification", harmless=_OFF),
    **_told("M208", LIST, "oidc-public-key-file", harmless=([],)),
    **_told("M209", LIST, "oidc-audience-claim", harmless=([], ["aud"])),
    **_told("M210", TEXT, "auth-request-response-mode", harmless=("", "query")),
    **_told("M211", TEXT, "validate-url"),
    **_told("M212", TEXT, "jwt-key", "jwt-key-file", "pubjwk-url"),
    **_told("M212", TRUTH, "entra-id-federated-token-auth", harmless=_OFF),
    **_told("M121", TEXT, "provider-display-name"),
    **_told("M125", TEXT, "backend-logout-url"),
    # who may enter
    **_made(LIST, {
        "allowed-group": "routes.groups", "keycloak-group": "routes.groups", "allowed-role": "routes.roles",
        "email-domain": "routes.email_domains", "skip-auth-route": "routes", "skip-auth-regex": "routes",
    }),
    **_made(TRUTH, {"skip-auth-preflight": "routes.methods"}),
    **_gates(TEXT, "authenticated-emails-file", "bitbucket-repository", "bitbucket-team", "github-org", "github-repo",
             "github-team"),
    **_gates(LIST, "github-user", "gitlab-group", "gitlab-project", "google-group", "entra-id-allowed-tenant"),
    **_told("M218", TEXT, "azure-graph-group-field", "github-token", "google-admin-email",
            "google-admin-api-user-scope", "google-service-account-json", "google-target-principal"),
    **_told("M218", TRUTH, "google-use-application-default-credentials", "google-use-organization-id", harmless=_OFF),
    **_told("M203", LIST, "trusted-ip", harmless=([],)),
    **_told("M201", TEXT, "htpasswd-file"),
    **_told("M201", LIST, "htpasswd-user-group", harmless=([],)),
    **_told("M201", TRUTH, "display-htpasswd-form", harmless=(False, True)),
    **_told("M202", TRUTH, "skip-jwt-bearer-tokens", "bearer-token-login-fallback", harmless=_OFF),
    **_told("M202", LIST, "extra-jwt-issuers", harmless=([],)),
    **_told("M113", LIST, "api-route", harmless=([],)),
    **_told("M113", TRUTH, "force-json-errors", harmless=_OFF),
    # cookies
    **_made(TEXT, {
        "cookie-name": "session.cookie.name", "cookie-samesite": "session.cookie.same_site",
        "cookie-expire": "session.absolute_timeout", "cookie-csrf-expire": "login.timeout",
        "cookie-csrf-per-request-limit": "login.max_pending",
    }),
    **_made(LIST, {"cookie-domain": "session.cookie.domain"}),
    **_made(TRUTH, {"cookie-secure": "allow_insecure_http"}),
    **_told("M104", TEXT, "cookie-refresh", harmless=("", "0", "0s")),
    **_told("M102", TEXT, "cookie-secret", "cookie-secret-file"),
    **_told("M206", TEXT, "cookie-path", harmless=("", "/")),
    **_told("M101", TRUTH, "cookie-httponly", harmless=_ON),
    **_told("M101", TRUTH, "cookie-csrf-per-request", harmless=_ON),
    **_told("M101", TEXT, "cookie-csrf-samesite"),
    # sessions
    **_made(TEXT, {
        "session-store-type": "store.type", "redis-connection-url": "store.url", "redis-username": "store.username",
        "redis-password": "store.password", "redis-sentinel-password": "store.sentinel.password",
        "redis-sentinel-master-name": "store.sentinel.master", "redis-ca-path": "store.tls.ca_file",
    }),
    **_made(LIST, {
        "redis-sentinel-connection-urls": "store.sentinel.addresses", "redis-cluster-connection-urls": "store.url",
    }),
    **_made(TRUTH, {"redis-use-sentinel": "store.sentinel", "redis-use-cluster": "store.cluster"}),
    **_told("M216", TRUTH, "redis-insecure-skip-tls-verify", harmless=_OFF),
    **_told("M100", TEXT, "redis-connection-idle-timeout", harmless=("", "0")),
    **_told("M108", TRUTH, "session-cookie-minimal", harmless=_OFF),
    # what the application is told
    **_made(TRUTH, {
        "pass-user-headers": "identity.headers", "pass-basic-auth": "identity.headers",
        "prefer-email-to-user": "identity.headers", "pass-access-token": "identity.authorization",
        "pass-authorization-header": "identity.authorization", "set-authorization-header": "identity.authorization",
        "set-xauthrequest": "forward_auth.dialects",
    }),
    **_told("M204", TRUTH, "set-basic-auth", harmless=_OFF),
    **_told("M204", TEXT, "basic-auth-password"),
    **_told("M205", TRUTH, "skip-auth-strip-headers", harmless=_ON),
    **_told("M213", TEXT, "signature-key"),
    # upstreams
    **_made(LIST, {"upstream": "upstreams"}),
    **_made(TEXT, {"upstream-timeout": "upstreams.*.timeouts.response"}),
    **_made(TRUTH, {
        "pass-host-header": "upstreams.*.host_header", "proxy-websockets": "upstreams.*.max_websockets",
        "ssl-upstream-insecure-skip-verify": "upstreams.*.tls.verify",
    }),
    **_told("M117", TEXT, "flush-interval"),
    **_told("M226", TRUTH, "disable-keep-alives", harmless=_OFF),
    **_told("M117", TRUTH, "allow-query-semicolons", harmless=_OFF),
    # listeners, and who is believed
    **_made(TEXT, {
        "http-address": "listen.address", "https-address": "listen.address", "tls-cert-file": "listen.tls.cert_file",
        "tls-key-file": "listen.tls.key_file", "metrics-address": "admin.address", "redirect-url": "public_url",
        "proxy-prefix": "endpoints.prefix",
    }),
    **_made(LIST, {
        "trusted-proxy-ip": "listen.trusted_proxies", "whitelist-domain": "login.allowed_redirects",
    }),
    **_made(TRUTH, {"reverse-proxy": "listen.trusted_proxies"}),
    **_told("M116", TEXT, "real-client-ip-header", harmless=("", "X-Forwarded-For")),
    **_told("M214", TEXT, "metrics-secure-address", "metrics-tls-cert-file", "metrics-tls-key-file"),
    **_told("M215", TEXT, "tls-min-version", harmless=("", "TLS1.2")),
    **_told("M215", LIST, "tls-cipher-suite", harmless=([],)),
    **_told("M227", TRUTH, "force-https", harmless=_OFF),
    **_told("M228", TRUTH, "relative-redirect-url", harmless=_OFF),
    **_told("M100", TRUTH, "encode-state", harmless=_OFF),
    **_told("M111", TEXT, "ping-path", "ready-path", "ping-user-agent"),
    **_told("M111", TRUTH, "gcp-healthchecks", harmless=_OFF),
    # the log
    **_made(TRUTH, {
        "request-logging": "log.access", "auth-logging": "log.audit", "show-debug-on-error": "ui.error_details",
    }),
    **_made(LIST, {"exclude-logging-path": "log.exclude_paths"}),
    **_told("M114", TEXT, "request-logging-format", "auth-logging-format", "standard-logging-format"),
    **_told("M114", TRUTH, "standard-logging", "logging-local-time", harmless=_ON),
    **_told("M114", TRUTH, "errors-to-info-log", harmless=_OFF),
    **_told("M115", TEXT, "logging-filename", "logging-max-age", "logging-max-backups", "logging-max-size"),
    **_told("M115", TRUTH, "logging-compress", harmless=_OFF),
    **_told("M100", TRUTH, "silence-ping-logging", harmless=(True, False)),
    **_told("M224", TEXT, "request-id-header", harmless=("", "X-Request-Id")),
    # pages
    **_told("M112", TRUTH, "skip-provider-button", harmless=_ON),
    **_told("M217", TEXT, "banner", "footer", "custom-sign-in-logo", "custom-templates-dir", harmless=("", "-")),
    # what is no configuration
    **_told("M307", TEXT, "config", "alpha-config"),
    **_told("M100", TRUTH, "config-test", "convert-config-to-alpha", "version", harmless=(True, False)),
}  # fmt: skip
"""Flag → what becomes of it."""

NO_SETTINGS = frozenset({"config", "alpha-config", "config-test", "convert-config-to-alpha", "version"})
"""What says where the configuration is, and what to do with it."""

_ALIKE = frozenset({
    "extra-jwt-issuers", "skip-auth-regex", "redis-sentinel-connection-urls", "redis-cluster-connection-urls",
})  # fmt: skip
"""Lists whose name in files is no plural of their flag."""


def key_of(flag: str) -> str:
    """What files and variables call it: underscores, and the plural for a list."""
    plural = OPTIONS[flag].kind == LIST and flag not in _ALIKE
    return flag.replace("-", "_") + ("s" if plural else "")


BY_KEY: Mapping[str, str] = {key_of(flag): flag for flag in OPTIONS} | {"google_group": "google-group"}
"""Name in a file → flag."""
