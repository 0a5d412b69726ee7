"""Many clients at once, on bad lines and before a bad backend: nobody ever reads what was meant for another.

Every request, every answer and every WebSocket is full of a token that nothing else has. Both sides break off,
hesitate, answer early, close at the worst moment and say more than they were asked. Four seconds with a fixed seed,
which is printed; with ``OIDC_PROXY_MIXUP_SECONDS=600`` ten minutes, and with ``OIDC_PROXY_MIXUP_SEED`` another seed.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import h11

from tests.frames import KEY, accept_of
from tests.gateway import World
from tests.stories.proxied import world_with
from tests.wire import PATIENCE, Line, Peer, Response, authority, connected

SECONDS = float(os.environ.get("OIDC_PROXY_MIXUP_SECONDS", "4"))
SEED = int(os.environ.get("OIDC_PROXY_MIXUP_SEED", "20261121"))
CLIENTS = 24
TOKEN = re.compile(rb"token-\d+-")
ROUTES = ("/public/", "/optional/", "/")
MOODS = {
    "plain": 30, "chunked": 10, "until-the-end": 4, "slow": 8, "closes": 8, "says-close": 4, "breaks-off": 6,
    "breaks-chunks": 4, "early": 8, "early-closes": 4, "says-more": 5, "nothing": 3, "never": 1, "interim": 4,
    "empty": 6,
}  # fmt: skip
"""What the backend does with a request, and how often."""
WHOLE = {"plain", "chunked", "slow", "says-close", "interim", "empty", "until-the-end", "says-more", "early", "closes"}


def text_of(token: bytes, size: int) -> bytes:
    """A body in which every part says whose it is."""
    return token * (size // len(token) + 1)


@dataclass
class Findings:
    """What was seen, and what should not have been."""

    outcomes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    asked: dict[bytes, bytes] = field(default_factory=dict)
    """The body that each token is asked with."""
    users: dict[bytes, str] = field(default_factory=dict)
    """Who asks with a token: a user's name, or nobody."""
    answered: dict[bytes, int] = field(default_factory=dict)
    """The length of the body that each token is answered with."""


# ── the backend ──


class Backend:
    """Does with each request what its target says, and looks whether it is whole."""

    def __init__(self, findings: Findings, dice: random.Random) -> None:
        self._findings, self._dice = findings, dice

    async def serve(self, peer: Peer) -> None:
        while True:
            head = await peer.head()
            method, target, _ = head.split(b" ", 2)
            *_, mood, token = target.decode().split("/")
            key = token.encode()
            if len(TOKEN.findall(target)) != 1 or head.count(b"HTTP/1.1\r\n") != 1:
                self._findings.wrong.append(f"not one request: {head!r}")
            self._check_user(head, key)
            if mood.startswith("early"):
                await peer.say(self._answer(mood, key, method))
                if mood == "early-closes":
                    return
            if mood == "socket":
                await self._echo(peer, head, key)
                return
            body = await _body(peer, head)
            if body != self._findings.asked[key]:
                self._findings.wrong.append(f"{token}: a body of {len(body)} bytes that nobody sent: {body[:60]!r}")
            if not mood.startswith("early") and not await self._reply(peer, mood, key, method):
                return

    async def _echo(self, peer: Peer, head: bytes, token: bytes) -> None:
        """Switch, and say back whatever comes; sometimes not for long."""
        accept = accept_of(head.partition(b"Sec-WebSocket-Key: ")[2].partition(b"\r\n")[0])
        fields = b"X-Token: " + token + b"\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        await peer.say(b"HTTP/1.1 101 x\r\n" + fields + b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n")
        pieces = self._dice.choice([1, 3, 10**6, 10**6, 10**6])
        while pieces and (data := await peer.reader.read(20_000)):
            if {*TOKEN.findall(data)} - {token}:
                self._findings.wrong.append(f"the WebSocket of {token!r} got {data[:100]!r}")
            await peer.say(data)
            pieces -= 1

    def _check_user(self, head: bytes, token: bytes) -> None:
        found = re.findall(rb"\r\nX-Forwarded-Preferred-Username: ([a-z]*)\r\n", head)
        wanted = self._findings.users[token]
        if found != ([wanted.encode()] if wanted else []):
            self._findings.wrong.append(f"{token!r} of {wanted!r} came as {found}")

    async def _reply(self, peer: Peer, mood: str, token: bytes, method: bytes) -> bool:
        """Whether the connection goes on."""
        data = self._answer(mood, token, method)
        if mood == "never":
            await peer.closed()
        elif mood == "slow":
            for _ in range(3):
                cut = self._dice.randrange(len(data) + 1)
                await peer.say(data[:cut])
                data = data[cut:]
                await asyncio.sleep(self._dice.random() * 0.03)
            await peer.say(data)
        elif mood == "breaks-off":
            await peer.say(data[: self._dice.randrange(len(data))])
        elif mood != "nothing":
            await peer.say(data)
        return mood in {"plain", "chunked", "slow", "interim", "empty", "says-more"}

    def _answer(self, mood: str, token: bytes, method: bytes) -> bytes:
        body = text_of(token, self._dice.choice([0, 100, 5000, 100_000]))
        self._findings.answered[token] = len(body)
        head = b"HTTP/1.1 200 OK\r\nX-Token: " + token + b"\r\n"
        length = b"Content-Length: %d\r\n\r\n" % len(body)
        if mood == "empty":
            return b"HTTP/1.1 204 No Content\r\nX-Token: " + token + b"\r\n\r\n"
        if method == b"HEAD":
            return head + length
        if mood in {"chunked", "breaks-chunks"}:
            pieces = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in _parts(body))
            return head + b"Transfer-Encoding: chunked\r\n\r\n" + pieces + (b"0\r\n\r\n" if mood == "chunked" else b"")
        if mood == "until-the-end":
            return head + b"\r\n" + body
        if mood == "says-close":
            return head + b"Connection: close\r\n" + length + body
        if mood == "says-more":
            return head + length + body + head.replace(b"OK", b"Stale") + length + body
        if mood == "interim":
            return b"HTTP/1.1 103 Early Hints\r\nX-Token: " + token + b"\r\n\r\n" + head + length + body
        return head + length + body


