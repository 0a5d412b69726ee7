"""The operator says for a route or an application what becomes of a request there, and of its answer."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from oidc_proxy.cli import main
from tests.gateway import World, running_world
from tests.stories.proxied import ann, answer, get, swallow, world_with
from tests.stories.tls import certificate
from tests.wire import OK, Peer, ask, connected, message, recorder
from tests.world import free_port

# ── F83: Authorization ──


async def test_f83_a_route_keeps_what_the_client_says_in_authorization() -> None:
    routes = [{"path": "/basic/", "authorization": "keep"}, {"path": "/open/", "auth": "none", "authorization": "keep"}]
    async with world_with({"routes": routes}) as (world, backend):
        cookie = await ann(world)
        hers = "Authorization: Basic YW5uOmFubg=="
        assert (await get(world, hers, line="GET /basic/x", cookie=cookie)).status == 200
        assert backend.last().one("Authorization") == b"Basic YW5uOmFubg=="
        assert backend.last().all("X-Forwarded-User"), "she is announced all the same"
        assert (await get(world, hers, line="GET /open/x")).status == 200
        assert backend.last().one("Authorization") == b"Basic YW5uOmFubg=="
        assert (await get(world, hers, line="GET /basic/x")).status == 401, "it is no sign-in"


async def test_f83_without_one_of_the_clients_the_users_token_goes_on_there_too() -> None:
    async with world_with({"routes": [{"path": "/basic/", "authorization": "keep"}]}) as (world, backend):
        cookie = await ann(world)
        await get(world, line="GET /basic/x", cookie=cookie)
        token = backend.last().one("Authorization").decode().removeprefix("Bearer ")
        assert token in world.provider.ledger.access_tokens
        # What Connection nominates is for us alone, so the client has sent none.
        await get(world, "Authorization: Basic eA==", "Connection: authorization", line="GET /basic/x", cookie=cookie)
        assert backend.last().one("Authorization").startswith(b"Bearer ")


async def test_f83_elsewhere_it_is_replaced_and_a_header_of_the_upstream_comes_before_both() -> None:
    config = {"upstream": {"headers": {"Authorization": "Basic b3Vycw=="}}, "routes": [
        {"path": "/kept/", "authorization": "keep"},
    ]}  # fmt: skip
    async with world_with(config) as (world, backend):
        cookie = await ann(world)
        for path in ("/kept/x", "/x"):
            await get(world, "Authorization: Basic eA==", line=f"GET {path}", cookie=cookie)
            assert backend.last().one("Authorization") == b"Basic b3Vycw=="


# ── F84: secret headers ──


async def test_f84_a_secret_header_reaches_the_backend_and_no_log() -> None:
    secret = {"Ocp-Apim-Subscription-Key": {"value": "canary-of-the-key"}}
    async with world_with({"upstream": {"secret_headers": secret, "headers": {"X-Env": "prod"}}}) as (world, backend):
        for target in ("/public/x", "/x"):
            fields = ["ocp-apim-subscription-key: mine", "Ocp_Apim_Subscription_Key: mine"]
            await get(world, *fields, line=f"GET {target}", cookie=await ann(world))
            assert backend.last().one("Ocp-Apim-Subscription-Key") == b"canary-of-the-key"
            assert not backend.last().all("Ocp_Apim_Subscription_Key")
            assert backend.last().one("X-Env") == b"prod"
        assert "canary" not in world.log.getvalue()
        assert "canary" not in repr(world.app.config)


def test_f84_its_value_is_read_from_a_file_and_shown_nowhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "key").write_text("canary-of-the-key\n")
    (tmp_path / "config.yaml").write_text("""\
public_url: https://app.example.com
provider: {issuer: "https://id.example.com", client_id: app, client_secret: "none that anybody knows: 93f1c0"}
upstream:
  url: http://127.0.0.1:8080
  secret_headers:
    X-Subscription: {value_file: key}
