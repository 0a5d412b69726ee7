"""HTTP as values. The first half is what reaches us, the second what goes on to the backend, to the browser, and back."""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import ip_network
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy
from pydantic import ValidationError

from oidc_proxy.errors import RequestFault
from oidc_proxy.messages import (
    NEVER_FROM_CLIENTS,
    Cookie,
    EndpointSettings,
    HeaderFilter,
    ListenSettings,
    Origins,
    OwnCookies,
    Reply,
    RequestHead,
    ReturnTo,
    canonical_name,
    client_address,
    is_navigation,
    prefers_html,
    query_parameters,
    request_id,
    split_target,
)
from oidc_proxy.values import Origin

APP = Origin.parse("https://app.test")
PROXIES = (ip_network("10.0.0.0/8"), ip_network("2001:db8::/32"))
OURS = "__Host-oidc_proxy"
COOKIES = OwnCookies(OURS)
IDENTITY = ("X-Forwarded-User", "X-Forwarded-Groups", "X-Auth-User", "X-Team.Name")
FILTER = HeaderFilter(IDENTITY, COOKIES)

Lines = list[tuple[bytes, bytes]]


def head(target: str = "/", **headers: str) -> RequestHead:
    path, query = split_target(target)
    named = CIMultiDict({name.replace("_", "-"): value for name, value in headers.items()})
    raw = tuple((name.encode(), value.encode()) for name, value in named.items())
    return RequestHead("GET", target, path, query, APP, "192.0.2.1", raw, CIMultiDictProxy(named), "0123456789")


def lines(*texts: str) -> Lines:
    return [
        (name.encode("latin-1"), value.strip().encode("latin-1"))
        for name, _, value in (t.partition(":") for t in texts)
    ]


# ── settings ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("address", ["127.0.0.1:4180", "0.0.0.0:80", "[::]:4180", "localhost:0"])
def test_addresses_to_listen_on(address: str) -> None:
    assert ListenSettings(address=address).address == address


@pytest.mark.parametrize(
    "address", ["4180", ":4180", "::1:4180", "[::1]", "localhost:http", "a b:80", "localhost:80\n"]
)
def test_what_cannot_be_listened_on(address: str) -> None:
    with pytest.raises(ValidationError):
        ListenSettings(address=address)


def test_fw_10_nobody_is_trusted_unless_named() -> None:
    assert ListenSettings().trusted_proxies == ()


@pytest.mark.parametrize("prefix", ["/oauth2", "/_auth", "/a/b-c", "/.well-known/x", "/a.b"])
def test_prefixes_of_our_endpoints(prefix: str) -> None:
    assert EndpointSettings(prefix=prefix).prefix == prefix


@pytest.mark.parametrize(
    "prefix", ["", "/", "oauth2", "/oauth2/", "//a", "/.", "/..", "/a/../b", "/a%2fb", "/a b", "/a?b", "/é"]
)
def test_prefixes_that_could_be_read_in_two_ways(prefix: str) -> None:
    with pytest.raises(ValidationError):
        EndpointSettings(prefix=prefix)


# ── the request target ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("/", "/", None),
        ("/a?", "/a", ""),
        ("/a?b=c%2Fd?e", "/a", "b=c%2Fd?e"),
        ("//evil.test/", "//evil.test/", None),
        ("/a/../b//c;d=%zz", "/a/../b//c;d=%zz", None),
        ("/a?x=/../b", "/a", "x=/../b"),
    ],
)
def test_a_target_is_split_and_otherwise_untouched(target: str, path: str, query: str | None) -> None:
    assert split_target(target) == (path, query)


@pytest.mark.parametrize(
    "target",
    [
        pytest.param("http://evil.test/x", id="SM-12, PA-17: absolute-form"),
        pytest.param("/a#b", id="SM-13: a fragment"),
        pytest.param("*", id="SM-14: asterisk-form"),
        pytest.param("host:443", id="SM-14: authority-form"),
        pytest.param("@evil/x", id="OUT-4"),
        pytest.param("", id="nothing"),
        pytest.param("/a b", id="a space"),
        pytest.param("/a\tb", id="OR-3: a tab"),
        pytest.param("/a\r\nb", id="OR-11: a line end"),
        pytest.param("/a\n", id="a line end at the end"),
        pytest.param("/\0", id="OR-15: NUL"),
        pytest.param("/\x7f", id="DEL"),
        pytest.param("/public/．．/", id="PA-13: not ASCII"),
        pytest.param("/\udcff", id="a byte that is no UTF-8"),
    ],
)
def test_only_origin_form_of_printable_ascii_is_taken(target: str) -> None:
    with pytest.raises(RequestFault) as caught:
        split_target(target)
    assert caught.value.code == "bad_request"


