"""The demo's backend: it shows what reached it, and misbehaves on demand."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from ssl import SSLContext

from aiohttp import WSMsgType, web

from oidc_proxy.demo.listener import Answer, Call, Listener, Served, json_answer
from oidc_proxy.demo.pages import backend_page

USER_HEADERS = ("X-Forwarded-Preferred-Username", "X-Forwarded-Email", "X-Forwarded-User")


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """What is other than usual in an answer of the backend. Times are in real seconds."""

    status: int | None = None
    headers: tuple[tuple[str, str], ...] = ()
    """More headers, sent as they are."""
    cookies: tuple[str, ...] = ()
    """Values of Set-Cookie headers."""
    body: bytes | None = None
    size: int | None = None
    """Send a body of so many bytes instead of the usual one."""
    delay: float = 0
    hang: bool = False
    drip: float = 0
    cut: int | None = None
    """Break the connection after so many bytes of the body."""

    def change(self, answer: Answer) -> Answer:
        """The usual answer, as this behaviour makes it."""
        body = self.body if self.size is None else b"x" * self.size
        return answer.but(
            status=self.status or answer.status,
            headers=(*answer.headers, *self.headers, *(("Set-Cookie", cookie) for cookie in self.cookies)),
            body=answer.body if body is None else body,
            delay=self.delay,
            hang=self.hang,
            drip=self.drip,
            cut=self.cut,
        )


@dataclass(kw_only=True)
class Switches:
    """Behaviours by exact path, and for all other paths."""

    usual: Behaviour = field(default_factory=Behaviour)
    at: dict[str, Behaviour] = field(default_factory=dict)

    def on(self, path: str) -> Behaviour:
        return self.at.get(path, self.usual)


class Backend(Served):
    """Pages for people, `/echo…` in JSON for tests, `/ws` a WebSocket that echoes, `/events` server-sent events.

    `requests` holds what it was asked, in order.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        ssl_context: SSLContext | None = None,
        clock: Callable[[], float] = time.time,
        remember: int = 10_000,
    ) -> None:
        self.switches = Switches()
        self.requests: list[Call] = []
        self._remember = remember
        self._listener = Listener(self._answer, host=host, port=port, ssl_context=ssl_context, clock=clock)

    @property
    def url(self) -> str:
        """Scheme, host and port, without a slash at the end."""
        return self._listener.base

    async def _answer(self, call: Call, request: web.BaseRequest) -> Answer | web.StreamResponse:
        self.requests.append(call)
        del self.requests[: -self._remember]
        if call.headers.get("Upgrade", "").lower() == "websocket":
            return await _websocket(request)
        if call.path == "/events":
            return await _events(request, call)
        return self.switches.on(call.path).change(_usual(call))


def _usual(call: Call) -> Answer:
    if call.path.startswith("/echo"):
        return json_answer(echo(call))
    pairs = list(call.headers.items())
    user = next((call.headers[name] for name in USER_HEADERS if call.headers.get(name)), "")
    return backend_page(user, pairs, call.target)


def echo(call: Call) -> dict[str, object]:
    """What was received. Bytes beyond UTF-8 are lone surrogates (`\\udc80`…`\\udcff`) in the JSON."""
    return {
        "method": call.method,
        "target": call.target,
        "headers": [[name, value] for name, value in call.headers.items()],
        "body_length": call.body_length,
        "body_sha256": call.body_sha256,
    }


async def _websocket(request: web.BaseRequest) -> web.WebSocketResponse:
    """Every message comes back."""
    offered = request.headers.get("Sec-WebSocket-Protocol", "")
    socket = web.WebSocketResponse(protocols=[name.strip() for name in offered.split(",") if name.strip()])
    await socket.prepare(request)
    async for message in socket:
        if message.type is WSMsgType.TEXT:
            await socket.send_str(message.data)
        elif message.type is WSMsgType.BINARY:
            await socket.send_bytes(message.data)
    return socket


async def _events(request: web.BaseRequest, call: Call) -> web.StreamResponse:
    """`/events?count=3&interval=0.1`: so many events, so many seconds apart."""
    query = dict(call.query)
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
    await response.prepare(request)
    for number in range(int(query.get("count", "3"))):
        await response.write(f"data: {json.dumps({'number': number})}\n\n".encode())
        await asyncio.sleep(float(query.get("interval", "0.05")))
    await response.write_eof()
    return response
