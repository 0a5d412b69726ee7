"""Sessions in the store: read, written and removed, together with what makes them findable.

A session is one sealed record that only its ticket opens. Beside it are a card, which says whose it is without its
ticket, and its place in two sets: the user's, and the provider's session's.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass

from ..forward_auth import Announcement
from ..identity import Identity, IdentitySettings, announce, identify
from ..messages import HeaderPlan
from ..sessions import (
    NONCE_BYTES,
    TICKET_BYTES,
    Card,
    Registry,
    Session,
    SessionSettings,
    Ticket,
    Unreadable,
    quiet_until,
    seal,
    unseal,
)
from ..values import Instant
from .store import Store
from .telemetry import Telemetry


@dataclass(frozen=True, slots=True)
class SignedIn:
    """A session that may be used: what follows from its record, and no more than every request needs."""

    ticket: Ticket
    identity: Identity
    plan: HeaderPlan
    origin: str
    created_at: Instant
    seen_at: Instant
    ends_at: Instant
    expires_at: Instant | None
    renewable: bool
    quiet_until: Instant
    """Until when there is nothing to do for it but to use it."""
    announced: bytes = b""
    """The header lines that say to a proxy that asks who it is."""


@dataclass(frozen=True, slots=True)
class Visitor:
    """Where a sign-in comes from, as far as it is known; shown to the user and the administrator."""

    address: str = ""
    user_agent: str = ""


UNKNOWN = Visitor()


class Archive:
    """Records in the store: read, written and removed, together with what makes them findable."""

    def __init__(
        self,
        store: Store,
        registry: Registry,
        settings: SessionSettings,
        identity: IdentitySettings,
        telemetry: Telemetry,
        clock: Callable[[], Instant],
        random: Callable[[int], bytes] = secrets.token_bytes,
        announcement: Announcement | None = None,
    ) -> None:
        self.store, self.registry, self.settings = store, registry, settings
        self._identity, self._telemetry, self.clock, self._random = identity, telemetry, clock, random
        self._announcement = announcement

    def describe(self, ticket: Ticket, session: Session) -> SignedIn:
        """What follows from a session. LoginFault if the identity cannot be announced to the backend."""
        identity = identify(session.claims, self._identity)
        token = {
            "access_token": session.tokens.access_token,
            "id_token": session.tokens.id_token,
            "none": None,
        }[self._identity.authorization]
        return SignedIn(
            ticket=ticket,
            identity=identity,
            plan=announce(identity, session.claims, token, self._identity),
            origin=session.origin,
            created_at=session.created_at,
            seen_at=session.seen_at,
            ends_at=session.ends_at,
            expires_at=session.expires_at,
            renewable=session.renewable,
            quiet_until=quiet_until(session, self.settings),
            announced=self._announcement.of(identity, session.claims, token) if self._announcement else b"",
        )

    async def read(self, ticket: Ticket) -> tuple[bytes, Session] | None:
        """The record of a ticket and the session in it; None if there is none, or none that can be read."""
        record = await self.store.get(record_key(ticket.record_id))
        if record is None:
            return None
        try:
            session = unseal(record, ticket)
            if not {"iss", "sub"} <= session.claims.values.keys():
                raise Unreadable("the record does not say whose session it is")
            return record, session
        except Unreadable as error:
            self._telemetry.message("warning", "session.unreadable", session=ticket.record_id[:16], reason=str(error))
            return None

    async def create(self, ticket: Ticket, session: Session, card: Card) -> None:
        """Write a new session; what makes it findable comes first, so that none is ever beyond reach."""
        ttl = session.time_to_live(self.settings, self.clock())
        life = max(1.0, session.ends_at - self.clock())
        await self.store.put(card_key(card.record_id), self.registry.seal(card, self._random(NONCE_BYTES)), life)
        for index in self.indexes(session.claims.issuer, session.claims.subject, session.sid):
            await self.store.add(index, card.record_id, life)
        await self.store.put(record_key(card.record_id), self._sealed(session, ticket), ttl)

    async def replace(self, ticket: Ticket, record: bytes, session: Session) -> bool:
        """Write a session in place of the record that it was made from; False if that is no longer there."""
        ttl = session.time_to_live(self.settings, self.clock())
        return await self.store.replace(record_key(ticket.record_id), record, self._sealed(session, ticket), ttl)

    async def drop(self, record_id: str) -> bool:
        """Remove the session, then what made it findable; whether there was one."""
        was_there = await self.store.drop(record_key(record_id))
        card = await self.card(record_id)
        await self.store.drop(card_key(record_id))
        if card is not None:
            for index in self.indexes(card.issuer, card.subject, card.sid):
                await self.store.remove(index, record_id)
        return was_there

    async def card(self, record_id: str) -> Card | None:
        """What is known of a session without its ticket."""
        sealed = await self.store.get(card_key(record_id))
        return self.registry.open(sealed, record_id) if sealed is not None else None

    def indexes(self, issuer: str, subject: str, sid: str | None) -> list[str]:
        """The sets that a session is a member of."""
        by_subject = [self.registry.of_subject(issuer, subject)]
        return [*by_subject, self.registry.of_sid(issuer, sid)] if sid is not None else by_subject

    def mint(self) -> Ticket:
        """A new ticket."""
        return Ticket.mint(self._random(TICKET_BYTES))

    def _sealed(self, session: Session, ticket: Ticket) -> bytes:
        return seal(session, ticket, self._random(NONCE_BYTES))


def record_key(record_id: str) -> str:
    """Where the store has a session."""
    return f"session:{record_id}"


def card_key(record_id: str) -> str:
    """Where the store has what can be known of it without its ticket."""
    return f"card:{record_id}"
