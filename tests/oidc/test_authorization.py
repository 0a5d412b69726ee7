from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oidc_proxy.errors import LoginFault, RequestFault
from oidc_proxy.oidc import (
    Callback,
    LoginSettings,
    PendingLogin,
    authorization_url,
    begin_login,
    check_callback,
    code_challenge,
    read_callback,
    requested_params,
)
from oidc_proxy.oidc.settings import RESERVED

from .samples import ISSUER, NOW, REDIRECT_URI, pending, provider, settings


@pytest.mark.parametrize(
    ("verifier", "challenge"),
    [
        ("X1mcNAU_lfu25acaJoCQSyo4YyZc1NwaxWw7tNL7mffK0AXCS-lNBtisryb2", "V_nSilRCu0pt3eR-cH7LWru-rYwlTr3J2143tiwloCA"),
        ("9ok-JCOrX1OkmCFy8wGq2UBTGgFkeEg5IGffzgKNfDrpO-AOJ-83J9IhXOqj", "ET7UYFBGIHCdYh9bLyeLqWiKEr3t3JCxMRNacq3NCGk"),
        ("zDv_Uz7QRoYRgIdieHac1UIlDNPPQb8qVIwgLzFu66kHo2g92UfkoU8Vi91z", "iWLceDSH1e3G7NJ5eieiqpk9IgXPTgSUd8ivdbRZKII"),
    ],
)
def test_v1_s256(verifier: str, challenge: str) -> None:
    assert code_challenge(verifier) == challenge


@pytest.mark.parametrize("verifier", ["", "v" * 42, "v" * 129, "v" * 43 + "\n", "v" * 42 + "ü", "v" * 42 + "="])
def test_ar_6_what_is_no_verifier_has_no_challenge(verifier: str) -> None:
    with pytest.raises(ValueError, match="verifier"):
        code_challenge(verifier)


def begin(random: bytes) -> PendingLogin:
    return begin_login(random=random, now=NOW + 0.9, issuer=ISSUER, redirect_uri=REDIRECT_URI, return_to="/x")


def test_ar_7_ar_9_each_third_of_the_random_bytes_makes_one_value() -> None:
    login = begin(bytes(range(96)))
    assert login == PendingLogin(
        state="AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8",
        nonce="ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8",
        verifier="QEFCQ0RFRkdISUpLTE1OT1BRUlNUVVZXWFlaW1xdXl8",
        return_to="/x",
        started_at=int(NOW),
        issuer=ISSUER,
        redirect_uri=REDIRECT_URI,
    )
    assert code_challenge(login.verifier)


@pytest.mark.parametrize("count", [0, 32, 95, 97])
def test_a_sign_in_never_begins_with_too_little_randomness(count: int) -> None:
    with pytest.raises(ValueError, match="96 random bytes"):
        begin(bytes(count))


def test_a_pending_login_survives_its_cookie_and_does_not_print_itself() -> None:
    login = begin(bytes(range(96)))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(login), type=PendingLogin) == login
    for secret in (login.state, login.nonce, login.verifier, login.return_to):
        assert secret not in f"{login} {login!r}"


# ── the request ───────────────────────────────────────────────────────────────────────────────────────────────────────


def parameters(url: str) -> dict[str, str]:
    pairs = parse_qsl(urlsplit(url).query, keep_blank_values=True, strict_parsing=True, errors="strict")
    found = dict(pairs)
    assert len(found) == len(pairs), "no parameter is there twice"
    return found


def asked(login: LoginSettings | None = None, extra: dict[str, str] | None = None, **changed: Any) -> dict[str, str]:
    url = authorization_url(provider(), settings(**changed), login or LoginSettings(), pending(), extra or {})
    return parameters(url)


def test_f31_f34_the_redirect_has_everything_and_nothing_else() -> None:
    url = authorization_url(provider(), settings(), LoginSettings(), pending())
    assert url.startswith(f"{ISSUER}/protocol/auth?")
    assert parameters(url) == {
        "response_type": "code",
        "client_id": "app",
        "redirect_uri": REDIRECT_URI,
        "scope": "openid profile email",
        "state": "s" * 43,
        "nonce": "n" * 43,
        "code_challenge": code_challenge("v" * 43),
        "code_challenge_method": "S256",
    }
    assert "v" * 43 not in url


