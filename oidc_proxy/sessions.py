"""What a session is, how long it lives, and how it is sealed.

The cookie is a *ticket*: a random handle and a random key. The store knows the session by a hash of the handle and
holds it sealed with the ticket's key, bound to that very record: a dump of the store opens nothing, and two records
cannot be exchanged. Nothing here reads a clock or rolls dice; ``now`` and random bytes come as arguments.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Literal, Protocol, Self

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pydantic import Field

from .oidc import PendingLogin, Tokens
from .tokens import VerifiedClaims
from .values import Duration, Instant, Secret, Settings

NONCE_BYTES = 12
TICKET_BYTES = 64


class CookieSettings(Settings):
    """The session cookie."""

    name: str = Field(
        "oidc_proxy",
        pattern=r"^[A-Za-z0-9_-]{1,64}$",
        description="Name of the cookie; `__Host-` is put in front where the deployment allows it.",
    )
    domain: str | None = Field(
        None,
        description="Share the session with every host below this domain. Without it the cookie stays with one host.",
        examples=["example.com"],
    )
    same_site: Literal["Lax", "Strict", "None"] = Field(
        "Lax",
        description="When other sites' requests carry the cookie. Strict breaks links from elsewhere into the site.",
    )
    persistent: bool = Field(
        False, description="Keep the cookie when the browser is closed, for as long as the session may last."
    )


class RefreshSettings(Settings):
    """When access tokens are renewed."""

    leeway: Duration = Field(
        Duration(30),
        description="How long before its expiry a token is renewed; requests go on with the old one meanwhile.",
    )
    failure_backoff: Duration = Field(
        Duration(10), description="How long to wait after a failed renewal before the provider is asked again."
    )


class SessionCacheSettings(Settings):
    """Sessions that a worker keeps in its memory; the store tells when one of them changes."""

    entries: int = Field(10_000, ge=1, description="Most sessions that one worker keeps.")
    ttl: Duration = Field(
        Duration(300),
        description="Longest time that a session is kept without reading it again, whatever the store says.",
    )


class SessionSettings(Settings):
    """How long sessions last, and what seals them."""

    cookie: CookieSettings = Field(CookieSettings(), description="The session cookie.")
    idle_timeout: Duration = Field(Duration(8 * 3600), description="A session that is not used for this long ends.")
    absolute_timeout: Duration = Field(
        Duration(24 * 3600), description="A session ends this long after the sign-in, used or not."
    )
    touch_interval: Duration | None = Field(
        None, description="How often the use of a session is written down; a tenth of the idle time-out unless given."
    )
    refresh: RefreshSettings = Field(RefreshSettings(), description="Renewal of access tokens.")
    cache: SessionCacheSettings = Field(SessionCacheSettings(), description="Sessions in a worker's memory.")
    key: Secret | None = Field(
        None,
        description="Secret that seals the cookies of sign-ins under way; derived from the client secret unless given. "
        "All replicas need the same.",
    )
    key_file: Path | None = Field(None, description="File that holds `key`.")
    previous_key: Secret | None = Field(None, description="The key before this one; it still opens what it has sealed.")
    previous_key_file: Path | None = Field(None, description="File that holds `previous_key`.")

    @property
    def touch_after(self) -> float:
        """Seconds of use that may go unwritten."""
        return self.idle_timeout / 10 if self.touch_interval is None else self.touch_interval


# ── the ticket ────────────────────────────────────────────────────────────────────────────────────────────────────────

_TICKET = re.compile(r"[A-Za-z0-9_-]{43}\.[A-Za-z0-9_-]{43}")


@dataclass(frozen=True, slots=True)
class Ticket:
    """What the browser holds: proof of a session, and the only key to it."""

    handle: bytes
    key: bytes
    record_id: str = field(init=False, repr=False, compare=False)
    """What the store, the logs and the administrator know the session by."""

    def __post_init__(self) -> None:
        digest = hashlib.sha256(b"oidc_proxy record\0" + self.handle).hexdigest()
        object.__setattr__(self, "record_id", digest)

    @classmethod
    def mint(cls, random: bytes) -> Self:
        """A new ticket of 64 random bytes."""
        if len(random) != TICKET_BYTES:
            raise ValueError(f"a ticket takes {TICKET_BYTES} random bytes")
        return cls(random[:32], random[32:])

    @classmethod
    def read(cls, cookie: str | None) -> Self | None:
        """The ticket in a cookie's value; None for anything that we cannot have made."""
        if cookie is None or not _TICKET.fullmatch(cookie):
            return None
        handle, key = (urlsafe_b64decode(part + "=") for part in cookie.split("."))
        ticket = cls(handle, key)
        return ticket if ticket.cookie_value == cookie else None

    @property
    def cookie_value(self) -> str:
        return f"{_base64(self.handle)}.{_base64(self.key)}"

    def __repr__(self) -> str:
        return f"Ticket({self.record_id[:8]}…)"


