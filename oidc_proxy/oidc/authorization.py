"""The authorization request, what is remembered of it, and the answer that comes back through the browser."""

from __future__ import annotations

import hmac
import json
import re
from base64 import urlsafe_b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import parse_qsl

import msgspec
from authlib.oauth2.rfc7636 import create_s256_code_challenge

from ..errors import LoginFault, RequestFault
from .documents import quotable, shown
from .metadata import Provider
from .settings import RESERVED, LoginSettings, ProviderSettings, is_pattern
from .urls import add_parameters


class PendingLogin(msgspec.Struct, frozen=True, array_like=True):
    """A sign-in between the redirect to the provider and the way back: what the browser keeps, sealed.

    ``started_at`` is in whole seconds since the epoch. ``issuer`` is the provider that was asked, ``redirect_uri`` the
    one of the request, because the token request must repeat it (RFC 6749 §4.1.3).
    """

    state: str
    nonce: str
    verifier: str
    return_to: str
    started_at: int
    issuer: str
    redirect_uri: str

    def __repr__(self) -> str:
        return f"PendingLogin(started_at={self.started_at}, issuer={self.issuer!r})"


def begin_login(*, random: bytes, now: float, issuer: str, redirect_uri: str, return_to: str) -> PendingLogin:
    """A new sign-in. ``random`` is 96 bytes that nobody can guess: state, nonce and verifier get 256 bit each."""
    if len(random) != 96:
        raise ValueError("96 random bytes are needed")
    state, nonce, verifier = (
        urlsafe_b64encode(random[at : at + 32]).rstrip(b"=").decode("ascii") for at in range(0, 96, 32)
    )
    return PendingLogin(state, nonce, verifier, return_to, int(now), issuer, redirect_uri)


_VERIFIER = re.compile(r"[A-Za-z0-9._~-]{43,128}")


def code_challenge(verifier: str) -> str:
    """The S256 challenge of a PKCE verifier (RFC 7636 §4.2); ValueError if it is no verifier (§4.1)."""
    if not _VERIFIER.fullmatch(verifier):
        raise ValueError("a code verifier has 43 to 128 unreserved characters")
    return str(create_s256_code_challenge(verifier))


# ── the request ───────────────────────────────────────────────────────────────────────────────────────────────────────


def authorization_url(
    provider: Provider,
    settings: ProviderSettings,
    login: LoginSettings,
    pending: PendingLogin,
    extra: Mapping[str, str] = {},
) -> str:
    """Where to send the browser to sign in (Core §3.1.2.1), with PKCE S256 always.

    ``extra`` are parameters of this one sign-in; they win over those of the settings, and ``scope`` among them replaces
    the configured scopes. ValueError if one of them belongs to the protocol.
    """
    if RESERVED & extra.keys():
        raise ValueError("a parameter of the protocol cannot be replaced")
    parameters = {
        "response_type": "code",
        "client_id": settings.client_id,
        "redirect_uri": pending.redirect_uri,
        "scope": _scope(settings, extra.get("scope")),
        "state": pending.state,
        "nonce": pending.nonce,
        "code_challenge": code_challenge(pending.verifier),
        "code_challenge_method": "S256",
    }
    optional = {**_configured(login), **login.params, **extra}
    return add_parameters(provider.authorization_endpoint, {**optional, **parameters})


def _scope(settings: ProviderSettings, asked: str | None) -> str:
    scopes = settings.scopes if asked is None else ("openid", *asked.split())
    offline = ("offline_access",) if settings.offline_access else ()
    return " ".join(dict.fromkeys([*scopes, *offline]))


def _configured(login: LoginSettings) -> dict[str, str]:
    claims = "" if login.claims is None else json.dumps(login.claims, separators=(",", ":"), ensure_ascii=False)
    configured = {
        "acr_values": " ".join(login.acr_values),
        "ui_locales": " ".join(login.ui_locales),
        "claims": claims,
    }
    return {name: value for name, value in configured.items() if value}


_LISTS = {"prompt", "acr_values", "ui_locales", "scope"}
_LONGEST_PARAMETER = 512


