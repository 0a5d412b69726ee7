"""Where Kubernetes' objects lead: where a proxy asks, and what leads visitors to a Service."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

Object = dict[str, Any]
AUTH_URL = "nginx.ingress.kubernetes.io/auth-url"
GATEWAY = Path(__file__).parents[1] / "oidc_proxy" / "server" / "gateway.py"


def our_pages() -> set[str]:
    """The paths of the table of endpoints."""
    return {f"/oauth2/{name}" for name in re.findall(r'^ +\("(\w+)", "[A-Z ]+", ', GATEWAY.read_text(), re.MULTILINE)}


def asked(found: Sequence[Object]) -> set[tuple[str, int]]:
    """Where the proxies ask: name and port of each Service."""
    return {(host.partition(".")[0], int(port)) for each in found for host, port in _asked(each)}


def _asked(found: Object) -> Iterator[tuple[str, int | str]]:
    match found:
        case {"kind": "Ingress", "metadata": {"annotations": {**notes}}} if AUTH_URL in notes:
            yield _place(notes[AUTH_URL])
        case {"kind": "Middleware", "spec": {"forwardAuth": {"address": address}}}:
            yield _place(address)
        case {"kind": "SecurityPolicy", "spec": {"extAuth": asks}}:
            for backend in asks.get("http", asks.get("grpc"))["backendRefs"]:
                yield backend["name"], backend["port"]
        case {"kind": "HTTPRoute", "spec": {"rules": rules}}:
            for each in [each for rule in rules for each in rule.get("filters", ()) if "externalAuth" in each]:
                yield each["externalAuth"]["backendRef"]["name"], each["externalAuth"]["backendRef"]["port"]
        case {"kind": "IstioOperator", "spec": {"meshConfig": {"extensionProviders": providers}}}:
            for asks in [asks for provider in providers for name, asks in provider.items() if name != "name"]:
                yield asks["service"], asks["port"]


def _place(url: str) -> tuple[str, str]:
    found = re.match(r"http://([^:/]+):(\d+)/", url)
    assert found is not None, url
    return found[1], found[2]


def led(found: Sequence[Object], service: str) -> list[tuple[str, int | str]]:
    """What leads visitors to a Service: path, with a star for all that begins so, and the port's number or name."""
    ways = [way for each in found if each["kind"] in ROUTES for way in ROUTES[each["kind"]](each["spec"])]
    return [(path, port) for path, host, port in ways if host.partition(".")[0] == service]


def _ingress(spec: Object) -> Iterator[Way]:
    for path in [path for rule in spec["rules"] for path in rule["http"]["paths"]]:
        to = path["backend"]["service"]
        yield _starred(path["path"], path["pathType"]), to["name"], next(iter(to["port"].values()))


def _http_route(spec: Object) -> Iterator[Way]:
    for rule in spec["rules"]:
        assert len(rule["matches"]) <= 8, "more than a rule may have"
        for path in [match["path"] for match in rule["matches"]]:
            for to in rule["backendRefs"]:
                yield _starred(path["value"], path["type"]), to["name"], to["port"]


def _ingress_route(spec: Object) -> Iterator[Way]:
    for route in spec["routes"]:
        rule = re.sub(r"^Host\(`[^`]+`\)( && )?", "", route["match"]) or "PathPrefix(`/`)"
        for to in route["services"]:
            yield re.sub(r"^PathPrefix\(`([^`]+)`\)$", r"\1*", rule), to["name"], to["port"]


def _virtual_service(spec: Object) -> Iterator[Way]:
    for rule in spec["http"]:
        for match in rule.get("match", [{"uri": {"prefix": "/"}}]):
            for to in [each["destination"] for each in rule["route"]]:
                yield match["uri"]["prefix"] + "*", to["host"], to["port"]["number"]


def _starred(path: str, kind: str) -> str:
    return path + {"Exact": "", "Prefix": "*", "PathPrefix": "*"}[kind]


Way = tuple[str, str, int | str]
ROUTES: Mapping[str, Callable[[Object], Iterator[Way]]] = {
    "Ingress": _ingress,
    "HTTPRoute": _http_route,
    "IngressRoute": _ingress_route,
    "VirtualService": _virtual_service,
}
