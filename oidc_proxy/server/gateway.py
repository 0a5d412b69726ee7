"""The guard and its door: every request is admitted here, or answered here."""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import Awaitable, Callable, Sequence
from functools import lru_cache
from http import HTTPStatus
from typing import TypeAlias

from aiohttp import HttpVersion10, HttpVersion11, web
from multidict import CIMultiDictProxy

from .. import pages, policy
from ..errors import InternalFault, ProviderFault, ProxyError, RequestFault
from ..forward_auth import Answer, Demands, Dialect, Question, denied, named
from ..identity import Identity
from ..messages import (
    Origins,
    RawHeaders,
    Reply,
    RequestHead,
    client_address,
    forwarded_for,
    http_date,
    is_navigation,
    is_trusted,
    request_id,
    split_target,
    trace_id,
)
from ..policy import Allow, Anybody, Nobody, Refuse, Route, Routes, SignIn, Verdict
from ..rewriting import GO_ELSEWHERE, destination
from ..values import Origin
from .account import Account
from .archive import SignedIn
from .checks import Checks
from .endpoints import Endpoint, Fields, Tools, formless, read_form
from .exchange import Asked, Exchange, ask_for_body
from .forwarding import Forwarding
from .front import CLOSES, GOES_ON, ClientRequest, ListenSettings
from .handover import Handover
from .login import Login
from .logout import Logout
from .metrics import METHODS
from .telemetry import Access


