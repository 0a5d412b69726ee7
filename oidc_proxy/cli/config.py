"""``oidc-proxy config check | show | import | schema | example | docs | errors``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from oidc_proxy.cli import BAD_CONFIGURATION, FAILED, OK
from oidc_proxy.cli.options import config_files, config_options, loaded_config, print_problems, set_option

if TYPE_CHECKING:
    from oidc_proxy.config.oauth2_proxy import Values

_FORMS = ("text", "json", "github")
_LONGEST_FILE = 2**20
_IMPORT = """\
A FILE is oauth2-proxy's configuration file, its alpha file, a file with its command line, a Compose file or an object
of Kubernetes. Flags follow after --. Flags win over variables, and these over files.

examples:
  oidc-proxy config import /etc/oauth2-proxy.cfg > config.yaml
  oidc-proxy config import docker-compose.yml > config.yaml
  oidc-proxy config import -- --provider=keycloak-oidc --client-id=app > config.yaml
"""


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

    imported = commands.add_parser(
        "import",
        help="turn the configuration of oauth2-proxy into ours",
        description="Print our configuration, made of oauth2-proxy's; what differs or has no counterpart goes to "
        "standard error. Secrets are not copied.",
        epilog=_IMPORT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    imported.add_argument(
        "words", nargs="*", metavar="FILE", help="oauth2-proxy's files, later ones over earlier ones; then its flags"
    )
    imported.add_argument("--environ", action="store_true", help="read OAUTH2_PROXY_* variables as well")
    imported.add_argument(
        "--forwarded-uri",
        action="store_true",
        help="the proxy in front sets X-Forwarded-Uri in every check, so rules by path can be decided by it",
    )
    imported.set_defaults(act=_import)

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


def _import(options: argparse.Namespace) -> int:
    from oidc_proxy.config.oauth2_proxy import convert, of_environ, of_words, read

    words = [word for word in options.words if word != "--"]
    first = next((index for index, word in enumerate(words) if word.startswith("-")), len(words))
    values: Values = {}
    for name in words[:first]:
        try:
            values |= read(_text_of(Path(name)))
        except (OSError, ValueError) as error:
            return _unreadable(name, error)
    try:
        values |= of_environ(os.environ) if options.environ else {}
        values |= of_words(words[first:])
    except ValueError as error:
        return _unreadable("variables or flags", error)
    if not values:
        return _unreadable("nothing", ValueError("was given: name a file, or add flags after --, or --environ"))
    draft = convert(values, forwarded_uri=options.forwarded_uri)
    sys.stdout.write(draft.yaml())
    _print_notes([str(note) for note in draft.notes])
    return OK


def _text_of(file: Path) -> str:
    with file.open(encoding="utf-8") as opened:
        text = opened.read(_LONGEST_FILE + 1)
    if len(text) > _LONGEST_FILE:
        raise ValueError("is longer than 1 MiB")
    return text


def _unreadable(name: str, error: Exception) -> int:
    print(f"oidc-proxy config import: {name}: {error}", file=sys.stderr)
    return FAILED


def _print_notes(notes: Sequence[str]) -> None:
    for start, heading in (("M3", "To be done"), ("M1", "Different here"), ("M2", "Not here")):
        found = sorted(note for note in notes if note.startswith(start))
        if found:
            print(f"{heading}:", *found, sep="\n  ", file=sys.stderr)


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
