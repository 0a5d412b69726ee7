"""Answers without a page: JSON, redirects, and the empty frame."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

from ..messages import Cookie, Reply
from ..values import Origin
from .skeleton import security_headers


def json_reply(status: int, content: object) -> Reply:
    """A value as JSON. The caller chooses what is in it; no token is ever part of it."""
    return Reply(status, security_headers("application/json"), json.dumps(content).encode())


_REDIRECTS = frozenset({302, 303, 307, 308})
_LOCATION = re.compile(r"[!-~]+")


def redirect(status: int, location: str, cookies: Iterable[Cookie] = ()) -> Reply:
    """A redirect that nobody stores and that tells the next site nothing about this one.

    Raises ValueError for a status that is no redirect, and for a location that is not one word of printable ASCII.
    """
    if status not in _REDIRECTS or not _LOCATION.fullmatch(location):
        raise ValueError("not a redirect that can be sent")
    headers = (("Location", location), ("Cache-Control", "no-store"), ("Referrer-Policy", "no-referrer"))
    return Reply(status, headers).with_cookies(cookies)


def empty_frame(ancestor: Origin) -> Reply:
    """Nothing to see, in a frame that only a page of ``ancestor`` may have (Front-Channel Logout 1.0 §2)."""
    policy = f"default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors {ancestor}"
    headers = [
        (name, value)
        for name, value in security_headers("text/html; charset=utf-8")
        if name not in {"Content-Security-Policy", "X-Frame-Options"}  # the latter cannot name an origin
    ]
    return Reply(200, (*headers, ("Content-Security-Policy", policy)))
