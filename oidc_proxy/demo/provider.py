"""The demo's OpenID Provider on a socket: strict where real ones are, in memory, and breakable on demand."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from ssl import SSLContext
from typing import Any

from aiohttp import web

from oidc_proxy.demo import authorization, logout, minting, token_endpoint
from oidc_proxy.demo.directory import USERS, Client, User
from oidc_proxy.demo.keys import KeyRing
from oidc_proxy.demo.listener import Answer, Call, Listener, Served, json_answer
from oidc_proxy.demo.realm import Delivery, Realm

WELL_KNOWN = "/.well-known/openid-configuration"
OAUTH_WELL_KNOWN = "/.well-known/oauth-authorization-server"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A word for faults and assertions, the methods it takes, and what answers."""

    name: str
    methods: tuple[str, ...]
    answer: Callable[[Realm, Call], Awaitable[Answer]]


async def discovery(realm: Realm, call: Call) -> Answer:
    """OpenID Connect Discovery 1.0 §4."""
    return json_answer(realm.faults.metadata(metadata(realm, call.base)))


async def jwks(realm: Realm, call: Call) -> Answer:
    del call
    return json_answer(realm.faults.key_set(realm.keys.document()))


def metadata(realm: Realm, caller_base: str) -> dict[str, Any]:
    """The discovery document: every URL begins as the issuer does.

    With `dynamic_backchannel`, those that servers call begin with the scheme and host that this caller used.
    """
    front = realm.root
    back = f"{caller_base}{realm.path}" if realm.dynamic_backchannel else front
    return {
        "issuer": realm.issuer,
        "authorization_endpoint": f"{front}/authorize",
        "token_endpoint": f"{back}/token",
        "userinfo_endpoint": f"{back}/userinfo",
        "jwks_uri": f"{back}/jwks",
        "introspection_endpoint": f"{back}/introspect",
        "revocation_endpoint": f"{front}/revoke",
        "end_session_endpoint": f"{front}/logout",
        "response_types_supported": ["code"],
        "response_modes_supported": ["query"],
        "grant_types_supported": ["authorization_code", "refresh_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": [realm.keys.current.alg],
        "userinfo_signing_alg_values_supported": [realm.keys.current.alg],
        "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post", "none"],
        "code_challenge_methods_supported": ["S256"],
        "scopes_supported": list(authorization.SCOPES),
        "acr_values_supported": list(authorization.ACR_VALUES),
        "prompt_values_supported": ["none", "login", "consent", "select_account"],
        "claims_supported": ["sub", "iss", "auth_time", "acr", "name", "preferred_username", "email", "groups"],
        "claims_parameter_supported": False,
        "request_parameter_supported": False,
        "request_uri_parameter_supported": False,
        "authorization_response_iss_parameter_supported": True,
        "backchannel_logout_supported": True,
        "backchannel_logout_session_supported": True,
    }


ENDPOINTS = {
    WELL_KNOWN: Endpoint("discovery", ("GET", "HEAD"), discovery),
    "/jwks": Endpoint("jwks", ("GET", "HEAD"), jwks),
    "/authorize": Endpoint("authorization", ("GET", "POST"), authorization.authorize),
    "/sign-in": Endpoint("sign_in", ("POST",), authorization.sign_in),
    "/token": Endpoint("token", ("POST",), token_endpoint.token),
    "/userinfo": Endpoint("userinfo", ("GET", "POST"), token_endpoint.userinfo),
    "/introspect": Endpoint("introspection", ("POST",), token_endpoint.introspect),
    "/revoke": Endpoint("revocation", ("POST",), token_endpoint.revoke),
    "/logout": Endpoint("end_session", ("GET", "POST"), logout.end_session),
}


class Provider(Realm, Served):
    """A realm with a socket. Without `issuer`, it is the address that it listens on, followed by `path`.

    `requests` holds what it was asked, in order; `faults`, `lifetimes`, `users` and the rest of the realm may be
    changed at any time.
    """

    def __init__(
        self,
        *,
        issuer: str = "",
        path: str = "",
        host: str = "127.0.0.1",
        port: int = 0,
        ssl_context: SSLContext | None = None,
        clients: Iterable[Client] = (),
        users: Iterable[User] = USERS,
        keys: KeyRing | None = None,
        clock: Callable[[], float] = time.time,
        remember: int = 10_000,
    ) -> None:
        super().__init__(issuer=issuer, clients=clients, users=users, keys=keys, clock=clock)
        self.requests: list[Call] = []
        self._default_path = path
        self._remember = remember
        self._counts: Counter[str] = Counter()
        self._listener = Listener(self._answer, host=host, port=port, ssl_context=ssl_context, clock=clock)

    @property
    def address(self) -> str:
        """Where it listens, e.g. `http://127.0.0.1:8081`; not always the host of the issuer."""
        return self._listener.base

    @property
    def discovery_url(self) -> str:
        """The discovery document at the address that it listens on."""
        return f"{self.address}{self.path}{WELL_KNOWN}"

    async def open(self) -> None:
        await super().open()
        self.issuer = self.issuer or f"{self.address}{self._default_path}"

    def calls(self, endpoint: str) -> list[Call]:
        """What was asked of one endpoint (`discovery`, `jwks`, `authorization`, `token`, …), in order."""
        return [call for call in self.requests if call.endpoint == endpoint]

    async def end_user_sessions(self, username: str) -> list[Delivery]:
        """End every session of a person, as an administrator would, and tell the clients."""
        ours = [session for session in self.ledger.sessions.values() if session.username == username]
        return [delivery for session in ours for delivery in await logout.end_sso_session(self, session)]

    def logout_token(self, client_id: str, *, sub: str | None = None, sid: str | None = None) -> str:
        """A logout token that nobody has been sent."""
        return minting.logout_token(self, client_id, sub=sub, sid=sid)

    async def _answer(self, call: Call, request: web.BaseRequest) -> Answer:
        del request
        endpoint = self._endpoint(call.path)
        call = replace(call, endpoint=endpoint.name if endpoint else "")
        self.requests.append(call)
        del self.requests[: -self._remember]
        if endpoint is None:
            return Answer(status=404)
        if call.method not in endpoint.methods:
            return Answer(status=405, headers=(("Allow", ", ".join(endpoint.methods)),))
        right = await endpoint.answer(self, call)
        name = "refresh" if call.form.get("grant_type") == "refresh_token" else endpoint.name
        self._counts[name] += 1
        return self.faults.on(name)(right.but(count=self._counts[name]))

    def _endpoint(self, path: str) -> Endpoint | None:
        if path == OAUTH_WELL_KNOWN + self.path:
            return ENDPOINTS[WELL_KNOWN]
        if not path.startswith(self.path):
            return None
        return ENDPOINTS.get(path[len(self.path) :])
