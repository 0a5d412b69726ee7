"""A gateway with a backend that speaks bytes: what the stories of the way there and back begin with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from tests.gateway import World, merged, running_world
from tests.wire import Peer, Recorder, Response, Script, ask, message, recorder


@asynccontextmanager
async def world_with(
    config: dict[str, Any] | None = None, script: Script | None = None
) -> AsyncIterator[tuple[World, Recorder]]:
    """A world with a raw backend, and a public route beside the closed ones."""
    routes = [{"path": "/public/", "auth": "none"}, {"path": "/optional/", "auth": "optional"}]
    usual: dict[str, Any] = {"routes": routes}
    async with recorder(script) as backend:
        usual["upstream"] = {"url": backend.url}
        async with running_world(merged(usual, config or {})) as world:
            yield world, backend


async def ann(world: World) -> str:
    """The Cookie header of Ann, who is signed in."""
    async with world.browser() as browser:
        await browser.sign_in(f"{world.url}/x", "ann", "ann")
        return f"oidc_proxy={browser.cookies.get('oidc_proxy')}"


async def get(world: World, *fields: str | bytes, line: str = "GET /public/x", **more: Any) -> Response:
    return await ask(world.url, message(world.url, line, *fields, **more))


def answer(*fields: bytes | str, status: str = "200 OK", body: bytes = b"") -> bytes:
    lines = [field if isinstance(field, bytes) else field.encode() for field in fields]
    lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join([f"HTTP/1.1 {status}".encode(), *lines]) + b"\r\n\r\n" + body


async def eventually(true: Callable[[], object], seconds: float = 3) -> None:
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.01)


async def swallow(peer: Peer) -> None:
    """The script of a backend that never answers."""
    await peer.closed()
