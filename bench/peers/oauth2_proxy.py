"""oauth2-proxy with sessions in Redis, where the environment variable OAUTH2_PROXY names its program."""

from __future__ import annotations

import os
import secrets
import shutil
from dataclasses import dataclass

from bench.ground import Ground
from bench.peers import Stand
from bench.process import Missing
from tests.real.parts import free_port

CHECK = "/oauth2/auth"


@dataclass(frozen=True, slots=True)
class OAuth2Proxy:
    """With ``check``, its endpoint for auth_request alone."""

    check: bool = False
    name: str = "oauth2-proxy, Redis"
    setup: str = "no logs; user, groups and access token as headers"

    async def start(self, ground: Ground) -> Stand:
        binary = os.environ.get("OAUTH2_PROXY")
        if not binary:
            raise Missing("the environment variable `OAUTH2_PROXY` does not name its program")
        if shutil.which(binary) is None:
            raise Missing("the environment variable `OAUTH2_PROXY` names no program")
        name, port = "oauth2-proxy-check" if self.check else "oauth2-proxy", free_port()
        origin = f"http://127.0.0.1:{port}"
        client = ground.client(name, f"{origin}/oauth2/callback")
        options = {
            "provider": "oidc",
            "oidc-issuer-url": ground.provider.issuer,
            "client-id": client.client_id,
            "redirect-url": f"{origin}/oauth2/callback",
            "code-challenge-method": "S256",
            "scope": "openid profile email",
            "email-domain": "*",
            "http-address": f"127.0.0.1:{port}",
            "upstream": f"http://127.0.0.1:{ground.backend}/",
            "session-store-type": "redis",
            "redis-connection-url": ground.redis_url(),
            "cookie-secure": "false",
            "pass-access-token": "true",
            "set-xauthrequest": str(self.check).lower(),
            "skip-provider-button": "true",
            "request-logging": "false",
            "auth-logging": "false",
            "standard-logging": "false",
        }
        secret = {"CLIENT_SECRET": client.secret or "", "COOKIE_SECRET": secrets.token_hex(16)}
        program = ground.start(
            name,
            [binary, *(f"--{option}={value}" for option, value in options.items())],
            {f"OAUTH2_PROXY_{key}": value for key, value in secret.items()},
        )
        await program.ready(port)
        return Stand([program], origin, target=CHECK if self.check else "/page", check=self.check)
