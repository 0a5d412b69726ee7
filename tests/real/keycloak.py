"""Keycloak: the realm that tests sign in to, and the server that holds it.

`python -m tests.real.keycloak` fetches and prepares the server, so that the first test does not have to.
"""

from __future__ import annotations

import asyncio
import atexit
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import ClientResponse, ClientSession, ClientTimeout

from tests.real.parts import Container, Process, Runner, Unavailable, alone, cache_folder, docker_answers, free_port

VERSION = "26.7.5"
IMAGE = f"quay.io/keycloak/keycloak:{VERSION}"
ARTIFACT = f"org.keycloak:keycloak-quarkus-dist:{VERSION}:zip"
ARTIFACT_SHA256 = "30ef87fb7101c43d29688d1ae80c0588ff4a151b3330e9f664bf9692d398658a"
BUILD = ("build", "--db=dev-file", "--health-enabled=true")
ADMIN = {"KC_BOOTSTRAP_ADMIN_USERNAME": "admin", "KC_BOOTSTRAP_ADMIN_PASSWORD": "admin"}


# The realm


@dataclass(frozen=True)
class Account:
    """Somebody who can sign in; the password is theirs alone, so that it can be searched for in dumps and logs."""

    name: str
    groups: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()

    @property
    def password(self) -> str:
        return f"{self.name}-opens-the-door"

    @property
    def email(self) -> str:
        return f"{self.name}@example.test"


ANN = Account("ann", groups=("/eng/core",), roles=("staff", "admin"))
BOB = Account("bob", groups=("/eng",), roles=("staff",))
EVE = Account("eve")


