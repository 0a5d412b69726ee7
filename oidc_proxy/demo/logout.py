"""Sign-out at the demo's provider: RP-Initiated Logout 1.0 and the sending side of Back-Channel Logout 1.0."""

from __future__ import annotations

import asyncio
import hmac
import secrets
from dataclasses import dataclass
from urllib.parse import urlencode

import aiohttp
from yarl import URL

from oidc_proxy.demo.ledger import SsoSession
from oidc_proxy.demo.listener import Answer, Call, redirect
from oidc_proxy.demo.minting import logout_token
from oidc_proxy.demo.pages import confirm_sign_out_page, fault_page, signed_out_page
from oidc_proxy.demo.realm import SSO_COOKIE, Delivery, OAuthError, Realm, single

DELIVERY_TIMEOUT = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LogoutRequest:
    """What a client wants; `sid` is that of the hint."""

    client_id: str | None
    sid: str | None
    return_to: str | None
    state: str | None


async def end_session(realm: Realm, call: Call) -> Answer:
    """End the browser's session: at once when the hint proves that its own client asks, else after a question."""
    try:
        params = single(call.parameters)
        request = _read(realm, params)
    except OAuthError as error:
        return fault_page("This sign-out cannot start", error.description, status=error.status)
    session = realm.session_of(call)
    if session is None or request.sid == session.sid or _confirmed(session, params):
        return await _sign_out(realm, request, session)
    fields = {name: value for name, value in params.items() if name != "confirmation"}
    return confirm_sign_out_page(f"{realm.path}/logout", {**fields, "confirmation": _confirmation(session)})


async def end_sso_session(realm: Realm, session: SsoSession) -> list[Delivery]:
    """End one session and tell every client in it. A client that cannot be reached is not tried again."""
    realm.ledger.end_session(session.sid)
    user = realm.users.get(session.username)
    told = [
        (client_id, uri, logout_token(realm, client_id, sub=user.sub if user else None, sid=session.sid))
        for client_id in sorted(session.clients)
        if client_id in realm.clients and (uri := realm.clients[client_id].backchannel_logout_uri)
    ]
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=DELIVERY_TIMEOUT)) as http:
        statuses = await asyncio.gather(*(_deliver(http, uri, token) for _, uri, token in told))
    deliveries = [
        Delivery(client_id=client_id, sid=session.sid, token=token, status=status)
        for (client_id, _, token), status in zip(told, statuses, strict=True)
    ]
    realm.deliveries.extend(deliveries)
    return deliveries


async def _deliver(http: aiohttp.ClientSession, uri: str, token: str) -> int | None:
    try:
        url = URL(uri, encoded=True)
        async with http.post(url, data={"logout_token": token}, allow_redirects=False) as response:
            return response.status
    except (aiohttp.ClientError, TimeoutError):
        return None


def _read(realm: Realm, params: dict[str, str]) -> LogoutRequest:
    hint = realm.read_hint(params["id_token_hint"]) if "id_token_hint" in params else {}
    hinted = str(hint["azp"]) if hint else None
    client_id = params.get("client_id", hinted)
    if hinted is not None and client_id != hinted:
        raise OAuthError("invalid_request", "client_id is not the one of id_token_hint.")
    if client_id is not None and client_id not in realm.clients:
        raise OAuthError("invalid_request", "The client_id is unknown.")
    return_to = params.get("post_logout_redirect_uri")
    if return_to is not None:
        if client_id is None:
            raise OAuthError("invalid_request", "post_logout_redirect_uri needs id_token_hint or client_id.")
        if not realm.clients[client_id].allows_post_logout(return_to):
            raise OAuthError("invalid_request", "The post_logout_redirect_uri is not registered for this client.")
    sid = str(hint["sid"]) if "sid" in hint else None
    return LogoutRequest(client_id=client_id, sid=sid, return_to=return_to, state=params.get("state"))


async def _sign_out(realm: Realm, request: LogoutRequest, session: SsoSession | None) -> Answer:
    if session is not None:
        await end_sso_session(realm, session)
    gone = realm.cookie(SSO_COOKIE, "")
    if request.return_to is None:
        return signed_out_page([gone])
    query = urlencode({"state": request.state}) if request.state is not None else ""
    joint = "" if not query else "&" if "?" in request.return_to else "?"
    return redirect(f"{request.return_to}{joint}{query}", gone)


def _confirmation(session: SsoSession) -> str:
    """A value that only a page shown to this very browser can carry."""
    salt = secrets.token_urlsafe(8)
    return f"{salt}.{_mac(session, salt)}"


def _confirmed(session: SsoSession, params: dict[str, str]) -> bool:
    salt, _, mac = params.get("confirmation", "").partition(".")
    return hmac.compare_digest(mac.encode("utf-8", "replace"), _mac(session, salt).encode())


def _mac(session: SsoSession, salt: str) -> str:
    return hmac.digest(session.secret.encode(), salt.encode("utf-8", "replace"), "sha256").hex()
