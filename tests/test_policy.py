"""Rules: which route a request takes, whatever a backend takes its path for, and who may use it."""

from __future__ import annotations

import inspect
import posixpath
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote, unquote_to_bytes, urlsplit

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from oidc_proxy.errors import RequestFault
from oidc_proxy.policy import (
    Allow,
    Anybody,
    Condition,
    Nobody,
    Refuse,
    Routes,
    RouteSettings,
    RoutesInvalid,
    SignIn,
    Users,
    compile_routes,
    decide,
    explain,
    match,
    narrowed,
)
from oidc_proxy.policy.readings import SAME_IN_EVERY_READING, UnreadableError, readings


def rule(path: str = "/", **options: object) -> RouteSettings:
    return RouteSettings.model_validate({"path": path, **options})


OPEN_CORNER = (rule("/public/", auth="none"), rule("/"))
CLOSED_CORNER = (rule("/", auth="none"), rule("/admin/", groups=["ops"]), rule("/private"), rule("/public/secret/"))
NESTED = (
    rule("/public/", auth="none"),
    rule("/public/admin/", groups=["ops"]),
    rule("/healthz", auth="none"),
    rule("/admin/public/", auth="optional"),
    rule("/admin", roles=["admin"]),
    rule("/"),
)
SITES = {"open corner": OPEN_CORNER, "closed corner": CLOSED_CORNER, "nested": NESTED}


@dataclass(frozen=True)
class User:
    groups: frozenset[str] = frozenset()
    roles: frozenset[str] = frozenset()
    email: str | None = None


def user(*groups: str, roles: Iterable[str] = ()) -> User:
    return User(frozenset(groups), frozenset(roles))


def find(routes: Routes, path: str, *, host: str = "app.test", method: str = "GET") -> str:
    """The name of the route, or the code of the fault."""
    try:
        return match(routes, host=host, path=path, method=method).name
    except RequestFault as fault:
        return fault.code


# ── what backends see ─────────────────────────────────────────────────────────────────────────────────────────────────
# Written again here, and in the way of each backend, so that they do not agree with the gateway by construction.


def resolved(path: str) -> str:
    parts: list[str] = []
    for part in path.split("/")[1:]:
        match part:
            case "." | "..":
                if part == ".." and parts:
                    parts.pop()
            case _:
                parts.append(part)
    return "/" + "/".join(parts) + ("/" if parts and path.endswith(("/.", "/..")) else "")


def merged(path: str) -> str:
    return re.sub("/{2,}", "/", path)


def cleaned(path: str) -> str:
    return resolved(merged(path))


def without_parameters(path: str) -> str:
    return "/".join(part.split(";")[0] for part in path.split("/"))


def before(*marks: str) -> Callable[[str], str]:
    def cut(path: str) -> str:
        for mark in marks:
            path = path.split(mark, 1)[0]
        return path

    return cut


def forward(path: str) -> str:
    return path.replace("\\", "/")


def decoded_but(*kept: str) -> Callable[[str], str]:
    """Decodes all but these octets, as Apache's AllowEncodedSlashes NoDecode does with %2F."""

    def decode(path: str) -> str:
        held = path
        for number, text in enumerate(kept):
            held = re.sub(text, chr(0xE000 + number), held, flags=re.IGNORECASE)
        held = unquote(held)
        for number, text in enumerate(kept):
            held = held.replace(chr(0xE000 + number), text)
        return held

    return decode


def normalised_unreserved(path: str) -> str:
    """RFC 3986 §6.2.2, as HAProxy and Envoy do it."""
    kept = re.compile(r"[A-Za-z0-9._~-]")

    def decode(found: re.Match[str]) -> str:
        character = chr(int(found[1], 16))
        return character if kept.match(character) else found[0].upper()

    return re.sub("%([0-9A-Fa-f]{2})", decode, path)


def utf16_decoded(path: str) -> str:
    return re.sub("%[uU]([0-9A-Fa-f]{4})", lambda found: chr(int(found[1], 16)), path)


def leniently_decoded(path: str) -> str:
    octets = unquote_to_bytes(path).replace(b"\xc0\xae", b".").replace(b"\xc0\xaf", b"/").replace(b"\xe0\x80\xae", b".")
    return octets.decode("utf-8", "replace")


def without_host(path: str) -> str:
    return urlsplit(path).path or "/"


def piped(*steps: Callable[[str], str]) -> Callable[[str], str]:
    def see(path: str) -> str:
        for step in steps:
            path = step(path)
        return path

    return see


