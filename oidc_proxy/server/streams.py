"""Answers that take their time: they last no longer than the session on whose behalf they were asked for."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

from ..errors import UpstreamFault
from ..policy import Route
from .archive import SignedIn
from .exchange import Exchange
from .sessions import Sessions
from .upstream import UpstreamResponse

CLEAN_END = 0.5
"""Seconds that the client may take to read the rest of an event stream that ends."""


class Stream:
    """A body on its way to the client, which the end of a session breaks off.

    To an event stream the end of the answer is the regular end (HTML §9.2.3), so it gets one; of anything else the
    client must see that it is not whole, so the connection is aborted.
    """

    def __init__(self, response: UpstreamResponse, exchange: Exchange) -> None:
        self._response, self._exchange = response, exchange
        self._aborting: asyncio.TimerHandle | None = None
        self.over = False
        """Whether it was ended before the body did."""
        self.ends_cleanly = response.endless

    @contextlib.contextmanager
    def held(
        self, sessions: Sessions, signed_in: SignedIn | None, route: Route, streams: set[Stream]
    ) -> Iterator[None]:
        """Within this block, the end of the session is the end of the stream, and it is one of ``streams``."""
        streams.add(self)
        if signed_in is not None:
            sessions.hold(signed_in, route, self._end)
        try:
            yield
        finally:
            streams.discard(self)
            if signed_in is not None:
                sessions.release(signed_in.ticket.record_id, self._end)
            if self._aborting is not None:
                self._aborting.cancel()

    def drain(self) -> None:
        """The process is about to end: so does an event stream, whose client comes back for more (HTML §9.2.3)."""
        if self.ends_cleanly:
            self._end("shutdown")

    def _end(self, reason: str) -> None:
        if self.over:
            return
        self.over, self._exchange.reason = True, reason
        if self.ends_cleanly:
            self._aborting = asyncio.get_running_loop().call_later(CLEAN_END, self._exchange.abort)
        else:
            self._exchange.abort()
        self._response.abort()

    async def read(self) -> bytes:
        """What has come of the body; b"" at its end, or at the session's. Raises UpstreamFault."""
        try:
            data = await self._response.read()
        except UpstreamFault:
            if not self.over:
                raise
            return b""
        return b"" if self.over else data