def _base64(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _unbase64(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))


# ── the session ───────────────────────────────────────────────────────────────────────────────────────────────────────


class Session(msgspec.Struct, frozen=True, omit_defaults=True):
    """A signed-in user, in one browser. Times are seconds since the epoch."""

    claims: VerifiedClaims
    tokens: Tokens
    origin: str
    nonce: str
    created_at: Instant
    seen_at: Instant
    ends_at: Instant

    def __repr__(self) -> str:
        return f"Session(created_at={self.created_at}, ends_at={self.ends_at})"

    @property
    def expires_at(self) -> Instant | None:
        """When the access token expires."""
        return self.tokens.expires_at

    @property
    def renewable(self) -> bool:
        """Whether there is a refresh token."""
        return self.tokens.refresh_token is not None

    @property
    def sid(self) -> str | None:
        """The provider's own id of the session (Back-Channel Logout 1.0 §2.1)."""
        sid = self.claims.get("sid")
        return sid if isinstance(sid, str) and sid else None

    def touched(self, now: Instant) -> Session:
        """The same session, in use at ``now``."""
        return msgspec.structs.replace(self, seen_at=now)

    def refreshed(self, claims: VerifiedClaims, tokens: Tokens, now: Instant) -> Session:
        """The same session with renewed tokens and what they say about the user.

        A refresh token or ID token that did not come anew is kept (RFC 6749 §6, OpenID Connect Core §12.2).
        """
        held = self.tokens
        if tokens.refresh_token is None:
            tokens = msgspec.structs.replace(
                tokens, refresh_token=held.refresh_token, refresh_expires_at=held.refresh_expires_at
            )
        if tokens.id_token is None:
            tokens = msgspec.structs.replace(tokens, id_token=held.id_token)
        return msgspec.structs.replace(self, claims=claims, tokens=tokens, seen_at=now)

    def time_to_live(self, settings: SessionSettings, now: Instant) -> float:
        """Seconds after which the store may forget it."""
        return max(0.001, min(self.ends_at, self.seen_at + settings.idle_timeout) - now)


class Freshness(Enum):
    """What may be done with a session at some moment."""

    LIVE = "live"
    STALE = "stale"
    """Usable, and its access token is about to expire: renew it beside the request."""
    SPENT = "spent"
    """The access token has expired: renew it before the request."""
    IDLE = "idle_timeout"
    OVER = "absolute_timeout"
    UNRENEWABLE = "token_expired"
    """The access token has expired and there is no refresh token to renew it with."""

    @property
    def dead(self) -> bool:
        return self in {Freshness.IDLE, Freshness.OVER, Freshness.UNRENEWABLE}


class Timed(Protocol):
    """The times that decide over a session."""

    @property
    def seen_at(self) -> Instant: ...
    @property
    def ends_at(self) -> Instant: ...
    @property
    def expires_at(self) -> Instant | None: ...
    @property
    def renewable(self) -> bool: ...


def freshness(session: Timed, settings: SessionSettings, now: Instant) -> Freshness:
    """Whether the session lives, and whether its access token must be renewed."""
    if now >= session.ends_at:
        return Freshness.OVER
    if now >= session.seen_at + settings.idle_timeout:
        return Freshness.IDLE
    expires_at = session.expires_at
    if expires_at is None or now < expires_at - settings.refresh.leeway:
        return Freshness.LIVE
    if not session.renewable:
        return Freshness.LIVE if now < expires_at else Freshness.UNRENEWABLE
    return Freshness.STALE if now < expires_at else Freshness.SPENT