""")
    assert main(["config", "show", "--config", str(tmp_path / "config.yaml")]) == 0
    shown = capsys.readouterr().out
    assert "X-Subscription" in shown
    assert "canary" not in shown
    (tmp_path / "key").write_text("canary\r\nX-Evil: 1")
    assert main(["config", "check", str(tmp_path / "config.yaml")]) == 78
    said = capsys.readouterr()
    assert "control characters" in said.out + said.err
    assert "canary" not in said.out + said.err


# ── F85, F223: what went wrong, for whom ──


@asynccontextmanager
async def failing(kind: str) -> AsyncIterator[tuple[World, str]]:
    """A world whose backend fails in this way, and a word that only the log may have."""
    timeouts = {"connect": "200ms", "response": "200ms"}
    match kind:
        case "down":
            url = f"http://127.0.0.1:{free_port()}"
            async with running_world({"upstream": {"url": url}, "routes": [{"path": "/", "auth": "none"}]}) as world:
                yield world, url
        case "slow":
            async with world_with({"upstream": {"timeouts": timeouts}}, swallow) as (world, _):
                yield world, "no response in time"
        case "saturated":
            limited = {"timeouts": {"connect": "200ms"}, "max_connections": 1}
            async with world_with({"upstream": limited}, swallow) as (world, _), connected(world.url) as line:
                await line.send(message(world.url, "GET /public/first"))
                await asyncio.sleep(0.1)
                yield world, "all 1 connections are in use"
        case "broken":
            async with world_with(script=lambda peer: peer.say(b"SMTP ready\r\n")) as (world, _):
                yield world, "not an HTTP/1.x response"


@pytest.mark.parametrize(
    ("kind", "status", "code"),
    [
        ("down", 502, "upstream_unreachable"),
        ("slow", 504, "upstream_timeout"),
        ("saturated", 503, "upstream_saturated"),
        ("broken", 502, "upstream_invalid_response"),
    ],
)
async def test_f85_f223_people_get_a_page_programs_json_and_the_operator_the_reason(
    kind: str, status: int, code: str
) -> None:
    async with failing(kind) as (world, detail):
        program = await get(world, "Accept: application/json")
        assert program.status == status
        assert program.one("Content-Type") == b"application/problem+json"
        assert json.loads(program.body)["code"] == code
        person = await get(world, "Accept: text/html")
        assert person.status == status
        assert person.one("Content-Type").startswith(b"text/html")
        for response in (program, person):
            assert detail.encode() not in response.body
            assert b"127.0.0.1" not in response.body.replace(world.url.encode(), b"")
        for line in world.lines(event="request.failed", code=code):
            assert detail in line["reason"]
        assert len(world.lines(event="request.failed", code=code)) == 2


@pytest.mark.parametrize("status", ["400 Bad", "401 No", "404 Not Found", "409 Conflict", "500 Oops", "502 X", "503 Y"])
async def test_f85_an_error_of_the_backends_own_is_passed_on_as_it_is(status: str) -> None:
    async with world_with() as (world, backend):
        backend.answer = answer("Content-Type: application/json", status=status, body=b'{"error": "theirs"}')
        for fields in (["Accept: text/html"], ["Accept: application/json"]):
            response = await get(world, *fields)
            assert f"{response.status} {response.reason.decode()}" == status
            assert response.body == b'{"error": "theirs"}'
            assert response.one("Content-Type") == b"application/json"
        assert not world.lines(event="request.failed")


# ── F215: routes by host ──


async def test_f215_hosts_below_a_domain_share_a_route_and_a_host_of_its_own_comes_first() -> None:
    port = free_port()
    async with recorder() as wild, recorder() as one, recorder() as rest:
        config = {
            "public_url": [f"http://{host}:{port}" for host in ("a.apps.test", "b.c.apps.test", "app.test")],
            "allow_insecure_http": True,
            "listen": {"address": f"127.0.0.1:{port}"},
            "upstream": rest.url,
            "upstreams": {"wild": {"url": wild.url}, "one": {"url": one.url}},
            "routes": [
                {"host": "*.apps.test", "path": "/", "auth": "none", "upstream": "wild"},
                {"host": "a.apps.test", "path": "/", "auth": "none", "upstream": "one"},
                {"path": "/", "auth": "none"},
            ],
        }
        async with running_world(config):
            url = f"http://127.0.0.1:{port}"
            for host, backend in (("a.apps.test", one), ("b.c.apps.test", wild), ("app.test", rest)):
                assert (await ask(url, message(url, "GET /same", f"Host: {host}:{port}"))).status == 200
                assert backend.last().one("Host").decode() == f"{host}:{port}"
            assert [len(backend.seen) for backend in (one, wild, rest)] == [1, 1, 1]
            assert (await ask(url, message(url, "GET /same", f"Host: x.apps.test:{port}"))).status == 421


# ── F216, F217: the path and the host that the backend sees ──

REWRITTEN = [
    {"path": "/api/", "auth": "none", "strip_prefix": "/api"},
    {"path": "/api/admin/", "groups": ["/staff/ops"], "strip_prefix": "/api"},
    {"path": "/old/", "auth": "none", "rewrite": "/new/x/"},
    {"path": "/favicon.ico", "auth": "none", "rewrite": "/static/icon"},
]


@pytest.mark.parametrize(
    ("target", "sent"),
    [
        ("/api/a%2Fb", "/a%2Fb"),
        ("/api/", "/"),
        ("/api/?", "/?"),
        ("/api/a//b;c+d?e=%2F?&", "/a//b;c+d?e=%2F?&"),
        ("/api/caf%C3%A9/%7e", "/caf%C3%A9/%7e"),
        ("/api/?/api/../admin", "/?/api/../admin"),
        ("/old/y?/old/", "/new/x/y?/old/"),
        ("/favicon.ico?v=2", "/static/icon?v=2"),
    ],
)
async def test_f216_f217_a_prefix_goes_and_the_rest_stays_byte_for_byte(target: str, sent: str) -> None:
    async with world_with({"routes": REWRITTEN}) as (world, backend):
        for method in ("GET", "POST"):
            assert (await get(world, line=f"{method} {target}")).status == 200
            assert backend.last().target == sent.encode()
        prefix = backend.last().all("X-Forwarded-Prefix")
        assert prefix == ([b"/api"] if target.startswith("/api") else [])
        (line, *_) = world.lines(type="access")
        assert line["path"] == target.partition("?")[0], "the log has what the visitor asked for"


async def test_f216_no_prefix_is_believed_from_the_client() -> None:
    async with world_with({"routes": REWRITTEN}) as (world, backend):
        await get(world, "X-Forwarded-Prefix: /evil", line="GET /api/x")
        assert backend.last().one("X-Forwarded-Prefix") == b"/api"
        await get(world, "X-Forwarded-Prefix: /evil", line="GET /old/x")
        assert not backend.last().all("X-Forwarded-Prefix")


@pytest.mark.parametrize(
    "target",
    [
        "/api//x", "/api//evil.test/x", "/api/\\evil.test", "/api/%2Fx/admin/y", "/api/..", "/api/../x",
        "/api/%2e%2e/x", "/api//admin/", "/api/admin", "/api/./admin/", "/api/x/..%2fadmin/", "/old/../x",
        "/old/..;/..;/x",
    ],
)  # fmt: skip
async def test_f216_no_rewritten_path_leads_elsewhere(target: str) -> None:
    async with world_with({"routes": REWRITTEN}) as (world, backend):
        assert (await get(world, line=f"GET {target}")).status in {400, 401}
        assert backend.connections == 0


async def test_f216_the_backend_hears_its_own_name_if_it_must() -> None:
    async with world_with({"upstream": {"host_header": "upstream"}}) as (world, backend):
        await get(world)
        assert backend.last().one("Host").decode() == backend.url.removeprefix("http://")
        assert backend.last().one("X-Forwarded-Host").decode() == world.url.removeprefix("http://")


async def test_f217_a_query_may_be_empty_and_a_path_odd() -> None:
    async with world_with({"routes": [{"path": "/", "auth": "none"}]}) as (world, backend):
        for target in ("/a//b", "/a%2Fb", "/a%2fb", "/a;b;c=d", "/a+b", "/a?", "/a??", "/?", "/a%20b?c+d", "//"):
            for method in ("GET", "POST"):
                assert (await get(world, line=f"{method} {target}")).status == 200
                assert (backend.last().method.decode(), backend.last().target.decode()) == (method, target)


# ── F218: how long a route may take ──


async def test_f218_a_route_has_patience_of_its_own() -> None:
    async def slowly(peer: Peer) -> None:
        async for _ in peer.requests():
            await asyncio.sleep(0.5)
            await peer.say(OK)

    config = {
        "upstream": {"timeouts": {"response": "200ms"}},
        "routes": [
            {"path": "/reports/", "auth": "none", "timeout": "5s"},
            {"path": "/endless/", "auth": "none", "timeout": "0"},
            {"path": "/", "auth": "none"},
        ],
    }
    async with world_with(config, slowly) as (world, _):
        for path, status in (("/reports/x", 200), ("/x", 504), ("/endless/x", 200), ("/x", 504), ("/reports/x", 200)):
            assert (await get(world, line=f"GET {path}")).status == status, path


async def test_f218_or_less_of_it() -> None:
    routes = [{"path": "/quick/", "auth": "none", "timeout": "200ms"}]
    async with world_with({"routes": routes}, swallow) as (world, _):
        began = asyncio.get_running_loop().time()
        assert (await get(world, line="GET /quick/x")).status == 504
        assert asyncio.get_running_loop().time() - began < 0.5


async def test_f218_pauses_inside_a_body_count_too() -> None:
    async def pause(peer: Peer) -> None:
        async for _ in peer.requests():
            await peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab")
            await asyncio.sleep(0.6)
            await peer.say(b"cd")

    config = {
        "upstream": {"timeouts": {"idle": "200ms"}},
        "routes": [{"path": "/long/", "auth": "none", "timeout": "5s"}, {"path": "/", "auth": "none"}],
    }
    async with world_with(config, pause) as (world, _):
        assert (await get(world, line="GET /long/x")).body == b"abcd"
        assert (await get(world, line="GET /x")).cut
        assert (await get(world, line="GET /long/x")).body == b"abcd"


# ── F222, F224: TLS, and connections that have died ──


@asynccontextmanager
async def secure(context: ssl.SSLContext, tls: dict[str, Any]) -> AsyncIterator[tuple[World, list[bytes | None]]]:
    """A gateway before a backend that speaks TLS, and the client certificates that the backend saw."""
    seen: list[bytes | None] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(writer.get_extra_info("ssl_object").getpeercert(binary_form=True))
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        url = f"https://localhost:{server.sockets[0].getsockname()[1]}"
        config = {"upstream": {"url": url, "tls": tls}, "routes": [{"path": "/", "auth": "none"}]}
        async with running_world(config) as world:
            yield world, seen
    finally:
        server.close()


@pytest.fixture
def pem(tmp_path: Path) -> Path:
    """A folder with the certificate of tests, its key, and a stranger's certificate."""
    chain, key = certificate()
    (tmp_path / "ca.pem").write_text(chain)
    (tmp_path / "key.pem").write_text(key)
    certificate.cache_clear()
    (tmp_path / "stranger.pem").write_text(certificate()[0])
    certificate.cache_clear()
    return tmp_path


