"""Ann works with the application behind the gateway: requests go there and answers come back, whole and unchanged."""

from __future__ import annotations

import asyncio
import gzip

import pytest

from tests.stories.proxied import ann, answer, get, swallow, world_with
from tests.wire import OK, Fields, Peer, Request, ask, authority, connected, folded, message

# ── the request ──


async def test_f83_the_backend_gets_the_bearer_of_the_session() -> None:
    async with world_with() as (world, backend):
        cookie = await ann(world)
        assert (await get(world, "Authorization: Bearer hers", line="GET /x", cookie=cookie)).status == 200
        token = backend.last().one("Authorization").decode().removeprefix("Bearer ")
        assert token in world.provider.ledger.access_tokens


async def test_f83_the_id_token_or_none_if_that_is_configured() -> None:
    for choice, count in (("id_token", 1), ("none", 0)):
        async with world_with({"identity": {"authorization": choice}}) as (world, backend):
            await get(world, "Authorization: Bearer hers", line="GET /x", cookie=await ann(world))
            tokens = backend.last().all("Authorization")
            assert len(tokens) == count
            assert not any(token.decode()[7:] in world.provider.ledger.access_tokens for token in tokens)


async def test_f84_headers_of_the_upstream() -> None:
    fixed = {"X-Api-Key": "canary-of-the-key", "X-Env": "prod"}
    async with world_with({"upstream": {"headers": fixed}}) as (world, backend):
        for target in ("/public/x", "/x"):
            cookie = await ann(world)
            await get(world, "X-Api-Key: mine", "x-env: mine", line=f"GET {target}", cookie=cookie)
            assert backend.last().one("X-Api-Key") == b"canary-of-the-key"
            assert backend.last().one("X-Env") == b"prod"
        assert "canary" not in world.log.getvalue()


async def test_f84_a_look_alike_does_not_pass_beside_a_header_of_the_upstream() -> None:
    async with world_with({"upstream": {"headers": {"X-Api-Key": "ours"}}}) as (world, backend):
        await get(world, "X_Api_Key: mine", "X.Api.Key: mine")
        assert folded(backend.last().headers).count("x-api-key") == 1


@pytest.mark.parametrize("path", ["/public/x", "/x"])
async def test_hd1_px17_what_is_end_to_end_goes_through_in_order_and_byte_for_byte(path: str) -> None:
    sent = [
        b"accept: */*", b"X-Lat: caf\xe9", b"X-Utf: caf\xc3\xa9 \xe2\x82\xac", b"X-Two: 1", b"X-two: 2", b"X-Empty:",
        b"aCCept-Encoding: gzip, br", b"Range: bytes=0-1", b"If-None-Match: W/\"x\"", b"X-Tabs: a\tb  c", b"DNT: 1",
        b"Cache-Control: no-transform", b"Origin: http://x.y", b"X-Sym: !#$%&'*+-.^_`|~",
    ]  # fmt: skip
    async with world_with() as (world, backend):
        assert (await get(world, *sent, line=f"GET {path}", cookie=await ann(world))).status == 200
        raw = backend.last().raw
        lines = [
            line for line in raw.split(b"\r\n") if line.replace(b": ", b":") in {x.replace(b": ", b":") for x in sent}
        ]
        assert [line.replace(b": ", b":") for line in lines] == [line.replace(b": ", b":") for line in sent]


async def test_px1_px2_headers_of_one_hop_stay_on_it() -> None:
    async with world_with() as (world, backend):
        hop = ["Connection: keep-alive, X-Mine", "X-Mine: 1", "Keep-Alive: 5", "TE: gzip", "Upgrade: h2c"]
        hop += ["HTTP2-Settings: AAA", "Proxy-Connection: x", "Proxy-Authenticate: x"]
        response = await get(world, *hop)
        assert response.status in {200, 400}
        names = {"connection", "x-mine", "keep-alive", "te", "upgrade", "http2-settings", "proxy-connection"}
        for request in backend.seen:
            assert not names & set(folded(request.headers))
        backend.answer = answer(
            "Connection: close, X-Secret", "X-Secret: 1", "Keep-Alive: timeout=5", "Proxy-Authenticate: Basic",
            "Upgrade: h2c", "X-Kept: 1", "Trailer: X-T",
        )  # fmt: skip
        response = await get(world)
        names = {"x-secret", "keep-alive", "proxy-authenticate", "upgrade", "trailer", "connection"}
        assert not names & set(folded(response.headers))
        assert response.one("X-Kept") == b"1"


