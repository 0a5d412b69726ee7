"""Who the demo's provider knows: people, clients, and for how long things live."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """A person who can sign in."""

    username: str
    password: str = field(repr=False)
    first_name: str = ""
    last_name: str = ""
    email: str = ""
    email_verified: bool = True
    groups: tuple[str, ...] = ()
    realm_roles: tuple[str, ...] = ()
    client_roles: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    claims: Mapping[str, Any] = field(default_factory=dict)
    """More claims for every token and for userinfo; they win over the ones above."""
    subject: str = ""
    """`sub`; made of the username when empty, and then the same at every start."""

    @property
    def sub(self) -> str:
        return self.subject or str(uuid.uuid5(uuid.NAMESPACE_URL, f"demo:{self.username}"))

    def profile(self, scopes: frozenset[str]) -> dict[str, Any]:
        """The claims that these scopes ask for (OpenID Connect Core 5.4), and `groups` always."""
        claims: dict[str, Any] = {"groups": list(self.groups)}
        if "profile" in scopes:
            claims |= {
                "name": f"{self.first_name} {self.last_name}".strip(),
                "given_name": self.first_name,
                "family_name": self.last_name,
                "preferred_username": self.username,
            }
        if "email" in scopes:
            claims |= {"email": self.email, "email_verified": self.email_verified}
        return claims | dict(self.claims)

    def roles(self) -> dict[str, Any]:
        """Roles in the shape in which Keycloak writes them."""
        access = {client: {"roles": list(roles)} for client, roles in self.client_roles.items()}
        return {"realm_access": {"roles": list(self.realm_roles)}, "resource_access": access}


def _person(first: str, last: str, groups: tuple[str, ...], roles: tuple[str, ...], client_role: str) -> User:
    name = first.lower()
    return User(
        username=name,
        password=name,
        first_name=first,
        last_name=last,
        email=f"{name}@example.test",
        groups=groups,
        realm_roles=(*roles, "default-roles-demo"),
        client_roles={"account": ("view-profile",)} | ({"app": (client_role,)} if client_role else {}),
    )


ANN = _person("Ann", "Archer", ("/staff/ops",), ("staff",), "admin")
BOB = _person("Bob", "Baker", ("/staff/sales",), (), "viewer")
EVE = _person("Eve", "Ellis", (), (), "")
USERS = (ANN, BOB, EVE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """An application that may send people here. Without a secret it is a public client."""

    client_id: str
    secret: str | None = field(default=None, repr=False)
    redirect_uris: tuple[str, ...] = ()
    """Compared exactly, character by character."""
    post_logout_redirect_uris: tuple[str, ...] = ()
    """Compared exactly; one that ends in `*` allows everything that begins so."""
    backchannel_logout_uri: str | None = None
    auth_methods: tuple[str, ...] = ("client_secret_basic", "client_secret_post")
    require_pkce: bool = True
    refresh_tokens: bool = True
    audiences: tuple[str, ...] = ("account",)
    """`aud` of its access tokens; Keycloak's default does not name the client itself."""
    userinfo_alg: str | None = None
    """Set: userinfo is a JWT (`application/jwt`) signed with the provider's key."""
    iss_in_response: bool = True
    """Keycloak's client attribute `exclude.issuer.from.auth.response`, the other way round."""

    @property
    def public(self) -> bool:
        return self.secret is None

    def allows_post_logout(self, uri: str) -> bool:
        allowed = self.post_logout_redirect_uris
        return uri in allowed or any(uri.startswith(entry[:-1]) for entry in allowed if entry.endswith("*"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifetimes:
    """In seconds. Change them on a running provider by assigning a new object."""

    code: float = 60
    access_token: float = 300
    id_token: float = 300
    refresh_token: float = 1800
    sso_session: float = 36000
    login_page: float = 600
    logout_token: float = 120
