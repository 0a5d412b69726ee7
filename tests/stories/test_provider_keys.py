"""The provider's keys: fetched rarely, found again when they change, and kept when they cannot be fetched."""

from __future__ import annotations

import secrets

import pytest

from oidc_proxy.demo.faults import Faults, OnAnswer, saying
from oidc_proxy.demo.keys import attacker_key, leaked_key
from oidc_proxy.tokens import KeySet, KeyUnknown
from tests.gateway import World
from tests.stories.watch import Watched, watched_world


async def sign_in(world: World, browser: Watched) -> int:
    """The status at the end of one more sign-in."""
    browser.cookies.clear("oidc_proxy")
    page = await browser.sign_in(f"{world.url}/echo", "ann", "ann")
    return page.status


def fetches(world: World) -> int:
    return len(world.provider.calls("jwks"))


def allowing(cache_control: str) -> OnAnswer:
    return lambda answer: answer.with_header("Cache-Control", cache_control)


def strange(header: dict[str, object]) -> object:
    """A token whose kid is in no key set."""
    return {**header, "kid": secrets.token_urlsafe(8)}


async def test_f13_many_sign_ins_fetch_the_keys_once() -> None:
    async with watched_world() as (_, world, ann):
        for _ in range(15):
            assert await sign_in(world, ann) == 200
        assert fetches(world) == 1


@pytest.mark.parametrize("keep", [True, False], ids=["old key still published", "old key gone"])
@pytest.mark.parametrize("seconds", [0, 5, 700, 90_000])
async def test_f15_s9_new_keys_need_no_restart(keep: bool, seconds: int) -> None:
    async with watched_world() as (_, world, ann):
        assert await sign_in(world, ann) == 200
        world.provider.keys.rotate(attacker_key(), keep=keep)
        world.clock.advance(seconds)
        assert await sign_in(world, ann) == 200, "the next one works, however soon it comes"
        assert fetches(world) == 2


async def test_f15_new_keys_end_no_session() -> None:
    async with watched_world() as (_, world, ann):
        assert await sign_in(world, ann) == 200
        for key in (attacker_key(), leaked_key()):
            world.provider.keys.rotate(key, keep=False)
            world.clock.advance(301)
            assert (await ann.fetch(f"{world.url}/echo")).status == 200


async def test_f15_a_key_that_cannot_be_found_now_ends_no_session() -> None:
    async with watched_world() as (_, world, ann):
        world.provider.rotate_refresh_tokens = False
        assert await sign_in(world, ann) == 200
        world.clock.advance(301)
        world.provider.faults = Faults(id_token_header=strange)
        for _ in range(3):  # the second within the cool-down: nobody has asked whether the key is there by now
            page = await ann.fetch(f"{world.url}/echo")
            assert page.status == 503
            world.clock.advance(11)
        world.provider.faults = Faults()
        assert (await ann.fetch(f"{world.url}/echo")).status == 200


async def test_f15_id28_sign_ins_with_unknown_kids_fetch_once_in_the_cool_down() -> None:
    async with watched_world() as (watch, world, ann):
        world.provider.faults = Faults(id_token_header=strange)
        for _ in range(10):
            assert await sign_in(world, ann) == 401
        watch.assert_nobody_got_in()
        assert fetches(world) == 2
        world.clock.advance(31)
        for _ in range(5):
            assert await sign_in(world, ann) == 401
        assert fetches(world) == 3
        world.provider.faults = Faults()
        assert await sign_in(world, ann) == 200


async def test_f15_a_thousand_random_kids_fetch_once_in_the_cool_down() -> None:
    async with watched_world() as (_, world, _):

        def unknown(keys: KeySet) -> None:
            raise KeyUnknown("key", f"one of {len(keys.keys)}")

        for _ in range(1000):
            with pytest.raises(KeyUnknown):
                await world.app._provider._with_keys(unknown)  # type: ignore[arg-type]
        assert fetches(world) == 2, "when they were needed first, and once for a kid that they do not have"


@pytest.mark.parametrize(
    ("cache_control", "kept_for"),
    [("max-age=3600", 3600), ("max-age=60, public", 600), ('MAX-AGE="7200"', 7200), ("no-store", 600), ("x", 600)],
)
async def test_f14_the_keys_are_kept_as_long_as_the_provider_says_within_limits(
    cache_control: str, kept_for: int
) -> None:
    async with watched_world() as (_, world, ann):
        world.provider.faults = Faults(jwks=allowing(cache_control))
        await sign_in(world, ann)
        world.clock.advance(kept_for - 5)
        await sign_in(world, ann)
        assert fetches(world) == 1
        world.clock.advance(10)
        await sign_in(world, ann)
        assert fetches(world) == 2


@pytest.mark.parametrize("answer", [saying("text/plain", b"", 503), saying("application/json", b'{"keys":[]}')])
async def test_f16_old_keys_serve_while_there_are_no_new_ones_and_no_error_is_kept(answer: OnAnswer) -> None:
    async with watched_world() as (_, world, ann):
        assert await sign_in(world, ann) == 200
        world.provider.faults = Faults(jwks=answer)
        world.clock.advance(90_000)
        assert await sign_in(world, ann) == 200
        assert fetches(world) == 2
        world.provider.faults = Faults()
        world.clock.advance(10)
        assert await sign_in(world, ann) == 200
        assert fetches(world) == 3, "the failure was not kept"


async def test_f16_keys_that_could_not_be_fetched_at_first_are_fetched_later() -> None:
    async with watched_world() as (watch, world, ann):
        world.provider.faults = Faults(jwks=saying("text/plain", b"", 503))
        watch.assert_refused(await ann.sign_in(f"{world.url}/echo", "ann", "ann"), "provider_unavailable")
        world.provider.faults = Faults()
        world.clock.advance(3)
        assert await sign_in(world, ann) == 200
