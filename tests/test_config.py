"""The configuration: F104, F105, F246, F249, F251; operations.md §1.2, §2."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, Literal

import pytest
import yaml
from pydantic import BeforeValidator, Field, create_model, field_validator, model_validator

from oidc_proxy.config import Config, Loaded, checks, explain, fields, generate, load, read_config, show
from oidc_proxy.config.document import core_scalar, file_text, interpolate
from oidc_proxy.config.problems import CODES, Mark, Problem, Source, in_order, report
from oidc_proxy.config.reading import read
from oidc_proxy.errors import SettingsFault
from oidc_proxy.policy import RouteSettings
from oidc_proxy.server.store import MemoryStoreSettings
from oidc_proxy.values import ByteSize, Duration, Secret, Settings

ROOT = Path(__file__).parent.parent
CORPUS = Path(__file__).parent / "corpus" / "config"
ENVIRON = {"CLIENT_SECRET": "s3cret", "EMPTY": ""}
MINIMAL = (CORPUS / "minimal.yaml").read_text()

Read = Callable[..., Loaded[Any]]


def main() -> None:
    """Write the golden outputs and the generated files again: ``python -m tests.test_config``."""
    os.chdir(CORPUS)
    for name in CASES:
        Path(name).with_suffix(".txt").write_text(_report(name))
    for name, make in GENERATED.items():
        (ROOT / name).write_text(make(Config))


# ── the corpus ────────────────────────────────────────────────────────────────────────────────────────────────────────

CASES = sorted(path.name for path in CORPUS.glob("*.yaml"))


def _report(name: str) -> str:
    return report(read_config([Path(name)], ENVIRON).problems, [name]) + "\n"


@pytest.mark.parametrize("name", CASES)
def test_f105_every_problem_of_a_file_is_said_at_its_place(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CORPUS)
    said = _report(name)
    assert said == Path(name).with_suffix(".txt").read_text()
    assert "canary" not in said


def test_f246_f251_at_least_twenty_bad_files_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CORPUS)
    refused = [name for name in CASES if read_config([Path(name)], ENVIRON).settings is None]
    assert len(refused) >= 20


@pytest.mark.parametrize("name", CASES)
def test_no_secret_of_a_file_is_in_any_format(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CORPUS)
    loaded = read_config([Path(name)], ENVIRON)
    for form in ("text", "json", "github"):
        assert "canary" not in report(loaded.problems, [name], form)
    assert "canary" not in repr(loaded.settings)


# ── a small model of our own, for the loader ──────────────────────────────────────────────────────────────────────────


class Tls(Settings):
    """TLS."""

    ca_file: Path | None = Field(None, description="CA.")


class Provider(Settings):
    """The provider."""

    issuer: str = Field(description="Issuer.", examples=["https://op.example.com"])
    client_id: str = Field(description="Client id.", examples=["app"])
    scopes: tuple[str, ...] = Field(("openid",), description="Scopes.")
    secret: Secret | None = Field(None, description="Secret.")
    secret_file: Path | None = Field(None, description="File that holds `secret`.")
    tls: Tls = Field(Tls(), description="TLS.")

    @field_validator("issuer")
    @classmethod
    def _url(cls, value: str) -> str:
        if "://" not in value:
            raise ValueError("must be a URL such as https://op.example.com")
        return value

    @model_validator(mode="after")
    def _together(self) -> Provider:
        if self.client_id == "alone":
            raise ValueError("client_id is lonely; scopes are few; tls.ca_file is needed; something else")
        return self


class Round(Settings):
    """A shape."""

    type: Literal["round"] = Field("round", description="Kind.")
    radius: int = Field(1, description="Radius.", ge=1)


class Square(Settings):
    """A shape."""

    type: Literal["square"] = Field("square", description="Kind.")
    side: float = Field(1.0, description="Side.", lt=10, gt=0)
    round: str = Field("", description="Named as the other's tag.")


class Key(Settings):
    """One key."""

    key: Secret | None = Field(None, description="Key.")
    key_file: str | None = Field(None, description="File that holds `key`.")


class Root(Settings):
    """Everything."""

    listen: str = Field("127.0.0.1:80", description="Address.")
    provider: Provider = Field(description="Provider.")
    session_ttl: int = Field(60, ge=60, description="Seconds.")
    verbose: bool = Field(False, description="Say more.")
    idle: Duration = Field(Duration(60), ge=1, description="Idle time.")
    limit: ByteSize = Field(ByteSize(10), description="Size.")
    shape: Annotated[Round | Square, Field(discriminator="type")] = Field(Round(), description="Shape.")
    keys: tuple[Key, ...] = Field((), description="Keys.")
    by_name: dict[str, Key] = Field({}, description="Keys by name.")
    headers: dict[str, str] = Field({}, description="Headers.")
    either: int | tuple[int, ...] = Field(0, description="A number or several.")
    names: frozenset[str] = Field(frozenset(), max_length=2, description="Names.")
    code: str = Field("AB", pattern="^[A-Z]+$", max_length=3, description="Code.")
    level: Literal[1, 2] = Field(1, description="Level.")


GOOD = "provider: {issuer: https://op.example.com, client_id: app}\n"


@pytest.fixture
def parsed(tmp_path: Path) -> Read:
    def read_text(text: str, environ: Mapping[str, str] = {}, **options: Any) -> Loaded[Any]:
        file = tmp_path / "oidc.yaml"
        file.write_text(text)
        return read(options.pop("root", Root), [file], environ, **options)

    return read_text


def said(loaded: Loaded[Any]) -> list[tuple[str, str, str]]:
    """Place, path and message of each problem."""

    def place(problem: Problem) -> str:
        shown = problem.fields()
        return f"{shown['line']}:{shown['column']}" if shown["line"] else str(problem.mark or "")

    return [(place(problem), problem.path, problem.message) for problem in loaded.problems]


def test_golden_sample_of_the_error_format(parsed: Read) -> None:
    loaded = parsed(
        "listen: 0.0.0.0:8080\nprovider:\n  issuer: keycloak.example.com/realms/x\n  clientid: abc\n"
        "  scopes: [openid, 5]\nsession_ttl: 5\n"
    )
    assert said(loaded) == [
        ("3:3", "provider.client_id", "is missing"),
        ("3:11", "provider.issuer", "must be a URL such as https://op.example.com"),
        ("4:3", "provider.clientid", "unknown key"),
        ("5:20", "provider.scopes.1", "must be text"),
        ("6:14", "session_ttl", "must be at least 60"),
    ]
    assert [problem.hint for problem in loaded.problems] == [
        "add “client_id: app”",
        'did you mean "https://keycloak.example.com/realms/x"?',
        "did you mean `client_id`?",
        'put it in quotes: "5"',
        "",
    ]
    assert loaded.settings is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("shape: {type: squar}", ("2:15", "shape.type", "must be round or square")),
        ("shape: {type: square, side: 10}", ("2:29", "shape.side", "must be less than 10")),
        ("shape: {type: square, side: 0}", ("2:29", "shape.side", "must be more than 0")),
        ("shape: {type: square, side: wide}", ("2:29", "shape.side", "must be a number")),
        ("shape: {type: square, round: 5}", ("2:30", "shape.round", "must be text")),
        ("shape: {type: square, radius: 5}", ("2:23", "shape.radius", "unknown key")),
        ("shape: {side: 5}", ("2:8", "shape", "needs the key `type`")),
        ("shape: round", ("2:8", "shape", "must be a section of keys")),
        ("keys: [{}, {kee: x}]", ("2:13", "keys.1.kee", "unknown key")),
        ("keys: {}", ("2:7", "keys", "must be a list")),
        ("by_name: {a: {key: 5}}", ("2:20", "by_name.a.key", "must be a string; put it in quotes")),
        ("by_name: [a]", ("2:10", "by_name", "must be a section of keys")),
        ("either: [1, x]", ("2:13", "either.1", "must be a whole number")),
        ("either: x", ("2:9", "either", "must be a whole number")),
        ("names: [a, b, c]", ("2:8", "names", "must have at most 2 entries")),
        ("names: a", ("2:8", "names", "must be a list")),
        ("code: ab", ("2:7", "code", "must match ^[A-Z]+$")),
        ("code: ABCD", ("2:7", "code", "must have at most 3 characters")),
        ("code: ", ("2:7", "code", "must be text")),
        ("idle: 5", ("2:7", "idle", "must be a duration with its unit, such as 15m")),
        ("idle: 500ms", ("2:7", "idle", "must be at least 1s")),
        ("limit: 5", ("2:8", "limit", "must be a size with its unit, such as 1MiB")),
        ("verbose: 2", ("2:10", "verbose", "must be true or false")),
        ("session_ttl: 99999999999999999999", ("2:14", "session_ttl", "must be at least 60")),
        ("session_ttl: 60.5", ("2:14", "session_ttl", "must be a whole number")),
        ("level: 3", ("2:8", "level", "must be 1 or 2")),
        ("listen: [a]", ("2:9", "listen", "must be text")),
    ],
)
def test_wrong_values_are_named_at_their_place(text: str, expected: tuple[str, str, str], parsed: Read) -> None:
    assert expected in said(parsed(GOOD + text))
    assert len(parsed(GOOD + text).problems) == 1


def test_a_complaint_about_a_whole_section_goes_to_the_keys_that_it_names(parsed: Read) -> None:
    loaded = parsed("provider: {issuer: https://op.example.com, client_id: alone}")
    assert said(loaded) == [
        ("1:11", "provider", "something else"),
        ("1:11", "provider.scopes", "are few"),
        ("1:11", "provider.tls.ca_file", "is needed"),
        ("1:55", "provider.client_id", "is lonely"),
    ]


def test_a_complaint_that_quotes_a_key_goes_to_that_key(parsed: Read) -> None:
    def refuse(value: dict[str, str]) -> dict[str, str]:
        raise ValueError("cannot set “b”")

    root = create_model("Free", __base__=Settings, params=(Annotated[dict[str, str], BeforeValidator(refuse)], {}))
    assert said(parsed("params: {a: x, b: y}", root=root)) == [("1:16", "params.b", "cannot set “b”")]


def test_what_pydantic_says_beyond_our_table_is_taken_as_it_is(parsed: Read) -> None:
    from datetime import date

    root = create_model("Dated", __base__=Settings, day=(date, Field(description="A day.")))
    assert said(parsed("day: tomorrow", root=root))[0][:2] == ("1:6", "day")


def test_a_wrong_default_is_said_where_the_key_would_be(parsed: Read) -> None:
    root = create_model("Odd", __base__=Settings, size=(int, Field("x", description="Size.")))
    assert said(parsed("", root=root)) == [("1:1", "size", "must be a whole number")]


# ── YAML ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None), ("null", None), ("~", None), ("true", True), ("False", False), ("no", "no"), ("on", "on"), ("Y", "Y"),
        ("5", 5), ("-5", -5), ("017", 17), ("0o17", 15), ("0x1F", 31), ("1_000", "1_000"), ("12:30:00", "12:30:00"),
        ("1e3", 1000.0), ("1.5", 1.5), (".5", 0.5), ("2026-01-01", "2026-01-01"), (".inf", ".inf"), ("=", "="),
        ("9" * 30, float("9" * 30)), ("9" * 5000, "9" * 5000), ("1.2.3", "1.2.3"), ("<<", "<<"),
    ],
)  # fmt: skip
def test_scalars_are_those_of_yaml_1_2(text: str, value: object) -> None:
    found = core_scalar(text)
    assert found == value
    assert type(found) is type(value)


def test_quoted_and_block_scalars_are_text(parsed: Read) -> None:
    loaded = parsed(GOOD + "headers: {a: '5', b: \"true\"}\ncode: |-\n  AB\nlisten: !!str x\n")
    assert loaded.settings.headers == {"a": "5", "b": "true"}
    assert (loaded.settings.code, loaded.settings.listen) == ("AB", "x")


def test_a_file_that_cannot_be_read_is_said_without_guessing_at_the_rest(tmp_path: Path) -> None:
    binary, large = tmp_path / "binary.yaml", tmp_path / "large.yaml"
    binary.write_bytes(b"a: \xff")
    large.write_bytes(b"#" * (1024 * 1024 + 1))
    control = tmp_path / "control.yaml"
    control.write_bytes(b"a: \x01")
    deep = tmp_path / "deep.yaml"
    deep.write_text("[" * 3000)
    deeper = tmp_path / "deeper.yaml"
    deeper.write_text("a: " + "[" * 50 + "]" * 50)
    problems = read(Root, [tmp_path / "none.yaml", binary, large, control, deep, deeper], {}).problems
    assert sorted((problem.code, problem.message.replace(str(tmp_path), "")) for problem in problems) == [
        ("E100", "cannot read /binary.yaml: byte 4 is not UTF-8"),
        ("E100", "cannot read /large.yaml: it is larger than 1 MiB"),
        ("E100", "cannot read /none.yaml: No such file or directory"),
        ("E101", "contains a control character, which YAML does not permit"),
        ("E106", "is nested or repeated too much"),
        ("E106", "is nested too much"),
    ]


def test_a_byte_order_mark_and_windows_line_ends_do_not_matter(tmp_path: Path) -> None:
    file = tmp_path / "oidc.yaml"
    file.write_bytes(b"\xef\xbb\xbflisten: x\r\nprovider: {issuer: op, client_id: a}\r\n")
    assert said(read(Root, [file], {})) == [("2:20", "provider.issuer", "must be a URL such as https://op.example.com")]


def test_later_files_go_over_earlier_ones(tmp_path: Path) -> None:
    base, site = tmp_path / "base.yaml", tmp_path / "site.yaml"
    base.write_text(GOOD + "headers: {a: '1', b: '1'}\nnames: [a]\nlisten: base\n")
    site.write_text("headers: {b: '2'}\nnames: [b]\nprovider: {client_id: other}\n")
    settings = read(Root, [base, site], {}).settings
    assert settings is not None
    assert settings.headers == {"a": "1", "b": "2"}
    assert (settings.names, settings.listen) == ({"b"}, "base")
    assert (settings.provider.client_id, settings.provider.issuer) == ("other", "https://op.example.com")


# ── ${…} ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a ${X} b", "a x b"), ("${X}${X}", "xx"), ("${EMPTY}", ""), ("${EMPTY:-d}", "d"), ("${NONE:-}", ""),
        ("${NONE:-a:-b}", "a:-b"), ("${X:-d}", "x"), ("${X:?why}", "x"), ("$$", "$"), ("$${X}", "${X}"), ("$X $", "$X $"),
        ("${RAW}", "${X}"), ("${YAML}", "[a, {b: c}]\nd: e"),
    ],
)  # fmt: skip
def test_f104_variables_are_filled_in_once(text: str, value: str) -> None:
    environ = {"X": "x", "EMPTY": "", "RAW": "${X}", "YAML": "[a, {b: c}]\nd: e"}
    assert interpolate(text, environ) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("${NONE}", "needs the environment variable NONE, which is not set"),
        ("${NONE:?for the test}", "needs the environment variable NONE: for the test"),
        ("${EMPTY:?}", "needs the environment variable EMPTY: it is not set, or empty"),
        ("${X", "has “${” without “}”"),
        ("${}", "has “${…}” with something inside that is not the name of a variable"),
        ("${A B}", "has “${…}” with something inside that is not the name of a variable"),
        ("${X:+y}", "has “${…}” with something inside that is not the name of a variable"),
        ("${file:/nonexistent}", "cannot be read from /nonexistent: No such file or directory"),
    ],
)
def test_f104_what_cannot_be_filled_in(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        interpolate(text, {"EMPTY": "", "X": "x"})


def test_f104_a_value_never_becomes_structure(parsed: Read) -> None:
    loaded = parsed(GOOD + "listen: ${EVIL}\nverbose: ${YES}\nsession_ttl: ${N}\n", {"EVIL": "x\nverbose: true", "YES": "true", "N": "61"})  # fmt: skip
    assert loaded.settings.listen == "x\nverbose: true"
    assert (loaded.settings.verbose, loaded.settings.session_ttl) == (True, 61)


def test_f104_files_are_found_from_where_they_are_named(tmp_path: Path, parsed: Read) -> None:
    (tmp_path / "word").write_text("from file\n")
    assert parsed(GOOD + "listen: ${file:word}").settings.listen == "from file"


# ── environment and options ───────────────────────────────────────────────────────────────────────────────────────────


def test_f104_precedence(parsed: Read) -> None:
    environ = {"OIDC_PROXY__LISTEN": "env", "OIDC_PROXY__CODE": "ENV", "OIDC_PROXY_OTHER": "x", "HOME": "/"}
    settings = parsed(
        GOOD + "listen: file\ncode: FI\nsession_ttl: 61", environ, overrides={"listen": "option"}
    ).settings
    assert (settings.listen, settings.code, settings.session_ttl, settings.level) == ("option", "ENV", 61, 1)


@pytest.mark.parametrize(
    ("name", "text", "path", "value"),
    [
        ("VERBOSE", "false", "verbose", False),
        ("VERBOSE", "true", "verbose", True),
        ("SESSION_TTL", "61", "session_ttl", 61),
        ("IDLE", "2m", "idle", Duration(120)),
        ("LIMIT", "0", "limit", ByteSize(0)),
        ("PROVIDER__CLIENT_ID", "12345", "provider.client_id", "12345"),
        ("PROVIDER__CLIENT_ID", "no: [x", "provider.client_id", "no: [x"),
        ("PROVIDER__CLIENT_ID", "${X}", "provider.client_id", "${X}"),
        ("PROVIDER__SECRET", "[5", "provider.secret", Secret("[5")),
        ("PROVIDER__SCOPES", "[openid, email]", "provider.scopes", ("openid", "email")),
        ("PROVIDER__TLS__CA_FILE", "ca.pem", "provider.tls.ca_file", Path("ca.pem")),
        ("SHAPE", "{type: square, side: 5}", "shape", Square(side=5)),
        ("SHAPE__TYPE", "square", "shape", Square()),
        ("HEADERS__X", "5", "headers", {"x": "5"}),
        ("BY_NAME__A__KEY", "k", "by_name", {"a": Key(key=Secret("k"))}),
        ("EITHER", "5", "either", 5),
        ("EITHER", "[5, 6]", "either", (5, 6)),
        ("LEVEL", "2", "level", 2),
        ("Provider__Client_Id", "x", "provider.client_id", "x"),
    ],
)
def test_f104_environment(name: str, text: str, path: str, value: object, parsed: Read) -> None:
    loaded = parsed(GOOD, {f"OIDC_PROXY__{name}": text})
    assert loaded.problems == []
    found = loaded.settings
    for part in path.split("."):
        found = getattr(found, part)
    assert found == value


@pytest.mark.parametrize(
    ("name", "text", "path", "message", "hint"),
    [
        ("PROVIDER__CLIENTID", "x", "provider.clientid", "names no setting", "did you mean `client_id`?"),
        ("PROVIDERS__CLIENT_ID", "x", "providers", "names no setting", "did you mean `provider`?"),
        ("LISTEN__ADDRESS", "x", "listen.address", "names no setting", ""),
        ("", "x", "", "names no setting", None),
        ("VERBOSE", "", "verbose", "must be true or false", "give it a value, or remove the key"),
        ("PROVIDER__SCOPES", "[a", "", None, ""),
        ("PROVIDER__SCOPES", "a", "provider.scopes", "must be a list", "write it as [one, two]"),
        ("PROVIDER__ISSUER", "op", "provider.issuer", "must be a URL such as https://op.example.com", ""),
    ],
)
def test_f104_environment_problems_name_the_variable(
    name: str, text: str, path: str, message: str | None, hint: str | None, parsed: Read
) -> None:
    (problem,) = parsed(GOOD, {f"OIDC_PROXY__{name}": text}).problems
    assert problem.path == path
    assert message in (None, problem.message)
    assert hint in (None, problem.hint)
    assert f"--> environment variable OIDC_PROXY__{name}\n" in str(problem)
    assert problem.fields()["file"] is None


def test_a_variable_can_replace_what_is_no_section(parsed: Read) -> None:
    loaded = parsed(
        "provider: 5", {"OIDC_PROXY__PROVIDER__ISSUER": "https://op", "OIDC_PROXY__PROVIDER__CLIENT_ID": "a"}
    )
    assert loaded.settings.provider.issuer == "https://op"


def test_everything_can_come_from_the_environment() -> None:
    environ = {"OIDC_PROXY__PROVIDER__ISSUER": "https://op", "OIDC_PROXY__PROVIDER__CLIENT_ID": "a"}
    settings = read(Root, [], environ).settings
    assert settings is not None
    assert settings.provider.client_id == "a"


def test_options_name_themselves(parsed: Read) -> None:
    (problem,) = parsed(GOOD, overrides={"provider.clientid": "x"}).problems
    assert "--> option --set provider.clientid\n" in str(problem)


# ── secrets in files ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("content", "value"),
    [(b"s", "s"), (b"s\n", "s"), (b"s\r\n", "s"), (b"s\n\n", "s\n"), (b" s ", " s "), (b"s\r", "s\r"), (b"$X", "$X")],
)
def test_f104_one_newline_at_the_end_of_a_secret_file_does_not_count(
    content: bytes, value: str, tmp_path: Path, parsed: Read
) -> None:
    (tmp_path / "secret").write_bytes(content)
    loaded = parsed(GOOD.replace("}", ", secret_file: secret}"))
    assert loaded.problems == []
    assert loaded.settings.provider.secret.reveal() == value
    assert loaded.settings.provider.secret_file == tmp_path / "secret"


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "it is empty"), (b"\n", "it is empty"), (b"\xff", "it is not UTF-8 text"),
                             (b"x" * (1024 * 1024 + 1), "it is larger than 1 MiB")]
)  # fmt: skip
def test_f104_unusable_secret_files(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(content)
    with pytest.raises(ValueError, match=f"^cannot be read from {re.escape(str(tmp_path))}/secret: {message}$"):
        file_text(tmp_path / "secret")


def test_f104_twins_are_read_in_lists_dictionaries_and_from_the_environment(tmp_path: Path, parsed: Read) -> None:
    (tmp_path / "k").write_text("word")
    loaded = parsed(
        GOOD + "keys: [{key_file: k}]\nby_name: {a: {key_file: k}}",
        {"OIDC_PROXY__PROVIDER__SECRET_FILE": str(tmp_path / "k")},
    )
    settings = loaded.settings
    assert [settings.keys[0].key, settings.by_name["a"].key, settings.provider.secret] == [Secret("word")] * 3


@pytest.mark.parametrize("null", ["null", "~", ""])
def test_a_null_twin_is_not_given(null: str, parsed: Read) -> None:
    assert parsed(GOOD + f"keys: [{{key: {null}, key_file: {null}}}]").problems == []


def test_f104_both_twins_are_an_error_wherever_they_come_from(tmp_path: Path, parsed: Read) -> None:
    (tmp_path / "k").write_text("word")
    loaded = parsed(GOOD.replace("}", ", secret_file: k}"), {"OIDC_PROXY__PROVIDER__SECRET": "other"})
    (problem,) = loaded.problems
    assert (problem.code, problem.path) == ("E109", "provider.secret_file")
    assert "environment variable OIDC_PROXY__PROVIDER__SECRET" in problem.hint


def test_an_unreadable_file_is_the_only_complaint_about_its_secret(parsed: Read) -> None:
    (problem,) = parsed(GOOD + "keys: [{key_file: none}]").problems
    assert problem.code == "E108"


def test_paths_count_from_the_folder_of_their_file(tmp_path: Path, parsed: Read) -> None:
    text = GOOD.replace("}", ", tls: {ca_file: %s}}")
    assert parsed(text % "ca.pem").settings.provider.tls.ca_file == tmp_path / "ca.pem"
    assert parsed(text % "/ca.pem").settings.provider.tls.ca_file == Path("/ca.pem")
    assert parsed(text % "''").settings.provider.tls.ca_file == Path()


def test_the_lines_that_are_shown_have_no_secrets(parsed: Read) -> None:
    loaded = parsed(
        "provider: {issuer: op, secret: canary-1, secert: canary-2, url: 'https://me:canary-3@op'}\n"
        "providr: {secret: canary-4}\n"
        "keys: [{key: canary-5}, {key: 'canary-6', kee: 1}]\n"
        "headers: {Authorization: Basic canary-7, X-Other: [shown]}\n"
        "by_name: {a: {key: ${K}, kye: 1}}\n"
    )
    text = report(loaded.problems, ["oidc.yaml"])
    assert "canary" not in text
    assert "shown" in text
    assert "${K}" in text


def test_a_secret_over_several_lines_is_hidden_whole() -> None:
    source = Source("x", ["key: 'abc", "  def'  # comment", "next: x"], Path())
    source.hide(Mark(source, 0, 5, 1, 6))
    assert source.lines == ["key: ****", "******  # comment", "next: x"]


# ── checks ────────────────────────────────────────────────────────────────────────────────────────────────────────────


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
    listen: Any = SimpleNamespace(workers=4)
    (problem,) = checks.shared_sessions(listen, MemoryStoreSettings(type="memory"))
    assert (problem.code, problem.path) == ("E124", "listen.workers")
    assert list(checks.shared_sessions(listen, object())) == []
    listen.workers = 1
    assert list(checks.shared_sessions(listen, MemoryStoreSettings(type="memory"))) == []


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


# ── formats ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_json_has_the_fields_of_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CORPUS)
    loaded = read_config([Path("store-type.yaml")], ENVIRON)
    assert json.loads(report(loaded.problems, ["store-type.yaml"], "json")) == [
        {
            "severity": "error", "code": "E102", "path": "store.type", "message": "must be memory or redis",
            "hint": "did you mean `redis`?", "file": "store-type.yaml", "origin": "store-type.yaml:4:15",
            "line": 4, "column": 15, "end_column": 21, "docs": "docs/settings.md#e102",
        }
    ]  # fmt: skip


def test_github_annotations_are_escaped() -> None:
    mark = Mark(Source("a,b:c.yaml", ["x"], Path()), 0, 0, 1, 0)
    problem = Problem("E102", "a.b", "50 %\nof it", "more", mark)
    assert report([problem, Problem("W201", "", "hm")], [], "github") == (
        "::error file=a%2Cb%3Ac.yaml,line=1,col=1,title=E102 a.b::50 %25%0Aof it (more)\n::warning title=W201::hm"
    )


def test_text_without_a_place() -> None:
    assert str(Problem("E100", "", "cannot read x", "try y")) == (
        "error[E100] cannot read x\n   = help: try y\n   = docs: docs/settings.md#e100"
    )
    assert report([], [], "text") == "no problems in the environment"


def test_a_value_over_several_lines_is_underlined_to_the_end_of_its_first() -> None:
    mark = Mark(Source("x.yaml", ["a: [1,", "  2]"], Path()), 0, 3, 1, 4)
    assert " 1 | a: [1,\n   |    ^^^\n" in str(Problem("E102", "a", "no", "", mark))


def test_problems_come_in_the_order_of_reading() -> None:
    first, second = Source("1", [], Path()), Source("2", [], Path())
    env = Source("env")
    unordered = [
        Problem("E100", "e", ""), Problem("E100", "d", "", "", Mark(env)), Problem("E100", "b", "", "", Mark(first, 2)),
        Problem("E100", "c", "", "", Mark(second, 1)), Problem("E100", "a", "", "", Mark(first, 1)),
    ]  # fmt: skip
    assert [problem.path for problem in in_order(unordered)] == ["a", "b", "c", "d", "e"]


def test_codes_in_use_are_those_that_are_documented() -> None:
    source = "".join(path.read_text() for path in (ROOT / "oidc_proxy" / "config").glob("*.py"))
    used = set(re.findall(r'"([EW]\d{3})"', source.split("CODES = {")[0] + source.split('"""Stable codes')[-1]))
    source = source.replace('"E', '"E')
    assert used <= CODES.keys()
    counts = {code: source.count(f'"{code}"') for code in CODES}
    assert [code for code, count in counts.items() if count < 2] == []