async def test_f221_forwarding_headers_say_how_the_visitor_came() -> None:
    async with world_with() as (world, backend):
        await get(world)
        request, port = backend.last(), authority(world.url).partition(":")[2].encode()
        assert request.one("Host") == request.one("X-Forwarded-Host") == authority(world.url).encode()
        assert request.one("X-Forwarded-Proto") == b"http"
        assert request.one("X-Forwarded-Port") == port
        assert request.one("X-Forwarded-For") == b"127.0.0.1"


# ── bodies of requests ──


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "GET", "PROPFIND"])
@pytest.mark.parametrize("chunked", [True, False])
async def test_sm17_bodies_go_on_with_one_framing(method: str, chunked: bool) -> None:
    body = bytes(range(256)) * 3
    async with world_with() as (world, backend):
        for given in (body, b""):
            if chunked:
                pieces = b"".join(b"%x;ext=1\r\n%b\r\n" % (len(p), p) for p in (given[:1], given[1:]) if p)
                data = message(world.url, f"{method} /public/x", "Transfer-Encoding: chunked") + pieces + b"0\r\n\r\n"
            else:
                data = message(world.url, f"{method} /public/x", f"Content-Length: {len(given)}") + given
            assert (await ask(world.url, data)).status == 200
            request = backend.last()
            assert request.body == given
            assert len(request.all("Content-Length")) + len(request.all("Transfer-Encoding")) <= 1
            assert b"ext" not in request.raw


@pytest.mark.parametrize(
    ("row", "fields", "body"),
    [
        ("PX-22", ["Transfer-Encoding: chunked", "Content-Length: 3"], b"0\r\n\r\n"),
        ("PX-22 the other way", ["Content-Length: 3", "Transfer-Encoding: chunked"], b"0\r\n\r\n"),
        ("PX-9", ["Content-Length: 3", "Content-Length: 4"], b"abcd"),
        ("PX-9 equal", ["Content-Length: 3", "Content-Length: 3"], b"abc"),
        ("PX-9 list", ["Content-Length: 3, 3"], b"abc"),
        ("SM-2 sign", ["Content-Length: +3"], b"abc"),
        ("SM-2 negative", ["Content-Length: -1"], b""),
        ("SM-2 overflow", ["Content-Length: 18446744073709551617"], b"abc"),
        ("PX-24 unknown", ["Transfer-Encoding: gzip, chunked"], b"0\r\n\r\n"),
        ("PX-24 identity", ["Transfer-Encoding: identity"], b""),
        ("PX-24 identity first", ["Transfer-Encoding: identity, chunked"], b"0\r\n\r\n"),
        ("PX-26 hex prefix", ["Transfer-Encoding: chunked"], b"0x1\r\na\r\n0\r\n\r\n"),
        ("PX-26 sign", ["Transfer-Encoding: chunked"], b"+1\r\na\r\n0\r\n\r\n"),
        ("PX-26 overflow", ["Transfer-Encoding: chunked"], b"1" * 20 + b"\r\na\r\n0\r\n\r\n"),
        ("PX-26 no line break", ["Transfer-Encoding: chunked"], b"1\r\nab\r\n0\r\n\r\n"),
        ("PX-18 bare line feeds", ["X: y\nZ: z"], b""),
    ],
)
async def test_f227_faulty_framing_is_refused_and_the_connection_closed(
    row: str, fields: list[str], body: bytes
) -> None:
    async with world_with() as (world, backend):
        for path in ("/public/x", "/x"):
            async with connected(world.url) as line:
                lines = [f"POST {path} HTTP/1.1", f"Host: {authority(world.url)}", *fields]
                smuggled = message(world.url, "GET /public/smuggled")
                await line.send("\r\n".join(lines).encode() + b"\r\n\r\n" + body + smuggled)
                assert (await line.response("POST")).status in {400, 401, 413, 501}, row
                assert await line.ended() == b"", "nothing more, and the connection is closed"
        assert not [request for request in backend.seen if b"smuggled" in request.target]