def _parts(body: bytes) -> Iterator[bytes]:
    return (body[at : at + 7001] for at in range(0, len(body), 7001))


async def _body(peer: Peer, head: bytes) -> bytes:
    if found := re.search(rb"\r\nContent-Length: (\d+)\r\n", head):
        return await peer.reader.readexactly(int(found[1]))
    body = b""
    while b"\r\nTransfer-Encoding: chunked\r\n" in head:
        size = int(await peer.reader.readuntil(b"\r\n"), 16)
        body += (await peer.reader.readexactly(size + 2))[:-2]
        if size == 0:
            break
    return body


# ── the clients ──


def _frame(payload: bytes) -> bytes:
    """A frame with a mask that changes nothing, so that the payload can be read on its way."""
    return b"\x82\xff" + len(payload).to_bytes(8, "big") + b"\0\0\0\0" + payload


@dataclass
class Ask:
    """One request."""

    token: bytes
    method: str
    mood: str
    data: bytes


class Client:
    """Asks one thing after another until the time is over."""

    def __init__(self, number: int, world: World, findings: Findings, cookies: dict[str, str]) -> None:
        self._number, self._world, self._findings, self._cookies = number, world, findings, cookies
        self._dice = random.Random(f"{SEED} {number}")
        self._count = 0

    async def run(self, until: float) -> None:
        while time.monotonic() < until:
            async with connected(self._world.url) as line:
                try:
                    while time.monotonic() < until and await self._exchange(line):
                        await asyncio.sleep(self._dice.choice([0, 0, 0.001, 0.02]))
                except (ConnectionError, asyncio.IncompleteReadError):
                    self._findings.outcomes["connection lost"] += 1

    def _ask(self, bodies: bool, *fields: str, moods: Sequence[str] = ()) -> Ask:
        dice = self._dice
        self._count += 1
        token = f"token-{self._number * 10_000_000 + self._count}-".encode()
        route, user = dice.choice(ROUTES), dice.choice([*self._cookies, ""])
        if route == "/" and not user:
            route = "/optional/"
        method = "GET" if fields else dice.choices(["GET", "HEAD", "POST", "PUT"], [6, 1, 3 * bodies, 2 * bodies])[0]
        mood = dice.choice(moods) if moods else dice.choices([*MOODS], [*MOODS.values()])[0]
        body = text_of(token, dice.choice([0, 10, 3000, 90_000])) if method in {"POST", "PUT"} else b""
        self._findings.asked[token] = body
        self._findings.users[token] = "" if route == "/public/" else user
        lines = [f"{method} {route}{mood}/{token.decode()} HTTP/1.1", f"Host: {authority(self._world.url)}", *fields]
        if user:
            lines.append(f"Cookie: {self._cookies[user]}")
        chunked = body and dice.random() < 0.5
        if chunked:
            lines.append("Transfer-Encoding: chunked")
            body = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in _parts(body)) + b"0\r\n\r\n"
        elif method in {"POST", "PUT"}:
            lines.append(f"Content-Length: {len(body)}")
        return Ask(token, method, mood, "\r\n".join(lines).encode() + b"\r\n\r\n" + body)

    async def _exchange(self, line: Line) -> bool:
        """Ask once, or several times at once; whether the connection goes on."""
        dice = self._dice
        if dice.random() < 0.15:
            return await self._talk(line)
        count = dice.choice([1, 1, 1, 2, 4])
        asks = [self._ask(count == 1) for _ in range(count)]
        data = b"".join(ask.data for ask in asks)
        if dice.random() < 0.06:
            await self._send(line, data[: dice.randrange(len(data))])
            line.abort()
            self._findings.outcomes["aborted while asking"] += 1
            return False
        sending = asyncio.create_task(self._send(line, data))
        try:
            for ask in asks:
                if dice.random() < 0.05:
                    await asyncio.sleep(dice.random() * 0.03)
                    line.abort()
                    self._findings.outcomes["aborted while reading"] += 1
                    return False
                if not await self._read(line, ask):
                    return False
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
        return True

    async def _talk(self, line: Line) -> bool:
        """Offer to speak WebSocket, do so if the backend agrees, and end it one way or another."""
        dice = self._dice
        offer = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {KEY}")
        ask = self._ask(False, *offer, f"Origin: {self._world.url}", moods=["socket"] * 6 + [*MOODS])
        said = b"".join(_frame(text_of(ask.token, dice.choice([1, 200, 70_000]))) for _ in range(dice.randrange(1, 5)))
        early = dice.choice([0, 0, dice.randrange(len(said))])
        await self._send(line, ask.data + said[:early])
        async with asyncio.timeout(PATIENCE):
            line._rest += await line.reader.readuntil(b"\r\n\r\n")
        if not line._rest.startswith(b"HTTP/1.1 101 "):
            await self._read(line, ask)
            return False
        if [*TOKEN.findall(line._rest)] != [ask.token] or ask.mood != "socket":
            self._findings.wrong.append(f"{ask.token!r} ({ask.mood}) was switched: {line._rest!r}")
        line._rest = b""
        sending = asyncio.create_task(self._send(line, said[early:]))
        heard = b""
        try:
            async with asyncio.timeout(PATIENCE):
                while len(heard) < len(said) and (data := await line.reader.read(50_000)):
                    heard += data
                    if dice.random() < 0.03:
                        break
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
        if not said.startswith(heard):
            self._findings.wrong.append(f"the WebSocket of {ask.token!r} heard something else")
        self._findings.outcomes["talked to the end" if heard == said else "talked"] += 1
        line.abort() if dice.random() < 0.3 else None
        return False

    async def _send(self, line: Line, data: bytes) -> None:
        while data:
            cut = self._dice.choice([len(data), len(data), self._dice.randrange(len(data)) + 1])
            await line.send(data[:cut])
            data = data[cut:]
            if data:
                await asyncio.sleep(self._dice.random() * 0.02)

    async def _read(self, line: Line, ask: Ask) -> bool:
        try:
            response = await line.response(ask.method)
        except h11.RemoteProtocolError as error:
            if "ConnectionClosed" not in str(error):
                self._findings.wrong.append(f"{ask.token!r}: {error}")
            self._findings.outcomes["closed without an answer"] += 1
            return False
        self._judge(ask, response)
        return not response.cut and b"close" not in response.all("Connection")

    def _judge(self, ask: Ask, response: Response) -> None:
        findings = self._findings
        strange = {*TOKEN.findall(repr(response.headers).encode()), *TOKEN.findall(response.body)} - {ask.token}
        if strange or response.reason == b"Stale":
            findings.wrong.append(f"{ask.token!r} ({ask.mood}) read {strange or response}")
        if response.status in {502, 503, 504, 408, 400}:
            if ask.mood in WHOLE - {"closes"} and response.status not in {502, 504}:
                findings.wrong.append(f"{ask.token!r} ({ask.mood}) got {response.status}: {response.body!r}")
            findings.outcomes[str(response.status)] += 1
            return
        if response.status not in {200, 204} or response.all("X-Token") != [ask.token]:
            findings.wrong.append(f"{ask.token!r} ({ask.mood}) got {response}")
        length = 0 if ask.method == "HEAD" or response.status == 204 else findings.answered.get(ask.token, -1)
        if not response.cut and len(response.body) != length:
            findings.wrong.append(f"{ask.token!r} ({ask.mood}): {len(response.body)} bytes passed off as whole")
        findings.outcomes["cut" if response.cut else "whole"] += 1


