from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from oidc_proxy.errors import LoginFault, ProviderFault, ProxyError
from oidc_proxy.oidc import Tokens, check_revocation, read_token_response, read_userinfo

from .samples import NOW

JSON = "application/json"


def body(**changed: Any) -> bytes:
    answer = {"access_token": "at", "token_type": "Bearer", **changed}
    return json.dumps({name: value for name, value in answer.items() if value is not ...}).encode()


@pytest.mark.parametrize(
    ("row", "changed", "tokens"),
    [
        ("TK-14", {}, Tokens(access_token="at")),
        ("TK-12", {"token_type": "bEARER"}, Tokens(access_token="at")),
        ("TK-11", {"foo": {"bar": []}, "not-before-policy": 0}, Tokens(access_token="at")),
        ("F55", {"expires_in": 300}, Tokens(access_token="at", expires_at=NOW + 300)),
        ("F55", {"expires_in": 0}, Tokens(access_token="at", expires_at=NOW)),
        ("F55", {"expires_in": 1.5}, Tokens(access_token="at", expires_at=NOW + 1.5)),
        ("HO-12", {"expires_in": 10**400}, Tokens(access_token="at", expires_at=NOW + 3650 * 86400)),
        ("HO-12", {"expires_in": None}, Tokens(access_token="at")),
        (
            "F55",
            {"refresh_token": "rt", "refresh_expires_in": 1800},
            Tokens(access_token="at", refresh_token="rt", refresh_expires_at=NOW + 1800),
        ),
        (
            "F55",
            {"refresh_token": "rt", "refresh_expires_in": 0},
            Tokens(access_token="at", refresh_token="rt", refresh_expires_at=None),
        ),
        (
            "TK-15",
            {"scope": "openid x", "id_token": "a.b.c"},
            Tokens(access_token="at", scope="openid x", id_token="a.b.c"),
        ),
        ("TK-15", {"scope": ["openid", "x"]}, Tokens(access_token="at", scope="openid x")),
        ("HO-10", {"id_token": None, "refresh_token": None}, Tokens(access_token="at")),
    ],
)
def test_tokens_are_read(row: str, changed: dict[str, Any], tokens: Tokens) -> None:
    assert read_token_response(200, JSON, body(**changed), now=NOW) == tokens, row


@pytest.mark.parametrize(
    ("row", "changed"),
    [
        ("HO-9", {"token_type": ...}),
        ("HO-9", {"token_type": "mac"}),
        ("TK-13", {"token_type": "DPoP"}),
        ("TK-13", {"token_type": ["Bearer"]}),
        ("HO-10", {"id_token": ["a.b.c"]}),
        ("HO-10", {"id_token": ""}),
        ("HO-11", {"access_token": ...}),
        ("HO-11", {"access_token": 1}),
        ("HO-11", {"access_token": ""}),
        ("HO-11", {"access_token": "a\r\nX: y"}),
        ("HO-11", {"access_token": "a\n"}),
        ("HO-11", {"access_token": "ä"}),
        ("HO-11", {"access_token": "a b"}),
        ("HO-12", {"expires_in": "300"}),
        ("HO-12", {"expires_in": -1}),
        ("HO-12", {"expires_in": True}),
        ("HO-12", {"refresh_expires_in": -1}),
        ("HO-13", {"refresh_token": ""}),
        ("HO-13", {"refresh_token": 7}),
        ("TK-15", {"scope": 7}),
        ("TK-15", {"scope": [7]}),
    ],
)
def test_a_broken_answer_gives_no_tokens(row: str, changed: dict[str, Any]) -> None:
    with pytest.raises(ProviderFault) as caught:
        read_token_response(200, JSON, body(**changed), now=NOW)
    assert caught.value.code == "provider_response_invalid", row


OAUTH = {"error_description": "no"}


