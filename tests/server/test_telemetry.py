"""One JSON object a line, whatever the values are."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from oidc_proxy.errors import RequestFault
from oidc_proxy.server.telemetry import Access, LogSettings, Telemetry
from tests.stories.proxied import ann, get, world_with
from tests.world import Clock


def telemetry(**settings: Any) -> tuple[Telemetry, io.StringIO]:
    out = io.StringIO()
    return Telemetry(LogSettings.model_validate(settings), Clock(1_790_000_000.25), out), out


def lines(out: io.StringIO) -> list[dict[str, Any]]:
    text = out.getvalue()
    assert text == "" or text.endswith("\n")
    assert len(text.splitlines()) == text.count("\n")
    assert all(line.isprintable() for line in text.splitlines())
    return [json.loads(line) for line in text.splitlines()]


def test_a_line_begins_with_when_how_bad_and_of_what_kind() -> None:
    told, out = telemetry()
    told.write("app", "info", event="startup", number=1, nothing=None, several=["a", "b"])
    assert lines(out) == [
        {
            "ts": "2026-09-21T14:13:20.250Z", "level": "info", "type": "app", "event": "startup", "number": 1,
            "nothing": None, "several": ["a", "b"],
        }
    ]  # fmt: skip
    assert out.getvalue().startswith('{"ts":"2026-09-21T14:13:20.250Z","level":"info","type":"app"')


HOSTILE = [
    "a\r\nb", 'a","type":"audit', "\x1b[31m", "\0", "\x7f", "\x85", "\x9b31m", "\u2028", "\u2029", "\u202e", "\ufeff",
    "\U000e0001", "\\u0000", "é", "名前", "🦊", "\u00a0", "\\", "\t", "\x0b\x0c\x1c\x1d\x1e",
]  # fmt: skip


@pytest.mark.parametrize("value", HOSTILE, ids=ascii)
def test_br14_every_text_comes_through_and_forges_nothing(value: str) -> None:
    told, out = telemetry()
    told.write("access", "info", user_agent=value, both=[value])
    (line,) = lines(out)
    assert line["user_agent"] == value
    assert line["both"] == [value]
    assert line["type"] == "access"


@pytest.mark.parametrize("value", ["\udcff", "a\udce9b", "é" + chr(0xD83D)], ids=ascii)
def test_bytes_that_are_no_text_do_not_break_a_line(value: str) -> None:
    told, out = telemetry()
    told.write("access", "info", user_agent=value, path="/é")
    (line,) = lines(out)
    assert "\\ud" in line["user_agent"]
    assert line["path"] == "/é"


def access(**fields: Any) -> Access:
    """An ordinary request that was passed on."""
    usual = {
        "request_id": "1", "trace_id": None, "client_ip": "192.0.2.1", "method": "GET", "host": "app.test", "path": "/",
        "protocol": "HTTP/1.1", "status": 200, "bytes_in": 0, "bytes_out": 10, "duration_ms": 1.5, "route": "app",
        "decision": "allow", "reason": "", "detail": None, "upstream": "default", "upstream_status": 200,
        "upstream_duration_ms": 1.25, "sub": None, "user_agent": None,
    }  # fmt: skip
    return Access(**{**usual, **fields})


@pytest.mark.parametrize("value", [*HOSTILE, "\udcff", "é\udcff\x7f"], ids=ascii)
@pytest.mark.parametrize("field", ["path", "user_agent", "method", "detail"])
def test_br14_f236_no_request_forges_or_breaks_its_line(field: str, value: str) -> None:
    told, out = telemetry()
    told.access(access(**{field: value}))
    (line,) = lines(out)
    assert line[field] == value.encode("utf-8", "backslashreplace").decode()
    assert (line["type"], line["status"]) == ("access", 200)


def test_the_time_is_that_of_each_line_to_the_millisecond() -> None:
    clock, out = Clock(1_790_000_000.9996), io.StringIO()
    told = Telemetry(LogSettings(), clock, out)
    for seconds in (0, 0.0005, 0.9, 60, -60):
        clock.advance(seconds)
        told.access(access())
    assert [line["ts"][11:] for line in lines(out)] == [
        "14:13:20.999Z", "14:13:21.000Z", "14:13:21.900Z", "14:14:21.900Z", "14:13:21.900Z",
    ]  # fmt: skip
    assert out.getvalue().startswith(
        '{"ts":"2026-09-21T14:13:20.999Z","level":"info","type":"access","request_id":"1",'
    )


TROUBLES: list[dict[str, Any]] = [
    {"decision": "forbidden", "status": 403, "reason": "groups"},
    {"decision": "error", "status": 404, "reason": "bad_request"},
    {"decision": "login", "status": 302},
    {"status": 502, "reason": "upstream_timeout"},
    {"reason": "upstream_invalid_response"},
    {"status": 500},
    {"decision": "", "route": "/oauth2/callback", "status": 302},
]


@pytest.mark.parametrize("settings", [{"access_sample": 0}, {"exclude_paths": ["/"]}])
def test_f236_what_is_left_out_is_never_a_refusal_or_a_fault(settings: dict[str, Any]) -> None:
    told, out = telemetry(**settings)
    told.access(access())
    told.access(access(status=404))
    told.access(access(status=499))
    assert lines(out) == []
    for trouble in TROUBLES:
        told.access(access(**trouble))
    told.unreadable(RequestFault("bad_request", "x"), request_id="1", client_ip="192.0.2.1", bytes_out=1)
    assert len(lines(out)) == len(TROUBLES) + 1


def test_a_sample_is_about_as_large_as_was_asked_for() -> None:
    told, out = telemetry(access_sample=0.25)
    for _ in range(4000):
        told.access(access())
    assert 800 < len(lines(out)) < 1200  # seven standard deviations


@pytest.mark.parametrize(
    ("path", "logged"),
    [
        ("/live", False), ("/live/", True), ("/live/x", True), ("/liver", True), ("/lIve", True), ("/liv%65", True),
        ("/static/", False), ("/static/a/b.css", False), ("/static", True), ("/staticx", True),
        # What a backend may take for another path.
        ("/static/../admin", True), ("/static/./a", True), ("/static/%2e%2e/admin", True), ("/static//admin", True),
        ("/static/..;/admin", True), ("/static/..\\admin", True), ("/static/é", True), (None, True),
    ],
)  # fmt: skip
def test_f236_only_what_cannot_be_another_path_goes_unseen(path: str | None, logged: bool) -> None:
    told, out = telemetry(exclude_paths=["/live", "/static/"])
    told.access(access(path=path))
    assert bool(lines(out)) is logged


@pytest.mark.parametrize("wrong", [{"access_sample": 1.5}, {"access_sample": -1}, {"exclude_paths": ["static"]}])
def test_settings_that_mean_nothing(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        LogSettings.model_validate(wrong)


def test_no_access_log_is_none() -> None:
    told, out = telemetry(access=False)
    told.access(access(status=500))
    told.unreadable(RequestFault("bad_request", "x"), request_id="1", client_ip="192.0.2.1", bytes_out=1)
    assert lines(out) == []


async def test_f239_the_trace_is_named_that_the_backend_hears_of() -> None:
    identifier = "0af7651916cd43dd8448eb211c80319c"
    parent = f"traceparent: 00-{identifier}-b7ad6b7169203331-01"
    for trusted, wanted in (["127.0.0.1"], identifier), ([], None):
        async with world_with({"listen": {"trusted_proxies": trusted}}) as (world, backend):
            await get(world, parent)
            assert [line["trace_id"] for line in world.lines(type="access")] == [wanted]
            assert len(backend.seen[0].all("traceparent")) == (1 if wanted else 0)


async def test_f236_a_request_s_line_tells_what_came_and_went() -> None:
    async with world_with() as (world, backend):
        cookie = await ann(world)
        backend.seen.clear()
        response = await get(world, line="POST /public/x?secret", body=b"b" * 5000)
        (line,) = world.lines(type="access", path="/public/x")
        assert (line["protocol"], line["bytes_in"], line["upstream"], line["sub"]) == (
            "HTTP/1.1",
            5000,
            "default",
            None,
        )
        assert line["bytes_out"] > len(response.body)
        assert 0 < line["upstream_duration_ms"] <= line["duration_ms"]
        await get(world, line="GET /y", cookie=cookie)
        (line,) = world.lines(type="access", path="/y")
        assert (line["bytes_in"], line["decision"]) == (0, "allow")
        assert line["sub"]
        await get(world, line="GET /z")
        (line,) = world.lines(type="access", path="/z")
        assert [line[name] for name in ("upstream", "upstream_status", "upstream_duration_ms")] == [None] * 3
        assert "secret" not in world.log.getvalue()


def test_a_value_that_json_does_not_know_is_written_as_text() -> None:
    told, out = telemetry()
    told.message("error", "x", reason=ValueError("no"))
    assert lines(out)[0]["reason"] == "no"


@pytest.mark.parametrize(
    ("level", "said"),
    [("debug", ["debug", "info", "warning", "error"]), ("warning", ["warning", "error"]), ("error", ["error"])],
)
def test_messages_below_the_level_are_left_out(level: str, said: list[str]) -> None:
    told, out = telemetry(level=level)
    told.message("debug", "x")
    told.message("info", "x")
    told.message("warning", "x")
    told.message("error", "x")
    assert [line["level"] for line in lines(out)] == said


def test_the_level_silences_no_audit_line() -> None:
    told, out = telemetry(level="error")
    told.audit("login.succeeded", sub="ann")
    assert lines(out)[0]["event"] == "login.succeeded"
    told, out = telemetry(audit=False)
    told.audit("login.succeeded", sub="ann")
    assert lines(out) == []


def test_request_ids_are_fresh_and_well_formed() -> None:
    told, _ = telemetry()
    ids = {told.fresh_request_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert all(len(one) == 16 and int(one, 16) >= 0 for one in ids)


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    logger = logging.getLogger()
    handlers, level = logger.handlers[:], logger.level
    yield logger
    logger.handlers[:] = handlers
    logger.setLevel(level)


def test_what_libraries_log_comes_out_in_the_same_form_without_their_arguments(root: logging.Logger) -> None:
    told, out = telemetry(level="warning")
    told.take_over_logging()
    log = logging.getLogger("library")
    log.info("not this")
    log.warning("bad request from %s", "canary")
    try:
        raise ValueError("canary")
    except ValueError:
        log.exception("it broke: %s", "canary")
    assert [(line["level"], line["message"], line.get("error")) for line in lines(out)] == [
        ("warning", "bad request from %s", None),
        ("error", "it broke: %s", "ValueError"),
    ]
    assert all(line["logger"] == "library" for line in lines(out))
    assert "canary" not in out.getvalue()
    assert len(root.handlers) == 1
