"""Metrics of what is counted as plain integers where it happens, and read only when somebody asks for metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from .archive import SignedIn
from .cache import Cache
from .store import Store


class Gathered(Collector):
    """A source of metrics, as the registry wants it."""

    def __init__(self, source: Callable[[], Iterable[Metric]]) -> None:
        self._source = source

    def collect(self) -> Iterable[Metric]:
        return self._source()


def session_metrics(cache: Cache[SignedIn], store: Store) -> Gathered:
    """How this process' memory of sessions does, and whether the store is connected."""

    def numbers() -> Iterator[Metric]:
        yield GaugeMetricFamily("oidc_proxy_sessions_cached", "Sessions in this process' memory.", len(cache))
        looked_up = CounterMetricFamily(
            "oidc_proxy_session_cache", "Look-ups of sessions in memory; a miss asks the store.", labels=["result"]
        )
        looked_up.add_metric(["hit"], cache.hits)
        looked_up.add_metric(["miss"], cache.misses)
        yield looked_up
        yield CounterMetricFamily(
            "oidc_proxy_session_invalidations", "Changes that the store has announced.", cache.invalidations
        )
        yield CounterMetricFamily(
            "oidc_proxy_session_store_link_losses", "Times that changes may have gone unseen.", cache.losses
        )
        yield GaugeMetricFamily(
            "oidc_proxy_session_store_up",
            "Whether the store is connected and announces changes.",
            int(store.linked),
        )

    return Gathered(numbers)
