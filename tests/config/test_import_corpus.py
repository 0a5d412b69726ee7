"""Configurations of oauth2-proxy as people have them (F266): each is converted, and no option is dropped in silence."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from oidc_proxy.config import read_config
from oidc_proxy.config.oauth2_proxy import OPTIONS, Draft, convert, of_words, read
from oidc_proxy.config.oauth2_proxy.options import BY_KEY, key_of
from tests.config.imported import CORPUS, codes

USUAL = {"M103 cookie_expire", "M107 insecure_oidc_allow_unverified_email", "M108 session_store_type", "M111 ping_path"}
"""What is said of an option that is not given, because of what oauth2-proxy does without it."""
NOTES: dict[str, set[str]] = {
    "alpha.yaml": {
        "M118 allowed_roles", "M230 injectRequestHeaders", "M230 upstreamConfig.upstreams[0].timeout",
        "M230 upstreamConfig.upstreams[1]",
    },
    "compose.yml": {
        "M102 cookie_secret", "M130 skip_auth_preflight", "M302 client_secret", "M302 redis_connection_url",
    },
    "docker.env": {
        "M102 cookie_secret", "M121 provider_display_name", "M205 skip_auth_strip_headers", "M302 client_secret",
    },
    "entra.cfg": {
        "M101 cookie_csrf_samesite", "M102 cookie_secret", "M105 code_challenge_method", "M108 session_cookie_minimal",
        "M202 extra_jwt_issuers", "M202 skip_jwt_bearer_tokens", "M301 entra_id_allowed_tenants",
        "M302 client_secret",
    },
    "github.cfg": {
        "M102 cookie_secret", "M201 htpasswd_file", "M201 htpasswd_user_groups", "M219 provider github",
        "M301 github_org", "M301 github_team", "M302 client_secret", "M303 oidc_issuer_url",
    },
    "gitlab.sh": {
        "M102 cookie_secret", "M114 request_logging_format", "M204 basic_auth_password", "M204 set_basic_auth",
        "M206 cookie_path", "M221 upstreams[1]", "M230 no-such-option", "M230 p", "M230 rm", "M301 gitlab_groups",
        "M302 client_secret",
    },
    "google.cfg": {
        "M100 approval_prompt", "M102 cookie_secret_file", "M115 logging_filename", "M115 logging_max_size",
        "M203 trusted_ips", "M215 tls_min_version", "M217 banner", "M217 custom_templates_dir",
        "M218 google_admin_email", "M218 google_service_account_json", "M220 upstreams[2]", "M227 force_https",
        "M301 google_groups",
    },
    "keycloak.cfg": {
        "M102 cookie_secret", "M104 cookie_refresh", "M109 pass_access_token", "M111 ready_path", "M113 api_routes",
        "M125 backend_logout_url", "M130 skip_auth_preflight", "M222 skip_auth_routes POST=^/hooks/[a-z]+$",
        "M224 request_id_header", "M302 client_secret", "M302 redis_password",
    },
    "kubernetes.yaml": {
        "M102 cookie_secret", "M120 redis_cluster_connection_urls", "M127 upstreams[0]", "M128 reverse_proxy",
        "M131 whitelist_domains", "M133 https_address", "M302 client_secret", "M302 redis_password",
        "M306 trusted_proxy_ips",
    },
    "minimal.cfg": {
        "M102 cookie_secret", "M106 insecure_oidc_skip_nonce", "M129 ssl_insecure_skip_verify",
        "M207 insecure_oidc_skip_issuer_verification", "M228 relative_redirect_url", "M302 client_secret",
        "M308 oidc_issuer_url",
    },
    "nginx.cfg": {
        "M102 cookie_secret", "M104 cookie_refresh", "M109 pass_access_token", "M116 real_client_ip_header",
        "M121 provider_display_name", "M127 upstreams[0]", "M128 reverse_proxy", "M131 whitelist_domains",
        "M201 htpasswd_file", "M222 skip_auth_routes !=^/private", "M222 skip_auth_routes ^/(css|js)/",
        "M302 client_secret", "M302 redis_password", "M302 redis_sentinel_password", "M304 forward_auth",
    },
    "traefik.yml": {
        "M102 cookie_secret", "M127 upstreams[0]", "M128 reverse_proxy", "M131 whitelist_domains",
        "M302 client_secret", "M306 trusted_proxy_ips",
    },
}  # fmt: skip
"""File → what is said of it, beside the usual."""
AS_IT_IS = {
    ("email-domain", "['*']"), ("cookie-secure", "True"), ("cookie-secure", "False"), ("pass-basic-auth", "False"),
    ("oidc-email-claim", "email"), ("authenticated-emails-file", ""),
}  # fmt: skip
"""What these say is so without a setting of ours: everybody, by the scheme of `public_url`, never, the claim's name."""
REFUSED = {"minimal.cfg": {"E102"}}
"""File → what the program says of the outcome, once the variables in it are set."""
ELSEWHERE = {"alpha.yaml": ("--redirect-url=https://app.example.com/oauth2/callback", "--email-domain=*")}
"""File → what its owner has as flags."""


