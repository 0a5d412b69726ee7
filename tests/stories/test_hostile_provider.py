"""A provider that is wrong in one thing: nobody gets in, a page says so, and the log names the cause."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from oidc_proxy.demo.faults import Faults, having, lacking, moved
from oidc_proxy.demo.named_faults import CALLBACK, CLAIMS, DISCOVERY, HARMLESS, HEADER, KEYS, REFRESH, TOKEN, USERINFO
from tests.stories.watch import Watch, sessions, watched_world

pytestmark = pytest.mark.asyncio(loop_scope="module")

# What a visitor is told; whatever is not here is `id_token_invalid`.
EXPECTED = {
    "HO-1 state missing": "callback_malformed",
    "HO-1 state of nobody": "login_unknown",
    "HO-1 state empty": "callback_malformed",
    "HO-1 state twice": "callback_malformed",
    "HO-1 state twice, the second another": "callback_malformed",
    "HO-2 iss of another": "issuer_mismatch",
    "HO-2 iss missing though promised": "issuer_mismatch",
    "HO-2 iss twice": "callback_malformed",
    "HO-3 code twice": "callback_malformed",
    "LT-12 code empty": "callback_malformed",
    "LT-12 code missing": "callback_malformed",
    "HO-4 error with HTML": "access_denied_by_provider",
    "HO-4 error with CRLF": "access_denied_by_provider",
    "HO-5 code and error": "callback_malformed",
    **dict.fromkeys(TOKEN, "provider_response_invalid"),
    "HO-6 token drips": "provider_timeout",
    "HO-6 token hangs": "provider_timeout",
    "HO-6 token breaks off": "provider_unavailable",
    "HO-8 token invalid_client": "client_rejected",
    "HO-8 token invalid_grant": "code_refused",
    "S7 token unsupported_grant_type": "provider_refused",
    "S7 token 502 HTML": "provider_unavailable",
    "TK-16 token 503": "provider_unavailable",
    "HO-10 no id_token": "id_token_invalid",
    "JW-17 JSON serialization": "provider_response_invalid",
    "JW-17 line feed": "provider_response_invalid",
    "JW-16 payload of 2 MB": "provider_response_invalid",
    **dict.fromkeys((name for name in KEYS if name.startswith("HO-27")), "provider_response_invalid"),
    "HO-29 JWKS 503": "provider_unavailable",
    "TK-17 JWKS redirects": "provider_response_invalid",
    "JWKS hangs": "provider_timeout",
    **dict.fromkeys(DISCOVERY, "provider_misconfigured"),
    "DI-2 document 404": "provider_response_invalid",
    "DI-2 document HTML": "provider_response_invalid",
    "S21 document not JSON": "provider_response_invalid",
    "TK-17 document redirects": "provider_response_invalid",
    "document 503": "provider_unavailable",
    "document hangs": "provider_timeout",
    "HO-33 userinfo 401": "provider_refused",
    "HO-33 userinfo without sub": "userinfo_mismatch",
    "HO-33 userinfo of another sub": "userinfo_mismatch",
    "S19 userinfo 404": "provider_response_invalid",
    "S19 userinfo 500": "provider_unavailable",
    "ID-20 userinfo HTML": "provider_response_invalid",
}
SLOW = {"HO-6 token drips", "HO-6 token hangs", "JWKS hangs", "document hangs"}
ONCE_FETCHED = {**KEYS, **DISCOVERY}
"""Faults in what is fetched once and then kept: each needs a gateway of its own."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared() -> AsyncIterator[Watch]:
    async with watched_world({"identity": {"userinfo": "always"}}) as (watch, _, _):
        yield watch


