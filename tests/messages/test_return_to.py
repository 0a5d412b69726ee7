"""Where a sign-in returns to: on our own origin, whatever anybody writes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from oidc_proxy.messages import ReturnTo

from .samples import APP, head


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
        ("/a?b=%0d%0a//", "https://app.test/a?b=%0d%0a//"),
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


TRICK = st.one_of(
    st.sampled_from("/\\.@:?#%;a \t\n\r\0\u3000。"),
    st.sampled_from(["//", "..", "evil.test", "app.test", "javascript:", "/oauth2", "/oauth2/"]),
    st.sampled_from(["https:", "https://", "https://app.test", "https://app.test/"]),
    st.sampled_from(["%2f", "%2F", "%5c", "%2e", "%09", "%0d%0a", "%00", "%25", "%252f", "%255c", "%252e", "%2509"]),
)


@settings(deadline=None)
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