def test_v5_scopes_are_separated_by_an_encoded_space() -> None:
    url = authorization_url(provider(), settings(scopes=["abc", "def"]), LoginSettings(), pending())
    assert "&scope=openid%20abc%20def&" in url


def test_f9_the_endpoint_keeps_its_query_but_cannot_plant_a_parameter_of_ours() -> None:
    endpoint = "https://idp.test/auth?t=1&redirect_uri=https://evil.test/"
    url = authorization_url(provider(authorization_endpoint=endpoint), settings(), LoginSettings(), pending())
    assert url.startswith("https://idp.test/auth?t=1&")
    assert url.count("?") == 1
    assert parameters(url)["redirect_uri"] == REDIRECT_URI


@pytest.mark.parametrize(
    ("changed", "extra", "scope"),
    [
        ({"offline_access": True}, {}, "openid profile email offline_access"),
        ({"offline_access": True, "scopes": "offline_access x"}, {}, "openid offline_access x"),
        ({}, {"scope": "groups openid"}, "openid groups"),
        ({"offline_access": True}, {"scope": "groups"}, "openid groups offline_access"),
        ({}, {"scope": ""}, "openid"),
    ],
)
def test_f32_openid_once_and_an_override_for_this_sign_in_only(
    changed: dict[str, Any], extra: dict[str, str], scope: str
) -> None:
    assert asked(extra=extra, **changed)["scope"] == scope
    assert "groups" not in asked(**changed)["scope"]


def test_f35_f36_f37_f38_lists_are_joined_with_spaces_and_claims_are_json() -> None:
    claims = {"userinfo": {"name": {"essential": True}, "ü": None}}
    login = LoginSettings(
        acr_values=["gold", "silver"], ui_locales="en-US sv", claims=claims, params={"prompt": "login consent"}
    )
    found = asked(login)
    assert found["acr_values"] == "gold silver"
    assert found["ui_locales"] == "en-US sv"
    assert found["prompt"] == "login consent"
    assert json.loads(found["claims"]) == claims


def test_f40_extra_parameters_are_there_and_those_of_this_sign_in_win() -> None:
    login = LoginSettings(params={"kc_idp_hint": "github", "ui_locales": "sv"}, ui_locales="en")
    assert asked(login)["kc_idp_hint"] == "github"
    assert asked(login)["ui_locales"] == "sv"
    assert asked(login, {"kc_idp_hint": "gitlab"})["kc_idp_hint"] == "gitlab"


@pytest.mark.parametrize("name", ["state", "redirect_uri", "code_challenge_method", "request_uri"])
def test_f40_nobody_replaces_a_parameter_of_the_protocol(name: str) -> None:
    with pytest.raises(ValueError, match="protocol"):
        asked(extra={name: "evil"})


NOT_OURS = st.text(min_size=1).filter(lambda name: name not in RESERVED | {"scope"})


@given(st.dictionaries(NOT_OURS, st.text()))
def test_s23_every_parameter_survives_the_redirect(params: dict[str, str]) -> None:
    assert asked(LoginSettings(params=params)) == {**asked(), **params}


ALLOWED = LoginSettings(
    allowed_params={
        "prompt": ["login", "consent", "none"],
        "login_hint": ["/[a-z]+@example[.]com/"],
        "kc_idp_hint": ["github", "//"],
        "ui_locales": ["/[A-Za-z-]{2,8}/"],
        "note": ["/(?s:.*)/"],
    }
)


