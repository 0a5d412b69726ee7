"""``oidc-proxy config import``: what becomes of the configuration of oauth2-proxy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from oidc_proxy.cli import main
from oidc_proxy.config import Config, fields, read_config
from oidc_proxy.config.oauth2_proxy import OPTIONS, SENTENCES, Draft, convert, of_environ, of_words, read
from oidc_proxy.config.oauth2_proxy.options import BY_KEY, Kind
from oidc_proxy.config.oauth2_proxy.paths import paths_of
from oidc_proxy.config.oauth2_proxy.reading import duration
from oidc_proxy.policy import RouteSettings, compile_routes, match

CORPUS = Path(__file__).parents[1] / "corpus" / "oauth2_proxy"
SECRETS = {
    "OAUTH2_PROXY_CLIENT_SECRET": "one secret",
    "OAUTH2_PROXY_REDIS_PASSWORD": "another",
    "OAUTH2_PROXY_REDIS_SENTINEL_PASSWORD": "a third",
}
LEAST = (
    "--provider=oidc", "--oidc-issuer-url=https://keycloak.example.com/realms/main", "--client-id=app",
    "--client-secret=canary", "--redirect-url=https://app.example.com/oauth2/callback", "--email-domain=*",
)  # fmt: skip
BACKEND = "--upstream=http://127.0.0.1:8080"


def imported(*words: str, **how: bool) -> Draft:
    """What becomes of the smallest command line with these words."""
    return convert(of_words([*LEAST, *words]), **how)


def codes(draft: Draft, code: str = "M") -> list[str]:
    return sorted(f"{note.code} {note.about}" for note in draft.notes if note.code.startswith(code))


def config_of(draft: Draft, folder: Path, environ: dict[str, str] | None = None) -> Config:
    """What the program makes of the file."""
    file = folder / "config.yaml"
    file.write_text(draft.yaml())
    loaded = read_config([file], SECRETS if environ is None else environ)
    assert loaded.settings is not None, (draft.yaml(), [str(problem) for problem in loaded.problems])
    return loaded.settings


# ── every option ──────────────────────────────────────────────────────────────────────────────────────────────────────

KNOWN = [line.split() for line in (CORPUS / "options.txt").read_text().splitlines() if not line.startswith("#")]


def test_the_table_has_every_option_and_no_other() -> None:
    no_settings = {"config", "alpha-config", "config-test", "convert-config-to-alpha", "version"}
    assert {flag for _, flag in KNOWN} == OPTIONS.keys() - no_settings
    assert [key for key, flag in KNOWN if BY_KEY.get(key) != flag] == []


@pytest.mark.parametrize("flag", [flag for _, flag in KNOWN])
def test_every_option_is_converted_or_spoken_of(flag: str) -> None:
    option = OPTIONS[flag]
    assert bool(option.into) != bool(option.code)
    if option.into:
        settings = {".".join(path).replace(".[]", "") for path, _, _ in fields.every_field(Config)}
        assert option.into.replace("*", "NAME") in settings
        return
    assert option.code in SENTENCES
    given: Any = {Kind.TEXT: "something", Kind.LIST: ["something"], Kind.TRUTH: False not in option.harmless}[option.kind]
    given = not given if option.kind == Kind.TRUTH else given
    if {True, False} <= set(option.harmless if option.kind == Kind.TRUTH else ()):
        return  # nothing follows from it, whatever it is
    notes = convert({**of_words(LEAST), flag: given}).notes
    assert option.code in {note.code for note in notes if flag.replace("-", "_") in note.about}


def test_what_is_unknown_is_named_without_its_value() -> None:
    draft = convert(read('colour = "canary"\nprovider = "oidc"\n[table]\nx = 1'))
    assert {"M230 colour", "M230 table"} <= set(codes(draft))
    assert "canary" not in draft.yaml() + "".join(map(str, draft.notes))


# ── whole configurations ──────────────────────────────────────────────────────────────────────────────────────────────


def test_behind_nginx_with_keycloak_and_sentinels(tmp_path: Path) -> None:
    draft = convert(read((CORPUS / "nginx.cfg").read_text()), forwarded_uri=True)
    config = config_of(draft, tmp_path)
    assert [str(origin) for origin in config.public_url] == ["https://app.example.com"]
    assert config.forward_auth.model_dump(mode="json") == {
        "dialects": ["oauth2_proxy"], "trusted_proxies": ["127.0.0.1/32"], "legacy_202": True, "forwarded_uri": True,
    }  # fmt: skip
    assert [(route.path, route.auth) for route in config.routes] == [
        ("/public/", "none"), ("/health", "none"), ("/", "required"),
    ]  # fmt: skip
    assert config.routes[2].groups == ("/staff/ops", "/staff/sre")
    assert config.routes[2].email_domains == ("example.test",)
    store = config.store.model_dump(mode="json")
    assert store["sentinel"]["addresses"] == ["sentinel-0:26379", "sentinel-1:26379"]
    assert (config.session.cookie.name, str(config.session.absolute_timeout)) == ("_example", "12h")
    assert config.login.allowed_redirects == ("https://*.example.com", "https://other.example.org:8443")
    assert config.log.exclude_paths == ("/ping", "/static/")
    assert "canary" not in draft.yaml() + "".join(map(str, draft.notes))
    assert codes(draft, "M2") == [
        "M201 htpasswd_file", "M222 skip_auth_routes !=^/private", "M222 skip_auth_routes ^/(css|js)/",
    ]  # fmt: skip


def test_a_compose_file_with_two_upstreams(tmp_path: Path) -> None:
    draft = convert(read((CORPUS / "compose.yml").read_text().replace("$$", "$")))
    config = config_of(draft, tmp_path)
    assert {name: upstream.url for name, upstream in config.upstreams.items()} == {
        "default": "http://app:8080", "api": "http://api:9000",
    }  # fmt: skip
    routes = compile_routes(config.routes)
    found = {
        path: match(routes, host="app.example.com", path=path, method=method).settings
        for path, method in (("/healthz", "GET"), ("/api/public/x", "POST"), ("/api/x", "GET"), ("/x", "OPTIONS"))
    }
    assert {path: (rule.auth, rule.upstream) for path, rule in found.items()} == {
        "/healthz": ("none", None), "/api/public/x": ("none", "api"), "/api/x": ("required", "api"), "/x": ("none", None),
    }  # fmt: skip
    assert found["/api/x"].roles == ("admin", "reports:reader")
    assert (config.identity.authorization, config.session.cookie.domain) == ("id_token", "example.com")
    assert config.listen.address == "0.0.0.0:4180"
    assert "canary" not in draft.yaml() + "".join(map(str, draft.notes))


def test_the_environment_alone(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    variables = {
        "PROVIDER": "keycloak-oidc", "OIDC_ISSUER_URL": "https://keycloak.example.com/realms/main", "CLIENT_ID": "app",
        "CLIENT_SECRET": "canary", "REDIRECT_URL": "https://app.example.com/oauth2/callback", "EMAIL_DOMAINS": "a.test,b.test",
        "UPSTREAMS": "http://127.0.0.1:8080", "SKIP_AUTH_ROUTES": "GET=^/api/status$,POST=^/api/_import", "COOKIE_SECURE": "true",
    }  # fmt: skip
    for name, value in variables.items():
        monkeypatch.setenv(f"OAUTH2_PROXY_{name}", value)
    assert main(["config", "import", "--environ"]) == 0
    printed = capsys.readouterr()
    assert "canary" not in printed.out + printed.err
    file = tmp_path / "config.yaml"
    file.write_text(printed.out)
    assert main(["config", "check", str(file)]) == 0
    routes = yaml.safe_load(printed.out)["routes"]
    assert [(rule["path"], rule.get("methods")) for rule in routes] == [
        ("/api/status", ["GET"]), ("/api/_import", ["POST"]), ("/api/_import/", ["POST"]), ("/", None),
    ]  # fmt: skip
    assert routes[-1]["email_domains"] == ["a.test", "b.test"]


def test_the_alpha_file_with_the_rest_on_the_command_line(tmp_path: Path) -> None:
    values = read((CORPUS / "alpha.yaml").read_text().replace("/run/secrets/client", str(tmp_path / "secret")))
    (tmp_path / "secret").write_text("a secret")
    draft = convert(values | of_words(["--email-domain=*", "--redirect-url=https://app.example.com/oauth2/callback"]))
    config = config_of(draft, tmp_path)
    assert config.upstreams["default"].url == "http://127.0.0.1:8080"
    assert (config.listen.address, config.admin.address) == ("0.0.0.0:4180", "127.0.0.1:9100")
    assert (config.routes[0].groups, config.routes[0].roles) == (("/staff/ops",), ("admin",))
    assert codes(draft, "M23") == [
        "M230 injectRequestHeaders", "M230 upstreamConfig.upstreams[0].timeout", "M230 upstreamConfig.upstreams[1]",
    ]  # fmt: skip
