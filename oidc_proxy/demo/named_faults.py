"""Faults by name: the provider of `NAMED[name]` is wrong in exactly one thing, the one of `HARMLESS[name]` only odd.

The names begin with the row of the requirement that they break: `HO-…` hostile provider, `ID-…` ID token, `DI-…`
discovery, `TK-…` token response, `JW-…` JOSE, `V6` verdicts on ID tokens.
"""

# ruff: noqa: S106 - members of the protocol whose names sound like secrets

from __future__ import annotations

import functools
import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from oidc_proxy.demo.directory import Client
from oidc_proxy.demo.faults import (
    Claims,
    Faults,
    OnValue,
    answering,
    cut,
    dripping,
    flapping,
    hanging,
    having,
    lacking,
    moved,
    redirecting,
    refusing,
    saying,
)
from oidc_proxy.demo.keys import (
    KeyRing,
    SigningKey,
    attacker_key,
    b64,
    exponent_one,
    generate,
    leaked_key,
    small_key,
    symmetric,
    unsigned,
)
from oidc_proxy.demo.listener import Answer, Pairs, json_answer

HTML = b"<!doctype html><title>Sign in</title><form method=post><input name=password type=password></form>"
_OTHER = "https://other.example.test"


# ── what the browser carries back ──


def _set(name: str, value: str) -> Callable[[Pairs], Pairs]:
    return lambda pairs: [(key, value if key == name else old) for key, old in pairs]


def _drop(name: str) -> Callable[[Pairs], Pairs]:
    return lambda pairs: [pair for pair in pairs if pair[0] != name]


def _twice(name: str, value: str | None = None) -> Callable[[Pairs], Pairs]:
    return lambda pairs: [*pairs, *((key, value or old) for key, old in pairs if key == name)]


def _add(*extra: tuple[str, str]) -> Callable[[Pairs], Pairs]:
    return lambda pairs: [*pairs, *extra]


def _error(description: str) -> Callable[[Pairs], Pairs]:
    return lambda pairs: [
        ("error", "access_denied"),
        ("error_description", description),
        *(pair for pair in pairs if pair[0] in {"state", "iss"}),
    ]


CALLBACK = {
    "HO-1 state missing": Faults(callback=_drop("state")),
    "HO-1 state of nobody": Faults(callback=_set("state", "A" * 43)),
    "HO-1 state empty": Faults(callback=_set("state", "")),
    "HO-1 state twice": Faults(callback=_twice("state")),
    "HO-1 state twice, the second another": Faults(callback=_twice("state", "b")),
    "HO-2 iss of another": Faults(callback=_set("iss", _OTHER)),
    "HO-2 iss missing though promised": Faults(callback=_drop("iss")),
    "HO-2 iss twice": Faults(callback=_twice("iss")),
    "HO-3 code twice": Faults(callback=_twice("code")),
    "LT-12 code empty": Faults(callback=_set("code", "")),
    "LT-12 code missing": Faults(callback=_drop("code")),
    "HO-4 error with HTML": Faults(callback=_error("<script>alert(1)</script>\"'>")),
    "HO-4 error with CRLF": Faults(callback=_error("x\r\nSet-Cookie: evil=1\r\n\r\n<b>y</b>")),
    "HO-5 code and error": Faults(callback=_add(("error", "access_denied"))),
}


# ── the token response ──


def _raw(member: str, text: str) -> Faults:
    """A member of the token response as JSON text that Python would not write."""

    def change(answer: Answer) -> Answer:
        values = json.loads(answer.body)
        values[member] = "@"
        return answer.but(body=json.dumps(values).replace('"@"', text).encode())

    return Faults(token=change)


def _bomb(answer: Answer) -> Answer:
    return answer.but(body=_zeros()).with_header("Content-Encoding", "gzip")


@functools.cache
def _zeros() -> bytes:
    return gzip.compress(b'{"access_token":"' + b"0" * 50_000_000 + b'"}', 1)


def _padded(answer: Answer) -> Answer:
    values = json.loads(answer.body)
    return answer.but(body=json.dumps({**values, "padding": "x" * 10_000_000}).encode())


