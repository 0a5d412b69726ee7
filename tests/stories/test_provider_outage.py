"""The provider is not there, or slow, or elsewhere: who need not sign in notices nothing, and all else recovers."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from oidc_proxy.demo.faults import Faults, hanging, having, lacking, saying
from tests.stories.tls import certificate, client_context, server_context
from tests.stories.watch import Watched, sessions, watched_world
from tests.world import Page, free_port

OPEN = {"path": "/echo/open/", "auth": "optional"}
PUBLIC = {"path": "/echo/public/", "auth": "none"}


async def test_f5_a_gateway_that_starts_first_answers_503_and_recovers_by_itself() -> None:
    async with watched_world({"routes": [OPEN, PUBLIC]}) as (watch, world, ann):
        await world.provider.close()
        for url in ("/echo", "/oauth2/start", "/oauth2/start?rd=/echo"):
            page = await ann.navigate(f"{world.url}{url}")
            watch.assert_refused(page, "provider_unavailable")
            assert int(page.headers["Retry-After"]) >= 1
            assert 'http-equiv="refresh"' in page.text
        ready = await ann.get(f"http://127.0.0.1:{world.app.admin_port}/readyz")
        assert (ready.status, ready.json()["checks"]["store"]) == (503, "ok")
        for path in ("/echo/open/x", "/echo/public/x"):
            page = await ann.navigate(f"{world.url}{path}")
            assert page.status == 200
            assert "X-Forwarded-User" not in dict(page.json()["headers"])
        await world.provider.open()
        world.clock.advance(3)
        assert (await ann.sign_in(f"{world.url}/echo", "ann", "ann")).status == 200
        assert (await ann.get(f"http://127.0.0.1:{world.app.admin_port}/readyz")).status == 200


async def test_f5_programs_are_told_without_asking_the_provider() -> None:
    async with watched_world() as (watch, world, ann):
        await world.provider.close()
        assert (await ann.fetch(f"{world.url}/echo")).status == 401
        watch.assert_nobody_got_in()


async def test_f5_an_outage_ends_no_session() -> None:
    async with watched_world() as (_, world, ann):
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        await world.provider.close()
        assert (await ann.fetch(f"{world.url}/echo")).status == 200
        world.clock.advance(301)  # now the token has expired
        page = await ann.fetch(f"{world.url}/echo")
        assert page.status == 503
        assert int(page.headers["Retry-After"]) >= 1
        await world.provider.open()
        world.clock.advance(60)
        assert (await ann.fetch(f"{world.url}/echo")).status == 200


async def test_f5_an_optional_route_goes_on_without_the_user_whose_token_cannot_be_renewed() -> None:
    async with watched_world({"routes": [OPEN]}) as (_, world, ann):
        await ann.sign_in(f"{world.url}/echo/open/x", "ann", "ann")
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        await world.provider.close()
        world.clock.advance(301)
        page = await ann.navigate(f"{world.url}/echo/open/x")
        assert page.status == 200
        assert "X-Forwarded-User" not in dict(page.json()["headers"])
        assert len(sessions(world)) == 1
        await world.provider.open()


async def test_a_provider_that_goes_away_between_redirect_and_callback_is_said_so() -> None:
    async with watched_world() as (watch, world, ann):
        callback = await ann.way_back(f"{world.url}/echo/deep?x=1")
        await world.provider.close()
        page = await ann.navigate(callback)
        watch.assert_refused(page, "provider_unavailable")
        again = dict(page.links)["Try again"]
        assert again.startswith("/oauth2/start?rd=")
        assert f"url={again}".replace("&", "&amp;") in page.text, "it tries again there by itself"
        await world.provider.open()
        world.clock.advance(5)
        assert (await ann.navigate(f"{world.url}{again}")).url == f"{world.url}/echo/deep?x=1"


async def test_an_outage_costs_the_provider_one_request_a_moment() -> None:
    async with watched_world() as (_, world, ann):
        world.provider.faults = Faults(discovery=saying("text/plain", b"", 503))
        pages = await asyncio.gather(*(ann.open(f"{world.url}/echo") for _ in range(20)))
        pages += [await ann.open(f"{world.url}/echo") for _ in range(20)]
        assert {page.status for page in pages} == {503}
        assert len(world.provider.calls("discovery")) == 1
        world.clock.advance(3)
        await ann.open(f"{world.url}/echo")
        assert len(world.provider.calls("discovery")) == 2


async def test_f11_a_provider_that_hangs_is_given_up_within_the_limit() -> None:
    async with watched_world({"provider": {"timeout": "200ms"}}) as (watch, world, ann):
        world.provider.faults = Faults(discovery=hanging)
        began = asyncio.get_running_loop().time()
        watch.assert_refused(await ann.navigate(f"{world.url}/echo"), "provider_timeout")
        assert asyncio.get_running_loop().time() - began < 2
        (call,) = world.provider.calls("discovery")
        assert call.headers["User-Agent"].startswith("oidc-proxy/")


# ── metadata ──


async def test_f1_one_discovery_at_the_right_address() -> None:
    async with watched_world() as (_, world, ann):
        await asyncio.gather(*(ann.open(f"{world.url}/echo") for _ in range(10)))
        (call,) = world.provider.calls("discovery")
        assert call.target == "/realms/demo/.well-known/openid-configuration"


@pytest.mark.parametrize("path", ["", "/", "/realms/demo/"])
async def test_f1_di1_an_issuer_with_a_slash_at_its_end(path: str) -> None:
    port = free_port()
    issuer = f"http://127.0.0.1:{port}{path}"
    async with watched_world(provider={"issuer": issuer, "port": port}) as (_, world, ann):
        assert (await ann.sign_in(f"{world.url}/echo", "ann", "ann")).status == 200
        (call,) = world.provider.calls("discovery")
        assert call.target == f"{path.rstrip('/')}/.well-known/openid-configuration"


async def test_f6_di9_di11_metadata_is_kept_fetched_again_and_kept_when_that_fails() -> None:
    async with watched_world({"provider": {"metadata_ttl": "10m"}}) as (_, world, ann):
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        issuer = world.provider.issuer
        world.provider.faults = Faults(metadata=having(end_session_endpoint=f"{issuer}/logout?new=1"))
        world.clock.advance(590)
        assert "new=1" not in (await farewell(ann, world.url)).location
        world.clock.advance(20)
        assert "new=1" in (await farewell(ann, world.url)).location
        world.provider.faults = Faults(discovery=saying("text/plain", b"", 503))
        world.clock.advance(700)
        assert "new=1" in (await farewell(ann, world.url)).location


async def farewell(browser: Watched, url: str) -> Page:
    return await browser.post(f"{url}/oauth2/sign_out", {}, Origin=url, Accept="text/html")


async def test_f2_metadata_at_an_address_of_its_own() -> None:
    port = free_port()
    settings = {
        "provider": {"discovery_url": f"http://127.0.0.1:{port}/.well-known/oauth-authorization-server/realms/demo"}
    }
    async with watched_world(settings, provider={"port": port}) as (_, world, ann):
        assert (await ann.sign_in(f"{world.url}/echo", "ann", "ann")).status == 200
        assert world.provider.requests[0].target.startswith("/.well-known/oauth-authorization-server")


async def test_f7_endpoints_without_discovery() -> None:
    port = free_port()
    base = f"http://127.0.0.1:{port}/realms/demo"
    endpoints = {"authorization": f"{base}/authorize", "token": f"{base}/token", "jwks": f"{base}/jwks"}
    settings = {"provider": {"discovery": False, "endpoints": endpoints}}
    async with watched_world(settings, provider={"port": port}) as (_, world, ann):
        assert (await ann.sign_in(f"{world.url}/echo", "ann", "ann")).status == 200
        assert not world.provider.calls("discovery")
        page = await ann.navigate(f"{world.url}/oauth2/sign_out", initiator=f"{world.url}/")
        assert page.url == f"{world.url}/oauth2/signed_out", "F99"


async def test_f7_an_endpoint_of_the_settings_wins_over_the_metadata() -> None:
    port = free_port()
    settings = {"provider": {"endpoints": {"token": f"http://127.0.0.1:{port}/realms/demo/token?own=1"}}}
    async with watched_world(settings, provider={"port": port}) as (_, world, ann):
        world.provider.faults = Faults(metadata=lacking("token_endpoint"))
        assert (await ann.sign_in(f"{world.url}/echo", "ann", "ann")).status == 200
        assert world.provider.calls("token")[0].target.endswith("?own=1")


@pytest.mark.parametrize("slash", [False, True])
async def test_f3_ho30_one_slash_may_be_tolerated(slash: bool) -> None:
    port = free_port()
    settings = {"provider": {"issuer": f"http://127.0.0.1:{port}/realms/demo/", "issuer_slash_tolerant": slash}}
    async with watched_world(settings, provider={"port": port}) as (_, world, ann):
        page = await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        assert page.status == (200 if slash else 502)


# ── a provider with two names ──


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic back channel"])
async def test_issuer_split_browsers_and_the_gateway_use_different_names(dynamic: bool) -> None:
    port = free_port()
    settings = {
        "provider": {
            "issuer": f"http://idp.test:{port}/realms/demo",
            "internal_base_url": f"http://127.0.0.1:{port}",
            "allow_insecure_http": True,
        },
        "identity": {"userinfo": "always"},
    }
    async with watched_world(settings, provider={"issuer": f"http://idp.test:{port}/realms/demo", "port": port}) as (
        _,
        world,
        ann,
    ):
        world.provider.dynamic_backchannel = dynamic
        page = await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        assert page.status == 200, page.text
        form = next(hop for hop in page.hops if hop.method == "POST")
        assert form.url.startswith(f"http://idp.test:{port}/realms/demo/sign-in")
        for name in ("discovery", "token", "jwks", "userinfo"):
            (call,) = world.provider.calls(name)
            assert call.base == f"http://127.0.0.1:{port}", name
        world.clock.advance(301)
        assert (await ann.fetch(f"{world.url}/echo")).status == 200
        out = await ann.navigate(f"{world.url}/oauth2/sign_out", initiator=f"{world.url}/")
        assert any(hop.url.startswith(f"http://idp.test:{port}/realms/demo/logout") for hop in out.hops)
        assert out.url.startswith(f"{world.url}/oauth2/signed_out")


# ── TLS ──


@pytest.mark.parametrize(
    ("tls", "status"), [({}, 503), ({"ca_file": "{ca}"}, 200), ({"verify": False}, 200)], ids=["default", "ca", "off"]
)
async def test_f10_tk18_the_certificate_of_the_provider_is_checked(
    tls: dict[str, object], status: int, tmp_path: Path
) -> None:
    ca, port = tmp_path / "ca.pem", free_port()
    ca.write_text(certificate()[0])
    issuer = f"https://localhost:{port}/realms/demo"
    settings = {"provider": {"issuer": issuer, "tls": {**tls, **({"ca_file": str(ca)} if "ca_file" in tls else {})}}}
    provider = {"issuer": issuer, "port": port, "ssl_context": server_context()}
    trusting = client_context()
    async with (
        watched_world(settings, provider=provider) as (watch, world, _),
        watch.browser(ssl_context=trusting) as ann,
    ):
        page = await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        assert page.status == status
        if status == 503:
            watch.assert_refused(page, "provider_unavailable")
            assert "Certificate" in world.lines(event="request.failed")[-1]["reason"]
