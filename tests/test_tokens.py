"""Tokens that are believed, and every kind that is not: real keys, real signatures, one named row a case."""

from __future__ import annotations

import base64
import functools
import hashlib
import hmac
import json
import random
import socket
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc.jwa import JWS_ALGORITHMS
from joserfc.jwk import ECKey, Key, OKPKey, RSAKey
from joserfc.jws import JWSRegistry
from pydantic import ValidationError

from oidc_proxy.errors import LoginFault, ProviderFault
from oidc_proxy.tokens import (
    Expectation,
    IdTokenSettings,
    KeySet,
    KeyUnknown,
    LogoutClaims,
    TokenInvalid,
    VerifiedClaims,
    accept_userinfo,
    allowed_algorithms,
    merge,
    verify_access_token,
    verify_id_token,
    verify_logout_token,
    verify_refreshed_id_token,
    verify_userinfo_token,
)
from oidc_proxy.tokens.keys import ALGORITHMS

JOSE = {algorithm.name: algorithm for algorithm in JWS_ALGORITHMS}
NOW = 1_800_000_000.0
ISSUER, CLIENT, NONCE, SUBJECT = "https://provider.example.com", "test-client", "n-7Yc4", "user-e22f5a0d"
ACCESS = "jHkWEdUXMU1BwAsC4vtUsZwnNvTIxEl0z9K3vx5KF0Y"
EXPECT = Expectation(ISSUER, CLIENT, frozenset(ALGORITHMS), ("trusted",))
ABSENT = object()


@functools.cache
def key(kind: str) -> Key:
    """A private key: RSA, or the name of a curve; `again` in the name makes another one. Once per test session."""
    curve = kind.removesuffix(" again")
    if curve == "RSA":
        return RSAKey.generate_key(2048)
    return OKPKey.generate_key(curve) if curve == "Ed25519" else ECKey.generate_key(curve)


def key_for(algorithm: str) -> str:
    return ALGORITHMS[algorithm].key


def jwk(kind: str, **members: Any) -> dict[str, Any]:
    """The public key as a JWKS has it."""
    return {"kid": kind, "use": "sig", **key(kind).as_dict(private=False), **members}


@functools.cache
def provider_keys() -> KeySet:
    return KeySet.parse({"keys": [jwk(kind) for kind in ("RSA", "P-256", "P-384", "P-521", "secp256k1", "Ed25519")]})


def b64(data: bytes | str) -> str:
    return base64.urlsafe_b64encode(data.encode() if isinstance(data, str) else data).rstrip(b"=").decode()


