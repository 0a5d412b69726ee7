"""Our own endpoints: what one is, and what a request to it proves and carries."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from aiohttp import web

from ..errors import RequestFault
from ..handover import Hosts
from ..messages import Reply, RequestHead, query_parameters
from ..pages import PageSettings
from ..values import Instant
from .cookies import Cookies
from .provider import ProviderClient
from .sessions import Sessions
from .store import Store
from .telemetry import Telemetry

FORM_LIMIT = 64 * 1024
FORM_PATIENCE = 10.0
"""Seconds that a form may take to arrive."""

Fields: TypeAlias = Mapping[str, Sequence[str]]
ReadForm: TypeAlias = Callable[[], Awaitable[Fields]]
"""The fields of the request's body, each with all its values. Whoever does not call it does not wait for the body."""

FormHandler: TypeAlias = Callable[[RequestHead, ReadForm], Awaitable[Reply]]


@dataclass(frozen=True, slots=True)
class Tools:
    """What our own endpoints work with, each of them."""

    sessions: Sessions
    store: Store
    provider: ProviderClient
    cookies: Cookies
    hosts: Hosts
    telemetry: Telemetry
    prefix: str
    """What their paths begin with."""
    page: PageSettings
    clock: Callable[[], Instant]
    random: Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address of our own. With ``any_host``, others than browsers call it, by whatever name they know us."""

    methods: frozenset[str]
    answer: FormHandler
    any_host: bool = False


def formless(handler: Callable[[RequestHead], Awaitable[Reply]]) -> FormHandler:
    """A handler that has no use for a body."""
    return lambda head, _: handler(head)


async def read_form(request: web.BaseRequest) -> Fields:
    """The fields of a form in the body; none of an empty one. RequestFault for anything else, and for too much."""
    if not request.body_exists:
        return {}
    if (request.content_length or 0) > FORM_LIMIT:
        raise RequestFault("body_too_large", f"a form of more than {FORM_LIMIT} bytes")
    body = bytearray()
    try:
        async with asyncio.timeout(FORM_PATIENCE):
            while data := await request.content.readany():
                body += data
                if len(body) > FORM_LIMIT:
                    raise RequestFault("body_too_large", f"a form of more than {FORM_LIMIT} bytes")
    except TimeoutError:
        raise RequestFault("bad_request", f"the form did not arrive within {FORM_PATIENCE:g} s") from None
    media = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if body and media != "application/x-www-form-urlencoded":
        raise RequestFault("bad_request", "the body is not application/x-www-form-urlencoded")
    if not body.isascii():
        raise RequestFault("bad_request", "the form has bytes that must be encoded")
    return query_parameters(body.decode("ascii"))


def single(fields: Fields, name: str) -> str | None:
    """The one value of a field, None without it. RequestFault if it comes twice."""
    values = fields.get(name, ())
    if len(values) > 1:
        raise RequestFault("bad_request", f"{name} comes {len(values)} times")
    return values[0] if values else None


def check_same_site(head: RequestHead) -> None:
    """A request that changes something must come from our own pages (OWASP CSRF: Origin, else Fetch Metadata)."""
    origin = head.headers.get("Origin")
    if origin != str(head.origin) if origin is not None else head.headers.get("Sec-Fetch-Site") != "same-origin":
        raise RequestFault("cross_site", f"a {head.method} to {head.path} did not come from our own pages")


def own_click(head: RequestHead) -> bool:
    """Whether a GET is somebody following a link on our own site, and no image or frame that only looks like it."""
    fetch = [head.headers.get(f"Sec-Fetch-{name}") for name in ("Site", "Mode", "Dest", "User")]
    return fetch == ["same-origin", "navigate", "document", "?1"]
