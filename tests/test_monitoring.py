"""The alerts and the dashboard that are shipped: whatever they ask for is counted, with the labels that they name."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import yaml

from oidc_proxy.errors import FAMILIES
from tests.gateway import World, running_world
from tests.test_docs import METRICS, admin, bare, rows

CHART = Path(__file__).parents[1] / "deploy" / "helm" / "oidc-proxy"
ALERTS = [rule for group in yaml.safe_load((CHART / "alerts.yaml").read_text())["groups"] for rule in group["rules"]]
DASHBOARD = json.loads((CHART / "dashboards" / "oidc-proxy.json").read_text())
SCRAPED = {"namespace", "job", "pod", "instance"}
"""Labels that Prometheus adds in Kubernetes."""


def panels() -> Iterator[dict[str, Any]]:
    yield from (panel for panel in DASHBOARD["panels"] if panel["type"] != "row")


QUERIES = [
    *(pytest.param(rule["expr"], id=rule["alert"]) for rule in ALERTS),
    *(pytest.param(target["expr"], id=panel["title"]) for panel in panels() for target in panel["targets"]),
    *(
        pytest.param(variable["definition"], id=variable["name"])
        for variable in DASHBOARD["templating"]["list"]
        if variable["type"] == "query"
    ),
]
LABELS = {bare(name)[0]: set(bare(labels)) for name, _, labels, _ in rows(METRICS, "## Metrics")}
"""What each metric is told apart by; tests/test_docs.py holds that table to the program."""


def asked(query: str) -> set[str]:
    return set(re.findall(r"\b(?:oidc_proxy|process)_[a-z_]+", query))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world() -> AsyncIterator[World]:
    async with running_world() as world:
        yield world


@pytest.mark.asyncio(loop_scope="module")
async def test_every_metric_that_is_asked_for_is_there(world: World) -> None:
    _, text = await admin(world, "/metrics")
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    there = set(kinds) | {f"{name}_bucket" for name, kind in kinds.items() if kind == "histogram"}
    assert {name for query in QUERIES for name in asked(query.values[0])} <= there


@pytest.mark.parametrize("query", QUERIES)
def test_a_query_names_metrics_and_labels_that_are_there(query: str) -> None:
    metrics = asked(query)
    assert metrics
    for name, selector in re.findall(r"\b(oidc_proxy_[a-z_]+)\{([^}]*)\}", query):
        used = set(re.findall(r'(\w+)(?:=~|!~|!=|=)"', selector))
        assert used <= labels_of(name) | SCRAPED, name
    grouped = {word for by in re.findall(r"\bby \(([^)]*)\)", query) for word in by.split(", ")}
    assert grouped <= set.union(*map(labels_of, metrics)) | SCRAPED
    assert query.count("(") == query.count(")")


def labels_of(metric: str) -> set[str]:
    histogram = metric.endswith("_bucket")
    return LABELS.get(metric.removesuffix("_bucket"), set()) | ({"le"} if histogram else set())


@pytest.mark.parametrize("query", QUERIES)
def test_a_code_in_a_query_is_one_of_ours(query: str) -> None:
    for code in re.findall(r'oidc_proxy_errors_total\{code="(\w+)"', query):
        assert code in {known for family in FAMILIES for known in family.codes}


@pytest.mark.parametrize("rule", [pytest.param(rule, id=rule["alert"]) for rule in ALERTS])
def test_an_alert_says_what_is_wrong(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert rule["annotations"]["summary"].endswith(".")
    assert rule["annotations"]["description"].endswith(".")
    named = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["description"]))
    assert all(re.search(rf"by \([^)]*\b{label}\b", rule["expr"]) for label in named)


def test_alerts_have_names_of_their_own() -> None:
    names = [rule["alert"] for rule in ALERTS]
    assert len(set(names)) == len(names)


def test_the_dashboard_lies_well() -> None:
    """Ids are unique, and no two panels share a place."""
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
