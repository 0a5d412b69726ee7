"""Plain HTTP to a site that is https: nothing but the way there."""

from __future__ import annotations

import re
from collections.abc import Sequence

from aiohttp import web

from oidc_proxy import pages
from oidc_proxy.errors import RequestFault
from oidc_proxy.messages import Origins, split_target
from oidc_proxy.values import Origin

_PORT = re.compile(r":[0-9]{1,5}$")


class HttpsRedirect:
    """Answers a request for one of the hosts of ``public`` with the same address under https, and no other."""

    def __init__(self, public: Sequence[Origin]) -> None:
        secure = [origin for origin in public if origin.secure]
        self._public = {origin.host: origin for origin in reversed(secure)}  # of several ports the first is meant
        # Which port a client asks says nothing about where https is: only the host counts.
        self._hosts = Origins([Origin("http", host, 80) for host in self._public])

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        try:
            split_target(request.raw_path)
            host = _PORT.sub("", request.headers.get("Host", ""))
            origin = self._public[self._hosts.find(host).host]
        except RequestFault as fault:
            reply = pages.problem(fault, request_id="")
            return web.Response(status=reply.status, body=reply.body, headers=dict(reply.headers))
        # 308 keeps the method (RFC 9110 §15.4.9); what a client has sent in the clear by then is its loss already.
        headers = {"Location": f"{origin}{request.raw_path}", "Cache-Control": "no-store"}
        return web.Response(status=308, headers=headers)
