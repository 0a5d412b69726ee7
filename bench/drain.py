"""`kill -TERM` under load: `python -m bench.drain [--rounds N] [--workers N …]`, as Markdown.

Requests over connections that are kept alive, uploads under way, event streams and WebSockets, all at the same time. A
request counts as accepted when a byte of its answer came, when the backend has seen it, or when the gateway has read
it: all its bytes were acknowledged, and the connection ended without a reset (a system resets one that is closed with
bytes that nobody has read). An accepted request that is not answered whole has failed. What else was sent just as its
connection was closed (RFC 9112 §9.3.1) was never read, and is counted beside.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

from bench.crowds import House, opened
from bench.ground import prepared
from bench.lasting import Backend, Lasting, event_stream, open_all, raise_file_limit, websocket
from bench.process import Missing
from bench.table import markdown
from tests.real.parts import free_port

GETS, UPLOADS, STREAMS, SOCKETS = 64, 16, 32, 64
PIECE, PIECES, PAUSE = 64 * 1024, 60, 0.05
"""An upload takes three seconds."""
BEFORE = 2.0
"""Seconds of load before the signal."""
GRACE = 20.0
_BYTES_ACKED = 120
"""Where tcp_info(7) has tcpi_bytes_acked, which counts the SYN as well."""
KINDS = {"GET": "requests, kept alive", "PUT": "uploads", "events": "event streams", "sockets": "WebSockets"}


@dataclass
class Tally:
    """What became of everything that was asked."""

    backend: set[bytes]
    """The targets that the backend has seen."""
    answered: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    unread: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    """Connections that were not taken any more."""
    after: Counter[str] = field(default_factory=Counter)
    """Of those that were answered: how many ended after the signal."""
    reasons: Counter[str] = field(default_factory=Counter)
    signalled: bool = False

    def fine(self, kind: str) -> None:
        self.answered[kind] += 1
        self.after[kind] += self.signalled

    def fail(self, kind: str, reason: str) -> None:
        self.failed[kind] += 1
        self.reasons[f"{KINDS[kind]}: {reason}"] += 1


class Line:
    """One connection, on which one request follows the other."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer, self._sent = reader, writer, 0

    def write(self, data: bytes) -> None:
        self._writer.write(data)
        self._sent += len(data)

    @property
    def closing(self) -> bool:
        return self._writer.is_closing()

    def read_by_the_other_side(self) -> bool:
        """Whether all that was sent has reached the other system, now that the connection has ended."""
        found = self._writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192)
        return int(struct.unpack_from("=Q", found, _BYTES_ACKED)[0]) - 1 >= self._sent

    async def answer(self) -> tuple[bytes, bytes] | bytes:
        """Head and body; or what there was when the connection ended. ConnectionError when it was reset."""
        head = b""
        try:
            head = await self._reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
            return head, await self._reader.readexactly(length)
        except asyncio.IncompleteReadError as error:
            return head + error.partial

    def close(self) -> None:
        self._writer.transport.abort()


@dataclass
class Load:
    """Who asks, and of whom. ``fine`` is set while the gateway is there."""

    house: House
    head: str
    tally: Tally
    numbers: int = 0

    async def keep_asking(self, kind: str) -> None:
        """One request after the other, until connections are refused."""
        while True:
            try:
                line = Line(*await asyncio.open_connection("127.0.0.1", self.house.port))
            except OSError:
                self.tally.refused[kind] += 1
                return
            try:
                while await self._one(kind, line):
                    pass
            finally:
                line.close()

    async def _one(self, kind: str, line: Line) -> bool:
        """A request; whether another may follow on this connection."""
        self.numbers += 1
        target = f"/{kind}/{self.numbers}".encode()
        begun = b""
        try:
            await self._send(kind, line, target)
            answer = await line.answer()
            if isinstance(answer, tuple):
                return self._judge(kind, *answer)
            begun, reset = answer, False
        except OSError:
            reset = True
        if begun or target in self.tally.backend or (not reset and line.read_by_the_other_side()):
            said = "half an answer" if begun else "no answer, reset" if reset else "no answer"
            self.tally.fail(kind, said)
        else:
            self.tally.unread[kind] += 1
        return False

    def _judge(self, kind: str, head: bytes, body: bytes) -> bool:
        wanted = b"%d" % (PIECE * PIECES if kind == "PUT" else 0)
        if head.startswith(b"HTTP/1.1 200 ") and body == wanted:
            self.tally.fine(kind)
        else:
            self.tally.fail(kind, head.split(b"\r\n")[0].decode(errors="replace"))
        return b"connection: close" not in head.lower()

    async def _send(self, kind: str, line: Line, target: bytes) -> None:
        start = b"%b %b HTTP/1.1\r\n%b" % (kind.encode(), target, self.head.encode())
        if kind == "GET":
            line.write(start + b"\r\n")
            return
        line.write(start + b"Content-Length: %d\r\n\r\n" % (PIECE * PIECES))
        for _ in range(PIECES):
            if line.closing:
                return
            line.write(bytes(PIECE))
            await asyncio.sleep(PAUSE)


