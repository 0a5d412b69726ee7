"""One sign-in from the redirect to the session: bound to its browser, good once, and never for somebody else."""

from __future__ import annotations

import base64
import hashlib
import re
from urllib.parse import parse_qs, urlsplit

import pytest

from oidc_proxy.demo.faults import Faults
from tests.gateway import SECRET
from tests.stories.watch import sessions, watched_world


def asked(url: str) -> dict[str, str]:
    """The parameters of an authorization request, each of which is there once."""
    parsed = parse_qs(urlsplit(url).query, keep_blank_values=True, strict_parsing=True)
    assert all(len(values) == 1 for values in parsed.values())
    return {name: values[0] for name, values in parsed.items()}


# ── the request ──


async def test_f31_s1_the_authorization_request_has_what_the_protocol_wants() -> None:
    async with watched_world() as (_, world, ann):
        page = await ann.open(f"{world.url}/echo")
        assert page.status == 302
        assert page.location.startswith(f"{world.provider.issuer}/authorize?")
        sent = asked(page.location)
        assert sent["response_type"] == "code"
        assert sent["client_id"] == "app"
        assert sent["redirect_uri"] == f"{world.url}/oauth2/callback"
        assert sent["scope"] == "openid profile email"
        assert sent["code_challenge_method"] == "S256"
        assert re.fullmatch(r"[A-Za-z0-9_-]{43}", sent["code_challenge"])
        assert len(sent["state"]) >= 43
        assert len(sent["nonce"]) >= 43
        assert sent.keys() <= {
            "response_type", "client_id", "redirect_uri", "scope", "state", "nonce", "code_challenge",
            "code_challenge_method",
        }  # fmt: skip


async def test_ar7_ar8_everything_is_fresh_each_time() -> None:
    async with watched_world() as (_, world, ann):
        requests = [asked((await ann.open(f"{world.url}/echo")).location) for _ in range(5)]
        for name in ("state", "nonce", "code_challenge"):
            assert len({request[name] for request in requests}) == 5


@pytest.mark.parametrize(
    ("settings", "scope"),
    [
        ({"scopes": "email"}, "openid email"),
        ({"scopes": ["email", "openid", "profile"]}, "openid email profile"),
        ({"offline_access": True}, "openid profile email offline_access"),
    ],
)
async def test_f32_s1_scopes(settings: dict[str, object], scope: str) -> None:
    async with watched_world({"provider": settings}) as (_, world, ann):
        assert asked((await ann.open(f"{world.url}/echo")).location)["scope"] == scope
        assert (await ann.sign_in(f"{world.url}/echo", "ann", "ann")).status == 200


async def test_f32_f35_a_start_may_ask_for_what_the_settings_allow_and_the_next_does_not() -> None:
    allowed = {"prompt": ["login", "consent", "none"], "scope": ["openid", "groups"]}
    async with watched_world({"login": {"allowed_params": allowed}}) as (_, world, ann):
        start = f"{world.url}/oauth2/start"
        sent = asked((await ann.open(f"{start}?prompt=login%20consent&scope=groups&kc_idp_hint=x")).location)
        assert sent["prompt"] == "login consent"
        assert sent["scope"] == "openid groups"
        assert "kc_idp_hint" not in sent
        later = asked((await ann.open(start)).location)
        assert later["scope"] == "openid profile email"
        assert "prompt" not in later
        refused = asked((await ann.open(f"{start}?prompt=create&scope=admin&redirect_uri=https://evil.test/")).location)
        assert "prompt" not in refused
        assert refused["scope"] == "openid profile email"
        assert refused["redirect_uri"] == f"{world.url}/oauth2/callback"


async def test_f35_ar29_a_silent_check_that_finds_nobody_ends_in_a_page() -> None:
    async with watched_world({"login": {"allowed_params": {"prompt": ["none"]}}}) as (watch, world, ann):
        page = await ann.navigate(f"{world.url}/oauth2/start?prompt=none&rd=/echo")
        watch.assert_refused(page, "provider_refused")
        assert "login_required" in page.text


