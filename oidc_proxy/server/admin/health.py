"""Liveness, readiness, metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

from aiohttp import web

from ...errors import ProxyError
from ..provider import ProviderClient
from ..store import Store
from ..telemetry import Telemetry
from .answers import answer
from .peers import Peers

PATIENCE = 1.0
"""Seconds that a readiness check may take."""


class Health:
    """How the gateway is: all of its workers, whichever of them is asked."""

    def __init__(self, store: Store, provider: ProviderClient, telemetry: Telemetry, *, require_store: bool) -> None:
        self._store, self._provider, self._telemetry = store, provider, telemetry
        self._require_store = require_store
        self.draining = False
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
        self._telemetry.metrics.provider_up.set(provider == "ok")
        checks = {"store": store, "provider": provider, "draining": "yes" if self.draining else "no"}
        stored = store == "ok" or not self._require_store
        return {"ready": stored and provider == "ok" and not self.draining, "checks": checks}

    async def metrics(self) -> web.Response:
        """Prometheus' text format."""
        texts = await self.peers.ask("metrics")
        body = _sum([text for text in texts.values() if text is not None])
        return web.Response(text=body, headers={"Content-Type": "text/plain; version=0.0.4"})

    async def _counted(self) -> str:
        """What this worker has counted."""
        metrics, age = self._telemetry.metrics, self._provider.keys.age
        if age is not None:
            metrics.jwks_age.set(age)
        return metrics.exposition().decode()


def _word(state: dict[str, Any] | None) -> str:
    if state is None:
        return "no answer"
    return "ready" if state["ready"] else "not ready"


def _worst(words: list[str]) -> str:
    return next((word for word in words if word not in {"ok", "no"}), words[0])


def _sum(texts: list[str]) -> str:
    lines: dict[str, float | None] = {}
    for line in (line for text in texts for line in text.splitlines()):
        name, _, number = line.rpartition(" ")
        if line.startswith("#"):
            lines[line] = None
        else:
            lines[name] = (lines.get(name) or 0) + float(number)
    return "".join(f"{name}\n" if number is None else f"{name} {number}\n" for name, number in lines.items())


async def _check(work: Awaitable[None]) -> str:
    try:
        async with asyncio.timeout(PATIENCE):
            await work
    except ProxyError as fault:
        return str(fault)
    except TimeoutError:
        return f"no answer within {PATIENCE:g} s"
    return "ok"
