"""What is counted, as plain numbers of one process; what several processes counted, together; Prometheus' text of it.

Counting is adding to a number in a dict: no lock, because one event loop counts, and no object per series. The client
library knows the text format, and what there is to know of any process.
"""

from __future__ import annotations

import sys
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import accumulate, chain
from time import perf_counter
from typing import Literal, TypeAlias, TypedDict

from prometheus_client import GC_COLLECTOR, PLATFORM_COLLECTOR, PROCESS_COLLECTOR
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from .. import __version__

BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the buckets, in seconds."""
SERIES_LIMIT = 5000
"""Most series of one family; what comes beyond is counted under labels that all say ``other``."""
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
"""Methods that are counted under their own name."""

Label: TypeAlias = str | int
Across: TypeAlias = Literal["sum", "max", "min"]
"""What several processes' numbers make together."""


class Family(TypedDict):
    """One metric with all its series, as JSON has it. ``name`` is without ``_total``.

    The numbers of a series are one, or, of a histogram, those of its buckets and then the sum of what was observed.
    """

    name: str
    help: str
    kind: Literal["counter", "gauge", "histogram"]
    across: Across
    labels: list[str]
    series: list[tuple[list[str], list[float]]]


Snapshot: TypeAlias = list[Family]
Source: TypeAlias = Callable[[], Iterable[Family]]
"""Gives families of what is counted elsewhere."""


class Counter:
    """Counts by the values of its labels."""

    __slots__ = ("_help", "_labels", "_name", "series")

    def __init__(self, name: str, meaning: str, *labels: str) -> None:
        self._name, self._help, self._labels = name, meaning, labels
        self.series: dict[tuple[Label, ...], float] = {} if labels else {(): 0}

    def inc(self, *labels: Label, by: float = 1) -> None:
        """Count one more, or ``by`` more."""
        series = self.series
        if labels in series:
            series[labels] += by
        else:
            labels = _bounded(labels, series)
            series[labels] = series.get(labels, 0) + by

    def family(self) -> Family:
        return counter(self._name, self._help, self._labels, self.series)


class Histogram:
    """Counts by duration and by the values of its labels."""

    __slots__ = ("_help", "_labels", "_name", "series")

    def __init__(self, name: str, meaning: str, *labels: str) -> None:
        self._name, self._help, self._labels = name, meaning, labels
        self.series: dict[tuple[Label, ...], list[float]] = {} if labels else {(): _empty()}

    def observe(self, seconds: float, *labels: Label) -> None:
        """Count one that took so long."""
        series = self.series.get(labels)
        if series is None:
            series = self.series.setdefault(_bounded(labels, self.series), _empty())
        series[bisect_left(BOUNDS, seconds)] += 1
        series[-1] += seconds

    @contextmanager
    def time(self, *labels: Label) -> Iterator[None]:
        """Observe how long the block takes, whichever way it ends."""
        began = perf_counter()
        try:
            yield
        finally:
            self.observe(perf_counter() - began, *labels)

    def family(self) -> Family:
        series = [(_texts(labels), list(numbers)) for labels, numbers in self.series.items()]
        return _family(self._name, self._help, "histogram", "sum", self._labels, series)


def _empty() -> list[float]:
    return [0] * (len(BOUNDS) + 2)  # +Inf, and the sum


def _bounded(labels: tuple[Label, ...], series: Mapping[tuple[Label, ...], object]) -> tuple[Label, ...]:
    return labels if len(series) < SERIES_LIMIT else ("other",) * len(labels)


def _texts(labels: Iterable[Label]) -> list[str]:
    return [str(label) for label in labels]


# ── families, of whatever is counted ──


def counter(
    name: str, meaning: str, labels: Iterable[str] = (), series: Mapping[tuple[Label, ...], float] | None = None
) -> Family:
    """A family of what only grows; ``name`` without ``oidc_proxy_`` and ``_total``."""
    numbers = [(_texts(values), [number]) for values, number in (series or {}).items()]
    return _family(name, meaning, "counter", "sum", labels, numbers)


