"""Where Envoy asks over gRPC, as a process: several workers on one port, and what stands in the way of a start."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse

from oidc_proxy.server.grpc import peer_address
from tests.gang import gang, metric, signed_in, until
from tests.gateway import merged
from tests.real.parts import free_port
from tests.real.redis import RedisServer
from tests.serving import COMMAND
from tests.wire import authority

CHECK = "/envoy.service.auth.v3.Authorization/Check"


async def passes(port: int, url: str, cookie: str, target: str = "/page") -> bool:
    """The answer on a connection of its own."""
    asked = CheckRequest()
    request = asked.attributes.request.http
    request.method, request.host, request.path = "GET", authority(url), target
    request.headers["cookie"] = cookie
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        answer = await channel.unary_unary(CHECK)(asked.SerializeToString(), timeout=10, wait_for_ready=True)
    return CheckResponse.FromString(answer).status.code == 0


async def test_f244_every_worker_answers_on_the_same_port(redis_server: RedisServer, tmp_path: Path) -> None:
    port = free_port()
    asked = {"grpc": {"address": f"127.0.0.1:{port}"}, "trusted_proxies": ["127.0.0.1/32"]}
    async with gang(tmp_path, redis_server, forward_auth=asked) as (gateway, _, _):
        cookie = await signed_in(gateway)
        assert [await passes(port, gateway.url, cookie) for _ in range(24)] == [True] * 24
        assert [await passes(port, gateway.url, "") for _ in range(4)] == [False] * 4
        assert await metric(gateway, "oidc_proxy_sessions_cached ") == 2, "both were asked"
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", port))
        first, second = gateway.pids()
        os.kill(first, signal.SIGKILL)
        await until(lambda: len(gateway.pids()) == 2 and first not in gateway.pids())
        assert second in gateway.pids()
        assert [await passes(port, gateway.url, cookie) for _ in range(8)] == [True] * 8
        gateway.signal(signal.SIGTERM)
        assert await gateway.exit_status() == 0
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0


def config_file(folder: Path, change: dict[str, Any]) -> Path:
    base = {
        "public_url": "http://127.0.0.1:9",
        "listen": {"address": f"127.0.0.1:{free_port()}"},
        "admin": {"address": None},
        "provider": {"issuer": "http://127.0.0.1:9/realms/x", "client_id": "app", "client_secret": "x"},
        "forward_auth": {"grpc": {"address": "127.0.0.1:0"}, "trusted_proxies": ["127.0.0.1/32"]},
    }
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(merged(base, change)))
    return file


def served(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("missing", ["grpc", "envoy"])
@pytest.mark.parametrize("workers", [1, 2])
def test_without_the_extra_it_says_what_to_install(missing: str, workers: int, tmp_path: Path) -> None:
    shared = {"listen": {"workers": workers}, "store": {"type": "redis", "url": "redis://127.0.0.1:9"}}
    file = config_file(tmp_path, shared)
    hidden = (
        f"import sys; sys.modules[{missing!r}] = None; from oidc_proxy.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    done = served(sys.executable, "-c", hidden, "serve", "--config", str(file))
    said = done.stderr.splitlines()[-1]
    assert said == "forward_auth.grpc needs grpcio and xds-protos: pip install oidc-proxy[grpc]"
    assert (done.returncode, done.stdout) == (78, "")


@pytest.mark.parametrize("workers", [1, 2])
def test_an_address_that_cannot_be_had_is_said_at_the_start(workers: int, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # it would share, and we do not want to
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        change = {
            "forward_auth": {"grpc": {"address": f"127.0.0.1:{taken.getsockname()[1]}"}},
            "listen": {"workers": workers}, "store": {"type": "redis", "url": "redis://127.0.0.1:9"},
        }  # fmt: skip
        done = served(*COMMAND, "serve", "--config", str(config_file(tmp_path, change)))
    assert done.returncode == 1
    assert "oidc-proxy: cannot listen: " in done.stderr


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:192.0.2.1:4711", "192.0.2.1"),
        ("ipv6:%5B2001:db8::1%5D:4711", "2001:db8::1"),
        ("ipv6:[::1]:4711", "::1"),
        ("ipv6:%5Bfe80::1%25eth0%5D:4711", "fe80::1"),
        ("unix:", "127.0.0.1"),
        ("unix:/run/x.sock", "127.0.0.1"),
        ("unix-abstract:x", "127.0.0.1"),
        ("vsock:2:1", ""),
        ("", ""),
    ],
)
def test_the_other_end_is_known_by_its_address(peer: str, address: str) -> None:
    assert peer_address(peer) == address
