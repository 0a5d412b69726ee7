"""What the commands that read a configuration have in common: where it is, and what happens when it has problems."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from oidc_proxy.config import Config, Loaded, Problem

VARIABLE = "OIDC_PROXY_CONFIG"
USUAL = Path("/etc/oidc-proxy/config.yaml")


def config_options(parser: argparse.ArgumentParser) -> None:
    """``--config FILE``, which may be repeated, and ``--set PATH=VALUE``."""
    parser.add_argument(
        "--config",
        "-c",
        action="append",
        type=Path,
        default=None,
        metavar="FILE",
        help=f"configuration file; may be repeated, later files win (default: ${VARIABLE}, or {USUAL})",
    )
    set_option(parser)


def set_option(parser: argparse.ArgumentParser) -> None:
    """``--set PATH=VALUE``."""
    parser.add_argument(
        "--set",
        action="append",
        type=_assignment,
        default=[],
        metavar="PATH=VALUE",
        help="one setting, such as listen.address=127.0.0.1:8080; may be repeated",
    )


def _assignment(text: str) -> tuple[str, str]:
    path, equals, value = text.partition("=")
    if not equals or not path:
        raise argparse.ArgumentTypeError(f"“{text}” is not PATH=VALUE")
    return path, value


def config_files(given: Sequence[Path] | None) -> list[Path]:
    """The files to read: those given, else the one that the variable names, else the usual one if it is there."""
    if given:
        return list(given)
    if named := os.environ.get(VARIABLE):
        return [Path(part) for part in named.split(os.pathsep)]
    return [USUAL] if USUAL.exists() else []


def loaded_config(options: argparse.Namespace) -> Loaded[Config]:
    """What the options name, with its problems."""
    from oidc_proxy.config import read_config

    return read_config(config_files(options.config), os.environ, dict(options.set))


def config_or_none(options: argparse.Namespace, *, warn: bool = True) -> Config | None:
    """The configuration; errors and warnings go to standard error. None, when there are errors, asks for status 78."""
    loaded = loaded_config(options)
    if warn or loaded.errors:
        print_problems(loaded.problems, options)
    return loaded.settings


def print_problems(problems: Sequence[Problem], options: argparse.Namespace) -> None:
    """Errors and warnings on standard error, if there are any."""
    if problems:
        from oidc_proxy.config.problems import report

        files = config_files(options.config)
        print(report(problems, list(map(str, files))), file=sys.stderr)
        if not files:
            print(f"no file was read: name one with --config or in {VARIABLE}, or make {USUAL}", file=sys.stderr)
