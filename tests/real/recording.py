"""What Traefik makes of requests, line by line: what it asks us, what it sends on, and what it answers.

`tests/corpus/traefik/exchanges.yaml` is what `recorded` found of a real one, between the gateway and an application. To
record another version: `TRAEFIK=/path/to/traefik python -m tests.real.recording`.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.gateway import running_world
from tests.real.fronts import FRONTS, Front
from tests.real.parts import free_port
from tests.wire import Peer, Recorder, Request, Response, ask, authority, message, recorder

FILE = Path(__file__).parents[1] / "corpus" / "traefik" / "exchanges.yaml"
PERSON = (
    "User-Agent: Mozilla/5.0", "Accept: text/html,application/xhtml+xml,*/*;q=0.8", "Accept-Language: de,en;q=0.5",
    "Accept-Encoding: gzip, deflate, br", "Upgrade-Insecure-Requests: 1", "Sec-Fetch-Dest: document",
    "Sec-Fetch-Mode: navigate", "Sec-Fetch-Site: none", "Sec-Fetch-User: ?1",
)  # fmt: skip
PROGRAM = ("accept: application/json", "x-requested-with: XMLHttpRequest", "sec-fetch-mode: cors", "origin: {front}")
UPGRADE = (
    "Connection: keep-alive, Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", "Origin: {front}",
)  # fmt: skip
PREFLIGHT = ("Origin: https://else.test", "Access-Control-Request-Method: PUT", "Access-Control-Request-Headers: x-a")
LIES = tuple(
    f"{name}: evil"
    for name in (
        "X-Auth-Request-User", "x-auth-request-groups", "X_Auth_Request_User", "X-Auth_Request_User",
        "X-Auth-Request-Access-Token", "X-Forwarded-Access-Token", "X-Forwarded-User", "X_Forwarded_User",
        "X-Forwarded-Uri", "X_Forwarded_Uri", "X-Forwarded-Method", "X-Forwarded-Host", "X-Forwarded-Proto",
        "X-Forwarded-Port", "X-Forwarded-Prefix", "X-Forwarded-Server", "X-Forwarded-Other", "X-Original-URL",
        "X-Original-URI", "X-Original-Method", "X-Rewrite-URL", "X-Real-IP", "Forwarded", "Authorization",
    )
)  # fmt: skip
TWICE = (
    "X-Forwarded-Uri: /public/a",
    "X-Forwarded-Uri: /public/b",
    "X-Own: 1",
    "x-own: 2",
    "X-Forwarded-For: 192.0.2.1",
)
HOPS = (
    "Connection: close, X-Forwarded-Uri, X-Own, Cookie",
    "X-Own: 1",
    "Keep-Alive: 1",
    "TE: trailers",
    "Proxy-Authorization: x",
)
DEEP = "/echo/deep%20er?a=b%2Fc&d=%20"
PATHS = (
    "/public/../admin/x", "/public/%2e%2e/admin/x", "/public/..%2fadmin/x", "//admin/x", "/public/..;/admin/x",
    "/public//../admin/x", "/public/%252e%252e/admin/x", "/public\\..\\admin/x", "/public/%5c../admin/x",
    "/oauth2/../admin/x", "/oauth2/%2e%2e/admin/x", "/oauth2/..%2fadmin/x", "/admin/x/../../oauth2/x",
)  # fmt: skip
REQUESTS: tuple[tuple[str, ...], ...] = (
    (f"GET {DEEP}", *PERSON),
    (f"GET {DEEP}", *PERSON, "Cookie: a=1; oidc_proxy={ann}; b=2"),
    ("GET /admin/x", *PERSON, "Cookie: oidc_proxy={ann}"),
    ("GET /admin/x", *PERSON, "Cookie: oidc_proxy={eve}"),
    ("GET /admin/x", *PROGRAM, "Cookie: oidc_proxy={eve}"),
    ("GET /echo", *PROGRAM),
    ("GET /echo",),
    ("GET /public/x", *PROGRAM),
    *((f"{method} /echo?m", "Content-Length: 3") for method in ("POST", "PUT")),
    *((f"{method} /echo", "Cookie: oidc_proxy={ann}") for method in ("HEAD", "DELETE", "PROPFIND", "OPTIONS")),
    *((f"{method} /echo?m", "Content-Length: 3", "Cookie: oidc_proxy={ann}") for method in ("POST", "PUT", "PROPFIND")),
    ("POST /echo", "Content-Length: 3", *PERSON),
    ("OPTIONS /echo", *PREFLIGHT),
    ("GET /ws", *UPGRADE),
    ("GET /ws", *UPGRADE, "Cookie: oidc_proxy={ann}"),
    ("GET /ws", *UPGRADE[:-1], "Origin: https://evil.test", "Cookie: oidc_proxy={ann}"),
    *((f"GET {path}", *LIES, f"Cookie: {cookie}") for path, cookie in (
        ("/echo", "a=1"), ("/public/x", "a=1"), ("/admin/x", "oidc_proxy={eve}"), ("/echo", "oidc_proxy={eve}"),
    )),
    ("GET /echo", *TWICE, "Cookie: a=1", "Cookie: oidc_proxy={ann}"),
    ("GET /echo", *HOPS, "Cookie: oidc_proxy={ann}"),
    *((f"GET {path}", "Cookie: oidc_proxy={eve}") for path in PATHS),
    *((f"GET /oauth2/{path}", *TWICE[:1], "Cookie: oidc_proxy={ann}") for path in ("authz/forward", "authz/", "auth")),
    ("GET /oauth2/userinfo", *LIES, "Cookie: oidc_proxy={ann}"),
    ("HEAD /oauth2/signed_out", *PERSON),
    ("GET /echo", "Host: else.test", "Cookie: oidc_proxy={ann}"),
)  # fmt: skip
"""What is asked: the start of the request line, and the header lines without Host, unless there is one."""


@asynccontextmanager
async def between(url: str) -> AsyncIterator[Recorder]:
    """A listener that passes requests on to ``url``, and keeps them."""

    async def passing(peer: Peer) -> None:
        async for request in peer.requests():
            peer.backend.seen.append(request)
            await peer.answer(request, await ask(url, request.raw))

    async with recorder(passing) as it:
        yield it


@dataclass(frozen=True)
class Words:
    """What is different in every run, by the words for it in the file."""

    known: Mapping[str, str]

    def filled(self, text: str) -> str:
        for word, value in self.known.items():
            text = text.replace(f"{{{word}}}", value)
        return text

    def told(self, text: str) -> str:
        text = re.sub(r"Bearer ey[\w.-]+", "Bearer {token}", text)
        for word, value in self.known.items():
            text = text.replace(value, f"{{{word}}}")
        return text.replace(f"X-Forwarded-Server: {socket.gethostname()}", "X-Forwarded-Server: {machine}")

    def lines(self, request: Request) -> list[str]:
        """The head of a request, line by line, as it was."""
        return self.told(request.raw.partition(b"\r\n\r\n")[0].decode("latin-1")).split("\r\n")

    def answer(self, response: Response) -> list[str]:
        """The status, and the lines but for those of this moment or connection, in the order of their names."""
        lines = [f"{n.decode('latin-1').lower()}: {v.decode('latin-1')}" for n, v in response.headers]
        kept = [line for line in lines if not line.startswith(("date:", "x-request-id:", "connection:"))]
        return [str(response.status), *sorted(self.told(line) for line in kept)]


async def recorded(front: Front, folder: Path) -> list[dict[str, Any]]:
    """What this proxy made of each of the requests."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    client = {"redirect_uris": (f"{url}/oauth2/callback",)}
    async with (
        running_world({"public_url": url, "upstream": None, **front.settings()}, client=client) as world,
        between(f"http://127.0.0.1:{world.app.port}") as gateway,
        recorder() as application,
    ):
        ports = [int(authority(each.url).rpartition(":")[2]) for each in (gateway, application)]
        process = await asyncio.to_thread(front.start, folder, port, *ports)
        try:
            cookies = {}
            for user in ("ann", "eve"):
                async with world.browser() as browser:
                    assert (await browser.sign_in(f"{url}/echo", user, user)).status == 200
                    cookies[user] = browser.cookies.header(url).removeprefix("oidc_proxy=")
            places = {"front": url, "host": authority(url), "gateway": authority(gateway.url), "port": str(port)}
            words = Words({**cookies, **places})
            return [await _exchange(words, request, gateway, application) for request in REQUESTS]
        finally:
            await asyncio.to_thread(process.stop)


