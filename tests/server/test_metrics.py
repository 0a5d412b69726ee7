"""What is counted, of one process and of several, and what Prometheus reads of it."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import aiohttp
import msgspec
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics_families
from prometheus_client.parser import text_string_to_metric_families

from oidc_proxy.server.metrics import SERIES_LIMIT, Metrics, Snapshot, exposition, gauge, lasting, merge, negotiated
from tests.stories.proxied import answer, eventually, get, swallow, world_with
from tests.world import free_port

WAITED = "oidc_proxy_session_lock_wait_seconds"


def value(snapshot: Snapshot, name: str, **labels: str) -> float | None:
    """What Prometheus reads, out of the text."""
    families = text_string_to_metric_families(exposition(snapshot).decode())
    samples = (sample for family in families for sample in family.samples)
    return next((one.value for one in samples if (one.name, one.labels) == (name, labels)), None)


def test_f240_a_request_is_counted_by_route_method_and_status() -> None:
    metrics = Metrics()
    for seconds in (0.001, 0.0011, 0.3, 99.0):
        metrics.request("app", "GET", 200, "allow", "", seconds)
    metrics.request("app", "GET", 403, "forbidden", "groups", 0.001)
    metrics.request("app", "GET", 502, "error", "upstream_unreachable", 0.001)
    metrics.request("/oauth2/start", "GET", 302, "", "", 0.001)
    seen = metrics.snapshot()
    assert value(seen, "oidc_proxy_http_requests_total", route="app", method="GET", code="200") == 4
    assert value(seen, "oidc_proxy_http_requests_total", route="/oauth2/start", method="GET", code="302") == 1
    duration = "oidc_proxy_http_request_duration_seconds"
    assert value(seen, f"{duration}_bucket", route="app", le="0.001") == 3, "a bound is within its bucket"
    assert value(seen, f"{duration}_bucket", route="app", le="0.0025") == 4
    assert value(seen, f"{duration}_bucket", route="app", le="0.25") == 4
    assert value(seen, f"{duration}_bucket", route="app", le="10.0") == 5
    assert value(seen, f"{duration}_bucket", route="app", le="+Inf") == 6
    assert value(seen, f"{duration}_count", route="app") == 6
    assert value(seen, f"{duration}_sum", route="app") == pytest.approx(99.3041)
    decisions = {("allow", ""): 4, ("forbidden", ""): 1, ("error", "upstream_unreachable"): 1, ("", ""): None}
    for (decision, reason), count in decisions.items():
        assert value(seen, "oidc_proxy_authz_decisions_total", decision=decision, reason=reason) == count


@pytest.mark.parametrize("method", ["BREW", "get", "GET\n", "PROPFIND", "CONNECT", 'X"}', "\udcff"])
def test_no_client_invents_a_label(method: str) -> None:
    metrics = Metrics()
    metrics.request("app", method, 200, "allow", "", 0.001)
    assert value(metrics.snapshot(), "oidc_proxy_http_requests_total", route="app", method="other", code="200") == 1


def test_series_are_bounded_and_nothing_goes_uncounted() -> None:
    metrics = Metrics()
    for number in range(SERIES_LIMIT + 30):
        metrics.request(f"r{number}", "GET", 200, "", "", 0.5)
        metrics.request("r1", "GET", 200, "", "", 0.5)
    assert len(metrics.requests.series) == len(metrics.duration.series) == SERIES_LIMIT + 1
    assert metrics.requests.series["other", "other", "other"] == 30
    assert metrics.requests.series["r1", "GET", 200] == SERIES_LIMIT + 31
    assert sum(map(sum, (numbers[:-1] for numbers in metrics.duration.series.values()))) == 2 * (SERIES_LIMIT + 30)


def test_what_has_no_labels_is_there_from_the_beginning() -> None:
    seen = Metrics().snapshot()
    for name in (
        "login_started_total",
        "http_requests_in_flight",
        "websocket_connections",
        "token_refresh_duration_seconds_count",
        "token_refresh_duration_seconds_sum",
    ):
        assert value(seen, f"oidc_proxy_{name}") == 0


def test_a_block_is_timed_even_if_it_fails() -> None:
    metrics = Metrics()
    with pytest.raises(ValueError, match="x"), metrics.refresh_duration.time():
        raise ValueError("x")
    assert value(metrics.snapshot(), "oidc_proxy_token_refresh_duration_seconds_count") == 1


def test_a_snapshot_is_of_its_moment_and_two_gateways_in_one_process_count_for_themselves() -> None:
    one, other = Metrics(), Metrics()
    one.errors.inc("bad_request")
    one.lock_wait.observe(0.5)
    before = one.snapshot()
    one.errors.inc("bad_request", by=2)
    one.lock_wait.observe(0.5)
    counts = [
        (value(seen, "oidc_proxy_errors_total", code="bad_request"), value(seen, f"{WAITED}_count"))
        for seen in (before, one.snapshot(), other.snapshot())
    ]
    assert counts == [(1, 1), (3, 2), (None, 0)]


@pytest.mark.parametrize("encode", [json.dumps, msgspec.json.encode])
def test_workers_tell_each_other_in_json_and_are_seen_as_one(encode: object) -> None:
    workers = [Metrics(), Metrics(), Metrics()]
    for number, metrics in enumerate(workers, 1):
        metrics.in_flight = number
        for _ in range(number):
            metrics.request("app", "GET", 200, "allow", "", 0.1 * number)
        metrics.include(
            lambda up=number: [gauge("up", "…", up, "min"), gauge("age", "…", up if up > 1 else None, "max")]
        )
    workers[0].errors.inc("bad_request")
    told = [json.loads(encode(metrics.snapshot())) for metrics in workers]  # type: ignore[operator]
    seen = merge(told)
    assert merge([seen]) == seen
    assert value(seen, "oidc_proxy_http_requests_in_flight") == 6
    assert value(seen, "oidc_proxy_http_requests_total", route="app", method="GET", code="200") == 6
    duration = "oidc_proxy_http_request_duration_seconds"
    assert value(seen, f"{duration}_bucket", route="app", le="0.1") == 1
    assert value(seen, f"{duration}_count", route="app") == 6
    assert value(seen, f"{duration}_sum", route="app") == pytest.approx(0.1 + 2 * 0.2 + 3 * 0.3)
    assert value(seen, "oidc_proxy_errors_total", code="bad_request") == 1
    assert (value(seen, "oidc_proxy_up"), value(seen, "oidc_proxy_age")) == (1, 3)
    text = exposition(seen).decode()
    assert len([line for line in text.splitlines() if line.startswith("oidc_proxy_build_info{")]) == 1
    assert "} 1.0" in next(line for line in text.splitlines() if line.startswith("oidc_proxy_build_info{"))
    assert len([line for line in text.splitlines() if line.startswith("# TYPE oidc_proxy_errors_total ")]) == 1


def test_merging_changes_none_of_the_snapshots() -> None:
    metrics = Metrics()
    metrics.errors.inc("bad_request")
    metrics.duration.observe(0.1, "app")
    one = metrics.snapshot()
    before = json.dumps(one)
    merge([one, metrics.snapshot(), one])
    assert json.dumps(one) == before


def test_counts_outlive_the_process_that_counted() -> None:
    ended, running = Metrics(), Metrics()
    ended.in_flight = 7
    ended.errors.inc("bad_request")
    ended.lock_wait.observe(1)
    seen = merge([lasting(ended.snapshot()), running.snapshot()])
    assert value(seen, "oidc_proxy_errors_total", code="bad_request") == 1
    assert value(seen, f"{WAITED}_count") == 1
    assert value(seen, "oidc_proxy_http_requests_in_flight") == 0


def test_nothing_at_all_is_an_empty_text() -> None:
    assert exposition(merge([])) == b""


def test_the_process_is_measured_as_prometheus_users_know_it() -> None:
    seen = Metrics().snapshot()
    assert (value(seen, "process_resident_memory_bytes") or 0) > 1e6
    assert (value(seen, "process_cpu_seconds_total") or 0) > 0
    assert 0 < (value(seen, "process_open_fds") or 0) <= len(list(Path("/proc/self/fd").iterdir()))
    start = value(seen, "process_start_time_seconds")
    both = merge([seen, Metrics().snapshot()])
    assert value(both, "process_start_time_seconds") == start
    assert (value(both, "process_resident_memory_bytes") or 0) > 1.5 * (
        value(seen, "process_resident_memory_bytes") or 0
    )


def test_openmetrics_for_who_asks_for_it() -> None:
    metrics = Metrics()
    metrics.request("app", "GET", 200, "allow", "", 0.1)
    seen = metrics.snapshot()
    body, media_type = negotiated(seen, "application/openmetrics-text;version=1.0.0,text/plain;q=0.5")
    assert media_type.startswith("application/openmetrics-text")
    families = {family.name: family for family in open_metrics_families(body.decode())}
    assert families["oidc_proxy_http_requests"].samples[0].value == 1
    assert body.endswith(b"# EOF\n")
    assert negotiated(seen, "") == (exposition(seen), "text/plain; version=0.0.4; charset=utf-8")


# ── stories ──


async def test_prometheus_gets_the_format_that_it_asks_for() -> None:
    wanted = {
        "": ("text/plain; version=0.0.4; charset=utf-8", text_string_to_metric_families),
        "text/html": ("text/plain; version=0.0.4; charset=utf-8", text_string_to_metric_families),
        "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.4": (
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
            open_metrics_families,
        ),
    }
    async with world_with() as (world, _), aiohttp.ClientSession() as http:
        await get(world)
        for accept, (media_type, parse) in wanted.items():
            headers = {"Accept": accept}
            async with http.get(f"http://127.0.0.1:{world.app.admin_port}/metrics", headers=headers) as answer:
                assert answer.headers["Content-Type"].startswith(media_type)
                samples = [one for family in parse(await answer.text()) for one in family.samples]
            counted = [one for one in samples if one.name == "oidc_proxy_http_requests_total"]
            assert [(one.value, one.labels["code"]) for one in counted] == [(1, "200")]


async def test_a_loop_that_is_held_up_is_seen() -> None:
    async with world_with() as (world, _):
        await asyncio.sleep(0.9)
        time.sleep(0.5)
        await eventually(lambda: world.metric("event_loop_lag_seconds_count") == 1)
        assert 0.3 < (world.metric("event_loop_lag_seconds_sum") or 0) < 0.6
        await eventually(lambda: world.metric("event_loop_lag_seconds_count") == 2)


async def test_f240_the_backend_is_counted_by_its_name_and_its_answers() -> None:
    async with world_with() as (world, backend):
        for status in ("200 OK", "404 Not Found", "200 OK"):
            backend.answer = lambda request, status=status: answer(status=status)
            await get(world)
        backend.answer = lambda request: b"nonsense\r\n\r\n"
        assert (await get(world)).status == 502
        counted = {
            code: world.metric("upstream_requests_total", upstream="default", code=code)
            for code in ("200", "404", "upstream_invalid_response", "upstream_unreachable")
        }
        assert counted == {"200": 2, "404": 1, "upstream_invalid_response": 1, "upstream_unreachable": None}
        assert world.metric("upstream_request_duration_seconds_count", upstream="default") == 4
        assert world.metric("upstream_connect_errors_total", upstream="default", reason="refused") is None


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://127.0.0.1:{closed}", "refused"),
        ("http://nowhere.invalid:80", "name"),
        ("https://127.0.0.1:{plain}", "tls"),
        ("unix:/nowhere/at/all", "other"),
    ],
)
async def test_f240_why_no_connection_could_be_opened(url: str, reason: str) -> None:
    async with world_with() as (plain, _):
        address = url.format(closed=free_port(), plain=plain.url.rpartition(":")[2])
        async with world_with({"upstream": {"url": address, "timeouts": {"connect": "5s"}}}) as (world, _):
            assert (await get(world)).status == 502
            assert world.metric("upstream_connect_errors_total", upstream="default", reason=reason) == 1
            assert world.metric("upstream_requests_total", upstream="default", code="upstream_unreachable") == 1


async def test_f240_a_connection_that_takes_too_long() -> None:
    """The port is open, but nobody shakes hands."""
    async with world_with(script=swallow) as (_, silent):
        url = silent.url.replace("http:", "https:")
        async with world_with({"upstream": {"url": url, "timeouts": {"connect": "100ms"}}}) as (world, _):
            assert (await get(world)).status == 504
            assert world.metric("upstream_connect_errors_total", upstream="default", reason="timeout") == 1
            assert world.metric("upstream_requests_total", upstream="default", code="upstream_timeout") == 1