@dataclass
class Outcome:
    tally: Tally
    status: int | None
    """What the gateway exited with; None when it had to be killed."""
    seconds: float


@asynccontextmanager
async def listening() -> AsyncIterator[tuple[int, set[bytes]]]:
    """The backend's port, and what it has seen. It outlives the gateway, in this very process."""
    seen: set[bytes] = set()
    server = await asyncio.get_running_loop().create_server(partial(Backend, seen), "127.0.0.1", free_port())
    try:
        yield server.sockets[0].getsockname()[1], seen
    finally:
        server.close()


async def drained(house: House, seen: set[bytes]) -> Outcome:
    """Load, signal, and what became of all."""
    head, tally = await house.sign_in(), Tally(seen)
    load = Load(house, head, tally)
    asking = [asyncio.create_task(load.keep_asking("GET")) for _ in range(GETS)]
    asking += [asyncio.create_task(load.keep_asking("PUT")) for _ in range(UPLOADS)]
    streams = await open_all(house.port, [event_stream("/events", head) for _ in range(STREAMS)])
    sockets = await open_all(house.port, [websocket("/ws", head, house.origin) for _ in range(SOCKETS)])
    await asyncio.sleep(BEFORE)
    tally.signalled, began = True, time.monotonic()
    house.program.terminate()
    status = await house.program.exited(GRACE + 10)
    seconds = time.monotonic() - began
    house.program.stop()
    async with asyncio.timeout(30):
        await asyncio.gather(*asking)
    _judge_lasting(tally, "events", streams, "ended")
    _judge_lasting(tally, "sockets", sockets, "close 1001")
    return Outcome(tally, status, seconds)


def _judge_lasting(tally: Tally, kind: str, connections: list[Lasting], wanted: str) -> None:
    for one in connections:
        if one.how == wanted:
            tally.fine(kind)
        else:
            tally.fail(kind, one.how or "still open")


def table(outcomes: list[Outcome], workers: int) -> list[list[str]]:
    rows = []
    for kind, name in KINDS.items():
        sums = [sum(getattr(one.tally, field_)[kind] for one in outcomes) for field_ in ("answered", "after", "failed")]
        unread, refused = (
            sum(getattr(one.tally, field_)[kind] for one in outcomes) for field_ in ("unread", "refused")
        )
        answered, after, failed = sums
        cells = [f"{answered + failed:,}", f"{after:,}", f"**{failed}**" if failed else "0", str(unread), str(refused)]
        rows.append([str(workers), name, *cells])
    return rows


HEADS = [
    "workers", "", "accepted", "of them answered after the signal", "failed", "not read: sent as the connection closed",
    "connections refused",
]  # fmt: skip


async def main(options: argparse.Namespace) -> int:
    raise_file_limit()
    rows, ends = [HEADS, ["---:", ":---", *["---:"] * (len(HEADS) - 2)]], []
    try:
        async with prepared(pinned=False) as ground, listening() as (backend, seen):
            for workers in options.workers:
                outcomes = []
                for number in range(options.rounds):
                    async with opened(ground, backend, workers, f"drain-{workers}-{number}", "/GET/", "/PUT/") as house:
                        outcomes.append(await drained(house, seen))
                    seen.clear()
                rows += table(outcomes, workers)
                ends += [_end(workers, one) for one in outcomes]
    except Missing as reason:
        print(f"bench: {reason}", file=sys.stderr)
        return 1
    print(f"{markdown(rows)}\n\n" + "\n".join(ends))
    return 0


def _end(workers: int, outcome: Outcome) -> str:
    status = "killed" if outcome.status is None else f"exit status {outcome.status}"
    reasons = "; ".join(f"{reason} ({count})" for reason, count in outcome.tally.reasons.most_common())
    said = f"* {workers} worker{'s' if workers > 1 else ''}: {status} {outcome.seconds:.2f} s after the signal"
    return f"{said}; failed: {reasons}" if reasons else said


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.drain", description="kill -TERM under load")
    parser.add_argument("--quick", action="store_true", help="one round, for a first look")
    parser.add_argument("--rounds", type=int, help="how often each is ended (3)")
    parser.add_argument("--workers", nargs="*", type=int, default=[1, 2], help="how many workers (1 2)")
    options = parser.parse_args()
    options.rounds = options.rounds or (1 if options.quick else 3)
    return options


if __name__ == "__main__":
    sys.exit(asyncio.run(main(arguments())))
