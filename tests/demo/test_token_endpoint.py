"""Token, userinfo, revocation and introspection endpoints: what each refusal looks like."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from typing import Any
from urllib.parse import urlencode

import pytest

from oidc_proxy.demo.directory import Lifetimes
from oidc_proxy.demo.ledger import Ledger, Page
from oidc_proxy.demo.provider import Provider
from tests.demo.app import APP, CALLBACK, CHALLENGE, SECRET, VERIFIER, App, authorization, claims_of, refused
from tests.world import Clock, shared_keys


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"code": "unknown"}, "invalid_grant"),
        ({"code": None}, "invalid_request"),
        ({"redirect_uri": None}, "invalid_request"),
        ({"redirect_uri": CALLBACK + "/"}, "invalid_grant"),
        ({"redirect_uri": "http://127.0.0.1:9/with?q=1"}, "invalid_grant"),
        ({"code_verifier": None}, "invalid_grant"),
        ({"code_verifier": "y" * 43}, "invalid_grant"),
        ({"code_verifier": "y" * 42}, "invalid_grant"),
        ({"code_verifier": CHALLENGE}, "invalid_grant"),
        ({"grant_type": None}, "invalid_request"),
        ({"grant_type": "password"}, "unsupported_grant_type"),
    ],
)
async def test_a_wrong_code_request_is_refused(app: App, changes: Any, error: str) -> None:
    refused(await app.exchange((await app.sign_in())["code"], **changes), error)


async def test_a_code_expires(app: App, clock: Clock) -> None:
    code = (await app.sign_in())["code"]
    clock.advance(61)
    refused(await app.exchange(code), "invalid_grant")


async def test_the_second_use_of_a_code_is_refused_and_ends_the_tokens_of_the_first(app: App) -> None:
    code = (await app.sign_in())["code"]
    values = (await app.exchange(code)).json()
    refused(await app.exchange(code), "invalid_grant")
    refused(await app.refresh(values["refresh_token"]), "invalid_grant")
    refused(await app.userinfo(values["access_token"]), "invalid_token", 401)


async def test_a_code_that_was_tried_with_a_wrong_verifier_is_spent(app: App) -> None:
    code = (await app.sign_in())["code"]
    refused(await app.exchange(code, code_verifier="y" * 43), "invalid_grant")
    refused(await app.exchange(code), "invalid_grant")


async def test_the_code_of_another_client_is_refused(app: App) -> None:
    code = (await app.sign_in(client_id="spa"))["code"]
    refused(await app.exchange(code), "invalid_grant")


async def test_a_verifier_without_a_challenge_is_refused(app: App, provider: Provider) -> None:
    provider.register(replace(APP, require_pkce=False))
    bare: Any = {"code_challenge": None, "code_challenge_method": None}
    refused(await app.exchange((await app.sign_in(**bare))["code"]), "invalid_grant")
    assert (await app.exchange((await app.sign_in(**bare))["code"], code_verifier=None)).status == 200


@pytest.mark.parametrize(
    ("basic", "changes", "status"),
    [
        (authorization("app", SECRET), {}, 200),
        (authorization("app", SECRET), {"client_id": "app"}, 200),
        ("", {"client_id": "app", "client_secret": SECRET}, 200),
        (authorization("app", "wrong"), {}, 401),
        (authorization("nobody", SECRET), {}, 401),
        ("Basic " + base64.b64encode(f"app:{SECRET}".encode()).decode(), {}, 401),
        ("Basic !!!", {}, 401),
        ("Bearer x", {}, 401),
        ("", {"client_id": "app", "client_secret": "wrong"}, 401),
        ("", {"client_id": "app"}, 401),
        ("", {}, 401),
        (authorization("app", SECRET), {"client_id": "app", "client_secret": SECRET}, 400),
        (authorization("app", SECRET), {"client_id": "spa"}, 400),
        (authorization("poster", "x"), {}, 401),
    ],
)
async def test_tk_1_to_tk_4_client_authentication(app: App, basic: str, changes: Any, status: int) -> None:
    page = await app.exchange((await app.sign_in())["code"], basic=basic, **changes)
    assert page.status == status, page.text
    if status == 401:
        refused(page, "invalid_client", 401)
        assert ("WWW-Authenticate" in page.headers) == bool(basic)


async def test_a_public_client_needs_no_secret_and_may_send_none(app: App) -> None:
    code = (await app.sign_in(client_id="spa"))["code"]
    refused(await app.exchange(code, basic="", client_id="spa", client_secret="x"), "invalid_client", 401)
    assert (await app.exchange(code, basic="", client_id="spa")).status == 200
    refused(await app.refresh("x", client_id="spa"), "invalid_request")


async def test_the_body_must_be_a_form_without_repetitions(app: App, provider: Provider) -> None:
    url, basic = f"{provider.issuer}/token", authorization("app", SECRET)
    code = (await app.sign_in())["code"]
    form = {"grant_type": "authorization_code", "code": code, "redirect_uri": CALLBACK, "code_verifier": VERIFIER}
    body = json.dumps(form).encode()
    refused(await app.browser.post(url, body, Authorization=basic, Content_Type="application/json"), "invalid_request")
    twice = f"{urlencode(form)}&code=x".encode()
    kind = "application/x-www-form-urlencoded"
    refused(await app.browser.post(url, twice, Authorization=basic, Content_Type=kind), "invalid_request")
    in_url = f"{url}?{urlencode({'client_secret': SECRET})}"
    refused(await app.browser.post(in_url, form, Authorization=basic), "invalid_request")


# ── refresh, userinfo, revocation, introspection ──


async def test_a_refresh_replaces_both_tokens_and_keeps_auth_time(app: App, provider: Provider, clock: Clock) -> None:
    first = await app.tokens()
    clock.advance(200)
    second = (await app.refresh(first["refresh_token"])).json()
    old, new = (claims_of(provider, values["id_token"]) for values in (first, second))
    assert second["refresh_token"] != first["refresh_token"]
    assert second["access_token"] != first["access_token"]
    assert "nonce" not in new
    assert new["iat"] == old["iat"] + 200
    same = ("iss", "sub", "aud", "auth_time", "sid")
    assert [new[name] for name in same] == [old[name] for name in same]


async def test_a_replaced_refresh_token_ends_the_family(app: App) -> None:
    first = await app.tokens()
    second = (await app.refresh(first["refresh_token"])).json()
    refused(await app.refresh(first["refresh_token"]), "invalid_grant")
    refused(await app.refresh(second["refresh_token"]), "invalid_grant")
    refused(await app.userinfo(second["access_token"]), "invalid_token", 401)


async def test_without_rotation_an_old_refresh_token_still_works(app: App, provider: Provider) -> None:
    provider.rotate_refresh_tokens = False
    first = await app.tokens()
    for _ in range(2):
        assert (await app.refresh(first["refresh_token"])).status == 200


async def test_lifetimes_are_switches(app: App, provider: Provider, clock: Clock) -> None:
    provider.lifetimes = Lifetimes(access_token=5, refresh_token=10)
    values = await app.tokens()
    assert (values["expires_in"], values["refresh_expires_in"]) == (5, 10)
    clock.advance(5)
    refused(await app.userinfo(values["access_token"]), "invalid_token", 401)
    clock.advance(5)
    refused(await app.refresh(values["refresh_token"]), "invalid_grant")


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"refresh_token": "unknown"}, "invalid_grant"),
        ({"refresh_token": None}, "invalid_request"),
        ({"scope": "openid offline_access"}, "invalid_scope"),
    ],
)
async def test_a_wrong_refresh_is_refused(app: App, changes: Any, error: str) -> None:
    refused(await app.refresh((await app.tokens())["refresh_token"], **changes), error)


async def test_the_refresh_token_of_another_client_is_refused(app: App) -> None:
    code = (await app.sign_in(client_id="spa"))["code"]
    values = (await app.exchange(code, basic="", client_id="spa")).json()
    refused(await app.refresh(values["refresh_token"]), "invalid_grant")


async def test_a_person_who_is_gone_or_changed(app: App, provider: Provider) -> None:
    values = await app.tokens()
    provider.users["ann"] = replace(provider.users["ann"], groups=("/staff/new",))
    values = (await app.refresh(values["refresh_token"])).json()
    assert claims_of(provider, values["id_token"])["groups"] == ["/staff/new"]
    del provider.users["ann"]
    refused(await app.refresh(values["refresh_token"]), "invalid_grant")


async def test_userinfo_follows_the_scopes(app: App) -> None:
    values = (await app.userinfo((await app.tokens("bob", scope="openid email"))["access_token"])).json()
    assert values["email"] == "bob@example.test"
    assert "preferred_username" not in values


@pytest.mark.parametrize("value", ["", "Bearer ", "Bearer x", "Basic x"])
async def test_userinfo_without_a_valid_token(app: App, value: str) -> None:
    page = await app.browser.get(f"{app.provider.issuer}/userinfo", Authorization=value)
    assert page.status == 401
    assert page.headers["WWW-Authenticate"].startswith("Bearer")


async def test_signed_userinfo(app: App, provider: Provider) -> None:
    provider.register(replace(APP, userinfo_alg="RS256"))
    page = await app.userinfo((await app.tokens())["access_token"])
    assert page.headers["Content-Type"] == "application/jwt"
    claims = claims_of(provider, page.text)
    assert (claims["iss"], claims["aud"], claims["preferred_username"]) == (provider.issuer, "app", "ann")


async def test_revocation_of_either_token(app: App) -> None:
    values = await app.tokens()
    assert (await app.token({"token": values["access_token"]}, endpoint="revoke")).status == 200
    refused(await app.userinfo(values["access_token"]), "invalid_token", 401)
    values = (await app.refresh(values["refresh_token"])).json()
    assert (await app.token({"token": values["refresh_token"]}, endpoint="revoke")).status == 200
    refused(await app.refresh(values["refresh_token"]), "invalid_grant")
    refused(await app.userinfo(values["access_token"]), "invalid_token", 401)


async def test_revocation_checks_the_client_but_not_whether_the_token_exists(app: App, provider: Provider) -> None:
    assert (await app.token({"token": "unknown"}, endpoint="revoke")).status == 200
    refused(await app.token({}, endpoint="revoke"), "invalid_request")
    token = (await app.tokens())["refresh_token"]
    wrong = await app.token({"token": token}, endpoint="revoke", basic=authorization("app", "x"))
    refused(wrong, "invalid_client", 401)
    poster = {"token": token, "client_id": "poster", "client_secret": "x"}
    refused(await app.token(poster, endpoint="revoke", basic=""), "invalid_token")
    assert (await app.refresh(token)).status == 200


async def test_introspection_tells_only_the_client_that_the_token_is_for(app: App, provider: Provider) -> None:
    token = (await app.tokens())["access_token"]
    found = (await app.token({"token": token}, endpoint="introspect")).json()
    assert (found["active"], found["client_id"]) == (True, "app")
    other = await app.token(
        {"token": token, "client_id": "poster", "client_secret": "x"}, endpoint="introspect", basic=""
    )
    assert other.json() == {"active": False}
    refused(
        await app.token({"token": token, "client_id": "spa"}, endpoint="introspect", basic=""), "invalid_client", 401
    )
    assert (await app.token({"token": "unknown"}, endpoint="introspect")).json() == {"active": False}


def test_shared_keys_are_not_shared_rings() -> None:
    ring = shared_keys().copy()
    ring.rotate(ring.current)
    assert shared_keys().retired == []


async def test_a_client_without_refresh_tokens_and_tokens_without_openid(app: App, provider: Provider) -> None:
    first = await app.tokens()
    narrowed = (await app.refresh(first["refresh_token"], scope="profile")).json()
    assert (narrowed["scope"], "id_token" in narrowed) == ("profile", False)
    provider.register(replace(APP, refresh_tokens=False))
    assert "refresh_token" not in await app.tokens()


def test_what_has_long_expired_is_forgotten_once_there_is_much() -> None:
    ledger = Ledger()
    for number in range(10_000):
        ledger.add_page(Page(browser="b", request=None, expires_at=number), 0)
    kept = ledger.add_page(Page(browser="b", request="r", expires_at=20_000), 9_990)
    assert len(ledger.pages) == 11
    found = ledger.take_page(kept, "b", 9_990)
    assert found is not None
    assert found.request == "r"
