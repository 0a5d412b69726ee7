"""What is closed stays closed, however its path is written; what is open opens nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.gateway import World, merged, running_world
from tests.wire import Recorder, ask, authority, message, recorder
from tests.world import free_port

ROUTES = [
    {"path": "/public/", "auth": "none"},
    {"path": "/public/secret", "auth": "required"},
    {"path": "/optional/", "auth": "optional"},
    {"path": "/readable/", "methods": ["GET"], "auth": "none"},
    {"path": "/admin/", "groups": ["/staff/ops"]},
]


@asynccontextmanager
async def world_with(config: dict[str, Any] | None = None) -> AsyncIterator[tuple[World, Recorder]]:
    usual = {"routes": ROUTES}
    async with recorder() as backend, running_world(merged(usual | {"upstream": backend.url}, config or {})) as world:
        yield world, backend


BYPASSES = [
    ("PA-1", "/public/../admin"), ("PA-1", "/public/./../admin"), ("PA-1", "/public/../public/../admin/x"),
    ("PA-2", "/public/%2e%2e/admin"), ("PA-2", "/public/%2E./admin"), ("PA-2", "/public/.%2e/admin"),
    ("PA-3", "/public/..%2fadmin"), ("PA-3", "/public%2f..%2fadmin"), ("PA-3", "/public/%2e%2e%2fadmin"),
    ("PA-4", "/public/%252e%252e/admin"), ("PA-4", "/public/%25%32%65%25%32%65/admin"),
    ("PA-4", "/public/..%252fadmin"),
    ("PA-5", "/public/..;/admin"), ("PA-5", "/public;/../admin"), ("PA-5", "/public/;a=b/..;x/admin"),
    ("PA-6", "/public\\..\\admin"), ("PA-6", "/public/..\\admin"), ("PA-6", "/public%5c..%5cadmin"),
    ("PA-7", "//admin"), ("PA-7", "///admin"), ("PA-7", "/public//../admin"), ("PA-7", "/public/..//admin"),
    ("PA-8", "/public/%00/../admin"), ("PA-8", "/public/x%00.css"), ("PA-8", "/admin%00.css"),
    ("PA-9", "/PUBLIC/x"), ("PA-9", "/Public/../Admin"),
    ("PA-10", "/public"), ("PA-10", "/publicadmin"), ("PA-10", "/public.bak"),
    ("PA-11", "/admin/x.css"), ("PA-11", "/admin;.css"), ("PA-11", "/admin/%0a.css"), ("PA-11", "/admin?x=.css"),
    ("PA-12", "/public/%c0%ae%c0%ae/admin"), ("PA-12", "/public/%e0%80%ae%e0%80%ae/admin"),
    ("PA-13", "/public/%u002e%u002e/admin"),
    ("PA-14", "/admin%0a"), ("PA-14", "/a%0d%0ab"), ("PA-14", "/public/%0d%0aX-Auth-User:%20admin"),
    ("PA-15", "/private?next=/public/"), ("PA-15", "/api/private?x=/public/"), ("PA-15", "/public?next=/admin"),
    ("PA-16", "/admin/"), ("PA-16", "/admin"), ("PA-16", "/admin/."), ("PA-16", "/admin/x/.."),
    ("PA-21", "/oauth2/callback/../../admin"), ("PA-21", "/OAUTH2/start"), ("PA-21", "/oauth2%2fstart"),
    ("PA-22", "/public/secret%23/x"), ("PA-22", "/public/%3f/../../admin"), ("PA-22", "/public/secret%3fx"),
    ("PA-22", "/public/secret"), ("PA-22", "/public/secret/"), ("PA-22", "/public/x/../secret"),
    ("PA-4", "/public/%2525252e%2525252e/admin"), ("PA-5", "/public/x;/../../admin"),
    ("PA-7", "/public/x//..//../admin"),
    ("SM-12", "http://127.0.0.1/public/x"), ("PA-17", "http://{}/public/../admin"), ("SM-13", "/public/x#/../admin"),
    ("SM-14", "*"), ("PA-13", "/public/\uff0e\uff0e/admin"), ("OUT-4", "@evil/x"), ("OUT-4", "evil.test:80"),
]  # fmt: skip


@pytest.mark.parametrize("row", sorted({row for row, _ in BYPASSES}))
async def test_a_public_route_is_no_way_to_another_one(row: str) -> None:
    async with world_with() as (world, backend):
        for target in [target.replace("{}", authority(world.url)) for its, target in BYPASSES if its == row]:
            for method in ("GET", "POST", "OPTIONS"):
                response = await ask(world.url, message(world.url, f"{method} {target}", "Accept: text/html"))
                assert response.status in {302, 303, 400, 401, 403, 404, 405}, (target, response.status)
                if response.status in {302, 303}:  # off to sign in, and nowhere else
                    assert response.one("Location").startswith(world.provider.issuer.encode())
                response = await ask(world.url, message(world.url, f"{method} {target}"))
                assert response.status in {400, 401, 403, 404, 405}, (target, response.status)
            assert backend.connections == 0, (target, backend.seen)


OPEN = [
    "/public/", "/public/x", "/public/x?", "/public/?/../admin", "/public/x?a=1&b=%20+&c=é".replace("é", "%C3%A9"),
    "/public/a/b/", "/public/a+b,c:d@e!f$g", "/public/caf%C3%A9", "/public/%EF%BC%8E", "/public/x%20y",
    "/public/x;v=1",
    "/public/x//y", "/public/a%2Fb", "/public/secretive", "/public/a.b", "/public/..x/.y", "/public/%41",
    "/public/%3f/../admin",
]  # fmt: skip


async def test_f217_what_is_open_goes_on_byte_for_byte() -> None:
    async with world_with() as (world, backend):
        for target in OPEN:
            response = await ask(world.url, message(world.url, f"GET {target}"))
            assert response.status == 200, target
            assert backend.last().target == target.encode()


RAW = [
    "/a//b", "/a%2Fb", "/a%2fb", "/a;x=1/b", "/a+b?c+d", "/a?", "/a??", "/a?&&=", "/a/./b", "/a/../b", "/%7Ea", "/~a",
    "/a%20b", "/a?u=http://x.y/z%23", "/a%25b", "/a|b?c|d", "/a'\"b", "/a{b}[c]^`", "/a?x=%zz", "//", "/.",
    "/a?" + "q" * 8000,
]  # fmt: skip


async def test_f170_f217_inside_one_route_paths_may_be_odd() -> None:
    async with world_with({"routes": []}) as (world, backend), world.browser() as ann:
        await ann.sign_in(f"{world.url}/x", "ann", "ann")
        cookie = ann.cookies.header(world.url)
        for target in RAW:
            for method in ("GET", "POST"):
                response = await ask(world.url, message(world.url, f"{method} {target}", cookie=cookie))
                assert response.status == 200, target
                assert backend.last().target == target.encode()
                assert backend.last().method == method.encode()


async def test_f217_a_post_is_never_redirected_on_its_way() -> None:
    async with world_with() as (world, backend):
        for target in ("/public/a//b", "/public/a/", "/public//a"):
            response = await ask(world.url, message(world.url, f"POST {target}", body=b"data"))
            assert response.status == 200
            assert (backend.last().target, backend.last().body) == (target.encode(), b"data")


# ── required, optional, public ──


GARBAGE = [
    "oidc_proxy=x",
    f"oidc_proxy={'A' * 43}.{'A' * 43}",
    "oidc_proxy=",
    "oidc_proxy",
    ";;=;  ;a",
    "oidc_proxy=\\0",
]


async def test_f73_who_gets_where() -> None:
    async with world_with() as (world, backend), world.browser() as ann:
        await ann.sign_in(f"{world.url}/x", "ann", "ann")
        hers = ann.cookies.header(world.url)
        for path, anonymous, announced in (("/x", 401, True), ("/optional/x", 200, True), ("/public/x", 200, False)):
            for cookie in ("", *GARBAGE):
                response = await ask(world.url, message(world.url, f"GET {path}", cookie=cookie))
                assert response.status == anonymous, (path, cookie)
                if anonymous == 200:
                    assert not backend.last().all("X-Forwarded-User")
                    assert not backend.last().all("Authorization")
            assert (await ask(world.url, message(world.url, f"GET {path}", cookie=hers))).status == 200
            assert bool(backend.last().all("X-Forwarded-User")) is announced
            assert bool(backend.last().all("Authorization")) is announced


async def test_f73_optional_routes_work_while_the_provider_is_down_and_the_token_expired() -> None:
    async with world_with() as (world, backend), world.browser() as ann:
        await ann.sign_in(f"{world.url}/x", "ann", "ann")
        hers = ann.cookies.header(world.url)
        world.clock.advance(301)
        await world.provider.close()
        try:
            assert (await ask(world.url, message(world.url, "GET /x", cookie=hers))).status == 503
            assert (await ask(world.url, message(world.url, "GET /optional/x", cookie=hers))).status == 200
            assert not backend.last().all("Authorization")
            assert (await ask(world.url, message(world.url, "GET /public/x", cookie=hers))).status == 200
        finally:
            await world.provider.open()


async def test_f77_who_is_known_and_may_not_gets_403_and_stays_signed_in() -> None:
    async with world_with() as (world, backend), world.browser() as bob:
        await bob.sign_in(f"{world.url}/x", "bob", "bob")
        before = len(backend.seen)
        page = await bob.navigate(f"{world.url}/admin/x")
        assert page.status == 403
        assert len(page.hops) == 1, "no redirect, so no loop"
        assert not page.set_cookies
        assert (await bob.fetch(f"{world.url}/admin/x")).status == 403
        assert len(backend.seen) == before
        assert (await bob.fetch(f"{world.url}/x")).status == 200
        (line, *_) = world.lines(event="access.denied")
        assert "/staff/ops" in line["reason"]
        assert b"/staff/ops" not in page.body


async def test_f77_who_is_not_known_gets_401_or_the_sign_in_page() -> None:
    async with world_with() as (world, _), world.browser() as anyone:
        page = await anyone.fetch(f"{world.url}/admin/x")
        assert page.status == 401
        assert "WWW-Authenticate" in page.headers
        page = await anyone.navigate(f"{world.url}/admin/x")
        assert page.url.startswith(world.provider.issuer)


# ── by method, host and upstream ──


METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "MKCOL", "REPORT", "PURGE", "SEARCH"]


@pytest.mark.parametrize("method", METHODS)
async def test_f169_pa25_every_method_is_closed_where_nothing_opens_it(method: str) -> None:
    async with world_with() as (world, backend):
        response = await ask(world.url, message(world.url, f"{method} /admin/x"))
        assert response.status == 401
        assert backend.connections == 0
        expected = 200 if method in {"GET", "HEAD"} else 401
        assert (await ask(world.url, message(world.url, f"{method} /readable/x"))).status == expected
        assert len(backend.seen) == (expected == 200)


@pytest.mark.parametrize("line", ["get /admin/x", "FOO /admin/x", "GET", "get /public/x", "Get /readable/x"])
async def test_f169_pa25_what_is_no_method_is_no_request(line: str) -> None:
    async with world_with() as (world, backend):
        assert (await ask(world.url, message(world.url, line), "GET")).status == 400
        assert backend.connections == 0


@pytest.mark.parametrize("origin", ["https://evil.test", "null"])
async def test_pa20_br3_a_preflight_opens_nothing(origin: str) -> None:
    async with world_with() as (world, backend):
        asked = [f"Origin: {origin}", "Access-Control-Request-Method: DELETE"]
        response = await ask(world.url, message(world.url, "OPTIONS /readable/x", *asked))
        assert response.status == 401
        assert not [name for name, _ in response.headers if name.lower().startswith(b"access-control-")]
        assert backend.connections == 0


@pytest.mark.parametrize(
    "fields",
    [
        ["X-HTTP-Method-Override: GET", "X-Method-Override: GET", "X-HTTP-Method: GET"],
        ["X-Original-Method: GET", "X-Forwarded-Method: OPTIONS"],
    ],
)
async def test_pa19_the_method_is_that_of_the_request_line(fields: list[str]) -> None:
    async with world_with() as (world, backend):
        for target in ("/readable/x", "/readable/x?_method=GET"):
            data = message(world.url, f"DELETE {target}", *fields, body=b"_method=GET")
            assert (await ask(world.url, data)).status == 401
        assert backend.connections == 0


@pytest.mark.parametrize(
    "field",
    [
        "X-Forwarded-Uri: /public/x", "X-Original-URI: /public/x", "X-Original-URL: /public/x",
        "X-Rewrite-URL: /public/x",
        "X-Forwarded-Prefix: /public", "X-Forwarded-Path: /public/x", "X-Accel-Redirect: /public/x",
        "User-Agent: kube-probe/1.30", "User-Agent: ELB-HealthChecker/2.0", "User-Agent: GoogleHC/1.0",
        "X-Forwarded-Host: public.test", "Sec-Fetch-Mode: no-cors", "Referer: /public/x", "Host: {}:",
    ],
)  # fmt: skip
async def test_pa23_pa24_no_header_decides_for_the_path(field: str) -> None:
    async with world_with({"listen": {"trusted_proxies": ["127.0.0.1"]}}) as (world, backend):
        for path in ("/admin/x", "/", "/ping", "/livez", "/readyz", "/metrics", "/healthz"):
            response = await ask(world.url, message(world.url, f"GET {path}", field.replace("{}", "127.0.0.1")))
            assert response.status in {401, 421}, path
        response = await ask(world.url, message(world.url, "GET /oauth2/userinfo", field.replace("{}", "127.0.0.1")))
        assert response.status in {401, 421}
        assert backend.connections == 0


async def test_who_may_not_write_somewhere_does_not_move_something_there_either() -> None:
    """Bob may use /, but not /admin/; strangers may write below /public/, and read below /readable/."""
    denied = [
        "/admin/x", "{}/admin/x", "http://elsewhere.test/admin/x", "//elsewhere.test/admin/x", "/admin",
        "/x/../admin/x", "/x/%2e%2e/admin/x", "{}/public/..%2fadmin/x", "/a#/../admin", "admin/x", "{}/admin/x?y",
    ]  # fmt: skip
    async with world_with() as (world, backend), world.browser() as bob:
        await bob.sign_in(f"{world.url}/x", "bob", "bob")
        cookie = bob.cookies.header(world.url)
        backend.seen.clear()
        for method in ("COPY", "MOVE"):
            for target in denied:
                field = f"Destination: {target.replace('{}', world.url)}"
                response = await ask(world.url, message(world.url, f"{method} /x", field, cookie=cookie))
                assert response.status in {400, 403}, target
            for fields in (["Destination: /y", "Destination: /admin/x"], ["destination: /admin/x"]):
                response = await ask(world.url, message(world.url, f"{method} /x", *fields, cookie=cookie))
                assert response.status in {400, 403}, fields
            for target in ("/x", "/readable/x", "/public/secret"):
                field = f"Destination: {world.url}{target}"
                assert (await ask(world.url, message(world.url, f"{method} /public/x", field))).status == 401, target
        assert not backend.seen
        for field in ("Destination: /y", f"Destination: {world.url}/public/y?z", "X: y"):
            assert (await ask(world.url, message(world.url, "MOVE /x", field, cookie=cookie))).status == 200
        assert (await ask(world.url, message(world.url, "COPY /public/x", "Destination: /public/y"))).status == 200
        assert (
            await ask(world.url, message(world.url, "PUT /x", "Destination: /admin/y", cookie=cookie))
        ).status == 200
        assert len(backend.seen) == 5


async def test_f169_without_a_rule_there_is_no_way() -> None:
    async with recorder() as backend:
        config = {"upstream": None, "upstreams": {"default": {"url": backend.url}}, "routes": ROUTES}
        async with running_world(config) as world, world.browser() as ann:
            page = await ann.sign_in(f"{world.url}/optional/x", "ann", "ann")
            page = await ann.sign_in(f"{world.url}/admin/x", "ann", "ann")
            assert page.status == 200
            before = len(backend.seen)
            for path in ("/", "/other", "/administrator"):
                assert (await ann.fetch(world.url + path)).status == 404
            assert len(backend.seen) == before


async def test_f171_the_query_takes_no_part() -> None:
    async with world_with() as (world, backend):
        for target in ("/private?x=/public", "/private?/public/", "/admin/?path=/public/x", "/?/public/x"):
            assert (await ask(world.url, message(world.url, f"GET {target}"))).status == 401
        assert backend.connections == 0


@asynccontextmanager
async def two_hosts() -> AsyncIterator[tuple[str, int, Recorder, Recorder]]:
    """One gateway for open.test and shut.test, each with a backend of its own."""
    port = free_port()
    async with recorder() as first, recorder() as second:
        config = {
            "public_url": [f"http://{host}:{port}" for host in ("open.test", "shut.test")],
            "allow_insecure_http": True,
            "listen": {"address": f"127.0.0.1:{port}"},
            "upstream": None,
            "upstreams": {"default": {"url": first.url}, "second": {"url": second.url}},
            "routes": [
                {"host": "open.test", "path": "/", "auth": "none"},
                {"host": "shut.test", "path": "/", "upstream": "second"},
                {"host": "shut.test", "path": "/hello", "auth": "none", "upstream": "second"},
            ],
        }
        async with running_world(config):
            yield f"http://127.0.0.1:{port}", port, first, second


async def test_f215_two_hosts_have_two_backends() -> None:
    async with two_hosts() as (url, port, first, second):
        for host, backend in (("open.test", first), ("shut.test", second)):
            response = await ask(url, message(url, "GET /hello", f"Host: {host}:{port}"))
            assert response.status == 200
            assert backend.last().one("Host").decode() == f"{host}:{port}"
        assert (len(first.seen), len(second.seen)) == (1, 1)


@pytest.mark.parametrize("spelling", ["shut.test:{}", "SHUT.Test:{}", "shut.test.:{}", "Shut.TEST.:{}"])
async def test_pa26_a_host_has_many_spellings_and_one_rule(spelling: str) -> None:
    async with two_hosts() as (url, port, first, second):
        for path in ("/", "/x", "/hello/x"):
            fields = [f"Host: {spelling.format(port)}", "X-Forwarded-Host: open.test"]
            assert (await ask(url, message(url, f"GET {path}", *fields))).status == 401, path
        for wrong in ("shut.test", "open.test:1", "open.test:0{}", "open.test:{}1", "xopen.test:{}", "open.test..:{}"):
            assert (await ask(url, message(url, "GET /x", f"Host: {wrong.format(port)}"))).status in {400, 421}, wrong
        assert not first.seen
        assert not second.seen


async def test_a_sign_in_begins_and_ends_at_the_host_that_was_asked() -> None:
    async with two_hosts() as (url, port, _, _):
        fields = [f"Host: SHUT.test:{port}", "X-Forwarded-Host: open.test", "Accept: text/html"]
        response = await ask(url, message(url, "GET /x", *fields))
        query = parse_qs(urlsplit(response.one("Location").decode()).query)
        assert query["redirect_uri"] == [f"http://shut.test:{port}/oauth2/callback"]