# ── show ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_f251_show_gives_every_value_its_origin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CORPUS)
    environ = {
        **ENVIRON,
        "OIDC_PROXY__STORE__PASSWORD": "canary",
        "OIDC_PROXY__UPSTREAMS__API__HEADERS__COOKIE": "canary",
    }
    loaded = read_config([Path("full.yaml")], environ, {"store.url": "redis://me:canary@redis:6379"})
    assert loaded.settings is not None
    lines = show.effective(loaded.settings, loaded.tree)
    found = {".".join(line.path): (line.value, line.origin) for line in lines}
    assert found["provider.issuer"] == ("https://keycloak.example.com/realms/main", "full.yaml:4:11")
    assert found["provider.client_secret"] == ('"***"', "full.yaml:7:23")
    assert found["provider.timeout"] == ("10s", "default")
    assert found["store.password"] == ('"***"', "environment variable OIDC_PROXY__STORE__PASSWORD")
    assert found["store.url"] == ("redis://*********@redis:6379", "option --set store.url")
    assert found["upstreams.api.headers.cookie"][0] == '"***"'
    assert found["routes.1.groups"] == ("[/staff/ops]", "full.yaml:23:28")
    assert found["identity.authorization"] == ("access_token", "default")
    assert found["identity.headers.X-Forwarded-User"] == ("user", "default")
    assert found["upstreams"] == (None, "full.yaml:16:3")
    printed = show.as_yaml(lines)
    assert "canary" not in printed
    data = yaml.safe_load(printed)
    assert data["routes"][2]["host"] == "api.example.com"
    assert data["session"]["cookie"]["domain"] == "example.com"
    assert data["listen"]["trusted_proxies"] == ["10.0.0.0/8", "fd00::/8"]
    assert data["identity"]["headers"]["X-Forwarded-User"] == "user"
    as_json = json.loads(show.as_json(lines))
    assert {"path": "version", "value": "1", "origin": "full.yaml:1:10"} in as_json


