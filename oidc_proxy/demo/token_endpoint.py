"""Token, revocation, introspection and userinfo endpoints of the demo's provider (RFC 6749, 7009, 7636, 7662, 6750)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from urllib.parse import unquote_plus

from joserfc.util import urlsafe_b64decode

from oidc_proxy.demo import minting
from oidc_proxy.demo.directory import Client
from oidc_proxy.demo.ledger import Code, Grant, Token
from oidc_proxy.demo.listener import Answer, Call, json_answer
from oidc_proxy.demo.realm import OAuthError, Realm, single

_VERIFIER = re.compile(r"[A-Za-z0-9._~-]{43,128}")


async def token(realm: Realm, call: Call) -> Answer:
    """Codes and refresh tokens against tokens."""
    try:
        form = _form(call)
        client = authenticate(realm, call, form)
        match form.get("grant_type"):
            case "authorization_code":
                return json_answer(_from_code(realm, client, form))
            case "refresh_token":
                return json_answer(_from_refresh_token(realm, client, form))
            case None:
                raise OAuthError("invalid_request", "grant_type is missing")
            case _:
                raise OAuthError("unsupported_grant_type", "Only authorization_code and refresh_token are offered")
    except OAuthError as error:
        return refusal(error, call)


async def revoke(realm: Realm, call: Call) -> Answer:
    """RFC 7009: an unknown token is a success, another client's is not."""
    try:
        form = _form(call)
        client = authenticate(realm, call, form)
        if "token" not in form:
            raise OAuthError("invalid_request", "token is missing")
        _revoke(realm, client, form["token"])
    except OAuthError as error:
        return refusal(error, call)
    return Answer(headers=(("Cache-Control", "no-store"),))


async def introspect(realm: Realm, call: Call) -> Answer:
    """RFC 7662; only a confidential client that the token is for learns anything."""
    try:
        form = _form(call)
        client = authenticate(realm, call, form)
        if client.public:
            raise OAuthError("invalid_client", "A public client may not introspect", 401)
        if "token" not in form:
            raise OAuthError("invalid_request", "token is missing")
    except OAuthError as error:
        return refusal(error, call)
    found = realm.ledger.access_tokens.get(form["token"])
    if found is None or not found.live(realm.now):
        return json_answer({"active": False})
    if client.client_id not in (found.grant.client_id, *realm.clients[found.grant.client_id].audiences):
        return json_answer({"active": False})
    return json_answer({"active": True, **realm.keys.read(form["token"]), "client_id": found.grant.client_id})


async def userinfo(realm: Realm, call: Call) -> Answer:
    """OpenID Connect Core 5.3: for a valid access token, sent in the header."""
    scheme, _, value = call.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not value:
        return Answer(status=401, headers=(("WWW-Authenticate", 'Bearer realm="demo"'), ("Cache-Control", "no-store")))
    found = realm.ledger.access_tokens.get(value)
    try:
        if found is None or not found.live(realm.now):
            raise OAuthError("invalid_token", "The access token is not active", 401)
        claims = minting.userinfo(realm, found.grant, found.scopes)
    except OAuthError as error:
        challenge = f'Bearer realm="demo", error="invalid_token", error_description="{error.description}"'
        return json_answer({"error": "invalid_token"}, 401, [("WWW-Authenticate", challenge)])
    client = realm.clients[found.grant.client_id]
    if client.userinfo_alg is None:
        return json_answer(claims)
    body = minting.userinfo_token(realm, client, claims).encode()
    return Answer(headers=(("Content-Type", "application/jwt"), ("Cache-Control", "no-store")), body=body)


def authenticate(realm: Realm, call: Call, form: dict[str, str]) -> Client:
    """The client that calls; exactly one way of authentication, and the one that is registered (RFC 6749 §2.3)."""
    header = call.headers.get("Authorization")
    if header is not None and "client_secret" in form:
        raise OAuthError("invalid_request", "Two ways of client authentication at once")
    client_id, secret, method = form.get("client_id", ""), form.get("client_secret"), "client_secret_post"
    if header is not None:
        client_id, secret = _basic(header)
        if form.get("client_id", client_id) != client_id:
            raise OAuthError("invalid_request", "Two different clients in one request")
        method = "client_secret_basic"
    client = realm.clients.get(client_id)
    if client is None:
        raise OAuthError("invalid_client", "Unknown client", 401)
    if client.secret is None:
        if secret is not None:
            raise OAuthError("invalid_client", "A public client has no secret", 401)
        return client
    if secret is None or method not in client.auth_methods:
        raise OAuthError("invalid_client", "Not the registered way of client authentication", 401)
    if not hmac.compare_digest(client.secret.encode(), secret.encode("utf-8", "surrogateescape")):
        raise OAuthError("invalid_client", "Wrong client secret", 401)
    return client


def refusal(error: OAuthError, call: Call) -> Answer:
    """RFC 6749 §5.2: a 401 names the scheme that the client has tried."""
    headers = (
        [("WWW-Authenticate", 'Basic realm="demo"')] if error.status == 401 and "Authorization" in call.headers else []
    )
    return json_answer({"error": error.code, "error_description": error.description}, error.status, headers)


