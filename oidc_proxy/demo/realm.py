"""The demo provider's state and settings, without sockets: what each endpoint is given to answer with."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from oidc_proxy.demo.directory import USERS, Client, Lifetimes, User
from oidc_proxy.demo.faults import Faults
from oidc_proxy.demo.keys import KeyRing
from oidc_proxy.demo.ledger import Ledger, SsoSession
from oidc_proxy.demo.listener import Call

SSO_COOKIE = "demo_sso"
BROWSER_COOKIE = "demo_browser"


class OAuthError(Exception):
    """A refusal in the words of RFC 6749 §5.2, §4.1.2.1 or RFC 6750 §3.1."""

    def __init__(self, code: str, description: str, status: int = 400) -> None:
        super().__init__(f"{code}: {description}")
        self.code = code
        self.description = description
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One logout token that was sent to a client, and what became of it."""

    client_id: str
    sid: str
    token: str
    status: int | None
    """Of the client's answer; None when there was none."""


class Realm:
    """Issuer, people, clients, keys and everything issued. All attributes may be changed while it runs."""

    def __init__(
        self,
        *,
        issuer: str = "",
        clients: Iterable[Client] = (),
        users: Iterable[User] = USERS,
        keys: KeyRing | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.issuer = issuer
        self.clients = {client.client_id: client for client in clients}
        self.users = {user.username: user for user in users}
        self.keys = keys or KeyRing()
        self.clock = clock
        self.lifetimes = Lifetimes()
        self.faults = Faults()
        self.ledger = Ledger()
        self.deliveries: list[Delivery] = []
        self.rotate_refresh_tokens = True
        """Every refresh replaces the refresh token; the use of a replaced one ends the family."""
        self.roles_in: frozenset[str] = frozenset({"access_token"})
        """Where `realm_access` and `resource_access` appear: `access_token`, `id_token`, `userinfo`."""
        self.dynamic_backchannel = False
        """Keycloak's `hostname-backchannel-dynamic`: token, JWKS, userinfo and introspection URLs follow the Host."""
        self.offer_users = False
        """List the people and their passwords on the sign-in page."""

    @property
    def path(self) -> str:
        """The path that all endpoints live under; empty or without a slash at its end."""
        return urlsplit(self.issuer).path.rstrip("/")

    @property
    def root(self) -> str:
        """The issuer, ready for a path to be appended."""
        return self.issuer.rstrip("/")

    @property
    def now(self) -> float:
        return self.clock()

    def register(self, client: Client) -> Client:
        """Add a client, or replace the one of the same id."""
        self.clients[client.client_id] = client
        return client

    def session_of(self, call: Call) -> SsoSession | None:
        """The running session of the browser that calls."""
        return self.ledger.session(call.cookie(SSO_COOKIE), self.now)

    def read_hint(self, token: str) -> dict[str, Any]:
        """The claims of an `id_token_hint`: one of our own ID tokens, of any age."""
        try:
            claims = self.keys.read(token)
        except ValueError as error:
            raise OAuthError("invalid_request", "id_token_hint is not an ID token of this provider") from error
        if claims.get("iss") != self.issuer or claims.get("typ") != "ID":
            raise OAuthError("invalid_request", "id_token_hint is not an ID token of this provider")
        return claims

    def cookie(self, name: str, value: str) -> tuple[str, str]:
        """A Set-Cookie header; an empty value deletes the cookie."""
        secure = "; Secure" if self.issuer.startswith("https:") else ""
        gone = "" if value else "; Expires=Thu, 01 Jan 1970 00:00:01 GMT"
        return "Set-Cookie", f"{name}={value}; Path={self.path}/; HttpOnly; SameSite=Lax{secure}{gone}"


def single(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The parameters by name. RFC 6749 §3.1, §3.2: none may come twice, and an empty one counts as absent."""
    found: dict[str, str] = {}
    for name, value in pairs:
        if name in found:
            raise OAuthError("invalid_request", f"Parameter {name} is repeated")
        found[name] = value
    return {name: value for name, value in found.items() if value}
