from __future__ import annotations

import pytest
from pydantic import ValidationError

from oidc_proxy.oidc import EndpointOverrides, JwksSettings, LoginSettings, LogoutSettings
from oidc_proxy.values import Secret

from .samples import settings


@pytest.mark.parametrize(
    "written",
    [
        "https://idp.test",
        "https://idp.test/",
        "https://idp.test/realms/Main",
        "https://IDP.test:8443/a%20b",
        "http://localhost:8080/realms/r",
        "http://127.0.0.1",
        "http://[::1]:9000/x",
    ],
)
def test_the_issuer_is_kept_byte_for_byte(written: str) -> None:
    assert settings(issuer=written).issuer == written


@pytest.mark.parametrize(
    ("issuer", "says"),
    [
        ("idp.test", "absolute URL"),
        ("", "absolute URL"),
        ("ftp://idp.test", "absolute URL"),
        ("https://", "absolute URL"),
        ("https://user@idp.test/", "absolute URL"),
        ("https://idp.test/#x", "absolute URL"),
        ("https://idp.test/a b", "absolute URL"),
        ("https://idp.test\\@evil.test", "absolute URL"),
        ("https://idp．test/", "absolute URL"),
        ("https://idp.test/\n", "absolute URL"),
        ("https://idp.test:99999/", "port"),
        ("https://a..b/", "host name"),
        ("https://idp.test/?realm=r", "query"),
        ("http://idp.test/", "https"),
    ],
)
def test_di_4_an_unusable_issuer_is_refused(issuer: str, says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        settings(issuer=issuer)


def test_di_8_plain_http_needs_the_switch() -> None:
    assert settings(issuer="http://idp.test", allow_insecure_http=True).issuer == "http://idp.test"


def test_di_8_every_insecure_url_is_named_at_once() -> None:
    with pytest.raises(ValidationError) as caught:
        settings(
            discovery_url="http://x.test/d",
            endpoints=EndpointOverrides(token="http://y.test/t"),
            endpoint_origins=["http://z.test", "https://fine.test"],
        )
    for name in ("discovery_url", "endpoints.token", "endpoint_origins"):
        assert f"{name} must be https" in str(caught.value)
    assert "fine.test" not in str(caught.value).partition("[type")[0]


def test_f115_an_internal_origin_may_be_plain_http_and_so_may_what_lies_on_it() -> None:
    made = settings(
        internal_base_url="http://keycloak:8080", endpoints=EndpointOverrides(revocation="http://keycloak:8080/revoke")
    )
    assert str(made.internal_base_url) == "http://keycloak:8080"


@pytest.mark.parametrize(
    ("written", "scopes"),
    [
        ("abc def", ("openid", "abc", "def")),
        (["abc", "def"], ("openid", "abc", "def")),
        ("profile openid profile", ("openid", "profile")),
        (["openid", "email", "openid"], ("openid", "email")),
        ([], ("openid",)),
        ("", ("openid",)),
    ],
)
def test_f32_scopes_are_a_list_or_a_string_and_openid_comes_first_and_once(
    written: object, scopes: tuple[str, ...]
) -> None:
    assert settings(scopes=written).scopes == scopes


@pytest.mark.parametrize("scopes", [["a b"], ['"'], ["\\"], ["ü"], [""], [7]])
def test_f32_what_is_no_scope_is_refused(scopes: object) -> None:
    with pytest.raises(ValidationError):
        settings(scopes=scopes)


@pytest.mark.parametrize("client_id", ["", "ä", "a\nb"])
def test_the_client_id_is_visible_ascii(client_id: str) -> None:
    with pytest.raises(ValidationError, match="printable ASCII"):
        settings(client_id=client_id)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"client_auth": "basic"}, "client_secret is needed"),
        ({"client_auth": "post"}, "client_secret is needed"),
        ({"client_auth": "none", "client_secret": Secret("x")}, "leave one of them out"),
        ({"discovery": False}, "endpoints.authorization is needed.*endpoints.token is needed.*endpoints.jwks"),
        ({"unknown_key": 1}, "unknown_key"),
    ],
)
def test_f53_f7_contradictions_are_refused(changed: dict[str, object], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        settings(**changed)


def test_the_secret_is_in_no_representation() -> None:
    made = settings(client_secret="hunter2-hunter2")
    assert made.client_secret == Secret("hunter2-hunter2")
    assert "hunter2" not in repr(made) + str(made) + made.model_dump_json()


def test_f14_the_shortest_time_is_not_the_longer_one() -> None:
    with pytest.raises(ValidationError, match="min_ttl"):
        JwksSettings(min_ttl="2h", max_ttl="1h")


@pytest.mark.parametrize(
    "name",
    ["client_id", "response_type", "redirect_uri", "state", "nonce", "code_challenge", "code_challenge_method",
     "request", "request_uri", "response_mode", "max_age", "scope"],
)  # fmt: skip
def test_f40_params_cannot_set_what_belongs_to_the_protocol(name: str) -> None:
    with pytest.raises(ValidationError, match=f"cannot set “{name}”"):
        LoginSettings(params={name: "x"})


def test_f39_allowed_params_cannot_open_the_protocol_but_may_open_scope() -> None:
    with pytest.raises(ValidationError, match="cannot set “state”"):
        LoginSettings(allowed_params={"state": ["/.*/"]})
    assert LoginSettings(allowed_params={"scope": ["groups"]}).allowed_params == {"scope": ("groups",)}


def test_f39_a_broken_pattern_is_refused_at_start() -> None:
    with pytest.raises(ValidationError, match="not a regular expression"):
        LoginSettings(allowed_params={"login_hint": ["/(/"]})


def test_f36_f37_lists_may_be_written_as_a_string() -> None:
    made = LoginSettings(acr_values="gold silver", ui_locales=["en-US", "sv"])
    assert (made.acr_values, made.ui_locales) == (("gold", "silver"), ("en-US", "sv"))


def test_f38_claims_are_an_object_in_yaml_or_json() -> None:
    assert LoginSettings(claims='{"userinfo":{"groups":null}}') == LoginSettings(claims={"userinfo": {"groups": None}})


@pytest.mark.parametrize("claims", ["{", "[]", '{"a":1,"a":2}', 7])
def test_f38_other_claims_are_a_configuration_error(claims: object) -> None:
    with pytest.raises(ValidationError):
        LoginSettings(claims=claims)


@pytest.mark.parametrize("landing", ["", "home", "//evil.test", "/\\evil.test", "https://evil.test", "/a b", "/\t/x"])
def test_the_landing_page_is_here(landing: str) -> None:
    with pytest.raises(ValidationError, match="path on this site"):
        LoginSettings(landing=landing)
    assert LoginSettings(landing="/home?tab=1").landing == "/home?tab=1"


@pytest.mark.parametrize(
    "rule",
    ["https://*", "https://*.com", "https://*.", "http://*.example.com", "https://a.*.example.com", "app.test",
     "http://app.test", "https://app.test/path", "*", "https://*.*.example.com", "https://x@app.test"],
)  # fmt: skip
def test_or_16_a_redirect_rule_that_says_too_much_is_refused(rule: str) -> None:
    with pytest.raises(ValidationError):
        LoginSettings(allowed_redirects=[rule])


def test_or_16_redirect_rules_are_origins_or_a_wildcard_before_a_domain() -> None:
    rules = ("https://app.test", "https://*.example.com", "https://*.example.com:8443", "http://localhost:3000")
    assert LoginSettings(allowed_redirects=rules).allowed_redirects == rules


def test_f97_signing_out_by_a_plain_link_is_off() -> None:
    assert LogoutSettings().allow_get is False
