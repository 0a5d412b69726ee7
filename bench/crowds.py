"""Thousands of idle WebSockets and event streams: `python -m bench.crowds [--quick]`, as Markdown.

What each costs in memory, and how long after the end of its session it is closed, on every worker.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import uvloop

from bench.ground import PATH, Ground, prepared
from bench.lasting import Lasting, ended, event_stream, open_all, raise_file_limit, websocket
from bench.peers.ours import Ours
from bench.process import Memory, Missing, Program
from bench.table import MIB, markdown
from tests.real.parts import free_port
from tests.world import Browser

TOLERANCE = 1.0
"""Seconds in which the end of a session must have closed what was open on its behalf."""


@dataclass
class House:
    """A gateway of its own for one crowd, so that its memory is all this crowd's."""

    ground: Ground
    program: Program
    port: int
    admin: str
    browser: Browser

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def sign_in(self) -> str:
        """Host and Cookie of a session that every worker has in its memory."""
        head = f"Host: 127.0.0.1:{self.port}\r\nCookie: {await self.ground.sign_in(self.origin + PATH)}\r\n"
        for _ in range(8):  # new connections, which are dealt out by chance
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            writer.write(f"GET {PATH} HTTP/1.1\r\n{head}Connection: close\r\n\r\n".encode())
            await reader.read()
            writer.close()
        return head

    async def administer(self, method: str, path: str) -> dict[str, Any]:
        page = await self.browser.request(method, self.admin + path)
        if page.status != 200:
            raise RuntimeError(f"{method} {path}: {page.status} {page.text[:300]}")
        return dict(page.json())


@asynccontextmanager
async def opened(ground: Ground, backend: int, workers: int, name: str, *paths: str) -> AsyncIterator[House]:
    """A gateway with a backend that makes connections last; ``paths`` go there as well."""
    port, admin = free_port(), f"127.0.0.1:{free_port()}"
    program, _ = await Ours(store="redis", access_log=False).serve(
        ground,
        name,
        f"http://127.0.0.1:{port}",
        {"workers": workers} if workers > 1 else {},
        port,
        admin={"address": admin},
        upstreams={"lasting": {"url": f"http://127.0.0.1:{backend}", "max_connections": 20_000}},
        routes=[{"path": path, "upstream": "lasting"} for path in ("/ws", "/events", *paths)],
    )
    try:
        async with Browser() as browser:
            yield House(ground, program, port, f"http://{admin}", browser)
    finally:
        program.stop()