async def test_f9_a_query_of_the_endpoint_is_kept() -> None:
    async with watched_world() as (_, world, ann):
        issuer = world.provider.issuer
        world.provider.faults = Faults(
            metadata=lambda document: {**document, "authorization_endpoint": f"{issuer}/authorize?t=1"}
        )
        page = await ann.open(f"{world.url}/echo")
        assert page.location.count("?") == 1
        assert asked(page.location)["t"] == "1"


@pytest.mark.parametrize("host", ["evil.test", "127.0.0.1", "127.0.0.1:1"])
async def test_f47_the_redirect_uri_does_not_follow_the_host_header(host: str) -> None:
    async with watched_world() as (watch, world, ann):
        page = await ann.request("GET", f"{world.url}/echo", headers={"Host": host, "Accept": "text/html"})
        assert page.status == 421
        assert not page.location
        watch.assert_nobody_got_in()


async def test_f49_s2_tk8_tk9_the_code_is_exchanged_once_with_its_verifier() -> None:
    async with watched_world() as (_, world, ann):
        sent = asked((form := await ann.navigate(f"{world.url}/echo")).hops[-1].url)
        await ann.fill_sign_in(form, "ann", "ann")
        (call,) = world.provider.calls("token")
        assert call.form["grant_type"] == "authorization_code"
        assert call.form["redirect_uri"] == sent["redirect_uri"]
        digest = hashlib.sha256(call.form["code_verifier"].encode()).digest()
        assert base64.urlsafe_b64encode(digest).rstrip(b"=").decode() == sent["code_challenge"]
        assert 43 <= len(call.form["code_verifier"]) <= 128
        assert call.headers["Authorization"].startswith("Basic ")
        assert "client_secret" not in call.form, "TK-2"
        assert SECRET not in call.target


@pytest.mark.parametrize(
    ("auth", "client", "way"),
    [
        ("basic", {}, "client_secret_basic"),
        ("post", {}, "client_secret_post"),
        ("auto", {"auth_methods": ("client_secret_basic",)}, "client_secret_basic"),
    ],
)
async def test_tk1_tk4_the_client_authenticates_as_configured(auth: str, client: dict[str, object], way: str) -> None:
    async with watched_world({"provider": {"client_auth": auth}}, client=client) as (_, world, ann):
        assert (await ann.sign_in(f"{world.url}/echo", "ann", "ann")).status == 200
        (call,) = world.provider.calls("token")
        assert ("client_secret" in call.form) == (way == "client_secret_post")
        assert ("Authorization" in call.headers) == (way == "client_secret_basic")


async def test_f34_the_verifier_is_nowhere_in_the_browser() -> None:
    async with watched_world() as (watch, world, ann):
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        verifier = world.provider.calls("token")[0].form["code_verifier"]
        for page in watch.answers():
            if page.status != 200:
                assert verifier not in page.text + str(page.headers) + page.url


# ── the way back ──


async def test_lt3_s5_a_callback_of_nobody_is_refused_without_asking_the_provider() -> None:
    async with watched_world() as (watch, world, ann):
        page = await ann.navigate(f"{world.url}/oauth2/callback?code=abc&state={'A' * 43}")
        watch.assert_refused(page, "login_unknown")
        assert ("Sign in again", "/oauth2/start") in page.links
        assert not world.provider.requests


async def test_lt3_lt6_somebody_elses_callback_signs_nobody_in() -> None:
    async with watched_world() as (watch, world, eve):
        attack = await eve.way_back(f"{world.url}/echo", "eve")
        async with watch.browser() as ann:
            watch.assert_refused(await ann.navigate(attack, initiator="http://evil.test/"), "login_unknown")
            await ann.navigate(f"{world.url}/echo")  # she has a sign-in of her own under way
            watch.assert_refused(await ann.navigate(attack, initiator="http://evil.test/"), "login_unknown")
        assert not world.provider.calls("token")
        assert (await eve.navigate(attack)).status == 200, "it is still good where it began"


