"""Mallory writes her own headers. What the backend gets says who she is, and nothing that she says of herself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from urllib.parse import urljoin

import pytest

from oidc_proxy.demo.faults import Faults, having
from oidc_proxy.messages import forwarded_element
from tests.gateway import World, merged, running_world
from tests.wire import Recorder, Response, ask, authority, connected, folded, message, recorder

EVIL = "mallory-says"
ROUTES = [{"path": "/public/", "auth": "none"}, {"path": "/optional/", "auth": "optional"}]
IDENTITY = {
    "X-Forwarded-User": "user",
    "X-Forwarded-Email": "email",
    "X-Forwarded-Preferred-Username": "preferred_username",
    "X-Forwarded-Groups": "groups",
    "X-Auth-User": "user",
}
ANNOUNCED = {
    "x-forwarded-user": None,  # the subject, which the provider chooses
    "x-forwarded-email": b"ann@example.test",
    "x-forwarded-preferred-username": b"ann",
    "x-forwarded-groups": b"/staff/ops,role:app:admin,role:account:view-profile,role:default-roles-demo,role:staff",
    "x-auth-user": None,
    "authorization": None,
}
WHERE = [("/public/x", True), ("/public/x", False), ("/optional/x", True), ("/optional/x", False), ("/x", True)]
"""Paths, and whether Ann is signed in when she asks for them."""

ALWAYS = {"host", "x-forwarded-host", "x-forwarded-proto", "x-forwarded-port", "x-forwarded-for"}
ALWAYS |= {"forwarded", "x-request-id"}


@asynccontextmanager
async def ann_signed_in(config: dict[str, Any] | None = None) -> AsyncIterator[tuple[World, Recorder, str]]:
    """The world with a recording backend, and the Cookie header with Ann's session."""
    async with recorder() as backend:
        usual = {"upstream": {"url": backend.url}, "routes": ROUTES, "identity": {"headers": IDENTITY}}
        async with running_world(merged(usual, config or {})) as world, world.browser() as ann:
            assert (await ann.sign_in(f"{world.url}/x", "ann", "ann")).status == 200
            backend.seen.clear()
            yield world, backend, f"oidc_proxy={ann.cookies.get('oidc_proxy')}"


async def sent(world: World, path: str, cookie: str, *fields: str | bytes) -> Response:
    return await ask(world.url, message(world.url, f"GET {path}", *fields, cookie=cookie))


def announced(backend: Recorder) -> dict[str, list[bytes]]:
    """Who the backend was told it is: the values of every header that could say so, by its careless name."""
    request = backend.last()
    said: dict[str, list[bytes]] = {}
    for name, (_, value) in zip(folded(request.headers), request.headers, strict=True):
        if name in ANNOUNCED:
            said.setdefault(name, []).append(value)
    return said


def is_ann(said: dict[str, list[bytes]]) -> bool:
    return said.keys() == ANNOUNCED.keys() and all(
        len(values) == 1 and (ANNOUNCED[name] is None or set(values[0].split(b",")) == set(ANNOUNCED[name].split(b",")))
        for name, values in said.items()
    )


