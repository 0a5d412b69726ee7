"""Where the CPU of the data path goes: `python -m bench.profile [--seconds N] [--lines N] [--native]`, as Markdown.

py-spy looks at one worker with sessions in Redis while wrk loads it; its samples are counted by function and scaled to
the CPU that a request took. Time inside compiled code counts as its caller's, unless --native names it.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections import Counter
from pathlib import Path
from typing import cast

from bench.__main__ import Run, say
from bench.ground import prepared
from bench.load import burst
from bench.peers import Peer
from bench.peers.ours import Ours
from bench.process import find
from tests.world import Browser

ROOT = Path(__file__).parents[1]


async def record(options: argparse.Namespace, raw: Path) -> float:
    """Write py-spy's samples to a file; returns µs of CPU per request without it."""
    py_spy = find("py-spy", remedy="`pip install py-spy`") if not options.py_spy else options.py_spy
    wrk = find("wrk", "wrk")
    async with prepared() as ground, Browser() as browser:
        run = Run(ground, wrk, options, browser)
        await run.admit(cast("Peer", Ours(store=options.store, access_log=options.access_log)))
        if not run.contestants:
            raise RuntimeError(str(run.absent))
        contestant = run.contestants[0]
        await burst(wrk, ground.folder, contestant.url, contestant.headers, 2)
        before = contestant.cpu()
        done = await burst(wrk, ground.folder, contestant.url, contestant.headers, options.seconds)
        cost = (contestant.cpu() - before) / done.requests * 1e6
        load = asyncio.create_task(burst(wrk, ground.folder, contestant.url, contestant.headers, options.seconds + 2))
        await asyncio.sleep(0.5)
        pid = contestant.stand.programs[0].processes()[0]
        process = await asyncio.create_subprocess_exec(
            *(py_spy, "record", "--format", "raw", "--rate", "400", "--duration", str(options.seconds), "--function"),
            *("--output", str(raw), "--pid", str(pid), "--native" if options.native else "--nonblocking"),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        _, errors = await process.communicate()
        await load
        if process.returncode:
            raise RuntimeError(errors.decode(errors="replace"))
    return cost


def counted(raw: str) -> tuple[Counter[str], Counter[str], int]:
    """Samples by function: on top of the stack, anywhere in it, and all together."""
    own: Counter[str] = Counter()
    within: Counter[str] = Counter()
    total = 0
    for line in raw.splitlines():
        stack, _, count = line.rpartition(" ")
        frames = [_place(frame) for frame in stack.split(";")]
        own[frames[-1]] += int(count)
        within.update(dict.fromkeys(frames, int(count)))
        total += int(count)
    return own, within, total


def _place(frame: str) -> str:
    """``function (path/of/file.py)`` with the path cut to what tells."""
    name, _, path = frame.partition(" (")
    for start in (f"{ROOT}/", "site-packages/", "python3.11/", "python3.12/", "python3.13/", "python3.14/"):
        path = path.rpartition(start)[2]
    return f"{name} ({path}" if path else name or "(unknown)"


def table(raw: str, cost: float, lines: int) -> str:
    own, within, total = counted(raw)
    rows = ["| function | own µs | with callees µs |", "| :--- | ---: | ---: |"]
    for place, count in own.most_common(lines):
        rows.append(f"| `{place}` | {count / total * cost:.1f} | {within[place] / total * cost:.1f} |")
    return "\n".join([*rows, "", f"{cost:.1f} µs of CPU per request, {total} samples, load {os.getloadavg()[0]:.2f}."])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.profile", description=(__doc__ or "").partition(":")[0])
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--lines", type=int, default=30)
    parser.add_argument("--native", action="store_true", help="name compiled functions, too")
    parser.add_argument("--store", choices=["memory", "redis"], default="redis")
    parser.add_argument("--access-log", action="store_true")
    parser.add_argument("--browser-headers", action="store_true", help="send all headers that Chrome sends")
    parser.add_argument(
        "--py-spy", default=next((str(p) for p in [Path(sys.executable).with_name("py-spy")] if p.exists()), "")
    )
    parser.add_argument("--raw", type=Path, default=Path("profile.raw"), help="where py-spy's samples go")
    options = parser.parse_args()
    say("profiling")
    cost = asyncio.run(record(options, options.raw))
    print(table(options.raw.read_text(), cost, options.lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
