"""Paths and addresses on their way to the backend and back (F216, F230, BR-10)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oidc_proxy.errors import RequestFault
from oidc_proxy.rewriting import AnswerAddresses, Rewriting, destination
from oidc_proxy.values import Origin

PUBLIC = Origin.parse("https://app.example.com")
OWN = [Origin.parse("http://backend:8080"), Origin.parse("https://10.0.0.2")]
API = Rewriting.of("/api", "/")
MOVED = Rewriting.of("/old/", "/new/x/")
ROOTED = Rewriting.of("/", "/app/")
SPELLED = Rewriting.of("/café a/", "/thé/")


@pytest.mark.parametrize(
    ("rewriting", "path", "sent"),
    [
        (API, "/api/x", "/x"),
        (API, "/api/", "/"),
        (API, "/api", "/"),
        (API, "/api/a%2Fb", "/a%2Fb"),
        (API, "/api/a//b;c+d%zz", "/a//b;c+d%zz"),
        (API, "/api/%2Fx", "/%2Fx"),
        (API, "/api/api/x", "/api/x"),
        (MOVED, "/old/y", "/new/x/y"),
        (MOVED, "/old", "/new/x"),
        (MOVED, "/old//y", "/new/x//y"),
        (ROOTED, "/", "/app/"),
        (ROOTED, "/x?", "/app/x?"),
        (SPELLED, "/caf%C3%A9%20a/x", "/th%C3%A9/x"),
        (SPELLED, "/café a/x", "/th%C3%A9/x"),
    ],
)
def test_f216_the_first_part_is_exchanged_and_the_rest_is_untouched(rewriting: Rewriting, path: str, sent: str) -> None:
    assert rewriting.inward(path) == sent
    assert path.removesuffix("/") in {asked.removesuffix("/") for asked in rewriting.undone(sent)}


@pytest.mark.parametrize("path", ["/api//x", "/api/\\x", "/api//", "/apix", "/ap", "/", "/x/api/y", "", "api/x"])
def test_f216_there_is_no_way_to_a_target_that_does_not_begin_with_one_slash(path: str) -> None:
    with pytest.raises(RequestFault) as caught:
        API.inward(path)
    assert caught.value.code == "path_ambiguous"


@given(st.sampled_from([API, MOVED, ROOTED, SPELLED]), st.text("/.\\%2Fxé ;api", max_size=12))
def test_whatever_comes_a_target_begins_with_one_slash_and_ends_as_it_came(rewriting: Rewriting, rest: str) -> None:
    path = f"{rewriting.outside[0]}/{rest}"
    try:
        sent = rewriting.inward(path)
    except RequestFault:
        return
    assert sent.startswith("/")
    assert sent[1:2] not in {"/", "\\"}
    assert sent.endswith(f"/{rest}")
    assert path in rewriting.undone(sent)


def test_a_path_that_was_never_made_cannot_be_undone() -> None:
    assert MOVED.undone("/new/y") == ()
    assert MOVED.undone("/new/xy") == ()


def test_the_backend_is_told_a_prefix_only_where_that_is_all_it_lacks() -> None:
    assert [rewriting.prefix for rewriting in (API, MOVED, ROOTED)] == ["/api", "", ""]


@pytest.mark.parametrize(
    ("rewriting", "path", "seen"),
    [
        (API, "/login", "/api/login"),
        (API, "/", "/api/"),
        (API, "/api/login", "/api/login"),
        (API, "/api", "/api"),
        (API, "/apix", "/api/apix"),
        (MOVED, "/new/x/y", "/old/y"),
        (MOVED, "/new/x", "/old"),
        (MOVED, "/other", "/other"),
        (MOVED, "/new/xy", "/new/xy"),
        (MOVED, "/old/z", "/old/z"),
        (ROOTED, "/app/y", "/y"),
        (ROOTED, "/login", "/login"),
    ],
)
def test_f230_a_path_of_the_backend_becomes_the_visitors(rewriting: Rewriting, path: str, seen: str) -> None:
    assert rewriting.outward(path) == seen


# ── answers ──


def addresses(rewriting: Rewriting | None = None, **options: Any) -> AnswerAddresses:
    usual = {"location": True, "cookie_path": False, "cookie_domain": False}
    return AnswerAddresses(OWN, rewriting, **(usual | options))


@pytest.mark.parametrize(
    ("url", "plain", "stripped"),
    [
        ("http://backend:8080/x?y=%2F#z", "https://app.example.com/x?y=%2F#z", "https://app.example.com/api/x?y=%2F#z"),
        ("HTTP://Backend:8080/x", "https://app.example.com/x", "https://app.example.com/api/x"),
        ("http://backend:8080", "https://app.example.com", "https://app.example.com/api/"),
        ("http://backend:8080?x", "https://app.example.com?x", "https://app.example.com/api/?x"),
        ("http://backend:8080//x", "https://app.example.com//x", "https://app.example.com/api//x"),
        ("//backend:8080/x", "https://app.example.com/x", "https://app.example.com/api/x"),
        ("https://10.0.0.2:443/x", "https://app.example.com/x", "https://app.example.com/api/x"),
        ("//10.0.0.2/x", "https://app.example.com/x", "https://app.example.com/api/x"),
        ("http://backend:8080/api/x", "https://app.example.com/api/x", "https://app.example.com/api/x"),
        ("/x?y", "/x?y", "/api/x?y"),
        ("/api/x", "/api/x", "/api/x"),
        *((url, url, url) for url in (
            "http://backend:80801/x", "http://backend:8080.evil.test/", "http://backend:8080@evil.test/x",
            "http://user@backend:8080/", "http://backend/x", "https://backend:8080/x", "http://xbackend:8080/",
            "http://backend:8080\\@evil.test/", "http://backend:x/", "ftp://backend:8080/", "//evil.test/x",
            "https://app.example.com/x", "https://other.example.com/http://backend:8080/", "x/y", "?x", "",
            "mailto:x@y",
        )),
    ],
)  # fmt: skip
def test_br10_f230_only_what_is_certainly_the_backends_own_is_rewritten(url: str, plain: str, stripped: str) -> None:
    assert addresses().url(url, PUBLIC) == plain
    assert addresses(API).url(url, PUBLIC) == stripped


@pytest.mark.parametrize(
    ("value", "seen"),
    [
        ("5; url=http://backend:8080/x", "5; url=https://app.example.com/x"),
        ("0;URL='http://backend:8080/x'", "0;URL='https://app.example.com/x'"),
        ("1.5, http://backend:8080/x", "1.5, https://app.example.com/x"),
        ("5", "5"),
        ("soon; url=http://backend:8080/x", "soon; url=http://backend:8080/x"),
    ],
)
def test_f230_refresh(value: str, seen: str) -> None:
    assert addresses().refresh(value, PUBLIC) == seen


@pytest.mark.parametrize(
    ("cookie", "seen"),
    [
        ("a=1; Path=/; HttpOnly", "a=1; Path=/api; HttpOnly"),
        ("a=1; path=/x/;Secure", "a=1; Path=/api/x/;Secure"),
        ("a=1; Path=/api/x", "a=1; Path=/api/x"),
        ("a=1; Path=x", "a=1; Path=x"),
        ("__Host-a=1; Path=/; Secure", "__Host-a=1; Path=/; Secure"),
        ("__host-a=1; Path=/; Secure", "__host-a=1; Path=/; Secure"),
        ("a=1; Domain=backend; Path=/x", "a=1; Path=/api/x"),
        ("a=1;domain = .BACKEND", "a=1"),
        ("a=1; Domain=10.0.0.2", "a=1"),
        ("a=1; Domain=example.com", "a=1; Domain=example.com"),
        ("a=1; Domain=backend.test", "a=1; Domain=backend.test"),
        ("a=1; Domain=", "a=1; Domain="),
        ("a=Path=/; Max-Age=3;; SameSite", "a=Path=/; Max-Age=3;; SameSite"),
        ("", ""),
    ],
)
def test_br10_f230_cookies(cookie: str, seen: str) -> None:
    assert addresses(API, cookie_path=True, cookie_domain=True).cookie(cookie, PUBLIC) == seen


def test_a_cookies_path_at_the_root_stays_there_without_a_prefix() -> None:
    both = addresses(ROOTED, cookie_path=True)
    assert both.cookie("a=1; Path=/app/", PUBLIC) == "a=1; Path=/"
    assert both.cookie("a=1; Path=/", PUBLIC) == "a=1; Path=/"


def test_header_lines_keep_their_order_and_their_bytes() -> None:
    lines = [
        (b"LOCATION", b"http://backend:8080/caf\xe9"),
        (b"X-Location", b"http://backend:8080/"),
        (b"Set-Cookie", b"a=\xff; Domain=backend"),
        (b"content-location", b"/x"),
        (b"Set-Cookie", b"b=2"),
    ]
    kept = addresses(API, cookie_domain=True).rewritten(lines, PUBLIC)
    assert kept == [
        (b"LOCATION", b"https://app.example.com/api/caf\xe9"),
        (b"X-Location", b"http://backend:8080/"),
        (b"Set-Cookie", b"a=\xff"),
        (b"content-location", b"/api/x"),
        (b"Set-Cookie", b"b=2"),
    ]
    assert addresses(API).rewritten(lines, PUBLIC)[2] == lines[2]


def test_what_nobody_asked_for_is_not_looked_at() -> None:
    assert not addresses(location=False)
    assert not addresses(None, location=False, cookie_path=True), "there is nothing that was taken off"
    assert addresses()
    assert not addresses().on_every_status
    assert addresses(cookie_domain=True).on_every_status
    assert addresses(API, location=False, cookie_path=True).on_every_status


@pytest.mark.parametrize(
    ("said", "path"),
    [
        ([], None),
        (["https://app.example.com/a/b%2Fc"], "/a/b%2Fc"),
        (["http://evil.test:80/a"], "/a"),
        (["HTTP://u:p@[::1]/a/?x=/b"], "/a/"),
        (["/a;b?c"], "/a;b"),
        ([" /a\t"], "/a"),
        (["https://app.example.com///a"], "///a"),
    ],
)
def test_the_path_that_something_is_copied_to(said: list[str], path: str | None) -> None:
    assert destination(said) == path


@pytest.mark.parametrize(
    "said",
    [
        ["/a", "/a"], [""], ["a"], ["https://app.example.com"], ["//evil.test/a"], ["///a"], ["https:a/b"],
        ["/a#b"], ["/a b"], ["/\xe9"], ["/a, /b c"], ["<https://app.example.com/a b>"], ["\x00/a"],
    ],
)  # fmt: skip
def test_a_destination_that_backends_could_read_in_several_ways(said: list[str]) -> None:
    with pytest.raises(RequestFault) as caught:
        destination(said)
    assert caught.value.code == "bad_request"
