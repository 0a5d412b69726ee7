"""One sign-in for several hosts: what goes from the origin where it happens to the one that wants it.

A cookie stays with its host, so a session is handed over in the words of OAuth: an origin sends the browser to the one
that signs in, with a ``redirect_uri`` and a ``state``, and the browser comes back with a ``code`` (RFC 6749 §4.1). The
state is good only with a sealed cookie of the origin that has asked, as in every sign-in: a code alone opens nothing.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from base64 import urlsafe_b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import urlencode

from .errors import RequestFault
from .oidc import PendingLogin
from .sessions import Ticket, Unreadable, open_bytes, seal_bytes
from .values import Instant, Origin

SECRET_BYTES = 32
CODE_LIFETIME = 60.0
"""Seconds between the redirect with a code and its use."""

_SECRET = re.compile(r"[A-Za-z0-9_-]{43}")


def _base64(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


# ── who signs in for whom ─────────────────────────────────────────────────────────────────────────────────────────────


class HandoverRequest(NamedTuple):
    """What an origin asks of the one that signs in: a session for ``redirect_uri``, in answer to ``state``."""

    redirect_uri: str
    state: str


class Hosts:
    """Our origins, and the one where sign-ins happen for all of them, if there is one (``login.auth_origin``)."""

    def __init__(self, public: Sequence[Origin], auth: Origin | None, prefix: str) -> None:
        self.auth, self._public = auth, tuple(public)
        self._start, self._prefix = f"{auth}{prefix}/start", prefix
        self._others = () if auth is None else tuple(origin for origin in public if origin != auth)
        self._known = {self.redirect_uri(origin) for origin in self._others}

    def home(self, origin: Origin) -> Origin:
        """Where the sign-ins of an origin happen."""
        return origin if self.auth is None else self.auth

    def returnable(self, origin: Origin) -> tuple[Origin, ...]:
        """The origins to which a sign-in that is asked for at this one may return: those that share its sign-in."""
        return (origin,) if self.auth is None else (origin, *self._public)

    def redirect_uri(self, origin: Origin) -> str:
        return f"{origin}{self._prefix}/handover"

    def ask(self, origin: Origin, return_to: str, *, random: bytes, now: Instant, issuer: str) -> PendingLogin:
        """A sign-in that another origin does for this one. ``random`` is 32 bytes that nobody can guess.

        What it returns to stays in the cookie that this becomes: it is in no address, and nobody can change it.
        """
        if len(random) != SECRET_BYTES:
            raise ValueError(f"{SECRET_BYTES} random bytes are needed")
        return PendingLogin(_base64(random), "", "", return_to, int(now), issuer, self.redirect_uri(origin))

    def request_url(self, redirect_uri: str, state: str, extra: Mapping[str, str] = {}) -> str:
        """Where the browser asks for the session; ``extra`` are parameters of the authorization request."""
        return f"{self._start}?{urlencode({'redirect_uri': redirect_uri, 'state': state, **extra})}"

    def is_request(self, url: str) -> bool:
        """Whether a return address of ours is such a request, so that another try repeats it as it is."""
        return self.auth is not None and url.startswith(f"{self._start}?")

    def read_request(self, parameters: Mapping[str, Sequence[str]], origin: Origin) -> HandoverRequest | None:
        """What the parameters of a start ask for; None where it is an ordinary one.

        RequestFault for a ``redirect_uri`` that is not, character for character, that of one of our origins: nobody
        else is ever sent a code (RFC 9700 §2.1).
        """
        if origin != self.auth or "redirect_uri" not in parameters:
            return None
        found = [*parameters["redirect_uri"]], [*parameters.get("state", ())]
        match found:
            case [[redirect_uri], [state]] if redirect_uri in self._known and _SECRET.fullmatch(state):
                return HandoverRequest(redirect_uri, state)
        raise RequestFault("bad_request", "redirect_uri or state of a hand-over is none that our origins send")

    # ── the way back of a sign-out ──

    def farewell(self, state: str, origin: Origin) -> str:
        """The state of a sign-out, with a mark of the origin that the browser is to end up at."""
        return f"{state}-{self._others.index(origin)}" if origin in self._others else state

    def left(self, state: str, origin: Origin) -> Origin | None:
        """The origin to which a sign-out that ends at this one goes on."""
        found = re.fullmatch(r"[0-9a-f]{32}-([0-9]{1,4})", state, re.ASCII)
        if found is None or origin != self.auth or int(found[1]) >= len(self._others):
            return None
        return self._others[int(found[1])]


# ── the code ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, repr=False)
class Code:
    """A random text that stands for a ticket, for a minute and once.

    The store has the ticket under a hash of the code, sealed with a key that is made of it. So nothing of the session
    is in an address, neither the store nor the gateways' secret opens what a log has kept, and whoever takes it out of
    the store is the only one, in all replicas. A code that held the sealed ticket itself would save one write, and
    would have to be marked as used all the same.
    """

    text: str

    @classmethod
    def mint(cls, random: bytes) -> Code:
        """A new code of 32 random bytes."""
        if len(random) != SECRET_BYTES:
            raise ValueError(f"a code takes {SECRET_BYTES} random bytes")
        return cls(_base64(random))

    @classmethod
    def read(cls, text: str) -> Code | None:
        """The code in an address; None for anything that cannot be one of ours."""
        return cls(text) if _SECRET.fullmatch(text) else None

    @property
    def entry(self) -> str:
        """What the store knows it by."""
        return f"handover:{self._derived('name').hex()}"

    def seal(self, ticket: Ticket, request: HandoverRequest, nonce: bytes) -> bytes:
        """The ticket as the store keeps it, bound to who asked for it. ``nonce`` is 12 fresh random bytes."""
        return seal_bytes(self._derived("key"), nonce, ticket.handle + ticket.key, _bound(request))

    def open(self, sealed: bytes, request: HandoverRequest) -> Ticket | None:
        """The ticket, or None if it was handed over to another origin, for another state, or is damaged."""
        try:
            return Ticket.mint(open_bytes(self._derived("key"), sealed, _bound(request)))
        except Unreadable:
            return None

    def _derived(self, purpose: str) -> bytes:
        return hashlib.sha256(f"oidc_proxy handover {purpose}\0{self.text}".encode()).digest()


def _bound(request: HandoverRequest) -> bytes:
    return f"handover\0{request.redirect_uri}\0{request.state}".encode()


def answer_url(request: HandoverRequest, code: Code) -> str:
    """Where the browser takes the code."""
    return f"{request.redirect_uri}?{urlencode({'code': code.text, 'state': request.state})}"


# ── the ticket of a session that several origins share ────────────────────────────────────────────────────────────────


class BoundTickets:
    """Writes a ticket so that it is good on one origin only.

    The session is the same on all of them, but an application that sees the cookie of its own host, as some proxies
    cannot help, must not be that user elsewhere. What binds it is a keyed hash; the first key makes it, all are good.
    """

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._keys = tuple(keys)

    def write(self, ticket: Ticket, origin: Origin) -> str:
        """The cookie's value."""
        return f"{ticket.cookie_value}.{_mark(self._keys[0], ticket, str(origin))}"

    def read(self, cookie: str | None, origin: str) -> Ticket | None:
        """The ticket in a cookie's value, if it was written for this origin."""
        text, _, mark = (cookie or "").rpartition(".")
        ticket = Ticket.read(text)
        if ticket is None or not mark.isascii():
            return None
        good = [hmac.compare_digest(mark, _mark(key, ticket, origin)) for key in self._keys]
        return ticket if any(good) else None


def _mark(key: bytes, ticket: Ticket, origin: str) -> str:
    text = f"oidc_proxy ticket\0{ticket.record_id}\0{origin}".encode()
    return _base64(hmac.new(key, text, hashlib.sha256).digest())