def converted(name: str) -> tuple[dict[str, Any], Draft]:
    values = read((CORPUS / name).read_text()) | of_words(ELSEWHERE.get(name, ()))
    return values, convert(values)


def test_every_file_is_known_and_there_are_enough_of_them() -> None:
    assert {path.name for path in CORPUS.iterdir()} - {"options.txt"} == NOTES.keys()
    assert len(NOTES) >= 10


@pytest.mark.parametrize("name", NOTES)
def test_f266_what_is_said(name: str) -> None:
    _, draft = converted(name)
    assert set(codes(draft)) - USUAL == NOTES[name]
    assert "M111 ping_path" in codes(draft), "nobody's probes go on as they are"
    assert "canary" not in draft.yaml() + "".join(map(str, draft.notes))


@pytest.mark.parametrize("name", NOTES)
def test_f266_no_option_is_dropped_in_silence(name: str) -> None:
    values, draft = converted(name)
    assert len(values) > 9 or name == "alpha.yaml"
    became = {key for keys in draft.sources.values() for key in keys}
    for flag, value in values.items():
        key = key_of(flag) if flag in OPTIONS else flag
        spoken = any(note.about == key or note.about.startswith((f"{key} ", f"{key}[")) for note in draft.notes)
        same = (flag, str(value)) in AS_IT_IS or (flag in OPTIONS and value in OPTIONS[flag].harmless)
        assert key in became or spoken or same, flag


@pytest.mark.parametrize("name", NOTES)
def test_f266_the_program_takes_the_outcome(name: str, tmp_path: Path) -> None:
    _, draft = converted(name)
    text = draft.yaml()
    for place in set(re.findall(r"(?:_file: |[ '])(/(?:run|etc)/[\w./-]+)", text)):
        if not place.endswith(".sock"):
            (tmp_path / Path(place).name).write_text("a secret")
            text = text.replace(place, str(tmp_path / Path(place).name))
    variables = dict.fromkeys(re.findall(r"\$\{(\w+)\}", text), "something")
    variables |= {"OIDC_ISSUER": "https://sso.example.com", "TRUSTED_PROXIES": "10.0.0.0/8"}
    (tmp_path / "config.yaml").write_text(text)
    loaded = read_config([tmp_path / "config.yaml"], variables)
    assert {problem.code for problem in loaded.errors} == REFUSED.get(name, set()), (text, loaded.errors)


def test_the_names_of_the_corpus_are_those_of_oauth2_proxy() -> None:
    """A mistyped option would be reported as unknown, and prove nothing."""
    for name in NOTES:
        unknown = {flag for flag in converted(name)[0] if flag not in OPTIONS and flag not in BY_KEY}
        alpha = {"injectRequestHeaders", "upstreamConfig.upstreams[0].timeout", "upstreamConfig.upstreams[1]"}
        assert unknown == {"alpha.yaml": alpha, "gitlab.sh": {"no-such-option", "p", "rm"}}.get(name, set())