BACKENDS: dict[str, Callable[[str], str]] = {
    "raw": piped(),
    "nginx": piped(before("#"), unquote, cleaned),
    "nginx, then an application that decodes": piped(before("#"), unquote, cleaned, unquote, cleaned),
    "Apache": piped(before("#"), unquote, cleaned),
    "Apache, NoDecode": piped(before("#"), decoded_but("%2f"), cleaned),
    "Apache, NoDecode, then an application that decodes": piped(decoded_but("%2f"), cleaned, unquote, cleaned),
    "Flask": piped(unquote, merged),
    "Django": piped(unquote),
    "Tomcat": piped(without_parameters, unquote, forward, cleaned),
    "Tomcat, passthrough": piped(without_parameters, decoded_but("%2f", "%5c"), cleaned),
    "Spring": piped(unquote, without_parameters, cleaned),
    "Shiro": piped(unquote, before(";"), cleaned),
    "Jetty": piped(without_parameters, resolved, unquote),
    "Express": piped(before("?", "#")),
    "Express static": piped(before("?", "#"), unquote, cleaned),
    "PHP": piped(unquote, before("?", "#"), cleaned),
    "IIS": piped(utf16_decoded, unquote, forward, cleaned),
    "IIS that decodes twice": piped(utf16_decoded, unquote, unquote, forward, cleaned),
    "Windows files behind nginx": piped(unquote, cleaned, forward, cleaned),
    "a URL parser": piped(without_host, unquote),
    "a URL parser after merging backslashes": piped(forward, without_host, normalised_unreserved, resolved),
    "HAProxy": piped(normalised_unreserved, cleaned),
    "Envoy": piped(normalised_unreserved, resolved, merged),
    "a C string": piped(unquote, before("\0"), cleaned),
    "a lenient decoder": piped(leniently_decoded, cleaned),
}

STEPS = (
    unquote, utf16_decoded, decoded_but("%2f"), decoded_but("%5c"), decoded_but("%2f", "%5c"), normalised_unreserved,
    forward, merged, resolved, without_parameters, before(";"), before("?"), before("#"), before("\0"),
)  # fmt: skip


def owner(rules: Sequence[RouteSettings], path: str) -> RouteSettings:
    """The rule that a reader of the settings would name for a path that has one reading."""
    below = [one for one in rules if path == one.path or (one.path.endswith("/") and path.startswith(one.path))]
    alike = [one for one in rules if one.auth == "required" and f"{path}/" in (one.path, f"{one.path}//")]
    alike += [one for one in rules if one.auth == "required" and path == f"{one.path}/"]
    written = [one for one in below if one.path == path]
    return (written or alike or [max(below, key=lambda one: len(one.path))])[0]


def assert_no_escape(rules: Sequence[RouteSettings], routes: Routes, path: str, see: Callable[[str], str]) -> None:
    """Whatever passes, the backend sees a path of the very rule that let it pass."""
    try:
        route = match(routes, host="app.test", path=path, method="GET")
    except RequestFault:
        return
    seen = see(path)
    assert owner(rules, seen) == route.settings, f"{path!a} passed by {route.name!r}, but the backend sees {seen!a}"


# ── PA: path confusion ────────────────────────────────────────────────────────────────────────────────────────────────


def corpus() -> list[object]:
    """Each file is a row of the attack list; each line says what becomes of a request target under OPEN_CORNER."""
    folder = Path(__file__).parent / "corpus" / "paths"
    files = sorted(folder.glob("*.txt"), key=lambda file: int(file.stem.removeprefix("PA-")))
    lines = [(file.stem, *line.split(" ", 1)) for file in files for line in file.read_text("utf-8").splitlines()]
    return [pytest.param(expected, target, id=f"{row} {target!a}") for row, expected, target in lines]


OUTCOMES = {"open": "/public/", "closed": "/", "refused": "path_ambiguous", "unknown": "not_found"}


@pytest.mark.parametrize(("expected", "target"), corpus())
def test_hostile_path(expected: str, target: str) -> None:
    path = target.partition("?")[0]
    assert find(compile_routes(OPEN_CORNER), path) == OUTCOMES[expected]
    for rules in SITES.values():
        routes = compile_routes(rules)
        for see in BACKENDS.values():
            assert_no_escape(rules, routes, path, see)


