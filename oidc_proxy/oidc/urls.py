"""URLs of the provider and URLs that a browser may be sent to: read strictly, changed only by adding parameters."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from urllib.parse import quote, unquote_plus, urlencode

from ..values import Origin

_CHARACTERS = re.compile(r"[!#-;=?-\[\]-~]*")  # printable ASCII without space, quotes, <, > and backslash
_URL = re.compile(r"(https?://[^/?#@]+)((?:/[^?#]*)?(?:\?[^#]*)?)")


def split_url(url: str) -> tuple[Origin, str]:
    """The origin, and everything after it as written (path and query).

    ValueError, with a sentence, for what is not an absolute http(s) URL, and for userinfo, a fragment or a character
    that another parser could read differently.
    """
    found = _URL.fullmatch(url)
    if not found or not _CHARACTERS.fullmatch(url):
        raise ValueError("must be an absolute URL such as https://idp.example.com/path, without user name or fragment")
    return Origin.parse(found[1]), found[2]


def add_parameters(url: str, parameters: Mapping[str, str]) -> str:
    """The URL with the parameters in its query, encoded; a query that it already has is kept (RFC 6749 §3.1).

    A parameter of the same name in that query gives way, because none may appear twice.
    """
    base, _, query = url.partition("?")
    kept = [pair for pair in query.split("&") if pair and unquote_plus(pair.partition("=")[0]) not in parameters]
    return f"{base}?{'&'.join([*kept, urlencode(parameters, quote_via=quote, safe='')])}"


# ── other origins that a sign-in may return to ────────────────────────────────────────────────────────────────────────

_LONGEST_REDIRECT = 2048
_LABEL = r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?"
_HOST = rf"{_LABEL}(?:\.{_LABEL})*|\[[0-9a-f:.]+\]"
# One spelling only: parsers disagree about upper case, user info, backslashes, a trailing dot and odd ports.
_REDIRECT = re.compile(rf"(https?://(?:{_HOST})(?::[1-9][0-9]{{0,4}})?)(?:[/?#][!#-\[\]-~]*)?")
_WILDCARD = re.compile(rf"https://\*\.{_LABEL}(?:\.{_LABEL})+(?::[1-9][0-9]{{0,4}})?")


def check_redirect_rule(rule: str) -> str:
    """The rule if it is an origin, or ``https://*.`` and a domain of two labels or more; ValueError otherwise."""
    if _WILDCARD.fullmatch(rule):
        return rule
    try:
        origin = Origin.parse(rule)
    except ValueError:
        raise ValueError(
            f"“{rule}” must be an origin such as https://app.example.com or https://*.example.com"
        ) from None
    if not origin.secure and not origin.loopback:
        raise ValueError(f"“{rule}” must be https")
    return rule


def redirect_allowed(url: str, rules: Iterable[str]) -> bool:
    """Whether an absolute URL is on one of the origins of ``LoginSettings.allowed_redirects``.

    Scheme, host and port must be those of a rule; ``https://*.example.com`` stands for every host below example.com,
    not for example.com. Anything that is not spelt plainly is not allowed.
    """
    found = _REDIRECT.fullmatch(url)
    if not found or len(url) > _LONGEST_REDIRECT:
        return False
    try:
        origin = Origin.parse(found[1])
    except ValueError:
        return False
    return any(_covers(rule, origin) for rule in rules)


def _covers(rule: str, origin: Origin) -> bool:
    named = Origin.parse(rule.replace("*.", "", 1))
    if "*" not in rule:
        return named == origin
    return (origin.scheme, origin.port) == (named.scheme, named.port) and origin.host.endswith(f".{named.host}")
