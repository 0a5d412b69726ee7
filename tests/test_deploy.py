"""The files of deploy/ for proxies that ask: they say all that has to be said, and our part of them is accepted."""

from __future__ import annotations

import re
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

from oidc_proxy.config import read_config
from oidc_proxy.forward_auth import AUTH_REQUEST_HEADERS, dialects
from oidc_proxy.identity import IdentitySettings
from tests.routing import asked, led, our_pages

DEPLOY = Path(__file__).parents[1] / "deploy"
FILES = {
    "nginx": "nginx.conf", "caddy": "Caddyfile", "haproxy": "haproxy.cfg", "envoy": "envoy.yaml",
    "traefik": "dynamic.yaml", "ingress-nginx": "ingress.yaml", "envoy-gateway": "policy.yaml",
    "istio": "policy.yaml", "gateway-api": "route.yaml",
}  # fmt: skip
KUBERNETES = {"ingress-nginx", "envoy-gateway", "istio", "gateway-api"}
SAID = [*AUTH_REQUEST_HEADERS, *IdentitySettings().headers, "Authorization"]
"""What an answer says, and an application reads."""
UNSAID = ["X-Auth-Request-Access-Token", "X-Original-URL", "X-Original-URI", "X-Original-Method", "X-Rewrite-URL"]
"""What a client could say, and no answer of the default dialects replaces."""


def text_of(name: str, file: str = "") -> str:
    return (DEPLOY / name / (file or FILES[name])).read_text()


@pytest.mark.parametrize("name", FILES)
def test_the_configuration_passes_and_enables_where_the_proxy_asks(name: str) -> None:
    loaded = read_config([DEPLOY / name / "config.yaml"], {"OIDC_CLIENT_SECRET": "a secret"})
    assert loaded.settings is not None, [str(problem) for problem in loaded.problems]
    assert not loaded.problems
    (dialect,) = dialects(loaded.settings.forward_auth, loaded.settings.endpoints.prefix, one_rule=False)
    assert (loaded.settings.forward_auth.address is not None) == (name in KUBERNETES)
    asking = text_of(name, "oidc.lua") if name == "haproxy" else text_of(name)
    assert dialect.path in asking


def test_envoy_asks_over_grpc_where_we_listen_and_needs_no_list_of_headers() -> None:
    loaded = read_config([DEPLOY / "envoy-grpc" / "config.yaml"], {"OIDC_CLIENT_SECRET": "a secret"})
    assert loaded.settings is not None, [str(problem) for problem in loaded.problems]
    assert not loaded.problems
    grpc = loaded.settings.forward_auth.grpc
    assert grpc is not None
    resources = yaml.safe_load(text_of("envoy-grpc", "envoy.yaml"))["static_resources"]
    (listener,) = resources["listeners"]
    check, _router = listener["filter_chains"][0]["filters"][0]["typed_config"]["http_filters"]
    asks = check["typed_config"]
    assert (check["name"], asks["failure_mode_allow"]) == ("envoy.filters.http.ext_authz", False)
    assert not {"allowed_headers", "with_request_body"} & asks.keys()
    (cluster,) = [each for each in resources["clusters"] if each["name"] == "oidc_grpc"]
    (group,) = cluster["load_assignment"]["endpoints"]
    place = group["lb_endpoints"][0]["endpoint"]["address"]["socket_address"]
    assert f"{place['address']}:{place['port_value']}" == grpc.address
    assert "/oauth2/authz/" in text_of("envoy-grpc", "envoy.yaml")


def test_the_sidecar_stands_between_the_service_and_the_application() -> None:
    loaded = read_config([DEPLOY / "sidecar" / "config.yaml"], {"OIDC_CLIENT_SECRET": "a secret"})
    assert loaded.settings is not None, [str(problem) for problem in loaded.problems]
    assert not loaded.problems
    found = {each["kind"]: each for each in yaml.safe_load_all(text_of("sidecar", "pod.yaml"))}
    assert found["ConfigMap"]["data"]["config.yaml"] == text_of("sidecar", "config.yaml")
    pod = found["Deployment"]["spec"]["template"]["spec"]
    (sidecar,), (app,) = pod["initContainers"], pod["containers"]
    assert sidecar["restartPolicy"] == "Always"
    (port,) = sidecar["ports"]
    assert loaded.settings.listen.address == f"0.0.0.0:{port['containerPort']}"
    assert [entry["targetPort"] for entry in found["Service"]["spec"]["ports"]] == [port["name"]]
    assert "ports" not in app, "nobody is led past the sign-in"
    assert loaded.settings.upstreams["default"].url.startswith("http://127.0.0.1:")
    for probe in ("startupProbe", "readinessProbe"):
        *command, address = sidecar[probe]["exec"]["command"]
        assert (command, address) == (["oidc-proxy", "healthcheck", "--address"], loaded.settings.admin.address)
    (mount,), (volume,) = sidecar["volumeMounts"], pod["volumes"]
    assert (mount["name"], volume["configMap"]["name"]) == (volume["name"], found["ConfigMap"]["metadata"]["name"])
    for container in (sidecar, app):
        assert container["securityContext"]["readOnlyRootFilesystem"] is True


