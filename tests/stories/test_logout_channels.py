"""The provider ends sessions by its back channel and its front channel, and is told when a user leaves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from urllib.parse import quote, urlencode

import pytest

from oidc_proxy.demo.faults import Faults, OnAnswer, OnValue, having, lacking, late, moved, refusing
from oidc_proxy.demo.keys import generate
from oidc_proxy.demo.listener import Call
from oidc_proxy.errors import StoreFault
from tests.gateway import World
from tests.stories.watch import Watched, sessions, watched_world
from tests.world import Page, Provider

EVENT = "http://schemas.openid.net/event/backchannel-logout"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def listening(world: World) -> None:
    """Let the provider know where to send logout tokens: by a name that no browser ever uses."""
    port = world.url.rpartition(":")[2]
    there = replace(
        world.provider.clients["app"], backchannel_logout_uri=f"http://localhost:{port}/oauth2/backchannel_logout"
    )
    world.provider.clients["app"] = there


async def works(browser: Watched, world: World) -> bool:
    page = await browser.fetch(f"{world.url}/echo")
    assert page.status in {200, 401}
    return page.status == 200


async def sent(world: World, provider: Watched, token: str, **headers: str) -> Page:
    """A logout token, as the provider sends it: without any cookie."""
    body = urlencode({"logout_token": token}).encode()
    url = f"{world.url}/oauth2/backchannel_logout"
    page = await provider.request("POST", url, headers={**FORM, **headers}, data=body, cookies="")
    assert page.headers["Cache-Control"] == "no-store", "LO-23"
    assert not page.set_cookies, "LG-9"
    return page


def sid_of(world: World, user: str = "ann") -> str:
    (found,) = [session.sid for session in world.provider.ledger.sessions.values() if session.username == user]
    return found


# ── the back channel ──


async def test_f102_lo11_lo19_an_administrator_ends_the_session() -> None:
    async with watched_world() as (watch, world, ann), watch.browser() as bob:
        listening(world)
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        await bob.sign_in(f"{world.url}/echo", "bob", "bob")
        (delivery,) = await world.provider.end_user_sessions("ann")
        assert delivery.status == 200, "LO-21; and not 421: Keycloak knows us by another name than browsers do"
        assert not await works(ann, world)
        assert await works(bob, world)
        (line,) = world.lines(event="logout.backchannel")
        assert (line["sub"], line["sessions"]) == (world.provider.users["ann"].sub, 1)


async def test_lg8_lo19_a_sid_ends_one_sign_in_and_a_sub_alone_ends_all_of_them() -> None:
    async with watched_world() as (watch, world, ann), watch.browser() as phone, watch.browser() as tablet:
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        sid = sid_of(world)
        for browser in (phone, tablet):
            await browser.sign_in(f"{world.url}/echo", "ann", "ann")
        assert (await sent(world, phone, world.provider.logout_token("app", sid=sid))).status == 200
        assert [await works(browser, world) for browser in (ann, phone, tablet)] == [False, True, True]
        sub = world.provider.users["ann"].sub
        assert (await sent(world, phone, world.provider.logout_token("app", sub=sub))).status == 200
        assert [await works(browser, world) for browser in (ann, phone, tablet)] == [False, False, False]
        assert not sessions(world)


@pytest.mark.parametrize("who", [{"sid": "unknown"}, {"sub": "nobody"}, {"sid": "unknown", "sub": "nobody"}], ids=str)
async def test_lo21_v7_what_is_not_there_has_ended(who: dict[str, str]) -> None:
    async with watched_world() as (_, world, ann):
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        page = await sent(world, ann, world.provider.logout_token("app", **who))
        assert (page.status, page.body) == (200, b"")
        assert await works(ann, world)


async def test_lg8_a_sid_of_somebody_else_ends_nobody() -> None:
    async with watched_world() as (_, world, ann):
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        sub = world.provider.users["bob"].sub
        page = await sent(world, ann, world.provider.logout_token("app", sid=sid_of(world), sub=sub))
        assert (page.status, page.json()["error_description"]) == (400, "subject")
        assert await works(ann, world)


async def test_lg4_lo16_a_token_works_once() -> None:
    async with watched_world() as (_, world, ann):
        token = world.provider.logout_token("app", sub=world.provider.users["ann"].sub)
        assert (await sent(world, ann, token)).status == 200
        world.clock.advance(100)
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        page = await sent(world, ann, token)
        assert (page.status, page.json()) == (400, {"error": "invalid_request", "error_description": "jti"})
        assert await works(ann, world)
        assert (await sent(world, ann, world.provider.logout_token("app", sid=sid_of(world)))).status == 200
        assert not await works(ann, world)


BAD: dict[str, tuple[str, Faults]] = {
    "LO-14 no events": ("events", Faults(logout_claims=lacking("events"))),
    "LO-14 another event": ("events", Faults(logout_claims=having(events={"http://other.test/event": {}}))),
    "LG-5 events is a list": ("events", Faults(logout_claims=having(events=[EVENT]))),
    "LG-5 the event is a list": ("events", Faults(logout_claims=having(events={EVENT: []}))),
    "LO-15 a nonce": ("type", Faults(logout_claims=having(nonce="n"))),
    "LO-13 neither sub nor sid": ("subject", Faults(logout_claims=lacking("sub", "sid"))),
    "LO-12 expired": ("expired", Faults(logout_claims=moved("exp", -3600))),
    "V7 a year old": ("issued_at", Faults(logout_claims=moved("iat", -365 * 86400))),
    "AV-24 no iat": ("issued_at", Faults(logout_claims=lacking("iat"))),
    "AV-24 no jti": ("jti", Faults(logout_claims=lacking("jti"))),
    "LO-12 another issuer": ("issuer", Faults(logout_claims=having(iss="https://evil.test"))),
    "LO-12 another audience": ("audience", Faults(logout_claims=having(aud="other"))),
    "JW-23 typ of an ID token": ("type", Faults(logout_claims=having(typ="ID"))),
    "JW-23 header of an access token": ("type", Faults(logout_header=having(typ="at+jwt"))),
    "LO-17 alg none": ("algorithm", Faults(logout_header=having(alg="none"))),
    "LO-12 a forged signature": ("signature", Faults(logout_token=lambda token: token[:-8] + "AAAAAAAA")),
    "LO-12 nonsense": ("malformed", Faults(logout_token=lambda token: "nonsense")),
}


@pytest.mark.parametrize(("reason", "faults"), BAD.values(), ids=BAD.keys())
async def test_v7_lg5_lo22_a_token_that_proves_nothing_ends_nothing(reason: str, faults: Faults) -> None:
    async with watched_world() as (_, world, ann):
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        world.provider.faults = faults
        token = world.provider.logout_token("app", sub=world.provider.users["ann"].sub, sid=sid_of(world))
        page = await sent(world, ann, token)
        assert (page.status, page.json()) == (400, {"error": "invalid_request", "error_description": reason})
        assert await works(ann, world)
        (line,) = world.lines(event="logout.refused")
        assert line["reason"].startswith(reason)
        assert token not in world.log.getvalue()


async def test_jw23_an_id_token_is_no_logout_token() -> None:
    async with watched_world() as (_, world, ann):
        tokens: list[str] = []
        world.provider.faults = Faults(id_token=lambda token: tokens.append(token) or token)
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        assert (await sent(world, ann, tokens[0])).status == 400
        assert await works(ann, world)


TOKEN = "logout_token=x"
BODIES: dict[str, tuple[int, Mapping[str, str], bytes]] = {
    "F133 LG-6 two": (400, FORM, f"{TOKEN}&{TOKEN}".encode()),
    "LG-6 none": (400, FORM, b"other=x"),
    "LG-6 empty": (400, FORM, b""),
    "LG-6 JSON": (400, {"Content-Type": "application/json"}, json.dumps({"logout_token": "x"}).encode()),
    "LG-6 multipart": (400, {"Content-Type": "multipart/form-data; boundary=b"}, b"--b\r\n\r\nx\r\n--b--\r\n"),
    "LG-6 no content type": (400, {}, TOKEN.encode()),
    "LG-6 a megabyte": (413, FORM, b"logout_token=" + b"x" * 1_000_000),
    "LG-6 65 kB": (413, FORM, b"logout_token=" + b"x" * 65_536),
    "LG-6 not ASCII": (400, FORM, "logout_token=ü".encode()),
    "LG-6 not UTF-8": (400, FORM, b"logout_token=%ff"),
}


@pytest.mark.parametrize(("status", "headers", "body"), BODIES.values(), ids=BODIES.keys())
async def test_lg6_what_is_not_one_token_in_a_small_form(status: int, headers: Mapping[str, str], body: bytes) -> None:
    async with watched_world() as (_, world, ann):
        page = await ann.request("POST", f"{world.url}/oauth2/backchannel_logout", headers=headers, data=body)
        assert (page.status, page.json()["error"]) == (status, "invalid_request")
        assert page.headers["Cache-Control"] == "no-store"


async def test_lg6_a_body_without_a_length_is_bounded_too() -> None:
    async def endless() -> Any:
        yield b"logout_token="
        for _ in range(100):
            yield b"x" * 10_000

    async with watched_world() as (_, world, ann):
        page = await ann.request("POST", f"{world.url}/oauth2/backchannel_logout", headers=FORM, data=endless())
        assert page.status == 413


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_lg6_other_methods(method: str) -> None:
    async with watched_world() as (_, world, ann):
        page = await ann.request(method, f"{world.url}/oauth2/backchannel_logout?{TOKEN}")
        assert (page.status, page.headers["Allow"]) == (405, "POST")


@pytest.mark.parametrize(
    "path", ["/oauth2/backchannel_logout/", "/oauth2//backchannel_logout", "/x/../oauth2/userinfo"]
)
async def test_lg9_only_the_very_address_takes_any_host(path: str) -> None:
    async with watched_world() as (_, world, ann):
        for name in ("gateway:4180", "localhost", "evil.test", ""):
            there = f"{world.url}/oauth2/backchannel_logout"
            page = await ann.request("POST", there, headers={**FORM, "Host": name}, data=TOKEN.encode())
            assert page.status == 400, name
            page = await ann.request("POST", f"{world.url}{path}", headers={**FORM, "Host": name}, data=TOKEN.encode())
            assert page.status == 421, name
        for other in ("userinfo", "session", "sign_out", "frontchannel_logout"):
            page = await ann.request("GET", f"{world.url}/oauth2/{other}", headers={"Host": "gateway:4180"})
            assert page.status == 421


async def test_lg7_a_flood_of_bad_tokens_fetches_the_keys_once() -> None:
    async with watched_world() as (_, world, ann):
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        before = len(world.provider.calls("jwks"))
        world.clock.advance(60)
        for number in range(30):
            world.provider.faults = Faults(logout_header=having(kid=f"k{number}"))
            page = await sent(world, ann, world.provider.logout_token("app", sid="x"))
            assert (page.status, page.json()["error_description"]) == (400, "key")
        assert len(world.provider.calls("jwks")) <= before + 1


async def test_f15_a_token_signed_with_a_new_key_is_understood() -> None:
    async with watched_world() as (_, world, ann):
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        world.clock.advance(60)
        world.provider.keys.rotate(generate("RS256"), keep=False)
        assert (await sent(world, ann, world.provider.logout_token("app", sid=sid_of(world)))).status == 200
        assert not await works(ann, world)


async def test_what_the_store_could_not_do_may_be_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async with watched_world() as (_, world, ann):
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        token = world.provider.logout_token("app", sub=world.provider.users["ann"].sub)

        async def unreachable(key: str) -> list[str]:
            raise StoreFault("store_unavailable", f"no answer about {key[:3]}")

        with monkeypatch.context() as patch:
            patch.setattr(world.app._store, "members", unreachable)
            page = await sent(world, ann, token)
            assert (page.status, page.json()["code"]) == (503, "store_unavailable")
            assert int(page.headers["Retry-After"]) >= 1
        assert await works(ann, world)
        assert (await sent(world, ann, token)).status == 200
        assert not await works(ann, world)


async def test_a_provider_that_hangs_up_does_not_leave_half_of_the_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    async with watched_world() as (watch, world, ann), watch.browser() as phone:
        for browser in (ann, phone):
            await browser.sign_in(f"{world.url}/echo", "ann", "ann")
        store, drop = world.app._store, world.app._store.drop

        async def slow(key: str) -> bool:
            await asyncio.sleep(0.1)
            return await drop(key)

        monkeypatch.setattr(store, "drop", slow)
        token = world.provider.logout_token("app", sub=world.provider.users["ann"].sub)
        sending = asyncio.create_task(sent(world, ann, token))
        await asyncio.sleep(0.05)
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        for _ in range(100):
            if not world.app._logout.busy:
                break
            await asyncio.sleep(0.02)
        assert not sessions(world)


async def test_a_sign_in_that_was_under_way_does_not_outlive_the_end() -> None:
    async with watched_world() as (_, world, ann):
        callback = await ann.way_back(f"{world.url}/echo")
        world.clock.advance(2)
        token = world.provider.logout_token("app", sub=world.provider.users["ann"].sub)
        assert (await sent(world, ann, token)).status == 200
        assert (await ann.open(callback)).status == 401
        assert not sessions(world)
        world.clock.advance(2)
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        assert await works(ann, world)


# ── the front channel ──


async def framed(world: World, browser: Watched, query: str, page: str = "", **headers: str) -> Page:
    """A page of the provider (or another one) loads our address into a frame, without our cookies."""
    page = page or f"{world.provider.root}/logout"
    answer = await browser.fetch(
        f"{world.url}/oauth2/frontchannel_logout{query}",
        page=page,
        dest="iframe",
        headers={"Referer": page, **headers},
    )
    assert answer.headers["Cache-Control"] == "no-store", "LO-9"
    return answer


def origin_of(url: str) -> str:
    return "/".join(url.split("/")[:3])


async def test_f101_lo6_lo8_the_providers_page_ends_the_session_without_a_cookie() -> None:
    async with watched_world() as (watch, world, ann), watch.browser() as phone, watch.browser() as stranger:
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        query = f"?iss={quote(world.provider.issuer, safe='')}&sid={sid_of(world)}"
        await phone.sign_in(f"{world.url}/echo", "ann", "ann")
        page = await framed(world, stranger, query)
        assert (page.status, page.body) == (200, b"")
        policy = page.headers["Content-Security-Policy"]
        assert f"frame-ancestors {origin_of(world.provider.issuer)}" in policy, "LO-10"
        assert "X-Frame-Options" not in page.headers
        assert not await works(ann, world)
        assert await works(phone, world)
        assert len(world.lines(event="logout.frontchannel")) == 1
        assert not world.provider.calls("revocation"), "LG-10"


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("?iss={iss}", 400),
        ("?sid={sid}", 400),
        ("?iss={iss}&sid={sid}&sid={sid}", 400),
        ("?iss={iss}&iss={iss}&sid={sid}", 400),
        ("?iss=https://evil.test&sid={sid}", 200),
        ("?iss={iss}/&sid={sid}", 200),
        ("?iss={iss}&sid={sid}x", 200),
        ("?iss={iss}&sid=", 200),
        ("?iss={iss}&sid=*", 200),
    ],
)
async def test_lo6_lo7_lg10_whatever_is_not_exactly_right_ends_nothing(query: str, status: int) -> None:
    async with watched_world() as (_, world, ann):
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        entries = len(world.app._store._entries)  # type: ignore[attr-defined]
        page = await framed(world, ann, query.format(iss=world.provider.issuer, sid=sid_of(world)))
        assert page.status == status
        assert await works(ann, world)
        assert len(world.app._store._entries) == entries  # type: ignore[attr-defined]  # a stranger writes nothing


@pytest.mark.parametrize(
    ("page", "dest", "ends"),
    [
        ("{provider}/logout", "iframe", True),
        ("{provider}", "iframe", True),
        ("http://evil.test/", "iframe", False),
        ("{provider}.evil.test/", "iframe", False),
        ("", "iframe", False),
        ("{provider}/logout", "image", False),
    ],
)
async def test_lo6_without_iss_and_sid_only_a_frame_of_the_provider_counts(page: str, dest: str, ends: bool) -> None:
    async with watched_world() as (_, world, ann):
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        referrer = page.format(provider=origin_of(world.provider.issuer))
        headers = {"Sec-Fetch-Dest": dest, **({"Referer": referrer} if referrer else {})}
        answer = await ann.request("GET", f"{world.url}/oauth2/frontchannel_logout", headers=headers)
        assert answer.status == 200
        assert await works(ann, world) is not ends


async def test_lg10_a_link_to_the_front_channel_signs_nobody_out() -> None:
    async with watched_world() as (_, world, ann):
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        await ann.navigate(f"{world.url}/oauth2/frontchannel_logout", initiator="http://evil.test/")
        assert await works(ann, world)


async def test_f101_the_front_channel_works_while_the_provider_cannot_be_reached() -> None:
    async with watched_world() as (_, world, ann):
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        sid = sid_of(world)
        await world.provider.close()
        world.app._provider.metadata._value = None  # as after a restart
        assert (await framed(world, ann, f"?iss={world.provider.issuer}&sid={sid}")).status == 200
        assert not await works(ann, world)
        await world.provider.open()


# ── what the provider is told ──


async def posted(world: World, browser: Watched) -> Page:
    return await browser.post(f"{world.url}/oauth2/sign_out", {}, Origin=world.url, Accept="text/html")


async def told(world: World) -> list[dict[str, str]]:
    """The revocations that the provider was asked for, once nothing more is under way."""
    async with asyncio.timeout(30):
        while world.app._logout.busy:
            await asyncio.sleep(0.01)
    return [dict(call.form) for call in world.provider.calls("revocation")]


@contextmanager
def held_back(provider: Provider) -> Iterator[None]:
    """Meanwhile the provider looks at no revocation."""
    handle, over = provider._listener.handle, asyncio.Event()

    async def later(call: Call, request: Any) -> Any:
        if call.path.endswith("/revoke"):
            await over.wait()
        return await handle(call, request)

    provider._listener.handle = later
    try:
        yield
    finally:
        over.set()


async def test_f100_lo26_the_refresh_token_is_revoked() -> None:
    async with watched_world() as (_, world, ann):
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        ((token, entry),) = world.provider.ledger.refresh_tokens.items()
        await posted(world, ann)
        assert await told(world) == [{"token": token, "token_type_hint": "refresh_token"}]
        assert entry.grant.revoked


@pytest.mark.parametrize(
    ("settings", "client", "metadata"),
    [
        ({"logout": {"revoke": False}}, {}, {}),
        ({}, {"refresh_tokens": False}, {}),
        ({}, {}, {"metadata": lacking("revocation_endpoint")}),
    ],
    ids=["not wanted", "no refresh token", "F12 no endpoint"],
)
async def test_f100_nothing_to_revoke(settings: Any, client: Any, metadata: dict[str, OnValue]) -> None:
    async with watched_world(settings, client=client) as (_, world, ann):
        world.provider.faults = Faults(**metadata)
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        assert (await posted(world, ann)).status == 303
        assert await told(world) == []
        assert not world.lines(event="logout.revocation_failed")


@pytest.mark.parametrize(
    ("answer", "patience", "count", "failed"),
    [
        pytest.param(refusing(400, "unsupported_token_type"), "30s", 1, False, id="LO-29 not of this kind"),
        pytest.param(refusing(400, "invalid_client"), "30s", 1, True, id="not from us"),
        pytest.param(
            lambda answer: refusing(503, "busy", ("Retry-After", "1"))(answer) if answer.count == 1 else answer,
            "30s",
            2,
            False,
            id="LO-28 busy once",
        ),
        pytest.param(refusing(503, "busy", ("Retry-After", "1")), "30s", 2, True, id="LO-28 busy for ever"),
        pytest.param(
            refusing(503, "busy", ("Retry-After", "60")), "2s", 1, True, id="LO-28 busy for longer than it may be"
        ),
        pytest.param(late(60), "2s", 1, True, id="F100 no answer"),
    ],
)
async def test_f100_lg3_the_sign_out_never_waits_for_the_revocation(
    answer: OnAnswer, patience: str, count: int, failed: bool
) -> None:
    async with watched_world({"provider": {"timeout": patience}}) as (_, world, ann):
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        world.provider.faults = Faults(revocation=answer)
        with held_back(world.provider):
            assert (await posted(world, ann)).status == 303
            assert world.app._logout.busy, "the answer was there before the revocation"
        assert not sessions(world)
        assert len(await told(world)) == count
        assert bool(world.lines(event="logout.revocation_failed")) is failed
