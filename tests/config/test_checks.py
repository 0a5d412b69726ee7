"""Whether settings go together, and the whole configuration (F244, F246, V3)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from oidc_proxy.config import Config, checks, load
from oidc_proxy.config.problems import Problem
from oidc_proxy.errors import SettingsFault
from oidc_proxy.forward_auth import ForwardAuthSettings
from oidc_proxy.policy import RouteSettings
from oidc_proxy.server.front import ListenSettings
from oidc_proxy.server.store import MemoryStoreSettings
from oidc_proxy.values import Secret, Settings
from tests.config.small import GOOD, Key, Provider, Read, said

ROOT = Path(__file__).parents[2]
CORPUS = ROOT / "tests" / "corpus" / "config"
ENVIRON = {"CLIENT_SECRET": "s3cret", "EMPTY": ""}
MINIMAL = (CORPUS / "minimal.yaml").read_text()


def test_checks_run_on_what_is_valid_although_the_rest_is_not(parsed: Read) -> None:
    def together(listen: str, session_ttl: int) -> list[Problem]:
        return [Problem("E120", "listen", f"{listen} {session_ttl}")]

    def not_run(provider: Provider) -> list[Problem]:
        raise AssertionError

    loaded = parsed("listen: x\nprovider: {}", checks=[together, not_run])
    assert ("1:9", "listen", "x 60") in said(loaded)


def test_warnings_do_not_prevent_the_start(parsed: Read) -> None:
    def warns(listen: str) -> list[Problem]:
        return [Problem("W203", "listen", "hm")]

    loaded = parsed(GOOD, checks=[warns])
    assert loaded.settings is not None
    assert ([*loaded.warnings], loaded.errors) == ([*loaded.problems], [])


def test_f244_f246_several_workers_cannot_use_the_memory_store() -> None:
    listen = ListenSettings(workers=4)
    (problem,) = checks.shared_sessions(listen, MemoryStoreSettings(type="memory"))
    assert (problem.code, problem.path) == ("E124", "listen.workers")
    assert list(checks.shared_sessions(listen, object())) == []
    assert list(checks.shared_sessions(ListenSettings(), MemoryStoreSettings(type="memory"))) == []


def test_v3_the_published_key_is_known_in_pem_too() -> None:
    from joserfc.jwk import RSAKey

    jwk = json.loads((CORPUS / "rfc7517.json").read_text())
    known = RSAKey.import_key({name: jwk[name] for name in ("kty", "n", "e")}).as_pem(private=False).decode()
    other = RSAKey.generate_key(2048).as_pem(private=False).decode()
    config = Config.model_validate(yaml.safe_load(MINIMAL.replace("${CLIENT_SECRET}", "x")))
    for pem, codes in ((known, ["E125"]), (other, [])):
        session = config.session.model_copy(update={"key": Secret(pem)})
        found = checks.known_secrets(config.provider, session, config.store)
        assert [problem.code for problem in found] == codes


def test_secrets_are_looked_for_everywhere() -> None:
    class Holder(Settings):
        several: tuple[Key, ...] = ()
        named: dict[str, Key] = {}  # noqa: RUF012

    key = Key(key=Secret("changeme"))
    config = Config.model_validate(yaml.safe_load(MINIMAL.replace("${CLIENT_SECRET}", "x")))
    found = checks.known_secrets(config.provider, config.session, Holder(several=(key,), named={"a": key}))
    assert [problem.path for problem in found] == ["store.several.0.key", "store.named.a.key"]


# ── Config ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def minimal(**more: Any) -> Config:
    return Config.model_validate({**yaml.safe_load(MINIMAL), **more})


def test_the_short_form_is_one_upstream_and_one_route_that_protects_everything() -> None:
    config = minimal()
    assert config.upstreams["default"].url == "http://127.0.0.1:8080"
    assert config.routes == (RouteSettings(path="/"),)
    assert [str(origin) for origin in config.public_url] == ["https://app.example.com"]


def test_the_short_form_comes_after_the_routes_that_are_given() -> None:
    config = minimal(routes=[{"path": "/public/", "auth": "none"}], upstreams={"api": {"url": "http://127.0.0.1:9000"}})
    assert [route.path for route in config.routes] == ["/public/", "/"]
    assert list(config.upstreams) == ["default", "api"]


def test_the_short_form_adds_no_route_where_everything_has_one() -> None:
    config = minimal(routes=[{"path": "/", "auth": "optional"}])
    assert [route.auth for route in config.routes] == ["optional"]


def test_the_short_form_may_be_a_section() -> None:
    config = minimal(upstream={"url": "http://127.0.0.1:9000", "max_connections": 5})
    assert config.upstreams["default"].max_connections == 5


ALONE = ForwardAuthSettings()
ASKED = {"dialects": ["nginx"], "trusted_proxies": ["127.0.0.1/32"]}


def test_where_everything_is_answered_here_no_upstream_is_needed() -> None:
    config = minimal(upstream=None, routes=[{"path": "/", "respond": {"status": 503}}])
    assert list(checks.upstreams_named(None, {}, config.routes, ALONE)) == []
    passing_on = (*config.routes, RouteSettings(path="/x"))
    (problem,) = checks.upstreams_named(None, {}, passing_on, ALONE)
    assert (problem.code, problem.path) == ("E123", "upstream")
    (problem,) = checks.upstreams_named(None, {"api": object()}, passing_on, ALONE)
    assert (problem.code, problem.path) == ("E122", "routes.1")


def test_where_other_proxies_ask_no_upstream_is_needed_and_everything_needs_sign_in() -> None:
    config = minimal(upstream=None, routes=[{"path": "/public/", "auth": "none"}], forward_auth=ASKED)
    assert [route.path for route in config.routes] == ["/public/", "/"]
    assert list(checks.upstreams_named(None, {}, config.routes, config.forward_auth)) == []
    both = minimal(upstream=None, upstreams={"api": {"url": "http://127.0.0.1:9"}}, routes=[], forward_auth=ASKED)
    assert [problem.path for problem in checks.something_routed(None, both.upstreams, both.routes)] == ["routes"]


def test_envoy_over_grpc_is_a_way_to_ask_and_has_an_address_that_all_workers_can_share() -> None:
    asked = {"grpc": {"address": "127.0.0.1:4181"}, "trusted_proxies": ["127.0.0.1/32"]}
    config = minimal(upstream=None, routes=[], forward_auth=asked)
    assert [route.path for route in config.routes] == ["/"]
    assert list(checks.upstreams_named(None, {}, (), config.forward_auth)) == []
    assert list(checks.grpc_listens(config.listen, config.forward_auth)) == []
    (problem,) = checks.askers_known(ForwardAuthSettings.model_validate({"grpc": asked["grpc"]}))
    assert (problem.code, problem.path) == ("E129", "forward_auth")
    file = ForwardAuthSettings.model_validate({**asked, "grpc": {"address": "unix:/run/x.sock"}})
    assert list(checks.grpc_listens(config.listen, file)) == []
    several = config.listen.model_copy(update={"workers": 2})
    (problem,) = checks.grpc_listens(several, file)
    assert (problem.code, problem.path) == ("E128", "forward_auth.grpc.address")
    assert list(checks.grpc_listens(several, ALONE)) == []


def test_no_two_listeners_have_the_same_address() -> None:
    config = minimal(
        listen={"address": "127.0.0.1:1", "redirect_https": "127.0.0.1:2"},
        admin={"address": "127.0.0.1:3"},
        forward_auth={**ASKED, "address": "127.0.0.1:4", "grpc": {"address": "127.0.0.1:5"}},
    )
    listen, admin, asked = config.listen, config.admin, config.forward_auth
    assert list(checks.listeners_differ(listen, admin, asked)) == []
    assert list(checks.listeners_differ(listen, admin, ALONE)) == []
    for taken in ("127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"):
        (problem,) = checks.listeners_differ(listen, admin, asked.model_copy(update={"address": taken}))
        assert (problem.code, problem.path) == ("E128", "forward_auth.address")
    both = asked.model_copy(update={"address": "127.0.0.1:5"})
    (problem,) = checks.listeners_differ(listen, admin, both)
    assert (problem.code, problem.path) == ("E128", "forward_auth.grpc.address")
    assert problem.message == "is the address of `forward_auth` as well"
    (problem,) = checks.listeners_differ(listen, admin.model_copy(update={"address": "127.0.0.1:1"}), asked)
    assert (problem.code, problem.path) == ("E128", "admin.address")


def test_a_listener_for_those_who_ask_needs_a_way_to_ask() -> None:
    asked = ForwardAuthSettings.model_validate({**ASKED, "address": "unix:/run/checks.sock"})
    assert list(checks.askers_known(asked)) == []
    (problem,) = checks.askers_known(asked.model_copy(update={"dialects": ()}))
    assert (problem.code, problem.path) == ("E129", "forward_auth.address")


def test_a_route_that_leads_past_another_is_warned_of() -> None:
    opened = {"path": "/public/", "auth": "none", "strip_prefix": "/public"}
    config = minimal(routes=[opened, {"path": "/admin/", "groups": ["ops"]}])
    (problem,) = checks.routes_usable(config.public_url, config.routes, config.endpoints)
    assert (problem.code, problem.path, problem.severity) == ("W209", "routes.0", "warning")


def test_upstreams_need_names() -> None:
    with pytest.raises(ValueError, match="has an upstream without a name"):
        minimal(upstreams={"": {"url": "http://127.0.0.1:9000"}})


def test_load_gives_the_configuration_or_every_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CORPUS)
    assert load([Path("minimal.yaml")], ENVIRON).provider.client_id == "app"
    assert load([Path("minimal.yaml")], ENVIRON, {"provider.client_id": "other"}).provider.client_id == "other"
    with pytest.raises(SettingsFault) as raised:
        load([Path("duplicate-keys.yaml")], ENVIRON)
    assert len(raised.value.problems) == 2
    assert "duplicate-keys.yaml:2:1" in str(raised.value)
