"""Several servers of one application: which one gets a request, and which is passed over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from oidc_proxy.errors import ProxyError, UpstreamFault
from oidc_proxy.server.upstream.client import NotConnected, Upstream
from oidc_proxy.server.upstream.request import UpstreamRequest
from oidc_proxy.server.upstream.response import UpstreamResponse
from oidc_proxy.server.upstream.settings import UpstreamSettings

Report: TypeAlias = Callable[[str, bool, str], None]
"""Is told the address of a server, whether it gets requests now, and why not."""


@dataclass(slots=True, eq=False)
class _Server:
    """One of them, as far as it is known how it does."""

    upstream: Upstream
    failures: int = 0
    """Failed exchanges since the last that did not."""
    back_at: float = 0.0
    """Loop time until which it gets no requests."""
    well: bool = True
    """What it said when it was last asked."""
    up: bool = True
    """What was last reported."""

    def usable(self, now: float) -> bool:
        return self.well and now >= self.back_at


class Servers:
    """All servers of an upstream; to whoever sends requests, the same as the one of ``Upstream``."""

    def __init__(self, settings: UpstreamSettings, public_host: str, report: Report, shortest: float = 0.0) -> None:
        """Opens nothing. ``public_host`` is what visitors say in Host. SettingsFault when TLS files cannot be used."""
        self.settings = settings
        ones = [settings.model_copy(update={"url": url, "servers": ()}) for url in settings.addresses]
        self._servers = [_Server(Upstream(one, shortest)) for one in ones]
        self.authority = self._servers[0].upstream.authority
        """Value of a Host header that names the backend itself: that of ``url``, whichever server gets it."""
        self._host = public_host.encode() if settings.host_header == "public" else self.authority
        self._report = report
        self._next = 0
        self._watchers: list[asyncio.Task[None]] = []

    def watch(self) -> None:
        """Begin to ask the servers how they do, if the settings want it. Each is up until it is known to be down."""
        for server in self._servers:
            self._report(server.upstream.settings.url, True, "")
            if self.settings.health.path is not None:
                self._watchers.append(asyncio.get_running_loop().create_task(self._ask_again_and_again(server)))

    async def send(self, request: UpstreamRequest) -> UpstreamResponse:
        """As ``Upstream.send``. What finds no connection at one server goes to the next, whatever it is: nothing of it
        has been sent."""
        now = asyncio.get_running_loop().time()
        fault: UpstreamFault | None = None
        for server in self._in_turn(now):
            if server.failures >= self.settings.health.failures:  # one request tries it; the others go elsewhere
                server.back_at = now + self.settings.health.pause
            try:
                response = await server.upstream.send(request)
            except NotConnected as error:
                self._failed(server, error, self.settings.health.failures)
                fault = error
            except UpstreamFault as error:
                if error.code != "upstream_saturated":
                    self._failed(server, error, 1)
                raise
            else:
                if server.failures:
                    self._recovered(server)
                return response
        raise fault or UpstreamFault("upstream_unreachable", "there is no server")

    def renew_tls(self) -> None:
        """See ``Upstream.renew_tls``."""
        for server in self._servers:
            server.upstream.renew_tls()

    async def close(self) -> None:
        """Close every connection; requests that are under way fail with upstream_unreachable."""
        for watcher in self._watchers:
            watcher.cancel()
        await asyncio.gather(*self._watchers, return_exceptions=True)
        for server in self._servers:
            await server.upstream.close()

    def _in_turn(self, now: float) -> list[_Server]:
        """Those that are up, least busy first and one after another where they are alike; as a last resort the rest."""
        self._next = (self._next + 1) % len(self._servers)
        turned = self._servers[self._next :] + self._servers[: self._next]
        return sorted(turned, key=lambda server: (not server.usable(now), server.upstream.busy))

    def _failed(self, server: _Server, fault: ProxyError, weight: int) -> None:
        health = self.settings.health
        server.failures += weight
        if server.failures >= health.failures:
            server.back_at = asyncio.get_running_loop().time() + health.pause
            self._tell(server, up=False, why=fault.detail)

    def _recovered(self, server: _Server) -> None:
        server.failures, server.back_at = 0, 0.0
        self._tell(server, up=server.well)

    def _tell(self, server: _Server, *, up: bool, why: str = "") -> None:
        if server.up != up:
            server.up = up
            self._report(server.upstream.settings.url, up, why)

    # ── asking ──

    async def _ask_again_and_again(self, server: _Server) -> None:
        # On connections of its own: a server with all of them in use is busy, not ill.
        asking = Upstream(server.upstream.settings.model_copy(update={"max_connections": 1}))
        try:
            while True:
                trouble = await self._ask(asking)
                server.well = not trouble
                if trouble:
                    self._tell(server, up=False, why=trouble)
                else:
                    self._recovered(server)
                await asyncio.sleep(self.settings.health.interval)
        finally:
            await asking.close()

    async def _ask(self, asking: Upstream) -> str:
        """What is wrong with the server; empty if nothing is."""
        path = self.settings.health.path or "/"
        headers = [(b"Host", self._host), (b"User-Agent", b"oidc_proxy health")]
        headers += [(name.encode(), value.encode()) for name, value in self.settings.fixed_headers.items()]
        try:
            async with asyncio.timeout(self.settings.health.timeout):
                response = await asking.send(UpstreamRequest(b"GET", path.encode(), headers))
                response.abort()
        except TimeoutError:
            return f"no answer to {path} in time"
        except UpstreamFault as fault:
            return fault.detail
        return "" if response.status < 400 else f"{path} answers {response.status}"


Backend: TypeAlias = Upstream | Servers


def open_upstream(settings: UpstreamSettings, public_host: str, report: Report, shortest: float = 0.0) -> Backend:
    """The one server, or several. Where there is one, and nobody asks how it does, nothing stands before it."""
    alone = not settings.servers and settings.health.path is None
    return Upstream(settings, shortest) if alone else Servers(settings, public_host, report, shortest)