def quiet_until(session: Timed, settings: SessionSettings) -> Instant:
    """Until when there is nothing to do for a session but to use it: nor renew, nor touch, nor end it."""
    seen_at, expires_at = session.seen_at, session.expires_at
    instants = [session.ends_at, seen_at + settings.idle_timeout, seen_at + settings.touch_after]
    return min(instants if expires_at is None else [*instants, expires_at - settings.refresh.leeway])


# ── sealing ───────────────────────────────────────────────────────────────────────────────────────────────────────────

RECORD_VERSION = b"\x01"
"""The version that is written, as the first byte of a record.

While a new release replaces the old one, both read what the other has written. A field that has a default changes no
version: an older gateway passes over it, a newer one fills it in. Only a record that an older gateway would
misunderstand needs a new version, and a reader of the previous one in ``_READERS``; a gateway that meets a version
which it cannot read asks the user to sign in.
"""

_records = msgspec.msgpack.Encoder()
_READERS: Mapping[bytes, Callable[[bytes], Session]] = {
    b"\x01": msgspec.msgpack.Decoder(Session).decode,
}
"""Version → how the plain text of a record becomes a session. The written one and the one before it."""


class Unreadable(ValueError):
    """A record that cannot be opened: another key, another record, another version, or damaged."""


def seal_bytes(key: bytes, nonce: bytes, plain: bytes, bound_to: bytes) -> bytes:
    """Sealed with AES-GCM; only the same key and ``bound_to`` open it. ``nonce`` is 12 fresh random bytes."""
    if len(nonce) != NONCE_BYTES:
        raise ValueError(f"a nonce takes {NONCE_BYTES} random bytes")
    return nonce + AESGCM(key).encrypt(nonce, plain, bound_to)


def open_bytes(key: bytes, sealed: bytes, bound_to: bytes) -> bytes:
    """What was sealed. Raises Unreadable."""
    try:
        return AESGCM(key).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], bound_to)
    except (InvalidTag, ValueError):
        raise Unreadable("not sealed with this key for this record") from None


def seal(session: Session, ticket: Ticket, nonce: bytes) -> bytes:
    """The session as the store keeps it. ``nonce`` is 12 fresh random bytes."""
    bound_to = b"session" + RECORD_VERSION + ticket.record_id.encode()
    return RECORD_VERSION + seal_bytes(ticket.key, nonce, _records.encode(session), bound_to)


def unseal(record: bytes, ticket: Ticket) -> Session:
    """The session in a record of the store. Raises Unreadable."""
    version, sealed = record[:1], record[1:]
    read = _READERS.get(version)
    if read is None:
        known = ", ".join(version.hex() for version in _READERS)
        raise Unreadable(f"record of version {version.hex() or 'none'}; this release reads {known}")
    plain = open_bytes(ticket.key, sealed, b"session" + version + ticket.record_id.encode())
    try:
        return read(plain)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Unreadable("the record does not hold a session") from None


def derive_key(secret: str, context: str) -> bytes:
    """A 32-byte key from a configured secret. Slow on purpose (scrypt, RFC 7914): the secret may be a short one."""
    return hashlib.scrypt(secret.encode(), salt=context.encode(), n=2**14, r=8, p=1, dklen=32)


class _CompactLogin(msgspec.Struct, frozen=True, array_like=True):
    """What must be kept of a sign-in and cannot be told from the callback; a browser may hold twenty of them."""

    nonce: bytes
    verifier: bytes
    return_to: str
    issuer: str


_logins = msgspec.msgpack.Decoder(_CompactLogin)


