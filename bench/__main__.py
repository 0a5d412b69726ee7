"""Measure the gateway beside its peers: `python -m bench [--quick] [--rounds N] [--seconds N] [--only WORD]`.

All peers run at the same time, in front of the same backend and with the same provider. A browser signs in to each
once, through its real flow; then each is loaded in turn, round after round, with what that browser would send. No
figure is printed of a peer that did not answer every single request from the backend, with the name of the user.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from statistics import median

import aiohttp

from bench.ground import BODY, Ground, prepared
from bench.load import BROWSER, CONNECTIONS, Burst, burst
from bench.peers import Peer, Stand, everyone
from bench.process import Memory, Missing, find
from bench.table import Figures, setups, table
from tests.world import Browser

AGAINST = {
    "× nginx": "nginx, no sign-in",
    "× oauth2-proxy": "oauth2-proxy, Redis",
    "× mod_auth_openidc": "mod_auth_openidc, Redis",
}
IN_FLIGHT = 2 * CONNECTIONS
"""Requests that wrk no longer waits for when its time is up."""


class Unfit(Exception):
    """A peer that does not answer as it must, so that its figures would mean nothing."""


@dataclass
class Contestant:
    """A peer that runs and has a user, and its figures so far."""

    stand: Stand
    figures: Figures
    headers: dict[str, str]

    @property
    def url(self) -> str:
        return f"{self.stand.origin}{self.stand.target}"

    def cpu(self) -> float:
        return sum(program.cpu() for program in self.stand.programs)

    def memory(self) -> Memory:
        parts = [program.memory() for program in self.stand.programs]
        return Memory(sum(part.rss for part in parts), sum(part.pss for part in parts))


@dataclass
class Run:
    """One run of the benchmark."""

    ground: Ground
    wrk: str
    options: argparse.Namespace
    browser: Browser
    contestants: list[Contestant] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)
    """Name → why it has no figures."""

    # ── taking part ──

    async def admit(self, peer: Peer) -> None:
        """Start a peer and sign in to it; or remember why not."""
        try:
            stand = await peer.start(self.ground)
            cookie = await self._sign_in(stand)
            headers = {**(BROWSER if self.options.browser_headers else {}), **cookie}
            if stand.check:
                headers |= {"X-Original-URL": f"{stand.origin}/page", "X-Original-Method": "GET"}
            contestant = Contestant(stand, Figures(peer.name, peer.setup), headers)
            await self._prove(contestant)
        except (Missing, Unfit, RuntimeError, AssertionError, aiohttp.ClientError) as reason:
            say(f"{peer.name}: {reason}")
            self.absent[_label(peer.name, peer.check)] = str(reason).rstrip().rpartition("\n")[2]
            return
        contestant.figures.idle = contestant.memory()
        self.contestants.append(contestant)

    async def _sign_in(self, stand: Stand) -> dict[str, str]:
        """The Cookie header of a browser that has signed in."""
        if stand.sign_in is None:
            return {}
        user = self.ground.user
        async with Browser() as browser:
            page = await browser.sign_in(f"{stand.origin}{stand.sign_in}", user.username, user.password)
            cookie = browser.cookies.header(f"{stand.origin}{stand.target}")
            if page.status != 200 and not stand.check:
                raise Unfit(f"the sign-in ended with status {page.status}")
        if not cookie:
            raise Unfit("the sign-in left no cookie")
        return {"Cookie": cookie}

    async def _prove(self, contestant: Contestant) -> None:
        """With the session, what the backend says to this user; without, nothing."""
        stand = contestant.stand
        page = await self.browser.request("GET", contestant.url, headers=contestant.headers)
        if stand.check:
            if page.status not in {200, 202} or page.headers.get("X-Auth-Request-User") != self.ground.user.sub:
                raise Unfit(f"a signed-in request got status {page.status}, or not the name of the user")
        elif page.status != 200 or page.text != BODY:
            raise Unfit(f"a signed-in request got status {page.status}, or not what the backend answers")
        if stand.sign_in is None:
            return
        without = {name: value for name, value in contestant.headers.items() if name != "Cookie"}
        page = await self.browser.request("GET", contestant.url, headers=without)
        if page.status == 200:
            raise Unfit("a request without a session got through")

    # ── measuring ──

    async def rounds(self) -> None:
        """Everybody in turn, there and back again, so that a machine that gets slower is the same for all."""
        for contestant in tuple(self.contestants):
            await self._checked(contestant, 1)
        for number in range(self.options.rounds):
            say(f"round {number + 1} of {self.options.rounds}")
            for contestant in self.contestants[:: -1 if number % 2 else 1]:
                await self._full_load(contestant)
        say("half load")
        for contestant in tuple(self.contestants):
            await self._half_load(contestant)

    async def _full_load(self, contestant: Contestant) -> None:
        figures, before = contestant.figures, contestant.cpu()
        peak = asyncio.create_task(_later(contestant, self.options.seconds * 0.7))
        done = await self._checked(contestant, self.options.seconds)
        figures.loaded = max(figures.loaded, await peak, key=lambda memory: memory.pss)
        if done is not None:
            used = contestant.cpu() - before
            figures.cpu.append(used / done.requests * 1e6)
            figures.rate.append(done.rate)
            figures.busy.append(used / done.seconds)

    async def _half_load(self, contestant: Contestant) -> None:
        full = median(contestant.figures.rate)
        done = await self._checked(contestant, self.options.seconds, full / 2)
        if done is not None:
            figures = contestant.figures
            figures.p50, figures.p99, figures.share = done.p50, done.p99, done.rate / full

    async def _checked(self, contestant: Contestant, seconds: float, rate: float | None = None) -> Burst | None:
        """A burst whose every answer is accounted for; else the contestant is out, and None."""
        http, ground = self.browser.http, self.ground
        before = await ground.backend_requests(http)
        done = await burst(self.wrk, ground.folder, contestant.url, contestant.headers, seconds, rate)
        seen = await ground.backend_requests(http) - before
        reached = 0 if contestant.stand.check else done.requests
        try:
            if done.refused or done.broken > CONNECTIONS or not done.requests:
                raise Unfit(f"{done.refused} of {done.requests} answers were refusals, {done.broken} were missing")
            if not reached <= seen <= reached + IN_FLIGHT:
                raise Unfit(f"there were {done.requests} answers, and {seen} requests at the backend")
            await self._prove(contestant)
        except Unfit as reason:
            self.contestants.remove(contestant)
            self.absent[_label(contestant.figures.name, contestant.stand.check)] = str(reason)
            return None
        contestant.figures.broken += done.broken
        return done

    # ── telling ──

    def report(self, began: Sequence[float]) -> str:
        through = [one.figures for one in self.contestants if not one.stand.check]
        checks = [one.figures for one in self.contestants if one.stand.check]
        parts = [table(through, AGAINST)]
        if checks:
            parts += [
                "The check alone, without a backend:",
                table(checks, {"× oauth2-proxy": AGAINST["× oauth2-proxy"]}),
            ]
        broken = [f"{one.name}: {one.broken}" for one in [*through, *checks] if one.broken]
        if broken:
            parts.append(f"Connections that were closed under load and opened again: {', '.join(broken)}.")
        if self.absent:
            parts.append("Not measured:\n\n" + "\n".join(f"* {name}: {why}" for name, why in self.absent.items()))
        return "\n\n".join([*parts, setups(through), self._conditions([*through, *checks], began)])

    def _conditions(self, rows: Sequence[Figures], began: Sequence[float]) -> str:
        """What the figures depend on."""
        options, redis = self.options, self.ground.redis
        headers = "Host, Cookie and Chrome's other headers" if options.browser_headers else "Host and Cookie only"
        pinned = (
            "each program on one core, the load on the others" if self.ground.core is not None else "all on one core"
        )
        shares = sorted(figures.share for figures in rows) or [0]
        return (
            f"GET of 1 KiB, {CONNECTIONS} connections kept alive, {headers}; medians of {options.rounds} rounds of "
            f"{options.seconds} s, {pinned}. CPU is that of all processes of the program"
            f"{f', not that of {redis}' if redis else ''}; where less than one core is busy, the load or the rest of "
            f"the machine was in the way. p50 and p99 are at about half of the full load, by wrk with pauses ("
            f"{shares[0]:.0%}–{shares[-1]:.0%} came of it). Memory is PSS.\n\n"
            f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}; load average "
            f"{began[0]:.2f} at the beginning, {os.getloadavg()[0]:.2f} at the end."
        )


def _label(name: str, check: bool) -> str:
    return f"{name} (check alone)" if check else name


async def _later(contestant: Contestant, seconds: float) -> Memory:
    await asyncio.sleep(seconds)
    return contestant.memory()


def say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


@asynccontextmanager
async def opened(options: argparse.Namespace) -> AsyncIterator[Run]:
    wrk = find("wrk", "wrk")
    async with prepared() as ground, Browser() as browser:
        run = Run(ground, wrk, options, browser)
        for peer in everyone():
            if all(word in peer.name for word in options.only):
                say(f"starting {peer.name}")
                await run.admit(peer)
        yield run


async def main(options: argparse.Namespace) -> int:
    began = os.getloadavg()
    try:
        async with opened(options) as run:
            await run.rounds()
            print(run.report(began))
    except Missing as reason:
        print(f"bench: {reason}", file=sys.stderr)
        return 1
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="less than a minute, for a first look")
    parser.add_argument("--rounds", type=int, help="how often everybody has a turn (5)")
    parser.add_argument("--seconds", type=int, help="how long a turn is (5)")
    parser.add_argument("--only", nargs="*", default=[], metavar="WORD", help="peers with these words in their names")
    parser.add_argument("--browser-headers", action="store_true", help="send all headers that Chrome sends")
    options = parser.parse_args()
    options.rounds = options.rounds or (2 if options.quick else 5)
    options.seconds = options.seconds or (1 if options.quick else 5)
    return options


if __name__ == "__main__":
    sys.exit(asyncio.run(main(arguments())))
