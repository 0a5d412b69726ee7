"""The Helm chart and the kustomizations: what they render is what Kubernetes takes, and what oidc_proxy reads."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from oidc_proxy.server.store.settings import RedisStoreSettings
from tests.real.charts import CHART, DEPLOY, VALUES, objects, of_kind, program, rendered
from tests.real.manifests import Judge, Object, configuration, name_of, the_deployment, the_pod
from tests.test_docs import PAGES, blocks


@pytest.fixture(scope="module")
def helm(real_part: Callable[[str, Callable[[], str]], str]) -> str:
    return real_part("helm", partial(program, "helm"))


@pytest.fixture(scope="module")
def judge(real_part: Callable[[str, Callable[[], Judge]], Judge]) -> Judge:
    return real_part("Kubernetes' schemas", Judge.prepared)


@pytest.fixture(scope="module")
def manifests(helm: str) -> dict[str, list[Object]]:
    """What each values file in ci/ makes."""
    made = {}
    for name, path in VALUES.items():
        done = rendered(helm, "--values", str(path))
        assert done.returncode == 0, f"{name}: {done.stderr}"
        made[name] = objects(done.stdout)
    return made


# ── what every values file makes ──────────────────────────────────────────────────────────────────────────────────────


def test_kubernetes_takes_every_object(manifests: dict[str, list[Object]], judge: Judge) -> None:
    found = [each for made in manifests.values() for each in made]
    assert judge.refused(found) == []


def test_what_kubernetes_does_not_take_is_noticed(manifests: dict[str, list[Object]], judge: Judge) -> None:
    deployment = json.loads(json.dumps(the_deployment(manifests["minimal"])))
    deployment["spec"]["replica"] = 2
    unheard = {"apiVersion": "example.com/v1", "kind": "Nobody", "metadata": {"name": "x"}, "spec": {}}
    route = {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": "x"},
        "spec": {"rule": []},
    }
    monitor = json.loads(json.dumps(*of_kind("PodMonitor", manifests["pod-monitor"])))
    monitor["spec"]["podMetricsEndpoints"][0]["prot"] = "admin"
    istio = json.loads(json.dumps(*of_kind("IstioOperator", manifests["istio-grpc"])))
    istio["spec"]["meshConfig"]["extensionProviders"][0]["envoyExtAuthzGrpc"]["fail_open"] = False
    assert len(judge.refused([deployment, unheard, route, monitor, istio])) == 5


@pytest.mark.parametrize("name", [name for name in VALUES if name != "existing"])
def test_the_program_reads_what_is_in_the_config_map(
    name: str, manifests: dict[str, list[Object]], tmp_path: Path
) -> None:
    config = configuration(manifests[name], tmp_path)
    (container,) = (c for c in the_pod(manifests[name])["containers"] if c["name"] == "oidc-proxy")
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert config.listen.address.rpartition(":")[2] == str(ports["http"])
    assert config.admin.address is not None
    assert config.admin.address.rpartition(":")[2] == str(ports["admin"])
    assert config.provider.client_secret is not None


@pytest.mark.parametrize("name", [name for name in VALUES if name != "existing"])
def test_a_pod_has_the_time_that_its_end_takes(name: str, manifests: dict[str, list[Object]], tmp_path: Path) -> None:
    timeouts = configuration(manifests[name], tmp_path).http.timeouts
    pod = the_pod(manifests[name])
    waits = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] > waits + timeouts.drain_delay + timeouts.drain_max + 5


@pytest.mark.parametrize("name", VALUES)
def test_nothing_of_ours_may_do_more_than_it_needs(name: str, manifests: dict[str, list[Object]]) -> None:
    pods = [each["spec"]["template"]["spec"] for each in of_kind("Deployment", manifests[name])]
    pods += [each["spec"] for each in of_kind("Pod", manifests[name])]
    for pod in pods:
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in [*pod["containers"], *pod.get("initContainers", ())]:
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["limits"]["memory"]
            assert container["resources"]["requests"].keys() == {"cpu", "memory"}


@pytest.mark.parametrize("name", VALUES)
def test_probes_ask_the_administration_listener(name: str, manifests: dict[str, list[Object]]) -> None:
    container = the_pod(manifests[name])["containers"][0]
    asked = {probe: container[probe]["httpGet"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert {get["port"] for get in asked.values()} == {"admin"}
    assert [get["path"] for get in asked.values()] == ["/livez", "/livez", "/readyz"]
    (service,) = (each for each in of_kind("Service", manifests[name]) if name_of(each) == "web-oidc-proxy")
    ports = [port["targetPort"] for port in service["spec"]["ports"]]
    assert ports in (["http"], ["http", "grpc"], ["http", "checks"]), "the public one must not lead there"


@pytest.mark.parametrize("name", VALUES)
def test_no_secret_is_anywhere_but_in_the_secret(name: str, manifests: dict[str, list[Object]]) -> None:
    secrets = yaml.safe_load(VALUES[name].read_text()).get("secrets", {})
    others = json.dumps([each for each in manifests[name] if each["kind"] != "Secret"])
    assert all(secret not in others for secret in secrets.values())
    if secrets:
        (kept,) = of_kind("Secret", manifests[name])
        assert len(kept["data"]) == len(secrets)


# ── what some values make ─────────────────────────────────────────────────────────────────────────────────────────────


def test_the_store_is_what_values_and_configuration_say_together(
    manifests: dict[str, list[Object]], tmp_path: Path
) -> None:
    store = configuration(manifests["full"], tmp_path).store
    assert isinstance(store, RedisStoreSettings)
    assert (store.url, store.username, store.outage_grace) == ("rediss://redis:6379/0", "app", 120)
    assert store.password is not None
    (tmp_path / "sentinel").mkdir()
    store = configuration(manifests["sentinel"], tmp_path / "sentinel").store
    assert isinstance(store, RedisStoreSettings)
    assert store.sentinel is not None
    assert store.sentinel.password is not None
    assert store.sentinel.password != store.password


def test_prometheus_asks_each_pod_where_there_is_no_service_for_it(manifests: dict[str, list[Object]]) -> None:
    found = manifests["pod-monitor"]
    (monitor,) = of_kind("PodMonitor", found)
    assert of_kind("ServiceMonitor", found) == []
    assert [name_of(each) for each in of_kind("Service", found)] == ["web-oidc-proxy"]
    labels = the_deployment(found)["spec"]["template"]["metadata"]["labels"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert monitor["spec"]["namespaceSelector"]["matchNames"] == ["auth"]
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] in {port["name"] for port in the_pod(found)["containers"][0]["ports"]}


def test_a_change_of_configuration_or_secret_makes_new_pods(helm: str) -> None:
    def notes(*options: str) -> Object:
        done = rendered(helm, "--values", str(VALUES["full"]), *options)
        return dict(the_deployment(objects(done.stdout))["spec"]["template"]["metadata"]["annotations"])

    before = notes()
    assert notes() == before
    assert notes("--set", "config.log.level=debug")["checksum/config"] != before["checksum/config"]
    assert notes("--set", "secrets.clientSecret=another")["checksum/secrets"] != before["checksum/secrets"]


def test_replicas_are_protected_where_there_are_several(manifests: dict[str, list[Object]]) -> None:
    assert of_kind("PodDisruptionBudget", manifests["minimal"]) == []
    (budget,) = of_kind("PodDisruptionBudget", manifests["full"])
    labels = the_deployment(manifests["full"])["spec"]["template"]["metadata"]["labels"]
    assert budget["spec"]["selector"]["matchLabels"].items() <= labels.items()
    (scaler,) = of_kind("HorizontalPodAutoscaler", manifests["full"])
    assert scaler["spec"]["scaleTargetRef"]["name"] == name_of(the_deployment(manifests["full"]))
    assert "replicas" not in the_deployment(manifests["full"])["spec"], "it would undo what the scaler does"


def test_a_network_policy_never_means_everything(helm: str) -> None:
    options = ("networkPolicy.enabled=true", "networkPolicy.redisPorts=[]", "networkPolicy.upstreamPorts=[]")
    done = rendered(helm, "--values", str(VALUES["nginx"]), *(f"--set-json={option}" for option in options))
    policies = of_kind("NetworkPolicy", objects(done.stdout))
    assert {name_of(policy) for policy in policies} == {"web-oidc-proxy", "web-oidc-proxy-test"}
    for spec in [policy["spec"] for policy in policies]:
        assert spec["policyTypes"] == ["Ingress", "Egress"]
        assert all(rule["ports"] for rule in [*spec.get("ingress", ()), *spec.get("egress", ())])
        assert all(rule["from"] for rule in spec.get("ingress", ()))


def test_a_network_policy_is_for_every_pod(manifests: dict[str, list[Object]]) -> None:
    found = manifests["trial"]
    pods = [each["spec"]["template"]["metadata"]["labels"] for each in of_kind("Deployment", found)]
    pods += [each["metadata"]["labels"] for each in of_kind("Pod", found)]
    chosen = [each["spec"]["podSelector"]["matchLabels"] for each in of_kind("NetworkPolicy", found)]
    assert len(pods) == len(chosen) == 3
    for labels in pods:
        assert [selector.items() <= labels.items() for selector in chosen].count(True) == 1
    (valkey,) = (each["spec"] for each in of_kind("NetworkPolicy", found) if name_of(each) == "web-oidc-proxy-valkey")
    (rule,) = valkey["ingress"]
    (peer,) = rule["from"]
    assert (
        peer["podSelector"]["matchLabels"].items()
        <= the_deployment(found)["spec"]["template"]["metadata"]["labels"].items()
    )
    assert "egress" not in valkey, "it connects to nobody"


def test_alerts_are_those_of_the_file_but_for_those_left_out(manifests: dict[str, list[Object]]) -> None:
    (group,) = yaml.safe_load((CHART / "alerts.yaml").read_text())["groups"]
    (rule,) = of_kind("PrometheusRule", manifests["full"])
    kept = [alert for alert in group["rules"] if alert["alert"] != "OidcProxyProviderDown"]
    assert rule["spec"]["groups"] == [{"name": group["name"], "rules": kept}]
    dashboards = [each for each in of_kind("ConfigMap", manifests["full"]) if name_of(each).endswith("-dashboard")]
    assert [json.loads(each["data"]["oidc-proxy.json"])["uid"] for each in dashboards] == ["oidc-proxy"]


def test_helm_test_asks_whether_it_is_ready(manifests: dict[str, list[Object]]) -> None:
    (pod,) = of_kind("Pod", manifests["full"])
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    assert pod["spec"]["containers"][0]["args"][:3] == ["healthcheck", "--address", "web-oidc-proxy-metrics:9180"]
    (service,) = (each for each in of_kind("Service", manifests["full"]) if name_of(each) == "web-oidc-proxy-metrics")
    assert (
        service["spec"]["selector"].items()
        <= the_deployment(manifests["full"])["spec"]["template"]["metadata"]["labels"].items()
    )
    assert not service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()


# ── what is refused ───────────────────────────────────────────────────────────────────────────────────────────────────

WRONG = {
    "replicas=2": "additional properties 'replicas' not allowed",
    "mode=sidecar": "value must be one of 'reverseProxy', 'forwardAuth'",
    "service.port=http": "at '/service/port': got string, want integer",
    "image.digest=latest": "at '/image/digest'",
    "forwardAuth.trustedProxies={everybody}": "at '/forwardAuth/trustedProxies/0'",
    "sessionStorage.redis.standalone.connectionUrl=redis:6379": "at '/sessionStorage/redis/standalone/connectionUrl'",
    "networkPolicy.idpPorts={}": "at '/networkPolicy/idpPorts/0'",
    "replicaCount=2": "write replicaCount: 1 without autoscaling",
    "autoscaling.enabled=true": "write replicaCount: 1 without autoscaling",
    "sessionStorage.type=redis": "sessionStorage.redis.standalone.connectionUrl is missing",
    "config.upstream=null": "config.upstream is missing",
    "config.public_url=null": "config.public_url is missing",
    "config.provider.issuer=null": "config.provider.issuer is missing",
    "config.provider.client_secret=abc": "config.provider.client_secret would be in a ConfigMap",
    "config.store.type=redis,config.store.sentinel.password=abc": "config.store.sentinel.password would be in",
    "config.public_url=${URL},ingress.enabled=true": "hosts is missing",
    "config.listen.address=0.0.0.0:80": "expect 0.0.0.0:4180",
    "config.http.timeouts.drain_max=90s,terminationGracePeriodSeconds=60": "leave it out, or write 101",
    "frontProxy=nginx": "write mode: forwardAuth",
    "mode=forwardAuth": "forwardAuth.trustedProxies is missing",
    "mode=forwardAuth,forwardAuth.trustedProxies={10.0.0.0/8}": "grpc.enabled says how the proxy asks",
    "mode=forwardAuth,frontProxy=gatewayApi,forwardAuth.trustedProxies={10.0.0.0/8}": "needs the name of the Gateway",
    "grpc.enabled=true": "grpc.enabled is for a proxy that asks",
    "mode=forwardAuth,frontProxy=nginx,forwardAuth.trustedProxies={10.0.0.0/8},grpc.enabled=true": "over HTTP only",
    "mode=forwardAuth,forwardAuth.trustedProxies={10.0.0.0/8},grpc.enabled=true,grpc.port=80": "must differ",
    "mode=forwardAuth,frontProxy=nginx,forwardAuth.trustedProxies={10.0.0.0/8},"
    "forwardAuth.listener.port=80": "forwardAuth.listener.port and service.port must differ",
    "mode=forwardAuth,forwardAuth.trustedProxies={10.0.0.0/8},config.forward_auth.dialects={nginx},grpc.enabled=true,"
    "forwardAuth.listener.port=4181": "forwardAuth.listener.port and grpc.port and service.port must differ",
    "forwardAuth.listener.enabled=maybe": "at '/forwardAuth/listener/enabled'",
    "forwardAuth.port=4182": "additional properties 'port' not allowed",
    "mode=forwardAuth,forwardAuth.trustedProxies={10.0.0.0/8},grpc.enabled=true,"
    "config.forward_auth.grpc.address=0.0.0.0:5000": "expect 0.0.0.0:4181",
    "mode=forwardAuth,forwardAuth.trustedProxies={10.0.0.0/8},frontProxy=traefik,"
    "config.forward_auth.grpc.address=0.0.0.0:4181": "write grpc.enabled: true instead",
    "config.forward_auth.address=0.0.0.0:4182": "config.forward_auth.address would be a port",
    "mode=forwardAuth,frontProxy=nginx,forwardAuth.trustedProxies={10.0.0.0/8},forwardAuth.listener.enabled=false,"
    "config.forward_auth.address=0.0.0.0:4182": "forwardAuth.listener.enabled sets it",
    "mode=forwardAuth,frontProxy=nginx,forwardAuth.trustedProxies={10.0.0.0/8},"
    "config.forward_auth.address=unix:/run/checks.sock": "expect 0.0.0.0:4182",
    "metrics.serviceMonitor.enabled=true,metrics.podMonitor.enabled=true": "would count everything twice",
    "metrics.serviceMonitor.enabled=true,metrics.enabled=false": "or enable metrics.podMonitor instead",
    "gatewayApi.enabled=true": "gatewayApi.gatewayRef.name is missing",
    "secrets.clientSecret=abc": "existingSecret and secrets are both given",
    "devValkey.enabled=true,sessionStorage.redis.existingSecret=redis": "devValkey has no password",
}


@pytest.mark.parametrize("values", WRONG)
def test_wrong_values_are_refused_with_what_to_write(values: str, helm: str) -> None:
    done = rendered(helm, "--values", str(VALUES["minimal"]), "--set", values)
    assert done.returncode != 0
    assert WRONG[values] in done.stderr


# ── the values' own pages ─────────────────────────────────────────────────────────────────────────────────────────────


def described(schema: Object, defaults: Any, path: str = "") -> list[tuple[str, str, str]]:
    """Name, default and description of every value, as the readme has them."""
    found = []
    for name, part in schema["properties"].items():
        if name == "global":
            continue
        if "properties" in part:
            found += described(part, defaults[name], f"{path}{name}.")
        else:
            found.append((f"`{path}{name}`", f"`{json.dumps(defaults[name])}`", part["description"]))
    return found


def test_the_readme_lists_every_value_with_its_default() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    table = "\n".join("| " + " | ".join(row) + " |" for row in described(schema, defaults))
    readme = (CHART / "README.md").read_text()
    assert table in readme, f"the table is:\n{table}"
    assert schema["additionalProperties"] is False


SNIPPETS = [
    pytest.param(block, id=f"{page.relative_to(DEPLOY.parent)} {number}")
    for page in PAGES
    for number, block in enumerate(blocks(page, "yaml values"), start=1)
]


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_values_in_the_documentation_are_taken(snippet: str, helm: str, judge: Judge, tmp_path: Path) -> None:
    file = tmp_path / "values.yaml"
    file.write_text(snippet)
    done = rendered(helm, "--values", str(file))
    assert done.returncode == 0, done.stderr
    found = objects(done.stdout)
    assert judge.refused(found) == []
    configuration(found, tmp_path)


def test_the_chart_is_of_this_version() -> None:
    from oidc_proxy import __version__

    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"] == __version__
