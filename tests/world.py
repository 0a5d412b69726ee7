"""The world around the proxy, for tests: a browser, a provider that can be broken, a backend, and a clock.

The browser is a small real HTTP client that does what matters to a login: it keeps cookies as browsers do (prefixes,
SameSite, loopback counts as secure), follows redirects itself with every URL exactly as written, and sends the
`Sec-Fetch-*` headers of Chrome. Every name resolves to the loopback address: nothing leaves the machine.
"""

from __future__ import annotations

import asyncio
import functools
import io
import json
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any, Self
from urllib.parse import urlencode, urljoin, urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from multidict import CIMultiDict
from yarl import URL

from oidc_proxy.demo.backend import Backend
from oidc_proxy.demo.keys import KeyRing
from oidc_proxy.demo.provider import Provider
from tests.cookies import Cookie, Jar, is_trustworthy, origin_of, relation
from tests.real.parts import free_port

__all__ = [
    "Backend",
    "Browser",
    "Clock",
    "Cookie",
    "Form",
    "Hop",
    "Jar",
    "Page",
    "Provider",
    "free_port",
    "origin_of",
    "running_backend",
    "running_provider",
    "shared_keys",
]

NAVIGATION = {
    "Upgrade-Insecure-Requests": "1",
    "Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
}
CHROME = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36"
MOST_REDIRECTS = 20


class Clock:
    """Seconds since the epoch that stand still until told otherwise; call it to read it."""

    def __init__(self, now: float = 1_790_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


# ── what a browser has got ──


@dataclass(frozen=True, slots=True)
class Hop:
    """One request of a navigation and the head of its answer."""

    method: str
    url: str
    request_headers: Mapping[str, str]
    status: int
    headers: CIMultiDict[str]

    @property
    def location(self) -> str:
        return self.headers.get("Location", "")


@dataclass(slots=True)
class Form:
    action: str
    method: str
    id: str = ""
    fields: dict[str, str] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, kind: str, given: Mapping[str, str]) -> None:
        """Take in a control. What would be sent: no box that is not ticked, and of the buttons only the first."""
        ticked = kind not in {"checkbox", "radio"} or "checked" in given
        pressed = kind != "submit" or "submit" not in self.types.values()
        self.types[name] = kind
        if ticked and pressed and kind not in {"button", "reset", "image"}:
            self.fields[name] = given.get("value", "on" if kind in {"checkbox", "radio"} else "")

    def of_type(self, kind: str) -> str | None:
        return next((name for name, its in self.types.items() if its == kind), None)


@dataclass(frozen=True, slots=True)
class Page:
    """The last answer of a request or navigation; `hops` has all of them, redirects included."""

    url: str
    status: int
    headers: CIMultiDict[str]
    body: bytes
    hops: tuple[Hop, ...]

    @property
    def text(self) -> str:
        return self.body.decode("utf-8", "replace")

    @property
    def location(self) -> str:
        return self.headers.get("Location", "")

    @property
    def set_cookies(self) -> list[str]:
        return self.headers.getall("Set-Cookie", [])

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def forms(self) -> list[Form]:
        return _parsed(self.text).forms

    @property
    def links(self) -> list[tuple[str, str]]:
        """Text and href of each link."""
        return _parsed(self.text).links

    def form_with(self, kind: str) -> Form | None:
        """The first form that has an input of this type."""
        return next((form for form in self.forms if form.of_type(kind)), None)


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.forms: list[Form] = []
        self.links: list[tuple[str, str]] = []
        self._href: str | None = None
        self._words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.forms.append(Form(given.get("action", ""), given.get("method", "get").upper(), given.get("id", "")))
        elif tag in {"input", "button"} and self.forms and given.get("name"):
            self.forms[-1].add(given["name"], given.get("type", "submit" if tag == "button" else "text"), given)
        elif tag == "a" and "href" in given:
            self._href, self._words = given["href"], []

    def handle_data(self, data: str) -> None:
        self._words.append(data)

    def handle_endtag(self, tag: str) -> None:
        if tag == "a" and self._href is not None:
            self.links.append((" ".join("".join(self._words).split()), self._href))
            self._href = None


def _parsed(html: str) -> _Reader:
    reader = _Reader()
    reader.feed(html)
    reader.close()
    return reader


