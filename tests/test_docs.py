"""What the documentation says is so: every snippet, link, setting, endpoint, header, event, metric and file in it."""

from __future__ import annotations

import ast
import contextlib
import io
import re
import shlex
import subprocess
import tomllib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
import yaml

from oidc_proxy.cli import command_line, main
from oidc_proxy.config import Config, fields, read_config
from oidc_proxy.messages import NEVER_FROM_CLIENTS, canonical_name
from tests.gateway import World, running_world

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "oidc_proxy"
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "deploy").rglob("README.md")])
WRITTEN = [page for page in PAGES if page.name not in {"settings.md", "errors.md"}]
SOURCE = "\n".join(path.read_text() for path in sorted(PACKAGE.rglob("*.py")))
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
SETTINGS = {".".join(path).replace(".[]", "") for path, _, _ in fields.every_field(Config)}
ENVIRON = {"OIDC_CLIENT_SECRET": "a secret"}


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text_of(page), re.MULTILINE | re.DOTALL)


def prose(page: Path) -> str:
    return re.sub(r"^```.*?^```", "", text_of(page), flags=re.MULTILINE | re.DOTALL)


def words(page: Path) -> list[str]:
    """What stands in backquotes."""
    return re.findall(r"`([^`\n]+)`", prose(page))


def said(pattern: str, pages: list[Path] = WRITTEN) -> list[Any]:
    """Every word in backquotes that is like this, as a parameter of a test, with the page that has it."""
    found = {(page, word) for page in pages for word in words(page) if re.fullmatch(pattern, word)}
    return [pytest.param(word, id=f"{page.relative_to(ROOT)}: {word}") for page, word in sorted(found)]


def rows(page: Path, heading: str) -> list[list[str]]:
    """The cells of the first table below a heading."""
    table: list[list[str]] = []
    for line in f"\n{text_of(page)}".partition(f"\n{heading}\n")[2].splitlines():
        if line.startswith("|"):
            table.append([cell.strip() for cell in line.strip("|").split("|")])
        elif table:
            break
    return table[2:]


def bare(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


# ── snippets ──────────────────────────────────────────────────────────────────────────────────────────────────────────

SMALLEST = {
    "public_url": "https://app.example.com",
    "provider": {"issuer": "https://keycloak.example.com/realms/main", "client_id": "app", "client_secret": "x"},
    "upstream": "http://127.0.0.1:8080",
}
SNIPPETS = [
    pytest.param(block, id=f"{page.relative_to(ROOT)} {number}")
    for page in PAGES
    for number, block in enumerate(blocks(page, "yaml"), start=1)
]


def written(snippet: str, folder: Path) -> Path:
    """The snippet as a whole file, with the secrets that it names."""
    for name in re.findall(r"/run/secrets/(\w+)", snippet):
        (folder / name).write_text("a secret")
    content = snippet.replace("/run/secrets/", f"{folder}/")
    if not {"public_url", "provider"} & yaml.safe_load(content).keys():
        content = yaml.safe_dump({name: value for name, value in SMALLEST.items() if name not in content}) + content
    file = folder / "config.yaml"
    file.write_text(content)
    return file


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_every_configuration_passes_the_check(snippet: str, tmp_path: Path) -> None:
    loaded = read_config([written(snippet, tmp_path)], ENVIRON)
    assert loaded.settings is not None, [str(problem) for problem in loaded.problems]
    assert {problem.code for problem in loaded.problems} <= {"W201"}, loaded.problems


LINES = [
    pytest.param(line, id=f"{page.relative_to(ROOT)}: {line}")
    for page in PAGES
    for block in blocks(page, "sh")
    for line in block.splitlines()
]


@pytest.mark.parametrize("line", LINES)
def test_every_command_can_be_typed(line: str) -> None:
    match shlex.split(line, comments=True):
        case ["make", target]:
            assert target in TARGETS
            subprocess.run(["make", "--dry-run", target], cwd=ROOT, check=True, capture_output=True)
        case ["oidc-proxy", *arguments]:
            assert_parsed(arguments)
        case ["docker", "compose", "up", *options]:
            assert set(options) <= {"--build"}
            assert "services" in yaml.safe_load((ROOT / "docker-compose.yml").read_text())
        case ["helm", "install", "web", chart, "--values", "values.yaml"]:
            assert (ROOT / chart / "Chart.yaml").exists()
        case ["helm", "test", "web"] | ["kubectl", "create", "secret", "generic", "oidc-proxy", *_]:
            assert (ROOT / "deploy" / "helm").exists()
        case ["kubectl", "apply", "--kustomize", folder]:
            assert (ROOT / folder / "kustomization.yaml").exists()
        case ["traefik", "--providers.file.filename=dynamic.yaml", *_]:  # tests/real/fronts.py runs it
            assert (ROOT / "deploy" / "traefik" / "dynamic.yaml").exists()
        case ["export", assignment]:
            assert f"${{{assignment.partition('=')[0]}}}" in text_of(ROOT / "README.md")
        case _:
            pytest.fail("a command of which this test does not know how to try it")


def assert_parsed(arguments: list[str]) -> None:
    """The command line takes all of it."""
    command_line(arguments).parse_args(arguments)


def assert_command(arguments: list[str]) -> None:
    """There is such a command with these options."""
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), pytest.raises(SystemExit) as stopped:
        main([*arguments, "--help"])
    assert stopped.value.code == 0
    for option in arguments:
        if option.startswith("--"):
            assert option in shown.getvalue()