def number(value: int) -> str:
    return b64(value.to_bytes((value.bit_length() + 7) // 8, "big"))


def present(members: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not ABSENT}


def sign(
    claims: dict[str, Any] | str | bytes,
    algorithm: str = "RS256",
    *,
    by: Key | None = None,
    header: dict[str, Any] | str | bytes | None = None,
) -> str:
    """A token; header and payload may be raw text, which is signed as it is."""
    kind = key_for(algorithm) if algorithm in ALGORITHMS else "RSA"
    if header is None or isinstance(header, dict):
        header = json.dumps(present({"alg": algorithm, "typ": "JWT", "kid": kind} | (header or {})))
    payload = json.dumps(claims) if isinstance(claims, dict) else claims
    message = f"{b64(header)}.{b64(payload)}"
    return f"{message}.{b64(JOSE[algorithm].sign(message.encode(), by or key(kind)))}"


def claims(**changes: Any) -> dict[str, Any]:
    basis = {"iss": ISSUER, "aud": CLIENT, "sub": SUBJECT, "iat": int(NOW), "exp": int(NOW) + 300, "nonce": NONCE}
    return present(basis | changes)


def verify(raw: Any, keys: KeySet | None = None, expect: Expectation = EXPECT, **options: Any) -> VerifiedClaims:
    return verify_id_token(raw, keys or provider_keys(), expect, **({"now": NOW, "nonce": NONCE} | options))


def refused(raw: Any, reason: str, call: Any = verify, **options: Any) -> TokenInvalid:
    """Refused for this reason; the fault keeps what is not to be told."""
    with pytest.raises(TokenInvalid) as caught:
        call(raw, **options)
    fault = caught.value
    assert fault.reason == reason
    assert fault.code == "id_token_invalid"
    told = str(fault)
    assert len(told) < 600
    assert NONCE not in told
    assert SUBJECT not in told
    assert not (isinstance(raw, str) and any(len(part) > 20 and part in told for part in raw.split(".")))
    return fault


# ── ID tokens that are accepted ─────────────────────────────────────────────────────────────────────────────────────

ACCEPTED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "V6 minimal": ({}, {}),
    "V6 ID-3 aud is a list": ({"aud": [CLIENT]}, {}),
    "V6 ID-4 a trusted audience besides, with azp": ({"aud": [CLIENT, "trusted"], "azp": CLIENT}, {}),
    "ID-6 the same audience twice is one": ({"aud": [CLIENT, CLIENT]}, {}),
    "ID-5 azp is ours": ({"azp": CLIENT}, {}),
    "V6 nonce 42": ({"nonce": "42"}, {"nonce": "42"}),
    "nonce is not ASCII": ({"nonce": "ñ"}, {"nonce": "ñ"}),
    "V6 fractional times": ({"exp": NOW + 0.5, "iat": NOW - 0.25}, {}),
    "F24 exp=now-10 within the skew": ({"exp": NOW - 10}, {}),
    "F25 iat within the skew ahead": ({"iat": NOW + 20}, {}),
    "F25 iat at the start of the sign-in, less skew": ({"iat": NOW - 30}, {"not_before": NOW}),
    "F25 nbf past": ({"nbf": NOW - 5}, {}),
    "F25 nbf within the skew ahead": ({"nbf": NOW + 20}, {}),
    "ID-14 auth_time in time": ({"auth_time": NOW - 40}, {"max_age": 30, "not_before": NOW}),
    "ID-14 a slow sign-in with max_age 0": ({"auth_time": NOW - 500}, {"max_age": 0, "not_before": NOW - 500}),
    "ID-13 acr is one of those": ({"acr": "2"}, {"acr": ("2", "3")}),
    "ID-15 sub of 255 characters": ({"sub": "x" * 255}, {}),
    "ID-18 at_hash of OpenID Connect Core A.4": ({"at_hash": "77QmUPtjPfzWtF2AnpK9RQ"}, {"access_token": ACCESS}),
    "ID-18 no at_hash": ({}, {"access_token": ACCESS}),
    "ID-18 no access token to compare": ({"at_hash": "77QmUPtjPfzWtF2AnpK9RQ"}, {}),
    "Keycloak's payload typ": ({"typ": "ID", "sid": "s", "acr": "1"}, {}),
    "a payload typ that says nothing": ({"typ": ["x"]}, {}),
    "integers of 64 bits": ({"n": [2**64 - 1, -(2**63)]}, {}),
    "nested 31 deep": ({"deep": functools.reduce(lambda inner, _: [inner], range(30), "x")}, {}),
}


@pytest.mark.parametrize(("changes", "options"), ACCEPTED.values(), ids=ACCEPTED)
def test_accepted(changes: dict[str, Any], options: dict[str, Any]) -> None:
    verified = verify(sign(claims(**changes)), **options)
    assert verified.values == claims(**changes)
    assert (verified.issuer, verified.subject) == (ISSUER, verified.get("sub"))


HEADERS_ACCEPTED: dict[str, dict[str, Any]] = {
    "ID-40 no typ": {"typ": ABSENT},
    "ID-40 typ in lower case": {"typ": "jwt"},
    "ID-40 typ as a media type": {"typ": "application/JWT"},
    "JW-14 ID-45 unknown parameter": {"foo": 1},
    "V6 JW-5 embedded jwk of somebody else": {"jwk": {"kty": "oct", "k": "AA"}},
    "JW-5 jku, x5u": {"jku": "https://evil.test/jwks", "x5u": "file:///etc/passwd"},
    "JW-5 x5c beyond 512 bytes": {"x5c": ["A" * 6000]},
    "JW-5 unusable jku": {"jku": 5},
    "cty": {"cty": "JWT"},
    "F19 no kid": {"kid": ABSENT},
}


@pytest.mark.parametrize("header", HEADERS_ACCEPTED.values(), ids=HEADERS_ACCEPTED)
def test_header_accepted_without_any_connection(header: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("a connection")

    monkeypatch.setattr(socket.socket, "connect", never)
    monkeypatch.setattr(socket, "getaddrinfo", never)
    assert verify(sign(claims(), header=header)).subject == SUBJECT


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_algorithm(algorithm: str) -> None:
    """ID-8 F18 JW-25: every algorithm verifies, at_hash with the right hash, and not the signature of another key."""
    digest = "sha512" if algorithm in {"EdDSA", "Ed25519"} else "sha" + algorithm[2:5]
    half = hashlib.new(digest, ACCESS.encode()).digest()
    at_hash = b64(half[: len(half) // 2])
    raw = sign(claims(at_hash=at_hash), algorithm)
    only = Expectation(ISSUER, CLIENT, frozenset({algorithm}))
    assert verify(raw, expect=only, access_token=ACCESS).get("at_hash") == at_hash
    refused(raw, "at_hash", expect=only, access_token=ACCESS + "x")
    refused(sign(claims(), algorithm, by=key(key_for(algorithm) + " again")), "signature")
    refused(raw, "algorithm", expect=Expectation(ISSUER, CLIENT, frozenset(ALGORITHMS) - {algorithm}))


def test_base64url_alphabet() -> None:
    """V6: a payload whose base64url has both `-` and `_`."""
    raw = sign(json.dumps(claims(name="ÿ?>~þ" * 6), ensure_ascii=False))
    assert {"-", "_"} <= set(raw.split(".")[1])
    assert verify(raw).get("name") == "ÿ?>~þ" * 6


# ── ID tokens that are refused ──────────────────────────────────────────────────────────────────────────────────────

REFUSED: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "V6 ID-2 other issuer": ("issuer", {"iss": "https://evil.test"}, {}),
    "JW-20 HO-23 iss is an array": ("issuer", {"iss": [ISSUER]}, {}),
    "JW-20 iss with a slash": ("issuer", {"iss": ISSUER + "/"}, {}),
    "JW-20 iss in another case": ("issuer", {"iss": ISSUER.upper()}, {}),
    "JW-20 iss with %2F": ("issuer", {"iss": ISSUER.replace("//", "%2F%2F")}, {}),
    "iss missing": ("issuer", {"iss": ABSENT}, {}),
    "V6 JW-24 ID-3 other client": ("audience", {"aud": "other"}, {}),
    "V6 ID-4 untrusted audience besides": ("audience", {"aud": [CLIENT, "other"], "azp": CLIENT}, {}),
    "V6 ID-6 two audiences without azp": ("azp", {"aud": [CLIENT, "trusted"]}, {}),
    "V6 JW-21 aud=[]": ("audience", {"aud": []}, {}),
    "V6 JW-21 ID-38 aud missing": ("audience", {"aud": ABSENT}, {}),
    "JW-21 HO-25 aud is an object": ("audience", {"aud": {}}, {}),
    "JW-21 aud is a list of lists": ("audience", {"aud": [[CLIENT]]}, {}),
    "JW-21 aud with a space": ("audience", {"aud": CLIENT + " "}, {}),
    "JW-21 aud is null": ("audience", {"aud": None}, {}),
    "V6 ID-5 HO-25 azp of another": ("azp", {"aud": [CLIENT], "azp": "other"}, {}),
    "JW-22 azp is a list": ("azp", {"azp": [CLIENT]}, {}),
    "azp is null": ("azp", {"azp": None}, {}),
    "V6 ID-10 exp=now-60": ("expired", {"exp": NOW - 60}, {}),
    "F24 exp exactly at the end of the skew": ("expired", {"exp": NOW - 30}, {}),
    "V6 ID-16 exp absent": ("expired", {"exp": ABSENT}, {}),
    "JW-19 HO-20 exp is true": ("expired", {"exp": True}, {}),
    "JW-19 HO-20 exp is a string": ("expired", {"exp": "1800000300"}, {}),
    "JW-19 exp is negative": ("expired", {"exp": -1}, {}),
    "exp in milliseconds": ("expired", {"exp": NOW * 1000}, {}),
    "exp is null": ("expired", {"exp": None}, {}),
    "V6 ID-11 iat=now-60 for a sign-in from now": ("issued_at", {"iat": NOW - 60}, {"not_before": NOW}),
    "V6 iat=now+1e6": ("issued_at", {"iat": NOW + 1e6, "exp": NOW + 2e6}, {}),
    "HO-21 iat 1 h ahead": ("issued_at", {"iat": NOW + 3600, "exp": NOW + 7200}, {}),
    "JW-19 iat 1970": ("issued_at", {"iat": 0}, {}),
    "ID-16 iat absent": ("issued_at", {"iat": ABSENT}, {}),
    "iat is a list": ("issued_at", {"iat": [NOW]}, {}),
    "V6 JW-19 HO-21 nbf in the future": ("not_before", {"nbf": NOW + 31}, {}),
    "JW-19 nbf is true": ("not_before", {"nbf": True}, {}),
    "nbf is a string": ("not_before", {"nbf": "0"}, {}),
    "V6 ID-12 nonce 42/0": ("nonce", {"nonce": "42"}, {"nonce": "0"}),
    "V6 nonce expected but absent": ("nonce", {"nonce": ABSENT}, {}),
    "V6 nonce in the token but none expected": ("nonce", {}, {"nonce": ""}),
    "an empty nonce proves nothing": ("nonce", {"nonce": ""}, {"nonce": ""}),
    "JW-22 HO-23 nonce is a list": ("nonce", {"nonce": [NONCE]}, {}),
    "V6 F28 auth_time=now-120 when min=now": (
        "auth_time",
        {"auth_time": NOW - 120},
        {"max_age": 0, "not_before": NOW},
    ),
    "F28 auth_time too old, no start known": ("auth_time", {"auth_time": NOW - 91}, {"max_age": 60}),
    "V6 ID-14 HO-22 auth_time absent with max_age": ("auth_time", {}, {"max_age": 60}),
    "auth_time is a string": ("auth_time", {"auth_time": "1"}, {}),
    "V6 ID-13 F27 acr absent when required": ("acr", {}, {"acr": ("2",)}),
    "F27 acr is another": ("acr", {"acr": "1"}, {"acr": ("2",)}),
    "F27 acr is a list": ("acr", {"acr": ["2"]}, {"acr": ("2",)}),
    "V6 F30 HO-24 sub is empty": ("subject", {"sub": ""}, {}),
    "ID-15 sub absent": ("subject", {"sub": ABSENT}, {}),
    "JW-22 HO-24 sub is a number": ("subject", {"sub": 5}, {}),
    "HO-24 sub of 256 characters": ("subject", {"sub": "x" * 256}, {}),
    "HO-24 sub of 300 characters": ("subject", {"sub": "x" * 300}, {}),
    "HO-24 sub with CRLF": ("subject", {"sub": "a\r\nb"}, {}),
    "HO-24 sub ends with LF": ("subject", {"sub": "a\n"}, {}),
    "ID-15 sub is not ASCII": ("subject", {"sub": "jöhn"}, {}),
    "ID-18 at_hash of another token": ("at_hash", {"at_hash": "77QmUPtjPfzWtF2AnpK9RQ"}, {"access_token": "other"}),
    "at_hash is a list": ("at_hash", {"at_hash": ["77QmUPtjPfzWtF2AnpK9RQ"]}, {"access_token": ACCESS}),
    "at_hash, and a token that is not Unicode": ("at_hash", {"at_hash": "x"}, {"access_token": "\ud800"}),
    "JW-23 ID-41 a logout token by its events": ("type", {"events": {"http://schemas.openid.net/event/x": {}}}, {}),
    "JW-23 Keycloak's access token": ("type", {"typ": "Bearer"}, {}),
    "JW-23 Keycloak's refresh token": ("type", {"typ": "Refresh"}, {}),
    "JW-23 Keycloak's offline token": ("type", {"typ": "Offline"}, {}),
    "JW-23 Keycloak's logout token": ("type", {"typ": "Logout"}, {}),
    "JW-23 userinfo has neither nonce nor times": ("expired", {"exp": ABSENT, "iat": ABSENT, "nonce": ABSENT}, {}),
    "JW-16 HO-24 lone surrogate": ("malformed", {"sub": "\ud800"}, {}),
    "JW-16 lone surrogate in a name": ("malformed", {"\udfff": 1}, {}),
    "JW-16 NaN": ("malformed", {"exp": float("nan")}, {}),
    "HO-20 Infinity": ("malformed", {"exp": float("inf")}, {}),
    "JW-16 an integer beyond 64 bits": ("malformed", {"n": {"m": [2**64]}}, {}),
    "JW-16 nested 33 deep": ("malformed", {"deep": functools.reduce(lambda inner, _: [inner], range(33), "x")}, {}),
}


@pytest.mark.parametrize(("reason", "changes", "options"), REFUSED.values(), ids=REFUSED)
def test_refused(reason: str, changes: dict[str, Any], options: dict[str, Any]) -> None:
    refused(sign(claims(**changes)), reason, **options)


GOOD = json.dumps(claims())

PAYLOADS_REFUSED: dict[str, bytes | str] = {
    "JW-16 HO-26 UTF-16": GOOD.encode("utf-16"),
    "JW-16 HO-26 UTF-16 without BOM": GOOD.encode("utf-16-le"),
    "JW-16 HO-26 BOM": b"\xef\xbb\xbf" + GOOD.encode(),
    "ID-36 Latin-1": GOOD.replace("user", "üser").encode("latin-1"),
    "ID-36 overlong UTF-8": GOOD.encode().replace(b"user", b"\xc0\xafuser"),
    "ID-36 UTF-8 surrogates": GOOD.encode().replace(b"user", b"\xed\xa0\x80"),
    "JW-15 ID-47 HO-26 a claim twice": GOOD[:-1] + ', "sub": "admin"}',
    "JW-15 a member twice, deeper": GOOD[:-1] + ', "x": [{"a": 1, "a": 1}]}',
    "JW-16 JW-19 1e400": GOOD.replace("1800000300", "1e400"),
    "JW-16 an integer of 5000 digits": GOOD.replace("1800000300", "1" * 5000),
    "JW-16 HO-26 20 000 nested arrays": GOOD[:-1] + ', "x": ' + "[" * 20_000 + "]" * 20_000 + "}",
    "JW-16 HO-26 40 000 opened arrays": "[" * 40_000,
    "an array": f"[{GOOD}]",
    "a string": '"x"',
    "no JSON": "sub=admin",
    "JSON and more": GOOD + "{}",
}


@pytest.mark.parametrize("payload", PAYLOADS_REFUSED.values(), ids=PAYLOADS_REFUSED)
def test_payload_refused(payload: bytes | str) -> None:
    refused(sign(payload), "malformed")


HEADERS_REFUSED: dict[str, tuple[str, dict[str, Any] | str | bytes]] = {
    "JW-12 V6 ID-46 HO-18 crit unknown": ("critical", {"crit": ["x"], "x": 1}),
    "JW-12 ID-46 HO-18 crit empty": ("critical", {"crit": []}),
    "JW-12 crit exp": ("critical", {"crit": ["exp"], "exp": 1}),
    "ID-46 crit duplicated": ("critical", {"crit": ["x", "x"], "x": 1}),
    "crit is null": ("critical", {"crit": None}),
    "JW-13 HO-18 b64 false with crit": ("critical", {"b64": False, "crit": ["b64"]}),
    "JW-13 b64 false": ("critical", {"b64": False}),
    "JW-13 b64 true": ("critical", {"b64": True}),
    "JW-1 none": ("algorithm", {"alg": "none"}),
    "JW-1 None": ("algorithm", {"alg": "None"}),
    "JW-1 NONE": ("algorithm", {"alg": "NONE"}),
    "JW-1 nOnE": ("algorithm", {"alg": "nOnE"}),
    "JW-4 alg is a list": ("algorithm", {"alg": ["RS256"]}),
    "JW-4 alg is a number": ("algorithm", {"alg": 256}),
    "JW-4 alg missing": ("algorithm", {"alg": ABSENT}),
    "JW-4 alg with a space": ("algorithm", {"alg": "RS256 "}),
    "JW-4 F18 PS999": ("algorithm", {"alg": "PS999"}),
    "ID-32 rs256": ("algorithm", {"alg": "rs256"}),
    "Ed448 is not used": ("algorithm", {"alg": "Ed448"}),
    "JW-8 the key of another algorithm": ("key", {"alg": "ES256", "kid": "RSA"}),
    "JW-6 HO-16 kid is a path": ("key", {"kid": "../../dev/null"}),
    "JW-6 HO-16 kid is SQL": ("key", {"kid": "' OR 1=1"}),
    "JW-6 kid is long": ("key", {"kid": "x" * 9000}),
    "JW-6 kid is a number": ("malformed", {"kid": 5}),
    "JW-6 kid is an array": ("malformed", {"kid": ["RSA"]}),
    "JW-6 kid is null": ("malformed", {"kid": None}),
    "typ is a list": ("malformed", {"typ": ["JWT"]}),
    "V6 ID-40 HO-19 logout+jwt": ("type", {"typ": "logout+jwt"}),
    "JW-26 application/logout+jwt": ("type", {"typ": "application/logout+jwt"}),
    "JW-26 LOGOUT+JWT": ("type", {"typ": "LOGOUT+JWT"}),
    "ID-40 HO-19 JW-23 at+jwt": ("type", {"typ": "at+jwt"}),
    "ID-40 dpop+jwt": ("type", {"typ": "dpop+jwt"}),
    "JW-6 HO-16 a header of 20 kB": ("malformed", {"x": "x" * 20_000}),
    "JW-15 HO-17 a header member twice": ("malformed", '{"alg": "none", "alg": "RS256", "kid": "RSA"}'),
    "header is a list": ("malformed", '["RS256"]'),
    "header is no JSON": ("malformed", "RS256"),
    "header in UTF-16": ("malformed", '{"alg": "RS256"}'.encode("utf-16")),
}


@pytest.mark.parametrize(("reason", "header"), HEADERS_REFUSED.values(), ids=HEADERS_REFUSED)
def test_header_refused(reason: str, header: dict[str, Any] | str | bytes) -> None:
    refused(sign(claims(), header=header), reason)


def forged_with_public_key(form: str) -> str:
    """HS256, keyed with what everybody can know."""
    rsa = key("RSA")
    assert isinstance(rsa, RSAKey)
    secret = {
        "pem": rsa.as_pem(private=False),
        "der": rsa.as_der(private=False),
        "jwk": json.dumps(rsa.as_dict(private=False)).encode(),
        "client_secret": b"the secret of the client, that is long enough",
    }[form]
    message = f"{b64(json.dumps({'alg': 'HS256', 'kid': 'RSA'}))}.{b64(GOOD)}".encode()
    return f"{message.decode()}.{b64(hmac.digest(secret, message, 'sha256'))}"


@pytest.mark.parametrize("form", ["pem", "der", "jwk", "client_secret"])
def test_symmetric_refused(form: str) -> None:
    """JW-2 JW-3 ID-9 HO-14: HS256, even where the caller would allow it."""
    refused(forged_with_public_key(form), "algorithm")
    refused(forged_with_public_key(form), "algorithm", expect=Expectation(ISSUER, CLIENT, frozenset({"HS256", "none"})))


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "nOnE"])
def test_unsigned_refused(algorithm: str) -> None:
    """JW-1: with an empty signature, and with one; even where the caller would allow it."""
    message = f"{b64(json.dumps({'alg': algorithm}))}.{b64(GOOD)}"
    refused(f"{message}.", "malformed")
    refused(f"{message}.AAAA", "algorithm", expect=Expectation(ISSUER, CLIENT, frozenset({algorithm})))


def shape(name: str) -> Any:
    raw = sign(claims())
    header, payload, signature = raw.split(".")
    trailing = signature[:-1] + chr(ord(signature[-1]) + 1)  # 256 octets: the last of 342 characters is one of AQgw
    return {
        "JW-17 1 MB": sign(claims(x="x" * 1_000_000)),
        "JW-17 just over 64 kB": sign(claims(x="x" * 49_500)),
        "F20 two parts": f"{header}.{payload}",
        "F20 four parts": f"{raw}.{signature}",
        "JW-17 JW-18 five parts": f"{raw}.{signature}.{signature}",
        "JW-17 ID-43 JSON serialisation": json.dumps({"protected": header, "payload": payload, "signature": signature}),
        "JW-17 padding": raw + "==",
        "JW-17 line feed at the end": raw + "\n",
        "JW-17 space before": " " + raw,
        "JW-17 base64 alphabet": f"{header}.{payload}.{'+/' + signature[2:]}",
        "JW-17 a length that nothing has": raw + "AAA",
        "JW-17 non-zero trailing bits": f"{header}.{payload}.{trailing}",
        "empty signature": f"{header}.{payload}.",
        "empty payload": f"{header}..{signature}",
        "empty": "",
        "not ASCII": raw.replace(".", "．"),
        "HO-10 bytes": raw.encode(),
        "HO-10 an array": [raw],
        "HO-10 nothing": None,
    }[name]


SHAPES = [
    "JW-17 1 MB", "JW-17 just over 64 kB", "F20 two parts", "F20 four parts", "JW-17 JW-18 five parts",
    "JW-17 ID-43 JSON serialisation", "JW-17 padding", "JW-17 line feed at the end", "JW-17 space before",
    "JW-17 base64 alphabet", "JW-17 a length that nothing has", "JW-17 non-zero trailing bits", "empty signature",
    "empty payload", "empty", "not ASCII", "HO-10 bytes", "HO-10 an array", "HO-10 nothing",
]  # fmt: skip


@pytest.mark.parametrize("name", SHAPES)
def test_shape_refused(name: str) -> None:
    refused(shape(name), "malformed")


@pytest.mark.parametrize(
    "signature",
    [
        pytest.param(b"\0" * 64, id="JW-11 psychic"),
        pytest.param(b"\xff" * 64, id="JW-11 beyond the order"),
        pytest.param(b"\x30\x06\x02\x01\x01\x02\x01\x01", id="JW-11 DER"),
        pytest.param(b"\1" * 63, id="JW-11 short"),
        pytest.param(b"\1" * 65, id="JW-11 long"),
    ],
)
@pytest.mark.parametrize("algorithm", ["ES256", "ES256K", "EdDSA", "RS256"])
def test_signature_refused(algorithm: str, signature: bytes) -> None:
    head = sign(claims(), algorithm).rpartition(".")[0]
    refused(f"{head}.{b64(signature)}", "signature")


def test_nothing_is_read_before_the_signature() -> None:
    """JW-29: of a forged token, not even that its payload is nonsense."""
    header, _, signature = sign(claims()).split(".")
    refused(f"{header}.{b64('nonsense')}.{signature}", "signature")


def test_every_character_counts() -> None:
    """ID-7: change any character of a token, and it is refused."""
    raw = sign(claims(), "Ed25519")
    for position, old in enumerate(raw):
        changed = raw[:position] + ("A" if old != "A" else "B") + raw[position + 1 :]
        with pytest.raises(TokenInvalid):
            verify(changed)


@settings(max_examples=150, deadline=None)
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()), st.lists))
def test_any_value_anywhere(value: Any) -> None:
    """F20: whatever the provider signs is accepted or TokenInvalid, and what is accepted can be sealed."""
    for name in ("iss", "aud", "azp", "sub", "exp", "iat", "nbf", "nonce", "at_hash", "auth_time", "typ", "x"):
        try:
            verified = verify(sign(claims(**{name: value}), "Ed25519"), access_token=ACCESS)
        except TokenInvalid:
            continue
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(verified), type=VerifiedClaims) == verified


