from __future__ import annotations

from typing import Any

import pytest

from oidc_proxy.errors import ProviderFault
from oidc_proxy.oidc import (
    EndpointOverrides,
    JwksSettings,
    Provider,
    cache_seconds,
    discovery_url,
    provider_without_discovery,
    read_metadata,
)

from .samples import ISSUER, metadata, settings

WELL_KNOWN = "/.well-known/openid-configuration"


@pytest.mark.parametrize(
    ("row", "changed", "url"),
    [
        ("F1", {"issuer": "https://idp.test"}, f"https://idp.test{WELL_KNOWN}"),
        ("F1", {"issuer": "https://idp.test/"}, f"https://idp.test{WELL_KNOWN}"),
        ("DI-1", {"issuer": "https://idp.test/o/app/"}, f"https://idp.test/o/app{WELL_KNOWN}"),
        ("F2", {"discovery_url": "https://idp.test/odd?x=1"}, "https://idp.test/odd?x=1"),
        ("F115", {"internal_base_url": "http://kc:8080"}, f"http://kc:8080/realms/main{WELL_KNOWN}"),
        ("F115", {"issuer": "https://idp.test/", "internal_base_url": "http://kc"}, f"http://kc{WELL_KNOWN}"),
        ("F2", {"internal_base_url": "http://kc", "discovery_url": "https://x.test/d"}, "https://x.test/d"),
    ],
)
def test_where_the_metadata_is(row: str, changed: dict[str, Any], url: str) -> None:
    assert discovery_url(settings(**changed)) == url, row


def test_v4_keycloak_is_read_whole_and_the_rest_is_kept() -> None:
    provider = read_metadata(metadata(foo={"bar": 1}), settings())
    assert provider == Provider(
        issuer=ISSUER,
        authorization_endpoint=f"{ISSUER}/protocol/auth",
        token_endpoint=f"{ISSUER}/protocol/token",
        jwks_uri=f"{ISSUER}/protocol/certs",
        userinfo_endpoint=f"{ISSUER}/protocol/userinfo",
        end_session_endpoint=f"{ISSUER}/protocol/logout",
        introspection_endpoint=f"{ISSUER}/protocol/introspect",
        revocation_endpoint=f"{ISSUER}/protocol/revoke",
        iss_in_response=True,
        pkce_methods=("plain", "S256"),
        id_token_algorithms=("RS256", "HS256"),
        client_auth_methods=("private_key_jwt", "client_secret_basic", "client_secret_post"),
        extra={
            "response_types_supported": ["code", "none"],
            "require_pushed_authorization_requests": False,
            "foo": {"bar": 1},
        },
    )


def test_v4_google_names_endpoints_elsewhere_and_they_must_be_permitted() -> None:
    google = {
        "issuer": "https://accounts.google.com",
        "authorization_endpoint": "https://accounts.google.com/o/oauth2/v2/auth",
        "token_endpoint": "https://oauth2.googleapis.com/token",
        "revocation_endpoint": "https://oauth2.googleapis.com/revoke",
        "jwks_uri": "https://www.googleapis.com/oauth2/v3/certs",
        "token_endpoint_auth_methods_supported": ["client_secret_post", "client_secret_basic"],
        "code_challenge_methods_supported": ["plain", "S256"],
    }
    issuer = google["issuer"]
    with pytest.raises(ProviderFault, match=r"token_endpoint is on https://oauth2.googleapis.com.*endpoint_origins"):
        read_metadata(google, settings(issuer=issuer))
    origins = ["https://oauth2.googleapis.com", "https://www.googleapis.com"]
    provider = read_metadata(google, settings(issuer=issuer, endpoint_origins=origins))
    assert provider.token_endpoint == google["token_endpoint"]
    assert provider.end_session_endpoint is None
    assert provider.introspection_endpoint is None


def test_v4_an_old_keycloak_has_the_old_name_of_introspection_and_no_pkce_list() -> None:
    old = metadata(
        introspection_endpoint=...,
        token_introspection_endpoint=f"{ISSUER}/old",
        revocation_endpoint=...,
        code_challenge_methods_supported=...,
        authorization_response_iss_parameter_supported=...,
    )
    provider = read_metadata(old, settings())
    assert provider.introspection_endpoint == f"{ISSUER}/old"
    assert provider.revocation_endpoint is None
    assert provider.pkce_methods is None
    assert provider.iss_in_response is False


@pytest.mark.parametrize("absent", [..., None, ""])
def test_ho_32_an_absent_optional_endpoint_is_none(absent: object) -> None:
    assert read_metadata(metadata(end_session_endpoint=absent), settings()).end_session_endpoint is None


