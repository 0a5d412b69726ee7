"""Where other proxies have a listener to themselves: they are answered there, and there is nothing else."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from oidc_proxy.demo.directory import ANN
from tests.contracts.test_forward_auth import ASKERS, BROWSER, EVERY, NAMES, cookie_of
from tests.gang import gang, metric, signed_in, until
from tests.gateway import World, merged, running_world
from tests.real.parts import free_port
from tests.real.redis import RedisServer
from tests.stories.tls import certificate, client_context
from tests.wire import Line, Response, ask, connected, message

APART = {"forward_auth": {**EVERY, "address": "127.0.0.1:0"}, "routes": [{"path": "/public/", "auth": "none"}]}


@asynccontextmanager
async def apart(change: Mapping[str, Any] | None = None) -> AsyncIterator[tuple[World, str]]:
    """The gateway in front of an application, and where other proxies ask besides."""
    async with running_world(merged(APART, change or {})) as world:
        yield world, f"http://127.0.0.1:{world.app.checks_port}"


@pytest.mark.parametrize("name", ASKERS)
async def test_a_browser_that_asks_what_a_proxy_asks_gets_404(name: str) -> None:
    async with apart() as (world, checks):
        cookie = await cookie_of(world, "ann")
        for lines in (*BROWSER, ()):
            for given in (cookie, ""):
                question = ASKERS[name].question(world, "GET", "/page", lines, cookie=given)
                response = await ask(world.url, question)
                assert response.status == 404
                for header in [*NAMES, "X-Auth-Request-Access-Token", "Authorization"]:
                    assert response.all(header) == []
                assert ((await ask(checks, question)).status == 200) is bool(given)
        question = ASKERS[name].question(world, "GET", "/page", cookie=cookie)
        answer = await ask(checks, question)
        assert answer.one("X-Auth-Request-User") == ANN.sub.encode()
        assert answer.one("Authorization").startswith(b"Bearer ey")
        assert [call.target for call in world.backend.requests if "oauth2" in call.target] == []


async def test_there_is_nothing_else_on_that_listener() -> None:
    async with apart() as (world, checks):
        cookie, reached = await cookie_of(world, "ann"), len(world.backend.requests)
        for line in (
            "GET /", "GET /page", "GET /public/x", "POST /page", "GET /oauth2/start", "GET /oauth2/userinfo",
            "GET /oauth2/session", "GET /oauth2/sign_in", "GET /oauth2/unavailable", "POST /oauth2/sign_out",
            "POST /oauth2/backchannel_logout", "GET /oauth2/authz/", "GET /oauth2/authz/nginx/",
            "GET /oauth2/authz/NGINX", "GET /oauth2/authz/%6eginx", "GET //oauth2/authz/nginx", "GET /oauth2/auth/",
            "GET /livez", "GET /metrics", "GET http://127.0.0.1/oauth2/authz/nginx", "OPTIONS *", "GET /x y",
        ):  # fmt: skip
            for host in ("Host: gateway:4180", f"Host: {world.url.removeprefix('http://')}"):
                response = await ask(checks, message(checks, line, host, cookie=cookie))
                assert response.status == (400 if line == "GET /x y" else 404), line
                assert response.all("Set-Cookie") == response.all("Authorization") == []
        assert len(world.backend.requests) == reached
        assert {entry["client_ip"] for entry in world.lines(type="access", status=404)} == {"127.0.0.1"}
        assert world.lines(detail="only the dialects are answered on forward_auth.address")


async def test_the_public_listener_has_everything_else() -> None:
    async with apart() as (world, checks), world.browser() as ann:
        page = await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        assert (page.url, page.status) == (f"{world.url}/echo", 200)
        assert (await ann.navigate(f"{world.url}/oauth2/userinfo")).status == 200
        question = message(world.url, "GET /oauth2/authz/nginx")
        assert (await ask(world.url, question)).status == 404
        assert world.lines(detail="other proxies ask on forward_auth.address, and nowhere else")
        assert (await ask(checks, question)).status == 400, "it does not say what it asks about"


async def test_who_is_not_trusted_is_not_answered_there_either() -> None:
    async with apart({"forward_auth": {"trusted_proxies": ["192.0.2.0/24"]}}) as (world, checks):
        question = ASKERS["nginx"].question(world, "GET", "/public/x")
        assert (await ask(checks, question)).status == 403


# ── as processes ──


async def asked(line: Line, world_url: str, cookie: str) -> Response:
    words = ("X-Original-Method: GET", f"X-Original-URL: {world_url}/echo")
    await line.send(message(world_url, "GET /oauth2/authz/nginx", *words, cookie=cookie))
    return await line.response()


async def test_f244_every_worker_answers_there_and_the_end_fails_nobody(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    address = f"127.0.0.1:{free_port()}"
    own = {"dialects": ["nginx"], "trusted_proxies": ["127.0.0.1/32"], "address": address}
    async with gang(tmp_path, redis_server, forward_auth=own, http={"timeouts": {"drain_delay": "1s"}}) as (
        gateway,
        *_,
    ):
        cookie = await signed_in(gateway)

        async def each(count: int) -> set[int]:
            found = set()
            for _ in range(count):
                async with connected(f"http://{address}") as line:
                    found.add((await asked(line, gateway.url, cookie)).status)
            return found

        assert await each(16) == {200}
        assert await metric(gateway, "oidc_proxy_sessions_cached ") == 2, "both were asked"
        first, _second = gateway.pids()
        os.kill(first, signal.SIGKILL)
        await until(lambda: len(gateway.pids()) == 2 and first not in gateway.pids())
        assert await each(16) == {200}
        async with connected(f"http://{address}") as line:
            assert (await asked(line, gateway.url, cookie)).all("Connection") == []
            gateway.signal(signal.SIGTERM)
            await asyncio.sleep(0.3)
            response = await asked(line, gateway.url, cookie)
            assert (response.status, response.all("Connection")) == (200, [b"close"])
        assert await gateway.exit_status() == 0
        with pytest.raises(ConnectionRefusedError):
            await each(1)


async def test_f245_it_may_be_a_unix_domain_socket(redis_server: RedisServer, tmp_path: Path) -> None:
    path = tmp_path / "checks.sock"
    own = {"dialects": ["nginx"], "trusted_proxies": ["127.0.0.1/32"], "address": f"unix:{path}"}
    listen = {"socket_mode": "0600"}
    async with gang(tmp_path, redis_server, forward_auth=own, listen=listen) as (gateway, *_):
        assert path.stat().st_mode & 0o777 == 0o600
        cookie = await signed_in(gateway)
        for _ in range(4):
            reader, writer = await asyncio.open_unix_connection(str(path))
            assert (await asked(Line(reader, writer), gateway.url, cookie)).status == 200
            writer.close()
        gateway.signal(signal.SIGTERM)
        assert await gateway.exit_status() == 0
        assert not path.exists()


async def test_f234_it_has_the_certificate_of_the_public_listener(tmp_path: Path) -> None:
    pem, key = certificate()
    (tmp_path / "tls.pem").write_text(pem + key)
    async with apart({"listen": {"tls": {"cert_file": tmp_path / "tls.pem"}}}) as (world, _):
        reader, writer = await asyncio.open_connection("localhost", world.app.checks_port, ssl=client_context())
        line = Line(reader, writer)
        await line.send(ASKERS["nginx"].question(world, "GET", "/public/x"))
        assert (await line.response()).status == 200
        writer.close()
