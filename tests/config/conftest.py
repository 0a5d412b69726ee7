"""Reading the small configuration from a text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from oidc_proxy.config import Loaded
from oidc_proxy.config.reading import read
from tests.config.small import Read, Root


@pytest.fixture
def parsed(tmp_path: Path) -> Read:
    def read_text(text: str, environ: Mapping[str, str] = {}, **options: Any) -> Loaded[Any]:
        file = tmp_path / "oidc.yaml"
        file.write_text(text)
        return read(options.pop("root", Root), [file], environ, **options)

    return read_text