async def test_px23_chunks_in_http_1_0_are_faulty() -> None:
    async with world_with() as (world, backend):
        async with connected(world.url) as line:
            head = message(world.url, "POST /public/x", "Transfer-Encoding: chunked", version="1.0")
            await line.send(head + b"3\r\nabc\r\n0\r\n\r\n" + message(world.url, "GET /public/smuggled"))
            assert (await line.response("POST")).status == 400
            assert await line.ended() == b""
        assert not backend.seen


async def test_f227_a_body_that_breaks_half_way_is_the_clients_fault() -> None:
    async with world_with(script=swallow) as (world, _):
        async with connected(world.url) as line:
            await line.send(message(world.url, "POST /public/x", "Transfer-Encoding: chunked") + b"3\r\nabc\r\n")
            await asyncio.sleep(0.1)
            await line.send(b"zz\r\nabc\r\n")
            assert (await line.response("POST")).status == 400
            assert await line.ended() == b""
        assert not world.lines(event="internal_error")


async def test_px29_a_post_is_never_sent_twice() -> None:
    async def hang_up(peer: Peer) -> None:
        async for request in peer.requests():
            peer.backend.seen.append(request)
            if len(peer.backend.seen) == 1:
                await peer.say(OK)
            else:
                return

    async with world_with(script=hang_up) as (world, backend):
        assert (await get(world)).status == 200
        assert (await get(world, line="POST /public/x", body=b"order")).status == 502
        assert len(backend.seen) == 2


# ── what a client may expect ──


async def test_sm21_px13_a_body_is_asked_for_after_admission_only() -> None:
    async with world_with() as (world, backend):
        cookie = await ann(world)
        for path, its_cookie, admitted in (("/x", "", False), ("/x", cookie, True), ("/public/x", "", True)):
            backend.seen.clear()
            async with connected(world.url) as line:
                fields = ["Expect: 100-Continue", "Content-Length: 4"]
                await line.send(message(world.url, f"POST {path}", *fields, cookie=its_cookie))
                if admitted:
                    assert await line.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
                    await line.send(b"data")
                response = await line.response("POST")
                assert response.status == (200 if admitted else 401)
                assert not response.interim
                if admitted:
                    assert backend.last().body == b"data"
                    assert not backend.last().all("Expect")
                else:
                    assert response.one("Connection") == b"close", "the body may come or not: nobody can tell"
                    assert not backend.seen


@pytest.mark.parametrize("expectation", ["200-ok", "100-continue, x", "", "100-continue;q=1"])
async def test_px13_another_expectation_fails(expectation: str) -> None:
    async with world_with() as (world, backend):
        assert (await get(world, f"Expect: {expectation}")).status == 417
        assert not backend.seen


async def test_px13_http_1_0_knows_no_expectations() -> None:
    """RFC 9110 §10.1.1: a server that receives 100-continue in an HTTP/1.0 request MUST ignore it."""
    async with world_with() as (world, backend):
        response = await get(world, "Expect: 100-continue", line="POST /public/x", body=b"data", version="1.0")
        assert response.status == 200
        assert response.interim == []
        assert backend.last().body == b"data"


# ── the answer ──


async def test_f85_answers_come_back_as_they_are() -> None:
    async with world_with() as (world, backend):
        for status in (
            "404 Not Here",
            "500 Oh No",
            "418 I'm a teapot",
            "200 caf\xe9",
            "299 ",
            "403 Forbidden",
            "503 Busy",
        ):
            body = gzip.compress(status.encode())
            head = f"HTTP/1.1 {status}\r\nContent-Encoding: gzip\r\nContent-Length: {len(body)}\r\n\r\n"
            backend.answer = head.encode("latin-1") + body
            response = await get(world)
            assert f"{response.status} {response.reason.decode('latin-1')}" == status
            assert response.body == body, "PX-6: not transformed"
            assert response.one("Content-Encoding") == b"gzip"


async def test_answer_headers_are_kept_byte_for_byte_and_in_order() -> None:
    fields = [
        b"Set-Cookie: a=1; Path=/", b"X-Lat: caf\xe9", b"set-cookie: b=\xc3\xa9; HttpOnly", b"X-Utf: \xe2\x82\xac",
        b"SET-COOKIE: c=3", b"ETag: W/\"1\"", b"Vary: Accept", b"Cache-Control: private,max-age=5", b"Server: theirs/1",
        b"Location: http://backend:8080/x?y=%2F", b"WWW-Authenticate: Basic realm=\"x\"", b"x-lower: 1", b"Link: </a>",
        b"Date: Thu, 01 Jan 1970 00:00:01 GMT", b"Access-Control-Allow-Origin: *",
    ]  # fmt: skip
    async with world_with() as (world, backend):
        backend.answer = answer(*fields, body=b"x")
        for path in ("/public/x", "/x"):
            response = await get(world, line=f"GET {path}", cookie=await ann(world))
            got = [name + b": " + value for name, value in response.headers]
            assert [line for line in got if line in fields] == fields
            extra = {line.partition(b":")[0] for line in got if line not in fields}
            assert extra <= {b"X-Request-Id", b"Content-Length"}


