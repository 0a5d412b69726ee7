"""The whole house in one process: a provider, an application, and the real gateway between them and the browser."""

from __future__ import annotations

import asyncio
import secrets
import signal
import socket
import sys
from typing import Self

from oidc_proxy.config import Config
from oidc_proxy.demo.backend import Backend
from oidc_proxy.demo.directory import USERS, Client
from oidc_proxy.demo.provider import Provider
from oidc_proxy.server.app import App

USUAL_PORT = 4180
NAMES = ("localhost", "127.0.0.1")


class House:
    """Opened as a context manager. Nothing is read from disk, nothing is kept, and only this machine can reach it."""

    def __init__(self, port: int) -> None:
        self.backend = Backend()
        origins = [f"http://{name}:{port}" for name in NAMES]
        self.url = origins[0]
        self._port = port
        self._client = Client(
            client_id="demo",
            secret=secrets.token_urlsafe(24),
            redirect_uris=tuple(f"{origin}/oauth2/callback" for origin in origins),
            post_logout_redirect_uris=tuple(f"{origin}/oauth2/signed_out" for origin in origins),
            backchannel_logout_uri=f"http://127.0.0.1:{port}/oauth2/backchannel_logout",
        )
        self.provider = Provider(path="/realms/demo", clients=[self._client])
        self.provider.offer_users = True
        self._origins = origins
        self.app: App | None = None

    async def __aenter__(self) -> Self:
        await self.provider.open()
        await self.backend.open()
        self.app = App(self._config())
        await self.app.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self.app is not None:
            await self.app.close()
        await self.backend.close()
        await self.provider.close()

    def _config(self) -> Config:
        return Config.model_validate({
            "public_url": self._origins,
            "listen": {"address": f"127.0.0.1:{self._port}"},
            "admin": {"address": None},
            "provider": {
                "issuer": self.provider.issuer,
                "client_id": self._client.client_id,
                "client_secret": self._client.secret,
            },
            "upstream": self.backend.url,
            "routes": [
                {"path": "/public/", "auth": "none"},
                {"path": "/admin/", "groups": ["/staff/ops"]},
            ],
            "ui": {"title": "oidc_proxy demo"},
            "log": {"access": False, "level": "warning"},
        })  # fmt: skip


def free_port(wanted: int | None) -> int:
    """The port that was asked for, else the usual one, else any that is free."""
    if wanted is not None:
        return wanted
    for port in (USUAL_PORT, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise OSError("no port is free")


async def run(port: int | None) -> int:
    """Serve until interrupted; the exit status."""
    try:
        async with House(free_port(port)) as house:
            print(greeting(house), flush=True)  # noqa: T201
            stop = asyncio.Event()
            for number in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().add_signal_handler(number, stop.set)
            await stop.wait()
    except OSError as error:
        print(f"oidc-proxy: cannot listen on port {port}: {error.strerror or error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


def greeting(house: House) -> str:
    """What to open, and who can sign in."""
    people = "\n".join(
        f"    {user.username} / {user.password:<6} {', '.join(user.groups) or 'no groups'}" for user in USERS
    )
    return f"""
  oidc_proxy demo: a provider, an application and the gateway, all in this process

  Open   {house.url}/
         {house.url}/public/   needs no sign-in
         {house.url}/admin/    needs the group /staff/ops

  Sign in as (user / password)
{people}

  The provider is {house.provider.issuer}
  Below: audit events. Stop with Ctrl+C.
"""