@settings(max_examples=150, deadline=None)
@given(st.text() | st.lists(st.binary(), min_size=3, max_size=3).map(lambda parts: ".".join(map(b64, parts))))
def test_any_text(raw: str) -> None:
    with pytest.raises(TokenInvalid):
        verify(raw)


def test_library_that_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    """JW-4 JW-16: whatever escapes from the library is a signature that is not good."""

    def verify_signature(*_: Any) -> bool:
        raise KeyError("crv")

    monkeypatch.setattr(JWSRegistry.algorithms["ES384"], "verify", verify_signature)
    refused(sign(claims(), "ES384"), "signature")


# ── Choosing keys ───────────────────────────────────────────────────────────────────────────────────────────────────


def key_set(*entries: object) -> KeySet:
    return KeySet.parse({"keys": list(entries)})


def test_unknown_key_may_become_known() -> None:
    """ID-28 F15: only an unknown kid, or a token without one, is a reason to ask for newer keys."""
    keys = key_set(jwk("P-256"), jwk("Ed25519", kid=None))
    assert isinstance(refused(sign(claims()), "key", keys=keys), KeyUnknown)
    assert isinstance(refused(sign(claims(), header={"kid": ABSENT}), "key", keys=keys), KeyUnknown)
    again = key("P-256 again")
    assert type(refused(sign(claims(), "ES256", by=again), "signature", keys=keys)) is TokenInvalid
    bare = sign(claims(), "ES256", by=again, header={"kid": ABSENT})
    assert isinstance(refused(bare, "signature", keys=keys), KeyUnknown)
    # A key without an id answers to no id, even to the only one.
    assert isinstance(refused(sign(claims(), "EdDSA"), "key", keys=keys), KeyUnknown)


