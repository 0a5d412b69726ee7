"""Keycloak ends sessions, by its back channel and its front channel, and is told when a user leaves here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.gateway import merged, running_app
from tests.real.browser import Chromium
from tests.real.keycloak import ANN, BOB, Keycloak
from tests.real.parts import free_port
from tests.real.places import Place, asks_for_password, place
from tests.real.redis import RedisServer
from tests.serving import serving
from tests.world import Browser


@asynccontextmanager
async def told_by_keycloak(
    keycloak: Keycloak, config: dict[str, Any] | None = None, *, sids: str = "true"
) -> AsyncIterator[Place]:
    """A gateway that Keycloak knows by another name than browsers do, as in a network of containers."""
    async with place(keycloak, config) as here:
        port = urlsplit(here.url).port
        address = f"http://localhost:{port}/oauth2/backchannel_logout"
        await change_client(here, {"backchannel.logout.url": address, "backchannel.logout.session.required": sids})
        yield here


async def change_client(here: Place, attributes: dict[str, str], **fields: Any) -> None:
    (client,) = await here.keycloak.admin("GET", f"{here.realm}/clients?clientId=proxy")
    changed = client | fields | {"attributes": client["attributes"] | attributes}
    await here.keycloak.admin("PUT", f"{here.realm}/clients/{client['id']}", changed)


async def status(browser: Browser, here: Place) -> int:
    return (await browser.fetch(f"{here.url}/echo")).status


class TestBackChannel:
    async def test_lg14_an_administrator_ends_the_sessions_of_a_user(
        self, keycloak: Keycloak, redis_server: RedisServer
    ) -> None:
        store = {"store": {"type": "redis", "url": redis_server.url}}
        async with told_by_keycloak(keycloak, store) as here, running_app(here.config, time.time) as (_, log):
            async with Browser() as ann, Browser() as phone, Browser() as bob:
                for browser, account in ((ann, ANN), (phone, ANN), (bob, BOB)):
                    await browser.sign_in(f"{here.url}/echo", account.name, account.password)
                await keycloak.end_user_sessions(here.realm, "ann")
                assert [await status(browser, here) for browser in (ann, phone, bob)] == [401, 401, 200]
                assert log.getvalue().count('"event":"logout.backchannel"') == 2
                assert not [
                    entry for entry in await redis_server.dump_all() if (await here.user("ann")).encode() in entry.key
                ]
                await asyncio.sleep(1.1)
                asked = await ann.navigate(f"{here.url}/echo/again")
                assert asks_for_password(asked)
                page = await ann.fill_sign_in(asked, ANN.name, ANN.password)
                assert page.json()["target"] == "/echo/again"

    async def test_lg14_every_process_refuses_the_next_request(
        self, keycloak: Keycloak, redis_server: RedisServer, tmp_path: Path
    ) -> None:
        """Keycloak tells one process; all of them had the session in memory, and none asks the store at a request."""
        store = {"store": {"type": "redis", "url": redis_server.url}}
        async with told_by_keycloak(keycloak, store) as here, AsyncExitStack() as running, Browser() as ann:
            authority = here.url.removeprefix("http://")
            ports = [urlsplit(here.url).port, free_port(), free_port()]
            for number, port in enumerate(ports):
                config = merged(here.config, {"listen": {"address": f"127.0.0.1:{port}"}})
                await running.enter_async_context(serving(config, tmp_path / str(number)))

            async def everywhere() -> list[int]:
                cookies = ann.cookies.header(here.url)
                asked = [
                    ann.request("GET", f"http://127.0.0.1:{port}/echo", headers={"Host": authority}, cookies=cookies)
                    for port in ports
                ]
                return [page.status for page in await asyncio.gather(*asked)]

            await ann.sign_in(f"{here.url}/echo", ANN.name, ANN.password)
            assert await everywhere() == [200, 200, 200]
            before = (await redis_server.command_stats()).get("get", 0)
            assert await everywhere() == [200, 200, 200]
            assert (await redis_server.command_stats()).get("get", 0) == before, "served from memory"
            await keycloak.end_user_sessions(here.realm, "ann")
            assert await everywhere() == [401, 401, 401]

    async def test_f102_one_of_two_sessions(self, keycloak: Keycloak) -> None:
        async with told_by_keycloak(keycloak) as here, running_app(here.config, time.time):
            async with Browser() as ann, Browser() as phone:
                await ann.sign_in(f"{here.url}/echo", ANN.name, ANN.password)
                (first,) = await keycloak.user_sessions(here.realm, "ann")
                await phone.sign_in(f"{here.url}/echo", ANN.name, ANN.password)
                await keycloak.end_session(here.realm, first["id"])
                assert [await status(browser, here) for browser in (ann, phone)] == [401, 200]

    async def test_f193_without_a_sid_every_session_of_the_user(self, keycloak: Keycloak) -> None:
        async with told_by_keycloak(keycloak, sids="false") as here, running_app(here.config, time.time):
            async with Browser() as ann, Browser() as phone:
                await ann.sign_in(f"{here.url}/echo", ANN.name, ANN.password)
                (first,) = await keycloak.user_sessions(here.realm, "ann")
                await phone.sign_in(f"{here.url}/echo", ANN.name, ANN.password)
                await keycloak.end_session(here.realm, first["id"])
                assert [await status(browser, here) for browser in (ann, phone)] == [401, 401]

    async def test_a_user_who_is_deleted_is_out_at_the_next_request_or_the_next_renewal(
        self, keycloak: Keycloak
    ) -> None:
        """Keycloak sends no logout token for a user whom it deletes: the refused renewal ends the session."""
        settings = {"session": {"refresh": {"leeway": "0s"}}}
        async with place(keycloak, settings, access_token_lifespan=2) as here:
            async with running_app(here.config, time.time) as (_, log), Browser() as bob:
                await bob.sign_in(f"{here.url}/echo", BOB.name, BOB.password)
                await keycloak.admin("DELETE", f"{here.realm}/users/{await here.user('bob')}")
                await asyncio.sleep(2.2)
                assert await status(bob, here) == 401
                assert '"event":"session.ended"' in log.getvalue()


class TestSignOut:
    async def test_f100_f98_signing_out_here_revokes_and_ends_the_session_there(self, keycloak: Keycloak) -> None:
        async with told_by_keycloak(keycloak) as here, running_app(here.config, time.time) as (app, log):
            for _ in range(5):  # the revocation and the browser race to Keycloak: both orders must end well
                async with Browser() as ann:
                    await ann.sign_in(f"{here.url}/echo", ANN.name, ANN.password)
                    left = await ann.navigate(f"{here.url}/oauth2/sign_out", initiator=f"{here.url}/")
                    assert left.url.startswith(f"{here.url}/oauth2/signed_out"), left.text
                    assert "You are signed out" in left.text
                    while app._logout.busy:
                        await asyncio.sleep(0.01)
                    assert await here.sessions_of("ann") == 0
            assert "logout.revocation_failed" not in log.getvalue()

    async def test_f100_the_revocation_alone_ends_the_session_there(self, keycloak: Keycloak) -> None:
        async with place(keycloak, {"logout": {"provider": False}}) as here:
            async with running_app(here.config, time.time) as (app, _), Browser() as ann:
                await ann.sign_in(f"{here.url}/echo", ANN.name, ANN.password)
                assert await here.sessions_of("ann") == 1
                await ann.navigate(f"{here.url}/oauth2/sign_out", initiator=f"{here.url}/")
                while app._logout.busy:
                    await asyncio.sleep(0.01)
                assert await here.sessions_of("ann") == 0


class TestFrontChannel:
    async def test_f101_keycloaks_page_ends_the_session_in_a_frame(
        self, keycloak: Keycloak, chromium: Chromium
    ) -> None:
        async with place(keycloak) as here, running_app(here.config, time.time) as (_, log):
            address = f"{here.url}/oauth2/frontchannel_logout"
            attributes = {"frontchannel.logout.url": address, "frontchannel.logout.session.required": "true"}
            await change_client(here, attributes, frontchannelLogout=True)
            page = await chromium.page()
            await page.goto(f"{here.url}/echo")
            await page.fill("#username", ANN.name)
            await page.fill("#password", ANN.password)
            await page.click("#kc-login")
            await page.wait_for_url(f"{here.url}/echo")
            held = {cookie["name"]: cookie["value"] for cookie in await page.context.cookies(here.url)}
            await page.goto(f"{keycloak.issuer(here.realm)}/protocol/openid-connect/logout")
            await page.click("#kc-logout")
            for _ in range(100):
                if '"event":"logout.frontchannel"' in log.getvalue():
                    break
                await asyncio.sleep(0.05)
            assert '"event":"logout.frontchannel"' in log.getvalue()
            async with Browser() as thief:
                cookie = "; ".join(f"{name}={value}" for name, value in held.items())
                assert (await thief.request("GET", f"{here.url}/echo", cookies=cookie)).status == 401