@pytest.mark.parametrize("command", said(r"oidc-proxy .+", PAGES))
def test_every_command_in_the_text_exists(command: str) -> None:
    assert_command(shlex.split(command)[1:])


@pytest.mark.parametrize("command", said(r"make [a-z-]+", PAGES))
def test_every_target_in_the_text_exists(command: str) -> None:
    assert command.removeprefix("make ") in TARGETS


# ── links and names ───────────────────────────────────────────────────────────────────────────────────────────────────


def links() -> Iterator[Any]:
    for page in PAGES:
        for link in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
            if not link.startswith(("http://", "https://")):
                yield pytest.param(page, link, id=f"{page.relative_to(ROOT)}: {link}")


@pytest.mark.parametrize(("page", "link"), list(links()))
def test_every_link_leads_somewhere(page: Path, link: str) -> None:
    path, _, anchor = link.partition("#")
    target = page.parent / path if path else page
    assert target.exists()
    if anchor:
        headings = re.findall(r"^#+ (.+)$", text_of(target), re.MULTILINE)
        assert anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_page_is_reached_from_the_readme() -> None:
    linked = set(re.findall(r"\]\((docs/\w+\.\w+)", text_of(ROOT / "README.md")))
    assert linked == {str(path.relative_to(ROOT)) for path in (ROOT / "docs").iterdir()}


FILES = "(?:oidc_proxy|tests|docs|deploy|server)/[^ ]*"


@pytest.mark.parametrize("name", said(FILES))
def test_every_file_in_the_text_exists(name: str) -> None:
    assert (ROOT / name).exists() or (PACKAGE / name).exists()


def test_the_map_has_every_module() -> None:
    named = {word.rstrip("/") for word in words(ROOT / "docs" / "architecture.md")}
    there = {path for folder in (PACKAGE, PACKAGE / "server") for path in folder.iterdir()}
    modules = {path for path in there if path.suffix == ".py" or (path / "__init__.py").exists()}
    modules -= {PACKAGE / "server", PACKAGE / "server" / "__init__.py"}
    assert {str(path.relative_to(ROOT)) for path in modules} - named == set()


SECTIONS = "|".join(Config.model_fields)


@pytest.mark.parametrize("name", said(rf"(?:{SECTIONS})(?:\.[a-z_*]+)+(?:: .+)?", PAGES))
def test_every_setting_in_the_text_exists(name: str) -> None:
    key = name.partition(":")[0].replace("*", "NAME")
    if key.rpartition(".")[2] not in {"py", "svg"} and key not in EVENTS:
        assert key in SETTINGS


@pytest.mark.parametrize("name", said(r"OIDC_PROXY__\w+", PAGES))
def test_every_variable_in_the_text_exists(name: str) -> None:
    assert name.removeprefix("OIDC_PROXY__").lower().replace("__", ".") in SETTINGS


