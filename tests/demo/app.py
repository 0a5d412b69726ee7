"""A client of the demo's provider, written by hand: it says exactly what a test wants said."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, quote_plus, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import RSAKey

from oidc_proxy.demo.directory import Client
from oidc_proxy.demo.provider import Provider
from tests.world import Browser, Page

CALLBACK = "http://127.0.0.1:9/callback"
SECRET = "s+e:c r%t/é"
APP = Client(
    client_id="app",
    secret=SECRET,
    redirect_uris=(CALLBACK, "http://127.0.0.1:9/with?q=1"),
    post_logout_redirect_uris=("http://127.0.0.1:9/bye", "http://127.0.0.1:9/any/*"),
)
SPA = Client(client_id="spa", redirect_uris=(CALLBACK,))
POST_ONLY = Client(client_id="poster", secret="x", redirect_uris=(CALLBACK,), auth_methods=("client_secret_post",))
VERIFIER = "X1mcNAU_lfu25acaJoCQSyo4YyZc1NwaxWw7tNL7mffK0AXCS-lNBtisryb2"
CHALLENGE = "V_nSilRCu0pt3eR-cH7LWru-rYwlTr3J2143tiwloCA"


class App:
    """A client of the provider that says exactly what a test tells it to say; `None` leaves a parameter out."""

    def __init__(self, provider: Provider, browser: Browser) -> None:
        self.provider = provider
        self.browser = browser

    def url(self, **changes: str | None) -> str:
        params: dict[str, str | None] = {
            "response_type": "code",
            "client_id": "app",
            "redirect_uri": CALLBACK,
            "scope": "openid profile email",
            "state": "st&1 ü",
            "nonce": "n-1",
            "code_challenge": CHALLENGE,
            "code_challenge_method": "S256",
            **changes,
        }
        kept = {name: value for name, value in params.items() if value is not None}
        return f"{self.provider.issuer}/authorize?{urlencode(kept)}"

    async def sign_in(self, user: str = "ann", **changes: str | None) -> dict[str, str]:
        """The parameters that come back to the callback after a sign-in."""
        page = await self.browser.get(self.url(**changes))
        if page.status == 200:
            page = await self.post_form(page, user, user)
        return back(page)

    async def post_form(self, page: Page, user: str, password: str) -> Page:
        action = f"{self.provider.address}{page.forms[0].action}"
        return await self.browser.post(action, {"username": user, "password": password})

    async def exchange(self, code: str, /, *, basic: str | None = None, **changes: str | None) -> Page:
        form = {"grant_type": "authorization_code", "code": code, "redirect_uri": CALLBACK, "code_verifier": VERIFIER}
        return await self.token({**form, **changes}, basic=basic)

    async def refresh(self, refresh_token: str, /, **changes: str | None) -> Page:
        return await self.token({"grant_type": "refresh_token", "refresh_token": refresh_token, **changes})

    async def token(self, form: Mapping[str, str | None], *, basic: str | None = None, endpoint: str = "token") -> Page:
        """Post a form; `basic` is the Authorization header, empty for none."""
        kept = {name: value for name, value in form.items() if value is not None}
        headers = {} if basic == "" else {"Authorization": basic or authorization("app", SECRET)}
        return await self.browser.post(f"{self.provider.issuer}/{endpoint}", kept, **headers)

    async def tokens(self, user: str = "ann", **changes: str | None) -> dict[str, Any]:
        page = await self.exchange((await self.sign_in(user, **changes))["code"])
        assert page.status == 200, page.text
        values: dict[str, Any] = page.json()
        return values

    async def userinfo(self, access_token: str) -> Page:
        return await self.browser.get(f"{self.provider.issuer}/userinfo", Authorization=f"Bearer {access_token}")


def authorization(client_id: str, secret: str) -> str:
    """RFC 6749 §2.3.1: both parts form-encoded, then base64."""
    return "Basic " + base64.b64encode(f"{quote_plus(client_id)}:{quote_plus(secret)}".encode()).decode()


def back(page: Page) -> dict[str, str]:
    assert page.status == 303, page.text
    assert page.location.startswith(CALLBACK)
    return dict(parse_qsl(urlsplit(page.location).query))


def refused(page: Page, code: str, status: int = 400) -> None:
    assert (page.status, page.json()["error"]) == (status, code)
    assert page.headers["Cache-Control"] == "no-store"


def claims_of(provider: Provider, token: str) -> dict[str, Any]:
    key = RSAKey.import_key(dict(provider.keys.current.public))
    return dict(jwt.decode(token, key, algorithms=["RS256"]).claims)