def test_f251_show_says_what_is_derived_from_the_short_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CORPUS)
    loaded = read_config([Path("minimal.yaml")], ENVIRON)
    assert loaded.settings is not None
    found = {".".join(line.path): line.origin for line in show.effective(loaded.settings, loaded.tree)}
    assert found["upstream.url"] == "minimal.yaml:6:11"
    assert found["upstream.max_connections"] == "default"
    assert found["upstreams.default.url"] == "derived"
    assert found["routes.0.path"] == "derived"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"), (True, "true"), (5, "5"), (0.5, "0.5"), ("plain", "plain"), ("with: colon", '"with: colon"'),
        ("5", '"5"'), ("true", '"true"'), ("", '""'), ("*star", '"*star"'), ("a # b", '"a # b"'), ("a, b", '"a, b"'),
        ("https://a.example/b?c", '"https://a.example/b?c"'), ("http://a.example:80", "http://a.example:80"), ("é", '"é"'),
        ("ends:", '"ends:"'), (("a", 1), "[a, 1]"), ({"a": (True,)}, "{a: [true]}"), (Duration(90), "1m30s"),
        (Path("/x"), "/x"), (Key(), "{key: null, key_file: null}"), (Secret("x"), '"***"'), (Duration(0), "0"),
    ],
)  # fmt: skip
def test_values_are_written_so_that_yaml_reads_them_back(value: Any, text: str) -> None:
    assert show.yaml_text(value) == text
    if isinstance(value, str | int | float | None) and not isinstance(value, Duration):
        assert yaml.safe_load(f"[{text}]") == [value]


