"""Answers of our own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer of our own, whole."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes = b""

    def with_cookies(self, cookies: Iterable[Cookie]) -> Reply:
        """The same answer that also sets these cookies."""
        return Reply(self.status, (*self.headers, *(("Set-Cookie", str(cookie)) for cookie in cookies)), self.body)


@dataclass(frozen=True, slots=True)
class Cookie:
    """A cookie that we set (RFC 6265bis §4.1). ``max_age`` is in seconds; None lasts as long as the browser runs."""

    name: str
    value: str
    secure: bool
    max_age: int | None = None
    domain: str | None = None
    same_site: str = "Lax"

    def deletion(self) -> Cookie:
        """What makes the browser forget the cookie. The attributes are repeated, else a ``__Host-`` one survives."""
        return Cookie(self.name, "", self.secure, 0, self.domain, self.same_site)

    def __str__(self) -> str:
        text = f"{self.name}={self.value}; Path=/"
        if self.domain is not None:
            text += f"; Domain={self.domain}"
        if self.max_age == 0:
            # Not the epoch itself, and no Max-Age: the form that every known client honours.
            text += "; Expires=Thu, 01 Jan 1970 00:00:01 GMT"
        elif self.max_age is not None:
            text += f"; Max-Age={self.max_age}"
        return f"{text}{'; Secure' if self.secure else ''}; HttpOnly; SameSite={self.same_site}"


_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


@lru_cache(2)
def http_date(instant: int) -> str:
    """Value of a Date header (RFC 9110 §5.6.7); ``instant`` in whole seconds, so that most calls cost a look-up."""
    then = datetime.fromtimestamp(instant, UTC)  # strftime would speak the language of the machine
    return f"{_DAYS[then.weekday()]}, {then:%d} {_MONTHS[then.month - 1]} {then:%Y %H:%M:%S} GMT"
