"""Signing in: the redirect to the provider, and the way back.

One law orders every step: local checks first, then what can be used once, then the network, then writing. So a visitor
without a session writes nothing to the store, and a code is never spent for an answer that could not be accepted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from urllib.parse import quote

from .. import oidc, pages
from ..errors import LoginFault, ProviderFault, ProxyError, RequestFault, StoreFault
from ..handover import SECRET_BYTES
from ..messages import (
    Cookie,
    Reply,
    RequestHead,
    ReturnTo,
    is_navigation,
    query_parameters,
)
from ..sessions import NONCE_BYTES, LoginSealer, Ticket, login_suffix
from ..tokens import VerifiedClaims
from ..values import Instant, Origin
from .archive import SignedIn, Visitor
from .endpoints import Tools

MAX_PENDING_BYTES = 6144
"""Cookie bytes that unfinished sign-ins of one browser may take; the oldest give way before the newest is refused."""

LONGEST_LINK = 2000
"""Characters of a link in a page that starts a sign-in and returns; a longer one returns to the landing page."""

LOOP_WINDOW = 60
"""Seconds in which sign-ins that the browser did not keep are counted."""

_TALLY = re.compile(r"(?P<count>[0-9]{1,3})-(?P<since>[0-9]{1,11})-(?P<page>[A-Za-z0-9_-]+)")


class Login:
    """The endpoints of sign-in. They raise ProxyError for whatever ends in an error page."""

    def __init__(self, tools: Tools, sealer: LoginSealer, settings: oidc.LoginSettings) -> None:
        self._sessions, self._store, self._provider = tools.sessions, tools.store, tools.provider
        self._cookies, self._hosts, self._telemetry = tools.cookies, tools.hosts, tools.telemetry
        self._prefix, self._page, self._clock, self._random = tools.prefix, tools.page, tools.clock, tools.random
        self._sealer, self._login = sealer, settings

    # ── start ──

    async def start(self, head: RequestHead) -> Reply:
        """``GET /oauth2/start?rd=…``: a sign-in that returns to ``rd``, or to the landing page."""
        parameters = query_parameters(head.query)
        extra = oidc.requested_params(parameters, self._login)
        return await self.begin(head, self._return_url(parameters, head.origin), extra)

    async def sign_in_page(self, head: RequestHead, asked: str | None) -> Reply:
        """``GET /oauth2/sign_in?rd=…``: asks to sign in; ``asked`` is what a proxy in front says was asked for."""
        fault = RequestFault("sign_in_required")
        parameters = query_parameters(head.query)
        back = self._return_url(parameters if "rd" in parameters or asked is None else {"rd": [asked]}, head.origin)
        start = self._start_url(back)
        if not is_navigation(head):
            return pages.problem(fault, request_id=head.request_id, login_url=f"{head.origin}{self._prefix}/start")
        return pages.error_page(
            fault, request_id=head.request_id, now=self._clock(), settings=self._page, start_url=start
        )

    async def unavailable(self, head: RequestHead) -> Reply:
        """``GET /oauth2/unavailable?rd=…``: no yes or no could be had; it leads to ``rd`` once one can be had.

        ``tries`` says how often the page has come back to ask, which it does less and less often.
        """
        parameters = query_parameters(head.query)
        back, tries = self._return_url(parameters, head.origin), _tries(parameters)
        if tries and await self._can_be_said(head):
            return pages.redirect(302, back)
        return pages.error_page(
            StoreFault("store_unavailable", retry_after=pages.back_off(tries, self._random(1)[0] / 256)),
            request_id=head.request_id,
            now=self._clock(),
            settings=self._page,
            retry_url=back,
            reload_url=f"{self._prefix}/unavailable?rd={quote(back, safe='/:')}&tries={min(tries + 1, 9)}",
        )

    async def _can_be_said(self, head: RequestHead) -> bool:
        """Whether it is known who asks."""
        ticket = self._cookies.ticket(head)
        try:
            if ticket is not None:
                await self._sessions.current(ticket)
        except (StoreFault, ProviderFault):
            return False
        return True

    async def sign_in(self, head: RequestHead) -> Reply:
        """The redirect that a navigation without a session gets: back to the very address that was asked."""
        target = ReturnTo.here(head) if head.method in {"GET", "HEAD"} else ReturnTo(self._login.landing)
        return await self.begin(head, target.url(head.origin), {})

    def _return_url(self, parameters: Mapping[str, Sequence[str]], origin: Origin) -> str:
        """The absolute URL that ``rd`` asks for, if it is one that a stranger may ask for; else the landing page."""
        wanted = parameters.get("rd", ())
        if len(wanted) == 1:
            for own in self._hosts.returnable(origin):
                target = ReturnTo.parse(wanted[0], own, self._prefix)
                if target is not None:
                    return target.url(own)
            if oidc.redirect_allowed(wanted[0], self._login.allowed_redirects):
                return wanted[0]
        return ReturnTo(self._login.landing).url(origin)

    async def begin(self, head: RequestHead, return_to: str, extra: Mapping[str, str]) -> Reply:
        """A sign-in that returns to this URL, with these parameters: at the provider, or where we sign in for all."""
        held = self._cookies.own.read(head.raw_headers)
        now = self._clock()
        if self._unkept_sign_ins(held, return_to, now) >= self._login.loop_limit:
            raise LoginFault(
                "login_loop", f"{self._login.loop_limit} sign-ins in {LOOP_WINDOW} s, and no session came back"
            )
        if self._hosts.home(head.origin) != head.origin:
            random, issuer = self._random(SECRET_BYTES), self._provider.settings.issuer
            pending = self._hosts.ask(head.origin, return_to, random=random, now=now, issuer=issuer)
            url = self._hosts.request_url(pending.redirect_uri, pending.state, extra)
        else:
            provider, pending = await self._provider.begin(self._redirect_uri(head.origin), return_to)
            url = oidc.authorization_url(provider, self._provider.settings, self._login, pending, extra)
            self._telemetry.metrics.logins_started.inc()
        name = self._cookies.own.login(login_suffix(pending.state))
        value = self._sealer.seal(pending, self._random(NONCE_BYTES))
        cookies = [*self._cookies.gone(self._surplus(held, len(name) + len(value), now))]
        status = 302 if head.method in {"GET", "HEAD"} else 303
        return pages.redirect(status, url, [*cookies, self._cookies.login(name, value, self._login.timeout)])

    def _redirect_uri(self, origin: Origin) -> str:
        return f"{origin}{self._prefix}/callback"

    def _surplus(self, held: Mapping[str, str], coming: int, now: Instant) -> Iterator[str]:
        """The cookies of unfinished sign-ins that make way for one more: those that are over, then the oldest."""
        pending = {name: value for name, value in held.items() if self._is_pending(name)}
        newest_first = sorted(pending, key=lambda name: LoginSealer.began(pending[name]), reverse=True)
        size = coming
        for count, name in enumerate(newest_first, start=2):
            size += len(name) + len(pending[name]) + 3
            too_old = now - LoginSealer.began(pending[name]) > self._login.timeout
            if too_old or count > self._login.max_pending or size > MAX_PENDING_BYTES:
                yield name

    def _is_pending(self, name: str) -> bool:
        return self._cookies.own.is_login(name) and name not in {self._cookies.tally, self._cookies.farewell}

    # ── sign-ins that the browser did not keep ──

    def _unkept_sign_ins(self, held: Mapping[str, str], return_to: str, now: Instant) -> int:
        """How many there were of late that led to this very page: a loop goes round one, many tabs are at many."""
        found = _TALLY.fullmatch(held.get(self._cookies.tally, ""))
        if found is None or found["page"] != login_suffix(return_to):
            return 0
        return int(found["count"]) if now - int(found["since"]) < LOOP_WINDOW else 0

    def _counted(self, held: Mapping[str, str], return_to: str, now: Instant) -> Cookie:
        before = self._unkept_sign_ins(held, return_to, now)
        since = held[self._cookies.tally].split("-")[1] if before else str(int(now))
        return self._cookies.login(self._cookies.tally, f"{before + 1}-{since}-{login_suffix(return_to)}", LOOP_WINDOW)

    # ── the way back ──

    async def callback(self, head: RequestHead) -> Reply:
        """``GET /oauth2/callback``: the provider's answer (OpenID Connect Core §3.1.2.5), turned into a session."""
        try:
            callback = oidc.read_callback(head.query or "")
        except LoginFault as fault:
            self.failed(head, fault)
            raise
        held = self._cookies.own.read(head.raw_headers)
        name = self._cookies.own.login(login_suffix(callback.state))
        pending = self._sealer.open(held.get(name, ""), callback.state, self._redirect_uri(head.origin))
        try:
            if pending is None:
                reply = await self.stale(head, "this browser has no such sign-in under way")
            else:
                reply = await self._complete(head, callback, pending)
        except (LoginFault, ProviderFault, StoreFault) as fault:
            reply = self.refusal(head, fault, pending, callback)
        return reply.with_cookies(self._cookies.gone([name] if name in held else []))

    async def _complete(self, head: RequestHead, callback: oidc.Callback, pending: oidc.PendingLogin) -> Reply:
        now = self._clock()
        provider = await self._provider.metadata.get()
        code = oidc.check_callback(callback, pending, provider, now=now, timeout=self._login.timeout)
        if not await self._store.claim(f"used:{login_suffix(callback.state)}", self._login.timeout + 60):
            return await self.stale(head, "the sign-in has already been completed")
        received, claims = await self._provider.redeem(code, pending)
        signed_in = await self._sessions.create(
            claims,
            received,
            origin=str(head.origin),
            nonce=pending.nonce,
            started_at=pending.started_at,
            visitor=Visitor(head.client, head.headers.get("User-Agent", "")),
        )
        reply = await self.arrive(head, signed_in.ticket, pending.return_to)
        self._succeeded(head, signed_in, claims)
        return reply

    async def arrive(self, head: RequestHead, ticket: Ticket, return_to: str) -> Reply:
        """The browser gets its session, and goes where it was going."""
        # The session that came along ends, whoever's it was: a planted one must not live on beside the new one.
        replaced = self._cookies.ticket(head)
        kept = replaced is not None and (replaced == ticket or await self._sessions.end(replaced.record_id))
        cookies = [self._cookies.session(ticket, head.origin)]
        if kept:
            cookies += self._cookies.gone([self._cookies.tally])
        else:
            cookies += [self._counted(self._cookies.own.read(head.raw_headers), return_to, self._clock())]
        return pages.redirect(303, return_to, cookies)

    async def stale(self, head: RequestHead, detail: str) -> Reply:
        """A reload, the back button, a bookmark, or somebody else's link: on to the site if signed in, else explain."""
        ticket = self._cookies.ticket(head)
        if ticket is not None and await self._sessions.peek(ticket) is not None:
            return pages.redirect(302, ReturnTo(self._login.landing).url(head.origin))
        raise LoginFault("login_unknown", detail)

    def refusal(
        self,
        head: RequestHead,
        fault: ProxyError,
        pending: oidc.PendingLogin | None,
        callback: oidc.Callback | None = None,
    ) -> Reply:
        """The page for a sign-in that cannot finish, with the provider's own words where it gave some.

        Another try is another sign-in to the same page: this address has a code in it, which no page repeats.
        """
        self.failed(head, fault)
        answer = None
        if callback is not None and callback.error:
            answer = pages.ProviderAnswer(callback.error, callback.error_description)
        start_url = self._start_url(pending.return_to if pending else "")
        return pages.error_page(
            fault,
            request_id=head.request_id,
            now=self._clock(),
            settings=self._page,
            # The provider would sign in the same account again without a question, so another one takes a sign-out.
            start_url=f"{self._prefix}/sign_out" if fault.code == "identity_unusable" else start_url,
            retry_url=start_url,
            answer=answer,
        )

    def _start_url(self, return_to: str) -> str:
        if self._hosts.is_request(return_to):
            return return_to
        start = f"{self._prefix}/start"
        url = f"{start}?rd={quote(return_to, safe='/:')}"
        return url if return_to and len(url) <= LONGEST_LINK else start

    def _succeeded(self, head: RequestHead, signed_in: SignedIn, claims: VerifiedClaims) -> None:
        self._telemetry.metrics.logins.inc("success", "")
        self._telemetry.audit(
            "login.succeeded",
            request_id=head.request_id,
            client_ip=head.client,
            sub=claims.subject,
            session=signed_in.ticket.record_id[:16],
            groups_count=len(signed_in.identity.groups),
        )

    def failed(self, head: RequestHead, fault: ProxyError) -> None:
        metrics, fields = self._telemetry.metrics, {"code": fault.code, "reason": fault.detail}
        metrics.logins.inc("failure", fault.code)
        self._telemetry.audit("login.failed", request_id=head.request_id, client_ip=head.client, **fields)
        if fault.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            self._telemetry.message("warning", "request.failed", request_id=head.request_id, route=head.path, **fields)


def _tries(parameters: Mapping[str, Sequence[str]]) -> int:
    """The one digit that a page of ours has sent; 0 for anything else."""
    said = parameters.get("tries", ())
    return int(said[0]) if len(said) == 1 and re.fullmatch("[0-9]", said[0]) else 0
