"""How problems are printed: text, JSON, GitHub (operations.md §2.1)."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from oidc_proxy.config import read_config
from oidc_proxy.config.problems import CODES, Mark, Problem, Source, in_order, report
from tests.config.small import GOOD, Read

ROOT = Path(__file__).parents[2]
CORPUS = ROOT / "tests" / "corpus" / "config"
ENVIRON = {"CLIENT_SECRET": "s3cret", "EMPTY": ""}
MINIMAL = (CORPUS / "minimal.yaml").read_text()


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


def test_f249_codes_in_use_are_those_that_are_documented() -> None:
    source = "".join(path.read_text() for path in (ROOT / "oidc_proxy" / "config").glob("*.py"))
    assert set(re.findall(r'"([EW]\d{3})"', source)) == CODES.keys()
    assert [code for code in CODES if source.count(f'"{code}"') < 2] == []


@pytest.mark.parametrize("text", ["0o17", "1.50", "true", "1e3", "99999999999999999999"])
def test_numbers_are_quoted_as_they_are_written(text: str, parsed: Read) -> None:
    assert parsed(GOOD + f"listen: {text}").problems[0].hint == f'put it in quotes: "{text}"'