@pytest.mark.parametrize("name", said(r"(?!KC_)[A-Z][A-Za-z]*(?:[-_][A-Z][A-Za-z]*)+"))
def test_every_header_in_the_text_is_known_to_the_code(name: str) -> None:
    quoted = re.findall(r"[\"'`]([A-Za-z][A-Za-z-]+)[\"'`]", SOURCE)
    assert canonical_name(name) in set(map(canonical_name, quoted))


@pytest.mark.parametrize("name", said(r"KC_\w+", PAGES))
def test_every_variable_of_keycloak_is_one_that_compose_sets(name: str) -> None:
    composed = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    assert name in composed["services"]["keycloak"]["environment"]


@pytest.mark.parametrize("name", said(r"oidc_proxy_[a-z_]+"))
def test_every_metric_in_the_text_exists(name: str) -> None:
    # The beginning is the same for all; Prometheus' client library ends a counter's name.
    assert f'"{name.removeprefix("oidc_proxy_").removesuffix("_total")}"' in SOURCE


# ── tables ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_dependencies_are_those_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups = project["dependency-groups"]
    wanted = {
        "## The program": project["project"]["dependencies"],
        "## Tests": groups["test"],
        "## Checks": groups["check"],
        "## Building": project["build-system"]["requires"],
    }
    for heading, requirements in wanted.items():
        names = [re.split(r"[^A-Za-z0-9_-]", requirement)[0] for requirement in requirements]
        described = rows(ROOT / "docs" / "dependencies.md", heading)
        assert [name for row in described for name in bare(row[0])] == names
        assert all(len(row) == 3 and all(row) for row in described)


def test_what_the_extra_takes_is_fixed_for_an_image_that_has_it() -> None:
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for extra, requirements in wanted.items():
        locked = re.findall(r"^([a-z-]+)==", (ROOT / f"requirements-{extra}.lock").read_text(), re.MULTILINE)
        assert {re.split(r"[^A-Za-z0-9_-]", requirement)[0] for requirement in requirements} <= set(locked)
        assert f"!requirements-{extra}.lock" in (ROOT / ".dockerignore").read_text()
        assert f"EXTRA={extra}" in (ROOT / "Dockerfile").read_text()


LOGGING, METRICS = ROOT / "docs" / "logging.md", ROOT / "docs" / "metrics.md"


def calls(tree: ast.AST, method: str) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == method:
            yield node


def logged(method: str) -> dict[str, set[str]]:
    """Event → the fields that are written where it is logged, as far as the code names them there."""
    events: dict[str, set[str]] = {}
    for owner in (node for node in ast.walk(ast.parse(SOURCE)) if isinstance(node, ast.ClassDef)):
        for function in owner.body:
            for call in calls(function, method):
                for name in _texts(owner, function, call.args[-1]) if call.args else ():
                    events.setdefault(name, set()).update(keyword.arg for keyword in call.keywords if keyword.arg)
    return events


def _texts(owner: ast.ClassDef, function: ast.stmt, value: ast.expr) -> Iterator[str]:
    """What an argument may be: a text, a text made with a parameter, or a parameter, if its methods pass it texts."""
    match value:
        case ast.Constant(value=str(text)):
            yield text
        case ast.JoinedStr([ast.Constant(value=str(text)), ast.FormattedValue(value=word)]):
            yield from (text + end for end in _texts(owner, function, word))
        case ast.Name(id=name):
            assert isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
            place = [argument.arg for argument in function.args.args].index(name) - 1
            for caller in owner.body:
                for call in calls(caller, function.name):
                    yield from _texts(owner, caller, call.args[place])


AUDIT, MESSAGES = logged("audit"), logged("message")
EVENTS = AUDIT.keys() | MESSAGES.keys()


def test_every_audit_event_is_described_with_its_fields() -> None:
    described = {bare(name)[0]: set(bare(names)) for name, _, names in rows(LOGGING, "## Audit events")}
    assert described.keys() == AUDIT.keys()
    for event, names in AUDIT.items():
        assert names <= described[event], event


