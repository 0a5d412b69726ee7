"""YAML as trees: scalars, limits, ``${…}`` (F104; operations.md §1.2)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from oidc_proxy.config.document import core_scalar, interpolate
from oidc_proxy.config.reading import read
from tests.config.small import GOOD, Read, Root, said


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None), ("null", None), ("~", None), ("true", True), ("False", False), ("no", "no"), ("on", "on"),
        ("Y", "Y"), ("5", 5), ("-5", -5), ("017", 17), ("0o17", 15), ("0x1F", 31), ("1_000", "1_000"),
        ("12:30:00", "12:30:00"),
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
        ("${NONE:-a:-b}", "a:-b"), ("${X:-d}", "x"), ("${X:?why}", "x"), ("$$", "$"), ("$${X}", "${X}"),
        ("$X $", "$X $"), ("${RAW}", "${X}"), ("${YAML}", "[a, {b: c}]\nd: e"),
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
    environ = {"EVIL": "x\nverbose: true", "YES": "true", "N": "61"}
    loaded = parsed(GOOD + "listen: ${EVIL}\nverbose: ${YES}\nsession_ttl: ${N}\n", environ)
    assert loaded.settings.listen == "x\nverbose: true"
    assert (loaded.settings.verbose, loaded.settings.session_ttl) == (True, 61)


def test_f104_files_are_found_from_where_they_are_named(tmp_path: Path, parsed: Read) -> None:
    (tmp_path / "word").write_text("from file\n")
    assert parsed(GOOD + "listen: ${file:word}").settings.listen == "from file"
