"""The example, the schema, and the pages of settings and errors (F249, F251)."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from oidc_proxy.config import Config, explain, fields, generate, read_config
from oidc_proxy.config.problems import CODES
from oidc_proxy.errors import FAMILIES
from tests.config.small import Root
from tests.config.write import GENERATED

ROOT = Path(__file__).parents[2]
CORPUS = ROOT / "tests" / "corpus" / "config"
ENVIRON = {"CLIENT_SECRET": "s3cret", "EMPTY": ""}
MINIMAL = (CORPUS / "minimal.yaml").read_text()


@pytest.mark.parametrize("name", GENERATED)
def test_f249_generated_files_are_up_to_date(name: str) -> None:
    """Write them again with ``python -m tests.config.write``."""
    assert (ROOT / name).read_text() == GENERATED[name](Config)


def test_f249_every_setting_is_described() -> None:
    undescribed = [
        ".".join(path) for path, _, info in fields.every_field(Config) if not (info.description or "").endswith(".")
    ]
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
    lines = generate.example(Config).splitlines()
    text = "\n".join(
        line.removeprefix("# ") for line in lines[lines.index("# version: 1") :] if not line.startswith("##")
    )
    written = yaml.safe_load(text)
    assert written.keys() == Config.model_fields.keys()
    written.pop("upstream")
    config, wanted = Config.model_validate(written), Config.model_validate(yaml.safe_load(MINIMAL))
    for name in Config.model_fields.keys() - {"upstream", "upstreams", "routes", "provider"}:
        assert getattr(config, name) == getattr(wanted, name), name


def test_the_example_has_every_setting() -> None:
    text = generate.example(Config)
    for path, _, _ in fields.every_field(Config):
        assert re.search(rf"^#.*\b{path[-1]}:", text, re.MULTILINE), path


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


def test_the_errors_page_says_of_every_code_whose_fault_it_is_what_is_read_and_what_to_do() -> None:
    page = generate.errors_page(FAMILIES)
    for family in FAMILIES:
        _, _, section = page.partition(f"\n## {family.__name__}\n\n{family.__doc__}\n")
        section = section.partition("\n## ")[0]
        assert section.count("\n### ") == len(family.codes)
        for code, entry in family.codes.items():
            told = section.partition(f"\n### {code}\n")[2].partition("\n### ")[0]
            assert f"**{entry.status}** {entry.title}." in told
            assert f"> {entry.public}\n" in told
            assert told.strip().endswith(entry.remedy)


def test_kinds_in_words() -> None:
    kinds = {name: generate.kind_text(info.annotation) for name, info in Root.model_fields.items()}
    assert kinds == {
        "listen": "text", "provider": "section", "session_ttl": "whole number", "verbose": "true or false",
        "idle": "duration", "limit": "size", "shape": "section", "keys": "list of sections",
        "by_name": "name → section",
        "headers": "name → text", "either": "whole number or list of whole number", "names": "list of text",
        "code": "text", "level": "`1`, `2`",
    }  # fmt: skip
    assert generate.kind_text(Config.model_fields["public_url"].annotation) == "list of origins"
    assert generate.kind_text(Path | None) == "path"
    assert generate.kind_text(None) == "null"


def test_close_names() -> None:
    assert explain.close_name("Client-ID", ["client_id"]) == "client_id"
    assert explain.close_name("zzz", ["client_id"]) is None