@pytest.mark.parametrize(
    ("row", "changed", "says"),
    [
        ("DI-3", {"issuer": "https://evil.test"}, "issuer is 'https://evil.test'.*'https://idp.test/realms/main'"),
        ("HO-30", {"issuer": f"{ISSUER}/"}, "issuer is"),
        ("DI-3", {"issuer": ...}, "issuer is None"),
        ("DI-3", {"issuer": [ISSUER]}, "issuer is"),
        ("DI-3", {"issuer": ISSUER.upper()}, "issuer is"),
        ("F4", {"authorization_endpoint": ...}, "authorization_endpoint is missing"),
        ("F4", {"token_endpoint": ""}, "token_endpoint is missing"),
        ("F4", {"jwks_uri": None}, "jwks_uri is missing"),
        ("F4", {"token_endpoint": 7}, "token_endpoint is 7"),
        ("F4", {"userinfo_endpoint": False}, "userinfo_endpoint is False"),
        ("HO-31", {"jwks_uri": "file:///etc/passwd"}, "jwks_uri is 'file:///etc/passwd'"),
        ("OUT-1", {"jwks_uri": "gopher://idp.test/"}, "jwks_uri is 'gopher"),
        ("OUT-1", {"jwks_uri": "https://idp.test@evil.test/"}, "jwks_uri is"),
        ("OUT-1", {"jwks_uri": "/relative"}, "jwks_uri is"),
        ("HO-31", {"jwks_uri": "http://169.254.169.254/latest"}, "jwks_uri is on http://169.254.169.254,"),
        ("HO-31", {"token_endpoint": "http://idp.test/token"}, "token_endpoint is on http://idp.test,"),
        ("OUT-1", {"userinfo_endpoint": "http://localhost:6379/"}, "userinfo_endpoint is on http://localhost:6379"),
        ("OUT-1", {"token_endpoint": "https://idp.test:8443/"}, "token_endpoint is on https://idp.test:8443"),
        ("OUT-1", {"revocation_endpoint": "https://idp.test.evil.test/"}, "provider.endpoints.revocation"),
        ("OUT-1", {"authorization_endpoint": "https://evil.test/"}, "authorization_endpoint is on https://evil.test"),
        ("OUT-1", {"end_session_endpoint": "https://evil.test/"}, "end_session_endpoint is on https://evil.test"),
        ("AR-14", {"code_challenge_methods_supported": ["plain"]}, "without S256"),
        ("AR-14", {"code_challenge_methods_supported": []}, "without S256"),
        ("F4", {"code_challenge_methods_supported": "S256"}, "code_challenge_methods_supported is 'S256'"),
        ("F4", {"id_token_signing_alg_values_supported": [1]}, "not a list of strings"),
        ("F4", {"response_types_supported": ["id_token"]}, "without code"),
        ("F4", {"authorization_response_iss_parameter_supported": "false"}, "not true or false"),
        ("AR-20", {"require_pushed_authorization_requests": True}, "pushed"),
    ],
)
def test_metadata_is_refused_by_the_name_of_the_key(row: str, changed: dict[str, Any], says: str) -> None:
    with pytest.raises(ProviderFault, match=says) as caught:
        read_metadata(metadata(**changed), settings())
    assert caught.value.code == "provider_misconfigured", row


@pytest.mark.parametrize("document", [[], None, "x", 1])
def test_f4_metadata_is_an_object(document: object) -> None:
    with pytest.raises(ProviderFault, match="not a JSON object"):
        read_metadata(document, settings())


def test_a_huge_value_does_not_fill_the_log() -> None:
    with pytest.raises(ProviderFault) as caught:
        read_metadata(metadata(issuer="x" * 100_000), settings())
    assert len(caught.value.detail) < 600


@pytest.mark.parametrize(
    ("ours", "theirs"), [("https://a.test", "https://a.test/"), ("https://a.test/", "https://a.test")]
)
def test_f3_one_slash_is_tolerated_on_request_and_the_documents_spelling_counts(ours: str, theirs: str) -> None:
    document = metadata(issuer=theirs)
    permitted = {"endpoint_origins": ["https://idp.test"]}
    with pytest.raises(ProviderFault, match="issuer is"):
        read_metadata(document, settings(issuer=ours, **permitted))
    tolerant = settings(issuer=ours, issuer_slash_tolerant=True, **permitted)
    assert read_metadata(document, tolerant).issuer == theirs
    with pytest.raises(ProviderFault, match="issuer is"):
        read_metadata(metadata(issuer="https://b.test/"), tolerant)