def test_token_without_kid_among_several_keys() -> None:
    """F19: tried with every key that fits; never with an encryption key."""
    keys = key_set(jwk("P-384"), jwk("P-256"), jwk("P-256 again"))
    for kind in ("P-256", "P-256 again"):
        assert verify(sign(claims(), "ES256", by=key(kind), header={"kid": ABSENT}), keys).subject == SUBJECT
    encryption = key_set(jwk("P-256", use="enc"), jwk("P-384"))
    assert isinstance(refused(sign(claims(), "ES256", header={"kid": ABSENT}), "key", keys=encryption), KeyUnknown)


@pytest.mark.parametrize("kinds", [("P-256", "P-256 again"), ("P-256 again", "P-256"), ("RSA", "P-256")])
def test_kid_twice(kinds: tuple[str, str]) -> None:
    """HO-28: the right key may come second."""
    keys = key_set(*(jwk(kind, kid="same") for kind in kinds))
    assert verify(sign(claims(), "ES256", header={"kid": "same"}), keys).subject == SUBJECT


def test_key_is_used_with_its_algorithm_only() -> None:
    """ID-30 ID-32 JW-8."""
    keys = key_set(jwk("RSA", alg="RS256"), jwk("Ed25519", alg="EdDSA"))
    assert verify(sign(claims()), keys).subject == SUBJECT
    refused(sign(claims(), "PS256"), "key", keys=keys)
    refused(sign(claims(), "RS512"), "key", keys=keys)
    refused(sign(claims(), "Ed25519"), "key", keys=keys)


# ── JWKS ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def modulus(bits: int) -> str:
    return number(random.Random(bits).getrandbits(bits) | 1 | 1 << (bits - 1))


RSA = {"kty": "RSA", "n": modulus(2048), "e": "AQAB"}

