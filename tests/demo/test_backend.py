"""The demo's backend reports what reached it, exactly, and misbehaves as told."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator

import pytest

from oidc_proxy.demo.backend import Backend, Behaviour
from tests.world import Browser, running_backend


@pytest.fixture
async def backend() -> AsyncIterator[Backend]:
    async with running_backend() as backend:
        yield backend


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    async with Browser() as browser:
        yield browser


async def raw(backend: Backend, request: bytes) -> tuple[bytes, bytes]:
    """Head and body of the answer to these bytes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", backend.port)
    writer.write(request)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    head, _, body = answer.partition(b"\r\n\r\n")
    return head, body


@pytest.mark.parametrize(
    "target", ["/echo", "/echo/wiki/a%2Fb", "/echo//x", "/echo/../a/./b;c?x=%2f&y=1+2&", "/echo/%C3%A9?q=%ff"]
)
async def test_the_target_is_reported_byte_for_byte(backend: Backend, browser: Browser, target: str) -> None:
    assert (await browser.get(backend.url + target)).json()["target"] == target
    assert backend.requests[-1].target == target


async def test_a_target_that_looks_like_a_host_is_reported_too(backend: Backend, browser: Browser) -> None:
    await browser.get(f"{backend.url}//x")
    await raw(backend, b"GET //evil.test/%2e%2e? HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    assert [call.target for call in backend.requests] == ["//x", "//evil.test/%2e%2e?"]


async def test_headers_keep_order_spelling_repetition_and_bytes(backend: Backend) -> None:
    _, body = await raw(
        backend,
        b"POST /echo HTTP/1.1\r\nHost: h\r\nx-B: 1\r\nX-a: \xe9\r\nX-B: 2\r\nConnection: close\r\n"
        b"Content-Length: 3\r\n\r\nabc",
    )
    seen = json.loads(body)
    assert seen["headers"][1:4] == [["x-B", "1"], ["X-a", "\udce9"], ["X-B", "2"]]
    assert (seen["method"], seen["body_length"]) == ("POST", 3)
    assert seen["body_sha256"] == hashlib.sha256(b"abc").hexdigest()


async def test_a_large_body_is_counted_but_not_kept(backend: Backend, browser: Browser) -> None:
    data = b"x" * 3_000_000
    seen = (await browser.post(f"{backend.url}/echo", data)).json()
    assert (seen["body_length"], seen["body_sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    assert len(backend.requests[-1].body) == 2**20


async def test_expect_100_continue_is_answered(backend: Backend) -> None:
    head, rest = await raw(
        backend,
        b"POST /echo HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nConnection: close\r\nContent-Length: 1\r\n\r\na",
    )
    assert head == b"HTTP/1.1 100 Continue"
    assert rest.startswith(b"HTTP/1.1 200")


async def test_the_page_shows_the_person_but_measures_the_token(backend: Backend, browser: Browser) -> None:
    page = await browser.get(
        f"{backend.url}/x?<b>", Authorization="Bearer abcdef", X_Forwarded_User="<i>ann</i>", X_Evil="<script>"
    )
    assert "&lt;i&gt;ann&lt;/i&gt;" in page.text
    assert "Bearer …(6 characters)" in page.text
    assert "abcdef" not in page.text
    assert "<script" not in page.text
    assert "<b>" not in page.text
    assert ("Sign out", "/oauth2/sign_out") in page.links
    assert "color-scheme: light dark" in page.text


async def test_behaviours(backend: Backend, browser: Browser) -> None:
    backend.switches.at["/bad"] = Behaviour(status=503, headers=(("X-A", "1"),), cookies=("a=1; Path=/", "b=2"), size=5)
    page = await browser.get(f"{backend.url}/bad")
    assert (page.status, page.body, page.headers["X-A"]) == (503, b"xxxxx", "1")
    assert page.set_cookies == ["a=1; Path=/", "b=2"]
    assert (await browser.get(f"{backend.url}/other")).status == 200
    backend.switches.usual = Behaviour(size=1000, cut=10)
    with pytest.raises(Exception, match="payload"):
        await browser.get(f"{backend.url}/other")


async def test_head_has_no_body(backend: Backend) -> None:
    head, body = await raw(backend, b"HEAD / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert body == b""


async def test_websocket_and_events(backend: Backend, browser: Browser) -> None:
    socket = await browser.websocket(f"{backend.url.replace('http', 'ws')}/ws")
    await socket.send_str("hello")
    await socket.send_bytes(b"\x00\xff")
    assert await socket.receive_str() == "hello"
    assert await socket.receive_bytes() == b"\x00\xff"
    await socket.close()
    page = await browser.get(f"{backend.url}/events?count=2&interval=0.01")
    assert page.headers["Content-Type"] == "text/event-stream"
    assert page.text.count("data: ") == 2
    assert [call.path for call in backend.requests] == ["/ws", "/events"]