# ── which of our origins ──────────────────────────────────────────────────────────────────────────────────────────────

ORIGINS = Origins([APP, Origin.parse("http://other.test:8080"), Origin.parse("https://[2001:db8::1]")])


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("app.test", "https://app.test"),
        ("APP.test", "https://app.test"),
        ("app.test:443", "https://app.test"),
        ("APP.Test.:443", "https://app.test"),
        ("app.test.", "https://app.test"),
        ("other.test:8080", "http://other.test:8080"),
        ("[2001:DB8:0::1]", "https://[2001:db8::1]"),
        ("[2001:db8::1]:443", "https://[2001:db8::1]"),
    ],
)
def test_f172_pa_26_a_host_is_known_in_every_spelling(host: str, origin: str) -> None:
    assert str(ORIGINS.find(host)) == origin


@pytest.mark.parametrize(
    "host",
    [
        pytest.param("evil.test", id="FW-6"),
        pytest.param("app.test:80@evil", id="FW-7: user info"),
        pytest.param("app.test, evil", id="FW-7: a list"),
        pytest.param("[::1]", id="FW-7: another address"),
        pytest.param("app.test:80", id="another port"),
        pytest.param("other.test", id="the default port is not ours"),
        pytest.param("app.test:", id="an empty port"),
        pytest.param("app.test:0443", id="a port with a zero in front"),
        pytest.param("app.test:４４３", id="digits of another script"),
        pytest.param("app．test", id="OR-8: a dot of another script"),
        pytest.param("app。test", id="OR-9: an ideographic full stop"),
        pytest.param("ａpp.test", id="OR-16: a letter of another width"),
        pytest.param("app.test..", id="two dots"),
        pytest.param("x.app.test", id="a host below"),
        pytest.param("[2001:db8::1%eth0]", id="a zone"),
        pytest.param("[2001:db8::1", id="an open bracket"),
        pytest.param("a/x?y#z", id="SM-11: a path"),
        pytest.param("a b", id="SM-11: a space"),
        pytest.param("app.test\udcff", id="a byte that is no UTF-8"),
        pytest.param("", id="SM-11: nothing"),
    ],
)
def test_other_hosts_are_not_ours(host: str) -> None:
    with pytest.raises(RequestFault) as caught:
        ORIGINS.find(host)
    assert caught.value.code == "wrong_host"


