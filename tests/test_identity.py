"""From verified claims to the user, and from the user to what the backend reads."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import ValidationError

from oidc_proxy.errors import LoginFault
from oidc_proxy.identity import (
    Identity,
    IdentitySettings,
    announce,
    claim_path,
    identify,
    look_up,
    missing_claims,
)
from oidc_proxy.messages import HOP_BY_HOP
from oidc_proxy.tokens import VerifiedClaims

JANE = {
    "iss": "https://idp.test",
    "sub": "248289761001",
    "preferred_username": "jane",
    "email": "jane@example.com",
    "email_verified": True,
    "groups": ["/staff/ops", "/staff"],
}


def claims(**changed: Any) -> VerifiedClaims:
    values = JANE | changed
    return VerifiedClaims({name: value for name, value in values.items() if value is not ...})


def settings(**changed: Any) -> IdentitySettings:
    return IdentitySettings.model_validate(changed)


def headers(given_: VerifiedClaims, token: str | None = None, **changed: Any) -> dict[bytes, bytes]:
    made = settings(**changed)
    lines = announce(identify(given_, made), given_, token, made).set
    assert len(dict(lines)) == len(lines)
    return dict(lines)


def header(value: Any, **changed: Any) -> bytes | None:
    """What the backend reads of a claim."""
    return headers(claims(dept=value), headers={"X-Dept": "dept"}, **changed).get(b"X-Dept")


def test_a_header_can_have_the_token_as_it_is() -> None:
    named = {"X-Forwarded-User": "user", "X-Forwarded-Access-Token": "token"}
    given_ = claims(token="not this one")
    told = headers(given_, "t0ken" * 4000, headers=named, max_header_bytes="64B")
    assert told[b"X-Forwarded-Access-Token"] == ("t0ken" * 4000).encode()
    assert told[b"Authorization"] == b"Bearer " + told[b"X-Forwarded-Access-Token"]
    assert b"X-Forwarded-Access-Token" not in headers(given_, headers=named)
    assert not missing_claims(claims(), settings(headers=named)), "no userinfo can bring it"


# ── settings ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_hd_19_the_default_is_the_only_claim_that_never_changes_hands() -> None:
    assert IdentitySettings().user_claims == ("sub",)
    assert not IdentitySettings().trust_unverified_email


@pytest.mark.parametrize(
    "name",
    [
        *sorted(HOP_BY_HOP),
        *("Host", "Cookie", "Set-Cookie", "Authorization", "Content-Type", "Content_Type", "transfer_encoding"),
        *("X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Port", "X_Request_ID"),
        *("", "X User", "X-User:", "X-User\r\nX-Admin", "X-Usér", "X-User\n", "(x)"),
    ],
)
def test_names_that_cannot_carry_an_identity(name: str) -> None:
    with pytest.raises(ValidationError, match="cannot carry an identity"):
        settings(headers={name: "user"})


def test_hd_2_names_that_backends_confuse_are_not_both_sent() -> None:
    with pytest.raises(ValidationError, match="many backends cannot tell “X-User” from “x_USER”; keep one"):
        settings(headers={"X-User": "user", "x_USER": "email"})


@pytest.mark.parametrize("key", ["user_claims", "groups_claims", "roles_claims", "headers"])
@pytest.mark.parametrize("path", ["", ".", "a.", ".a", "a..b", '"a', 'a"b"', '"a"b', '""', 'a."b".'])
def test_a_claim_path_that_leads_nowhere_is_refused_at_the_start(key: str, path: str) -> None:
    with pytest.raises(ValidationError, match="is not a claim path"):
        settings(**{key: {"X-User": path} if key == "headers" else [path]})


def test_somebody_must_be_named() -> None:
    with pytest.raises(ValidationError):
        settings(user_claims=[])


# ── paths ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        ("groups", ("groups",)),
        ("realm_access.roles", ("realm_access", "roles")),
        ('resource_access."my.app".roles', ("resource_access", "my.app", "roles")),
        ('"https://test.com/pay"', ("https://test.com/pay",)),
        ('a."b."', ("a", "b.")),
        ("resource_access.*.roles", ("resource_access", "*", "roles")),
    ],
)
def test_f75_claim_paths(path: str, parts: tuple[str, ...]) -> None:
    assert claim_path(path) == parts


NESTED = {
    "realm_access": {"roles": ["admin", "user"]},
    "resource_access": {"web": {"roles": ["edit"]}, "my.app": {"roles": ["own"]}, "odd": "x", "bare": {}},
    "a": {"b": {"c": 5}},
    "scalar": 1,
    "https://test.com/pay": "card",
    "a.b.c": "flat",
    "null": None,
}


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("realm_access.roles", [("", ["admin", "user"])]),
        ('resource_access."my.app".roles', [("", ["own"])]),
        ("resource_access.*.roles", [("my.app:", ["own"]), ("web:", ["edit"])]),
        (
            "resource_access.*",
            [("bare:", {}), ("my.app:", {"roles": ["own"]}), ("odd:", "x"), ("web:", NESTED["resource_access"]["web"])],
        ),  # type: ignore[index]
        ("*.b.c", [("a:", 5)]),
        ("a.*.*", [("b:c:", 5)]),
        ("https://test.com/pay", [("", "card")]),
        ("a.b.c", [("", "flat")]),
        ('a."b".c', [("", 5)]),
        ("null", [("", None)]),
        ("missing", []),
        ("a.missing.c", []),
        ("scalar.b.c", []),
        ("a.b.c.d", []),
    ],
)
def test_f75_v10_claims_are_looked_up(path: str, found: list[tuple[str, Any]]) -> None:
    assert list(look_up(NESTED, path)) == found


# ── who it is ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_who_jane_is() -> None:
    assert identify(claims(realm_access={"roles": ["admin"]}), settings()) == Identity(
        issuer="https://idp.test",
        subject="248289761001",
        user="248289761001",
        email="jane@example.com",
        preferred_username="jane",
        groups=frozenset({"/staff", "/staff/ops"}),
        roles=frozenset({"admin"}),
    )


@pytest.mark.parametrize(
    ("user_claims", "changed", "user"),
    [
        pytest.param(["sub"], {}, "248289761001", id="HD-19: the default"),
        pytest.param(["preferred_username", "sub"], {}, "jane", id="F70: the first that is there"),
        pytest.param(["username", "preferred_username"], {}, "jane", id="F70: the second"),
        pytest.param(["username", "user_name", "uid"], {}, "248289761001", id="F70: none, so sub"),
        pytest.param(["uid"], {"attrs": {"uid": "deep"}}, "248289761001", id="F70: nested attrs.uid is ignored"),
        pytest.param(["attrs.uid"], {"attrs": {"uid": "deep"}}, "deep", id="F70: unless it is asked for"),
        pytest.param(["preferred_username"], {"preferred_username": ""}, "248289761001", id="an empty name is none"),
        pytest.param(["uid"], {"uid": 1001}, "1001", id="HD-17: a number"),
        pytest.param(["uid"], {"uid": 0}, "0", id="HD-17: zero"),
        pytest.param(["uid"], {"uid": True}, "248289761001", id="HD-17: a boolean is no name"),
        pytest.param(["uid"], {"uid": None}, "248289761001", id="HD-17: null is no name"),
        pytest.param(["uid"], {"uid": ["root"]}, "248289761001", id="HD-17: a list is no name"),
        pytest.param(["uid"], {"uid": {"x": "root"}}, "248289761001", id="HD-17: an object is no name"),
        pytest.param(["email"], {}, "jane@example.com", id="HD-19: a verified e-mail address"),
        pytest.param(["email"], {"email_verified": False}, "248289761001", id="HD-19: an unverified one names nobody"),
        pytest.param(['"email"'], {"email_verified": ...}, "248289761001", id="HD-19: however it is spelt"),
    ],
)
def test_f70_what_names_the_user(user_claims: list[str], changed: dict[str, Any], user: str) -> None:
    assert identify(claims(**changed), settings(user_claims=user_claims)).user == user


@pytest.mark.parametrize(
    ("verified", "email"),
    [
        (True, "jane@example.com"),
        (False, None),
        ("true", None),
        (1, None),
        (None, None),
        ([True], None),
        (..., None),
    ],
)
def test_hd_19_an_e_mail_address_counts_when_the_provider_verified_it(verified: object, email: str | None) -> None:
    assert identify(claims(email_verified=verified), settings()).email == email
    assert identify(claims(email_verified=verified), settings(trust_unverified_email=True)).email == "jane@example.com"


def test_hd_19_an_unverified_e_mail_address_gets_in_by_no_other_way() -> None:
    unverified = claims(email_verified=False, email="/staff/ops")
    every_way = {
        "user_claims": ["email"],
        "groups_claims": ["email"],
        "roles_claims": ["*"],
        "headers": {"X-User": "user", "X-Groups": "groups", "X-Mail": "email", "X-Other": '"email"'},
    }
    identity = identify(unverified, settings(**every_way))
    assert not identity.groups
    assert "email:/staff/ops" not in identity.roles
    assert b"/staff/ops" not in headers(unverified, **every_way).values()


def test_f167_a_user_without_an_e_mail_address_signs_in() -> None:
    assert identify(claims(email=...), settings()).email is None
    assert b"X-Forwarded-Email" not in headers(claims(email=...))


@pytest.mark.parametrize(
    ("value", "groups"),
    [
        pytest.param(["a", "b", "a"], {"a", "b"}, id="a list"),
        pytest.param("admin-readonly", {"admin-readonly"}, id="LT-24: a string is one group"),
        pytest.param("a b,c", {"a b,c"}, id="LT-24: and stays one"),
        pytest.param(["ADMIN", "admin", "admin\u200b"], {"ADMIN", "admin", "admin\u200b"}, id="LT-23: byte-exact"),
        pytest.param(["a", 1, None, True, ["b"], {"c": "d"}, ""], {"a"}, id="HD-17: only what is text"),
        pytest.param({"admin": True}, set(), id="HD-17: an object"),
        pytest.param(5, set(), id="HD-17: a number"),
        pytest.param(None, set(), id="HD-17: null"),
        pytest.param(..., set(), id="absent"),
    ],
)
def test_groups(value: object, groups: set[str]) -> None:
    assert identify(claims(groups=value), settings()).groups == groups


KEYCLOAK = {
    "realm_access": {"roles": ["admin", "user"]},
    "resource_access": {"web": {"roles": ["edit"]}, "account": {"roles": ["manage"]}, "odd": "x"},
}


def test_f76_realm_roles_and_client_roles_stay_apart() -> None:
    identity = identify(claims(**KEYCLOAK), settings())
    assert identity.roles == {"admin", "user", "web:edit", "account:manage"}
    assert identity.groups == {"/staff", "/staff/ops"}


def test_f76_paths_add_up() -> None:
    made = settings(groups_claims=["groups", "realm_access.roles"], roles_claims=["resource_access.web.roles"])
    identity = identify(claims(**KEYCLOAK), made)
    assert identity.groups == {"/staff", "/staff/ops", "admin", "user"}
    assert identity.roles == {"edit"}


@pytest.mark.parametrize(
    ("changed", "configured", "missing"),
    [
        ({}, {}, False),
        ({"email": ...}, {}, True),
        ({"preferred_username": ...}, {}, True),
        ({"groups": ...}, {}, True),
        ({"groups": []}, {}, False),
        ({"groups": ..., "email": ...}, {"headers": {"X-User": "user"}}, False),
        ({"groups": ...}, {"headers": {"X-Roles": "roles", "X-User": "user"}}, False),
        ({}, {"user_claims": ["nickname", "sub"]}, True),
        ({}, {"headers": {"X-Dept": "org.dept"}}, True),
        ({"org": {"dept": "x"}}, {"headers": {"X-Dept": "org.dept"}}, False),
    ],
)
def test_f67_when_userinfo_could_tell_more(changed: dict[str, Any], configured: dict[str, Any], missing: bool) -> None:
    assert missing_claims(claims(**changed), settings(**configured)) is missing


# ── what the backend reads ────────────────────────────────────────────────────────────────────────────────────────────


def test_f72_what_is_announced_by_default() -> None:
    assert headers(claims(**KEYCLOAK), "TheToken") == {
        b"X-Forwarded-User": b"248289761001",
        b"X-Forwarded-Email": b"jane@example.com",
        b"X-Forwarded-Preferred-Username": b"jane",
        b"X-Forwarded-Groups": b"/staff,/staff/ops,role:account:manage,role:admin,role:user,role:web:edit",
        b"Authorization": b"Bearer TheToken",
    }


def test_f72_a_claim_that_is_not_there_gives_no_header() -> None:
    assert headers(claims(email=..., preferred_username=..., groups=...)) == {b"X-Forwarded-User": b"248289761001"}


def test_f72_headers_carry_what_they_are_told_to() -> None:
    told = {"X-Who": "user", "X-Roles": "roles", "X-Groups": "groups", "X-Given": "given_name", "X-Team": "org.team"}
    given_ = claims(**KEYCLOAK, given_name="Jane", org={"team": ["b", "a"]})
    assert headers(given_, headers=told, roles_claims=["realm_access.roles"]) == {
        b"X-Who": b"248289761001",
        b"X-Roles": b"admin,user",
        b"X-Groups": b"/staff,/staff/ops,role:admin,role:user",
        b"X-Given": b"Jane",
        b"X-Team": b"a,b",
    }


def test_f76_a_group_does_not_pass_for_a_role() -> None:
    assert headers(claims(groups=["role:admin", "x"]))[b"X-Forwarded-Groups"] == b"x"
    assert b"X-Forwarded-Groups" not in headers(claims(groups=["role:admin"]))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        pytest.param("board", b"board", id="text"),
        pytest.param("van Dyke", b"van Dyke", id="V9: a space within"),
        pytest.param(5, b"5", id="an integer"),
        pytest.param(-1.5, b"-1.5", id="a fraction"),
        pytest.param(["b", "a", "b"], b"a,b", id="a list"),
        pytest.param(["a", 5, None], b"a", id="a list of more than text"),
        pytest.param([], None, id="an empty list"),
        pytest.param("", None, id="an empty text"),
        pytest.param(True, None, id="a boolean"),
        pytest.param(None, None, id="null"),
        pytest.param({"a": "b"}, None, id="an object"),
        pytest.param([["a"]], None, id="a list of lists"),
    ],
)
def test_hd_17_claims_become_headers_by_their_kind(value: object, text: bytes | None) -> None:
    assert header(value) == text


@pytest.mark.parametrize("encoding", ["percent", "utf8"])
def test_hd_14_f161_a_comma_within_a_group_does_not_make_two(encoding: str) -> None:
    value = headers(claims(groups=["x,admin", "100%2C", "CN=A,OU=B"]), encoding=encoding)[b"X-Forwarded-Groups"]
    assert value == b"100%252C,CN=A%2COU=B,x%2Cadmin"
    assert {unquote(item) for item in value.decode().split(",")} == {"x,admin", "100%2C", "CN=A,OU=B"}


@pytest.mark.parametrize(
    ("text", "percent", "utf8"),
    [
        pytest.param("Jürgen 東", b"J%C3%BCrgen %E6%9D%B1", "Jürgen 東", id="F162"),
        pytest.param("100%", b"100%25", "100%", id="F162: the percent sign itself"),
        pytest.param("a,b", b"a,b", "a,b", id="F161: a comma in what is no list"),
        pytest.param("ａdmin", b"%EF%BD%81dmin", "ａdmin", id="HD-15: a letter of another width"),
        pytest.param("adm\u200bin", b"adm%E2%80%8Bin", "adm\u200bin", id="HD-15: U+200B"),
        pytest.param("a\u202eb", b"a%E2%80%AEb", "a\u202eb", id="HD-15: the other way round"),
    ],
)
def test_f162_what_is_beyond_ascii(text: str, percent: bytes, utf8: str) -> None:
    assert header(text) == percent
    assert header(text, encoding="utf8") == utf8.encode()


@pytest.mark.parametrize("encoding", ["percent", "utf8"])
@pytest.mark.parametrize(
    "text",
    [
        pytest.param("admin ", id="HD-15: a space at the end"),
        pytest.param("\tadmin", id="HD-15: a tab in front"),
        pytest.param("\u00a0admin", id="HD-15: U+00A0 in front"),
        pytest.param("admin\u2003", id="HD-15: U+2003 at the end"),
        pytest.param("ad\u2028min", id="HD-15: U+2028"),
        pytest.param("ad\u2029min", id="HD-15: U+2029"),
        pytest.param("adm\ud800in", id="HD-15: a lone surrogate"),
        pytest.param("ad\rmin", id="HD-16: CR"),
        pytest.param("x\nX-Admin: 1", id="HD-16: LF"),
        pytest.param("ad\0min", id="HD-16: NUL"),
        pytest.param("ad\x7fmin", id="HD-16: DEL"),
        pytest.param("ad\x1b[31m", id="HD-16: ESC"),
        pytest.param("ad\x85min", id="HD-16: NEL"),
        pytest.param("ad\tmin", id="HD-16: a tab within"),
        pytest.param(" ", id="HD-15: nothing but white space"),
    ],
)
def test_hd_15_hd_16_what_no_header_can_carry_ends_the_sign_in(text: str, encoding: str) -> None:
    for changed in ({"dept": text}, {"dept": ["ops", text]}):
        with pytest.raises(LoginFault) as caught:
            headers(claims(**changed), headers={"X-Dept": "dept"}, encoding=encoding)
        assert caught.value.code == "identity_unusable"
        assert "X-Dept" in caught.value.detail


@pytest.mark.parametrize("source", ["user", "email", "preferred_username", "groups", "roles"])
def test_hd_16_every_source_is_checked(source: str) -> None:
    bad = "x\r\ny"
    given_ = claims(sub=bad, email=bad, preferred_username=bad, groups=[bad], realm_access={"roles": [bad]})
    with pytest.raises(LoginFault):
        headers(given_, headers={"X-Any": source})


def test_hd_18_f166_a_header_is_never_cut_off() -> None:
    many = claims(groups=[f"group-{number}" for number in range(300)])
    with pytest.raises(LoginFault) as caught:
        headers(many, max_header_bytes="1KiB")
    assert caught.value.code == "identity_unusable"
    assert caught.value.detail == "X-Forwarded-Groups would have 2889 bytes; the limit is max_header_bytes"
    left = headers(many, max_header_bytes="1KiB", oversize="omit")
    assert b"X-Forwarded-Groups" not in left
    assert left[b"X-Forwarded-User"] == b"248289761001"


@pytest.mark.parametrize(("size", "fits"), [(64, True), (65, False)])
def test_hd_18_the_limit_is_inclusive(size: int, fits: bool) -> None:
    assert (header("x" * size, max_header_bytes="64B", oversize="omit") is not None) is fits


def test_ss_19_a_fault_of_an_identity_does_not_show_it() -> None:
    with pytest.raises(LoginFault) as caught:
        headers(claims(sub="secret-name\n"))
    assert "secret-name" not in str(caught.value)


SAFE_TEXT = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1, max_size=20).filter(
    lambda text: text == text.strip()
)


@hypothesis_settings(deadline=None)
@given(SAFE_TEXT)
def test_f162_percent_encoding_is_ascii_and_loses_nothing(text: str) -> None:
    value = header(text)
    assert value is not None
    assert all(0x20 <= byte < 0x7F for byte in value)
    assert unquote(value.decode("ascii")) == text


@hypothesis_settings(deadline=None)
@given(st.frozensets(SAFE_TEXT, max_size=6), st.sampled_from(["percent", "utf8"]))
def test_f161_the_backend_can_take_a_list_apart_again(groups: frozenset[str], encoding: str) -> None:
    value = headers(claims(groups=sorted(groups)), encoding=encoding).get(b"X-Forwarded-Groups", b"")
    kept = {group for group in groups if not group.startswith("role:")}
    assert {unquote(item) for item in value.decode().split(",") if item} == kept
