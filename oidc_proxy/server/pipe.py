"""Two connections joined: what one side sends goes to the other as it comes.

Two small protocols take the places of those that spoke HTTP. Nothing waits here, there is no task and no timer: the
transports call, the listener's one timer calls ``review``, and back-pressure is one transport pausing the other.
"""

from __future__ import annotations

import asyncio
import math
import secrets

from ..websocket import GOING_AWAY, TOO_BIG, Frames, close_frame

LINGER = 2.0
"""Seconds that the two sides have to end their connections, once one of them or we began to close."""


class Pipe:
    """A WebSocket, from the moment on when both handshakes have succeeded.

    ``close`` says good-bye to both sides; a subclass hears by ``ended`` that both connections are gone.
    """

    __slots__ = (
        "_deadline",
        "_idle_timeout",
        "_since",
        "_taken",
        "_write_timeout",
        "backend",
        "client",
        "moved",
        "over",
    )

    def __init__(self, idle_timeout: float = 0, max_message: int = 0) -> None:
        """0 means no limit."""
        self.client, self.backend = End(self, max_message), End(self, max_message)
        self.client.peer, self.backend.peer = self.backend, self.client
        self.over = False
        """Whether we are closing it: nothing more is passed on."""
        self._idle_timeout = idle_timeout or math.inf
        self._write_timeout = math.inf
        self._deadline = math.inf
        self.moved = True
        """Whether anything has come since the last review."""
        self._since = 0.0
        self._taken = (0, 0.0)

    def join(
        self,
        client: tuple[asyncio.Transport, bytes],
        backend: tuple[asyncio.Transport, bytes],
        greeting: bytes,
        write_timeout: float = math.inf,
    ) -> None:
        """Take over both connections, each with the bytes that have arrived on it already.

        The client is sent the greeting first. ``write_timeout`` is how long it may take nothing of what waits for it.
        """
        self._write_timeout = write_timeout
        for end, (transport, _) in ((self.client, client), (self.backend, backend)):
            end.transport = transport
            transport.set_protocol(end)
        client[0].write(greeting)
        for end, (transport, arrived) in ((self.client, client), (self.backend, backend)):
            if arrived:
                end.data_received(arrived)
            if not end.stopped:
                transport.resume_reading()

    def close(self, code: int, reason: str) -> None:
        """Tell both sides, and give them a moment to end their connections."""
        if self.over:
            return
        self.over = True
        self._part()
        self.client.dismiss(close_frame(code, reason))
        self.backend.dismiss(close_frame(code, reason, secrets.token_bytes(4)))

    def abort(self) -> None:
        """Break off both connections at once."""
        self.over = True
        for end in (self.client, self.backend):
            if end.transport is not None:
                end.transport.abort()

    def review(self, now: float) -> None:
        """Hold both sides to the clock. ``now`` is loop time."""
        if self.moved:
            self.moved, self._since = False, now
            if self.client.said_goodbye and self.backend.said_goodbye:
                self._part()
        if now > self._deadline or self._client_is_stuck(now):
            self.abort()
        elif now - self._since > self._idle_timeout and not self.over:
            self.idle()

    def idle(self) -> None:
        """Nothing has moved for too long."""
        self.close(GOING_AWAY, "idle")

    def too_big(self) -> None:
        """One side sends a message that is larger than it may be."""
        self.close(TOO_BIG, "message too big")

    def ended(self) -> None:
        """Both connections are gone."""

    def _client_is_stuck(self, now: float) -> bool:
        transport = self.client.transport
        waiting = 0 if transport is None else transport.get_write_buffer_size()
        taken, since = self._taken
        if not waiting or taken != self.backend.passed - waiting:
            self._taken = (self.backend.passed - waiting, now)
            return False
        return now - since > self._write_timeout

    def _part(self) -> None:
        """From here on there is a bound to everything."""
        self._deadline = min(self._deadline, asyncio.get_running_loop().time() + LINGER)

    # ── called by the ends ──

    def half_closed(self, end: End) -> bool:
        """One side will send nothing more; whether its connection may stay for what the other still says.

        That is its answer to a close frame, and nothing else: who goes without one is gone (RFC 6455 §7.1.5).
        """
        self._part()
        peer = end.peer.transport
        if self.over or not end.said_goodbye or end.peer.said_goodbye or end.peer.sent_all:
            return False
        if peer is None or end.transport is None or not peer.can_write_eof():
            return False
        _send_no_more(peer)
        return end.transport.can_write_eof()

    def lost(self, end: End, broken: bool) -> None:
        """One connection is gone: the other follows."""
        peer = end.peer.transport
        if peer is None:
            self.ended()
        elif broken and not self.over:
            peer.abort()
        elif not self.over:
            self._part()
            peer.close()


class End(asyncio.Protocol):
    """One end of a pipe."""

    __slots__ = ("_frames", "_pipe", "passed", "peer", "sent_all", "stopped", "transport")

    def __init__(self, pipe: Pipe, max_message: int) -> None:
        self._pipe = pipe
        self._frames = Frames(max_message)
        self.transport: asyncio.Transport | None = None
        self.peer: End
        self.passed = 0
        """Bytes that have come from here and gone to the peer."""
        self.stopped = False
        """Not read from, because the peer does not take what has come."""
        self.sent_all = False

    def data_received(self, data: bytes) -> None:
        pipe = self._pipe
        before = self._frames.follow(data)
        if pipe.over:
            if self.said_goodbye and self.transport is not None:
                self.transport.close()
            return
        pipe.moved = True
        if before is not None:
            data = data[: max(before, 0)]
        self.passed += len(data)
        transport = self.peer.transport
        if transport is not None:
            transport.write(data)
        if before is not None:
            pipe.too_big()
            self._frames.stop()

    @property
    def said_goodbye(self) -> bool:
        """Whether a whole close frame has come from here: nothing of interest can follow (RFC 6455 §5.5.1)."""
        return self._frames.closing and self._frames.between

    def dismiss(self, frame: bytes) -> None:
        """Send our close frame, if a frame may stand here, and no more after it."""
        transport, came = self.transport, self.peer._frames  # noqa: SLF001
        if transport is None or transport.is_closing() or self.peer.sent_all:
            return
        if not came.between:
            transport.abort()  # half a frame: whatever we wrote would be taken for the rest of it
            return
        transport.resume_reading()
        if not came.closing:
            transport.write(frame)
        if transport.can_write_eof():
            _send_no_more(transport)

    def pause_writing(self) -> None:
        peer = self.peer
        if peer.transport is not None and not self._pipe.over:
            peer.stopped = True
            peer.transport.pause_reading()

    def resume_writing(self) -> None:
        peer = self.peer
        peer.stopped = False
        if peer.transport is not None:
            peer.transport.resume_reading()

    def eof_received(self) -> bool:
        self.sent_all = True
        return self._pipe.half_closed(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        self.transport = None
        self._pipe.lost(self, exc is not None)


def _send_no_more(transport: asyncio.Transport) -> None:
    try:
        transport.write_eof()
    except OSError:  # asyncio lets through that the other side is gone already
        transport.abort()
