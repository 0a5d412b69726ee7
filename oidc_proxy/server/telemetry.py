"""What is seen from outside: request ids, the access log, audit events.

One JSON object a line. Values are data: nothing is formatted into text, and no token, code, state or cookie is ever
handed to this module.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import Annotated, Any, Literal, TextIO

import msgspec
from pydantic import Field

from ..errors import ProxyError
from ..policy.readings import SAME_IN_EVERY_READING
from ..values import Instant, Settings, rfc3339
from .metrics import Family, Label, Metrics, counter
from .outlet import Outlet


class LogSettings(Settings):
    """What is logged. Everything goes to standard output as one JSON object a line."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe messages that are logged."
    )
    access: bool = Field(True, description="One line for each request.")
    access_sample: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Share of the requests passed on that get a line, from 0 to 1. What was refused, went wrong or is "
        "about a sign-in always gets one.",
        examples=[0.01],
    )
    exclude_paths: tuple[Annotated[str, Field(pattern="^/")], ...] = Field(
        (),
        description="Paths whose requests get no line: exactly this path and, if it ends with a slash, what is below "
        "it. What was refused or went wrong gets one all the same.",
        examples=[["/favicon.ico", "/static/"]],
    )
    audit: bool = Field(True, description="One line for each sign-in, sign-out, refusal and end of a session.")


class Access(msgspec.Struct, gc=False):
    """What the access log says of one request. docs/logging.md has the meaning of each field."""

    request_id: str
    trace_id: str | None
    client_ip: str
    method: str | None
    host: str | None
    path: str | None
    protocol: str | None
    status: int
    bytes_in: int
    bytes_out: int
    duration_ms: float | None
    route: str
    decision: str
    reason: str
    detail: str | None
    upstream: str | None
    upstream_status: int | None
    upstream_duration_ms: float | None
    sub: str | None
    user_agent: str | None


_LINE = b'{"ts":"%b%03dZ","level":"%b","type":"%b",%b\n'
_LAG_EVERY = 1.0


