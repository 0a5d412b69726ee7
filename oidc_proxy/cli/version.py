"""``oidc-proxy version``."""

from __future__ import annotations

import argparse
import json
import platform

from oidc_proxy import __version__
from oidc_proxy.cli import OK

PARTS = ("aiohttp", "authlib", "cryptography", "hiredis", "httptools", "joserfc", "pydantic", "redis", "uvloop")
"""What the gateway runs on, by the names of the distributions."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--json", action="store_true", help="with the versions of what it runs on, as JSON")


def run(options: argparse.Namespace) -> int:
    """Print the version."""
    print(json.dumps(_facts(), indent=2) if options.json else f"oidc-proxy {__version__}")
    return OK


def _facts() -> dict[str, object]:
    from importlib.metadata import PackageNotFoundError, version

    parts: dict[str, str | None] = {}
    for name in PARTS:
        try:
            parts[name] = version(name)
        except PackageNotFoundError:
            parts[name] = None
    return {
        "version": __version__,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "platform": platform.platform(),
        "parts": parts,
    }