async def refused(watch: Watch, name: str, faults: Faults) -> None:
    provider = watch.world.provider
    provider.faults = faults
    async with watch.browser() as ann:
        page = await ann.sign_in(f"{watch.world.url}/echo/wiki?x=1", "ann", "ann")
        watch.assert_refused(page, EXPECTED.get(name, "id_token_invalid"))
        tokens_asked = len(provider.calls("token"))
        assert (await ann.fetch(f"{watch.world.url}/echo")).status == 401
        if page.status == 503:
            assert int(page.headers["Retry-After"]) >= 1
        watch.check()
        assert len(provider.calls("token")) == tokens_asked
        if name in DISCOVERY:
            assert not provider.calls("authorization"), "F3: nobody is sent anywhere"
            assert not tokens_asked
        provider.faults = Faults()
        watch.world.clock.advance(60)
        again = await ann.sign_in(f"{watch.world.url}/echo/wiki?x=1", "ann", "ann")
        assert again.status == 200, "another try, once the fault is gone, works"


@pytest.mark.parametrize("name", [*CALLBACK, *TOKEN, *HEADER, *CLAIMS, *USERINFO])
async def test_a_wrong_provider_lets_nobody_in(name: str, shared: Watch) -> None:
    if name in SLOW:
        async with watched_world({"provider": {"timeout": "400ms"}}) as (watch, _, _):
            await refused(watch, name, TOKEN[name])
        return
    shared.forget()
    shared.world.app._store._entries.clear()  # type: ignore[attr-defined]
    await refused(shared, name, {**CALLBACK, **TOKEN, **HEADER, **CLAIMS, **USERINFO}[name])


@pytest.mark.parametrize("name", ONCE_FETCHED)
async def test_wrong_keys_or_metadata_let_nobody_in(name: str) -> None:
    timeout = "400ms" if name in SLOW else "10s"
    async with watched_world({"provider": {"timeout": timeout}}) as (watch, _, _):
        await refused(watch, name, ONCE_FETCHED[name])


async def test_f3_the_log_names_both_issuers() -> None:
    async with watched_world() as (watch, world, ann):
        world.provider.faults = DISCOVERY["DI-3 issuer of another"]
        watch.assert_refused(await ann.navigate(f"{world.url}/echo"), "provider_misconfigured")
        (line,) = world.lines(event="request.failed")
        assert world.provider.issuer in line["reason"]
        assert "https://other.example.test" in line["reason"]


@pytest.mark.parametrize("key", ["token_endpoint", "authorization_endpoint", "jwks_uri", "issuer"])
async def test_f4_readiness_and_log_name_the_missing_key(key: str) -> None:
    async with watched_world() as (watch, world, ann):
        world.provider.faults = DISCOVERY[f"DI-{3 if key == 'issuer' else 5} {key} missing"]
        watch.assert_refused(await ann.navigate(f"{world.url}/echo"), "provider_misconfigured")
        assert key in world.lines(event="request.failed")[-1]["reason"]
        ready = await ann.get(f"http://127.0.0.1:{world.app.admin_port}/readyz")
        assert ready.status == 503
        assert key in ready.json()["checks"]["provider"]


@pytest.mark.parametrize("name", HARMLESS)
async def test_an_odd_provider_lets_ann_in(name: str) -> None:
    async with watched_world() as (_, world, ann):
        world.provider.faults = HARMLESS[name]
        page = await ann.sign_in(f"{world.url}/echo/wiki?x=1", "ann", "ann")
        assert page.status == 200, page.text
        assert page.json()["target"] == "/echo/wiki?x=1"
        world.clock.advance(100)
        assert (await ann.fetch(f"{world.url}/echo")).status == 200


@pytest.mark.parametrize("name", [name for name in CLAIMS if name.startswith(("ID-", "V6", "HO-2"))])
async def test_s8_the_reason_is_in_the_log_and_not_on_the_page(name: str, shared: Watch) -> None:
    shared.forget()
    shared.world.provider.faults = CLAIMS[name]
    async with shared.browser() as ann:
        page = await ann.sign_in(f"{shared.world.url}/echo", "ann", "ann")
    (line,) = shared.world.lines(event="login.failed")
    assert line["reason"] not in page.text
    assert line["request_id"] in page.text


