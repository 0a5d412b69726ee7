"""What Traefik does with requests, as it was recorded: a stand-in, where there is no Traefik.

`tests/corpus/traefik/exchanges.yaml` has what a real one made of requests, and `tests/real/test_recording.py` holds
this to it, line for line. It reads the very file of deploy/traefik, takes the options that Traefik is started with on
the page there, and knows what these use and nothing else.
"""

from __future__ import annotations

import asyncio
import posixpath
import re
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import h11
import yaml

from tests.wire import Peer, Recorder, Request, Response, ask, connected

Names = dict[str, list[str]]

MANAGED = {"X-Real-Ip", "X-Forwarded-Tls-Client-Cert", "X-Forwarded-Tls-Client-Cert-Info"} | {
    f"X-Forwarded-{what}" for what in ("For", "Host", "Method", "Port", "Prefix", "Proto", "Server", "Uri")
}
"""What Traefik says itself, and takes from nobody."""
HOPS = ("Connection", "Keep-Alive", "Te", "Trailers", "Transfer-Encoding", "Upgrade")
FIRST = ("User-Agent", "Content-Length")
WEBSOCKET = {f"Sec-Websocket-{what}": f"Sec-WebSocket-{what}" for what in ("Extensions", "Key", "Protocol", "Version")}


# ── what it makes of a request ──


@dataclass(frozen=True)
class Head:
    """A request as Traefik has it: names as Go writes them, and Host apart."""

    method: str
    target: str
    host: str
    names: Names
    body: bytes = b""

    def raw(self) -> bytes:
        """As Go writes it: the names of ``FIRST`` come first, and the others in their order."""
        lines = [f"{self.method} {self.target} HTTP/1.1", f"Host: {self.host}"]
        lines += [f"User-Agent: {value}" for value in self.names.get("User-Agent", [])]
        if self.body:
            lines.append(f"Content-Length: {len(self.body)}")
        lines += [f"{name}: {v}" for name, values in sorted(self.names.items()) if name not in FIRST for v in values]
        if self.method != "HEAD" and not {"Accept-Encoding", "Range"} & self.names.keys():
            lines.append("Accept-Encoding: gzip")
        return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + self.body


def canonical(name: str) -> str:
    return "-".join(part.capitalize() for part in name.split("-"))


def cleaned(target: str) -> str:
    """The target as the entry point leaves it: needless escapes undone, dots and empty segments taken away."""
    path, mark, query = target.partition("?")

    def plain(found: re.Match[str]) -> str:
        character = chr(int(found[1], 16))
        return character if re.fullmatch(r"[A-Za-z0-9._~-]", character) else found[0].upper()

    path = quote(re.sub("%([0-9A-Fa-f]{2})", plain, path), safe="%/!$&'()*+,;=:@[]~")
    clean = "/" + posixpath.normpath(path).lstrip("/")
    return clean + ("/" if path.endswith("/") and clean != "/" else "") + mark + query


def arrived(request: Request, client: str) -> Head:
    """The request behind the entry point: nothing of a client that Traefik says itself, and no underscores."""
    names: Names = {}
    for name, value in request.headers:
        if b"_" not in name:
            names.setdefault(canonical(name.decode()), []).append(value.decode("latin-1"))
    (host,) = names.pop("Host")
    options = [option.strip() for line in names.pop("Connection", []) for option in line.split(",")]
    upgrade = names.get("Upgrade", []) if "upgrade" in map(str.lower, options) else []
    for name in {canonical(option) for option in options} | MANAGED:
        names.pop(name, None)
    names |= {
        **({"Connection": ["Upgrade"], "Upgrade": upgrade} if upgrade else {}),
        "X-Forwarded-Host": [host],
        "X-Forwarded-Port": [host.rpartition(":")[2]],
        "X-Forwarded-Proto": ["ws" if upgrade else "http"],
        "X-Forwarded-Server": [socket.gethostname()],
        "X-Real-Ip": [client],
    }
    return Head(request.method.decode(), cleaned(request.target.decode()), host, names, request.body)


def question(head: Head, address: str, client: str) -> Head:
    """What ForwardAuth asks about a request, with `trustForwardHeader: false`."""
    names = {name: values for name, values in head.names.items() if name not in MANAGED and name not in HOPS}
    names |= {
        "X-Forwarded-For": [client],
        "X-Forwarded-Host": [head.host],
        "X-Forwarded-Method": [head.method],
        "X-Forwarded-Port": head.names["X-Forwarded-Port"],
        "X-Forwarded-Proto": ["http"],
        "X-Forwarded-Uri": [head.target],
    }
    parts = urlsplit(address)
    return Head("GET", parts.path + (f"?{parts.query}" if parts.query else ""), parts.netloc, names)