class LoginSealer:
    """Seals the cookie of a sign-in under way, bound to its state and redirect URI; the first key seals, all open.

    ``issuer`` is the configured one: a sign-in need not say that it is for that.
    """

    def __init__(self, keys: Sequence[bytes], issuer: str) -> None:
        self._keys, self._issuer = tuple(keys), issuer

    def seal(self, login: PendingLogin, nonce: bytes) -> str:
        """The cookie's value: when the sign-in began, and the rest sealed. ``nonce`` is 12 fresh random bytes."""
        began = str(login.started_at)
        here = _origin(login.redirect_uri)
        compact = _CompactLogin(
            nonce=_unbase64(login.nonce),
            verifier=_unbase64(login.verifier),
            return_to=login.return_to.removeprefix(here) if login.return_to.startswith(f"{here}/") else login.return_to,
            issuer="" if login.issuer == self._issuer else login.issuer,
        )
        sealed = seal_bytes(
            self._keys[0], nonce, _records.encode(compact), _login(login.state, began, login.redirect_uri)
        )
        return f"{began}.{_base64(sealed)}"

    def open(self, cookie: str, state: str, redirect_uri: str) -> PendingLogin | None:
        """The sign-in that this cookie, state and redirect URI belong to, or None."""
        began, _, text = cookie.partition(".")
        try:
            sealed = _unbase64(text)
        except ValueError:
            return None
        for key in self._keys:
            try:
                compact = _logins.decode(open_bytes(key, sealed, _login(state, began, redirect_uri)))
            except (Unreadable, msgspec.DecodeError):
                continue
            return_to = compact.return_to
            return PendingLogin(
                state=state,
                nonce=_base64(compact.nonce),
                verifier=_base64(compact.verifier),
                return_to=_origin(redirect_uri) + return_to if return_to.startswith("/") else return_to,
                started_at=int(began),
                issuer=compact.issuer or self._issuer,
                redirect_uri=redirect_uri,
            )
        return None

    @staticmethod
    def began(cookie: str) -> int:
        """When the sign-in of a cookie says it began, unverified; 0 if it does not say."""
        text = cookie.partition(".")[0]
        return int(text) if re.fullmatch(r"\d{1,12}", text, re.ASCII) else 0


def _login(state: str, began: str, redirect_uri: str) -> bytes:
    return f"login\0{state}\0{began}\0{redirect_uri}".encode()


def _origin(url: str) -> str:
    return url[: url.index("/", len("https://"))]


def login_suffix(state: str) -> str:
    """What the cookie of a sign-in is called after: short, and it does not give the state away."""
    return _base64(hashlib.sha256(state.encode()).digest()[:9])


# ── what can be known of a session without its ticket ─────────────────────────────────────────────────────────────────


class Card(msgspec.Struct, frozen=True, omit_defaults=True):
    """A session as the user's own list and the administrator see it. No token, and nothing that opens the session."""

    record_id: str
    issuer: str
    subject: str
    sid: str | None
    user: str
    origin: str
    created_at: Instant
    ends_at: Instant
    address: str = ""
    user_agent: str = ""


_cards = msgspec.msgpack.Decoder(Card)


class Registry:
    """Names and seals what the store keeps beside a session, with keys that every replica has.

    Names are keyed hashes: whoever reads the store cannot tell whose sessions there are.
    """

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._keys = tuple(keys)

    def of_subject(self, issuer: str, subject: str) -> str:
        """The set of a user's sessions. The identity key is (iss, sub): OpenID Connect Core §5.7."""
        return f"sub:{self._name('sub', issuer, subject)}"

    def of_sid(self, issuer: str, sid: str) -> str:
        """The set of the sessions that belong to one session at the provider."""
        return f"sid:{self._name('sid', issuer, sid)}"

    def ended(self, index: str) -> str:
        """The mark that the sessions of an index have just been ended, for one that is about to begin."""
        return f"ended:{index}"

    def used_logout_token(self, issuer: str, jti: str) -> str:
        """The mark that a logout token has been used."""
        return f"jti:{self._name('jti', issuer, jti)}"

    def _name(self, *parts: str) -> str:
        text = "\0".join(parts).encode("utf-8", "surrogatepass")
        return hmac.new(self._keys[0], b"oidc_proxy name\0" + text, hashlib.sha256).hexdigest()

    def seal(self, card: Card, nonce: bytes) -> bytes:
        """The card as the store keeps it."""
        return seal_bytes(self._keys[0], nonce, _records.encode(card), f"card\0{card.record_id}".encode())

    def open(self, sealed: bytes, record_id: str) -> Card | None:
        """The card of this record, or None if it cannot be opened."""
        for key in self._keys:
            try:
                return _cards.decode(open_bytes(key, sealed, f"card\0{record_id}".encode()))
            except (Unreadable, msgspec.DecodeError):
                continue
        return None