# ── who asks ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "client"),
    [
        pytest.param("192.0.2.9", ["127.0.0.1"], "192.0.2.9", id="FW-1, F176: an untrusted peer says what it likes"),
        pytest.param("192.0.2.9", ["10.0.0.1"], "192.0.2.9", id="FW-9: nor may it pose as a trusted hop"),
        pytest.param("10.0.0.1", [], "10.0.0.1", id="a trusted peer speaks for itself"),
        pytest.param("10.0.0.1", ["203.0.113.5"], "203.0.113.5", id="a trusted peer names its client"),
        pytest.param(
            "10.0.0.1", ["6.6.6.6, 203.0.113.5"], "203.0.113.5", id="FW-3, PX-40: what the client wrote is left"
        ),
        pytest.param("10.0.0.1", ["127.0.0.1, 203.0.113.5, 10.0.0.2"], "203.0.113.5", id="FW-3: through two hops"),
        pytest.param("10.0.0.1", ["6.6.6.6", "203.0.113.5"], "203.0.113.5", id="FW-4: two headers are one list"),
        pytest.param("10.0.0.1", ["203.0.113.5", "10.0.0.2"], "203.0.113.5", id="FW-4: the walk crosses headers"),
        pytest.param("10.0.0.1", ["10.0.0.3,10.0.0.2"], "10.0.0.3", id="only trusted hops: the farthest of them"),
        pytest.param("10.0.0.1", ["203.0.113.5, garbage, 10.0.0.2"], "10.0.0.2", id="FW-3: a malformed entry ends it"),
        pytest.param("10.0.0.1", ["203.0.113.5, "], "10.0.0.1", id="an empty entry ends it"),
        pytest.param("10.0.0.1", ["203.0.113.5:4711"], "10.0.0.1", id="an entry with a port ends it"),
        pytest.param("10.0.0.1", ["203.0.113.005"], "10.0.0.1", id="a number that may be octal ends it"),
        pytest.param("10.0.0.1", ["fe80::1%<x>\udcff"], "10.0.0.1", id="BR-14: a zone may be any text"),
        pytest.param("10.0.0.1", ["\u00a0203.0.113.5"], "10.0.0.1", id="white space of another script ends it"),
        pytest.param("10.0.0.1", ["2001:DB8:1::1, 2001:db9::a"], "2001:db9::a", id="IPv6"),
        pytest.param("2001:db8::5", ["203.0.113.5"], "203.0.113.5", id="an IPv6 hop"),
        pytest.param("2001:db8::5%eth0", ["203.0.113.5"], "203.0.113.5", id="an IPv6 hop of one link"),
        pytest.param("::ffff:10.0.0.1", ["203.0.113.5"], "203.0.113.5", id="IPv4 as IPv6: the peer"),
        pytest.param("10.0.0.1", ["6.6.6.6, ::ffff:203.0.113.5"], "203.0.113.5", id="IPv4 as IPv6: the client"),
        pytest.param("10.0.0.1", ["203.0.113.5, ::ffff:a00:2"], "203.0.113.5", id="FW-9: IPv4 as IPv6: a hop"),
        pytest.param("", ["203.0.113.5"], "", id="a peer without an address"),
    ],
)
def test_the_client_is_who_trusted_hops_say_it_is(peer: str, forwarded_for: list[str], client: str) -> None:
    assert client_address(peer, forwarded_for, PROXIES) == client


def test_fw_10_without_trusted_proxies_the_client_is_the_peer() -> None:
    assert client_address("10.0.0.1", ["203.0.113.5"], ()) == "10.0.0.1"


@pytest.mark.parametrize(
    ("peer", "offered", "kept"),
    [
        ("10.0.0.1", "0af76519-16cd.43dd_8448", True),
        ("10.0.0.1", "a" * 128, True),
        ("192.0.2.9", "0af7651916cd43dd", False),
        ("10.0.0.1", None, False),
        ("10.0.0.1", "short", False),
        ("10.0.0.1", "a" * 129, False),
        ("10.0.0.1", "-starts-with-a-dash", False),
        ("10.0.0.1", "0af7651916cd43dd\n", False),
        ("10.0.0.1", "0af76519\x1b[31m", False),
        ("10.0.0.1", "０ａｆ７６５１９１６", False),
        ("10.0.0.1", '{"a": "b"} and more', False),
    ],
)
def test_br_14_a_request_id_is_taken_from_trusted_hops_and_only_if_it_is_one(
    peer: str, offered: str | None, kept: bool
) -> None:
    assert request_id(peer, offered, "fresh", PROXIES) == (offered if kept else "fresh")


# ── is somebody looking ───────────────────────────────────────────────────────────────────────────────────────────────

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