TOKEN = {
    "HO-6 token as text/html": Faults(token=lambda answer: answer.with_header("Content-Type", "text/html")),
    "HO-6 token is a login page": Faults(token=saying("text/html", HTML)),
    "HO-6 token of 10 MB": Faults(token=_padded),
    "HO-6 token drips": Faults(token=dripping(0.2)),
    "HO-6 token is a gzip bomb": Faults(token=_bomb),
    "HO-6 token hangs": Faults(token=hanging),
    "HO-6 token breaks off": Faults(token=cut(100)),
    "S7 token is an array": Faults(token=answering(200, [])),
    "S7 token is not JSON": Faults(token=saying("application/json", b"{")),
    "S7 token is empty": Faults(token=saying("application/json", b"")),
    "HO-7 token redirects 302": Faults(token=redirecting(302, f"{_OTHER}/token")),
    "HO-7 token redirects 307": Faults(token=redirecting(307, f"{_OTHER}/token")),
    "HO-8 token invalid_client": Faults(token=refusing(401, "invalid_client")),
    "HO-8 token invalid_grant": Faults(token=refusing(400, "invalid_grant")),
    "S7 token unsupported_grant_type": Faults(token=refusing(400, "unsupported_grant_type")),
    "S7 token 502 HTML": Faults(token=saying("text/html", HTML, 502)),
    "TK-16 token 503": Faults(token=refusing(503, "temporarily_unavailable", ("Retry-After", "7"))),
    "TK-10 token 201": Faults(token=lambda answer: answer.but(status=201)),
    "HO-9 token_type missing": Faults(token_values=lacking("token_type")),
    "HO-9 token_type mac": Faults(token_values=having(token_type="mac")),
    "HO-10 no id_token": Faults(token_values=lacking("id_token")),
    "HO-10 id_token is an array": Faults(id_token=lambda token: [token]),
    "HO-10 id_token is empty": Faults(id_token=lambda _: ""),
    "HO-11 access_token is a number": Faults(token_values=having(access_token=5)),
    "HO-11 access_token with CRLF": Faults(token_values=having(access_token="a\r\nX-Evil: 1")),
    "TK-10 access_token missing": Faults(token_values=lacking("access_token")),
    "HO-12 expires_in is a string": Faults(token_values=having(expires_in="soon")),
    "HO-12 expires_in is negative": Faults(token_values=having(expires_in=-1)),
    "HO-12 expires_in is 1e400": _raw("expires_in", "1e400"),
    "HO-13 refresh_token empty": Faults(token_values=having(refresh_token="")),
}


# ── the ID token ──


def _signed(key: Callable[[], SigningKey]) -> Faults:
    return Faults(signing_key=lambda ring, client: key())


def _stranger(ring: KeyRing, client: Client) -> SigningKey:
    del client
    return replace(attacker_key(), kid=ring.current.kid)


def _doubled(member: str, value: object) -> OnValue:
    """The value as JSON text with one member twice, the wrong one first."""
    return lambda value_: b"{" + json.dumps({member: value})[1:-1].encode() + b"," + json.dumps(value_)[1:].encode()


def _tampered(token: str) -> str:
    head, body, signature = token.split(".")
    return f"{head}.{body}.{'A' if signature[0] != 'A' else 'B'}{signature[1:]}"


def _as_json(token: str) -> object:
    head, body, signature = token.split(".")
    return json.dumps({"payload": body, "protected": head, "signature": signature})


def _attacked(header: Callable[[SigningKey], dict[str, Any]]) -> Faults:
    """Signed by the attacker under our kid, with a header that leads to his key."""
    return Faults(signing_key=_stranger, id_token_header=lambda value: {**value, **header(attacker_key())})


