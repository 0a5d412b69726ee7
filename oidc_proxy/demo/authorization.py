"""The authorization endpoint of the demo's provider and its sign-in form (Core 3.1.2, RFC 7636, RFC 9207)."""

from __future__ import annotations

import hmac
import re
import secrets
from dataclasses import dataclass
from urllib.parse import urlencode

from oidc_proxy.demo.directory import Client
from oidc_proxy.demo.ledger import Code, Grant, Page, SsoSession
from oidc_proxy.demo.listener import Answer, Call, Pairs, redirect
from oidc_proxy.demo.pages import fault_page, sign_in_page
from oidc_proxy.demo.realm import BROWSER_COOKIE, SSO_COOKIE, OAuthError, Realm, single

SCOPES = ("openid", "profile", "email", "offline_access", "groups", "roles")
ACR_VALUES = ("1", "gold")
_PROMPTS = frozenset({"none", "login", "consent", "select_account"})
_CHALLENGE = re.compile(r"[A-Za-z0-9_-]{43}")


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorizationRequest:
    client: Client
    redirect_uri: str
    state: str | None
    scopes: tuple[str, ...]
    nonce: str | None
    challenge: str | None
    prompts: frozenset[str]
    max_age: int | None
    acr_values: tuple[str, ...]
    login_hint: str
    hinted_sub: str | None

    @property
    def acr(self) -> str:
        """The first acr that was asked for and exists. As at Keycloak, a wish for an unknown one is not an error."""
        return next((acr for acr in self.acr_values if acr in ACR_VALUES), "1")


async def authorize(realm: Realm, call: Call) -> Answer:
    """Check the request, then send the browser back with a code, or show the sign-in form."""
    try:
        client, redirect_uri = _destination(realm, call.parameters)
    except OAuthError as error:
        return fault_page("This sign-in cannot start", error.description, status=error.status)
    try:
        request = _read(realm, single(call.parameters), client, redirect_uri)
        session = realm.session_of(call)
        if session is not None and not _must_sign_in(realm, request, session):
            return _grant(realm, request, session)
        if "none" in request.prompts:
            raise OAuthError("login_required", "Nobody is signed in, or not as asked for")
        return _ask(realm, request)
    except OAuthError as error:
        state = next((value for name, value in call.parameters if name == "state"), None)
        params = [("error", error.code), ("error_description", error.description)]
        return _send_back(realm, client, redirect_uri, state, params)


async def sign_in(realm: Realm, call: Call) -> Answer:
    """The sign-in form, posted."""
    name = dict(call.query).get("page", "")
    page = realm.ledger.take_page(name, call.cookie(_page_cookie(name)), realm.now)
    if page is None:
        return fault_page("This page has expired", "Go back to the application and start again.")
    answer = _signed_in(realm, call, page.request)
    return answer.adding(realm.cookie(_page_cookie(name), ""))


def _page_cookie(page: str) -> str:
    """One for each page: tabs that open at the same time would overwrite what they share."""
    return f"{BROWSER_COOKIE}_{page[:8]}"


def _signed_in(realm: Realm, call: Call, request: AuthorizationRequest) -> Answer:
    form = call.form
    user = realm.users.get(form.get("username", ""))
    given = form.get("password", "").encode("utf-8", "replace")
    if user is None or not hmac.compare_digest(user.password.encode(), given):
        return _ask(realm, request, username=form.get("username", ""), fault="Wrong username or password.")
    if request.hinted_sub not in (None, user.sub):
        params = [("error", "login_required"), ("error_description", "Another person has signed in than was asked for")]
        return _send_back(realm, request.client, request.redirect_uri, request.state, params)
    session = _authenticated(realm, call, user.username, request.acr)
    return _grant(realm, request, session).adding(realm.cookie(SSO_COOKIE, session.secret))


def _authenticated(realm: Realm, call: Call, username: str, acr: str) -> SsoSession:
    """The browser's session, begun now or confirmed now: who signs in again keeps the `sid`."""
    session = realm.session_of(call)
    if session is None or session.username != username:
        return realm.ledger.open_session(username, acr, now=realm.now, lifetime=realm.lifetimes.sso_session)
    session.auth_time, session.acr = realm.now, acr
    return session


def _destination(realm: Realm, pairs: Pairs) -> tuple[Client, str]:
    """Where errors may go at all: a known client and one of its own redirect URIs, byte for byte."""
    found = {name: [value for key, value in pairs if key == name] for name in ("client_id", "redirect_uri")}
    if any(len(values) != 1 for values in found.values()):
        raise OAuthError("invalid_request", "Exactly one client_id and one redirect_uri are needed.")
    client = realm.clients.get(found["client_id"][0])
    if client is None:
        raise OAuthError("invalid_client", "The client_id is unknown.")
    if found["redirect_uri"][0] not in client.redirect_uris:
        raise OAuthError("invalid_request", "The redirect_uri is not registered for this client.")
    return client, found["redirect_uri"][0]