@pytest.mark.parametrize("name", ["nginx", "caddy"])
def test_the_application_reads_the_whole_answer(name: str) -> None:
    lines = [line.split() for line in text_of(name).splitlines()]
    words = {"nginx": "proxy_set_header", "caddy": "copy_headers"}[name]
    assert set(SAID) <= {word for line in lines if line[:1] == [words] for word in line[1:]}


def test_caddy_removes_what_an_answer_may_leave_empty_before_it_asks() -> None:
    """From 2.10.0 to 2.11.1, the client's header stands where the answer's is empty (CVE-2026-30851)."""
    before, asks, _ = text_of("caddy").partition("forward_auth")
    removed = [name.lower() for name in re.findall(r"request_header -(\S+)", before)]
    assert asks
    assert [name for name in [*SAID, *UNSAID] if not any(fnmatch(name.lower(), one) for one in removed)] == []


def test_traefik_replaces_the_whole_answer_and_clears_the_rest() -> None:
    middlewares = yaml.safe_load(text_of("traefik"))["http"]["middlewares"]
    cleared = middlewares["strip"]["headers"]
    assert middlewares["oidc"]["forwardAuth"]["authResponseHeaders"] == SAID
    assert set(UNSAID) <= cleared["customRequestHeaders"].keys()
    strip, middleware, route = yaml.safe_load_all(text_of("traefik", "middleware.yaml"))
    assert strip["spec"]["headers"] == cleared
    assert middleware["spec"]["forwardAuth"]["authResponseHeaders"] == SAID
    assert [rule.get("middlewares") for rule in route["spec"]["routes"]] == [
        [{"name": "strip"}, {"name": "oidc"}],
        None,
    ]


def test_envoy_removes_what_clients_say_and_lets_the_whole_answer_through() -> None:
    (listener,) = yaml.safe_load(text_of("envoy"))["static_resources"]["listeners"]
    filters: dict[str, Any] = {
        entry["name"].rpartition(".")[2]: entry["typed_config"]
        for entry in listener["filter_chains"][0]["filters"][0]["typed_config"]["http_filters"]
    }
    assert list(filters) == ["header_mutation", "ext_authz", "lua", "router"]
    removed = {mutation["remove"] for mutation in filters["header_mutation"]["mutations"]["request_mutations"]}
    assert {name.lower() for name in [*SAID, *UNSAID]} - {"authorization"} <= removed
    check = filters["ext_authz"]
    assert check["failure_mode_allow"] is False
    told = check["http_service"]["authorization_response"]["allowed_upstream_headers"]["patterns"]
    exact = {pattern["exact"] for pattern in told if "exact" in pattern} | {n.lower() for n in AUTH_REQUEST_HEADERS}
    assert {name.lower() for name in SAID} == exact


@pytest.mark.parametrize("name", ["nginx", "caddy", "haproxy", "envoy", "traefik"])
def test_nobody_outside_may_ask(name: str) -> None:
    assert "/oauth2/authz/" in text_of(name)
    assert "/oauth2/auth" in text_of(name).replace("/oauth2/authz", "")


def objects(name: str) -> dict[tuple[str, str], dict[str, Any]]:
    """The objects of Kubernetes in a file, by kind and name."""
    found = [each for each in yaml.safe_load_all(text_of(name)) if each]
    return {(each["kind"], each.get("metadata", {}).get("name", "")): each for each in found}


def test_the_list_of_our_pages_is_whole() -> None:
    ours = our_pages()
    assert {"/oauth2/start", "/oauth2/callback", "/oauth2/sign_out"} < ours
    (listed,) = re.findall(
        r'range list ("start".*?) -', (DEPLOY / "helm/oidc-proxy/templates/_helpers.tpl").read_text()
    )
    assert {f"/oauth2/{name}" for name in re.findall(r"\w+", listed)} == ours


