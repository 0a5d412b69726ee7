"""Sign-out at the demo's provider: the rules of its end_session endpoint, and the logout tokens that it sends."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any
from urllib.parse import urlencode

import pytest
from joserfc import jws
from joserfc.jwk import RSAKey

from oidc_proxy.demo.backend import Backend, Behaviour
from oidc_proxy.demo.faults import Faults, having
from oidc_proxy.demo.keys import attacker_key, compact
from oidc_proxy.demo.provider import Provider
from tests.demo.app import APP, SECRET, App, authorization, claims_of, refused
from tests.world import Page, running_backend

BYE = "http://127.0.0.1:9/bye"
EVENT = "http://schemas.openid.net/event/backchannel-logout"


@pytest.fixture
async def receiver(provider: Provider) -> AsyncIterator[Backend]:
    """Takes the logout tokens of the client `app`."""
    async with running_backend() as receiver:
        provider.register(replace(APP, backchannel_logout_uri=f"{receiver.url}/backchannel"))
        yield receiver


async def sign_out(app: App, **params: str) -> Page:
    return await app.browser.get(f"{app.provider.issuer}/logout?{urlencode(params)}")


async def test_s15_a_hint_of_the_own_session_signs_out_at_once(app: App) -> None:
    values = await app.tokens()
    page = await sign_out(app, id_token_hint=values["id_token"], post_logout_redirect_uri=BYE, state="a b")
    assert (page.status, page.location) == (303, f"{BYE}?state=a+b")
    assert app.browser.cookies.get("demo_sso") is None
    assert (await app.browser.get(app.url())).status == 200
    refused(await app.refresh(values["refresh_token"]), "invalid_grant")
    refused(await app.userinfo(values["access_token"]), "invalid_token", 401)


async def test_an_expired_hint_is_still_a_hint(app: App, provider: Provider) -> None:
    hint = (await app.tokens())["id_token"]
    provider.clock.advance(3000)  # type: ignore[attr-defined]
    provider.keys.rotate(attacker_key())
    assert (await sign_out(app, id_token_hint=hint, client_id="app", post_logout_redirect_uri=BYE)).status == 303


async def test_without_an_address_there_is_a_page(app: App) -> None:
    page = await sign_out(app, id_token_hint=(await app.tokens())["id_token"])
    assert page.status == 200
    assert "signed out" in page.text


async def test_offline_access_survives_a_sign_out(app: App) -> None:
    values = await app.tokens(scope="openid offline_access")
    assert values["refresh_expires_in"] == 0
    await sign_out(app, id_token_hint=values["id_token"])
    assert (await app.refresh(values["refresh_token"])).status == 200


@pytest.mark.parametrize("hinted", [False, True])
async def test_without_proof_the_person_is_asked(app: App, provider: Provider, hinted: bool) -> None:
    old = (await app.tokens())["id_token"]
    app.browser.cookies.clear()
    await app.tokens("bob")
    params = {"id_token_hint": old} if hinted else {"client_id": "app"}
    page = await sign_out(app, **params, post_logout_redirect_uri=BYE, state="s")
    assert page.status == 200
    assert len(provider.ledger.sessions) == 2
    forged = await app.browser.post(
        f"{provider.issuer}/logout", {**params, "post_logout_redirect_uri": BYE, "confirmation": "x.y"}
    )
    assert (forged.status, len(provider.ledger.sessions)) == (200, 2)
    action = provider.address + page.forms[0].action
    done = await app.browser.post(action, page.forms[0].fields)
    assert (done.status, done.location, len(provider.ledger.sessions)) == (303, f"{BYE}?state=s", 1)


async def test_without_a_session_nobody_is_asked(app: App) -> None:
    page = await sign_out(app, client_id="app", post_logout_redirect_uri="http://127.0.0.1:9/any/thing?x=1", state="s")
    assert page.location == "http://127.0.0.1:9/any/thing?x=1&state=s"


@pytest.mark.parametrize(
    "params",
    [
        {"post_logout_redirect_uri": BYE},
        {"client_id": "app", "post_logout_redirect_uri": BYE + "/"},
        {"client_id": "app", "post_logout_redirect_uri": "http://127.0.0.1:9/any"},
        {"client_id": "spa", "post_logout_redirect_uri": BYE},
        {"client_id": "nobody"},
        {"id_token_hint": "a.b.c"},
    ],
)
async def test_lo_2_a_wrong_request_ends_nothing(app: App, provider: Provider, params: Any) -> None:
    await app.tokens()
    page = await sign_out(app, **params)
    assert (page.status, page.location, len(provider.ledger.sessions)) == (400, "", 1)


async def test_a_hint_must_be_an_id_token_of_provider_and_client(app: App, provider: Provider) -> None:
    values = await app.tokens()
    claims = claims_of(provider, values["id_token"])
    key = replace(attacker_key(), kid=provider.keys.current.kid)
    forged = compact({"alg": "RS256", "kid": key.kid}, claims, key)
    for hint, client_id in [(values["id_token"], "spa"), (values["access_token"], "app"), (forged, "app")]:
        assert (await sign_out(app, id_token_hint=hint, client_id=client_id)).status == 400


async def test_a_sign_out_sends_a_logout_token(app: App, provider: Provider, receiver: Backend) -> None:
    claims = claims_of(provider, (await app.tokens())["id_token"])
    await sign_out(app, id_token_hint=(await app.tokens())["id_token"])
    [call] = receiver.requests
    assert (call.method, call.path) == ("POST", "/backchannel")
    assert call.headers["Content-Type"] == "application/x-www-form-urlencoded"
    assert list(call.form) == ["logout_token"]
    key = RSAKey.import_key(dict(provider.keys.current.public))
    token = jws.deserialize_compact(call.form["logout_token"], key, algorithms=["RS256"])
    assert token.headers()["typ"] == "logout+jwt"
    sent = json.loads(token.payload)
    now = int(provider.now)
    assert sent.pop("jti")
    assert sent == {
        "iss": provider.issuer,
        "aud": "app",
        "iat": now,
        "exp": now + 120,
        "sub": claims["sub"],
        "sid": claims["sid"],
        "typ": "Logout",
        "events": {EVENT: {}},
    }
    [delivery] = provider.deliveries
    assert (delivery.client_id, delivery.sid, delivery.status) == ("app", claims["sid"], 200)


async def test_an_administrator_ends_all_sessions_of_a_person(app: App, provider: Provider, receiver: Backend) -> None:
    for user in ("ann", "ann", "bob"):
        app.browser.cookies.clear()
        await app.tokens(user)
    deliveries = await provider.end_user_sessions("ann")
    assert len({delivery.sid for delivery in deliveries}) == 2
    assert len(receiver.requests) == 2
    assert [session.username for session in provider.ledger.sessions.values()] == ["bob"]


async def test_a_client_that_fails_or_is_gone_does_not_keep_the_session(
    app: App, provider: Provider, receiver: Backend
) -> None:
    receiver.switches.usual = Behaviour(status=400)
    await app.tokens()
    await provider.end_user_sessions("ann")
    await receiver.close()
    app.browser.cookies.clear()
    await app.tokens()
    await provider.end_user_sessions("ann")
    assert [delivery.status for delivery in provider.deliveries] == [400, None]
    assert provider.ledger.sessions == {}


async def test_logout_tokens_can_be_broken(app: App, provider: Provider, receiver: Backend) -> None:
    provider.faults = Faults(logout_claims=having(nonce="n"), logout_header=having(typ="JWT"))
    await app.tokens()
    await provider.end_user_sessions("ann")
    [call] = receiver.requests
    assert claims_of(provider, call.form["logout_token"])["nonce"] == "n"
    assert claims_of(provider, provider.logout_token("app", sid="s"))["sid"] == "s"


async def test_a_client_may_not_sign_out_by_its_secret_alone(app: App, provider: Provider) -> None:
    await app.tokens()
    await app.browser.get(f"{provider.issuer}/logout", Authorization=authorization("app", SECRET))
    assert len(provider.ledger.sessions) == 1
