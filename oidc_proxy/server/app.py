"""The composition root: what a gateway is made of, opened in order and closed in reverse."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from functools import partial
from typing import TextIO

from .. import __version__, policy
from ..config import Config
from ..forward_auth import Announcement, dialects
from ..messages import HeaderFilter
from ..sessions import LoginSealer, Registry, derive_key
from ..values import Instant
from .account import Account
from .admin.health import Health
from .admin.listener import Admin
from .admin.sessions import Administration
from .archive import Archive, SignedIn
from .cache import Cache
from .checks import Checks
from .forwarding import Forwarding
from .front import Listener
from .gateway import Gateway
from .gauges import provider_metrics, session_metrics
from .login import Cookies, Login
from .logout import Logout
from .provider import ProviderClient
from .refresh import Refresher
from .sessions import Sessions
from .store import MeasuredStore, RedisStoreSettings, open_store
from .telemetry import Telemetry
from .upstream import Servers, open_upstream

SHUTDOWN_GRACE = 20.0
"""Seconds that requests under way may take to finish."""
DRAIN_GRACE = 5.0
"""Seconds that WebSockets may take to end once both sides were told."""


class App:
    """One gateway in this process. ``clock`` gives seconds since the epoch; ``log`` is where lines go, else stdout."""

    def __init__(self, config: Config, *, clock: Callable[[], Instant] = time.time, log: TextIO | None = None) -> None:
        self.config = config
        self.telemetry = Telemetry(config.log, clock, log)
        self._store = open_store(config.store, clock)
        self._provider = ProviderClient(config.provider, config.identity, clock)
        cookies = Cookies(config.session.cookie, config.public_url, config.session.absolute_timeout)
        keys = login_keys(config)
        store = MeasuredStore(self._store, self.telemetry.metrics.store_operation)
        announcement = Announcement(config.identity)
        archive = Archive(
            store,
            Registry(keys),
            config.session,
            config.identity,
            self.telemetry,
            clock,
            announcement=announcement if config.forward_auth.dialects else None,
        )
        cache: Cache[SignedIn] = Cache(
            entries=config.session.cache.entries,
            ttl=config.session.cache.ttl,
            grace=config.store.outage_grace if isinstance(config.store, RedisStoreSettings) else 0,
            clock=clock,
        )
        refresher = Refresher(archive, cache, self._provider, self.telemetry)
        self._sessions = Sessions(archive, cache, refresher, self.telemetry)
        login = Login(
            self._sessions,
            store,
            self._provider,
            LoginSealer(keys, config.provider.issuer),
            cookies,
            self.telemetry,
            login=config.login,
            endpoints=config.endpoints,
            page=config.ui,
            clock=clock,
            random=secrets.token_bytes,
        )
        self._logout = Logout(
            self._sessions,
            store,
            self._provider,
            cookies,
            self.telemetry,
            settings=config.logout,
            endpoints=config.endpoints,
            page=config.ui,
            farewell_lifetime=config.login.timeout,
            clock=clock,
            random=secrets.token_bytes,
        )
        account = Account(
            self._sessions,
            self._logout,
            login.sign_in,
            cookies,
            endpoints=config.endpoints,
            page=config.ui,
            clock=clock,
        )
        shortest = min(filter(None, (route.timeout for route in config.routes)), default=0.0)
        self._upstreams = {
            name: open_upstream(
                settings, config.public_url[0].authority, partial(self.telemetry.upstream, name), shortest
            )
            for name, settings in config.upstreams.items()
        }
        routes = policy.compile_routes(config.routes, [origin.host for origin in config.public_url])
        self._forwarding = Forwarding(
            routes.all,
            self._upstreams,
            HeaderFilter(config.identity.headers, cookies.own),
            HeaderFilter(config.identity.headers, cookies.own, keep_authorization=True),
            self._sessions,
            self.telemetry,
        )
        gateway = Gateway(
            routes=routes,
            sessions=self._sessions,
            login=login,
            logout=self._logout,
            account=account,
            cookies=cookies,
            forwarding=self._forwarding,
            checks=Checks(
                config.forward_auth,
                dialects(config.forward_auth, config.endpoints.prefix, one_rule=len(routes.all) == 1),
                announcement,
                config.public_url,
            ),
            public=config.public_url,
            listen=config.listen,
            endpoints=config.endpoints,
            page=config.ui,
            telemetry=self.telemetry,
            clock=clock,
        )
        self.telemetry.metrics.include(session_metrics(cache, self._store))
        self.telemetry.metrics.include(provider_metrics(self._provider))
        self.admin = Admin(
            Health(store, self._provider, self.telemetry, require_store=config.admin.require_store),
            Administration(self._sessions, config.admin, config.provider.issuers, self.telemetry),
        )
        self._public = Listener(gateway.handle, config.listen.address, config.http, self.telemetry, clock)
        self._private: Listener | None = None
        if config.admin.address:
            self._private = Listener(self.admin.handle, config.admin.address, config.http, self.telemetry, clock)

    @property
    def port(self) -> int:
        """The port of the public listener."""
        return self._public.port

    @property
    def admin_port(self) -> int | None:
        """The port of the administration listener, if there is one."""
        return self._private.port if self._private else None

    async def start(self) -> None:
        """Listen. The provider and the store need not be there yet. OSError when an address cannot be had."""
        self.telemetry.open()
        for upstream in self._upstreams.values():
            if isinstance(upstream, Servers):
                upstream.watch()
        if self._private is not None:
            await self._private.open()
        await self._public.open()
        self.telemetry.message(
            "info",
            "startup",
            version=__version__,
            listen=self.config.listen.address,
            public_url=[str(origin) for origin in self.config.public_url],
            issuer=self.config.provider.issuer,
            redirect_uri=[f"{origin}{self.config.endpoints.prefix}/callback" for origin in self.config.public_url],
            store=self.config.store.type,
        )

    async def close(self) -> None:
        """Stop accepting, finish what is under way, then let go of the backends, the provider and the store."""
        self.admin.health.draining = True
        await asyncio.gather(self._public.close(SHUTDOWN_GRACE), self._forwarding.drain(DRAIN_GRACE))
        for upstream in self._upstreams.values():
            await upstream.close()
        await self._logout.close()
        await self._sessions.close()
        await self._provider.close()
        await self._store.close()
        if self._private is not None:
            await self._private.close(0)
        self.telemetry.message("info", "shutdown")
        self.telemetry.close()


def login_keys(config: Config) -> list[bytes]:
    """The keys that seal sign-ins under way: the configured ones, else one that every replica derives alike."""
    given = [key.reveal() for key in (config.session.key, config.session.previous_key) if key is not None]
    if given:
        return [derive_key(key, "oidc_proxy login key") for key in given]
    provider = config.provider
    if provider.client_secret is not None:
        return [
            derive_key(provider.client_secret.reveal(), f"oidc_proxy login\0{provider.issuer}\0{provider.client_id}")
        ]
    return [secrets.token_bytes(32)]
