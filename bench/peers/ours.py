"""oidc_proxy itself, as `oidc-proxy serve` runs it."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from bench.ground import PATH, Ground
from bench.peers import Stand
from bench.process import Program
from tests.real.parts import free_port

CHECK = "/oauth2/authz/nginx"
"""The endpoint that only says whether a request may pass."""
ASKED = {"forward_auth": {"dialects": ["nginx"], "trusted_proxies": ["127.0.0.0/8"]}}
"""The settings that let an nginx on this machine ask there."""


@dataclass(frozen=True, slots=True)
class Ours:
    """One worker; the backend gets the user, the groups and the access token."""

    store: Literal["memory", "redis"]
    access_log: bool
    check: bool = False

    @property
    def name(self) -> str:
        log = ", access log" if self.access_log else ""
        return f"oidc_proxy, {'Redis' if self.store == 'redis' else 'memory'}{log}"

    @property
    def setup(self) -> str:
        return "one worker, default settings" + (", access log to a file" if self.access_log else "")

    async def start(self, ground: Ground) -> Stand:
        port = free_port()
        origin = f"http://127.0.0.1:{port}"
        name = "check" if self.check else "logged" if self.access_log else "ours"
        program, _ = await self.serve(ground, name, origin, {}, port, **(ASKED if self.check else {}))
        return Stand([program], origin, target=CHECK if self.check else PATH, check=self.check)

    async def serve(
        self,
        ground: Ground,
        name: str,
        origin: str,
        listen: Mapping[str, Any],
        port: int | None = None,
        **others: Any,
    ) -> tuple[Program, int]:
        """A gateway that browsers reach at ``origin``, and its port. ``others`` are settings that replace ours."""
        port = port or free_port()
        client = ground.client(f"oidc_proxy-{name}-{self.store}", f"{origin}/oauth2/callback")
        store = {"type": "redis", "url": ground.redis_url()} if self.store == "redis" else {}
        config = {
            "public_url": origin,
            "listen": {"address": f"127.0.0.1:{port}", **listen},
            "admin": {"address": None},
            "provider": {
                "issuer": ground.provider.issuer,
                "client_id": client.client_id,
                "client_secret": client.secret,
            },
            "store": store or {"type": "memory"},
            "upstream": f"http://127.0.0.1:{ground.backend}",
            "log": {"access": self.access_log, "level": "warning"},
            **others,
        }
        path = ground.folder / f"{client.client_id}.yaml"
        path.write_text(json.dumps(config))  # JSON is YAML
        program = ground.start(client.client_id, [sys.executable, "-m", "oidc_proxy", "serve", "--config", str(path)])
        await program.ready(port)
        return program, port
