"""Nothing that opens a door is in the logs, in the metrics or in Redis, whatever happened before."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.gateway import client_for, merged, settings_for
from tests.real.canaries import Canaries, forms, tapped
from tests.real.keycloak import ANN, BOB, EVE, Keycloak
from tests.real.parts import free_port
from tests.real.places import place
from tests.real.redis import RedisServer
from tests.serving import Serving, serving
from tests.world import Backend, Browser, Page, running_backend, running_provider

SHORT = 2
"""Seconds that access tokens live."""


@dataclass
class Scene:
    """A gateway process, what it talks to, and what was secret in all that was said."""

    gateway: Serving
    backend: Backend
    redis: RedisServer
    canaries: Canaries
    passwords: dict[str, str]
    kept: bytes = b""
    """What was to be read in Redis, from time to time."""

    async def look(self) -> None:
        """Read all of Redis now."""
        entries = await self.redis.dump_all()
        self.kept += b"".join(entry.key + b"\n" + entry.value + b"\n" for entry in entries)

    async def everything(self) -> dict[str, bytes]:
        """All that an onlooker could read."""
        await self.look()
        metrics, ready = await self.gateway.ask("/metrics"), await self.gateway.ask("/readyz")
        return {
            "the log": self.gateway.log.encode(),
            "Redis": self.kept,
            "the metrics": metrics[1].encode(),
            "readiness": ready[1].encode(),
        }


class Watched(Browser):
    """A browser that remembers what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.pages: list[Page] = []

    async def request(self, *arguments: Any, **options: Any) -> Page:
        page = await super().request(*arguments, **options)
        self.pages.append(page)
        return page


@asynccontextmanager
async def scene(redis_server: RedisServer, folder: Path, keycloak: Keycloak | None) -> AsyncIterator[Scene]:
    """Keycloak, or the demo's provider, with a tap on the line to the gateway."""
    canaries = Canaries()
    config: dict[str, Any] = {
        "store": {"type": "redis", "url": redis_server.url},
        "session": {"refresh": {"leeway": "0s", "failure_backoff": "0s"}, "touch_interval": "0s"},
        "provider": {"timeout": "5s"},
        "routes": [{"path": "/nobody/", "groups": ["/nobody"]}, {"path": "/public/", "auth": "none"}],
    }
    async with AsyncExitStack() as stack:
        if keycloak is not None:
            here = await stack.enter_async_context(place(keycloak, config, access_token_lifespan=SHORT))
            backend, settings, target = here.backend, here.config, keycloak.internal_url
            passwords = {account.name: account.password for account in (ANN, BOB, EVE)}
        else:
            port = free_port()
            clients = [client_for(f"http://127.0.0.1:{port}")]
            provider = await stack.enter_async_context(running_provider(clients=clients, path="/realms/demo"))
            provider.lifetimes = replace(provider.lifetimes, access_token=SHORT)
            provider.dynamic_backchannel = True
            backend = await stack.enter_async_context(running_backend())
            settings, target = merged(settings_for(port, provider, backend), config), provider.address
            passwords = {name: name for name in ("ann", "bob", "eve")}
        tap = await stack.enter_async_context(tapped(target, canaries))
        settings = merged(settings, {"provider": {"internal_base_url": tap}})
        canaries.add("client secret", settings["provider"]["client_secret"])
        gateway = await stack.enter_async_context(serving(settings, folder))
        yield Scene(gateway, backend, redis_server, canaries, passwords)


async def everything_happens(it: Scene) -> None:
    """A day with sign-ins, renewals, refusals, attacks and a sign-out; Bob stays signed in."""
    async with Watched() as ann, Watched() as bob, Watched() as mallory:
        url = it.gateway.url
        await signing_in_and_working(it, ann, bob)
        await refusals_and_errors(it, ann, mallory)
        await asyncio.sleep(SHORT + 0.2)
        backends = len(it.backend.requests)
        for person in (ann, bob):
            await asyncio.gather(*(person.fetch(f"{url}/echo") for _ in range(3)))
        assert len(it.backend.requests) == backends + 6
        await it.look()
        await ann.navigate(f"{url}/oauth2/sign_out", initiator=f"{url}/")
        await mallory.navigate(f"{url}/oauth2/sign_out")
        for browser in (ann, bob, mallory):
            it.canaries.add_pages(browser.pages)
            for cookie in browser.cookies.named("oidc_proxy"):
                it.canaries.add("cookie", cookie.value)
    it.canaries.add_backend(it.backend)


async def signing_in_and_working(it: Scene, ann: Watched, bob: Watched) -> None:
    url, planted = it.gateway.url, {name: secrets.token_urlsafe(24) for name in ("query", "header", "cookie", "body")}
    for kind, value in planted.items():
        it.canaries.add(f"the application's {kind}", value)
    await ann.fetch(f"{url}/echo?token={planted['query']}", headers={"Authorization": f"Bearer {planted['header']}"})
    pending = await ann.navigate(f"{url}/echo?token={planted['query']}")
    await it.look()
    page = await ann.fill_sign_in(pending, "ann", it.passwords["ann"])
    assert page.status == 200, page.status
    assert (await bob.sign_in(f"{url}/echo", "bob", it.passwords["bob"])).status == 200
    ann.cookies.store(url, f"app={planted['cookie']}; Path=/")
    await ann.fetch(f"{url}/echo", method="POST", data=planted["body"].encode(), headers={"X-Key": planted["header"]})
    await it.look()


