"""What `docker compose up` promises: the files agree with each other, and without containers they do what they say."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from yarl import URL

from tests.real.keycloak import Keycloak
from tests.real.parts import free_port
from tests.real.places import asks_for_password, headers_of
from tests.real.redis import RedisServer
from tests.serving import COMMAND, Serving
from tests.world import Backend, Browser, running_backend

TOP = Path(__file__).parent.parent.parent
FOLDER = TOP / "deploy" / "compose"
CONFIG = FOLDER / "config" / "config.yaml"
SECRET = FOLDER / "secrets" / "oidc_client_secret"
REALM = FOLDER / "keycloak" / "demo-realm.json"


def of_yaml(file: Path) -> Any:
    return yaml.safe_load(file.read_text())


def realm_document() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(REALM.read_text())
    return document


class TestTheFiles:
    """Every key means what it says, and a name that stands in two files is the same in both."""

    def test_f105_config_check_finds_no_problems(self) -> None:
        secret = f"provider.client_secret_file={SECRET}"
        command = [*COMMAND, "config", "check", str(CONFIG), "--set", secret]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stdout) == (0, f"no problems in {CONFIG}\n"), done.stderr

    def test_f105_outside_of_the_container_only_the_secret_is_missing(self) -> None:
        command = [*COMMAND, "config", "check", str(CONFIG), "--format", "json"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 78
        assert [problem["path"] for problem in json.loads(done.stdout)] == ["provider.client_secret_file"]

    def test_every_address_of_the_configuration_is_a_service_and_its_port(self) -> None:
        services, config = of_yaml(TOP / "docker-compose.yml")["services"], of_yaml(CONFIG)
        ports = {
            "keycloak": "8080",  # Keycloak's default, which no option here changes
            "valkey": "6379",  # and Valkey's
            "app": services["app"]["command"][services["app"]["command"].index("--port") + 1],
        }
        assert not [word for word in services["keycloak"]["command"] if word.startswith(("--http-port", "--port"))]
        assert not [word for word in services["valkey"]["command"] if word.startswith(("--http-port", "--port"))]
        written = (config["provider"]["internal_base_url"], config["store"]["url"], config["upstream"])
        named = {urlsplit(address).hostname: str(urlsplit(address).port) for address in written}
        assert named == ports
        assert named.keys() < services.keys()

    def test_what_browsers_see_is_what_is_published(self) -> None:
        services, config = of_yaml(TOP / "docker-compose.yml")["services"], of_yaml(CONFIG)
        issuer = URL(config["provider"]["issuer"])
        environment = services["keycloak"]["environment"]
        assert environment["KC_HOSTNAME"] == str(issuer.origin())
        assert environment["KC_HOSTNAME_BACKCHANNEL_DYNAMIC"] == "true"
        assert services["keycloak"]["ports"] == [f"127.0.0.1:{issuer.port}:8080"]
        listened = config["listen"]["address"].rpartition(":")[2]
        assert services["oidc-proxy"]["ports"] == [f"127.0.0.1:{URL(config['public_url']).port}:{listened}"]
        assert not {"app", "valkey"} & {name for name, service in services.items() if "ports" in service}

    def test_the_realm_knows_the_gateway_by_the_same_names(self) -> None:
        config, realm = of_yaml(CONFIG), realm_document()
        (client,) = realm["clients"]
        assert config["provider"]["issuer"].endswith(f"/realms/{realm['realm']}")
        assert client["clientId"] == config["provider"]["client_id"]
        assert client["secret"] == SECRET.read_text().strip()
        assert client["redirectUris"] == [f"{config['public_url']}/oauth2/callback"]
        assert client["attributes"]["post.logout.redirect.uris"] == f"{config['public_url']}/*"
        told = urlsplit(client["attributes"]["backchannel.logout.url"])
        assert told.hostname in of_yaml(TOP / "docker-compose.yml")["services"]
        assert str(told.port) == config["listen"]["address"].rpartition(":")[2]

    def test_every_mount_and_secret_is_there(self) -> None:
        compose, config = of_yaml(TOP / "docker-compose.yml"), of_yaml(CONFIG)
        gateway, keycloak = compose["services"]["oidc-proxy"], compose["services"]["keycloak"]
        mounts = dict(volume.split(":")[:2] for volume in [*gateway["volumes"], *keycloak["volumes"]])
        assert [(TOP / source).resolve() for source in mounts] == [CONFIG.parent, REALM.parent]
        found = re.search(r"OIDC_PROXY_CONFIG=(\S+)", (TOP / "Dockerfile").read_text())
        assert found is not None
        assert found[1] == f"{mounts['./deploy/compose/config']}/{CONFIG.name}"
        (name,) = gateway["secrets"]
        assert config["provider"]["client_secret_file"] == f"/run/secrets/{name}"
        assert (TOP / compose["secrets"][name]["file"]).resolve() == SECRET
        assert mounts["./deploy/compose/keycloak"] == "/opt/keycloak/data/import"
        assert "--import-realm" in keycloak["command"]

    def test_the_people_in_the_readme_are_those_of_the_realm(self) -> None:
        rows = re.findall(r"^\| (\w+) \| (\w+) \| (\S+) \|", (FOLDER / "README.md").read_text(), re.MULTILINE)
        people = [(u["username"], u["credentials"][0]["value"], *u["groups"]) for u in realm_document()["users"]]
        assert [row for row in rows if row[0] != "user"] == people


@dataclass
class Running:
    gateway: Serving
    backend: Backend
    options: list[str]
    realm: str = "demo"


def moved(value: Any, names: Iterable[tuple[str, str]]) -> Any:
    """The same document with other addresses."""
    text = json.dumps(value)
    for old, new in names:
        assert old in text, f"{old} is nowhere"
        text = text.replace(old, new)
    return json.loads(text)


@asynccontextmanager
async def composed(keycloak: Keycloak, redis_server: RedisServer, folder: Path) -> AsyncIterator[Running]:
    """The same four parts, on other ports: the configuration file itself, the realm's own file, the secret's file."""
    port, admin = free_port(), f"127.0.0.1:{free_port()}"
    url = f"http://localhost:{port}"
    addresses = [("http://localhost:4180", url), ("http://oidc-proxy:4180", url)]
    await keycloak.create_realm(moved(realm_document(), addresses))
    async with running_backend() as backend:
        changes = {
            "public_url": url,
            "listen.address": f"127.0.0.1:{port}",
            "admin.address": admin,
            "provider.issuer": keycloak.issuer("demo"),
            "provider.internal_base_url": keycloak.internal_url,
            "provider.client_secret_file": str(SECRET),
            "store.url": redis_server.url,
            "upstream": backend.url,
        }
        options = ["--config", str(CONFIG), *(word for item in changes.items() for word in ("--set", "=".join(item)))]
        gateway = Serving(["serve", *options], folder, url, f"http://{admin}")
        try:
            await gateway.start()
            yield Running(gateway, backend, options)
        finally:
            await gateway.stop()
            await keycloak.delete_realm("demo")


@pytest.mark.parametrize("name", ["ann", "bob"])
async def test_the_topology_runs_without_containers(
    keycloak: Keycloak, redis_server: RedisServer, tmp_path: Path, name: str
) -> None:
    async with composed(keycloak, redis_server, tmp_path) as running, Browser() as person:
        gateway = running.gateway
        await gateway.until("/readyz", 200)
        command = [*COMMAND, "healthcheck", *running.options]
        assert (await asyncio.to_thread(subprocess.run, command, timeout=60)).returncode == 0

        public = await person.navigate(f"{gateway.url}/public/echo")
        assert (public.status, len(public.hops)) == (200, 1)
        asked = await person.navigate(f"{gateway.url}/echo?x=1")
        assert asks_for_password(asked)
        page = await person.fill_sign_in(asked, name, name)
        seen = headers_of(page)
        assert page.json()["target"] == "/echo?x=1"
        assert seen["X-Forwarded-User"] == await keycloak.user_id("demo", name)
        assert seen["X-Forwarded-Preferred-Username"] == name
        assert seen["X-Forwarded-Email"] == f"{name}@example.test"
        listed = seen["X-Forwarded-Groups"].split(",")
        assert {"/eng/core" if name == "ann" else "/eng", "role:staff"} <= set(listed)
        assert seen["X-Forwarded-Host"] == gateway.url.removeprefix("http://")
        assert (await person.fetch(f"{gateway.url}/eng/")).status == (200 if name == "ann" else 403)

        assert [entry for entry in await redis_server.dump_all() if b"session:" in entry.key]
        left = await person.navigate(f"{gateway.url}/oauth2/sign_out", initiator=f"{gateway.url}/")
        assert left.url.startswith(f"{gateway.url}/oauth2/signed_out")
        assert not [entry for entry in await redis_server.dump_all() if b"session:" in entry.key]
        assert await keycloak.user_sessions("demo", name) == []
        assert SECRET.read_text().strip() not in gateway.log
        assert gateway.lines(event="logout.rp")
