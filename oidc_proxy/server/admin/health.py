"""Liveness, readiness, metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from aiohttp import web

from ...errors import ProxyError
from ..metrics import negotiated
from ..provider import ProviderClient
from ..store import Store
from ..telemetry import Telemetry
from .answers import answer

PATIENCE = 1.0
"""Seconds that a readiness check may take."""


class Health:
    """How the gateway is."""

    def __init__(self, store: Store, provider: ProviderClient, telemetry: Telemetry, *, require_store: bool) -> None:
        self._store, self._provider, self._telemetry = store, provider, telemetry
        self._require_store = require_store
        self.draining = False

    async def live(self) -> web.Response:
        """The event loop turns. Asks nobody: an outage of others is no reason to be restarted."""
        return answer(200, {"status": "ok"})

    async def ready(self) -> web.Response:
        """Whether sign-ins and signed-in requests can be served now. What is not is said, with the reason.

        A store that is not required may be away: then it is ``degraded``, and still to be sent requests.
        """
        store, provider = await asyncio.gather(_check(self._store.ping()), _check(self._provider.warm_up()))
        checks = {"store": store, "provider": provider, "draining": "yes" if self.draining else "no"}
        stored = store == "ok" or not self._require_store
        if self.draining or provider != "ok" or not stored:
            return answer(503, {"status": "not ready", "checks": checks})
        return answer(200, {"status": "ready" if store == "ok" else "degraded", "checks": checks})

    async def metrics(self, accept: str) -> web.Response:
        """What was counted, in the format that an Accept header wants."""
        body, media_type = negotiated(self._telemetry.metrics.snapshot(), accept)
        return web.Response(body=body, headers={"Content-Type": media_type})


async def _check(work: Awaitable[None]) -> str:
    try:
        async with asyncio.timeout(PATIENCE):
            await work
    except ProxyError as fault:
        return str(fault)
    except TimeoutError:
        return f"no answer within {PATIENCE:g} s"
    return "ok"
