"""The guard and its door: every request is admitted here, or answered here.

aiohttp parses and keeps the connection; answers are written as bytes that we compose ourselves, because a proxy must
pass on what it was given and an HTTP library's header objects would change it.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import traceback
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from .. import pages, policy
from ..errors import InternalFault, ProviderFault, ProxyError, RequestFault, UpstreamFault
from ..messages import (
    EndpointSettings,
    HeaderFilter,
    ListenSettings,
    Origins,
    Reply,
    RequestHead,
    canonical_name,
    client_address,
    http_date,
    is_navigation,
    request_id,
    split_target,
)
from ..policy import Allow, Anybody, Nobody, Refuse, Route, Routes, SignIn
from ..values import Instant, Origin
from .account import Account
from .archive import SignedIn
from .endpoints import Endpoint, Fields, formless, read_form
from .login import Cookies, Login
from .logout import Logout
from .sessions import Sessions
from .streams import Stream
from .telemetry import Telemetry
from .upstream import Body, Upstream, UpstreamResponse


class Written(web.StreamResponse):
    """An answer whose bytes are on the wire already: it tells aiohttp only whether the connection goes on."""

    def __init__(self, keep_alive: bool) -> None:
        self._goes_on = keep_alive

    @property
    def keep_alive(self) -> bool:
        return self._goes_on

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        return None


_GOES_ON, _CLOSES = Written(True), Written(False)


@dataclass(slots=True)
class Exchange:
    """What is known of one request so far; at its end, what the access log says."""

    request: web.BaseRequest
    began: float
    request_id: str
    head: RequestHead | None = None
    route: str = ""
    decision: str = ""
    reason: str = ""
    detail: str = ""
    user: str = ""
    account: str = ""
    status: int = 0
    bytes_out: int = 0
    upstream_status: int = 0
    misframed: bool = False
    """Where the request ends is doubtful: the connection must end with the answer (RFC 9112 §9.6)."""


class Gateway:
    """Answers every request of the public listener."""

    def __init__(
        self,
        *,
        routes: Routes,
        sessions: Sessions,
        login: Login,
        logout: Logout,
        account: Account,
        cookies: Cookies,
        upstreams: Mapping[str, Upstream],
        headers: HeaderFilter,
        public: Sequence[Origin],
        listen: ListenSettings,
        endpoints: EndpointSettings,
        page: pages.PageSettings,
        telemetry: Telemetry,
        clock: Callable[[], Instant],
    ) -> None:
        self._routes, self._sessions, self._login, self._cookies = routes, sessions, login, cookies
        self._upstreams, self._headers = upstreams, headers
        self._origins, self._public, self._trusted = Origins(public), public[0], listen.trusted_proxies
        self._page, self._telemetry, self._clock = page, telemetry, clock
        self._start_url, self._callback_path = f"{endpoints.prefix}/start", f"{endpoints.prefix}/callback"
        self._sign_out_url = f"{endpoints.prefix}/sign_out"
        self._endpoints = {
            f"{endpoints.prefix}/{name}": Endpoint(frozenset(methods.split()), answer, any_host="any host" in options)
            for name, methods, answer, *options in (
                ("start", "GET HEAD", formless(login.start)),
                ("callback", "GET", formless(login.callback)),
                ("sign_out", "GET HEAD POST", logout.sign_out),
                ("signed_out", "GET HEAD", formless(logout.signed_out)),
                ("backchannel_logout", "POST", logout.backchannel_logout, "any host"),
                ("frontchannel_logout", "GET", formless(logout.frontchannel_logout)),
                ("userinfo", "GET HEAD", formless(account.userinfo)),
                ("session", "GET HEAD POST DELETE", account.session),
                ("refresh", "POST", formless(account.refresh)),
            )
        }
        # What every request of an origin tells the backend about how the visitor reached us.
        self._arrival = {origin: _arrival_headers(origin) for origin in public}

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request. Nothing escapes: whatever goes wrong becomes an answer and a log line."""
        exchange = Exchange(request, asyncio.get_running_loop().time(), self._telemetry.fresh_request_id())
        self._telemetry.metrics.in_flight.inc()
        try:
            return await self._answer(exchange)
        except (ConnectionError, asyncio.CancelledError):
            exchange.status = exchange.status or 499  # the client went away, as nginx counts it
            raise
        finally:
            self._telemetry.metrics.in_flight.dec()
            self._log(exchange)

    async def _answer(self, exchange: Exchange) -> web.StreamResponse:
        try:
            head = exchange.head = self._read_head(exchange)
            endpoint = self._endpoints.get(head.path)
            if endpoint is not None:
                exchange.route = head.path
                return await self._reply(exchange, await self._own(exchange, head, endpoint))
            return await self._guard(exchange, head)
        except ProxyError as error:
            return await self._reply(exchange, self._failure(exchange, error))
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            detail = f"{type(error).__name__} at {where.name}:{where.lineno}"
            self._telemetry.message("error", "internal_error", request_id=exchange.request_id, reason=detail)
            if exchange.status:
                return self._abort(exchange)
            return await self._reply(exchange, self._failure(exchange, InternalFault("internal_error", detail)))

    # ── the head ──

    def _read_head(self, exchange: Exchange) -> RequestHead:
        request = exchange.request
        peer = _peer(request)
        headers = request.headers
        identifier = request_id(peer, headers.get("X-Request-Id"), exchange.request_id, self._trusted)
        exchange.request_id = identifier
        if request.method in {"CONNECT", "TRACE"}:
            raise RequestFault("method_not_allowed", f"{request.method} is never passed on")
        coding = headers.get("Transfer-Encoding")
        if coding is not None and coding.lower() != "chunked":
            exchange.misframed = True
            raise RequestFault("bad_request", "a transfer coding other than chunked")  # RFC 9112 §6.1
        target = request.raw_path
        path, query = split_target(target)
        return RequestHead(
            method=request.method,
            target=target,
            path=path,
            query=query,
            origin=self._origin(path, headers.get("Host", "")),
            client=client_address(peer, headers.getall("X-Forwarded-For", ()), self._trusted),
            raw_headers=request.raw_headers,
            headers=headers,
            request_id=identifier,
        )

    def _origin(self, path: str, host: str) -> Origin:
        """Which of our origins was asked. Whoever calls us by another name may only call what is meant for that."""
        endpoint = self._endpoints.get(path)
        return self._public if endpoint is not None and endpoint.any_host else self._origins.find(host)

    # ── our own endpoints ──

    async def _own(self, exchange: Exchange, head: RequestHead, endpoint: Endpoint) -> Reply:
        if head.method not in endpoint.methods:
            reply = self._failure_for(head, RequestFault("method_not_allowed", f"{head.method} on an endpoint of ours"))
            return Reply(reply.status, (*reply.headers, ("Allow", ", ".join(sorted(endpoint.methods)))), reply.body)
        if head.headers.get("Service-Worker") == "script":
            raise RequestFault("cross_site", "an endpoint of ours cannot be a service worker")

        async def form() -> Fields:
            await self._continue(exchange, head)
            return await read_form(exchange.request)

        return await endpoint.answer(head, form)

    # ── the guard ──

    async def _guard(self, exchange: Exchange, head: RequestHead) -> web.StreamResponse:
        """Which route, who asks, what follows: the only way to a backend."""
        route = policy.match(self._routes, host=head.origin.host, path=head.path, method=head.method)
        exchange.route = route.name
        signed_in = await self._who(route, head)
        if signed_in is not None:
            identity = signed_in.identity
            exchange.user = identity.subject
            exchange.account = identity.preferred_username or identity.email or identity.user
        match policy.decide(route, signed_in.identity if signed_in else None):
            case Allow():
                exchange.decision = "allow"
                return await self._forward(exchange, head, route, signed_in)
            case SignIn():
                exchange.decision = "login"
                if is_navigation(head):
                    return await self._reply(exchange, await self._login.sign_in(head))
                raise RequestFault("sign_in_required", "no valid session came with the request")
            case Refuse(reason, code):
                exchange.decision, exchange.reason = "forbidden", reason
                raise RequestFault(code, reason)

    async def _who(self, route: Route, head: RequestHead) -> SignedIn | None:
        if isinstance(route.access, Nobody):
            return None
        ticket = self._cookies.ticket(head)
        if ticket is None:
            return None
        try:
            signed_in = await self._sessions.current(ticket)
        except ProviderFault:
            # The token has expired and cannot be renewed now. Where nobody needs to be signed in, go on without.
            if isinstance(route.access, Anybody):
                return None
            raise
        if signed_in is not None and not self._cookies.shared and signed_in.origin != str(head.origin):
            return None
        return signed_in

    # ── the way to the backend and back ──

    async def _forward(
        self, exchange: Exchange, head: RequestHead, route: Route, signed_in: SignedIn | None
    ) -> web.StreamResponse:
        upstream = self._upstreams[route.upstream or "default"]
        await self._continue(exchange, head)
        headers = self._outbound(exchange, head, upstream, signed_in)
        body = _body(exchange.request)
        response = await upstream.send(head.method.encode(), head.target.encode(), headers, body)
        exchange.upstream_status = response.status
        try:
            return await self._relay(exchange, route, response, signed_in)
        finally:
            response.abort()

    async def _continue(self, exchange: Exchange, head: RequestHead) -> None:
        """Ask for the body of a client that waits to be asked (RFC 9110 §10.1.1), now that it may be sent on."""
        expectation = head.headers.get("Expect")
        if expectation is None:
            return
        if expectation.lower() != "100-continue":
            raise RequestFault("expectation_failed", "Expect has something else than 100-continue")
        if exchange.request.version >= (1, 1):  # older clients do not know what that is
            await exchange.request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _outbound(
        self, exchange: Exchange, head: RequestHead, upstream: Upstream, signed_in: SignedIn | None
    ) -> list[tuple[bytes, bytes]]:
        """What the backend reads: the client's headers without what it may not say, and then our own."""
        host, *arrival = self._arrival[head.origin]
        peer = _peer(exchange.request)
        chain = head.client if head.client == peer else f"{head.client}, {peer}"
        headers = [host if upstream.settings.host_header == "public" else (b"Host", upstream.authority)]
        headers += self._headers.to_backend(head.raw_headers)
        headers += arrival
        headers.append((b"X-Forwarded-For", chain.encode()))
        headers.append((b"X-Request-Id", head.request_id.encode()))
        if signed_in is not None:
            headers += signed_in.plan.set
        fixed = upstream.settings.headers
        if fixed:
            names = {canonical_name(name) for name in fixed}
            headers = [pair for pair in headers if canonical_name(pair[0].decode("latin-1")) not in names]
            headers += [(name.encode(), value.encode()) for name, value in fixed.items()]
        return headers

    async def _relay(
        self, exchange: Exchange, route: Route, response: UpstreamResponse, signed_in: SignedIn | None
    ) -> web.StreamResponse:
        """Pass the answer on as it comes. Once its head is out, only a broken connection can tell of a defect."""
        request = exchange.request
        frames = _Framing(request, response)
        lines = self._headers.to_client(response.headers)
        if not isinstance(route.access, Nobody) and not any(name.lower() == b"cache-control" for name, _ in lines):
            # Another user behind a shared cache must not get it (RFC 9111 §3.5 does not cover cookies).
            lines += [(b"Cache-Control", b"private, no-store"), (b"Vary", b"Cookie")]
        lines.append((b"X-Request-Id", exchange.request_id.encode()))
        exchange.status = response.status
        start = frames.head(lines)
        try:
            if response.bodiless:
                await self._write(exchange, start)
                return frames.connection
            if response.ended:  # the usual small answer, whole in one write
                await self._write(exchange, start + frames.last(await response.read()))
                return frames.connection
            stream = Stream(response, lambda: self._abort(exchange))
            with stream.held(self._sessions, signed_in):
                await self._write(exchange, start)
                while data := await stream.read():
                    await self._write(exchange, frames.piece(data))
            if stream.over:
                exchange.reason = "session_ended"
            if stream.over and not stream.ends_cleanly:
                return self._abort(exchange)
            await self._write(exchange, frames.last(b""))
        except UpstreamFault as fault:
            exchange.reason = fault.code
            self._telemetry.message(
                "warning", "upstream.broke_off", request_id=exchange.request_id, reason=fault.detail
            )
            return self._abort(exchange)
        return frames.connection

    async def _write(self, exchange: Exchange, data: bytes) -> None:
        if data:
            exchange.bytes_out += len(data)
            await exchange.request.writer.write(data)

    def _abort(self, exchange: Exchange) -> web.StreamResponse:
        transport = exchange.request.transport
        if transport is not None:
            # With a reset: to HTTP/1.0 the mere end of the connection is the regular end of a body (RFC 9112 §6.3).
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            transport.abort()
        return _CLOSES

    # ── answers of our own ──

    def _failure(self, exchange: Exchange, error: ProxyError) -> Reply:
        """The one place where a fault becomes an answer."""
        exchange.reason, exchange.detail = exchange.reason or error.code, error.detail
        exchange.decision = exchange.decision or "error"
        self._telemetry.metrics.errors.labels(error.code).inc()
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
            self._telemetry.audit("access.denied", client_ip=head.client, sub=exchange.user, path=head.path, **fields)
        if head is None:
            reply = pages.problem(error, request_id=exchange.request_id)
            if error.code == "method_not_allowed":
                return Reply(reply.status, (*reply.headers, ("Allow", ", ".join(sorted(_KNOWN_METHODS)))), reply.body)
            return reply
        return self._failure_for(head, error, exchange.account)

    def _failure_for(self, head: RequestHead, error: ProxyError, account: str = "") -> Reply:
        if not is_navigation(head):
            login_url = f"{head.origin}{self._start_url}"
            return pages.problem(error, request_id=head.request_id, login_url=login_url)
        return pages.error_page(
            error,
            request_id=head.request_id,
            now=self._clock(),
            settings=self._page,
            # Who may not open this is signed in: another account takes a sign-out, the provider's own included.
            start_url=self._sign_out_url if error.code == "access_denied" else self._start_url,
            # The callback's address has a code in it: no page repeats that.
            retry_url=head.target if head.method == "GET" and head.path != self._callback_path else None,
            account=account or None,
        )

    async def _reply(self, exchange: Exchange, reply: Reply) -> web.StreamResponse:
        request = exchange.request
        goes_on = not exchange.misframed and _may_go_on(request)
        exchange.status = reply.status
        phrase = HTTPStatus(reply.status).phrase
        lines = [f"HTTP/1.1 {reply.status} {phrase}", *(f"{name}: {value}" for name, value in reply.headers)]
        lines += [f"Date: {http_date(int(self._clock()))}", f"X-Request-Id: {exchange.request_id}"]
        if reply.status != HTTPStatus.NO_CONTENT:
            lines.append(f"Content-Length: {len(reply.body)}")
        if not goes_on:
            lines.append("Connection: close")
        elif request.version < (1, 1):
            lines.append("Connection: keep-alive")
        start = ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")
        await self._write(exchange, start if request.method == "HEAD" else start + reply.body)
        return _GOES_ON if goes_on else _CLOSES

    # ── what was seen ──

    def _log(self, exchange: Exchange) -> None:
        request, head = exchange.request, exchange.head
        duration = asyncio.get_running_loop().time() - exchange.began
        metrics = self._telemetry.metrics
        method = request.method if request.method in _KNOWN_METHODS else "other"
        metrics.requests.labels(exchange.route, method, exchange.status).inc()
        metrics.duration.labels(exchange.route).observe(duration)
        if exchange.decision:
            metrics.decisions.labels(exchange.decision, exchange.reason if exchange.decision == "error" else "").inc()
        if self._telemetry.settings.access:
            self._telemetry.write(
                "access",
                "info",
                request_id=exchange.request_id,
                client_ip=head.client if head else _peer(request),
                method=request.method,
                host=head.origin.authority if head else None,
                path=head.path if head else None,
                status=exchange.status,
                bytes_out=exchange.bytes_out,
                duration_ms=round(duration * 1000, 3),
                route=exchange.route,
                decision=exchange.decision,
                reason=exchange.reason,
                detail=exchange.detail or None,
                upstream_status=exchange.upstream_status or None,
                sub=exchange.user or None,
                user_agent=request.headers.get("User-Agent"),
            )