class Gateway:
    """Answers every request of the public listener, and of that for other proxies."""

    def __init__(
        self,
        tools: Tools,
        *,
        routes: Routes,
        login: Login,
        handover: Handover,
        logout: Logout,
        account: Account,
        forwarding: Forwarding,
        checks: Checks,
        public: Sequence[Origin],
        listen: ListenSettings,
    ) -> None:
        self._sessions, self._cookies, self._telemetry = tools.sessions, tools.cookies, tools.telemetry
        self._page, self._clock, prefix = tools.page, tools.clock, tools.prefix
        self._routes, self._login, self._forwarding, self._checks = routes, login, forwarding, checks
        self._origins, self._public, self._listen = Origins(public), public[0], listen
        self._traces = (listen.trace_context == "anybody", listen.trace_context != "nobody")
        trusted = self._trusted = (*listen.trusted_proxies, *checks.trusted)
        self._trusts = lru_cache(1024)(lambda peer: is_trusted(peer, trusted))
        self._address = lru_cache(1024)(lambda peer, line: client_address(peer, (line,), trusted))
        self._start_url = f"{prefix}/start"
        self._with_code = {f"{prefix}/callback", f"{prefix}/handover"}
        self._sign_out_url = f"{prefix}/sign_out"
        self._endpoints = {
            f"{prefix}/{name}": Endpoint(frozenset(methods.split()), answer, any_host="any host" in options)
            for name, methods, answer, *options in (
                ("start", "GET HEAD", formless(handover.start)),
                ("callback", "GET", formless(login.callback)),
                ("handover", "GET", formless(handover.receive)),
                ("sign_in", "GET HEAD", formless(lambda head: login.sign_in_page(head, checks.asked_for(head)))),
                ("unavailable", "GET HEAD", formless(login.unavailable)),
                ("sign_out", "GET HEAD POST", logout.sign_out),
                ("signed_out", "GET HEAD", formless(logout.signed_out)),
                ("backchannel_logout", "POST", logout.backchannel_logout, "any host"),
                ("frontchannel_logout", "GET", formless(logout.frontchannel_logout)),
                ("userinfo", "GET HEAD", formless(account.userinfo)),
                ("session", "GET HEAD POST DELETE", account.session),
                ("refresh", "POST", formless(account.refresh)),
            )
        }

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request of the public listener."""
        return await self._handle(request, self._answer)

    async def handle_check(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request of the listener that other proxies have to themselves."""
        return await self._handle(request, self._answer_check)

    async def _handle(self, request: web.BaseRequest, answer: _Answering) -> web.StreamResponse:
        """Nothing escapes: whatever goes wrong becomes an answer and a log line."""
        if not isinstance(request, ClientRequest):
            raise TypeError("not from our listener")
        exchange = Exchange(
            request=request,
            done=self._log,
            began=time.perf_counter(),
            request_id=self._telemetry.fresh_request_id(),
        )
        self._telemetry.metrics.in_flight += 1
        try:
            return await answer(exchange)
        except ProxyError as error:
            return await self._reply(exchange, self._failure(exchange, error))
        except (ConnectionError, asyncio.CancelledError):
            exchange.status = exchange.status or 499  # the client went away, as nginx counts it
            raise
        except Exception as error:
            return await self._break_down(exchange, error)
        finally:
            self._telemetry.metrics.in_flight -= 1
            self._count(exchange, exchange.request.method)
            if not exchange.lasts:
                exchange.finish()

    async def check(self, peer: str, question: Question, patience: float | None) -> Answer:
        """What Envoy is told over gRPC. Nothing escapes: an error would let pass wherever it is told to fail open.

        ``patience`` is how many seconds it waits; None if there is no time at all for this one.
        """
        asked = Asked(
            began=time.perf_counter(), request_id=self._telemetry.fresh_request_id(), dialect=self._checks.grpc
        )
        self._telemetry.metrics.in_flight += 1
        answer = Answer(499)  # unless there is one before Envoy goes away
        try:
            answer = await self._judge(asked, peer, question, patience)
        except ProxyError as error:
            answer = denied(self._failure(asked, error), asked.request_id)
        except Exception as error:
            answer = denied(self._defect(asked, error), asked.request_id)
        finally:
            self._telemetry.metrics.in_flight -= 1
            asked.status, asked.bytes_out = answer.status, len(answer.body)
            self._count(asked, question.method)
            agent = asked.head.headers.get("User-Agent") if asked.head else None
            self._access(asked, peer, question.method, "gRPC", agent)
        return answer

    async def _judge(self, asked: Asked, peer: str, question: Question, patience: float | None) -> Answer:
        self._checks.admit(peer)
        lines, dialect = question.lines(), self._checks.grpc
        heard = self._head(asked, peer, question.method, question.target, lines, named(lines))
        head, _ = self._checks.read(peer, heard, dialect)
        asked.head = head
        if patience is None:
            raise InternalFault("overloaded", "too many checks are under way")
        try:
            async with asyncio.timeout(patience):
                told = await self._tell(asked, head, dialect, question.demands())
        except TimeoutError:
            raise InternalFault("overloaded", f"no answer within {patience:.3f} s, after which nobody waits") from None
        if isinstance(told, Reply):
            return denied(told, asked.request_id)
        return self._checks.over_grpc(told, head, ours=head.path in self._endpoints)

    async def _answer(self, exchange: Exchange) -> web.StreamResponse:
        head = exchange.head = self._read_head(exchange)
        endpoint = self._endpoints.get(head.path)
        if endpoint is not None:
            exchange.route = head.path
            return await self._reply(exchange, await self._own(exchange, head, endpoint))
        dialect = self._checks.find_on_public(head.path)
        if dialect is not None:
            return await self._check(exchange, head, dialect)
        return await self._guard(exchange, head)

    async def _answer_check(self, exchange: Exchange) -> web.StreamResponse:
        dialect = self._checks.find(exchange.request.raw_path.partition("?")[0])
        if dialect is None:  # whichever host was asked: nothing of ours is here
            raise RequestFault("not_found", "only the dialects are answered on forward_auth.address")
        head = exchange.head = self._read_head(exchange)
        return await self._check(exchange, head, dialect)

    async def _break_down(self, exchange: Exchange, error: Exception) -> web.StreamResponse:
        reply = self._defect(exchange, error)
        return exchange.abort() if exchange.status else await self._reply(exchange, reply)

    def _defect(self, exchange: Asked, error: Exception) -> Reply:
        """What must not happen has happened. Only where it was is said: the text of an exception may quote anything."""
        where = traceback.extract_tb(error.__traceback__)[-1]
        detail = f"{type(error).__name__} at {where.name}:{where.lineno}"
        self._telemetry.message("error", "internal_error", request_id=exchange.request_id, reason=detail)
        return self._failure(exchange, InternalFault("internal_error", detail))

    # ── the head ──

    def _read_head(self, exchange: Exchange) -> RequestHead:
        request = exchange.request
        return self._head(
            exchange, exchange.peer, request.method, request.raw_path, request.raw_headers, request.headers
        )

    def _head(
        self,
        asked: Asked,
        peer: str,
        method: str,
        target: str,
        raw_headers: RawHeaders,
        headers: CIMultiDictProxy[str],
    ) -> RequestHead:
        believed = self._trusts(peer)
        if believed:
            asked.request_id = request_id(headers.get("X-Request-Id"), asked.request_id)
        if method in {"CONNECT", "TRACE"}:
            raise RequestFault("method_not_allowed", f"{method} is never passed on")
        path, query = split_target(target)
        return RequestHead(
            method=method,
            target=target,
            path=path,
            query=query,
            origin=self._origin(path, headers.get("Host", "")),
            client=self._client(peer, headers) if believed else peer,
            raw_headers=raw_headers,
            headers=headers,
            request_id=asked.request_id,
            peer=peer,
            traced=self._traces[believed],
        )

    def _client(self, peer: str, headers: CIMultiDictProxy[str]) -> str:
        """For whom a trusted peer asks."""
        name = self._listen.client_address_header
        lines = headers.getall(name, ())
        if name == "X-Forwarded-For" and len(lines) == 1 and len(lines[0]) < _LONGEST_REMEMBERED:
            return self._address(peer, lines[0])
        chain = lines if name == "X-Forwarded-For" else forwarded_for(lines)
        return client_address(peer, chain, self._trusted)

    def _origin(self, path: str, host: str) -> Origin:
        """Which of our origins was asked. Whoever calls us by another name may only call what is meant for that."""
        endpoint = self._endpoints.get(path)
        any_host = endpoint.any_host if endpoint is not None else self._checks.find(path) is not None
        return self._public if any_host else self._origins.find(host)

    # ── our own endpoints ──

    async def _own(self, exchange: Exchange, head: RequestHead, endpoint: Endpoint) -> Reply:
        if head.method not in endpoint.methods:
            reply = self._failure_for(head, RequestFault("method_not_allowed", f"{head.method} on an endpoint of ours"))
            return Reply(reply.status, (*reply.headers, ("Allow", ", ".join(sorted(endpoint.methods)))), reply.body)
        if head.headers.get("Service-Worker") == "script":
            raise RequestFault("cross_site", "an endpoint of ours cannot be a service worker")

        async def form() -> Fields:
            await ask_for_body(exchange, head)
            return await read_form(exchange.request)

        return await endpoint.answer(head, form)

    # ── the guard ──

    async def _guard(self, exchange: Exchange, head: RequestHead) -> web.StreamResponse:
        """The door of the reverse proxy: whoever is admitted gets what the backend says."""
        route, signed_in, verdict = await self._admit(exchange, head)
        match verdict:
            case Allow():
                if route.reply is not None:
                    return await self._reply(exchange, route.reply)
                return await self._forwarding.forward(exchange, head, route, signed_in)
            case SignIn():
                if is_navigation(head):
                    return await self._reply(exchange, await self._login.sign_in(head))
                raise RequestFault("sign_in_required", "no valid session came with the request")
            case Refuse(reason, code):
                raise RequestFault(code, reason)

    async def _check(self, exchange: Exchange, asked: RequestHead, dialect: Dialect) -> web.StreamResponse:
        """The door of another proxy: it hears whether the request that it asks about may pass, and whose it is."""
        exchange.dialect = dialect
        head, demands = self._checks.read(exchange.peer, asked, dialect)
        exchange.head = head
        told = await self._tell(exchange, head, dialect, demands)
        if isinstance(told, Reply):
            return await self._reply(exchange, told)
        return await self._send(exchange, dialect.yes, told)

    async def _tell(self, asked: Asked, head: RequestHead, dialect: Dialect, demands: Demands) -> bytes | Reply:
        """What a proxy is told that asks: the header lines that let a request pass, or another answer."""
        if head.path in self._endpoints:  # it comes to us next, and is judged then; to ask for sign-in here is a loop
            asked.route = head.path
            return self._checks.nobody(dialect, head)
        route, signed_in, verdict = await self._admit(asked, head, demands)
        match verdict:
            case Allow():
                return self._checks.answer(dialect, head, route, signed_in)
            case SignIn():
                if is_navigation(head):
                    return dialect.sign_in(head)
                raise RequestFault("sign_in_required", "no valid session came with the request")
            case Refuse(reason, code):
                raise RequestFault(code, reason)

    async def _admit(
        self, exchange: Asked, head: RequestHead, demands: Demands = ()
    ) -> tuple[Route, SignedIn | None, Verdict]:
        """Which route, who asks, what follows: the one guard, whatever door it stands at."""
        route = policy.match(self._routes, host=head.origin.host, path=head.path, method=head.method)
        exchange.route = route.name
        if route.senders is not None:
            route.senders.check(head.method, head.origin, head.headers)
        if demands:
            route = policy.narrowed(route, demands)
        signed_in = await self._who(route, head)
        identity = signed_in.identity if signed_in is not None else None
        exchange.identity = identity
        verdict = policy.decide(route, identity)
        if head.method in GO_ELSEWHERE and isinstance(verdict, Allow):
            verdict = self._at_destination(head, identity)
        exchange.decision, exchange.reason = verdict.decision, verdict.reason
        return route, signed_in, verdict

    def _at_destination(self, head: RequestHead, identity: Identity | None) -> Verdict:
        """Who copies or moves something must be allowed to put it where it goes."""
        path = destination(head.headers.getall("Destination", ()))
        if path is None:
            return Allow()
        return policy.decide(policy.match(self._routes, host=head.origin.host, path=path, method="PUT"), identity)

    async def _who(self, route: Route, head: RequestHead) -> SignedIn | None:
        if isinstance(route.access, Nobody):
            return None
        ticket = self._cookies.ticket(head)
        if ticket is None:
            return None
        signed_in = self._sessions.at_hand(ticket)
        if signed_in is None:
            try:
                signed_in = await self._sessions.current(ticket)
            except ProviderFault:
                # The token has expired and cannot be renewed now. Where nobody needs to be signed in, go on without.
                if isinstance(route.access, Anybody):
                    return None
                raise
        if signed_in is not None and not self._cookies.good(signed_in.origin, head.origin):
            return None
        return signed_in

    # ── answers of our own ──

    def _failure(self, exchange: Asked, error: ProxyError) -> Reply:
        """The one place where a fault becomes an answer."""
        exchange.reason, exchange.detail = exchange.reason or error.code, error.detail
        exchange.decision = exchange.decision or "error"
        self._telemetry.metrics.errors.inc(error.code)
        head = exchange.head
        fields = {
            "request_id": exchange.request_id,
            "code": error.code,
            "reason": error.detail,
            "route": exchange.route,
        }
        if error.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            self._telemetry.message("warning", "request.failed", **fields)
        elif exchange.decision == "forbidden" and head is not None:
            self._telemetry.audit(
                "access.denied", client_ip=head.client, sub=exchange.subject, path=head.path, **fields
            )
        if head is None:
            reply = pages.problem(error, request_id=exchange.request_id)
            if error.code == "method_not_allowed":
                return Reply(reply.status, (*reply.headers, ("Allow", ", ".join(sorted(METHODS)))), reply.body)
            return reply
        reply = self._failure_for(head, error, exchange.account)
        return exchange.dialect.refuse(error, head, reply) if exchange.dialect is not None else reply

    def _failure_for(self, head: RequestHead, error: ProxyError, account: str = "") -> Reply:
        if not is_navigation(head):
            login_url = f"{head.origin}{self._start_url}"
            reply = pages.problem(error, request_id=head.request_id, login_url=login_url)
            if error.code == "websocket_version":
                return Reply(reply.status, (*reply.headers, *_OTHER_VERSION), reply.body)
            return reply
        return pages.error_page(
            error,
            request_id=head.request_id,
            now=self._clock(),
            settings=self._page,
            # Who may not open this is signed in: another account takes a sign-out, the provider's own included.
            start_url=self._sign_out_url if error.code == "access_denied" else self._start_url,
            # An address with a code in it is repeated by no page.
            retry_url=head.target if head.method == "GET" and head.path not in self._with_code else None,
            account=account or None,
        )

    async def _reply(self, exchange: Exchange, reply: Reply) -> web.StreamResponse:
        fields = "".join([f"{name}: {value}\r\n" for name, value in reply.headers])
        return await self._send(exchange, reply.status, fields.encode("ascii"), reply.body)

    async def _send(self, exchange: Exchange, status: int, fields: bytes, body: bytes = b"") -> web.StreamResponse:
        request = exchange.request
        goes_on = exchange.may_go_on
        exchange.status = status
        length = "" if status == HTTPStatus.NO_CONTENT else f"Content-Length: {len(body)}\r\n"
        connection = ""
        if not goes_on:
            connection = "Connection: close\r\n"
        elif request.version < (1, 1):
            connection = "Connection: keep-alive\r\n"
        date = http_date(int(self._clock()))
        rest = f"Date: {date}\r\nX-Request-Id: {exchange.request_id}\r\n{length}{connection}\r\n".encode("ascii")
        await exchange.write(_STATUS_LINES[status] + fields + rest + (b"" if request.method == "HEAD" else body))
        return GOES_ON if goes_on else CLOSES

    # ── what was seen ──

    def _count(self, exchange: Asked, method: str) -> None:
        """Once it is answered: of a WebSocket, that is the handshake."""
        duration = time.perf_counter() - exchange.began  # uvloop's own time is in milliseconds
        method = exchange.head.method if exchange.head else method
        self._telemetry.metrics.request(
            exchange.route, method, exchange.status, exchange.decision, exchange.reason, duration
        )

    def _log(self, exchange: Exchange) -> None:
        request = exchange.request
        exchange.bytes_in += request.content.total_bytes
        agent, protocol = request.headers.get("User-Agent"), _PROTOCOLS.get(request.version)
        self._access(exchange, exchange.peer, request.method, protocol, agent)

    def _access(self, exchange: Asked, peer: str, method: str, protocol: str | None, agent: str | None) -> None:
        head = exchange.head
        duration = time.perf_counter() - exchange.began
        if self._telemetry.settings.access:
            self._telemetry.access(
                Access(
                    request_id=exchange.request_id,
                    trace_id=trace_id(head) if head else None,
                    client_ip=head.client if head else peer,
                    method=head.method if head else method,
                    host=head.origin.authority if head else None,
                    path=head.path if head else None,
                    protocol=protocol,
                    status=exchange.status,
                    bytes_in=exchange.bytes_in,
                    bytes_out=exchange.bytes_out,
                    duration_ms=int(duration * 1_000_000) / 1000,
                    route=exchange.route,
                    decision=exchange.decision,
                    reason=exchange.reason,
                    detail=exchange.detail or None,
                    upstream=exchange.upstream or None,
                    upstream_status=exchange.upstream_status or None,
                    upstream_duration_ms=int(exchange.upstream_seconds * 1_000_000) / 1000 or None,
                    sub=exchange.subject or None,
                    user_agent=agent,
                )
            )


_Answering: TypeAlias = Callable[[Exchange], Awaitable[web.StreamResponse]]

_LONGEST_REMEMBERED = 100
_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}
_OTHER_VERSION = (("Sec-WebSocket-Version", "13"), ("Upgrade", "websocket"), ("Connection", "Upgrade"))
"""What an answer of 426 says (RFC 6455 §4.4, RFC 9110 §15.5.22)."""
_PROTOCOLS = {HttpVersion11: "HTTP/1.1", HttpVersion10: "HTTP/1.0"}