SKIPPED: dict[str, tuple[str, Any]] = {
    "JW-9 HO-28 oct": ("type", {"kty": "oct", "k": b64(b"x" * 64), "alg": "HS256"}),
    "JW-9 HO-28 private RSA key": ("private", lambda: key("RSA").as_dict(private=True)),
    "JW-9 private EC key": ("private", lambda: key("P-256").as_dict(private=True)),
    "JW-9 only a prime was published": ("private", RSA | {"p": "AQAB"}),
    "JW-10 ID-31 HO-28 RSA 1024": ("2048", RSA | {"n": modulus(1024)}),
    "ID-31 RSA 2047": ("2048", RSA | {"n": modulus(2047)}),
    "RSA 16384": ("8192", RSA | {"n": modulus(16384)}),
    "JW-10 HO-28 e=1": ("exponent", RSA | {"e": "AQ"}),
    "JW-10 e=3": ("exponent", RSA | {"e": "Aw"}),
    "e is even": ("ValueError", RSA | {"e": number(65538)}),
    "e of 65 bits": ("exponent", RSA | {"e": number(2**64 + 1)}),
    "ID-29 n in standard base64": ("ValueError", RSA | {"n": "+/" + modulus(2048)[2:]}),
    "ID-29 n padded": ("ValueError", RSA | {"n": modulus(2048) + "=="}),
    "ID-29 n missing": ("KeyError", {"kty": "RSA", "e": "AQAB"}),
    "ID-29 n is a number": ("TypeError", RSA | {"n": 5}),
    "ID-29 kty missing": ("type", {"n": RSA["n"], "e": "AQAB"}),
    "ID-29 kty unknown": ("type", {"kty": "AKP", "alg": "ML-DSA-44", "pub": "AA"}),
    "ID-29 kty is a list": ("TypeError", RSA | {"kty": ["RSA"]}),
    "ID-29 not an object": ("type", "RSA"),
    "ID-29 null": ("type", None),
    "JW-8 ID-30 use enc": ("use", RSA | {"use": "enc"}),
    "ID-29 use foo": ("use", RSA | {"use": "foo"}),
    "ID-30 key_ops without verify": ("use", RSA | {"key_ops": ["encrypt"]}),
    "ID-29 key_ops is a number": ("TypeError", RSA | {"key_ops": 5}),
    "ID-30 alg for encryption": ("alg", RSA | {"alg": "RSA-OAEP"}),
    "JW-9 alg HS256": ("alg", RSA | {"alg": "HS256"}),
    "alg of another curve": ("alg", lambda: jwk("P-256", alg="ES384")),
    "ID-29 kid is a number": ("kid", RSA | {"kid": 5}),
    "ID-29 crv unknown": ("alg, crv", lambda: jwk("P-256", crv="brainpoolP256r1")),
    "X25519": ("alg, crv", {"kty": "OKP", "crv": "X25519", "x": b64(b"x" * 32)}),
    "ID-29 crv of another type": ("KeyError", lambda: jwk("P-256", crv="Ed25519")),
    "crv missing": ("KeyError", {"kty": "EC", "x": "AA", "y": "AA"}),
    "JW-10 ID-34 point off the curve": ("ValueError", lambda: jwk("P-256", y=jwk("P-256")["x"])),
    "ID-34 point of another curve": ("ValueError", lambda: jwk("P-256", x=jwk("P-384")["x"])),
    "Ed25519 of 31 octets": ("ValueError", {"kty": "OKP", "crv": "Ed25519", "x": b64(b"x" * 31)}),
    "F17 x5c of another key": ("another key", lambda: certified() | {"n": RSA["n"]}),
    "F17 x5c of another type": ("cannot be read", lambda: jwk("P-256", x5c=certified()["x5c"])),
    "F17 x5c is no certificate": ("cannot be read", lambda: jwk("P-256", x5c=["AAAA"])),
    "F17 x5c smuggles PEM": ("x5c", lambda: smuggled(key("RSA"))),
    "F17 x5c is empty": ("cannot be read", lambda: certified() | {"x5c": []}),
}


@functools.cache
def certified() -> dict[str, Any]:
    """A key as Keycloak publishes it: with a self-signed certificate, which ended long ago."""
    pair = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "demo")])
    made = (
        x509.CertificateBuilder(name, name, pair.public_key(), x509.random_serial_number())
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2021, 1, 1, tzinfo=UTC))
        .sign(pair, SHA256())
    )
    x5c = base64.b64encode(made.public_bytes(Encoding.DER)).decode()
    public = RSAKey.import_key(pair.public_key()).as_dict(private=False)  # type: ignore[arg-type]
    return {**public, "kid": "demo", "use": "sig", "alg": "RS256", "x5c": [x5c]}


def smuggled(ours: Key) -> dict[str, Any]:
    """Beside a certificate of another key, the text that would make a PEM reader take ours."""
    assert isinstance(ours, RSAKey)
    end = "\n-----END CERTIFICATE-----\n" + ours.as_pem(private=False).decode()
    return jwk("RSA", x5c=[certified()["x5c"][0] + end + "-----BEGIN CERTIFICATE-----\n"])


@pytest.mark.parametrize(("reason", "entry"), SKIPPED.values(), ids=SKIPPED)
def test_key_skipped(reason: str, entry: Any) -> None:
    """ID-29: a bad key is skipped with its reason, and the good one beside it works."""
    entry = entry() if callable(entry) else entry
    keys = key_set(entry, jwk("Ed25519"))
    assert len(keys.keys) == 1
    assert len(keys.skipped) == 1
    assert reason in keys.skipped[0]
    assert verify(sign(claims(), "Ed25519"), keys).subject == SUBJECT


def test_key_accepted_with_everything_that_jwks_say() -> None:
    ops = jwk("P-256", use="sig", key_ops=["verify", "x-other"], alg="ES256", x5u="mailto:x", foo=[1])
    [x5c] = certified()["x5c"]
    assert key_set(ops, RSA, certified() | {"x5c": [f"{x5c[:64]}\n{x5c[64:]}\n", "AAAA"]}).skipped == ()


JWKS_REFUSED: dict[str, object] = {
    "HO-27 empty": {"keys": []},
    "HO-27 HTML": "<html>",
    "HO-27 10 000 keys": {"keys": [RSA] * 10_000},
    "nothing": None,
    "a list": [RSA],
    "keys missing": {},
    "keys is an object": {"keys": {"kid": RSA}},
    "F16 only bad keys": {"keys": [{"kty": "oct", "k": "AA"}]},
}


@pytest.mark.parametrize("document", JWKS_REFUSED.values(), ids=JWKS_REFUSED)
def test_jwks_refused(document: object) -> None:
    with pytest.raises(ProviderFault) as caught:
        KeySet.parse(document)
    assert caught.value.code == "provider_response_invalid"


def test_the_end_of_a_certificate_does_not_matter() -> None:
    """V2 F17: n/e and x5c agree, and that is all that x5c is asked for."""
    keys = key_set(certified())
    assert keys.skipped == ()
    assert keys.keys[0].algorithms == {"RS256"}


# RFC 7517 appendix A: a private key that everybody has.
RFC_7517 = {
    "kty": "RSA",
    "n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWK"
    "RXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMic"
    "AtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3"
    "XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw",
    "e": "AQAB",
    "d": "X4cTteJY_gn4FYPsXB8rdXix5vwsg1FLN5E3EaG6RJoVH-HLLKD9M7dx5oo7GURknchnrRweUkC7hT5fJLM0WbFAKNLWY2vv"
    "7B6NqXSzUvxT0_YSfqijwp3RTzlBaCxWp4doFk5N2o8Gy_nHNKroADIkJ46pRUohsXywbReAdYaMwFs9tv8d_cPVY3i07a3t"
    "8MN6TNwm0dSawm9v47UiCl3Sk5ZiG7xojPLu4sbg1U2jx4IBTNBznbJSzFHK66jT8bgkuqsk0GjskDJk19Z4qwjwbsnn4j2W"
    "Bii3RL-Us2lGVkY8fkFzme1z0HbIkfz0Y6mqnOYtqc0X4jfcKoAC8Q",
}


