"""Header hygiene: what goes on to the backend, and what comes back from it."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from oidc_proxy.messages import NEVER_FROM_CLIENTS, HeaderFilter, HeaderPlan, canonical_name, http_date

from .samples import COOKIES, Lines, lines

IDENTITY = ("X-Forwarded-User", "X-Forwarded-Groups", "X-Auth-User", "X-Team.Name")
FILTER = HeaderFilter(IDENTITY, COOKIES)


@pytest.mark.parametrize(
    ("name", "canonical"),
    [("X-Auth-User", "x-auth-user"), ("X_Auth.User", "x-auth-user"), ("REMOTE_USER", "remote-user"), ("a~b!", "a-b-")],
)
def test_hd_2_names_are_compared_as_backends_could_confuse_them(name: str, canonical: str) -> None:
    assert canonical_name(name) == canonical


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("X-Forwarded-User: admin", id="HD-1: plain"),
        pytest.param("x-forwarded-user: admin", id="HD-1: lower case"),
        pytest.param("X-FORWARDED-USER: admin", id="HD-1: upper case"),
        pytest.param("X_Forwarded_User: admin", id="HD-2, AV-2: underscores"),
        pytest.param("X.Forwarded.User: admin", id="HD-2: dots"),
        pytest.param("X-Forwarded_User: admin", id="HD-2, F157: mixed"),
        pytest.param("X~Forwarded!User: admin", id="HD-2: any separator"),
        pytest.param("X_Auth_User: admin", id="HD-2: a name that we configured"),
        pytest.param("X-Team-Name: admin", id="HD-2: a configured name with a dot"),
        pytest.param("X-Forwarded-Groups: admins", id="HD-20, AV-54"),
        pytest.param("X-Forwarded-Email: a@b", id="HD-21"),
        pytest.param("X-Forwarded-Preferred-Username: a", id="HD-21, F159"),
        pytest.param("X-Forwarded-Access-Token: t", id="HD-21, F159: a token"),
        pytest.param("X-Auth-Request-User: a", id="HD-21: oauth2-proxy's user"),
        pytest.param("X-Auth-Request-Email: a", id="HD-21: oauth2-proxy's e-mail"),
        pytest.param("X-Auth-Request-Redirect: https://evil.test", id="OR-19"),
        pytest.param("X-Remote-User: a", id="HD-21: X-Remote-User"),
        pytest.param("REMOTE_USER: a", id="HD-21: REMOTE_USER"),
        pytest.param("Authorization: Bearer t", id="HD-6: Authorization"),
        pytest.param("Keep-Alive: 5", id="HD-8: Keep-Alive"),
        pytest.param("Proxy-Connection: close", id="HD-8: Proxy-Connection"),
        pytest.param("Proxy-Authorization: Basic x", id="HD-8: Proxy-Authorization"),
        pytest.param("TE: trailers, X", id="HD-8: TE"),
        pytest.param("Trailer: X-Auth-User", id="HD-8, HD-10: Trailer"),
        pytest.param("Connection: close", id="PX-1"),
        pytest.param("Transfer-Encoding: chunked", id="PX-2: Transfer-Encoding"),
        pytest.param("Content-Length: 5", id="PX-9: Content-Length is written anew"),
        pytest.param("Upgrade: h2c", id="SM-18: Upgrade"),
        pytest.param("HTTP2-Settings: x", id="SM-18: HTTP2-Settings"),
        pytest.param("Expect: 100-continue", id="SM-21"),
        pytest.param("Host: evil.test", id="FW-8"),
        pytest.param("X-Forwarded-For: 127.0.0.1", id="FW-1: X-Forwarded-For"),
        pytest.param("X-Forwarded: for=127.0.0.1", id="FW-1: X-Forwarded"),
        pytest.param("X-Real-IP: 127.0.0.1", id="FW-1: X-Real-IP"),
        pytest.param("Forwarded: for=127.0.0.1", id="FW-1, FW-4, PX-37: Forwarded"),
        pytest.param("True-Client-IP: 127.0.0.1", id="FW-1: True-Client-IP"),
        pytest.param("CF-Connecting-IP: 127.0.0.1", id="FW-1: CF-Connecting-IP"),
        pytest.param("X-Client-IP: 127.0.0.1", id="FW-1: X-Client-IP"),
        pytest.param("X_Cluster_Client_IP: 127.0.0.1", id="FW-1: X-Cluster-Client-IP"),
        pytest.param("Client-IP: 127.0.0.1", id="FW-1: Client-IP, which PHP calls HTTP_CLIENT_IP"),
        pytest.param("Forwarded-For: 127.0.0.1", id="FW-1: Forwarded-For"),
        pytest.param("WL-Proxy-Client-IP: 127.0.0.1", id="FW-1: WebLogic"),
        pytest.param("X-Host: evil.test", id="FW-2: X-Host"),
        pytest.param("X-HTTP-Host-Override: evil.test", id="FW-2: X-HTTP-Host-Override"),
        pytest.param("X-Forwarded-Host: evil.test", id="FW-2: host"),
        pytest.param("X-Forwarded-Proto: http", id="FW-2: scheme"),
        pytest.param("X-Forwarded-Port: 80", id="FW-2: port"),
        pytest.param("X-Forwarded-Server: evil", id="FW-2: server"),
        pytest.param("X-Forwarded-Prefix: /admin", id="FW-2, PA-18: prefix"),
        pytest.param("X-Forwarded-Uri: /admin", id="PA-18, PA-23: uri"),
        pytest.param("X-Forwarded-Method: OPTIONS", id="PA-23: method"),
        pytest.param("X-Original-URL: /admin", id="PA-18: X-Original-URL"),
        pytest.param("X-Original-URI: /public", id="PA-23: X-Original-URI"),
        pytest.param("X-Original-Method: GET", id="PA-18: X-Original-Method"),
        pytest.param("X-Rewrite-URL: /admin", id="PA-18: X-Rewrite-URL"),
        pytest.param("X-HTTP-Method-Override: DELETE", id="PA-19: X-HTTP-Method-Override"),
        pytest.param("X-Method-Override: DELETE", id="PA-19: X-Method-Override"),
        pytest.param("X-HTTP-Method: DELETE", id="PA-19: X-HTTP-Method"),
        pytest.param("X-Request-Id: forged-by-client", id="BR-14: X-Request-Id"),
        pytest.param("Proxy: http://evil.test", id="a proxy for CGI programs"),
        pytest.param("Cookie: __Host-oidc_proxy=v", id="HD-12: only our cookie"),
    ],
)
def test_what_a_client_cannot_say_to_a_backend(line: str) -> None:
    assert FILTER.to_backend(lines("Accept: */*", line, line, "X-App: 1")) == lines("Accept: */*", "X-App: 1")


def test_what_a_client_says_goes_on_byte_for_byte_and_in_order() -> None:
    said = [
        (b"AcCePt", b"*/*"),
        (b"X-App", b"\xe9\xff"),
        (b"x-app", b"again"),
        (b"Cookie", b"a=b; __Host-oidc_proxy=v"),
        (b"cookie", b"c=d"),
        (b"Origin", b"null"),
        (b"Content-Type", b"text/plain"),
        (b"Sec-WebSocket-Key", b"x"),
        (b"Max-Forwards", b"3"),
    ]
    expected = [(name, value.removesuffix(b"; __Host-oidc_proxy=v")) for name, value in said]
    assert FILTER.to_backend(said) == expected


@pytest.mark.parametrize(
    ("said", "left"),
    [
        pytest.param(
            ["Connection: close, X-Forwarded-User", "X-Forwarded-User: a", "X-App: 1"], ["X-App: 1"], id="HD-6, AV-1"
        ),
        pytest.param(["Connection: X-App", "X-APP: 1", "Accept: */*"], ["Accept: */*"], id="PX-1: a name of its own"),
        pytest.param(["X-App: 1", "connection: a , x-app\t,, b"], [], id="PX-1: afterwards, and in a list"),
        pytest.param(
            ["Connection: x-a", "Connection: x-b", "X-A: 1", "X-B: 2", "X-C: 3"], ["X-C: 3"], id="PX-1: twice"
        ),
        pytest.param(["Connection: Authorization, Cookie", "Cookie: a=b"], [], id="HD-6: only its own can be lost"),
        pytest.param(["Connection: Keep-Alive, Upgrade", "X-App: 1"], ["X-App: 1"], id="HD-7: the usual ones"),
        pytest.param(["Connection: Upgrade, x-auth-user", "Upgrade: websocket", "X-Auth-User: a"], [], id="HD-7"),
    ],
)
def test_px_3_what_connection_names_goes_before_ours_are_added(said: list[str], left: list[str]) -> None:
    ours = lines("X-Forwarded-User: jane", "Authorization: Bearer ours")
    # As the caller does it: nothing that the client nominates can reach what comes after.
    assert FILTER.to_backend(lines(*said)) + ours == lines(*left) + ours


def test_hd_9_an_identity_header_that_we_do_not_send_is_removed_all_the_same() -> None:
    announces_much = HeaderFilter(["X-Dept"], COOKIES)
    assert announces_much.to_backend(lines("X-Dept: board", "x_dept: board")) == []


def test_px_17_authorization_is_untouched_in_pass_through_mode() -> None:
    passes = HeaderFilter(IDENTITY, COOKIES, keep_authorization=True)
    said = lines("Authorization: Basic x", "Accept: */*")
    assert passes.to_backend(said) == said
    assert passes.to_backend(lines("X-Forwarded-User: admin")) == []


@pytest.mark.parametrize("name", ["traceparent", "Tracestate", "BAGGAGE", "trace_parent"])
def test_f239_a_trace_goes_on_only_where_it_is_believed(name: str) -> None:
    said = lines(f"{name}: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    assert FILTER.to_backend(said) == (said if name == "trace_parent" else [])
    assert FILTER.to_backend(said, traced=True) == said


@pytest.mark.parametrize(
    ("said", "added"),
    [
        (["ETag: x"], True),
        (["cache-control: private"], False),
        (["Connection: cache-control", "Cache-Control: public", "ETag: x"], True),
        (["Cache-Control: public", "Connection: x, Cache-Control"], True),
    ],
)
def test_br_1_an_answer_for_one_user_says_so_unless_the_backend_speaks_of_caching(said: list[str], added: bool) -> None:
    ours = lines("Cache-Control: private, no-store", "Vary: Cookie") if added else []
    left = FILTER.to_client(lines(*said))
    assert FILTER.to_client(lines(*said), private=True) == left + ours


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("X-Forwarded-User: jane", id="HD-11: identity"),
        pytest.param("x_auth_user: jane", id="HD-11: a look-alike"),
        pytest.param("Authorization: Bearer t", id="HD-11: the token"),
        pytest.param("X-Forwarded-Access-Token: t", id="HD-11: the token by another name"),
        pytest.param("X-Auth-Request-Access-Token: t", id="HD-11: the token by a third name"),
        pytest.param("Remote-User: jane", id="HD-11: Remote-User"),
        pytest.param("X-Request-Id: 1", id="ours is there already"),
        pytest.param("Connection: close", id="PX-1"),
        pytest.param("Keep-Alive: 5", id="PX-2"),
        pytest.param("Transfer-Encoding: chunked", id="PX-2: framing"),
        pytest.param("Proxy-Authenticate: Basic", id="PX-2: Proxy-Authenticate"),
        pytest.param("Set-Cookie: __Host-oidc_proxy=evil; Path=/; Secure", id="HD-13"),
        pytest.param("set-cookie: __HOST-OIDC_PROXY=evil", id="HD-13: in any case"),
        pytest.param("Set-Cookie: __Host-oidc_proxy =evil", id="HD-13: browsers trim the name"),
        pytest.param("Set-Cookie:  \t__Host-oidc_proxy\t= evil", id="HD-13: on both sides"),
        pytest.param("Set-Cookie: __Host-oidc_proxy_login_x=evil", id="HD-13: a sign-in"),
        pytest.param("Set-Cookie: __Host-oidc_proxy", id="HD-13: the name as a value"),
        pytest.param("Set-Cookie: =__Host-oidc_proxy=evil", id="HD-13: the whole as a value"),
    ],
)
def test_what_a_backend_cannot_say_to_a_browser(line: str) -> None:
    assert FILTER.to_client(lines("ETag: x", line)) == lines("ETag: x")


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("Set-Cookie: app=1; Path=/", id="its own cookie"),
        pytest.param("Set-Cookie: app=__Host-oidc_proxy=1", id="our name as a value"),
        pytest.param("Set-Cookie: a=b; __Host-oidc_proxy=1", id="our name as an attribute"),
        pytest.param("Set-Cookie: ", id="an empty one"),
        pytest.param("Refresh: 0;url=/", id="BR-11: Refresh"),
        pytest.param('Clear-Site-Data: "cookies"', id="BR-11: Clear-Site-Data"),
        pytest.param("Link: </a>; rel=preload", id="BR-11: Link"),
        pytest.param("WWW-Authenticate: Basic", id="its own authentication"),
        pytest.param("Location: http://backend:8080/x", id="Location"),
        pytest.param("X-App: \xe9\xff", id="BR-9: bytes beyond ASCII"),
        pytest.param("Content_Length: 5", id="what only looks like framing"),
    ],
)
def test_what_a_backend_says_goes_on(line: str) -> None:
    assert FILTER.to_client(lines(line)) == lines(line)


@pytest.mark.parametrize(
    ("private", "shared", "passed"),
    [
        (False, False, ["cache-control: public", "CDN-Cache-Control: x"]),
        (True, True, ["cache-control: public", "CDN-Cache-Control: x"]),
        (True, False, ["cache-control: private"]),
    ],
)
def test_br1_what_is_private_is_stored_by_no_shared_cache(private: bool, shared: bool, passed: list[str]) -> None:
    said = lines("cache-control: public", "CDN-Cache-Control: x")
    assert FILTER.to_client(said, private=private, shared=shared) == lines(*passed)


def test_px_1_a_backend_nominates_too() -> None:
    assert FILTER.to_client(lines("Connection: x-a", "X-A: 1", "X-B: 2")) == lines("X-B: 2")


def as_cgi(name: bytes) -> bytes:
    """The variable that CGI, WSGI and PHP make of a header name."""
    return re.sub(rb"[^A-Z0-9]", b"_", name.upper())


SEPARATOR = st.sampled_from("-_.~!'*+^`|#$%&")
LOOK_ALIKE = st.builds(
    lambda name, separators, case: "".join(case(separators.pop() if c in "-." else c) for c in name),
    st.sampled_from([*IDENTITY, *sorted(NEVER_FROM_CLIENTS), "X-Forwarded-Anything", "Authorization"]),
    st.lists(SEPARATOR, min_size=5, max_size=5),
    st.sampled_from([str.lower, str.upper, str.title, str]),
).map(str.encode)
NAME = st.one_of(LOOK_ALIKE, st.sampled_from([b"Accept", b"Connection", b"Cookie", b"X-App"]))
FORBIDDEN = {as_cgi(name.encode()) for name in [*IDENTITY, *NEVER_FROM_CLIENTS, "Authorization"]}


@settings(deadline=None)
@given(st.lists(st.tuples(NAME, st.one_of(LOOK_ALIKE, st.just(b"close"))), max_size=6))
@example([(b"Connection", b"x-app, x-forwarded-user"), (b"X_FORWARDED-USER", b"admin")])
def test_f157_no_spelling_of_an_identity_header_gets_through(said: Lines) -> None:
    for left in (FILTER.to_backend(said), HeaderFilter(IDENTITY, COOKIES, keep_authorization=True).to_backend(said)):
        names = {as_cgi(name) for name, _ in left}
        assert not names & (FORBIDDEN - {b"AUTHORIZATION"})
        assert not any(name.startswith((b"X_FORWARDED_", b"X_AUTH_REQUEST_")) for name in names)
    assert b"AUTHORIZATION" not in {as_cgi(name) for name, _ in FILTER.to_backend(said)}
    announced = {as_cgi(name.encode()) for name in IDENTITY}
    assert not announced & {as_cgi(name) for name, _ in FILTER.to_client(said)}


@pytest.mark.parametrize(
    ("instant", "text"),
    [
        (784111777, "Sun, 06 Nov 1994 08:49:37 GMT"),  # the example of RFC 9110 §5.6.7
        (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
        (1772409599, "Sun, 01 Mar 2026 23:59:59 GMT"),
    ],
)
def test_a_date_in_the_one_form_that_is_sent(instant: int, text: str) -> None:
    assert http_date(instant) == text


def test_headers_of_our_own_are_made_once() -> None:
    plan = HeaderPlan(((b"X-Forwarded-User", b"ann"), (b"Authorization", b"Bearer t")))
    assert plan.lines == b"X-Forwarded-User: ann\r\nAuthorization: Bearer t\r\n"
    assert plan.without({b"authorization"}) == ((b"X-Forwarded-User", b"ann"),)
    assert HeaderPlan(()).lines == b""


@pytest.mark.parametrize(
    "header",
    [(b"X", b"a\r\nY: b"), (b"X", b"a\n"), (b"X", b"\0"), (b"X Y", b"a"), (b"", b"a"), (b"X:", b"a"), (b"X\n", b"a")],
)
def test_bad_headers_of_our_own_are_never_made(header: tuple[bytes, bytes]) -> None:
    with pytest.raises(ValueError, match="header name that is none, or a line break"):
        HeaderPlan((header,))
