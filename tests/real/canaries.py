"""Everything secret that passes between browser, gateway, provider and backend, collected to be searched for."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

from aiohttp import ClientSession, DummyCookieJar, web
from aiohttp.test_utils import TestServer
from yarl import URL

from tests.world import Backend, Page

SHORTEST = 16
"""Anything shorter would be found by chance: counters, times, names."""

SECRET_PARAMETERS = frozenset({
    "code", "state", "nonce", "code_verifier", "client_secret", "refresh_token", "access_token", "id_token",
    "id_token_hint", "token", "logout_token",
})  # fmt: skip


class Canaries:
    """Secrets, each with what it is."""

    def __init__(self) -> None:
        self.known: dict[str, str] = {}

    def add(self, kind: str, value: str) -> None:
        """Take in a secret; of a JWT or a ticket also its parts, which are as good as the whole."""
        if len(value) < SHORTEST:
            return
        self.known.setdefault(value, kind)
        first, *parts = value.split(".")
        for part in parts if value.startswith("ey") else [first, *parts]:
            if len(part) >= SHORTEST:
                self.known.setdefault(part, f"part of a {kind}")

    def add_parameters(self, text: str) -> None:
        """Of a query or a form."""
        for name, value in parse_qsl(text):
            if name in SECRET_PARAMETERS:
                self.add(name, value)

    def add_pages(self, pages: Iterable[Page]) -> None:
        """What a browser has seen: addresses, redirects and the gateway's cookies."""
        for page in pages:
            for hop in page.hops:
                self.add_parameters(urlsplit(hop.url).query)
                self.add_parameters(urlsplit(hop.location).query)
                for line in hop.headers.getall("Set-Cookie", []):
                    name, _, value = line.partition(";")[0].partition("=")
                    if "oidc_proxy" in name:
                        self.add("cookie", value)

    def add_backend(self, backend: Backend) -> None:
        for call in backend.requests:
            self.add("bearer", call.headers.get("Authorization", "").removeprefix("Bearer "))

    def kinds(self) -> set[str]:
        return {kind for kind in self.known.values() if not kind.startswith("part")}

    def found_in(self, haystack: bytes) -> set[str]:
        """What of it, in whatever form, is there. The answer does not repeat it."""
        return {
            f"{kind}, {form}"
            for value, kind in self.known.items()
            for form, needle in forms(value)
            if needle in haystack
        }


def forms(value: str) -> Iterator[tuple[str, bytes]]:
    """A secret as it might be written down."""
    raw = value.encode()
    yield "as it is", raw
    yield "in a URL", quote(value, safe="").encode()
    yield "in JSON", json.dumps(value).encode()[1:-1]
    yield "in hexadecimal", raw.hex().encode()
    for alphabet in (base64.b64encode, base64.urlsafe_b64encode):
        for shift in range(3):  # wherever in a longer text it stands
            whole = alphabet(b"\0" * shift + raw)
            yield "in base64", whole[4 if shift else 0 : -4]
    try:
        decoded = base64.urlsafe_b64decode(value + "=" * (-len(value) % 4))
    except (binascii.Error, ValueError):
        return
    if len(decoded) >= SHORTEST:
        yield "decoded", decoded
        yield "decoded, in hexadecimal", decoded.hex().encode()


@asynccontextmanager
async def tapped(target: str, canaries: Canaries) -> AsyncIterator[str]:
    """The address of something that passes every request on to ``target``, and keeps what is secret in it."""

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        canaries.add_parameters(body.decode())
        canaries.add("credentials", request.headers.get("Authorization", "").partition(" ")[2])
        sent = {name: value for name, value in request.headers.items() if name.lower() != "content-length"}
        url = URL(target + request.raw_path, encoded=True)
        async with http.request(request.method, url, headers=sent, data=body, allow_redirects=False) as answer:
            content = await answer.read()
            if answer.content_type == "application/json":
                _add_members(canaries, json.loads(content))
            told = {name: answer.headers[name] for name in ("Content-Type", "Cache-Control") if name in answer.headers}
            return web.Response(status=answer.status, body=content, headers=told)

    async with ClientSession(cookie_jar=DummyCookieJar(), skip_auto_headers={"User-Agent"}) as http:
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", handle)
        async with TestServer(application) as server:
            yield str(server.make_url("")).rstrip("/")


def _add_members(canaries: Canaries, document: Any) -> None:
    if isinstance(document, dict):
        for name in SECRET_PARAMETERS & document.keys():
            canaries.add(name, str(document[name]))
