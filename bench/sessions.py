"""What sessions promise, measured: `python -m bench.sessions [--sessions N] [--quick] [part …]`.

Three gateways on one Redis, all on this machine; the provider, the backend and the clients are in this process. Parts:
revocation, steady, refresh, outages, volume; all of them unless named. Markdown on standard output.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import uvloop

from bench import outages, volume
from oidc_proxy.demo.faults import Faults, late
from tests.real.redis import RedisServer
from tests.real.test_revocation import BEATS, ended, many, percentile
from tests.real.workers import Fleet, all_of, running_fleet, slow_to_begin

TOKEN_LIFE = 4.0
PATIENT = {"session": {"refresh": {"leeway": "0s"}}, "provider": {"timeout": "30s"}}


@asynccontextmanager
async def three(config: dict[str, object] | None = None) -> AsyncIterator[tuple[Fleet, RedisServer]]:
    server = await asyncio.to_thread(RedisServer.launch)
    try:
        with tempfile.TemporaryDirectory() as folder:
            store = {"type": "redis", "url": server.url}
            async with running_fleet(store, Path(folder), config=config) as fleet:
                yield fleet, server
    finally:
        server.close()


async def revocation(options: argparse.Namespace) -> AsyncIterator[str]:
    """From the administrator's DELETE to the first refusal, on every worker."""
    async with three() as (fleet, _):
        taken = []
        for trial in range(options.trials):
            visitors, began = await ended(fleet, trial)
            taken += [(visitor.refused_at - began) * 1000 for visitor in visitors]
    taken.sort()
    yield "| from DELETE to the first refusal, ms | p50 | p99 | max |\n|---|---|---|---|"
    figures = " | ".join(f"{figure:.1f}" for figure in (percentile(taken, 0.5), percentile(taken, 0.99), taken[-1]))
    yield f"| {options.trials} trials on 3 workers | {figures} |"


async def steady(options: argparse.Namespace) -> AsyncIterator[str]:
    """Redis commands that authenticated requests cost."""
    async with three() as (fleet, server):
        cookies = await fleet.sign_in()
        await fleet.warm(cookies)
        before, began = await server.command_stats(), time.monotonic()
        count = sum(await asyncio.gather(*(many(worker, cookies, 3334) for worker in fleet.workers)))
        seconds, after = time.monotonic() - began, await server.command_stats()
    asked = {name: calls - before.get(name, 0) for name, calls in after.items()}
    commands = sum(calls for name, calls in asked.items() if name not in BEATS)
    beats = sum(asked.values()) - commands
    yield "| authenticated requests | seconds | Redis commands | besides, to keep connections |\n|---|---|---|---|"
    yield f"| {count:,} | {seconds:.1f} | {commands} | {beats} |"


async def refresh(options: argparse.Namespace) -> AsyncIterator[str]:
    """300 requests over 3 processes at the moment of expiry, with a slow provider that rotates refresh tokens."""
    slow = options.slow
    yield (f"| token endpoint takes {slow:g} s | refreshes | 200 | other | seconds |\n|---|---|---|---|---|")
    for name in ("300 requests, 3 processes", "whose first client goes away", "whose first process is killed"):
        async with three(PATIENT) as (fleet, _):
            yield f"| {name} | {await race(fleet, slow, name.rpartition(' ')[2])} |"


async def race(fleet: Fleet, slow: float, event: str) -> str:
    fleet.provider.lifetimes = replace(fleet.provider.lifetimes, access_token=TOKEN_LIFE)
    cookies = await fleet.sign_in()
    expiry = time.monotonic() + TOKEN_LIFE
    await fleet.warm(cookies)
    fleet.provider.lifetimes = replace(fleet.provider.lifetimes, access_token=300)
    if event == "killed":
        slow_to_begin(fleet.provider, slow)
    else:
        fleet.provider.faults = Faults(refresh=late(slow))
    await asyncio.sleep(expiry - time.monotonic() + 0.05)
    began = time.monotonic()
    if event != "processes":
        first = asyncio.create_task(fleet.workers[0].send(cookies))
        await asyncio.sleep(0.5)
        if event == "away":
            first.cancel()
        else:
            fleet.workers[0].process.kill()
        await asyncio.gather(first, return_exceptions=True)
    statuses = await all_of(300, lambda: fleet.ask(cookies))
    fine = statuses.count(200)
    return f"{fleet.refreshes} | {fine} | {300 - fine} | {time.monotonic() - began:.1f}"


async def outage_table(options: argparse.Namespace) -> AsyncIterator[str]:
    """200 requests a second on 50 sessions."""
    seconds = (5, 15) if options.quick else (20, 60)
    async for row in outages.table(*seconds):
        yield row


async def volume_table(options: argparse.Namespace) -> AsyncIterator[str]:
    """Many sessions."""
    async for row in volume.table(options.sessions):
        yield row


PARTS = {
    "revocation": revocation,
    "steady": steady,
    "refresh": refresh,
    "outages": outage_table,
    "volume": volume_table,
}


async def main(options: argparse.Namespace) -> None:
    for name in options.parts or PARTS:
        print(f"\n## {PARTS[name].__doc__}\n", flush=True)
        async for row in PARTS[name](options):
            print(row, flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], metavar="part", help=", ".join(PARTS))
    parser.add_argument("--sessions", type=int, default=100_000, help="how many are many (default: 100000)")
    parser.add_argument("--trials", type=int, default=200, help="sessions that are ended (default: 200)")
    parser.add_argument("--slow", type=float, default=6.0, help="seconds that a token answer takes (default: 6)")
    parser.add_argument("--quick", action="store_true", help="short outages")
    uvloop.run(main(parser.parse_args()))