def _read(realm: Realm, params: dict[str, str], client: Client, redirect_uri: str) -> AuthorizationRequest:
    for name, code in (("request", "request_not_supported"), ("request_uri", "request_uri_not_supported")):
        if name in params:
            raise OAuthError(code, f"{name} is not supported")
    if "response_type" not in params:
        raise OAuthError("invalid_request", "response_type is missing")
    if params["response_type"] != "code":
        raise OAuthError("unsupported_response_type", "Only the code flow is offered")
    if params.get("response_mode", "query") != "query":
        raise OAuthError("invalid_request", "Only the response mode query is offered")
    return AuthorizationRequest(
        client=client,
        redirect_uri=redirect_uri,
        state=params.get("state"),
        scopes=_scopes(params.get("scope", "")),
        nonce=params.get("nonce"),
        challenge=_challenge(params, client),
        prompts=_prompts(params.get("prompt", "")),
        max_age=_max_age(params.get("max_age")),
        acr_values=tuple(params.get("acr_values", "").split()),
        login_hint=params.get("login_hint", ""),
        hinted_sub=_hinted_sub(realm, params.get("id_token_hint")),
    )


def _scopes(text: str) -> tuple[str, ...]:
    asked = text.split(" ")
    if "openid" not in asked:
        raise OAuthError("invalid_scope", "The scope openid is missing")
    unknown = [scope for scope in asked if scope not in SCOPES]
    if unknown:
        raise OAuthError("invalid_scope", f"Unknown scopes: {' '.join(unknown)}")
    return tuple(dict.fromkeys(asked))


def _challenge(params: dict[str, str], client: Client) -> str | None:
    challenge, method = params.get("code_challenge"), params.get("code_challenge_method")
    if challenge is None:
        if client.require_pkce or client.public or method is not None:
            raise OAuthError("invalid_request", "code_challenge is missing")
        return None
    if method != "S256":
        raise OAuthError("invalid_request", "code_challenge_method must be S256")
    if not _CHALLENGE.fullmatch(challenge):
        raise OAuthError("invalid_request", "code_challenge is not 43 characters of base64url")
    return challenge


def _prompts(text: str) -> frozenset[str]:
    prompts = frozenset(text.split())
    if not prompts <= _PROMPTS or ("none" in prompts and len(prompts) > 1):
        raise OAuthError("invalid_request", "prompt is not valid")
    return prompts


def _max_age(text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()):
        raise OAuthError("invalid_request", "max_age is not a number of seconds")
    return int(text)


def _hinted_sub(realm: Realm, hint: str | None) -> str | None:
    return None if hint is None else str(realm.read_hint(hint).get("sub"))


def _must_sign_in(realm: Realm, request: AuthorizationRequest, session: SsoSession) -> bool:
    user = realm.users.get(session.username)
    return (
        user is None
        or bool(request.prompts & {"login", "select_account"})
        or (request.max_age is not None and (request.max_age == 0 or realm.now - session.auth_time > request.max_age))
        or request.acr not in {"1", session.acr}
        or (request.hinted_sub is not None and request.hinted_sub != user.sub)
    )


def _ask(realm: Realm, request: AuthorizationRequest, *, username: str | None = None, fault: str = "") -> Answer:
    browser = secrets.token_urlsafe(24)
    page = Page(browser=browser, request=request, expires_at=realm.now + realm.lifetimes.login_page)
    name = realm.ledger.add_page(page, realm.now)
    action = f"{realm.path}/sign-in?{urlencode({'page': name})}"
    return sign_in_page(
        action,
        client_id=request.client.client_id,
        username=request.login_hint if username is None else username,
        fault=fault,
        users=realm.users.values() if realm.offer_users else (),
    ).adding(realm.cookie(_page_cookie(name), browser))


def _grant(realm: Realm, request: AuthorizationRequest, session: SsoSession) -> Answer:
    grant = Grant(
        client_id=request.client.client_id,
        username=session.username,
        sid=session.sid,
        scopes=request.scopes,
        nonce=request.nonce,
        auth_time=session.auth_time,
        acr=session.acr,
    )
    code = Code(
        grant=grant,
        redirect_uri=request.redirect_uri,
        challenge=request.challenge,
        expires_at=realm.now + realm.lifetimes.code,
    )
    session.clients.add(grant.client_id)
    params = [("code", realm.ledger.add_code(code, realm.now)), ("session_state", session.sid)]
    return _send_back(realm, request.client, request.redirect_uri, request.state, params)


def _send_back(realm: Realm, client: Client, redirect_uri: str, state: str | None, params: Pairs) -> Answer:
    pairs = [*params]
    if state is not None:
        pairs.append(("state", state))
    if client.iss_in_response:
        pairs.append(("iss", realm.issuer))
    query = urlencode(realm.faults.callback(pairs), errors="surrogateescape")
    return redirect(f"{redirect_uri}{'&' if '?' in redirect_uri else '?'}{query}")
