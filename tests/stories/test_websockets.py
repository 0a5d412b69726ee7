"""WebSockets: who may open one, what passes, and what ends it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import aiohttp
import pytest
from aiohttp import WSMsgType

from tests.frames import BINARY, CLOSE, KEY, PING, PONG, TEXT, Backend, Side, framed, handshake, opened, switched
from tests.gateway import World, running_world
from tests.stories.proxied import ann, answer, eventually, get, world_with
from tests.wire import ask, connected, message

SOON = 1.0
"""Seconds within which a WebSocket must have heard that its session has ended."""


@asynccontextmanager
async def pair(
    config: dict[str, Any] | None = None, *fields: str, backend: Backend | None = None, **more: Any
) -> AsyncIterator[tuple[World, Side, Side]]:
    """A gateway, and both sides of a WebSocket through it: the client's and the backend's."""
    script = backend or Backend()
    async with world_with(config, script) as (world, _), opened(world.url, *fields, **more) as client:
        side = await script.side()
        yield world, client, side
        side.over.set()


def open_now(world: World) -> int:
    return len(world.app._forwarding._upgrades)


async def nothing_left(world: World) -> None:
    """Nothing is kept of what has ended."""
    await eventually(lambda: not open_now(world))
    assert not world.app._sessions._holds
    assert not any(upstream._pool.connections for upstream in world.app._upstreams.values())


# ── what passes ──


async def test_f219_a_browser_talks_with_the_application() -> None:
    async with running_world() as world, world.browser() as browser:
        await browser.sign_in(f"{world.url}/x", "ann", "ann")
        socket = await browser.websocket(f"{world.url}/ws")
        for size in (0, 1, 125, 126, 65535, 65536, 2**20):
            data = os.urandom(size)
            await socket.send_bytes(data)
            assert (await socket.receive(timeout=5)).data == data
        await socket.send_str("grüße")
        assert (await socket.receive_str(timeout=5)) == "grüße"
        metrics = world.app.telemetry.metrics
        assert metrics.websockets == 1
        assert metrics.requests.series[("/", "GET", 101)] == 1, "it counts as answered, though it is not over"
        assert not world.lines(type="access", status=101)
        await socket.close(code=4000, message=b"done")
        assert socket.close_code == 1000, "what this application answers"
        await eventually(lambda: world.lines(type="access", status=101))
        (line,) = world.lines(type="access", status=101)
        assert (line["path"], line["sub"], line["decision"]) == ("/ws", world.provider.users["ann"].sub, "allow")
        assert line["bytes_out"] > 2**20
        assert line["bytes_in"] > 2**20
        assert metrics.websockets == 0
        handshake_seen = world.backend.requests[-1].headers
        assert handshake_seen["X-Forwarded-Preferred-Username"] == "ann"
        assert "oidc_proxy" not in handshake_seen.get("Cookie", "")
        await nothing_left(world)


async def test_f219_frames_pass_byte_for_byte_in_both_directions() -> None:
    """Fragments with control frames between, reserved bits and opcodes, lengths written in more bytes than needed."""
    async with pair() as (_, client, backend):
        strange = framed(TEXT, b"a", masked=True, fin=False) + framed(PING, b"p" * 125, masked=True)
        strange += framed(0, b"b", masked=True, fin=False) + framed(0, b"", masked=True)
        strange += b"\xf2\x81maskx" + b"\x8b\x80mask" + b"\x82\xff\0\0\0\0\0\0\0\x01maskx"
        await client.raw(strange)
        assert await backend.reader.readexactly(len(strange)) == strange
        back = framed(PONG, b"p", masked=False) + framed(BINARY, b"x" * 70000, masked=False) + b"\x82\x7e\0\x01x"
        await backend.raw(back)
        assert await client.reader.readexactly(len(back)) == back


async def test_f219_sub_protocols_and_extensions_are_between_the_two() -> None:
    offer = (
        "Sec-WebSocket-Protocol: chat, superchat",
        "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits",
    )
    yes = Backend("Sec-WebSocket-Protocol: superchat", "Sec-WebSocket-Extensions: permessage-deflate", "X-A: b")
    async with pair(None, *offer, backend=yes) as (_, client, backend):
        for line in (*offer, f"Sec-WebSocket-Key: {KEY}", "Sec-WebSocket-Version: 13"):
            assert line.encode() in backend.head.split(b"\r\n")
        for line in yes.fields:
            assert line.encode() in client.head.split(b"\r\n")


async def test_f219_pings_of_either_side_reach_the_other() -> None:
    async with pair() as (_, client, backend):
        await client.say(PING, b"from the client")
        frame = await backend.hear()
        assert (frame.opcode, frame.payload, frame.masked) == (PING, b"from the client", True)
        await backend.say(PING, b"from the backend")
        frame = await client.hear()
        assert (frame.opcode, frame.payload, frame.masked) == (PING, b"from the backend", False)


@pytest.mark.parametrize("payload", [b"", b"\x03\xe8bye", b"\x0f\xa1", b"\x03\xed\x03\xee"], ids=repr)
async def test_br6_close_codes_reach_the_other_side(payload: bytes) -> None:
    """Also none (1005), and what must never be on the wire: it is theirs to judge."""
    async with pair() as (world, client, backend):
        await client.say(CLOSE, payload)
        assert (await backend.hear()).payload == payload
        await backend.say(CLOSE, payload)
        backend.writer.close()
        assert (await client.hear()).payload == payload
        assert await client.ended() == b""
        await nothing_left(world)
    async with pair() as (world, client, backend):
        await backend.say(CLOSE, payload)
        assert (await client.hear()).payload == payload
        await client.say(CLOSE, payload)
        client.writer.close()
        assert (await backend.hear()).payload == payload
        assert await backend.ended() == b""
        await nothing_left(world)


async def test_what_comes_in_one_piece_with_a_handshake_is_not_lost() -> None:
    early, soon = framed(TEXT, b"early\r\n\r\n", masked=True), framed(TEXT, b"soon", masked=False)
    async with pair(None, behind=early, backend=Backend(behind=soon)) as (_, client, backend):
        assert (await backend.hear()).payload == b"early\r\n\r\n"
        assert (await client.hear()).payload == b"soon"


async def test_what_comes_before_the_backend_has_said_yes_waits() -> None:
    patient = Backend()
    patient.ready.clear()
    data = framed(BINARY, os.urandom(2**20), masked=True)
    async with world_with(script=patient) as (world, _), connected(world.url) as line:
        await line.send(handshake(world.url))
        writing = asyncio.create_task(line.send(data))
        await asyncio.sleep(0.2)
        patient.ready.set()
        backend = await patient.side()
        client = await switched(line)
        assert hashlib.sha256(await backend.reader.readexactly(len(data))).digest() == hashlib.sha256(data).digest()
        await writing
        await backend.say(TEXT, b"got it")
        assert (await client.hear()).payload == b"got it"
        backend.over.set()


async def test_one_request_after_another_and_then_a_websocket() -> None:
    """On one connection, and even sent at once."""
    script = Backend()
    async with world_with(script=script) as (world, backend), connected(world.url) as line:
        await line.send(message(world.url, "GET /public/x") + handshake(world.url))
        assert (await line.response()).body == b"ok"
        client, side = await switched(line), await script.side()
        await client.say(TEXT, b"x")
        assert (await side.hear()).payload == b"x"
        assert backend.connections == 1
        side.over.set()


# ── who may open one ──


async def test_without_a_session_it_is_401_and_never_a_redirect() -> None:
    async with world_with(script=Backend()) as (world, backend):
        response = await ask(world.url, handshake(world.url, "Accept: text/html", path="/ws"))
        assert response.status == 401
        assert not response.all("Location")
        assert backend.connections == 0


@pytest.mark.parametrize(
    "origin",
    ["https://evil.test", "null", None, "{url}.evil.test", "https{rest}", "{url}1", "http://evil.test/{url}", "{url}/"],
)  # fmt: skip
async def test_f220_br5_a_page_of_another_site_cannot_use_the_session(origin: str | None) -> None:
    async with world_with() as (world, backend):
        cookie = await ann(world)
        if origin is not None:
            origin = origin.format(url=world.url, rest=world.url.removeprefix("http"))
        before = len(backend.seen)
        response = await ask(world.url, handshake(world.url, f"Cookie: {cookie}", path="/ws", origin=origin))
        assert response.status == 403
        assert len(backend.seen) == before
        assert world.lines(type="access", status=403, reason="cross_site")


async def test_f220_pages_that_a_route_names_may() -> None:
    routes = [{"path": "/", "websocket": {"origins": ["https://other.test"], "require_origin": False}}]
    async with running_world({"routes": routes}) as world, world.browser() as browser:
        await browser.sign_in(f"{world.url}/x", "ann", "ann")
        for origin in ("https://OTHER.test:443", "https://other.test"):
            socket = await browser.websocket(f"{world.url}/ws", origin=origin)
            await socket.close()
        with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
            await browser.websocket(f"{world.url}/ws")
        silent = await browser.http.ws_connect(f"{world.url}/ws", headers={"Cookie": browser.cookies.header(world.url)})
        await silent.close()


@pytest.mark.parametrize(
    ("change", "status"),
    [
        (("Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 12"), 426), ((f"Key: {KEY}", "Key: c2hvcnQ="), 400),
        ((f"Sec-WebSocket-Key: {KEY}\r\n", ""), 400), (("GET ", "POST "), 400), (("GET ", "PUT "), 400),
        (("Sec-WebSocket-Version: 13\r\n", ""), 426), ((f"Key: {KEY}", f"Key: {KEY}\r\nSec-WebSocket-Key: {KEY}"), 400),
    ],
)  # fmt: skip
async def test_br6_a_handshake_that_is_none(change: tuple[str, str], status: int) -> None:
    async with world_with() as (world, backend):
        data = handshake(world.url).decode().replace(*change).encode()
        response = await ask(world.url, data, "GET")
        assert response.status == status
        assert response.all("Sec-WebSocket-Version") == ([b"13"] if status == 426 else [])
        assert not backend.seen


async def test_sm20_a_backend_that_declines_is_passed_on() -> None:
    async with world_with() as (world, backend):
        backend.answer = answer("X-A: b", status="403 Forbidden", body=b"not you")
        response = await ask(world.url, handshake(world.url))
        assert (response.status, response.body) == (403, b"not you")
        assert (backend.last().one("Upgrade"), backend.last().one("Connection")) == (b"websocket", b"Upgrade")
        backend.answer = answer(body=b"a page")
        assert (await ask(world.url, handshake(world.url))).body == b"a page"
        assert (await get(world)).body == b"a page"


@pytest.mark.parametrize(
    "script",
    [
        Backend("Sec-WebSocket-Accept: x"), Backend("Content-Length: 0"), Backend("Transfer-Encoding: chunked"),
        Backend("Upgrade: h2c"),
    ],
    ids=lambda script: script.fields[0],
)  # fmt: skip
async def test_br6_a_backend_that_answers_something_else_than_a_websocket(script: Backend) -> None:
    async with world_with(script=script) as (world, _):
        response = await ask(world.url, handshake(world.url))
        assert response.status == 502
        assert world.lines(event="request.failed", code="upstream_invalid_response")
        await nothing_left(world)


@pytest.mark.parametrize("accept", [b"", b"x", b"s3pPLMBiTxaQ9kYGzzhZRbK+xOO="])
async def test_br6_a_backend_that_does_not_know_the_key(accept: bytes) -> None:
    script = Backend()
    script.accept = accept
    async with world_with(script=script) as (world, _):
        assert (await ask(world.url, handshake(world.url))).status == 502
        await nothing_left(world)


async def test_rx11_websockets_take_no_place_of_requests_and_have_a_bound_of_their_own() -> None:
    script = Backend()
    settings = {"upstream": {"max_connections": 1, "max_websockets": 3, "timeouts": {"connect": "300ms"}}}
    async with world_with(settings, script) as (world, _):
        async with opened(world.url), opened(world.url), opened(world.url):
            assert open_now(world) == 3
            assert (await get(world)).body == b"ok"
            response = await ask(world.url, handshake(world.url))
            assert response.status == 503
            assert world.lines(event="request.failed", code="upstream_saturated")
        await eventually(lambda: not open_now(world), 5)
        async with opened(world.url):
            assert open_now(world) == 1
        while not script.opened.empty():
            script.opened.get_nowait().over.set()


# ── what ends it ──


async def test_f264_the_end_of_the_session_is_a_close_frame_for_both() -> None:
    script = Backend()
    async with world_with(script=script) as (world, _), world.browser() as browser:
        await browser.sign_in(f"{world.url}/x", "ann", "ann")
        cookie = f"Cookie: {browser.cookies.header(world.url)}"
        async with opened(world.url, cookie, path="/ws") as client, opened(world.url) as anybody:
            sides = [await script.side(), await script.side()]
            backend = next(side for side in sides if b"/ws HTTP" in side.head and b"/public" not in side.head)
            await client.say(TEXT, b"half of it", fin=False)  # control frames may stand within a message
            assert (await backend.hear()).payload == b"half of it"
            page = await browser.post(f"{world.url}/oauth2/sign_out", {}, Origin=world.url)
            assert page.status == 303
            seen = await client.hear(SOON)
            assert (seen.close, seen.masked) == ((1008, "session ended"), False)
            told = await backend.hear(SOON)
            assert (told.close, told.masked) == ((1008, "session ended"), True)
            assert await client.ended(SOON) == b""
            assert await backend.ended(SOON) == b""
            await anybody.say(TEXT, b"still there")
            await eventually(lambda: open_now(world) == 1)
            (line,) = world.lines(type="access", status=101)
            assert line["reason"] == "session_ended"
        for side in sides:
            side.over.set()
        await eventually(lambda: not open_now(world))


async def test_f264_a_session_that_expires_and_one_that_lives_on() -> None:
    settings = {"session": {"idle_timeout": "48h"}}
    async with running_world(settings) as world, world.browser() as hers, world.browser() as his:
        await hers.sign_in(f"{world.url}/x", "ann", "ann")
        first = await hers.websocket(f"{world.url}/ws")
        world.clock.advance(3600)
        await his.sign_in(f"{world.url}/x", "bob", "bob")
        second = await his.websocket(f"{world.url}/ws")
        world.clock.advance(23 * 3600 + 1)
        seen = await first.receive(timeout=2.5)
        assert (seen.type, seen.data, seen.extra) == (WSMsgType.CLOSE, 1008, "session ended")
        await second.send_str("still")
        assert await second.receive_str(timeout=1) == "still"
        await second.close()


async def test_f264_a_session_that_ends_while_the_backend_hesitates() -> None:
    script = Backend()
    script.ready.clear()
    async with world_with(script=script) as (world, _), world.browser() as browser:
        await browser.sign_in(f"{world.url}/x", "ann", "ann")
        async with connected(world.url) as line:
            await line.send(handshake(world.url, f"Cookie: {browser.cookies.header(world.url)}", path="/ws"))
            await asyncio.sleep(0.2)
            await browser.post(f"{world.url}/oauth2/sign_out", {}, Origin=world.url)
            script.ready.set()
            client, backend = await switched(line), await script.side()
            assert (await client.hear(2 * SOON)).close == (1008, "session ended")
            assert (await backend.hear(SOON)).close == (1008, "session ended")
            backend.over.set()


async def test_f264_who_loses_the_group_that_a_route_asks_for_loses_what_is_open_there() -> None:
    routes = [{"path": "/ops/", "groups": ["/staff/ops"]}]
    async with running_world({"routes": routes}) as world, world.browser() as browser:
        await browser.sign_in(f"{world.url}/x", "ann", "ann")
        ops, other = await browser.websocket(f"{world.url}/ops/ws"), await browser.websocket(f"{world.url}/ws")
        await browser.post(f"{world.url}/oauth2/refresh", {}, Origin=world.url)
        await asyncio.sleep(1.2)  # longer than it takes to look
        await ops.send_str("still in the group")
        assert await ops.receive_str(timeout=1) == "still in the group"
        world.provider.users["ann"] = replace(world.provider.users["ann"], groups=("/staff/sales",))
        await browser.post(f"{world.url}/oauth2/refresh", {}, Origin=world.url)
        seen = await ops.receive(timeout=1.5)
        assert (seen.type, seen.data, seen.extra) == (WSMsgType.CLOSE, 1008, "access denied")
        await eventually(lambda: world.lines(type="access", status=101, reason="access_denied"))
        await other.send_str("here it does not matter")
        assert await other.receive_str(timeout=1) == "here it does not matter"
        await other.close()
        await nothing_left(world)


async def test_after_both_have_said_good_bye_nobody_has_to_hang_up() -> None:
    async with pair() as (world, client, backend):
        await client.say(CLOSE, b"\x03\xe8")
        await backend.hear()
        await backend.say(CLOSE, b"\x03\xe8")
        await client.hear()
        assert await client.ended(4) == b""
        assert await backend.ended(4) == b""
        await nothing_left(world)


async def test_f264_in_the_middle_of_a_frame_there_is_no_place_for_another() -> None:
    """The client's is whole, so it is told to the backend; the backend's is not, so the client's connection breaks."""
    async with world_with(script=(script := Backend())) as (world, _):
        async with opened(world.url) as client:
            backend = await script.side()
            whole = framed(BINARY, b"x" * 1000, masked=False)
            await backend.raw(whole[:500])
            assert await client.reader.readexactly(500) == whole[:500]
            await world.app._forwarding.drain(2)
            assert await client.ended(SOON) == b""
            assert (await backend.hear()).close == (1001, "shutting down")
            backend.over.set()
        assert not open_now(world)


