"""The fixtures for real servers, browsers and applications, and what a run of the tests says of them.

A part that this machine cannot have skips the tests that need it, and the summary of the run names it. With
`--real=require` (or OIDC_PROXY_REQUIRE_REAL=1) it fails them; with `--real=off` nothing is even tried.
"""

from __future__ import annotations

import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from functools import cache
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import pytest

from tests.real.parts import Unavailable

if TYPE_CHECKING:  # imported where they are used: a run of the pure tests waits for none of them
    from tests.real.applications import Applications
    from tests.real.browser import Chromium
    from tests.real.keycloak import Keycloak
    from tests.real.redis import RedisServer

T = TypeVar("T")

USED = pytest.StashKey[dict[str, str]]()
LEFT_OUT = pytest.StashKey[int]()
MISSING = pytest.StashKey[dict[str, str]]()
STARTING = pytest.StashKey["Future[Keycloak]"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--real",
        choices=["auto", "require", "off"],
        default="require" if os.environ.get("OIDC_PROXY_REQUIRE_REAL") == "1" else "auto",
        help="tests with real servers, browsers, applications: skip where one is missing, fail then, or leave all out",
    )
    parser.addoption(
        "--slow",
        action="store_true",
        default=os.environ.get("OIDC_PROXY_REQUIRE_REAL") == "1",
        help="also those that wait for real outages and time-outs, or move much",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: waits for real outages and time-outs, or moves much; run with --slow")
    config.stash[LEFT_OUT] = 0
    config.stash[USED] = {}
    config.stash[MISSING] = {}


def pytest_report_header(config: pytest.Config) -> str:
    traefik = os.environ.get("TRAEFIK", "as it was recorded (TRAEFIK=/path/to/traefik runs it)")
    return f"real parts: {config.option.real}, Traefik: {traefik}"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out slow tests unless they are wanted.

    In one process, Keycloak starts while others run, and those that need it come last. In several, what takes
    longest begins first.
    """
    if not config.option.slow:
        slow = [item for item in items if item.get_closest_marker("slow")]
        config.stash[LEFT_OUT] = len(slow)
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if not item.get_closest_marker("slow")]
    if _one_of_several(config):
        items.sort(key=_longest_first)
        return
    items.sort(key=_needs_keycloak)
    if items and _needs_keycloak(items[-1]) and config.option.real != "off" and not config.option.collectonly:
        _keycloak_to_come(config)


_LONGEST = ("real", "server", "contracts", "cli", "stories")


def _longest_first(item: pytest.Item) -> tuple[bool, int]:
    folder = item.path.parent.name
    return not _needs_keycloak(item), _LONGEST.index(folder) if folder in _LONGEST else len(_LONGEST)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Who runs what: a file's tests belong together, and so do the files whose tests need Keycloak."""
    from xdist.scheduler import LoadScopeScheduling

    @cache
    def scope(file: str) -> str:
        return "Keycloak" if "keycloak: Keycloak" in (config.rootpath / file).read_text() else file

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return scope(nodeid.partition("::")[0])

    return ByFile(config, log)


def _one_of_several(config: pytest.Config) -> bool:
    """Whether this process is one of those that pytest-xdist shares the tests among."""
    return hasattr(config, "workerinput")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """What there was to say goes to the process that says it."""
    if _one_of_several(session.config):
        output: dict[str, Any] = session.config.workeroutput  # type: ignore[attr-defined]
        output["real"] = [session.config.stash[key] for key in (LEFT_OUT, USED, MISSING)]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    left_out, used, missing = getattr(node, "workeroutput", {}).get("real", (0, {}, {}))
    stash: pytest.Stash = node.config.stash
    stash[LEFT_OUT] = max(stash[LEFT_OUT], left_out)
    stash[USED].update(used)
    stash[MISSING].update(missing)


def pytest_unconfigure(config: pytest.Config) -> None:
    starting = config.stash.get(STARTING, None)
    if starting is not None and starting.done() and starting.exception() is None:
        starting.result().close()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if config.stash[LEFT_OUT]:
        terminalreporter.write_line(f"Slow tests left out: {config.stash[LEFT_OUT]} (--slow runs them)")
    if config.stash[USED]:
        terminalreporter.write_line(f"Real parts used: {', '.join(sorted(config.stash[USED].values()))}")
    if config.stash[MISSING]:
        why = [f"{part} ({reason.splitlines()[0]})" for part, reason in sorted(config.stash[MISSING].items())]
        terminalreporter.write_line(f"Real parts not available: {', '.join(why)}", red=True)


@pytest.fixture(scope="session")
def keycloak(pytestconfig: pytest.Config) -> Keycloak:
    """One server for the whole run. Every test makes a realm of its own, and may stop or pause the server."""
    _unless_off(pytestconfig)
    try:
        server = _keycloak_to_come(pytestconfig).result()
    except Unavailable as reason:
        _missing(pytestconfig, "Keycloak", reason)
    pytestconfig.stash[USED]["Keycloak"] = str(server)
    return server


@pytest.fixture(autouse=True)
def _keycloak_is_back(request: pytest.FixtureRequest) -> Iterator[None]:
    server: Keycloak | None = request.getfixturevalue("keycloak") if _needs_keycloak(request.node) else None
    yield
    if server is not None:
        server.reset()


@pytest.fixture(scope="session")
def _redis(pytestconfig: pytest.Config) -> Iterator[RedisServer]:
    from tests.real.redis import RedisServer

    _unless_off(pytestconfig)
    try:
        server = RedisServer.launch()
    except Unavailable as reason:
        _missing(pytestconfig, "Redis", reason)
    pytestconfig.stash[USED]["Redis"] = str(server)
    yield server
    server.close()


@pytest.fixture
def redis_server(_redis: RedisServer) -> RedisServer:
    """An empty server without a password that keeps nothing on disk; a test may kill or pause it."""
    _redis.reset()
    return _redis


@pytest.fixture
def redis_servers(_redis: RedisServer) -> Iterator[Callable[..., RedisServer]]:
    """`RedisServer.launch` for servers with other options; they end with the test."""
    from tests.real.redis import RedisServer

    servers: list[RedisServer] = []

    def launch(**options: object) -> RedisServer:
        servers.append(RedisServer.launch(**options))  # type: ignore[arg-type]
        return servers[-1]

    yield launch
    for server in servers:
        server.close()


@pytest.fixture(scope="session")
def real_part(pytestconfig: pytest.Config) -> Callable[[str, Callable[[], T]], T]:
    """Asks a function for a part of this name; without it, the test is left out or fails, as the run wants."""

    def part(name: str, found: Callable[[], T]) -> T:
        _unless_off(pytestconfig)
        try:
            it = found()
        except Unavailable as reason:
            _missing(pytestconfig, name, reason)
        pytestconfig.stash[USED][name] = name
        return it

    return part


@pytest.fixture
async def chromium(pytestconfig: pytest.Config) -> AsyncIterator[Chromium]:
    """A new browser."""
    _unless_off(pytestconfig)
    try:
        from tests.real.browser import launched

        async with launched() as browser:
            pytestconfig.stash[USED]["Chromium"] = str(browser)
            yield browser
    except (ImportError, Unavailable) as reason:
        _missing(pytestconfig, "Chromium", reason)


@pytest.fixture(scope="session")
def applications(pytestconfig: pytest.Config) -> Applications:
    """The environment of applications that others wrote."""
    from tests.real.applications import Applications

    _unless_off(pytestconfig)
    try:
        found = Applications.prepared()
    except Unavailable as reason:
        _missing(pytestconfig, "Applications", reason)
    pytestconfig.stash[USED]["Applications"] = str(found)
    return found


@pytest.fixture
def system_program(pytestconfig: pytest.Config) -> Callable[[str], str]:
    """The path of a program that the system's packages bring."""
    from tests.real.applications import program_of_the_system

    def find(name: str) -> str:
        _unless_off(pytestconfig)
        try:
            return program_of_the_system(name)
        except Unavailable as reason:
            _missing(pytestconfig, name, reason)

    return find


def _needs_keycloak(item: pytest.Item) -> bool:
    return "keycloak" in getattr(item, "fixturenames", ())


def _keycloak_to_come(config: pytest.Config) -> Future[Keycloak]:
    """The server, which starts now unless it has done so before."""
    if STARTING not in config.stash:
        starting: Future[Keycloak] = Future()
        config.stash[STARTING] = starting
        threading.Thread(target=_start_keycloak, args=(starting,), daemon=True).start()
    return config.stash[STARTING]


def _start_keycloak(starting: Future[Keycloak]) -> None:
    from tests.real.keycloak import Keycloak

    try:
        starting.set_result(Keycloak.launch())
    except BaseException as error:  # whatever it is, the fixture that waits for the result is the one to raise it
        starting.set_exception(error)


def _unless_off(config: pytest.Config) -> None:
    if config.option.real == "off":
        pytest.skip("real parts are switched off")


def _missing(config: pytest.Config, part: str, reason: Exception) -> NoReturn:
    config.stash[MISSING][part] = str(reason)
    text = f"{part} is not available: {reason}"
    if config.option.real == "require":
        pytest.fail(text, pytrace=False)
    pytest.skip(text.splitlines()[0])
