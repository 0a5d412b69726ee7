"""`oidc-proxy session` against a running gateway (F66, F265, F253)."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from oidc_proxy.cli import main
from oidc_proxy.sessions import Ticket
from tests.gateway import World, running_world, settings_for
from tests.world import Browser, free_port

TOKEN = "an administrator's long random text"


def told(world: World, folder: Path, admin: Mapping[str, Any] = {}) -> str:
    """The file with the gateway's configuration, as the command line is given it."""
    config = settings_for(0, world.provider, world.backend)
    address = f"127.0.0.1:{world.app.admin_port}"
    config |= {"public_url": world.url, "admin": {"address": address, **admin}}
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump({**config, "listen": {"address": "127.0.0.1:1"}}, allow_unicode=True))
    return str(file)


async def command(*words: str) -> int:
    """`oidc-proxy session …`, beside the gateway."""
    try:
        return await asyncio.to_thread(main, ["session", *words])
    except SystemExit as usage:
        return int(usage.code or 0)


async def signed_in(world: World, browser: Browser) -> str:
    assert (await browser.sign_in(f"{world.url}/echo", "ann", "ann")).status == 200
    ticket = Ticket.read(browser.cookies.named("oidc_proxy")[0].value)
    assert ticket is not None
    return ticket.record_id


