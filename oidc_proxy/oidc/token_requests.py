"""Requests to the token and revocation endpoints, and how we prove there who we are."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass, field
from typing import TypeAlias
from urllib.parse import quote_plus, urlencode

from ..errors import ProviderFault
from ..values import Secret
from .authorization import PendingLogin
from .documents import shown
from .metadata import Provider
from .settings import ProviderSettings

# ── client authentication ─────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class BasicAuth:
    """``client_secret_basic``: both halves are form-encoded before they are joined (RFC 6749 §2.3.1)."""

    client_id: str
    secret: Secret

    def sign(self, form: dict[str, str], headers: dict[str, str]) -> None:
        pair = f"{quote_plus(self.client_id)}:{quote_plus(self.secret.reveal())}"
        headers["Authorization"] = f"Basic {b64encode(pair.encode('ascii')).decode('ascii')}"


@dataclass(frozen=True, slots=True)
class PostAuth:
    """``client_secret_post``: id and secret in the form (RFC 6749 §2.3.1)."""

    client_id: str
    secret: Secret

    def sign(self, form: dict[str, str], headers: dict[str, str]) -> None:
        form |= {"client_id": self.client_id, "client_secret": self.secret.reveal()}


@dataclass(frozen=True, slots=True)
class PublicClient:
    """``none``: the client id alone; PKCE binds the code to us (RFC 6749 §3.2.1)."""

    client_id: str

    def sign(self, form: dict[str, str], headers: dict[str, str]) -> None:
        form["client_id"] = self.client_id


ClientAuth: TypeAlias = BasicAuth | PostAuth | PublicClient

_WITH_SECRET: dict[str, type[BasicAuth | PostAuth]] = {"basic": BasicAuth, "post": PostAuth}
_ANNOUNCED_AS = {"client_secret_basic": "basic", "client_secret_post": "post"}


def client_auth(settings: ProviderSettings, provider: Provider) -> ClientAuth:
    """How to authenticate at this provider: as configured; for ``auto`` what it announces, Basic first, which is also
    what silence means (Discovery §3).

    ProviderFault ``provider_misconfigured`` if we have a secret and the provider announces no way to use one.
    """
    if settings.client_secret is None:
        return PublicClient(settings.client_id)
    if settings.client_auth != "auto":
        return _WITH_SECRET[settings.client_auth](settings.client_id, settings.client_secret)
    methods = provider.client_auth_methods
    usable = [ours for name, ours in _ANNOUNCED_AS.items() if methods is None or name in methods]
    if not usable:
        raise ProviderFault(
            "provider_misconfigured",
            f"token_endpoint_auth_methods_supported is {shown(methods)}, but `provider.client_secret` needs "
            "client_secret_basic or client_secret_post",
        )
    return _WITH_SECRET[usable[0]](settings.client_id, settings.client_secret)


# ── requests ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """A POST of a form. It carries secrets, so it must not follow a redirect."""

    url: str
    headers: dict[str, str] = field(repr=False)
    body: bytes = field(repr=False)


def code_request(provider: Provider, auth: ClientAuth, *, code: str, pending: PendingLogin) -> TokenRequest:
    """Exchange a code for tokens (RFC 6749 §4.1.3, RFC 7636 §4.5)."""
    form = {
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": pending.redirect_uri,
        "code_verifier": pending.verifier,
    }
    return _form_post(provider.token_endpoint, auth, form)


def refresh_request(
    provider: Provider, auth: ClientAuth, *, refresh_token: str, scope: str | None = None
) -> TokenRequest:
    """Exchange a refresh token for new tokens (RFC 6749 §6); without ``scope`` for the same scope as before."""
    form = {"grant_type": "refresh_token", "refresh_token": refresh_token}
    if scope is not None:
        form["scope"] = scope
    return _form_post(provider.token_endpoint, auth, form)


def revocation_request(provider: Provider, auth: ClientAuth, *, token: str, hint: str) -> TokenRequest | None:
    """Revoke a token (RFC 7009 §2.1), ``hint`` being ``refresh_token`` or ``access_token``; None if the provider has no
    endpoint for it.
    """
    if provider.revocation_endpoint is None:
        return None
    return _form_post(provider.revocation_endpoint, auth, {"token": token, "token_type_hint": hint})


def _form_post(url: str, auth: ClientAuth, form: dict[str, str]) -> TokenRequest:
    headers = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
    auth.sign(form, headers)
    return TokenRequest(url, headers, urlencode(form).encode("ascii"))
