"""Many sessions: what they cost in Redis and in a gateway's memory, and what they do to latency."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import msgspec
import yaml

from oidc_proxy.config import Config
from oidc_proxy.server.app import App
from oidc_proxy.server.archive import Archive
from oidc_proxy.sessions import Card, Session, Ticket
from oidc_proxy.tokens import VerifiedClaims
from tests.real.redis import RedisServer
from tests.real.workers import Fleet, Worker, running_fleet

FEW = 1_000
READS, SIGN_INS = 1_500, 60
AT_ONCE = 200
USERS = 20
"""Sessions for each user: more than anybody has."""


def ticket(number: int) -> Ticket:
    return Ticket.mint(hashlib.sha512(f"bench {number}".encode()).digest())


def cookie(number: int) -> str:
    return f"oidc_proxy={ticket(number).cookie_value}"


async def model(fleet: Fleet, archive: Archive) -> Session:
    """A session as a sign-in makes it, with tokens of their usual size, and good for as long as all this takes."""
    fleet.provider.lifetimes = replace(fleet.provider.lifetimes, access_token=86_400)
    cookies = await fleet.sign_in()
    held = Ticket.read(cookies.partition("oidc_proxy=")[2].partition(";")[0])
    assert held is not None
    found = await archive.read(held)
    assert found is not None
    return found[1]


async def fill(archive: Archive, like: Session, first: int, count: int) -> None:
    """Write sessions as a sign-in does, without signing in."""

    async def write(number: int) -> None:
        held, subject = ticket(number), f"user-{number // USERS}"
        claims = VerifiedClaims({**like.claims.values, "sub": subject, "sid": f"sid-{number}"})
        session = msgspec.structs.replace(like, claims=claims)
        card = Card(
            record_id=held.record_id,
            issuer=claims.issuer,
            subject=subject,
            sid=session.sid,
            user=subject,
            origin=like.origin,
            created_at=like.created_at,
            ends_at=like.ends_at,
            address="192.0.2.1",
            user_agent="Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
        )
        await archive.create(held, session, card)

    for start in range(first, first + count, AT_ONCE):
        await asyncio.gather(*(write(number) for number in range(start, min(start + AT_ONCE, first + count))))
        if (start - first) % 50_000 < AT_ONCE:
            print(f"  {start - first} of {count} sessions written", file=sys.stderr)


@asynccontextmanager
async def filled(count: int, folder: Path, entries: int) -> AsyncIterator[tuple[Fleet, float]]:
    """One gateway on a Redis with so many sessions, and their bytes for each."""
    server = await asyncio.to_thread(RedisServer.launch)
    store = {"type": "redis", "url": server.url}
    await asyncio.to_thread(folder.mkdir)
    try:
        async with running_fleet(store, folder, count=1, config={"session": {"cache": {"entries": entries}}}) as fleet:
            app = _writer(folder)
            archive = app._sessions.archive  # noqa: SLF001 - nobody else writes as it does
            try:
                like = await model(fleet, archive)
                await fill(archive, like, 0, 100)  # scripts are loaded, sets exist
                before = await _used(server)
                await fill(archive, like, 100, count)
                bytes_each = (await _used(server) - before) / count
            finally:
                await app.close()
            yield fleet, bytes_each
    finally:
        server.close()


def _writer(folder: Path) -> App:
    """A gateway that is never started: its way to write sessions is what is wanted."""
    settings = yaml.safe_load((folder / "worker-0" / "config.yaml").read_text())
    provider = settings["provider"]
    provider["client_secret"] = Path(provider.pop("client_secret_file")).read_text()
    return App(Config.model_validate(settings), log=io.StringIO())


async def _used(server: RedisServer) -> int:
    async with server.client() as client:
        return int((await client.info("memory"))["used_memory"])


def resident(worker: Worker) -> int:
    """Bytes of memory that the process has."""
    for line in Path(f"/proc/{worker.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) * 1024
    raise LookupError("no VmRSS")


async def latencies(few: Fleet, many: Fleet, count: int) -> tuple[list[list[float]], list[list[float]]]:
    """Seconds of first reads and of sign-ins, with few and with many sessions, in turn."""
    reads: list[list[float]] = [[], []]
    for number in range(READS):
        for which, (fleet, most) in enumerate([(few, FEW), (many, count)]):
            asked = cookie((number * 7919) % most if most > READS else number % most)
            began = time.perf_counter()
            assert (await fleet.workers[0].send(asked)).status == 200
            reads[which].append(time.perf_counter() - began)
    sign_ins: list[list[float]] = [[], []]
    for _ in range(SIGN_INS):
        for which, fleet in enumerate([few, many]):
            began = time.perf_counter()
            await fleet.sign_in()
            sign_ins[which].append(time.perf_counter() - began)
    return reads, sign_ins


async def memory(fleet: Fleet, entries: int, count: int) -> tuple[int, int, int]:
    """Bytes of a gateway: before, when its cache is full, and after as many other sessions again."""
    worker = fleet.workers[0]
    sizes = [resident(worker)]
    for start in (0, entries):
        numbers = iter(range(start, min(start + entries, count)))

        async def some() -> None:
            for number in numbers:  # noqa: B023
                assert (await worker.send(cookie(number))).status == 200

        await asyncio.gather(*(some() for _ in range(8)))
        sizes.append(resident(worker))
    return sizes[0], sizes[1], sizes[2]


async def table(count: int) -> AsyncIterator[str]:
    """The rows."""
    entries = min(10_000, count // 2)
    with tempfile.TemporaryDirectory() as folder:
        async with contextlib.AsyncExitStack() as stack:
            # A cache of one entry: every read goes to Redis.
            few, _ = await stack.enter_async_context(filled(FEW, Path(folder) / "few", 1))
            many, bytes_each = await stack.enter_async_context(filled(count, Path(folder) / "many", 1))
            reads, sign_ins = await latencies(few, many, count)
        async with filled(2 * entries, Path(folder) / "memory", entries) as (fleet, _):
            empty, full, after = await memory(fleet, entries, 2 * entries)
    yield f"| | {FEW:,} sessions | {count:,} sessions | ratio |\n|---|---|---|---|"
    for name, (one, other) in {"first read, median": reads, "sign-in, median": sign_ins}.items():
        small, large = statistics.median(one), statistics.median(other)
        yield f"| {name} | {small * 1000:.2f} ms | {large * 1000:.2f} ms | {large / small:.2f} |"
    yield f"| Redis, bytes for each session | | {bytes_each:,.0f} | |"
    yield (
        f"\nA gateway takes {empty / 2**20:.0f} MiB, with a full cache of {entries:,} sessions {full / 2**20:.0f} MiB "
        f"({(full - empty) / entries / 1024:.1f} KiB for each), and {after / 2**20:.0f} MiB after {entries:,} others."
    )
