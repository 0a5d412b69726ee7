"""Writes golden outputs and generated files again: ``python -m tests.config.write``."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from oidc_proxy.config import Config, generate, read_config
from oidc_proxy.config.problems import report
from oidc_proxy.errors import FAMILIES

ROOT = Path(__file__).parents[2]
CORPUS = ROOT / "tests" / "corpus" / "config"
CASES = sorted(path.name for path in CORPUS.glob("*.yaml"))
ENVIRON = {"CLIENT_SECRET": "s3cret", "EMPTY": ""}

GENERATED: dict[str, Callable[[Any], str]] = {
    "config.example.yaml": generate.example,
    "config.schema.json": generate.schema,
    "docs/settings.md": generate.settings_page,
    "docs/errors.md": lambda _: generate.errors_page(FAMILIES),
}


def said_about(name: str) -> str:
    """What is said about a file of the corpus, which must be the working directory."""
    return report(read_config([Path(name)], ENVIRON).problems, [name]) + "\n"


def main() -> None:
    """Write everything."""
    os.chdir(CORPUS)
    for name in CASES:
        Path(name).with_suffix(".txt").write_text(said_about(name))
    for name, make in GENERATED.items():
        (ROOT / name).write_text(make(Config))


if __name__ == "__main__":
    main()
