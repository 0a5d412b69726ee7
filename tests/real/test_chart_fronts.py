"""What the chart makes for proxies that ask: they ask where no route leads, and pass on the whole answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest
import yaml

from tests.real.charts import VALUES, objects, of_kind, program, rendered
from tests.real.manifests import Judge, Object, configuration, name_of, the_pod
from tests.routing import asked, led, our_pages
from tests.test_deploy import SAID, UNSAID

FRONTS = {"nginx", "traefik", "envoy-gateway", "istio", "gateway-api"}
OVER_GRPC = {"envoy-gateway-grpc", "istio-grpc", "gateway-api-grpc"}
US = "web-oidc-proxy"
Made = Callable[..., list[Object]]


@pytest.fixture(scope="module")
def helm(real_part: Callable[[str, Callable[[], str]], str]) -> str:
    return real_part("helm", partial(program, "helm"))


@pytest.fixture(scope="module")
def judge(real_part: Callable[[str, Callable[[], Judge]], Judge]) -> Judge:
    return real_part("Kubernetes' schemas", Judge.prepared)


@pytest.fixture
def made(helm: str) -> Made:
    """What a values file in ci/ makes, changed by options."""

    def make(name: str, *options: str) -> list[Object]:
        done = rendered(helm, "--values", str(VALUES[name]), *(f"--set={option}" for option in options))
        assert done.returncode == 0, done.stderr
        return objects(done.stdout)

    return make


def ports(found: Sequence[Object]) -> dict[str, Object]:
    """The ports of our Service, by name."""
    (service,) = (each for each in of_kind("Service", found) if name_of(each) == US)
    return {port["name"]: port for port in service["spec"]["ports"]}


def opened(found: Sequence[Object]) -> list[int]:
    """The ports that the gateway's namespace may reach."""
    (policy,) = (each for each in of_kind("NetworkPolicy", found) if name_of(each) == US)
    return [port["port"] for port in policy["spec"]["ingress"][0]["ports"]]


# ── over HTTP ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", sorted(FRONTS))
def test_a_proxy_that_asks_says_the_whole_answer_and_clears_the_rest(name: str, made: Made, tmp_path: Path) -> None:
    found = made(name)
    text = yaml.safe_dump(found)
    assert [header for header in [*SAID, *(UNSAID if name != "nginx" else [])] if header not in text] == []
    (dialect,) = configuration(found, tmp_path).forward_auth.dialects
    assert dialect == {"nginx": "nginx", "traefik": "forward"}.get(name, "envoy")


@pytest.mark.parametrize("name", sorted(FRONTS))
def test_proxies_ask_where_no_route_leads(name: str, made: Made, tmp_path: Path) -> None:
    found = made(name)
    assert configuration(found, tmp_path).forward_auth.address == "0.0.0.0:4182"
    inside = {port["name"]: port["containerPort"] for port in the_pod(found)["containers"][0]["ports"]}
    assert (inside["http"], inside["checks"]) == (4180, 4182)
    checks = ports(found)["checks"]
    assert (checks["targetPort"], checks["appProtocol"]) == ("checks", "http")
    assert checks["port"] == (9192 if name == "gateway-api" else 4182)
    assert asked(found) == {(US, checks["port"])}
    assert led(found, US) == [("/oauth2/*", "http" if name == "nginx" else 80)]
    assert [each for each in of_kind("AuthorizationPolicy", found) if each["spec"]["action"] == "DENY"] == []


@pytest.mark.parametrize("name", sorted(FRONTS))
def test_with_one_port_nobody_outside_may_ask(name: str, made: Made, judge: Judge, tmp_path: Path) -> None:
    found = made(name, "forwardAuth.listener.enabled=false", "networkPolicy.enabled=true")
    assert judge.refused(found) == []
    assert configuration(found, tmp_path).forward_auth.address is None
    assert [port["name"] for port in the_pod(found)["containers"][0]["ports"]] == ["http", "admin"]
    assert ports(found).keys() == {"http"}
    assert opened(found) == [4180]
    assert asked(found) == {(US, 80)}
    assert_closed(name, found)


def assert_closed(name: str, found: Sequence[Object]) -> None:
    """Nobody is led to where proxies ask at the public port."""
    paths = [path for path, _ in led(found, US)]
    if name == "traefik":
        assert paths == ["PathPrefix(`/oauth2/`) && !PathPrefix(`/oauth2/authz/`) && !Path(`/oauth2/auth`)"]
    elif name == "istio":
        assert paths == ["/oauth2/*"]
        (denied,) = (each for each in of_kind("AuthorizationPolicy", found) if each["spec"]["action"] == "DENY")
        assert denied["spec"]["rules"][0]["to"][0]["operation"]["paths"] == ["/oauth2/authz/*", "/oauth2/auth"]
    else:
        assert set(paths) == our_pages()
        assert len(paths) == len(set(paths))