HEADER = {
    "JW-1 alg none": _signed(unsigned),
    "JW-1 alg NoNe": Faults(
        signing_key=lambda ring, client: unsigned(), id_token_header=lambda value: {**value, "alg": "NoNe"}
    ),
    "JW-1 signature stripped": Faults(id_token=lambda token: token.rpartition(".")[0] + "."),
    "ID-7 signature wrong": Faults(id_token=_tampered),
    "ID-7 signed by a stranger": _signed(attacker_key),
    "ID-7 signed by a stranger under our kid": Faults(signing_key=_stranger),
    "HO-14 HS256 with the public PEM": Faults(
        signing_key=lambda ring, client: symmetric(ring.current.public_pem, kid=ring.current.kid)
    ),
    "HO-14 HS256 with the client secret": Faults(
        signing_key=lambda ring, client: symmetric((client.secret or "").encode(), kid=ring.current.kid)
    ),
    "JW-4 alg missing": Faults(id_token_header=lacking("alg")),
    "JW-4 alg is a list": Faults(id_token_header=having(alg=["RS256"])),
    "JW-4 alg unknown": Faults(id_token_header=having(alg="PS999")),
    "JW-4 alg with a space": Faults(id_token_header=having(alg="RS256 ")),
    "HO-15 embedded jwk": _attacked(lambda key: {"jwk": key.public}),
    "HO-15 jku of the attacker": _attacked(lambda key: {"jku": f"{_OTHER}/jwks"}),
    "HO-15 x5u of the attacker": _attacked(lambda key: {"x5u": f"{_OTHER}/cert"}),
    "HO-16 kid is a path": Faults(id_token_header=having(kid="../../dev/null")),
    "HO-16 kid is SQL": Faults(id_token_header=having(kid="x' OR '1'='1")),
    "HO-16 kid of 500 kB": Faults(id_token_header=having(kid="k" * 500_000)),
    "JW-6 kid is a number": Faults(id_token_header=having(kid=7)),
    "JW-6 kid is a list": Faults(id_token_header=having(kid=["a"])),
    "JW-8 kid of the encryption key": Faults(
        signing_key=lambda ring, client: SigningKey(
            ring.current.alg, ring.encryption["kid"], ring.current.public, {}, ring.current.sign
        )
    ),
    "HO-17 duplicate header member": Faults(id_token_header=_doubled("alg", "none")),
    "HO-18 crit unknown": Faults(id_token_header=having(crit=["x"], x=1)),
    "HO-18 crit empty": Faults(id_token_header=having(crit=[])),
    "HO-18 b64 false": Faults(id_token_header=having(crit=["b64"], b64=False)),
    "HO-19 typ logout+jwt": Faults(id_token_header=having(typ="logout+jwt")),
    "HO-19 typ at+jwt": Faults(id_token_header=having(typ="at+jwt")),
    "JW-17 JSON serialization": Faults(id_token=_as_json),
    "JW-17 padding": Faults(id_token=lambda token: token + "="),
    "JW-17 line feed": Faults(id_token=lambda token: token + "\n"),
    "JW-17 five parts": Faults(id_token=lambda token: token + ".a.b"),
    "JW-16 header is not JSON": Faults(id_token_header=lambda _: b"\xff{"),
}


def _claims(**members: Any) -> Faults:
    return Faults(id_token_claims=having(**members))


def _without(*names: str) -> Faults:
    return Faults(id_token_claims=lacking(*names))


def _shift(name: str, seconds: float) -> Faults:
    return Faults(id_token_claims=moved(name, seconds))


def _wrapped(name: str) -> Faults:
    """The right value, inside a list."""
    return Faults(id_token_claims=lambda claims: {**claims, name: [claims[name]]})


def _at(name: str, seconds: float) -> Faults:
    """A claim so many seconds after `iat`."""
    return Faults(id_token_claims=lambda claims: {**claims, name: claims["iat"] + seconds})


def _audience(*others: str, azp: str | None = None) -> Faults:
    """The client and others; `azp` None leaves the claim out."""

    def change(claims: Claims) -> object:
        rest = {name: value for name, value in claims.items() if name != "azp"}
        return {**rest, "aud": [claims["aud"], *others], **({} if azp is None else {"azp": azp})}

    return Faults(id_token_claims=change)


def _literal(name: str, text: str) -> Faults:
    """A claim as JSON text that Python would not write."""
    return Faults(
        id_token_claims=lambda claims: json.dumps({**claims, name: "@"}).replace('"@"', text).encode(),
    )


