"""Renewing tokens: once per session, whoever asks, in however many processes.

Within a process all who need it wait for one task, which belongs to the server: a client that goes away does not cancel
it. Between processes a lease in the store decides who asks the provider; it is renewed while the provider takes its
time, and runs out if its holder dies. The fence is the record itself: what comes back is written only in place of the
record that it was made from, so an ended session stays ended and a late loser overwrites nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import secrets
from collections.abc import AsyncIterator

from ..errors import LoginFault, ProviderFault, StoreFault
from ..sessions import Session, Ticket
from ..values import Instant
from .archive import Archive, SignedIn, record_key
from .cache import Cache
from .provider import ProviderClient
from .telemetry import Telemetry

LEASE = 5.0
"""Seconds after which the lease of a process that died is free."""

RENEW_EVERY = LEASE / 3
LOOK_AGAIN = 0.5
"""Seconds after which a waiting process looks by itself; normally the store announces the new record."""

SAVE_AGAIN = 0.25

SETTLING = 2.0
"""Seconds after an outage of the store in which no lease is taken: who held one may have had no chance to keep it, and
may have a renewed session to write down first."""

SENT_FOR = 3600.0
"""Seconds for which it is remembered that a refresh token was sent."""

SENT_BEFORE = (
    "the refresh token had been sent before, and no answer to it was kept: a process ended, or the provider failed. If "
    "the provider had replaced the token by then, nobody knows the new one"
)


class Refresher:
    """Gives each session one refresh at a time."""

    def __init__(
        self, archive: Archive, cache: Cache[SignedIn], provider: ProviderClient, telemetry: Telemetry
    ) -> None:
        self._archive, self._cache, self._provider, self._telemetry = archive, cache, provider, telemetry
        self._backoff = archive.settings.refresh.failure_backoff
        self._flights: dict[str, asyncio.Task[SignedIn | None]] = {}
        self._failed: dict[str, tuple[Instant, ProviderFault]] = {}
        self._unsaved: dict[str, SignedIn] = {}
        self._cut_off = False
        self._settled_at = float("-inf")
        archive.store.watch(self)

    def changed(self, key: str) -> None:
        """As the store's watcher: the cache is told as well."""

    def lost(self) -> None:
        """As the store's watcher: leases may have run out although their holders live."""
        self._cut_off = True

    @property
    def busy(self) -> bool:
        """Whether a refresh is under way."""
        return bool(self._flights)

    async def close(self) -> None:
        """Let what is under way finish: the provider may already have rotated a token."""
        if self._flights:
            await asyncio.wait(list(self._flights.values()), timeout=10)

    def unsaved(self, ticket: Ticket) -> SignedIn | None:
        """A session that has been renewed, while the store cannot take it."""
        return self._unsaved.get(ticket.record_id) if self._unsaved else None

    def failure(self, ticket: Ticket) -> ProviderFault | None:
        """Why the last refresh failed, if that was so recently that the provider is not asked again yet."""
        failed = self._failed.get(ticket.record_id)
        if failed is None:
            return None
        at, fault = failed
        left = at + self._backoff - self._archive.clock()
        if not 0 < left <= self._backoff:
            return None
        return ProviderFault(fault.code, fault.detail, retry_after=max(1, round(left)))

    def begin(self, ticket: Ticket, *, expired: Instant | None) -> asyncio.Task[SignedIn | None]:
        """The refresh of this session that is under way, begun now if there is none.

        ``expired`` is when the token ends that the caller has: if the record already has a later one, that is the
        result. The result is None when the session has ended; it may raise ProviderFault and StoreFault.
        """
        record_id = ticket.record_id
        flight = self._flights.get(record_id)
        if flight is None:
            flight = self._flights[record_id] = asyncio.create_task(self._refresh(ticket, expired))
            flight.add_done_callback(lambda done: self._landed(record_id, done))
        return flight

    def _landed(self, record_id: str, flight: asyncio.Task[SignedIn | None]) -> None:
        del self._flights[record_id]
        if not flight.cancelled():
            flight.exception()  # seen, even if every request that waited is gone

    async def _refresh(self, ticket: Ticket, expired: Instant | None) -> SignedIn | None:
        """Look whether somebody has done it; else take the lease and do it; else wait for whoever has the lease."""
        holder = secrets.token_hex(16)
        lease, record_id = f"lease:{ticket.record_id}", ticket.record_id
        loop = asyncio.get_running_loop()
        waiting_since: float | None = None
        try:
            while True:
                found = await self._archive.read(ticket)
                if found is None:
                    return None
                record, session = found
                if session.expires_at is None or (expired is not None and session.expires_at > expired):
                    return self._archive.describe(ticket, session)
                settling = self._settling()
                if not settling and await self._archive.store.lease(lease, holder, LEASE):
                    async with self._keeping(lease, holder):
                        return await self._renew(ticket, record, session)
                waiting_since = waiting_since or loop.time()
                await self._cache.wait_for_change(record_key(record_id), settling or LOOK_AGAIN)
        finally:
            if waiting_since is not None:
                self._telemetry.metrics.lock_wait.observe(loop.time() - waiting_since)

    def _settling(self) -> float:
        """Seconds to wait before a lease is taken, now that the store has answered."""
        now = asyncio.get_running_loop().time()
        if self._cut_off:
            self._cut_off, self._settled_at = False, now + SETTLING
        return max(0.0, self._settled_at - now)

    @contextlib.asynccontextmanager
    async def _keeping(self, lease: str, holder: str) -> AsyncIterator[None]:
        """Renew the lease until the end of the block, then give it up.

        A lease that cannot be renewed is no reason to stop: the write that follows is fenced by the record.
        """
        store = self._archive.store

        async def keep() -> None:
            pause = RENEW_EVERY
            while True:
                await asyncio.sleep(pause)
                try:
                    await store.lease(lease, holder, LEASE)
                    pause = RENEW_EVERY
                except StoreFault:
                    pause = SAVE_AGAIN

        keeper = asyncio.create_task(keep())
        try:
            yield
        finally:
            keeper.cancel()
            with contextlib.suppress(StoreFault):
                await store.release(lease, holder)

    async def _renew(self, ticket: Ticket, record: bytes, session: Session) -> SignedIn | None:
        first = await self._archive.store.claim(_sent(ticket, session), SENT_FOR)
        try:
            with self._telemetry.metrics.refresh_duration.time():
                tokens, claims = await self._provider.refresh(session.tokens, session.claims, session.nonce)
            renewed = session.refreshed(claims, tokens, self._archive.clock())
            signed_in = self._archive.describe(ticket, renewed)
        except LoginFault as fault:
            self._telemetry.metrics.refreshes.inc("refused")
            return await self._refused(ticket, session, fault, first=first)
        except ProviderFault as fault:
            self._telemetry.metrics.refreshes.inc("failure")
            self._remember(ticket, fault)
            raise
        self._telemetry.metrics.refreshes.inc("success")
        self._failed.pop(ticket.record_id, None)
        self._unsaved[ticket.record_id] = signed_in
        try:
            return await self._save(ticket, record, session, renewed)
        finally:
            del self._unsaved[ticket.record_id]

    async def _save(self, ticket: Ticket, record: bytes, before: Session, renewed: Session) -> SignedIn | None:
        """Put the renewed session in place of the record that it was made from, however long the store is away.

        A record that differs only because it was touched meanwhile is replaced all the same: the provider may have
        rotated the refresh token, and what is not written now is lost.
        """
        while self._archive.clock() < renewed.ends_at:
            try:
                if await self._archive.replace(ticket, record, renewed):
                    self._telemetry.audit("session.refreshed", session=ticket.record_id[:16])
                    return self._archive.describe(ticket, renewed)
                found = await self._archive.read(ticket)
            except StoreFault as fault:
                self._telemetry.message("warning", "session.save_failed", reason=fault.detail)
                await asyncio.sleep(SAVE_AGAIN)
                continue
            if found is None:
                return None  # ended meanwhile; what was renewed dies with it
            record, current = found
            if current.tokens.refresh_token != before.tokens.refresh_token:
                return self._archive.describe(ticket, current)
        return None

    async def _refused(self, ticket: Ticket, before: Session, fault: LoginFault, *, first: bool) -> SignedIn | None:
        """The refresh token, or what came for it, is no good: the session ends, unless another renewed it meanwhile."""
        found = await self._archive.read(ticket)
        if found is not None:
            _, current = found
            if current.tokens.refresh_token != before.tokens.refresh_token:
                return self._archive.describe(ticket, current)
            await self._archive.drop(ticket.record_id)
        self._telemetry.metrics.logouts.inc("refused")
        self._telemetry.audit(
            "session.ended",
            session=ticket.record_id[:16],
            sub=before.claims.subject,
            reason=fault.code,
            detail=fault.detail if first else f"{fault.detail}; {SENT_BEFORE}",
        )
        return None

    def _remember(self, ticket: Ticket, fault: ProviderFault) -> None:
        now = self._archive.clock()
        self._failed = {key: value for key, value in self._failed.items() if now - value[0] < self._backoff}
        self._failed[ticket.record_id] = now, fault
        self._telemetry.message(
            "warning", "session.refresh_failed", session=ticket.record_id[:16], code=fault.code, reason=fault.detail
        )


def _sent(ticket: Ticket, session: Session) -> str:
    """The mark that this refresh token was sent to renew this very access token; some are good for more than one."""
    text = f"{session.expires_at}\0{session.tokens.refresh_token}".encode()
    return f"sent:{ticket.record_id}:{hashlib.sha256(text).hexdigest()[:32]}"
