"""helm and kustomize, and what they make of deploy/: programs of others, found or built by Go.

``python -m tests.real.charts`` builds what is missing, where there is Go.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.real.parts import Unavailable, alone, cache_folder

MODULES = {
    "helm": "helm.sh/helm/v3/cmd/helm@v3.19.2",
    "kustomize": "sigs.k8s.io/kustomize/kustomize/v5@v5.7.1",
}
DEPLOY = Path(__file__).parents[2] / "deploy"
CHART = DEPLOY / "helm" / "oidc-proxy"
KUBERNETES = "1.34.0"
"""What is rendered for, and held against."""


def program(name: str) -> str:
    """The path of helm or kustomize: as its variable ($HELM, $KUSTOMIZE) says, of the machine, or built before.

    :raises Unavailable: there is none
    """
    built = _folder() / name
    found = os.environ.get(name.upper()) or shutil.which(name) or (str(built) if built.exists() else None)
    if found is None:
        raise Unavailable(f"{name} is not installed; with Go, `python -m tests.real.charts` builds it")
    return found


def build() -> None:
    """Build what is missing."""
    go = shutil.which("go", path=f"{os.environ.get('PATH', '')}:/usr/local/go/bin:/usr/lib/go/bin")
    for name, module in MODULES.items():
        with alone(_folder() / f"{name}.lock"):
            try:
                program(name)
            except Unavailable as reason:
                if go is None:
                    raise Unavailable(f"{name} is not installed, and Go, which builds it, is not either") from reason
                subprocess.run([go, "install", module], check=True, env={**os.environ, "GOBIN": str(_folder())})


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
    except (Unavailable, subprocess.CalledProcessError) as missing:
        sys.exit(str(missing))
