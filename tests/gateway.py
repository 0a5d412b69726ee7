"""The gateway in its world: a provider, a backend, and the real thing between them, on ports of their own."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from oidc_proxy.config import Config
from oidc_proxy.demo.directory import Client
from oidc_proxy.server.app import App
from oidc_proxy.server.metrics import exposition
from tests.world import Backend, Browser, Clock, Provider, free_port, running_backend, running_provider

SECRET = "a secret: with % & ü in it"

Settings = Mapping[str, Any]


def merged(base: Settings, change: Settings) -> dict[str, Any]:
    """The base with the change laid over it, section by section."""
    result = dict(base)
    for name, value in change.items():
        old = result.get(name)
        result[name] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result


@dataclass
class World:
    """Everything a story needs. ``url`` is the gateway's public origin."""

    url: str
    app: App
    provider: Provider
    backend: Backend
    clock: Clock
    log: io.StringIO = field(repr=False)

    def browser(self) -> Browser:
        """A new browser without cookies; use it as a context manager."""
        return Browser(clock=self.clock)

    def metric(self, name: str, **labels: str) -> float | None:
        """What /metrics says of a series; ``name`` without ``oidc_proxy_``. None if it is not there."""
        return sample(self.app, name, **labels)

    def lines(self, **wanted: Any) -> list[dict[str, Any]]:
        """The log lines whose fields are these."""
        lines = [json.loads(line) for line in self.log.getvalue().splitlines()]
        return [line for line in lines if all(line.get(name) == value for name, value in wanted.items())]


def sample(app: App, name: str, **labels: str) -> float | None:
    """The number of a series in the text that Prometheus reads."""
    text = exposition(app.telemetry.metrics.snapshot()).decode()
    samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
    return next((one.value for one in samples if (one.name, one.labels) == (f"oidc_proxy_{name}", labels)), None)


def settings_for(port: int, provider: Provider, backend: Backend) -> dict[str, Any]:
    return {
        "public_url": f"http://127.0.0.1:{port}",
        "listen": {"address": f"127.0.0.1:{port}"},
        "admin": {"address": "127.0.0.1:0"},
        "provider": {"issuer": provider.issuer, "client_id": "app", "client_secret": SECRET},
        "upstream": backend.url,
        "log": {"level": "debug"},
    }


def client_for(url: str) -> Client:
    """The gateway, as the provider knows it."""
    return Client(
        client_id="app",
        secret=SECRET,
        redirect_uris=(f"{url}/oauth2/callback",),
        post_logout_redirect_uris=(f"{url}/*",),
    )


@asynccontextmanager
async def running_app(config: Settings, clock: Clock) -> AsyncIterator[tuple[App, io.StringIO]]:
    """A gateway with this configuration, and its log."""
    log, checked = io.StringIO(), Config.model_validate(config)
    # The keys that would be derived of the client's secret take a twentieth of a second each time.
    app = App(checked, clock=clock, log=log, keys=None if checked.session.key else [b"\x2a" * 32])
    await app.start()
    try:
        yield app, log
    finally:
        await app.close()


@asynccontextmanager
async def running_world(
    config: Settings | None = None, *, provider: Settings | None = None, client: Settings | None = None
) -> AsyncIterator[World]:
    """A whole world. ``config`` is laid over the usual configuration, ``provider`` goes to the provider."""
    clock, port = Clock(), free_port()
    url = f"http://127.0.0.1:{port}"
    import dataclasses

    known = dataclasses.replace(client_for(url), **(client or {}))
    async with (
        running_provider(clients=[known], clock=clock, path="/realms/demo", **(provider or {})) as its_provider,
        running_backend() as backend,
        running_app(merged(settings_for(port, its_provider, backend), config or {}), clock) as (app, log),
    ):
        yield World(url, app, its_provider, backend, clock, log)
