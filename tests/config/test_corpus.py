"""Every file of tests/corpus/config with what is said about it (F105, F246, F251)."""

from __future__ import annotations

from pathlib import Path

import pytest

from oidc_proxy.config import read_config
from oidc_proxy.config.problems import report
from tests.config.write import CASES, CORPUS, ENVIRON, said_about


@pytest.mark.parametrize("name", CASES)
def test_f105_every_problem_of_a_file_is_said_at_its_place(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CORPUS)
    said = said_about(name)
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
