"""People with a real browser: at the demo, and at Keycloak."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from playwright.async_api import BrowserContext, ConsoleMessage, Page, expect

from oidc_proxy.demo.house import House
from tests.gateway import client_for, merged, running_app, settings_for
from tests.real.browser import Chromium, screenshots
from tests.real.keycloak import ANN, Keycloak
from tests.real.parts import Process, free_port
from tests.real.places import place
from tests.serving import COMMAND
from tests.world import running_backend, running_provider


class Person:
    """Somebody with a browser, and everything that it complained of in any of the tabs."""

    def __init__(self, context: BrowserContext) -> None:
        self.context = context
        self.complaints: list[str] = []
        context.on("console", self._listen)
        context.on("weberror", lambda error: self.complaints.append(str(error.error)))

    def _listen(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            self.complaints.append(f"{message.text} at {urlsplit(message.location['url']).path}")

    async def tab(self) -> Page:
        return await self.context.new_page()

    async def cookies(self) -> dict[str, Any]:
        return {cookie["name"]: cookie for cookie in await self.context.cookies()}


@asynccontextmanager
async def person(chromium: Chromium, **options: Any) -> AsyncIterator[Person]:
    """Somebody new. At the end, the browser must not have complained of anything."""
    context = await chromium.browser.new_context(locale="en-GB", viewport={"width": 1024, "height": 720}, **options)
    somebody = Person(context)
    yield somebody
    await context.close()
    assert somebody.complaints == []


@asynccontextmanager
async def running_demo(folder: Path) -> AsyncIterator[str]:
    """The address of an `oidc-proxy demo` of its own."""
    port = free_port()
    demo = Process([*COMMAND, "demo", "--port", str(port)], folder / "demo.log")
    demo.start()
    try:
        while "Open" not in demo.tail():
            assert demo.running(), demo.tail()
            await asyncio.sleep(0.02)
        yield f"http://localhost:{port}"
    finally:
        await asyncio.to_thread(demo.stop)


async def sign_in(page: Page, name: str, password: str) -> None:
    """Fill in the form that the page shows: the demo's or Keycloak's."""
    await page.locator("#username").fill(name)
    await page.locator("#password").fill(password)
    await page.locator("#password").press("Enter")


async def shows(page: Page, name: str) -> None:
    """The application's own page, for this user."""
    await expect(page.get_by_role("heading", level=1)).to_have_text("Demo backend")
    await expect(page.get_by_role("row", name="X-Forwarded-Preferred-Username")).to_contain_text(name)


