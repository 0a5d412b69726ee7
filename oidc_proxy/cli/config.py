"""``oidc-proxy config check | show | schema | example | docs | errors``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from oidc_proxy.cli import BAD_CONFIGURATION, OK
from oidc_proxy.cli.options import config_files, config_options, loaded_config, print_problems, set_option

_FORMS = ("text", "json", "github")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    commands = parser.add_subparsers(dest="action", metavar="action", required=True)

    check = commands.add_parser("check", help="say everything that is wrong; exit status 78 if anything is")
    check.add_argument(
        "config", nargs="*", type=Path, metavar="FILE", help="files to check, one over the other (default: as serve)"
    )
    check.add_argument("--format", choices=_FORMS, default="text", help="how problems are printed (default: text)")
    set_option(check)
    check.set_defaults(act=_check)

    show = commands.add_parser("show", help="print the values in force and where they come from; secrets as ***")
    config_options(show)
    show.add_argument("--json", action="store_true", help="as JSON")
    show.set_defaults(act=_show)

    for name, act, summary in (
        ("schema", _schema, "print the JSON Schema of the file, for editors"),
        ("example", _example, "print a file to start from, with every setting explained"),
        ("docs", _docs, "print the settings page of the documentation"),
        ("errors", _errors, "print the errors page of the documentation"),
    ):
        commands.add_parser(name, help=summary, description=summary).set_defaults(act=act)


def run(options: argparse.Namespace) -> int:
    """Do what was asked; the exit status."""
    return int(options.act(options))


def _check(options: argparse.Namespace) -> int:
    from oidc_proxy.config.problems import report

    loaded = loaded_config(options)
    print(report(loaded.problems, list(map(str, config_files(options.config))), options.format))
    return BAD_CONFIGURATION if loaded.settings is None else OK


def _show(options: argparse.Namespace) -> int:
    from oidc_proxy.config.show import as_json, as_yaml, effective

    loaded = loaded_config(options)
    print_problems(loaded.problems, options)
    if loaded.settings is None:
        return BAD_CONFIGURATION
    lines = effective(loaded.settings, loaded.tree)
    sys.stdout.write(as_json(lines) if options.json else as_yaml(lines))
    return OK


def _schema(options: argparse.Namespace) -> int:
    from oidc_proxy.config import Config
    from oidc_proxy.config.generate import schema

    sys.stdout.write(schema(Config))
    return OK


def _example(options: argparse.Namespace) -> int:
    from oidc_proxy.config import Config
    from oidc_proxy.config.generate import example

    sys.stdout.write(example(Config))
    return OK


def _docs(options: argparse.Namespace) -> int:
    from oidc_proxy.config import Config
    from oidc_proxy.config.generate import settings_page

    sys.stdout.write(settings_page(Config))
    return OK


def _errors(options: argparse.Namespace) -> int:
    from oidc_proxy.config.generate import errors_page
    from oidc_proxy.errors import FAMILIES

    sys.stdout.write(errors_page(FAMILIES))
    return OK
