"""What a rule says besides who may pass: which path the backend sees, who may send, and what we answer ourselves."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from oidc_proxy.errors import RequestFault
from oidc_proxy.messages import Reply
from oidc_proxy.policy import RespondSettings, Route, Routes, RouteSettings, compile_routes, explain, match, overlaps
from oidc_proxy.values import Origin
from tests.test_policy import BACKENDS, STEPS, find, owner, paths, piped, rule

# ── F216: the path that the backend sees ──────────────────────────────────────────────────────────────────────────────

STRIPPED = (
    rule("/public/", auth="none", strip_prefix="/public"),
    rule("/public/admin/", groups=["ops"], strip_prefix="/public"),
    rule("/public/admin/secret", groups=["boss"], strip_prefix="/public/"),
    rule("/"),
)
"""One backend below /public, where /admin is not for everybody."""

MOVED = (rule("/public/", auth="none", rewrite="/app/"), rule("/"))
ROOTED = (rule("/", rewrite="/app/"),)
SITES = {"/public": STRIPPED, "/app": MOVED, "": ROOTED}


def sent(routes: Routes, path: str) -> str:
    """The path that goes to the backend, or the code of the fault."""
    try:
        route = match(routes, host="app.test", path=path, method="GET")
        return route.rewriting.inward(path) if route.rewriting else path
    except RequestFault as fault:
        return fault.code


@pytest.mark.parametrize(
    ("path", "stripped", "moved", "rooted"),
    [
        ("/public/x", "/x", "/app/x", "/app/public/x"),
        ("/public/a%2Fb", "/a%2Fb", "/app/a%2Fb", "/app/public/a%2Fb"),
        ("/public/a;b=c+d", "/a;b=c+d", "/app/a;b=c+d", "/app/public/a;b=c+d"),
        ("/public/x//y/./z", "/x//y/./z", "/app/x//y/./z", "/app/public/x//y/./z"),
        ("/public/", "/", "/app/", "/app/public/"),
        ("/public/admin", "/admin", "/app/admin", "/app/public/admin"),
        ("/x", "/x", "/x", "/app/x"),
        ("/", "/", "/", "/app/"),
        ("/..", "/..", "/..", "path_ambiguous"),
        ("/%2e%2e/secret", "/%2e%2e/secret", "/%2e%2e/secret", "path_ambiguous"),
        ("/x/../../y", "/x/../../y", "/x/../../y", "path_ambiguous"),
        ("/public//x", "path_ambiguous", "/app//x", "/app/public//x"),
        ("/public/\\x", "path_ambiguous", "/app/\\x", "/app/public/\\x"),
        ("/public/%2Fx/admin/", "path_ambiguous", "/app/%2Fx/admin/", "/app/public/%2Fx/admin/"),
        ("/public/%5cx/admin/", "path_ambiguous", "/app/%5cx/admin/", "/app/public/%5cx/admin/"),
        ("/public/%2Fx/y", "/%2Fx/y", "/app/%2Fx/y", "/app/public/%2Fx/y"),
        ("/public/../public/x", "/../public/x", "path_ambiguous", "/app/public/../public/x"),
        ("/public/x/../y", "/x/../y", "/app/x/../y", "/app/public/x/../y"),
        ("/public/x/..%2f..%2fadmin", "path_ambiguous", "path_ambiguous", "/app/public/x/..%2f..%2fadmin"),
        ("/public/%ff", "path_ambiguous", "path_ambiguous", "path_ambiguous"),
    ],
)
def test_f216_byte_for_byte_and_to_no_other_rule(path: str, stripped: str, moved: str, rooted: str) -> None:
    assert [sent(compile_routes(rules), path) for rules in SITES.values()] == [stripped, moved, rooted]


def assert_no_escape(outside: str, path: str, see: Callable[[str], str]) -> None:
    """What a backend sees is what the very rule that let it pass could have sent, prefix put back."""
    rules, inside = SITES[outside], "" if outside == "/public" else "/app"
    outside = "/public" if outside else ""
    try:
        route = match(compile_routes(rules), host="app.test", path=path, method="GET")
    except RequestFault:
        return
    if route.rewriting is not None:
        seen = see(route.rewriting.inward(path))
        assert seen.startswith(f"{inside}/"), (path, seen)
        assert owner(rules, outside + seen.removeprefix(inside)) == route.settings, (path, route.name, seen)


prefixed = st.tuples(st.sampled_from(["", "/public", "/public/admin"]), paths).map("".join)


@settings(max_examples=600, deadline=None, database=None)
@given(site=st.sampled_from(sorted(SITES)), path=prefixed, backend=st.sampled_from(sorted(BACKENDS)))
@example(site="/public", path="/public/%2Fx/admin/", backend="a URL parser after merging backslashes")
@example(site="/public", path="/public/%5cx/admin/", backend="Tomcat")
@example(site="", path="/%2e%2e/x", backend="nginx")
def test_f216_no_backend_sees_a_path_of_another_rule(site: str, path: str, backend: str) -> None:
    assert_no_escape(site, path, BACKENDS[backend])


@settings(max_examples=600, deadline=None, database=None)
@given(
    site=st.sampled_from(sorted(SITES)), path=prefixed, steps=st.lists(st.sampled_from(STEPS), max_size=6).map(tuple)
)
def test_f216_no_order_of_steps_leads_to_a_path_of_another_rule(
    site: str, path: str, steps: tuple[Callable[[str], str], ...]
) -> None:
    assert_no_escape(site, path, piped(*steps))


def test_rewriting_changes_nothing_about_which_rule_a_request_falls_under() -> None:
    plain = compile_routes([one.model_copy(update={"strip_prefix": None}) for one in STRIPPED])
    stripped = compile_routes(STRIPPED)
    for path in ("/public/x", "/public/admin/x", "/public/admin", "/x", "/public", "/public/..", "/admin/"):
        assert find(stripped, path) == find(plain, path)


def test_a_rewritten_path_that_cannot_be_read_is_refused() -> None:
    long = compile_routes([rule("/a/", rewrite=f"/{'b' * 900}/")])
    ways = "x;y//%2525253by%5c%2fz%3fw"
    assert sent(compile_routes([rule("/a/")]), f"/a/{ways}") == f"/a/{ways}"
    assert sent(long, f"/a/{ways}") == "path_ambiguous"


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"path": "/api/", "strip_prefix": "/ap"}, "no first part of the path /api/ that ends at a slash"),
        ({"path": "/api/", "strip_prefix": "/api/x"}, "no first part"),
        ({"path": "/api/", "strip_prefix": "/"}, "no first part"),
        ({"path": "/api/", "strip_prefix": "api"}, "must start with a slash"),
        ({"path": "/api/", "strip_prefix": "/api", "rewrite": "/"}, "leave `strip_prefix` out"),
        ({"path": "/api/", "rewrite": "/v2"}, "must both end with a slash, or neither"),
        ({"path": "/api", "rewrite": "/v2/"}, "must both end with a slash, or neither"),
        ({"path": "/api/", "rewrite": "/%2e/"}, "must not contain '%'"),
        ({"path": "/api/", "rewrite": "//evil.test/"}, "must not contain '//'"),
        ({"path": "/", "respond": {}, "rewrite": "/x/"}, "`respond` passes nothing on, so `rewrite` has no effect"),
        ({"path": "/", "respond": {}, "upstream": "x"}, "`upstream` has no effect"),
        ({"path": "/", "respond": {}, "timeout": "1s"}, "`timeout` has no effect"),
        ({"path": "/", "respond": {"status": 302}}, "status 302 cannot be answered here"),
        ({"path": "/", "respond": {"status": 299}}, "status 299 cannot be answered here"),
        ({"path": "/", "respond": {"status": 204, "body": "x"}}, "status 204 has no body"),
        ({"path": "/", "respond": {"content_type": "text/plain\r\nX: y"}}, "content_type"),
        ({"path": "/", "authorization": "both"}, "authorization"),
        ({"path": "/", "allowed_origins": ["https://a.test"]}, "no effect without `cross_site: refuse`"),
        ({"path": "/", "cross_site": "refuse", "allowed_origins": ["a.test"]}, "must be an origin"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(options: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        RouteSettings.model_validate(options)


CLOSED = [rule("/"), rule("/admin/", groups=["ops"]), rule("/free/", auth="none")]


@pytest.mark.parametrize(
    ("rules", "past"),
    [
        ([rule("/pub/", auth="none", strip_prefix="/pub"), *CLOSED], "/"),
        ([rule("/pub/", strip_prefix="/pub"), *CLOSED], "/admin/"),
        ([rule("/pub/", strip_prefix="/pub", groups=["ops"]), *CLOSED], None),
        ([rule("/pub/", strip_prefix="/pub", groups=["dev"]), *CLOSED], "/admin/"),
        ([rule("/pub/", auth="optional", rewrite="/admin/x/"), *CLOSED], "/admin/"),
        ([rule("/pub/", auth="none", rewrite="/free/x/"), *CLOSED], None),
        ([rule("/pub", auth="none", rewrite="/admin"), *CLOSED], "/admin/"),
        ([rule("/pub/", auth="none", rewrite="/other/", upstream="back"), *CLOSED], None),
        ([rule("/pub/", auth="none", strip_prefix="/pub", upstream="default"), *CLOSED], "/"),
        ([rule("/pub/", strip_prefix="/pub"), rule("/pub/admin/", strip_prefix="/pub", groups=["ops"])], None),
        ([rule("/pub/", strip_prefix="/pub", methods=["PUT"]), *CLOSED], "/admin/"),
        ([rule("/pub/", strip_prefix="/pub", host="a.test"), rule("/admin/", groups=["ops"], host="b.test")], None),
        ([rule("/pub/", strip_prefix="/pub", host="a.test"), *CLOSED], "/admin/"),
        ([rule("/pub/", auth="none", strip_prefix="/pub"), rule("/admin/", respond={})], None),
        ([rule("/pub/", auth="none", rewrite="/x/"), rule("/y/")], None),
        (STRIPPED[:3], None),
    ],
)
def test_rewriting_that_leads_past_another_rule_is_seen(rules: list[RouteSettings], past: str | None) -> None:
    found = [sentence for _, sentence in overlaps(compile_routes(rules))]
    assert [f"“{past}”" in sentence for sentence in found] == ([True] if past else [])


# ── F226: answers of our own ──────────────────────────────────────────────────────────────────────────────────────────


def route_of(**options: object) -> Route:
    (route,) = compile_routes([rule("/", **options)]).all
    return route


def test_f226_an_answer_is_made_once() -> None:
    nosniff = ("X-Content-Type-Options", "nosniff")
    text = ("Content-Type", "text/plain; charset=utf-8")
    open_to_all = route_of(auth="none", respond={"body": "é"})
    assert open_to_all.reply == Reply(200, (text, nosniff), "é".encode())
    private = (("Cache-Control", "private, no-store"), ("Vary", "Cookie"))
    assert route_of(respond={"status": 204}).reply == Reply(204, (nosniff, *private))
    assert route_of().reply is None
    assert RespondSettings(content_type="application/json").content_type == "application/json"


# ── BR-4: who may send ────────────────────────────────────────────────────────────────────────────────────────────────

HERE = Origin.parse("https://app.test")


@pytest.mark.parametrize(
    ("method", "headers", "passes"),
    [
        ("GET", {"Sec-Fetch-Site": "cross-site"}, True),
        ("HEAD", {}, True),
        ("OPTIONS", {"Origin": "https://evil.test"}, True),
        ("POST", {"Sec-Fetch-Site": "same-origin"}, True),
        ("POST", {"Sec-Fetch-Site": "none"}, True),
        ("POST", {"Sec-Fetch-Site": "same-origin", "Origin": "null"}, True),
        ("POST", {"Origin": "https://app.test"}, True),
        ("POST", {"Origin": "https://friend.test:8443", "Sec-Fetch-Site": "cross-site"}, True),
        ("POST", {"Sec-Fetch-Site": "same-site"}, False),
        ("PUT", {"Sec-Fetch-Site": "same-site", "Origin": "https://sibling.app.test"}, False),
        ("POST", {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.test"}, False),
        ("POST", {"Origin": "null"}, False),
        ("POST", {"Origin": ""}, False),
        ("POST", {"Origin": "http://app.test"}, False),
        ("POST", {"Origin": "https://app.test.evil.test"}, False),
        ("POST", {"Origin": "https://app.test:444"}, False),
        ("POST", {"Origin": "https://friend.test"}, False),
        ("DELETE", {}, False),
        ("PROPFIND", {}, False),
        ("get", {}, False),
    ],
)
def test_br4_what_changes_something_comes_from_our_own_pages(
    method: str, headers: dict[str, str], passes: bool
) -> None:
    route = route_of(cross_site="refuse", allowed_origins=["https://Friend.test:8443"])
    assert route.senders is not None
    assert route_of().senders is None
    if passes:
        route.senders.check(method, HERE, headers)
        return
    with pytest.raises(RequestFault) as caught:
        route.senders.check(method, HERE, headers)
    assert (caught.value.code, caught.value.status) == ("cross_site", 403)


# ── F263: in words ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/api/a%2Fb", ["upstream back", "auth     none", "path     goes on as /a%2Fb", "verdict  allowed"]),
        ("/api//x", ["rule     none", "verdict  refused (path_ambiguous, 400): '/api//x' without its first part"]),
        ("/robots.txt", ["answer   200", "auth     none", "verdict  allowed"]),
        (
            "/forms/x",
            [
                "upstream the default one",
                "auth     none",
                "senders  only pages of the same origin, https://www.test, for what is not GET, HEAD or OPTIONS",
                "verdict  allowed",
            ],
        ),
    ],
)
def test_f263_what_becomes_of_a_request_is_told(path: str, told: list[str]) -> None:
    routes = compile_routes([
        rule("/api/", auth="none", strip_prefix="/api", upstream="back"),
        rule("/robots.txt", auth="none", respond={"body": "User-agent: *\n"}),
        rule("/forms/", auth="none", cross_site="refuse", allowed_origins=["https://www.test"]),
    ])  # fmt: skip
    lines = explain(routes, host="app.test", path=path, method="GET", holder=None).lines()
    for line, expected in zip(lines[-len(told) :], told, strict=True):
        assert line.startswith(expected)