async def _cookies(world: World) -> dict[str, str]:
    cookies = {}
    for name in ("ann", "bob"):
        async with world.browser() as browser:
            await browser.sign_in(f"{world.url}/plain/token-0-", name, name)
            cookies[name] = f"oidc_proxy={browser.cookies.get('oidc_proxy')}"
    return cookies


async def test_nobody_ever_reads_the_answer_to_another() -> None:
    print(f"OIDC_PROXY_MIXUP_SEED={SEED}")  # noqa: T201  (pytest shows it when the test fails)
    findings = Findings()
    backend = Backend(findings, random.Random(SEED))
    settings = {
        "upstream": {"timeouts": {"response": "2s", "connect": "2s"}, "max_connections": 12},
        "log": {"access": False, "level": "error"},
    }
    async with world_with(settings, script=backend.serve) as (world, _):
        findings.asked[b"token-0-"], findings.users[b"token-0-"] = b"", ""
        cookies = await _cookies(world)
        findings.wrong.clear()  # the two who signed in asked without a name of their own
        until = time.monotonic() + SECONDS
        async with asyncio.timeout(SECONDS + 30):
            await asyncio.gather(*(Client(n, world, findings, cookies).run(until) for n in range(1, CLIENTS + 1)))
        assert not world.lines(event="internal_error")
    print(dict(findings.outcomes))  # noqa: T201
    assert not findings.wrong, findings.wrong[:5]
    assert findings.outcomes["whole"] > 20 * SECONDS
    assert findings.outcomes["talked to the end"] > SECONDS
    assert findings.outcomes["cut"]
    assert findings.outcomes["502"]