PIECES = (
    "/", "/", "/", "//", "..", "..", ".", "public", "admin", "private", "secret", "healthz", "x", "%2e", "%2E%2e",
    "%252e",
    "%2f", "%2F", "%252f", "%5c", "\\", "%255C", ";", ";a=b", "..;", "%3b", "%253b", "%23", "#", "%3f", "%253f", "%00",
    "%c0%ae", "%c0%af", "%u002e", "%u002f", "%u005c", "%61dmin", "%25", "25", "2e", "2f", "%", "%0a", "%ff", "%20",
    "%C3%A9", "é", "/public/", "/admin/", "/public/admin/", "/../", "/admin", "/public",
)  # fmt: skip
paths = st.lists(st.sampled_from(PIECES), max_size=9).map(lambda pieces: "/" + "".join(pieces))


@settings(max_examples=400, deadline=None, database=None)
@given(path=paths, site=st.sampled_from(sorted(SITES)), backend=st.sampled_from(sorted(BACKENDS)))
@example(path="/public/..;/admin", site="nested", backend="Tomcat")
def test_f170_no_backend_sees_a_path_of_another_rule(path: str, site: str, backend: str) -> None:
    assert_no_escape(SITES[site], compile_routes(SITES[site]), path, BACKENDS[backend])


@settings(max_examples=400, deadline=None, database=None)
@given(path=paths, site=st.sampled_from(sorted(SITES)), steps=st.lists(st.sampled_from(STEPS), max_size=6))
def test_f170_no_order_of_steps_leads_to_a_path_of_another_rule(
    path: str, site: str, steps: list[Callable[[str], str]]
) -> None:
    assert_no_escape(SITES[site], compile_routes(SITES[site]), path, piped(*steps))


@settings(max_examples=300, deadline=None, database=None)
@given(path=paths | st.text(alphabet="/.ab~-_!$&'()*+,=:@%;#?\\\0", max_size=12).map("/".__add__))
def test_what_takes_the_short_way_has_no_other_reading(path: str) -> None:
    if SAME_IN_EVERY_READING.fullmatch(path):
        assert list(readings(path)) == []
        assert all(step(path) == path for step in STEPS)


@pytest.mark.parametrize("path", ["/", "/a", "/a/b.c/", "/.well-known/x", "/a..b/...", "/~u/@x:1,2=(3)!*'$&+"])
def test_usual_paths_take_the_short_way(path: str) -> None:
    assert SAME_IN_EVERY_READING.fullmatch(path)


def test_pa_13_raw_non_ascii_cannot_be_read() -> None:
    with pytest.raises(UnreadableError, match="must be encoded"):
        next(readings("/é"))


@pytest.mark.parametrize("seen", ["/private", "/private/"])
def test_pa_16_what_needs_sign_in_needs_it_with_and_without_the_final_slash(seen: str) -> None:
    routes = compile_routes(CLOSED_CORNER)
    assert find(routes, seen) == "/private"
    assert find(routes, seen.replace("private", "admin")) == "/admin/"
    for path in (f"{seen}x", "/private/x", "/adminx"):
        assert find(routes, path) == "/"


def test_pa_16_a_rule_written_for_the_other_spelling_comes_first() -> None:
    routes = compile_routes([rule("/x/"), rule("/x", auth="none"), rule("/y"), rule("/y/", auth="optional")])
    assert [find(routes, path) for path in ("/x/", "/x", "/y", "/y/", "/y/z")] == ["/x/", "/x", "/y", "/y/", "/y/"]


def test_pa_16_a_file_server_that_drops_final_slashes_keeps_what_is_closed_closed() -> None:
    routes = compile_routes(CLOSED_CORNER)
    for path in ("/admin/", "/admin/.", "/admin/x/..", "/private/", "/private/."):
        assert find(routes, path) in {find(routes, posixpath.normpath(path)), "path_ambiguous"} - {"/"}


@pytest.mark.parametrize("path", ["/public/secret%23/x", "/public/secret%3f/x", "/public/secret%2523/x"])
def test_pa_22_decoded_marks_do_not_hide_the_protected_part(path: str) -> None:
    assert find(compile_routes([*OPEN_CORNER, rule("/public/secret")]), path) == "path_ambiguous"


def test_pa_18_pa_19_pa_23_pa_24_headers_have_no_say() -> None:
    assert set(inspect.signature(match).parameters) == {"routes", "host", "path", "method"}


