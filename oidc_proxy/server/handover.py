"""One sign-in for several hosts: its session goes from the origin where it happened to the one that wants it.

Nothing is written for a visitor without a session, as in every sign-in.
"""

from __future__ import annotations

from .. import oidc, pages
from ..errors import LoginFault, StoreFault
from ..handover import CODE_LIFETIME, SECRET_BYTES, Code, HandoverRequest, answer_url
from ..messages import Reply, RequestHead, query_parameters
from ..sessions import NONCE_BYTES, LoginSealer, Ticket, login_suffix
from .endpoints import Tools
from .login import Login


class Handover:
    """Both ends of a hand-over. They raise ProxyError for whatever ends in an error page."""

    def __init__(self, tools: Tools, login: Login, sealer: LoginSealer, settings: oidc.LoginSettings) -> None:
        self._sessions, self._store, self._cookies, self._hosts = (
            tools.sessions,
            tools.store,
            tools.cookies,
            tools.hosts,
        )
        self._telemetry, self._clock, self._random = tools.telemetry, tools.clock, tools.random
        self._login, self._sealer, self._settings = login, sealer, settings

    # ── on the origin that signs in ──

    async def start(self, head: RequestHead) -> Reply:
        """``GET /oauth2/start``: a sign-in; or another origin of ours asks for the session, and gets it.

        Who is not signed in here, or is to sign in in a certain way (``prompt=login``), does so first, and comes back.
        """
        if "prefetch" in head.headers.get("Sec-Purpose", ""):
            return Reply(204, (("Cache-Control", "no-store"),))
        parameters = query_parameters(head.query)
        request = self._hosts.read_request(parameters, head.origin)
        if request is None:
            return await self._login.start(head)
        extra = oidc.requested_params(parameters, self._settings)
        ticket = None if extra else self._cookies.ticket(head)
        signed_in = await self._sessions.current(ticket) if ticket is not None else None
        if ticket is None or signed_in is None or not self._cookies.good(signed_in.origin, head.origin):
            return await self._login.begin(head, self._hosts.request_url(*request), extra)
        return await self._give(ticket, request)

    async def _give(self, ticket: Ticket, request: HandoverRequest) -> Reply:
        code = Code.mint(self._random(SECRET_BYTES))
        sealed = code.seal(ticket, request, self._random(NONCE_BYTES))
        await self._store.put(code.entry, sealed, CODE_LIFETIME)
        return pages.redirect(302, answer_url(request, code))

    # ── on the origin that wants the session ──

    async def receive(self, head: RequestHead) -> Reply:
        """``GET /oauth2/handover?code=…&state=…``: the session of a sign-in that this origin had asked for."""
        try:
            answer = oidc.read_callback(head.query or "")
        except LoginFault as fault:
            self._login.failed(head, fault)
            raise
        held = self._cookies.own.read(head.raw_headers)
        name = self._cookies.own.login(login_suffix(answer.state))
        redirect_uri = self._hosts.redirect_uri(head.origin)
        pending = self._sealer.open(held.get(name, ""), answer.state, redirect_uri)
        try:
            # Whoever brings a code has spent it, even without the cookie that belongs to it: one that a stranger asked
            # for, and that a victim's browser was made to bring, is no good to the stranger afterwards.
            ticket = await self._take(answer.code or "", HandoverRequest(redirect_uri, answer.state))
            if pending is None:
                reply = await self._login.stale(head, "this browser has not asked for a hand-over with this state")
            elif ticket is None:
                reply = await self._login.stale(head, "the code is none, was used before, or is too old")
            else:
                reply = await self._accept(head, ticket, pending)
        except (LoginFault, StoreFault) as fault:
            reply = self._login.refusal(head, fault, pending)
        return reply.with_cookies(self._cookies.gone([name] if name in held else []))

    async def _take(self, text: str, request: HandoverRequest) -> Ticket | None:
        """The ticket that a code stands for. Only one can remove the entry, whichever replicas are asked."""
        code = Code.read(text)
        sealed = await self._store.get(code.entry) if code is not None else None
        if code is None or sealed is None or not await self._store.drop(code.entry):
            return None
        return code.open(sealed, request)

    async def _accept(self, head: RequestHead, ticket: Ticket, pending: oidc.PendingLogin) -> Reply:
        if self._clock() - pending.started_at > self._settings.timeout:
            raise LoginFault("login_expired", f"it began {self._clock() - pending.started_at:.0f} seconds ago")
        session = await self._sessions.peek(ticket)
        if session is None or not self._cookies.good(session.origin, head.origin):
            raise LoginFault("login_expired", "the session ended before it was handed over")
        reply = await self._login.arrive(head, ticket, pending.return_to)
        self._telemetry.audit(
            "login.handed_over",
            request_id=head.request_id,
            client_ip=head.client,
            sub=session.claims.subject,
            session=ticket.record_id[:16],
        )
        return reply