async def test_lt9_a_stolen_code_is_useless_in_another_sign_in() -> None:
    async with watched_world() as (watch, world, ann):
        stolen = asked(await ann.way_back(f"{world.url}/echo"))["code"]
        async with watch.browser() as eve:
            own = asked(await eve.way_back(f"{world.url}/echo", "eve"))
            url = f"{world.url}/oauth2/callback?code={stolen}&state={own['state']}&iss={own['iss']}"
            watch.assert_refused(await eve.navigate(url), "code_refused")


async def test_lt5_rs7_f134_a_reload_of_the_callback_goes_on_to_the_site() -> None:
    async with watched_world() as (_, world, ann):
        callback = await ann.way_back(f"{world.url}/echo/deep")
        assert (await ann.navigate(callback)).url == f"{world.url}/echo/deep"
        for _ in range(3):
            again = await ann.open(callback)
            assert (again.status, again.location) == (302, f"{world.url}/")
        assert len(world.provider.calls("token")) == 1


async def test_lt5_f33_a_replay_after_the_sign_out_is_refused() -> None:
    async with watched_world() as (_, world, ann):
        callback = await ann.way_back(f"{world.url}/echo")
        held = ann.cookies.header(world.url)
        await ann.navigate(callback)
        await ann.navigate(f"{world.url}/oauth2/sign_out", initiator=f"{world.url}/")
        # With the very cookies that it had: only the store knows that it was used.
        page = await ann.request("GET", callback, cookies=held)
        assert page.status == 400
        assert "<code>login_unknown</code>" in page.text
        assert len(world.provider.calls("token")) == 1
        assert not sessions(world)
        assert len(world.lines(event="login.failed")) == 1


@pytest.mark.parametrize("seconds", [599, 601])
async def test_f45_a_sign_in_may_take_ten_minutes(seconds: int) -> None:
    async with watched_world() as (watch, world, ann):
        world.provider.lifetimes = type(world.provider.lifetimes)(code=10**6)
        callback = await ann.way_back(f"{world.url}/echo/deep")
        held = ann.cookies.header(world.url)
        world.clock.advance(seconds)
        page = await ann.request("GET", callback, cookies=held)
        if seconds < 600:
            assert page.status == 303
            return
        watch.assert_refused(page, "login_expired")
        assert "too long" in page.text
        again = dict(page.links)["Sign in again"]
        assert (await ann.sign_in(f"{world.url}{again}", "ann", "ann")).url == f"{world.url}/echo/deep"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        ("access_denied", "access_denied_by_provider"),
        ("temporarily_unavailable", "provider_refused"),
        ("server_error", "provider_refused"),
        ("something_nobody_knows", "provider_refused"),
        ("login_required", "provider_refused"),
    ],
)
async def test_f50_lt11_s6_an_error_of_the_provider_ends_in_a_page(error: str, code: str) -> None:
    words = "<script>alert(1)</script> 'x' \"y\" & Bob's"
    async with watched_world() as (watch, world, ann):
        world.provider.faults = Faults(
            callback=lambda pairs: [
                ("error", error),
                ("error_description", words),
                ("error_uri", "https://evil.test/<b>"),
                *(pair for pair in pairs if pair[0] in {"state", "iss"}),
            ]
        )
        page = await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        watch.assert_refused(page, code)
        assert "<script" not in page.text.lower()
        assert "evil.test" not in page.text
        assert (f"<code>{error}</code>" in page.text) == (code == "provider_refused")
        assert error in world.lines(event="login.failed")[-1]["reason"]
        assert "Sign in again" in dict(page.links)
        assert not world.provider.calls("token")
        # It ended this sign-in: the same state is not good again, whatever comes with it.
        state = asked(page.hops[-1].url)["state"]
        watch.assert_refused(await ann.open(f"{world.url}/oauth2/callback?code=x&state={state}"), "login_unknown")


