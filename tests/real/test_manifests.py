"""The manifests of deploy/ and what kustomize makes of it: Kubernetes takes them, and oidc_proxy reads them."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.real.charts import DEPLOY, objects, of_kind, program
from tests.real.manifests import Judge, Object, configuration, name_of, the_deployment, the_pod

OVERLAYS = sorted(path.parent for path in (DEPLOY / "kustomize" / "overlays").glob("*/kustomization.yaml"))


@pytest.fixture(scope="module")
def kustomize(real_part: Callable[[str, Callable[[], str]], str]) -> str:
    return real_part("kustomize", partial(program, "kustomize"))


@pytest.fixture(scope="module")
def judge(real_part: Callable[[str, Callable[[], Judge]], Judge]) -> Judge:
    return real_part("Kubernetes' schemas", Judge.prepared)


def test_kubernetes_takes_every_manifest_in_the_folders_for_proxies(judge: Judge) -> None:
    texts = [path.read_text() for path in sorted(DEPLOY.glob("*/*.yaml")) if "\nkind:" in path.read_text()]
    found = [each for text in texts for each in objects(text)]
    assert len(found) > 10
    assert judge.refused(found) == []


# ── kustomize ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def built(kustomize: str, folder: Path) -> list[Object]:
    done = subprocess.run([kustomize, "build", str(folder)], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return objects(done.stdout)


@pytest.mark.parametrize("folder", OVERLAYS, ids=lambda folder: folder.name)
def test_kustomizations_are_taken_by_kubernetes(folder: Path, kustomize: str, judge: Judge) -> None:
    assert judge.refused(built(kustomize, folder)) == []


@pytest.mark.parametrize("folder", OVERLAYS, ids=lambda folder: folder.name)
def test_the_program_reads_what_a_kustomization_has(folder: Path, kustomize: str, tmp_path: Path) -> None:
    found = built(kustomize, folder)
    config = configuration(found, tmp_path)
    assert config.http.timeouts.drain_max + 5 + 5 < the_pod(found)["terminationGracePeriodSeconds"]
    assert bool(config.forward_auth.dialects) == (folder.name == "forward-auth")


def test_another_proxy_asks_at_a_port_of_its_own(kustomize: str, tmp_path: Path) -> None:
    found = built(kustomize, DEPLOY / "kustomize" / "overlays" / "forward-auth")
    address = configuration(found, tmp_path).forward_auth.address
    inside = {port["name"]: port["containerPort"] for port in the_pod(found)["containers"][0]["ports"]}
    assert address == f"0.0.0.0:{inside['checks']}"
    (service,) = (each for each in of_kind("Service", found) if name_of(each) == "oidc-proxy")
    served = {port["targetPort"]: port["port"] for port in service["spec"]["ports"]}
    assert served == {"http": 4180, "checks": 4182}


def test_prometheus_finds_the_sidecar_and_its_port(kustomize: str) -> None:
    found = built(kustomize, DEPLOY / "kustomize" / "overlays" / "sidecar")
    (monitor,) = of_kind("PodMonitor", found)
    template = the_deployment(found)["spec"]["template"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    (sidecar,) = template["spec"]["initContainers"]
    assert endpoint["port"] in {port["name"] for port in sidecar["ports"]}
    assert of_kind("Service", found)[0]["spec"]["ports"][0]["targetPort"] == "http", "and nothing else leads there"


def test_every_component_is_in_an_overlay() -> None:
    used = {
        text for path in OVERLAYS for text in re.findall(r"components/(\w+)", (path / "kustomization.yaml").read_text())
    }
    assert used == {path.name for path in (DEPLOY / "kustomize" / "components").iterdir()}
