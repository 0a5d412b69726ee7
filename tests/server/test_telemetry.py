"""One JSON object a line, whatever the values are."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from oidc_proxy.server.telemetry import LogSettings, Telemetry
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
