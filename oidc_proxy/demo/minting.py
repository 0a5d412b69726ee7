"""The tokens and userinfo of the demo's provider, with the faults that are switched on."""

from __future__ import annotations

import secrets
from typing import Any

from oidc_proxy.demo.directory import Client, User
from oidc_proxy.demo.keys import compact, half_hash
from oidc_proxy.demo.ledger import Grant, Token
from oidc_proxy.demo.realm import OAuthError, Realm

LOGOUT_EVENT = "http://schemas.openid.net/event/backchannel-logout"


def access_token(realm: Realm, grant: Grant, scopes: tuple[str, ...]) -> str:
    """A JWT as Keycloak makes it: header `typ: JWT`, payload `typ: Bearer`, `aud` without the client."""
    user, client, now = _user(realm, grant), realm.clients[grant.client_id], realm.now
    lifetime = realm.lifetimes.access_token
    audience: Any = client.audiences[0] if len(client.audiences) == 1 else list(client.audiences)
    claims = {
        "iss": realm.issuer,
        "sub": user.sub,
        "aud": audience,
        "exp": int(now + lifetime),
        "iat": int(now),
        "auth_time": int(grant.auth_time),
        "jti": secrets.token_urlsafe(12),
        "typ": "Bearer",
        "azp": grant.client_id,
        "sid": grant.sid,
        "acr": grant.acr,
        "scope": " ".join(scopes),
        **user.profile(frozenset(scopes)),
        **(user.roles() if "access_token" in realm.roles_in else {}),
    }
    claims = {name: value for name, value in claims.items() if value != []}
    value = compact(
        {"alg": realm.keys.current.alg, "typ": "JWT", "kid": realm.keys.current.kid}, claims, realm.keys.current
    )
    realm.ledger.add_access_token(value, Token(grant=grant, expires_at=now + lifetime, scopes=scopes), now)
    return value


def id_token(realm: Realm, grant: Grant, access: str, scopes: tuple[str, ...], *, refreshed: bool) -> object:
    """The ID token (OpenID Connect Core 2, 12.2): a string, unless a fault makes it something else."""
    user, client, faults = _user(realm, grant), realm.clients[grant.client_id], realm.faults
    key = faults.signing_key(realm.keys, client)
    claims: dict[str, Any] = {
        "iss": realm.issuer,
        "sub": user.sub,
        "aud": grant.client_id,
        "exp": int(realm.now + realm.lifetimes.id_token),
        "iat": int(realm.now),
        "auth_time": int(grant.auth_time),
        "jti": secrets.token_urlsafe(12),
        "typ": "ID",
        "azp": grant.client_id,
        "sid": grant.sid,
        "at_hash": half_hash(access, key.alg),
        "acr": grant.acr,
        **user.profile(frozenset(scopes)),
        **(user.roles() if "id_token" in realm.roles_in else {}),
    }
    if grant.nonce is not None and not refreshed:
        claims["nonce"] = grant.nonce
    payload = faults.refreshed_claims(claims) if refreshed else claims
    payload = faults.id_token_claims(payload) if isinstance(payload, dict) else payload
    header = faults.id_token_header({"alg": key.alg, "typ": "JWT", "kid": key.kid})
    return faults.id_token(compact(header, payload, key))


def userinfo(realm: Realm, grant: Grant, scopes: tuple[str, ...]) -> object:
    """The claims of the userinfo endpoint, as a value."""
    user = _user(realm, grant)
    roles = user.roles() if "userinfo" in realm.roles_in else {}
    return realm.faults.userinfo_claims({"sub": user.sub, **user.profile(frozenset(scopes)), **roles})


def userinfo_token(realm: Realm, client: Client, claims: object) -> str:
    """Signed userinfo (OpenID Connect Core 5.3.2): with `iss` and `aud`."""
    key = realm.keys.current
    payload = {"iss": realm.issuer, "aud": client.client_id, **claims} if isinstance(claims, dict) else claims
    return compact({"alg": key.alg, "typ": "JWT", "kid": key.kid}, payload, key)


def logout_token(realm: Realm, client_id: str, *, sub: str | None, sid: str | None) -> str:
    """A logout token (OpenID Connect Back-Channel Logout 1.0 §2.4) as Keycloak makes it."""
    key, faults, now = realm.faults.signing_key(realm.keys, realm.clients[client_id]), realm.faults, int(realm.now)
    claims: dict[str, Any] = {
        "iat": now,
        "exp": int(now + realm.lifetimes.logout_token),
        "jti": secrets.token_urlsafe(12),
        "iss": realm.issuer,
        "aud": client_id,
        "typ": "Logout",
        "events": {LOGOUT_EVENT: {}},
    }
    claims |= ({"sub": sub} if sub is not None else {}) | ({"sid": sid} if sid is not None else {})
    header = faults.logout_header({"alg": key.alg, "typ": "logout+jwt", "kid": key.kid})
    return faults.logout_token(compact(header, faults.logout_claims(claims), key))


def _user(realm: Realm, grant: Grant) -> User:
    user = realm.users.get(grant.username)
    if user is None:
        raise OAuthError("invalid_grant", "User not found")
    return user