class TestTheDemo:
    async def test_a_deep_link_is_restored_after_the_sign_in(self, chromium: Chromium, tmp_path: Path) -> None:
        async with running_demo(tmp_path) as url, person(chromium) as ann:
            page = await ann.tab()
            await page.goto(f"{url}/wiki/a%2Fb?x=1&d=%20+&u=https://x.y/z")
            await expect(page.get_by_role("heading", level=1)).to_have_text("Sign in to the demo provider")
            await sign_in(page, "ann", "ann")
            await shows(page, "ann")
            assert page.url == f"{url}/wiki/a%2Fb?x=1&d=%20+&u=https://x.y/z"
            await page.get_by_role("link", name="Administration").click()
            await shows(page, "ann")
            assert page.url == f"{url}/admin/"
            await page.reload()
            await shows(page, "ann")

    async def test_the_public_page_asks_nobody(self, chromium: Chromium, tmp_path: Path) -> None:
        async with running_demo(tmp_path) as url, person(chromium) as somebody:
            page = await somebody.tab()
            await page.goto(f"{url}/public/")
            await expect(page.locator("#user")).to_have_text("The proxy names nobody.")
            assert await somebody.cookies() == {}

    async def test_twenty_tabs_at_once(self, chromium: Chromium, tmp_path: Path) -> None:
        async with running_demo(tmp_path) as url, person(chromium) as ann:
            tabs = [await ann.tab() for _ in range(20)]
            await asyncio.gather(*(tab.goto(f"{url}/tab/{number}") for number, tab in enumerate(tabs)))
            for tab in tabs:
                await expect(tab.locator("#password")).to_be_visible()
            await asyncio.gather(*(sign_in(tab, "ann", "ann") for tab in tabs))
            for number, tab in enumerate(tabs):
                await shows(tab, "ann")
                assert tab.url == f"{url}/tab/{number}"
            left = {name for name in await ann.cookies() if name.startswith("oidc_proxy")}
            assert "oidc_proxy" in left
            assert len(left) <= 2, "nothing is left of the sign-ins but the count of them"

    async def test_the_link_in_the_page_signs_out_and_back_shows_nothing(
        self, chromium: Chromium, tmp_path: Path
    ) -> None:
        async with running_demo(tmp_path) as url, person(chromium) as ann:
            page = await ann.tab()
            await page.goto(f"{url}/secret")
            await sign_in(page, "ann", "ann")
            await shows(page, "ann")
            await page.get_by_role("link", name="Sign out").click()
            await expect(page.get_by_role("heading", level=1)).to_have_text("You are signed out")
            assert page.url.startswith(f"{url}/oauth2/signed_out")
            assert "oidc_proxy" not in await ann.cookies()
            for _ in range(3):
                await page.go_back()
                assert "ann@example.test" not in await page.content()
            await page.goto(f"{url}/secret")
            await expect(page.locator("#password")).to_be_visible()

    async def test_from_elsewhere_signing_out_is_asked_first(self, chromium: Chromium, tmp_path: Path) -> None:
        async with running_demo(tmp_path) as url, person(chromium) as ann:
            page = await ann.tab()
            await page.goto(f"{url}/")
            await sign_in(page, "ann", "ann")
            await shows(page, "ann")
            elsewhere = await ann.tab()
            await elsewhere.set_content(f'<a href="{url}/oauth2/sign_out">a link</a>')
            await elsewhere.get_by_role("link").click()
            await expect(elsewhere.get_by_role("heading", level=1)).to_have_text("Sign out?")
            await page.reload()
            await shows(page, "ann")
            await elsewhere.get_by_role("link", name="Stay signed in").click()
            await shows(elsewhere, "ann")
            await elsewhere.goto(f"{url}/oauth2/sign_out")
            await elsewhere.get_by_role("button", name="Sign out").click()
            await expect(elsewhere.get_by_role("heading", level=1)).to_have_text("You are signed out")
            await page.reload()
            await expect(page.locator("#password")).to_be_visible()
            await elsewhere.get_by_role("link", name="Sign in again").click()
            await sign_in(elsewhere, "bob", "bob")
            await shows(elsewhere, "bob")

    async def test_who_may_not_enter_can_take_another_account(self, chromium: Chromium, tmp_path: Path) -> None:
        async with running_demo(tmp_path) as url, person(chromium) as eve:
            page = await eve.tab()
            await page.goto(f"{url}/")
            await sign_in(page, "eve", "eve")
            await shows(page, "eve")
            await page.get_by_role("link", name="Administration").click()
            await expect(page.get_by_role("heading", level=1)).to_have_text("Access denied")
            assert [text for text in eve.complaints if "403 (Forbidden)" in text] == eve.complaints
            eve.complaints.clear()
            await page.get_by_role("link", name="Use another account").click()
            await page.get_by_role("link", name="Sign in again").click()
            await sign_in(page, "ann", "ann")
            await shows(page, "ann")

    async def test_cookies_over_http_on_this_machine(self, chromium: Chromium, tmp_path: Path) -> None:
        async with running_demo(tmp_path) as url, person(chromium) as ann:
            page = await ann.tab()
            await page.goto(f"{url}/")
            (pending,) = [c for name, c in (await ann.cookies()).items() if name.startswith("oidc_proxy")]
            assert (pending["httpOnly"], pending["sameSite"], pending["path"]) == (True, "Lax", "/")
            assert 0 < pending["expires"] - time.time() <= 600
            await sign_in(page, "ann", "ann")
            await shows(page, "ann")
            cookie = (await ann.cookies())["oidc_proxy"]
            assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, "Lax", "/")
            assert (cookie["domain"], cookie["expires"]) == ("localhost", -1)
            assert await page.evaluate("document.cookie") == ""
            assert pending["name"] not in await ann.cookies()

    async def test_two_people_in_two_browsers_are_two_people(self, chromium: Chromium, tmp_path: Path) -> None:
        async with running_demo(tmp_path) as url, person(chromium) as ann, person(chromium) as eve:
            for somebody, name in ((ann, "ann"), (eve, "eve")):
                page = await somebody.tab()
                await page.goto(f"{url}/")
                await sign_in(page, name, name)
                await shows(page, name)


