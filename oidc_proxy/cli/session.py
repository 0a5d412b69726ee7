"""``oidc-proxy session``: list, show and end sessions, by way of the administration listener."""

from __future__ import annotations

import argparse
import http.client
import json
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from oidc_proxy.cli import BAD_CONFIGURATION, FAILED, OK, USAGE
from oidc_proxy.cli.healthcheck import reachable
from oidc_proxy.cli.options import config_options, config_or_none

_ID = re.compile(r"[0-9a-f]{64}")

_EXAMPLES = f"""\
The gateway must be running: its administration listener is asked. A session is named by the id that `list` prints.
The exit status is {FAILED} when the gateway cannot be asked, refuses, or knows no such session.

examples:
  oidc-proxy session list --sub 4711 --config config.yaml
  oidc-proxy session revoke --sub 4711 --config config.yaml
"""


class _Failed(Exception):
    """Why there is nothing to print, and what to do about it."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare ``list``, ``show`` and ``revoke`` and their options."""
    actions = parser.add_subparsers(dest="action", metavar="action", required=True)
    for name, summary in {
        "list": "list the sessions of a user",
        "show": "show one session",
        "revoke": "end one session, or all of a user",
    }.items():
        action = actions.add_parser(
            name, help=summary, epilog=_EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        if name != "list":
            action.add_argument("id", metavar="ID", nargs="?" if name == "revoke" else None, help="id of the session")
        if name != "show":
            action.add_argument("--sub", metavar="SUB", required=name == "list", help="the user, as the provider's sub")
        action.add_argument("--json", action="store_true", help="print what the gateway answers")
        action.add_argument("--timeout", type=float, default=10.0, metavar="SECONDS", help="longest wait (default: 10)")
        config_options(action)


def run(options: argparse.Namespace) -> int:
    """Ask the gateway and print what it says."""
    target = _target(options)
    if isinstance(target, int):
        return target
    config = config_or_none(options, warn=False)
    if config is None:
        return BAD_CONFIGURATION
    token = config.admin.token.reveal() if config.admin.token else None
    try:
        if config.admin.address is None:
            raise _Failed("the configuration has no administration listener; set admin.address")
        said = ask(config.admin.address, _METHODS[options.action], target, token, options.timeout)
    except _Failed as failed:
        print(f"oidc-proxy session: {failed}", file=sys.stderr)
        return FAILED
    print(json.dumps(said, indent=2) if options.json else _PRINTED[options.action](said))
    return OK


_METHODS = {"list": "GET", "show": "GET", "revoke": "DELETE"}


def _target(options: argparse.Namespace) -> str | int:
    """The path to ask for, or the exit status for a command line that makes no sense."""
    record_id, subject = getattr(options, "id", None), getattr(options, "sub", None)
    if (record_id is None) == (subject is None):
        return _usage("name either a session by its id, or a user by --sub")
    if record_id is None:
        return f"/sessions?sub={quote(str(subject), safe='')}" if subject else _usage("--sub is empty")
    if not _ID.fullmatch(record_id):
        return _usage("an id has 64 hexadecimal digits; `session list` prints them")
    return f"/sessions/{record_id}"


def _usage(problem: str) -> int:
    print(f"oidc-proxy session: {problem}", file=sys.stderr)
    return USAGE


def ask(address: str, method: str, target: str, token: str | None, timeout: float) -> dict[str, Any]:
    """What the gateway answers. _Failed, with what to check, if it does not do what it was asked."""
    host, port = reachable(address)
    headers = {"Accept": "application/json", **({"Authorization": f"Bearer {token}"} if token else {})}
    connection = http.client.HTTPConnection(host, port, timeout=timeout)
    try:
        connection.request(method, target, headers=headers)
        response = connection.getresponse()
        status, body = response.status, response.read(50_000_000)
    except (OSError, http.client.HTTPException) as error:
        raise _Failed(
            f"the administration listener at {address} does not answer ({error or type(error).__name__}); is the "
            "gateway running, on this machine or in this container, with this configuration?"
        ) from None
    finally:
        connection.close()
    return _read(address, status, body)


def _read(address: str, status: int, body: bytes) -> dict[str, Any]:
    try:
        said = json.loads(body)
    except ValueError:
        said = None
    if not isinstance(said, dict):
        raise _Failed(f"{address} answers {status}, but not as an administration listener; check admin.address")
    if status == http.client.OK:
        return said
    reasons = {
        401: "the gateway does not accept admin.token of this configuration; is it the one that it was started with?",
        503: f"the gateway cannot reach its session store: {said.get('error')}; try again",
    }
    raise _Failed(reasons.get(status) or str(said.get("error", f"{address} answers {status}")))


# ── what is printed ──


def _listed(said: Mapping[str, Any]) -> str:
    cards: Sequence[Mapping[str, Any]] = said["sessions"]
    if not cards:
        return "no sessions"
    return "\n\n".join(map(_shown, cards))


def _shown(card: Mapping[str, Any]) -> str:
    lines = {
        "session": card["id"],
        "user": f"{card['user']} (sub {card['sub']})",
        "signed in": f"{card['created_at']} at {card['origin']}",
        "ends": card["ends_at"] if card["alive"] else "has ended",
        "from": ", ".join(filter(None, [card["address"], card["user_agent"]])) or "unknown",
    }
    return "\n".join(f"{name + ':':<11}{_printable(str(text))}" for name, text in lines.items())


def _ended(said: Mapping[str, Any]) -> str:
    ended: Sequence[str] = said["ended"]
    return "\n".join(f"ended {record_id}" for record_id in ended) or "nothing to end"


def _printable(text: str) -> str:
    """Without what a browser's name could do to a terminal."""
    return "".join(character if character.isprintable() else "�" for character in text)


_PRINTED = {"list": _listed, "show": _shown, "revoke": _ended}
