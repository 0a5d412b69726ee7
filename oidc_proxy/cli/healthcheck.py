"""``oidc-proxy healthcheck``: for images that have neither shell nor curl."""

from __future__ import annotations

import argparse
import http.client
import sys

from oidc_proxy.cli import BAD_CONFIGURATION, FAILED, OK
from oidc_proxy.cli.options import config_options, config_or_none


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    config_options(parser)
    parser.add_argument(
        "--address",
        metavar="HOST:PORT",
        help="the administration listener (default: as configured; reads no file then)",
    )
    parser.add_argument("--timeout", type=float, default=3.0, metavar="SECONDS", help="longest wait (default: 3)")


def run(options: argparse.Namespace) -> int:
    """0 when the gateway says that it is ready, 1 when it does not, 78 when the configuration cannot be read."""
    address = options.address
    if address is None:
        config = config_or_none(options, warn=False)
        if config is None:
            return BAD_CONFIGURATION
        if config.admin.address is None:
            print("not known: the configuration has no administration listener", file=sys.stderr)
            return FAILED
        address = config.admin.address
    try:
        status, text = ask(*reachable(address), options.timeout)
    except (OSError, http.client.HTTPException) as error:
        print(f"not ready: {address} does not answer: {error}", file=sys.stderr)
        return FAILED
    if status != 200:
        print(f"not ready: {address} answers {status}: {text}", file=sys.stderr)
        return FAILED
    return OK


def reachable(address: str) -> tuple[str, int]:
    """Host and port to connect to; an address that means every interface is reached on this machine."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    return {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host), int(port)


def ask(host: str, port: int, timeout: float) -> tuple[int, str]:
    """Status and first words of ``GET /readyz``. OSError or HTTPException when there is no answer."""
    connection = http.client.HTTPConnection(host, port, timeout=timeout)
    try:
        connection.request("GET", "/readyz")
        response = connection.getresponse()
        return response.status, response.read(500).decode("utf-8", "replace").strip()
    finally:
        connection.close()