# ── generated files ───────────────────────────────────────────────────────────────────────────────────────────────────

GENERATED: dict[str, Callable[[Any], str]] = {
    "config.example.yaml": generate.example,
    "config.schema.json": generate.schema,
    "docs/settings.md": generate.settings_page,
}


@pytest.mark.parametrize("name", GENERATED)
def test_f249_generated_files_are_up_to_date(name: str) -> None:
    """Write them again with ``python -m tests.test_config``."""
    assert (ROOT / name).read_text() == GENERATED[name](Config)


def test_f249_every_setting_is_described() -> None:
    undescribed = [".".join(path) for path, _, info in fields.every_field(Config) if not (info.description or "").endswith((".", "`"))]  # fmt: skip
    assert undescribed == []


def test_every_secret_has_a_file_twin() -> None:
    lonely = [
        ".".join(path)
        for path, model, info in fields.every_field(Config)
        if fields.secret(info.annotation) and f"{path[-1]}_file" not in model.model_fields
    ]
    assert lonely == []


def test_the_example_passes_the_check(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(generate.example(Config))
    loaded = read_config([file], {})
    assert [problem.code for problem in loaded.problems] == ["W202"]
    assert read_config([file], {"OIDC_CLIENT_SECRET": "x"}).problems == []


def test_the_comments_of_the_example_are_the_defaults() -> None:
    lines = [line for line in generate.example(Config).split("Everything that can be set")[1].splitlines()]
    text = "\n".join(
        line.removeprefix("# ") for line in lines[lines.index("# version: 1") :] if not line.startswith("##")
    )
    written = yaml.safe_load(text)
    assert written.keys() == Config.model_fields.keys()
    written.pop("upstream")
    config, wanted = Config.model_validate(written), minimal()
    for name in Config.model_fields.keys() - {"upstream", "upstreams", "routes", "provider"}:
        assert getattr(config, name) == getattr(wanted, name), name


def test_the_example_has_every_setting() -> None:
    text = generate.example(Config)
    missing = [
        path for path, _, _ in fields.every_field(Config) if not re.search(rf"^#.*\b{path[-1]}:", text, re.MULTILINE)
    ]
    assert missing == []


def test_f251_the_schema_is_that_of_what_users_write() -> None:
    schema = json.loads(generate.schema(Config))
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["additionalProperties"] is False
    assert schema["required"] == ["public_url", "provider"]
    assert schema["properties"].keys() == Config.model_fields.keys()
    assert [option["type"] for option in schema["properties"]["public_url"]["anyOf"]] == ["string", "array"]
    assert {"type": "string"} in schema["properties"]["upstream"]["anyOf"]


def test_the_settings_page_has_every_setting_and_every_code() -> None:
    page = generate.settings_page(Config)
    for path, _, info in fields.every_field(Config):
        if len(path) > 1 or not fields.models(info.annotation):
            assert f"| `{'.'.join(path).replace('.[]', '[]')}` |" in page
    for code in CODES:
        assert f"\n### {code}\n" in page


def test_kinds_in_words() -> None:
    kinds = {name: generate.kind_text(info.annotation) for name, info in Root.model_fields.items()}
    assert kinds == {
        "listen": "text", "provider": "section", "session_ttl": "whole number", "verbose": "true or false",
        "idle": "duration", "limit": "size", "shape": "section", "keys": "list of sections", "by_name": "name → section",
        "headers": "name → text", "either": "whole number or list of whole number", "names": "list of text",
        "code": "text", "level": "`1`, `2`",
    }  # fmt: skip
    assert generate.kind_text(Config.model_fields["public_url"].annotation) == "list of origins"
    assert generate.kind_text(Path | None) == "path"
    assert generate.kind_text(None) == "null"


def test_close_names() -> None:
    assert explain.close_name("Client-ID", ["client_id"]) == "client_id"
    assert explain.close_name("zzz", ["client_id"]) is None


if __name__ == "__main__":
    main()
