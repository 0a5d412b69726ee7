"""One story for every proxy that asks us: nginx, Caddy, HAProxy, Envoy and Traefik, with the files of deploy/."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from oidc_proxy.demo.directory import ANN, EVE
from oidc_proxy.demo.listener import Call
from tests.gateway import World, running_world
from tests.real.fronts import FRONTS, Front
from tests.real.parts import Process, free_port
from tests.real.redis import RedisServer
from tests.wire import Response, ask, folded, message
from tests.world import Browser, Page

DEEP = "/echo/deep%20er?a=b%2Fc&d=%20"


@dataclass
class Ingress:
    """A proxy in front, at ``url``; the gateway that it asks, and the application behind it."""

    url: str
    world: World
    front: Front
    process: Process

    def browser(self) -> Browser:
        return self.world.browser()

    @property
    def reached(self) -> list[Call]:
        """What reached the application."""
        return self.world.backend.requests

    async def ask(self, line: str, *lines: str, cookie: str = "", body: bytes = b"") -> Response:
        return await ask(self.url, message(self.url, line, *lines, cookie=cookie, body=body))

    async def signed_in(self, user: str) -> str:
        """The cookie of somebody who has signed in through the proxy."""
        async with self.browser() as browser:
            page = await browser.sign_in(f"{self.url}/echo", user, user)
            assert (page.status, page.url) == (200, f"{self.url}/echo")
            return browser.cookies.header(self.url)


@pytest.fixture(params=FRONTS)
def front(request: pytest.FixtureRequest, real_part: Any) -> Front:
    """Each of the proxies in turn; what does as Traefik was recorded is always there."""
    if request.param == "traefik-recorded":
        return FRONTS[request.param]()
    found: Front = real_part(request.param, FRONTS[request.param])
    return found


@asynccontextmanager
async def ingress(
    front: Front, folder: Path, config: Mapping[str, Any] | None = None, url: str = ""
) -> AsyncIterator[Ingress]:
    """It listens at ``url`` as well, if its file was told to."""
    port = free_port()
    url = url or f"http://127.0.0.1:{port}"
    client = {"redirect_uris": (f"{url}/oauth2/callback",), "post_logout_redirect_uris": (f"{url}/*",)}
    settings = {"public_url": url, "upstream": None, **front.settings(), **(config or {})}
    async with running_world(settings, client=client) as world:
        app = world.app
        process = await asyncio.to_thread(front.start, folder, port, app.port, world.backend.port, app.grpc_port)
        try:
            yield Ingress(url, world, front, process)
        finally:
            await asyncio.to_thread(process.stop)


def words_of(call: Call) -> dict[str, str]:
    return {name.lower(): value for name, value in call.headers.items()}


async def test_the_story(front: Front, tmp_path: Path) -> None:
    async with ingress(front, tmp_path) as it, it.browser() as ann:
        form = await ann.navigate(f"{it.url}{DEEP}")
        assert form.form_with("password"), (form.status, form.text)
        assert it.reached == []
        page = await ann.fill_sign_in(form, "ann", "ann")
        assert (page.url, page.status) == (f"{it.url}{DEEP}", 200)
        (call,) = it.reached
        assert call.target == DEEP
        said = words_of(call)
        assert said["x-auth-request-user"] == said["x-forwarded-user"] == ANN.sub
        assert said["x-auth-request-email"] == "ann@example.test"
        assert said["x-auth-request-preferred-username"] == "ann"
        assert "/staff/ops" in said["x-auth-request-groups"]
        assert said["authorization"].startswith("Bearer ey")
        assert (await ann.navigate(f"{it.url}/admin/x")).status == 200
        gone = await ann.navigate(f"{it.url}/oauth2/sign_out", initiator=f"{it.url}/")
        assert gone.url.startswith(f"{it.url}/oauth2/signed_out"), gone.url
        assert (await ann.fetch(f"{it.url}/echo")).status == 401
        assert (await ann.navigate(f"{it.url}/echo")).form_with("password")


async def test_who_is_not_in_the_group_gets_403(front: Front, tmp_path: Path) -> None:
    async with ingress(front, tmp_path) as it:
        cookie, reached = await it.signed_in("eve"), len(it.reached)
        for lines in (("Accept: text/html",), ("Accept: application/json",)):
            for method in ("GET", "POST", "PUT", "PROPFIND", "OPTIONS"):
                response = await it.ask(f"{method} /admin/x", *lines, cookie=cookie)
                assert response.status == 403
        assert len(it.reached) == reached


async def test_a_program_gets_401_with_a_body(front: Front, tmp_path: Path) -> None:
    async with ingress(front, tmp_path) as it, it.browser() as page:
        answer = await page.fetch(f"{it.url}/echo")
        assert answer.status == 401
        assert answer.json()["code"] == "sign_in_required"
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert "Location" not in answer.headers
        assert answer.set_cookies == []
        for method in ("POST", "PUT", "DELETE", "PROPFIND", "OPTIONS"):
            assert (await it.ask(f"{method} /echo", "Accept: */*", body=b"a=1")).status == 401
        assert (await it.ask("HEAD /echo")).status == 401
        assert it.reached == []


async def test_every_method_reaches_the_application_with_its_body(front: Front, tmp_path: Path) -> None:
    async with ingress(front, tmp_path) as it:
        cookie = await it.signed_in("ann")
        for method in ("POST", "PUT", "PATCH", "DELETE", "PROPFIND", "OPTIONS"):
            response = await it.ask(f"{method} /echo?m", cookie=cookie, body=b"x" * 5000)
            assert response.status == 200, method
            assert (it.reached[-1].method, it.reached[-1].body_length) == (method, 5000)
        assert (await it.ask("HEAD /echo", cookie=cookie)).status == 200


IDENTITY = ("user", "email", "preferred-username", "groups", "access-token")
SPELLINGS = [
    spelling
    for family in ("x-auth-request", "x-forwarded")
    for what in IDENTITY
    for spelling in (
        f"{family}-{what}", f"{family}-{what}".upper(), f"{family}-{what}".title(),
        f"{family}_{what}".replace("-", "_"),
        f"{family}_{what}".replace("-", "_").title(), f"{family}-{what}".replace("-", "_", 1),
    )
]  # fmt: skip
WHERE = (
    "X-Forwarded-Uri: /public/x", "X-Forwarded-Method: OPTIONS", "X-Forwarded-Host: evil.test",
    "X-Forwarded-Prefix: /public", "X-Original-URL: http://127.0.0.1/public/x", "X-Original-URI: /public/x",
    "X-Original-Method: OPTIONS", "X-Rewrite-URL: /public/x", "Forwarded: for=192.0.2.1;host=evil.test",
    "X_Forwarded_Uri: /public/x", "X_Original_URL: http://127.0.0.1/public/x",
)  # fmt: skip


async def test_nothing_that_a_client_says_of_itself_is_believed(front: Front, tmp_path: Path) -> None:
    async with ingress(front, tmp_path) as it:
        cookie = await it.signed_in("eve")
        lies = [*(f"{name}: evil" for name in SPELLINGS), *WHERE, "Authorization: Bearer evil"]
        for lie in lies:
            reached = len(it.reached)
            assert (await it.ask("GET /echo", lie)).status == 401, lie
            assert (await it.ask("GET /admin/x", lie, cookie=cookie)).status == 403, lie
            assert len(it.reached) == reached
            for target, given in (("/echo", cookie), ("/public/x", "")):
                assert (await it.ask(f"GET {target}", lie, cookie=given)).status == 200, lie
                call = it.reached[-1]
                assert not any("evil" in value for value in call.headers.values()), (target, lie, call.headers)
                said = [name.encode() for name, _ in call.headers.items()]
                unset = [name for name in folded([(name, b"") for name in said]) if name.startswith("x-original")]
                assert unset == [], lie
                assert not any("/public" in value for value in call.headers.values() if target == "/echo"), lie
        assert words_of(it.reached[-2])["x-auth-request-user"] == EVE.sub


async def test_the_application_gets_every_cookie_but_the_session_s(front: Front, tmp_path: Path) -> None:
    async with ingress(front, tmp_path) as it:
        held = await it.signed_in("ann")
        session = next(pair for pair in held.split("; ") if pair.startswith("oidc_proxy="))
        for cookie, left in (
            (session, ""), (f"{session}; a=1", "a=1"), (f"a=1; {session}", "a=1"), (f"a=1; {session}; b=2", "a=1; b=2"),
            (f"xoidc_proxy=1; {session}; b=oidc_proxy=2", "xoidc_proxy=1; b=oidc_proxy=2"),
        ):  # fmt: skip
            assert (await it.ask("GET /echo", cookie=cookie)).status == 200
            if it.front.name == "traefik":  # takes away a header, but nothing of one: its README warns of that
                left = cookie
            assert words_of(it.reached[-1]).get("cookie", "") == left
        assert (await it.ask("GET /public/x", cookie="a=1; b=2")).status == 200
        assert words_of(it.reached[-1])["cookie"] == "a=1; b=2"
        assert (await it.ask("GET /oauth2/userinfo", cookie=held)).status == 200, "oidc_proxy gets it"


async def test_a_route_is_not_escaped_through_the_path(front: Front, tmp_path: Path) -> None:
    """What the proxy sends on is what was decided about, however it reads a path."""
    paths = (
        "/public/../admin/x", "/public/%2e%2e/admin/x", "/public/..%2fadmin/x", "//admin/x", "/public/..;/admin/x",
        "/public//../admin/x", "/public/%252e%252e/admin/x", "/public\\..\\admin/x", "/public/%5c../admin/x",
        "/oauth2/../admin/x", "/oauth2/%2e%2e/admin/x", "/oauth2/..%2fadmin/x", "/admin/x/../../oauth2/x",
        "/oauth2/authz/../../admin/x", "/oauth2/authz/..%2f..%2fadmin/x", "/oauth2/auth/..%2f..%2fadmin/x",
    )  # fmt: skip
    async with ingress(front, tmp_path) as it:
        cookie, reached = await it.signed_in("eve"), len(it.reached)
        for path in paths:
            for given in ("", cookie):
                response = await it.ask(f"GET {path}", cookie=given)
                assert response.status in {200, 301, 307, 400, 401, 403, 404, 500}, path
        # Envoy reads the empty segment in /public//../admin/x as one that ".." takes away, and sends on what it read.
        assert [call.target for call in it.reached[reached:] if not call.target.startswith("/public/admin/")] == []


async def test_nobody_outside_may_ask(front: Front, tmp_path: Path) -> None:
    async with ingress(front, tmp_path) as it:
        cookie = await it.signed_in("ann")
        told = ("X-Original-URL: http://127.0.0.1/echo", "X-Original-Method: GET", "X-Forwarded-Uri: /echo")
        for path in ("authz/nginx", "authz/forward", "authz/envoy/echo", "authz/envoy", "authz/", "auth"):
            response = await it.ask(f"GET /oauth2/{path}", *told, cookie=cookie)
            assert response.all("Authorization") == []
            if it.front.name == "traefik":  # has no answer of its own: to it, the path is one of the application's
                assert (response.status, it.reached[-1].target) == (200, f"/oauth2/{path}")
            else:
                assert response.status == 404


async def test_a_handshake_needs_a_session(front: Front, tmp_path: Path) -> None:
    async with ingress(front, tmp_path) as it, it.browser() as ann:
        upgrade = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
                   "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==")  # fmt: skip
        assert (await it.ask("GET /ws", *upgrade)).status == 401
        await ann.sign_in(f"{it.url}/echo", "ann", "ann")
        socket = await ann.websocket(f"ws{it.url.removeprefix('http')}/ws")
        await socket.send_str("hello")
        assert (await socket.receive_str()) == "hello"
        await socket.close()
        cookie = ann.cookies.header(it.url)
        assert (await it.ask("GET /ws", *upgrade, "Origin: https://evil.test", cookie=cookie)).status == 403


# ── outages ──


def assert_closed(page: Page, allowed: set[int]) -> None:
    assert page.status in allowed, (page.status, page.text[:500])


async def test_when_the_gateway_is_down_nothing_passes(front: Front, tmp_path: Path) -> None:
    async with ingress(front, tmp_path) as it, it.browser() as ann:
        await ann.sign_in(f"{it.url}/echo", "ann", "ann")
        reached = len(it.reached)
        await it.world.app.close()
        for page in (await ann.navigate(f"{it.url}/echo"), await ann.fetch(f"{it.url}/public/x")):
            assert_closed(page, {500, 502, 503})
        assert len(it.reached) == reached


async def test_when_the_provider_is_down_the_browser_gets_a_page_that_tries_again(front: Front, tmp_path: Path) -> None:
    async with ingress(front, tmp_path) as it, it.browser() as ann:
        await ann.sign_in(f"{it.url}/echo", "ann", "ann")
        reached = len(it.reached)
        await it.world.provider.close()
        assert (await ann.navigate(f"{it.url}/echo")).status == 200, "the session goes on"
        it.world.clock.advance(301)
        page = await ann.navigate(f"{it.url}{DEEP}")
        assert (page.status, page.headers["Retry-After"]) == (503, page.headers["Retry-After"])
        assert 'http-equiv="refresh"' in page.text
        assert f"{DEEP.replace('&', '&amp;')}" in page.text
        program = await ann.fetch(f"{it.url}/echo")
        assert_closed(program, {"nginx": {500}, "envoy": {403}}.get(it.front.name, {503}))
        assert len(it.reached) == reached + 1
        await it.world.provider.open()
        it.world.clock.advance(60)
        assert (await ann.navigate(f"{it.url}{DEEP}")).status == 200


async def test_when_redis_is_down_nothing_passes_and_nobody_is_signed_out(
    front: Front, tmp_path: Path, redis_server: RedisServer
) -> None:
    quick = {"connect": "300ms", "command": "300ms"}
    store = {"type": "redis", "url": redis_server.url, "timeouts": quick, "outage_grace": "0"}
    async with ingress(front, tmp_path, {"store": store}) as it, it.browser() as ann:
        await ann.sign_in(f"{it.url}/echo", "ann", "ann")
        reached = len(it.reached)
        redis_server.pause()
        try:
            it.world.app._sessions._cache.lost()
            page = await ann.navigate(f"{it.url}/echo")
            assert page.status == 503
            assert 'http-equiv="refresh"' in page.text
            program = await ann.fetch(f"{it.url}/echo")
            assert_closed(program, {"nginx": {500}, "envoy": {403}}.get(it.front.name, {503}))
            assert len(it.reached) == reached
        finally:
            redis_server.resume()
        for _ in range(50):
            page = await ann.navigate(f"{it.url}/echo")
            if page.status == 200:
                break
            await asyncio.sleep(0.1)
        assert (page.status, page.url) == (200, f"{it.url}/echo"), "still signed in"


# ── Envoy over gRPC ──


@pytest.fixture
def envoy_grpc(real_part: Any) -> Front:
    found: Front = real_part("envoy-grpc", FRONTS["envoy-grpc"])
    return found


async def test_a_no_over_grpc_is_a_no_even_where_envoy_is_told_to_fail_open(
    envoy_grpc: Front, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = {"failure_mode_allow: false": "failure_mode_allow: true"}
    careless = replace(envoy_grpc, replaced=lambda port: {**envoy_grpc.replaced(port), **opened})
    async with ingress(careless, tmp_path) as it, it.browser() as ann:
        await ann.sign_in(f"{it.url}/echo", "ann", "ann")
        reached = len(it.reached)
        await it.world.provider.close()
        it.world.clock.advance(301)
        assert (await ann.fetch(f"{it.url}/echo")).status == 503
        assert (await it.ask("GET /echo", *(f"X-{number}: {'x' * 1000}" for number in range(50)))).status == 401

        def broken(*_: object) -> None:
            raise RuntimeError("a defect")

        async def slow(*_: object) -> None:
            await asyncio.sleep(60)

        monkeypatch.setattr(it.world.app._sessions, "at_hand", broken)
        assert (await ann.fetch(f"{it.url}/echo")).status == 500
        monkeypatch.setattr(it.world.app._sessions, "at_hand", lambda _: None)
        monkeypatch.setattr(it.world.app._sessions, "current", slow)
        assert (await ann.fetch(f"{it.url}/echo")).status == 503, "before Envoy's own time is over"
        assert len(it.reached) == reached
        await it.world.app.close()
        assert (await ann.fetch(f"{it.url}/echo")).status == 200, "that is what failing open means"


async def test_f206_a_route_of_envoy_demands_a_group(envoy_grpc: Front, tmp_path: Path) -> None:
    ours = "route: {cluster: app, timeout: 0s}"
    demand = f"""{ours}
                          typed_per_filter_config:
                            envoy.filters.http.ext_authz:
                              "@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute
                              check_settings: {{context_extensions: {{groups: "/staff/ops,/staff/sre"}}}}"""
    strict = replace(envoy_grpc, replaced=lambda port: {**envoy_grpc.replaced(port), ours: demand})
    async with ingress(strict, tmp_path) as it, it.browser() as ann, it.browser() as eve:
        assert (await ann.sign_in(f"{it.url}/echo", "ann", "ann")).status == 200
        assert (await eve.sign_in(f"{it.url}/echo", "eve", "eve")).status == 403
        assert (await eve.fetch(f"{it.url}/public/x")).status == 403, "a demand holds wherever Envoy makes it"
        assert [words_of(call)["x-auth-request-user"] for call in it.reached] == [ANN.sub]
