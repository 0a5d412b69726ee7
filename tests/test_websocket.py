"""The WebSocket handshake, frame boundaries and close frames, as values."""

from __future__ import annotations

import random

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from oidc_proxy.errors import RequestFault
from oidc_proxy.messages import RequestHead
from oidc_proxy.values import Origin
from oidc_proxy.websocket import Frames, WebSocketSettings, accepted, close_frame

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ASKED = "https://app.test"
USUAL = [("Sec-WebSocket-Version", "13"), ("Sec-WebSocket-Key", KEY), ("Origin", ASKED)]


def head(fields: list[tuple[str, str]], method: str = "GET") -> RequestHead:
    return RequestHead(
        method=method,
        target="/ws",
        path="/ws",
        query=None,
        origin=Origin.parse(ASKED),
        client="192.0.2.1",
        raw_headers=[],
        headers=CIMultiDictProxy(CIMultiDict(fields)),
        request_id="r",
    )


def but(name: str, *values: str) -> list[tuple[str, str]]:
    """The usual handshake with these values of one header."""
    return [pair for pair in USUAL if pair[0] != name] + [(name, value) for value in values]


def refusal(fields: list[tuple[str, str]], settings: WebSocketSettings | None = None, **more: str) -> str:
    with pytest.raises(RequestFault) as caught:
        accepted(head(fields, **more), settings or WebSocketSettings(), signed_in=True)
    return caught.value.code


def test_the_answer_is_the_one_of_the_rfc() -> None:
    """The example of RFC 6455 §1.3."""
    assert accepted(head(USUAL), WebSocketSettings(), signed_in=True) == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


@pytest.mark.parametrize(
    "values",
    [(), (KEY, KEY), ("",), ("c2hvcnQ=",), ("dGhlIHNhbXBsZSBub25jZSE=",), ("dGhlIHNhbXBsZSBub25jZQ",),
     (KEY + ",",), ("dGhlIHNhbXBs!SBub25jZQ==",), ("é" * 24,), (KEY.replace("=", " "),)],
)  # fmt: skip
def test_br6_a_key_that_is_none(values: tuple[str, ...]) -> None:
    assert refusal(but("Sec-WebSocket-Key", *values)) == "bad_request"


@pytest.mark.parametrize("values", [(), ("12",), ("8",), ("13", "13"), ("13, 8",), ("013",), ("",)])
def test_br6_another_version(values: tuple[str, ...]) -> None:
    assert refusal(but("Sec-WebSocket-Version", *values)) == "websocket_version"


@pytest.mark.parametrize("method", ["POST", "HEAD", "get", "OPTIONS"])
def test_br6_another_method(method: str) -> None:
    assert refusal(USUAL, method=method) == "bad_request"


FOREIGN = [
    "https://evil.test", "null", "https://app.test.evil.test", "http://app.test", "https://app.test:444", "",
    "https://evil.test/https://app.test", "https://app.test/", "https://app.test@evil.test", "app.test", "//app.test",
    "https://app.test https://evil.test", "https://app.test,https://evil.test", "https://xn--pp-fla.test", "file://",
    "https://äpp.test", "https://app。test", "https://app.test\\", "https://sub.app.test", "HTTPS:app.test", "*",
]  # fmt: skip


@pytest.mark.parametrize("origin", FOREIGN)
@pytest.mark.parametrize("signed_in", [True, False])
def test_br5_a_page_of_another_origin(origin: str, signed_in: bool) -> None:
    with pytest.raises(RequestFault) as caught:
        accepted(head(but("Origin", origin)), WebSocketSettings(), signed_in=signed_in)
    assert caught.value.code == "cross_site"


def test_br5_two_origins_are_none() -> None:
    assert refusal(but("Origin", ASKED, ASKED)) == "cross_site"


@pytest.mark.parametrize(
    "origin", ["https://app.test", "https://APP.test:443", "HTTPS://App.Test", "https://app.test:443"]
)
def test_br5_the_same_origin_in_other_spellings(origin: str) -> None:
    assert accepted(head(but("Origin", origin)), WebSocketSettings(), signed_in=True)


def test_f220_other_origins_take_the_place_of_our_own() -> None:
    settings = WebSocketSettings.model_validate({"origins": ["https://Other.test", "http://localhost:3000"]})
    for origin in ("https://other.test", "http://localhost:3000"):
        assert accepted(head(but("Origin", origin)), settings, signed_in=True)
    assert refusal(but("Origin", ASKED), settings) == "cross_site"