@pytest.mark.parametrize(
    ("headers", "navigation"),
    [
        pytest.param({"Accept": BROWSER}, True, id="a browser of old"),
        pytest.param(
            {"Accept": BROWSER, "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"}, True, id="a browser"
        ),
        pytest.param({"Accept": BROWSER, "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "iframe"}, True, id="a frame"),
        pytest.param({"Accept": BROWSER, "Sec_Fetch_Mode": "cors"}, False, id="LT-19: fetch"),
        pytest.param({"Accept": BROWSER, "Sec_Fetch_Dest": "image"}, False, id="LT-19: an image"),
        pytest.param(
            {"Accept": BROWSER, "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "object"}, False, id="an object"
        ),
        pytest.param({"Accept": BROWSER, "X_Requested_With": "XMLHttpRequest"}, False, id="LT-19: XHR"),
        pytest.param({"Accept": "application/json"}, False, id="LT-19: JSON"),
        pytest.param({"Accept": "*/*"}, False, id="curl"),
        pytest.param({}, False, id="no Accept"),
        pytest.param({"Accept": BROWSER, "Sec_Purpose": "prefetch"}, False, id="LT-20: prefetch"),
        pytest.param({"Accept": BROWSER, "Sec_Purpose": "prefetch;prerender"}, False, id="LT-20: prerender"),
        pytest.param({"Accept": BROWSER, "Content_Type": "application/grpc+proto"}, False, id="F121: gRPC"),
        pytest.param({"Accept": BROWSER, "Upgrade": "websocket"}, False, id="a WebSocket"),
    ],
)
def test_f121_only_a_navigation_is_sent_to_sign_in(headers: dict[str, str], navigation: bool) -> None:
    assert is_navigation(head(**headers)) is navigation


@pytest.mark.parametrize(
    ("accept", "html"),
    [
        (BROWSER, True),
        ("text/html", True),
        ("TEXT/HTML;Q=0.5", True),
        ("application/xhtml+xml", True),
        ("text/html;q=0.9, application/json;q=0.9", True),
        ("text/html;level=1;q=0.4, application/json;q=0.3", True),
        ("application/json, text/plain", False),
        ("application/json;q=0.9", False),
        ("application/json, text/html;q=0.9", False),
        ("application/problem+json, text/html;q=0.9", False),
        ("text/html;q=0", False),
        ("text/html;q=0.000", False),
        ("text/html;q=high", False),
        ("text/html;q=1e9", False),
        ("text/*", False),
        ("*/*", False),
        (",;,q=1", False),
        ("", False),
    ],
)
def test_f52_html_or_json_by_quality(accept: str, html: bool) -> None:
    assert prefers_html(accept) is html


# ── cookies that we set ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("cookie", "line"),
    [
        (Cookie("__Host-a", "v", secure=True), "__Host-a=v; Path=/; Secure; HttpOnly; SameSite=Lax"),
        (Cookie("a", "v", secure=False), "a=v; Path=/; HttpOnly; SameSite=Lax"),
        (
            Cookie("a", "v", secure=True, max_age=600, domain="app.test", same_site="Strict"),
            "a=v; Path=/; Domain=app.test; Max-Age=600; Secure; HttpOnly; SameSite=Strict",
        ),
    ],
)
def test_f58_se_3_to_6_cookies(cookie: Cookie, line: str) -> None:
    assert str(cookie) == line


@pytest.mark.parametrize("secure", [True, False])
@pytest.mark.parametrize("domain", [None, "app.test"])
@pytest.mark.parametrize("max_age", [None, 600])
@pytest.mark.parametrize("same_site", ["Lax", "Strict", "None"])
def test_ss_28_f147_deletion_repeats_every_attribute(
    secure: bool, domain: str | None, max_age: int | None, same_site: str
) -> None:
    def attributes(cookie: Cookie) -> set[str]:
        return {part for part in str(cookie).split("; ")[1:] if not part.startswith(("Max-Age", "Expires"))}

    cookie = Cookie("__Host-a", "v", secure, max_age, domain, same_site)
    gone = str(cookie.deletion())
    assert gone.startswith("__Host-a=; ")
    assert attributes(cookie.deletion()) == attributes(cookie)
    assert "Expires=Thu, 01 Jan 1970 00:00:01 GMT" in gone
    assert "Max-Age" not in gone


def test_a_reply_takes_cookies_after_its_own_headers() -> None:
    reply = Reply(303, (("Location", "/"),), b"body").with_cookies([Cookie("a", "1", True), Cookie("b", "2", True)])
    assert reply == Reply(
        303,
        (
            ("Location", "/"),
            ("Set-Cookie", "a=1; Path=/; Secure; HttpOnly; SameSite=Lax"),
            ("Set-Cookie", "b=2; Path=/; Secure; HttpOnly; SameSite=Lax"),
        ),
        b"body",
    )


# ── cookies that we get ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("header", "found"),
    [
        pytest.param([b"__Host-oidc_proxy=v"], {OURS: "v"}, id="the session"),
        pytest.param([b"a=b;\t__Host-oidc_proxy=v ; c"], {OURS: "v"}, id="among others"),
        pytest.param([b"a=b", b"__Host-oidc_proxy=v"], {OURS: "v"}, id="in the second header"),
        pytest.param([b"__Host-oidc_proxy=a=b=="], {OURS: "a=b=="}, id="a value with an equals sign"),
        pytest.param([b"__Host-oidc_proxy_login_aB-_9=v"], {f"{OURS}_login_aB-_9": "v"}, id="a sign-in"),
        pytest.param([b"a=b __Host-oidc_proxy=evil"], {}, id="LT-2: after a space"),
        pytest.param([b"a=b\t__Host-oidc_proxy=evil"], {}, id="LT-2: after a tab"),
        pytest.param([b"\xc2\xa0__Host-oidc_proxy=evil"], {}, id="LT-2: U+00A0 in front"),
        pytest.param([b"\xe2\x80\x83__Host-oidc_proxy=evil"], {}, id="LT-2: U+2003 in front"),
        pytest.param([b"\xc2\x85__Host-oidc_proxy=evil"], {}, id="LT-2: U+0085 in front"),
        pytest.param([b"\xa0__Host-oidc_proxy=evil"], {}, id="LT-2: a Latin-1 space in front"),
        pytest.param([b"\x0b__Host-oidc_proxy=evil"], {}, id="LT-2: a vertical tab in front"),
        pytest.param([b'a="b; __Host-oidc_proxy=x"'], {OURS: 'x"'}, id="LT-2: quotes do not hold cookies together"),
        pytest.param([b"$Version=1; __Host-oidc_proxy=v; $Path=/"], {OURS: "v"}, id="LT-2: RFC 2965"),
        pytest.param([b"__Host-oidc_proxy=a; __Host-oidc_proxy=b"], {}, id="LT-2: twice"),
        pytest.param([b"__Host-oidc_proxy=a; __Host-oidc_proxy=a"], {}, id="LT-2: twice, and the same"),
        pytest.param([b"__Host-oidc_proxy=a", b"__Host-oidc_proxy=b"], {}, id="F148: twice, in two headers"),
        pytest.param([b"__Host-oidc_proxy=a; __Host-oidc_proxy"], {}, id="LT-2: twice, once without a value"),
        pytest.param([b"__host-oidc_proxy=evil; __Host-oidc_proxy=v"], {OURS: "v"}, id="SE-16: the case is ours"),
        pytest.param([b"__Host-oidc_proxy =evil"], {}, id="a space before the equals sign"),
        pytest.param([b"__Host-oidc_proxy2=x; x__Host-oidc_proxy=x"], {}, id="longer names"),
        pytest.param([b"=__Host-oidc_proxy=evil"], {}, id="a cookie without a name"),
        pytest.param([b"__Host-oidc_proxy_login_\xe9=x; __Host-oidc_proxy_login_a b=x"], {}, id="names we never made"),
        pytest.param([b"__Host-oidc_proxy_login_=x"], {}, id="a sign-in without a name"),
        pytest.param([b"__Host-oidc_proxy"], {OURS: ""}, id="SS-23: no equals sign"),
        pytest.param([b";;=;  ;a"], {}, id="SS-23, AV-14"),
        pytest.param([b""], {}, id="nothing"),
        pytest.param([b"__Host-oidc_proxy=\xff\0"], {OURS: "\xff\0"}, id="SS-23: garbage"),
    ],
)
def test_own_cookies_are_read_from_the_raw_bytes(header: list[bytes], found: dict[str, str]) -> None:
    assert COOKIES.read([(b"Host", b"app.test"), *((b"cOOkie", line) for line in header)]) == found


def test_only_the_cookie_header_has_cookies() -> None:
    assert COOKIES.read(lines("Cookie2: __Host-oidc_proxy=v", "Origin: __Host-oidc_proxy=v")) == {}


def test_names_of_sign_ins() -> None:
    name = COOKIES.login("aBc")
    assert name == "__Host-oidc_proxy_login_aBc"
    assert COOKIES.is_login(name)
    assert not COOKIES.is_login(OURS)


@pytest.mark.parametrize(
    ("line", "left"),
    [
        pytest.param(b"__Host-oidc_proxy=v", b"", id="HD-12: only ours"),
        pytest.param(b"a=b; __Host-oidc_proxy=v; c=d", b"a=b; c=d", id="HD-12: in the middle"),
        pytest.param(b"__Host-oidc_proxy=v; a=b", b"a=b", id="HD-12: in front"),
        pytest.param(b"a=b; __Host-oidc_proxy=v", b"a=b", id="HD-12: at the end"),
        pytest.param(b"__HOST-OIDC_PROXY=v; a=b", b"a=b", id="HD-12: another case"),
        pytest.param(b"__Host-oidc_proxy =v; a=b", b"a=b", id="HD-12: space before the equals sign"),
        pytest.param(b"__Host-oidc_proxy; a=b", b"a=b", id="SS-23: no equals sign"),
        pytest.param(b"__Host-oidc_proxy=1; __Host-oidc_proxy=2; a", b"a", id="HD-12: twice"),
        pytest.param(b"__Host-oidc_proxy_login_x=1; a=b; __Host-oidc_proxy_login_\xe9=2", b"a=b", id="HD-12: sign-ins"),
        pytest.param(b'a="q; r" ;b= c', b'a="q; r" ;b= c', id="F160: not ours, however odd"),
        pytest.param(b"a=__Host-oidc_proxy", b"a=__Host-oidc_proxy", id="F160: our name as a value"),
        pytest.param(b"__Host-oidc_proxy2=x; a=b", b"__Host-oidc_proxy2=x; a=b", id="F160: a longer name"),
        pytest.param(b"a=\xff\xfe\0; __Host-oidc_proxy=v", b"a=\xff\xfe\0", id="F160: bytes stay bytes"),
        pytest.param(b";;=;  ;a", b";;=;  ;a", id="AV-14"),
        pytest.param(b"", b"", id="nothing"),
    ],
)
def test_own_cookies_stay_with_us(line: bytes, left: bytes) -> None:
    assert COOKIES.strip(line) == left


OTHER_PAIR = st.one_of(
    st.sampled_from(
        [b"a=b", b" a=b", b"", b" ", b"=", b" x__Host-oidc_proxy=1", b"__Host-oidc_proxyx", b'"__Host-oidc_proxy"=1']
    ),
    st.binary(max_size=12).map(lambda data: b"o" + data.replace(b";", b",")),
)
OWN_PAIR = st.builds(
    lambda space, name, value: space + name + value,
    st.sampled_from([b"", b" ", b"\t ", b"   "]),
    st.sampled_from(
        [b"__Host-oidc_proxy", b"__host-OIDC_proxy", b"__Host-oidc_proxy_login_x", b"__HOST-oidc_proxy_LOGIN_"]
    ),
    st.sampled_from([b"", b"=", b" =v", b"=v ", b"=a=b"]),
)


@given(st.lists(st.one_of(OTHER_PAIR.map(lambda p: (p, False)), OWN_PAIR.map(lambda p: (p, True))), max_size=8))
def test_f160_stripping_takes_all_of_ours_and_not_one_byte_of_others(pairs: list[tuple[bytes, bool]]) -> None:
    left = COOKIES.strip(b";".join(pair for pair, _ in pairs))
    others = b";".join(pair for pair, own in pairs if not own)
    assert left.strip(b" \t") == others.strip(b" \t")
    assert COOKIES.read([(b"Cookie", left)]) == {}


# ── header hygiene ────────────────────────────────────────────────────────────────────────────────────────────────────


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


# ── where to return to ────────────────────────────────────────────────────────────────────────────────────────────────


def refused(row: str, *texts: str) -> Iterable[object]:
    return (pytest.param(text, id=f"{row}: {text[:40]!a}") for text in texts)


@pytest.mark.parametrize(
    "text",
    [
        *refused("OR-1", "//evil.test", "///evil.test", "///////evil.test"),
        *refused("OR-2", "/\\evil.test", "\\\\evil.test", "/\\/\\evil.test"),
        *refused("OR-3", "/\t/evil.test", "/\n/evil.test", "/\r/evil.test", "\t//evil.test"),
        *refused("OR-4", " //evil.test", "\0//evil.test"),
        *refused("OR-5", "/.//evil.test", "/..//evil.test", "/a/..//evil.test", "/%2e%2e//evil.test", "/./\\evil.test"),
        *refused("OR-6", "https:evil.test"),
        *refused("OR-7", "http:evil.test", "https:///evil.test", "https://app.test@evil.test"),
        *refused(
            "OR-7", "https://app.test:443@evil.test", "https://app.test.evil.test", "https://evil.test\\.app.test"
        ),
        *refused("OR-8", "https://app.test\\@evil.test", "https://app.test#@evil.test"),
        *refused("OR-8", "https://app．test/", "https://APP.test/", "HTTPS://app.test/"),
        *refused("OR-9", "//app.test:8080", "https://app.test./", "//[::1]/", "//evil。test"),
        *refused("OR-10", "javascript:alert(1)", "JaVa\tscript:alert(1)", "data:text/html,x", "vbscript:x"),
        *refused("OR-11", "/x\r\nSet-Cookie: a=b"),
        *refused("OR-12", "/oauth2", "/oauth2/start", "/oauth2/sign_out", "/oauth2/callback?code=x&state=y"),
        *refused("OR-12", "https://app.test/oauth2/sign_out", "/oauth2#", "/oauth2?rd=/"),
        *refused("OR-13", "/" + "a" * 2048),
        *refused("OR-14", "/%09/evil.test", "/%0a/evil.test", "/%5cevil.test", "/%5Cevil.test"),
        *refused("OR-14", "/%2509/evil.test", "/%250a/evil.test", "/%255cevil.test", "/%00", "/%7f", "/%1F"),
        *refused("OR-15", "/%2f/evil.test", "/%252f/evil.test", "/%25252fevil.test", "/　/evil.test", "/\0/evil.test"),
        *refused("OR-16", "https://evilapp.test/", "https://app.test:8443/", "https://u@app.test/", "http://app.test/"),
        *refused("OR-16", "https://аpp.test/"),
        *refused("F46", "/a//b", "/a/../b", "/a/.", "/a/%2e%2E/b", "/a/.%252e/b", "https://app.test//evil.test"),
        *refused(
            "F46", "https://app.test/\\evil.test", "https://app.test", "wiki", "?x=1", "#x", "", "/é", "/a b", '/a"b'
        ),
    ],
)
def test_an_address_from_a_stranger_is_refused(text: str) -> None:
    assert ReturnTo.parse(text, APP, "/oauth2") is None


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("/", "https://app.test/"),
        ("/search?u=https://x.y/z", "https://app.test/search?u=https://x.y/z"),
        ("/a?x=/../b", "https://app.test/a?x=/../b"),
        ("/a?b=c%2Fd", "https://app.test/a?b=c%2Fd"),
        ("/a?b=%0d%0a//\\"[:-1], "https://app.test/a?b=%0d%0a//"),
        ("/wiki/%E6%9D%B1;v=1#top", "https://app.test/wiki/%E6%9D%B1;v=1#top"),
        ("/a#b?c//d", "https://app.test/a#b?c//d"),
        ("/100%", "https://app.test/100%"),
        ("/a@evil.test", "https://app.test/a@evil.test"),
        ("/.well-known/x", "https://app.test/.well-known/x"),
        ("/oauth2x", "https://app.test/oauth2x"),
        ("/OAUTH2/start", "https://app.test/OAUTH2/start"),
        ("/" + "a" * 2047, "https://app.test/" + "a" * 2047),
        ("https://app.test/deep?x=1", "https://app.test/deep?x=1"),
        ("/?t={id_token}", "https://app.test/?t={id_token}"),
    ],
)
def test_or_22_an_address_of_our_own_is_kept_byte_for_byte(text: str, url: str) -> None:
    target = ReturnTo.parse(text, APP, "/oauth2")
    assert target is not None
    assert target.url(APP) == url