@pytest.mark.parametrize(
    "path", ["/a//b", "/a%2Fb", "/x;y", "/../..", "/%00", "/%ff", "/é", "/%2e%2e/%5c;/%23", "/%u002e"]
)
def test_f217_a_single_rule_for_everything_lets_every_path_pass(path: str) -> None:
    assert find(compile_routes([rule("/")]), path) == "/"
    assert find(compile_routes([rule("/", methods=["GET"]), rule("/", auth="none")]), path) == "GET /"


@pytest.mark.parametrize(
    "path", ["/app/a%2Fb", "/app//a///b", "/app/;v=1", "/app/a+b%20c", "/app/%C3%A9", "/app/a/../b"]
)
def test_f170_what_stays_inside_one_rule_in_every_reading_passes(path: str) -> None:
    assert find(compile_routes([rule("/app/"), rule("/other/", auth="none")]), path) == "/app/"


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/public/..%2Fadmin", r"percent-decoded, then with dot segments resolved it is '/admin', .* rule “/”"),
        ("/public/..;/admin", "without “;…” in its segments, then with dot segments resolved"),
        ("/public/\n", "control characters"),
        ("/public/%ff", "not UTF-8"),
        ("/public/é", "must be encoded"),
        ("/public/%25" + "25" * 3900, "too many ways"),
    ],
)
def test_f170_the_log_says_which_reading_was_different(path: str, reason: str) -> None:
    with pytest.raises(RequestFault, match=reason) as caught:
        match(compile_routes(OPEN_CORNER), host="app.test", path=path, method="GET")
    assert caught.value.code == "path_ambiguous"
    assert caught.value.detail.isprintable()
    assert len(caught.value.detail) < 1000


def test_f169_a_reading_under_no_rule_is_ambiguous_too() -> None:
    with pytest.raises(RequestFault, match="falls under no rule"):
        match(compile_routes([rule("/app/")]), host="app.test", path="/app/%2e%2e/x", method="GET")


@pytest.mark.parametrize("path", ["/café menü/x", "/caf%C3%A9%20men%C3%BC/x"])
def test_rules_are_written_decoded_and_hold_as_browsers_send_them(path: str) -> None:
    routes = compile_routes([rule("/café menü/"), rule("/", auth="none")])
    expected = "/café menü/" if path.isascii() else "path_ambiguous"
    assert find(routes, path) == expected
    assert find(routes, "/caf%C3%A9%20men%C3%BC") == "/café menü/"


# ── F169, F215: host, path, order, method ─────────────────────────────────────────────────────────────────────────────

BY_HOST = (
    rule("/", name="any"),
    rule("/deep/er/path/", name="any deep", auth="none"),
    rule("/", name="below test", host="*.test"),
    rule("/", name="below app", host="*.app.test"),
    rule("/", name="admin", host="admin.app.test"),
    rule("/only/", name="lone", host="lone.app.test"),
    rule("/", name="address", host="[::1]"),
)


@pytest.mark.parametrize(
    ("host", "path", "expected"),
    [
        pytest.param("other.example", "/", "any", id="F215 no rule names the host"),
        pytest.param("other.example", "/deep/er/path/x", "any deep", id="F169 longest path"),
        pytest.param("app.test", "/deep/er/path/x", "below test", id="F169 host before path"),
        pytest.param("test", "/", "any", id="F215 the suffix itself is not below it"),
        pytest.param("eviltest", "/", "any", id="F215 the suffix begins at a dot"),
        pytest.param("x.app.test", "/", "below app", id="F215 longest suffix"),
        pytest.param("y.x.app.test", "/", "below app", id="F215 several labels below"),
        pytest.param("admin.app.test", "/", "admin", id="F215 exact host"),
        pytest.param("x.admin.app.test", "/", "below app", id="F215 below an exact host"),
        pytest.param("lone.app.test", "/only/x", "lone", id="F215 exact host with one path"),
        pytest.param("lone.app.test", "/else", "below app", id="F169 the next less specific host"),
        pytest.param("ADMIN.App.Test.", "/", "admin", id="PA-26 case and trailing dot"),
        pytest.param("admin.app.test:8443", "/", "admin", id="PA-26 port"),
        pytest.param("[::1]", "/", "address", id="PA-26 address"),
        pytest.param("[0:0::1]:443", "/", "address", id="PA-26 address in another spelling, with port"),
        pytest.param("a b", "/", "wrong_host", id="FW-7 no host name"),
        pytest.param("admin.app.test@evil.example", "/", "wrong_host", id="FW-7 userinfo"),
        pytest.param("x." * 200 + "test", "/", "wrong_host", id="FW-7 endless"),
    ],
)
def test_the_most_specific_host_wins(host: str, path: str, expected: str) -> None:
    assert find(compile_routes(BY_HOST), path, host=host) == expected


