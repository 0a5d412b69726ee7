"""Which page of the administration listener is asked for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web

from .answers import answer, refusal
from .health import Health
from .sessions import Administration


class Admin:
    """Answers the administration listener."""

    def __init__(self, health: Health, administration: Administration) -> None:
        self.health, self._administration = health, administration
        self._pages: dict[str, Callable[[web.BaseRequest], Awaitable[web.Response]]] = {
            "/livez": lambda _: health.live(),
            "/healthz": lambda _: health.live(),
            "/readyz": lambda _: health.ready(),
            "/metrics": lambda request: health.metrics(request.headers.get("Accept", "")),
        }

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        if request.path == "/sessions" or request.path.startswith("/sessions/"):
            return await self._administration.handle(request)
        page = self._pages.get(request.path)
        if page is None:
            return answer(404, {"error": "not found", "paths": [*sorted(self._pages), "/sessions"]})
        if request.method not in {"GET", "HEAD"}:
            return refusal(405, "use GET", Allow="GET, HEAD")
        return await page(request)
