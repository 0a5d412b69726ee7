"""What a proxy asks about, and what it is told, as values."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace
from multidict import CIMultiDict, CIMultiDictProxy

from oidc_proxy import pages
from oidc_proxy.errors import InternalFault, LoginFault, ProviderFault, ProxyError, RequestFault, StoreFault
from oidc_proxy.forward_auth import (
    AUTH_REQUEST_HEADERS,
    Announcement,
    Dialect,
    Envoy,
    Forward,
    ForwardAuthSettings,
    Nginx,
    OAuth2Proxy,
    dialects,
)
from oidc_proxy.identity import IdentitySettings, announce, identify
from oidc_proxy.messages import HeaderPlan, Origins, Reply, RequestHead, split_target
from oidc_proxy.policy import Condition
from oidc_proxy.tokens import VerifiedClaims
from oidc_proxy.values import Origin

APP, API = Origin.parse("https://app.test"), Origin.parse("https://api.test:8443")
ORIGINS = Origins((APP, API))
NGINX, FORWARD, ENVOY = Nginx("/oauth2"), Forward("/oauth2"), Envoy("/oauth2")
OAUTH2_PROXY = OAuth2Proxy("/oauth2", one_rule=True)
DIALECTS: tuple[Dialect, ...] = (NGINX, FORWARD, ENVOY, OAUTH2_PROXY)
BROWSER = ("Accept: text/html",)


def asked(target: str, *lines: str, method: str = "GET") -> RequestHead:
    """What a proxy sent us."""
    pairs = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    path, query = split_target(target)
    raw = tuple((name.encode(), value.encode()) for name, value in pairs)
    headers = CIMultiDictProxy(CIMultiDict(pairs))
    return RequestHead(method, target, path, query, APP, "192.0.2.7", raw, headers, "0123456789")


def as_nginx(url: str = "https://app.test/x?y=1", method: str = "GET", *lines: str) -> RequestHead:
    return asked(
        "/oauth2/authz/nginx", "Host: 10.0.0.1", f"X-Original-URL: {url}", f"X-Original-Method: {method}", *lines
    )


def as_forward(*lines: str, **named: str) -> RequestHead:
    told = {"Method": "GET", "Host": "app.test", "Uri": "/x?y=1"} | named
    return asked("/oauth2/authz/forward", *(f"X-Forwarded-{name}: {value}" for name, value in told.items()), *lines)


def as_envoy(tail: str = "/x?y=1", *lines: str, method: str = "GET", host: str = "app.test") -> RequestHead:
    return asked(f"/oauth2/authz/envoy{tail}", f"Host: {host}", *lines, method=method)


ASKING = {
    "nginx": (NGINX, as_nginx(method="POST")),
    "forward": (FORWARD, as_forward(Method="POST")),
    "envoy": (ENVOY, as_envoy(method="POST")),
    "oauth2_proxy": (OAUTH2_PROXY, as_nginx(method="POST")),
}


# ── reading ──


@pytest.mark.parametrize("name", ASKING)
def test_each_tells_the_same_request_in_its_own_words(name: str) -> None:
    dialect, question = ASKING[name]
    head = dialect.read(question, ORIGINS)
    assert (head.method, head.target, head.path, head.query, head.origin) == ("POST", "/x?y=1", "/x", "y=1", APP)
    assert (head.client, head.request_id, head.headers) == ("192.0.2.7", "0123456789", question.headers)


@pytest.mark.parametrize(
    ("url", "origin", "target"),
    [
        ("https://app.test/", APP, "/"),
        ("http://app.test/a%2Fb?c=%20&d", APP, "/a%2Fb?c=%20&d"),  # the listener's scheme, behind a TLS terminator
        ("wss://APP.Test.:443/a", APP, "/a"),
        ("https://api.test:8443//a/../b?", API, "//a/../b?"),
        ("https://app.test/https://evil.test/", APP, "/https://evil.test/"),
    ],
)
def test_an_original_url_is_taken_apart_and_not_changed(url: str, origin: Origin, target: str) -> None:
    head = NGINX.read(as_nginx(url), ORIGINS)
    assert (head.origin, head.target) == (origin, target)


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("", "bad_request"),
        ("/x", "bad_request"),
        ("//app.test/x", "bad_request"),
        ("app.test/x", "bad_request"),
        ("ftp://app.test/x", "bad_request"),
        ("https://app.test", "bad_request"),
        ("https://app.test?x=/public/", "bad_request"),  # nginx lets a Host with "?" pass
        ("https://app.test#/public/", "bad_request"),
        ("https:///x", "bad_request"),
        ("https://app.test/x y", "bad_request"),
        ("https://app.test/x\x00", "bad_request"),
        ("https://app.test/x#y", "bad_request"),
        ("https://app.test/ä", "bad_request"),
        ("https://evil.test/x", "wrong_host"),
        ("https://app.test@evil.test/x", "wrong_host"),
        ("https://evil.test@app.test/x", "wrong_host"),
        ("https://app.test\\.evil.test/x", "wrong_host"),
        ("https://app.test:80:80/x", "wrong_host"),
    ],
)
def test_f208_what_is_no_url_of_ours_is_refused(url: str, code: str) -> None:
    with pytest.raises(RequestFault) as caught:
        NGINX.read(as_nginx(url), ORIGINS)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("dialect", "question"),
    [
        (NGINX, asked("/", "X-Original-Method: GET")),
        (NGINX, asked("/", "X-Original-URL: https://app.test/")),
        (NGINX, as_nginx("https://app.test/", "GET", "X-Original-URL: https://app.test/")),
        (NGINX, as_nginx("https://app.test/", "GET", "X-Original-Method: GET")),
        (NGINX, asked("/", "X-Forwarded-Method: GET", "X-Forwarded-Host: app.test", "X-Forwarded-Uri: /")),
        (FORWARD, asked("/", "X-Forwarded-Host: app.test", "X-Forwarded-Uri: /")),
        (FORWARD, asked("/", "X-Forwarded-Method: GET", "X-Forwarded-Uri: /")),
        (FORWARD, asked("/", "X-Forwarded-Method: GET", "X-Forwarded-Host: app.test")),
        (FORWARD, as_forward("X-Forwarded-Uri: /public/")),
        (FORWARD, as_forward("X-Forwarded-Host: app.test")),
        (FORWARD, as_forward("X-Forwarded-Method: GET")),
        (FORWARD, as_forward(Uri="https://app.test/x")),
        (FORWARD, as_forward(Uri="x")),
        (FORWARD, as_forward(Uri="")),
        (FORWARD, as_forward(Method="GET /")),
        (FORWARD, as_forward(Method="")),
        (FORWARD, asked("/", "X-Original-URL: https://app.test/", "X-Original-Method: GET")),
        (ENVOY, as_envoy("")),
        (ENVOY, as_envoy("*")),
        (ENVOY, as_envoy("?x")),
        (ENVOY, asked("/oauth2/authz/envoy/x")),
        (ENVOY, as_envoy("/x", "Host: app.test")),
        (OAUTH2_PROXY, asked("/", "X-Original-URL: https://app.test/")),
        (OAUTH2_PROXY, asked("/")),
        (OAuth2Proxy("/oauth2"), asked("/", "Host: app.test")),
    ],
)
def test_f208_a_question_that_does_not_say_what_it_is_about_is_refused(dialect: Dialect, question: RequestHead) -> None:
    with pytest.raises(RequestFault) as caught:
        dialect.read(question, ORIGINS)
    assert caught.value.code == "bad_request"


@pytest.mark.parametrize("method", ["CONNECT", "TRACE"])
def test_what_never_passes_is_not_even_asked_about(method: str) -> None:
    with pytest.raises(RequestFault) as caught:
        FORWARD.read(as_forward(Method=method), ORIGINS)
    assert caught.value.code == "method_not_allowed"


def test_f201_without_an_url_the_session_alone_is_asked_about() -> None:
    head = OAUTH2_PROXY.read(asked("/oauth2/auth", "Host: api.test:8443"), ORIGINS)
    assert (head.method, head.target, head.origin) == ("GET", "/", API)


def test_f201_x_forwarded_uri_is_read_only_where_the_proxy_is_known_to_set_it() -> None:
    told = OAuth2Proxy("/oauth2", forwarded_uri=True)
    question = asked("/oauth2/auth", "Host: app.test", "X-Forwarded-Uri: /public/x?y=1")
    head = told.read(question, ORIGINS)
    assert (head.method, head.target, head.path, head.origin) == ("GET", "/public/x?y=1", "/public/x", APP)
    assert told.read(as_nginx(method="POST"), ORIGINS).method == "POST", "X-Original-URL says more"
    assert OAUTH2_PROXY.read(question, ORIGINS).path == "/"
    for lines in (("Host: app.test",), ("Host: app.test", "X-Forwarded-Uri: /a", "X-Forwarded-Uri: /b")):
        with pytest.raises(RequestFault):
            told.read(asked("/oauth2/auth", *lines), ORIGINS)


# ── demands ──

ORIGINAL = FORWARD.read(as_forward(), ORIGINS)


@pytest.mark.parametrize(
    ("dialect", "query", "expected"),
    [
        (NGINX, "", ()),
        (NGINX, "?groups=a,b", (Condition("groups", ("a", "b")),)),
        (FORWARD, "?groups=%2Fstaff%2Fops&roles=x", (Condition("groups", ("/staff/ops",)), Condition("roles", ("x",)))),
        (NGINX, "?groups=a&groups=,b,", (Condition("groups", ("a", "b")),)),
        (OAUTH2_PROXY, "?allowed_groups=a", (Condition("groups", ("a",)),)),
        (OAUTH2_PROXY, "?allowed_emails=a@b.test", (Condition("emails", ("a@b.test",)),)),
        (OAUTH2_PROXY, "?allowed_email_domains=b.test", (Condition("email domains", ("b.test",)),)),
        (ENVOY, "/x?groups=a", ()),  # there, the query is the visitor's
    ],
)
def test_the_address_where_a_proxy_asks_may_demand_more(dialect: Dialect, query: str, expected: object) -> None:
    assert dialect.demands(asked(f"{dialect.path}{query}"), ORIGINAL) == expected


@pytest.mark.parametrize(
    ("dialect", "query"),
    [
        (NGINX, "group=a"),
        (NGINX, "groups=a&x"),
        (NGINX, "groups="),
        (NGINX, "groups=,"),
        (NGINX, "roles"),
        (NGINX, "groups=%ff"),
        (FORWARD, "allowed_groups=a"),
        (OAUTH2_PROXY, "groups=a"),
    ],
)
def test_a_demand_that_is_not_understood_is_not_passed_over(dialect: Dialect, query: str) -> None:
    with pytest.raises(RequestFault) as caught:
        dialect.demands(asked(f"{dialect.path}?{query}"), ORIGINAL)
    assert caught.value.code == "bad_request"


@pytest.mark.parametrize("query", ["a=b%2Fc&d=%20", "x=%ff", "group=a", "&&", "allowed_groups=x"])
def test_the_visitor_s_query_is_no_demand_where_the_proxy_hands_it_on(query: str) -> None:
    head = FORWARD.read(as_forward(Uri=f"/x?{query}"), ORIGINS)
    assert FORWARD.demands(asked(f"/oauth2/authz/forward?{query}"), head) == ()


@pytest.mark.parametrize("query", ["groups=a", "%67roups=a", "roles=a&roles=b"])
def test_a_visitor_who_repeats_a_demand_does_not_take_it_away(query: str) -> None:
    head = FORWARD.read(as_forward(Uri=f"/x?{query}"), ORIGINS)
    assert FORWARD.demands(asked(f"/oauth2/authz/forward?{query}"), head) != ()
    with pytest.raises(RequestFault):
        FORWARD.demands(asked(f"/?{query}&x"), FORWARD.read(as_forward(Uri=f"/?{query}&x"), ORIGINS))


# ── answering ──


def fields(reply: Reply) -> dict[str, str]:
    assert len(dict(reply.headers)) == len(reply.headers)
    return dict(reply.headers)


def refused(dialect: Dialect, error: ProxyError, *lines: str, method: str = "GET") -> Reply:
    head = dialect.read(as_nginx("https://app.test/x?y=1", method, *lines) if dialect in (NGINX, OAUTH2_PROXY)
                        else as_forward(*lines, Method=method) if dialect is FORWARD
                        else as_envoy("/x?y=1", *lines, method=method), ORIGINS)  # fmt: skip
    return dialect.refuse(error, head, pages.problem(error, request_id="0123456789"))


BACK = "https://app.test/oauth2/start?rd=https://app.test/x%3Fy%3D1"
AWAY = "https://app.test/oauth2/unavailable?rd=https://app.test/x%3Fy%3D1"


def test_a_person_is_led_to_the_sign_in_and_back() -> None:
    head = FORWARD.read(as_forward(), ORIGINS)
    assert (NGINX.sign_in(head).status, fields(NGINX.sign_in(head))["Location"]) == (401, BACK)
    for dialect in (FORWARD, ENVOY):
        assert (dialect.sign_in(head).status, fields(dialect.sign_in(head))["Location"]) == (302, BACK)
    reply = OAUTH2_PROXY.sign_in(head)
    assert (reply.status, fields(reply)) == (401, {"WWW-Authenticate": "Bearer", "Cache-Control": "no-store"})


def test_what_no_redirect_can_lead_back_to_is_not_led_back_to() -> None:
    for head in (
        FORWARD.read(as_forward(Method="POST"), ORIGINS),
        FORWARD.read(as_forward(Uri=f"/{'x' * 5000}"), ORIGINS),
    ):
        assert fields(FORWARD.sign_in(head))["Location"] == "https://app.test/oauth2/start"
    assert FORWARD.sign_in(FORWARD.read(as_forward(Method="POST"), ORIGINS)).status == 303
    assert FORWARD.sign_in(FORWARD.read(as_forward(Method="HEAD"), ORIGINS)).status == 302


DENIED, GONE, DOWN = (
    RequestFault("access_denied"),
    RequestFault("not_found"),
    StoreFault("store_unavailable", "no answer"),
)


@pytest.mark.parametrize(
    ("error", "nginx", "forward", "envoy", "oauth2_proxy"),
    [
        (RequestFault("sign_in_required"), 401, 401, 401, 401),
        (DENIED, 403, 403, 403, 403),
        (RequestFault("proxy_untrusted"), 403, 403, 403, 403),
        (GONE, 403, 404, 404, 403),
        (RequestFault("wrong_host"), 403, 421, 421, 403),
        (RequestFault("path_ambiguous"), 403, 400, 400, 403),
        (RequestFault("method_not_allowed"), 403, 405, 405, 403),
        (RequestFault("bad_request"), 400, 400, 400, 400),
        (DOWN, 503, 503, 403, 401),
        (ProviderFault("provider_unavailable", retry_after=2), 503, 503, 403, 401),
        (ProviderFault("provider_timeout"), 504, 504, 403, 401),
        (InternalFault("internal_error"), 500, 500, 403, 401),
    ],
)
def test_each_hears_what_it_can_bear(
    error: ProxyError, nginx: int, forward: int, envoy: int, oauth2_proxy: int
) -> None:
    expected = (nginx, forward, envoy, oauth2_proxy)
    assert tuple(refused(dialect, error).status for dialect in DIALECTS) == expected
    assert all(fields(refused(dialect, error))["Cache-Control"] == "no-store" for dialect in DIALECTS)


def test_an_outage_is_told_to_envoy_as_a_refusal() -> None:
    reply = refused(ENVOY, DOWN)
    assert fields(reply)["Retry-After"] == "5"
    assert b'"status": 403' in reply.body
    assert b"store_unavailable" in reply.body
    assert DOWN.status == 503, "the fault itself stays what it is"


def test_f213_a_browser_is_led_to_where_it_may_read_of_an_outage() -> None:
    reply = refused(NGINX, DOWN, *BROWSER)
    assert (reply.status, fields(reply)["Location"]) == (401, AWAY)
    reply = refused(ENVOY, DOWN, *BROWSER)
    assert (reply.status, fields(reply)["Location"]) == (302, AWAY)
    reply = refused(ENVOY, DOWN, *BROWSER, method="POST")
    assert (reply.status, fields(reply)["Location"]) == (303, "https://app.test/oauth2/unavailable")
    assert refused(FORWARD, DOWN, *BROWSER).status == 503


def test_only_those_that_are_enabled_are_there() -> None:
    assert dialects(ForwardAuthSettings(), "/oauth2", one_rule=True) == []
    both = ForwardAuthSettings.model_validate({"dialects": ["oauth2_proxy", "nginx", "nginx"], "legacy_202": True})
    first, second = dialects(both, "/_auth", one_rule=False)
    assert (first.path, first.yes) == ("/_auth/auth", 202)
    assert (second.path, second.yes) == ("/_auth/authz/nginx", 200)
    every = ForwardAuthSettings.model_validate({"dialects": ["nginx", "forward", "envoy", "oauth2_proxy"]})
    paths = ["/oauth2/authz/nginx", "/oauth2/authz/forward", "/oauth2/authz/envoy", "/oauth2/auth"]
    assert [dialect.path for dialect in dialects(every, "/oauth2", one_rule=True)] == paths
    assert {dialect.yes for dialect in dialects(every, "/oauth2", one_rule=True)} == {200}


# ── the announcement ──

JANE: dict[str, Any] = {"iss": "https://idp.test", "sub": "4711", "preferred_username": "jané", "groups": ["a", "b,c"]}
CLAIMS = VerifiedClaims(JANE)


def announced(token: str | None = "t0ken", **changed: Any) -> list[tuple[str, str]]:
    settings = IdentitySettings.model_validate(changed)
    block = Announcement(settings).of(identify(CLAIMS, settings), CLAIMS, token)
    assert block.endswith(b"\r\n")
    pairs = [line.partition(b": ") for line in block.split(b"\r\n")[:-1]]
    return [(name.decode(), value.decode()) for name, _, value in pairs]


def test_f203_every_name_is_there_and_empty_where_nothing_is_known() -> None:
    assert announced() == [
        ("X-Forwarded-User", "4711"),
        ("X-Forwarded-Email", ""),
        ("X-Forwarded-Preferred-Username", "jan%C3%A9"),
        ("X-Forwarded-Groups", "a,b%2Cc"),
        ("X-Auth-Request-User", "4711"),
        ("X-Auth-Request-Email", ""),
        ("X-Auth-Request-Preferred-Username", "jan%C3%A9"),
        ("X-Auth-Request-Groups", "a,b%2Cc"),
        ("Authorization", "Bearer t0ken"),
    ]
    assert dict(announced(token=None))["Authorization"] == ""


def test_nobody_is_announced_by_empty_lines() -> None:
    nobody = Announcement(IdentitySettings()).nobody.decode().split("\r\n")[:-1]
    assert nobody == [f"{name}: " for name, _ in announced()]


def test_a_name_that_is_configured_means_what_is_configured() -> None:
    pairs = announced(
        headers={"x_auth_request_user": "preferred_username"}, encoding="utf8", authorization="none", token=None
    )
    assert [name for name, _ in pairs] == ["x_auth_request_user", *list(AUTH_REQUEST_HEADERS)[1:]]
    assert pairs[0][1] == "jané"


def test_what_cannot_be_announced_is_a_fault() -> None:
    with pytest.raises(LoginFault):
        announced(max_header_bytes="4B")
    assert dict(announced(max_header_bytes="6B", oversize="omit"))["X-Auth-Request-Groups"] == ""


def test_a_header_with_the_token_is_empty_where_there_is_none() -> None:
    settings = IdentitySettings(headers={"X-Forwarded-Access-Token": "token"})
    announcement = Announcement(settings)
    assert b"X-Forwarded-Access-Token: \r\n" in announcement.nobody
    lines = announcement.of(identify(CLAIMS, settings), CLAIMS, "t0ken")
    assert b"X-Forwarded-Access-Token: t0ken\r\n" in lines


def test_f201_who_asked_oauth2_proxy_before_gets_the_token_under_its_name() -> None:
    settings = IdentitySettings()
    plan = announce(identify(CLAIMS, settings), CLAIMS, "t0ken", settings)
    no_store = b"Cache-Control: no-store\r\n"
    assert OAUTH2_PROXY.more(ORIGINAL, plan) == no_store + b"X-Auth-Request-Access-Token: t0ken\r\n"
    nothing = no_store + b"X-Auth-Request-Access-Token: \r\n"
    assert OAUTH2_PROXY.more(ORIGINAL, HeaderPlan(())) == OAUTH2_PROXY.more(ORIGINAL, None) == nothing
    assert NGINX.more(ORIGINAL, plan) == no_store


KEPT = {
    "nginx": "X-Original-URL, X-Original-Method",
    "forward": "X-Forwarded-Method, X-Forwarded-Host, X-Forwarded-Uri",
    "envoy": "Host",
    "oauth2_proxy": "X-Original-URL, X-Original-Method, X-Forwarded-Uri, Host",
}


@pytest.mark.parametrize("name", KEPT)
def test_f212_a_yes_may_be_kept_where_it_is_set_for_whoever_asks_the_very_same(name: str) -> None:
    settings = ForwardAuthSettings.model_validate({"dialects": [name], "cache": "3500ms"})
    (dialect,) = dialects(settings, "/oauth2", one_rule=True)
    vary = f"Cookie, Authorization, Origin, Sec-WebSocket-Key, {KEPT[name]}"
    assert len(vary) <= 128, "nginx keeps nothing that varies by more"
    for method in ("GET", "HEAD"):
        lines = dialect.more(replace(ORIGINAL, method=method), None).decode().split("\r\n")
        assert lines[:2] == ["Cache-Control: max-age=3", f"Vary: {vary}"]
    for method in ("POST", "PUT", "OPTIONS", "PROPFIND", "MOVE", "get"):
        lines = dialect.more(replace(ORIGINAL, method=method), None).decode().split("\r\n")
        assert lines[0] == "Cache-Control: no-store"
        assert not any(line.startswith("Vary") for line in lines)
    assert (dialect.yes, dialect.path) == (200, next(d.path for d in DIALECTS if isinstance(dialect, type(d))))


@pytest.mark.parametrize("wrong", ["0s", "500ms", "61s", "3", "-1s"])
def test_f212_it_is_not_kept_for_no_time_nor_for_long(wrong: str) -> None:
    with pytest.raises(ValueError, match="cache"):
        ForwardAuthSettings.model_validate({"cache": wrong})
