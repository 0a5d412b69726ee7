"""What a client writes and what a backend answers, byte by byte: both sides are read again by a second, strict parser.

The cases are in tests/corpus; ``tests/stories/corpus.py`` says how they are written.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio

from tests.gateway import World
from tests.stories.corpus import Case, as_bytes, read
from tests.stories.proxied import ann, answer, world_with
from tests.wire import Line, Peer, Recorder, Request, authority, connected, folded

pytestmark = pytest.mark.asyncio(loop_scope="module")

REQUESTS, RESPONSES = read("requests"), read("responses")
ROUTES = ("/public/", "/optional/", "/")
MALLORY = b"mallory"
OF_THIS_HOP = {
    "connection", "keep-alive", "te", "trailer", "upgrade", "http2-settings", "proxy-connection", "expect",
    "proxy-authorization", "proxy-authenticate",
}  # fmt: skip
IDENTITY = {
    "x-forwarded-user", "x-forwarded-email", "x-forwarded-preferred-username", "x-forwarded-groups", "authorization",
}  # fmt: skip
ARRIVAL = {
    "host",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-forwarded-port",
    "x-forwarded-for",
    "forwarded",
    "x-request-id",
}
_numbers = itertools.count(100_000)  # all of one length: none begins like another


@dataclass
class Ground:
    """A gateway with a recording backend, and the cookie of Ann, who is signed in."""

    world: World
    backend: Recorder
    cookie: str

    def values(self, route: str) -> dict[str, str]:
        """What the cases call by name; ``path`` is one that nobody else asks for."""
        number = next(_numbers)
        cookie = "" if route == "/public/" else f"Cookie: {self.cookie}"
        return {
            "path": f"{route}case-{number:06}",
            "host": authority(self.world.url),
            "port": authority(self.world.url).rpartition(":")[2],
            "to": f"Host: {{host}}\\r\\n{cookie}" if cookie else "Host: {host}",
            "cookie": self.cookie,
            "get": "GET {path} HTTP/1.1\\r\\n{to}",
            "post": "POST {path} HTTP/1.1\\r\\n{to}",
            "smuggle": "GET /public/smuggled HTTP/1.1\\r\\nHost: {host}\\r\\n\\r\\n",
            "honest": f"/public/honest-{number}",
        }


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def ground() -> AsyncIterator[Ground]:
    async with world_with({"log": {"access": False}}) as (world, backend):
        backend.answer = lambda request: answer(body=request.target)
        yield Ground(world, backend, await ann(world))


def honest(values: Mapping[str, str]) -> bytes:
    return as_bytes("GET {honest} HTTP/1.1\\r\\nHost: {host}\\r\\n\\r\\n", values)


SPLITS = 9


def split_at(number: int, name: str, data: bytes) -> list[bytes]:
    """The data in two pieces, or in many: one of ``SPLITS`` ways."""
    if number == 0:
        step = max(13, len(data) // 200)
        return [data[at : at + step] for at in range(0, len(data), step)]
    head = data.find(b"\r\n\r\n")
    random_place = random.Random(f"{name} {number}").randrange(len(data))
    place = (1, data.find(b" ") + 2, data.find(b"\r\n") + 1, head + 1, head + 3, head + 4, len(data) - 1)
    at = max(0, place[number - 1] if number <= len(place) else random_place)
    return [data[:at], data[at:]]


async def all_of(tries: list[Any]) -> list[Any]:
    """What they return, when all have ended; or the first failure."""
    results = await asyncio.gather(*tries, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


async def send(line: Line, pieces: list[bytes]) -> None:
    for piece in pieces:
        try:
            await line.send(piece)
        except ConnectionError:
            return  # refused before the end; the answer is there to be read
        for _ in range(3):
            await asyncio.sleep(0)  # the gateway reads in between


async def test_there_are_enough_of_them() -> None:
    assert len(REQUESTS) >= 300
    assert len(RESPONSES) >= 150


# ── requests ──


@pytest.mark.parametrize("case", REQUESTS, ids=lambda case: ascii(case.name)[1:-1][:100])
async def test_a_request_arrives_as_one_request_or_not_at_all(ground: Ground, case: Case) -> None:
    ground.backend.seen.clear()
    ground.backend.malformed.clear()
    tries = []
    routes = ROUTES[:1] if "public" in case.outcome else ROUTES
    for route in routes:
        tries += [_try_request(ground, case, route, followed=False), _try_request(ground, case, route, followed=True)]
    tries += [_try_request(ground, case, routes[number % len(routes)], split=number) for number in range(SPLITS)]
    wanted = await all_of(tries)
    # A body that breaks half way has begun to go on: the backend sees that it never ends, and that is no request.
    begun = [said for said in ground.backend.malformed if said.startswith("peer closed connection")]
    assert ground.backend.malformed == (begun if case.outcome[0] == "refused" else [])
    for request in ground.backend.seen:
        if b"honest" in request.target:
            assert MALLORY not in request.raw
            assert set(folded(request.headers)) == ARRIVAL, "nothing of the request before it"
    assert sorted(request.target for request in ground.backend.seen) == sorted(itertools.chain(*wanted))


async def _try_request(
    ground: Ground, case: Case, route: str, *, split: int | None = None, followed: bool = False
) -> list[bytes]:
    """Send it, and an honest request behind it; the targets of those that the backend must have received."""
    values = ground.values(route)
    data = case.bytes(case.message, values)
    passed, goes_on = case.outcome[0] == "passed", _goes_on(case)
    pieces = [data] if split is None else split_at(split, case.name, data)
    if followed:
        pieces[-1] += honest(values)
    method = data.strip(b"\r\n").partition(b" ")[0].decode("latin-1")
    async with connected(ground.world.url) as line:
        await send(line, pieces)
        if case.outcome[0] != "nothing":
            response = await line.response(method if method in {"HEAD", "GET"} else "POST")
            wanted = ["200"] if passed else case.outcome[1].split("|")
            assert str(response.status) in wanted, (route, split, response)
            assert MALLORY not in response.body
            if not passed:
                assert response.all("Date")
        if not goes_on:
            assert await line.ended() == b"", "nothing more, and the connection is closed"
        else:
            if not followed:
                await line.send(honest(values))
            response = await line.response()
            if "last" in case.outcome:
                assert response.status == 400
                assert await line.ended() == b""
            else:
                assert (response.status, response.body.decode()) == (200, values["honest"])
    targets = [values["honest"].encode()] if goes_on and "last" not in case.outcome else []
    if passed:
        (request,) = [one for one in ground.backend.seen if values["path"].encode() in one.target]
        _is_what_was_sent(ground, case, data, request, values)
        targets.append(request.target)
    return targets


def _goes_on(case: Case) -> bool:
    return "closes" not in case.outcome if case.outcome[0] == "passed" else "open" in case.outcome


def _is_what_was_sent(ground: Ground, case: Case, data: bytes, request: Request, values: Mapping[str, str]) -> None:
    method, _, rest = data.lstrip(b"\r\n").partition(b" ")
    assert (request.method, request.target) == (method, rest.strip(b" ").partition(b" ")[0])
    case.found(request.headers, request.body, values)
    names = folded(request.headers)
    assert MALLORY not in request.raw
    assert OF_THIS_HOP & set(names) == ({"connection", "upgrade"} if "offers" in case.outcome else set()), names
    assert names.count("content-length") + names.count("transfer-encoding") <= 1
    assert set(names) >= ARRIVAL
    assert {name for name in names if name in IDENTITY} == (
        IDENTITY if not values["path"].startswith("/public/") else set()
    )
    assert all(names.count(name) == 1 for name in ARRIVAL | (IDENTITY & set(names))), names
    assert request.one("Host") == request.one("X-Forwarded-Host") == authority(ground.world.url).encode()
    assert request.one("X-Forwarded-For") == b"127.0.0.1"
    assert request.one("Forwarded") == f'for=127.0.0.1;host="{authority(ground.world.url)}";proto=http'.encode()
    assert ground.cookie.encode() not in request.raw


# ── responses ──


@dataclass
class Stage:
    """What the backend says, by the target of the request."""

    ground: Ground
    lines: dict[bytes, list[bytes]]
    connections: dict[bytes, object]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stage() -> AsyncIterator[Stage]:
    lines: dict[bytes, list[bytes]] = {}
    connections: dict[bytes, object] = {}

    async def play(peer: Peer) -> None:
        async for request in peer.requests():
            connections[request.target] = peer
            pieces = lines.pop(request.target, None)
            if pieces is None:
                await peer.say(answer(body=request.target))
                continue
            for piece in pieces:
                if piece == b"{close}":
                    return
                await peer.say(piece)
                await asyncio.sleep(0.001)

    async with world_with({"log": {"access": False}}, script=play) as (world, backend):
        yield Stage(Ground(world, backend, await ann(world)), lines, connections)


@pytest.mark.parametrize("case", RESPONSES, ids=lambda case: ascii(case.name)[1:-1][:100])
async def test_a_response_comes_back_whole_or_visibly_does_not(stage: Stage, case: Case) -> None:
    splits = 0 if "unsplit" in case.outcome else SPLITS
    tries: list[Any] = [_try_response(stage, case, ROUTES[number % 3], split=number) for number in range(splits)]
    tries += [_try_response(stage, case, route, followed=number) for route in ROUTES for number in (False, True)]
    await all_of(tries)
    assert not stage.ground.world.lines(event="internal_error")


def _pieces(case: Case, data: bytes, split: int | None) -> list[bytes]:
    closes = data.endswith(b"{close}")
    data = data.removesuffix(b"{close}")
    pieces = [piece for piece in (split_at(split, case.name, data) if split is not None and data else [data]) if piece]
    return [*pieces, b"{close}"] if closes else pieces


async def _try_response(
    stage: Stage, case: Case, route: str, *, split: int | None = None, followed: bool = False
) -> None:
    values = stage.ground.values(route)
    target = values["path"].encode()
    stage.lines[target] = _pieces(case, case.bytes(case.message, values), split)
    method, _, body = (case.asked or "GET").partition(" ")
    asked = f"{method} {{path}} HTTP/1.1\\r\\n{{to}}\\r\\nContent-Length: {len(body)}\\r\\n\\r\\n{body}"
    async with connected(stage.ground.world.url) as line:
        await line.send(as_bytes(asked, values) + (honest(values) if followed else b""))
        response = await line.response(method)
        _is_what_was_answered(case, response, values)
        if response.cut:
            assert await line.ended() == b""
            return
        if not followed:
            await line.send(honest(values))
        after = await line.response()
        assert (after.status, after.body.decode()) == (200, values["honest"]), "its own answer, and no other"
        if response.status == 502 and "502" in case.outcome[0]:
            assert stage.connections[target] is not stage.connections[values["honest"].encode()], "never used again"


def _is_what_was_answered(case: Case, response: Any, values: Mapping[str, str]) -> None:
    kind, *words = case.outcome
    if kind == "each":  # the status and reason are the variant
        kind, *words = case.each.split()
    elif response.status == 502 and "502" in kind.split("|"):
        assert (response.status, response.cut) == (502, False)
        assert response.all("Content-Type") == [b"application/problem+json"]
        assert MALLORY not in response.body
        return
    if kind.startswith("broken"):
        assert response.cut, response
        assert response.status == int(words[0])
        return
    assert not response.cut
    assert (response.status, response.reason.decode("latin-1")) == (
        int(kind),
        " ".join(words).removesuffix("unsplit").strip(),
    )
    case.found(response.headers, response.body, values)
    names = folded(response.headers)
    assert not {"keep-alive", "proxy-authenticate", "trailer", "upgrade"} & set(names)
    assert names.count("content-length") + names.count("transfer-encoding") <= 1
    assert names.count("x-request-id") == 1
    assert MALLORY not in repr(response).encode()