def test_known_answer() -> None:
    """V3: a token whose every byte is known."""
    keys = key_set({name: RFC_7517[name] for name in ("kty", "n", "e")} | {"kid": "2011-04-29"})
    assert keys.keys[0].native.thumbprint() == "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"
    raw = sign(
        '{"iss":"https://op.example","sub":"alice","aud":"proxy","iat":1700000000,"exp":1700000300,"nonce":"n-1"}',
        header='{"alg":"RS256","kid":"2011-04-29","typ":"JWT"}',
        by=RSAKey.import_key(RFC_7517),
    )
    known = "f8c60ddc9265983438a058252ea7fa1feac0f35e3482d428fc16c76e38725438"
    assert hashlib.sha256(raw.rpartition(".")[2].encode()).hexdigest() == known
    expect = Expectation("https://op.example", "proxy", frozenset({"RS256"}))
    assert verify(raw, keys, expect, now=1700000100, nonce="n-1").subject == "alice"
    refused(raw, "expired", keys=keys, expect=expect, now=1700000331, nonce="n-1")
    refused(raw, "nonce", keys=keys, expect=expect, now=1700000100, nonce="n-2")


# ── Algorithms allowed ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("configured", "announced", "allowed"),
    [
        pytest.param((), None, {"RS256"}, id="ID-8 nothing announced"),
        pytest.param(
            (), ["PS384", "HS256", "none", "XX", "EdDSA"], {"PS384", "EdDSA"}, id="F18 V4 the asymmetric ones"
        ),
        pytest.param(("ES256",), ["RS256"], {"ES256"}, id="F18 the configured ones"),
    ],
)
def test_algorithms_allowed(configured: tuple[str, ...], announced: list[str] | None, allowed: set[str]) -> None:
    assert allowed_algorithms(IdTokenSettings(algorithms=configured), announced) == allowed


@pytest.mark.parametrize("announced", [["HS256", "none"], []])
def test_no_algorithm_left(announced: list[str]) -> None:
    """F18: an empty list never widens to a library's default."""
    with pytest.raises(ProviderFault) as caught:
        allowed_algorithms(IdTokenSettings(), announced)
    assert caught.value.code == "provider_misconfigured"
    assert "id_token_signing_alg_values_supported" in caught.value.detail


@pytest.mark.parametrize("name", ["none", "HS256", "HS512", "rs256", "RS1", ""])
def test_algorithms_not_to_be_configured(name: str) -> None:
    """F18 ID-9."""
    with pytest.raises(ValidationError, match="choose from RS256"):
        IdTokenSettings(algorithms=("RS256", name))


# ── Refreshed ID tokens ─────────────────────────────────────────────────────────────────────────────────────────────


def refreshed(raw: Any, previous: dict[str, Any] | None = None, **options: Any) -> VerifiedClaims:
    known = {"previous": VerifiedClaims(previous or claims(auth_time=NOW - 9, azp=CLIENT)), "nonce": NONCE}
    return verify_refreshed_id_token(
        raw, provider_keys(), EXPECT, **({"now": NOW + 600, "access_token": ACCESS} | known | options)
    )


def later(**changes: Any) -> dict[str, Any]:
    return claims(**({"iat": NOW + 599, "exp": NOW + 900, "nonce": ABSENT, "azp": CLIENT} | changes))


REFRESHED_ACCEPTED: dict[str, dict[str, Any]] = {
    "ID-26 Keycloak: no nonce": {},
    "ID-26 the same nonce": {"nonce": NONCE},
    "ID-25 the same auth_time": {"auth_time": NOW - 9},
    "ID-27 issued in the same second": {"iat": NOW},
    "ID-18 at_hash": {"at_hash": "77QmUPtjPfzWtF2AnpK9RQ"},
}


@pytest.mark.parametrize("changes", REFRESHED_ACCEPTED.values(), ids=REFRESHED_ACCEPTED)
def test_refreshed_accepted(changes: dict[str, Any]) -> None:
    verified = refreshed(sign(later(**changes)))
    assert verified.values == {"nonce": NONCE, "auth_time": NOW - 9} | later(**changes)


REFRESHED_REFUSED: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "ID-23 JW-28 HO-34 new sub": ("subject", {"sub": "other"}, {}),
    "ID-23 HO-34 new iss": ("issuer", {"iss": "https://evil.test"}, {}),
    "ID-23 the provider's issuer changed": (
        "issuer",
        {},
        {"previous": claims(iss="https://old.test", azp=CLIENT)},
    ),
    "ID-24 other client": ("audience", {"aud": "other"}, {}),
    "ID-24 azp gone": ("azp", {"azp": ABSENT}, {}),
    "ID-24 azp new": ("azp", {}, {"previous": claims()}),
    "ID-25 auth_time changed": ("auth_time", {"auth_time": NOW}, {}),
    "auth_time is a string": ("auth_time", {"auth_time": "1"}, {}),
    "ID-26 nonce changed": ("nonce", {"nonce": "other"}, {}),
    "V6 ID-26 nonce, but none known": (
        "nonce",
        {"nonce": "x"},
        {"nonce": None, "previous": claims(nonce=ABSENT, azp=CLIENT)},
    ),
    "ID-27 older than the one before": ("issued_at", {"iat": NOW - 31}, {}),
    "expired": ("expired", {"exp": NOW + 500}, {}),
    "ID-18 at_hash of another token": ("at_hash", {"at_hash": "x"}, {}),
    "ID-41 an access token": ("type", {"typ": "Bearer"}, {}),
}


@pytest.mark.parametrize(("reason", "changes", "options"), REFRESHED_REFUSED.values(), ids=REFRESHED_REFUSED)
def test_refreshed_refused(reason: str, changes: dict[str, Any], options: dict[str, Any]) -> None:
    refused(sign(later(**changes)), reason, refreshed, **options)


def test_refreshed_forged() -> None:
    """JW-28."""
    refused(sign(later(), by=key("RSA again")), "signature", refreshed)


def test_chain_of_refreshes_remembers_the_sign_in() -> None:
    """ID-25 ID-26: what one refresh leaves out, the next one cannot change."""
    first = refreshed(sign(later()), claims(auth_time=NOW - 9, azp=CLIENT, sid="s", acr="1", amr=["pwd"], name="Jane"))
    assert {name: first.get(name) for name in ("sid", "acr", "amr", "name")} == {
        "sid": "s",
        "acr": "1",
        "amr": ["pwd"],
        "name": None,
    }
    second = {"previous": first.values, "nonce": None}
    assert refreshed(sign(later(nonce=NONCE, auth_time=NOW - 9)), **second).get("nonce") == NONCE
    refused(sign(later(auth_time=NOW)), "auth_time", refreshed, **second)
    refused(sign(later(nonce="other")), "nonce", refreshed, **second)


# ── Userinfo ────────────────────────────────────────────────────────────────────────────────────────────────────────


def userinfo(raw: Any, **options: Any) -> VerifiedClaims:
    return verify_userinfo_token(raw, provider_keys(), EXPECT, **({"now": NOW} | options))


@pytest.mark.parametrize(
    "members",
    [
        pytest.param({"sub": SUBJECT, "iss": ISSUER, "aud": CLIENT, "email": "j@d.test"}, id="ID-20 iss and aud"),
        pytest.param({"sub": SUBJECT, "email": "j@d.test"}, id="Core 5.3.2 neither iss nor aud"),
        pytest.param({"sub": SUBJECT, "exp": NOW + 5, "iat": NOW, "nbf": NOW}, id="with times"),
    ],
)
def test_userinfo_token_accepted(members: dict[str, Any]) -> None:
    assert userinfo(sign(members)).values == members | {"iss": ISSUER}