@dataclass
class Row:
    """One crowd."""

    kind: str
    count: int
    sessions: int
    before: Memory = field(default_factory=Memory)
    after: Memory = field(default_factory=Memory)
    idle: float = 0
    """Cores that all of them together keep busy by being open."""
    first: float = 0
    """Seconds from the end of the first session to the end of the last connection that it had."""
    times: Sequence[float] = ()
    """The same for every connection, when all sessions that are left end at once; sorted."""
    closing: float = 0
    """Seconds of CPU that this took."""
    how: Counter[str] = field(default_factory=Counter)

    def cells(self) -> list[str]:
        each = (self.after.pss - self.before.pss) / self.count
        middle = self.times[len(self.times) // 2] if self.times else 0
        late = sum(seconds > TOLERANCE for seconds in self.times) + self.how["still open"]
        return [
            self.kind, f"{self.count:,}", f"{self.sessions:,}", f"{self.before.pss / MIB:.0f}",
            f"{self.after.pss / MIB:.0f}", f"{each / 1024:.1f}", f"{self.idle:.2f}", f"{self.first * 1000:.0f}",
            f"{middle * 1000:.0f}", f"{self.times[-1] * 1000:.0f}" if self.times else "–", str(late),
            f"{self.closing:.1f}",
            ", ".join(f"{how}: {number:,}" for how, number in self.how.most_common()),
        ]  # fmt: skip


HEADS = [
    "", "open", "sessions", "PSS before, MiB", "PSS with all, MiB", "KiB each", "cores busy while idle",
    "one session ends: last closed, ms", "all end: half closed, ms", "last, ms", "later than 1 s", "CPU s", "how",
]  # fmt: skip


async def crowd(house: House, kind: str, count: int, sessions: int) -> Row:
    row = Row(kind, count, sessions)
    heads = [await house.sign_in() for _ in range(sessions)]
    row.before = house.program.memory()
    everyone = await open_all(house.port, [_request(kind, heads[number % sessions], house) for number in range(count)])
    await asyncio.sleep(2)
    before = house.program.cpu()
    await asyncio.sleep(4)
    row.idle = (house.program.cpu() - before) / 4
    row.after = house.program.memory()
    gone = [one for one in everyone if one.closed_at]
    if gone:
        raise RuntimeError(f"{len(gone)} connections did not last: {Counter(one.how for one in gone)}")
    if sessions > 1:
        row.first = await _end_one(house, everyone, count // sessions)
    left = [one for one in everyone if not one.closed_at]
    began, before = time.monotonic(), house.program.cpu()
    await house.administer("DELETE", f"/sessions?sub={house.ground.user.sub}")
    row.how = await ended(left, 10)
    row.closing = house.program.cpu() - before
    row.times = sorted(one.closed_at - began for one in left if one.closed_at)
    for one in everyone:
        one.close()
    return row


async def _end_one(house: House, everyone: Sequence[Lasting], share: int) -> float:
    """End one session, and nothing but its own connections. Seconds to the last of them."""
    found = await house.administer("GET", f"/sessions?sub={house.ground.user.sub}")
    began = time.monotonic()
    await house.administer("DELETE", f"/sessions/{found['sessions'][0]['id']}")
    await asyncio.sleep(2 * TOLERANCE)
    closed = [one.closed_at for one in everyone if one.closed_at]
    if len(closed) != share:
        raise RuntimeError(f"one session ended, and {len(closed)} connections instead of {share}")
    return max(closed) - began


def _request(kind: str, head: str, house: House) -> bytes:
    return websocket("/ws", head, house.origin) if kind == "WebSockets" else event_stream("/events", head)


async def main(options: argparse.Namespace) -> int:
    raise_file_limit()
    rows = [HEADS, [":---", *["---:"] * (len(HEADS) - 2), ":---"]]
    part = 20 if options.quick else 1
    crowds = [
        ("WebSockets", 8000, 1),
        ("WebSockets", 8000, 100),
        ("event streams", 1000, 1),
        ("event streams", 1000, 100),
    ]
    try:
        async with prepared(pinned=False) as ground:
            backend = free_port()
            command = [sys.executable, "-m", "bench.lasting", str(backend)]
            await ground.start("lasting", command, behind=True).ready(backend)
            for number, (kind, count, sessions) in enumerate(crowds):
                if all(word in kind for word in options.only):
                    async with opened(ground, backend, options.workers, f"crowd-{number}") as house:
                        row = await crowd(house, kind, count // part, max(1, sessions // part))
                    rows.append(row.cells())
    except Missing as reason:
        print(f"bench: {reason}", file=sys.stderr)
        return 1
    print(
        f"{markdown(rows)}\n\n{options.workers} worker{'s' if options.workers > 1 else ''}, sessions in Redis; PSS is "
        f"of all processes of the gateway. {os.cpu_count()} cores for everybody, load average {os.getloadavg()[0]:.2f} "
        "at the end."
    )
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.crowds", description=(__doc__ or "").partition(":")[0])
    parser.add_argument("--quick", action="store_true", help="a twentieth of it, for a first look")
    parser.add_argument("--workers", type=int, default=2, help="how many (2)")
    parser.add_argument("--only", nargs="*", default=[], metavar="WORD", help="crowds with these words in their names")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(uvloop.run(main(arguments())))