def gauge(name: str, meaning: str, number: float | None, across: Across = "sum") -> Family:
    """A family of one number that goes up and down; None if it is not known."""
    return _family(name, meaning, "gauge", across, (), [] if number is None else [([], [number])])


def _family(
    name: str,
    meaning: str,
    kind: Literal["counter", "gauge", "histogram"],
    across: Across,
    labels: Iterable[str],
    series: list[tuple[list[str], list[float]]],
) -> Family:
    return {
        "name": f"oidc_proxy_{name}",
        "help": meaning,
        "kind": kind,
        "across": across,
        "labels": list(labels),
        "series": series,
    }


class Metrics:
    """What one process counts. Labels hold configured names and codes, never anything that a client sent."""

    def __init__(self) -> None:
        self.in_flight = 0
        """Requests being answered."""
        self.websockets = 0
        """Upgraded connections that are open."""
        self.servers_up: dict[tuple[Label, ...], float] = {}
        """Whether a server of several gets requests, by upstream and server."""
        self.requests = Counter("http_requests", "Requests answered.", "route", "method", "code")
        self.duration = Histogram(
            "http_request_duration_seconds", "Time from the request's head to the end of the answer.", "route"
        )
        self.unreadable = Counter(
            "http_unreadable_requests", "Requests that could not be read, or did not arrive in time.", "code"
        )
        self.turned_away = Counter(
            "http_connections_refused", "Connections that were closed at once because there were too many."
        )
        self.decisions = Counter("authz_decisions", "Decisions taken.", "decision", "reason")
        self.upstream_requests = Counter(
            "upstream_requests", "Requests passed to a backend, by its answer.", "upstream", "code"
        )
        self.upstream_duration = Histogram(
            "upstream_request_duration_seconds", "Time until the head of a backend's answer was there.", "upstream"
        )
        self.connect_errors = Counter(
            "upstream_connect_errors", "Connections to a backend that could not be opened.", "upstream", "reason"
        )
        self.logins_started = Counter("login_started", "Sign-ins begun.")
        self.logins = Counter("login_completed", "Sign-ins ended.", "result", "error")
        self.logouts = Counter("logout", "Sessions ended.", "kind")
        self.refreshes = Counter("token_refresh", "Access tokens renewed, or not.", "result")
        self.refresh_duration = Histogram(
            "token_refresh_duration_seconds", "Time that the provider took to renew an access token, or not to."
        )
        self.lock_wait = Histogram(
            "session_lock_wait_seconds",
            "Time for which this process waited for another one to renew an access token.",
        )
        self.errors = Counter("errors", "Answers of our own to a fault.", "code")
        self.unconfirmed = Counter(
            "session_unconfirmed", "Requests served from memory while the store could not be asked."
        )
        self.store_operations = Counter("session_store_operations", "Operations of the session store.", "op", "result")
        self.store_duration = Histogram(
            "session_store_operation_duration_seconds", "Time that an operation of the session store took.", "op"
        )
        self.loop_lag = Histogram(
            "event_loop_lag_seconds", "How late a timer was that is due every second: the loop was busy meanwhile."
        )
        self.reloads = Counter("reloads", "Times that changed files were read again.", "setting", "result")
        self._sources: list[Source] = []

    def request(self, route: str, method: str, status: int, decision: str, reason: str, seconds: float) -> None:
        """A request has been answered. ``reason`` is the code of what went wrong if ``decision`` is error."""
        self.requests.inc(route, method if method in METHODS else "other", status)
        self.duration.observe(seconds, route)
        if decision:
            self.decisions.inc(decision, reason if decision == "error" else "")

    def upstream(self, name: str, code: Label, seconds: float) -> None:
        """A backend has answered with this status, or has not, for the reason that this code names."""
        self.upstream_requests.inc(name, code)
        self.upstream_duration.observe(seconds, name)

    def store_operation(self, op: str, result: str, seconds: float) -> None:
        """An operation of the store has ended: ``result`` is success or failure."""
        self.store_operations.inc(op, result)
        self.store_duration.observe(seconds, op)

    def include(self, source: Source) -> None:
        """Let every snapshot have what this source gives then."""
        self._sources.append(source)

    def snapshot(self) -> Snapshot:
        """All that this process has counted, as JSON has it."""
        counted = (metric.family() for metric in vars(self).values() if isinstance(metric, Counter | Histogram))
        included = chain.from_iterable(source() for source in self._sources)
        return [
            _build_info(),
            gauge("workers", "Worker processes that answer.", 1),
            gauge("http_requests_in_flight", "Requests being answered.", self.in_flight),
            gauge("websocket_connections", "Upgraded connections that are open.", self.websockets),
            self._servers(),
            *counted,
            *included,
            *_process(),
        ]

    def _servers(self) -> Family:
        series: list[tuple[list[str], list[float]]] = [(_texts(labels), [up]) for labels, up in self.servers_up.items()]
        meaning = "Whether a server of several gets requests."
        return _family("upstream_up", meaning, "gauge", "min", ("upstream", "server"), series)


