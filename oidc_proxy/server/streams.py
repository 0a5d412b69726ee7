"""Answers that take their time: they last no longer than the session on whose behalf they were asked for."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator

from ..errors import UpstreamFault
from .archive import SignedIn
from .sessions import Sessions
from .upstream import UpstreamResponse

CLEAN_END = 0.5
"""Seconds that the client may take to read the rest of an event stream that ends."""


class Stream:
    """A body on its way to the client, which the end of a session breaks off, or that of the server.

    To an event stream the end of the answer is the regular end (HTML §9.2.3), so it gets one; of anything else the
    client must see that it is not whole, so the connection is aborted.
    """

    def __init__(self, response: UpstreamResponse, abort: Callable[[], object]) -> None:
        self._response, self._abort = response, abort
        self._aborting: asyncio.TimerHandle | None = None
        self.over = ""
        """What ended before the body did: ``session_ended`` or ``shutdown``."""
        self.ends_cleanly = response.content_length is None and _is_event_stream(response)

    @contextlib.contextmanager
    def held(self, sessions: Sessions, signed_in: SignedIn | None) -> Iterator[None]:
        """Within this block, the end of the session is the end of the stream."""
        try:
            if signed_in is None:
                yield
            else:
                with sessions.holding(signed_in, self.end):
                    yield
        finally:
            if self._aborting is not None:
                self._aborting.cancel()

    def end(self, reason: str = "session_ended") -> None:
        """End it now."""
        if self.over:
            return
        self.over = reason
        if self.ends_cleanly:
            self._aborting = asyncio.get_running_loop().call_later(CLEAN_END, self._abort)
        else:
            self._abort()
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


def _is_event_stream(response: UpstreamResponse) -> bool:
    types = [value for name, value in response.headers if name.lower() == b"content-type"]
    return len(types) == 1 and types[0].partition(b";")[0].strip().lower() == b"text/event-stream"