class _Loopback(AbstractResolver):
    def __init__(self, address: str) -> None:
        self._address = address

    async def resolve(self, host: str, port: int = 0, family: int = socket.AF_INET) -> list[ResolveResult]:
        del family
        place = "127.0.0.1" if host == "localhost" else self._address
        address = ResolveResult(hostname=host, host=place, port=port, family=socket.AF_INET, proto=0, flags=0)
        return [address]

    async def close(self) -> None:
        pass


# ── the browser ──


class Browser:
    """One person's browser, a context manager; tabs share its cookies. Names but localhost are at ``address``."""

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.time,
        ssl_context: ssl.SSLContext | None = None,
        address: str = "127.0.0.1",
    ) -> None:
        self.cookies = Jar(clock)
        connector = aiohttp.TCPConnector(limit=0, resolver=_Loopback(address), ssl=ssl_context or True)
        self.http = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers={"User-Agent", "Accept", "Accept-Encoding", "Content-Type"},
            timeout=aiohttp.ClientTimeout(total=30),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self.http.close()

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | Sequence[tuple[str, str]] = (),
        data: Any = None,
        cookies: str | None = None,
    ) -> Page:
        """One request exactly as given, no redirect followed; the cookies are those of the jar unless given."""
        given = CIMultiDict(headers)
        given.setdefault("User-Agent", CHROME)
        line = self.cookies.header(url) if cookies is None else cookies
        if line and "Cookie" not in given:
            given["Cookie"] = line
        target = URL(url.partition("#")[0], encoded=True)
        if isinstance(data, bytes) and len(data) >= 2**20:
            data = io.BytesIO(data)
        async with self.http.request(method, target, headers=given, data=data, allow_redirects=False) as response:
            received = CIMultiDict(response.headers)
            for cookie in received.getall("Set-Cookie", []):
                self.cookies.store(url, cookie)
            body = await response.read()
        return Page(url, response.status, received, body, (Hop(method, url, given, response.status, received),))

    async def get(self, url: str, **headers: str) -> Page:
        """A bare GET, no redirect followed. Keyword `Sec_Fetch_Mode` is the header `Sec-Fetch-Mode`."""
        return await self.request("GET", url, headers=_named(headers))

    async def post(self, url: str, data: Mapping[str, str] | bytes | None = None, **headers: str) -> Page:
        """A bare POST, no redirect followed; a mapping is sent as a form."""
        given = _named(headers)
        if isinstance(data, Mapping):
            given.setdefault("Content-Type", "application/x-www-form-urlencoded")
            data = urlencode(data).encode()
        return await self.request("POST", url, headers=given, data=data)

    async def navigate(
        self,
        url: str,
        *,
        method: str = "GET",
        data: bytes | None = None,
        initiator: str | None = None,
        origin: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Page:
        """Go there as a tab does, through every redirect. `initiator` is the page with the link or form; None means
        that the URL was typed. `origin` is the Origin header of a POST, when it is not that of the initiator."""
        hops: list[Hop] = []
        while len(hops) <= MOST_REDIRECTS:
            same_site = relation(initiator, [url]) != "cross-site"
            page = await self.request(
                method,
                url,
                headers={**_navigation_headers(url, hops, initiator, method, origin), **(headers or {})},
                data=data,
                cookies=self.cookies.header(url, same_site=same_site, safe_navigation=method in {"GET", "HEAD"}),
            )
            hops += page.hops
            if page.status not in {301, 302, 303, 307, 308} or not page.location:
                return Page(page.url, page.status, page.headers, page.body, tuple(hops))
            url = urljoin(url, page.location)
            if page.status == 303 or (page.status in {301, 302} and method == "POST"):
                method, data = "GET", None
        raise AssertionError(f"redirected for ever: {[urlsplit(hop.url).path for hop in hops]}")

    async def submit(self, page: Page, fields: Mapping[str, str], form: Form | None = None) -> Page:
        """Fill in a form of the page (the only one unless given) and send it, as a tab does."""
        form = form or page.forms[0]
        action, content = urljoin(page.url, form.action) or page.url, urlencode({**form.fields, **fields})
        if form.method == "GET":
            return await self.navigate(f"{action.partition('?')[0]}?{content}", initiator=page.url)
        origin = _form_origin(page, action)
        return await self.navigate(action, method="POST", data=content.encode(), initiator=page.url, origin=origin)

    async def click(self, page: Page, text: str) -> Page:
        """Follow the link with this text."""
        href = next(href for label, href in page.links if label == text)
        return await self.navigate(urljoin(page.url, href), initiator=page.url)

    async def fill_sign_in(self, page: Page, user: str, password: str) -> Page:
        """Fill in the sign-in form of a provider (the demo's, Keycloak's `kc-form-login`) that the page shows."""
        form = page.form_with("password")
        assert form is not None, f"no sign-in form at {urlsplit(page.url).path} ({page.status})"
        return await self.submit(page, {"username": user, form.of_type("password") or "": password}, form)

    async def sign_in(self, url: str, user: str, password: str) -> Page:
        """Go there and sign in on the way, if asked to."""
        page = await self.navigate(url)
        return await self.fill_sign_in(page, user, password) if page.form_with("password") else page

    async def open_tabs(self, urls: Iterable[str]) -> list[Page]:
        """Go to all of them at the same time."""
        return list(await asyncio.gather(*(self.navigate(url) for url in urls)))

    async def fetch(
        self,
        url: str,
        *,
        page: str | None = None,
        method: str = "GET",
        data: Any = None,
        headers: Mapping[str, str] | None = None,
        dest: str = "empty",
    ) -> Page:
        """A subresource or `fetch()` of the page at URL `page` (of the same origin unless given), no redirect
        followed. `dest` is `empty` for fetch and XHR, else `image`, `script`, `iframe`, …"""
        page = page or f"{origin_of(url)}/"
        site = relation(page, [url])
        mode = {"empty": "cors", "iframe": "navigate"}.get(dest, "no-cors")
        sent = {"Accept": "*/*"}
        if is_trustworthy(url):
            sent |= {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": mode, "Sec-Fetch-Dest": dest}
        if mode == "cors" and (site != "same-origin" or method not in {"GET", "HEAD"}):
            sent["Origin"] = origin_of(page)
        cookies = self.cookies.header(url, same_site=site != "cross-site", safe_navigation=False)
        return await self.request(method, url, headers={**sent, **(headers or {})}, data=data, cookies=cookies)

    async def websocket(self, url: str, *, origin: str | None = None) -> aiohttp.ClientWebSocketResponse:
        """Open a WebSocket from a page of this origin (the URL's own unless given)."""
        cookies, scheme = self.cookies.header(url), "https" if urlsplit(url).scheme in {"wss", "https"} else "http"
        headers = {"Origin": origin or f"{scheme}://{urlsplit(url).netloc}", **({"Cookie": cookies} if cookies else {})}
        return await self.http.ws_connect(URL(url, encoded=True), headers=headers)


def _named(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


def _form_origin(page: Page, action: str) -> str:
    """The Origin header of a form post; a page's Referrer-Policy may make it `null` (Fetch standard §3.2)."""
    policy = ",".join(page.headers.getall("Referrer-Policy", [])).rpartition(",")[2].strip()
    own = origin_of(page.url)
    if policy == "no-referrer" or (policy == "same-origin" and origin_of(action) != own):
        return "null"
    return "null" if own.startswith("https:") and not action.startswith("https:") else own


def _navigation_headers(
    url: str, hops: Sequence[Hop], initiator: str | None, method: str, origin: str | None
) -> dict[str, str]:
    headers = dict(NAVIGATION)
    if method == "POST":
        headers["Content-Type"] = "application/x-www-form-urlencoded"
        headers["Origin"] = origin or ("null" if initiator is None else origin_of(initiator))
    if is_trustworthy(url):
        site = relation(initiator, [*(hop.url for hop in hops), url])
        headers |= {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate"}
        headers |= {"Sec-Fetch-User": "?1", "Sec-Fetch-Dest": "document"}
    return headers


# ── the others ──


@functools.cache
def shared_keys() -> KeyRing:
    """Made once for all tests, since RSA keys take long to make."""
    return KeyRing()


@asynccontextmanager
async def running_provider(**settings: Any) -> AsyncIterator[Provider]:
    """A provider on a port of its own; the arguments are those of `Provider`."""
    settings.setdefault("keys", shared_keys().copy())
    async with Provider(**settings) as provider:
        yield provider


@asynccontextmanager
async def running_backend(**settings: Any) -> AsyncIterator[Backend]:
    """A backend on a port of its own; the arguments are those of `Backend`."""
    async with Backend(**settings) as backend:
        yield backend
