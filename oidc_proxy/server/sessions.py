"""Sessions at work: find, touch, refresh once, end.

A refresh belongs to the server and not to the request that met the expired token: requests wait for a shared task and
may go away. What was ended meanwhile stays ended, because every later write is a compare-and-set.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ..errors import LoginFault, ProviderFault, StoreFault
from ..identity import Identity, IdentitySettings, announce, identify
from ..messages import HeaderPlan
from ..oidc import Tokens
from ..sessions import (
    NONCE_BYTES,
    TICKET_BYTES,
    Freshness,
    Session,
    SessionSettings,
    Ticket,
    Unreadable,
    freshness,
    seal,
    unseal,
)
from ..tokens import VerifiedClaims
from ..values import Instant
from .provider import ProviderClient
from .store import Store
from .telemetry import Telemetry

LEASE_POLL = 0.05
"""Seconds between two looks at whether another process has renewed a session."""


@dataclass(frozen=True, slots=True)
class SignedIn:
    """A session that may be used now: what was read, and what follows from it."""

    ticket: Ticket
    record: bytes
    session: Session
    identity: Identity
    plan: HeaderPlan


class Sessions:
    """All sessions, as this process sees them. StoreFault may come from every method; it never means an end."""

    def __init__(
        self,
        store: Store,
        provider: ProviderClient,
        settings: SessionSettings,
        identity: IdentitySettings,
        telemetry: Telemetry,
        clock: Callable[[], Instant],
        random: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._store, self._provider = store, provider
        self._settings, self._identity = settings, identity
        self._telemetry, self._clock, self._random = telemetry, clock, random
        self._refreshes: dict[str, asyncio.Task[SignedIn | None]] = {}
        self._failed: dict[str, tuple[Instant, ProviderFault]] = {}
        self._background: set[asyncio.Task[Any]] = set()

    async def close(self) -> None:
        """Let refreshes finish: the provider may already have rotated the token."""
        pending = [*self._refreshes.values(), *self._background]
        if pending:
            await asyncio.wait(pending, timeout=10)

    # ── begin and end ──

    async def create(self, claims: VerifiedClaims, tokens: Tokens, *, origin: str, nonce: str) -> SignedIn:
        """A new session with a new ticket. LoginFault if the identity cannot be announced to the backend."""
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
        ticket = Ticket.mint(self._random(TICKET_BYTES))
        signed_in = self._signed_in(ticket, session)
        await self._store.put(_key(ticket), signed_in.record, session.time_to_live(self._settings, now))
        return signed_in

    async def end(self, ticket: Ticket) -> bool:
        """End the session; whether there was one."""
        return await self._store.drop(_key(ticket))

    async def peek(self, ticket: Ticket) -> Session | None:
        """The session if it lives, without touching or renewing it."""
        record = await self._store.get(_key(ticket))
        session = self._open(ticket, record) if record is not None else None
        if session is None or freshness(session, self._settings, self._clock()) in {Freshness.IDLE, Freshness.OVER}:
            return None
        return session

    # ── use ──

    async def current(self, ticket: Ticket) -> SignedIn | None:
        """The session of this ticket, ready to use; None if there is none, or no longer.

        Raises ProviderFault when the access token has expired and the provider cannot be asked for a new one.
        """
        record = await self._store.get(_key(ticket))
        session = self._open(ticket, record) if record is not None else None
        if record is None or session is None:
            return None
        now = self._clock()
        fresh = freshness(session, self._settings, now)
        if fresh.dead:
            await self._store.drop(_key(ticket))
            self._ended(ticket, session, fresh.value)
            return None
        if fresh is Freshness.SPENT:
            self._raise_recent_failure(ticket, now)
            return await asyncio.shield(self._refresh(ticket, session))
        signed_in = self._describe(ticket, record, session)
        if fresh is Freshness.STALE and not self._failed_recently(ticket, now):
            self._refresh(ticket, session)
        elif now - session.seen_at >= self._settings.touch_after:
            self._in_background(self._touch(signed_in, now))
        return signed_in

    def _open(self, ticket: Ticket, record: bytes) -> Session | None:
        try:
            return unseal(record, ticket)
        except Unreadable as error:
            self._telemetry.message("warning", "session.unreadable", session=ticket.record_id[:16], reason=str(error))
            return None

    def _describe(self, ticket: Ticket, record: bytes, session: Session) -> SignedIn:
        identity = identify(session.claims, self._identity)
        token = {
            "access_token": session.tokens.access_token,
            "id_token": session.tokens.id_token,
            "none": None,
        }[self._identity.authorization]
        return SignedIn(ticket, record, session, identity, announce(identity, session.claims, token, self._identity))

    def _signed_in(self, ticket: Ticket, session: Session) -> SignedIn:
        return self._describe(ticket, seal(session, ticket, self._random(NONCE_BYTES)), session)

    async def _touch(self, used: SignedIn, now: Instant) -> None:
        session = used.session.touched(now)
        record = seal(session, used.ticket, self._random(NONCE_BYTES))
        try:
            await self._store.replace(_key(used.ticket), used.record, record, session.time_to_live(self._settings, now))
        except StoreFault as fault:
            self._telemetry.message("warning", "session.touch_failed", reason=fault.detail)

    def _in_background(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    # ── refresh ──

    def _refresh(self, ticket: Ticket, session: Session) -> asyncio.Task[SignedIn | None]:
        """The one refresh of this session that is under way, begun now if there is none."""
        record_id = ticket.record_id
        flight = self._refreshes.get(record_id)
        if flight is None:
            flight = self._refreshes[record_id] = asyncio.create_task(self._refresh_once(ticket, session))
            flight.add_done_callback(lambda done: self._landed(record_id, done))
        return flight

    def _landed(self, record_id: str, flight: asyncio.Task[SignedIn | None]) -> None:
        del self._refreshes[record_id]
        if not flight.cancelled():
            flight.exception()  # seen, even if every request that waited is gone

    async def _refresh_once(self, ticket: Ticket, session: Session) -> SignedIn | None:
        """Renew, or take what another process has renewed: where refresh tokens rotate, a second use ends the session.

        So one process at a time, and each looks first at what the one before it has left.
        """
        lease = f"renewing:{ticket.record_id}"
        await self._claim(lease)
        try:
            record = await self._store.get(_key(ticket))
            now_there = self._open(ticket, record) if record is not None else None
            if record is None or now_there is None:
                return None
            if now_there.tokens != session.tokens:
                return self._describe(ticket, record, now_there)
            return await self._renew(ticket, record, now_there)
        finally:
            with suppress(StoreFault):  # it ends by itself as well
                await self._store.drop(lease)

    async def _claim(self, lease: str) -> None:
        patience = self._provider.settings.timeout
        try:
            async with asyncio.timeout(patience):
                while not await self._store.claim(lease, 2 * patience + 5):  # noqa: ASYNC110 - another process's event
                    await asyncio.sleep(LEASE_POLL)
        except TimeoutError:
            detail = f"another process has been renewing the session for {patience}"
            raise ProviderFault("provider_timeout", detail, retry_after=1) from None

    async def _renew(self, ticket: Ticket, record: bytes, session: Session) -> SignedIn | None:
        try:
            tokens, claims = await self._provider.refresh(session.tokens, session.claims, session.nonce)
            renewed = session.refreshed(claims, tokens, self._clock())
            signed_in = self._signed_in(ticket, renewed)
        except LoginFault as fault:
            self._telemetry.metrics.refreshes.labels("refused").inc()
            return await self._refused(ticket, record, session, fault)
        except ProviderFault as fault:
            self._telemetry.metrics.refreshes.labels("failure").inc()
            self._failed[ticket.record_id] = self._clock(), fault
            self._forget_old_failures()
            self._telemetry.message("warning", "session.refresh_failed", code=fault.code, reason=fault.detail)
            raise
        self._telemetry.metrics.refreshes.labels("success").inc()
        self._failed.pop(ticket.record_id, None)
        return await self._write_renewed(signed_in, record, session)

    async def _write_renewed(self, renewed: SignedIn, record: bytes, before: Session) -> SignedIn | None:
        """Put the renewed session in place of the record that it was made from.

        A record that differs only because it was touched meanwhile is replaced all the same: the provider may have
        rotated the refresh token, and what is not written now is lost.
        """
        while True:
            ttl = renewed.session.time_to_live(self._settings, self._clock())
            if await self._store.replace(_key(renewed.ticket), record, renewed.record, ttl):
                self._telemetry.audit("session.refreshed", session=renewed.ticket.record_id[:16])
                return renewed
            current = await self._store.get(_key(renewed.ticket))
            session = self._open(renewed.ticket, current) if current is not None else None
            if current is None or session is None:
                return None
            if session.tokens.refresh_token != before.tokens.refresh_token:
                return self._describe(renewed.ticket, current, session)
            record = current

    async def _refused(self, ticket: Ticket, record: bytes, session: Session, fault: LoginFault) -> SignedIn | None:
        """The refresh token, or what came for it, is no good: the session ends, unless another renewed it meanwhile."""
        current = await self._store.get(_key(ticket))
        if current is not None and current != record:
            now_there = self._open(ticket, current)
            if now_there is not None and now_there.tokens.refresh_token != session.tokens.refresh_token:
                return self._describe(ticket, current, now_there)
        if current is not None:
            await self._store.drop(_key(ticket))
        self._ended(ticket, session, fault.code, detail=fault.detail)
        return None

    def _failed_recently(self, ticket: Ticket, now: Instant) -> bool:
        failed = self._failed.get(ticket.record_id)
        return failed is not None and 0 <= now - failed[0] < self._settings.refresh.failure_backoff

    def _raise_recent_failure(self, ticket: Ticket, now: Instant) -> None:
        if self._failed_recently(ticket, now):
            failed_at, fault = self._failed[ticket.record_id]
            wait = max(1, round(failed_at + self._settings.refresh.failure_backoff - now))
            raise ProviderFault(fault.code, fault.detail, retry_after=wait)

    def _forget_old_failures(self) -> None:
        now, backoff = self._clock(), self._settings.refresh.failure_backoff
        self._failed = {key: value for key, value in self._failed.items() if now - value[0] < backoff}

    def _ended(self, ticket: Ticket, session: Session, reason: str, **fields: str) -> None:
        self._telemetry.metrics.logouts.labels("expired").inc()
        self._telemetry.audit(
            "session.ended", session=ticket.record_id[:16], sub=session.claims.subject, reason=reason, **fields
        )


def _key(ticket: Ticket) -> str:
    return f"session:{ticket.record_id}"
