"""Sessions at work: begin, use, end.

A request of a signed-in user is served from this process' memory: what was read of the store is kept until the store
announces a change of it (``cache``). Whatever cannot be known because the store does not answer is a StoreFault, and
never an end.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from .. import policy
from ..errors import LoginFault, StoreFault
from ..identity import Identity
from ..oidc import Tokens
from ..policy import Route
from ..sessions import Card, Freshness, Session, Ticket, freshness
from ..tokens import VerifiedClaims
from ..values import Instant
from .archive import UNKNOWN, Archive, SignedIn, Visitor, record_key
from .cache import Cache
from .refresh import Refresher
from .telemetry import Telemetry

JUST_ENDED = 120.0
"""Seconds for which a sign-in that was under way when its sessions were ended from outside is refused."""

LOOK_EVERY = 1.0
"""Seconds between two looks at the times of sessions on whose behalf something is open."""

CLOSED_AT_ONCE = 50
"""How much that is open on behalf of an ended session is closed before others get their turn."""


Close: TypeAlias = Callable[[str], None]
"""How to close what is open, for a reason: ``session_ended`` or ``access_denied``."""


@dataclass(eq=False, slots=True)
class _Open:
    """What is open on behalf of a session, each with the route that let it pass."""

    ticket: Ticket
    identity: Identity
    """As it was when every route was last asked."""
    routes: dict[Close, Route] = field(default_factory=dict)


class Sessions:
    """All sessions, as this process sees them. StoreFault may come from every method; it never means an end."""

    def __init__(self, archive: Archive, cache: Cache[SignedIn], refresher: Refresher, telemetry: Telemetry) -> None:
        self._archive, self._cache, self._refresher, self._telemetry = archive, cache, refresher, telemetry
        self._settings, self._clock = archive.settings, archive.clock
        self._reads: dict[Ticket, asyncio.Task[SignedIn | None]] = {}
        self._touching: dict[str, Instant] = {}
        self._background: set[asyncio.Task[Any]] = set()
        self._holds: dict[str, _Open] = {}
        self._watch: asyncio.Task[None] | None = None
        archive.store.watch(cache)
        cache.on_change = self._changed

    @property
    def busy(self) -> bool:
        """Whether something is being done beside the requests."""
        return bool(self._background) or self._refresher.busy

    async def close(self) -> None:
        """Finish what is under way."""
        if self._watch is not None:
            self._watch.cancel()
        await self._refresher.close()
        if self._background:
            await asyncio.wait(list(self._background), timeout=5)

    # ── begin ──

    async def create(
        self,
        claims: VerifiedClaims,
        tokens: Tokens,
        *,
        origin: str,
        nonce: str,
        started_at: Instant,
        visitor: Visitor = UNKNOWN,
    ) -> SignedIn:
        """A new session with a new ticket, for a sign-in that began at ``started_at``.

        LoginFault if the identity cannot be announced to the backend, or if the user was signed out everywhere, or the
        provider ended its session, after the sign-in had begun.
        """
        now = self._clock()
        session = Session(
            claims=claims,
            tokens=tokens,
            origin=origin,
            nonce=nonce,
            created_at=now,
            seen_at=now,
            ends_at=now + self._settings.absolute_timeout,
        )
        ticket = self._archive.mint()
        signed_in = self._archive.describe(ticket, session)
        await self._refuse_if_just_ended(session, started_at)
        card = Card(
            record_id=ticket.record_id,
            issuer=claims.issuer,
            subject=claims.subject,
            sid=session.sid,
            user=signed_in.identity.preferred_username or signed_in.identity.user,
            origin=origin,
            created_at=now,
            ends_at=session.ends_at,
            address=visitor.address,
            # What is not UTF-8 came as lone surrogates, which nothing can be made to write.
            user_agent=visitor.user_agent[:300].encode("utf-8", "replace").decode(),
        )
        await self._archive.create(ticket, session, card)
        return signed_in

    async def _refuse_if_just_ended(self, session: Session, started_at: Instant) -> None:
        registry, store = self._archive.registry, self._archive.store
        for index in self._archive.indexes(session.claims.issuer, session.claims.subject, session.sid):
            ended_at = await store.get(registry.ended(index))
            if ended_at is not None and started_at < int(float(ended_at)):  # it began in whole seconds
                raise LoginFault(
                    "login_expired", "the user was signed out from outside while the sign-in was under way"
                )

    # ── use ──

    def at_hand(self, ticket: Ticket) -> SignedIn | None:
        """The session, if it is in memory, and there is nothing to do for it but to use it: what nearly always is so.

        None says nothing: ``current`` knows.
        """
        known = self._cache.find(record_key(ticket.record_id))
        if known is None or self._clock() >= known.quiet_until or not _same(known.ticket, ticket):
            return None
        return known

    async def current(self, ticket: Ticket) -> SignedIn | None:
        """The session of this ticket, ready to use; None if there is none, or no longer.

        Raises ProviderFault when the access token has expired and the provider cannot be asked for a new one.
        """
        known = self._cache.find(record_key(ticket.record_id))
        if known is None or not _same(known.ticket, ticket):
            known = await self._look_up(ticket)
            if known is None:
                return None
        now = self._clock()
        fresh = freshness(known, self._settings, now)
        if fresh is Freshness.LIVE:
            if now - known.seen_at >= self._settings.touch_after:
                self._touch(known, now)
            return known
        return await self._beyond(known, fresh, now)

    async def _beyond(self, known: SignedIn, fresh: Freshness, now: Instant) -> SignedIn | None:
        """What becomes of a session whose token must be renewed, or whose time is over."""
        ticket = known.ticket
        if fresh is Freshness.IDLE:
            # Another process may have seen it in use.
            self._cache.forget(record_key(ticket.record_id))
            found = await self._look_up(ticket)
            if found is None:
                return None
            known, fresh = found, freshness(found, self._settings, now)
        if fresh.dead:
            await self._archive.drop(ticket.record_id)
            self._ended(ticket.record_id, known.identity.subject, "expired", fresh.value)
            return None
        failure = self._refresher.failure(ticket)
        if fresh is Freshness.SPENT:
            if failure is not None:
                raise failure
            return await asyncio.shield(self._refresher.begin(ticket, expired=known.expires_at))
        if fresh is Freshness.STALE and failure is None:
            self._refresher.begin(ticket, expired=known.expires_at)
        return known

    async def _look_up(self, ticket: Ticket) -> SignedIn | None:
        """Read the session, once for all who ask at the same time; from memory if the store does not answer."""
        unsaved = self._refresher.unsaved(ticket)
        if unsaved is not None:
            return unsaved
        flight = self._reads.get(ticket)
        if flight is None:
            flight = self._reads[ticket] = asyncio.create_task(self._read(ticket))
            flight.add_done_callback(lambda done: self._was_read(ticket, done))
        try:
            return await asyncio.shield(flight)
        except StoreFault:
            known = self._cache.find_unconfirmed(record_key(ticket.record_id))
            if known is None or not _same(known.ticket, ticket):
                raise
            self._telemetry.metrics.unconfirmed.inc()
            return known

    async def _read(self, ticket: Ticket) -> SignedIn | None:
        reading = self._cache.begin(record_key(ticket.record_id))
        signed_in = None
        try:
            found = await self._archive.read(ticket)
            if found is None:
                self._cache.forget(reading.key)  # else it could serve in an outage, as unconfirmed
            else:
                signed_in = self._archive.describe(ticket, found[1])
        finally:
            self._cache.finish(reading, signed_in)
        return signed_in

    def _was_read(self, ticket: Ticket, flight: asyncio.Task[SignedIn | None]) -> None:
        del self._reads[ticket]
        if not flight.cancelled():
            flight.exception()  # seen, even if every request that waited is gone

    def _touch(self, used: SignedIn, now: Instant) -> None:
        """Write down that the session is in use; not more often than needed, and never in the way of a request."""
        record_id = used.ticket.record_id
        if now - self._touching.get(record_id, float("-inf")) < 10:
            return
        if len(self._touching) > 10_000:
            self._touching.clear()
        self._touching[record_id] = now
        self._aside(self._write_touch(used.ticket, now))

    async def _write_touch(self, ticket: Ticket, now: Instant) -> None:
        try:
            found = await self._archive.read(ticket)
            if found is not None and now - found[1].seen_at >= self._settings.touch_after:
                await self._archive.replace(ticket, found[0], found[1].touched(now))
        except StoreFault as fault:
            self._telemetry.message("warning", "session.touch_failed", reason=fault.detail)

    async def peek(self, ticket: Ticket) -> Session | None:
        """The whole session if it lives, as the store has it now, without touching or renewing it."""
        found = await self._archive.read(ticket)
        if found is None or freshness(found[1], self._settings, self._clock()) in {Freshness.IDLE, Freshness.OVER}:
            return None
        return found[1]

    async def renew(self, ticket: Ticket) -> SignedIn | None:
        """Renew the tokens now, because the user asked for it."""
        found = await self._archive.read(ticket)
        if found is None:
            return None
        if (failure := self._refresher.failure(ticket)) is not None:
            raise failure
        return await asyncio.shield(self._refresher.begin(ticket, expired=found[1].expires_at))

    # ── end ──

    async def end(self, record_id: str) -> bool:
        """End a session; whether there was one."""
        return await self._archive.drop(record_id)

    async def end_all(self, index: str) -> list[str]:
        """End every session of a set, and refuse those that are about to begin; the records that were ended."""
        store, registry = self._archive.store, self._archive.registry
        await store.put(registry.ended(index), str(self._clock()).encode(), JUST_ENDED)
        return [record_id for record_id in await store.members(index) if await self._archive.drop(record_id)]

    async def cards(self, index: str) -> list[tuple[Card, bool]]:
        """What is known of the sessions of a set, oldest first, each with whether it lives."""
        store = self._archive.store
        found: list[tuple[Card, bool]] = []
        for record_id in await store.members(index):
            card = await self._archive.card(record_id)
            if card is not None:
                found.append((card, await store.get(record_key(record_id)) is not None))
        return sorted(found, key=lambda entry: entry[0].created_at)

    @property
    def archive(self) -> Archive:
        return self._archive

    def _ended(self, record_id: str, subject: str, kind: str, reason: str) -> None:
        self._telemetry.metrics.logouts.inc(kind)
        self._telemetry.audit("session.ended", session=record_id[:16], sub=subject, reason=reason)

    # ── what is open on behalf of a session ──

    def hold(self, signed_in: SignedIn, route: Route, close: Close) -> None:
        """``close`` is called, at most once, when the session ends or its user may no longer use the route; not after
        ``release`` was called with it."""
        record_id = signed_in.ticket.record_id
        held = self._holds.get(record_id)
        if held is None:  # a record is opened by one ticket only
            held = self._holds[record_id] = _Open(signed_in.ticket, signed_in.identity)
        held.routes[close] = route
        if self._watch is None:
            self._watch = asyncio.create_task(self._watch_holds())

    def release(self, record_id: str, close: Close) -> None:
        """What was held has ended by itself, or has been closed."""
        held = self._holds.get(record_id)
        if held is not None:
            held.routes.pop(close, None)
            if not held.routes:
                del self._holds[record_id]

    def _changed(self, key: str) -> None:
        if self._holds and (record_id := key.removeprefix("session:")) in self._holds:
            self._aside(self._check(record_id))

    async def _watch_holds(self) -> None:
        """Look at the clock, and at what the store may not have been able to announce."""
        while True:
            await asyncio.sleep(LOOK_EVERY)
            for record_id in list(self._holds):
                await self._check(record_id)

    async def _check(self, record_id: str) -> None:
        """Close what must not be open any longer. What cannot be known now is left open."""
        held = self._holds.get(record_id)
        if held is None:
            return
        try:
            known = self._cache.find(record_key(record_id)) or await self._look_up(held.ticket)
        except StoreFault:
            return
        if known is None or freshness(known, self._settings, self._clock()) in {Freshness.IDLE, Freshness.OVER}:
            await self._close(held, set(held.routes.values()), "session_ended")
        elif known.identity is not held.identity:
            held.identity = known.identity
            routes = set(held.routes.values())
            refused = {route for route in routes if not isinstance(policy.decide(route, known.identity), policy.Allow)}
            await self._close(held, refused, "access_denied")

    async def _close(self, held: _Open, routes: set[Route], reason: str) -> None:
        ends = [close for close, route in held.routes.items() if route in routes]
        for number, close in enumerate(ends, 1):
            if held.routes.pop(close, None) is not None:  # else it has ended meanwhile
                try:
                    close(reason)
                except Exception as error:  # the others must be closed all the same
                    self._telemetry.message("error", "internal_error", reason=f"{type(error).__name__} in {reason}")
            if number % CLOSED_AT_ONCE == 0:
                await asyncio.sleep(0)  # there may be thousands, and others wait
        if not held.routes and self._holds.get(held.ticket.record_id) is held:
            del self._holds[held.ticket.record_id]

    def _aside(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)


def _same(one: Ticket, other: Ticket) -> bool:
    """Whether it is the very ticket: the handle alone finds a record, and opens nothing."""
    return one is other or hmac.compare_digest(one.key, other.key)