async def test_f264_after_a_close_frame_there_is_none_of_ours() -> None:
    async with pair() as (world, client, backend):
        await client.say(CLOSE, b"\x03\xe8")
        assert (await backend.hear()).close == (1000, "")
        await world.app._forwarding.drain(3)
        assert (await client.hear()).close == (1001, "shutting down")
        assert await client.ended() == b""
        assert await backend.ended() == b"", "nothing behind its close frame"


async def test_f253_the_end_of_the_process_is_1001_for_both() -> None:
    script = Backend()
    async with world_with(script=script) as (world, _), opened(world.url) as client:
        backend = await script.side()
        closing = asyncio.create_task(world.app.close())
        assert (await client.hear(SOON)).close == (1001, "shutting down")
        assert (await backend.hear(SOON)).close == (1001, "shutting down")
        await client.say(CLOSE, b"\x03\xe9")
        await backend.say(CLOSE, b"\x03\xe9")
        await asyncio.wait_for(closing, 3)
        assert (await client.ended(), await backend.ended()) == (b"", b"")
        assert world.lines(type="access", status=101, reason="shutdown")
        backend.over.set()


async def test_sides_that_do_not_listen_do_not_hold_up_the_end() -> None:
    script = Backend()
    async with world_with(script=script) as (world, _), opened(world.url) as client:
        backend = await script.side()
        for side in (client, backend):
            side.writer.transport.pause_reading()  # type: ignore[attr-defined]
        async with asyncio.timeout(4):
            await world.app._forwarding.drain(0.5)
        await eventually(lambda: not open_now(world))
        backend.over.set()