SPOOFS: list[tuple[str, list[str | bytes]]] = [
    ("HD-1 plain", [f"X-Auth-User: {EVIL}"]),
    ("HD-1 lower case", [f"x-auth-user: {EVIL}"]),
    ("HD-1 upper case", [f"X-AUTH-USER: {EVIL}"]),
    ("HD-1 twice", [f"X-Auth-User: {EVIL}", f"X-Forwarded-User: {EVIL}", f"x-forwarded-USER: {EVIL}"]),
    ("HD-2 underscores", [f"X_Auth_User: {EVIL}", f"X-Auth_User: {EVIL}", f"x_forwarded_email: {EVIL}"]),
    ("HD-2 dots", [f"X.Auth.User: {EVIL}", f"X.Forwarded.Groups: {EVIL}"]),
    ("HD-2 other token characters", [f"X!Auth~User: {EVIL}", f"X|Forwarded^User: {EVIL}", f"X'Auth*User: {EVIL}"]),
    ("HD-6 nominated", ["Connection: close, X-Auth-User, X-Forwarded-User", f"X-Auth-User: {EVIL}"]),
    ("HD-6 nominated in two lines", ["Connection: x-forwarded-groups", "Connection: X-AUTH-USER,x-forwarded-email"]),
    ("HD-6 the bearer", ["Connection: Authorization, X-Forwarded-For, X-Forwarded-Preferred-Username, Host"]),
    ("HD-8 hop by hop", [f"Keep-Alive: {EVIL}", f"Proxy-Connection: {EVIL}", f"Proxy-Authorization: {EVIL}"]),
    ("HD-8 TE and Trailer", [f"TE: trailers, {EVIL}", f"Trailer: X-Auth-User, {EVIL}"]),
    ("HD-20 a group before ours", [f"X-Forwarded-Groups: {EVIL}"]),
    ("HD-21 the user by other names", [f"X-Auth-Request-User: {EVIL}", f"X-Auth-Request-Email: {EVIL}"]),
    ("HD-21 CGI", [f"REMOTE_USER: {EVIL}", f"X-Remote-User: {EVIL}", f"X_Remote_Email: {EVIL}"]),
    ("HD-21 tokens", [f"X-Forwarded-Access-Token: {EVIL}", f"X-Access-Token: {EVIL}", f"X-Id-Token: {EVIL}"]),
    ("HD-1 the bearer", [f"Authorization: Bearer {EVIL}", f"authorization: Basic {EVIL}"]),
    ("FW-1 addresses", [f"X-Forwarded-For: {EVIL}", f"X-Real-IP: {EVIL}", f"Forwarded: for={EVIL}"]),
    ("FW-1 addresses of vendors", [f"True-Client-IP: {EVIL}", f"CF-Connecting-IP: {EVIL}", f"X-Client-IP: {EVIL}"]),
    ("FW-1 more of them", [f"X-Cluster-Client-IP: {EVIL}", f"Fastly-Client-IP: {EVIL}", f"x_real_ip: {EVIL}"]),
    ("FW-2 the origin", [f"X-Forwarded-Host: {EVIL}", f"X-Forwarded-Proto: {EVIL}", "X-Forwarded-Port: 1"]),
    ("FW-2 the rest", [f"X-Forwarded-Server: {EVIL}", f"X-Forwarded-Prefix: /{EVIL}", f"X-Forwarded-Uri: /{EVIL}"]),
    ("FW-4 quoting", [f'Forwarded: for="_{EVIL}\\"; proto=https", for=1.2.3.4', f"Forwarded: host={EVIL}"]),
    ("FW-4 two lines", [f"X-Forwarded-For: {EVIL}", "X-Forwarded-For: 127.0.0.1"]),
    ("PA-18 another path", [f"X-Original-URL: /{EVIL}", f"X-Rewrite-URL: /{EVIL}", f"X-Original-Uri: /{EVIL}"]),
    ("PA-18 another method", [f"X-Original-Method: {EVIL}", f"X-Original-Host: {EVIL}"]),
    ("PA-19 override", [f"X-HTTP-Method-Override: {EVIL}", f"X-Method-Override: {EVIL}", f"X_HTTP_Method: {EVIL}"]),
    ("F221 an id of hers", [f"X-Request-Id: {EVIL}", f"X_Request_Id: {EVIL}"]),
]  # fmt: skip


