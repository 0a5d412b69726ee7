"""The real parts do what the tests with them rely on."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import html
import json
import re
import secrets
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import redis.exceptions
from aiohttp import ClientSession, ClientTimeout, CookieJar, web
from aiohttp.test_utils import TestServer
from yarl import URL

from tests.real.browser import Chromium, screenshots
from tests.real.keycloak import ANN, BOB, Account, Keycloak, realm
from tests.real.redis import RedisServer

CALLBACK = "http://127.0.0.1:9/oauth2/callback"
CLIENT = ("proxy", "the-proxy-is-known-by-this")


@pytest.fixture
async def realm_name(keycloak: Keycloak) -> AsyncIterator[str]:
    name = f"parts-{secrets.token_hex(4)}"
    await keycloak.create_realm(realm(name, redirect_uris=[CALLBACK]))
    yield name
    await keycloak.delete_realm(name)


def browser_of(keycloak: Keycloak) -> ClientSession:
    """A cookie jar that takes loopback for secure, as browsers do: Keycloak's cookies are `Secure` there, too."""
    jar = CookieJar(unsafe=True, treat_as_secure_origin=[URL(keycloak.base_url)])
    return ClientSession(cookie_jar=jar, timeout=ClientTimeout(20))


async def sign_in(keycloak: Keycloak, realm_name: str, account: Account) -> dict[str, Any]:
    """The authorization code flow by hand: the token response."""
    verifier = secrets.token_urlsafe(32)
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    async with browser_of(keycloak) as http:
        found = await http.get(f"{keycloak.internal_url}/realms/{realm_name}/.well-known/openid-configuration")
        metadata = await found.json()
        parameters = {
            "client_id": CLIENT[0],
            "response_type": "code",
            "scope": "openid",
            "redirect_uri": CALLBACK,
            "state": "the-state",
            "nonce": "the-nonce",
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        page = await (await http.get(metadata["authorization_endpoint"], params=parameters)).text()
        form = re.search(r'id="kc-form-login"[^>]*action="([^"]+)"', page)
        assert form is not None, page
        credentials = {"username": account.name, "password": account.password, "credentialId": ""}
        action = URL(html.unescape(form[1]), encoded=True)
        answer = await http.post(action, data=credentials, allow_redirects=False)
        assert answer.status == 302, await answer.text()
        callback = URL(answer.headers["Location"])
        assert str(callback).startswith(CALLBACK)
        assert callback.query["state"] == "the-state"
        assert callback.query["iss"] == keycloak.issuer(realm_name)
        grant = {
            "grant_type": "authorization_code",
            "code": callback.query["code"],
            "redirect_uri": CALLBACK,
            "code_verifier": verifier,
            "client_id": CLIENT[0],
            "client_secret": CLIENT[1],
        }
        tokens = await http.post(metadata["token_endpoint"], data=grant)
        assert tokens.status == 200, await tokens.text()
        answered: dict[str, Any] = await tokens.json()
        return answered


async def refresh(keycloak: Keycloak, realm_name: str, refresh_token: str) -> tuple[int, dict[str, Any]]:
    grant = {
        "grant_type": "refresh_token",
        "refresh_token": refresh_token,
        "client_id": CLIENT[0],
        "client_secret": CLIENT[1],
    }
    async with ClientSession() as http:
        url = f"{keycloak.internal_url}/realms/{realm_name}/protocol/openid-connect/token"
        answer = await http.post(url, data=grant)
        return answer.status, await answer.json()


def part_of(token: str, index: int) -> dict[str, Any]:
    """Header (0) or claims (1), unverified."""
    piece = token.split(".")[index]
    decoded: dict[str, Any] = json.loads(base64.urlsafe_b64decode(piece + "=" * (-len(piece) % 4)))
    return decoded


class TestKeycloak:
    async def test_ann_signs_in_by_the_form_and_her_groups_and_roles_are_in_the_id_token(
        self, keycloak: Keycloak, realm_name: str
    ) -> None:
        tokens = await sign_in(keycloak, realm_name, ANN)
        claims = part_of(tokens["id_token"], 1)
        assert claims["iss"] == keycloak.issuer(realm_name)
        assert claims["aud"] == "proxy"
        assert claims["nonce"] == "the-nonce"
        assert claims["groups"] == ["/eng/core"]
        assert {"staff", "admin"} <= set(claims["roles"])
        assert tokens["expires_in"] == 60
        assert "proxy" in part_of(tokens["access_token"], 1)["aud"]

    async def test_the_issuer_is_split_between_the_two_ways_in(self, keycloak: Keycloak, realm_name: str) -> None:
        async with ClientSession() as http:
            url = f"{keycloak.internal_url}/realms/{realm_name}/.well-known/openid-configuration"
            metadata = await (await http.get(url)).json()
        at_the_front = ("issuer", "authorization_endpoint", "end_session_endpoint", "revocation_endpoint")
        behind = ("token_endpoint", "jwks_uri", "userinfo_endpoint", "introspection_endpoint")
        assert {metadata[name].partition("/realms")[0] for name in at_the_front} == {keycloak.base_url}
        assert {metadata[name].partition("/realms")[0] for name in behind} == {keycloak.internal_url}

    @pytest.mark.parametrize(("algorithm", "forget_old"), [("RS256", False), ("RS256", True), ("ES256", False)])
    async def test_a_new_key_signs_and_shows_in_the_jwks(
        self, keycloak: Keycloak, realm_name: str, algorithm: str, forget_old: bool
    ) -> None:
        old = part_of((await sign_in(keycloak, realm_name, BOB))["id_token"], 0)["kid"]
        new = await keycloak.rotate_keys(realm_name, algorithm=algorithm, forget_old=forget_old)
        async with ClientSession() as http:
            url = f"{keycloak.internal_url}/realms/{realm_name}/protocol/openid-connect/certs"
            keys = {key["kid"]: key["alg"] for key in (await (await http.get(url)).json())["keys"]}
        assert keys[new] == algorithm
        assert (old in keys) is not forget_old
        header = part_of((await sign_in(keycloak, realm_name, BOB))["id_token"], 0)
        assert header["kid"] == (new if algorithm == "RS256" else old)

    async def test_an_administrator_ends_the_sessions_of_one_user_and_the_proxy_is_told(
        self, keycloak: Keycloak
    ) -> None:
        told: list[str] = []

        async def backchannel(request: web.Request) -> web.Response:
            told.append(str((await request.post())["logout_token"]))
            return web.Response()

        application = web.Application()
        application.router.add_post("/oauth2/backchannel_logout", backchannel)
        name = f"parts-{secrets.token_hex(4)}"
        async with TestServer(application) as proxy:
            url = str(proxy.make_url("/oauth2/backchannel_logout"))
            await keycloak.create_realm(realm(name, redirect_uris=[CALLBACK], backchannel_logout_url=url))
            hers, his = await sign_in(keycloak, name, ANN), await sign_in(keycloak, name, BOB)
            sid = part_of(hers["id_token"], 1)["sid"]
            assert [session["id"] for session in await keycloak.user_sessions(name, "ann")] == [sid]

            await keycloak.end_user_sessions(name, "ann")

            assert await keycloak.user_sessions(name, "ann") == []
            assert len(await keycloak.user_sessions(name, "bob")) == 1
            assert [part_of(token, 1)["sid"] for token in told] == [sid]
            assert part_of(told[0], 0)["typ"] == "logout+jwt"
            assert (await refresh(keycloak, name, hers["refresh_token"]))[0] == 400
            assert (await refresh(keycloak, name, his["refresh_token"]))[0] == 200
        await keycloak.delete_realm(name)

    async def test_a_refresh_token_is_good_for_one_use(self, keycloak: Keycloak, realm_name: str) -> None:
        tokens = await sign_in(keycloak, realm_name, ANN)
        assert (await refresh(keycloak, realm_name, tokens["refresh_token"]))[0] == 200
        status, answer = await refresh(keycloak, realm_name, tokens["refresh_token"])
        assert (status, answer["error"]) == (400, "invalid_grant")

    @pytest.mark.slow
    async def test_sessions_outlive_a_restart(self, keycloak: Keycloak, realm_name: str) -> None:
        tokens = await sign_in(keycloak, realm_name, ANN)
        await keycloak.stop()
        with pytest.raises(OSError, match="Connect call failed"):
            await refresh(keycloak, realm_name, tokens["refresh_token"])
        await keycloak.start()
        assert (await refresh(keycloak, realm_name, tokens["refresh_token"]))[0] == 200

    async def test_paused_it_answers_nothing_and_resumed_it_goes_on(self, keycloak: Keycloak) -> None:
        keycloak.pause()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(keycloak.admin("GET", "master"), 0.5)
        keycloak.resume()
        assert (await keycloak.admin("GET", "master"))["realm"] == "master"

    async def test_a_user_who_is_switched_off_gets_no_new_tokens(self, keycloak: Keycloak, realm_name: str) -> None:
        tokens = await sign_in(keycloak, realm_name, BOB)
        await keycloak.change_user(realm_name, "bob", enabled=False)
        assert (await refresh(keycloak, realm_name, tokens["refresh_token"]))[0] == 400


class TestRedis:
    async def test_every_key_is_dumped_with_its_type_time_to_live_and_bytes(self, redis_server: RedisServer) -> None:
        async with redis_server.client() as client:
            await client.set("text", b"\x00canary\xff", ex=100)
            await client.hset("hash", mapping={"field": "in a hash"})
            await client.sadd("set", "in a set")
            await client.zadd("sorted", {"in a sorted set": 1})
            await client.rpush("list", "in", "a list")
            await client.xadd("stream", {"field": "in a stream"})
        async with redis_server.client(database=3) as client:
            await client.set("elsewhere", "in another database")
        found = {(entry.database, entry.key): entry for entry in await redis_server.dump_all()}
        assert len(found) == 7
        text = found[0, b"text"]
        assert (text.type, text.value) == ("string", b"\x00canary\xff")
        assert text.ttl == pytest.approx(100, abs=5)
        assert found[0, b"hash"].ttl is None
        assert found[0, b"hash"].value == b"field\nin a hash"
        assert found[0, b"set"].value == b"in a set"
        assert found[0, b"sorted"].value.startswith(b"in a sorted set\n1")
        assert found[0, b"list"].value == b"in\na list"
        assert found[0, b"stream"].value.endswith(b"field\nin a stream")
        assert found[3, b"elsewhere"].value == b"in another database"

    async def test_each_test_gets_it_empty(self, redis_server: RedisServer) -> None:
        assert await redis_server.dump_all() == []

    async def test_commands_are_counted(self, redis_server: RedisServer) -> None:
        async with redis_server.client() as client:
            for _ in range(3):
                await client.get("nothing")
        assert (await redis_server.command_stats())["get"] == 3

    async def test_killed_it_comes_back_empty_on_the_same_port(self, redis_server: RedisServer) -> None:
        async with redis_server.client() as client:
            await client.set("key", "value")
            redis_server.kill()
            with pytest.raises(redis.exceptions.ConnectionError):
                await client.get("key")
            await redis_server.restart()
            assert await client.get("key") is None

    async def test_a_persistent_one_keeps_everything_and_shows_its_files(
        self, redis_servers: Callable[..., RedisServer]
    ) -> None:
        server = redis_servers(persistent=True)
        async with server.client() as client:
            await client.set("key", "the canary")
        server.kill()
        await server.restart()
        async with server.client() as client:
            assert await client.get("key") == b"the canary"
        assert any(b"the canary" in data for name, data in server.files().items() if ".aof" in name)

    async def test_paused_it_keeps_connections_and_answers_nothing(self, redis_server: RedisServer) -> None:
        async with redis_server.client() as client:
            await client.ping()
            redis_server.pause()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.ping(), 0.3)
            redis_server.resume()
            assert await client.ping()

    async def test_passwords_and_acls_hold(self, redis_servers: Callable[..., RedisServer]) -> None:
        server = redis_servers(password="p@ss/word", users=["ann on >hers ~app:* +get"])
        async with server.client() as client:
            assert await client.ping()
        async with redis.asyncio.Redis.from_url(server.url_for("ann", "hers")) as ann:
            assert await ann.get("app:key") is None
            with pytest.raises(redis.exceptions.NoPermissionError):
                await ann.get("other:key")
        async with redis.asyncio.Redis.from_url(server.url_for(None, None)) as nobody:
            with pytest.raises(redis.exceptions.AuthenticationError):
                await nobody.ping()

    async def test_starting_one_takes_less_than_a_second(self, redis_servers: Callable[..., RedisServer]) -> None:
        began = time.monotonic()
        server = redis_servers(config={"maxmemory": "3mb"})
        assert server.runner.kind == "container" or time.monotonic() - began < 1
        async with server.client() as client:
            assert (await client.config_get("maxmemory"))["maxmemory"] == str(3 * 1024 * 1024)