@pytest.mark.parametrize(
    ("row", "query", "passed"),
    [
        ("F35", {"prompt": ["login consent"]}, {"prompt": "login consent"}),
        ("F35", {"prompt": ["none"], "state": ["x"], "rd": ["/a", "/b"]}, {"prompt": "none"}),
        ("F37", {"ui_locales": ["en-US sv"]}, {"ui_locales": "en-US sv"}),
        ("F39", {"login_hint": ["ann@example.com"]}, {"login_hint": "ann@example.com"}),
        ("F39", {"login_hint": ["ann@example.com.evil.test"]}, {}),
        ("F39", {"login_hint": ["x ann@example.com"]}, {}),
        ("F39", {"login_hint": ["annaexample.com"]}, {}),
        ("F39", {"kc_idp_hint": ["github"]}, {"kc_idp_hint": "github"}),
        ("F39", {"kc_idp_hint": ["git"]}, {}),
        ("F39", {"kc_idp_hint": ["//"]}, {"kc_idp_hint": "//"}),
        ("F39", {"prompt": ["login  consent"]}, {}),
        ("F39", {"prompt": ["login select_account"]}, {}),
        ("F39", {"prompt": [""]}, {}),
        ("F39", {"prompt": ["login\n"]}, {}),
        ("F39", {"ui_locales": ["en " * 200 + "en"]}, {}),
        ("F39", {"note": ["ü & +"]}, {"note": "ü & +"}),
        ("F39", {"note": ["a\ud800"]}, {}),
        ("F39", {"note": ["a\r\nb"]}, {}),
        ("F39", {}, {}),
    ],
)
def test_only_what_is_permitted_goes_to_the_provider(
    row: str, query: dict[str, list[str]], passed: dict[str, str]
) -> None:
    assert requested_params(query, ALLOWED) == passed, row
    assert requested_params(query, LoginSettings()) == {}


def test_f133_a_permitted_parameter_comes_once() -> None:
    with pytest.raises(RequestFault, match="prompt is there twice"):
        requested_params({"prompt": ["login", "none"]}, ALLOWED)


# ── the answer ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("row", "query", "callback"),
    [
        ("F49", "code=a%2Bb&state=s", Callback("s", code="a+b")),
        ("RS-2", "state=s&session_state=x&session_state=y&kc_action_status=&code=c", Callback("s", code="c")),
        ("RS-4", f"{urlencode({'iss': ISSUER})}&state=s&code=c", Callback("s", code="c", iss=ISSUER)),
        ("F50", "error=new_error&state=s", Callback("s", error="new_error")),
        ("F50", "error=e&error_description=&state=s", Callback("s", error="e", error_description="")),
        (
            "V12",
            "error=unauthorized_client&error_description=Client+is+currently%20disabled&error_uri=x&state=s",
            Callback("s", error="unauthorized_client", error_description="Client is currently disabled"),
        ),
        (
            "HO-4",
            "error=x&error_description=%3Cscript%3E%0D%0AX:%20y&state=s",
            Callback("s", error="x", error_description="<script>\r\nX: y"),
        ),
        ("RS-2", "code=c&state=s&response=jarm&x[]=1&&", Callback("s", code="c")),
    ],
)
def test_an_answer_is_read(row: str, query: str, callback: Callback) -> None:
    assert read_callback(query) == callback, row


@pytest.mark.parametrize(
    ("row", "query"),
    [
        ("V12", ""),
        ("V12", "code=c"),
        ("V12", "state=s"),
        ("V12", "state=no-pipes-here"),
        ("F133", "code=a&code=b&state=s"),
        ("RS-1", "code=a&state=s&state=s"),
        ("RS-1", "code=a&state=s&iss=a&iss=a"),
        ("RS-1", "error=a&error=a&state=s"),
        ("RS-1", "code=a&%63ode=b&state=s"),
        ("RS-1", "error=a&error_description=x&error_description=y&state=s"),
        ("HO-5", "code=a&error=b&state=s"),
        ("LT-12", "code=a&state[]=s"),
        ("LT-12", "code=a&state%5B%5D=s"),
        ("LT-12", "code=&state=s"),
        ("LT-12", "code=a&state="),
        ("LT-12", "code=a&state"),
        ("LT-12", "error=&state=s"),
        ("LT-12", "code=a&state=s&iss="),
        ("LT-12", "code=a&state=s&error="),
        ("LT-12", f"code={'a' * 100_000}&state=s"),
        ("LT-12", f"code={'a' * 8193}&state=s"),
        ("LT-12", f"code=a&state={'s' * 513}"),
        ("LT-12", f"error={'a' * 129}&state=s"),
        ("LT-12", f"code=a&state=s&{'x=&' * 70}"),
        ("LT-12", "code=a%&state=s"),
        ("LT-12", "code=a%zz&state=s"),
        ("LT-12", "code=%ff&state=s"),
        ("LT-12", "code=%C3%BC&state=s"),
        ("LT-12", "code=a%0D%0Ab&state=s"),
        ("LT-12", "code=a%00&state=s"),
        ("LT-13", "response=jarm"),
    ],
)
def test_a_malformed_answer_is_refused(row: str, query: str) -> None:
    with pytest.raises(LoginFault) as caught:
        read_callback(query)
    assert caught.value.code == "callback_malformed", row
    assert caught.value.status == 400


