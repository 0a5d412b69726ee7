"""How other proxies ask whether a request may pass, and what each of them can bear as an answer.

A dialect reads the question into the head of the original request, which then meets the same routes as if it had come
to us, and makes an answer that its proxy passes on, or at least does not turn into another one. Each reads one family
of headers and no other: what one proxy overwrites, another lets through as the client sent it. ``settings`` says who
may ask, ``dialects`` has those who ask over HTTP, and ``grpc`` has what Envoy says over gRPC.
"""

from oidc_proxy.forward_auth.dialects import (
    AUTH_REQUEST_HEADERS,
    Announcement,
    Demands,
    Dialect,
    Envoy,
    EnvoyGrpc,
    Forward,
    Nginx,
    OAuth2Proxy,
    dialects,
)
from oidc_proxy.forward_auth.grpc import Answer, Question, allowed, denied, named
from oidc_proxy.forward_auth.settings import ForwardAuthSettings, GrpcSettings, GrpcTlsSettings

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
    "GrpcTlsSettings",
    "Nginx",
    "OAuth2Proxy",
    "Question",
    "allowed",
    "denied",
    "dialects",
    "named",
]
