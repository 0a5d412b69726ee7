"""Which proxies may ask, where, and how."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from oidc_proxy.messages import Network
from oidc_proxy.values import Duration, Settings

_PLACE = r"^(unix:/[^\x00-\x1f]+|(\[[0-9A-Fa-f:.]+\]|[^:\s]+):\d{1,5})$"


class GrpcTlsSettings(Settings):
    """TLS towards Envoy. Changed files are taken up within seconds; connections go on."""

    cert_file: Path = Field(
        description="PEM file of the certificate, followed by its chain.", examples=["/etc/oidc-proxy/grpc.crt"]
    )
    key_file: Path | None = Field(
        None,
        description="PEM file of the certificate's private key, if it is not in `cert_file`.",
        examples=["/etc/oidc-proxy/grpc.key"],
    )
    client_ca_file: Path | None = Field(
        None,
        description="PEM file of the authorities whose certificates Envoy must show; without it, it need not show one.",
        examples=["/etc/oidc-proxy/envoys.pem"],
    )


class GrpcSettings(Settings):
    """Envoy's `ext_authz` over gRPC, on a port of its own. Needs `pip install oidc-proxy[grpc]`."""

    address: str = Field(
        description="Address and port where Envoy asks; or a Unix domain socket, `unix:` and its path, which takes "
        "`listen.socket_mode` and a single worker.",
        examples=["127.0.0.1:4181", "0.0.0.0:4181", "unix:/run/oidc-proxy/grpc.sock"],
        pattern=_PLACE,
    )
    tls: GrpcTlsSettings | None = Field(
        None, description="Certificate that Envoy sees there; without one the port speaks plain HTTP/2."
    )


class ForwardAuthSettings(Settings):
    """Which other proxies may ask whether a request may pass."""

    dialects: tuple[Literal["nginx", "forward", "envoy", "oauth2_proxy"], ...] = Field(
        (),
        description="How they ask. nginx: `auth_request` and ingress-nginx, at /oauth2/authz/nginx. forward: Traefik, "
        "Caddy and HAProxy, at /oauth2/authz/forward. envoy: `ext_authz` over HTTP, at /oauth2/authz/envoy. "
        "oauth2_proxy: whoever asked oauth2-proxy before, at /oauth2/auth.",
        examples=[["nginx"]],
    )
    trusted_proxies: tuple[Network, ...] = Field(
        (),
        description="Networks of the proxies that may ask; nobody else gets an answer. They are believed "
        "whatever those in `listen.trusted_proxies` are.",
        examples=[["127.0.0.1/32"], ["10.0.0.0/8"]],
    )
    address: str | None = Field(
        None,
        description="Address and port of a listener where the dialects are answered, and nothing else is; or a Unix "
        "domain socket, `unix:` and its path, which takes `listen.socket_mode`. `listen.address` says 404 to them "
        "then, so no browser can ask what a proxy asks. It has the certificate of `listen.tls`, if there is one.",
        examples=["127.0.0.1:4182", "0.0.0.0:4182", "unix:/run/oidc-proxy/checks.sock"],
        pattern=_PLACE,
    )
    cache: Duration | None = Field(
        None,
        ge=1,
        le=60,
        description="How long a proxy may keep a yes about a GET or HEAD, and repeat it without asking: a sign-out, "
        "too, is heard of only after that time. Everything else is never kept, and without this nothing is.",
        examples=["3s"],
    )
    legacy_202: bool = Field(
        False, description="Whether oauth2_proxy says yes with 202, as oauth2-proxy does, instead of 200."
    )
    forwarded_uri: bool = Field(
        False,
        description="Whether oauth2_proxy reads X-Forwarded-Uri where X-Original-URL is missing. Only for proxies that "
        "set it in every check, as oauth2-proxy's example for nginx does: where they leave it alone, visitors choose "
        "the rule. It tells no method, so no rule may depend on one.",
    )
    grpc: GrpcSettings | None = Field(
        None, description="Envoy's `ext_authz` over gRPC, on a port of its own. Needs `pip install oidc-proxy[grpc]`."
    )

    @property
    def enabled(self) -> bool:
        """Whether any proxy may ask, in any way."""
        return bool(self.dialects) or self.grpc is not None
