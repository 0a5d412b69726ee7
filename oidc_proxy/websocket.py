"""The WebSocket protocol (RFC 6455) as values: who may open one, where frames end, how our own close frames read."""

from __future__ import annotations

import base64
import binascii
import hashlib

from pydantic import Field

from .errors import RequestFault
from .messages import RequestHead
from .values import ByteSize, Duration, Origin, Settings

GOING_AWAY, POLICY_VIOLATION, TOO_BIG = 1001, 1008, 1009
"""Close codes (RFC 6455 §7.4.1)."""

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_FIN, _OPCODE, _CLOSE = 0x80, 0xF, 0x8
_ENDLESS = 1 << 80


class WebSocketSettings(Settings):
    """Which pages may open WebSockets on a route, and how long one may be silent."""

    origins: tuple[Origin, ...] = Field(
        (),
        description="Origins of the pages that may open WebSockets here; left out, only the public origin that is "
        "asked. A WebSocket from any other page is refused with 403.",
        examples=[["https://app.example.com"]],
    )
    require_origin: bool = Field(
        True,
        description="Refuse a WebSocket that has a session and does not say what page it is from. Every browser says "
        "so; switch it off for programs that bring a session's cookie.",
    )
    idle_timeout: Duration = Field(
        Duration(3600),
        description="How long neither side may send anything, pings included, before both get a close frame (1001); "
        "0 means no limit.",
        examples=["1h"],
    )
    max_message: ByteSize = Field(
        ByteSize(0),
        description="Most bytes of a message, all its fragments together and as they come, compressed or not; a larger "
        "one ends the WebSocket with 1009. 0 means no limit.",
        examples=["16MiB"],
    )


# ── the handshake ──


def accepted(head: RequestHead, settings: WebSocketSettings, *, signed_in: bool) -> bytes:
    """What Sec-WebSocket-Accept must say in the answer to this handshake (RFC 6455 §4.2.2).

    Raises RequestFault when it is none (§4.2.1), when its version is another one, or when it is not from a page that
    may: a browser lets every page open a WebSocket with the cookies of its user, and only says which page it was.
    """
    headers = head.headers
    if head.method != "GET":
        raise RequestFault("bad_request", "a WebSocket handshake that is no GET")
    if headers.getall("Sec-WebSocket-Version", ()) != ["13"]:
        raise RequestFault("websocket_version", "Sec-WebSocket-Version is not 13")
    keys = headers.getall("Sec-WebSocket-Key", ())
    if len(keys) != 1 or not _is_key(keys[0]):
        raise RequestFault("bad_request", "Sec-WebSocket-Key is not one value of 16 bytes in base64")
    check_origin(head, settings, signed_in=signed_in)
    return base64.b64encode(hashlib.sha1(keys[0].encode() + _GUID, usedforsecurity=False).digest())


def _is_key(text: str) -> bool:
    try:
        return len(base64.b64decode(text, validate=True)) == 16
    except (binascii.Error, ValueError):  # ValueError for what is not ASCII
        return False


def check_origin(head: RequestHead, settings: WebSocketSettings, *, signed_in: bool) -> None:
    """Raise RequestFault("cross_site") unless this handshake is from a page that may open a WebSocket here."""
    said = head.headers.getall("Origin", ())
    if not said:
        if signed_in and settings.require_origin:
            raise RequestFault("cross_site", "a WebSocket with a session and without an Origin")
        return
    try:
        # The header has no slash at its end, and nothing beyond ASCII (RFC 6454 §6.2).
        origin = Origin.parse(said[0]) if len(said) == 1 and said[0].isascii() and not said[0].endswith("/") else None
    except ValueError:
        origin = None
    if origin is None or origin not in (settings.origins or (head.origin,)):
        raise RequestFault("cross_site", f"a WebSocket from the origin {said[0][:200]!a}, which is not allowed here")


# ── frames ──


class Frames:
    """One direction of a connection, followed from frame to frame (RFC 6455 §5.2) without a look at what they carry."""

    __slots__ = ("_begun", "_left", "_limit", "_message", "closing")

    def __init__(self, limit: int = 0) -> None:
        """``limit`` is the most bytes of a message; 0 means none."""
        self._limit, self._message = limit, 0
        self._left = 0
        self._begun = b""
        """The first bytes of a header, when not enough of it has come to know the length."""
        self.closing = False
        """Whether a close frame has passed, at least in part: no frame may follow it (§5.5.1)."""

    @property
    def between(self) -> bool:
        """Whether every frame that has begun has ended."""
        return not self._left and not self._begun

    def follow(self, data: bytes) -> int | None:
        """These bytes come next.

        None, or how many of them come before a message that is too large: negative when some of that have passed
        already. What comes after them is not to be followed.
        """
        at, size = self._left, len(data)
        if at >= size:
            self._left = at - size
            return None
        begun = self._begun
        if begun:
            data = begun + data
            size = len(data)
        while size - at >= 2:
            length = data[at + 1] & 0x7F
            ends = at + (6 if data[at + 1] & 0x80 else 2)
            if length > 125:
                wide = 2 if length == 126 else 8
                if size - at < 2 + wide:
                    break
                length = int.from_bytes(data[at + 2 : at + 2 + wide], "big")
                ends += wide
            if self._limit and self._too_large(data[at], length):
                self._left, self._begun = 0, begun if at == 0 else b""
                return at - len(begun)
            if data[at] & _OPCODE == _CLOSE:
                self.closing = True
            at = ends + length
        if at < size:
            self._left, self._begun = 0, data[at:]
        else:
            self._left, self._begun = at - size, b""
        return None

    def stop(self) -> None:
        """Whatever comes from here on is of one endless frame."""
        self._left, self._begun = _ENDLESS, b""

    def _too_large(self, first: int, length: int) -> bool:
        if first & _OPCODE >= _CLOSE:
            return length > 125  # a control frame cannot be longer (§5.5)
        self._message += length
        if self._message > self._limit:
            return True
        if first & _FIN:
            self._message = 0
        return False


def close_frame(code: int, reason: str, mask: bytes = b"") -> bytes:
    """A close frame (RFC 6455 §5.5.1); with the four bytes of ``mask``, as a client must send it (§5.3)."""
    payload = code.to_bytes(2, "big") + reason.encode("ascii")
    if not mask:
        return bytes((_FIN | _CLOSE, len(payload))) + payload
    masked = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
    return bytes((_FIN | _CLOSE, 0x80 | len(payload))) + mask + masked