CLAIMS = {
    "ID-2 iss of another": _claims(iss=_OTHER),
    "ID-2 iss with a slash more": Faults(id_token_claims=lambda claims: {**claims, "iss": claims["iss"] + "/"}),
    "ID-2 iss missing": _without("iss"),
    "HO-23 iss in a list": _wrapped("iss"),
    "ID-3 aud of another": _claims(aud="other"),
    "ID-3 aud missing": _without("aud"),
    "HO-25 aud empty list": _claims(aud=[]),
    "HO-25 aud object": _claims(aud={}),
    "JW-21 aud nested": Faults(id_token_claims=lambda claims: {**claims, "aud": [[claims["aud"]]]}),
    "JW-21 aud with a space": Faults(id_token_claims=lambda claims: {**claims, "aud": claims["aud"] + " "}),
    "ID-4 aud with a stranger": Faults(id_token_claims=lambda claims: {**claims, "aud": [claims["aud"], "other"]}),
    "ID-6 two audiences without azp": _audience("other"),
    "HO-25 azp wrong": _claims(azp="other"),
    "V6 aud list with another azp": _audience(azp="other"),
    "JW-22 azp in a list": _wrapped("azp"),
    "ID-10 expired": _shift("exp", -3600),
    "ID-16 exp missing": _without("exp"),
    "HO-20 exp boolean": _claims(exp=True),
    "HO-20 exp string": _claims(exp="9999999999"),
    "HO-20 exp NaN": _claims(exp=float("nan")),
    "HO-20 exp Infinity": _claims(exp=float("inf")),
    "HO-20 exp 1e400": _literal("exp", "1e400"),
    "HO-21 iat 1 h ahead": _shift("iat", 3600),
    "V6 iat far ahead": _shift("iat", 1e6),
    "ID-11 iat long ago": _shift("iat", -3600),
    "ID-16 iat missing": _without("iat"),
    "HO-21 nbf ahead": _at("nbf", 3600),
    "ID-12 nonce missing": _without("nonce"),
    "ID-12 nonce wrong": _claims(nonce="0"),
    "HO-23 nonce in a list": _wrapped("nonce"),
    "ID-15 sub missing": _without("sub"),
    "HO-24 sub number": _claims(sub=5),
    "HO-24 sub empty": _claims(sub=""),
    "HO-24 sub of 300 characters": _claims(sub="s" * 300),
    "HO-24 sub with CRLF": _claims(sub="ann\r\nX-Evil: 1"),
    "HO-24 sub with a surrogate": _claims(sub="ann\ud800"),
    "ID-18 at_hash wrong": _claims(at_hash="AAAAAAAAAAAAAAAAAAAAAA"),
    "JW-22 at_hash number": _claims(at_hash=5),
    "JW-23 claims of a logout token": _claims(events={"http://schemas.openid.net/event/backchannel-logout": {}}),
    "HO-26 payload in UTF-16": Faults(id_token_claims=lambda claims: json.dumps(claims).encode("utf-16")),
    "HO-26 payload with BOM": Faults(id_token_claims=lambda claims: b"\xef\xbb\xbf" + json.dumps(claims).encode()),
    "HO-26 payload with a duplicate member": Faults(id_token_claims=_doubled("sub", "eve")),
    "HO-26 payload of 40 000 arrays": _literal("x", "[" * 40_000 + "]" * 40_000),
    "JW-16 payload is a list": Faults(id_token_claims=lambda claims: [claims]),
    "JW-16 payload of 2 MB": _claims(padding="x" * 2_000_000),
}
IF_ASKED = {
    "HO-22 auth_time missing (max_age sent)": _without("auth_time"),
    "ID-14 auth_time too old (max_age sent)": _shift("auth_time", -1e6),
    "ID-13 acr missing (acr asked for)": _without("acr"),
    "ID-13 acr lower (acr asked for)": _claims(acr="0"),
}
"""Wrong only for a client that has sent `max_age` or requires an `acr`."""


# ── keys ──


def _publishing(key: Callable[[], SigningKey], jwk: Callable[[SigningKey], dict[str, Any]]) -> Faults:
    """An unusable key signs, and the JWKS shows it beside the right ones."""
    return Faults(
        signing_key=lambda ring, client: key(),
        key_set=lambda document: {"keys": [*document["keys"], jwk(key())]},
    )


@functools.cache
def _oct() -> SigningKey:
    return symmetric(b"0123456789abcdef0123456789abcdef", kid="oct")


@functools.cache
def _open_key() -> SigningKey:
    return exponent_one()


