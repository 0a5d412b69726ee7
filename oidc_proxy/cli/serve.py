"""``oidc-proxy serve``: run the gateway."""

from __future__ import annotations

import argparse
import os
import sys

from oidc_proxy.cli import BAD_CONFIGURATION, OK
from oidc_proxy.cli.options import config_options, config_or_none


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    config_options(parser)
    parser.add_argument("--check-config", action="store_true", help="only say whether the configuration is fine")


def run(options: argparse.Namespace) -> int:
    """Serve until told to stop; 78 and every problem when the configuration has any."""
    _open_standard_descriptors()
    from oidc_proxy.errors import SettingsFault

    try:
        config = config_or_none(options)
        if config is None:
            return BAD_CONFIGURATION
        if options.check_config:
            return OK
        from oidc_proxy.server import workers

        return int(workers.run(config) or OK)
    except SettingsFault as fault:
        print(fault, file=sys.stderr)
        return BAD_CONFIGURATION


def _open_standard_descriptors() -> None:
    """One that is closed would be the next socket's, where log lines go to, and libuv aborts when it closes that."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
