"""The end of sessions: by the user here, and by the provider through its back or front channel.

A session ends here first, whatever the provider says; what it is told afterwards never keeps the user waiting.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
from collections.abc import Coroutine
from typing import Any, TypeVar
from urllib.parse import urlsplit

from .. import oidc, pages
from ..errors import LoginFault, ProviderFault, RequestFault, StoreFault
from ..messages import Reply, RequestHead, query_parameters
from ..sessions import Session, Ticket
from ..tokens import LogoutClaims, TokenInvalid
from ..values import Origin
from .endpoints import Fields, ReadForm, Tools, check_same_site, own_click, single
from .provider import RETRY_AFTER

T = TypeVar("T")


class Logout:
    """The endpoints of signing out. They raise ProxyError for whatever ends in an error page."""

    def __init__(self, tools: Tools, settings: oidc.LogoutSettings, farewell_lifetime: float) -> None:
        self._sessions, self._store, self._provider = tools.sessions, tools.store, tools.provider
        self._cookies, self._hosts, self._telemetry = tools.cookies, tools.hosts, tools.telemetry
        self._prefix, self._page, self._clock, self._random = tools.prefix, tools.page, tools.clock, tools.random
        self._settings, self._farewell_lifetime = settings, farewell_lifetime
        self._under_way: set[asyncio.Task[Any]] = set()

    @property
    def busy(self) -> bool:
        """Whether something is being done beside the requests."""
        return bool(self._under_way)

    async def close(self) -> None:
        """Finish what is under way; a revocation takes no longer than the provider may."""
        if self._under_way:
            await asyncio.wait(list(self._under_way), timeout=self._provider.settings.timeout + 1)

    # ── by the user ──

    async def sign_out(self, head: RequestHead, read_form: ReadForm) -> Reply:
        """``/oauth2/sign_out``: a POST from our own site acts, and so does a click on it; any other GET asks first.

        ``all=1`` in the query or the form ends every session of the user.
        """
        everywhere = _all(query_parameters(head.query))
        if head.method == "POST":
            check_same_site(head)
            return await self._sign_out(head, everywhere or _all(await read_form()))
        if own_click(head) or (self._settings.allow_get and not everywhere):
            return await self._sign_out(head, everywhere)
        return await self._ask_before(head, everywhere)

    async def _ask_before(self, head: RequestHead, everywhere: bool = False) -> Reply:
        return pages.confirm_sign_out_page(
            action=f"{self._prefix}/sign_out",
            request_id=head.request_id,
            now=self._clock(),
            settings=self._page,
            fields={"all": "1"} if everywhere else {},
            everywhere=everywhere,
            form_targets=await self.form_targets(),
        )

    async def form_targets(self) -> list[Origin]:
        """Where the answer to a posted sign-out may lead the browser, besides our own site."""
        end_session, landing = await self._end_session_origin(), self._settings.redirect_uri
        targets = [origin for origin in (end_session, self._hosts.auth) if origin]
        return [*targets, _origin_of(landing)] if landing else targets

    async def _end_session_origin(self) -> Origin | None:
        try:
            endpoint = (await self._provider.metadata.get()).end_session_endpoint
        except ProviderFault:
            return None
        return _origin_of(endpoint) if endpoint and self._settings.provider else None

    async def _sign_out(self, head: RequestHead, everywhere: bool) -> Reply:
        """End the session here, whatever the provider says; then send the browser there (RP-Initiated Logout §2)."""
        ticket = self._cookies.ticket(head)
        session = await self._whole(self._end_own(head, ticket, everywhere)) if ticket is not None else None
        gone = [*self._cookies.gone([self._cookies.own.session, self._cookies.tally])]
        state = self._hosts.farewell(self._random(16).hex(), head.origin)
        there = await self._end_session_url(head, session.tokens.id_token if session else None, state)
        if there is None:
            here = self._settings.redirect_uri or f"{head.origin}{self._prefix}/signed_out"
            return pages.redirect(303, here, gone)
        farewell = self._cookies.login(self._cookies.farewell, state, self._farewell_lifetime)
        return pages.redirect(303, there, [*gone, farewell])

    async def _end_own(self, head: RequestHead, ticket: Ticket, everywhere: bool) -> Session | None:
        """End the session of this ticket, and with ``everywhere`` the user's others; what it was."""
        session = await self._sessions.peek(ticket)
        ended = [ticket.record_id] if await self._sessions.end(ticket.record_id) else []
        if everywhere and session is not None:
            registry = self._sessions.archive.registry
            ended += await self._sessions.end_all(registry.of_subject(session.claims.issuer, session.claims.subject))
        if ended:
            self._ended(head, "rp", ended, sub=session.claims.subject if session is not None else None)
        if session is not None:
            self._revoke(session)
        return session

    async def end(self, head: RequestHead, record_ids: list[str], *, sub: str) -> list[str]:
        """End these sessions, which the caller knows to be the user's; those that were there."""
        return await self._whole(self._end_each(head, "own", record_ids, sub))

    async def _end_each(self, head: RequestHead, kind: str, record_ids: list[str], sub: str | None) -> list[str]:
        ended = [record_id for record_id in record_ids if await self._sessions.end(record_id)]
        if ended:
            self._ended(head, kind, ended, sub=sub)
        return ended

    def _ended(self, head: RequestHead, kind: str, ended: list[str], *, sub: str | None) -> None:
        self._telemetry.metrics.logouts.inc(kind, by=len(ended))
        self._telemetry.audit(
            f"logout.{kind}",
            request_id=head.request_id,
            client_ip=head.client,
            **({"session": ended[0][:16]} if ended else {}),
            **({"sub": sub} if sub is not None else {}),
            sessions=len(ended),
        )

    async def _end_session_url(self, head: RequestHead, id_token: str | None, state: str) -> str | None:
        if not self._settings.provider:
            return None
        try:
            provider = await self._provider.metadata.get()
        except ProviderFault as fault:
            self._telemetry.message("warning", "logout.provider_unreachable", code=fault.code, reason=fault.detail)
            return None
        return_to = self._settings.redirect_uri or f"{self._hosts.home(head.origin)}{self._prefix}/signed_out"
        return oidc.logout_url(provider, self._provider.settings, id_token=id_token, return_to=return_to, state=state)

    async def signed_out(self, head: RequestHead) -> Reply:
        """``GET /oauth2/signed_out``: says so, if it is so. A session that is still there gets the question instead.

        Where one origin signs in for all, the provider knows this address of it, and the browser goes on from there.
        """
        held = self._cookies.own.read(head.raw_headers)
        ticket = self._cookies.ticket(head)
        if ticket is not None and await self._sessions.peek(ticket) is not None:
            return await self._ask_before(head)
        state = query_parameters(head.query).get("state", ("",))[0]
        left = self._hosts.left(state, head.origin)
        if left is not None:
            gone = self._cookies.gone([self._cookies.own.session])
            return pages.redirect(302, f"{left}{self._prefix}/signed_out?state={state}", gone)
        ours = hmac.compare_digest(held.get(self._cookies.farewell, "\0").encode(), state.encode())
        page = pages.signed_out_page(
            request_id=head.request_id,
            now=self._clock(),
            settings=self._page,
            sign_in_url=f"{self._prefix}/start",
        )
        return page.with_cookies(self._cookies.gone([self._cookies.farewell])) if ours else page

    # ── the tokens ──

    def _revoke(self, session: Session) -> None:
        """Have the refresh token revoked, beside the request. The access tokens that came of it go with it."""
        token = session.tokens.refresh_token
        if self._settings.revoke and token is not None:
            self._begin(self._revoke_patiently(token))

    async def _revoke_patiently(self, token: str) -> None:
        """RFC 7009 §2.2: a provider that is busy is asked once more, but never for longer than it may take."""
        try:
            async with asyncio.timeout(self._provider.settings.timeout):
                try:
                    await self._provider.revoke(token, "refresh_token")
                except ProviderFault as fault:
                    if fault.code != "provider_unavailable":
                        raise
                    await asyncio.sleep(fault.retry_after or RETRY_AFTER)
                    await self._provider.revoke(token, "refresh_token")
        except (LoginFault, ProviderFault) as fault:
            self._telemetry.message("warning", "logout.revocation_failed", code=fault.code, reason=fault.detail)
        except TimeoutError:
            self._telemetry.message("warning", "logout.revocation_failed", reason="no success in time")

    # ── by the provider's back channel (OpenID Connect Back-Channel Logout 1.0) ──

    async def backchannel_logout(self, head: RequestHead, read_form: ReadForm) -> Reply:
        """``POST /oauth2/backchannel_logout``: 200 when what the token names has ended, or was not there (§2.8).

        400 for a token that proves nothing; 503 when the store or the provider's keys are out of reach.
        """
        try:
            token = single(await read_form(), "logout_token")
            if token is None:
                raise RequestFault("bad_request", "there is no logout_token")
            claims = await self._provider.verify_logout_token(token)
            await self._whole(self._end_once(head, claims))
        except (TokenInvalid, RequestFault) as fault:
            self._telemetry.audit(
                "logout.refused", request_id=head.request_id, client_ip=head.client, reason=fault.detail
            )
            status = fault.status if isinstance(fault, RequestFault) else 400
            return pages.json_reply(status, {"error": "invalid_request", "error_description": _told(fault)})
        return Reply(200, (("Cache-Control", "no-store"),))

    async def _end_once(self, head: RequestHead, claims: LogoutClaims) -> None:
        """End what the token names, unless the token has been used before."""
        used = self._sessions.archive.registry.used_logout_token(claims.issuer, claims.jti)
        if not await self._store.claim(used, max(1.0, claims.usable_until - self._clock())):
            raise TokenInvalid("jti", "the token has been used before")
        try:
            ended = await self._end_named(claims)
        except StoreFault:
            # The provider may send the same token again, and then it must still be good.
            with contextlib.suppress(StoreFault):
                await self._store.drop(used)
            raise
        self._ended(head, "backchannel", ended, sub=claims.subject)

    async def _end_named(self, claims: LogoutClaims) -> list[str]:
        """One session of the provider's if the token has a `sid`, else all of the user (§2.7)."""
        registry = self._sessions.archive.registry
        if claims.sid is None:
            return await self._sessions.end_all(registry.of_subject(claims.issuer, claims.subject or ""))
        index = registry.of_sid(claims.issuer, claims.sid)
        if claims.subject and {card.subject for card, _ in await self._sessions.cards(index)} - {claims.subject}:
            raise TokenInvalid("subject", "sub and sid belong to different sessions")
        return await self._sessions.end_all(index)

    # ── by the provider's front channel (OpenID Connect Front-Channel Logout 1.0) ──

    async def frontchannel_logout(self, head: RequestHead) -> Reply:
        """``GET /oauth2/frontchannel_logout?iss=…&sid=…``, in a frame of the provider's page.

        It ends exactly that session, found without a cookie; what is not known is ignored (§3). Without both, it ends
        the session that the browser brings, if the frame is the provider's. It tells the provider nothing: anybody may
        have sent the browser here.
        """
        fields = query_parameters(head.query)
        issuer, sid = single(fields, "iss"), single(fields, "sid")
        if (issuer is None) != (sid is None):
            raise RequestFault("bad_request", "iss and sid come together, or not at all")
        known, framing = await self._known_provider()
        if sid is not None and issuer == known:
            # Nothing is written for a `sid` that is not there: anybody can ask for any.
            members = await self._store.members(self._sessions.archive.registry.of_sid(known, sid))
            await self._whole(self._end_each(head, "frontchannel", members, None))
        elif sid is None and _framed_by(head, framing) and (ticket := self._cookies.ticket(head)):
            await self._whole(self._end_each(head, "frontchannel", [ticket.record_id], None))
        return pages.empty_frame(framing)

    async def _known_provider(self) -> tuple[str, Origin]:
        """The issuer, and the origin of the pages that it shows to browsers."""
        try:
            provider = await self._provider.metadata.get()
        except ProviderFault:
            return self._provider.settings.issuer, _origin_of(self._provider.settings.issuer)
        return provider.issuer, _origin_of(provider.end_session_endpoint or provider.authorization_endpoint)

    # ── what must not be broken off ──

    def _begin(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return task

    async def _whole(self, work: Coroutine[Any, Any, T]) -> T:
        """Do it to the end, even if the client that asked for it goes away."""
        task = self._begin(work)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody is left to see it
            raise


def _all(fields: Fields) -> bool:
    return single(fields, "all") == "1"


def _told(fault: TokenInvalid | RequestFault) -> str:
    """What the sender is told: the check that failed, and nothing of the token."""
    return fault.reason if isinstance(fault, TokenInvalid) else fault.detail


def _framed_by(head: RequestHead, framing: Origin) -> bool:
    """Whether a browser loads this into a frame of that origin, as far as it says; no page can make it lie."""
    referrer = head.headers.get("Referer", "")
    return head.headers.get("Sec-Fetch-Dest") == "iframe" and f"{referrer}/".startswith(f"{framing}/")


def _origin_of(url: str) -> Origin:
    parts = urlsplit(url)
    return Origin.parse(f"{parts.scheme}://{parts.netloc}")
