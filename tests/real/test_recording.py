"""Traefik does what was recorded of it, and so does the stand-in that the stories are told with where it is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.real.fronts import FRONTS, ROOT
from tests.real.recording import FILE, REQUESTS, recorded

RECORD: dict[str, Any] = yaml.safe_load(FILE.read_text())


@pytest.mark.parametrize("name", [name for name in FRONTS if name.startswith("traefik")])
async def test_it_asks_passes_on_and_answers_as_recorded_line_for_line(name: str, tmp_path: Path) -> None:
    found = await recorded(FRONTS[name](), tmp_path)
    assert len(found) == len(RECORD["exchanges"]) == len(REQUESTS)
    for exchange, was in zip(found, RECORD["exchanges"], strict=True):
        assert exchange == was


def test_no_secret_of_a_session_is_in_the_record_and_the_pages_say_its_version() -> None:
    lines = [line for exchange in RECORD["exchanges"] for part in exchange.values() for line in flat(part)]
    assert {line for line in lines if line.startswith("Authorization: Bearer ")} == {"Authorization: Bearer {token}"}
    cookies = {pair for line in lines if line.startswith("Cookie: ") for pair in line[8:].split("; ")}
    assert cookies == {"a=1", "b=2", "oidc_proxy={ann}", "oidc_proxy={eve}"}
    for page in ("docs/forward_auth.md", "deploy/traefik/README.md"):
        assert f"Traefik {RECORD['traefik']}" in (ROOT / page).read_text()


def flat(part: Any) -> list[str]:
    return [line for each in part for line in (each if isinstance(each, list) else [each])]
