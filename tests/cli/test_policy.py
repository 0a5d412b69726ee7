"""``oidc-proxy policy test``: the operator asks what a request meets before somebody sends it."""

from __future__ import annotations

from pathlib import Path

import pytest

from oidc_proxy.cli import main
from oidc_proxy.cli.policy import answer
from oidc_proxy.errors import RequestFault
from oidc_proxy.policy import RouteSettings, compile_routes
from oidc_proxy.values import Origin

ORIGINS = [Origin.parse("https://app.test"), Origin.parse("https://admin.test:8443")]
ROUTES = compile_routes([
    RouteSettings(path="/public/", auth="none"),
    RouteSettings(path="/", host="admin.test", name="admin", auth="none"),
    RouteSettings(path="/"),
])  # fmt: skip


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("/public/x", "/public/"),
        ("/public/x?next=/admin", "/public/"),
        pytest.param("/?x=/public/", "/", id="F171 the query has no say"),
        ("https://app.test", "/"),
        ("https://app.test?a=b", "/"),
        ("https://app.test/public/", "/public/"),
        pytest.param("https://ADMIN.test.:8443/x", "admin", id="PA-26"),
        pytest.param("https://admin.test/x", "wrong_host", id="FW-7 another port"),
        pytest.param("https://evil.test/public/", "wrong_host", id="FW-6"),
        pytest.param("/public/..%2fx", "path_ambiguous", id="PA-3"),
        pytest.param("/public/#/x", "bad_request", id="SM-13 fragment"),
        pytest.param("\\public", "bad_request", id="PA-6 no slash at the start"),
        pytest.param("/é", "bad_request", id="PA-13 raw non-ASCII"),
    ],
)
def test_f263_the_answer_is_the_gateways(url: str, expected: str) -> None:
    told = answer(ROUTES, ORIGINS, "GET", url, None)
    if isinstance(told.verdict, RequestFault):
        assert told.verdict.code == expected
        assert told.route is None
    else:
        assert told.route is not None
        assert told.route.name == expected


@pytest.mark.parametrize(
    "url", ["", "app.test/x", "ftp://app.test/", "https:///x", "https://a b/", "https://app.test:99999/"]
)
def test_what_is_no_url_is_a_usage_error(url: str) -> None:
    with pytest.raises(ValueError, match=r"must|has|is not"):
        answer(ROUTES, ORIGINS, "GET", url, None)


@pytest.fixture
def config(tmp_path: Path) -> str:
    file = tmp_path / "config.yaml"
    file.write_text("""\
public_url: https://app.example.com
provider: {issuer: "https://id.example.com", client_id: app, client_secret: "not the one of any example: 93f1c0"}
upstream: http://127.0.0.1:8080
routes:
  - {path: /public/, auth: none}
  - {path: /admin/, groups: [/staff/ops], roles: [admin]}
  - {path: /api/, strip_prefix: /api, upstream: api}
  - {path: /board/, email_domains: [example.com], emails: [ann@example.com, bob@example.com]}
upstreams: {api: {url: "http://127.0.0.1:9000"}}
""")
    return str(file)


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["/public/x", "--anonymous"], 0, "verdict  allowed"),
        (["/x", "--anonymous"], 1, "verdict  sign-in required"),
        (["/x"], 0, "verdict  allowed"),
        (["/board/", "--email", "Ann@Example.com"], 0, "email domains one of example.com: has example.com"),
        (["/board/", "--email", "eve@example.com"], 1, "one of ann@example.com, bob@example.com: has none of them"),
        (["/board/"], 1, "email domains one of example.com: has none of them"),
        (
            ["/admin/", "--group", "/staff/ops", "--role", "admin", "--role", "x"],
            0,
            "groups   one of /staff/ops: has /staff/ops",
        ),
        (["/admin/", "--group", "/staff"], 1, "groups   one of /staff/ops: has none of them"),
        (["/public/..;/admin/"], 1, "verdict  refused (path_ambiguous, 400): '/public/..;/admin/' as it came"),
        (["/api/a%2Fb?x"], 0, "path     goes on as /a%2Fb"),
        (["/api/%2Fx/"], 0, "path     goes on as /%2Fx/"),
        (["/api//x"], 1, "verdict  refused (path_ambiguous, 400): '/api//x' without its first part"),
        (["https://other.example.com/"], 1, "verdict  refused (wrong_host, 421)"),
    ],
)
def test_a_request_is_explained(
    config: str, words: list[str], status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["policy", "test", "GET", *words, "--config", config]) == status
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["/", "--anonymous", "--role", "x"], "--anonymous cannot have"),
        (["/", "--anonymous", "--email", "x"], "--anonymous cannot have"),
        (["app/"], "URL must start with"),
    ],
)
def test_usage_errors(config: str, words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["policy", "test", "GET", *words, "--config", config]) == 2
    assert said in capsys.readouterr().err


def test_problems_of_the_configuration_come_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("routes: [{path: public}]\n")
    assert main(["policy", "test", "GET", "/", "--config", str(file)]) == 78
    assert "routes" in capsys.readouterr().err