def test_s29_an_answer_does_not_print_its_code_or_state() -> None:
    callback = read_callback("code=TheCode&state=TheState")
    assert "TheCode" not in repr(callback)
    assert "TheState" not in repr(callback)


def answer(**changed: Any) -> Callback:
    return Callback(**{"state": "s" * 43, "code": "c", **changed})


def test_f49_the_code_of_a_right_answer() -> None:
    at = NOW + 600
    assert check_callback(answer(), pending(), provider(), now=at, timeout=600) == "c"
    assert check_callback(answer(iss=ISSUER), pending(), provider(), now=at, timeout=600) == "c"
    promised = provider(iss_in_response=True)
    assert check_callback(answer(iss=ISSUER), pending(), promised, now=at, timeout=600) == "c"


ERROR = {"code": None, "error": "server_error"}


@pytest.mark.parametrize(
    ("row", "changed", "known", "later", "code", "status"),
    [
        ("F33", {"state": "x"}, {}, 0, "login_unknown", 400),
        ("F33", {"state": "s" * 42 + "ü"}, {}, 0, "login_unknown", 400),
        ("V12", {"state": "random-state|http://localhost/cb|pkce-verifier"}, {}, 0, "login_unknown", 400),
        ("F50", {"state": "x", "error": "access_denied", "code": None}, {}, 0, "login_unknown", 400),
        ("LT-6", {}, {"issuer": "https://other.test"}, 0, "issuer_mismatch", 401),
        ("RS-6", {"iss": "https://other.test"}, {"issuer": "https://other.test"}, 0, "issuer_mismatch", 401),
        ("F123", {"iss": "https://other.test"}, {}, 0, "issuer_mismatch", 401),
        ("RS-4", {"iss": f"{ISSUER}/"}, {}, 0, "issuer_mismatch", 401),
        ("RS-4", {"iss": "https://other.test", **ERROR}, {}, 0, "issuer_mismatch", 401),
        ("RS-3", {}, {"iss_in_response": True}, 0, "issuer_mismatch", 401),
        ("RS-3", ERROR, {"iss_in_response": True}, 0, "issuer_mismatch", 401),
        ("F45", {}, {}, 601, "login_expired", 401),
        ("F45", ERROR, {}, 601, "login_expired", 401),
        ("F50", ERROR, {}, 0, "provider_refused", 401),
        ("F50", {"code": None, "error": "☃"}, {}, 0, "provider_refused", 401),
        ("F50", {"code": None, "error": "access_denied"}, {}, 0, "access_denied_by_provider", 403),
        ("AR-29", {"code": None, "error": "login_required"}, {}, 0, "provider_refused", 401),
        ("V12", {"code": None}, {}, 0, "callback_malformed", 400),
    ],
)
def test_a_wrong_answer_gives_no_code(
    row: str, changed: dict[str, Any], known: dict[str, Any], later: float, code: str, status: int
) -> None:
    with pytest.raises(LoginFault) as caught:
        check_callback(answer(**changed), pending(), provider(**known), now=NOW + later, timeout=600)
    assert (caught.value.code, caught.value.status) == (code, status), row
    assert "s" * 42 not in str(caught.value)


def test_lt_11_the_words_of_the_provider_are_for_the_log_only() -> None:
    description = "Client is <b>disabled</b>\r\nX-Evil: 1, code SplxlOBeZQQYbYS6WxSbIA"
    refused = answer(code=None, error="unauthorized_client", error_description=description)
    with pytest.raises(LoginFault) as caught:
        check_callback(refused, pending(), provider(), now=NOW, timeout=600)
    assert caught.value.detail == "unauthorized_client: Client is <b>disabled</b>  X-Evil: 1, code …"
    assert "disabled" not in caught.value.public
