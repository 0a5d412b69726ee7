"""The way to the backend and back: what it is told, and its answer passed on as it comes."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from aiohttp import web

from ..errors import RequestFault, UpstreamFault
from ..messages import HeaderFilter, HeaderPlan, RawHeaders, RequestHead, canonical_name, forwarded_element
from ..policy import Nobody, Route
from ..rewriting import AnswerAddresses, Rewriting
from ..values import Origin
from .archive import SignedIn
from .exchange import Exchange, ask_for_body
from .front import CLOSES, GOES_ON, Written
from .sessions import Sessions
from .streams import Stream
from .telemetry import Telemetry
from .upgrade import SWITCHES, Upgrades
from .upstream import Backend, Body, NotConnected, UpstreamRequest, UpstreamResponse, Waits


@dataclass(slots=True)
class _Way:
    """What a route's settings come to on the way there and back; None where they ask for nothing."""

    route: Route
    name: str
    upstream: Backend
    headers: HeaderFilter
    keeps_authorization: bool
    rewriting: Rewriting | None
    waits: Waits | None
    addresses: AnswerAddresses | None
    host: str | None
    """What Host says, where it is not what the visitor says."""
    own: HeaderPlan
    """Headers that are the same in every request."""
    fixed: HeaderPlan
    """Those of the settings, which come in the place of any of the same name."""
    fixed_names: frozenset[str]


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
        if "Expect" in head.headers:
            await ask_for_body(exchange, head)
        exchange.upstream = way.name
        headers, ready = self._outbound(head, way, signed_in)
        request = UpstreamRequest(
            head.method.encode(), target.encode(), headers, _body(exchange.request), ready, accept, way.waits
        )
        began = time.perf_counter()
        try:
            response = await way.upstream.send(request)
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
            return await self._relay(exchange, head, way, response, signed_in)
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

    def _outbound(
        self, head: RequestHead, way: _Way, signed_in: SignedIn | None
    ) -> tuple[list[tuple[bytes, bytes]], bytes]:
        """What the backend reads: the client's headers without what it may not say, and the lines of our own."""
        headers = way.headers.to_backend(head.raw_headers, traced=head.traced)
        arrival = self._arrival(head.origin, head.client, head.peer, way.host, way.upstream.settings.forwarded)
        user = _NOBODY if signed_in is None else signed_in.plan
        if way.keeps_authorization and any(name.lower() == b"authorization" for name, _ in headers):
            user = HeaderPlan(user.without({b"authorization"}))
        headers.append((b"X-Request-Id", head.request_id.encode()))
        if way.upstream.settings.via:
            headers.append(_VIA)  # behind what those before us say (RFC 9110 §7.6.3)
        if way.fixed_names:
            return _beside(way, headers), _beside_lines(way, (arrival, way.own, user))
        return headers, b"".join((arrival.lines, way.own.lines, user.lines))

    async def _relay(
        self, exchange: Exchange, head: RequestHead, way: _Way, response: UpstreamResponse, signed_in: SignedIn | None
    ) -> Written:
        """Pass the answer on as it comes. Once its head is out, only a broken connection can tell of a defect."""
        frames, route, addresses = _Framing(exchange, response), way.route, way.addresses
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
                if exchange.send(start + frames.last(response.rest())):
                    await exchange.drained()
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
        parts = [b"HTTP/1.1 %d %b" % (response.status, response.reason), *map(b": ".join, lines)]
        if self._chunked:
            parts.append(b"Transfer-Encoding: chunked")
        elif response.content_length is not None:
            parts.append(b"Content-Length: %d" % response.content_length)
        if not self._goes_on:
            parts.append(b"Connection: close")
        elif self._say_keep_alive:
            parts.append(b"Connection: keep-alive")
        parts.append(b"\r\n")
        return b"\r\n".join(parts)

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
    prefix = route.rewriting.prefix if route.rewriting is not None else ""
    return _Way(
        route,
        name,
        upstreams[name],
        headers,
        route.settings.authorization == "keep",
        route.rewriting,
        None if timeout is None else Waits.of(timeout, timeout),
        addresses or None,
        None if settings.host_header == "public" else upstreams[name].authority.decode(),
        _plan({"X-Forwarded-Prefix": prefix} if prefix else {}),
        _plan(settings.fixed_headers),
        frozenset(map(canonical_name, settings.fixed_headers)),
    )


def _rewritten(head: RequestHead, rewriting: Rewriting) -> str:
    path = rewriting.inward(head.path)
    return path if head.query is None else f"{path}?{head.query}"


def _beside(way: _Way, headers: RawHeaders) -> list[tuple[bytes, bytes]]:
    """The headers but for those whose names could be taken for one of the settings."""
    return [header for header in headers if canonical_name(header[0].decode("latin-1")) not in way.fixed_names]


def _beside_lines(way: _Way, plans: Iterable[HeaderPlan]) -> bytes:
    kept = [header for plan in plans for header in _beside(way, plan.set)]
    return HeaderPlan((*kept, *way.fixed.set)).lines


_NOBODY = HeaderPlan(())
_VIA = (b"Via", b"1.1 oidc_proxy")


def _arrival(origin: Origin, client: str, peer: str, host: str | None, forwarded: bool) -> HeaderPlan:
    """Where the request goes, and how the visitor reached us, in the two languages that backends read."""
    hops = [client] if client == peer else [client, peer]
    headers = {
        "Host": host or origin.authority,
        "X-Forwarded-Host": origin.authority,
        "X-Forwarded-Proto": origin.scheme,
        "X-Forwarded-Port": str(origin.port),
        "X-Forwarded-For": ", ".join(hops),
    }
    if forwarded:
        first, *others = (forwarded_element(hop) for hop in hops)
        headers["Forwarded"] = ", ".join([f'{first};host="{origin.authority}";proto={origin.scheme}', *others])
    return _plan(headers)


def _plan(headers: Mapping[str, str]) -> HeaderPlan:
    return HeaderPlan(tuple((name.encode(), value.encode()) for name, value in headers.items()))


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
