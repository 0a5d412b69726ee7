"""A realm, a backend and the address of a gateway between them: what the stories at Keycloak begin with."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from tests.gateway import Settings, merged
from tests.real.keycloak import Keycloak, realm
from tests.real.parts import free_port
from tests.world import Backend, Page, running_backend

CLIENT_SECRET = "the-proxy-is-known-by-this"


@dataclass
class Place:
    """``config`` is what the gateway at ``url`` is started with; it and browsers reach Keycloak by two names."""

    keycloak: Keycloak
    realm: str
    url: str
    backend: Backend
    config: dict[str, Any]

    async def user(self, name: str) -> str:
        """What the gateway should call this user: the `sub`."""
        return await self.keycloak.user_id(self.realm, name)

    async def sessions_of(self, name: str) -> int:
        """How many sessions the user has at Keycloak."""
        return len(await self.keycloak.user_sessions(self.realm, name))


@asynccontextmanager
async def place(
    keycloak: Keycloak, config: Settings | None = None, *, mappers: str = "", **options: Any
) -> AsyncIterator[Place]:
    """A realm made with ``options``. With ``mappers``, its client has only those whose kind has that word in it."""
    port, name = free_port(), f"story-{secrets.token_hex(4)}"
    url = f"http://127.0.0.1:{port}"
    document = realm(
        name,
        redirect_uris=[f"{url}/oauth2/callback"],
        post_logout_redirect_uris=[f"{url}/oauth2/signed_out"],
        client_secret=CLIENT_SECRET,
        **options,
    )
    client = document["clients"][0]
    client["protocolMappers"] = [m for m in client["protocolMappers"] if mappers in m["protocolMapper"]]
    await keycloak.create_realm(document)
    async with running_backend() as backend:
        usual = {
            "public_url": url,
            "listen": {"address": f"127.0.0.1:{port}"},
            "admin": {"address": "127.0.0.1:0"},
            "provider": {
                "issuer": keycloak.issuer(name),
                "internal_base_url": keycloak.internal_url,
                "client_id": "proxy",
                "client_secret": CLIENT_SECRET,
            },
            "upstream": backend.url,
            "log": {"level": "debug"},
        }
        yield Place(keycloak, name, url, backend, merged(usual, config or {}))


def headers_of(page: Page) -> dict[str, str]:
    """The headers that the backend says it received."""
    assert page.status == 200, (page.status, page.url.partition("?")[0], page.text)
    return dict(page.json()["headers"])


def asks_for_password(page: Page) -> bool:
    """Whether this is Keycloak's sign-in page."""
    form = page.form_with("password")
    return page.status == 200 and form is not None and form.id == "kc-form-login"
