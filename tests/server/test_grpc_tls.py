"""The certificate of the port where Envoy asks over gRPC: who may connect, and what happens when the files change."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from oidc_proxy.errors import SettingsFault
from oidc_proxy.forward_auth import GrpcTlsSettings
from oidc_proxy.server.grpc import GrpcTls
from tests.gateway import World, running_world
from tests.stories.tls import another_certificate, certificate

CHECK = "/grpc.health.v1.Health/Check"
SERVING = b"\x08\x01"
Pair = tuple[str, str]


@asynccontextmanager
async def listening(folder: Path, **tls: str) -> AsyncIterator[World]:
    files = {name: folder / file for name, file in tls.items()}
    asked = {"grpc": {"address": "127.0.0.1:0", "tls": files}, "trusted_proxies": ["127.0.0.1/32"]}
    async with running_world({"forward_auth": asked, "upstream": None}) as world:
        yield world


@asynccontextmanager
async def calling(world: World, trusts: str | None, shows: Pair | None = None) -> AsyncIterator[Any]:
    """A client; call it for a message. Without somebody to trust, it speaks plain HTTP/2."""
    options = [("grpc.ssl_target_name_override", "localhost"), ("grpc.use_local_subchannel_pool", 1)]
    place = f"127.0.0.1:{world.app.grpc_port}"
    if trusts is None:
        channel = grpc.aio.insecure_channel(place, options=options)
    else:
        chain, key = (shows[0].encode(), shows[1].encode()) if shows else (None, None)
        credentials = grpc.ssl_channel_credentials(trusts.encode(), key, chain)
        channel = grpc.aio.secure_channel(place, credentials, options=options)
    async with channel:
        yield channel.unary_unary(CHECK)


async def answer(world: World, trusts: str | None, shows: Pair | None = None) -> bytes | grpc.StatusCode:
    """What somebody is told over a connection of their own."""
    async with calling(world, trusts, shows) as check:
        try:
            return bytes(await check(b"", timeout=5))
        except grpc.aio.AioRpcError as error:
            return error.code()  # type: ignore[no-any-return]


def written(folder: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        (folder / name).write_text(text)


async def test_f206_who_knows_the_certificate_is_answered_and_nobody_else(tmp_path: Path) -> None:
    pem, key = certificate()
    written(tmp_path, {"tls.crt": pem, "tls.key": key})
    async with listening(tmp_path, cert_file="tls.crt", key_file="tls.key") as world:
        assert await answer(world, pem) == SERVING
        assert await answer(world, None) is grpc.StatusCode.UNAVAILABLE, "not in the clear"
        assert await answer(world, another_certificate()[0]) is grpc.StatusCode.UNAVAILABLE


async def test_f206_the_key_may_be_in_the_file_of_the_certificate(tmp_path: Path) -> None:
    pem, key = certificate()
    for order in (pem + key, key + pem):
        written(tmp_path, {"both.pem": order})
        async with listening(tmp_path, cert_file="both.pem") as world:
            assert await answer(world, pem) == SERVING


async def test_f206_who_must_show_a_certificate_is_not_answered_without_it(tmp_path: Path) -> None:
    (pem, key), envoy, other = certificate(), another_certificate("envoy"), another_certificate("other")
    written(tmp_path, {"both.pem": pem + key, "envoys.pem": envoy[0]})
    async with listening(tmp_path, cert_file="both.pem", client_ca_file="envoys.pem") as world:
        assert await answer(world, pem, envoy) == SERVING
        for shows in (None, other, (pem, key)):
            assert await answer(world, pem, shows) is grpc.StatusCode.UNAVAILABLE


async def test_f234_new_files_are_for_new_connections_and_bad_ones_for_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("oidc_proxy.server.files.EVERY", 0.05)
    old, new = certificate(), another_certificate("new")
    first, second = another_certificate("first"), another_certificate("second")
    written(tmp_path, {"tls.crt": old[0], "tls.key": old[1], "envoys.pem": first[0]})
    files = {"cert_file": "tls.crt", "key_file": "tls.key", "client_ca_file": "envoys.pem"}
    async with listening(tmp_path, **files) as world, calling(world, old[0], first) as held:

        async def seen(event: str) -> None:
            async with asyncio.timeout(5):
                while not world.lines(event=event, setting="forward_auth.grpc.tls"):
                    await asyncio.sleep(0.02)

        assert await held(b"") == SERVING
        written(tmp_path, {"tls.crt": "none"})
        await seen("files.reload_failed")
        assert await answer(world, old[0], first) == SERVING
        written(tmp_path, {"tls.key": new[1], "envoys.pem": second[0]})
        written(tmp_path, {"tls.crt": new[0]})
        await seen("files.reloaded")
        assert await answer(world, new[0], second) == SERVING
        assert await answer(world, new[0], second) == SERVING
        assert await answer(world, old[0], second) is grpc.StatusCode.UNAVAILABLE
        assert await answer(world, new[0], first) is grpc.StatusCode.UNAVAILABLE
        assert await held(b"") == SERVING, "its connection goes on"


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "No such file"),
        ({"tls.crt": certificate()[0]}, "No such file"),
        ({"tls.crt": certificate()[0], "tls.key": another_certificate()[1], "ca.pem": certificate()[0]}, "MISMATCH"),
        ({"tls.crt": "", "tls.key": certificate()[1], "ca.pem": certificate()[0]}, "PEM"),
        ({"tls.crt": certificate()[0], "tls.key": "", "ca.pem": certificate()[0]}, "PEM"),
        ({"tls.crt": certificate()[0], "tls.key": certificate()[1], "ca.pem": "x"}, "ca.pem"),
    ],
)
def test_what_cannot_be_used_is_said_at_the_start(files: Mapping[str, str], said: str, tmp_path: Path) -> None:
    written(tmp_path, files)
    settings = GrpcTlsSettings(
        cert_file=tmp_path / "tls.crt", key_file=tmp_path / "tls.key", client_ca_file=tmp_path / "ca.pem"
    )
    with pytest.raises(SettingsFault) as caught:
        GrpcTls(settings)
    (problem,) = caught.value.problems
    assert str(problem).startswith("forward_auth.grpc.tls cannot be set up")
    assert said in str(problem)
    assert "PRIVATE KEY" not in str(problem)