def requested_params(parameters: Mapping[str, Sequence[str]], login: LoginSettings) -> dict[str, str]:
    """The parameters with which this sign-in was started and that ``login.allowed_params`` lets through; others are
    left out, and so are values that are not permitted. In a list (``prompt=login consent``) each word must be.

    RequestFault if one of them comes twice.
    """
    asked = {name: values for name, values in parameters.items() if name in login.allowed_params}
    repeated = [name for name, values in asked.items() if len(values) > 1]
    if repeated:
        raise RequestFault("bad_request", f"the parameter {repeated[0]} is there twice")
    return {name: value for name, (value,) in asked.items() if _is_allowed(name, value, login.allowed_params[name])}


def _is_allowed(name: str, value: str, permitted: Sequence[str]) -> bool:
    if not value or len(value) > _LONGEST_PARAMETER or not value.isprintable():
        return False
    words = value.split(" ") if name in _LISTS else [value]
    return all(any(_is_match(word, entry) for entry in permitted) for word in words)


def _is_match(word: str, entry: str) -> bool:
    return re.fullmatch(entry[1:-1], word) is not None if is_pattern(entry) else word == entry


# ── the answer ────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Callback:
    """What the provider sent back through the browser: a code or an error, for one ``state``."""

    state: str = field(repr=False)
    code: str | None = field(default=None, repr=False)
    error: str | None = None
    error_description: str | None = None
    iss: str | None = None


_LONGEST_ANSWER = 16384
_LONGEST = {"state": 512, "code": 8192, "error": 128, "iss": 2048, "error_description": 4096}
_MAY_BE_EMPTY = {"error_description"}
_BROKEN_ENCODING = re.compile(r"%(?![0-9A-Fa-f]{2})")
_CODE = re.compile(r"[ -~]+")


def read_callback(query: str) -> Callback:
    """The answer in a query, or in the body of a form post (RFC 6749 §4.1.2, §4.1.2.1).

    LoginFault ``callback_malformed`` unless there is one ``state`` and either one ``code`` or one ``error``, none of
    them empty, repeated, oversized or wrongly encoded. Parameters that nobody knows are ignored.
    """
    if len(query) > _LONGEST_ANSWER or _BROKEN_ENCODING.search(query):
        raise _malformed("the query is too long, or its percent-encoding is broken")
    try:
        pairs = parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=64)
    except ValueError:
        raise _malformed("the query is not UTF-8, or has too many parameters") from None
    known = [(name, value) for name, value in pairs if name in _LONGEST]
    found = dict(known)
    if len(found) != len(known):
        raise _malformed("a parameter is there twice")
    for name, value in known:
        if len(value) > _LONGEST[name] or not (value or name in _MAY_BE_EMPTY):
            raise _malformed(f"{name} is empty or too long")
    if "state" not in found:
        raise _malformed("there is no state")
    if ("code" in found) == ("error" in found):
        raise _malformed("there must be a code or an error, and not both")
    if "code" in found and not _CODE.fullmatch(found["code"]):
        raise _malformed("the code is not printable ASCII")
    return Callback(**found)


def _malformed(detail: str) -> LoginFault:
    return LoginFault("callback_malformed", detail)


_REFUSALS = {"access_denied": "access_denied_by_provider"}


def check_callback(callback: Callback, pending: PendingLogin, provider: Provider, *, now: float, timeout: float) -> str:
    """The code, once everything that can be checked without the network is right.

    LoginFault, in this order: ``login_unknown`` (another state), ``issuer_mismatch`` (RFC 9207 §2.4, for errors too),
    ``login_expired``, ``access_denied_by_provider`` or ``provider_refused`` (any other error).
    """
    if not hmac.compare_digest(callback.state.encode(), pending.state.encode()):
        raise LoginFault("login_unknown", "the state is that of another sign-in")
    if provider.issuer != pending.issuer:
        raise LoginFault("issuer_mismatch", f"{shown(pending.issuer)} was asked, not {shown(provider.issuer)}")
    if callback.iss is None and provider.iss_in_response:
        raise LoginFault("issuer_mismatch", "iss is missing, although the provider's metadata promises it")
    if callback.iss not in {None, pending.issuer}:
        raise LoginFault("issuer_mismatch", f"iss is {shown(callback.iss)}, but {shown(pending.issuer)} was asked")
    if now - pending.started_at > timeout:
        raise LoginFault("login_expired", f"it began {now - pending.started_at:.0f} seconds ago")
    if callback.error is not None:
        words = quotable(f"{callback.error}: {callback.error_description or 'no description'}")
        raise LoginFault(_REFUSALS.get(callback.error, "provider_refused"), words)
    if callback.code is None:
        raise _malformed("there is neither a code nor an error")
    return callback.code
