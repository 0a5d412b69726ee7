"""Each named fault changes what it is named for, and a provider without faults changes nothing."""

from __future__ import annotations

import asyncio
import hmac
import json
from dataclasses import fields
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from joserfc.jwk import RSAKey
from joserfc.jws import JWSRegistry
from joserfc.util import urlsafe_b64decode

from oidc_proxy.demo.faults import Faults, cut, dripping, hanging, late, redirecting
from oidc_proxy.demo.keys import KeyRing, b64, exponent_one, generate
from oidc_proxy.demo.listener import Answer, json_answer
from oidc_proxy.demo.named_faults import HARMLESS, NAMED
from oidc_proxy.demo.provider import Provider
from tests.demo.app import APP, App, back
from tests.world import Page, shared_keys

SIMPLE = Faults()
CLAIMS = {
    "iss": "http://127.0.0.1:1",
    "sub": "s",
    "aud": "app",
    "azp": "app",
    "exp": 300,
    "iat": 0,
    "auth_time": 0,
    "nonce": "n",
    "at_hash": "h",
    "acr": "1",
    "typ": "ID",
}
METADATA = {
    "issuer": "http://127.0.0.1:1",
    "authorization_endpoint": "http://127.0.0.1:1/authorize",
    "token_endpoint": "http://127.0.0.1:1/token",
    "jwks_uri": "http://127.0.0.1:1/jwks",
    "userinfo_endpoint": "http://127.0.0.1:1/userinfo",
    "end_session_endpoint": "http://127.0.0.1:1/logout",
    "code_challenge_methods_supported": ["S256"],
}
TOKENS = {
    "access_token": "a",
    "token_type": "Bearer",
    "expires_in": 300,
    "refresh_token": "r",
    "refresh_expires_in": 1800,
    "id_token": "i",
    "scope": "openid",
}


def samples(name: str) -> list[Any]:
    """What a hook of this name is given by a sound provider."""
    answer = json_answer(TOKENS)
    values: dict[str, Any] = {
        "metadata": METADATA,
        "key_set": shared_keys().document(),
        "callback": [("code", "c"), ("state", "s"), ("iss", "http://127.0.0.1:1")],
        "token_values": TOKENS,
        "refresh_values": TOKENS,
        "id_token_header": {"alg": "RS256", "typ": "JWT", "kid": "k"},
        "id_token": "e30.e30.c2ln",
        "logout_token": "e30.e30.c2ln",
        "logout_header": {"alg": "RS256", "typ": "logout+jwt", "kid": "k"},
    }
    if name.endswith("claims"):
        return [CLAIMS]
    return [values[name]] if name in values else [answer.but(count=1), answer.but(count=2)]


def hooks(fault: Faults) -> dict[str, Any]:
    """The fields that are not as in a sound provider."""
    pairs = ((item.name, getattr(fault, item.name)) for item in fields(Faults))
    return {name: hook for name, hook in pairs if hook != getattr(SIMPLE, name)}


@pytest.mark.parametrize("name", [*NAMED, *HARMLESS])
def test_every_named_fault_changes_what_it_hooks(name: str) -> None:
    changed = hooks((NAMED | HARMLESS)[name])
    assert changed
    for word, hook in changed.items():
        if word == "signing_key":
            ring = shared_keys()
            assert hook(ring, APP) != ring.current
        else:
            assert any(hook(sample) != sample for sample in samples(word)), word


def test_no_name_is_both_bad_and_harmless() -> None:
    assert not NAMED.keys() & HARMLESS.keys()


def test_every_row_of_the_hostile_provider_has_a_fault() -> None:
    rows = {name.split()[0] for name in (*NAMED, *HARMLESS)}
    assert {f"HO-{number}" for number in range(1, 38)} <= rows


async def sign_in(app: App, name: str) -> Page:
    app.provider.faults = (NAMED | HARMLESS)[name]
    return await app.exchange((await app.sign_in())["code"])


def parts(token: str) -> tuple[str, dict[str, Any], bytes]:
    head, body, signature = token.split(".")
    return f"{head}.{body}", json.loads(urlsafe_b64decode(head.encode())), urlsafe_b64decode(signature.encode())