PAGE = """<!doctype html><title>Hello</title><meta name="color-scheme" content="light dark">
<style>body { background: Canvas; color: CanvasText }</style><p>It works.</p>"""


class TestChromium:
    async def test_it_shows_a_page_in_light_and_in_dark(self, chromium: Chromium, tmp_path: Path) -> None:
        async def hello(_: web.Request) -> web.Response:
            return web.Response(text=PAGE, content_type="text/html")

        application = web.Application()
        application.router.add_get("/", hello)
        async with TestServer(application) as server:
            page = await chromium.page()
            await page.goto(str(server.make_url("/")))
            assert await page.title() == "Hello"
            light, dark = await screenshots(page, "hello", tmp_path)
        assert light.read_bytes().startswith(b"\x89PNG")
        assert light.read_bytes() != dark.read_bytes()

    async def test_ann_signs_in_at_keycloak_and_comes_back(self, chromium: Chromium, keycloak: Keycloak) -> None:
        async def callback(_: web.Request) -> web.Response:
            return web.Response(text=PAGE, content_type="text/html")

        application = web.Application()
        application.router.add_get("/oauth2/callback", callback)
        name = f"parts-{secrets.token_hex(4)}"
        async with TestServer(application) as proxy:
            back = str(proxy.make_url("/oauth2/callback"))
            await keycloak.create_realm(realm(name, redirect_uris=[back]))
            query = {
                "client_id": CLIENT[0],
                "response_type": "code",
                "scope": "openid",
                "redirect_uri": back,
                "state": "the-state",
                "code_challenge": base64.urlsafe_b64encode(bytes(32)).rstrip(b"=").decode(),
                "code_challenge_method": "S256",
            }
            page = await chromium.page()
            await page.goto(str(URL(f"{keycloak.issuer(name)}/protocol/openid-connect/auth").with_query(query)))
            await page.fill("#username", ANN.name)
            await page.fill("#password", ANN.password)
            await page.click("#kc-login")
            await page.wait_for_url(f"{back}?*")
            assert URL(page.url).query["state"] == "the-state"
            assert len(await keycloak.user_sessions(name, "ann")) == 1
        await keycloak.delete_realm(name)