@pytest.mark.parametrize("name", [*sorted(KUBERNETES), "traefik"])
def test_in_kubernetes_proxies_ask_where_no_route_leads(name: str) -> None:
    found = [each for each in yaml.safe_load_all(text_of(name, "middleware.yaml" if name == "traefik" else "")) if each]
    change = {"OIDC_PROXY__FORWARD_AUTH__ADDRESS": "0.0.0.0:4182"} if name == "traefik" else {}  # as its README says
    loaded = read_config([DEPLOY / name / "config.yaml"], {"OIDC_CLIENT_SECRET": "a secret", **change})
    assert loaded.settings is not None, [str(problem) for problem in loaded.problems]
    settings = loaded.settings
    assert (settings.listen.address, settings.forward_auth.address) == ("0.0.0.0:4180", "0.0.0.0:4182")
    assert asked(found) == {("oidc-proxy", 4182)}
    assert led(found, "oidc-proxy") == [("/oauth2/*", 4180)]


def test_ingress_nginx_sets_the_whole_answer() -> None:
    for name in ("app", "app-api"):
        notes = objects("ingress-nginx")["Ingress", name]["metadata"]["annotations"]
        assert notes["nginx.ingress.kubernetes.io/auth-response-headers"].split(",") == SAID
    assert "nginx.ingress.kubernetes.io/auth-signin" not in notes


def test_envoy_gateway_istio_and_gateway_api_ask_and_tell_as_envoy_does() -> None:
    gateway = objects("envoy-gateway")
    asks = gateway["SecurityPolicy", "oidc"]["spec"]["extAuth"]
    assert (asks["failOpen"], asks["http"]["headersToBackend"]) == (False, SAID)
    removed = gateway["ClientTrafficPolicy", "clients"]["spec"]["headers"]["earlyRequestHeaders"]["remove"]
    assert {*SAID, *UNSAID} - {"Authorization"} <= set(removed)
    istio = objects("istio")
    (provider,) = istio["IstioOperator", ""]["spec"]["meshConfig"]["extensionProviders"]
    asks = provider["envoyExtAuthzHttp"]
    assert (asks["failOpen"], asks["headersToUpstreamOnAllow"]) == (False, SAID)
    assert istio["AuthorizationPolicy", "oidc"]["spec"]["provider"]["name"] == provider["name"]
    assert {*SAID, *UNSAID} - {"Authorization"} <= set(re.findall(r"- remove: (\S+)", text_of("istio")))
    removes, asks = objects("gateway-api")["HTTPRoute", "app"]["spec"]["rules"][0]["filters"]
    assert {*SAID, *UNSAID} - {"Authorization"} <= set(removes["requestHeaderModifier"]["remove"])
    assert asks["externalAuth"]["http"]["allowedResponseHeaders"] == SAID


CHECKED = {
    "envoy-gateway": lambda: objects("envoy-gateway")["SecurityPolicy", "oidc"]["spec"]["extAuth"]["headersToExtAuth"],
    "gateway-api": lambda: objects("gateway-api")["HTTPRoute", "app"]["spec"]["rules"][0]["filters"][1]["externalAuth"][
        "http"
    ]["allowedHeaders"],
}


@pytest.mark.parametrize("name", CHECKED)
def test_what_a_decision_is_made_of_is_sent_along(name: str) -> None:
    read = {"cookie", "accept", "content-type", "origin", "x-requested-with", "upgrade", "sec-fetch-mode"}
    read |= {"sec-fetch-dest", "sec-purpose", "sec-websocket-key", "x-forwarded-for", "x-request-id", "sec-fetch-site"}
    assert read <= {header.lower() for header in CHECKED[name]()}


# ── nothing is left out ───────────────────────────────────────────────────────────────────────────────────────────────

OTHERS = {
    "envoy/envoy.yaml": "run by tests/real/test_forward_auth.py",
    "envoy-grpc/envoy.yaml": "run by tests/real/test_forward_auth.py",
    "traefik/dynamic.yaml": "read above",
}
"""What is YAML, and neither a manifest nor a configuration of ours; the chart and Compose have tests of their own."""


def test_every_configuration_of_ours_is_read_by_a_test() -> None:
    assert {path.parent.name for path in DEPLOY.glob("*/config.yaml")} == {*FILES, "envoy-grpc", "sidecar"}


def test_every_file_is_a_manifest_or_is_known() -> None:
    """tests/real/test_manifests.py holds the manifests to Kubernetes' schemas, and builds the kustomizations."""
    for path in sorted({*DEPLOY.rglob("*.yaml"), *DEPLOY.rglob("*.yml")}):
        name = str(path.relative_to(DEPLOY))
        if name.startswith(("helm/", "compose/")) or name in OTHERS or path.name == "config.yaml":
            continue
        for found in filter(None, yaml.safe_load_all(path.read_text())):
            assert {"apiVersion", "kind"} <= found.keys(), f"{name} is not known"
        if name.startswith("kustomize/") and path.name != "kustomization.yaml":
            kustomization = yaml.safe_load((path.parent / "kustomization.yaml").read_text())
            assert path.name in kustomization["resources"], f"{name} is built by nobody"