def test_every_other_event_is_described() -> None:
    described = {bare(name)[0] for name, _, _ in rows(LOGGING, "## What else is logged")}
    assert described == MESSAGES.keys() | {"library"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world() -> AsyncIterator[World]:
    """One gateway, to which Ann has come once."""
    async with running_world() as world:
        async with world.browser() as ann:
            await ann.sign_in(f"{world.url}/echo/", "ann", "ann")
        yield world


@pytest.mark.asyncio(loop_scope="module")
class TestAWorld:
    async def test_what_the_application_receives(self, world: World) -> None:
        [call] = world.backend.requests
        received = {name for name in call.headers if name.startswith("X-") or name in {"Authorization", "Forwarded"}}
        described = {
            name for row in rows(ROOT / "README.md", "## What the application receives") for name in bare(row[0])
        }
        assert described == received

    async def test_every_field_of_the_access_log_is_described(self, world: World) -> None:
        described = {bare(row[0])[0] for heading in ("# Logging", "## Requests") for row in rows(LOGGING, heading)}
        assert world.lines(type="access")[-1].keys() == described

    @pytest.mark.parametrize("path", said(r"/oauth2/(?!auth\b)\w+", PAGES))
    async def test_every_endpoint_is_our_own(self, world: World, path: str) -> None:
        async with world.browser() as visitor:
            await visitor.request("GET", world.url + path)
        assert world.lines(type="access", path=path)[-1]["route"] == path

    async def test_every_metric_is_described_as_it_is(self, world: World) -> None:
        _, text = await admin(world, "/metrics")
        there = dict(re.findall(r"^# HELP (\S+) (.+)$", text, re.MULTILINE))
        kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
        described = {bare(name)[0]: told for name, *told in rows(METRICS, "## Metrics")}
        labelled = {family["name"]: family["labels"] for family in world.app.telemetry.metrics.snapshot()}
        assert {name for name in there if name.startswith("oidc_proxy_")} == described.keys()
        for name, (kind, labels, meaning) in described.items():
            assert (kind, meaning) == (kinds[name], there[name])
            assert bare(labels) == labelled[name.removesuffix("_total")]

    @pytest.mark.parametrize("path", said(r"/(?:livez|readyz|healthz|metrics)", PAGES))
    async def test_every_path_of_the_administration_listener_answers(self, world: World, path: str) -> None:
        status, _ = await admin(world, path)
        assert status == 200


async def admin(world: World, path: str) -> tuple[int, str]:
    url = f"http://127.0.0.1:{world.app.admin_port}{path}"
    async with aiohttp.ClientSession() as http, http.get(url) as response:
        return response.status, await response.text()


# ── claims of the readme ──────────────────────────────────────────────────────────────────────────────────────────────


def test_what_the_readme_says_is_removed_is_removed() -> None:
    _, _, section = text_of(ROOT / "README.md").partition("## What it does not believe")
    removed = bare(section.partition("* **Addresses**")[0])
    named = {canonical_name(name) for name in removed if not name.endswith("-") and "_" not in name}
    assert named - {"authorization"} <= NEVER_FROM_CLIENTS


def test_defaults_that_the_readme_names() -> None:
    config = Config.model_validate(SMALLEST)
    text = text_of(ROOT / "README.md")
    for name in ("session.idle_timeout", "session.absolute_timeout"):
        section, _, key = name.partition(".")
        assert re.search(rf"`{name}` \({getattr(getattr(config, section), key)}\)", text.replace("\n", " "))
    assert f"`{config.listen.address}`" in text
    assert f"`admin.address` (`{config.admin.address}`)" in text
    assert config.endpoints.prefix == "/oauth2"


@pytest.mark.parametrize(
    ("words", "sign"),
    [
        ("WebSockets", "sec-websocket-key"), ("back-channel logout", "/backchannel_logout"),
        ("forward-auth", "forward_auth"),
        ("worker process", "workers: int"),
    ],
)  # fmt: skip
def test_what_the_readme_says_is_not_there_yet_is_not_there(words: str, sign: str) -> None:
    _, _, section = text_of(ROOT / "README.md").partition("## Not there yet")
    gateway = "\n".join(path.read_text() for path in PACKAGE.rglob("*.py") if "demo" not in path.parts)
    assert (words in section.partition("##")[0]) != (sign in gateway.lower()), "README.md and the program differ"


def test_the_licence_is_the_one_that_is_declared() -> None:
    licence = text_of(ROOT / "LICENSE")
    assert "Apache License" in licence
    assert "Version 2.0, January 2004" in licence
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["license"] == "Apache-2.0"
    assert "Apache License 2.0" in text_of(ROOT / "README.md")