def test_pa_26_hosts_do_not_matter_when_no_rule_names_one() -> None:
    assert find(compile_routes([rule("/")]), "/", host="What Ever") == "/"


def test_public_hosts_are_found_at_once() -> None:
    routes = compile_routes(BY_HOST[:4], ["x.app.test", "y.test", "z.example"])
    assert {"x.app.test", "y.test", "z.example"} <= routes.tables.keys()
    assert [find(routes, "/", host=host) for host in ("x.app.test", "y.test", "z.example")] == [
        "below app",
        "below test",
        "any",
    ]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/", "root"),
        ("/a", "root"),
        ("/a/b", "exact"),
        ("/a/b/", "below"),
        ("/a/b/c", "below"),
        ("/a/b/c/d/e/f/g", "below"),
        ("/a/bc", "root"),
        ("/zzzzzzzzzzzzzzzz", "root"),
    ],
)
def test_f169_longest_path_at_segment_boundaries(path: str, expected: str) -> None:
    rules = [rule("/", name="root"), rule("/a/b/", name="below", auth="none"), rule("/a/b", name="exact")]
    assert find(compile_routes(rules), path) == expected
    assert find(compile_routes(rules[::-1]), path) == expected


BY_METHOD = (
    rule("/api/", methods=["GET"], auth="none"),
    rule("/api/", methods=["POST", "PUT"], groups=["writers"]),
    rule("/api/"),
    rule("/only-head/", methods=["HEAD"], auth="none"),
    rule("/", groups=["staff"]),
)


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        pytest.param("GET", "/api/x", "GET /api/", id="F169 GET"),
        pytest.param("HEAD", "/api/x", "GET /api/", id="PA-20 HEAD goes with GET"),
        pytest.param("HEAD", "/only-head/x", "HEAD /only-head/", id="PA-20 HEAD alone"),
        pytest.param("GET", "/only-head/x", "/", id="PA-20 GET does not go with HEAD"),
        pytest.param("OPTIONS", "/api/x", "/api/", id="PA-20 OPTIONS"),
        pytest.param("POST", "/api/x", "POST,PUT /api/", id="F169 POST"),
        pytest.param("DELETE", "/api/x", "/api/", id="PA-19 method that no rule names"),
        pytest.param("get", "/api/x", "/api/", id="PA-25 lower case"),
        pytest.param("PROPFIND", "/api/x", "/api/", id="PA-25 PROPFIND"),
        pytest.param("*", "/api/x", "/api/", id="PA-25 star"),
        pytest.param("", "/api/x", "/api/", id="PA-25 nothing"),
        pytest.param("INVENTED", "/x", "/", id="PA-25 invented"),
    ],
)
def test_methods(method: str, path: str, expected: str) -> None:
    assert find(compile_routes(BY_METHOD), path, method=method) == expected


def test_f169_without_a_rule_nothing_passes() -> None:
    assert find(compile_routes([]), "/") == "not_found"
    assert find(compile_routes([rule("/a/", methods=["GET"])]), "/a/", method="POST") == "not_found"
    assert find(compile_routes([rule("/", host="a.test")]), "/", host="b.test") == "not_found"


def test_f215_two_hosts_lead_to_two_upstreams() -> None:
    routes = compile_routes([rule("/", host="a.test", upstream="a"), rule("/", host="b.test", upstream="b"), rule("/")])
    found = [match(routes, host=host, path="/x", method="GET").upstream for host in ("a.test", "b.test", "c.test")]
    assert found == ["a", "b", None]


