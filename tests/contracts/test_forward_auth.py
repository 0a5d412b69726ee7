"""Every dialect × every situation × every visitor: what the proxy that asks is told, by the whole gateway.

The table is the contract. A cell names the status, and where the answer leads: to the sign-in, or to the page that says
that nothing can be said now. A redirect is 302 after GET and HEAD, and 303 after any other method.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pytest

from oidc_proxy.demo.directory import EVE
from tests.gateway import World, merged, running_world
from tests.stories.test_routes import BYPASSES
from tests.wire import Response, ask, authority, connected, message
from tests.world import free_port

TABLE = """
              nobody            nobody   may     may not   may not   outage              outage   not found
              browser           program          browser   program   browser             program
nginx         401 start         401      200     403       403       401 unavailable     503      403
forward       302 start         401      200     403       403       503                 503      404
traefik       302 start         401      200     403       403       503                 503      404
haproxy       302 start         401      200     403       403       503                 503      404
envoy         302 start         401      200     403       403       302 unavailable     403      404
oauth2_proxy  401               401      200     403       403       401                 401      403
"""
COLUMNS = (
    ("nobody", "browser"), ("nobody", "program"), ("may", "any"), ("may not", "browser"), ("may not", "program"),
    ("outage", "browser"), ("outage", "program"), ("not found", "any"),
)  # fmt: skip
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PROPFIND")
BROWSER = (
    ("Accept: text/html,application/xhtml+xml,*/*;q=0.8", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document"),
    ("Accept: text/html",),
)
PROGRAM = (
    ("Accept: */*", "Sec-Fetch-Mode: cors", "Sec-Fetch-Dest: empty"),
    ("Accept: application/json",),
    ("Accept: */*",),
    (),
    ("Accept: text/html", "X-Requested-With: XMLHttpRequest"),
    ("Accept: text/html", "Content-Type: application/grpc"),
    ("Accept: */*", "Origin: https://else.test", "Access-Control-Request-Method: POST"),
)
VISITORS = {"browser": BROWSER, "program": PROGRAM, "any": BROWSER + PROGRAM}
NAMES = [
    f"X-{family}-{what}"
    for family in ("Forwarded", "Auth-Request")
    for what in ("User", "Email", "Preferred-Username", "Groups")
]
TARGET = "/page?a=b%2Fc&d=%20"

ROUTES = [
    {"path": "/staff/", "groups": ["/staff/ops"]},
    {"path": "/public/", "auth": "none"},
    {"path": "/optional/", "auth": "optional"},
    {"path": "/page"},
]
EVERY = {"dialects": ["nginx", "forward", "envoy", "oauth2_proxy"], "trusted_proxies": ["127.0.0.0/8"]}
CONFIG = {
    "forward_auth": EVERY,
    "upstream": None,
    "upstreams": {"default": {"url": "http://127.0.0.1:9"}},  # so that what no route names is not found
    "routes": ROUTES,
}


@dataclass(frozen=True)
class Asker:
    """How a proxy asks about a request. ``at`` is the path of the endpoint, ``words`` the headers that it sets."""

    at: str
    words: tuple[str, ...] = ()
    method: str = "GET"

    def question(
        self, world: World, method: str, target: str, lines: Sequence[str] = (), *, cookie: str = "", host: str = ""
    ) -> bytes:
        known = {"method": method, "target": target, "host": host or authority(world.url)}
        line = f"{self.method} {self.at}".format(**known)
        return message(world.url, line, *(word.format(**known) for word in self.words), *lines, cookie=cookie)


X_FORWARDED = ("X-Forwarded-Method: {method}", "X-Forwarded-Host: {host}", "X-Forwarded-Uri: {target}")
X_ORIGINAL = ("X-Original-URL: http://{host}{target}", "X-Original-Method: {method}")
# As its source has it (3.7, pkg/middlewares/auth/forward.go); the scheme is wss for the handshake of a WebSocket.
TRAEFIK = (
    "Host: oidc-proxy:4180", "User-Agent: Go-http-client/1.1", "Accept-Encoding: gzip", *X_FORWARDED,
    "X-Forwarded-Proto: wss", "X-Forwarded-Port: 443", "X-Forwarded-Server: traefik", "X-Forwarded-For: 203.0.113.9",
    "X-Real-Ip: 203.0.113.9",
)  # fmt: skip
ASKERS = {
    "nginx": Asker("/oauth2/authz/nginx", ("Host: gateway:4180", *X_ORIGINAL)),
    "forward": Asker("/oauth2/authz/forward", ("Host: gateway:4180", "X-Forwarded-Proto: http", *X_FORWARDED)),
    "traefik": Asker("/oauth2/authz/forward", TRAEFIK),
    "haproxy": Asker("/oauth2/authz/forward", tuple(map(str.lower, X_FORWARDED)), method="HEAD"),
    "envoy": Asker("/oauth2/authz/envoy{target}", ("Host: {host}", "Content-Length: 0"), method="{method}"),
    "oauth2_proxy": Asker("/oauth2/auth", ("Host: gateway:4180", *X_ORIGINAL)),
}


def cells() -> list[Any]:
    found = []
    for row in TABLE.strip().splitlines()[2:]:
        name, *texts = row.replace(" start", "_start").replace(" unavailable", "_unavailable").split()
        for (situation, visitor), text in zip(COLUMNS, texts, strict=True):
            status, _, where = text.partition("_")
            found.append(pytest.param(name, situation, visitor, int(status), where, id=f"{name}-{situation}-{visitor}"))
    return found


@asynccontextmanager
async def asked_world(change: Mapping[str, Any] | None = None) -> AsyncIterator[World]:
    async with running_world(merged(CONFIG, change or {})) as world:
        yield world


async def cookie_of(world: World, user: str) -> str:
    """What the browser of somebody holds who has signed in."""
    async with world.browser() as browser:
        await browser.sign_in(f"{world.url}/oauth2/start?rd=/page", user, user)
        return browser.cookies.header(world.url)


@pytest.mark.parametrize(("name", "situation", "visitor", "status", "where"), cells())
async def test_the_contract(name: str, situation: str, visitor: str, status: int, where: str) -> None:
    asker = ASKERS[name]
    async with asked_world() as world:
        target = {"may not": "/staff/x", "not found": "/nothing"}.get(situation, TARGET)
        cookie = "" if situation == "nobody" else await cookie_of(world, "eve" if situation == "may not" else "ann")
        if situation == "outage":
            await world.provider.close()
            world.clock.advance(301)  # the access token is over, and cannot be renewed
        for lines in VISITORS[visitor]:
            for method in METHODS:
                question = asker.question(world, method, target, lines, cookie=cookie)
                response = await ask(world.url, question)
                assert_answer(response, status, where, method, f"{world.url}{target}", world)
                person = lines in BROWSER
                if response.status != 200 and not question.startswith(b"HEAD ") and name != "oauth2_proxy":
                    assert_body(response, person, where)


def assert_answer(response: Response, status: int, where: str, method: str, asked: str, world: World) -> None:
    safe = method in {"GET", "HEAD"}
    assert response.status == (303 if status == 302 and not safe else status)
    if where:
        back = f"?rd={quote(asked, safe='/:')}" if safe else ""
        assert response.one("Location").decode() == f"{world.url}/oauth2/{where}{back}"
    else:
        assert response.all("Location") == []
    assert response.all("Set-Cookie") == []
    assert response.all("Cache-Control") == [b"no-store"]
    assert len(response.all("WWW-Authenticate")) == (1 if response.status == 401 else 0)
    assert len(response.one("X-Request-Id")) >= 16
    assert len(response.all("Retry-After")) == (1 if response.status == 503 else 0) or status == 403
    for header in [*NAMES, "Authorization"]:
        assert len(response.all(header)) == (1 if status == 200 else 0), header


def assert_body(response: Response, person: bool, where: str) -> None:
    if where:
        assert response.body == b""
    elif person:
        assert response.body.startswith(b"<!doctype html>")
        assert b"noindex" in response.body
    else:
        problem = json.loads(response.body)
        assert problem["code"] in {"sign_in_required", "access_denied", "provider_unavailable", "not_found"}
        assert response.one("Content-Type") == b"application/problem+json"
        assert len(response.body) < 500, "Envoy copies it"


# ── what is said of the user ──


@pytest.mark.parametrize("name", ASKERS)
async def test_f203_the_whole_set_is_in_every_yes(name: str) -> None:
    async with asked_world() as world:
        cookie, sub = await cookie_of(world, "eve"), EVE.sub
        response = await ask(world.url, ASKERS[name].question(world, "GET", "/page", cookie=cookie))
        assert response.one("X-Auth-Request-User") == response.one("X-Forwarded-User") == sub.encode()
        assert response.one("X-Auth-Request-Email") == b"eve@example.test"
        assert response.one("Authorization").startswith(b"Bearer ey")
        token = response.one("Authorization").removeprefix(b"Bearer ")
        assert response.all("X-Auth-Request-Access-Token") == ([token] if name == "oauth2_proxy" else [])
        for target, given in (("/public/x", cookie), ("/public/x", ""), ("/optional/x", "")):
            response = await ask(world.url, ASKERS[name].question(world, "GET", target, cookie=given))
            assert response.status == 200
            assert {header: response.one(header) for header in [*NAMES, "Authorization"]} == dict.fromkeys(
                [*NAMES, "Authorization"], b""
            )
        response = await ask(world.url, ASKERS[name].question(world, "GET", "/optional/x", cookie=cookie))
        assert response.one("X-Auth-Request-User") == sub.encode()


async def test_f201_yes_may_be_202_for_those_who_wait_for_it() -> None:
    async with asked_world({"forward_auth": {"legacy_202": True}}) as world:
        cookie = await cookie_of(world, "ann")
        for name, asker in ASKERS.items():
            response = await ask(world.url, asker.question(world, "GET", "/page", cookie=cookie))
            assert response.status == (202 if name == "oauth2_proxy" else 200)


async def test_f201_the_session_alone_has_an_answer_where_one_rule_is_for_all() -> None:
    for routes, status in (([{"path": "/"}], 200), (ROUTES, 400)):
        async with asked_world({"routes": routes}) as world:
            question = message(world.url, "GET /oauth2/auth", cookie=await cookie_of(world, "ann"))
            assert (await ask(world.url, question)).status == status
            question = message(world.url, "GET /oauth2/auth", "X-Forwarded-Uri: /public/x")
            assert (await ask(world.url, question)).status == (401 if status == 200 else 400)


async def test_f201_x_forwarded_uri_says_which_rule_where_the_proxy_is_known_to_set_it() -> None:
    routes = [{"path": "/public/", "auth": "none"}, {"path": "/admin/", "groups": ["/staff/ops"]}, {"path": "/"}]
    async with asked_world({"routes": routes, "forward_auth": {"forwarded_uri": True}}) as world:
        cookies = {"": "", "ann": await cookie_of(world, "ann"), "eve": await cookie_of(world, "eve")}
        for user, path, status in (
            ("", "/public/x", 200), ("", "/admin/x", 401), ("", "/public/../admin/x", 403),
            ("", "/public/%2e%2e/x", 403),
            ("ann", "/admin/x", 200), ("eve", "/admin/x", 403), ("eve", "/x?y=/public/", 200), ("", "public/x", 400),
        ):  # fmt: skip
            question = message(world.url, "GET /oauth2/auth", f"X-Forwarded-Uri: {path}", cookie=cookies[user])
            assert (await ask(world.url, question)).status == status, (user, path)
        two = message(world.url, "GET /oauth2/auth", "X-Forwarded-Uri: /public/x", "X-Forwarded-Uri: /admin/x")
        assert (await ask(world.url, two)).status == 400


# ── demands ──


@pytest.mark.parametrize(
    ("name", "query", "user", "status"),
    [
        ("nginx", "groups=/staff/ops", "ann", 200),
        ("nginx", "groups=/staff/ops", "bob", 403),
        ("nginx", "groups=/staff/ops", "", 401),
        ("forward", "groups=/staff/sales,/staff/ops", "bob", 200),
        ("forward", "roles=staff", "ann", 200),
        ("forward", "roles=staff&groups=/staff/sales", "ann", 403),
        ("forward", "group=/staff/ops", "ann", 400),
        ("forward", "groups=", "ann", 400),
        ("oauth2_proxy", "allowed_groups=/staff/ops", "ann", 200),
        ("oauth2_proxy", "allowed_groups=/staff/ops", "bob", 403),
        ("oauth2_proxy", "allowed_emails=ann@example.test", "ann", 200),
        ("oauth2_proxy", "allowed_email_domains=example.com", "ann", 403),
    ],
)
async def test_the_address_where_a_proxy_asks_can_demand_more(name: str, query: str, user: str, status: int) -> None:
    asker = ASKERS[name]
    stricter = Asker(f"{asker.at}?{query}", asker.words, asker.method)
    async with asked_world() as world:
        cookie = await cookie_of(world, user) if user else ""
        for target in ("/page", "/public/x"):  # also where the rule itself asks for nobody
            assert (await ask(world.url, stricter.question(world, "GET", target, cookie=cookie))).status == status


@pytest.mark.parametrize("name", ASKERS)
async def test_the_visitor_s_own_query_demands_and_opens_nothing(name: str) -> None:
    async with asked_world() as world:
        cookie = await cookie_of(world, "eve")
        for target, status in (("/staff/x?groups=", 403), ("/page?groups=/staff/ops", 200), ("/page?group=x", 200)):
            assert (await ask(world.url, ASKERS[name].question(world, "GET", target, cookie=cookie))).status == status


# ── nobody is believed who is not trusted, and no header that is not the dialect's ──


@pytest.mark.parametrize("name", ASKERS)
async def test_f207_who_is_not_trusted_gets_no_answer(name: str) -> None:
    change = {"forward_auth": {"trusted_proxies": ["192.0.2.0/24"]}, "listen": {"trusted_proxies": ["127.0.0.0/8"]}}
    async with asked_world(change) as world:
        for cookie in ("", await cookie_of(world, "ann")):
            for target in ("/public/x", "/page"):
                lines = ("X-Forwarded-For: 192.0.2.1",)
                response = await ask(world.url, ASKERS[name].question(world, "GET", target, lines, cookie=cookie))
                assert response.status == 403
                assert response.all("Authorization") == response.all("X-Auth-Request-User") == []
        assert "127.0.0.1 is not in forward_auth.trusted_proxies" in world.log.getvalue()


LIES = (
    "X-Forwarded-Uri: /public/x", "X-Forwarded-Method: OPTIONS", "X-Forwarded-Host: else.test",
    "X-Forwarded-Prefix: /public", "X-Forwarded-Proto: https", "X-Original-URI: /public/x",
    "X-Original-URL: http://else.test/public/x", "X-Original-Method: OPTIONS", "X-Original-Host: else.test",
    "X-Rewrite-Url: /public/x", "X-Http-Method-Override: OPTIONS", "X-Auth-Request-Redirect: /public/x",
    "Forwarded: for=127.0.0.1;host=else.test;proto=https", "X_Forwarded_Uri: /public/x", "X_Original_URL: http://x/",
    "X-Forwarded-User: ann", "X-Auth-Request-User: ann", "X_Auth_Request_User: ann",
    "X-Auth-Request-Groups: /staff/ops", "Authorization: Bearer x",
    "Authorization: Basic YW5uOmFubg==", "User-Agent: kube-probe/1.31",
    "User-Agent: GoogleHC/1.0", "Connection: X-Original-URL, X-Forwarded-Uri, Cookie", "X-Forwarded-User:",
)  # fmt: skip


@pytest.mark.parametrize("name", ASKERS)
async def test_what_a_client_adds_changes_no_decision(name: str) -> None:
    own = {word.partition(":")[0].lower() for word in ASKERS[name].words}
    async with asked_world() as world:
        cookie = await cookie_of(world, "eve")
        for lie in LIES:
            if lie.partition(":")[0].lower() in own:
                continue  # said twice, it is refused; see below
            for target, given, status in (("/page", "", 401), ("/staff/x", cookie, 403), ("/page", cookie, 200)):
                response = await ask(world.url, ASKERS[name].question(world, "GET", target, (lie,), cookie=given))
                assert response.status == status, lie
                if status == 200:
                    assert b"ann" not in response.one("X-Auth-Request-User")


@pytest.mark.parametrize("name", ASKERS)
async def test_what_is_said_twice_says_nothing(name: str) -> None:
    async with asked_world() as world:
        for header in [word.partition(":")[0] for word in ASKERS[name].words if "{" in word]:
            if header == "Host":
                continue  # the listener itself refuses two of them
            for again in ("/public/x", "http://127.0.0.1/public/x", "GET"):
                lines = (f"{header}: {again}",)
                assert (await ask(world.url, ASKERS[name].question(world, "GET", "/page", lines))).status == 400


@pytest.mark.parametrize("name", ASKERS)
async def test_a_public_path_is_no_way_to_another_one(name: str) -> None:
    async with asked_world(
        {"routes": [{"path": "/public/", "auth": "none"}, {"path": "/public/secret"}, {"path": "/"}]}
    ) as world:
        for target in [target for _, target in BYPASSES if target.isascii()]:
            for method in ("GET", "POST", "OPTIONS"):
                response = await ask(world.url, ASKERS[name].question(world, method, target.replace("{}", "x")))
                assert response.status in {400, 401, 403, 404, 405}, target


@pytest.mark.parametrize("name", ASKERS)
async def test_the_host_decides_in_any_spelling(name: str) -> None:
    async with asked_world() as world:
        host, _, port = authority(world.url).partition(":")
        for spelling, status in ((f"{host}.:{port}", 401), (f"evil.test:{port}", 421), (f"{host}@evil.test", 421)):
            response = await ask(world.url, ASKERS[name].question(world, "GET", "/page", host=spelling))
            expected = 403 if status == 421 and name in {"nginx", "oauth2_proxy"} else status
            # A Host that is no host at all is for the listener to refuse.
            assert response.status in {expected, 400} if "@" in spelling else response.status == expected


@pytest.mark.parametrize(
    "cookie", ["oidc_proxy=", "oidc_proxy=x", "oidc_proxy=" + "A" * 86, "oidc_proxy=" + "A" * 3000]
)
@pytest.mark.parametrize("name", ASKERS)
async def test_av_6_a_broken_cookie_is_no_session(name: str, cookie: str) -> None:
    async with asked_world() as world:
        for given in (cookie, f"{cookie}; {cookie}", f"{cookie}; {await cookie_of(world, 'ann')}"):
            assert (await ask(world.url, ASKERS[name].question(world, "GET", "/page", cookie=given))).status == 401


@pytest.mark.parametrize("name", ASKERS)
async def test_our_own_endpoints_are_never_sent_to_sign_in(name: str) -> None:
    """A proxy that asks about everything, the sign-in itself too, would send the browser round in circles."""
    async with asked_world() as world:
        cookie = await cookie_of(world, "ann")
        for target in ("/oauth2/start?rd=/page", "/oauth2/callback?code=x&state=y", "/oauth2/sign_out"):
            for given in ("", cookie):
                response = await ask(world.url, ASKERS[name].question(world, "GET", target, BROWSER[0], cookie=given))
                assert response.status == 200
                assert response.one("X-Auth-Request-User") == response.one("Authorization") == b""
        for target in (
            "/oauth2/startle",
            "/oauth2//start",
            "/oauth2/start/",
            "/oauth2/x/../start",
            "/oauth2/authz/nginx",
        ):
            response = await ask(world.url, ASKERS[name].question(world, "GET", target))
            assert response.status in {400, 401, 403, 404}


# ── on the wire ──


@pytest.mark.parametrize("name", ASKERS)
async def test_f209_a_check_renews_the_token_and_sets_no_cookie(name: str) -> None:
    async with asked_world() as world:
        cookie = await cookie_of(world, "ann")
        tokens = set()
        for _ in range(3):
            response = await ask(world.url, ASKERS[name].question(world, "GET", "/page", cookie=cookie))
            assert (response.status, response.all("Set-Cookie")) == (200, [])
            tokens.add(response.one("Authorization"))
            world.clock.advance(301)
        assert len(tokens) == 3


@pytest.mark.parametrize("name", ASKERS)
async def test_a_handshake_is_a_request_like_any_other(name: str) -> None:
    """Caddy and HAProxy pass the words of an upgrade on to us: there is never one."""
    upgrade = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAA")
    async with asked_world() as world:
        cookie, ours, theirs = await cookie_of(world, "ann"), f"Origin: {world.url}", "Origin: https://evil.test"
        for given, lines, status in (
            (cookie, (ours,), 200), (cookie, (theirs,), 403), (cookie, (), 403),
            ("", (ours,), 401), ("", (theirs,), 401),
        ):  # fmt: skip
            question = ASKERS[name].question(
                world, "GET", "/page", (*upgrade, "Accept: text/html", *lines), cookie=given
            )
            assert (await ask(world.url, question)).status == status
        question = ASKERS[name].question(world, "GET", "/public/x", (*upgrade, theirs))
        assert (await ask(world.url, question)).status == 403


@pytest.mark.parametrize("name", ASKERS)
async def test_what_another_site_sends_is_refused_where_the_rule_says_so(name: str) -> None:
    rule = {"path": "/", "cross_site": "refuse"}
    async with asked_world({"routes": [rule]}) as world:
        cookie = await cookie_of(world, "ann")
        for origin, status in ((world.url, 200), ("https://evil.test", 403)):
            question = ASKERS[name].question(world, "POST", "/page", (f"Origin: {origin}",), cookie=cookie)
            assert (await ask(world.url, question)).status == status


@pytest.mark.parametrize("name", ASKERS)
async def test_many_checks_share_a_connection(name: str) -> None:
    async with asked_world() as world:
        cookie = await cookie_of(world, "ann")
        asker = ASKERS[name]
        async with connected(world.url) as line:
            for given, status in ((cookie, 200), ("", 401), (cookie, 200)):
                question = asker.question(world, "GET", "/page", cookie=given)
                await line.send(question)
                assert (await line.response(question.partition(b" ")[0].decode())).status == status


@pytest.mark.parametrize("name", ASKERS)
async def test_a_body_that_comes_along_is_not_waited_for(name: str) -> None:
    asker = ASKERS[name]
    words = tuple(word for word in asker.words if not word.startswith("Content-Length"))
    with_body = Asker(asker.at, words, asker.method)
    async with asked_world() as world, connected(world.url) as line:
        await line.send(with_body.question(world, "POST", "/page", ("Content-Length: 100000",)))
        assert (await line.response("HEAD" if asker.method == "HEAD" else "POST")).status == 401


@pytest.mark.parametrize("name", ASKERS)
async def test_a_mistake_of_ours_never_lets_pass(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with asked_world() as world:
        cookie = await cookie_of(world, "ann")

        def broken(*_: object) -> None:
            raise RuntimeError("a defect")

        monkeypatch.setattr(world.app._sessions, "at_hand", broken)
        response = await ask(world.url, ASKERS[name].question(world, "GET", "/page", cookie=cookie))
        assert response.status == {"envoy": 403, "oauth2_proxy": 401}.get(name, 500)
        assert world.lines(event="internal_error")


async def test_the_log_has_the_request_that_was_asked_about() -> None:
    async with asked_world() as world:
        cookie = await cookie_of(world, "ann")
        for name, asker in ASKERS.items():
            lines = ("X-Forwarded-For: 203.0.113.9", "X-Request-Id: asked-by-the-proxy")
            response = await ask(world.url, asker.question(world, "PUT", "/page?x=1", lines, cookie=cookie))
            assert response.one("X-Request-Id") == b"asked-by-the-proxy"
            line = world.lines(request_id="asked-by-the-proxy", path="/page")[-1]
            seen = (line["method"], line["host"], line["route"], line["decision"], line["client_ip"], line["status"])
            assert seen == ("PUT", authority(world.url), "/page", "allow", "203.0.113.9", 200), name


async def test_without_an_upstream_nothing_is_passed_on() -> None:
    alone = {"forward_auth": EVERY, "upstream": None, "routes": ROUTES}
    async with running_world(alone) as world, world.browser() as ann:
        page = await ann.sign_in(f"{world.url}/oauth2/start?rd=/page", "ann", "ann")
        assert (page.url, page.status) == (f"{world.url}/page", 404)
        cookie = ann.cookies.header(world.url)
        for target in ("/page", "/what/no/route/names"):
            assert (await ask(world.url, ASKERS["nginx"].question(world, "GET", target, cookie=cookie))).status == 200
            assert (await ask(world.url, ASKERS["nginx"].question(world, "GET", target))).status == 401


async def test_what_is_not_enabled_is_not_there() -> None:
    async with asked_world({"forward_auth": {"dialects": ["nginx"]}}) as world:
        for path in ("/oauth2/authz/forward", "/oauth2/authz/envoy/page", "/oauth2/auth", "/oauth2/authz/nginx/"):
            assert (await ask(world.url, message(world.url, f"GET {path}", *ASKERS["forward"].words[2:]))).status == 404
        assert (await ask(world.url, ASKERS["nginx"].question(world, "GET", "/public/x"))).status == 200


async def test_f201_the_sign_in_page_leads_back_to_what_a_trusted_proxy_names() -> None:
    said = {"X-Auth-Request-Redirect": "/page?a=b"}
    for trusted, back in ((["127.0.0.0/8"], "/page%3Fa%3Db"), (["192.0.2.0/24"], "/")):
        async with asked_world({"forward_auth": {"trusted_proxies": trusted}}) as world, world.browser() as ann:
            page = await ann.navigate(f"{world.url}/oauth2/sign_in", headers=said)
            assert page.status == 401
            assert dict(page.links)["Sign in"] == f"/oauth2/start?rd={world.url}{back}"
            page = await ann.navigate(f"{world.url}/oauth2/sign_in?rd=/other", headers=said)
            assert dict(page.links)["Sign in"] == f"/oauth2/start?rd={world.url}/other"
            page = await ann.navigate(f"{world.url}/oauth2/sign_in?rd=https://evil.test/", headers=said)
            assert dict(page.links)["Sign in"] == f"/oauth2/start?rd={world.url}/"
            program = await ann.fetch(f"{world.url}/oauth2/sign_in", headers=said)
            assert (program.status, program.json()["login_url"]) == (401, f"{world.url}/oauth2/start")


async def test_each_of_several_origins_is_signed_in_to_by_itself() -> None:
    port = free_port()
    first, second = f"http://127.0.0.1:{port}", f"http://app.localhost:{port}"
    change = {"public_url": [first, second], "listen": {"address": f"127.0.0.1:{port}"}}
    client = {"redirect_uris": (f"{first}/oauth2/callback", f"{second}/oauth2/callback")}
    async with running_world(merged(CONFIG, change), client=client) as world:
        asker = ASKERS["forward"]
        async with world.browser() as ann:
            page = await ann.sign_in(f"{second}/oauth2/start?rd=/page", "ann", "ann")
            assert page.url == f"{second}/page"
            cookie = ann.cookies.header(second)

        async def answer(origin: str, given: str) -> Response:
            question = asker.question(world, "GET", "/page", BROWSER[0], cookie=given, host=authority(origin))
            return await ask(first, question)

        assert (await answer(second, cookie)).status == 200
        for origin, given in ((first, cookie), (first, ""), (second, "")):
            response = await answer(origin, given)
            assert response.status == 302
            assert response.one("Location").decode() == f"{origin}/oauth2/start?rd={origin}/page"
