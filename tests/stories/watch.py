"""A world under watch: every secret of a story is collected, and looked for wherever it does not belong.

The invariants of every refusal are here too: nothing reached the backend, nobody has a session, the gateway made no
mistake of its own, and the log names the cause.
"""

from __future__ import annotations

import base64
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

from aiohttp import web

from oidc_proxy.demo.listener import Answer, Call
from oidc_proxy.errors import FAMILIES
from tests.gateway import SECRET, Settings, World, running_world
from tests.world import NAVIGATION, Browser, Page

STATUS = {code: entry.status for family in FAMILIES for code, entry in family.codes.items()}
_TOKENS = re.compile(r'"(?:access_token|refresh_token|id_token)": "([^"]{16,})"')
_SHORTEST = 16
"""Characters that a value must have to be worth looking for."""


class Watched(Browser):
    """A browser that remembers everything it was answered."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.seen: list[Page] = []

    async def request(self, method: str, url: str, **given: Any) -> Page:
        page = await super().request(method, url, **given)
        self.seen.append(page)
        return page

    async def way_back(self, url: str, user: str = "ann") -> str:
        """Go there, sign in at the provider, and stop before the way back: the address of the callback."""
        page = await self.navigate(url)
        form = page.form_with("password")
        assert form is not None, page.text
        fields = {**form.fields, "username": user, form.of_type("password") or "": user}
        answer = await self.post(urljoin(page.url, form.action), fields)
        assert answer.status in {302, 303}, answer.text
        return answer.location

    async def open(self, url: str) -> Page:
        """What the address bar asks for, no redirect followed."""
        return await self.request("GET", url, headers=NAVIGATION)


class Watch:
    """Collects the secrets of a world from now on, and the answers of its gateway."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.browsers: list[Watched] = []
        self._tokens: set[str] = set()
        self._drawn: set[str] = set()
        listener = world.provider._listener
        listener.handle = self._recording(listener.handle)  # type: ignore[arg-type]
        for part in (world.app._provider, world.app._sessions.archive):
            part._random = self._remembering(part._random)

    def browser(self, **settings: Any) -> Watched:
        """A new browser; use it as a context manager."""
        watched = Watched(clock=self.world.clock, **settings)
        self.browsers.append(watched)
        return watched

    def _recording(self, handle: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def recorded(call: Call, request: web.BaseRequest) -> Any:
            answer = await handle(call, request)
            if isinstance(answer, Answer) and call.path.endswith("/token"):
                self._tokens |= set(_TOKENS.findall(answer.body.decode("latin-1")))
            return answer

        return recorded

    def _remembering(self, draw: Callable[[int], bytes]) -> Callable[[int], bytes]:
        def drawn(size: int) -> bytes:
            value = draw(size)
            pieces = [value[at : at + 32] for at in range(0, size, 32)]
            self._drawn |= {base64.urlsafe_b64encode(piece).rstrip(b"=").decode() for piece in pieces}
            return value

        return drawn

    # ── what nobody may see ──

    def secrets(self) -> set[str]:
        """States, nonces, verifiers, tickets, codes, tokens, cookie values and the client secret, so far."""
        ledger = self.world.provider.ledger
        found = self._tokens | self._drawn | ledger.codes.keys() | ledger.access_tokens.keys()
        found |= ledger.refresh_tokens.keys()
        for page in self.answers():
            for line in page.set_cookies:
                value = line.partition("=")[2].partition(";")[0]
                found |= {value, *value.split(".")}
        basic = base64.b64encode(f"app:{quote(SECRET)}".encode()).decode()
        found |= {SECRET, quote(SECRET), quote(SECRET, safe=""), basic}
        return {value for value in found if len(value) >= _SHORTEST}

    def answers(self) -> list[Page]:
        """What the gateway has answered, itself or for the backend."""
        port = urlsplit(self.world.url).port
        return [page for browser in self.browsers for page in browser.seen if urlsplit(page.url).port == port]

    def own_answers(self) -> list[Page]:
        """What the gateway has answered itself."""
        passed_on = {call.headers.get("X-Request-Id") for call in self.world.backend.requests}
        return [page for page in self.answers() if page.headers.get("X-Request-Id") not in passed_on]

    def check(self) -> None:
        """The invariants of every story."""
        secrets = self.secrets()
        self._assert_without("the log", self.world.log.getvalue(), secrets)
        assert not self.world.lines(event="internal_error")
        for page in self.own_answers():
            assert page.status != 500, page.text
            self._check_answer(page, secrets)
        for call in self.world.backend.requests:
            headers = "\n".join(f"{name}: {value}" for name, value in call.headers.items())
            unshared = secrets - self.world.provider.ledger.access_tokens.keys()
            self._assert_without("the backend's request", call.target + "\n" + headers, unshared)

    def _check_answer(self, page: Page, secrets: set[str]) -> None:
        provider = self.world.provider.root
        shown = [
            f"{name}: {value}"
            for name, value in page.headers.items()
            if name != "Set-Cookie" and not (name == "Location" and _leads_on(value, provider))
        ]
        where = f"the answer {page.status} of {urlsplit(page.url).path}"
        self._assert_without(where, "\n".join([*shown, page.text]), secrets)
        assert page.headers["Cache-Control"] == "no-store", f"BR-2 {where}"
        assert "Access-Control-Allow-Origin" not in page.headers, f"BR-3 {where}"
        assert "Server" not in page.headers, f"BR-8 {where}"
        if page.status in {301, 302, 303, 307, 308}:
            assert page.headers["Referrer-Policy"] == "no-referrer", f"BR-13 {where}"
        elif page.body:
            policy = page.headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy, f"BR-7 {where}"
            assert "frame-ancestors 'none'" in policy, f"BR-7 {where}"
            assert page.headers["X-Frame-Options"] == "DENY", f"BR-7 {where}"
            assert page.headers["X-Content-Type-Options"] == "nosniff", f"BR-8 {where}"

    @staticmethod
    def _assert_without(where: str, text: str, secrets: set[str]) -> None:
        leaked = [secret[:6] for secret in secrets if secret in text]
        assert not leaked, f"{where} shows a secret that begins with {leaked}: {text}"

    # ── what a refusal is ──

    def assert_refused(self, page: Page, code: str) -> None:
        """An own page with this error, and nothing else came of it."""
        assert page.status == STATUS[code], f"{page.status}, not {STATUS[code]}: {page.text}"
        assert f"<code>{code}</code>" in page.text, page.text
        assert page.headers["Content-Type"].startswith("text/html")
        self.assert_nobody_got_in()
        told = [line for line in self.world.lines(code=code) if line.get("event") in {"login.failed", "request.failed"}]
        assert told, f"no log line names {code}"
        assert told[-1]["reason"], "the log line does not name the cause"

    def assert_nobody_got_in(self) -> None:
        """The backend has seen nothing, the store has no session, no browser has a ticket."""
        assert not self.world.backend.requests
        assert not sessions(self.world)
        assert not [browser for browser in self.browsers if browser.cookies.get("oidc_proxy")]

    def forget(self) -> None:
        """Begin another story in the same world, with nothing seen and nobody signed in."""
        self.world.backend.requests.clear()
        self.world.log.seek(0)
        self.world.log.truncate()
        self.browsers.clear()


def _leads_on(location: str, provider: str) -> bool:
    """Whether a redirect may have the state of a sign-in or sign-out in it: to the provider, or on from there."""
    return location.startswith(provider) or urlsplit(location).path.endswith("/oauth2/signed_out")


def sessions(world: World) -> list[str]:
    """The keys of the sessions that the store has."""
    entries: dict[str, Any] = world.app._store._entries  # type: ignore[attr-defined]
    return [key for key in entries if key.startswith("session:")]


@asynccontextmanager
async def watched_world(
    config: Settings | None = None, *, provider: Settings | None = None, client: Settings | None = None
) -> AsyncIterator[tuple[Watch, World, Watched]]:
    """A world, a browser in it, and the watch that looks at everything once the story is told."""
    async with running_world(config, provider=provider, client=client) as world:
        watch = Watch(world)
        async with watch.browser() as browser:
            yield watch, world, browser
            watch.check()
