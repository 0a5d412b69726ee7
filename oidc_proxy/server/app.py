"""The composition root: what a gateway is made of, opened in order and closed in reverse."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TextIO

from .. import __version__, policy
from ..config import Config
from ..config.document import file_text
from ..errors import SettingsFault
from ..forward_auth import Announcement, EnvoyGrpc, dialects
from ..handover import BoundTickets, Hosts
from ..messages import HeaderFilter
from ..sessions import LoginSealer, Registry, derive_key
from ..values import Instant, Secret
from .account import Account
from .admin.health import Health
from .admin.listener import Admin
from .admin.peers import Ledger
from .admin.sessions import Administration
from .archive import Archive, SignedIn
from .cache import Cache
from .checks import Checks
from .cookies import Cookies
from .doors import Doors
from .endpoints import Tools
from .files import Files
from .forwarding import Forwarding
from .front import HttpsRedirect, Listener, ServerTls
from .gateway import Gateway
from .gauges import provider_metrics, session_metrics
from .grpc import GrpcDoor
from .handover import Handover
from .login import Login
from .logout import Logout
from .provider import ProviderClient
from .refresh import Refresher
from .sessions import Sessions
from .store import MeasuredStore, RedisStoreSettings, open_store
from .telemetry import Telemetry
from .upstream import Backend, Servers, open_upstream

LASTING_GRACE = 5.0
"""Seconds that what would go on for ever may take to end, once both sides were told."""
LAST_STEPS = 5.0
"""Seconds beyond the drain in which backends, provider and store are let go of."""


class App:
    """One gateway in this process. ``clock`` gives seconds since the epoch; ``log`` is where lines go, else stdout.

    ``keys`` seal sign-ins under way, where other processes must be able to open them; else they are ``login_keys``.
    """

    def __init__(
        self,
        config: Config,
        *,
        clock: Callable[[], Instant] = time.time,
        log: TextIO | None = None,
        keys: Sequence[bytes] | None = None,
    ) -> None:
        self.config, self._clock = config, clock
        self.telemetry = Telemetry(config.log, clock, log)
        self._store = open_store(config.store, clock)
        self._measured = MeasuredStore(self._store, self.telemetry.metrics.store_operation)
        self._provider = ProviderClient(config.provider, config.identity, clock)
        self._keys = login_keys(config) if keys is None else keys
        self._announcement = Announcement(config.identity)
        self._sessions = self._keeping_sessions()
        self._tools = self._for_endpoints()
        self._logout = Logout(self._tools, config.logout, config.login.timeout)
        self._upstreams = self._backends()
        routes = policy.compile_routes(config.routes, [origin.host for origin in config.public_url])
        own = self._tools.cookies.own
        self._forwarding = Forwarding(
            routes.all,
            self._upstreams,
            HeaderFilter(config.identity.headers, own),
            HeaderFilter(config.identity.headers, own, keep_authorization=True),
            self._sessions,
            self.telemetry,
        )
        gateway = self._guarding(routes)
        self.telemetry.metrics.include(provider_metrics(self._provider))
        self.admin = Admin(
            Health(self._measured, self._provider, self.telemetry, require_store=config.admin.require_store),
            Administration(self._sessions, config.admin, config.provider.issuers, self.telemetry),
        )
        self._tls = ServerTls(config.listen.tls) if config.listen.tls else None
        self._public = Listener(gateway.handle, config.http, self.telemetry, clock, self._tls)
        self._checks = Listener(gateway.handle_check, config.http, self.telemetry, clock, self._tls)
        self._grpc = GrpcDoor(config.forward_auth.grpc, gateway.check, int(config.listen.socket_mode, 8))
        self._redirect = Listener(HttpsRedirect(config.public_url).handle, config.http, self.telemetry, clock)
        self._private = Listener(self.admin.handle, config.http, self.telemetry, clock)
        self._files = self._watched_files()
        self._alone = True

    # ── what it is made of ──

    def _keeping_sessions(self) -> Sessions:
        config = self.config
        cache: Cache[SignedIn] = Cache(
            entries=config.session.cache.entries,
            ttl=config.session.cache.ttl,
            grace=config.store.outage_grace if isinstance(config.store, RedisStoreSettings) else 0,
            clock=self._clock,
        )
        self.telemetry.metrics.include(session_metrics(cache, self._store))
        archive = Archive(
            self._measured,
            Registry(self._keys),
            config.session,
            config.identity,
            self.telemetry,
            self._clock,
            announcement=self._announcement if config.forward_auth.enabled else None,
        )
        return Sessions(archive, cache, Refresher(archive, cache, self._provider, self.telemetry), self.telemetry)

    def _for_endpoints(self) -> Tools:
        config = self.config
        hosts = Hosts(config.public_url, config.login.auth_origin, config.endpoints.prefix)
        bound = BoundTickets(self._keys) if config.login.auth_origin else None
        return Tools(
            sessions=self._sessions,
            store=self._measured,
            provider=self._provider,
            cookies=Cookies(config.session.cookie, config.public_url, config.session.absolute_timeout, hosts, bound),
            hosts=hosts,
            telemetry=self.telemetry,
            prefix=config.endpoints.prefix,
            page=config.ui,
            clock=self._clock,
            random=secrets.token_bytes,
        )

    def _guarding(self, routes: policy.Routes) -> Gateway:
        config, tools = self.config, self._tools
        sealer = LoginSealer(self._keys, config.provider.issuer)
        login = Login(tools, sealer, config.login)
        return Gateway(
            tools,
            routes=routes,
            login=login,
            handover=Handover(tools, login, sealer, config.login),
            logout=self._logout,
            account=Account(tools, self._logout, login.sign_in),
            forwarding=self._forwarding,
            checks=Checks(
                config.forward_auth,
                dialects(config.forward_auth, tools.prefix, one_rule=len(routes.all) == 1),
                self._announcement,
                config.public_url,
                EnvoyGrpc(tools.prefix),
                tools.cookies.own,
            ),
            public=config.public_url,
            listen=config.listen,
        )

    def _backends(self) -> dict[str, Backend]:
        shortest = min(filter(None, (route.timeout for route in self.config.routes)), default=0.0)
        host = self.config.public_url[0].authority
        return {
            name: open_upstream(settings, host, partial(self.telemetry.upstream, name), shortest)
            for name, settings in self.config.upstreams.items()
        }

    @property
    def port(self) -> int:
        """The port of the public listener."""
        return self._public.port

    @property
    def admin_port(self) -> int | None:
        """The port of the administration listener, if there is one."""
        return self._private.port if self.config.admin.address else None

    @property
    def checks_port(self) -> int:
        """The port of the listener that other proxies have to themselves."""
        return self._checks.port

    @property
    def grpc_port(self) -> int:
        """The port where Envoy asks over gRPC."""
        return self._grpc.port

    @property
    def redirect_port(self) -> int:
        """The port of the listener that leads to https."""
        return self._redirect.port

    async def start(self, doors: Doors | None = None) -> None:
        """Listen, on what is open already or on what the configuration says.

        The provider and the store need not be there yet. OSError when an address cannot be had.
        """
        self.telemetry.open()
        for upstream in self._upstreams.values():
            if isinstance(upstream, Servers):
                upstream.watch()
        doors = doors or Doors.open(self.config)[0]
        await self._private.open(doors.admin)
        self.admin.health.inherit(Ledger(doors.ledger))
        await self.admin.health.peers.open(doors.private, doors.peers, doors.worker)
        await self._redirect.open(doors.redirect)
        await self._grpc.open(doors.grpc)
        await self._checks.open(doors.checks)
        await self._public.open(doors.public)
        self._files.start()
        self._alone = not doors.peers
        if self._alone:
            self.announce()

    def announce(self) -> None:
        """What was started, as the first line of the log."""
        config = self.config
        self.telemetry.message(
            "info",
            "startup",
            version=__version__,
            listen=config.listen.address,
            workers=config.listen.workers,
            public_url=[str(origin) for origin in config.public_url],
            issuer=config.provider.issuer,
            redirect_uri=[
                f"{origin}{config.endpoints.prefix}/callback"
                for origin in dict.fromkeys(map(self._tools.hosts.home, config.public_url))
            ],
            store=config.store.type,
        )

    @property
    def patience(self) -> float:
        """Seconds that ``close`` may take."""
        timeouts = self.config.http.timeouts
        return timeouts.drain_delay + timeouts.drain_max + LAST_STEPS

    async def close(self) -> bool:
        """Say that it ends, stop accepting, finish what is under way, let go of backends, provider and store.

        False if not everything could be closed in time.
        """
        self.admin.health.draining = self._public.draining = self._checks.draining = self._grpc.draining = True
        self._files.stop()
        try:
            async with asyncio.timeout(self.patience):
                await self._drain()
                await self._let_go()
        except TimeoutError:
            self.telemetry.message("error", "shutdown.incomplete", reason="something could not be closed in time")
            return False
        else:
            if self._alone:
                self.telemetry.message("info", "shutdown")
            return True
        finally:
            self.telemetry.close()

    async def _drain(self) -> None:
        timeouts = self.config.http.timeouts
        await asyncio.sleep(timeouts.drain_delay)
        self._public.stop_accepting()
        grace = timeouts.drain_max
        lasting = self._forwarding.drain(min(grace, LASTING_GRACE))
        doors = (self._public, self._checks, self._redirect, self._grpc)
        await asyncio.gather(lasting, *(door.close(grace) for door in doors))

    async def _let_go(self) -> None:
        for upstream in self._upstreams.values():
            await upstream.close()
        await self._logout.close()
        await self._sessions.close()
        await self._provider.close()
        await self._store.close()
        self.admin.health.peers.close()
        await self._private.close(0)

    # ── what is read again ──

    def _watched_files(self) -> Files:
        files, provider = Files(self.telemetry), self.config.provider
        if self._tls is not None:
            files.watch("listen.tls", self._tls.files, self._tls.renew)
        if self._grpc.tls is not None:
            files.watch("forward_auth.grpc.tls", self._grpc.tls.files, self._grpc.tls.renew)
        for name, upstream in self._upstreams.items():
            tls = upstream.settings.tls
            files.watch(f"upstreams.{name}.tls", [tls.ca_file, tls.cert_file, tls.key_file], upstream.renew_tls)
        files.watch("provider.tls", [provider.tls.ca_file], self._provider.renew_tls)
        files.watch("provider.client_secret", [provider.client_secret_file], self._renew_client_secret)
        return files

    def _renew_client_secret(self) -> None:
        """For what is sent to the provider. Sign-ins under way stay sealed with what was derived at the start."""
        file = self.config.provider.client_secret_file
        try:
            self._provider.renew_secret(Secret.parse(file_text(file) if file else ""))
        except ValueError as error:
            raise SettingsFault([f"provider.client_secret_file {error}"]) from None


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
