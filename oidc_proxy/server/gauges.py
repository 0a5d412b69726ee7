"""Metrics of what is counted as plain integers where it happens, and read only when somebody asks for metrics."""

from __future__ import annotations

from collections.abc import Iterator

from .archive import SignedIn
from .cache import Cache
from .metrics import Family, Label, Source, counter, gauge
from .provider import ProviderClient
from .store import Store


def session_metrics(cache: Cache[SignedIn], store: Store) -> Source:
    """How this process' memory of sessions does, and whether the store is connected."""

    def families() -> Iterator[Family]:
        yield gauge("sessions_cached", "Sessions in this process' memory.", len(cache))
        looked_up: dict[tuple[Label, ...], float] = {("hit",): cache.hits, ("miss",): cache.misses}
        yield counter("session_cache", "Look-ups of sessions in memory; a miss asks the store.", ["result"], looked_up)
        yield counter(
            "session_invalidations", "Changes that the store has announced.", series={(): cache.invalidations}
        )
        yield counter(
            "session_store_link_losses", "Times that changes may have gone unseen.", series={(): cache.losses}
        )
        yield gauge(
            "session_store_up", "Whether the store is connected and announces changes.", int(store.linked), "min"
        )

    return families


def provider_metrics(provider: ProviderClient) -> Source:
    """Whether the provider is known, and since when."""

    def families() -> Iterator[Family]:
        known = provider.metadata.known is not None and provider.keys.known is not None
        yield gauge("provider_up", "Whether metadata and keys of the provider are known.", int(known), "min")
        yield gauge("jwks_age_seconds", "Age of the provider's keys.", provider.keys.age, "max")

    return families