@pytest.mark.parametrize(
    "target", ["/", "/wiki/a%2Fb?x=%2F", "//evil.test/", "/\\evil.test", "/a//b/../c", "/%09/x", "/oauth2x"]
)
def test_or_17_what_was_asked_is_restored_exactly_and_on_our_own_origin(target: str) -> None:
    url = ReturnTo.here(head(target)).url(APP)
    assert url == f"https://app.test{target}"
    assert whatwg_origin(url) == "https://app.test"


def test_or_13_an_address_too_long_to_keep_is_forgotten() -> None:
    assert ReturnTo.here(head("/" + "a" * 2047)).target == "/" + "a" * 2047
    assert ReturnTo.here(head("/" + "a" * 2048)).target == "/"


def whatwg_origin(url: str, base: str = "https://base.test") -> str:
    """Where a browser goes (WHATWG URL, special schemes), as far as the origin; ``base`` is the page that it is on."""
    url = re.sub(r"[\t\n\r]", "", url.strip("".join(map(chr, range(0x21)))))
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):", url)
    if scheme and scheme[1].lower() not in {"http", "https"}:
        return f"{scheme[1].lower()}:"
    rest = url[scheme.end() :] if scheme else url
    if not scheme and not re.match(r"[/\\]{2}", rest):
        return base
    authority = re.split(r"[/\\?#]", re.sub(r"^[/\\]*", "", rest), maxsplit=1)[0]
    return f"{scheme[1].lower() if scheme else 'https'}://{authority.rpartition('@')[2].lower()}"


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("/x", "https://base.test"),
        ("x", "https://base.test"),
        ("//evil.test", "https://evil.test"),
        ("/\t/evil.test", "https://evil.test"),
        ("\\/evil.test/x", "https://evil.test"),
        ("https:evil.test", "https://evil.test"),
        ("https:////evil.test", "https://evil.test"),
        ("https://app.test\\@evil.test", "https://app.test"),
        ("https://app.test@evil.test/", "https://evil.test"),
        ("javascript:alert(1)", "javascript:"),
    ],
)
def test_the_model_of_a_browser_falls_for_the_tricks(url: str, origin: str) -> None:
    assert whatwg_origin(url) == origin


