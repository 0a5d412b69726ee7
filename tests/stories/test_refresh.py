"""The access token expires while Ann works: one refresh, and she never notices."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from oidc_proxy.demo.faults import Faults, OnValue, having, lacking, late, refusing, saying
from tests.gateway import World, running_world
from tests.world import Browser

TOKEN_LIFE = 300


async def signed_in(world: World, browser: Browser) -> str:
    """Ann signs in; the access token that the backend got."""
    page = await browser.sign_in(f"{world.url}/echo", "ann", "ann")
    return dict(page.json()["headers"])["Authorization"]


async def bearer(world: World, browser: Browser) -> str:
    page = await browser.fetch(f"{world.url}/echo")
    assert page.status == 200, page.text
    return dict(page.json()["headers"])["Authorization"]


async def settled(world: World) -> None:
    """Wait for what the gateway does beside the requests."""
    for _ in range(200):
        if not world.app._sessions.busy:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("a refresh does not end")


async def test_f60_an_expired_token_is_renewed_before_the_backend_sees_it() -> None:
    async with running_world() as world, world.browser() as ann:
        first = await signed_in(world, ann)
        world.clock.advance(TOKEN_LIFE + 1)
        second = await bearer(world, ann)
        assert second != first
        assert await bearer(world, ann) == second
        assert len(world.provider.calls("token")) == 2  # the code, and one refresh


async def test_f156_inside_the_leeway_requests_go_on_with_the_old_token() -> None:
    async with running_world() as world, world.browser() as ann:
        first = await signed_in(world, ann)
        world.provider.faults = Faults(refresh=late(0.3))
        world.clock.advance(TOKEN_LIFE - 10)
        assert await bearer(world, ann) == first
        await settled(world)
        assert await bearer(world, ann) != first


async def test_f61_fifty_requests_at_the_moment_of_expiry_cause_one_refresh() -> None:
    async with running_world() as world, world.browser() as ann:
        await signed_in(world, ann)
        world.provider.faults = Faults(refresh=late(0.3))
        world.clock.advance(TOKEN_LIFE + 1)
        answers = await asyncio.gather(*(bearer(world, ann) for _ in range(50)))
        assert len(set(answers)) == 1
        assert len(world.provider.calls("token")) == 2


async def test_f154_a_refresh_survives_the_client_that_asked_for_it() -> None:
    async with running_world() as world, world.browser() as ann:
        await signed_in(world, ann)
        world.provider.faults = Faults(refresh=late(0.3))
        world.clock.advance(TOKEN_LIFE + 1)
        impatient = asyncio.create_task(ann.fetch(f"{world.url}/echo"))
        await asyncio.sleep(0.1)
        impatient.cancel()
        await asyncio.gather(impatient, return_exceptions=True)
        await settled(world)
        world.provider.faults = Faults()
        await bearer(world, ann)
        assert len(world.provider.calls("token")) == 2


@pytest.mark.parametrize(
    "answer",
    [lacking("refresh_token"), lacking("id_token"), lacking("refresh_token", "id_token", "scope")],
    ids=["no refresh token", "no ID token", "neither"],
)
async def test_f62_what_does_not_come_anew_is_kept(answer: OnValue) -> None:
    async with running_world() as world, world.browser() as ann:
        world.provider.rotate_refresh_tokens = False
        await signed_in(world, ann)
        world.provider.faults = Faults(refresh_values=answer)
        for _ in range(2):
            world.clock.advance(TOKEN_LIFE + 1)
            await bearer(world, ann)
        page = await ann.navigate(f"{world.url}/oauth2/sign_out", initiator=f"{world.url}/")
        assert "id_token_hint=" in "".join(hop.url for hop in page.hops)


@pytest.mark.parametrize(
    ("name", "faults"),
    [
        ("HO-34 another sub", Faults(refreshed_claims=having(sub="somebody else"))),
        ("HO-34 another iss", Faults(refreshed_claims=having(iss="https://other.example.test"))),
        ("HO-34 invalid_grant", Faults(refresh=refusing(400, "invalid_grant"))),
        ("F62 a nonce of another sign-in", Faults(refreshed_claims=having(nonce="other"))),
        ("HD-16 a claim that no header carries", Faults(refreshed_claims=having(preferred_username="a\r\nb"))),
    ],
)
async def test_a_refresh_that_proves_somebody_else_ends_the_session(name: str, faults: Faults) -> None:
    async with running_world() as world, world.browser() as ann:
        await signed_in(world, ann)
        world.provider.faults = faults
        world.clock.advance(TOKEN_LIFE + 1)
        page = await ann.fetch(f"{world.url}/echo")
        assert page.status == 401, name
        world.provider.faults = Faults()
        assert (await ann.fetch(f"{world.url}/echo")).status == 401
        assert world.lines(event="session.ended")


@pytest.mark.parametrize(
    ("name", "faults"),
    [
        ("SS-12 status 503", Faults(refresh=saying("text/html", b"<h1>Sorry</h1>", 503))),
        ("HTML with status 200", Faults(refresh=saying("text/html", b"<h1>Sign in</h1>"))),
        ("HO-36 status 429", Faults(refresh=refusing(429, "slow_down", ("Retry-After", "7")))),
        ("our own credentials", Faults(refresh=refusing(401, "invalid_client"))),
        ("another error", Faults(refresh=refusing(400, "temporarily_unavailable"))),
    ],
)
async def test_f63_a_provider_that_fails_ends_no_session(name: str, faults: Faults) -> None:
    async with running_world() as world, world.browser() as ann:
        world.provider.rotate_refresh_tokens = False  # these faults come after the rotation, which is another story
        await signed_in(world, ann)
        world.provider.faults = faults
        world.clock.advance(TOKEN_LIFE - 10)
        assert (await ann.fetch(f"{world.url}/echo")).status == 200, "the token is still good"
        await settled(world)
        world.clock.advance(60)
        page = await ann.fetch(f"{world.url}/echo")
        assert page.status >= 502, name
        assert not page.set_cookies
        if page.status == 503:
            assert int(page.headers["Retry-After"]) >= 1
        world.provider.faults = Faults()
        world.clock.advance(60)
        await bearer(world, ann)


async def test_f151_a_failed_refresh_is_not_tried_again_at_once() -> None:
    async with running_world() as world, world.browser() as ann:
        await signed_in(world, ann)
        world.provider.faults = Faults(refresh=refusing(503, "unavailable"))
        world.clock.advance(TOKEN_LIFE + 1)
        before = len(world.provider.calls("token"))
        for _ in range(20):
            assert (await ann.fetch(f"{world.url}/echo")).status == 503
        assert len(world.provider.calls("token")) == before + 1


async def test_ss13_what_was_ended_during_a_refresh_stays_ended() -> None:
    async with running_world() as world, world.browser() as ann:
        await signed_in(world, ann)
        world.provider.faults = Faults(refresh=late(0.4))
        world.clock.advance(TOKEN_LIFE + 1)
        waiting = asyncio.create_task(ann.fetch(f"{world.url}/echo"))
        await asyncio.sleep(0.1)
        await ann.navigate(f"{world.url}/oauth2/sign_out", initiator=f"{world.url}/")
        assert (await waiting).status == 401
        assert (await ann.fetch(f"{world.url}/echo")).status == 401


async def test_a_touch_during_a_refresh_does_not_lose_the_rotated_token() -> None:
    async with running_world({"session": {"touch_interval": "1s"}}) as world, world.browser() as ann:
        await signed_in(world, ann)
        world.provider.faults = Faults(refresh=late(0.3))
        world.clock.advance(TOKEN_LIFE - 10)
        await bearer(world, ann)  # starts the refresh in the background
        world.clock.advance(2)
        await bearer(world, ann)
        await settled(world)
        world.provider.faults = Faults()
        world.clock.advance(TOKEN_LIFE + 1)
        await bearer(world, ann)  # reuse of the first refresh token would end the family


async def test_f153_policy_follows_what_the_refresh_says() -> None:
    routes = [{"path": "/admin/", "groups": ["/staff/ops"]}]
    async with running_world({"routes": routes}) as world, world.browser() as ann:
        await signed_in(world, ann)
        assert (await ann.fetch(f"{world.url}/admin/x")).status == 200
        world.provider.users["ann"] = replace(world.provider.users["ann"], groups=("/staff/sales",))
        world.clock.advance(TOKEN_LIFE + 1)
        assert (await ann.fetch(f"{world.url}/admin/x")).status == 403
        assert (await ann.fetch(f"{world.url}/echo")).status == 200


@pytest.mark.parametrize(("seconds", "works"), [(8 * 3600 - 60, True), (8 * 3600 + 60, False)])
async def test_f58_an_idle_session_ends(seconds: float, works: bool) -> None:
    async with running_world() as world, world.browser() as ann:
        world.provider.lifetimes = replace(world.provider.lifetimes, access_token=10**6, refresh_token=10**6)
        await signed_in(world, ann)
        world.clock.advance(seconds)
        assert ((await ann.fetch(f"{world.url}/echo")).status == 200) is works


async def test_f58_use_does_not_extend_the_absolute_limit() -> None:
    async with running_world() as world, world.browser() as ann:
        world.provider.lifetimes = replace(world.provider.lifetimes, access_token=10**6, refresh_token=10**6)
        await signed_in(world, ann)
        for _ in range(5):
            world.clock.advance(4 * 3600)
            assert (await ann.fetch(f"{world.url}/echo")).status == 200
            await settled(world)
        world.clock.advance(4 * 3600)
        assert (await ann.fetch(f"{world.url}/echo")).status == 401


async def test_f137_uses_within_the_slack_are_not_written() -> None:
    async with running_world() as world, world.browser() as ann:
        world.provider.lifetimes = replace(world.provider.lifetimes, access_token=10**6)
        await signed_in(world, ann)
        store = world.app._store
        entries = dict(store._entries)  # type: ignore[attr-defined]
        world.clock.advance(60)
        for _ in range(20):
            await bearer(world, ann)
        assert store._entries == entries  # type: ignore[attr-defined]