async def test_a_silent_websocket_is_closed_and_pings_keep_it_open() -> None:
    routes = [{"path": "/public/", "auth": "none", "websocket": {"idle_timeout": "700ms"}}]
    async with pair({"routes": routes, "http": {"timeouts": {"header": "1s"}}}) as (world, client, backend):
        for _ in range(6):
            await client.say(PING)
            await backend.hear()
            await asyncio.sleep(0.2)
        assert (await client.hear(3)).close == (1001, "idle")
        assert (await backend.hear()).close == (1001, "idle")
        await eventually(lambda: world.lines(type="access", status=101, reason="idle_timeout"))


@pytest.mark.parametrize("sender", ["client", "backend"])
async def test_br6_a_message_that_is_too_large_does_not_pass(sender: str) -> None:
    routes = [{"path": "/public/", "auth": "none", "websocket": {"max_message": "100KiB"}}]
    async with pair({"routes": routes}) as (world, client, backend):
        one, other = (client, backend) if sender == "client" else (backend, client)
        for _ in range(3):
            await one.say(BINARY, b"x" * 100 * 1024)
            assert len((await other.hear()).payload) == 100 * 1024
        await one.raw(
            framed(TEXT, b"before", masked=one.masks) + framed(BINARY, b"x" * (100 * 1024 + 1), masked=one.masks)
        )
        assert (await other.hear()).payload == b"before"
        assert (await other.hear()).close == (1009, "message too big")
        assert (await one.hear()).close == (1009, "message too big")
        assert (await one.ended(), await other.ended()) == (b"", b"")
        await eventually(lambda: world.lines(type="access", status=101, reason="message_too_big"), 4)


