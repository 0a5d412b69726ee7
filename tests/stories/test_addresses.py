"""The visitor is sent to addresses that there are, and other sites send nothing through the visitor's browser."""

from __future__ import annotations

import pytest

from tests.stories.proxied import ann, answer, get, world_with
from tests.wire import authority

STRIPPED = [{"path": "/api/", "auth": "none", "strip_prefix": "/api"}, {"path": "/", "auth": "none"}]
MOVED = [{"path": "/old/", "auth": "none", "rewrite": "/new/"}]

# ── F230, BR-10: Location and cookies ──


@pytest.mark.parametrize(
    ("location", "seen"),
    [
        ("{backend}/x?y=%2F#z", "{public}/x?y=%2F#z"),
        ("{backend}", "{public}"),
        ("//{authority}/x", "{public}/x"),
        ("http://app.internal:8080/x", "{public}/x"),
        ("{backend}.evil.test/x", "{backend}.evil.test/x"),
        ("{backend}1/x", "{backend}1/x"),
        ("{backend}@evil.test/x", "{backend}@evil.test/x"),
        ("https://elsewhere.test/{backend}/", "https://elsewhere.test/{backend}/"),
        ("/x", "/x"),
        ("x", "x"),
        ("{public}/x", "{public}/x"),
    ],
)
async def test_f230_br10_a_redirect_to_the_backend_itself_leads_to_the_public_address(location: str, seen: str) -> None:
    config = {"upstream": {"internal_urls": ["http://app.internal:8080"]}}
    async with world_with(config) as (world, backend):
        words = {"backend": backend.url, "authority": authority(backend.url), "public": world.url}
        for status in ("302 Found", "303 See Other", "308 Permanent Redirect", "201 Created"):
            backend.answer = answer(f"Location: {location.format(**words)}", status=status)
            assert (await get(world)).one("Location").decode() == seen.format(**words)


async def test_f230_content_location_and_refresh_follow() -> None:
    async with world_with() as (world, backend):
        fields = [f"Content-Location: {backend.url}/x", f"Refresh: 5; url={backend.url}/y", f"X-Theirs: {backend.url}"]
        backend.answer = answer(*fields, status="301 Moved")
        response = await get(world)
        assert response.one("Content-Location").decode() == f"{world.url}/x"
        assert response.one("Refresh").decode() == f"5; url={world.url}/y"
        assert response.one("X-Theirs").decode() == backend.url


@pytest.mark.parametrize(
    ("asked", "location", "seen"),
    [
        ("/api/x", "/login?next=/x", "/api/login?next=/x"),
        ("/api/x", "/api/login", "/api/login"),
        ("/api/x", "{backend}/login", "{public}/api/login"),
        ("/api/x", "{public}/other", "{public}/other"),
        ("/api/x", "login", "login"),
        ("/y", "/login", "/login"),
        ("/y", "{backend}/login", "{public}/login"),
        ("/old/x", "/new/login", "/old/login"),
        ("/old/x", "{backend}/new/login", "{public}/old/login"),
        ("/old/x", "/other", "/other"),
    ],
)
async def test_f230_the_prefix_is_put_back(asked: str, location: str, seen: str) -> None:
    async with world_with({"routes": MOVED + STRIPPED}) as (world, backend):
        words = {"backend": backend.url, "public": world.url}
        backend.answer = answer(f"Location: {location.format(**words)}", status="302 Found")
        response = await get(world, line=f"GET {asked}")
        assert response.one("Location").decode() == seen.format(**words)


async def test_f230_it_can_be_switched_off() -> None:
    config = {"upstream": {"rewrite_location": False}, "routes": STRIPPED}
    async with world_with(config) as (world, backend):
        for location in (f"{backend.url}/x", "/login"):
            backend.answer = answer(f"Location: {location}", status="302 Found")
            assert (await get(world, line="GET /api/x")).one("Location").decode() == location