@pytest.mark.parametrize(
    ("claim", "seconds", "skew", "works"),
    [
        ("exp", -310, "30s", True),  # F24: ten seconds ago
        ("exp", -360, "30s", False),
        ("iat", 60, "30s", False),  # S4
        ("iat", 60, "90s", True),
        ("iat", -25, "30s", True),
        ("iat", -35, "30s", False),  # F25: older than the sign-in
    ],
)
async def test_f24_f25_s4_clocks_may_differ_by_the_skew(claim: str, seconds: int, skew: str, works: bool) -> None:
    async with watched_world({"provider": {"clock_skew": skew}}) as (watch, world, ann):
        world.provider.faults = Faults(id_token_claims=moved(claim, seconds))
        page = await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        if works:
            assert page.status == 200, page.text
        else:
            watch.assert_refused(page, "id_token_invalid")


async def test_f26_an_id_token_counts_once() -> None:
    async with watched_world() as (watch, world, ann):
        kept: list[str] = []

        def first_one_again(token: str) -> str:
            kept.append(token)
            return kept[0]

        world.provider.faults = Faults(id_token=first_one_again, id_token_claims=lacking("at_hash"))
        assert (await ann.sign_in(f"{world.url}/echo", "ann", "ann")).status == 200
        async with watch.browser() as eve:
            page = await eve.sign_in(f"{world.url}/echo", "eve", "eve")
            assert page.status == 401
            assert "nonce" in world.lines(event="login.failed")[-1]["reason"]
            assert len(sessions(world)) == 1


@pytest.mark.parametrize(
    ("settings", "aud", "works"),
    [
        ({}, ["app", "reports"], False),
        ({"trusted_audiences": ["reports"]}, ["app", "reports"], True),
        ({"trusted_audiences": ["reports"]}, ["reports"], False),
    ],
)
async def test_f22_other_audiences_must_be_trusted(settings: dict[str, object], aud: list[str], works: bool) -> None:
    async with watched_world({"provider": {"id_token": settings}}) as (_, world, ann):
        world.provider.faults = Faults(id_token_claims=having(aud=aud))
        page = await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        assert page.status == (200 if works else 401)


@pytest.mark.parametrize("algorithms", [["RS256"], ["PS256"]], ids=str)
async def test_f18_only_listed_algorithms_count(algorithms: list[str]) -> None:
    async with watched_world({"provider": {"id_token": {"algorithms": algorithms}}}) as (_, world, ann):
        page = await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        assert page.status == (200 if algorithms == ["RS256"] else 401)


async def test_f19_a_token_without_kid_is_tried_with_the_keys_that_fit() -> None:
    async with watched_world() as (_, world, ann):
        world.provider.faults = Faults(id_token_header=lacking("kid"))
        assert (await ann.sign_in(f"{world.url}/echo", "ann", "ann")).status == 200


REFRESH_KEEPS = {
    "HO-36 refresh 429": 503,
    "TK-16 refresh 503": 503,
    "HO-37 refresh answer lost": 504,
    "HO-37 refresh answer breaks off": 503,
    "TK-16 refresh invalid_client": 502,
}
"""Faults that say nothing about the session, and what a request gets that needs the token; the others end it."""


@pytest.mark.parametrize("name", REFRESH)
async def test_a_wrong_refresh_shows_nothing_of_the_backend(name: str) -> None:
    timeout = "400ms" if "lost" in name else "10s"
    async with watched_world({"provider": {"timeout": timeout}}) as (_, world, ann):
        world.provider.rotate_refresh_tokens = False
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        seen = len(world.backend.requests)
        world.provider.faults = REFRESH[name]
        world.clock.advance(301)
        page = await ann.fetch(f"{world.url}/echo")
        assert page.status == REFRESH_KEEPS.get(name, 401)
        assert len(world.backend.requests) == seen
        assert len(sessions(world)) == (name in REFRESH_KEEPS)
        event = "session.refresh_failed" if name in REFRESH_KEEPS else "session.ended"
        (line,) = world.lines(event=event)
        assert line["reason"]
        world.provider.faults = Faults()
        world.clock.advance(60)
        assert ((await ann.fetch(f"{world.url}/echo")).status == 200) == (name in REFRESH_KEEPS)
