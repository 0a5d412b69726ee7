"""helm and kustomize, and what they make of deploy/: programs of others, found or built by Go.

``python -m tests.real.charts`` builds what is missing, with the machine's Go, or that of `requirements-apps.lock`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.real.applications import Applications
from tests.real.parts import Unavailable, alone, cache_folder

MODULES = {
    "helm": "helm.sh/helm/v3/cmd/helm@v3.19.2",
    "kustomize": "sigs.k8s.io/kustomize/kustomize/v5@v5.7.1",
}
DEPLOY = Path(__file__).parents[2] / "deploy"
CHART = DEPLOY / "helm" / "oidc-proxy"
VALUES = {path.name.removesuffix("-values.yaml"): path for path in sorted((CHART / "ci").glob("*.yaml"))}
KUBERNETES = "1.34.0"
"""What is rendered for, and held against."""


def program(name: str) -> str:
    """The path of helm or kustomize: as its variable ($HELM, $KUSTOMIZE) says, of the machine, or built before.

    :raises Unavailable: there is none
    """
    built = _folder() / name
    found = os.environ.get(name.upper()) or shutil.which(name) or (str(built) if built.exists() else None)
    if found is None:
        raise Unavailable(f"no {name}: `python -m tests.real.charts` builds it")
    return found


def build() -> None:
    """Build what is missing.

    :raises Unavailable: it cannot be built
    """
    for name in MODULES:
        with alone(_folder() / f"{name}.lock"):
            try:
                program(name)
            except Unavailable:
                _build(name)


def _build(name: str) -> None:
    why = ""
    for go in compilers():
        command = [go, "install", MODULES[name]]
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, env={**os.environ, "GOBIN": str(_folder())}
        )
        if done.returncode == 0:
            return
        why = done.stderr.strip()[-1000:]
    raise Unavailable(f"{name} cannot be built: {why}")


def compilers() -> Iterator[str]:
    """The machine's Go, which may be too old, and then one from a package.

    :raises Unavailable: that cannot be had either
    """
    found = shutil.which("go", path=f"{os.environ.get('PATH', '')}:/usr/local/go/bin")
    if found is not None:
        yield found
    yield Applications.prepared().program("go")


def rendered(helm: str, *options: str) -> subprocess.CompletedProcess[str]:
    """What ``helm template`` says; the release is called ``web``, in the namespace ``auth``."""
    command = [helm, "template", "web", str(CHART), "--namespace", "auth", "--kube-version", KUBERNETES, *options]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)


def objects(text: str) -> list[dict[str, Any]]:
    """The objects in a manifest."""
    return [found for found in yaml.safe_load_all(text) if found]


def of_kind(kind: str, found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [each for each in found if each["kind"] == kind]


def _folder() -> Path:
    folder = cache_folder() / "go"
    folder.mkdir(exist_ok=True)
    return folder


if __name__ == "__main__":
    try:
        build()
    except Unavailable as reason:
        sys.exit(f"helm and kustomize are not available: {reason}")
