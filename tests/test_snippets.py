"""What stands between fences in the documentation is tried: every block, by its language, and nothing is left out."""

from __future__ import annotations

import configparser
import io
import json
import re
import shlex
import subprocess
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from oidc_proxy.cli import FAILED, OK, main
from oidc_proxy.config import read_config
from tests.contracts.conftest import GATEWAY
from tests.gateway import running_world
from tests.real.applications import program_of_the_system
from tests.real.fronts import FRONTS, Front
from tests.real.parts import free_port
from tests.real.test_forward_auth_cache import ASKS, WHOLE_KEY
from tests.test_docs import ENVIRON, PAGES, ROOT, assert_parsed, blocks, text_of, written

TRIED = {
    "yaml": "a configuration, or the rest of one: test_docs.py has the program check it",
    "yaml values": "values of the chart: real/test_chart.py renders them",
    "sh": "test_docs.py knows each line, and here those that do no harm are executed",
    "ini": "units of systemd, below",
    "console": "a command, and what it is answered, below",
    "acl": "what Redis has to permit, below",
    "nginx": "words for the location that asks: below, nginx reads them in the file of deploy/",
}
"""Language → where its blocks are tried."""
CORPUS = ROOT / "tests" / "corpus" / "oauth2_proxy"


def found(language: str) -> list[Any]:
    """The blocks in a language, each as a parameter with its page."""
    return [
        pytest.param(page, block, id=f"{page.relative_to(ROOT)} {number}")
        for page in PAGES
        for number, block in enumerate(blocks(page, language), start=1)
    ]


# ── nothing is left out ───────────────────────────────────────────────────────────────────────────────────────────────


def test_every_page_is_looked_at() -> None:
    hidden = {path for path in ROOT.rglob("*.md") if any(part[0] == "." for part in path.relative_to(ROOT).parts)}
    assert {*ROOT.rglob("*.md")} - hidden == set(PAGES)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_is_in_a_language_that_is_tried(page: Path) -> None:
    text = text_of(page)
    fences = re.findall(r"^(.*?)(`{3,}|~{3,})(.*)$", text, re.MULTILINE)
    assert all((before, fence) == ("", "```") for before, fence, _ in fences), "a fence that is not at the line's start"
    opening, closing = [name for _, _, name in fences[::2]], [name for _, _, name in fences[1::2]]
    assert set(opening) <= TRIED.keys(), "say in TRIED where blocks in this language are tried, and try them there"
    assert set(closing) <= {""}
    assert len(opening) == len(closing) == sum(len(blocks(page, language)) for language in TRIED)
    assert not re.search(r"<pre|<code", text), "a block that nobody sees"


# ── commands ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("page", "block"), found("sh"))
def test_a_shell_reads_every_block(page: Path, block: str) -> None:
    done = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


OURS = [
    pytest.param(page, line, id=f"{page.relative_to(ROOT)}: {line}")
    for page in PAGES
    for block in blocks(page, "sh")
    for line in block.splitlines()
    if line.startswith("oidc-proxy ")
]