@pytest.mark.parametrize(
    ("row", "status", "content_type", "answer", "family", "code"),
    [
        ("HO-6", 200, "text/html", body(), ProviderFault, "provider_response_invalid"),
        ("F56", 200, JSON, b"<html>log in</html>", ProviderFault, "provider_response_invalid"),
        ("F56", 200, JSON, b"[]", ProviderFault, "provider_response_invalid"),
        ("HO-12", 200, JSON, body()[:-1] + b', "expires_in": 1e400}', ProviderFault, "provider_response_invalid"),
        ("TK-10", 201, JSON, body(), ProviderFault, "provider_response_invalid"),
        ("TK-17", 302, JSON, body(), ProviderFault, "provider_response_invalid"),
        ("HO-7", 307, JSON, body(), ProviderFault, "provider_response_invalid"),
        ("TK-16", 500, "text/html", b"<html>", ProviderFault, "provider_unavailable"),
        ("TK-16", 503, JSON, b'{"error":"invalid_grant"}', ProviderFault, "provider_unavailable"),
        ("HO-36", 429, JSON, b'{"error":"invalid_grant"}', ProviderFault, "provider_unavailable"),
        ("HO-34", 400, JSON, b'{"error":"invalid_grant"}', LoginFault, "code_refused"),
        ("TK-16", 401, JSON, b'{"error":"invalid_client"}', ProviderFault, "client_rejected"),
        ("TK-16", 400, JSON, b'{"error":"invalid_client"}', ProviderFault, "client_rejected"),
        ("HO-8", 401, JSON, b'{"error":"unauthorized_client"}', ProviderFault, "client_rejected"),
        ("V12", 400, JSON, b'{"error":"unsupported_grant_type"}', LoginFault, "provider_refused"),
        ("F50", 403, JSON, b'{"error":"never heard of"}', LoginFault, "provider_refused"),
        ("F56", 400, "text/html", b'{"error":"invalid_grant"}', ProviderFault, "provider_response_invalid"),
        ("F56", 400, JSON, b"<html>", ProviderFault, "provider_response_invalid"),
        ("F56", 400, JSON, b"[]", ProviderFault, "provider_response_invalid"),
        ("F56", 401, JSON, b"{}", ProviderFault, "provider_response_invalid"),
        ("F56", 400, JSON, b'{"error":["invalid_grant"]}', ProviderFault, "provider_response_invalid"),
        ("F56", 404, "", b"", ProviderFault, "provider_response_invalid"),
    ],
)
def test_every_failure_is_by_whose_fault_it_is(
    row: str, status: int, content_type: str, answer: bytes, family: type[ProxyError], code: str
) -> None:
    with pytest.raises(family) as caught:
        read_token_response(status, content_type, answer, now=NOW)
    assert caught.value.code == code, row


@pytest.mark.parametrize(
    ("description", "detail"),
    [
        ("Code not valid", "invalid_grant: Code not valid"),
        ("Invalid refresh token: eyJhbGciOiJIUzUxMiJ9.eyJleHAi", "invalid_grant: Invalid refresh token: …"),
        (7, "invalid_grant: no description"),
    ],
)
def test_s29_the_description_is_for_the_log_and_without_the_token(description: object, detail: str) -> None:
    answer = json.dumps({"error": "invalid_grant", "error_description": description}).encode()
    with pytest.raises(LoginFault) as caught:
        read_token_response(400, JSON, answer, now=NOW)
    assert caught.value.detail == detail


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7),
        (" 120 ", 120),
        ("999999", 3600),
        ("-1", None),
        ("soon", None),
        ("٣", None),
        ("9" * 5000, None),
        (None, None),
    ],
)
def test_ho_36_retry_after_in_seconds(header: str | None, seconds: int | None) -> None:
    with pytest.raises(ProviderFault) as caught:
        read_token_response(429, JSON, b"", now=NOW, retry_after=header)
    assert caught.value.retry_after == seconds