async def test_there_is_one_request_id_in_an_answer() -> None:
    async with world_with() as (world, backend):
        backend.answer = lambda request: answer(b"x-request-id: " + request.one("X-Request-Id"), "X-Request-ID: other")
        response = await get(world)
        assert response.one("X-Request-Id") == backend.last().one("X-Request-Id")


@pytest.mark.parametrize(
    ("row", "raw", "status", "body"),
    [
        ("chunked", b"Transfer-Encoding: chunked\r\n\r\n3;x=1\r\nabc\r\n2\r\nde\r\n0\r\nX-T: 1\r\n\r\n", 200, b"abcde"),
        ("chunked, nothing in it", b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 200, b""),
        ("until the end", b"\r\nabc", 200, b"abc"),
        ("until the end, nothing", b"\r\n", 200, b""),
        ("length", b"Content-Length: 3\r\n\r\nabc", 200, b"abc"),
        ("length 0", b"Content-Length: 0\r\n\r\n", 200, b""),
    ],
)
@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_px25_bodies_are_delimited_anew(row: str, raw: bytes, status: int, body: bytes, version: str) -> None:
    async def say(peer: Peer) -> None:
        await peer.head()
        await peer.say(b"HTTP/1.1 200 OK\r\n" + raw)

    async with world_with(script=say) as (world, _), connected(world.url) as line:
        await line.send(message(world.url, "GET /public/x", version=version))
        response = await line.response()
        assert (response.status, response.body, response.cut) == (status, body, False), row
        framings = len(response.all("Content-Length")) + len(response.all("Transfer-Encoding"))
        assert framings == (1 if version == "1.1" or "length" in row else 0)
        assert not response.all("X-T")
        if version == "1.0":
            assert await line.ended() == b"", "HTTP/1.0 ends with the connection"


@pytest.mark.parametrize(
    ("status", "length"),
    [
        ("204 No Content", b""),
        ("304 Not Modified", b""),
        ("304 Not Modified", b"Content-Length: 5\r\n"),
        ("304 Not Modified", b"Transfer-Encoding: chunked\r\n"),
        ("200 OK", b""),
        ("200 OK", b"Content-Length: 5\r\n"),
        ("200 OK", b"Transfer-Encoding: chunked\r\n"),
    ],
)
async def test_px10_answers_without_a_body(status: str, length: bytes) -> None:
    """HEAD, 204 and 304: the head ends the answer, and the next one on either connection is whole."""
    async with world_with() as (world, backend):
        bodiless = b"HTTP/1.1 " + status.encode() + b"\r\nETag: x\r\n" + length + b"\r\n"
        backend.answer = lambda request: answer(body=b"next") if request.target == b"/public/next" else bodiless
        method = "HEAD" if status.startswith("200") else "GET"
        async with connected(world.url) as line:
            for _ in range(2):
                await line.send(message(world.url, f"{method} /public/x"))
                response = await line.response(method)
                assert (response.status, response.body) == (int(status[:3]), b"")
                assert response.one("ETag") == b"x"
                if b"Content-Length" in length:
                    assert response.one("Content-Length") == b"5"
                await line.send(message(world.url, "GET /public/next"))
                assert (await line.response()).body == b"next"
        assert backend.connections == 1 or not length, "llhttp takes such an answer to HEAD for one without an end"


async def test_px14_interim_answers_do_not_disturb_the_final_one() -> None:
    async with world_with() as (world, backend):
        interim = b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
        backend.answer = interim + b"HTTP/1.1 100 Continue\r\n\r\n" + answer(body=b"final")
        for version in ("1.1", "1.0"):
            response = await get(world, version=version)
            assert (response.status, response.body) == (200, b"final")
            assert not response.all("Link")


