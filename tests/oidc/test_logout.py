from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from oidc_proxy.oidc import logout_url

from .samples import provider, settings

END_SESSION = "https://provider.example.com/end-session"
RETURN_TO = "https://app.example.com/logout-callback"
ALL = {"id_token": "a.b.c", "return_to": RETURN_TO, "state": "s t"}


def url(**changed: Any) -> str:
    made = logout_url(provider(end_session_endpoint=END_SESSION), settings(), **{**ALL, **changed})
    assert made is not None
    return made


def parameters(made: str) -> dict[str, str]:
    pairs = parse_qsl(urlsplit(made).query, keep_blank_values=True, strict_parsing=True)
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


CLIENT = {"client_id": "app"}
RETURN = {"post_logout_redirect_uri": RETURN_TO}


@pytest.mark.parametrize(
    ("row", "changed", "found"),
    [
        ("F98", {}, {**CLIENT, **RETURN, "id_token_hint": "a.b.c", "state": "s t"}),
        (
            "F98",
            {"ui_locales": "de en"},
            {**CLIENT, **RETURN, "id_token_hint": "a.b.c", "state": "s t", "ui_locales": "de en"},
        ),
        ("LO-1", {"return_to": None, "state": None}, {**CLIENT, "id_token_hint": "a.b.c"}),
        ("LO-2", {"return_to": None}, {**CLIENT, "id_token_hint": "a.b.c"}),
        ("F199", {"id_token": None}, {**CLIENT, **RETURN, "state": "s t"}),
        ("F199", {"id_token": None, "return_to": None, "state": None}, CLIENT),
    ],
)
def test_rp_initiated_logout(row: str, changed: dict[str, Any], found: dict[str, str]) -> None:
    made = url(**changed)
    assert made.startswith(f"{END_SESSION}?")
    assert parameters(made) == found, row


def test_v5_the_return_address_is_encoded() -> None:
    assert "post_logout_redirect_uri=https%3A%2F%2Fapp.example.com%2Flogout-callback" in url()


def test_f9_the_endpoint_keeps_its_query() -> None:
    made = logout_url(provider(end_session_endpoint=f"{END_SESSION}?t=1"), settings(), **ALL)
    assert made is not None
    assert made.startswith(f"{END_SESSION}?t=1&")


def test_the_hint_gives_way_when_the_url_would_be_too_long() -> None:
    longest = 8000 - len(url(id_token="")) - len("id_token_hint=&")
    assert len(url(id_token="x" * longest)) == 8000
    assert parameters(url(id_token="x" * longest))["id_token_hint"] == "x" * longest
    assert parameters(url(id_token="x" * (longest + 1))) == {**CLIENT, **RETURN, "state": "s t"}
    assert "id_token_hint" not in url(limit=200, id_token="x" * 200)


def test_f99_without_an_endpoint_there_is_nowhere_to_go() -> None:
    assert logout_url(provider(), settings(), **ALL) is None
