"""``oidc-proxy config import``: whole configurations of oauth2-proxy, and what must not come of one."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from oidc_proxy.cli import main
from oidc_proxy.config import read_config
from oidc_proxy.config.oauth2_proxy import convert, of_words, read
from oidc_proxy.policy import compile_routes, match
from tests.config.imported import BACKEND, CORPUS, LEAST, SECRETS, codes, config_of, imported

# ── whole configurations ──────────────────────────────────────────────────────────────────────────────────────────────


def test_behind_nginx_with_keycloak_and_sentinels(tmp_path: Path) -> None:
    draft = convert(read((CORPUS / "nginx.cfg").read_text()), forwarded_uri=True)
    config = config_of(draft, tmp_path)
    assert [str(origin) for origin in config.public_url] == ["https://app.example.com"]
    assert config.forward_auth.model_dump(mode="json", exclude_unset=True) == {
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
    draft = convert(read((CORPUS / "compose.yml").read_text()))
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
        "/healthz": ("none", None), "/api/public/x": ("none", "api"),
        "/api/x": ("required", "api"), "/x": ("none", None),
    }  # fmt: skip
    assert found["/api/x"].roles == ("admin", "reports:reader")
    assert (config.identity.authorization, config.session.cookie.domain) == ("id_token", "example.com")
    assert config.listen.address == "0.0.0.0:4180"
    assert "canary" not in draft.yaml() + "".join(map(str, draft.notes))


def test_the_environment_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    variables = {
        "PROVIDER": "keycloak-oidc", "OIDC_ISSUER_URL": "https://keycloak.example.com/realms/main", "CLIENT_ID": "app",
        "CLIENT_SECRET": "canary", "REDIRECT_URL": "https://app.example.com/oauth2/callback",
        "EMAIL_DOMAINS": "a.test,b.test",
        "UPSTREAMS": "http://127.0.0.1:8080", "SKIP_AUTH_ROUTES": "GET=^/api/status$,POST=^/api/_import",
        "COOKIE_SECURE": "true",
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


def test_a_file_with_a_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "run.sh"
    file.write_text(f"docker run image:7 \\\n  {' '.join(LEAST)} \\\n  {BACKEND} -scope 'openid email'\n")
    assert main(["config", "import", str(file), "--", "--client-id", "other", "--cookie-secure=false"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert (printed["provider"]["client_id"], printed["provider"]["scopes"]) == ("other", ["openid", "email"])


def test_other_containers_of_a_compose_file_are_passed_over() -> None:
    others = {"db": {"image": "db", "command": "run --config x --trace"}, "app": {"environment": ["OAUTH2_PROXY_X=1"]}}
    ours = {"command": ["--config", "/a.cfg", "--provider", "oidc"], "environment": {"OAUTH2_PROXY_CLIENT_ID": "a$$b"}}
    values = read(yaml.safe_dump({"services": {**others, "auth": ours}}))
    assert values == {"client-id": "a$b", "config": "/a.cfg", "provider": "oidc"}
    assert "M307 config" in codes(convert(values))


def test_variables_from_elsewhere_stay_variables() -> None:
    for environment in (["OAUTH2_PROXY_CLIENT_ID"], {"OAUTH2_PROXY_CLIENT_ID": None}):
        values = read(yaml.safe_dump({"services": {"auth": {"environment": environment}}}))
        assert convert(values).tree["provider"]["client_id"] == "${OAUTH2_PROXY_CLIENT_ID}"


def test_of_two_containers_none_is_chosen() -> None:
    containers = {
        name: {"image": "quay.io/oauth2-proxy/oauth2-proxy:v7", "command": "--provider=oidc"} for name in "ab"
    }
    with pytest.raises(ValueError, match="has 2 containers of oauth2-proxy"):
        read(yaml.safe_dump({"services": containers}))


def test_a_cookie_domain_must_cover_the_site() -> None:
    draft = imported(BACKEND, "--cookie-domain=.other.test,.example.com,app.example.com,xapp.example.com")
    assert draft.tree["session"]["cookie"]["domain"] == "app.example.com"
    draft = imported(BACKEND, "--cookie-domain=.other.test")
    assert "domain" not in draft.tree["session"]["cookie"]
    assert "M126 cookie_domains" in codes(draft)


def test_an_object_of_kubernetes(tmp_path: Path) -> None:
    secret = {"name": "OAUTH2_PROXY_CLIENT_SECRET", "valueFrom": {"secretKeyRef": {"name": "x", "key": "canary"}}}
    words = [word for word in LEAST if "secret" not in word]
    container = {"args": [*words, BACKEND], "env": [secret, {"name": "OAUTH2_PROXY_SCOPE", "value": "openid"}]}
    draft = convert(read(yaml.safe_dump({"spec": {"template": {"spec": {"containers": [container]}}}})))
    provider = config_of(draft, tmp_path).provider
    assert provider.scopes == ("openid",)
    assert provider.client_secret is not None
    assert provider.client_secret.reveal() == SECRETS["OAUTH2_PROXY_CLIENT_SECRET"]
    assert "canary" not in draft.yaml()


# ── what must not be let in, or out ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("words", "note"),
    [
        (["--github-org=acme"], "M301 github_org"),
        (["--authenticated-emails-file=/etc/emails"], "M301 authenticated_emails_file"),
        (["--google-group=g"], "M301 google_groups"),
        (["--gitlab-group=g"], "M301 gitlab_groups"),
        (["--entra-id-allowed-tenant=t"], "M301 entra_id_allowed_tenants"),
    ],
)
def test_nobody_enters_where_it_is_not_known_who_may(words: list[str], note: str, tmp_path: Path) -> None:
    draft = imported(BACKEND, *words)
    assert note in codes(draft)
    file = tmp_path / "config.yaml"
    file.write_text(draft.yaml())
    loaded = read_config([file], SECRETS)
    assert loaded.settings is None
    assert "WHO_MAY_ENTER" in str(loaded.errors[0])


@pytest.mark.parametrize(
    "domains", [[], ["--email-domain=.a.test"], ["--email-domain=a.test", "--oidc-email-claim=mail"]]
)
def test_nobody_enters_by_a_domain_that_cannot_be_said(domains: list[str]) -> None:
    draft = convert(of_words([*LEAST[:-1], BACKEND, *domains]))
    assert "M301 email_domains" in codes(draft)
    assert draft.tree["routes"] == [{"path": "/", "groups": ["${WHO_MAY_ENTER}"]}]


def test_everybody_enters_where_one_domain_is_a_star() -> None:
    draft = imported(BACKEND, "--email-domain=a.test", "--email-domain=.b.test", "--oidc-email-claim=mail")
    assert codes(draft, "M301") == []
    assert "routes" not in draft.tree
    assert draft.tree["identity"]["headers"]["X-Forwarded-Email"] == "mail"


@pytest.mark.parametrize(
    "words",
    [
        ["--client-secret=canary"], ["--cookie-secret=canary"],
        ["--redis-password=canary", "--session-store-type=redis"],
        ["--redis-connection-url=redis://u:canary@redis:6379/1", "--session-store-type=redis"],
        ["--redis-connection-url=redis://u:canary@redis:port", "--session-store-type=redis"],
        ["--redis-sentinel-connection-urls=redis://:canary@s:1", "--redis-use-sentinel", "--session-store-type=redis"],
        ["--redis-cluster-connection-urls=redis://:canary@s:1,redis://:canary@t:1", "--redis-use-cluster",
         "--session-store-type=redis"],
        ["--basic-auth-password=canary"], ["--signature-key=sha1:canary"], ["--jwt-key=canary"],
        ["--github-token=canary"],
        ["--upstream=http://u:canary@app:80/"], ["--upstream=foo://canary"], ["--colour=canary"],
        ["--redirect-url=https://u:canary@app.example.com/oauth2/callback"],
    ],
)  # fmt: skip
def test_no_secret_is_printed(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "import", "--", *LEAST, BACKEND, *words]) == 0
    printed = capsys.readouterr()
    assert "canary" not in printed.out + printed.err


@pytest.mark.parametrize(
    "content",
    [
        "", "just words", "[1, 2]", "a: b", "x = ", "provider = canary", "cookie_secure = 'canary'", "{" * 2000,
        "x = 1",
        "x = " + "[" * 3000, "providers: [&a {x: *a}]",
        "a: &a [x]\nb: [" + "*a, " * 9 + "*a]", "provider = [1, 2]", "-- 'canary", "\0",
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_said_without_its_content(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text(content)
    assert main(["config", "import", str(tmp_path / "file")]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("oidc-proxy config import: ")
    assert "canary" not in printed.err


def test_files_that_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "long").write_text("#" * (2**20 + 1))
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for words in ([str(tmp_path / "long")], [str(tmp_path / "binary")], [str(tmp_path / "none")], []):
        assert main(["config", "import", *words]) == 1
        assert capsys.readouterr().out == ""


def test_aliases_within_aliases_take_no_time() -> None:
    levels = "\n".join(f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]" for n in range(1, 30))
    with pytest.raises(ValueError, match="no option of oauth2-proxy"):
        read(f"l0: &l0 [x]\n{levels}")


def test_what_is_written_is_data(tmp_path: Path) -> None:
    odd = "a'b\"c: d #e, ${HOME} $$ ü\n- x"
    draft = convert({**of_words([*LEAST, BACKEND]), "allowed-group": [odd], "skip-auth-route": ["^/(\n\nroutes: []"]})
    config = config_of(draft, tmp_path)
    assert config.routes[-1].groups == (odd,)


def test_what_is_unknown_is_named_without_its_value() -> None:
    draft = convert(read('colour = "canary"\nprovider = "oidc"\n[table]\nx = 1'))
    assert {"M230 colour", "M230 table"} <= set(codes(draft))
    assert "canary" not in draft.yaml() + "".join(map(str, draft.notes))


def test_documents_in_a_row_are_read(tmp_path: Path) -> None:
    other = "---\nkind: Service\n"
    ours = f"---\nspec: {{containers: [{{args: {[*LEAST, BACKEND]}}}]}}\n"
    assert config_of(convert(read(other + ours)), tmp_path).provider.client_id == "app"


def test_variables_on_a_command_line_count_less_than_flags() -> None:
    words = "docker run -e OAUTH2_PROXY_CLIENT_ID=a -e OAUTH2_PROXY_EMAIL_DOMAINS=x,y image --email-domain=z"
    values = read(words)
    assert (values["client-id"], values["email-domain"]) == ("a", ["z"])
