"""A token expires while three processes serve one session: one refresh, whatever happens to whoever began it (F61).

The provider rotates refresh tokens and ends the whole family when a replaced one comes again: any second use of one
would sign the user out.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from oidc_proxy.demo.faults import Faults, late
from tests.real.redis import RedisServer
from tests.real.workers import Fleet, all_of, running_fleet, session_id, slow_to_begin

pytestmark = pytest.mark.slow

SLOW = float(os.environ.get("OIDC_PROXY_TEST_SLOW_TOKEN", "2"))
"""Seconds that the token endpoint takes."""

TOKEN_LIFE = 2.0
REQUESTS = 300
PATIENT = {"session": {"refresh": {"leeway": "0s"}}, "provider": {"timeout": "30s"}}


@asynccontextmanager
async def fleet_with_an_expired_token(server: RedisServer, folder: Path) -> AsyncIterator[tuple[Fleet, str]]:
    """Every worker has the session in its memory, and its token has just expired."""
    async with running_fleet({"type": "redis", "url": server.url}, folder, config=PATIENT) as fleet:
        fleet.provider.lifetimes = replace(fleet.provider.lifetimes, access_token=TOKEN_LIFE)
        cookies = await fleet.sign_in()
        expiry = time.monotonic() + TOKEN_LIFE
        await fleet.warm(cookies)
        fleet.provider.lifetimes = replace(fleet.provider.lifetimes, access_token=300)
        await asyncio.sleep(expiry - time.monotonic() + 0.05)
        assert fleet.refreshes == 0
        yield fleet, cookies


async def test_f61_three_hundred_requests_over_three_processes_cause_one_refresh(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    async with fleet_with_an_expired_token(redis_server, tmp_path) as (fleet, cookies):
        fleet.provider.faults = Faults(refresh=late(SLOW))
        assert await all_of(REQUESTS, lambda: fleet.ask(cookies)) == [200] * REQUESTS
        assert fleet.refreshes == 1
        assert len(fleet.lines(event="session.refreshed")) == 1


async def test_f154_the_client_that_caused_it_goes_away(redis_server: RedisServer, tmp_path: Path) -> None:
    async with fleet_with_an_expired_token(redis_server, tmp_path) as (fleet, cookies):
        fleet.provider.faults = Faults(refresh=late(SLOW))
        impatient = asyncio.create_task(fleet.workers[0].send(cookies))
        await asyncio.sleep(SLOW / 4)
        assert fleet.refreshes == 1
        impatient.cancel()
        await asyncio.gather(impatient, return_exceptions=True)
        assert await all_of(REQUESTS, lambda: fleet.ask(cookies)) == [200] * REQUESTS
        assert fleet.refreshes == 1


async def test_f61_the_process_that_asks_dies_before_the_provider_has_looked(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    async with fleet_with_an_expired_token(redis_server, tmp_path) as (fleet, cookies):
        slow_to_begin(fleet.provider, SLOW)
        first = asyncio.create_task(fleet.workers[0].send(cookies))
        await asyncio.sleep(SLOW / 4)
        others = asyncio.create_task(all_of(REQUESTS, lambda: fleet.ask(cookies)))
        await asyncio.sleep(SLOW / 4)
        fleet.workers[0].process.kill()
        assert isinstance((await asyncio.gather(first, return_exceptions=True))[0], OSError)
        assert await others == [200] * REQUESTS
        assert fleet.refreshes == 1
        assert not fleet.lines(event="session.ended")


async def test_f61_the_process_that_asks_dies_when_the_provider_has_replaced_the_token(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    """Nobody can know the new refresh token: that one session signs in again, and the log says why."""
    async with fleet_with_an_expired_token(redis_server, tmp_path) as (fleet, cookies):
        fleet.provider.faults = Faults(refresh=late(SLOW))
        bob = await fleet.sign_in("bob")
        first = asyncio.create_task(fleet.workers[0].send(cookies))
        await asyncio.sleep(SLOW / 2)
        assert fleet.refreshes == 1
        fleet.workers[0].process.kill()
        await asyncio.gather(first, return_exceptions=True)
        fleet.provider.faults = Faults()
        assert set(await all_of(30, lambda: fleet.ask(cookies))) == {401}
        (ended,) = fleet.lines(event="session.ended")
        assert (ended["session"], ended["reason"]) == (session_id(cookies)[:16], "code_refused")
        assert "sent before, and no answer to it was kept" in ended["detail"]
        assert (await fleet.ask(bob)).status == 200


async def test_f61_a_process_that_stops_for_a_while_does_not_overwrite_what_another_has_written(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    """SIGSTOP for longer than the lease: another process takes over, and the late loser is fenced."""
    async with fleet_with_an_expired_token(redis_server, tmp_path) as (fleet, cookies):
        fleet.provider.rotate_refresh_tokens = False  # both will use the same token
        fleet.provider.faults = Faults(refresh=late(SLOW))
        first = asyncio.create_task(fleet.workers[0].send(cookies))
        await asyncio.sleep(SLOW / 4)
        fleet.workers[0].process.pause()
        assert (await fleet.workers[1].send(cookies)).status == 200
        assert fleet.refreshes == 2
        fleet.workers[0].process.resume()
        assert (await first).status == 200
        await asyncio.sleep(0.5)
        assert len(fleet.lines(event="session.refreshed")) == 1


@pytest.mark.parametrize("event", ["a pause", "a restart"])
async def test_f61_a_lease_that_ran_out_while_the_store_was_away_is_not_taken_over(
    event: str, redis_servers: Callable[..., RedisServer], tmp_path: Path
) -> None:
    """Redis goes away while the provider takes its time. When it is back, whoever asked the provider comes first."""
    server = redis_servers(persistent=True)
    async with fleet_with_an_expired_token(server, tmp_path) as (fleet, cookies):
        fleet.provider.faults = Faults(refresh=late(1.5))
        first = asyncio.create_task(fleet.workers[0].send(cookies))
        await asyncio.sleep(0.5)
        if event == "a pause":
            server.pause()
            await asyncio.sleep(6)
            server.resume()
        else:
            server.kill()
            await asyncio.sleep(6)
            await server.restart()
        statuses = []
        for _ in range(40):
            statuses += await all_of(6, lambda: fleet.ask(cookies))
            await asyncio.sleep(0.1)
        assert set(statuses) <= {200, 503}
        assert statuses[-6:] == [200] * 6
        assert fleet.refreshes == 1
        assert (await first).status in {200, 503}