async def test_an_answer_before_the_upload_is_over() -> None:
    async def refuse(peer: Peer) -> None:
        await peer.head()
        await peer.say(answer(status="413 Too Big", body=b"no"))
        await peer.closed()

    async with world_with(script=refuse) as (world, _), connected(world.url) as line:
        await line.send(message(world.url, "POST /public/x", "Content-Length: 100000000") + b"x" * 1000)
        response = await line.response("POST")
        assert (response.status, response.body) == (413, b"no")
        assert response.one("Connection") == b"close"


# ── caches ──


async def test_px32_px34_what_is_for_one_user_is_kept_by_no_cache() -> None:
    async with world_with() as (world, backend):
        cookie = await ann(world)
        for path in ("/x", "/optional/x"):
            response = await get(world, line=f"GET {path}", cookie=cookie)
            assert response.one("Cache-Control") == b"private, no-store"
            assert b"Cookie" in response.one("Vary")
        assert not (await get(world)).all("Cache-Control"), "public pages are the backend's business"
        backend.answer = answer("cache-control: private, max-age=60")
        assert (await get(world, line="GET /x", cookie=cookie)).one("Cache-Control") == b"private, max-age=60"


async def test_br1_what_is_closed_is_kept_by_no_shared_cache() -> None:
    """Mallory makes Ann open /account/x.css, which the application takes for /account, and asks the cache for it."""
    says = ["Cache-Control: public, max-age=600", "CDN-Cache-Control: max-age=600", "Surrogate-Control: max-age=600"]
    routes = [{"path": "/public/", "auth": "none"}, {"path": "/assets/", "shared_cache": True}, {"path": "/"}]
    async with world_with({"routes": routes}) as (world, backend):
        cookie = await ann(world)
        backend.answer = answer(*says)
        for path in ("/account/x.css", "/account%2fx.css"):
            response = await get(world, line=f"GET {path}", cookie=cookie)
            assert response.all("Cache-Control") == [b"private, max-age=600"]
            assert not response.all("CDN-Cache-Control")
            assert not response.all("Surrogate-Control")
        for path in ("/public/x.css", "/assets/x.css"):
            response = await get(world, line=f"GET {path}", cookie=cookie)
            assert [response.one(name) for name in ("Cache-Control", "CDN-Cache-Control", "Surrogate-Control")] == [
                b"public, max-age=600", b"max-age=600", b"max-age=600"
            ]  # fmt: skip
        backend.answer = answer(
            "Last-Modified: Tue, 01 Jan 2019 00:00:00 GMT"
        )  # which lets caches guess (RFC 9111 §4.2.2)
        response = await get(world, line="GET /assets/x.css", cookie=cookie)
        assert response.one("Cache-Control") == b"private, no-store"


async def test_px33_br2_answers_of_our_own_are_kept_by_no_cache() -> None:
    async with world_with() as (world, _):
        cookie = await ann(world)
        html = "Accept: text/html"
        for target in (
            "/oauth2/start",
            "/oauth2/callback",
            "/oauth2/sign_out",
            "/oauth2/userinfo",
            "/x",
            "/public/../x",
        ):
            for fields in ([], [html]):
                for its_cookie in ("", cookie if target != "/x" else ""):
                    response = await get(world, *fields, line=f"GET {target}", cookie=its_cookie)
                    assert response.one("Cache-Control") == b"no-store", (target, response.status)


# ── the connection ──


async def test_sm22_pipelined_requests_are_judged_one_by_one_and_answered_in_order() -> None:
    async with world_with() as (world, backend):
        cookie = await ann(world)
        backend.seen.clear()
        backend.answer = lambda request: answer(body=request.target)
        targets = ["/public/1", "/x/2", "/public/3", "/x/4", "/public/5"]
        cookies = ["", "", cookie, cookie, ""]
        async with connected(world.url) as line:
            pairs = zip(targets, cookies, strict=True)
            await line.send(b"".join(message(world.url, f"GET {target}", cookie=its) for target, its in pairs))
            answers = [await line.response() for _ in targets]
        assert [response.status for response in answers] == [200, 401, 200, 200, 200]
        assert [r.body.decode() for r in answers if r.status == 200] == [t for t in targets if t != "/x/2"]
        assert [bool(request.all("X-Forwarded-User")) for request in backend.seen] == [False, False, True, False]


