"""Throughput and CPU per request of 1, 2, … workers: `python -m bench.workers [--quick] [--rounds N]`, as Markdown.

Nobody is kept on a core here: the load, the backend and Redis share all of them with the workers. So throughput grows
by what they leave, and CPU per request says what a machine with cores to spare would make of more workers.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

from bench.ground import PATH, Ground, prepared
from bench.load import burst
from bench.peers.ours import Ours
from bench.process import Missing, Program, find, machine_busy
from bench.table import markdown
from tests.real.parts import free_port

CONNECTIONS = 128
"""More than elsewhere: the system deals them out to the workers by chance, and chance is more even with many."""


@dataclass
class Crew:
    """A gateway with so many workers; the lists have one element a round."""

    workers: int
    program: Program
    url: str
    headers: dict[str, str]
    rate: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    """µs of CPU for each request, the supervisor's included."""
    busy: list[float] = field(default_factory=list)
    load: list[float] = field(default_factory=list)
    others: list[float] = field(default_factory=list)
    """Cores that it used, that wrk and the backend did, and that all else on the machine did."""

    async def round(self, wrk: str, ground: Ground, seconds: float) -> None:
        machine, mine, its = machine_busy(), self.program.cpu(), ground.load_cpu()
        done = await burst(wrk, ground.folder, self.url, self.headers, seconds, connections=CONNECTIONS)
        used, load, all_used = self.program.cpu() - mine, ground.load_cpu() - its, machine_busy() - machine
        if done.refused or done.broken:
            raise RuntimeError(f"{self.workers} workers: {done.refused} refusals, {done.broken} broken connections")
        self.rate.append(done.rate)
        self.cpu.append(used / done.requests * 1e6)
        self.busy.append(used / done.seconds)
        self.load.append(load / done.seconds)
        self.others.append((all_used - used - load) / done.seconds)


async def crew(ground: Ground, workers: int) -> Crew:
    port = free_port()
    origin, name = f"http://127.0.0.1:{port}", f"workers-{workers}"
    gateway = Ours(store="redis", access_log=False)
    program, _ = await gateway.serve(ground, name, origin, {"workers": workers} if workers > 1 else {}, port)
    return Crew(workers, program, origin + PATH, {"Cookie": await ground.sign_in(origin + PATH)})


def table(crews: Sequence[Crew]) -> str:
    first = crews[0]
    heads = ["workers", "requests/s", "× one", "CPU µs/request", "× one", "cores busy", "by the load", "by others"]
    lines = [heads, ["---:"] * len(heads)]
    for one in crews:
        faster = median(mine / its for mine, its in zip(one.rate, first.rate, strict=True))
        dearer = median(mine / its for mine, its in zip(one.cpu, first.cpu, strict=True))
        cells = [f"{median(one.rate):,.0f}", f"{faster:.2f}", f"{median(one.cpu):.1f}", f"{dearer:.2f}"]
        lines.append(
            [str(one.workers), *cells, *(f"{median(cores):.2f}" for cores in (one.busy, one.load, one.others))]
        )
    return markdown(lines)


async def main(options: argparse.Namespace) -> int:
    try:
        wrk = find("wrk", "wrk")
        async with prepared(pinned=False) as ground:
            crews = [await crew(ground, workers) for workers in options.workers]
            for one in crews:
                await burst(wrk, ground.folder, one.url, one.headers, 1, connections=CONNECTIONS)
            for number in range(options.rounds):
                for one in crews[:: -1 if number % 2 else 1]:
                    await one.round(wrk, ground, options.seconds)
    except Missing as reason:
        print(f"bench: {reason}", file=sys.stderr)
        return 1
    print(
        f"{table(crews)}\n\nGET of 1 KiB, {CONNECTIONS} connections, sessions in Redis, {os.cpu_count()} cores for "
        f"everybody; medians of {options.rounds} rounds of {options.seconds} s."
    )
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.workers", description=(__doc__ or "").partition(":")[0])
    parser.add_argument("workers", nargs="*", type=int, default=[1, 2], help="how many workers (1 2)")
    parser.add_argument("--quick", action="store_true", help="less than half a minute, for a first look")
    parser.add_argument("--rounds", type=int, help="how often everybody has a turn (7)")
    parser.add_argument("--seconds", type=int, help="how long a turn is (5)")
    options = parser.parse_args()
    options.rounds = options.rounds or (3 if options.quick else 7)
    options.seconds = options.seconds or (1 if options.quick else 5)
    return options


if __name__ == "__main__":
    sys.exit(asyncio.run(main(arguments())))
