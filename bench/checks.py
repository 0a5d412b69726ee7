"""What a check costs over gRPC, beside one over HTTP: `python -m bench.checks [--quick] [--rounds N]`, as Markdown.

Two gateways with the same user: Envoy's dialect over HTTP, asked by wrk, and over gRPC, asked by a client in this
process. That client costs about as much as what it asks, so checks a second say what both together can do; CPU is the
gateway's.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import TypeAlias

from bench.ground import PATH, Ground, prepared
from bench.load import CONNECTIONS, burst
from bench.peers.ours import Ours
from bench.process import Memory, Missing, Program, find
from bench.table import MIB, markdown
from tests.real.parts import free_port

CHECK = "/envoy.service.auth.v3.Authorization/Check"

Load: TypeAlias = Callable[[float], Awaitable[tuple[int, float]]]
"""Asks for so many seconds; how many checks were answered with yes, and the seconds that it took."""


@dataclass
class Asked:
    """A gateway that is asked; the lists have one element a round."""

    name: str
    program: Program
    load: Load
    idle: Memory = field(default_factory=Memory)
    loaded: Memory = field(default_factory=Memory)
    cpu: list[float] = field(default_factory=list)
    """µs of CPU for each check."""
    rate: list[float] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)

    async def round(self, seconds: float) -> None:
        before = self.program.cpu()
        checks, took = await self.load(seconds)
        used = self.program.cpu() - before
        self.loaded = max(self.loaded, self.program.memory(), key=lambda memory: memory.pss)
        self.cpu.append(used / checks * 1e6)
        self.rate.append(checks / took)
        self.busy.append(used / took)


async def over_http(ground: Ground, wrk: str) -> Asked:
    port = free_port()
    origin = f"http://127.0.0.1:{port}"
    asks = {"forward_auth": {"dialects": ["envoy"], "trusted_proxies": ["127.0.0.0/8"]}}
    program, _ = await Ours("redis", access_log=False).serve(ground, "http", origin, {}, port, **asks)
    headers = {"Cookie": await ground.sign_in(origin + PATH)}

    async def load(seconds: float) -> tuple[int, float]:
        done = await burst(wrk, ground.folder, f"{origin}/oauth2/authz/envoy{PATH}", headers, seconds)
        if done.refused or done.broken:
            raise RuntimeError(f"{done.refused} refusals, {done.broken} broken connections")
        return done.requests, done.seconds

    return Asked("HTTP", program, load, idle=program.memory())


async def over_grpc(ground: Ground) -> Asked:
    import grpc
    from envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse

    port, asked = free_port(), free_port()
    origin = f"http://127.0.0.1:{port}"
    asks = {"forward_auth": {"grpc": {"address": f"127.0.0.1:{asked}"}, "trusted_proxies": ["127.0.0.0/8"]}}
    program, _ = await Ours("redis", access_log=False).serve(ground, "grpc", origin, {}, port, **asks)
    question = CheckRequest()
    http = question.attributes.request.http
    http.method, http.path, http.host, http.scheme = "GET", PATH, f"127.0.0.1:{port}", "http"
    http.headers.update({"cookie": await ground.sign_in(origin + PATH)})
    data = question.SerializeToString()

    async def load(seconds: float) -> tuple[int, float]:
        loop = asyncio.get_running_loop()
        began = loop.time()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{asked}") as channel:
            check = channel.unary_unary(CHECK)

            async def caller() -> int:
                answered = 0
                while loop.time() - began < seconds:
                    if CheckResponse.FromString(await check(data)).status.code != grpc.StatusCode.OK.value[0]:
                        raise RuntimeError("a check was denied")
                    answered += 1
                return answered

            answered = await asyncio.gather(*(caller() for _ in range(CONNECTIONS)))
        return sum(answered), loop.time() - began

    return Asked("gRPC", program, load, idle=program.memory())


def table(rows: Sequence[Asked]) -> str:
    first = rows[0]
    heads = ["asked over", "CPU µs/check", "× HTTP", "checks/s", "cores busy", "PSS idle, MiB", "loaded, MiB"]
    lines = [heads, [":---", *["---:"] * (len(heads) - 1)]]
    for row in rows:
        dearer = median(mine / its for mine, its in zip(row.cpu, first.cpu, strict=True))
        cells = [f"{median(row.cpu):.1f}", f"{dearer:.1f}", f"{median(row.rate):,.0f}", f"{median(row.busy):.2f}"]
        lines.append([row.name, *cells, *(f"{memory.pss / MIB:.0f}" for memory in (row.idle, row.loaded))])
    return markdown(lines)


async def main(options: argparse.Namespace) -> int:
    try:
        async with prepared() as ground:
            rows = [await over_http(ground, find("wrk", "wrk")), await over_grpc(ground)]
            for row in rows:
                await row.load(1)
            for number in range(options.rounds):
                for row in rows[:: -1 if number % 2 else 1]:
                    await row.round(options.seconds)
    except (ImportError, Missing) as reason:
        print(f"bench: {reason}", file=sys.stderr)
        return 1
    print(
        f"{table(rows)}\n\nA signed-in user, sessions in Redis, one worker on a core of its own, {CONNECTIONS} checks "
        f"at a time; medians of {options.rounds} rounds of {options.seconds} s."
    )
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.checks", description=(__doc__ or "").partition(":")[0])
    parser.add_argument("--quick", action="store_true", help="a quarter of a minute, for a first look")
    parser.add_argument("--rounds", type=int, help="how often both have a turn (5)")
    parser.add_argument("--seconds", type=int, help="how long a turn is (5)")
    options = parser.parse_args()
    options.rounds = options.rounds or (3 if options.quick else 5)
    options.seconds = options.seconds or (1 if options.quick else 5)
    return options


if __name__ == "__main__":
    sys.exit(asyncio.run(main(arguments())))