# ── settings ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"path": "public/"}, "must start with a slash"),
        ({"path": ""}, "must start with a slash"),
        ({"path": "/public/*"}, "must not end with a star; write /public/ for everything below"),
        pytest.param({"path": "/*.css"}, r"must not contain '\*'", id="PA-11 suffix rule"),
        ({"path": "/a//b"}, "must not contain '//'"),
        ({"path": "/a/../b"}, "must not contain '/..'"),
        ({"path": "/a/."}, "must not contain '/.'"),
        ({"path": "/caf%C3%A9/"}, "must not contain '%': write the path decoded"),
        ({"path": "/a;b"}, "must not contain ';'"),
        ({"path": "/a?b"}, "must not contain"),
        ({"path": "/a\n"}, r"must not contain '\\n'"),
        ({"host": "https://app.test"}, "must be a host name without scheme"),
        ({"host": "app.test:443"}, "must be a host name without scheme"),
        ({"host": "*"}, "must be a host name"),
        ({"host": "a.*.test"}, "must be a host name"),
        ({"methods": []}, "at least 1"),
        ({"methods": ["get"]}, "has “get”; write methods in upper case"),
        ({"methods": ["*"]}, r"has “\*”; .* leave `methods` out for all"),
        ({"methods": "GET"}, "valid tuple"),
        ({"groups": [""]}, "has an empty name"),
        ({"roles": ["a", ""]}, "has an empty name"),
        ({"groups": "ops"}, "valid tuple"),
        ({"auth": "none", "groups": ["ops"]}, "`auth: none` lets everybody in"),
        ({"auth": "optional", "roles": ["admin"]}, "`auth: optional` lets everybody in"),
        ({"auth": "none", "email_domains": ["a.test"]}, "so `email_domains` would keep nobody out"),
        ({"emails": ["a.test"]}, "“a.test”, which is no e-mail address"),
        ({"emails": ["a@b@c"]}, "which is no e-mail address"),
        ({"email_domains": ["@a.test"]}, "“@a.test”; write what follows the @"),
        ({"email_domains": ["*.a.test"]}, "without patterns"),
        ({"auth": "maybe"}, "required"),
        ({"name": ""}, "at least 1"),
        ({"paths": ["/"]}, "paths"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(options: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        rule(**{"path": "/", **options})


@pytest.mark.parametrize(
    ("given", "kept"),
    [(None, None), ("App.Example.COM.", "app.example.com"), ("*.Bücher.example", "*.xn--bcher-kva.example")],
)
def test_f172_hosts_of_rules_are_canonical(given: str | None, kept: str | None) -> None:
    assert rule(host=given).host == kept


@pytest.mark.parametrize(
    ("rules", "hosts", "problems"),
    [
        pytest.param([rule("/"), rule("/", auth="none")], [], {1: "never reached: .* “/”"}, id="the same twice"),
        pytest.param(
            [rule("/a", methods=["GET"]), rule("/a", methods=["POST"]), rule("/a", methods=["HEAD", "POST"])],
            [],
            {2: "“POST /a”, “GET /a”|“GET /a”, “POST /a”"},
            id="every method taken",
        ),
        pytest.param([rule("/a", name="x"), rule("/b", name="x")], [], {1: "has the name “x”"}, id="name twice"),
        pytest.param(
            [rule("/x/", host="b.test")], ["a.test"], {0: "b.test, which is none of .* a.test"}, id="not our host"
        ),
        pytest.param(
            [rule("/", host="a.test", auth="none"), rule("/admin/")],
            ["a.test"],
            {1: r"\(/admin/\) is never reached: .* “a.test/”"},
            id="every host taken",
        ),
    ],
)
def test_rules_that_cannot_be_used_together(
    rules: list[RouteSettings], hosts: list[str], problems: dict[int, str]
) -> None:
    with pytest.raises(RoutesInvalid) as caught:
        compile_routes(rules, hosts)
    found = dict(caught.value.problems)
    assert found.keys() == problems.keys()
    for index, sentence in problems.items():
        assert re.search(sentence, found[index])
        assert f"routes[{index}] {found[index]}" in str(caught.value)


@pytest.mark.parametrize(
    ("rules", "hosts"),
    [
        ([rule("/a", methods=["GET"]), rule("/a", methods=["GET", "POST"])], []),
        ([rule("/a"), rule("/a/", auth="none")], []),
        ([rule("/", host="a.test"), rule("/")], ["a.test"]),
        ([rule("/", host="*.test"), rule("/", auth="none")], ["a.test", "b.example"]),
    ],
)
def test_rules_that_go_together(rules: list[RouteSettings], hosts: list[str]) -> None:
    assert [route.settings for route in compile_routes(rules, hosts).all] == rules


# ── decisions ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("options", "holder", "expected"),
    [
        pytest.param({"auth": "none"}, None, Allow, id="F73 none"),
        pytest.param({"auth": "optional"}, None, Allow, id="F73 optional, anonymous"),
        pytest.param({"auth": "optional"}, user("x"), Allow, id="F73 optional, signed in"),
        pytest.param({}, None, SignIn, id="F73 required, anonymous"),
        pytest.param({}, user(), Allow, id="F73 required, signed in"),
        pytest.param({"groups": ["ops", "dev"]}, None, SignIn, id="F77 groups, anonymous"),
        pytest.param({"groups": ["ops", "dev"]}, user("dev", "x"), Allow, id="F173 any group"),
        pytest.param({"groups": ["ops"]}, user("x"), Refuse, id="F77 not in the group"),
        pytest.param({"groups": ["ops"]}, user(), Refuse, id="F173 in no group"),
        pytest.param({"roles": ["admin"]}, user(roles=["admin"]), Allow, id="V10 role"),
        pytest.param({"roles": ["superuser"]}, user(roles=["admin", "user"]), Refuse, id="V10 another role"),
        pytest.param({"roles": []}, user(), Allow, id="V10 no constraint"),
        pytest.param({"groups": ["admin"]}, user("not-admin"), Refuse, id="V10 not-admin"),
        pytest.param({"groups": ["admin"]}, user("admin-readonly"), Refuse, id="V10 admin-readonly"),
        pytest.param({"groups": ["admin"]}, user("a", "d", "m", "i", "n"), Refuse, id="V10 characters are no groups"),
        pytest.param({"groups": ["admin"]}, user(roles=["admin"]), Refuse, id="F76 a role is no group"),
        pytest.param({"roles": ["admin"]}, user("admin", "role:admin"), Refuse, id="F76 a group is no role"),
        pytest.param({"roles": ["admin"]}, user(roles=["other:admin"]), Refuse, id="V10 role of another client"),
        pytest.param({"groups": ["admin"]}, user("Admin", "admin ", "/admin"), Refuse, id="F173 byte for byte"),
        pytest.param({"groups": ["café"]}, user("cafe\u0301"), Refuse, id="F173 no normalisation"),
        pytest.param({"groups": ["g"], "roles": ["r"]}, user("g", roles=["r"]), Allow, id="F173 both"),
        pytest.param({"groups": ["g"], "roles": ["r"]}, user("g"), Refuse, id="F173 group without role"),
        pytest.param({"groups": ["g"], "roles": ["r"]}, user(roles=["r"]), Refuse, id="F173 role without group"),
    ],
)
def test_decide(options: dict[str, object], holder: User | None, expected: type) -> None:
    (route,) = compile_routes([rule("/", **options)]).all
    assert isinstance(decide(route, holder), expected)


def test_f77_a_refusal_names_the_rule_and_what_it_asks_for() -> None:
    (route,) = compile_routes([rule("/", name="ops only", groups=["ops", "dev"], roles=["r"])]).all
    verdict = decide(route, user("dev", "secret-project"))
    assert verdict == Refuse("the rule “ops only” asks for one of the roles r", "access_denied")
    assert RequestFault("access_denied").status == 403
    assert decide(route, user("secret-project")) == Refuse("the rule “ops only” asks for one of the groups ops, dev")


def test_f73_access_says_whether_a_session_is_of_interest() -> None:
    routes = compile_routes([rule("/n", auth="none"), rule("/o", auth="optional"), rule("/r")])
    assert [type(route.access) for route in routes.all] == [Nobody, Anybody, Users]


# ── F263: explaining ──────────────────────────────────────────────────────────────────────────────────────────────────


@settings(max_examples=100, deadline=None, database=None)
@given(
    path=paths,
    method=st.sampled_from(["GET", "POST", "HEAD", "x"]),
    holder=st.none() | st.builds(user, st.sampled_from(["ops", "writers", "x"]), roles=st.just(["admin"])),
    rules=st.sampled_from([*SITES.values(), BY_METHOD]),
)
def test_f263_the_explanation_is_what_happens(
    path: str, method: str, holder: User | None, rules: Sequence[RouteSettings]
) -> None:
    routes = compile_routes(rules)
    told = explain(routes, host="app.test", path=path, method=method, holder=holder)
    if isinstance(told.verdict, RequestFault):
        assert (find(routes, path, method=method), told.route) == (told.verdict.code, None)
    else:
        route = match(routes, host="app.test", path=path, method=method)
        assert (told.route, told.verdict) == (route, decide(route, holder))
    assert told.allowed == isinstance(told.verdict, Allow)


@pytest.mark.parametrize(
    ("path", "method", "holder", "lines"),
    [
        pytest.param(
            "/x",
            "GET",
            user("ops", "more", roles=["b"]),
            [
                "rule     ops",
                "matches  exactly /x on app.test with GET, PUT",
                "upstream back",
                "auth     required",
                "groups   one of dev, ops: has ops",
                "roles    one of a, b: has b",
                "verdict  allowed",
            ],
            id="allowed",
        ),
        pytest.param(
            "/x",
            "GET",
            user("ops"),
            [
                "rule     ops",
                "matches  exactly /x on app.test with GET, PUT",
                "upstream back",
                "auth     required",
                "groups   one of dev, ops: has ops",
                "roles    one of a, b: has none of them",
                "verdict  refused (access_denied): the rule “ops” asks for one of the roles a, b",
            ],
            id="refused",
        ),
        pytest.param(
            "/x",
            "PUT",
            None,
            [
                "rule     ops",
                "matches  exactly /x on app.test with GET, PUT",
                "upstream back",
                "auth     required",
                "groups   one of dev, ops: nobody is signed in",
                "roles    one of a, b: nobody is signed in",
                "verdict  sign-in required",
            ],
            id="anonymous",
        ),
        pytest.param(
            "/public/x",
            "PATCH",
            None,
            [
                "rule     /public/",
                "matches  everything below /public/ on any host with any method",
                "upstream the default one",
                "auth     none",
                "verdict  allowed",
            ],
            id="open",
        ),
        pytest.param(
            "/y",
            "GET",
            None,
            ["rule     none", "verdict  refused (not_found, 404): no route matches this host, path and method"],
            id="no rule",
        ),
    ],
)
def test_f263_in_words(path: str, method: str, holder: User | None, lines: list[str]) -> None:
    conditions = {"methods": ["GET", "PUT"], "groups": ["dev", "ops"], "roles": ["a", "b"]}
    ops = rule("/x", name="ops", host="app.test", upstream="back", **conditions)
    routes = compile_routes([ops, rule("/public/", auth="none")])
    assert explain(routes, host="app.test", path=path, method=method, holder=holder).lines() == lines


def test_anything_with_groups_and_roles_is_a_holder() -> None:
    (route,) = compile_routes([rule("/", groups=["g"])]).all
    assert decide(route, SimpleNamespace(groups=frozenset("g"), roles=frozenset())) == Allow()


# ── what a proxy that asks demands besides ──


@pytest.mark.parametrize("auth", ["none", "optional", "required"])
def test_a_rule_with_a_demand_is_for_signed_in_users_only(auth: str) -> None:
    (route,) = compile_routes([rule("/", auth=auth)]).all
    stricter = narrowed(route, (Condition("groups", ("a", "b")),))
    assert decide(stricter, None) == SignIn()
    assert isinstance(decide(stricter, user("c")), Refuse)
    assert decide(stricter, user("b")) == Allow()
    assert stricter.name == route.name
    assert narrowed(route, (Condition("groups", ("a", "b")),)) is stricter, "made once"


def test_a_demand_adds_to_what_the_rule_asks_for() -> None:
    (route,) = compile_routes([rule("/", groups=["a"])]).all
    stricter = narrowed(route, (Condition("roles", ("r",)),))
    assert isinstance(decide(stricter, user("a")), Refuse)
    assert isinstance(decide(stricter, user(roles=["r"])), Refuse)
    assert decide(stricter, user("a", roles=["r"])) == Allow()


def test_rules_ask_for_addresses_and_their_domains() -> None:
    (route,) = compile_routes([rule("/", emails=["Ann@a.test", "bob@b.test"], email_domains=["A.test"])]).all
    people = {email: SimpleNamespace(groups=(), roles=(), email=email) for email in ("ann@A.test", "bob@b.test", None)}
    assert decide(route, people["ann@A.test"]) == Allow()
    assert "email domains A.test" in decide(route, people["bob@b.test"]).reason
    assert "emails Ann@a.test" in decide(route, people[None]).reason


@pytest.mark.parametrize(
    ("condition", "email", "held"),
    [
        (Condition("emails", ("ann@b.test", "bob@b.test")), "Bob@B.test", ("bob@b.test",)),
        (Condition("emails", ("bob@b.test",)), "xbob@b.test", ()),
        (Condition("emails", ("bob@b.test",)), None, ()),
        (Condition("email domains", ("B.test",)), "bob@b.test", ("B.test",)),
        (Condition("email domains", ("b.test",)), "bob@sub.b.test", ()),
        (Condition("email domains", ("b.test",)), "b.test@evil.test", ()),
        (Condition("email domains", ("b.test",)), "b.test", ()),
        (Condition("email domains", ("b.test",)), None, ()),
    ],
)
def test_f201_addresses_and_their_domains_in_any_case(condition: Condition, email: str | None, held: object) -> None:
    assert condition.held(User(email=email)) == held
