from __future__ import annotations

from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oidc_proxy.oidc import redirect_allowed
from oidc_proxy.oidc.urls import add_parameters, split_url
from oidc_proxy.values import Origin


@pytest.mark.parametrize(
    ("url", "origin", "rest"),
    [
        ("https://idp.test", "https://idp.test", ""),
        ("https://idp.test:8443/a//b?x=1&y", "https://idp.test:8443", "/a//b?x=1&y"),
        ("https://idp.test?x=/y", "https://idp.test", "?x=/y"),
    ],
)
def test_a_url_is_split_without_being_changed(url: str, origin: str, rest: str) -> None:
    assert split_url(url) == (Origin.parse(origin), rest)


@pytest.mark.parametrize(
    ("url", "added"),
    [
        ("https://idp.test/auth", "https://idp.test/auth?a=1%202&b=%26"),
        ("https://idp.test/auth?t=1", "https://idp.test/auth?t=1&a=1%202&b=%26"),
        ("https://idp.test/auth?", "https://idp.test/auth?a=1%202&b=%26"),
        ("https://idp.test/auth?t=%2f+x&", "https://idp.test/auth?t=%2f+x&a=1%202&b=%26"),
        ("https://idp.test/auth?a=evil&t=1&%61=evil", "https://idp.test/auth?t=1&a=1%202&b=%26"),
    ],
)
def test_f9_a_query_that_is_there_is_kept(url: str, added: str) -> None:
    assert add_parameters(url, {"a": "1 2", "b": "&"}) == added


@given(st.dictionaries(st.text(min_size=1), st.text(), min_size=1))
def test_s23_every_value_survives_byte_for_byte(parameters: dict[str, str]) -> None:
    url = add_parameters("https://idp.test/auth?%00kept=%C3%BC", parameters)
    assert url.isascii()
    assert url.isprintable()
    found = parse_qsl(urlsplit(url).query, keep_blank_values=True, strict_parsing=True)
    expected = {"\0kept": "ü", **parameters}
    assert sorted(found) == sorted(expected.items())


RULES = ("https://app.test", "https://*.example.com", "https://odd.test:8443", "http://localhost:3000")


@pytest.mark.parametrize(
    "url",
    [
        "https://app.test",
        "https://app.test/",
        "https://app.test:443/x",
        "https://app.test/a//b/../c?u=https://x.y/z#top",
        "https://app.test?x=1",
        "https://a.example.com/x",
        "https://a.b.example.com",
        "https://odd.test:8443/",
        "http://localhost:3000/cb",
    ],
)
def test_or_16_an_allowed_origin(url: str) -> None:
    assert redirect_allowed(url, RULES)


@pytest.mark.parametrize(
    ("row", "url"),
    [
        ("OR-1", "//app.test"),
        ("OR-1", "///evil.test"),
        ("OR-2", "/\\evil.test"),
        ("OR-3", "https://app.test\t.evil.test/"),
        ("OR-3", "ht\ntps://app.test/"),
        ("OR-4", " https://app.test/"),
        ("OR-4", "\0https://app.test/"),
        ("OR-6", "https:app.test"),
        ("OR-7", "https:///app.test"),
        ("OR-7", "https://app.test@evil.test"),
        ("OR-7", "https://app.test:443@evil.test"),
        ("OR-7", "https://app.test.evil.test"),
        ("OR-7", "https://evil.test\\.app.test"),
        ("OR-8", "https://app.test\\@evil.test"),
        ("OR-8", "https://app．test/"),
        ("OR-8", "https://APP.test/"),
        ("OR-9", "https://app.test./"),
        ("OR-9", "https://app.test:8080/"),
        ("OR-9", "https://[::1]/"),
        ("OR-9", "https://[:::]/"),
        ("OR-10", "javascript:alert(1)"),
        ("OR-10", "data:text/html,x"),
        ("OR-11", "https://app.test/x\r\nSet-Cookie: a=b"),
        ("OR-13", "https://app.test/" + "a" * 2048),
        ("OR-16", "https://evilexample.com/"),
        ("OR-16", "https://evil.test/.example.com"),
        ("OR-16", "https://example.com/"),
        ("OR-16", "https://.example.com/"),
        ("OR-16", "https://a..example.com/"),
        ("OR-16", "https://a.example.com:8443/"),
        ("OR-16", "http://a.example.com/"),
        ("OR-16", "http://app.test/"),
        ("OR-16", "https://odd.test/"),
        ("OR-16", "https://app.test:0443/"),
        ("OR-16", "https://app.test:99999/"),
        ("OR-16", "https://user@app.test/"),
        ("OR-16", "https://аpp.test/"),
        ("OR-16", "http://localhost/"),
        ("OR-16", ""),
    ],
)
def test_any_other_spelling_or_place_is_refused(row: str, url: str) -> None:
    assert not redirect_allowed(url, RULES), row


def test_or_16_without_rules_nothing_is_allowed() -> None:
    assert not redirect_allowed("https://app.test/", ())
