"""How other proxies ask whether a request may pass, and what each of them can bear as an answer.

A dialect reads the question into the head of the original request, which then meets the same routes as if it had come
to us, and makes an answer that its proxy passes on, or at least does not turn into another one. Each reads one family
of headers and no other: what one proxy overwrites, another lets through as the client sent it. ``dialects`` has those
who ask over HTTP, and the settings; ``grpc`` has what Envoy says over gRPC.
"""

from oidc_proxy.forward_auth.dialects import (
    AUTH_REQUEST_HEADERS,
    Announcement,
    Demands,
    Dialect,
    Envoy,
    EnvoyGrpc,
    Forward,
    ForwardAuthSettings,
    GrpcSettings,
    Nginx,
    OAuth2Proxy,
    dialects,
)
from oidc_proxy.forward_auth.grpc import Answer, Question, allowed, denied, named

__all__ = [
    "AUTH_REQUEST_HEADERS",
    "Announcement",
    "Answer",
    "Demands",
    "Dialect",
    "Envoy",
    "EnvoyGrpc",
    "Forward",
    "ForwardAuthSettings",
    "GrpcSettings",
    "Nginx",
    "OAuth2Proxy",
    "Question",
    "allowed",
    "denied",
    "dialects",
    "named",
]