async def _exchange(words: Words, request: Sequence[str], gateway: Recorder, application: Recorder) -> dict[str, Any]:
    before = len(gateway.seen), len(application.seen)
    url = words.known["front"]
    line, *lines = (words.filled(line) for line in request)
    sent = message(url, line, *lines, body=b"a=1" if "Content-Length: 3" in lines else b"")
    response = await ask(url, sent)
    to_us, sent_on = gateway.seen[before[0] :], application.seen[before[1] :]
    assert len(to_us) <= 1
    assert len(sent_on) <= 1
    return {
        "sent": words.lines(Request(b"", b"", [], raw=sent)),
        "to the gateway": [words.lines(each) for each in to_us],
        "to the application": [words.lines(each) for each in sent_on],
        "answered": words.answer(response),
    }


if __name__ == "__main__":
    said = subprocess.run([os.environ["TRAEFIK"], "version"], capture_output=True, text=True, check=True).stdout
    version = said.split()[1]
    with tempfile.TemporaryDirectory() as place:
        exchanges = asyncio.run(recorded(FRONTS["traefik"](), Path(place)))
    FILE.write_text(yaml.safe_dump({"traefik": version, "exchanges": exchanges}, sort_keys=False, width=1000))
    sys.stdout.write(f"{len(exchanges)} exchanges with Traefik {version} are in {FILE}\n")
