"""``oidc-proxy demo``: everything in one process, to try it out."""

from __future__ import annotations

import argparse
import asyncio


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--port", type=int, default=None, help="port of the gateway (default: 4180, or any free one)")


def run(options: argparse.Namespace) -> int:
    """Serve until interrupted."""
    from oidc_proxy.demo import house

    return asyncio.run(house.run(options.port))
