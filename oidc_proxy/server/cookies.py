"""The cookies that the gateway sets, and what it reads in them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

from ..handover import BoundTickets, Hosts
from ..messages import Cookie, OwnCookies, RequestHead
from ..sessions import CookieSettings, Ticket
from ..values import Origin


class Cookies:
    """The cookies that the gateway sets. With ``bound``, a ticket is good on the origin that it was written for."""

    def __init__(
        self,
        settings: CookieSettings,
        origins: Sequence[Origin],
        session_lifetime: float,
        hosts: Hosts,
        bound: BoundTickets | None,
    ) -> None:
        self._settings, self._bound = settings, bound
        self._home = str(hosts.auth) if hosts.auth is not None else None
        self._secure = all(origin.secure for origin in origins)
        prefix = "__Host-" if self._secure and settings.domain is None else ""
        self.own = OwnCookies(prefix + settings.name)
        self._shared = settings.domain is not None
        self._persistent = int(session_lifetime) if settings.persistent else None

        self._read = lru_cache(4096)(Ticket.read)
        self._read_bound = lru_cache(4096)(bound.read) if bound is not None else None
        self.tally = self.own.login("tally")
        """Counts sign-ins that the browser did not keep."""
        self.farewell = self.own.login("farewell")
        """Remembers that a sign-out is under way at the provider."""

    def ticket(self, head: RequestHead) -> Ticket | None:
        """What the browser holds, if it can be one of ours."""
        value = self.own.read(head.raw_headers).get(self.own.session)
        return self._read(value) if self._read_bound is None else self._read_bound(value, str(head.origin))

    def good(self, began: str, here: Origin) -> bool:
        """Whether a session that began on one origin is good on another: where a domain is shared, or the sign-in."""
        return self._shared or began == (self._home or str(here))

    def session(self, ticket: Ticket, here: Origin) -> Cookie:
        """The cookie of a session, on this origin."""
        value = ticket.cookie_value if self._bound is None else self._bound.write(ticket, here)
        return self._make(self.own.session, value, self._persistent)

    def login(self, name: str, value: str, lifetime: float) -> Cookie:
        """A short-lived cookie beside it. Lax, because it must come along on the way back from the provider."""
        return Cookie(name, value, self._secure, int(lifetime), self._settings.domain)

    def gone(self, names: Iterable[str]) -> Iterator[Cookie]:
        """What makes the browser forget these cookies of ours."""
        return (self._make(name, "", None).deletion() for name in names)

    def _make(self, name: str, value: str, max_age: int | None) -> Cookie:
        return Cookie(name, value, self._secure, max_age, self._settings.domain, self._settings.same_site)