async def refusals_and_errors(it: Scene, ann: Watched, mallory: Watched) -> None:
    url = it.gateway.url
    callback = next(hop.url for page in ann.pages for hop in page.hops if "/oauth2/callback?" in hop.url)
    assert (await mallory.navigate(callback)).status == 400, "somebody else's"
    await ann.navigate(callback)  # once more
    assert (await ann.navigate(f"{url}/nobody/")).status == 403
    for garbage in (
        f"code={secrets.token_urlsafe(24)}",
        "error=server_error&error_description=because",
        "code=x&code=y",
    ):
        begun = await mallory.request("GET", f"{url}/oauth2/start?rd=/echo")
        state = parse_qs(urlsplit(begun.location).query)["state"][0]
        issuer = parse_qs(urlsplit(callback).query).get("iss", [""])[0]
        refused = await mallory.navigate(f"{url}/oauth2/callback?state={state}&{garbage}&iss={issuer}")
        assert 400 <= refused.status < 500
    held = ann.cookies.get("oidc_proxy")
    assert held is not None
    for cookie in (held[:-1], held[::-1], held.replace(".", ""), f"{held}; oidc_proxy={held}"):
        await mallory.request("GET", f"{url}/echo", cookies=f"oidc_proxy={cookie}")
    for line in (b"GET /echo?%b HTTP/1.1\r\nHost: other.test\r\n\r\n", b"\x16\x03\x01%b\r\n\r\n", b"GET %b\r\n\r\n"):
        reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(url).port)
        writer.write(line % held.encode())
        writer.write_eof()
        await asyncio.wait_for(reader.read(), 5)
        writer.close()
    await it.backend.close()
    assert (await ann.fetch(f"{url}/echo?key={held}")).status == 502
    await it.backend.open()
    it.redis.pause()
    assert (await ann.fetch(f"{url}/echo")).status in {200, 503}
    it.redis.resume()


EXPECTED = {
    "code", "state", "nonce", "code_verifier", "refresh_token", "access_token", "id_token", "cookie", "client secret",
    "credentials", "the application's query", "the application's body",
}  # fmt: skip


async def test_no_secret_is_left_after_a_day_with_the_demo(redis_server: RedisServer, tmp_path: Path) -> None:
    await no_secret_is_left(redis_server, tmp_path, None)


async def test_no_secret_is_left_after_a_day_with_keycloak(
    keycloak: Keycloak, redis_server: RedisServer, tmp_path: Path
) -> None:
    await no_secret_is_left(redis_server, tmp_path, keycloak)


async def no_secret_is_left(redis_server: RedisServer, folder: Path, keycloak: Keycloak | None) -> None:
    """In the log, the metrics and Redis; and what is planted there is found."""
    async with scene(redis_server, folder, keycloak) as it:
        await everything_happens(it)
        assert it.canaries.kinds() >= EXPECTED
        assert len(it.canaries.known) > 60
        events = {line.get("event") for line in it.gateway.lines()}
        assert {"login.succeeded", "login.failed", "session.refreshed", "logout.rp", "access.denied"} <= events
        assert b"session:" in it.kept
        for name, text in (await it.everything()).items():
            assert text, name
            assert it.canaries.found_in(text) == set(), name
        await planted_ones_are_found(it, redis_server)


async def planted_ones_are_found(it: Scene, redis_server: RedisServer) -> None:
    """The search can fail: what is put in Redis, and what the access log repeats of a path, does not escape it."""
    value = "planted-" + secrets.token_urlsafe(24)
    it.canaries.add("planted", value)
    async with redis_server.client() as client:
        await client.hset("elsewhere", mapping={"field": b"\x00" + value.encode().hex().encode() + b"\xff"})
    async with Browser() as mallory:
        await mallory.fetch(f"{it.gateway.url}/{value}")
    async with asyncio.timeout(5):
        while value not in it.gateway.log:  # lines about requests are written a moment later
            await asyncio.sleep(0.05)
    read = await it.everything()
    assert it.canaries.found_in(read["Redis"]) == {"planted, in hexadecimal"}
    assert it.canaries.found_in(read["the log"]) >= {"planted, as it is"}


@pytest.mark.parametrize(
    "value",
    ["a secret: with % & ü in it", secrets.token_urlsafe(32), "ey0.eyJhIjoiYiJ9eyJh.c2ln" * 3],
    ids=["a sentence", "random", "a token"],
)
def test_a_canary_is_found_in_every_form_and_at_any_place(value: str) -> None:
    canaries = Canaries()
    canaries.add("secret", value)
    for form, needle in forms(value):
        for before in (b"", b"x", b"xy", b"xyz"):
            assert f"secret, {form}" in canaries.found_in(before + needle + b"more"), form
    assert canaries.found_in(b"something else entirely, " * 50) == set()