@pytest.mark.parametrize(("row", "fields"), SPOOFS, ids=[row for row, _ in SPOOFS])
async def test_what_a_client_says_of_itself_does_not_reach_the_backend(row: str, fields: list[str | bytes]) -> None:
    async with ann_signed_in() as (world, backend, cookie):
        for path, signed_in in WHERE:
            response = await sent(world, path, cookie if signed_in else "", *fields)
            assert response.status == 200, (row, path)
            request = backend.last()
            assert EVIL.encode() not in request.raw, (row, path, request.raw)
            if signed_in and not path.startswith("/public/"):
                assert is_ann(announced(backend)), (row, path, announced(backend))
            else:
                assert announced(backend) == {}, (row, path)
            names = folded(request.headers)
            assert len(names) == len(set(names)), names
            assert set(names) - ANNOUNCED.keys() == ALWAYS, names
        assert len(backend.seen) == len(WHERE)


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ("HD-3 a space before the colon", b"X-Auth-User : evil"),
        ("HD-3 a tab before the colon", b"X-Auth-User\t: evil"),
        ("HD-4 a long s", "X-Auth-Uſer: evil".encode()),
        ("HD-4 a Kelvin sign", "X-Auth-\u212aser: evil".encode()),
        ("HD-4 Latin-1", b"X-Auth-Us\xe9r: evil"),
        ("HD-5 a folded line", b"X-A: 1\r\n X-Auth-User: evil"),
        ("SM-9 a bare line feed", b"X-A: 1\nX-Auth-User: evil"),
        ("SM-9 a bare carriage return", b"X-A: 1\rX-Auth-User: evil"),
        ("SM-9 NUL", b"X-A: 1\0X-Auth-User: evil"),
        ("SM-9 no name", b": evil"),
        ("SM-9 no colon", b"X-Auth-User evil"),
    ],
)
async def test_malformed_headers_are_refused_whole(row: str, field: bytes) -> None:
    async with ann_signed_in() as (world, backend, cookie):
        for path, _ in WHERE:
            async with connected(world.url) as line:
                await line.send(message(world.url, f"GET {path}", field, cookie=cookie))
                assert (await line.response()).status == 400, (row, path)
                assert await line.ended() == b"", "the connection closes after it (PX-30)"
        assert not backend.seen
        assert not backend.malformed


async def test_hd10_sm8_trailers_are_dropped() -> None:
    async with ann_signed_in() as (world, backend, cookie):
        data = message(world.url, "POST /x", "Transfer-Encoding: chunked", "Trailer: X-Auth-User", cookie=cookie)
        data += f"2\r\nhi\r\n0\r\nX-Auth-User: {EVIL}\r\nX-Forwarded-User: {EVIL}\r\nX-Other: {EVIL}\r\n\r\n".encode()
        assert (await ask(world.url, data)).status == 200
        assert EVIL.encode() not in backend.last().raw
        assert backend.last().body == b"hi"
        assert is_ann(announced(backend))


async def test_hd9_a_claim_that_is_not_there_leaves_no_room_for_the_clients_own() -> None:
    async with recorder() as backend, running_world({"upstream": backend.url}) as world, world.browser() as ann:
        world.provider.users["ann"] = replace(world.provider.users["ann"], email_verified=False, groups=())
        await ann.sign_in(f"{world.url}/x", "ann", "ann")
        page = await ann.get(f"{world.url}/x", X_Forwarded_Email=f"{EVIL}@example.test", x_forwarded_groups=EVIL)
        assert page.status == 200
        assert EVIL.encode() not in backend.last().raw
        assert backend.last().all("X-Forwarded-Email") == []
        assert backend.last().one("X-Forwarded-Preferred-Username") == b"ann"


# ── cookies ──


@pytest.mark.parametrize("path", ["/public/x", "/optional/x", "/x"])
async def test_hd12_our_cookies_stay_here_and_the_others_go_on_byte_for_byte(path: str) -> None:
    async with ann_signed_in() as (world, backend, cookie):
        value = cookie.partition("=")[2]
        others = [b"a=1;b=2", b'lang=\xc3\xa9\xe9; quoted="x y"', b"=odd; ;; alone"]
        for other in others:
            for line in (
                cookie.encode() + b"; " + other,
                other + b"; " + cookie.encode(),
                other + b"; oidc_proxy_login_AbC=123.xyz; " + cookie.encode(),
                other + b";" + cookie.encode() + b";OIDC_PROXY_login_x=" + value.encode(),
            ):
                assert (await sent(world, path, "", b"Cookie: " + line)).status == 200
                got = backend.last().all("Cookie")
                assert [part.strip(b" ") for part in got] == [other.strip(b" ")], line
                assert value.encode() not in backend.last().raw
        assert (await sent(world, path, cookie)).status == 200
        assert backend.last().all("Cookie") == []


