"""What Kubernetes would not take of some objects, and what oidc_proxy reads of them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from oidc_proxy.config import Config, read_config
from tests.real.applications import Applications
from tests.real.charts import KUBERNETES, of_kind
from tests.real.crds import schemas

Object = dict[str, Any]
SECRETS = "/run/secrets/oidc-proxy/"
VALIDATION = """
import json, sys
from jsonschema import Draft4Validator
from jsonschema.exceptions import best_match
from kubernetes_validate import SchemaNotFoundError, ValidationError, validate
read = json.load(sys.stdin)
for found in read["objects"]:
    schema = read["schemas"].get(f"{found['apiVersion']}/{found['kind']}")
    try:
        if schema is None:
            validate(found, sys.argv[1], strict=True)
            problem = None
        else:
            problem = best_match(Draft4Validator(schema).iter_errors(found))
    except SchemaNotFoundError:
        print("unknown")
        continue
    except ValidationError as wrong:
        problem = wrong
    print("valid" if problem is None else ".".join(map(str, problem.path)) + " " + repr(problem.message[:300]))
"""
"""Objects of Kubernetes against its own schemas, others against those of their projects."""
EXTENSIONS = {
    "envoyExtAuthzHttp": {
        "service", "port", "pathPrefix", "timeout", "failOpen", "includeRequestHeadersInCheck",
        "headersToUpstreamOnAllow", "headersToDownstreamOnDeny",
    },
    "envoyExtAuthzGrpc": {"service", "port", "timeout", "failOpen"},
}  # fmt: skip
"""What Istio's own settings say of us: no object of the cluster, and without a schema."""


class Judge:
    """Kubernetes' own schemas, and those of the projects whose objects are made as well."""

    def __init__(self, python: Path) -> None:
        self._python = python
        self._known = schemas()

    @classmethod
    def prepared(cls) -> Judge:
        """:raises Unavailable: something of it cannot be had"""
        return cls(Applications.prepared().bin / "python")

    def refused(self, found: list[Object]) -> list[str]:
        """What Kubernetes would not take, and why."""
        used = {f"{each['apiVersion']}/{each['kind']}" for each in found}
        known = {name: self._known[name] for name in used & self._known.keys()}
        done = subprocess.run(
            [self._python, "-c", VALIDATION, KUBERNETES.rpartition(".")[0]],
            input=json.dumps({"objects": found, "schemas": known}),
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        said = done.stdout.splitlines()
        assert len(said) == len(found)
        verdicts = [mesh(each) if verdict == "unknown" else verdict for each, verdict in zip(found, said, strict=True)]
        return [
            f"{each['kind']} {each.get('metadata', {}).get('name')}: {verdict}"
            for each, verdict in zip(found, verdicts, strict=True)
            if verdict != "valid"
        ]


def mesh(found: Object) -> str:
    """What is wrong with Istio's own settings; nothing else may be without a schema."""
    if (found["apiVersion"], found["kind"]) != ("install.istio.io/v1alpha1", "IstioOperator"):
        return f"nobody knows {found['apiVersion']}"
    for provider in found["spec"]["meshConfig"]["extensionProviders"]:
        (kind,) = provider.keys() - {"name"}
        if provider[kind].keys() != EXTENSIONS[kind]:
            return f"{kind} has {sorted(provider[kind])}"
    return "valid"


def configuration(found: list[Object], tmp_path: Path) -> Config:
    """What oidc_proxy reads in the Pod, and no problem in it."""
    volumes = the_pod(found)["volumes"]
    (volume,) = (each for each in volumes if each["name"] == "config")
    (kept,) = (each for each in of_kind("ConfigMap", found) if name_of(each) == volume["configMap"]["name"])
    for secret in of_kind("Secret", found):
        for key in secret.get("data", ()):
            (tmp_path / key).write_text(f"what {key} holds")
    for volume in volumes:
        for source in volume.get("projected", {}).get("sources", ()):
            for item in source["secret"]["items"]:
                (tmp_path / item["path"]).write_text(f"{item['key']} of {source['secret']['name']}")
    file = tmp_path / "config.yaml"
    file.write_text(kept["data"]["config.yaml"].replace(SECRETS, f"{tmp_path}/"))
    loaded = read_config([file], {})
    assert loaded.settings is not None, [str(problem) for problem in loaded.problems]
    # Without an admin token, nobody can administer sessions; that is as it should be.
    assert {problem.code for problem in loaded.problems} <= {"W206"}, loaded.problems
    return loaded.settings


def name_of(found: Object) -> str:
    return str(found["metadata"]["name"])


def the_deployment(found: list[Object]) -> Object:
    (one,) = (each for each in of_kind("Deployment", found) if "valkey" not in name_of(each))
    return one


def the_pod(found: list[Object]) -> Object:
    spec: Object = the_deployment(found)["spec"]["template"]["spec"]
    return spec