def without_dots(path: str) -> str:
    kept: list[str] = []
    for segment in path.split("/")[1:]:
        if segment == "..":
            kept = kept[:-1]
        elif segment != ".":
            kept.append(segment)
    return "/" + "/".join(kept)


TRICK = st.sampled_from(
    [
        "/",
        "//",
        "\\",
        ".",
        "..",
        "\t",
        "\n",
        "\r",
        " ",
        "\0",
        "@",
        ":",
        "?",
        "#",
        "%",
        ";",
        "evil.test",
        "app.test",
        "a",
    ]
    + ["%2f", "%2F", "%5c", "%2e", "%09", "%0d%0a", "%00", "%252f", "%255c", "%252e", "%2509", "%25", "。", "\u3000"]
    + ["https:", "https://", "https://app.test", "https://app.test/", "javascript:", "/oauth2", "/oauth2/"]
)


@given(st.lists(TRICK, max_size=8).map("".join))
@example("/a/b?c#d")
@example("https://app.test/a")
def test_f46_no_text_leads_a_browser_away(text: str) -> None:
    target = ReturnTo.parse(text, APP, "/oauth2")
    if target is None:
        return
    assert whatwg_origin(target.url(APP)) == "https://app.test"
    # Nor may it after somebody further on has decoded the path, resolved its dots, or cut the origin off.
    reading = re.split(r"[?#]", target.target, maxsplit=1)[0]
    for _ in range(3):
        assert whatwg_origin(reading) == whatwg_origin(without_dots(reading)) == "https://base.test"
        assert not (reading + "/").startswith("/oauth2/")
        reading = unquote_to_bytes(reading).decode("utf-8", "surrogateescape")


# ── parameters of our own endpoints ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("query", "found"),
    [
        (None, {}),
        ("", {}),
        ("&&", {}),
        ("rd=/a", {"rd": ["/a"]}),
        ("rd=/a&rd=//evil.test", {"rd": ["/a", "//evil.test"]}),
        ("r%64=%2Fa+b%2B", {"rd": ["/a b+"]}),
        ("rd", {"rd": [""]}),
        ("=x", {"": ["x"]}),
        ("rd=a=b;c", {"rd": ["a=b;c"]}),
        ("rd=%E6%9D%B1%zz", {"rd": ["東%zz"]}),
    ],
)
def test_parameters_keep_all_their_values(query: str | None, found: dict[str, list[str]]) -> None:
    assert query_parameters(query) == found


@pytest.mark.parametrize("query", ["rd=%ff", "%c0%af=x", "rd=%ed%a0%80"])
def test_parameters_that_are_no_text(query: str) -> None:
    with pytest.raises(RequestFault) as caught:
        query_parameters(query)
    assert caught.value.code == "bad_request"