def context_of(folder: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "ca.pem", folder / "key.pem")
    return context


async def test_f222_a_backend_that_another_authority_vouches_for_is_no_backend(pem: Path) -> None:
    for tls, status in (
        ({"ca_file": pem / "ca.pem"}, 200),
        ({"ca_file": pem / "stranger.pem"}, 502),
        ({}, 502),
        ({"ca_file": pem / "ca.pem", "server_name": "other.test"}, 502),
        ({"ca_file": pem / "ca.pem", "server_name": "app.test"}, 200),
        ({"verify": False}, 200),
    ):
        async with secure(context_of(pem), tls) as (world, _):
            response = await get(world)
            assert response.status == status, tls
            assert (b"certificate" in response.body.lower()) is False
            if status == 502:
                (line,) = world.lines(event="request.failed")
                assert "certificate" in line["reason"].lower()


async def test_f222_the_backend_sees_our_certificate(pem: Path) -> None:
    context = context_of(pem)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(pem / "ca.pem")
    tls = {"ca_file": pem / "ca.pem", "cert_file": pem / "ca.pem", "key_file": pem / "key.pem"}
    async with secure(context, tls) as (world, seen):
        assert (await get(world)).status == 200
        assert seen == [ssl.PEM_cert_to_DER_cert((pem / "ca.pem").read_text())]
    async with secure(context, {"ca_file": pem / "ca.pem"}) as (world, _):
        assert (await get(world)).status == 502