def test_ar_14_pkce_without_s256_is_tolerated_on_request() -> None:
    document = metadata(code_challenge_methods_supported=["plain"])
    assert read_metadata(document, settings(require_pkce_s256=False)).pkce_methods == ("plain",)


def test_f7_an_override_wins_and_is_taken_as_it_is() -> None:
    overrides = EndpointOverrides(token="https://elsewhere.test/t", end_session="https://bye.test/")
    changed = settings(endpoints=overrides, internal_base_url="http://kc:8080")
    provider = read_metadata(metadata(token_endpoint=...), changed)
    assert provider.token_endpoint == "https://elsewhere.test/t"
    assert provider.end_session_endpoint == "https://bye.test/"


@pytest.mark.parametrize("seen_from", [ISSUER, "http://kc:8080/realms/main"])
def test_f115_what_we_call_moves_to_the_internal_origin_and_what_browsers_open_stays(seen_from: str) -> None:
    document = metadata(
        token_endpoint=f"{seen_from}/token?a=%2F",
        jwks_uri=f"{seen_from}/certs",
        userinfo_endpoint=f"{seen_from}/userinfo",
        introspection_endpoint=f"{seen_from}/introspect",
    )
    provider = read_metadata(document, settings(internal_base_url="http://kc:8080"))
    inside = "http://kc:8080/realms/main"
    assert provider.token_endpoint == f"{inside}/token?a=%2F"
    assert provider.jwks_uri == f"{inside}/certs"
    assert provider.userinfo_endpoint == f"{inside}/userinfo"
    assert provider.introspection_endpoint == f"{inside}/introspect"
    assert provider.revocation_endpoint == f"{inside}/protocol/revoke"
    assert provider.authorization_endpoint == f"{ISSUER}/protocol/auth"
    assert provider.end_session_endpoint == f"{ISSUER}/protocol/logout"


def test_f115_the_browser_is_never_sent_to_the_internal_origin() -> None:
    document = metadata(authorization_endpoint="http://kc:8080/realms/main/auth")
    with pytest.raises(ProviderFault, match="authorization_endpoint is on http://kc:8080"):
        read_metadata(document, settings(internal_base_url="http://kc:8080"))


def test_f115_a_permitted_origin_is_not_moved() -> None:
    changed = settings(internal_base_url="http://kc:8080", endpoint_origins=["https://keys.test"])
    provider = read_metadata(metadata(jwks_uri="https://keys.test/jwks"), changed)
    assert provider.jwks_uri == "https://keys.test/jwks"


def test_f2_endpoints_may_be_where_the_metadata_is() -> None:
    changed = settings(discovery_url="https://meta.test/d")
    provider = read_metadata(metadata(token_endpoint="https://meta.test/token"), changed)
    assert provider.token_endpoint == "https://meta.test/token"


def test_f7_a_provider_without_discovery() -> None:
    named = EndpointOverrides(authorization="https://idp.test/a", token="https://idp.test/t", jwks="https://idp.test/k")
    assert provider_without_discovery(settings(endpoints=named)) is None
    assert provider_without_discovery(settings(endpoints=named, discovery=False)) == Provider(
        issuer=ISSUER,
        authorization_endpoint="https://idp.test/a",
        token_endpoint="https://idp.test/t",
        jwks_uri="https://idp.test/k",
    )


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("no-transform, max-age=60, public", 60),
        ("max-age=3600", 3600),
        ("MAX-AGE=60", 60),
        ('max-age="60"', 60),
        ("private, max-age = 60", 60),
        ("s-maxage=10", 5),
        ("x-max-age=50", 5),
        ("no-store, max-age=0", 5),
        ("no-store, max-age=60", 5),
        ("max-age=60, No-Cache", 5),
        ("max-age=31536000", 86400),
        ("max-age=" + "9" * 5000, 86400),
        ("max-age=15", 15),
        ("max-age=1", 5),
        ("max-age=-1", 5),
        ("max-age=abc", 5),
        ("max-age=6.5", 5),
        ("max-age", 5),
        ("max-age=60, max-age=70", 60),
        ('private="max-age=50"', 5),
        (',;"=', 5),
        ('max-age="60', 5),
        ("max-age=٦٠", 5),
        ("", 5),
        (None, 5),
    ],
)
def test_v8_f14_max_age_within_the_limits_and_never_an_error(header: str | None, seconds: float) -> None:
    assert cache_seconds(header, JwksSettings(min_ttl="5s", max_ttl="24h")) == seconds