def _fresh_keys(answer: Answer) -> Answer:
    return json_answer({"keys": [generate().public]}).but(count=answer.count)


def _crowd(document: Claims) -> object:
    return {"keys": [*({**attacker_key().public, "kid": str(number)} for number in range(10_000)), *document["keys"]]}


KEYS = {
    "HO-27 JWKS empty": Faults(key_set=lambda _: {"keys": []}),
    "HO-27 JWKS HTML": Faults(jwks=saying("text/html", HTML)),
    "HO-27 JWKS of 5 MB": Faults(key_set=lambda document: {**document, "padding": "x" * 5_000_000}),
    "HO-27 JWKS of 10 000 keys": Faults(key_set=_crowd),
    "HO-27 JWKS is a list": Faults(key_set=lambda document: document["keys"]),
    "HO-27 JWKS without keys": Faults(key_set=lambda _: {}),
    "HO-28 oct key": _publishing(_oct, lambda key: key.public),
    "HO-28 private key": _publishing(leaked_key, lambda key: key.private),
    "HO-28 RSA 1024": _publishing(small_key, lambda key: key.public),
    "HO-28 e is 1": _publishing(_open_key, lambda key: key.public),
    "HO-29 JWKS 503": Faults(jwks=saying("text/plain", b"", 503)),
    "HO-29 other keys every time": Faults(jwks=_fresh_keys),
    "TK-17 JWKS redirects": Faults(jwks=redirecting(302, f"{_OTHER}/jwks")),
    "JWKS hangs": Faults(jwks=hanging),
}


# ── discovery ──


def _meta(**members: Any) -> Faults:
    return Faults(metadata=having(**members))


def _slash(document: Claims) -> object:
    issuer = document["issuer"]
    return {**document, "issuer": issuer[:-1] if issuer.endswith("/") else issuer + "/"}


DISCOVERY = {
    "HO-30 issuer with another end": Faults(metadata=_slash),
    "DI-3 issuer of another": _meta(issuer=_OTHER),
    "DI-3 issuer missing": Faults(metadata=lacking("issuer")),
    "DI-5 token_endpoint missing": Faults(metadata=lacking("token_endpoint")),
    "DI-5 authorization_endpoint missing": Faults(metadata=lacking("authorization_endpoint")),
    "DI-5 jwks_uri missing": Faults(metadata=lacking("jwks_uri")),
    "HO-31 token_endpoint over http elsewhere": _meta(token_endpoint="http://attacker.example.test/token"),
    "HO-31 token_endpoint link-local": _meta(token_endpoint="http://169.254.169.254/latest/token"),
    "HO-31 jwks_uri link-local": _meta(jwks_uri="http://169.254.169.254/latest/keys"),
    "HO-31 jwks_uri is a file": _meta(jwks_uri="file:///etc/passwd"),
    "HO-31 userinfo_endpoint is a file": _meta(userinfo_endpoint="file:///etc/passwd"),
    "HO-31 authorization_endpoint is a script": _meta(authorization_endpoint="javascript:alert(1)"),
    "AR-14 no S256": _meta(code_challenge_methods_supported=["plain"]),
    "DI-2 document 404": Faults(discovery=saying("application/json", b'{"error":"not found"}', 404)),
    "DI-2 document HTML": Faults(discovery=saying("text/html", HTML)),
    "S21 document not JSON": Faults(discovery=saying("application/json", b"{")),
    "S21 document is a list": Faults(metadata=lambda document: [document]),
    "TK-17 document redirects": Faults(discovery=redirecting(302, f"{_OTHER}/.well-known/openid-configuration")),
    "document 503": Faults(discovery=saying("text/plain", b"", 503)),
    "document hangs": Faults(discovery=hanging),
}


# ── userinfo and refresh ──


def _unsigned_userinfo(answer: Answer) -> Answer:
    header = b64(json.dumps({"alg": "none"}).encode())
    token = f"{header}.{b64(answer.body)}."
    return answer.but(body=token.encode()).with_header("Content-Type", "application/jwt")


