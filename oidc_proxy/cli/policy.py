"""``oidc-proxy policy test``: which rule a request meets, and why, without sending it."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from oidc_proxy.cli import BAD_CONFIGURATION, FAILED, OK, USAGE
from oidc_proxy.cli.options import config_options, config_or_none
from oidc_proxy.errors import RequestFault
from oidc_proxy.messages import Origins, split_target
from oidc_proxy.policy import Explanation, Holder, Routes, compile_routes, explain
from oidc_proxy.values import Origin

_URL = re.compile(r"(https?://[^/?#\\]*)?((?:[/?#\\].*)?)", re.DOTALL | re.IGNORECASE)

_EXAMPLES = f"""\
The path is taken exactly as it is written, as the gateway takes it: nothing is decoded or resolved first.
The exit status is {OK} when the request is allowed, {FAILED} when it needs sign-in or is refused.

examples:
  oidc-proxy policy test GET /admin/ --config config.yaml --group /staff/ops
  oidc-proxy policy test POST https://app.example.com/api/orders --config config.yaml --anonymous
"""


@dataclass(frozen=True, slots=True)
class _Someone:
    """A signed-in user, as far as rules can tell."""

    groups: frozenset[str]
    roles: frozenset[str]
    email: str | None = None


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare ``test METHOD URL`` and its options."""
    actions = parser.add_subparsers(dest="action", metavar="action", required=True)
    test = actions.add_parser(
        "test",
        help="say which rule a request meets, and why",
        description="Say which rule a request meets, and why.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    test.add_argument("method", metavar="METHOD", help="method of the request, in upper case")
    test.add_argument("url", metavar="URL", help="URL of the request, or its path on the first public URL")
    test.add_argument("--group", metavar="GROUP", action="append", default=[], help="a group of the signed-in user")
    test.add_argument("--role", metavar="ROLE", action="append", default=[], help="a role of the signed-in user")
    test.add_argument("--email", metavar="EMAIL", help="the verified e-mail address of the signed-in user")
    test.add_argument("--anonymous", action="store_true", help="nobody is signed in")
    config_options(test)


def run(options: argparse.Namespace) -> int:
    """Print the explanation; the exit status says whether the request would be allowed."""
    if options.anonymous and (options.group or options.role or options.email):
        return _usage("--anonymous cannot have a --group, --role or --email")
    settings = config_or_none(options)
    if settings is None:
        return BAD_CONFIGURATION
    origins = settings.public_url
    routes = compile_routes(settings.routes, [origin.host for origin in origins])
    holder = None if options.anonymous else _someone(options)
    try:
        explanation = answer(routes, origins, options.method, options.url, holder)
    except ValueError as error:
        return _usage(f"URL {error}")
    print("\n".join(explanation.lines()))
    return OK if explanation.allowed else FAILED


def _someone(options: argparse.Namespace) -> _Someone:
    return _Someone(frozenset(options.group), frozenset(options.role), options.email)


def answer(routes: Routes, origins: Sequence[Origin], method: str, url: str, holder: Holder | None) -> Explanation:
    """What the gateway makes of this request. ValueError when ``url`` is neither a URL nor a path."""
    parts = _URL.fullmatch(url)
    if not parts or not url:
        raise ValueError("must start with http://, https:// or a slash")
    authority = Origin.parse(parts[1]).authority if parts[1] else origins[0].authority
    try:
        host = Origins(origins).find(authority).host
        path, _ = split_target(parts[2] if parts[2].startswith(("/", "\\")) else f"/{parts[2]}")
    except RequestFault as fault:
        return Explanation(None, (), fault)
    return explain(routes, host=host, path=path, method=method, holder=holder)


def _usage(problem: str) -> int:
    print(f"oidc-proxy policy test: {problem}", file=sys.stderr)
    return USAGE
