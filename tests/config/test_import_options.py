"""``oidc-proxy config import``: what every option of oauth2-proxy becomes, and what is said of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import yaml

from oidc_proxy.config import Config, fields
from oidc_proxy.config.oauth2_proxy import OPTIONS, SENTENCES, convert, of_words, read
from oidc_proxy.config.oauth2_proxy.options import BY_KEY, NO_SETTINGS, Kind
from oidc_proxy.config.oauth2_proxy.reading import duration
from tests.config.imported import BACKEND, CORPUS, LEAST, codes, imported

# ── every option ──────────────────────────────────────────────────────────────────────────────────────────────────────

KNOWN = [line.split() for line in (CORPUS / "options.txt").read_text().splitlines() if not line.startswith("#")]


def test_the_table_has_every_option_and_no_other() -> None:
    assert {flag for _, flag in KNOWN} == OPTIONS.keys() - NO_SETTINGS
    assert [key for key, flag in KNOWN if BY_KEY.get(key) != flag] == []


@pytest.mark.parametrize("flag", [flag for _, flag in KNOWN])
def test_every_option_is_converted_or_spoken_of(flag: str) -> None:
    option = OPTIONS[flag]
    assert bool(option.into) != bool(option.code)
    if option.into:
        settings = {".".join(path).replace(".[]", "") for path, _, _ in fields.every_field(Config)}
        assert option.into.replace("*", "NAME") in settings
        return
    assert option.code in SENTENCES
    given: Any = {Kind.TEXT: "something", Kind.LIST: ["something"], Kind.TRUTH: False not in option.harmless}[
        option.kind
    ]
    given = not given if option.kind == Kind.TRUTH else given
    if {True, False} <= set(option.harmless if option.kind == Kind.TRUTH else ()):
        return  # nothing follows from it, whatever it is
    notes = convert({**of_words(LEAST), flag: given}).notes
    assert option.code in {note.code for note in notes if flag.replace("-", "_") in note.about}


# ── one option after another ──────────────────────────────────────────────────────────────────────────────────────────

REDIS = "--session-store-type=redis"
SENTINEL = (REDIS, "--redis-use-sentinel")
CLUSTER = (REDIS, "--redis-use-cluster")
NO_DISCOVERY = (
    "--skip-oidc-discovery",
    "--login-url=https://k/a",
    "--redeem-url=https://k/t",
    "--oidc-jwks-url=https://k/j",
)


@pytest.mark.parametrize(
    ("words", "place", "value"),
    [
        (["--redirect-url=http://app.test/oauth2/callback", "--cookie-secure=false"], "allow_insecure_http", True),
        (["--redirect-url=http://app.test/oauth2/callback"], "allow_insecure_http", None),
        (["--redirect-url=/oauth2/callback"], "public_url", "${PUBLIC_URL}"),
        (["--proxy-prefix=/_auth/"], "endpoints.prefix", "/_auth"),
        (["--client-id="], "provider.client_id", "${OIDC_CLIENT_ID}"),
        (["--client-secret-file=/s"], "provider.client_secret_file", "/s"),
        (["--oidc-issuer-url=", "--provider=google"], "provider.issuer", "https://accounts.google.com"),
        (["--oidc-issuer-url=", "--provider=azure", "--azure-tenant=t"], "provider.issuer",
         "https://login.microsoftonline.com/t/v2.0"),
        (["--oidc-issuer-url=", "--provider=keycloak", "--login-url=https://k/realms/r/protocol/openid-connect/auth"],
         "provider.issuer", "https://k/realms/r"),
        (["--oidc-issuer-url=", "--provider=github"], "provider.issuer", "${OIDC_ISSUER}"),
        (NO_DISCOVERY, "provider.endpoints",
         {"authorization": "https://k/a", "token": "https://k/t", "jwks": "https://k/j"}),
        (NO_DISCOVERY, "provider.discovery", False),
        (["--login-url=https://k/a"], "provider.endpoints", None),
        (["--provider-ca-file=/a.pem,/b.pem"], "provider.tls.ca_file", "/a.pem"),
        (["--ssl-insecure-skip-verify"], "provider.tls.verify", False),
        (["--oidc-extra-audience=a", "--oidc-extra-audience=b"], "provider.id_token.trusted_audiences", ["a", "b"]),
        (["--oidc-enabled-signing-alg=RS256,HS256"], "provider.id_token.algorithms", ["RS256"]),
        (["--allowed-group=a"], "provider.scopes", ["openid", "email", "profile", "groups"]),
        (["--prompt=login"], "login.params", {"prompt": "login"}),
        (["--resource=r"], "login.params", {"resource": "r"}),
        (["--acr-values=gold silver"], "login.acr_values", ["gold", "silver"]),
        (["--whitelist-domain=a.test:*,.b.test,c.test:8443"], "login.allowed_redirects",
         ["https://*.b.test", "https://c.test:8443"]),
        (["--cookie-csrf-expire=5m"], "login.timeout", "5m"),
        (["--cookie-csrf-expire=soon"], "login", None),
        (["--cookie-csrf-per-request-limit=7"], "login.max_pending", 7),
        (["--cookie-csrf-per-request-limit=700"], "login", None),
        (["--oidc-groups-claim=teams"], "identity.groups_claims", ["teams"]),
        (["--insecure-oidc-allow-unverified-email"], "identity.trust_unverified_email", True),
        (["--skip-claims-from-profile-url"], "identity.userinfo", "never"),
        (["--http-address=unix:///run/a.sock,mode=0777"], "listen",
         {"address": "unix:/run/a.sock", "socket_mode": "0777"}),
        (["--http-address=FD:3"], "listen.address", "fd:3"),
        (["--http-address=http://[::1]:80"], "listen.address", "[::1]:80"),
        (["--tls-cert-file=/c", "--tls-key-file=/k"], "listen",
         {"address": "0.0.0.0:443", "tls": {"cert_file": "/c", "key_file": "/k"}}),
        (["--metrics-address=:9100"], "admin.address", "0.0.0.0:9100"),
        (["--reverse-proxy", "--trusted-proxy-ip=10.0.0.0/8"], "listen.trusted_proxies", ["10.0.0.0/8"]),
        (["--reverse-proxy"], "listen.trusted_proxies", ["127.0.0.1/32", "::1/128"]),
        (["--reverse-proxy", "--http-address=:80"], "listen.trusted_proxies", ["${TRUSTED_PROXIES}"]),
        ([], "listen", {"address": "127.0.0.1:4180"}),
        ([], "store", None),
        ([REDIS], "store.url", "${REDIS_URL}"),
        ([REDIS, "--redis-connection-url=rediss://redis"], "store.url", "rediss://redis:6379"),
        ([REDIS, "--redis-connection-url=unix:///run/r.sock"], "store.url", "unix:///run/r.sock"),
        ([REDIS, "--redis-connection-url=redis://u:p@[::1]:1/2"], "store", {
            "type": "redis", "url": "redis://[::1]:1/2", "username": "u",
            "password": "${OAUTH2_PROXY_REDIS_PASSWORD}"}),
        ([REDIS, "--redis-connection-url=redis://canary@r"], "store.username", None),
        ([REDIS, "--redis-connection-url=redis://r", "--redis-ca-path=/c", "--redis-username=u"], "store",
         {"type": "redis", "url": "redis://r:6379", "username": "u", "tls": {"ca_file": "/c"}}),
        ([*SENTINEL, "--redis-sentinel-connection-urls=rediss://s,rediss://[::1]:7"], "store", {
            "type": "redis", "url": "rediss://sentinel/0",
            "sentinel": {"master": "mymaster", "addresses": ["s:26379", "[::1]:7"]}}),
        ([*SENTINEL, "--redis-sentinel-connection-urls=redis://s:x"], "store.sentinel.addresses", "${REDIS_SENTINELS}"),
        ([*CLUSTER, "--redis-cluster-connection-urls=redis://a:1,redis://b:2"], "store",
         {"type": "redis", "url": "redis://a:1", "cluster": True}),
        (["--cookie-expire=0"], "session", None),
        (["--cookie-expire=1w"], "session", None),
        (["--cookie-expire=30m"], "session",
         {"idle_timeout": "30m", "absolute_timeout": "30m", "cookie": {"persistent": True}}),
        (["--cookie-samesite=strict", "--cookie-expire=0"], "session.cookie.same_site", "Strict"),
        (["--cookie-samesite=odd", "--cookie-expire=0"], "session", None),
        (["--cookie-name=__Secure-x"], "session.cookie.name", "x"),
        (["--prefer-email-to-user"], "identity.headers", {
            "X-Forwarded-User": "email", "X-Forwarded-Preferred-Username": "preferred_username",
            "X-Forwarded-Groups": "groups"}),
        (["--pass-user-headers=false"], "identity.headers", None),
        (["--pass-user-headers=false", "--pass-basic-auth=false"], "identity.headers", {}),
        (["--user-id-claim=mail", "--reverse-proxy", "--set-xauthrequest"], "identity.headers", {
            "X-Forwarded-User": "user", "X-Forwarded-Email": "mail", "X-Auth-Request-Email": "mail",
            "X-Forwarded-Preferred-Username": "preferred_username", "X-Forwarded-Groups": "groups"}),
        ([], "identity.authorization", "none"),
        (["--pass-access-token"], "identity.authorization", "access_token"),
        (["--pass-access-token", "--pass-user-headers=false", "--pass-basic-auth=false"], "identity.headers",
         {"X-Forwarded-Access-Token": "token"}),
        (["--pass-access-token", "--set-authorization-header"], "identity.headers", None),
        (["--pass-access-token", "--set-authorization-header"], "identity.authorization", "id_token"),
        (["--request-logging=false", "--auth-logging=false"], "log", {"access": False, "audit": False}),
        (["--show-debug-on-error"], "ui.error_details", True),
        # upstreams and routes
        ([], "upstream", "http://127.0.0.1:8080"),
        (["--pass-host-header=false", "--upstream-timeout=2m", "--proxy-websockets=false",
          "--ssl-upstream-insecure-skip-verify"], "upstream", {
            "url": "http://127.0.0.1:8080", "host_header": "upstream", "tls": {"verify": False},
            "timeouts": {"response": "2m"}, "max_websockets": 0}),
        (["--upstream-timeout=x"], "upstream", "http://127.0.0.1:8080"),
        (["--upstream=https://b/api/"], "upstreams",
         {"default": {"url": "http://127.0.0.1:8080"}, "api": {"url": "https://b"}}),
        (["--upstream=http://b/a/", "--upstream=http://c/a"], "upstreams", None),
        (["--upstream=http://b/"], "upstream", "http://127.0.0.1:8080"),
        (["--upstream=http://b/a/?x", "--upstream=http://b/a//b", "--upstream=http://b:x/"], "routes", None),
        (["--set-xauthrequest"], "forward_auth", None),
        (["--allowed-group=role:a,role:c:b,g", "--provider=keycloak-oidc"], "routes",
         [{"path": "/", "groups": ["g"], "roles": ["a", "c:b"]}]),
        (["--skip-auth-preflight"], "routes", [{"path": "/", "methods": ["OPTIONS"], "auth": "none"}, {"path": "/"}]),
        (["--skip-auth-regex=^/a/"], "routes", [{"path": "/a/", "auth": "none"}, {"path": "/"}]),
        (["--skip-auth-route=^/", "--upstream=http://b/api/"], "routes", [
            {"path": "/", "auth": "none"}, {"path": "/api/", "auth": "none", "upstream": "api"}]),
        (["--skip-auth-route=GET=^/x$,^/x$"], "routes", [
            {"path": "/x", "methods": ["GET"], "auth": "none"}, {"path": "/x", "auth": "none"}, {"path": "/"}]),
        (["--skip-auth-route=^/oauth2/,GET!=^/x,a b=^/x"], "routes", None),
    ],
)  # fmt: skip
def test_what_an_option_becomes(words: Sequence[str], place: str, value: object) -> None:
    found: Any = imported(BACKEND, *words).tree
    for part in place.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    assert found == value


@pytest.mark.parametrize(
    ("words", "route"),
    [
        (["--upstream=static://418"], {"path": "/", "respond": {"status": 418, "body": "Authenticated"}}),
        (["--upstream=unix:///run/a.sock", "--allowed-group=g"], {"path": "/", "groups": ["g"]}),
        (["--upstream=http://b/api/"], {"path": "/api/", "upstream": "api"}),
    ],
)
def test_without_another_upstream(words: list[str], route: dict[str, Any]) -> None:
    draft = imported(*words)
    assert draft.tree["routes"] == [route]
    assert "forward_auth" not in draft.tree


@pytest.mark.parametrize(
    ("words", "note"),
    [
        (["--redirect-url=https://app.test/other"], "M122 redirect_url"),
        (["--provider=github"], "M219 provider github"),
        (["--login-url=https://k/a"], "M132 login_url"),
        (["--oidc-issuer-url=http://keycloak:8080/realms/r"], "M308 oidc_issuer_url"),
        (["--oidc-issuer-url=http://[::1"], "M308 oidc_issuer_url"),
        (["--provider-ca-file=/a,/b"], "M119 provider_ca_files"),
        (["--oidc-enabled-signing-alg=HS256"], "M231 oidc_enabled_signing_algs"),
        (["--whitelist-domain=a.test:*"], "M223 whitelist_domains a.test:*"),
        (["--https-address=:8443"], "M133 https_address"),
        (["--tls-key-file=/k"], "M133 tls_key_file"),
        (["--tls-cert-file=/c", "--http-address=:80"], "M133 http_address"),
        (["--reverse-proxy", "--http-address=:80"], "M306 trusted_proxy_ips"),
        ([*CLUSTER, "--redis-cluster-connection-urls=redis://a,redis://b"], "M120 redis_cluster_connection_urls"),
        (["--cookie-expire=1w"], "M231 cookie_expire"),
        (["--cookie-samesite=odd"], "M231 cookie_samesite"),
        (["--cookie-csrf-expire=soon"], "M231 cookie_csrf_expire"),
        (["--cookie-csrf-per-request-limit=700"], "M231 cookie_csrf_per_request_limit"),
        (["--upstream=file:///var/www"], "M220 upstreams[1]"),
        (["--upstream=static://302"], "M225 upstreams[1]"),
        (["--upstream=static://204"], "M225 upstreams[1]"),
        (["--upstream=http://b/"], "M221 upstreams[1]"),
        (["--upstream=http://b/a/", "--upstream=http://c/a"], "M221 upstreams"),
        (["--upstream-timeout=x"], "M231 upstream_timeout"),
        (["--allowed-group=g", "--allowed-role=r"], "M118 allowed_roles"),
        (["--skip-auth-route=^/oauth2/"], "M124 skip_auth_routes ^/oauth2/"),
        (["--skip-auth-route=^/a"], "M123 skip_auth_routes ^/a"),
        (["--pass-access-token", "--pass-authorization-header"], "M110 pass_access_token"),
    ],
)
def test_what_is_said_of_an_option(words: list[str], note: str) -> None:
    assert note in codes(imported(BACKEND, *words))


def test_what_is_open_where_no_upstream_is() -> None:
    draft = imported("--upstream=http://b/api/", "--skip-auth-route=^/other/")
    assert draft.tree["routes"] == [{"path": "/api/", "upstream": "api"}]
    assert "M231 skip_auth_routes /other/" in codes(draft)


def test_nginx_tells_no_method_and_needs_to_say_what_it_asks_about() -> None:
    words = ("--reverse-proxy", "--skip-auth-route=GET=^/x$", "--skip-auth-route=^/y/", "--skip-auth-preflight")
    draft = imported(*words, forwarded_uri=True)
    assert draft.tree["routes"] == [{"path": "/y/", "auth": "none"}, {"path": "/"}]
    assert {"M229 skip_auth_routes GET=/x", "M305 forward_auth.forwarded_uri"} <= set(codes(draft))
    draft = imported(*words)
    assert len(draft.tree["routes"]) == 4
    assert "forwarded_uri" not in draft.tree["forward_auth"]
    assert "M304 forward_auth" in codes(draft)


def test_the_alpha_file_in_its_odd_parts() -> None:
    upstreams = [
        {"path": "/s/", "static": True}, {"path": "/", "uri": "unix:///run/a.sock"},
        {"path": "/a/", "uri": "http://b/c/"}, {"path": "/b/", "uri": "http://b/"}, "odd",
    ]  # fmt: skip
    server = {"secureBindAddress": ":443", "tls": {"cert": {"fromFile": "/c"}, "key": {"value": "canary"}}}
    providers = [{"provider": "oidc", "odd": {"x": 1}}, {"provider": "other"}]
    values = read(yaml.safe_dump({
        "upstreamConfig": {"upstreams": upstreams, "proxyRawPath": True}, "server": server, "providers": providers,
        "metricsServer": {"tls": {"minVersion": "TLS1.3"}},
    }))  # fmt: skip
    assert values == {
        "upstream": ["unix:///run/a.sock", "http://b/b/"], "upstreamConfig.upstreams[0]": "",
        "upstreamConfig.upstreams[2]": "", "upstreamConfig.upstreams[4]": "",
        "https-address": ":443", "tls-cert-file": "/c", "server.tls.key.value": "", "provider": "oidc",
        "providers[0].odd.x": "", "providers[1]": "", "metricsServer.tls.minVersion": "",
        "upstreamConfig.proxyRawPath": "",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "seconds"), [("168h0m0s", 604800), ("1h30m", 5400), ("500ms", 0.5), ("0", 0), ("1.5h", 5400)]
)
def test_durations_of_go(text: str, seconds: float) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["", "1", "h", "1d", "1h x", "-1h", "1h" * 99])
def test_what_is_no_duration_of_go(text: str) -> None:
    assert duration(text) is None
