"""What Envoy asks over gRPC, and what it is told, as values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from oidc_proxy.errors import RequestFault
from oidc_proxy.forward_auth import (
    Announcement,
    Answer,
    EnvoyGrpc,
    ForwardAuthSettings,
    Question,
    allowed,
    denied,
    named,
)
from oidc_proxy.identity import IdentitySettings
from oidc_proxy.messages import Origins, OwnCookies, Reply, RequestHead, split_target
from oidc_proxy.policy import Condition
from oidc_proxy.values import Origin

APP = Origin.parse("https://app.test")
ENVOY = EnvoyGrpc("/oauth2")
OWN = OwnCookies("__Host-oidc_proxy")
ANN = b"X-Forwarded-User: ann\r\nX-Forwarded-Email: \r\nX-Auth-Request-User: ann\r\nAuthorization: Bearer t: 1\r\n"


def heard(
    *lines: tuple[bytes, bytes], host: str = "app.test", method: str = "GET", target: str = "/x?y"
) -> RequestHead:
    """What Envoy asks about, with its header lines."""
    raw = Question(method, host, target, lines).lines()
    path, query = split_target(target)
    return RequestHead(method, target, path, query, APP, "192.0.2.7", raw, named(raw), "0123456789")


def test_grpc_alone_is_a_way_to_ask() -> None:
    assert not ForwardAuthSettings().enabled
    assert ForwardAuthSettings(dialects=("nginx",)).enabled
    assert ForwardAuthSettings.model_validate({"grpc": {"address": "127.0.0.1:4181"}}).enabled


# ── reading ──


def test_the_lines_are_the_bytes_that_came_and_the_host_is_one_of_them() -> None:
    lines = [(b":path", b"/x"), (b"cookie", b"a=\xff"), (b"cookie", b"b=2"), (b"X_Y", b"")]
    question = Question("GET", "app.test", "/x", lines)
    assert question.lines() == ((b"host", b"app.test"), (b"cookie", b"a=\xff"), (b"cookie", b"b=2"), (b"X_Y", b""))
    headers = named(question.lines())
    assert headers.getall("Cookie") == ["a=\udcff", "b=2"]
    assert headers["Host"] == "app.test"


@pytest.mark.parametrize(
    "line",
    [(b"", b""), (b"x y", b""), (b"x:", b""), (b"\xc3\xa4", b""), (b"x", b"a\r\nb"), (b"x", b"\n"), (b"x", b"\0")],
)
def test_what_is_no_header_is_refused(line: tuple[bytes, bytes]) -> None:
    with pytest.raises(RequestFault, match="bad_request"):
        Question("GET", "app.test", "/x", [line]).lines()
    with pytest.raises(RequestFault, match="bad_request"):
        Question("GET", "app.test\r\nx: y", "/x").lines()


def test_the_request_is_the_one_that_envoy_names() -> None:
    head = ENVOY.read(heard(method="PROPFIND", target="/a%2Fb?c=%20"), Origins((APP,)))
    assert (head.method, head.target, head.path, head.query) == ("PROPFIND", "/a%2Fb?c=%20", "/a%2Fb", "c=%20")
    assert (head.origin, head.client) == (APP, "192.0.2.7")


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        (heard(host="evil.test"), "wrong_host"),
        (heard(host=""), "wrong_host"),
        (heard((b"host", b"app.test")), "bad_request"),
        (heard(method="G T"), "bad_request"),
        (heard(method=""), "bad_request"),
        (heard(method="TRACE"), "method_not_allowed"),
    ],
)
def test_f208_what_is_no_request_of_ours_is_refused(asked: RequestHead, code: str) -> None:
    with pytest.raises(RequestFault) as caught:
        ENVOY.read(asked, Origins((APP,)))
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("extensions", "demands"),
    [
        ({}, ()),
        ({"groups": "a,b"}, (Condition("groups", ("a", "b")),)),
        ({"roles": ",c,"}, (Condition("roles", ("c",)),)),
        ({"groups": "a&roles=b"}, (Condition("groups", ("a&roles=b",)),)),
        ({"groups": "a", "roles": "b"}, (Condition("groups", ("a",)), Condition("roles", ("b",)))),
    ],
)
def test_the_route_demands_in_its_extensions(extensions: Mapping[str, str], demands: Sequence[Condition]) -> None:
    assert Question(extensions=extensions).demands() == demands


@pytest.mark.parametrize("extensions", [{"group": "a"}, {"groups": ""}, {"groups": ","}, {"allowed_groups": "a"}])
def test_a_demand_that_is_not_understood_is_refused(extensions: Mapping[str, str]) -> None:
    with pytest.raises(RequestFault, match="bad_request"):
        Question(extensions=extensions).demands()


def test_the_dialect_has_no_address_of_its_own_and_demands_nothing_by_the_query() -> None:
    asked = heard(target="/x?groups=a")
    assert (ENVOY.path, ENVOY.yes, ENVOY.more(asked, None)) == ("", 200, b"")
    assert ENVOY.demands(asked, asked) == ()


# ── answering ──


def test_what_is_said_replaces_and_what_is_not_said_is_removed() -> None:
    answer = allowed(ANN, heard(), OWN)
    said = (("x-forwarded-user", "ann"), ("x-auth-request-user", "ann"), ("authorization", "Bearer t: 1"))
    assert answer == Answer(200, said, ("x-forwarded-email",))
    nobody = allowed(Announcement(IdentitySettings()).nobody, heard(), OWN)
    assert nobody.headers == ()
    assert {"x-forwarded-user", "x-auth-request-groups", "authorization"} <= set(nobody.removed)


@pytest.mark.parametrize(
    ("name", "removed"),
    [
        ("x-forwarded-user", False),  # replaced
        ("x_forwarded_user", True),
        ("X-Forwarded_User", True),
        ("x.auth-request.user", True),
        ("x-auth-request-access-token", True),
        ("x-forwarded-uri", True),
        ("x-forwarded-host", True),
        ("x-original-url", True),
        ("x-real-ip", True),
        ("forwarded", True),
        ("x_forwarded_for", True),
        ("x-forwarded-port", True),
        ("x-envoy-original-path", True),
        ("x-forwarded-for", False),  # Envoy's own
        ("x-forwarded-proto", False),
        ("x-request-id", False),
        ("x-envoy-external-address", False),
        ("host", False),
        ("cookie", False),
        ("traceparent", False),
        ("accept", False),
    ],
)
def test_what_a_client_says_of_itself_is_taken_out_in_every_spelling(name: str, removed: bool) -> None:
    lines = [] if name == "host" else [(name.encode(), b"1"), (name.encode(), b"2")]
    answer = allowed(ANN, heard(*lines), OWN)
    assert answer.removed.count(name.lower()) == int(removed)


@pytest.mark.parametrize(
    ("lines", "said", "removed"),
    [
        ([], None, False),
        ([b"a=1"], None, False),
        ([b"__Host-oidc_proxy=x"], None, True),
        ([b"a=1; __Host-oidc_proxy=x; b=2"], "a=1; b=2", False),
        ([b"a=1", b"__Host-oidc_proxy=x", b"b=2"], "a=1; b=2", False),
        (["ä=ü; __Host-oidc_proxy=x".encode()], "ä=ü", False),
        ([b"a=\xff; __Host-oidc_proxy=x"], None, True),
        ([b"a=\xff"], None, False),
    ],
)
def test_our_cookies_stay_behind(lines: Sequence[bytes], said: str | None, removed: bool) -> None:
    head = heard(*((b"cookie", line) for line in lines))
    answer = allowed(ANN, head, OWN)
    assert (dict(answer.headers).get("cookie"), "cookie" in answer.removed) == (said, removed)
    ours = allowed(ANN, head, None)
    assert "cookie" not in {*dict(ours.headers), *ours.removed}, "what comes to us comes whole"


def test_a_denial_is_the_answer_that_the_visitor_gets() -> None:
    reply = Reply(503, (("Retry-After", "5"),), b"later")
    told = (("Retry-After", "5"), ("X-Request-Id", "0123456789"))
    assert denied(reply, "0123456789") == Answer(503, told, body=b"later")
