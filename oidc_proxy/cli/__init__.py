"""The command line: one file a command.

A command module has two functions: ``arguments(parser)`` declares its options, ``run(options)`` does it and returns the
exit status. A module is imported only when its command is the one that was typed.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

OK = 0
FAILED = 1
USAGE = 2
"""What argparse exits with for a command line that it cannot read."""
BAD_CONFIGURATION = 78
"""EX_CONFIG of sysexits.h."""
INTERRUPTED = 130
"""As shells report a process that SIGINT ended."""

COMMANDS = {
    "serve": "run the gateway",
    "demo": "run everything in one process: a provider, an application and the gateway in front of it",
    "config": "check, show or document the configuration",
    "policy": "say which route and rule a request meets, and why",
    "session": "list, show and end sessions of a running gateway",
    "healthcheck": "ask the administration listener whether the gateway is ready",
    "version": "print the version",
}
"""Name → what it does. ``policy`` is in ``cli/policy.py``, and so on."""

_EPILOG = f"""\
exit status:
  {OK}   fine
  {FAILED}   it did not work, or the answer is no
  {USAGE}   the command line cannot be read
  {BAD_CONFIGURATION}  the configuration has problems; all of them are printed
  {INTERRUPTED} interrupted from the keyboard

examples:
  oidc-proxy demo
  oidc-proxy config example > config.yaml
  oidc-proxy config check config.yaml
  oidc-proxy serve --config config.yaml
"""


def command_line(argv: Sequence[str]) -> argparse.ArgumentParser:
    """The parser, with the options of the one command that was typed."""
    parser = argparse.ArgumentParser(
        prog="oidc-proxy",
        description="OpenID Connect sign-in in front of any web application.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", metavar="command", required=True)
    typed = next((word for word in argv if not word.startswith("-")), None)
    for name, summary in COMMANDS.items():
        command = commands.add_parser(
            name, help=summary, description=_sentence(summary), formatter_class=argparse.RawDescriptionHelpFormatter
        )
        if name == typed:
            module = importlib.import_module(f"oidc_proxy.cli.{name}")
            module.arguments(command)
            command.set_defaults(run=module.run)
    return parser


def _sentence(summary: str) -> str:
    return summary[0].upper() + summary[1:] + "."


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that ``argv`` names and return its exit status; argparse itself exits for a usage error."""
    words = sys.argv[1:] if argv is None else argv
    options = command_line(words).parse_args(words)
    try:
        status = int(options.run(options))
        if sys.stdout is not None:  # it was closed before we began
            sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read the output went away. Nothing must be written any more, not even by the interpreter at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    return status
