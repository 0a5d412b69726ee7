"""Days with a real Keycloak behind the gateway, and a real Redis beside it."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession

from tests.gateway import merged, running_app, sample
from tests.real.keycloak import ANN, BOB, Keycloak
from tests.real.parts import free_port
from tests.real.places import asks_for_password, headers_of, place
from tests.real.redis import RedisServer
from tests.serving import serving
from tests.world import Browser, Page

SHORT = 2
"""Seconds that access tokens live where a story needs them to expire."""

AT_EXPIRY: dict[str, Any] = {"session": {"refresh": {"leeway": "0s", "failure_backoff": "1s"}}}
"""Tokens are renewed when they have expired and not before; else a test could not tell one from the other."""


async def expired() -> None:
    await asyncio.sleep(SHORT + 0.2)


async def userinfo(keycloak: Keycloak, realm: str, authorization: str) -> tuple[int, dict[str, Any]]:
    """What Keycloak says to the bearer token that a backend was given."""
    async with ClientSession() as http:
        url = f"{keycloak.internal_url}/realms/{realm}/protocol/openid-connect/userinfo"
        answer = await http.get(url, headers={"Authorization": authorization})
        return answer.status, await answer.json() if answer.status == 200 else {}


def identity_of(page: Page) -> dict[str, str]:
    """Everything that the backend was told about who it is."""
    told = ("X-Forwarded-User", "X-Forwarded-Email", "X-Forwarded-Groups", "Authorization")
    return {name: headers_of(page)[name] for name in told}


async def sign_out(browser: Browser, url: str) -> Page:
    """By the link in a page of the application."""
    return await browser.navigate(f"{url}/oauth2/sign_out", initiator=f"{url}/")


class TestADay:
    async def test_first_visit_deep_link_work_and_sign_out(
        self, keycloak: Keycloak, redis_server: RedisServer, tmp_path: Path
    ) -> None:
        store = {"store": {"type": "redis", "url": redis_server.url}}
        async with place(keycloak, store) as here, serving(here.config, tmp_path), Browser() as ann:
            asked = await ann.navigate(f"{here.url}/echo/wiki/a%2Fb?x=1&d=%20+&u=https://x.y/z")
            assert asks_for_password(asked)
            assert asked.url.startswith(keycloak.base_url)
            page = await ann.fill_sign_in(asked, ANN.name, ANN.password)
            seen = headers_of(page)
            assert page.json()["target"] == "/echo/wiki/a%2Fb?x=1&d=%20+&u=https://x.y/z"
            assert page.url == f"{here.url}/echo/wiki/a%2Fb?x=1&d=%20+&u=https://x.y/z"
            assert seen["X-Forwarded-User"] == await here.user("ann")
            assert seen["X-Forwarded-Email"] == ANN.email
            assert seen["X-Forwarded-Preferred-Username"] == "ann"
            assert "/eng/core" in seen["X-Forwarded-Groups"].split(",")
            assert "Cookie" not in seen
            status, claims = await userinfo(keycloak, here.realm, seen["Authorization"])
            assert (status, claims["sub"]) == (200, seen["X-Forwarded-User"])
            assert await here.sessions_of("ann") == 1
            held = ann.cookies.header(here.url)

            left = await sign_out(ann, here.url)
            assert left.status == 200
            assert left.url.startswith(f"{here.url}/oauth2/signed_out")
            assert "You are signed out" in left.text
            assert await here.sessions_of("ann") == 0
            assert (await userinfo(keycloak, here.realm, seen["Authorization"]))[0] == 401
            assert (await ann.request("GET", f"{here.url}/echo", cookies=held)).status == 401, "a kept cookie is dead"
            assert not [e for e in await redis_server.dump_all() if b"session:" in e.key]
            assert asks_for_password(await ann.navigate(f"{here.url}/echo"))

    async def test_the_issuer_is_split_between_browsers_and_the_gateway(self, keycloak: Keycloak) -> None:
        async with place(keycloak) as here, running_app(here.config, time.time) as (app, _), Browser() as ann:
            page = await ann.sign_in(f"{here.url}/echo", ANN.name, ANN.password)
            assert headers_of(page)["X-Forwarded-Preferred-Username"] == "ann"
            assert {hop.url.partition("/realms")[0] for hop in page.hops if "/realms/" in hop.url} == {
                keycloak.base_url
            }
            known = app._provider.metadata.known
            assert known is not None
            assert known.issuer == keycloak.issuer(here.realm)
            behind = (known.token_endpoint, known.jwks_uri, known.userinfo_endpoint)
            assert {str(url).partition("/realms")[0] for url in behind} == {keycloak.internal_url}

    async def test_every_endpoint_may_have_the_one_name(self, keycloak: Keycloak) -> None:
        async with (
            place(keycloak, {"provider": {"internal_base_url": None}}) as here,
            running_app(here.config, time.time),
            Browser() as ann,
        ):
            page = await ann.sign_in(f"{here.url}/echo", ANN.name, ANN.password)
            assert headers_of(page)["X-Forwarded-User"] == await here.user("ann")

    async def test_a_wrong_secret_is_said_to_be_the_operators_fault(self, keycloak: Keycloak) -> None:
        async with (
            place(keycloak, {"provider": {"client_secret": "another one"}}) as here,
            running_app(here.config, time.time) as (_, log),
            Browser() as ann,
        ):
            page = await ann.sign_in(f"{here.url}/echo", ANN.name, ANN.password)
            assert page.status == 502
            assert '"code":"client_rejected"' in log.getvalue()
            assert "another one" not in log.getvalue() + page.text


class TestRolesAndGroups:
    ROUTES = (
        {"path": "/echo/staff/", "roles": ["staff"]},
        {"path": "/echo/core/", "groups": ["/eng/core"]},
        {"path": "/echo/admin/", "roles": ["admin"]},
    )

    @pytest.mark.parametrize(
        ("mappers", "identity"),
        [
            ("group", {}),
            ("", {"roles_claims": ["roles"], "roles_from_access_token": False}),
        ],
        ids=["roles in the access token, as Keycloak does by itself", "roles in the ID token, by a mapper"],
    )
    async def test_realm_roles_and_groups_arrive_and_decide(
        self, keycloak: Keycloak, mappers: str, identity: dict[str, Any]
    ) -> None:
        settings = {"identity": identity, "routes": self.ROUTES}
        async with (
            place(keycloak, settings, mappers=mappers) as here,
            running_app(here.config, time.time),
            Browser() as ann,
            Browser() as bob,
        ):
            seen = headers_of(await ann.sign_in(f"{here.url}/echo", ANN.name, ANN.password))
            listed = set(seen["X-Forwarded-Groups"].split(","))
            assert {"/eng/core", "role:staff", "role:admin"} <= listed
            await bob.sign_in(f"{here.url}/echo", BOB.name, BOB.password)
            paths = [f"{here.url}/echo/{name}/" for name in ("staff", "core", "admin")]
            assert [(await ann.fetch(path)).status for path in paths] == [200, 200, 200]
            assert [(await bob.fetch(path)).status for path in paths] == [200, 403, 403]

    async def test_without_the_access_token_there_are_no_roles(self, keycloak: Keycloak) -> None:
        settings = {"identity": {"roles_from_access_token": False}}
        async with (
            place(keycloak, settings, mappers="group") as here,
            running_app(here.config, time.time),
            Browser() as ann,
        ):
            seen = headers_of(await ann.sign_in(f"{here.url}/echo", ANN.name, ANN.password))
            assert seen["X-Forwarded-Groups"] == "/eng/core"


class TestRefresh:
    async def test_an_expired_token_is_renewed_once_for_all_requests_that_wait(self, keycloak: Keycloak) -> None:
        """`revokeRefreshToken` is on: a second use of a refresh token would end the session at once."""
        async with (
            place(keycloak, AT_EXPIRY, access_token_lifespan=SHORT) as here,
            running_app(here.config, time.time) as (app, _),
            Browser() as ann,
        ):
            bearer = headers_of(await ann.sign_in(f"{here.url}/echo", ANN.name, ANN.password))["Authorization"]
            for count in (1, 2):
                await expired()
                pages = await asyncio.gather(*(ann.fetch(f"{here.url}/echo") for _ in range(12)))
                renewed = {headers_of(page)["Authorization"] for page in pages}
                assert len(renewed) == 1
                assert bearer not in renewed
                bearer = renewed.pop()
                assert (await userinfo(keycloak, here.realm, bearer))[0] == 200
                assert sample(app, "token_refresh_total", result="success") == count
            assert await here.sessions_of("ann") == 1
            left = await sign_out(ann, here.url)
            assert left.url.startswith(f"{here.url}/oauth2/signed_out"), "the renewed ID token is the hint"
            assert await here.sessions_of("ann") == 0

    @pytest.mark.parametrize("what", ["disabled", "session ended"])
    async def test_what_the_administrator_ended_asks_to_sign_in_again_and_not_for_ever(
        self, keycloak: Keycloak, what: str
    ) -> None:
        async with (
            place(keycloak, AT_EXPIRY, access_token_lifespan=SHORT) as here,
            running_app(here.config, time.time) as (_, log),
            Browser() as bob,
        ):
            await bob.sign_in(f"{here.url}/echo", BOB.name, BOB.password)
            if what == "disabled":
                await keycloak.change_user(here.realm, "bob", enabled=False)
            else:
                await keycloak.end_user_sessions(here.realm, "bob")
            await expired()
            refused = await bob.fetch(f"{here.url}/echo")
            assert (refused.status, refused.json()["code"]) == (401, "sign_in_required")
            assert '"event":"session.ended"' in log.getvalue()
            asked = await bob.navigate(f"{here.url}/echo/again?n=1")
            assert asks_for_password(asked)
            assert len(asked.hops) == 2
            if what == "disabled":
                again = await bob.fill_sign_in(asked, BOB.name, BOB.password)
                assert again.url.startswith(keycloak.base_url)
                assert len(again.hops) <= 3
                await keycloak.change_user(here.realm, "bob", enabled=True)
                asked = await bob.navigate(f"{here.url}/echo/again?n=1")
            page = await bob.fill_sign_in(asked, BOB.name, BOB.password)
            assert headers_of(page)["X-Forwarded-User"] == await here.user("bob")
            assert page.json()["target"] == "/echo/again?n=1"


@pytest.mark.slow
class TestOutages:
    async def test_the_gateway_is_there_before_keycloak(self, keycloak: Keycloak, tmp_path: Path) -> None:
        async with place(keycloak) as here:
            await keycloak.stop()
            async with serving(here.config, tmp_path) as gateway, Browser() as ann:
                page = await ann.navigate(f"{here.url}/echo/first?x=1")
                assert (page.status, len(page.hops)) == (503, 1)
                assert int(page.headers["Retry-After"]) >= 1
                assert "<h1>" in page.text
                assert (await ann.fetch(f"{here.url}/echo")).status == 401
                ready, said = await gateway.ask("/readyz")
                assert ready == 503
                assert "provider_unavailable" in said
                await keycloak.start()
                await gateway.until("/readyz", 200)
                page = await ann.sign_in(f"{here.url}/echo/first?x=1", ANN.name, ANN.password)
                assert page.json()["target"] == "/echo/first?x=1"
                assert len(gateway.lines(event="startup")) == 1

    async def test_a_keycloak_that_hangs_ends_no_session(self, keycloak: Keycloak) -> None:
        config = merged(AT_EXPIRY, {"provider": {"timeout": "1s"}})
        life = 4
        # Without rotation: a refresh that Keycloak answers after we gave up would otherwise have used the token up.
        options = {"access_token_lifespan": life, "revoke_refresh_token": False}
        async with place(keycloak, config, **options) as here, running_app(here.config, time.time), Browser() as ann:
            began = time.monotonic()
            bearer = headers_of(await ann.sign_in(f"{here.url}/echo", ANN.name, ANN.password))["Authorization"]
            keycloak.pause()
            for _ in range(5):
                assert headers_of(await ann.fetch(f"{here.url}/echo"))["Authorization"] == bearer
            assert time.monotonic() - began < life, "the token was still good"
            await asyncio.sleep(life)
            first = await ann.fetch(f"{here.url}/echo")
            assert (first.status, first.json()["code"]) == (504, "provider_timeout")
            asked_at = time.monotonic()
            second = await ann.fetch(f"{here.url}/echo")
            assert time.monotonic() - asked_at < 0.5, "nobody waits for what has just failed"
            assert second.status == 504
            assert int(second.headers["Retry-After"]) >= 1
            assert not first.set_cookies
            assert not second.set_cookies
            keycloak.resume()
            await asyncio.sleep(1.1)
            after = headers_of(await ann.fetch(f"{here.url}/echo"))
            assert after["Authorization"] != bearer
            assert await here.sessions_of("ann") == 1

    async def test_a_rotated_key_needs_no_restart(self, keycloak: Keycloak) -> None:
        async with (
            place(keycloak) as here,
            running_app(here.config, time.time) as (app, _),
            Browser() as ann,
            Browser() as bob,
        ):
            await ann.sign_in(f"{here.url}/echo", ANN.name, ANN.password)
            keys = app._provider.keys.known
            assert keys is not None
            new = await keycloak.rotate_keys(here.realm, forget_old=True)
            assert new not in {key.kid for key in keys.keys}
            page = await bob.sign_in(f"{here.url}/echo", BOB.name, BOB.password)
            assert headers_of(page)["X-Forwarded-Preferred-Username"] == "bob"
            assert (await ann.fetch(f"{here.url}/echo")).status == 200, "old sessions go on"


class TestReplicas:
    async def test_two_gateways_on_one_redis_share_the_session(
        self, keycloak: Keycloak, redis_server: RedisServer
    ) -> None:
        config = merged(AT_EXPIRY, {"store": {"type": "redis", "url": redis_server.url}})
        async with place(keycloak, config, access_token_lifespan=SHORT) as here, Browser() as ann:
            port = free_port()
            other, authority = f"http://127.0.0.1:{port}", here.url.removeprefix("http://")
            beside = merged(here.config, {"listen": {"address": f"127.0.0.1:{port}"}})

            async def ask_other() -> Page:
                cookies = ann.cookies.header(here.url)
                return await ann.request("GET", f"{other}/echo", headers={"Host": authority}, cookies=cookies)

            async with running_app(here.config, time.time), running_app(beside, time.time):
                page = await ann.sign_in(f"{here.url}/echo", ANN.name, ANN.password)
                first = identity_of(page)
                assert identity_of(await ask_other()) == first
                await expired()
                renewed = headers_of(await ann.fetch(f"{here.url}/echo"))["Authorization"]
                assert renewed != first["Authorization"]
                assert headers_of(await ask_other())["Authorization"] == renewed, "nobody refreshes a second time"
                await sign_out(ann, here.url)
                assert (await ask_other()).status == 401

    async def test_two_gateways_that_refresh_at_the_same_moment_ask_once(
        self, keycloak: Keycloak, redis_server: RedisServer
    ) -> None:
        """`revokeRefreshToken` is on: if both asked, the session would be over."""
        config = merged(AT_EXPIRY, {"store": {"type": "redis", "url": redis_server.url}})
        async with place(keycloak, config, access_token_lifespan=SHORT) as here, Browser() as ann:
            port = free_port()
            urls = [here.url, f"http://127.0.0.1:{port}"] * 4
            beside = merged(here.config, {"listen": {"address": f"127.0.0.1:{port}"}})
            host = {"Host": here.url.removeprefix("http://")}
            async with running_app(here.config, time.time), running_app(beside, time.time):
                await ann.sign_in(f"{here.url}/echo", ANN.name, ANN.password)
                cookies = ann.cookies.header(here.url)
                for _ in range(3):
                    await expired()
                    asked = (ann.request("GET", f"{url}/echo", headers=host, cookies=cookies) for url in urls)
                    bearers = {headers_of(page)["Authorization"] for page in await asyncio.gather(*asked)}
                    assert len(bearers) == 1

    async def test_a_sign_in_survives_the_replacement_of_the_gateway(
        self, keycloak: Keycloak, redis_server: RedisServer, tmp_path: Path
    ) -> None:
        store = {"store": {"type": "redis", "url": redis_server.url}}
        async with place(keycloak, store) as here, Browser() as ann:
            async with serving(here.config, tmp_path / "old"):
                asked = await ann.navigate(f"{here.url}/echo/wiki")
            async with serving(here.config, tmp_path / "new"):
                page = await ann.fill_sign_in(asked, ANN.name, ANN.password)
                assert page.json()["target"] == "/echo/wiki"
            async with serving(here.config, tmp_path / "newest"):
                assert headers_of(await ann.fetch(f"{here.url}/echo"))["X-Forwarded-User"] == await here.user("ann")
