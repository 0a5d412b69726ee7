"""Cookies: those that we set, those that we get, and those that are none of our business."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oidc_proxy.messages import Cookie, Reply

from .samples import COOKIES, OURS, lines

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


@settings(deadline=None)
@given(st.lists(st.one_of(OTHER_PAIR.map(lambda p: (p, False)), OWN_PAIR.map(lambda p: (p, True))), max_size=8))
def test_f160_stripping_takes_all_of_ours_and_not_one_byte_of_others(pairs: list[tuple[bytes, bool]]) -> None:
    left = COOKIES.strip(b";".join(pair for pair, _ in pairs))
    others = b";".join(pair for pair, own in pairs if not own)
    assert left.strip(b" \t") == others.strip(b" \t")
    assert COOKIES.read([(b"Cookie", left)]) == {}
