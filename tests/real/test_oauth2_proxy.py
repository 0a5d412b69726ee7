"""nginx as it was set up for oauth2-proxy asks us instead: in its files, only addresses, ports and paths are changed.

It speaks TLS on port 443, as there, at an address of this machine's that nobody else uses; its name leads there.
"""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from oidc_proxy.config.oauth2_proxy import convert, read
from oidc_proxy.demo.directory import ANN
from tests.real.fronts import FRONTS, Front
from tests.real.parts import Unavailable
from tests.real.redis import RedisSentinels, RedisServer
from tests.real.test_forward_auth import DEEP, Ingress, ingress, words_of
from tests.stories.tls import certificate, client_context
from tests.wire import Line, Response, message
from tests.world import Browser

CORPUS = Path(__file__).parents[1] / "corpus"
HOST = "app.example.com"
URL = f"https://{HOST}"


def address() -> str:
    """A loopback address on which nobody listens on port 443.

    :raises Unavailable: it takes an administrator to listen there
    """
    while True:
        found = f"127.{random.randint(1, 254)}.{random.randint(1, 254)}.{random.randint(1, 254)}"
        with socket.socket() as probe:
            try:
                probe.bind((found, 443))
            except PermissionError:
                raise Unavailable("it is not for this user") from None
            except OSError:
                continue
        return found


@dataclass
class Site:
    """The site of the files, at its address."""

    it: Ingress
    home: str

    def browser(self) -> Browser:
        return Browser(clock=self.it.world.clock, ssl_context=client_context(), address=self.home)

    async def ask(self, line: str, *lines: str, cookie: str = "") -> Response:
        secured = {"ssl": client_context(), "server_hostname": HOST}
        reader, writer = await asyncio.open_connection(self.home, 443, **secured)
        try:
            connection = Line(reader, writer)
            await connection.send(message(URL, line, *lines, cookie=cookie))
            return await connection.response()
        finally:
            writer.close()


Open = Callable[..., Any]


@pytest.fixture
def site(real_part: Any, tmp_path: Path) -> Open:
    """Opens the site with one of the files of nginx, and a configuration of ours."""
    front: Front = real_part("nginx", FRONTS["nginx"])
    home = str(real_part("port 443", address))

    def replaced(port: int) -> dict[str, str]:
        """The second address is the one that the test waits for."""
        usual = {old: new for old, new in front.replaced(port).items() if old in {"events {}", "\nhttp {"}}
        return {**usual, "listen 443 ssl;": f"listen {home}:443 ssl; listen 127.0.0.1:{port};", "/etc/nginx/tls": "."}

    @asynccontextmanager
    async def opened(file: str, config: Mapping[str, Any]) -> AsyncIterator[Site]:
        for name, text in zip(("tls.crt", "tls.key"), certificate(), strict=True):
            (tmp_path / name).write_text(text)
        nginx = replace(front, file=file, folder=CORPUS, replaced=replaced)
        async with ingress(nginx, tmp_path, config, URL) as it:
            yield Site(it, home)

    return opened


async def test_f201_nginx_needs_no_change_where_oauth2_proxy_was(site: Open) -> None:
    config = {"forward_auth": {"dialects": ["oauth2_proxy"], "trusted_proxies": ["127.0.0.1/32"]}, "routes": []}
    async with site("oauth2-proxy.conf", config) as it, it.browser() as ann:
        page = await ann.navigate(f"{URL}{DEEP}")
        assert page.status == 403, "nginx was told to say so"
        form = await ann.click(page, "Sign in")
        assert (await ann.fill_sign_in(form, "ann", "ann")).url == f"{URL}{DEEP}"
        said = words_of(it.it.reached[-1])
        assert (said["x-user"], said["x-email"]) == (ANN.sub, "ann@example.test")
        assert said["x-access-token"].startswith("ey")
        await ann.navigate(f"{URL}/oauth2/sign_out", initiator=f"{URL}/")
        assert (await ann.navigate(f"{URL}/echo")).status == 403
        assert (await ann.fetch(f"{URL}/echo")).status == 403
        assert len(it.it.reached) == 1
        for lie in ("X-Auth-Request-Redirect: https://evil.test/", "X-Auth-Request-Redirect: /x"):
            response = await it.ask("GET /echo?mine", lie, "Accept: text/html")
            assert b"evil" not in response.body
            assert b"/echo%3Fmine" in response.body


@pytest.fixture
def redis_sentinels(redis_server: RedisServer) -> Iterator[RedisSentinels]:
    """Redis behind Sentinels; the other fixture says whether there is a Redis at all."""
    sentinels = RedisSentinels.launch()
    yield sentinels
    sentinels.close()


@pytest.mark.parametrize(("file", "refused"), [("oauth2-proxy.conf", 403), ("oauth2-proxy-7.15.conf", 302)])
async def test_what_is_imported_from_oauth2_proxy_works_behind_its_nginx(
    site: Open, file: str, refused: int, redis_sentinels: RedisSentinels
) -> None:
    """Redis behind Sentinels, open paths, groups, domains: only addresses and secrets are those of the test."""
    text = (CORPUS / "oauth2_proxy" / "nginx.cfg").read_text()
    draft = convert(read(text), forwarded_uri=True)
    config = yaml.safe_load(draft.yaml())
    assert config["public_url"] == URL
    del config["admin"], config["listen"]["address"]
    config["provider"] = {"scopes": config["provider"]["scopes"]}
    config["store"]["sentinel"]["addresses"] = redis_sentinels.addresses
    del config["store"]["password"], config["store"]["sentinel"]["password"]
    async with site(file, config) as it, it.browser() as ann, it.browser() as eve:
        deep = DEEP if refused == 403 else "/echo/deeper?a=b"  # what 7.15 redirects to is not encoded
        form = await ann.click(await ann.navigate(f"{URL}{deep}"), "Sign in")
        assert (await ann.fill_sign_in(form, "ann", "ann")).url == f"{URL}{deep}"
        said = words_of(it.it.reached[-1])
        assert (said["x-user"], said["x-email"]) == (ANN.sub, "ann@example.test")
        assert said["x-access-token"].startswith("ey")
        assert "_example=" in ann.cookies.header(URL)
        assert {entry.key.split(b":")[0] for entry in await redis_sentinels.master().dump_all()} == {b"oidc_proxy"}
        reached = len(it.it.reached)
        form = await eve.click(await eve.navigate(f"{URL}/echo"), "Sign in")
        assert (await eve.fill_sign_in(form, "eve", "eve")).status == 403
        for line in ("GET /echo", "GET /healthy", "GET /private", "GET /public/../echo", "GET /echo?/public/"):
            response = await it.ask(line, "X-Forwarded-Uri: /public/x", "X-Original-URI: /public/x")
            assert response.status == (403 if ".." in line else refused), line  # what reads in two ways is nobody's
        assert len(it.it.reached) == reached
        for target in ("/public/x", "/health"):
            response = await it.ask(f"GET {target}", "X-Auth-Request-User: evil", "X-User: evil")
            assert response.status in {200, 404}, "the application has answered"
            assert words_of(it.it.reached[-1]).get("x-user", "") == ""
        cookie = ann.cookies.header(URL)
        assert (await it.ask("GET /echo", cookie=cookie)).status == 200
        await ann.navigate(f"{URL}/oauth2/sign_out", initiator=f"{URL}/")
        assert (await it.ask("GET /echo", cookie=cookie)).status == refused
