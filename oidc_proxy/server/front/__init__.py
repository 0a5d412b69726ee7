"""Listeners: where clients come in.

``settings`` says where that is, how much a client may send and how long it may take. ``sockets`` opens ports and the
like, ``tls`` has the certificate, ``connection`` holds a client to the limits, ``objections`` has what aiohttp's parser
leaves to its user, ``listener`` is what accepts and drains, and ``redirect`` sends plain HTTP to https.
"""

from oidc_proxy.server.front.connection import ClientRequest
from oidc_proxy.server.front.listener import Handler, Listener
from oidc_proxy.server.front.redirect import HttpsRedirect
from oidc_proxy.server.front.settings import HttpLimits, HttpSettings, HttpTimeouts, ListenSettings, ListenTlsSettings
from oidc_proxy.server.front.sockets import open_sockets
from oidc_proxy.server.front.tls import ServerTls

__all__ = [
    "ClientRequest",
    "Handler",
    "HttpLimits",
    "HttpSettings",
    "HttpTimeouts",
    "HttpsRedirect",
    "ListenSettings",
    "ListenTlsSettings",
    "Listener",
    "ServerTls",
    "open_sockets",
]