async def test_ho_14_hs256_is_keyed_with_the_public_pem(app: App, provider: Provider) -> None:
    text, header, signature = parts((await sign_in(app, "HO-14 HS256 with the public PEM")).json()["id_token"])
    assert header["alg"] == "HS256"
    assert header["kid"] == provider.keys.current.kid
    assert provider.keys.current.public_pem.startswith(b"-----BEGIN PUBLIC KEY-----")
    assert signature == hmac.digest(provider.keys.current.public_pem, text.encode(), "sha256")


async def test_ho_15_the_embedded_key_is_the_one_that_signs(app: App) -> None:
    text, header, signature = parts((await sign_in(app, "HO-15 embedded jwk")).json()["id_token"])
    key = RSAKey.import_key(header["jwk"])
    assert JWSRegistry.algorithms["RS256"].verify(text.encode(), signature, key)
    assert header["kid"] == app.provider.keys.current.kid != header["jwk"]["kid"]


async def test_ho_26_raw_payloads_are_signed_as_they_are(app: App, provider: Provider) -> None:
    for name in (name for name in NAMED if name.startswith("HO-26")):
        token = (await sign_in(app, name)).json()["id_token"]
        text, header, signature = parts(token)
        assert header["kid"] == provider.keys.current.kid
        assert signature == provider.keys.current.sign(text.encode()), name


def test_ho_28_e_is_1_makes_signatures_that_hold_for_that_key() -> None:
    key = exponent_one()
    assert key.public["e"] == b64(b"\x01")
    signature = key.sign(b"x")
    assert len(signature) == 256
    # What PKCS #1 v1.5 expects is what a sound key with the same hash has under its padding.
    sound = rsa.generate_private_key(65537, 2048)
    numbers = sound.public_key().public_numbers()
    right = pow(int.from_bytes(sound.sign(b"x", padding.PKCS1v15(), hashes.SHA256())), numbers.e, numbers.n)
    assert int.from_bytes(signature) == right


async def test_ho_1_to_ho_5_the_callback_is_changed_on_its_way(app: App) -> None:
    app.provider.faults = NAMED["HO-4 error with CRLF"]
    page = await app.post_form(await app.browser.get(app.url()), "ann", "ann")
    assert "\r" not in page.location
    assert "%0D%0A" in page.location
    assert back(page)["error"] == "access_denied"


async def test_ho_37_the_refresh_has_happened_although_its_answer_is_lost(app: App, provider: Provider) -> None:
    values = await app.tokens()
    provider.faults = NAMED["HO-37 refresh answer breaks off"]
    with pytest.raises(Exception, match="payload"):
        await app.refresh(values["refresh_token"])
    provider.faults = Faults()
    assert (await app.refresh(values["refresh_token"])).status == 400


async def test_answers_may_be_late_drip_hang_break_off_or_point_elsewhere(app: App, provider: Provider) -> None:
    url = f"{provider.issuer}/jwks"
    provider.faults = Faults(jwks=lambda answer: dripping(0.001)(late(0.01)(answer.but(body=b"{}"))))
    assert (await app.browser.get(url)).body == b"{}"
    provider.faults = Faults(jwks=redirecting(307, "http://127.0.0.1:9/x"))
    assert (await app.browser.get(url)).location == "http://127.0.0.1:9/x"
    provider.faults = Faults(jwks=cut(5))
    with pytest.raises(Exception, match="payload"):
        await app.browser.get(url)
    assert hanging(Answer()).hang


async def test_a_hanging_answer_ends_when_the_provider_closes(app: App, provider: Provider) -> None:
    provider.faults = Faults(jwks=hanging)
    asking = asyncio.ensure_future(app.browser.get(f"{provider.issuer}/jwks"))
    while not provider.calls("jwks"):
        await asyncio.sleep(0.01)
    assert not asking.done()
    await provider.close()
    assert (await asyncio.gather(asking, return_exceptions=True))[0]


@pytest.mark.parametrize("alg", ["RS256", "PS256", "ES256", "Ed25519"])
async def test_other_algorithms(app: App, provider: Provider, alg: str) -> None:
    provider.keys = KeyRing(generate(alg), shared_keys().encryption)
    token = (await app.tokens())["id_token"]
    assert parts(token)[1]["alg"] == alg
    assert provider.keys.read(token)["aud"] == "app"