@pytest.mark.parametrize(("page", "line"), OURS)
def test_every_command_of_ours_does_it(page: Path, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder with the page's own routes; an import reads a configuration of oauth2-proxy's."""
    written(next((block for block in blocks(page, "yaml") if "routes" in yaml.safe_load(block)), "log: {}\n"), tmp_path)
    (tmp_path / "docker-compose.yml").write_text((CORPUS / "compose.yml").read_text())
    monkeypatch.chdir(tmp_path)
    _, *words = shlex.split(line.replace("/etc/oauth2-proxy.cfg", str(CORPUS / "nginx.cfg")), comments=True)
    said = io.StringIO()
    with redirect_stdout(said), redirect_stderr(io.StringIO()):
        match words:
            case ["serve" | "session", *_]:
                assert_parsed(words)  # they want a server, or are one: tests/cli and tests/real run them
            case ["config", "check", *_]:
                assert main(words) == OK
            case ["config", "import", *_]:
                assert main(words) == OK
                assert "provider" in yaml.safe_load(said.getvalue())
            case ["policy", "test", *_]:
                assert main(words) in {OK, FAILED}, "an answer, and no complaint"
                assert "verdict" in said.getvalue()
            case _:
                pytest.fail("a command of which this test does not know how to try it")


# ── units of systemd ──────────────────────────────────────────────────────────────────────────────────────────────────


def units() -> dict[str, configparser.ConfigParser]:
    """The units of all pages, by the names in their first lines."""
    read = {}
    for parameter in found("ini"):
        name, _, text = parameter.values[1].partition("\n")
        unit = configparser.ConfigParser(interpolation=None, strict=True)
        unit.optionxform = str
        unit.read_string(text)
        read[name.removeprefix("# ")] = unit
    return read


def test_units_are_a_socket_and_its_service(tmp_path: Path) -> None:
    assert units().keys() == {"oidc-proxy.socket", "oidc-proxy.service"}, "another unit wants a test"
    service = units()["oidc-proxy.service"]["Service"]
    program, *words = shlex.split(service["ExecStart"])
    assert Path(program).name == "oidc-proxy"
    assert_parsed(words)
    *_, option, setting = words
    loaded = read_config([written("log: {}\n", tmp_path)], ENVIRON, dict([setting.split("=", 1)]))
    assert loaded.settings is not None, loaded.problems
    assert (option, loaded.settings.listen.address) == ("--set", "fd:3"), "the first socket that is passed on"
    timeouts = loaded.settings.http.timeouts
    assert int(service["TimeoutStopSec"]) > timeouts.drain_delay + timeouts.drain_max


def test_systemd_takes_the_units(real_part: Callable[[str, Callable[[], str]], str], tmp_path: Path) -> None:
    analyze = real_part("systemd", partial(program_of_the_system, "systemd-analyze", "systemd"))
    program = tmp_path / "oidc-proxy"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    for parameter in found("ini"):
        name = parameter.values[1].partition("\n")[0].removeprefix("# ")
        (tmp_path / name).write_text(
            re.sub(r"(?<=^ExecStart=)\S+", str(program), parameter.values[1], flags=re.MULTILINE)
        )
    done = subprocess.run(
        [analyze, "verify", "--man=no", *(str(tmp_path / name) for name in units())],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, [line for line in done.stderr.splitlines() if "oidc-proxy" in line]) == (0, [])


# ── words for nginx ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("page", "block"), found("nginx"))
def test_nginx_reads_them_where_it_asks(
    page: Path, block: str, real_part: Callable[[str, Callable[[], Front]], Front], tmp_path: Path
) -> None:
    front = real_part("nginx", FRONTS["nginx"])
    assert block.count(WHOLE_KEY) == block.count("proxy_cache_key") == 1, "the key that the tests keep answers under"
    ((place, rest),) = re.findall(r"# of proxy_cache_path (\S+) ([^;]+;)", block)
    words = dict(front.replaced(free_port()))
    words["\nhttp {"] += f" proxy_cache_path {tmp_path / Path(place).name} {rest}"
    asking = replace(front, replaced=lambda _: {**words, ASKS: f"{ASKS}\n{block}"})
    file = asking.written(tmp_path, 0, free_port(), free_port(), 0)
    done = subprocess.run(front.check(file), capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr


# ── what is answered, and what is permitted ───────────────────────────────────────────────────────────────────────────


def shape(value: Any) -> Any:
    """The names in a document, without what they stand for; of a list, those of its first element."""
    if isinstance(value, dict):
        return {name: shape(inner) for name, inner in value.items()}
    return [shape(inner) for inner in value[:1]] if isinstance(value, list) else None


@pytest.mark.parametrize(("page", "block"), found("console"))
async def test_a_command_is_answered_as_it_says(page: Path, block: str) -> None:
    line, _, answer = block.partition("\n")
    prompt, program, *options, url = shlex.split(line)
    assert (prompt, program, options) == ("$", "curl", ["-s", "-b", "$COOKIE"])
    asked = urlsplit(url)
    told = json.loads(re.sub(r", …(?=[}\]])", "", answer))
    async with running_world() as world, world.browser() as ann:
        await ann.sign_in(f"{world.url}/echo", "ann", "ann")
        said = (await ann.fetch(f"{world.url}{asked.path}?{asked.query}")).json()
    assert told["claims"].keys() <= said["claims"].keys()
    assert shape(told | {"claims": {}}) == shape(said | {"claims": {}})


@pytest.mark.parametrize(("page", "block"), found("acl"))
def test_redis_permits_what_the_contracts_are_tested_with(page: Path, block: str) -> None:
    word, *rules = block.split()
    assert word == "user"
    assert {*rules} - {">secret"} == {*GATEWAY.split()} - {">gateway-secret", "resetkeys"}