def test_s29_tokens_do_not_print_themselves() -> None:
    tokens = Tokens(access_token="SecretAccess", refresh_token="SecretRefresh")
    assert repr(tokens) == str(tokens) == "Tokens(access_token, refresh_token)"
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(tokens), type=Tokens) == tokens


@pytest.mark.parametrize(
    ("row", "content_type", "answer", "found"),
    [
        ("ID-20", JSON, b'{"sub":"ann","n":1}', {"sub": "ann", "n": 1}),
        ("ID-20", "application/json;charset=UTF-8", b"{}", {}),
        ("ID-20", "Application/JWT", b" a.b.c\n", "a.b.c"),
    ],
)
def test_userinfo_is_claims_or_a_jwt(row: str, content_type: str, answer: bytes, found: object) -> None:
    assert read_userinfo(200, content_type, answer) == found, row


@pytest.mark.parametrize(
    ("row", "status", "content_type", "answer", "family", "code"),
    [
        ("HO-33", 401, JSON, b"{}", LoginFault, "provider_refused"),
        ("HO-33", 403, "application/jwt", b"a.b.c", LoginFault, "provider_refused"),
        ("HO-33", 500, JSON, b"{}", ProviderFault, "provider_unavailable"),
        ("HO-33", 302, "application/jwt", b"a.b.c", ProviderFault, "provider_response_invalid"),
        ("ID-20", 200, "text/html", b"{}", ProviderFault, "provider_response_invalid"),
        ("ID-20", 200, JSON, b"[]", ProviderFault, "provider_response_invalid"),
        ("ID-20", 200, JSON, b'"a.b.c"', ProviderFault, "provider_response_invalid"),
        ("ID-20", 200, JSON, b'{"sub":"a","sub":"b"}', ProviderFault, "provider_response_invalid"),
        ("ID-43", 200, "application/jwt", b"", ProviderFault, "provider_response_invalid"),
        ("ID-43", 200, "application/jwt", b"a.b.c d", ProviderFault, "provider_response_invalid"),
        ("ID-43", 200, "application/jwt", b"a.\xff.c", ProviderFault, "provider_response_invalid"),
    ],
)
def test_userinfo_that_cannot_be_used(
    row: str, status: int, content_type: str, answer: bytes, family: type[ProxyError], code: str
) -> None:
    with pytest.raises(family) as caught:
        read_userinfo(status, content_type, answer)
    assert caught.value.code == code, row


@pytest.mark.parametrize(
    ("row", "status", "content_type", "answer"),
    [
        ("LO-27", 200, "", b""),
        ("LO-27", 200, JSON, b'{"error":"whatever"}'),
        ("LO-29", 400, JSON, b'{"error":"unsupported_token_type"}'),
    ],
)
def test_a_token_is_revoked_or_need_not_be(row: str, status: int, content_type: str, answer: bytes) -> None:
    check_revocation(status, content_type, answer)
    assert row


@pytest.mark.parametrize(
    ("row", "status", "answer", "code"),
    [
        ("LO-28", 503, b"", "provider_unavailable"),
        ("LO-28", 503, b'{"error":"unsupported_token_type"}', "provider_unavailable"),
        ("LO-28", 429, b"", "provider_unavailable"),
        ("F100", 401, b'{"error":"invalid_client"}', "client_rejected"),
        ("F100", 400, b'{"error":"invalid_request"}', "provider_refused"),
        ("F100", 404, b"", "provider_response_invalid"),
        ("F100", 302, b"[]", "provider_response_invalid"),
        ("F100", 400, b'{"error":1}', "provider_response_invalid"),
    ],
)
def test_a_token_is_not_revoked(row: str, status: int, answer: bytes, code: str) -> None:
    with pytest.raises(ProxyError) as caught:
        check_revocation(status, JSON, answer, retry_after="7")
    assert caught.value.code == code, row
    assert caught.value.retry_after == (7 if code == "provider_unavailable" else None)