def _form(call: Call) -> dict[str, str]:
    if not call.is_form:
        raise OAuthError("invalid_request", "The body is not a form")
    if "client_secret" in dict(call.query):
        raise OAuthError("invalid_request", "A client secret stands in the URL")
    return single(call.form_pairs)


def _basic(header: str) -> tuple[str, str]:
    scheme, _, value = header.partition(" ")
    try:
        text = base64.b64decode(value.strip(), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError) as error:
        raise OAuthError("invalid_client", "The Authorization header cannot be read", 401) from error
    if scheme.lower() != "basic" or ":" not in text:
        raise OAuthError("invalid_client", "The Authorization header cannot be read", 401)
    client_id, _, secret = text.partition(":")
    return unquote_plus(client_id), unquote_plus(secret)


def _from_code(realm: Realm, client: Client, form: dict[str, str]) -> object:
    for name in ("code", "redirect_uri"):
        if name not in form:
            raise OAuthError("invalid_request", f"{name} is missing")
    code = realm.ledger.codes.get(form["code"])
    if code is None or code.grant.client_id != client.client_id:
        raise OAuthError("invalid_grant", "Code not valid")
    if code.used:
        # RFC 6749 §4.1.2: somebody else may hold the tokens that the first use brought.
        code.grant.revoked = code.grant.revoked or "Code used twice"
        raise OAuthError("invalid_grant", "Code not valid")
    code.used = True
    _check_code(realm, code, form)
    values = _tokens(realm, client, code.grant, code.grant.scopes, refreshed=False)
    return realm.faults.token_values(values)


def _check_code(realm: Realm, code: Code, form: dict[str, str]) -> None:
    if code.grant.revoked:
        raise OAuthError("invalid_grant", code.grant.revoked)
    if realm.now >= code.expires_at:
        raise OAuthError("invalid_grant", "Code is expired")
    if form["redirect_uri"] != code.redirect_uri:
        raise OAuthError("invalid_grant", "Incorrect redirect_uri")
    verifier = form.get("code_verifier")
    if code.challenge is None:
        # RFC 9700 §2.1.1: a verifier without a challenge betrays a stripped challenge.
        if verifier is not None:
            raise OAuthError("invalid_grant", "PKCE verifier without a challenge")
    elif verifier is None or not _fits(verifier, code.challenge):
        raise OAuthError("invalid_grant", "PKCE verification failed")


def _fits(verifier: str, challenge: str) -> bool:
    """RFC 7636 §4.6, with the length and alphabet of §4.1."""
    if not _VERIFIER.fullmatch(verifier):
        return False
    return hmac.compare_digest(hashlib.sha256(verifier.encode()).digest(), urlsafe_b64decode(challenge.encode()))


def _from_refresh_token(realm: Realm, client: Client, form: dict[str, str]) -> object:
    if "refresh_token" not in form:
        raise OAuthError("invalid_request", "refresh_token is missing")
    found = realm.ledger.refresh_tokens.get(form["refresh_token"])
    if found is None or found.grant.client_id != client.client_id:
        raise OAuthError("invalid_grant", "Invalid refresh token")
    if found.used and realm.rotate_refresh_tokens:
        found.grant.revoked = found.grant.revoked or "Maximum allowed refresh token reuse exceeded"
    if not found.live(realm.now):
        raise OAuthError("invalid_grant", found.grant.revoked or "Token is not active")
    scopes = tuple(form["scope"].split(" ")) if "scope" in form else found.grant.scopes
    if not set(scopes) <= set(found.grant.scopes):
        raise OAuthError("invalid_scope", "More than was granted")
    found.used = True
    return realm.faults.refresh_values(_tokens(realm, client, found.grant, scopes, refreshed=True))


def _tokens(
    realm: Realm, client: Client, grant: Grant, scopes: tuple[str, ...], *, refreshed: bool
) -> dict[str, object]:
    access = minting.access_token(realm, grant, scopes)
    values: dict[str, object] = {
        "access_token": access,
        "token_type": "Bearer",
        "expires_in": int(realm.lifetimes.access_token),
        "not-before-policy": 0,
        "session_state": grant.sid,
        "scope": " ".join(scopes),
    }
    if client.refresh_tokens:
        expires_at = None if grant.offline else realm.now + realm.lifetimes.refresh_token
        entry = Token(grant=grant, expires_at=expires_at, scopes=grant.scopes)
        values["refresh_token"] = realm.ledger.add_refresh_token(entry, realm.now)
        values["refresh_expires_in"] = 0 if grant.offline else int(realm.lifetimes.refresh_token)
    if "openid" in scopes:
        values["id_token"] = minting.id_token(realm, grant, access, scopes, refreshed=refreshed)
    return values


def _revoke(realm: Realm, client: Client, value: str) -> None:
    ledger = realm.ledger
    found = ledger.refresh_tokens.get(value) or ledger.access_tokens.get(value)
    if found is None:
        return
    if found.grant.client_id != client.client_id:
        raise OAuthError("invalid_token", "The token belongs to another client")
    if value in ledger.refresh_tokens:
        found.grant.revoked = found.grant.revoked or "Token was revoked"
    else:
        found.expires_at = realm.now
