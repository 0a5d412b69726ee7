"""The way to the backend and back: what it is told, and its answer passed on as it comes."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from aiohttp import web

from ..errors import RequestFault, UpstreamFault
from ..messages import HeaderFilter, RawHeaders, RequestHead, canonical_name, forwarded_element
from ..policy import Nobody, Route
from ..rewriting import AnswerAddresses, Rewriting
from ..values import Origin
from .archive import SignedIn
from .exchange import CLOSES, GOES_ON, Exchange, Written, ask_for_body
from .sessions import Sessions
from .streams import Stream
from .telemetry import Telemetry
from .upgrade import SWITCHES, Upgrades
from .upstream import Backend, Body, NotConnected, UpstreamResponse, Waits


@dataclass(slots=True)
class _Way:
    """What a route's settings come to on the way there and back; None where they ask for nothing."""

    name: str
    upstream: Backend
    headers: HeaderFilter
    keeps_authorization: bool
    rewriting: Rewriting | None
    waits: Waits | None
    addresses: AnswerAddresses | None


class Forwarding:
    """Passes requests that may pass to their backends."""

    def __init__(
        self,
        routes: Sequence[Route],
        upstreams: Mapping[str, Backend],
        headers: HeaderFilter,
        headers_with_authorization: HeaderFilter,
        sessions: Sessions,
        telemetry: Telemetry,
    ) -> None:
        self._headers, self._sessions, self._telemetry = headers, sessions, telemetry
        filters = {"replace": headers, "keep": headers_with_authorization}
        self._ways = {
            route: _way(route, upstreams, filters[route.settings.authorization])
            for route in routes
            if route.reply is None and (route.upstream or "default") in upstreams
        }
        # What a client's requests tell the backend about the way that they came is the same for all of them.
        self._arrival = lru_cache(1024)(_arrival)
        self._streams: set[Stream] = set()
        self._draining = False
        self._upgrades = Upgrades(sessions, headers, telemetry.metrics)

    async def forward(self, exchange: Exchange, head: RequestHead, route: Route, signed_in: SignedIn | None) -> Written:
        way = self._ways.get(route)
        if way is None:
            raise RequestFault("not_found", "there is no upstream: requests pass at the proxies that ask about them")
        target = head.target if way.rewriting is None else _rewritten(head, way.rewriting)
        accept = self._upgrades.expected(exchange, head, route, signed_in, way.upstream)
        await ask_for_body(exchange, head)
        exchange.upstream = way.name
        headers = self._outbound(head, way, signed_in)
        body = _body(exchange.request)
        began = time.perf_counter()
        try:
            response = await way.upstream.send(
                head.method.encode(), target.encode(), headers, body, accept=accept, waits=way.waits
            )
        except UpstreamFault as fault:
            self._count(exchange, began, fault.code)
            if isinstance(fault, NotConnected):
                self._telemetry.metrics.connect_errors.inc(exchange.upstream, fault.reason)
            raise
        exchange.upstream_status = response.status
        self._count(exchange, began, response.status)
        try:
            if response.status == SWITCHES:
                return await self._upgrades.join(exchange, route, signed_in, way.upstream, response)
            return await self._relay(exchange, head, route, way.addresses, response, signed_in)
        finally:
            response.abort()

    async def drain(self, seconds: float) -> None:
        """End what would go on for ever: event streams as they end by themselves, WebSockets with 1001.

        Returns when the WebSockets are gone, or were broken off after so long. Whatever else is under way goes on.
        """
        self._draining = True
        for stream in tuple(self._streams):
            stream.drain()
        await self._upgrades.drain(seconds)

    def _count(self, exchange: Exchange, began: float, code: str | int) -> None:
        """The backend's answer begins with this status, or there will be none, for the reason with this code."""
        exchange.upstream_seconds = time.perf_counter() - began
        self._telemetry.metrics.upstream(exchange.upstream, code, exchange.upstream_seconds)

    def _outbound(self, head: RequestHead, way: _Way, signed_in: SignedIn | None) -> list[tuple[bytes, bytes]]:
        """What the backend reads: the client's headers without what it may not say, and then our own."""
        settings = way.upstream.settings
        host = head.origin.authority.encode() if settings.host_header == "public" else way.upstream.authority
        headers = [(b"Host", host), *way.headers.to_backend(head.raw_headers, traced=head.traced)]
        headers += self._arrival(head.origin, head.client, head.peer, settings.forwarded)
        headers.append((b"X-Request-Id", head.request_id.encode()))
        if settings.via:
            headers.append(VIA)
        if signed_in is not None:
            headers += _beside(headers, signed_in) if way.keeps_authorization else signed_in.plan.set
        if way.rewriting is not None and way.rewriting.prefix:
            headers.append((b"X-Forwarded-Prefix", way.rewriting.prefix.encode()))
        fixed = way.upstream.fixed_headers
        if fixed:
            names = {canonical_name(name) for name in fixed}
            headers = [pair for pair in headers if canonical_name(pair[0].decode("latin-1")) not in names]
            headers += [(name.encode(), value.encode()) for name, value in fixed.items()]
        return headers

    async def _relay(
        self,
        exchange: Exchange,
        head: RequestHead,
        route: Route,
        addresses: AnswerAddresses | None,
        response: UpstreamResponse,
        signed_in: SignedIn | None,
    ) -> Written:
        """Pass the answer on as it comes. Once its head is out, only a broken connection can tell of a defect."""
        frames = _Framing(exchange, response)
        private = not isinstance(route.access, Nobody)
        lines = self._headers.to_client(response.headers, private=private, shared=route.settings.shared_cache)
        status = response.status
        if addresses is not None and (300 <= status < 400 or status == 201 or addresses.on_every_status):
            lines = addresses.rewritten(lines, head.origin)
        lines.append((b"X-Request-Id", exchange.request_id.encode()))
        exchange.status = response.status
        start = frames.head(lines)
        try:
            if response.bodiless:
                await exchange.write(start)
                return frames.connection
            if response.ended:  # the usual small answer, whole in one write
                await exchange.write(start + frames.last(await response.read()))
                return frames.connection
            stream = Stream(response, exchange)
            with stream.held(self._sessions, signed_in, route, self._streams):
                if self._draining:
                    stream.drain()
                await exchange.write(start)
                while data := await stream.read():
                    await exchange.write(frames.piece(data))
            if stream.over and not stream.ends_cleanly:
                return exchange.abort()
            await exchange.write(frames.last(b""))
        except UpstreamFault as fault:
            exchange.reason = fault.code
            self._telemetry.message(
                "warning", "upstream.broke_off", request_id=exchange.request_id, reason=fault.detail
            )
            return exchange.abort()
        return frames.connection