USERINFO_REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "iss of another": ("issuer", {"iss": "https://evil.test"}),
    "iss is a list": ("issuer", {"iss": [ISSUER]}),
    "aud of another": ("audience", {"aud": "other"}),
    "aud empty": ("audience", {"aud": []}),
    "HO-33 sub missing": ("subject", {"sub": ABSENT}),
    "expired": ("expired", {"exp": NOW - 31}),
    "exp is true": ("expired", {"exp": True}),
    "iat ahead": ("issued_at", {"iat": NOW + 31}),
    "nbf ahead": ("not_before", {"nbf": NOW + 31}),
    "JW-23 an ID token by its nonce": ("type", {"nonce": NONCE}),
    "JW-23 an ID token by its at_hash": ("type", {"at_hash": "x"}),
    "JW-23 Keycloak's ID token": ("type", {"typ": "ID"}),
    "JW-23 Keycloak's access token": ("type", {"typ": "Bearer"}),
    "JW-23 a logout token": ("type", {"events": {}}),
}


@pytest.mark.parametrize(("reason", "changes"), USERINFO_REFUSED.values(), ids=USERINFO_REFUSED)
def test_userinfo_token_refused(reason: str, changes: dict[str, Any]) -> None:
    refused(sign(present({"sub": SUBJECT, "iss": ISSUER, "aud": CLIENT} | changes)), reason, userinfo)


def test_userinfo_token_unsigned() -> None:
    """HO-33."""
    refused(f"{b64(json.dumps({'alg': 'none'}))}.{b64(GOOD)}.AAAA", "algorithm", userinfo)
    refused(sign({"sub": SUBJECT}, header={"typ": "at+jwt"}), "type", userinfo)


def test_plain_userinfo() -> None:
    """ID-19 F69: about the same subject, whatever it says of its issuer."""
    id_token = VerifiedClaims(claims())
    found = accept_userinfo({"sub": SUBJECT, "iss": "https://evil.test", "email": "j@d.test"}, id_token)
    assert found.values == {"sub": SUBJECT, "iss": ISSUER, "email": "j@d.test"}


@pytest.mark.parametrize("sub", [ABSENT, "other", "", None, 5, [SUBJECT], SUBJECT.upper(), SUBJECT + " "])
def test_plain_userinfo_of_another_subject(sub: Any) -> None:
    """ID-19 F69 HO-33."""
    with pytest.raises(LoginFault) as caught:
        accept_userinfo(present({"sub": sub, "email": "j@d.test"}), VerifiedClaims(claims()))
    assert caught.value.code == "userinfo_mismatch"
    assert SUBJECT not in str(caught.value)


@pytest.mark.parametrize("value", ["\ud800", 2**64, float("inf"), functools.reduce(lambda v, _: [v], range(40), 0)])
def test_plain_userinfo_that_cannot_be_kept(value: Any) -> None:
    with pytest.raises(ProviderFault) as caught:
        accept_userinfo({"sub": SUBJECT, "x": value}, VerifiedClaims(claims()))
    assert caught.value.code == "provider_response_invalid"


# ── Access tokens ───────────────────────────────────────────────────────────────────────────────────────────────────


def access(raw: Any, **options: Any) -> VerifiedClaims:
    return verify_access_token(raw, provider_keys(), EXPECT, **({"now": NOW, "subject": SUBJECT} | options))


def access_claims(**changes: Any) -> dict[str, Any]:
    """As Keycloak makes them: for the audience `account`, with our client as azp."""
    roles = {"realm_access": {"roles": ["admin"]}}
    return claims(**({"typ": "Bearer", "aud": "account", "azp": CLIENT, "nonce": ABSENT} | roles | changes))


ACCESS_ACCEPTED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "Keycloak": ({}, {}),
    "Keycloak without aud": ({"aud": ABSENT}, {}),
    "Keycloak up to 24: with a nonce": ({"nonce": NONCE}, {}),
    "Keycloak with DPoP": ({"typ": "DPoP"}, {}),
    "Keycloak with at+jwt": ({}, {"typ": "at+jwt"}),
    "RFC 9068 client_id": ({"typ": ABSENT, "azp": ABSENT, "client_id": CLIENT}, {"typ": "application/AT+JWT"}),
    "aud names us": ({"azp": "other", "aud": ["account", CLIENT]}, {}),
    "no iat": ({"iat": ABSENT}, {}),
}


@pytest.mark.parametrize(("changes", "header"), ACCESS_ACCEPTED.values(), ids=ACCESS_ACCEPTED)
def test_access_token_accepted(changes: dict[str, Any], header: dict[str, Any]) -> None:
    verified = access(sign(access_claims(**changes), header=header))
    assert verified.get("realm_access") == {"roles": ["admin"]}


ACCESS_REFUSED: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "JW-23 Keycloak's ID token": ("type", {"typ": "ID"}, {}),
    "JW-23 Keycloak's ID token as at+jwt": ("type", {"typ": "ID"}, {"typ": "at+jwt"}),
    "JW-23 Keycloak's refresh token": ("type", {"typ": "Refresh"}, {}),
    "JW-23 Keycloak's logout token": ("type", {"typ": "Logout"}, {}),
    "JW-23 nothing marks it": ("type", {"typ": ABSENT}, {}),
    "JW-23 an ID token by its at_hash": ("type", {"at_hash": "x"}, {}),
    "JW-23 a logout token by its events": ("type", {"events": {}}, {}),
    "JW-23 logout+jwt": ("type", {}, {"typ": "logout+jwt"}),
    "ID-2 other issuer": ("issuer", {"iss": "https://evil.test"}, {}),
    "other subject": ("subject", {"sub": "other"}, {}),
    "no subject": ("subject", {"sub": ABSENT}, {}),
    "expired": ("expired", {"exp": NOW - 31}, {}),
    "JW-27 exp absent": ("expired", {"exp": ABSENT}, {}),
    "nbf ahead": ("not_before", {"nbf": NOW + 31}, {}),
    "JW-24 of another client": ("audience", {"azp": "other"}, {}),
    "azp is a list": ("audience", {"azp": [CLIENT]}, {}),
    "aud is an object": ("audience", {"aud": {CLIENT: 1}}, {}),
}


@pytest.mark.parametrize(("reason", "changes", "header"), ACCESS_REFUSED.values(), ids=ACCESS_REFUSED)
def test_access_token_refused(reason: str, changes: dict[str, Any], header: dict[str, Any]) -> None:
    refused(sign(access_claims(**changes), header=header), reason, access)


def test_access_token_that_is_opaque_or_forged() -> None:
    """JW-27 JW-29."""
    refused(ACCESS, "malformed", access)
    refused(sign(access_claims(), by=key("RSA again")), "signature", access)


# ── Logout tokens ───────────────────────────────────────────────────────────────────────────────────────────────────

EVENT = "http://schemas.openid.net/event/backchannel-logout"
SID, JTI = "session-08a5019c", "bWJq-0"


def logout(raw: Any, **options: Any) -> LogoutClaims:
    return verify_logout_token(raw, provider_keys(), EXPECT, **({"now": NOW} | options))


def logout_claims(**changes: Any) -> dict[str, Any]:
    """As Keycloak makes them."""
    token = {"jti": JTI, "sid": SID, "typ": "Logout", "events": {EVENT: {}}, "exp": int(NOW) + 120, "nonce": ABSENT}
    return claims(**(token | changes))


LOGOUT_ACCEPTED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "V7 LO-24 Keycloak since 25": ({}, {"typ": "logout+jwt"}),
    "V7 Keycloak before": ({}, {}),
    "LO-24 application/LOGOUT+JWT": ({"typ": ABSENT}, {"typ": "application/LOGOUT+JWT"}),
    "LO-24 no typ at all": ({"typ": ABSENT}, {"typ": ABSENT}),
    "V7 aud is a list": ({"aud": [CLIENT]}, {}),
    "LO-12 a trusted audience besides, with azp": ({"aud": [CLIENT, "trusted"], "azp": CLIENT}, {}),
    "LO-14 Keycloak: offline sessions as well": ({"events": {EVENT: {}, "revoke_offline_access": True}}, {}),
    "LO-14 the event says more": ({"events": {EVENT: {"x": 1}}}, {}),
    "LO-12 within the skew": ({"iat": NOW + 29, "exp": NOW - 29}, {}),
}