class TestOverTls:
    async def test_cookies_have_the_host_prefix(self, chromium: Chromium, tmp_path: Path) -> None:
        port, inner = free_port(), free_port()
        url = f"https://localhost:{port}"
        async with (
            running_provider(clients=[client_for(url)], path="/realms/demo") as provider,
            running_backend() as backend,
            tls_in_front(port, inner, tmp_path),
            running_app(merged(settings_for(inner, provider, backend), {"public_url": url}), time.time),
            person(chromium, ignore_https_errors=True) as ann,
        ):
            page = await ann.tab()
            await page.goto(f"{url}/deep?link=1")
            (pending,) = [c for name, c in (await ann.cookies()).items() if name.startswith("__Host-oidc_proxy")]
            await sign_in(page, "ann", "ann")
            await shows(page, "ann")
            assert page.url == f"{url}/deep?link=1"
            held = await ann.cookies()
            cookie = held["__Host-oidc_proxy"]
            for one in (cookie, pending):
                assert (one["secure"], one["httpOnly"], one["sameSite"], one["path"]) == (True, True, "Lax", "/")
                assert not one["domain"].startswith(".")
            assert cookie["expires"] == -1
            await page.get_by_role("link", name="Sign out").click()
            await expect(page.get_by_role("heading", level=1)).to_have_text("You are signed out")
            assert "__Host-oidc_proxy" not in await ann.cookies()

    async def test_f210_one_host_signs_in_for_the_others(self, chromium: Chromium, tmp_path: Path) -> None:
        port, inner = free_port(), free_port()
        auth, wiki, shop = (f"https://{name}.localhost:{port}" for name in ("auth", "wiki", "shop"))
        config = {"public_url": [wiki, auth, shop], "login": {"auth_origin": auth}}
        async with (
            running_provider(clients=[client_for(auth)], path="/realms/demo") as provider,
            running_backend() as backend,
            tls_in_front(port, inner, tmp_path),
            running_app(merged(settings_for(inner, provider, backend), config), time.time),
            person(chromium, ignore_https_errors=True) as ann,
        ):
            page = await ann.tab()
            await page.goto(f"{wiki}/deep?link=1")
            await sign_in(page, "ann", "ann")
            await shows(page, "ann")
            assert page.url == f"{wiki}/deep?link=1"
            await page.goto(f"{shop}/cart")
            await shows(page, "ann")
            assert page.url == f"{shop}/cart", "no second form"
            held = [cookie for cookie in await ann.context.cookies() if cookie.get("name") == "__Host-oidc_proxy"]
            assert {cookie.get("domain") for cookie in held} == {
                f"{name}.localhost" for name in ("auth", "wiki", "shop")
            }
            await page.goto(f"{shop}/oauth2/sign_out")
            await page.get_by_role("button", name="Sign out").click()
            await expect(page.get_by_role("heading", level=1)).to_have_text("You are signed out")
            assert page.url.startswith(f"{shop}/oauth2/signed_out")
            await page.goto(f"{wiki}/deep")
            await expect(page.locator("#password")).to_be_visible()


@asynccontextmanager
async def tls_in_front(port: int, inner: int, folder: Path) -> AsyncIterator[None]:
    """What ends TLS in front of the gateway, with a certificate of its own making."""

    async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                target.write(data)
                await target.drain()
        except ConnectionError:
            pass
        finally:
            target.close()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", inner)
        await asyncio.gather(copy(reader, back), copy(there, writer))

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate(folder))
    server = await asyncio.start_server(forward, "127.0.0.1", port, ssl=context)
    try:
        yield
    finally:
        server.close()


def certificate(folder: Path) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    file = folder / "localhost.pem"
    private = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    file.write_bytes(
        signed.public_bytes(serialization.Encoding.PEM) + key.private_bytes(serialization.Encoding.PEM, *private)
    )
    return file


class TestAtKeycloak:
    async def test_sign_in_and_sign_out_in_both_ways(self, chromium: Chromium, keycloak: Keycloak) -> None:
        async with place(keycloak) as here, running_app(here.config, time.time), person(chromium) as ann:
            page = await ann.tab()
            await page.goto(f"{here.url}/wiki/a%2Fb?x=1&d=%20+")
            assert page.url.startswith(keycloak.base_url)
            await sign_in(page, ANN.name, ANN.password)
            await shows(page, "ann")
            assert page.url == f"{here.url}/wiki/a%2Fb?x=1&d=%20+"
            assert await here.sessions_of("ann") == 1

            await page.get_by_role("link", name="Sign out").click()
            await expect(page.get_by_role("heading", level=1)).to_have_text("You are signed out")
            assert page.url.startswith(f"{here.url}/oauth2/signed_out")
            assert await here.sessions_of("ann") == 0
            await page.go_back()
            assert ANN.email not in await page.content()

            await page.goto(f"{here.url}/again")
            await sign_in(page, ANN.name, ANN.password)
            await shows(page, "ann")
            await page.goto(f"{here.url}/oauth2/sign_out")
            await page.get_by_role("button", name="Sign out").click()
            await expect(page.get_by_role("heading", level=1)).to_have_text("You are signed out")
            assert await here.sessions_of("ann") == 0

    async def test_twenty_tabs_at_once_come_back_without_a_question(
        self, chromium: Chromium, keycloak: Keycloak
    ) -> None:
        """A session that is over here and not there: every tab goes to Keycloak and back on its own."""
        async with place(keycloak) as here, running_app(here.config, time.time), person(chromium) as ann:
            page = await ann.tab()
            await page.goto(f"{here.url}/")
            await sign_in(page, ANN.name, ANN.password)
            await shows(page, "ann")
            await ann.context.clear_cookies(name="oidc_proxy")
            tabs = [await ann.tab() for _ in range(20)]
            await asyncio.gather(*(tab.goto(f"{here.url}/tab/{number}#part") for number, tab in enumerate(tabs)))
            for number, tab in enumerate(tabs):
                await shows(tab, "ann")
                assert tab.url == f"{here.url}/tab/{number}#part"
            assert await here.sessions_of("ann") == 1