def passed(head: Head, client: str) -> Head:
    """What the server of a service gets."""
    names = {name: values for name, values in head.names.items() if name not in HOPS} | {"X-Forwarded-For": [client]}
    if "Upgrade" in head.names:
        names = {WEBSOCKET.get(name, name): values for name, values in names.items()}
        names |= {"Connection": ["Upgrade"], "Upgrade": head.names["Upgrade"]}
    return replace(head, names=names)


# ── what its file says ──


@dataclass(frozen=True)
class Router:
    rule: str
    priority: int
    asks: bool
    server: str

    def matches(self, head: Head) -> bool:
        path = head.target.partition("?")[0]
        kinds = {"Host": head.host.rpartition(":")[0].__eq__, "PathPrefix": path.startswith, "Path": path.__eq__}
        terms = re.findall(r"(!?)(\w+)\(`([^`]*)`\)", self.rule)
        return all(kinds[kind](value) is not bool(no) for no, kind, value in terms)


class Traefik:
    """One that has read this file."""

    def __init__(self, file: Path) -> None:
        http: Mapping[str, Any] = yaml.safe_load(file.read_text())["http"]
        self.routers = [
            Router(
                router["rule"],
                router.get("priority", len(router["rule"])),
                router.get("middlewares") == ["strip", "oidc"],
                http["services"][router["service"]]["loadBalancer"]["servers"][0]["url"],
            )
            for router in http["routers"].values()
        ]
        strip, asks = http["middlewares"]["strip"]["headers"], http["middlewares"]["oidc"]["forwardAuth"]
        known = {"address", "trustForwardHeader", "maxResponseBodySize", "authResponseHeaders"}
        assert (http["middlewares"].keys(), strip.keys()) == ({"strip", "oidc"}, {"customRequestHeaders"})
        assert (asks.keys(), asks["trustForwardHeader"]) == (known, False)
        self.address, self.said = asks["address"], asks["authResponseHeaders"]
        self.stripped = {canonical(name) for name in strip["customRequestHeaders"]}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Everything on one connection of a client."""
        client = writer.get_extra_info("peername")[0]
        peer = Peer(Recorder(), reader, writer)
        try:
            async for request in peer.requests():
                head = arrived(request, client)
                router = max((r for r in self.routers if r.matches(head)), key=lambda r: r.priority, default=None)
                if router is None:
                    await peer.answer(request, own(404, b"404 page not found\n"))
                    continue
                given = await self.asked(head, client) if router.asks else head
                if isinstance(given, Response):
                    await peer.answer(request, given)
                elif "Upgrade" in given.names:
                    await joined(peer, router.server, passed(given, client))
                    return
                else:
                    answer = await answered(router.server, passed(given, client))
                    await peer.answer(request, answer or own(502, b"Bad Gateway"))
        finally:
            writer.close()

    async def asked(self, head: Head, client: str) -> Head | Response:
        """The request with what the answer says of it, if that lets it pass; else the answer, for the client."""
        head = replace(head, names={name: values for name, values in head.names.items() if name not in self.stripped})
        told = await answered(self.address, question(head, self.address, client))
        if told is None:
            return own(500, b"")
        if not 200 <= told.status < 300:
            return told
        said = {name: [value.decode("latin-1") for value in told.all(name)] for name in self.said}
        return replace(head, names=head.names | said)


# ── sockets ──


def own(status: int, body: bytes) -> Response:
    """An answer of Traefik's own."""
    lines = [(b"Content-Type", b"text/plain; charset=utf-8"), (b"X-Content-Type-Options", b"nosniff")]
    return Response(status, b"", [*lines, (b"Content-Length", b"%d" % len(body))], b"1.1", body)


async def answered(url: str, head: Head) -> Response | None:
    """What the server at this address answers; None if there is no answer."""
    try:
        return await ask(url, head.raw())
    except (OSError, AssertionError, h11.RemoteProtocolError):
        return None


async def joined(peer: Peer, server: str, head: Head) -> None:
    """Two connections as one, until either ends."""

    async def carried(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()

    async with connected(server) as line:
        await line.send(head.raw())
        ways = [asyncio.create_task(carried(*way)) for way in ((peer.reader, line.writer), (line.reader, peer.writer))]
        _, pending = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in pending:
            way.cancel()


async def main(options: dict[str, str]) -> None:
    host, _, port = options.pop("--entryPoints.websecure.address").rpartition(":")
    it = Traefik(Path(options.pop("--providers.file.filename")))
    assert options == {"--entryPoints.websecure.http.underscoreHeadersStrategy": "delete"}
    async with await asyncio.start_server(it.serve, host, int(port)) as server:
        await server.serve_forever()


if __name__ == "__main__" and sys.argv[1] != "version":
    asyncio.run(main(dict(option.split("=", 1) for option in sys.argv[1:])))
