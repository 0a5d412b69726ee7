"""The demo's provider is as strict as real ones: discovery, keys, and the authorization endpoint."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest

from oidc_proxy.demo.keys import b64
from oidc_proxy.demo.provider import Provider
from tests.demo.app import APP, CALLBACK, VERIFIER, App, back, claims_of
from tests.world import Browser, Clock, running_provider

# ── discovery and keys ──


async def test_di_3_the_document_names_the_issuer_and_everything_lies_below_it(app: App, provider: Provider) -> None:
    document = (await app.browser.get(f"{provider.issuer}/.well-known/openid-configuration")).json()
    assert document["issuer"] == provider.issuer == f"http://127.0.0.1:{provider.port}/realms/demo"
    urls = [value for name, value in document.items() if name.endswith(("_endpoint", "_uri"))]
    assert len(urls) == 7
    assert all(url.startswith(f"{provider.issuer}/") for url in urls)
    assert document["authorization_response_iss_parameter_supported"] is True
    assert document["code_challenge_methods_supported"] == ["S256"]


async def test_di_6_the_document_also_stands_at_the_place_of_rfc_8414(app: App, provider: Provider) -> None:
    url = f"{provider.address}/.well-known/oauth-authorization-server/realms/demo"
    assert (await app.browser.get(url)).json()["issuer"] == provider.issuer


async def test_jwks_shows_public_keys_only_and_an_encryption_key_first(app: App, provider: Provider) -> None:
    keys = (await app.browser.get(f"{provider.issuer}/jwks")).json()["keys"]
    assert [key["use"] for key in keys] == ["enc", "sig"]
    assert all(key["kty"] == "RSA" and "d" not in key for key in keys)
    assert len(base64.urlsafe_b64decode(keys[1]["n"] + "==")) == 256


@pytest.mark.parametrize("keep", [True, False])
async def test_rotation_signs_with_a_new_key(app: App, provider: Provider, keep: bool) -> None:
    old = provider.keys.current
    new = provider.keys.rotate(keep=keep)
    published = [key["kid"] for key in (await app.browser.get(f"{provider.issuer}/jwks")).json()["keys"]]
    assert (new.kid in published, old.kid in published) == (True, keep)
    header = json.loads(base64.urlsafe_b64decode((await app.tokens())["id_token"].split(".")[0] + "=="))
    assert header["kid"] == new.kid != old.kid


@pytest.mark.parametrize(("dynamic", "moved"), [(False, set()), (True, {"token", "userinfo", "jwks", "introspection"})])
async def test_split_issuer(clock: Clock, dynamic: bool, moved: set[str]) -> None:
    issuer = "http://idp.example.test:4444/realms/demo"
    async with running_provider(issuer=issuer, clock=clock) as provider, Browser(clock=clock) as browser:
        provider.dynamic_backchannel = dynamic
        document = (await browser.get(provider.discovery_url)).json()
        assert document["issuer"] == issuer
        urls = {name: value for name, value in document.items() if name.endswith(("_endpoint", "_uri"))}
        here = {
            name.removesuffix("_endpoint").removesuffix("_uri")
            for name in urls
            if urls[name].startswith(provider.address)
        }
        assert here == moved
        assert all(url.startswith((f"{issuer}/", f"{provider.address}/realms/demo/")) for url in urls.values())


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/token", 405), ("POST", "/jwks", 405), ("GET", "/nowhere", 404), ("PUT", "/authorize", 405)],
)
async def test_other_methods_and_paths_are_refused(app: App, method: str, path: str, status: int) -> None:
    assert (await app.browser.request(method, app.provider.issuer + path)).status == status


async def test_the_port_and_all_sessions_survive_a_restart(app: App, provider: Provider) -> None:
    values, port = await app.tokens(), provider.port
    await provider.close()
    await provider.open()
    assert provider.port == port
    assert (await app.userinfo(values["access_token"])).status == 200


# ── authorization endpoint ──


async def test_s2_a_sign_in_from_the_page_to_the_tokens(app: App, provider: Provider, clock: Clock) -> None:
    page = await app.browser.get(app.url())
    assert '<html lang="en">' in page.text
    assert '<label for="password">' in page.text
    assert "<script" not in page.text
    params = back(await app.post_form(page, "ann", "ann"))
    assert params["state"] == "st&1 ü"
    assert params["iss"] == provider.issuer
    values = (await app.exchange(params["code"])).json()
    assert values["token_type"] == "Bearer"
    assert values["expires_in"] == 300
    claims = claims_of(provider, values["id_token"])
    digest = hashlib.sha256(values["access_token"].encode()).digest()[:16]
    assert claims["at_hash"] == b64(digest)
    expected = {
        "iss": provider.issuer,
        "aud": "app",
        "azp": "app",
        "nonce": "n-1",
        "typ": "ID",
        "exp": int(clock.now) + 300,
        "iat": int(clock.now),
        "auth_time": int(clock.now),
        "preferred_username": "ann",
        "email": "ann@example.test",
        "email_verified": True,
        "groups": ["/staff/ops"],
        "acr": "1",
    }
    assert {name: claims[name] for name in expected} == expected
    assert "realm_access" not in claims
    access = claims_of(provider, values["access_token"])
    assert (access["aud"], access["azp"], access["typ"]) == ("account", "app", "Bearer")
    assert "staff" in access["realm_access"]["roles"]
    assert access["resource_access"]["app"]["roles"] == ["admin"]
    [call] = provider.calls("token")
    assert call.form["code_verifier"] == VERIFIER
    assert call.headers["Authorization"].startswith("Basic ")


@pytest.mark.parametrize(
    "changes",
    [
        {"client_id": "nobody"},
        {"client_id": None},
        {"redirect_uri": None},
        {"redirect_uri": CALLBACK + "/"},
        {"redirect_uri": CALLBACK + "?x=1"},
        {"redirect_uri": "http://127.0.0.1:9/Callback"},
        {"redirect_uri": "http://127.0.0.1:9/with"},
    ],
)
async def test_ar_4_an_unknown_client_or_address_gets_a_page_and_no_redirect(app: App, changes: Any) -> None:
    page = await app.browser.get(app.url(**changes))
    assert (page.status, page.location) == (400, "")


async def test_ar_4_a_repeated_redirect_uri_gets_no_redirect(app: App) -> None:
    page = await app.browser.get(app.url() + "&" + urlencode({"redirect_uri": CALLBACK}))
    assert (page.status, page.location) == (400, "")


async def test_a_registered_query_is_kept(app: App) -> None:
    page = await app.post_form(await app.browser.get(app.url(redirect_uri="http://127.0.0.1:9/with?q=1")), "ann", "ann")
    assert page.location.startswith("http://127.0.0.1:9/with?q=1&code=")


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"response_type": None}, "invalid_request"),
        ({"response_type": "token"}, "unsupported_response_type"),
        ({"response_type": "code id_token"}, "unsupported_response_type"),
        ({"response_mode": "fragment"}, "invalid_request"),
        ({"scope": None}, "invalid_scope"),
        ({"scope": "profile"}, "invalid_scope"),
        ({"scope": "openid nonsense"}, "invalid_scope"),
        ({"code_challenge": None}, "invalid_request"),
        ({"code_challenge": None, "code_challenge_method": None}, "invalid_request"),
        ({"code_challenge_method": "plain"}, "invalid_request"),
        ({"code_challenge_method": None}, "invalid_request"),
        ({"code_challenge": "short"}, "invalid_request"),
        ({"prompt": "none login"}, "invalid_request"),
        ({"prompt": "dance"}, "invalid_request"),
        ({"max_age": "soon"}, "invalid_request"),
        ({"max_age": "-1"}, "invalid_request"),
        ({"request": "x"}, "request_not_supported"),
        ({"request_uri": "http://127.0.0.1:9/r"}, "request_uri_not_supported"),
        ({"id_token_hint": "a.b.c"}, "invalid_request"),
        ({"prompt": "none"}, "login_required"),
    ],
)
async def test_other_faults_go_back_with_state_and_iss(app: App, changes: Any, error: str) -> None:
    params = back(await app.browser.get(app.url(**changes)))
    assert params["error"] == error
    assert params["state"] == "st&1 ü"
    assert params["iss"] == app.provider.issuer
    assert "code" not in params


async def test_rs_1_a_repeated_parameter_is_refused(app: App) -> None:
    assert back(await app.browser.get(app.url() + "&scope=openid"))["error"] == "invalid_request"


async def test_a_request_may_come_by_post(app: App, provider: Provider) -> None:
    page = await app.browser.post(f"{provider.issuer}/authorize", dict(parse_qsl(urlsplit(app.url()).query)))
    assert (await app.post_form(page, "ann", "ann")).status == 303


@pytest.mark.parametrize(("user", "password"), [("ann", "bob"), ("nobody", "ann"), ("ann", ""), ("", "")])
async def test_a_wrong_password_asks_again(app: App, user: str, password: str) -> None:
    page = await app.post_form(await app.browser.get(app.url()), user, password)
    assert page.status == 200
    assert 'role="alert"' in page.text
    assert not app.browser.cookies.get("demo_sso")
    assert "code" in back(await app.post_form(page, "ann", "ann"))


async def test_what_was_typed_comes_back_escaped(app: App) -> None:
    page = await app.post_form(await app.browser.get(app.url(login_hint='"><script>')), '"><script>', "x")
    assert "<script>" not in page.text


async def test_a_sign_in_page_belongs_to_one_browser_once_and_for_ten_minutes(app: App, clock: Clock) -> None:
    page = await app.browser.get(app.url())
    async with Browser(clock=clock) as stranger:
        assert (await App(app.provider, stranger).post_form(page, "ann", "ann")).status == 400
    assert (await app.post_form(page, "ann", "ann")).status == 303
    assert (await app.post_form(page, "ann", "ann")).status == 400
    late = await app.browser.get(app.url(prompt="login"))
    clock.advance(601)
    assert (await app.post_form(late, "ann", "ann")).status == 400


async def test_single_sign_on_and_what_overrides_it(app: App, provider: Provider, clock: Clock) -> None:
    await app.sign_in()
    first = provider.calls("sign_in")
    silent = back(await app.browser.get(app.url(prompt="none")))
    assert "code" in silent
    assert len(provider.calls("sign_in")) == len(first)
    clock.advance(100)
    for changes, status in [
        ({}, 303),
        ({"prompt": "login"}, 200),
        ({"max_age": "0"}, 200),
        ({"max_age": "99"}, 200),
        ({"max_age": "100"}, 303),
        ({"acr_values": "gold"}, 200),
        ({"acr_values": "unheard-of"}, 303),
    ]:
        assert (await app.browser.get(app.url(**changes))).status == status, changes
    assert back(await app.browser.get(app.url(prompt="none", max_age="99")))["error"] == "login_required"
    clock.advance(36000)
    assert (await app.browser.get(app.url())).status == 200


async def test_who_signs_in_again_keeps_the_sid_and_gets_a_new_auth_time_and_acr(app: App, clock: Clock) -> None:
    before = claims_of(app.provider, (await app.tokens())["id_token"])
    clock.advance(100)
    after = claims_of(app.provider, (await app.tokens(acr_values="gold"))["id_token"])
    assert after["sid"] == before["sid"]
    assert (before["acr"], after["acr"]) == ("1", "gold")
    assert after["auth_time"] == before["auth_time"] + 100


async def test_the_id_token_hint_names_who_must_be_signed_in(app: App, clock: Clock) -> None:
    hint = (await app.tokens())["id_token"]
    clock.advance(1000)
    assert "code" in back(await app.browser.get(app.url(prompt="none", id_token_hint=hint)))
    app.browser.cookies.clear("demo_sso")
    assert (await app.sign_in("bob", id_token_hint=hint))["error"] == "login_required"


async def test_rs_3_a_client_may_be_spared_the_iss_parameter(app: App, provider: Provider) -> None:
    provider.register(replace(APP, iss_in_response=False))
    assert "iss" not in await app.sign_in()


async def test_a_request_without_state_gets_none_back(app: App) -> None:
    assert "state" not in await app.sign_in(state=None)


async def test_an_issuer_with_a_slash_at_its_end(clock: Clock) -> None:
    async with running_provider(path="/app/", clients=(APP,), clock=clock) as provider, Browser(clock=clock) as browser:
        assert provider.issuer.endswith("/app/")
        document = (await browser.get(provider.discovery_url)).json()
        assert provider.discovery_url.endswith("/app/.well-known/openid-configuration")
        assert document["issuer"] == provider.issuer
        assert document["token_endpoint"] == f"{provider.issuer}token"


async def test_the_demo_offers_its_people(app: App, provider: Provider) -> None:
    assert "/staff/sales" not in (await app.browser.get(app.url())).text
    provider.offer_users = True
    assert "/staff/sales" in (await app.browser.get(app.url())).text


async def test_requests_are_remembered_in_order_and_not_for_ever(clock: Clock) -> None:
    async with running_provider(clients=(APP,), clock=clock, remember=3) as provider, Browser(clock=clock) as browser:
        for number in range(5):
            await browser.get(f"{provider.issuer}/x/{number}?a=b")
        assert [(call.path, call.query) for call in provider.requests] == [
            (f"/x/{number}", [("a", "b")]) for number in (2, 3, 4)
        ]