def without_id(request: Request) -> tuple[bytes, bytes, Fields, bytes]:
    """All of it but what differs anyway; how a body is cut into chunks belongs to each hop (RFC 9112 §7.1)."""
    fields = [field for field in request.headers if field[0].lower() != b"x-request-id"]
    return request.method, request.target, fields, request.body


async def test_sm28_requests_arrive_the_same_wherever_the_network_cuts_them() -> None:
    async with world_with() as (world, backend):
        cookie = await ann(world)
        chunks = b"5;a=b\r\nhello\r\n1\r\n!\r\n0\r\nX-Trailer: mallory\r\n\r\n"
        data = message(world.url, "POST /x/1?a=%2F", "Transfer-Encoding: chunked", "X-A:  b\t", cookie=cookie) + chunks
        data += message(world.url, "PUT /x/2", cookie=f"other=1; {cookie}", body=b"GET / HTTP/1.1\r\n\r\n")
        data += b"\r\n" + message(world.url, "GET /public/3", "Connection: close")
        backend.seen.clear()

        async def arrives(pieces: list[bytes]) -> list[tuple[bytes, bytes, Fields, bytes]]:
            async with connected(world.url) as line:
                for piece in pieces:
                    await line.send(piece)
                    await asyncio.sleep(0)
                    await asyncio.sleep(0)
                assert [(await line.response(method)).status for method in ("POST", "PUT", "GET")] == [200] * 3
                assert await line.ended() == b""
            seen = [without_id(request) for request in backend.seen]
            backend.seen.clear()
            return sorted(seen)  # on connections of their own, so in any order

        whole = await arrives([data])
        assert [(method, target, body) for method, target, _, body in whole] == [
            (b"GET", b"/public/3", b""),
            (b"POST", b"/x/1?a=%2F", b"hello!"),
            (b"PUT", b"/x/2", b"GET / HTTP/1.1\r\n\r\n"),
        ]
        for at in range(1, len(data)):
            assert await arrives([data[:at], data[at:]]) == whole, (at, data[at - 10 : at])
        assert await arrives([data[at : at + 1] for at in range(len(data))]) == whole
        assert not backend.malformed


async def test_a_request_after_a_body_starts_where_the_body_ends() -> None:
    async with world_with() as (world, backend):
        inner = message(world.url, "GET /public/smuggled")
        async with connected(world.url) as line:
            await line.send(message(world.url, "POST /public/1", body=inner) + message(world.url, "GET /public/2"))
            assert [(await line.response("POST")).status, (await line.response()).status] == [200, 200]
        assert [request.target for request in backend.seen] == [b"/public/1", b"/public/2"]
        assert backend.seen[0].body == inner


@pytest.mark.parametrize("path", ["/public/x", "/x", "/oauth2/userinfo", "/public/../x"])
async def test_connections_last_as_long_as_the_client_wants(path: str) -> None:
    async with world_with() as (world, _):
        for version, field, goes_on in [
            ("1.1", "X-None: 1", True), ("1.1", "Connection: close", False), ("1.1", "Connection: Close, x", False),
            ("1.0", "X-None: 1", False), ("1.0", "Connection: keep-alive", True),
        ]:  # fmt: skip
            async with connected(world.url) as line:
                for _ in range(2 if goes_on else 1):
                    await line.send(message(world.url, f"GET {path}", field, version=version))
                    response = await line.response()
                if goes_on:
                    assert b"close" not in b",".join(response.all("Connection"))
                    if version == "1.0":
                        assert response.one("Connection").lower() == b"keep-alive", (
                            "else an old client waits for the end"
                        )
                else:
                    assert response.one("Connection") == b"close"
                    assert await line.ended() == b""


@pytest.mark.parametrize(
    ("row", "start", "statuses"),
    [
        ("PX-11", "CONNECT 127.0.0.1:22", {405, 501, 400}),
        ("PX-11", "CONNECT /public/x", {405, 501, 400}),
        ("PX-12", "TRACE /public/x", {405}),
        ("PX-12", "TRACE /x", {405}),
        ("SM-14", "OPTIONS *", {400, 405, 200, 204}),
    ],
)
async def test_methods_that_never_go_on(row: str, start: str, statuses: set[int]) -> None:
    async with world_with() as (world, backend):
        response = await get(world, "Max-Forwards: 0", line=start)
        assert response.status in statuses, row
        if response.status == 405:
            assert response.all("Allow"), "RFC 9110 §15.5.6"
        assert backend.connections == 0
