"""A real Envoy asks over gRPC in TLS, and shows a certificate of its own: with the file of deploy/."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from oidc_proxy.demo.directory import ANN
from tests.real.fronts import FRONTS, Front
from tests.real.test_forward_auth import ingress, words_of
from tests.stories.tls import another_certificate, certificate

CLUSTER = "    - name: oidc_grpc\n"
TRANSPORT = """      transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
          sni: localhost
          common_tls_context:
            tls_certificates:
              - {{certificate_chain: {{filename: {folder}/{shown}}}, private_key: {{filename: {folder}/{shown}}}}}
            validation_context:
              trusted_ca: {{filename: {folder}/{trusted}}}
              match_typed_subject_alt_names: [{{san_type: DNS, matcher: {{exact: localhost}}}}]
"""


@pytest.fixture
def envoy_grpc(real_part: Any) -> Front:
    found: Front = real_part("envoy-grpc", FRONTS["envoy-grpc"])
    return found


def over_tls(front: Front, folder: Path, trusted: str, shown: str) -> Front:
    transport = TRANSPORT.format(folder=folder, trusted=trusted, shown=shown)

    def replaced(port: int) -> Mapping[str, str]:
        return {**front.replaced(port), CLUSTER: CLUSTER + transport}

    return replace(front, replaced=replaced)


@pytest.mark.parametrize(
    ("trusted", "shown", "passes"),
    [("ours.pem", "envoy.pem", True), ("envoy.pem", "envoy.pem", False), ("ours.pem", "other.pem", False)],
    ids=["both known", "we are not known", "Envoy is not known"],
)
async def test_f206_envoy_asks_in_tls_and_each_knows_the_other(
    trusted: str, shown: str, passes: bool, envoy_grpc: Front, tmp_path: Path
) -> None:
    made = {"ours": certificate(), "envoy": another_certificate("envoy"), "other": another_certificate("other")}
    for name, pair in made.items():
        (tmp_path / f"{name}.pem").write_text("".join(pair))
    tls = {"cert_file": tmp_path / "ours.pem", "client_ca_file": tmp_path / "envoy.pem"}
    asked = {"grpc": {"address": "127.0.0.1:0", "tls": tls}, "trusted_proxies": ["127.0.0.1/32"]}
    front = over_tls(envoy_grpc, tmp_path, trusted, shown)
    async with ingress(front, tmp_path, {"forward_auth": asked}) as it, it.browser() as ann:
        if not passes:
            assert (await it.ask("GET /echo", "Accept: text/html")).status == 503
            assert (await it.ask("GET /public/x")).status == 503
            assert it.reached == []
            return
        page = await ann.sign_in(f"{it.url}/echo", "ann", "ann")
        assert (page.url, page.status) == (f"{it.url}/echo", 200)
        assert words_of(it.reached[-1])["x-auth-request-user"] == ANN.sub
        assert (await it.ask("GET /echo")).status == 401