async def test_a_client_that_is_gone_is_gone_for_the_backend() -> None:
    async with pair() as (world, client, backend):
        client.abort()
        assert await backend.ended(SOON) == b""
        await nothing_left(world)


async def test_a_backend_that_is_gone_is_gone_for_the_client() -> None:
    async with pair() as (world, client, backend):
        backend.abort()
        assert await client.ended(SOON) == b""
        await nothing_left(world)


async def test_br6_a_backend_that_closes_one_half_may_still_be_spoken_to_but_not_for_ever() -> None:
    async with pair() as (world, client, backend):
        await backend.say(CLOSE, b"\x03\xe8")
        backend.writer.write_eof()
        assert (await client.hear()).close == (1000, "")
        await client.say(CLOSE, b"\x03\xe8")
        assert (await backend.hear()).close == (1000, "")
        assert await client.ended(4) == b""
        assert await backend.ended(5) == b""
        await eventually(lambda: not open_now(world), 5)


async def test_f218_a_client_that_does_not_read_holds_the_backend_back_and_is_let_go_of() -> None:
    settings = {"http": {"timeouts": {"write": "1s"}}}
    async with pair(settings) as (world, client, backend):
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        piece, sent = framed(BINARY, b"x" * 65536, masked=False), 0
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(0.8):
                while sent < 16 * 2**20:
                    await backend.raw(piece)
                    sent += len(piece)
        assert sent < 16 * 2**20, "what is on the way is bounded"
        await eventually(lambda: not open_now(world), 5)


