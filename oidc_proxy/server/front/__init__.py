"""Listeners: where clients come in.

``settings`` says how much a client may send and how long it may take, ``connection`` holds one to that, ``objections``
has what aiohttp's parser leaves to its user, and ``listener`` is the port.
"""

from oidc_proxy.server.front.connection import ClientRequest
from oidc_proxy.server.front.listener import Handler, Listener
from oidc_proxy.server.front.settings import HttpLimits, HttpSettings, HttpTimeouts

__all__ = ["ClientRequest", "Handler", "HttpLimits", "HttpSettings", "HttpTimeouts", "Listener"]