async def test_f224_a_connection_that_the_backend_closed_costs_nobody_an_answer() -> None:
    async def one_each(peer: Peer) -> None:
        async for request in peer.requests():
            peer.backend.seen.append(request)
            await peer.say(OK)
            return  # without a word: the gateway takes the connection for one that goes on

    async with world_with(script=one_each) as (world, backend):
        for number in range(5):
            assert (await get(world, line=f"GET /public/{number}")).status == 200
        assert [request.target for request in backend.seen] == [f"/public/{n}".encode() for n in range(5)]
        assert (await get(world, line="POST /public/x", body=b"order")).status in {200, 502}
        assert len([request for request in backend.seen if request.method == b"POST"]) <= 1


# ── F226: sockets, and answers of our own ──


async def test_f226_a_backend_on_a_unix_socket_hears_who_is_there(tmp_path: Path) -> None:
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(OK)
        writer.close()

    server = await asyncio.start_unix_server(serve, str(tmp_path / "app.sock"))
    try:
        async with running_world({"upstream": {"url": f"unix:{tmp_path}/app.sock"}}) as world:
            cookie = await ann(world)
            assert (await get(world, line="GET /x", cookie=cookie)).status == 200
        head = heads[-1].lower()
        assert b"\r\nx-forwarded-preferred-username: ann\r\n" in head
        assert b"\r\nauthorization: bearer " in head
    finally:
        server.close()