async def test_f218_a_backend_that_does_not_read_holds_the_client_back_and_nothing_is_lost() -> None:
    async with pair() as (_, client, backend):
        backend.writer.transport.pause_reading()  # type: ignore[attr-defined]
        data = os.urandom(24 * 2**20)
        frame = b"\x82\xff" + len(data).to_bytes(8, "big") + b"\0\0\0\0" + data
        writing = asyncio.create_task(client.raw(frame))
        await asyncio.sleep(0.5)
        assert not writing.done(), "what is on the way is bounded"
        backend.writer.transport.resume_reading()  # type: ignore[attr-defined]
        seen = await backend.hear(20)
        await writing
        assert hashlib.sha256(seen.payload).digest() == hashlib.sha256(data).digest()


async def test_limits_count_a_websocket_as_the_connection_that_it_is() -> None:
    settings = {"http": {"limits": {"connections": 2}}}
    async with pair(settings) as (world, client, _), opened(world.url):
        async with connected(world.url) as line:
            with contextlib.suppress(ConnectionError):
                await line.send(message(world.url, "GET /public/x"))
            assert await line.ended() == b""
        client.abort()
        await eventually(lambda: open_now(world) == 1)
        async with connected(world.url):
            assert len(world.app._public._connections) <= 2


async def test_f264_a_whole_room_of_one_session_is_told_at_once() -> None:
    async with running_world() as world, world.browser() as browser:
        await browser.sign_in(f"{world.url}/x", "ann", "ann")
        sockets = [await browser.websocket(f"{world.url}/ws") for _ in range(120)]
        waiting = [asyncio.create_task(socket.receive(timeout=5)) for socket in sockets]
        await browser.post(f"{world.url}/oauth2/sign_out", {}, Origin=world.url)
        async with asyncio.timeout(SOON):
            seen = await asyncio.gather(*waiting)
        assert {(message.data, message.extra) for message in seen} == {(1008, "session ended")}
        await nothing_left(world)