@pytest.mark.parametrize(
    "query",
    [
        "", "state=", "state={state}", "code=a", "code=a&state=", "code=&state={state}", "code=a&error=b&state={state}",
        "code=a&code=b&state={state}", "code=a&state={state}&state={state}", "error=a&error=b&state={state}",
        "code=a&state={state}&iss=a&iss=b", "state[]={state}&code=a", "response=eyJ&state={state}",
        "access_token=x&id_token=y&state={state}", "code=%ff&state={state}", "code=%&state={state}",
        "code=a%0d%0aX: y&state={state}", "code={long}&state={state}", "code=a&state={long}",
    ],
)  # fmt: skip
async def test_lt12_lt13_f133_a_malformed_callback_is_refused(query: str) -> None:
    async with watched_world() as (watch, world, ann):
        state = asked((await ann.navigate(f"{world.url}/echo")).hops[-1].url)["state"]
        query = query.replace(" ", "%20").format(state=state, long="a" * 9000)
        page = await ann.open(f"{world.url}/oauth2/callback?{query}")
        watch.assert_refused(page, "callback_malformed")
        assert not world.provider.calls("token")


@pytest.mark.parametrize("method", ["POST", "HEAD", "PUT", "DELETE", "OPTIONS"])
async def test_lt13_only_a_get_comes_back(method: str) -> None:
    async with watched_world() as (watch, world, ann):
        callback = await ann.way_back(f"{world.url}/echo")
        page = await ann.request(method, callback, headers={"Accept": "text/html"})
        assert page.status == 405
        assert page.headers["Allow"] == "GET"
        watch.assert_nobody_got_in()


async def test_br12_an_endpoint_of_ours_is_no_service_worker() -> None:
    async with watched_world() as (watch, world, ann):
        callback = await ann.way_back(f"{world.url}/echo")
        for url in (callback, f"{world.url}/oauth2/start", f"{world.url}/oauth2/signed_out"):
            assert (await ann.get(url, Service_Worker="script", Accept="text/html")).status == 403
        watch.assert_nobody_got_in()


@pytest.mark.parametrize("change", ["a sign-in of another name", "a state of another", "damaged", "cut", "empty"])
async def test_f33_the_cookie_of_a_sign_in_is_bound_to_its_state(change: str) -> None:
    async with watched_world() as (watch, world, ann):
        callback = await ann.way_back(f"{world.url}/echo")
        async with watch.browser() as other:
            await other.way_back(f"{world.url}/echo", "bob")
            (theirs,) = other.cookies.named("oidc_proxy_login_")
        (own,) = ann.cookies.named("oidc_proxy_login_")
        line = {
            "a sign-in of another name": f"{theirs.name}={own.value}",
            "a state of another": f"{own.name}={theirs.value}",
            "damaged": f"{own.name}={own.value[:-2]}{'A' if own.value[-2] != 'A' else 'B'}{own.value[-1]}",
            "cut": f"{own.name}={own.value[:30]}",
            "empty": f"{own.name}=",
        }[change]
        page = await ann.request("GET", callback, cookies=line, headers={"Accept": "text/html"})
        watch.assert_refused(page, "login_unknown")
        assert not world.provider.calls("token")


async def test_se4_ar13_the_cookie_of_a_sign_in_is_short_lived_and_out_of_reach_of_scripts() -> None:
    async with watched_world() as (_, world, ann):
        page = await ann.open(f"{world.url}/echo")
        (line,) = page.set_cookies
        assert "HttpOnly" in line
        assert "SameSite=Lax" in line
        assert "Max-Age=600" in line
        assert "state" not in line
        assert asked(page.location)["state"] not in line