COOKIES = ["a=1; Path=/; HttpOnly", "b=2; Domain=127.0.0.1; Path=/x", "c=3; Domain=other.test", "__Host-d=4; Path=/"]


@pytest.mark.parametrize(
    ("settings", "seen"),
    [
        ({}, COOKIES),
        (
            {"rewrite_cookie_path": True},
            ["a=1; Path=/api; HttpOnly", "b=2; Domain=127.0.0.1; Path=/api/x", *COOKIES[2:]],
        ),
        ({"rewrite_cookie_domain": True}, [COOKIES[0], "b=2; Path=/x", *COOKIES[2:]]),
        (
            {"rewrite_cookie_path": True, "rewrite_cookie_domain": True},
            ["a=1; Path=/api; HttpOnly", "b=2; Path=/api/x", *COOKIES[2:]],
        ),
    ],
)
async def test_f230_br10_cookies_are_changed_where_that_is_asked_for(
    settings: dict[str, bool], seen: list[str]
) -> None:
    async with world_with({"upstream": settings, "routes": STRIPPED}) as (world, backend):
        backend.answer = answer(*(f"Set-Cookie: {cookie}" for cookie in COOKIES))
        response = await get(world, line="GET /api/x")
        assert [cookie.decode() for cookie in response.all("Set-Cookie")] == seen


async def test_f230_a_cookie_of_our_name_does_not_come_through_by_being_rewritten() -> None:
    both = {"rewrite_cookie_path": True, "rewrite_cookie_domain": True}
    async with world_with({"upstream": both, "routes": STRIPPED}) as (world, backend):
        backend.answer = answer("Set-Cookie: oidc_proxy=evil; Domain=127.0.0.1; Path=/")
        assert not (await get(world, line="GET /api/x")).all("Set-Cookie")


# ── BR-4: requests of other sites ──


async def test_br4_another_site_changes_nothing_with_anns_cookie() -> None:
    routes = [
        {"path": "/forms/", "cross_site": "refuse", "allowed_origins": ["https://friend.test"]},
        {"path": "/free/"},
    ]
    async with world_with({"routes": routes}) as (world, backend):
        cookie = await ann(world)
        backend.seen.clear()
        refused = [
            ["Sec-Fetch-Site: same-site", "Origin: https://sibling.example.com"],
            ["Sec-Fetch-Site: cross-site", "Origin: https://evil.test"],
            ["Origin: null"],
            ["Origin: https://friend.test.evil.test"],
            [],
        ]
        for fields in refused:
            for method in ("POST", "PUT", "DELETE", "PATCH"):
                response = await get(world, *fields, line=f"{method} /forms/x", cookie=cookie, body=b"a=b")
                assert response.status == 403, fields
                assert b"cross_site" in response.body
        assert not backend.seen
        passing = [
            ["Sec-Fetch-Site: same-origin", f"Origin: {world.url}"],
            ["Sec-Fetch-Site: none"],
            [f"Origin: {world.url}"],
            ["Sec-Fetch-Site: cross-site", "Origin: https://friend.test"],
        ]
        for fields in passing:
            response = await get(world, *fields, line="POST /forms/x", cookie=cookie, body=b"a=b")
            assert response.status == 200, fields
        evil = ["Sec-Fetch-Site: cross-site", "Origin: https://evil.test"]
        assert (await get(world, *evil, line="GET /forms/x", cookie=cookie)).status == 200, "links still work"
        assert (await get(world, *evil, line="POST /free/x", cookie=cookie, body=b"a=b")).status == 200


async def test_br4_the_sender_is_looked_at_before_the_session() -> None:
    async with world_with({"routes": [{"path": "/forms/", "cross_site": "refuse"}]}) as (world, backend):
        assert (await get(world, "Origin: https://evil.test", line="POST /forms/x", body=b"a")).status == 403
        assert (await get(world, f"Origin: {world.url}", line="POST /forms/x", body=b"a")).status == 401
        assert backend.connections == 0
        assert world.lines(event="request.failed") == []