USERINFO = {
    "HO-33 userinfo 401": Faults(userinfo=refusing(401, "invalid_token")),
    "HO-33 userinfo without sub": Faults(userinfo_claims=lacking("sub")),
    "HO-33 userinfo unsigned JWT": Faults(userinfo=_unsigned_userinfo),
    "HO-33 userinfo of another sub": Faults(userinfo_claims=having(sub="somebody-else")),
    "S19 userinfo 404": Faults(userinfo=saying("text/plain", b"", 404)),
    "S19 userinfo 500": Faults(userinfo=saying("text/plain", b"", 500)),
    "ID-20 userinfo HTML": Faults(userinfo=saying("text/html", HTML)),
}
"""Wrong only for a client that asks userinfo."""

REFRESH = {
    "HO-34 refresh invalid_grant": Faults(refresh=refusing(400, "invalid_grant")),
    "HO-34 refresh brings another sub": Faults(refreshed_claims=having(sub="somebody-else")),
    "HO-34 refresh brings another iss": Faults(refreshed_claims=having(iss=_OTHER)),
    "ID-24 refresh brings another aud": Faults(refreshed_claims=having(aud="other")),
    "ID-25 refresh brings another auth_time": Faults(refreshed_claims=moved("auth_time", 60)),
    "ID-26 refresh brings a wrong nonce": Faults(refreshed_claims=having(nonce="0")),
    "ID-27 refresh brings an old iat": Faults(refreshed_claims=moved("iat", -36000)),
    "HO-36 refresh 429": Faults(refresh=refusing(429, "slow_down", ("Retry-After", "3"))),
    "TK-16 refresh 503": Faults(refresh=refusing(503, "temporarily_unavailable")),
    "HO-37 refresh answer lost": Faults(refresh=hanging),
    "HO-37 refresh answer breaks off": Faults(refresh=cut(20)),
    "TK-16 refresh invalid_client": Faults(refresh=refusing(401, "invalid_client")),
}

HARMLESS = {
    "V6 aud is a list of one": _wrapped("aud"),
    "V6 exp is fractional": Faults(id_token_claims=moved("exp", 0.5)),
    "JW-14 unknown header parameter": Faults(id_token_header=having(foo=1)),
    "V6 jwk header beside a right signature": Faults(id_token_header=lambda value: {**value, "jwk": {"kty": "RSA"}}),
    "ID-40 no typ": Faults(id_token_header=lacking("typ")),
    "no at_hash": _without("at_hash"),
    "no azp": _without("azp"),
    "HO-12 expires_in missing": Faults(token_values=lacking("expires_in")),
    "TK-12 token_type bearer": Faults(token_values=having(token_type="bearer")),
    "TK-15 scope missing": Faults(token_values=lacking("scope")),
    "TK-11 unknown members": Faults(token_values=having(x={"y": 1})),
    "TK-10 content type with charset": Faults(
        token=lambda answer: answer.with_header("Content-Type", "application/json;charset=UTF-8")
    ),
    "no refresh_token": Faults(token_values=lacking("refresh_token", "refresh_expires_in")),
    "RS-2 unknown callback parameters": Faults(callback=_add(("kc_action_status", "success"), ("x", "<y>"))),
    "HO-28 right key second under its kid": Faults(
        key_set=lambda document: {
            "keys": [{**attacker_key().public, "kid": document["keys"][-1]["kid"]}, *document["keys"]]
        }
    ),
    "ID-29 unusable keys beside the right one": Faults(
        key_set=lambda document: {"keys": [{}, {"kty": "EC", "crv": "P-999"}, {"kty": "XX"}, *document["keys"]]}
    ),
    "HO-29 JWKS flaps": Faults(jwks=flapping()),
    "HO-32 no end_session_endpoint": Faults(metadata=lacking("end_session_endpoint")),
    "no code_challenge_methods_supported": Faults(metadata=lacking("code_challenge_methods_supported")),
    "HO-35 no refresh_token at refresh": Faults(refresh_values=lacking("refresh_token", "refresh_expires_in")),
    "ID-26 no ID token at refresh": Faults(refresh_values=lacking("id_token")),
}

NAMED: dict[str, Faults] = {
    **CALLBACK,
    **TOKEN,
    **HEADER,
    **CLAIMS,
    **IF_ASKED,
    **KEYS,
    **DISCOVERY,
    **USERINFO,
    **REFRESH,
}