SPELLINGS = [
    b"{}=v", b"{}=v; Path=/; HttpOnly", b"  {}=v", b"\t{}=v", b"{}_login_abc=v; Path=/", b"{}", b"{}=",
]  # fmt: skip
TRICKY = [
    pytest.param(b"{} =v", id="a space before the equals sign"),
    pytest.param(b"{}\t=v", id="a tab before the equals sign"),
    pytest.param(b"={}=v", id="no name, and ours in its value"),
    pytest.param(b" = {}=v", id="no name with spaces"),
]


@pytest.mark.parametrize("spelling", [*SPELLINGS, *TRICKY])
@pytest.mark.parametrize("name", [b"oidc_proxy", b"OIDC_Proxy"])
async def test_hd13_a_backend_cannot_set_our_cookies(spelling: bytes, name: bytes) -> None:
    """6265bis §5.6: browsers trim white space around names, and send a cookie without a name as its bare value."""
    async with ann_signed_in() as (world, backend, cookie):
        line = spelling.replace(b"{}", name)
        kept = [b"theirs=1; Path=/", b"oidc_proxy2=x", b"my_oidc_proxy=y"]
        lines = b"".join(b"Set-Cookie: " + one + b"\r\n" for one in (kept[0], line, *kept[1:]))
        backend.answer = b"HTTP/1.1 200 OK\r\n" + lines + b"Content-Length: 0\r\n\r\n"
        for path in ("/public/x", "/optional/x", "/x"):
            assert (await sent(world, path, cookie)).all("Set-Cookie") == kept, path


@pytest.mark.parametrize("spelling", TRICKY[:2])
async def test_hd12_odd_spellings_of_our_cookies_stay_here_as_well(spelling: bytes) -> None:
    async with ann_signed_in() as (world, backend, cookie):
        name, _, value = cookie.partition("=")
        line = spelling.replace(b"{}", name.encode()).replace(b"=v", b"=" + value.encode())
        assert (await sent(world, "/public/x", "", b"Cookie: theirs=1; " + line)).status == 200
        assert value.encode() not in backend.last().raw
        assert backend.last().all("Cookie") == [b"theirs=1"]


async def test_px36_our_cookies_are_on_no_answer_of_the_backend() -> None:
    async with ann_signed_in() as (world, _, cookie):
        for path in ("/x", "/optional/x", "/public/x"):
            assert (await sent(world, path, cookie)).all("Set-Cookie") == []


# ── what a backend says of the user ──


async def test_hd11_the_backend_cannot_tell_the_browser_who_the_user_is() -> None:
    async with ann_signed_in() as (world, backend, cookie):
        said = [f"{name}: {EVIL}" for name in (*IDENTITY, "x_auth_user", "X-FORWARDED-EMAIL")]
        lines = "\r\n".join([*said, "X-Other: kept", "Content-Length: 0"])
        backend.answer = f"HTTP/1.1 200 OK\r\n{lines}\r\n\r\n".encode()
        for path in ("/public/x", "/optional/x", "/x"):
            response = await sent(world, path, cookie)
            assert EVIL not in repr(response.headers), path
            assert response.one("X-Other") == b"kept"


async def test_hd11_a_token_that_the_backend_repeats_does_not_reach_the_browser() -> None:
    async with ann_signed_in() as (world, backend, cookie):

        def mirror(request: Any) -> bytes:
            return (
                b"HTTP/1.1 200 OK\r\nAuthorization: " + request.one("Authorization") + b"\r\nContent-Length: 0\r\n\r\n"
            )

        backend.answer = mirror
        response = await sent(world, "/x", cookie)
        assert response.status == 200
        assert response.all("Authorization") == []


# ── claims ──


async def signs_in_with(claims: dict[str, Any], config: dict[str, Any] | None = None) -> tuple[int, Any, World]:
    """Status of Ann's first page when the provider says this of her, what the backend got, and the world."""
    async with (
        recorder() as backend,
        running_world(merged({"upstream": backend.url}, config or {})) as world,
        world.browser() as ann,
    ):
        world.provider.faults = Faults(id_token_claims=having(**claims), userinfo_claims=having(**claims))
        page = await ann.sign_in(f"{world.url}/x", "ann", "ann")
        return page.status, backend.seen[-1] if backend.seen else None, world


