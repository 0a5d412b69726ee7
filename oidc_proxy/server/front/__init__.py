"""Listeners: where clients come in.

``settings`` says where that is, how much a client may send and how long it may take. ``sockets`` opens ports and the
like, ``tls`` has the certificate, ``request`` is what a handler gets and gives back, ``connection`` holds a client to
the limits, ``objections`` has what aiohttp's parser leaves to its user, ``refusal`` answers what no handler sees,
``ending`` is how connections end, ``listener`` is what accepts and drains, and ``redirect`` sends plain HTTP to https.
"""

from oidc_proxy.server.front.ending import reset
from oidc_proxy.server.front.listener import Handler, Listener
from oidc_proxy.server.front.redirect import HttpsRedirect
from oidc_proxy.server.front.request import CLOSES, GOES_ON, ClientRequest, Left, Reviewed, Written
from oidc_proxy.server.front.settings import HttpLimits, HttpSettings, HttpTimeouts, ListenSettings, ListenTlsSettings
from oidc_proxy.server.front.sockets import open_sockets
from oidc_proxy.server.front.tls import ServerTls

__all__ = [
    "CLOSES",
    "GOES_ON",
    "ClientRequest",
    "Handler",
    "HttpLimits",
    "HttpSettings",
    "HttpTimeouts",
    "HttpsRedirect",
    "Left",
    "ListenSettings",
    "ListenTlsSettings",
    "Listener",
    "Reviewed",
    "ServerTls",
    "Written",
    "open_sockets",
    "reset",
]