class _Framing:
    """How one answer's body is delimited for the client (RFC 9112 §6): length, chunks, or the connection's end."""

    def __init__(self, exchange: Exchange, response: UpstreamResponse) -> None:
        self._response = response
        unlimited = response.content_length is None and not response.bodiless
        modern = exchange.request.version >= (1, 1)
        self._chunked = unlimited and modern
        self._goes_on = exchange.may_go_on and (modern or not unlimited)
        self._say_keep_alive = self._goes_on and not modern
        self.connection = GOES_ON if self._goes_on else CLOSES

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


def _way(route: Route, upstreams: Mapping[str, Backend], headers: HeaderFilter) -> _Way:
    name = route.upstream or "default"
    settings, timeout = upstreams[name].settings, route.settings.timeout
    addresses = AnswerAddresses(
        settings.own_origins,
        route.rewriting,
        location=settings.rewrite_location,
        cookie_path=settings.rewrite_cookie_path,
        cookie_domain=settings.rewrite_cookie_domain,
    )
    return _Way(
        name,
        upstreams[name],
        headers,
        route.settings.authorization == "keep",
        route.rewriting,
        None if timeout is None else Waits.of(timeout, timeout),
        addresses or None,
    )


def _rewritten(head: RequestHead, rewriting: Rewriting) -> str:
    path = rewriting.inward(head.path)
    return path if head.query is None else f"{path}?{head.query}"


def _beside(headers: RawHeaders, signed_in: SignedIn) -> RawHeaders:
    """What announces the user, without a token beside the client's own Authorization."""
    given = any(name.lower() == b"authorization" for name, _ in headers)
    return [pair for pair in signed_in.plan.set if not (given and pair[0].lower() == b"authorization")]


VIA = (b"Via", b"1.1 oidc_proxy")


def _arrival(origin: Origin, client: str, peer: str, forwarded: bool) -> list[tuple[bytes, bytes]]:
    """How the visitor reached us, in the two languages that backends read."""
    hops = [client] if client == peer else [client, peer]
    headers = {
        "X-Forwarded-Host": origin.authority,
        "X-Forwarded-Proto": origin.scheme,
        "X-Forwarded-Port": str(origin.port),
        "X-Forwarded-For": ", ".join(hops),
    }
    if forwarded:
        first, *others = (forwarded_element(hop) for hop in hops)
        headers["Forwarded"] = ", ".join([f'{first};host="{origin.authority}";proto={origin.scheme}', *others])
    return [(name.encode(), value.encode()) for name, value in headers.items()]


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
