"""What is seen from outside: request ids, the access log, audit events.

One JSON object a line on standard output. Values are data: nothing is formatted into text, and no token, code, state or
cookie is ever handed to this module.
"""

from __future__ import annotations

import logging
import secrets
import sys
from collections.abc import Callable
from typing import Any, Literal, TextIO

import msgspec
from pydantic import Field

from ..errors import ProxyError
from ..values import Instant, Settings, rfc3339
from .metrics import Metrics


class LogSettings(Settings):
    """What is logged. Everything goes to standard output as one JSON object a line."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe messages that are logged."
    )
    access: bool = Field(True, description="One line for each request.")
    audit: bool = Field(True, description="One line for each sign-in, sign-out, refusal and end of a session.")


class Telemetry:
    """Log and metrics of one process."""

    def __init__(self, settings: LogSettings, clock: Callable[[], Instant], out: TextIO | None = None) -> None:
        self.settings, self.metrics = settings, Metrics()
        self._clock = clock
        self._turned_away = 0.0
        self._out = out if out is not None else sys.stdout
        self._encode = msgspec.json.Encoder(enc_hook=str).encode
        self._least = getattr(logging, settings.level.upper())

    def fresh_request_id(self) -> str:
        """16 hexadecimal digits."""
        return secrets.token_hex(8)

    def write(self, kind: str, level: str, **fields: Any) -> None:
        """One line. ``kind`` is access, audit or app."""
        line = {"ts": rfc3339(self._clock()), "level": level, "type": kind, **fields}
        # A lone surrogate is the one thing that would not encode.
        encoded = self._encode(line) if _encodable(line) else self._encode({k: _clean(v) for k, v in line.items()})
        text = encoded.decode()
        # JSON escapes only what is below U+0020: other characters end a line as well, or steer a terminal.
        self._out.write((text if text.isprintable() else "".join(map(_printable, text))) + "\n")
        self._out.flush()

    def message(self, level: Literal["debug", "info", "warning", "error"], event: str, **fields: Any) -> None:
        """Something worth knowing for whoever runs the gateway."""
        if getattr(logging, level.upper()) >= self._least:
            self.write("app", level, event=event, **fields)

    def audit(self, event: str, **fields: Any) -> None:
        """Something that happened to somebody's sign-in or access: stable event names, see docs/logging.md."""
        if self.settings.audit:
            self.write("audit", "info", event=event, **fields)

    def unreadable(self, fault: ProxyError, *, request_id: str, client_ip: str, bytes_out: int) -> None:
        """A request that no handler saw, and that was answered with this fault."""
        self.metrics.unreadable.inc(fault.code)
        self.metrics.errors.inc(fault.code)
        self.metrics.requests.inc("", "other", fault.status)
        if self.settings.access:
            fields = {"status": fault.status, "bytes_out": bytes_out, "decision": "error", "reason": fault.code}
            head = {"method": None, "host": None, "path": None, "route": "", "detail": fault.detail or None}
            self.write("access", "info", request_id=request_id, client_ip=client_ip, **head, **fields)

    def turned_away(self) -> None:
        """A connection that there was no room for. At most one line a minute says so."""
        self.metrics.turned_away.inc()
        now = self._clock()
        if now - self._turned_away >= 60:
            self._turned_away = now
            self.message("warning", "connections.full", reason="http.limits.connections is reached")

    def take_over_logging(self) -> None:
        """Let the standard library's log, where libraries write, come out in the same form."""
        handler = _Handler(self)
        root = logging.getLogger()
        root.handlers[:] = [handler]
        root.setLevel(self._least)


def _encodable(line: dict[str, Any]) -> bool:
    for value in line.values():
        if isinstance(value, str) and not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                return False
    return True


def _printable(character: str) -> str:
    if character.isprintable():
        return character
    units = character.encode("utf-16-be")
    return "".join(f"\\u{units[i] << 8 | units[i + 1]:04x}" for i in range(0, len(units), 2))


def _clean(value: Any) -> Any:
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


class _Handler(logging.Handler):
    def __init__(self, telemetry: Telemetry) -> None:
        super().__init__()
        self._telemetry = telemetry

    def emit(self, record: logging.LogRecord) -> None:
        # Only the kind of an exception: its text may quote what a client or the provider sent.
        error = record.exc_info[0].__name__ if record.exc_info and record.exc_info[0] else None
        fields = {"event": "library", "logger": record.name, "message": str(record.msg)}
        self._telemetry.write("app", record.levelname.lower(), **fields, **({"error": error} if error else {}))
