"""The cookies of a browser, and which sites count as one: what 6265bis and Fetch Metadata say, for test names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit


def is_loopback(host: str) -> bool:
    return host in {"localhost", "::1"} or host.startswith("127.") or host.endswith(".localhost")


def is_trustworthy(url: str) -> bool:
    """Whether browsers treat the origin as secure."""
    parts = urlsplit(url)
    return parts.scheme in {"https", "wss"} or is_loopback(parts.hostname or "")


def origin_of(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _site_of(url: str) -> tuple[str, str]:
    """Scheme and registrable domain, for the names that tests use: addresses whole, else the last two labels."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    is_address = ":" in host or host.replace(".", "").isdigit()
    return parts.scheme, host if is_address else ".".join(host.split(".")[-2:])


def relation(initiator: str | None, urls: Iterable[str]) -> str:
    """`Sec-Fetch-Site`: how the farthest of these URLs relates to the page that began; None is the address bar."""
    if initiator is None:
        return "none"
    if any(_site_of(url) != _site_of(initiator) for url in urls):
        return "cross-site"
    return "same-site" if any(origin_of(url) != origin_of(initiator) for url in urls) else "same-origin"


@dataclass(frozen=True, slots=True)
class Cookie:
    name: str
    value: str
    host: str
    host_only: bool
    path: str
    secure: bool
    http_only: bool
    same_site: str
    """`strict`, `lax` (also when unsaid) or `none`."""
    expires: float | None
    attributes: Mapping[str, str]
    """As sent, with the names in lower case."""

    def fits(self, url: str) -> bool:
        parts = urlsplit(url)
        host, path = parts.hostname or "", parts.path or "/"
        fits_host = host == self.host or (not self.host_only and host.endswith(f".{self.host}"))
        fits_path = path == self.path or path.startswith(self.path.rstrip("/") + "/")
        return fits_host and fits_path and (not self.secure or is_trustworthy(url))


class Jar:
    """The cookies of one browser (6265bis §5). As in browsers, ports do not separate them."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._cookies: dict[tuple[str, str, str], Cookie] = {}
        self.refused: list[str] = []
        """Set-Cookie values that a browser would not take."""

    def __iter__(self) -> Iterator[Cookie]:
        now = self._clock()
        return iter([cookie for cookie in self._cookies.values() if cookie.expires is None or cookie.expires > now])

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def named(self, prefix: str) -> list[Cookie]:
        """Those whose name begins so."""
        return [cookie for cookie in self if cookie.name.startswith(prefix)]

    def get(self, name: str) -> str | None:
        return next((cookie.value for cookie in self if cookie.name == name), None)

    def clear(self, prefix: str = "") -> None:
        self._cookies = {key: cookie for key, cookie in self._cookies.items() if not cookie.name.startswith(prefix)}

    def header(self, url: str, *, same_site: bool = True, safe_navigation: bool = True) -> str:
        """The Cookie header for a request; empty when there is none to send."""
        allowed = {"none"} | ({"lax"} if same_site or safe_navigation else set()) | ({"strict"} if same_site else set())
        fitting = [cookie for cookie in self if cookie.same_site in allowed and cookie.fits(url)]
        return "; ".join(f"{cookie.name}={cookie.value}" for cookie in sorted(fitting, key=lambda c: -len(c.path)))

    def store(self, url: str, line: str) -> None:
        """Take one Set-Cookie line that this URL has sent, or refuse it."""
        cookie = _read_cookie(url, line, self._clock())
        if cookie is None:
            self.refused.append(line)
            return
        key = (cookie.name, cookie.host, cookie.path)
        if cookie.expires is not None and cookie.expires <= self._clock():
            self._cookies.pop(key, None)
        else:
            self._cookies[key] = cookie


def _read_cookie(url: str, line: str, now: float) -> Cookie | None:
    pair, *rest = line.split(";")
    name, equals, value = (part.strip(" \t") for part in pair.partition("="))
    attributes = {key.strip().lower(): text.strip() for key, _, text in (item.partition("=") for item in rest)}
    parts = urlsplit(url)
    host, domain = parts.hostname or "", attributes.get("domain", "").lstrip(".").lower()
    path = attributes.get("path", "")
    cookie = Cookie(
        name=name,
        value=value,
        host=domain or host,
        host_only=not domain,
        path=path if path.startswith("/") else (parts.path.rpartition("/")[0] or "/"),
        secure="secure" in attributes,
        http_only="httponly" in attributes,
        same_site=attributes.get("samesite", "").lower() if attributes.get("samesite") else "lax",
        expires=_expiry(attributes, now),
        attributes=attributes,
    )
    return cookie if equals and _acceptable(cookie, url) else None


def _acceptable(cookie: Cookie, url: str) -> bool:
    host, prefix = urlsplit(url).hostname or "", cookie.name.lower()
    if len(cookie.name) + len(cookie.value) > 4096 or not (host == cookie.host or host.endswith(f".{cookie.host}")):
        return False
    if cookie.secure and not is_trustworthy(url):
        return False
    if prefix.startswith("__host-") and not (
        cookie.secure and cookie.host_only and cookie.attributes.get("path") == "/"
    ):
        return False
    return cookie.secure or not (prefix.startswith(("__secure-", "__host-")) or cookie.same_site == "none")


def _expiry(attributes: Mapping[str, str], now: float) -> float | None:
    if attributes.get("max-age", "").lstrip("-").isdigit():
        return now + int(attributes["max-age"])
    try:
        return parsedate_to_datetime(attributes["expires"]).timestamp()
    except (KeyError, ValueError):
        return None
