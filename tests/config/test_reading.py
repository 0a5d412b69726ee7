"""From files, environment and options to settings, or every problem at once (F104, F105; operations.md §2)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import BeforeValidator, Field, create_model

from oidc_proxy.config.document import file_text
from oidc_proxy.config.problems import Mark, Source, report
from oidc_proxy.config.reading import read
from oidc_proxy.values import ByteSize, Duration, Secret, Settings
from tests.config.small import GOOD, Key, Read, Root, Square, said


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
        ("code: ", ("2:6", "code", "must be text")),
        ("idle: 5", ("2:7", "idle", "must be a duration with its unit, such as 15m")),
        ("idle: 500ms", ("2:7", "idle", "must be at least 1s")),
        ("limit: 5", ("2:8", "limit", "must be a size with its unit, such as 1MiB")),
        ("verbose: 2", ("2:10", "verbose", "must be true or false")),
        ("session_ttl: -99999", ("2:14", "session_ttl", "must be at least 60")),
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
        "by_name: {a: {key: '${K}', kye: 1}}\n"
    )
    text = report(loaded.problems, ["oidc.yaml"])
    assert "canary" not in text
    assert "shown" in text
    assert "${K}" in text


def test_a_secret_over_several_lines_is_hidden_whole() -> None:
    source = Source("x", ["key: 'abc", "  def'  # comment", "next: x"], Path())
    source.hide(Mark(source, 0, 5, 1, 6))
    assert source.lines == ["key: ****", "******  # comment", "next: x"]