def test_what_the_chart_cannot_read_may_have_them_ask_at_the_public_port(made: Made) -> None:
    found = made("existing")
    assert asked(found) == {(US, 4182)}, "as the values say it is"
    assert_closed("traefik", found)
    assert_closed("istio", made("existing", "frontProxy=istio", "grpc.enabled=true"))
    assert_closed("nginx", made("existing", "frontProxy=nginx"))


def test_who_asks_besides_has_that_port_too(made: Made, tmp_path: Path) -> None:
    """Envoy over gRPC and another proxy over HTTP; or an application behind us, and a proxy in front of another."""
    trusted = "config.forward_auth.trusted_proxies={10.0.0.0/8}"
    expected = {"contour": {"http": 4180, "grpc": 4181, "checks": 4182}, "minimal": {"http": 4180, "checks": 4182}}
    for name, inside in expected.items():
        found = made(name, "config.forward_auth.dialects={nginx}", trusted, "networkPolicy.enabled=true")
        (tmp_path / name).mkdir()
        assert configuration(found, tmp_path / name).forward_auth.address == "0.0.0.0:4182"
        assert ports(found).keys() == inside.keys()
        assert opened(found) == [*inside.values()]
    assert ports(made("minimal")).keys() == {"http"}, "where nobody asks"


def test_the_network_policy_opens_the_ports_where_proxies_ask_only_where_they_are(made: Made) -> None:
    expected = {"traefik": [4180, 4182], "one-port": [4180], "istio-grpc": [4180, 4181], "full": [4180]}
    assert {name: opened(made(name)) for name in expected} == expected


def test_istio_is_told_to_ask_and_to_refuse_what_it_cannot_ask_about(made: Made) -> None:
    found = made("istio")
    (operator,) = of_kind("IstioOperator", found)
    (provider,) = operator["spec"]["meshConfig"]["extensionProviders"]
    asks = provider["envoyExtAuthzHttp"]
    assert (asks["failOpen"], asks["headersToUpstreamOnAllow"]) == (False, SAID)
    assert asks["service"] == "web-oidc-proxy.auth.svc.cluster.local"
    (policy,) = of_kind("AuthorizationPolicy", found)
    assert (policy["spec"]["action"], policy["spec"]["provider"]["name"]) == ("CUSTOM", provider["name"])


def test_headers_of_the_configuration_are_those_that_the_application_gets(helm: str) -> None:
    done = rendered(
        helm, "--values", str(VALUES["traefik"]), "--set-json", 'config.identity.headers={"X-User": "user"}'
    )
    middlewares = {name_of(each): each["spec"] for each in of_kind("Middleware", objects(done.stdout))}
    told = middlewares["web-oidc-proxy"]["forwardAuth"]["authResponseHeaders"]
    assert "X-User" in told
    assert "X-Forwarded-User" not in told
    assert "X-Forwarded-User" in middlewares["web-oidc-proxy-strip"]["headers"]["customRequestHeaders"]


@pytest.mark.parametrize("apart", ["true", "false"])
@pytest.mark.parametrize("name", sorted(FRONTS | OVER_GRPC))
def test_our_pages_are_where_the_configuration_says(name: str, apart: str, made: Made) -> None:
    text = yaml.safe_dump(made(name, "config.endpoints.prefix=/sso", f"forwardAuth.listener.enabled={apart}"))
    assert "/sso/" in text
    assert "/oauth2" not in text


# ── over gRPC ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", sorted({*OVER_GRPC, "contour"}))
def test_over_grpc_everybody_means_the_same_port(name: str, made: Made, tmp_path: Path) -> None:
    found = made(name)
    said = configuration(found, tmp_path).forward_auth
    assert said.grpc is not None
    assert (said.grpc.address, said.address, said.dialects) == ("0.0.0.0:4181", None, ()), "nobody asks over HTTP too"
    (port,) = (port for port in the_pod(found)["containers"][0]["ports"] if port["name"] == "grpc")
    assert port["containerPort"] == 4181
    served = ports(found)["grpc"]
    assert ports(found).keys() == {"http", "grpc"}
    assert (served["targetPort"], served["appProtocol"]) == ("grpc", "kubernetes.io/h2c")
    assert served["port"] == (9191 if name == "istio-grpc" else 4181)
    if name != "contour":
        assert asked(found) == {(US, served["port"])}
        assert led(found, US) == [("/oauth2/*", 80)]
        assert_over_grpc(found)


def assert_over_grpc(found: Sequence[Object]) -> None:
    """Each proxy never fails open, and has no list of headers, since the answer says which go."""
    for policy in of_kind("SecurityPolicy", found):
        asks = policy["spec"]["extAuth"]
        assert (asks["failOpen"], asks.keys()) == (False, {"failOpen", "timeout", "grpc"})
    for route in of_kind("HTTPRoute", found):
        filters = [each for rule in route["spec"]["rules"] for each in rule.get("filters", ())]
        assert {each["externalAuth"]["protocol"] for each in filters} <= {"GRPC"}
    for operator in of_kind("IstioOperator", found):
        (provider,) = operator["spec"]["meshConfig"]["extensionProviders"]
        assert provider["envoyExtAuthzGrpc"]["failOpen"] is False