async def test_f226_an_answer_of_our_own_is_for_those_who_may_have_it() -> None:
    routes = [
        {"path": "/robots.txt", "auth": "none", "respond": {"body": "User-agent: *\nDisallow: /\n"}},
        {"path": "/gone/", "auth": "none", "respond": {"status": 410, "body": "<p>gone", "content_type": "text/html"}},
        {"path": "/mine", "respond": {"body": "for users", "status": 200}},
        {"path": "/ops", "groups": ["/staff/ops"], "respond": {"status": 204}},
    ]
    async with world_with({"routes": routes}) as (world, backend):
        cookie = await ann(world)
        backend.seen.clear()
        robots = await get(world, line="GET /robots.txt")
        assert (robots.status, robots.body) == (200, b"User-agent: *\nDisallow: /\n")
        assert robots.one("Content-Type") == b"text/plain; charset=utf-8"
        assert robots.one("X-Content-Type-Options") == b"nosniff"
        assert not robots.all("Cache-Control")
        head = await get(world, line="HEAD /robots.txt")
        assert (head.status, head.body, head.one("Content-Length")) == (200, b"", b"26")
        gone = await get(world, line="POST /gone/x", body=b"data")
        assert (gone.status, gone.body, gone.one("Content-Type")) == (410, b"<p>gone", b"text/html")
        assert (await get(world, line="GET /mine")).status == 401
        mine = await get(world, line="GET /mine", cookie=cookie)
        assert (mine.status, mine.body) == (200, b"for users")
        assert mine.one("Cache-Control") == b"private, no-store"
        assert (await get(world, line="GET /ops", cookie=cookie)).status == 204
        assert (await get(world, line="GET /ops")).status == 401
        assert not backend.seen
        assert world.lines(type="access", path="/robots.txt")[0]["route"] == "/robots.txt"


async def test_f226_a_gateway_may_have_nothing_but_answers() -> None:
    config = {"upstream": None, "routes": [{"path": "/", "auth": "none", "respond": {"body": "closed for today"}}]}
    async with running_world(config) as world:
        assert (await get(world, line="GET /x")).body == b"closed for today"