class TestHowItLooks:
    async def test_every_page_in_light_and_in_dark(self, chromium: Chromium, tmp_path: Path) -> None:
        taken: list[Path] = []
        async with House(free_port()) as house, person(chromium) as eve:
            page = await eve.tab()

            async def take(name: str, heading: str) -> None:
                await expect(page.get_by_role("heading", level=1)).to_have_text(heading)
                taken.extend(await screenshots(page, name, tmp_path))

            await house.provider.close()
            await page.goto(f"{house.url}/somewhere")
            await take("provider-unavailable", "Sign-in service unavailable")
            await house.provider.open()
            await asyncio.sleep(2.1)
            await page.goto(f"{house.url}/somewhere")
            await take("demo-sign-in", "Sign in to the demo provider")
            await sign_in(page, "eve", "wrong")
            await take("demo-sign-in-failed", "Sign in to the demo provider")
            await sign_in(page, "eve", "eve")
            await take("demo-backend", "Demo backend")
            await page.goto(f"{house.url}/admin/")
            await take("access-denied", "Access denied")
            await page.goto(f"{house.url}/oauth2/sign_out")
            await take("confirm-sign-out", "Sign out?")
            await page.get_by_role("button", name="Sign out").click()
            await take("signed-out", "You are signed out")
            told = "Failed to load resource: the server responded with a status of"
            assert eve.complaints == [
                f"{told} 503 (Service Unavailable) at /somewhere",
                f"{told} 403 (Forbidden) at /admin/",
            ]
            eve.complaints.clear()
        assert len(taken) == 14
        for light, dark in zip(taken[::2], taken[1::2], strict=True):
            assert light.read_bytes() != dark.read_bytes(), light.name

    @pytest.mark.parametrize("width", [320, 1024])
    async def test_nothing_sticks_out_sideways(self, chromium: Chromium, tmp_path: Path, width: int) -> None:
        async with running_demo(tmp_path) as url, person(chromium) as ann:
            page = await ann.tab()
            await page.set_viewport_size({"width": width, "height": 640})
            for step in ("sign-in", "backend", "confirm"):
                if step == "sign-in":
                    await page.goto(f"{url}/a-long-path-{'x' * 200}")
                elif step == "backend":
                    await sign_in(page, "ann", "ann")
                    await shows(page, "ann")
                else:
                    await page.goto(f"{url}/oauth2/sign_out")
                wide = await page.evaluate("document.documentElement.scrollWidth")
                assert wide <= width, step


class TestWebSockets:
    async def test_f219_f264_a_page_talks_until_its_user_signs_out(self, chromium: Chromium, tmp_path: Path) -> None:
        async with running_demo(tmp_path) as url, person(chromium) as ann:
            page = await ann.tab()
            await page.goto(f"{url}/echo")
            await sign_in(page, "ann", "ann")
            await page.wait_for_url(f"{url}/echo")
            script = """async (url) => {
                const heard = [];
                const socket = window.socket = new WebSocket(url, ["chat"]);
                window.goodbye = new Promise(done => { socket.onclose = event => done([event.code, event.reason]); });
                await new Promise((done, fail) => { socket.onopen = done; socket.onerror = fail; });
                for (const size of [0, 1, 125, 126, 65535, 65536, 1000000]) {
                    const answer = new Promise(done => { socket.onmessage = event => done(event.data); });
                    socket.send("x".repeat(size));
                    heard.push((await answer).length);
                }
                return [socket.protocol, socket.extensions, heard];
            }"""
            protocol, extensions, heard = await page.evaluate(script, f"ws{url.removeprefix('http')}/ws")
            assert (protocol, heard) == ("chat", [0, 1, 125, 126, 65535, 65536, 1000000])
            assert extensions == "permessage-deflate", "as agreed between the browser and the application"
            other = await ann.tab()
            await other.goto(f"{url}/echo")
            began = time.monotonic()
            await other.evaluate("fetch('/oauth2/sign_out', {method: 'POST', redirect: 'manual'})")
            assert await page.evaluate("window.goodbye") == [1008, "session ended"]
            assert time.monotonic() - began < 1
