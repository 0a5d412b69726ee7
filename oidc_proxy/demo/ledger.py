"""What the demo's provider remembers: sign-in pages, browser sessions, codes and tokens. In memory; times come in."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar


@dataclass(kw_only=True)
class SsoSession:
    """A browser that has signed in. `secret` is its cookie, `sid` what clients get to see."""

    sid: str
    secret: str = field(repr=False)
    username: str
    auth_time: float
    acr: str
    expires_at: float
    clients: set[str] = field(default_factory=set)


@dataclass(kw_only=True)
class Grant:
    """One sign-in at one client, and all tokens that came of it (a token family)."""

    client_id: str
    username: str
    sid: str
    scopes: tuple[str, ...]
    nonce: str | None
    auth_time: float
    acr: str
    revoked: str = ""
    """Why, once it is."""

    @property
    def offline(self) -> bool:
        return "offline_access" in self.scopes


@dataclass(kw_only=True)
class Code:
    grant: Grant
    redirect_uri: str
    challenge: str | None
    expires_at: float
    used: bool = False


@dataclass(kw_only=True)
class Token:
    """An access or a refresh token. `expires_at` None means never, `used` that a rotation has replaced it."""

    grant: Grant
    expires_at: float | None
    scopes: tuple[str, ...]
    used: bool = False

    def live(self, now: float) -> bool:
        return not self.grant.revoked and (self.expires_at is None or now < self.expires_at)


@dataclass(kw_only=True)
class Page:
    """A form that was shown to a browser and not yet answered; `browser` is the cookie that it came with."""

    browser: str
    request: Any
    expires_at: float


class _Mortal(Protocol):
    @property
    def expires_at(self) -> float | None: ...


T = TypeVar("T", bound=_Mortal)


class Ledger:
    """Everything that was issued. Long expired entries are forgotten once there are many."""

    def __init__(self) -> None:
        self.sessions: dict[str, SsoSession] = {}
        self.codes: dict[str, Code] = {}
        self.access_tokens: dict[str, Token] = {}
        self.refresh_tokens: dict[str, Token] = {}
        self.pages: dict[str, Page] = {}

    def session(self, secret: str | None, now: float) -> SsoSession | None:
        """The session of a browser's cookie, if it still runs."""
        for session in self.sessions.values():
            if session.secret == secret and now < session.expires_at:
                return session
        return None

    def open_session(self, username: str, acr: str, *, now: float, lifetime: float) -> SsoSession:
        session = SsoSession(
            sid=secrets.token_urlsafe(18),
            secret=secrets.token_urlsafe(32),
            username=username,
            auth_time=now,
            acr=acr,
            expires_at=now + lifetime,
        )
        return _keep(self.sessions, session.sid, session, now)

    def end_session(self, sid: str) -> SsoSession | None:
        """Forget the session; its tokens die with it, except those of offline access."""
        session = self.sessions.pop(sid, None)
        for grant in self.grants():
            if grant.sid == sid and not grant.offline:
                grant.revoked = grant.revoked or "Session not active"
        return session

    def grants(self) -> list[Grant]:
        """Every token family that is still remembered."""
        grants = [code.grant for code in self.codes.values()]
        grants += [token.grant for shelf in (self.access_tokens, self.refresh_tokens) for token in shelf.values()]
        return list({id(grant): grant for grant in grants}.values())

    def add_code(self, code: Code, now: float) -> str:
        return _name(self.codes, code, now)

    def add_refresh_token(self, token: Token, now: float) -> str:
        return _name(self.refresh_tokens, token, now)

    def add_access_token(self, value: str, token: Token, now: float) -> None:
        _keep(self.access_tokens, value, token, now)

    def add_page(self, page: Page, now: float) -> str:
        return _name(self.pages, page, now)

    def take_page(self, name: str, browser: str | None, now: float) -> Page | None:
        """The page of this very browser, once."""
        page = self.pages.get(name)
        if page is None or page.browser != browser or now >= page.expires_at:
            return None
        return self.pages.pop(name)


def _name(shelf: dict[str, T], item: T, now: float) -> str:
    name = secrets.token_urlsafe(32)
    _keep(shelf, name, item, now)
    return name


def _keep(shelf: dict[str, T], name: str, item: T, now: float, *, room: int = 10_000) -> T:
    if len(shelf) >= room:
        for old in [key for key, value in shelf.items() if value.expires_at is not None and value.expires_at < now]:
            del shelf[old]
    shelf[name] = item
    return item
