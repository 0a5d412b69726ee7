"""Health and metrics, on a listener of their own: no probe can shadow a path of the application, or pass for one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
from aiohttp import web
from pydantic import Field

from ..errors import ProxyError
from ..values import Settings
from .provider import ProviderClient
from .store import Store
from .telemetry import Telemetry

PATIENCE = 1.0
"""Seconds that a readiness check may take."""


class AdminSettings(Settings):
    """Health and metrics, for whoever runs the gateway."""

    address: str | None = Field(
        "127.0.0.1:9180",
        pattern=r"^(\[[0-9A-Fa-f:.]+\]|[^:\s]+):\d{1,5}$",
        description="Address and port of /livez, /readyz and /metrics; null for none. Not for the public.",
        examples=["0.0.0.0:9180"],
    )


class Admin:
    """Answers the administration listener."""

    def __init__(self, store: Store, provider: ProviderClient, telemetry: Telemetry) -> None:
        self._store, self._provider, self._telemetry = store, provider, telemetry
        self.draining = False
        self._pages: dict[str, Callable[[], Awaitable[web.Response]]] = {
            "/livez": self._live,
            "/healthz": self._live,
            "/readyz": self._ready,
            "/metrics": self._metrics,
        }

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request of the administration listener."""
        page = self._pages.get(request.path)
        if page is None:
            return _json(404, {"error": "not found", "paths": sorted(self._pages)})
        if request.method not in {"GET", "HEAD"}:
            return _json(405, {"error": "use GET"})
        return await page()

    async def _live(self) -> web.Response:
        return _json(200, {"status": "ok"})

    async def _ready(self) -> web.Response:
        """Whether sign-ins and signed-in requests can be served now. What is not is said, with the reason."""
        store, provider = await asyncio.gather(_check(self._store.ping()), _check(self._provider.warm_up()))
        metrics = self._telemetry.metrics
        metrics.store_up.set(store == "ok")
        metrics.provider_up.set(provider == "ok")
        checks = {"store": store, "provider": provider, "draining": "yes" if self.draining else "no"}
        ready = store == provider == "ok" and not self.draining
        return _json(200 if ready else 503, {"status": "ready" if ready else "not ready", "checks": checks})

    async def _metrics(self) -> web.Response:
        age = self._provider.keys.age
        if age is not None:
            self._telemetry.metrics.jwks_age.set(age)
        return web.Response(
            body=self._telemetry.metrics.exposition(), headers={"Content-Type": "text/plain; version=0.0.4"}
        )


async def _check(work: Awaitable[None]) -> str:
    try:
        async with asyncio.timeout(PATIENCE):
            await work
    except ProxyError as fault:
        return str(fault)
    except TimeoutError:
        return f"no answer within {PATIENCE:g} s"
    return "ok"


def _json(status: int, content: object) -> web.Response:
    headers = {"Content-Type": "application/json", "Cache-Control": "no-store"}
    return web.Response(status=status, body=msgspec.json.encode(content), headers=headers)