def _build_info() -> Family:
    python = ".".join(map(str, sys.version_info[:3]))
    series: list[tuple[list[str], list[float]]] = [([__version__, python], [1])]
    return _family("build_info", "Version that is running.", "gauge", "max", ("version", "python"), series)


_ACROSS: dict[str, Across] = {"python_info": "max", "process_start_time_seconds": "min", "process_max_fds": "min"}


def _process() -> Iterator[Family]:
    """What the client library knows of any process: memory, CPU time, open files, garbage collection."""
    for metric in chain(PLATFORM_COLLECTOR.collect(), GC_COLLECTOR.collect(), PROCESS_COLLECTOR.collect()):
        yield {
            "name": metric.name,
            "help": metric.documentation,
            "kind": "counter" if metric.type == "counter" else "gauge",
            "across": _ACROSS.get(metric.name, "sum"),
            "labels": list(metric.samples[0].labels),
            "series": [(list(sample.labels.values()), [sample.value]) for sample in metric.samples],
        }


# ── several processes ──


_TOGETHER: dict[Across, Callable[[float, float], float]] = {"sum": lambda a, b: a + b, "max": max, "min": min}


def merge(snapshots: Iterable[Snapshot]) -> Snapshot:
    """What several processes of the same release have counted, as if it were one. Also of snapshots read from JSON."""
    families: dict[str, Family] = {}
    series: dict[str, dict[tuple[str, ...], list[float]]] = {}
    for family in chain.from_iterable(snapshots):
        families.setdefault(family["name"], family)
        numbers = series.setdefault(family["name"], {})
        together = _TOGETHER[family["across"]]
        for labels, more in family["series"]:
            had = numbers.get(tuple(labels))
            numbers[tuple(labels)] = list(map(together, had, more)) if had is not None else more
    return [
        {**family, "series": [(list(labels), numbers) for labels, numbers in series[name].items()]}
        for name, family in families.items()
    ]


def lasting(snapshot: Snapshot) -> Snapshot:
    """What stays true of a process that has ended: its counts, so that their sums never go down."""
    return [family for family in snapshot if family["kind"] != "gauge"]


# ── text ──


class _Families(Collector):
    """A snapshot, as the client library wants it."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        for family in self._snapshot:
            name, meaning, labels = family["name"], family["help"], family["labels"]
            if family["kind"] == "histogram":
                histogram = HistogramMetricFamily(name, meaning, labels=labels)
                for values, (*buckets, total) in family["series"]:
                    histogram.add_metric(values, list(zip(_BOUNDS, accumulate(buckets), strict=True)), total)
                yield histogram
                continue
            simple = (CounterMetricFamily if family["kind"] == "counter" else GaugeMetricFamily)(
                name, meaning, labels=labels
            )
            for values, (number,) in family["series"]:
                simple.add_metric(values, number)
            yield simple


_BOUNDS = (*map(str, BOUNDS), "+Inf")


def exposition(snapshot: Snapshot) -> bytes:
    """The snapshot in Prometheus' text format."""
    return negotiated(snapshot, "")[0]


def negotiated(snapshot: Snapshot, accept: str) -> tuple[bytes, str]:
    """The snapshot in the format that an Accept header wants, OpenMetrics or Prometheus' text, and its media type."""
    encode, media_type = choose_encoder(accept)
    return encode(_Families(snapshot)), media_type
