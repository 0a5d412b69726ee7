"""What each kind of token must say to be believed."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from oidc_proxy.errors import LoginFault, ProviderFault
from oidc_proxy.tokens.faults import Reason, TokenInvalid
from oidc_proxy.tokens.jws import ACCESS_TOKEN, ID_TOKEN, LOGOUT_TOKEN, USERINFO, open_token
from oidc_proxy.tokens.keys import ALGORITHMS, KeySet
from oidc_proxy.tokens.text import check_sound
from oidc_proxy.values import Instant

IAT_WINDOW = 3600.0


@dataclass(frozen=True, slots=True)
class Expectation:
    """Who must have made a token, and for whom. ``skew`` is in seconds and forgives in both directions."""

    issuer: str
    client_id: str
    algorithms: frozenset[str]
    trusted_audiences: Collection[str] = ()
    skew: float = 30.0


class VerifiedClaims(msgspec.Struct, frozen=True):
    """Claims that the provider vouches for, `iss` and `sub` always among them.

    Made only by the functions of this module, and by decoding a sealed record that was made of one.
    """

    values: dict[str, Any]

    def get(self, name: str) -> Any:
        return self.values.get(name)

    @property
    def subject(self) -> str:
        return str(self.values["sub"])

    @property
    def issuer(self) -> str:
        return str(self.values["iss"])

    def only(self, names: Collection[str]) -> VerifiedClaims:
        """The same proof about fewer claims: these, besides `iss` and `sub`."""
        return VerifiedClaims({name: value for name, value in self.values.items() if name in {*names, "iss", "sub"}})

    def __repr__(self) -> str:
        return f"VerifiedClaims({', '.join(sorted(self.values))})"


LOGOUT_EVENT = "http://schemas.openid.net/event/backchannel-logout"


@dataclass(frozen=True, slots=True)
class LogoutClaims:
    """What the provider wants to be ended: one session of its own (``sid``), or with ``subject`` alone all of a user.

    Until ``usable_until``, in seconds since the epoch, the token would be accepted again: so long ``jti`` must be
    remembered.
    """

    issuer: str
    subject: str | None
    sid: str | None
    jti: str
    usable_until: Instant


_INSTANTS: Mapping[str, Reason] = {
    "exp": "expired",
    "iat": "issued_at",
    "nbf": "not_before",
    "auth_time": "auth_time",
}


def _instant(claims: Mapping[str, Any], name: str, *, required: bool = False) -> Instant | None:
    """A NumericDate, which may have a fraction (RFC 7519 §2); None where it is absent and may be."""
    if name not in claims and not required:
        return None
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e11:
        raise TokenInvalid(_INSTANTS[name], f"{name} is missing or not a time")
    return float(value)


def _check_times(claims: Mapping[str, Any], now: Instant, skew: float, required: Collection[str] = ()) -> None:
    """Neither expired nor from the future (OpenID Connect Core 3.1.3.7, 9–10; RFC 7519 §4.1.4–6)."""
    expires, issued, begins = (_instant(claims, name, required=name in required) for name in ("exp", "iat", "nbf"))
    if expires is not None and expires + skew <= now:
        raise TokenInvalid("expired", f"{now - expires:.0f} s ago")
    if issued is not None and issued - skew > now:
        raise TokenInvalid("issued_at", f"iat is {issued - now:.0f} s ahead; compare the clocks")
    if begins is not None and begins - skew > now:
        raise TokenInvalid("not_before", f"nbf is {begins - now:.0f} s ahead; compare the clocks")


def _check_text(claims: Mapping[str, Any], name: str, expected: str, reason: Reason) -> None:
    value = claims.get(name)
    if not isinstance(value, str) or value != expected:
        raise TokenInvalid(reason, f"{name} is {value!r:.200}, not {expected!r}")


def _check_same(claims: Mapping[str, Any], name: str, expected: str, reason: Reason) -> None:
    """As ``_check_text``, for what must not be told: in constant time, and without the values."""
    value = claims.get(name)
    if not isinstance(value, str) or not expected or not hmac.compare_digest(_bytes(value), _bytes(expected)):
        raise TokenInvalid(reason, f"{name} is missing or another one")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "replace")


def _audience(claims: Mapping[str, Any]) -> list[str]:
    value = claims.get("aud", [])
    audience = value if isinstance(value, list) else [value]
    if not all(isinstance(name, str) for name in audience):
        raise TokenInvalid("audience", "aud is neither a string nor a list of strings")
    return audience


def _check_audience(claims: Mapping[str, Any], expect: Expectation) -> None:
    """For us, and for nobody else that we do not trust (OpenID Connect Core 3.1.3.7, 3–5)."""
    audience = _audience(claims)
    if expect.client_id not in audience or not {expect.client_id, *expect.trusted_audiences}.issuperset(audience):
        raise TokenInvalid("audience", f"aud is {audience!r:.200}; expected is {expect.client_id!r}")
    if "azp" in claims or len(set(audience)) > 1:
        _check_text(claims, "azp", expect.client_id, "azp")


def _check_subject(claims: Mapping[str, Any]) -> None:
    """1 to 255 ASCII characters (OpenID Connect Core 2), all of them printable."""
    value = claims.get("sub")
    if not isinstance(value, str) or not re.fullmatch(r"[ -~]{1,255}", value):
        raise TokenInvalid("subject", "sub is missing or not 1 to 255 printable ASCII characters")


def _half_hash(algorithm: str, text: str) -> str:
    """`at_hash` of a token (OpenID Connect Core 3.1.3.6): the left half of its hash."""
    digest = hashlib.new(ALGORITHMS[algorithm].digest, _bytes(text)).digest()
    return base64.urlsafe_b64encode(digest[: len(digest) // 2]).rstrip(b"=").decode()


def _id_token(
    raw: str, keys: KeySet, expect: Expectation, now: Instant, earliest: Instant, access_token: str | None
) -> dict[str, Any]:
    """What every ID token must satisfy (OpenID Connect Core 3.1.3.7); ``earliest`` is what `iat` may be, less skew."""
    claims, algorithm = open_token(raw, keys, expect.algorithms, ID_TOKEN)
    _check_text(claims, "iss", expect.issuer, "issuer")
    _check_audience(claims, expect)
    _check_subject(claims)
    _check_times(claims, now, expect.skew, required=("exp", "iat"))
    if claims["iat"] < earliest - expect.skew:
        raise TokenInvalid("issued_at", f"iat is {earliest - claims['iat']:.0f} s too old; compare the clocks")
    if "at_hash" in claims and access_token is not None:
        _check_same(claims, "at_hash", _half_hash(algorithm, access_token), "at_hash")
    return claims


def verify_id_token(
    raw: str,
    keys: KeySet,
    expect: Expectation,
    *,
    now: Instant,
    nonce: str,
    not_before: Instant | None = None,
    access_token: str | None = None,
    max_age: float | None = None,
    acr: Collection[str] = (),
) -> VerifiedClaims:
    """The claims of the ID token that ends a sign-in (OpenID Connect Core 3.1.3.7).

    ``not_before`` is when the sign-in began: the token must not be older, and `auth_time` not more than ``max_age``
    seconds older (both less skew). Without it a token may be an hour old. ``acr`` names the authentication contexts of
    which one is required. `at_hash` is compared when the token has one and ``access_token`` is given. Raises
    TokenInvalid; KeyUnknown when newer keys might help.
    """
    began = now if not_before is None else not_before
    claims = _id_token(raw, keys, expect, now, now - IAT_WINDOW if not_before is None else not_before, access_token)
    _check_same(claims, "nonce", nonce, "nonce")
    authenticated = _instant(claims, "auth_time", required=max_age is not None)
    if max_age is not None and authenticated is not None and authenticated < began - max_age - expect.skew:
        raise TokenInvalid("auth_time", f"authenticated {began - authenticated:.0f} s before; allowed is {max_age:.0f}")
    if acr and claims.get("acr") not in list(acr):
        raise TokenInvalid("acr", f"acr is {claims.get('acr')!r:.80}, none of {', '.join(acr)}")
    return VerifiedClaims(claims)


_SIGN_IN = ("nonce", "auth_time", "acr", "amr", "sid")
"""Claims about the sign-in, which a refreshed ID token need not repeat."""


def verify_refreshed_id_token(
    raw: str,
    keys: KeySet,
    expect: Expectation,
    *,
    now: Instant,
    previous: VerifiedClaims,
    nonce: str | None,
    access_token: str | None,
) -> VerifiedClaims:
    """The claims of an ID token that came with a refresh; the same sign-in goes on (OpenID Connect Core 12.2).

    What it does not repeat about the sign-in is carried over from ``previous``, so that a chain of refreshes is always
    compared with its beginning. ``nonce`` is the one of the sign-in, where the caller still knows it.
    """
    earliest = _instant(previous.values, "iat") or 0
    claims = _id_token(raw, keys, expect, now, earliest, access_token)
    _check_text(claims, "iss", previous.issuer, "issuer")
    _check_same(claims, "sub", previous.subject, "subject")
    if claims.get("azp") != previous.get("azp"):
        raise TokenInvalid("azp", "azp changed in the refresh")
    authenticated = _instant(claims, "auth_time")
    if authenticated is not None and authenticated != previous.values.get("auth_time", authenticated):
        raise TokenInvalid("auth_time", "auth_time changed in the refresh")
    if "nonce" in claims:
        _check_same(claims, "nonce", nonce or previous.get("nonce") or "", "nonce")
    carried = {name: previous.values[name] for name in _SIGN_IN if name in previous.values}
    return VerifiedClaims(carried | claims)


def verify_userinfo_token(raw: str, keys: KeySet, expect: Expectation, *, now: Instant) -> VerifiedClaims:
    """The claims of signed userinfo (OpenID Connect Core 5.3.2). `iss`, `aud` and times are optional, but not wrong.

    Whose they are is decided by ``merge``, which refuses another subject than the ID token's.
    """
    claims, _ = open_token(raw, keys, expect.algorithms, USERINFO)
    if "iss" in claims:
        _check_text(claims, "iss", expect.issuer, "issuer")
    if "aud" in claims:
        _check_audience(claims, expect)
    _check_subject(claims)
    _check_times(claims, now, expect.skew)
    return VerifiedClaims(claims | {"iss": expect.issuer})


def verify_access_token(raw: str, keys: KeySet, expect: Expectation, *, now: Instant, subject: str) -> VerifiedClaims:
    """The claims of the access token that the provider gave us together with the ID token of ``subject``.

    Only for reading claims that Keycloak puts nowhere else (roles). To whom it grants access is for others to judge:
    `aud` may name the backend, as long as `azp`, `client_id` or `aud` names us (RFC 9068 §2.2; Keycloak's `azp`). It
    must say that it is an access token: by the type at+jwt, or as Keycloak does by `typ: Bearer` in the payload.
    """
    claims, _ = open_token(raw, keys, expect.algorithms, ACCESS_TOKEN)
    _check_text(claims, "iss", expect.issuer, "issuer")
    _check_same(claims, "sub", subject, "subject")
    _check_times(claims, now, expect.skew, required=("exp",))
    if expect.client_id not in [claims.get("azp"), claims.get("client_id"), *_audience(claims)]:
        raise TokenInvalid("audience", f"neither azp nor client_id nor aud is {expect.client_id!r}")
    return VerifiedClaims(claims)


def verify_logout_token(raw: str, keys: KeySet, expect: Expectation, *, now: Instant) -> LogoutClaims:
    """What a logout token wants to be ended (OpenID Connect Back-Channel Logout 1.0 §2.4–2.6).

    It must not be older than an hour, whatever `exp` says, so that nobody need remember its `jti` for longer. Whether
    it was used before is for the caller to find out. Raises TokenInvalid; KeyUnknown when newer keys might help.
    """
    claims, _ = open_token(raw, keys, expect.algorithms, LOGOUT_TOKEN)
    _check_text(claims, "iss", expect.issuer, "issuer")
    _check_audience(claims, expect)
    _check_times(claims, now, expect.skew, required=("exp", "iat"))
    usable_until = min(claims["exp"], claims["iat"] + IAT_WINDOW) + expect.skew
    if usable_until <= now:
        raise TokenInvalid("issued_at", f"iat is {now - claims['iat']:.0f} s ago; compare the clocks")
    _check_event(claims.get("events"))
    if "sub" in claims:
        _check_subject(claims)
    sid = _optional_text(claims, "sid", "sid")
    jti = _optional_text(claims, "jti", "jti")
    if jti is None:
        raise TokenInvalid("jti", "jti is missing")
    if sid is None and "sub" not in claims:
        raise TokenInvalid("subject", "neither sub nor sid says what to end")
    return LogoutClaims(expect.issuer, claims.get("sub"), sid, jti, usable_until)


def _check_event(events: object) -> None:
    """§2.4: an object with the member of this name, whose value is an object again."""
    if not isinstance(events, dict) or not isinstance(events.get(LOGOUT_EVENT), dict):
        raise TokenInvalid("events", "events does not say that this is a back-channel logout")


def _optional_text(claims: Mapping[str, Any], name: str, reason: Reason) -> str | None:
    value = claims.get(name)
    if name in claims and not (isinstance(value, str) and value):
        raise TokenInvalid(reason, f"{name} is not a string, or empty")
    return value


def accept_userinfo(values: Mapping[str, Any], id_token: VerifiedClaims) -> VerifiedClaims:
    """Plain userinfo, which the provider's TLS vouches for, as claims about the holder of the ID token.

    Raises LoginFault `userinfo_mismatch` when it is about somebody else (OpenID Connect Core 5.3.2), ProviderFault when
    it holds what cannot be kept (text that is not Unicode, numbers beyond 64 bits, deep nesting).
    """
    if values.get("sub") != id_token.subject:
        raise LoginFault("userinfo_mismatch", "sub of userinfo is not the ID token's")
    try:
        check_sound(dict(values))
    except ValueError as error:
        raise ProviderFault("provider_response_invalid", f"userinfo: {error}") from None
    return VerifiedClaims({**values, "iss": id_token.issuer})


_ABOUT_THE_TOKEN = frozenset(
    {*_SIGN_IN, "aud", "azp", "exp", "iat", "nbf", "jti", "typ", "scope", "client_id", "cnf", "events"}
    | {"at_hash", "c_hash", "s_hash"}
)


def merge(primary: VerifiedClaims, *others: VerifiedClaims) -> VerifiedClaims:
    """The claims of ``primary``, and what only the others say about the same user; the earlier ones win.

    What a token says about itself or about the sign-in is only ever taken from ``primary``. Raises LoginFault
    `userinfo_mismatch` when another one is about another user: identity is (iss, sub), OpenID Connect Core 5.7.
    """
    values: dict[str, Any] = {}
    for other in reversed(others):
        if (other.issuer, other.subject) != (primary.issuer, primary.subject):
            raise LoginFault("userinfo_mismatch", "iss and sub are not the ID token's")
        values |= {name: value for name, value in other.values.items() if name not in _ABOUT_THE_TOKEN}
    return VerifiedClaims(values | primary.values)
