from __future__ import annotations

import pytest

from oidc_proxy.errors import ProviderFault
from oidc_proxy.oidc import read_document, read_json
from oidc_proxy.oidc.documents import quotable


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b'{"a":[1,2.5,null,true,"\\u00fc\\ud83d\\ude00"]}', {"a": [1, 2.5, None, True, "ü😀"]}),
        (b'"' + b"[" * 40 + b' \\" ["', "[" * 40 + ' " ['),
        (b"[" + b"[]," * 40 + b"0]", [*[[]] * 40, 0]),
    ],
)
def test_json_is_read(body: bytes, value: object) -> None:
    assert read_json(body) == value


def test_32_levels_are_enough() -> None:
    value = read_json(b"[" * 32 + b"]" * 32)
    for _ in range(31):
        (value,) = value
    assert value == []


@pytest.mark.parametrize(
    ("row", "body", "says"),
    [
        ("HO-26", b"[" * 33 + b"]" * 33, "deep"),
        ("HO-26", b"[" * 40000, "deep"),
        ("HO-26", b'{"a":1,"a":2}', "twice"),
        ("HO-26", b'{"x":{"a":1,"\\u0061":2}}', "twice"),
        ("HO-26", '{"a":1}'.encode("utf-16"), "UTF-8"),
        ("HO-26", b'\xef\xbb\xbf{"a":1}', "JSON"),
        ("ID-36", b'{"a":"\xff"}', "UTF-8"),
        ("HO-24", b'{"a":"\\ud800"}', "UTF-8"),
        ("HO-24", b'{"\\udc00":1}', "UTF-8"),
        ("HO-20", b'{"a":NaN}', "finite"),
        ("HO-20", b'{"a":-Infinity}', "finite"),
        ("HO-12", b'{"a":1e400}', "finite"),
        ("HO-12", b'{"a":' + b"9" * 5000 + b"}", "4300"),
        ("F4", b"", "JSON"),
        ("F4", b"<html>", "JSON"),
        ("F4", b'{"a":1} x', "JSON"),
        ("F4", b'"abc', "JSON"),
        ("F4", b'"abc\\', "JSON"),
        ("F4", b"{'a':1}", "JSON"),
        ("F4", b"]", "JSON"),
    ],
)
def test_what_readers_could_understand_differently_is_refused(row: str, body: bytes, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        read_json(body)


def test_unterminated_strings_take_linear_time() -> None:
    with pytest.raises(ValueError, match="JSON"):
        read_json(b'"' + b'\\"' * 500_000)


@pytest.mark.parametrize(
    "content_type", ["application/json", "Application/JSON; charset=utf-8", "application/jwk-set+json"]
)
def test_di_2_json_by_any_of_its_names(content_type: str) -> None:
    assert read_document("metadata", 200, content_type, b'{"a":1}') == {"a": 1}


@pytest.mark.parametrize(
    ("row", "status", "content_type", "body", "code", "says"),
    [
        ("F5", 500, "text/html", b"", "provider_unavailable", "500"),
        ("HO-29", 503, "application/json", b"{}", "provider_unavailable", "503"),
        ("HO-36", 429, "application/json", b"{}", "provider_unavailable", "429"),
        ("DI-2", 404, "application/json", b"{}", "provider_response_invalid", "404"),
        ("DI-2", 201, "application/json", b"{}", "provider_response_invalid", "201"),
        ("HO-7", 302, "application/json", b"{}", "provider_response_invalid", "302"),
        ("F4", 200, "text/plain", b"{}", "provider_response_invalid", "text/plain"),
        ("F4", 200, "", b"{}", "provider_response_invalid", "content type"),
        ("F4", 200, "text/x+json", b"{}", "provider_response_invalid", "content type"),
        ("HO-27", 200, "application/json", b"<html>", "provider_response_invalid", "is not JSON"),
    ],
)
def test_only_200_with_json_is_a_document(
    row: str, status: int, content_type: str, body: bytes, code: str, says: str
) -> None:
    with pytest.raises(ProviderFault) as caught:
        read_document("metadata", status, content_type, body)
    assert caught.value.code == code, row
    assert says in caught.value.detail
    assert caught.value.detail.startswith("the metadata")


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        ("Client is currently disabled", "Client is currently disabled"),
        ("temporarily_unavailable: authentication_expired", "temporarily_unavailable: authentication_expired"),
        ("Invalid code: 0f1e2d3c4b5a69788796", "Invalid code: …"),
        ("token eyJhbGciOiJIUzI1NiJ9.e30.abc refused", "token … refused"),
        ("bad\r\nX-Evil: 1\x00\u202e", "bad  X-Evil: 1  "),
        ("AADSTS70008: expired", "AADSTS70008: expired"),
        ("long " * 100, "long " * 40),
    ],
)
def test_s29_words_of_the_provider_are_quoted_without_anything_like_a_token(text: str, quoted: str) -> None:
    assert quotable(text) == quoted