@pytest.mark.parametrize(("changes", "header"), LOGOUT_ACCEPTED.values(), ids=LOGOUT_ACCEPTED)
def test_logout_token_accepted(changes: dict[str, Any], header: dict[str, Any]) -> None:
    given = logout_claims(**changes)
    assert logout(sign(given, header=header)) == LogoutClaims(ISSUER, SUBJECT, SID, JTI, given["exp"] + 30)


@pytest.mark.parametrize(
    ("changes", "subject", "sid"),
    [
        pytest.param({"sid": ABSENT}, SUBJECT, None, id="LO-13 LG-8 F193 sub only"),
        pytest.param({"sub": ABSENT}, None, SID, id="LO-13 LG-8 sid only"),
    ],
)
def test_logout_token_says_whom_or_which(changes: dict[str, Any], subject: str | None, sid: str | None) -> None:
    found = logout(sign(logout_claims(**changes)))
    assert (found.subject, found.sid) == (subject, sid)


@pytest.mark.parametrize(
    ("times", "until"),
    [
        pytest.param({"exp": NOW + 120}, NOW + 150, id="exp"),
        pytest.param({"exp": NOW + 10**9}, NOW + 3630, id="exp is far away"),
        pytest.param({"iat": NOW - 3000, "exp": NOW + 10**9}, NOW + 630, id="exp is far away, and the token old"),
    ],
)
def test_lo16_the_jti_need_be_remembered_until_then(times: dict[str, Any], until: float) -> None:
    raw = sign(logout_claims(**times))
    assert logout(raw).usable_until == until
    assert logout(raw, now=until - 0.1).jti == JTI
    with pytest.raises(TokenInvalid):
        logout(raw, now=until)


LOGOUT_REFUSED: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "V7 LO-14 no events": ("events", {"events": ABSENT}, {}),
    "V7 LO-14 another event": ("events", {"events": {EVENT + "s": {}}}, {}),
    "LG-5 events is a list": ("events", {"events": [EVENT]}, {}),
    "LG-5 events is text": ("events", {"events": EVENT}, {}),
    "LG-5 LO-14 the event is a list": ("events", {"events": {EVENT: []}}, {}),
    "LO-14 the event is null": ("events", {"events": {EVENT: None}}, {}),
    "LO-14 the event is true": ("events", {"events": {EVENT: True}}, {}),
    "V7 LO-15 LG-5 nonce": ("type", {"nonce": NONCE}, {}),
    "LO-15 nonce is null": ("type", {"nonce": None}, {}),
    "LG-5 Keycloak's ID token": ("type", {"typ": "ID"}, {}),
    "LG-5 an ID token by its at_hash": ("type", {"typ": ABSENT, "at_hash": "x"}, {}),
    "LG-5 an ID token by its lack of events": ("events", {"typ": ABSENT, "events": ABSENT, "jti": ABSENT}, {}),
    "JW-23 an access token": ("type", {"typ": "Bearer"}, {}),
    "JW-23 at+jwt": ("type", {"typ": ABSENT}, {"typ": "at+jwt"}),
    "LO-24 typ of something else": ("type", {}, {"typ": "secevent+jwt"}),
    "V7 LO-13 neither sub nor sid": ("subject", {"sub": ABSENT, "sid": ABSENT}, {}),
    "LO-13 sub is empty": ("subject", {"sub": ""}, {}),
    "LO-13 sub is null": ("subject", {"sub": None}, {}),
    "LO-13 sub is a list": ("subject", {"sub": ["x"]}, {}),
    "LO-13 sid is empty": ("sid", {"sid": ""}, {}),
    "LO-13 sid is a number": ("sid", {"sid": 5}, {}),
    "LO-13 sid is null": ("sid", {"sid": None}, {}),
    "V7 LG-5 AV-24 jti missing": ("jti", {"jti": ABSENT}, {}),
    "LO-16 jti is empty": ("jti", {"jti": ""}, {}),
    "LO-16 jti is a number": ("jti", {"jti": 1}, {}),
    "V7 LG-5 AV-24 iat missing": ("issued_at", {"iat": ABSENT}, {}),
    "LO-12 iat is text": ("issued_at", {"iat": "now"}, {}),
    "V7 LO-12 iat one year ago": ("issued_at", {"iat": NOW - 365 * 86400}, {}),
    "LO-12 iat ahead": ("issued_at", {"iat": NOW + 31}, {}),
    "LO-12 exp missing": ("expired", {"exp": ABSENT}, {}),
    "V7 LG-5 expired": ("expired", {"exp": NOW - 31}, {}),
    "LO-12 nbf ahead": ("not_before", {"nbf": NOW + 31}, {}),
    "V7 LG-5 LO-12 another issuer": ("issuer", {"iss": "https://evil.test"}, {}),
    "LO-12 iss missing": ("issuer", {"iss": ABSENT}, {}),
    "V7 LO-12 another audience": ("audience", {"aud": "other"}, {}),
    "LO-12 a stranger in the audience": ("audience", {"aud": [CLIENT, "other"]}, {}),
    "LO-12 aud missing": ("audience", {"aud": ABSENT}, {}),
    "LO-12 azp of another client": ("azp", {"azp": "other"}, {}),
    "V7 LO-17 LG-5 none": ("algorithm", {}, {"alg": "none"}),
    "LO-17 LG-5 HS256": ("algorithm", {}, {"alg": "HS256"}),
}


@pytest.mark.parametrize(("reason", "changes", "header"), LOGOUT_REFUSED.values(), ids=LOGOUT_REFUSED)
def test_logout_token_refused(reason: str, changes: dict[str, Any], header: dict[str, Any]) -> None:
    fault = refused(sign(logout_claims(**changes), header=header), reason, logout)
    assert SID not in str(fault)
    assert JTI not in str(fault)


def test_logout_token_that_is_forged_or_of_a_key_to_come() -> None:
    """LO-12 LG-7."""
    refused(sign(logout_claims(), by=key("RSA again")), "signature", logout)
    with pytest.raises(KeyUnknown):
        logout(sign(logout_claims(), header={"kid": "next"}))


def test_a_logout_token_is_no_other_token() -> None:
    """JW-23: not even where its own kind is not marked."""
    raw = sign(logout_claims(typ=ABSENT))
    refused(raw, "type")
    refused(raw, "type", access)
    refused(raw, "type", userinfo)


# ── Together ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_merge() -> None:
    """The ID token first; the others only add, and nothing about tokens or the sign-in."""
    id_token = VerifiedClaims(claims(name="Jane", acr="1"))
    told = VerifiedClaims({"iss": ISSUER, "sub": SUBJECT, "name": "Mallory", "email": "j@d.test", "auth_time": 1})
    granted = VerifiedClaims(access_claims(email="other", sid="s", scope="openid", jti="x"))
    assert merge(id_token, told, granted).values == claims(
        name="Jane", acr="1", email="j@d.test", realm_access={"roles": ["admin"]}
    )
    assert merge(id_token) == id_token
    assert told.get("auth_time") == 1


@pytest.mark.parametrize("other", [{"iss": ISSUER, "sub": "other"}, {"iss": "https://evil.test", "sub": SUBJECT}])
def test_merge_of_two_users(other: dict[str, Any]) -> None:
    """ID-17 ID-19."""
    with pytest.raises(LoginFault) as caught:
        merge(VerifiedClaims(claims()), VerifiedClaims(other))
    assert caught.value.code == "userinfo_mismatch"


def test_only_some_claims() -> None:
    few = VerifiedClaims(access_claims()).only({"realm_access", "nothing"})
    assert few.values == {"iss": ISSUER, "sub": SUBJECT, "realm_access": {"roles": ["admin"]}}


def test_claims_do_not_print_themselves() -> None:
    assert repr(VerifiedClaims(claims())) == "VerifiedClaims(aud, exp, iat, iss, nonce, sub)"
