"""The HTTP/1.1 client towards the application behind the gateway: pooled keep-alive, bodies streamed both ways.

``settings`` says where the backend is and how long to wait, ``request`` and ``response`` are what goes there and what
comes back, ``framing`` writes and reads their heads, ``connection`` is one connection, ``pool`` says who may use which,
``client`` puts them together for one server, ``servers`` chooses among several.
"""

from oidc_proxy.server.upstream.client import NotConnected, Upstream
from oidc_proxy.server.upstream.request import Body, UpstreamRequest
from oidc_proxy.server.upstream.response import UpstreamResponse
from oidc_proxy.server.upstream.servers import Backend, Servers, open_upstream
from oidc_proxy.server.upstream.settings import UpstreamSettings, UpstreamTimeouts, UpstreamTlsSettings, Waits

__all__ = [
    "Backend",
    "Body",
    "NotConnected",
    "Servers",
    "Upstream",
    "UpstreamRequest",
    "UpstreamResponse",
    "UpstreamSettings",
    "UpstreamTimeouts",
    "UpstreamTlsSettings",
    "Waits",
    "open_upstream",
]