def realm(
    name: str,
    *,
    redirect_uris: Sequence[str],
    client_id: str = "proxy",
    client_secret: str = "the-proxy-is-known-by-this",
    post_logout_redirect_uris: Sequence[str] = (),
    backchannel_logout_url: str | None = None,
    frontchannel_logout_url: str | None = None,
    access_token_lifespan: int = 60,
    session_idle: int = 1800,
    session_max: int = 36_000,
    revoke_refresh_token: bool = True,
    accounts: Sequence[Account] = (ANN, BOB, EVE),
    client_attributes: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The JSON of a realm with one confidential client that must use PKCE; lifetimes are in seconds.

    ID tokens carry `groups` (full paths) and `roles` (realm roles); access tokens name the client in `aud`.
    """
    attributes = {
        "pkce.code.challenge.method": "S256",
        "post.logout.redirect.uris": "##".join(post_logout_redirect_uris) or "-",
        "standard.token.exchange.enabled": "true",
    }
    if backchannel_logout_url is not None:
        attributes["backchannel.logout.url"] = backchannel_logout_url
        attributes["backchannel.logout.session.required"] = "true"
    if frontchannel_logout_url is not None:
        attributes["frontchannel.logout.url"] = frontchannel_logout_url
    client = {
        "clientId": client_id,
        "secret": client_secret,
        "protocol": "openid-connect",
        "publicClient": False,
        "standardFlowEnabled": True,
        "directAccessGrantsEnabled": False,
        "frontchannelLogout": frontchannel_logout_url is not None,
        "redirectUris": list(redirect_uris),
        "attributes": attributes | dict(client_attributes or {}),
        "protocolMappers": _mappers(client_id),
    }
    return {
        "realm": name,
        "enabled": True,
        "sslRequired": "none",
        "accessTokenLifespan": access_token_lifespan,
        "ssoSessionIdleTimeout": session_idle,
        "ssoSessionMaxLifespan": session_max,
        "revokeRefreshToken": revoke_refresh_token,
        "refreshTokenMaxReuse": 0,
        "users": [_user(account) for account in accounts],
        "roles": {"realm": [{"name": role} for role in sorted({role for a in accounts for role in a.roles})]},
        "groups": _group_tree({path for account in accounts for path in account.groups}),
        "clients": [client],
    }


def _user(account: Account) -> dict[str, Any]:
    # Without first name, last name and e-mail Keycloak asks for them at the first sign-in.
    return {
        "username": account.name,
        "enabled": True,
        "email": account.email,
        "emailVerified": True,
        "firstName": account.name.capitalize(),
        "lastName": "Example",
        "credentials": [{"type": "password", "value": account.password, "temporary": False}],
        "realmRoles": list(account.roles),
        "groups": list(account.groups),
    }


def _group_tree(paths: set[str]) -> list[dict[str, Any]]:
    heads = sorted({path.strip("/").partition("/")[0] for path in paths})
    tails = [path.strip("/").partition("/") for path in paths]
    return [
        {"name": head, "subGroups": _group_tree({tail for first, _, tail in tails if first == head and tail})}
        for head in heads
    ]


def _mappers(client_id: str) -> list[dict[str, Any]]:
    everywhere = {"id.token.claim": "true", "access.token.claim": "true", "userinfo.token.claim": "true"}
    roles = {"claim.name": "roles", "multivalued": "true", "jsonType.label": "String", **everywhere}
    configs = {
        "oidc-group-membership-mapper": {"claim.name": "groups", "full.path": "true", **everywhere},
        "oidc-usermodel-realm-role-mapper": roles,
        "oidc-audience-mapper": {"included.client.audience": client_id, "access.token.claim": "true"},
    }
    return [
        {"name": mapper, "protocol": "openid-connect", "protocolMapper": mapper, "config": config}
        for mapper, config in configs.items()
    ]


# The server


class Keycloak:
    """A running Keycloak with a database of its own.

    Browsers and tokens know it as `base_url` (http://localhost:…). `internal_url` (http://127.0.0.1:…) is a second
    way in, like a container network: discovery fetched there names the issuer and the authorization endpoint under
    `base_url`, and the token, key and userinfo endpoints under `internal_url`.
    """

    def __init__(self, runner: Runner, port: int, management_port: int, started_in: float) -> None:
        self.base_url = f"http://localhost:{port}"
        self.internal_url = f"http://127.0.0.1:{port}"
        self.started_in = started_in
        self.runner = runner
        self._management_port = management_port
        self._token = ""
        self._token_until = 0.0

    @classmethod
    def launch(cls) -> Keycloak:
        """Start a server and wait until it is ready: from its image with Docker, else from its distribution.

        :raises Unavailable: neither way is open on this machine
        """
        reasons = []
        ways = [_in_container, _as_process] if docker_answers() else [_as_process]
        for way in ways:
            port, management_port = free_port(), free_port()
            began = time.monotonic()
            try:
                runner = way(port, management_port)
                runner.start()
                _wait_until_ready(runner, management_port)
            except Unavailable as reason:
                reasons.append(str(reason))
                continue
            return cls(runner, port, management_port, time.monotonic() - began)
        raise Unavailable("; ".join(reasons))

    def __str__(self) -> str:
        return f"Keycloak {VERSION} ({self.runner.kind}, ready after {self.started_in:.1f} s)"

    def issuer(self, realm_name: str) -> str:
        return f"{self.base_url}/realms/{realm_name}"

    async def stop(self) -> None:
        """Shut down; realms, keys and sessions are kept for `start`."""
        await asyncio.to_thread(self.runner.stop)

    async def start(self) -> None:
        await asyncio.to_thread(self.runner.start)
        await asyncio.to_thread(_wait_until_ready, self.runner, self._management_port)

    def pause(self) -> None:
        """Keep every connection open, and answer nothing."""
        self.runner.pause()

    def resume(self) -> None:
        self.runner.resume()

    def reset(self) -> None:
        """Running again, whatever a test has done to it."""
        self.runner.resume()
        if not self.runner.running():
            self.runner.start()
            _wait_until_ready(self.runner, self._management_port)

    def close(self) -> None:
        self.runner.close()

    async def create_realm(self, document: Mapping[str, Any]) -> None:
        await self.admin("POST", "", document)

    async def delete_realm(self, name: str) -> None:
        await self.admin("DELETE", name)

    async def rotate_keys(self, realm_name: str, *, algorithm: str = "RS256", forget_old: bool = False) -> str:
        """Sign with a new key from now on, and return its `kid`.

        The old ones stay in the JWKS so that what they have signed verifies still, unless `forget_old`.
        """
        kinds = {"RS": "rsa", "ES": "ecdsa", "Ed": "eddsa"}
        old = await self.admin("GET", f"{realm_name}/components?type=org.keycloak.keys.KeyProvider")
        old = [key for key in old if key["providerId"] in {f"{kind}-generated" for kind in kinds.values()}]
        priority = max(int(key["config"].get("priority", ["0"])[0]) for key in old) + 100
        config = {"priority": [str(priority)], "algorithm": [algorithm]}
        if algorithm.startswith("ES"):
            config = {"priority": [str(priority)], "ecdsaEllipticCurveKey": [f"P-{algorithm[2:]}"]}
        await self.admin(
            "POST",
            f"{realm_name}/components",
            {
                "name": f"{algorithm}-{priority}",
                "providerType": "org.keycloak.keys.KeyProvider",
                "providerId": f"{kinds[algorithm[:2]]}-generated",
                "config": config,
            },
        )
        for key in old if forget_old else ():
            await self.admin("DELETE", f"{realm_name}/components/{key['id']}")
        keys = await self.admin("GET", f"{realm_name}/keys")
        return str(keys["active"][algorithm])

    async def user_id(self, realm_name: str, username: str) -> str:
        """What tokens call `sub`."""
        found = await self.admin("GET", f"{realm_name}/users?exact=true&username={username}")
        return str(found[0]["id"])

    async def change_user(self, realm_name: str, username: str, **fields: Any) -> None:
        """Change members of the user's representation, such as `enabled=False` or `email="new@example.test"`."""
        path = f"{realm_name}/users/{await self.user_id(realm_name, username)}"
        await self.admin("PUT", path, await self.admin("GET", path) | fields)

    async def user_sessions(self, realm_name: str, username: str) -> list[dict[str, Any]]:
        """The user's sessions at the provider, each with `id` (the `sid` of tokens), `start` and `lastAccess`."""
        user = await self.user_id(realm_name, username)
        sessions: list[dict[str, Any]] = await self.admin("GET", f"{realm_name}/users/{user}/sessions")
        return sessions

    async def end_user_sessions(self, realm_name: str, username: str) -> None:
        """Sign the user out everywhere, as an administrator; sends back-channel logout before it returns."""
        await self.admin("POST", f"{realm_name}/users/{await self.user_id(realm_name, username)}/logout")

    async def end_session(self, realm_name: str, session_id: str) -> None:
        await self.admin("DELETE", f"{realm_name}/sessions/{session_id}")

    async def end_all_sessions(self, realm_name: str) -> None:
        await self.admin("POST", f"{realm_name}/logout-all")

    async def admin_token(self) -> str:
        if time.monotonic() >= self._token_until:
            async with ClientSession(timeout=ClientTimeout(30)) as http:
                answer = await http.post(
                    f"{self.internal_url}/realms/master/protocol/openid-connect/token",
                    data={
                        "grant_type": "password",
                        "client_id": "admin-cli",
                        "username": ADMIN["KC_BOOTSTRAP_ADMIN_USERNAME"],
                        "password": ADMIN["KC_BOOTSTRAP_ADMIN_PASSWORD"],
                    },
                )
                body = await _json(answer)
            self._token, self._token_until = body["access_token"], time.monotonic() + body["expires_in"] - 20
        return self._token

    async def admin(self, method: str, path: str, document: Mapping[str, Any] | None = None) -> Any:
        """One call of the administration API below `/admin/realms/`; the answer's JSON, or None without one."""
        headers = {"Authorization": f"Bearer {await self.admin_token()}"}
        async with ClientSession(headers=headers, timeout=ClientTimeout(60)) as http:
            url = f"{self.internal_url}/admin/realms/{path}".rstrip("/")
            return await _json(await http.request(method, url, json=document))


async def _json(answer: ClientResponse) -> Any:
    body = await answer.text()
    assert answer.status < 300, f"{answer.method} {answer.url}: {answer.status} {body}"
    return await answer.json() if body else None


# How it is run


def _options(port: int, management_port: int) -> list[str]:
    return [
        "--cache=local",
        "--http-enabled=true",
        "--http-host=127.0.0.1",
        f"--http-port={port}",
        "--http-management-host=127.0.0.1",
        f"--http-management-port={management_port}",
        f"--hostname=http://localhost:{port}",
        "--hostname-backchannel-dynamic=true",
        "--log-level=info,io.smallrye.health:off",
    ]


def _in_container(port: int, management_port: int) -> Runner:
    command = ["start-dev", "--health-enabled=true", *_options(port, management_port)]
    return Container(IMAGE, command, ADMIN)


def _as_process(port: int, management_port: int) -> Runner:
    prepared = _prepared()
    home = Path(tempfile.mkdtemp(prefix="oidc-proxy-keycloak-"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    shutil.copytree(prepared / "data", home / "data")
    return _process(prepared / "keycloak", home, "start", "--optimized", *_options(port, management_port))


def _process(distribution: Path, home: Path, *arguments: str) -> Process:
    """Keycloak's main class, as `kc.sh` starts it, with `home` as the folder that it may write to.

    Without the script in between, a signal reaches the server itself.
    """
    for shared in ("lib", "providers", "themes", "conf"):
        if not (home / shared).exists():
            (home / shared).symlink_to(distribution / shared)
    thread_factory = "io.quarkus.bootstrap.forkjoin.QuarkusForkJoinWorkerThreadFactory"
    opened = ("java.util", "java.util.concurrent", "java.security", "java.lang")
    command = [
        _java(),
        *("-Xms64m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:+ExitOnOutOfMemoryError"),
        *("-Dfile.encoding=UTF-8", "-Duser.language=en", "-Duser.country=US", "-Dpicocli.disable.closures=true"),
        f"-Djava.util.concurrent.ForkJoinPool.common.threadFactory={thread_factory}",
        "-Djava.util.logging.manager=org.jboss.logmanager.LogManager",
        *(f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in opened),
        "--enable-native-access=ALL-UNNAMED",
        f"-Dkc.home.dir={home}",
        f"-Djboss.server.config.dir={home / 'conf'}",
        *("-cp", str(distribution / "lib" / "quarkus-run.jar")),
        "io.quarkus.bootstrap.runner.QuarkusEntryPoint",
        *arguments,
    ]
    return Process(command, home / "keycloak.log", ADMIN)


def _java() -> str:
    java_home = os.environ.get("JAVA_HOME")
    java = shutil.which("java", path=f"{java_home}/bin") if java_home else shutil.which("java")
    if java is None:
        raise Unavailable("no Docker daemon, and no Java (17 or newer) to run Keycloak with")
    return java


def _wait_until_ready(runner: Runner, management_port: int, timeout: float = 180) -> None:
    until = time.monotonic() + timeout
    while time.monotonic() < until:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{management_port}/health/ready", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            if not runner.running():
                break
            time.sleep(0.1)
    output = runner.tail()
    runner.close()
    raise Unavailable(f"Keycloak did not become ready; its last lines:\n{output}")


# Getting it


def _prepared() -> Path:
    """A folder with `keycloak` (unpacked and built) and `data` (a database that has been started once).

    Building and filling the database take most of a first start, and come out the same every time: they are done once
    for a machine, and every server starts on a copy of `data`.
    """
    recipe = hashlib.sha256("\n".join([ARTIFACT_SHA256, *BUILD]).encode()).hexdigest()[:8]
    folder = cache_folder() / f"keycloak-{VERSION}-{recipe}"
    with alone(folder.with_suffix(f"{folder.suffix}.lock")):
        if not (folder / "ready").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            _unpack(folder)
            _build(folder / "keycloak")
            _fill(folder)
            (folder / "ready").touch()
    return folder


def _unpack(folder: Path) -> None:
    maven = shutil.which("mvn")
    if maven is None:
        raise Unavailable("no Docker daemon, and no mvn to fetch Keycloak with")
    fetch = [maven, "-q", "-B", "dependency:copy", f"-Dartifact={ARTIFACT}", f"-DoutputDirectory={folder}"]
    fetched = subprocess.run(fetch, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    archives = list(folder.glob("*.zip"))
    if fetched.returncode or not archives:
        raise Unavailable(f"mvn could not fetch {ARTIFACT}:\n{fetched.stdout}{fetched.stderr}")
    with archives[0].open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != ARTIFACT_SHA256:
        raise Unavailable(f"{ARTIFACT} has the SHA-256 {digest}, and {ARTIFACT_SHA256} was expected")
    with zipfile.ZipFile(archives[0]) as archive:
        archive.extractall(folder)
    archives[0].unlink()
    (folder / f"keycloak-{VERSION}").rename(folder / "keycloak")


def _build(distribution: Path) -> None:
    process = _process(distribution, distribution, *BUILD)
    process.start()
    until = time.monotonic() + 300
    while process.running() and time.monotonic() < until:
        time.sleep(0.2)
    output = process.tail()
    process.close()
    if "Server configuration updated and persisted" not in output:
        raise Unavailable(f"Keycloak could not be built:\n{output}")


def _fill(folder: Path) -> None:
    port, management_port = free_port(), free_port()
    with tempfile.TemporaryDirectory() as home:
        process = _process(folder / "keycloak", Path(home), "start", "--optimized", *_options(port, management_port))
        process.start()
        _wait_until_ready(process, management_port)
        process.stop()
        shutil.copytree(Path(home) / "data", folder / "data", ignore=shutil.ignore_patterns("tmp"))


if __name__ == "__main__":
    try:
        place = "its image, with Docker" if docker_answers() else _prepared()
    except Unavailable as reason:
        sys.exit(f"Keycloak is not available: {reason}")
    sys.stdout.write(f"Keycloak {VERSION} is ready to be started from {place}\n")