def test_br5_without_an_origin() -> None:
    """No browser leaves it out: it is a program, which may have no session by cookie, unless the setting says so."""
    assert refusal(but("Origin")) == "cross_site"
    assert accepted(head(but("Origin")), WebSocketSettings(), signed_in=False)
    assert accepted(head(but("Origin")), WebSocketSettings(require_origin=False), signed_in=True)


# ── frames ──


def frame(opcode: int, payload: bytes, *, masked: bool, fin: bool = True, wide: int = 0) -> bytes:
    """A frame; ``wide`` writes the length in more bytes than needed."""
    size, mask = len(payload), 0x80 if masked else 0
    first = bytes((opcode | (0x80 if fin else 0),))
    if size > 0xFFFF or wide == 8:
        length = bytes((mask | 127,)) + size.to_bytes(8, "big")
    elif size > 125 or wide == 2:
        length = bytes((mask | 126,)) + size.to_bytes(2, "big")
    else:
        length = bytes((mask | size,))
    return first + length + (b"mask" if masked else b"") + payload


FRAMES = [
    frame(1, b"", masked=True), frame(1, b"", masked=False), frame(2, b"x" * 125, masked=True),
    frame(2, b"x" * 126, masked=False), frame(2, b"x" * 65535, masked=True), frame(2, b"x" * 65536, masked=False),
    frame(1, b"a", masked=True, fin=False), frame(9, b"ping", masked=True), frame(0, b"b", masked=True),
    frame(1, b"x", masked=False, wide=8), frame(1, b"x", masked=True, wide=2), frame(10, b"\x88\x02", masked=False),
]  # fmt: skip


@pytest.mark.parametrize("seed", range(30))
def test_boundaries_are_found_however_the_bytes_are_split(seed: int) -> None:
    dice = random.Random(seed)
    stream, ends = b"", {0}
    for chosen in dice.choices(FRAMES, k=12):
        stream += chosen
        ends.add(len(stream))
    follower, at = Frames(), 0
    while at < len(stream):
        step = dice.choice([1, 1, 1, 2, 3, 5, 14, 100, 70000])
        follower.follow(stream[at : at + step])
        at = min(at + step, len(stream))
        assert follower.between == (at in ends), at
    assert not follower.closing


def test_every_single_byte() -> None:
    for chosen in FRAMES[:2] + FRAMES[6:]:
        follower = Frames()
        for index in range(len(chosen)):
            assert follower.between == (index == 0)
            follower.follow(chosen[index : index + 1])
        assert follower.between


def test_nothing_may_follow_a_close_frame() -> None:
    follower = Frames()
    data = FRAMES[2] + frame(8, b"\x03\xe8bye", masked=True)
    follower.follow(data[:-1])
    assert (follower.closing, follower.between) == (True, False)
    follower.follow(data[-1:])
    assert (follower.closing, follower.between) == (True, True)


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("masked", [True, False])
def test_br6_a_message_that_is_too_large_is_seen_at_its_header(masked: bool, step: int) -> None:
    small = frame(1, b"x" * 200, masked=masked) + frame(1, b"x" * 150, masked=masked, fin=False)
    small += frame(9, b"x" * 125, masked=masked) + frame(0, b"x" * 50, masked=masked)
    small += frame(2, b"x" * 199, masked=masked, fin=False)
    for large in (
        frame(0, b"xx", masked=masked),
        frame(0, b"x" * 300, masked=masked),
        frame(9, b"x" * 126, masked=masked),
    ):
        follower, at, stream = Frames(200), 0, small + large
        while (before := follower.follow(stream[at : at + step])) is None:
            at += step
        assert at + before == len(small)
        assert follower.between == (before >= 0), "what has passed of the large one's header is not undone"
        follower.stop()
        assert follower.follow(frame(8, b"", masked=masked) * 1000) is None
        assert (follower.between, follower.closing) == (False, False), "its payload is not taken for frames"


def test_our_close_frames() -> None:
    assert close_frame(1001, "bye") == b"\x88\x05\x03\xe9bye"
    masked = close_frame(1008, "session ended", b"\x01\x02\x03\x04")
    assert masked[:6] == b"\x88\x8f\x01\x02\x03\x04"
    assert bytes(byte ^ b"\x01\x02\x03\x04"[i % 4] for i, byte in enumerate(masked[6:])) == b"\x03\xf0session ended"