class _Framing:
    """How one answer's body is delimited for the client (RFC 9112 §6): length, chunks, or the connection's end."""

    def __init__(self, request: web.BaseRequest, response: UpstreamResponse) -> None:
        self._response = response
        unlimited = response.content_length is None and not response.bodiless
        modern = request.version >= (1, 1)
        self._chunked = unlimited and modern
        self._goes_on = _may_go_on(request) and (modern or not unlimited)
        self._say_keep_alive = self._goes_on and not modern
        self.connection = _GOES_ON if self._goes_on else _CLOSES

    def head(self, lines: list[tuple[bytes, bytes]]) -> bytes:
        """Status line and header section."""
        response = self._response
        parts = [b"HTTP/1.1 %d %b\r\n" % (response.status, response.reason)]
        parts += [b"%b: %b\r\n" % line for line in lines]
        if self._chunked:
            parts.append(b"Transfer-Encoding: chunked\r\n")
        elif response.content_length is not None:
            parts.append(b"Content-Length: %d\r\n" % response.content_length)
        if not self._goes_on:
            parts.append(b"Connection: close\r\n")
        elif self._say_keep_alive:
            parts.append(b"Connection: keep-alive\r\n")
        parts.append(b"\r\n")
        return b"".join(parts)

    def piece(self, data: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data

    def last(self, data: bytes) -> bytes:
        """The last piece, which may be empty, and the end."""
        if not self._chunked:
            return data
        return (self.piece(data) if data else b"") + b"0\r\n\r\n"


_KNOWN_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_RESET = struct.pack("ii", 1, 0)


def _may_go_on(request: web.BaseRequest) -> bool:
    """Whether another request may follow: asked for by the client, and nothing of this one's body is left unread."""
    body = request.content
    return request.keep_alive and (not request.body_exists or (body.at_eof() and body.exception() is None))


def _peer(request: web.BaseRequest) -> str:
    return request.remote or ""


def _arrival_headers(origin: Origin) -> list[tuple[bytes, bytes]]:
    return [
        (b"Host", origin.authority.encode()),
        (b"X-Forwarded-Host", origin.authority.encode()),
        (b"X-Forwarded-Proto", origin.scheme.encode()),
        (b"X-Forwarded-Port", str(origin.port).encode()),
    ]


def _body(request: web.BaseRequest) -> Body | None:
    if not request.body_exists:
        return None
    fault = request.content.exception()
    if fault is not None:  # the listener knows already that it will not do
        raise fault
    return _pieces(request), request.content_length


async def _pieces(request: web.BaseRequest) -> AsyncIterator[bytes]:
    while data := await request.content.readany():
        yield data
