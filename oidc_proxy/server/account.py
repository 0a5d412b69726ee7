"""The user's own view: who is signed in, until when, and where else; and how to end or renew it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from .. import pages
from ..errors import RequestFault
from ..identity import Identity
from ..messages import Cookie, Reply, RequestHead, is_navigation, query_parameters
from ..sessions import Card, Session, Ticket, freshness
from ..values import Instant, rfc3339
from .archive import SignedIn
from .endpoints import ReadForm, Tools, check_same_site, single
from .logout import Logout

_ABOUT_THE_TOKEN = frozenset({
    "nonce", "at_hash", "c_hash", "s_hash", "jti", "sid", "aud", "azp", "exp", "iat", "nbf", "typ",
})  # fmt: skip
"""Claims that say nothing about the user."""

_OTHERS = "others"
"""In place of an id: all sessions but the one that asks."""

Held = TypeVar("Held", SignedIn, Session)


class Account:
    """The endpoints for the user's own sessions, and no others. They never show a token."""

    def __init__(self, tools: Tools, logout: Logout, sign_in: Callable[[RequestHead], Awaitable[Reply]]) -> None:
        self._sessions, self._cookies, self._clock = tools.sessions, tools.cookies, tools.clock
        self._prefix, self._page = tools.prefix, tools.page
        self._logout, self._sign_in = logout, sign_in
        self._settings = tools.sessions.archive.settings

    # ── who is signed in ──

    async def userinfo(self, head: RequestHead) -> Reply:
        """``GET /oauth2/userinfo``: who is signed in, in the words that oauth2-proxy's users know. Never a token."""
        signed_in = self._ours(head, await self._sessions.current(self._ticket(head)))
        return pages.json_reply(200, _public_profile(signed_in.identity))

    async def session(self, head: RequestHead, read_form: ReadForm) -> Reply:
        """``/oauth2/session``: GET shows it, POST with the field ``end`` and DELETE end what is named.

        GET is a page for browsers and JSON for programs: with ``all=1`` the user's other sessions too, with ``touch=0``
        without counting as use.
        """
        match head.method:
            case "POST":
                return await self._end_by_form(head, read_form)
            case "DELETE":
                return await self._end_by_program(head)
        if not is_navigation(head):
            return await self._as_json(head)
        try:
            return await self._as_page(head)
        except RequestFault as fault:
            if fault.code != "sign_in_required":
                raise
            return await self._sign_in(head)

    async def _as_json(self, head: RequestHead) -> Reply:
        fields = query_parameters(head.query)
        ticket = self._ticket(head)
        session = await self._live(head, ticket, touch=single(fields, "touch") != "0")
        content = self._described(ticket, session)
        if single(fields, "all") == "1":
            cards = await self._cards(session)
            content["sessions"] = [_described_card(card, ticket.record_id) for card in cards]
        return pages.json_reply(200, content)

    async def _as_page(self, head: RequestHead) -> Reply:
        ticket = self._ticket(head)
        session = await self._live(head, ticket, touch=True)
        cards = await self._cards(session)
        identity = self._sessions.archive.describe(ticket, session).identity
        here = next((card for card in cards if card.record_id == ticket.record_id), None)
        own = pages.OwnSession(
            browser=pages.browser_words(head.headers.get("User-Agent", "")),
            address=here.address if here else "",
            since=session.created_at,
            idle_until=self._idle_until(session),
            until=session.ends_at,
            token_until=session.expires_at,
            renewable=session.renewable,
        )
        others = [
            pages.OtherSession(
                id=_public_id(card.record_id),
                browser=pages.browser_words(card.user_agent),
                address=card.address,
                since=card.created_at,
            )
            for card in cards
            if card is not here
        ]
        return pages.my_sessions_page(
            own,
            others,
            account=identity.preferred_username or identity.email or identity.user,
            session_url=f"{self._prefix}/session",
            sign_out_url=f"{self._prefix}/sign_out",
            request_id=head.request_id,
            now=self._clock(),
            settings=self._page,
            form_targets=await self._logout.form_targets(),
        )

    def _idle_until(self, session: Session) -> Instant:
        return min(session.seen_at + self._settings.idle_timeout, session.ends_at)

    def _described(self, ticket: Ticket, session: Session) -> dict[str, Any]:
        """What a program may know: times as text, and as the seconds that are left."""
        identity = self._sessions.archive.describe(ticket, session).identity
        ends = {"idle": self._idle_until(session), "absolute": session.ends_at, "token": session.expires_at}
        now = self._clock()
        return {
            **_public_profile(identity),
            "id": _public_id(ticket.record_id),
            "claims": {name: value for name, value in session.claims.values.items() if name not in _ABOUT_THE_TOKEN},
            "scopes": (session.tokens.scope or "").split(),
            "created_at": rfc3339(session.created_at),
            "expires_at": {name: rfc3339(end) for name, end in ends.items() if end is not None},
            "expires_in": {name: max(0, int(end - now)) for name, end in ends.items() if end is not None},
            "renewable": session.renewable,
        }

    # ── ending ──

    async def _end_by_form(self, head: RequestHead, read_form: ReadForm) -> Reply:
        """``POST /oauth2/session`` with ``end``: the id of one, or "others"; then back to the list."""
        check_same_site(head)
        wanted = single(await read_form(), "end") or ""
        ticket, _ = await self._end(head, wanted)
        if wanted == _public_id(ticket.record_id):
            return pages.redirect(303, f"{head.origin}{self._prefix}/signed_out", self._gone())
        return pages.redirect(303, f"{head.origin}{self._prefix}/session")

    async def _end_by_program(self, head: RequestHead) -> Reply:
        """``DELETE /oauth2/session?id=…``, an id or "others": 204; 404 when the user has no session with this id."""
        check_same_site(head)
        wanted = single(query_parameters(head.query), "id") or ""
        ticket, ended = await self._end(head, wanted)
        if not ended and wanted != _OTHERS:
            raise RequestFault("not_found", "the user has no session with this id")
        reply = Reply(204, (("Cache-Control", "no-store"),))
        return reply.with_cookies(self._gone()) if wanted == _public_id(ticket.record_id) else reply

    async def _end(self, head: RequestHead, wanted: str) -> tuple[Ticket, list[str]]:
        """End what is wanted among the user's own sessions; the ticket that came along, and the records that ended."""
        ticket = self._ticket(head)
        session = await self._live(head, ticket, touch=True)
        own = ticket.record_id
        mine = {own, *(card.record_id for card in await self._cards(session))}
        chosen = mine - {own} if wanted == _OTHERS else {record for record in mine if _public_id(record) == wanted}
        return ticket, await self._logout.end(head, sorted(chosen), sub=session.claims.subject)

    def _gone(self) -> list[Cookie]:
        return list(self._cookies.gone([self._cookies.own.session]))

    # ── renewing ──

    async def refresh(self, head: RequestHead) -> Reply:
        """``POST /oauth2/refresh``: renew the access token now, and say when the new one expires.

        A session without a refresh token stays as it is.
        """
        check_same_site(head)
        ticket = self._ticket(head)
        session = await self._live(head, ticket, touch=False)
        if session.renewable:
            self._ours(head, await self._sessions.renew(ticket))
        return pages.json_reply(200, self._described(ticket, await self._live(head, ticket, touch=True)))

    # ── whose session it is ──

    def _ticket(self, head: RequestHead) -> Ticket:
        ticket = self._cookies.ticket(head)
        if ticket is None:
            raise RequestFault("sign_in_required", "no session came with the request")
        return ticket

    def _ours(self, head: RequestHead, found: Held | None) -> Held:
        """The session, if it lives and is good on this origin."""
        if found is None or not self._cookies.good(found.origin, head.origin):
            raise RequestFault("sign_in_required", "no valid session came with the request")
        return found

    async def _live(self, head: RequestHead, ticket: Ticket, *, touch: bool) -> Session:
        """The whole session; ``touch`` counts as use of it, and renews its token if that is due."""
        if touch:
            self._ours(head, await self._sessions.current(ticket))
        session = self._ours(head, await self._sessions.peek(ticket))
        if freshness(session, self._settings, self._clock()).dead:
            raise RequestFault("sign_in_required", "the session is over")
        return session

    async def _cards(self, session: Session) -> list[Card]:
        """The user's sessions that live, oldest first."""
        index = self._sessions.archive.registry.of_subject(session.claims.issuer, session.claims.subject)
        return [card for card, lives in await self._sessions.cards(index) if lives]


def _public_id(record_id: str) -> str:
    """What a session is called towards its user, and in the log. It opens nothing."""
    return record_id[:16]


def _described_card(card: Card, own: str) -> dict[str, Any]:
    return {
        "id": _public_id(card.record_id),
        "current": card.record_id == own,
        "browser": pages.browser_words(card.user_agent),
        "address": card.address,
        "created_at": rfc3339(card.created_at),
        "expires_at": rfc3339(card.ends_at),
    }


def _public_profile(identity: Identity) -> dict[str, Any]:
    profile = {
        "user": identity.user,
        "email": identity.email,
        "groups": sorted(identity.groups),
        "preferredUsername": identity.preferred_username,
    }
    return {name: value for name, value in profile.items() if value is not None}