async def test_f66_list_show_revoke(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with running_world() as world, world.browser() as ann, world.browser() as elsewhere:
        first, second = await signed_in(world, ann), await signed_in(world, elsewhere)
        file, sub = told(world, tmp_path), world.provider.users["ann"].sub

        assert await command("list", "--sub", sub, "--config", file) == 0
        shown = capsys.readouterr().out
        assert f"session:   {first}\n" in shown
        assert f"session:   {second}\n" in shown
        assert f"user:      ann (sub {sub})\n" in shown
        assert "from:      127.0.0.1, Mozilla/5.0" in shown

        assert await command("show", first, "--config", file, "--json") == 0
        assert json.loads(capsys.readouterr().out)["id"] == first

        assert await command("revoke", first, "--config", file) == 0
        assert capsys.readouterr().out == f"ended {first}\n"
        assert (await ann.fetch(f"{world.url}/echo")).status == 401
        assert (await elsewhere.fetch(f"{world.url}/echo")).status == 200

        assert await command("revoke", first, "--config", file) == 1
        assert "no session with this id" in capsys.readouterr().err


async def test_f265_revoke_all_of_a_user(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with running_world() as world, world.browser() as ann, world.browser() as elsewhere:
        hers = {await signed_in(world, ann), await signed_in(world, elsewhere)}
        file, sub = told(world, tmp_path), world.provider.users["ann"].sub
        assert await command("revoke", "--sub", sub, "--config", file, "--json") == 0
        assert set(json.loads(capsys.readouterr().out)["ended"]) == hers
        assert [(await browser.fetch(f"{world.url}/echo")).status for browser in (ann, elsewhere)] == [401, 401]
        assert await command("revoke", "--sub", sub, "--config", file) == 0
        assert await command("list", "--sub", sub, "--config", file) == 0
        assert capsys.readouterr().out == "nothing to end\nno sessions\n"


async def test_f66_a_user_whose_sub_is_no_plain_word(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with running_world() as world:
        file = told(world, tmp_path)
        assert await command("list", "--sub", "a&b=c#/ü%20", "--config", file) == 0
        assert capsys.readouterr().out == "no sessions\n"


async def test_f66_a_session_that_has_ended_is_shown_as_such(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with running_world() as world, world.browser() as ann:
        record_id = await signed_in(world, ann)
        world.clock.advance(8 * 3600 + 1)
        assert await command("show", record_id, "--config", told(world, tmp_path)) == 0
        assert "ends:      has ended\n" in capsys.readouterr().out


async def test_f66_the_token_is_that_of_the_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with running_world({"admin": {"token": TOKEN}}) as world:
        secret = tmp_path / "token"
        secret.write_text(f"{TOKEN}\n")
        assert await command("list", "--sub", "a", "--config", told(world, tmp_path, {"token_file": str(secret)})) == 0
        for admin in ({}, {"token": "another"}):
            assert await command("list", "--sub", "a", "--config", told(world, tmp_path, admin)) == 1
        printed = capsys.readouterr()
        assert "does not accept admin.token" in printed.err
        assert TOKEN not in printed.err + printed.out


async def test_f66_a_store_that_is_away_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with running_world({"store": {"type": "redis", "url": "redis://127.0.0.1:1/0"}}) as world:
        assert await command("list", "--sub", "a", "--config", told(world, tmp_path)) == 1
        assert "cannot reach its session store" in capsys.readouterr().err


# ── without a gateway ──


def alone(folder: Path, **admin: object) -> str:
    file = folder / "config.yaml"
    provider = {"issuer": "https://op.example.com", "client_id": "app", "client_secret": "x" * 20}
    config = {"public_url": "https://app.example.com", "provider": provider, "upstream": "http://127.0.0.1:8080"}
    file.write_text(yaml.safe_dump({**config, "admin": admin}))
    return str(file)


def test_f253_nobody_listens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    address = f"127.0.0.1:{free_port()}"
    assert main(["session", "list", "--sub", "a", "--config", alone(tmp_path, address=address)]) == 1
    said = capsys.readouterr().err
    assert address in said
    assert "is the gateway running" in said


def test_f253_no_administration_listener(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["session", "list", "--sub", "a", "--config", alone(tmp_path, address=None)]) == 1
    assert "set admin.address" in capsys.readouterr().err


def test_f253_a_configuration_with_problems(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["session", "list", "--sub", "a", "--config", alone(tmp_path, adress="127.0.0.1:9180")]) == 78
    assert "adress" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["list"],
        ["list", "--sub", ""],
        ["list", "a" * 64],
        ["show"],
        ["show", "a" * 63],
        ["show", "--sub", "a"],
        ["show", "A" * 64],
        ["revoke"],
        ["revoke", "a" * 64, "--sub", "a"],
        ["revoke", ""],
        ["revoke", "../livez"],
    ],
)
async def test_f253_command_lines_that_make_no_sense(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert await command(*words) == 2
    assert "oidc-proxy" in capsys.readouterr().err


# ── what else may listen there ──


class Another(BaseHTTPRequestHandler):
    status, body = 200, b""

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *_: object) -> None:
        return None


@pytest.fixture
def another() -> Iterator[HTTPServer]:
    with HTTPServer(("127.0.0.1", 0), Another) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.mark.parametrize(
    ("status", "body", "sentence"),
    [
        (200, b"<html>", "not as an administration listener"),
        (404, b"", "not as an administration listener"),
        (200, b"[]", "not as an administration listener"),
        (404, b'{"error": "not found"}', "not found"),
        (500, b"{}", "answers 500"),
    ],
)
def test_f253_something_else_answers(
    status: int, body: bytes, sentence: str, another: HTTPServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Another.status, Another.body = status, body
    config = alone(tmp_path, address=f"127.0.0.1:{another.server_port}")
    assert main(["session", "list", "--sub", "a", "--config", config]) == 1
    assert sentence in capsys.readouterr().err


def test_f253_a_browsers_name_does_nothing_to_the_terminal(
    another: HTTPServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"id", "user", "sub", "origin", "created_at", "ends_at", "address", "user_agent"}
    card = {**dict.fromkeys(names, "x"), "alive": True, "user_agent": "\x1b]0;owned\x07\u202e"}
    Another.status, Another.body = 200, json.dumps({"sessions": [card]}).encode()
    config = alone(tmp_path, address=f"127.0.0.1:{another.server_port}")
    assert main(["session", "list", "--sub", "a", "--config", config]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "from:      x, �]0;owned��"