async def test_hd14_a_comma_in_a_group_does_not_make_two_groups() -> None:
    status, request, _ = await signs_in_with({"groups": ["x,admin", "role:root", "100%"]})
    assert status == 200
    groups = request.one("X-Forwarded-Groups").split(b",")
    assert b"x%2Cadmin" in groups
    assert b"admin" not in groups
    assert b"role:root" not in groups
    assert b"100%25" in groups


@pytest.mark.parametrize(
    "name", ["admin ", "\tadmin", " admin", "a\r\nX-Forwarded-User: b", "a\0b", "a\x7fb", "a\u2028b"]
)
async def test_hd15_hd16_a_name_that_no_header_can_carry_is_refused_at_the_callback(name: str) -> None:
    status, request, world = await signs_in_with({"preferred_username": name})
    assert status == 403
    assert request is None
    (line,) = world.lines(event="login.failed")
    assert line["code"] == "identity_unusable"
    assert "X-Forwarded-Preferred-Username" in line["reason"]


@pytest.mark.parametrize("name", ["ａdmin", "adm\u200bin", "Zoë", "名前", "é,è"])
@pytest.mark.parametrize("encoding", ["percent", "utf8"])
async def test_hd15_look_alikes_arrive_as_what_they_are(name: str, encoding: str) -> None:
    from urllib.parse import unquote_to_bytes

    status, request, _ = await signs_in_with({"preferred_username": name}, {"identity": {"encoding": encoding}})
    assert status == 200
    got = request.one("X-Forwarded-Preferred-Username")
    assert (unquote_to_bytes(got) if encoding == "percent" else got) == name.encode()
    assert got != b"admin"


@pytest.mark.parametrize("value", [{"name": EVIL}, [[EVIL]], True, None, [{"a": EVIL}]])
async def test_hd17_claims_of_other_kinds_are_left_out(value: object) -> None:
    claims = {"preferred_username": value, "email": value, "groups": value}
    status, request, _ = await signs_in_with(claims, {"identity": {"roles_from_access_token": False}})
    assert status == 200
    assert EVIL.encode() not in request.raw
    assert request.all("X-Forwarded-Preferred-Username") == request.all("X-Forwarded-Email") == []
    assert request.all("X-Forwarded-Groups") == []


@pytest.mark.parametrize(("oversize", "status"), [("refuse", 403), ("omit", 200)])
async def test_hd18_too_many_groups_are_never_cut_off(oversize: str, status: int) -> None:
    groups = {"groups": [f"/team/{number:04}/{'x' * 20}" for number in range(300)]}
    got, request, _ = await signs_in_with(groups, {"identity": {"oversize": oversize}})
    assert got == status
    assert request is None or request.all("X-Forwarded-Groups") == []


@pytest.mark.parametrize("verified", ["true", 1, None, False])
async def test_hd19_an_email_counts_only_if_the_provider_says_true(verified: object) -> None:
    status, request, world = await signs_in_with({"email": "boss@example.test", "email_verified": verified})
    assert status == 200
    assert request.all("X-Forwarded-Email") == []
    assert request.one("X-Forwarded-User").decode() == world.provider.users["ann"].sub


# ── where the request seems to come from ──


