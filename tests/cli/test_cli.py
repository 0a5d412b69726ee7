"""The command line (F252, F253): what is printed where, and the exit status."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import yaml

from oidc_proxy import __version__
from oidc_proxy.cli import COMMANDS, main
from oidc_proxy.config import Config, generate
from oidc_proxy.errors import FAMILIES
from oidc_proxy.server import workers

CORPUS = Path(__file__).parent.parent / "corpus" / "config"


@pytest.fixture(autouse=True)
def _in_the_corpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CORPUS)
    monkeypatch.setenv("CLIENT_SECRET", "canary")
    monkeypatch.delenv("OIDC_PROXY_CONFIG", raising=False)


def exit_status(*argv: str) -> int | str | None:
    with pytest.raises(SystemExit) as raised:
        main(argv)
    return raised.value.code


# ── the commands ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_f253_every_command_is_listed_and_has_its_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_status("--help") == 0
    shown = capsys.readouterr().out
    for name in COMMANDS:
        assert f"\n    {name}" in shown
    files = {path.stem for path in Path(main.__code__.co_filename).parent.glob("*.py")} - {"__init__", "options"}
    assert files == COMMANDS.keys()


@pytest.mark.parametrize("argv", [[], ["sing"], ["version", "--colour"], ["config"], ["serve", "--set", "a"]])
def test_f253_a_command_line_that_cannot_be_read(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_status(*argv) == 2
    assert "usage: oidc-proxy" in capsys.readouterr().err


def test_f253_a_reader_that_goes_away_is_no_traceback() -> None:
    code = "import sys, time; time.sleep(0.5); from oidc_proxy.cli import main; sys.exit(main(['config', 'schema']))"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout
    process.stdout.close()
    assert process.stderr
    assert process.stderr.read() == b""
    assert process.wait(60) == 1
    process.stderr.close()


def test_f253_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(options: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("oidc_proxy.cli.version.run", interrupted)
    assert main(["version"]) == 130


# ── version ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_f253_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version"]) == 0
    assert capsys.readouterr().out == f"oidc-proxy {__version__}\n"


def test_f253_version_as_json(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oidc_proxy.cli.version.PARTS", ("aiohttp", "not-installed"))
    assert main(["version", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["version"] == __version__
    assert facts["python"].endswith(".".join(map(str, sys.version_info[:3])))
    assert facts["parts"]["aiohttp"][0].isdigit()
    assert facts["parts"]["not-installed"] is None


def test_f253_version_imports_nothing_of_what_serve_needs() -> None:
    code = "import sys; from oidc_proxy.__main__ import main; main(['version']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert not {"pydantic", "yaml", "aiohttp", "asyncio", "oidc_proxy.config"} & set(done.stdout.split())


# ── config ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "status", "summary"),
    [
        ("minimal.yaml", 0, "no problems in minimal.yaml"),
        ("placeholder.yaml", 0, "1 warning in placeholder.yaml"),
        ("store-type.yaml", 78, "1 error in store-type.yaml"),
        ("missing-file.yaml", 78, "1 error in missing-file.yaml"),
    ],
)
def test_f105_check(name: str, status: int, summary: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "check", name]) == status
    printed = capsys.readouterr()
    assert printed.out.splitlines()[-1] == summary
    assert printed.err == ""


def test_f105_check_of_several_files_with_an_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "check", "minimal.yaml", "store-type.yaml", "--set", "store.type=memory"]) == 0
    assert main(["config", "check", "minimal.yaml", "--set", "store.typ=memory", "--format", "json"]) == 78
    printed = capsys.readouterr().out
    (problem,) = json.loads(printed[printed.index("[") :])
    assert (problem["code"], problem["origin"]) == ("E111", "option --set store.typ")


def test_f105_check_as_github_annotations(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "check", "store-type.yaml", "--format", "github"]) == 78
    assert capsys.readouterr().out.startswith(
        "::error file=store-type.yaml,line=4,col=15,endColumn=21,title=E102 store.type::"
    )


def test_f104_that_no_file_was_read_is_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("oidc_proxy.cli.options.USUAL", tmp_path / "config.yaml")
    assert main(["serve"]) == 78
    assert capsys.readouterr().err.splitlines()[-1].startswith("no file was read: name one with --config")


def test_f104_where_the_file_is_found(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    usual = tmp_path / "config.yaml"
    monkeypatch.setattr("oidc_proxy.cli.options.USUAL", usual)
    assert main(["config", "check"]) == 78
    assert capsys.readouterr().out.splitlines()[-1].endswith("in the environment")
    usual.write_text((CORPUS / "minimal.yaml").read_text())
    assert main(["config", "check"]) == 0
    assert capsys.readouterr().out == f"no problems in {usual}\n"
    monkeypatch.setenv("OIDC_PROXY_CONFIG", "minimal.yaml:placeholder.yaml")
    assert main(["config", "check"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "1 warning in minimal.yaml, placeholder.yaml"


def test_f251_show(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "show", "--config", "minimal.yaml", "--set", "log.level=debug"]) == 0
    printed = capsys.readouterr()
    assert yaml.safe_load(printed.out)["log"]["level"] == "debug"
    assert "# option --set log.level\n" in printed.out
    assert "canary" not in printed.out + printed.err
    assert main(["config", "show", "--config", "minimal.yaml", "--json"]) == 0
    assert {"path": "log.level", "value": "info", "origin": "default"} in json.loads(capsys.readouterr().out)


def test_f251_show_of_a_file_with_problems(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "show", "--config", "store-type.yaml"]) == 78
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "store-type.yaml:4:15" in printed.err


def test_f251_generated_texts(capsys: pytest.CaptureFixture[str]) -> None:
    for name, make in (("schema", generate.schema), ("example", generate.example), ("docs", generate.settings_page)):
        assert main(["config", name]) == 0
        assert capsys.readouterr().out == make(Config)
    assert main(["config", "errors"]) == 0
    assert capsys.readouterr().out == generate.errors_page(FAMILIES)


# ── serve ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_f253_serve_checks_first(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--config", "store-type.yaml"]) == 78
    assert "store-type.yaml:4:15" in capsys.readouterr().err
    assert main(["serve", "--config", "placeholder.yaml", "--check-config"]) == 0
    assert "warning[W202]" in capsys.readouterr().err


def test_f253_serve_runs_with_the_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[Config] = []

    def run(config: Config) -> int:
        served.append(config)
        return 3

    monkeypatch.setattr(workers, "run", run)
    assert main(["serve", "-c", "minimal.yaml", "--set", "listen.address=127.0.0.1:1"]) == 3
    assert [config.listen.address for config in served] == ["127.0.0.1:1"]


def test_f253_serve_of_what_only_the_start_finds_out(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    missing = tmp_path / "ca.pem"
    argv = [
        "serve",
        "-c",
        "minimal.yaml",
        "--set",
        "upstreams.x.url=https://x",
        "--set",
        f"upstreams.x.tls.ca_file={missing}",
    ]
    assert main(argv) == 78
    assert str(missing) in capsys.readouterr().err


# ── healthcheck ───────────────────────────────────────────────────────────────────────────────────────────────────────


class Ready(BaseHTTPRequestHandler):
    """An administration listener, as far as the command can tell."""

    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/readyz" else 404)
        self.end_headers()
        self.wfile.write(b"store: no answer\n")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def listener() -> Iterator[HTTPServer]:
    with HTTPServer(("127.0.0.1", 0), Ready) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_f252_health_as_readyz_says(
    listener: HTTPServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"127.0.0.1:{listener.server_port}"
    command = ["healthcheck", "--config", "minimal.yaml", "--set", f"admin.address={address}"]
    assert main(command) == 0
    monkeypatch.setattr(Ready, "status", 503)
    assert main(command) == 1
    assert capsys.readouterr().err == f"not ready: {address} answers 503: store: no answer\n"


def test_f252_an_address_that_means_every_interface_is_reached_here(listener: HTTPServer) -> None:
    assert main(["healthcheck", "--address", f"0.0.0.0:{listener.server_port}"]) == 0


def test_f252_nobody_listens(listener: HTTPServer, capsys: pytest.CaptureFixture[str]) -> None:
    listener.socket.close()
    assert main(["healthcheck", "--address", f"127.0.0.1:{listener.server_port}"]) == 1
    assert "does not answer" in capsys.readouterr().err


def test_f252_warnings_are_not_repeated_at_every_check(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["healthcheck", "-c", "placeholder.yaml", "--set", "admin={address: null}"]) == 1
    assert "W202" not in capsys.readouterr().err


def test_f252_without_an_administration_listener(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["healthcheck", "-c", "minimal.yaml", "--set", "admin={address: null}"]) == 1
    assert "no administration listener" in capsys.readouterr().err


def test_f252_with_a_bad_configuration() -> None:
    assert main(["healthcheck", "-c", "store-type.yaml"]) == 78


def test_f252_addresses() -> None:
    from oidc_proxy.cli.healthcheck import reachable

    assert reachable("[::]:9180") == ("::1", 9180)
    assert reachable("[fd00::1]:1") == ("fd00::1", 1)
    assert reachable(":1") == ("127.0.0.1", 1)
    assert reachable("admin.internal:1") == ("admin.internal", 1)
