"""One request on its way through, and the writing of its answer.

Answers are written as bytes that we compose ourselves, because a proxy must pass on what it was given and an HTTP
library's header objects would change it.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from ..errors import RequestFault
from ..forward_auth import Dialect
from ..identity import Identity
from ..messages import RequestHead
from .front import CLOSES, ClientRequest, Written, reset


class Asked(msgspec.Struct, kw_only=True):
    """What is known of one request so far, wherever it came in; at its end, what the access log says."""

    began: float
    request_id: str
    head: RequestHead | None = None
    route: str = ""
    decision: str = ""
    reason: str = ""
    detail: str = ""
    identity: Identity | None = None
    """Who is signed in."""
    status: int = 0
    bytes_out: int = 0
    upstream: str = ""
    upstream_status: int = 0
    upstream_seconds: float = 0.0
    bytes_in: int = 0
    """Bytes that the client sent after its request."""
    dialect: Dialect | None = None
    """How the proxy asks that wants to know whether this request may pass; None where it comes to us itself."""

    @property
    def subject(self) -> str:
        """The user, as the log knows it."""
        return self.identity.subject if self.identity is not None else ""

    @property
    def account(self) -> str:
        """The user, as pages say it."""
        who = self.identity
        return who.preferred_username or who.email or who.user if who is not None else ""


class Exchange(Asked):
    """One request of the public listener."""

    request: ClientRequest
    done: Callable[[Exchange], None]
    """Called once, at the end of it all."""
    lasts: bool = False
    """The request has been answered, but what it began goes on."""

    @property
    def peer(self) -> str:
        """The address at the other end of the connection; this machine's own, if that is a Unix domain socket."""
        remote = self.request.remote
        return "127.0.0.1" if remote == "" else remote or ""

    @property
    def may_go_on(self) -> bool:
        """Whether another request may follow: the client asks for it, and nothing of this one's body is unread."""
        request, body = self.request, self.request.content
        if not request.keep_alive:
            return False
        return not request.body_exists or (body.at_eof() and body.exception() is None)

    async def write(self, data: bytes) -> None:
        """Send a part of the answer; waits while the client does not take what was sent before."""
        if data and self.send(data):
            await self.drained()

    def send(self, data: bytes) -> bool:
        """Send a part of the answer; whether there is reason to wait until it is ``drained``.

        ConnectionError if the client is gone.
        """
        # aiohttp's writer is passed by: it frames and compresses, which is done here. It counts, for the front's clock.
        request, size = self.request, len(data)
        writer, transport = request.writer, request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client is gone")
        transport.write(data)
        self.bytes_out += size
        writer.output_size += size
        return request.protocol.writing_paused

    async def drained(self) -> None:
        """Wait until the client has taken what was sent."""
        await self.request.writer.drain()

    def finish(self) -> None:
        """All is over."""
        self.done(self)

    def abort(self) -> Written:
        """Break the connection, so that the client sees that the answer is not whole."""
        transport = self.request.transport
        if transport is not None:
            reset(transport)
        return CLOSES


async def ask_for_body(exchange: Exchange, head: RequestHead) -> None:
    """Ask for the body of a client that waits to be asked (RFC 9110 §10.1.1), now that it may be sent on."""
    expectation = head.headers.get("Expect")
    if expectation is None:
        return
    if expectation.lower() != "100-continue":
        raise RequestFault("expectation_failed", "Expect has something else than 100-continue")
    if exchange.request.version >= (1, 1):  # older clients do not know what that is
        await exchange.request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
