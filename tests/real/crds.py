"""The schemas of what is no part of Kubernetes: the definitions that each project ships with its Go module.

They are read, and nothing of them is built or run. What they say in CEL (``x-kubernetes-validations``) is not tried.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import yaml

from tests.real.charts import compilers
from tests.real.parts import Unavailable, alone, cache_folder, once

Schema = dict[str, Any]
SOURCES: dict[str, tuple[str, ...]] = {
    "sigs.k8s.io/gateway-api@v1.6.3": ("config/crd/experimental/gateway.networking.k8s.io_httproutes.yaml",),
    "github.com/envoyproxy/gateway@v1.9.1": (
        "charts/gateway-helm/charts/crds/crds/generated/gateway.envoyproxy.io_clienttrafficpolicies.yaml",
        "charts/gateway-helm/charts/crds/crds/generated/gateway.envoyproxy.io_securitypolicies.yaml",
    ),
    "istio.io/api@v1.31.4": ("kubernetes/customresourcedefinitions.gen.yaml",),
    "github.com/prometheus-operator/prometheus-operator@v0.85.0": (
        "example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml",
        "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml",
        "example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml",
    ),
    "github.com/traefik/traefik/v3@v3.7.13": (
        "docs/content/reference/dynamic-configuration/kubernetes-crd-definition-v1.yml",
    ),
}
"""Module → where its definitions are."""


@once
def schemas() -> dict[str, Schema]:
    """Schemas by ``group/version/kind``, in which a name that is not known is an error. Fetched once for a machine.

    :raises Unavailable: they cannot be had
    """
    folder = cache_folder() / "go"
    folder.mkdir(exist_ok=True)
    recipe = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:8]
    kept = folder / f"schemas-{recipe}.json"
    with alone(folder / "schemas.lock"):
        if not kept.exists():
            found = {name: schema for module in SOURCES for name, schema in _defined(module, folder).items()}
            kept.write_text(json.dumps(found))
    known: dict[str, Schema] = json.loads(kept.read_text())
    return known


class _Loader(yaml.SafeLoader):
    """``=`` is a word of its own to YAML 1.1; Prometheus' definitions have it as an operator."""


_Loader.add_constructor("tag:yaml.org,2002:value", yaml.SafeLoader.construct_scalar)


def _defined(module: str, folder: Path) -> dict[str, Schema]:
    place, found = _fetched(module, folder), {}
    for file in SOURCES[module]:
        for definition in yaml.load_all((place / file).read_text(), Loader=_Loader):
            if definition and definition["kind"] == "CustomResourceDefinition":
                spec = definition["spec"]
                for version in spec["versions"]:
                    name = f"{spec['group']}/{version['name']}/{spec['names']['kind']}"
                    schema = strict(version["schema"]["openAPIV3Schema"])
                    schema["properties"] |= {part: {} for part in ("apiVersion", "kind", "metadata")}
                    found[name] = schema
    return found


def _fetched(module: str, folder: Path) -> Path:
    """Where the module's files are."""
    own = {"GOMODCACHE": str(folder / "modules"), "GOFLAGS": "-modcacherw", "GOTOOLCHAIN": "local"}
    why = ""
    for go in compilers():
        done = subprocess.run(
            [go, "mod", "download", "-json", module],
            check=False,
            capture_output=True,
            text=True,
            cwd=folder,
            env={**os.environ, **own},
            timeout=600,
        )
        if done.returncode == 0:
            return Path(json.loads(done.stdout)["Dir"])
        why = (done.stderr or done.stdout).strip()[-1000:]
    raise Unavailable(f"{module} cannot be fetched: {why}")


def strict(schema: Schema) -> Schema:
    """The schema for a validator that knows JSON Schema: what Kubernetes would drop without a word is an error."""
    made = {key: value for key, value in schema.items() if key != "description"}
    if "properties" in made:
        made["properties"] = {name: strict(part) for name, part in made["properties"].items()}
        if not made.get("x-kubernetes-preserve-unknown-fields"):
            made.setdefault("additionalProperties", False)
    if isinstance(made.get("additionalProperties"), dict):
        made["additionalProperties"] = strict(made["additionalProperties"])
    if "items" in made:
        made["items"] = strict(made["items"])
    return made
