"""The values in force and their origins (F251)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from oidc_proxy.config import read_config, show
from oidc_proxy.values import Duration, Secret
from tests.config.small import Key

ROOT = Path(__file__).parents[2]
CORPUS = ROOT / "tests" / "corpus" / "config"
ENVIRON = {"CLIENT_SECRET": "s3cret", "EMPTY": ""}
MINIMAL = (CORPUS / "minimal.yaml").read_text()


def test_f251_show_gives_every_value_its_origin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CORPUS)
    environ = {
        **ENVIRON,
        "OIDC_PROXY__STORE__PASSWORD": "canary",
        "OIDC_PROXY__UPSTREAMS__API__HEADERS__COOKIE": "canary",
    }
    loaded = read_config([Path("full.yaml")], environ, {"store.url": "redis://me:canary@redis:6379"})
    assert loaded.settings is not None
    lines = show.effective(loaded.settings, loaded.tree)
    found = {".".join(line.path): (line.value, line.origin) for line in lines}
    assert found["provider.issuer"] == ("https://keycloak.example.com/realms/main", "full.yaml:4:11")
    assert found["provider.client_secret"] == ('"***"', "full.yaml:7:23")
    assert found["provider.timeout"] == ("10s", "default")
    assert found["store.password"] == ('"***"', "environment variable OIDC_PROXY__STORE__PASSWORD")
    assert found["store.url"] == ("redis://*********@redis:6379", "option --set store.url")
    assert found["upstreams.api.headers.cookie"][0] == '"***"'
    assert found["routes.1.groups"] == ("[/staff/ops]", "full.yaml:20:29")
    assert found["identity.authorization"] == ("access_token", "default")
    assert found["identity.headers.X-Forwarded-User"] == ("user", "default")
    assert found["upstreams"] == (None, "full.yaml:16:3")
    printed = show.as_yaml(lines)
    assert "canary" not in printed
    data = yaml.safe_load(printed)
    assert data["routes"][2]["host"] == "api.example.com"
    assert data["session"]["cookie"]["domain"] == "example.com"
    assert data["listen"]["trusted_proxies"] == ["10.0.0.0/8", "fd00::/8"]
    assert data["identity"]["headers"]["X-Forwarded-User"] == "user"
    as_json = json.loads(show.as_json(lines))
    assert {"path": "version", "value": "1", "origin": "full.yaml:1:10"} in as_json


def test_f251_show_says_what_is_derived_from_the_short_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CORPUS)
    loaded = read_config([Path("minimal.yaml")], ENVIRON)
    assert loaded.settings is not None
    found = {".".join(line.path): line.origin for line in show.effective(loaded.settings, loaded.tree)}
    assert found["upstream.url"] == "minimal.yaml:6:11"
    assert found["upstream.max_connections"] == "default"
    assert found["upstreams.default.url"] == "derived"
    assert found["routes.0.path"] == "derived"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"), (True, "true"), (5, "5"), (0.5, "0.5"), ("plain", "plain"), ("with: colon", '"with: colon"'),
        ("5", '"5"'), ("true", '"true"'), ("", '""'), ("*star", '"*star"'), ("a # b", '"a # b"'), ("a, b", '"a, b"'),
        ("https://a.example/b?c", '"https://a.example/b?c"'), ("http://a.example:80", "http://a.example:80"),
        ("é", '"é"'), ("ends:", '"ends:"'),
        (("a", 1), "[a, 1]"), ({"a": (True,)}, "{a: [true]}"), (Duration(90), "1m30s"),
        (Path("/x"), "/x"), (Key(), "{key: null, key_file: null}"), (Secret("x"), '"***"'), (Duration(0), "0"),
    ],
)  # fmt: skip
def test_values_are_written_so_that_yaml_reads_them_back(value: Any, text: str) -> None:
    assert show.yaml_text(value) == text
    if isinstance(value, str | int | float | None) and not isinstance(value, Duration):
        assert yaml.safe_load(f"[{text}]") == [value]
