"""Large bodies through us and through nginx: `python -m bench.transfers [--quick] [--rounds N] [--mib N]`, as Markdown.

Everybody in turn, there and back again: a download and an upload of the same file, dropped at its far end; then once
more each, with its SHA-256 there. At last, many slow readers at once.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import TypeVar

from bench.bulk import Moved, download, read_slowly, upload
from bench.ground import PATH, Ground, prepared
from bench.peers.ours import Ours
from bench.process import Missing, Program
from bench.table import MIB, markdown
from tests.real.parts import free_port

T = TypeVar("T")

NGINX = """
  upstream backend {{ server 127.0.0.1:{backend}; keepalive 64; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    client_max_body_size 0;
    location / {{
      proxy_pass http://backend;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host $host;
      proxy_set_header X-Forwarded-For $remote_addr;
      {buffering}
    }}
  }}"""
UNBUFFERED = "proxy_buffering off; proxy_request_buffering off;"
LARGE = "proxy_buffers 8 256k; proxy_buffer_size 256k; client_body_buffer_size 256k;"
NGINXES = {
    "nginx": "",
    "nginx, buffering off": UNBUFFERED,
    "nginx, buffering off, 256 KiB": f"{UNBUFFERED} {LARGE}",
}
"""Whom we are compared with; the first buffers as it does by default, uploads in a file."""
SLOW, SLOW_MIB, SLOW_PIECE, SLOW_PAUSE = 200, 100, 16 * 1024, 0.05


@dataclass
class Way:
    """One program between the client and the backend; the lists have one element a round, by direction."""

    name: str
    program: Program
    port: int
    head: str
    rate: dict[str, list[float]] = field(default_factory=lambda: {"down": [], "up": []})
    """MB/s."""
    cost: dict[str, list[float]] = field(default_factory=lambda: {"down": [], "up": []})
    """Seconds of CPU for each GiB."""
    busy: list[float] = field(default_factory=list)
    """Cores in use."""
    idle: int = 0
    growth: int = 0
    """Bytes of memory (RSS): before the first transfer, and at most above that."""
    intact: dict[str, bool] = field(default_factory=dict)

    def moves(self, file: Path) -> dict[str, Callable[[bool], Moved]]:
        """How to move the file, by direction; the argument says whether to take its digest."""
        return {
            "down": lambda digest: download(self.port, self.head, digest=digest),
            "up": lambda digest: upload(self.port, self.head, file, digest=digest),
        }


async def watched(program: Program, work: Awaitable[T]) -> tuple[T, int]:
    """What the work gives, and the most memory (RSS) that the program had meanwhile."""
    peak = program.memory().rss

    async def look() -> None:
        nonlocal peak
        while True:
            await asyncio.sleep(0.1)
            peak = max(peak, program.memory().rss)

    looking = asyncio.create_task(look())
    try:
        result = await work
        return result, max(peak, program.memory().rss)
    finally:
        looking.cancel()
        with suppress(asyncio.CancelledError):
            await looking


async def timed(way: Way, direction: str, move: Callable[[bool], Moved]) -> None:
    before = way.program.cpu()
    moved, peak = await watched(way.program, asyncio.to_thread(move, False))
    used = way.program.cpu() - before
    way.rate[direction].append(moved.size / moved.seconds / 1e6)
    way.cost[direction].append(used * 2**30 / moved.size)
    way.busy.append(used / moved.seconds)
    way.growth = max(way.growth, peak - way.idle)


async def all_rounds(ways: Sequence[Way], file: Path, rounds: int) -> None:
    for way in ways:
        way.idle = way.program.memory().rss
    for number in range(rounds):
        say(f"round {number + 1} of {rounds}")
        for way in ways[:: -1 if number % 2 else 1]:
            for direction, move in way.moves(file).items():
                await timed(way, direction, move)
    say("checksums")
    wanted = await asyncio.to_thread(sha256, file)
    for way in ways:
        for direction, move in way.moves(file).items():
            way.intact[direction] = (await asyncio.to_thread(move, True)).digest == wanted


def sha256(file: Path) -> str:
    with file.open("rb") as body:
        return hashlib.file_digest(body, "sha256").hexdigest()


def write(file: Path, mib: int) -> None:
    """A file that is nowhere like another part of itself."""
    with file.open("wb") as body:
        for _ in range(mib):
            body.write(os.urandom(2**20))
    file.chmod(0o644)


async def slow_readers(way: Way, seconds: float) -> str:
    """The row of one program that many clients take their time with."""
    idle = way.program.memory().rss
    reading = partial(read_slowly, way.port, way.head, SLOW, SLOW_MIB * MIB, SLOW_PIECE, SLOW_PAUSE, seconds)
    taken, peak = await watched(way.program, asyncio.to_thread(reading))
    growth = (peak - idle) / MIB
    cells = [f"{min(taken) / MIB:.1f}–{max(taken) / MIB:.1f}", f"{idle / MIB:.0f}", f"{growth:.1f}"]
    return markdown([[way.name, *cells, f"{growth / SLOW * 1024:.0f}"]])


# ── who takes part ──


async def ours(ground: Ground, backend: int) -> Way:
    port = free_port()
    origin = f"http://127.0.0.1:{port}"
    program, _ = await Ours(store="memory", access_log=False).serve(
        ground,
        "ours",
        origin,
        {},
        port,
        upstreams={"bulk": {"url": f"http://127.0.0.1:{backend}"}},
        routes=[{"path": "/file", "upstream": "bulk"}, {"path": "/count", "upstream": "bulk"}],
    )
    cookie = await ground.sign_in(f"{origin}{PATH}")
    return Way("oidc_proxy", program, port, f"Host: 127.0.0.1:{port}\r\nCookie: {cookie}\r\n")


async def nginx(ground: Ground, backend: int, name: str, buffering: str) -> Way:
    port = free_port()
    config = NGINX.format(backend=backend, port=port, buffering=buffering)
    program = ground.start_nginx("".join(filter(str.isalnum, name)), config)
    await program.ready(port)
    return Way(name, program, port, f"Host: 127.0.0.1:{port}\r\n")


# ── telling ──


def table(ways: Sequence[Way]) -> str:
    others = [way for way in ways if way.name in NGINXES]
    heads = ["", "direction", "MB/s", "(least–most)", *(f"× {way.name}" for way in others)]
    heads += ["CPU ms/GiB", "SHA-256 at the far end"]
    lines = [heads, [":---", ":---", *["---:"] * (len(heads) - 3), ":---"]]
    for direction in ("down", "up"):
        for way in ways:
            rate, cost = way.rate[direction], way.cost[direction]
            ratios = [median(mine / its for mine, its in zip(rate, it.rate[direction], strict=True)) for it in others]
            cells = [
                f"{median(rate):,.0f}",
                f"{min(rate):,.0f}–{max(rate):,.0f}",
                *(f"{ratio:.2f}" for ratio in ratios),
            ]
            intact = "equal" if way.intact[direction] else "**different**"
            lines.append([way.name, f"{direction}load", *cells, f"{median(cost) * 1000:,.0f}", intact])
    return markdown(lines)


def memories(ways: Sequence[Way]) -> str:
    lines = [["", "RSS at first, MiB", "growth at most, MiB", "cores busy"], [":---", "---:", "---:", "---:"]]
    lines += [[way.name, f"{way.idle / MIB:.0f}", f"{way.growth / MIB:.1f}", f"{median(way.busy):.2f}"] for way in ways]
    return markdown(lines)


async def main(options: argparse.Namespace) -> int:
    try:
        async with prepared() as ground:
            file, backend = ground.folder / "file", free_port()
            await asyncio.to_thread(write, file, options.mib)
            command = [sys.executable, "-m", "bench.bulk", str(backend), str(file)]
            await ground.start("bulk", command, behind=True).ready(backend)
            ways = [await nginx(ground, backend, name, buffering) for name, buffering in NGINXES.items()]
            ways.append(await ours(ground, backend))
            await all_rounds(ways, file, options.rounds)
            print(f"{options.mib} MiB, medians of {options.rounds} rounds:\n\n{table(ways)}\n\n{memories(ways)}\n")
            print(
                f"{SLOW} readers of {SLOW_MIB} MiB each, who take {SLOW_PIECE // 1024} KiB every {SLOW_PAUSE} s at "
                f"most, for {options.slow} s:\n\n"
                "|  | each got, MiB | RSS before, MiB | growth, MiB | for each reader, KiB |\n"
                "| :--- | ---: | ---: | ---: | ---: |"
            )
            for way in (ways[1], ways[-1]):
                print(await slow_readers(way, options.slow), flush=True)
    except Missing as reason:
        print(f"bench: {reason}", file=sys.stderr)
        return 1
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.transfers", description=(__doc__ or "").partition(":")[0])
    parser.add_argument("--quick", action="store_true", help="less than a minute, for a first look")
    parser.add_argument("--rounds", type=int, help="how often everybody has a turn (5)")
    parser.add_argument("--mib", type=int, help="size of the file (1024)")
    parser.add_argument("--slow", type=int, help="seconds that slow readers take (30)")
    options = parser.parse_args()
    options.rounds = options.rounds or (2 if options.quick else 5)
    options.mib = options.mib or (256 if options.quick else 1024)
    options.slow = options.slow or (5 if options.quick else 30)
    return options


def say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(asyncio.run(main(arguments())))
