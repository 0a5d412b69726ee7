from __future__ import annotations

from base64 import b64decode
from typing import Any
from urllib.parse import parse_qsl, unquote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oidc_proxy.errors import ProviderFault
from oidc_proxy.oidc import (
    BasicAuth,
    PostAuth,
    PublicClient,
    TokenRequest,
    client_auth,
    code_request,
    refresh_request,
    revocation_request,
)
from oidc_proxy.values import Secret

from .samples import ISSUER, REDIRECT_URI, pending, provider, settings

SECRET = Secret("a:b%&ü")
TOKEN_ENDPOINT = f"{ISSUER}/protocol/token"


def form(request: TokenRequest | None) -> dict[str, str]:
    assert request is not None
    pairs = parse_qsl(request.body.decode("ascii"), keep_blank_values=True, strict_parsing=True)
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


@pytest.mark.parametrize(
    ("row", "changed", "methods", "kind"),
    [
        ("F53", {}, None, PublicClient),
        ("F53", {"client_auth": "none"}, ("client_secret_basic",), PublicClient),
        ("F53", {"client_secret": SECRET}, None, BasicAuth),
        ("F53", {"client_secret": SECRET}, ("client_secret_post", "client_secret_basic"), BasicAuth),
        ("F53", {"client_secret": SECRET}, ("private_key_jwt", "client_secret_post"), PostAuth),
        ("TK-4", {"client_secret": SECRET, "client_auth": "post"}, ("client_secret_basic",), PostAuth),
        ("TK-4", {"client_secret": SECRET, "client_auth": "basic"}, ("client_secret_post",), BasicAuth),
    ],
)
def test_the_method_is_the_configured_or_the_announced_one(
    row: str, changed: dict[str, Any], methods: tuple[str, ...] | None, kind: type
) -> None:
    auth = client_auth(settings(**changed), provider(client_auth_methods=methods))
    assert isinstance(auth, kind), row
    assert auth.client_id == "app"


@pytest.mark.parametrize("methods", [(), ("private_key_jwt", "none")])
def test_tk_3_a_secret_that_cannot_be_used_is_a_fault_of_the_setup(methods: tuple[str, ...]) -> None:
    with pytest.raises(ProviderFault, match="token_endpoint_auth_methods_supported") as caught:
        client_auth(settings(client_secret=SECRET), provider(client_auth_methods=methods))
    assert caught.value.code == "provider_misconfigured"


def test_v5_basic() -> None:
    headers: dict[str, str] = {}
    BasicAuth("thetick", Secret("arthur")).sign({}, headers)
    assert headers == {"Authorization": "Basic dGhldGljazphcnRodXI="}


@given(st.text(min_size=1), st.text(min_size=1))
def test_tk_1_basic_is_form_encoded_and_survives(client_id: str, secret: str) -> None:
    headers: dict[str, str] = {}
    body: dict[str, str] = {}
    BasicAuth(client_id, Secret(secret)).sign(body, headers)
    pair = b64decode(headers["Authorization"].removeprefix("Basic ")).decode("ascii")
    user, _, password = pair.partition(":")
    assert (unquote_plus(user), unquote_plus(password)) == (client_id, secret)
    assert body == {}


CODE_FORM = {
    "grant_type": "authorization_code",
    "code": "c+d/e &",
    "redirect_uri": REDIRECT_URI,
    "code_verifier": "v" * 43,
}


@pytest.mark.parametrize(
    ("row", "auth", "more", "authorization"),
    [
        ("TK-2", BasicAuth("app", SECRET), {}, True),
        ("TK-2", PostAuth("app", SECRET), {"client_id": "app", "client_secret": "a:b%&ü"}, False),
        ("F53", PublicClient("app"), {"client_id": "app"}, False),
    ],
)
def test_f49_tk_8_tk_9_the_code_request(
    row: str, auth: BasicAuth | PostAuth | PublicClient, more: dict[str, str], authorization: bool
) -> None:
    request = code_request(provider(), auth, code="c+d/e &", pending=pending())
    assert request.url == TOKEN_ENDPOINT
    assert form(request) == {**CODE_FORM, **more}, row
    assert ("Authorization" in request.headers) is authorization
    assert request.headers["Content-Type"] == "application/x-www-form-urlencoded"
    assert request.headers["Accept"] == "application/json"


@pytest.mark.parametrize(("scope", "more"), [(None, {}), ("openid", {"scope": "openid"})])
def test_the_refresh_request(scope: str | None, more: dict[str, str]) -> None:
    request = refresh_request(provider(), PublicClient("app"), refresh_token="r t", scope=scope)
    assert request.url == TOKEN_ENDPOINT
    assert form(request) == {"grant_type": "refresh_token", "refresh_token": "r t", "client_id": "app", **more}


def test_f86_the_revocation_request() -> None:
    known = provider(revocation_endpoint="https://idp.test/revoke")
    request = revocation_request(known, BasicAuth("app", SECRET), token="r", hint="refresh_token")
    assert request is not None
    assert request.url == "https://idp.test/revoke"
    assert form(request) == {"token": "r", "token_type_hint": "refresh_token"}
    assert "Authorization" in request.headers


def test_f12_without_an_endpoint_nothing_is_to_be_revoked() -> None:
    assert revocation_request(provider(), PublicClient("app"), token="r", hint="refresh_token") is None


def test_s29_a_request_does_not_print_what_it_carries() -> None:
    request = code_request(provider(), PostAuth("app", Secret("hunter2")), code="TheCode", pending=pending())
    assert repr(request) == f"TokenRequest(url={TOKEN_ENDPOINT!r})"
    assert "hunter2" not in repr(PostAuth("app", Secret("hunter2"))) + repr(BasicAuth("app", Secret("hunter2")))