@pytest.mark.parametrize("trusted", [[], ["127.0.0.1"]], ids=["nobody is trusted", "the peer is trusted"])
async def test_fw2_nothing_of_ours_follows_forwarded_headers(trusted: list[str]) -> None:
    """Who is trusted may say for whom it asks, but not who we are: that is configured."""
    async with ann_signed_in({"listen": {"trusted_proxies": trusted}}) as (world, backend, cookie):
        lies = ["X-Forwarded-Host: evil.test", "X-Forwarded-Proto: https", "Forwarded: host=evil.test;proto=https"]
        navigation = ["Accept: text/html", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document"]
        for path, its_cookie in [("/x", ""), ("/oauth2/start", ""), ("/oauth2/sign_out", cookie)]:
            response = await sent(world, path, its_cookie, *lies, *navigation)
            assert "evil" not in repr(response), path
        response = await sent(world, "/x", "", *lies, *navigation)
        assert response.status in {302, 303}
        assert authority(world.url).replace(":", "%3A").encode() in response.one("Location")
        more = [
            "X-Forwarded-Port: 1",
            "X-Forwarded-Prefix: /evil",
            "X-Forwarded-Server: evil",
            "X-Forwarded-Scheme: evil",
        ]
        assert (await sent(world, "/x", cookie, *lies, *more)).status == 200
        assert b"evil" not in backend.last().raw
        assert backend.last().one("X-Forwarded-Proto") == b"http"
        assert backend.last().one("X-Forwarded-Host").decode() == authority(world.url)


@pytest.mark.parametrize(
    ("row", "trusted", "lines", "client", "chain"),
    [
        ("FW-10 nobody is trusted by default", [], ["6.6.6.6"], "127.0.0.1", "127.0.0.1"),
        ("FW-1 not this peer", ["10.0.0.0/8"], ["6.6.6.6"], "127.0.0.1", "127.0.0.1"),
        ("FW-3 the last one", ["127.0.0.1/32"], ["6.6.6.6, 9.9.9.9"], "9.9.9.9", "9.9.9.9, 127.0.0.1"),
        ("FW-3 hops between", ["127.0.0.1", "10.0.0.0/8"], ["9.9.9.9, 10.1.2.3"], "9.9.9.9", "9.9.9.9, 127.0.0.1"),
        ("FW-4 two lines", ["127.0.0.1"], ["9.9.9.9", "7.7.7.7"], "7.7.7.7", "7.7.7.7, 127.0.0.1"),
        ("FW-3 malformed", ["127.0.0.1"], ["6.6.6.6, evil"], "127.0.0.1", "127.0.0.1"),
        ("FW-3 with a port", ["127.0.0.1"], ["6.6.6.6:80"], "127.0.0.1", "127.0.0.1"),
        ("FW-9 an inner address at the left", ["127.0.0.1"], ["10.0.0.1, 6.6.6.6"], "6.6.6.6", "6.6.6.6, 127.0.0.1"),
        ("PX-38 IPv6", ["127.0.0.1"], ["2001:db8::1"], "2001:db8::1", "2001:db8::1, 127.0.0.1"),
        ("PX-40 all trusted", ["127.0.0.1", "10.0.0.0/8"], ["10.0.0.1, 10.0.0.2"], "10.0.0.1", "10.0.0.1, 127.0.0.1"),
        ("PX-39 nothing", ["127.0.0.1"], [], "127.0.0.1", "127.0.0.1"),
    ],
)  # fmt: skip
async def test_the_clients_address_is_what_trusted_hops_vouch_for(
    row: str, trusted: list[str], lines: list[str], client: str, chain: str
) -> None:
    async with ann_signed_in({"listen": {"trusted_proxies": trusted}}) as (world, backend, cookie):
        fields = [*(f"X-Forwarded-For: {line}" for line in lines), "X-Real-IP: 10.0.0.1", "Forwarded: for=10.0.0.1"]
        assert (await sent(world, "/x", cookie, *fields)).status == 200
        assert backend.last().one("X-Forwarded-For").decode() == chain, row
        assert "x-real-ip" not in folded(backend.last().headers)
        assert backend.last().one("Forwarded").startswith(forwarded_element(client).encode() + b";host="), row
        assert world.lines(type="access")[-1]["client_ip"] == client


@pytest.mark.parametrize(
    ("row", "trusted", "said", "client"),
    [
        ("FW-1 from nobody", [], "for=9.9.9.9", "127.0.0.1"),
        ("FW-3 the last one", ["127.0.0.1"], "for=6.6.6.6, for=9.9.9.9;proto=https", "9.9.9.9"),
        ("FW-3 hops between", ["127.0.0.1", "10.0.0.0/8"], 'for=9.9.9.9, for="10.1.2.3:99"', "9.9.9.9"),
        ("FW-4 an open quote", ["127.0.0.1"], 'for=6.6.6.6;x=", for=9.9.9.9', "127.0.0.1"),
        ("FW-4 hidden", ["127.0.0.1"], "for=_hidden", "127.0.0.1"),
        ("PX-38 IPv6", ["127.0.0.1"], 'for="[2001:db8::1]"', "2001:db8::1"),
    ],
)
async def test_the_clients_address_as_forwarded_says_it(row: str, trusted: list[str], said: str, client: str) -> None:
    config = {"listen": {"trusted_proxies": trusted, "client_address_header": "Forwarded"}}
    async with ann_signed_in(config) as (world, backend, cookie):
        # The other header is the client's own: whoever writes Forwarded passes it on.
        assert (await sent(world, "/x", cookie, f"Forwarded: {said}", "X-Forwarded-For: 5.5.5.5")).status == 200
        request, host = backend.last(), authority(world.url)
        hops = [client] if client == "127.0.0.1" else [client, "127.0.0.1"]
        assert request.one("X-Forwarded-For").decode() == ", ".join(hops), row
        first, *rest = (forwarded_element(hop) for hop in hops)
        assert request.one("Forwarded").decode() == ", ".join([f'{first};host="{host}";proto=http', *rest]), row
        assert world.lines(type="access")[-1]["client_ip"] == client


async def test_f221_a_backend_that_cannot_bear_forwarded_gets_none_and_via_is_for_those_who_ask() -> None:
    async with ann_signed_in() as (world, backend, cookie):
        await sent(world, "/x", cookie, "Via: 1.0 fred")
        assert backend.last().all("Via") == [b"1.0 fred"]
    async with ann_signed_in({"upstream": {"forwarded": False, "via": True}}) as (world, backend, cookie):
        await sent(world, "/x", cookie, "Forwarded: for=6.6.6.6", "Via: 1.0 fred")
        assert not backend.last().all("Forwarded")
        assert backend.last().all("Via") == [b"1.0 fred", b"1.1 oidc_proxy"]


@pytest.mark.parametrize(
    ("trusted", "whose", "passed"),
    [
        ([], "trusted", False),
        (["127.0.0.1"], "trusted", True),
        ([], "anybody", True),
        (["127.0.0.1"], "nobody", False),
    ],
)
async def test_f239_a_trace_is_continued_for_those_who_are_believed(
    trusted: list[str], whose: str, passed: bool
) -> None:
    config = {"listen": {"trusted_proxies": trusted, "trace_context": whose}}
    fields = ["traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tracestate: a=1", "baggage: b=2"]
    async with ann_signed_in(config) as (world, backend, cookie):
        await sent(world, "/x", cookie, *fields)
        found = [b": ".join(line).decode() for line in backend.last().headers]
        assert [line for line in found if line.startswith(("trace", "baggage"))] == (fields if passed else [])


@pytest.mark.parametrize(("trusted", "address"), [([], "127.0.0.1"), (["127.0.0.1"], "6.6.6.6")])
async def test_fw9_the_audit_names_the_same_address(trusted: list[str], address: str) -> None:
    """Somebody at 6.6.6.6 says that she is at an inner address, and signs in, and is refused, and signs out."""
    config = {"listen": {"trusted_proxies": trusted}, "routes": [*ROUTES, {"path": "/ops/", "groups": ["/nobody"]}]}
    lies = {"X-Forwarded-For": "10.0.0.1, 6.6.6.6", "X-Real-IP": "10.0.0.1", "Forwarded": "for=10.0.0.1"}
    async with recorder() as backend:
        async with running_world({"upstream": {"url": backend.url}, **config}) as world, world.browser() as ann:
            page = await ann.navigate(f"{world.url}/x", headers=lies)
            form = page.forms[0]
            fields = {**form.fields, "username": "ann", "password": "ann"}
            signed_in = await ann.post(urljoin(page.url, form.action), fields)
            assert (await ann.navigate(signed_in.location, headers=lies)).status == 200
            assert (await ann.navigate(f"{world.url}/ops/", headers=lies)).status == 403
            await ann.navigate(f"{world.url}/oauth2/sign_out", headers=lies, initiator=f"{world.url}/")
            told = {line["event"]: line["client_ip"] for line in world.lines(type="audit")}
            assert {"login.succeeded", "access.denied"} <= told.keys()
            assert [event for event in told if event.startswith("logout")]
            assert set(told.values()) == {address}
            assert {line["client_ip"] for line in world.lines(type="access")} == {address}


@pytest.mark.parametrize(("trusted", "believed"), [([], False), (["127.0.0.1"], True)])
async def test_a_request_id_is_believed_from_trusted_hops_only(trusted: list[str], believed: bool) -> None:
    async with ann_signed_in({"listen": {"trusted_proxies": trusted}}) as (world, backend, cookie):
        response = await sent(world, "/x", cookie, "X-Request-Id: edge-0123456789")
        given = backend.last().one("X-Request-Id").decode()
        assert (given == "edge-0123456789") is believed
        assert response.one("X-Request-Id").decode() == given
        assert world.lines(type="access")[-1]["request_id"] == given


async def test_fw5_proxy_protocol_is_not_spoken() -> None:
    async with ann_signed_in() as (world, backend, cookie):
        for preface in (b"PROXY TCP4 6.6.6.6 127.0.0.1 1 2\r\n", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + b"\1" * 12):
            async with connected(world.url) as line:
                await line.send(preface + message(world.url, "GET /x", cookie=cookie))
                assert (await line.response()).status == 400
        assert not backend.seen


@pytest.mark.parametrize(
    "host",
    ["evil.test", "", "{}@evil.test", "evil.test@{}", "{}, evil.test", "{}.evil.test", "{}/", "127.0.0.1", "[::1]",
     "{} evil.test", "127.0.0.1:80", "localhost", "evil.test#{}", "{}\\evil.test", "127.0.0.2:80"],
)  # fmt: skip
async def test_fw6_fw7_another_host_is_turned_away(host: str) -> None:
    async with ann_signed_in() as (world, backend, cookie):
        for path in ("/public/x", "/x", "/oauth2/start"):
            field = f"Host: {host.replace('{}', authority(world.url))}"
            response = await sent(world, path, cookie, field, "Accept: text/html")
            assert response.status in {400, 421}, path
            assert b"evil" not in response.body
            assert not response.all("Set-Cookie")
            assert not response.all("Location")
        assert not backend.seen


@pytest.mark.parametrize(
    "fields", [["Host: {}", "Host: {}"], ["Host: {}", "Host: evil.test"], ["X-No-Host: 1"], ["Host : {}"]]
)
async def test_sm10_px8_exactly_one_host(fields: list[str]) -> None:
    async with ann_signed_in() as (world, backend, cookie):
        its = authority(world.url)
        lines = [b"GET /public/x HTTP/1.1", *(field.replace("{}", its).encode() for field in fields)]
        response = await ask(world.url, b"\r\n".join([*lines, f"Cookie: {cookie}".encode()]) + b"\r\n\r\n")
        assert response.status in {400, 421}
        assert not backend.seen


@pytest.mark.parametrize("spelling", ["APP.test:{}", "app.test.:{}", "App.Test.:{}", "app.test:{}"])
@pytest.mark.parametrize("kept", [True, False])
async def test_fw7_fw8_the_backend_gets_one_spelling_of_the_host(spelling: str, kept: bool) -> None:
    from tests.world import free_port

    port = free_port()
    config = {
        "public_url": f"http://app.test:{port}",
        "allow_insecure_http": True,
        "listen": {"address": f"127.0.0.1:{port}"},
        "routes": ROUTES,
    }
    async with recorder() as backend:
        config["upstream"] = {"url": backend.url, "host_header": "public" if kept else "upstream"}
        async with running_world(config):
            url = f"http://127.0.0.1:{port}"
            response = await ask(url, message(url, "GET /public/x", f"Host: {spelling.format(port)}"))
            assert response.status == 200
            request = backend.last()
            assert request.one("Host").decode() == (f"app.test:{port}" if kept else authority(backend.url))
            assert request.one("X-Forwarded-Host").decode() == f"app.test:{port}"
            assert request.one("X-Forwarded-Proto") == b"http"
            assert request.one("X-Forwarded-Port").decode() == str(port)


async def test_the_recorder_would_have_seen_it() -> None:
    """The tests above look for what is not there; this one shows that they would find it."""
    async with recorder() as backend:
        response = await ask(backend.url, message(backend.url, "GET /", f"X_Auth_User: {EVIL}"))
        assert response.status == 200
        assert EVIL.encode() in backend.last().raw
        assert folded(backend.last().headers) == ["host", "x-auth-user"]