class Telemetry:
    """Log and metrics of one process. ``out`` gets each line at once; else standard output gets them gathered."""

    def __init__(self, settings: LogSettings, clock: Callable[[], Instant], out: TextIO | None = None) -> None:
        self.settings, self.metrics = settings, Metrics()
        self._clock = clock
        self._process, self._serial = secrets.token_hex(4), itertools.count(secrets.randbits(32))
        self._turned_away = 0.0
        self._encode = msgspec.json.Encoder(enc_hook=str).encode
        self._least = getattr(logging, settings.level.upper())
        self._second, self._stamp = -1, b""
        self._unlogged = frozenset(settings.exclude_paths)
        self._unlogged_below = tuple(path for path in settings.exclude_paths if path.endswith("/"))
        self._lag: asyncio.TimerHandle | None = None
        self._outlet: Outlet | _Direct
        if out is not None:
            self._outlet = _Direct(out)
        else:
            self._outlet = Outlet(None if sys.stdout is None else 1, self._recovered)
        self.metrics.include(self._lines_lost)

    def open(self) -> None:
        """Measure from now on how late the event loop is that runs."""
        due = time.perf_counter() + _LAG_EVERY
        self._lag = asyncio.get_running_loop().call_later(_LAG_EVERY, self._measure_lag, due)

    def close(self) -> None:
        """Write what is not yet written."""
        if self._lag is not None:
            self._lag.cancel()
        self._outlet.close()

    def fresh_request_id(self) -> str:
        """16 hexadecimal digits, no two alike: half of them tell the processes apart."""
        return f"{self._process}{next(self._serial) & 0xFFFFFFFF:08x}"

    # ── what is written ──

    def write(self, kind: str, level: str, **fields: Any) -> None:
        """One line. ``kind`` is audit or app; there is at least one field."""
        self._write(kind.encode(), level, fields)

    def message(self, level: Literal["debug", "info", "warning", "error"], event: str, **fields: Any) -> None:
        """Something worth knowing for whoever runs the gateway."""
        if getattr(logging, level.upper()) >= self._least:
            self.write("app", level, event=event, **fields)

    def audit(self, event: str, **fields: Any) -> None:
        """Something that happened to somebody's sign-in or access: stable event names, see docs/logging.md."""
        if self.settings.audit:
            self.write("audit", "info", event=event, **fields)

    def access(self, line: Access) -> None:
        """A request has been answered. What was refused or went wrong is always logged, the rest as settings say."""
        if self.settings.access and not self._is_left_out(line):
            self._write(b"access", "info", line)

    def _is_left_out(self, line: Access) -> bool:
        if line.decision != "allow" or line.reason or line.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return False
        if self._unlogged and self._is_unlogged(line.path or ""):
            return True
        share = self.settings.access_sample
        return share < 1 and random.random() >= share  # noqa: S311  a sample, no secret

    def _is_unlogged(self, path: str) -> bool:
        """Below an excluded path is only what no backend can take for another path."""
        if path in self._unlogged:
            return True
        return path.startswith(self._unlogged_below) and SAME_IN_EVERY_READING.fullmatch(path) is not None

    def _write(self, kind: bytes, level: str, fields: Access | dict[str, Any]) -> None:
        second, fraction = divmod(round(self._clock() * 1_000_000), 1_000_000)
        if second != self._second:
            self._second, self._stamp = second, rfc3339(second)[:-4].encode()
        line = _LINE % (self._stamp, fraction // 1000, level.encode(), kind, self._encoded(fields)[1:])
        self._outlet.add(line, urgent=kind != b"access")

    def _encoded(self, fields: Access | dict[str, Any]) -> bytes:
        """JSON of printable characters: others end lines, or steer a terminal. JSON escapes only those below U+0020."""
        try:
            encoded = self._encode(fields)
        except UnicodeEncodeError:  # a lone surrogate, which stands for a byte that is no text
            encoded = self._encode(_clean(msgspec.to_builtins(fields, enc_hook=str)))
        if encoded.isascii() and b"\x7f" not in encoded:
            return encoded
        text = encoded.decode()
        return encoded if text.isprintable() else "".join(map(_printable, text)).encode()

    # ── what nobody but us sees ──

    def unreadable(self, fault: ProxyError, *, request_id: str, client_ip: str, bytes_out: int) -> None:
        """A request that no handler saw, and that was answered with this fault."""
        self.metrics.unreadable.inc(fault.code)
        self.metrics.errors.inc(fault.code)
        self.metrics.requests.inc("", "other", fault.status)
        if self.settings.access:
            self.access(
                Access(
                    request_id=request_id,
                    trace_id=None,
                    client_ip=client_ip,
                    method=None,
                    host=None,
                    path=None,
                    protocol=None,
                    status=fault.status,
                    bytes_in=0,
                    bytes_out=bytes_out,
                    duration_ms=None,
                    route="",
                    decision="error",
                    reason=fault.code,
                    detail=fault.detail or None,
                    upstream=None,
                    upstream_status=None,
                    upstream_duration_ms=None,
                    sub=None,
                    user_agent=None,
                )
            )

    def turned_away(self) -> None:
        """A connection that there was no room for. At most one line a minute says so."""
        self.metrics.turned_away.inc()
        now = self._clock()
        if now - self._turned_away >= 60:
            self._turned_away = now
            self.message("warning", "connections.full", reason="http.limits.connections is reached")

    def upstream(self, name: str, server: str, up: bool, why: str) -> None:
        """A server of several gets requests from now on, or none; why not is for the log."""
        self.metrics.servers_up[name, server] = float(up)
        if up:
            self.message("info", "upstream.server_up", upstream=name, server=server)
        else:
            self.message("warning", "upstream.server_down", upstream=name, server=server, reason=why)

    def _measure_lag(self, due: float) -> None:
        self.metrics.loop_lag.observe(max(0.0, time.perf_counter() - due))
        self.open()

    def _recovered(self, lost: int) -> None:
        self.message("warning", "log.lines_lost", lines=lost, reason="standard output took no more")

    def _lines_lost(self) -> Iterator[Family]:
        lost: dict[tuple[Label, ...], float] = {(): self._outlet.lost}
        yield counter("log_lines_lost", "Log lines that were dropped because nobody took them.", series=lost)

    def take_over_logging(self) -> None:
        """Let the standard library's log, where libraries write, come out in the same form."""
        handler = _Handler(self)
        root = logging.getLogger()
        root.handlers[:] = [handler]
        root.setLevel(self._least)


class _Direct:
    """Lines that are written to a text file as they come."""

    lost = 0

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def add(self, line: bytes, urgent: bool = False) -> None:
        self._out.write(line.decode())

    def close(self) -> None:
        self._out.flush()


def _printable(character: str) -> str:
    if character.isprintable():
        return character
    units = character.encode("utf-16-be")
    return "".join(f"\\u{units[i] << 8 | units[i + 1]:04x}" for i in range(0, len(units), 2))


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {name: _clean(one) for name, one in value.items()}
    return [_clean(one) for one in value] if isinstance(value, list) else value


class _Handler(logging.Handler):
    def __init__(self, telemetry: Telemetry) -> None:
        super().__init__()
        self._telemetry = telemetry

    def emit(self, record: logging.LogRecord) -> None:
        # Only the kind of an exception: its text may quote what a client or the provider sent.
        error = record.exc_info[0].__name__ if record.exc_info and record.exc_info[0] else None
        fields = {"event": "library", "logger": record.name, "message": str(record.msg)}
        self._telemetry.write("app", record.levelname.lower(), **fields, **({"error": error} if error else {}))
