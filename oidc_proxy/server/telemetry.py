"""What is seen from outside: request ids, the access log, audit events, metrics.

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
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from pydantic import Field

from .. import __version__
from ..errors import ProxyError
from ..values import Instant, Settings, rfc3339


class LogSettings(Settings):
    """What is logged. Everything goes to standard output as one JSON object a line."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe messages that are logged."
    )
    access: bool = Field(True, description="One line for each request.")
    audit: bool = Field(True, description="One line for each sign-in, sign-out, refusal and end of a session.")


BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    """Prometheus metrics of one process. Labels hold configured names and codes, never anything that a client sent."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self.build_info = Gauge(
            "oidc_proxy_build_info", "Version that is running.", ["version", "python"], registry=registry
        )
        self.build_info.labels(__version__, ".".join(map(str, sys.version_info[:3]))).set(1)
        self.requests = Counter(
            "oidc_proxy_http_requests_total", "Requests answered.", ["route", "method", "code"], registry=registry
        )
        self.duration = Histogram(
            "oidc_proxy_http_request_duration_seconds",
            "Time from the request's head to the end of the answer.",
            ["route"],
            buckets=BUCKETS,
            registry=registry,
        )
        self.unreadable = Counter(
            "oidc_proxy_http_unreadable_requests_total",
            "Requests that could not be read, or did not arrive in time.",
            ["code"],
            registry=registry,
        )
        self.turned_away = Counter(
            "oidc_proxy_http_connections_refused_total",
            "Connections that were closed at once because there were too many.",
            registry=registry,
        )
        self.in_flight = Gauge("oidc_proxy_http_requests_in_flight", "Requests being answered.", registry=registry)
        self.decisions = Counter(
            "oidc_proxy_authz_decisions_total", "Decisions taken.", ["decision", "reason"], registry=registry
        )
        self.logins_started = Counter("oidc_proxy_login_started_total", "Sign-ins begun.", registry=registry)
        self.logins = Counter(
            "oidc_proxy_login_completed_total", "Sign-ins ended.", ["result", "error"], registry=registry
        )
        self.logouts = Counter("oidc_proxy_logout_total", "Sessions ended.", ["kind"], registry=registry)
        self.refreshes = Counter(
            "oidc_proxy_token_refresh_total", "Access tokens renewed, or not.", ["result"], registry=registry
        )
        self.refresh_duration = Histogram(
            "oidc_proxy_token_refresh_duration_seconds",
            "Time that the provider took to renew an access token, or not to.",
            buckets=BUCKETS,
            registry=registry,
        )
        self.lock_wait = Histogram(
            "oidc_proxy_session_lock_wait_seconds",
            "Time for which this process waited for another one to renew an access token.",
            buckets=BUCKETS,
            registry=registry,
        )
        self.errors = Counter("oidc_proxy_errors_total", "Answers of our own to a fault.", ["code"], registry=registry)
        self.provider_up = Gauge(
            "oidc_proxy_provider_up", "Whether metadata and keys of the provider are known.", registry=registry
        )
        self.jwks_age = Gauge("oidc_proxy_jwks_age_seconds", "Age of the provider's keys.", registry=registry)
        self.unconfirmed = Counter(
            "oidc_proxy_session_unconfirmed_total",
            "Requests served from memory while the store could not be asked.",
            registry=registry,
        )
        self.store_operations = Counter(
            "oidc_proxy_session_store_operations_total",
            "Operations of the session store.",
            ["op", "result"],
            registry=registry,
        )
        self.store_duration = Histogram(
            "oidc_proxy_session_store_operation_duration_seconds",
            "Time that an operation of the session store took.",
            ["op"],
            buckets=BUCKETS,
            registry=registry,
        )

        self.reloads = Counter(
            "oidc_proxy_reloads_total",
            "Times that changed files were read again.",
            ["setting", "result"],
            registry=registry,
        )

    def store_operation(self, op: str, result: str, seconds: float) -> None:
        """An operation of the store has ended: ``result`` is success or failure."""
        self.store_operations.labels(op, result).inc()
        self.store_duration.labels(op).observe(seconds)

    def exposition(self) -> bytes:
        """The metrics in Prometheus' text format."""
        return generate_latest(self.registry)


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
        self.metrics.unreadable.labels(fault.code).inc()
        self.metrics.errors.labels(fault.code).inc()
        self.metrics.requests.labels("", "other", fault.status).inc()
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
