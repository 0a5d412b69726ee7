"""Liveness, readiness, metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

from aiohttp import web

from ...errors import ProxyError
from ..metrics import Snapshot, lasting, merge, negotiated
from ..provider import ProviderClient
from ..store import Store
from ..telemetry import Telemetry
from .answers import answer
from .peers import Ledger, Peers

PATIENCE = 1.0
"""Seconds that a readiness check may take."""


class Health:
    """How the gateway is: all of its workers, whichever of them is asked."""

    def __init__(self, store: Store, provider: ProviderClient, telemetry: Telemetry, *, require_store: bool) -> None:
        self._store, self._provider, self._telemetry = store, provider, telemetry
        self._require_store = require_store
        self.draining = False
        self._ledger = Ledger(None)
        self.peers = Peers({"state": self._state, "metrics": self._counted})

    async def live(self) -> web.Response:
        """The event loop turns. Asks nobody: an outage of others is no reason to be restarted."""
        return answer(200, {"status": "ok"})

    async def ready(self) -> web.Response:
        """Whether sign-ins and signed-in requests can be served now. What is not is said, with the reason.

        A store that is not required may be away: then it is ``degraded``, and still to be sent requests.
        """
        states: dict[int, dict[str, Any] | None] = await self.peers.ask("state")
        known = [state for state in states.values() if state is not None]
        checks = {name: _worst([state["checks"][name] for state in known]) for name in known[0]["checks"]}
        status = "ready" if checks["store"] == "ok" else "degraded"
        content: dict[str, object] = {"status": status, "checks": checks}
        if len(states) > 1:
            content["workers"] = {number: _word(state) for number, state in states.items()}
        if all(state is not None and state["ready"] for state in states.values()):
            return answer(200, content)
        return answer(503, {**content, "status": "not ready"})

    async def _state(self) -> dict[str, object]:
        """How this worker is."""
        store, provider = await asyncio.gather(_check(self._store.ping()), _check(self._provider.warm_up()))
        checks = {"store": store, "provider": provider, "draining": "yes" if self.draining else "no"}
        stored = store == "ok" or not self._require_store
        return {"ready": stored and provider == "ok" and not self.draining, "checks": checks}

    async def metrics(self, accept: str) -> web.Response:
        """What was counted, in the format that an Accept header wants."""
        counted: dict[int, Snapshot | None] = await self.peers.ask("metrics")
        together = merge(snapshot for snapshot in counted.values() if snapshot is not None)
        body, media_type = negotiated(together, accept)
        return web.Response(body=body, headers={"Content-Type": media_type})

    async def _counted(self) -> Snapshot:
        """What this worker has counted, and those before it in its place."""
        snapshot = self._telemetry.metrics.snapshot()
        self._ledger.keep(lasting(snapshot))
        return snapshot

    def inherit(self, ledger: Ledger) -> None:
        """Count on from what is in the ledger, and keep it up."""
        self._ledger, past = ledger, ledger.read()
        self._telemetry.metrics.include(lambda: past)


def _word(state: dict[str, Any] | None) -> str:
    if state is None:
        return "no answer"
    return "ready" if state["ready"] else "not ready"


def _worst(words: list[str]) -> str:
    return next((word for word in words if word not in {"ok", "no"}), words[0])


async def _check(work: Awaitable[None]) -> str:
    try:
        async with asyncio.timeout(PATIENCE):
            await work
    except ProxyError as fault:
        return str(fault)
    except TimeoutError:
        return f"no answer within {PATIENCE:g} s"
    return "ok"
