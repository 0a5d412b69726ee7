"""The commented example, the JSON Schema and the settings page, made from the settings classes; the errors page."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from oidc_proxy.config import fields
from oidc_proxy.config.problems import CODES
from oidc_proxy.config.show import yaml_text
from oidc_proxy.errors import ProxyError
from oidc_proxy.values import ByteSize, Duration, Origin, Secret

SCHEMA_FILE = "config.schema.json"

MINIMAL = """\
public_url: https://app.example.com
provider:
  issuer: https://keycloak.example.com/realms/main
  client_id: app
  client_secret: ${OIDC_CLIENT_SECRET:-replace-me} # or client_secret_file: /run/secrets/oidc_client_secret
upstream: http://127.0.0.1:8080
"""

_EXAMPLE_HEAD = f"""\
# yaml-language-server: $schema={SCHEMA_FILE}
#
# These lines are enough to run. Register <public_url>/oauth2/callback as redirect URI at the provider.
{MINIMAL}
# ── Everything that can be set, with what it is without being set ──
#
# Remove the “# ” in front of a key to set it. A section may be there once only: what is below `provider` here goes
# below the `provider` above. Durations are 30s, 15m or 1h30m, sizes 64KiB or 1MiB. Text may contain ${{VARIABLE}},
# ${{VARIABLE:-default}} and ${{file:/path}}. Every setting is an environment variable as well, such as
# OIDC_PROXY__PROVIDER__CLIENT_ID. Check a file with: oidc-proxy config check FILE"""


@dataclass(frozen=True, slots=True)
class _Entry:
    """One setting as it is shown: its key, its declaration, and the value that it has without being set."""

    name: str
    info: FieldInfo
    value: Any


def _default(info: FieldInfo) -> Any:
    if info.is_required():
        example = next(iter(info.examples or ()), None)
        literal = get_args(info.annotation) if get_origin(info.annotation) is Literal else ()
        return literal[0] if literal else example
    return info.get_default(call_default_factory=True, validated_data={})


def _entries(model: type[BaseModel], values: BaseModel | None) -> Iterator[_Entry]:
    for name, info in model.model_fields.items():
        yield _Entry(name, info, _default(info) if values is None else getattr(values, name))


# ── the example ───────────────────────────────────────────────────────────────────────────────────────────────────────


def example(root: type[BaseModel]) -> str:
    """A file that passes the check as it is, and has everything else as comments.

    Lines that begin with ``##`` explain; lines that begin with ``# `` are settings to uncomment.
    """
    lines = [_EXAMPLE_HEAD]
    for entry in _entries(root, None):
        lines += ["", *_explained(entry, 0)]
    return "\n".join(lines) + "\n"


def _explained(entry: _Entry, depth: int) -> Iterator[str]:
    margin = "  " * depth
    yield from _wrapped(_sentence(entry.info), f"## {margin}")
    section = _section(entry)
    if section is None:
        yield f"# {margin}{entry.name}: {yaml_text(entry.value)}"
        yield from _alternatives(entry, depth, None)
        return
    model, values = section
    yield f"# {margin}{entry.name}:"
    for inner in _entries(model, values):
        yield from _explained(inner, depth + 1)
    yield from _alternatives(entry, depth, model)


def _section(entry: _Entry) -> tuple[type[BaseModel], BaseModel | None] | None:
    """The settings class whose settings are shown below the key, and their values."""
    if isinstance(entry.value, BaseModel):
        return type(entry.value), entry.value
    kinds = fields.models(entry.info.annotation)
    if entry.info.is_required() and kinds:
        return kinds[0], None
    return None


def _alternatives(entry: _Entry, depth: int, shown: type[BaseModel] | None) -> Iterator[str]:
    """What else may be there: another class of a union, or the entries of a list or dictionary."""
    margin = "  " * depth
    kind = entry.info.annotation
    for inner, head, first in ((fields.item(kind), "Each element:", "- "), (fields.entry(kind), "Each entry:", "  ")):
        for model in fields.models(inner) if inner is not None else ():
            yield f"## {margin}{head}"
            if first == "  ":
                yield f"##   {margin}NAME:"
            for index, field in enumerate(_entries(model, None)):
                yield from _commented(field, depth + 2, first if index == 0 else "  ")
    for model in fields.models(kind):
        if model is not shown and fields.written(entry.info) is entry.info.annotation:
            yield f"## {margin}Or:"
            for field in _entries(model, None):
                yield from _commented(field, depth + 1, "  ")


def _commented(entry: _Entry, depth: int, lead: str) -> Iterator[str]:
    """A setting inside an explanation, with its own explanation as a YAML comment."""
    margin = "  " * depth
    yield from _wrapped(_sentence(entry.info), f"## {margin}# ")
    section = _section(entry) or next(((model, None) for model in fields.models(entry.info.annotation)), None)
    at = margin[:-2] + lead if lead.strip() else margin
    if section is None:
        yield f"## {at}{entry.name}: {yaml_text(entry.value)}"
        for model in fields.models(fields.entry(entry.info.annotation)):
            yield f"## {margin}# Each entry:"
            yield f"## {margin}#   NAME:"
            for inner in _entries(model, None):
                yield from (f"## {margin}# {line.removeprefix('## ')}" for line in _commented(inner, 2, "  "))
        return
    yield f"## {at}{entry.name}:"
    for inner in _entries(*section):
        yield from _commented(inner, depth + 1, "  ")


def _wrapped(text: str, lead: str) -> list[str]:
    return textwrap.wrap(
        text, 119, initial_indent=lead, subsequent_indent=lead, break_long_words=False, break_on_hyphens=False
    )


def _sentence(info: FieldInfo) -> str:
    """The description, with an example where the value itself shows nothing."""
    text = info.description or ""
    examples = info.examples or ()
    empty = not info.is_required() and info.default in (None, (), {})
    return f"{text} Example: {yaml_text(examples[0])}" if examples and empty else text


# ── the schema ────────────────────────────────────────────────────────────────────────────────────────────────────────


def schema(root: type[BaseModel]) -> str:
    """JSON Schema 2020-12 of the configuration file, for editors."""
    document = {"$schema": "https://json-schema.org/draft/2020-12/schema", **root.model_json_schema(mode="validation")}
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


# ── the settings page ─────────────────────────────────────────────────────────────────────────────────────────────────

_PAGE_HEAD = """\
# Settings

This page is made from the program by `oidc-proxy config docs`.

The configuration is one YAML file, or several: `oidc-proxy serve --config base.yaml --config site.yaml`. Sections of
later files are merged into those of earlier ones; any other value, lists as well, replaces the earlier one. Without
`--config`, the file that the environment variable `OIDC_PROXY_CONFIG` names is read, else
`/etc/oidc-proxy/config.yaml` if there is one. `oidc-proxy config check` says everything that is wrong, and where;
`oidc-proxy config show` prints the values in force and where they come from.

* **Precedence**, low to high: defaults, files in their order, environment variables, options (`--set`).
* **Environment:** every setting is a variable as well: `provider.client_id` is `OIDC_PROXY__PROVIDER__CLIENT_ID`.
  Lists and sections are written as YAML: `OIDC_PROXY__PROVIDER__SCOPES='[openid, email]'`. A variable that names no
  setting is an error.
* **Text in files** may contain `${VAR}` (which must be set), `${VAR:-default}`, `${VAR:?message}` and
  `${file:/path}`; `$$` is a dollar sign. They are filled in after the file was parsed: a value never becomes structure.
* **Secrets** have a twin that names a file, such as `client_secret_file`. One newline at its end does not count.
  Both at once is an error. With systemd's credentials: `${CREDENTIALS_DIRECTORY}/client_secret`.
* **Paths** that are not absolute count from the folder of the file that they are written in.
* **Durations** are `500ms`, `30s`, `15m`, `1h30m`, `7d`; **sizes** are `64KiB`, `1MiB`. A key may be there once only,
  and one that is not in this list is an error. Values are those of YAML 1.2: `no` and `on` are text.
"""


def settings_page(root: type[BaseModel]) -> str:
    """Markdown: a table for each section, and the list of problems with their codes."""
    parts = [_PAGE_HEAD, *_tables(root), "\n## Problems\n"]
    parts += [f"\n### {code}\n\n{meaning}\n" for code, meaning in CODES.items()]
    return "".join(parts)


def _tables(root: type[BaseModel]) -> Iterator[str]:
    sections: dict[str, list[str]] = {}
    heads: dict[str, str] = {}
    for path, _, info in fields.every_field(root):
        key = ".".join(path).replace(".[]", "[]")
        section = "" if len(path) == 1 else path[0]
        if len(path) == 1:
            heads[path[0]] = info.description or ""
        if len(path) > 1 or not fields.models(info.annotation) or fields.written(info) is not info.annotation:
            sections.setdefault(section, []).append(_row(key, info))
    for name, rows in sections.items():
        title, text = (f"`{name}`", heads[name]) if name else ("The top level", "")
        yield f"\n## {title}\n\n{text}\n\n" if text else f"\n## {title}\n\n"
        yield "| Key | Value | Default | Meaning |\n|---|---|---|---|\n"
        yield from dict.fromkeys(rows)


def _row(key: str, info: FieldInfo) -> str:
    value = None if info.is_required() else _default(info)
    shown = "required" if info.is_required() else _code(value)
    cells = (f"`{key}`", kind_text(fields.written(info)), shown, _sentence(info))
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |\n"


def _code(value: Any) -> str:
    return "" if value is None or isinstance(value, BaseModel) else f"`{yaml_text(value)}`"


_NAMES: Mapping[type, str] = {
    bool: "true or false",
    Duration: "duration",
    ByteSize: "size",
    Secret: "secret",
    Origin: "origin",
    int: "whole number",
    float: "number",
}


_PLURALS = {"origin": "origins", "section": "sections", "path": "paths"}


def kind_text(kind: fields.Kind) -> str:
    """What may be written there, in words."""
    return " or ".join(dict.fromkeys(map(_member_text, fields.members(kind)))) or "null"


def _member_text(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(kind))
    inner = fields.item(kind)
    if inner is not None:
        return f"list of {_PLURALS.get(kind_text(inner), kind_text(inner))}"
    inner = fields.entry(kind)
    if inner is not None:
        return f"name → {kind_text(inner)}"
    if fields.models(kind):
        return "section"
    if fields.is_path(kind):
        return "path"
    return next((name for known, name in _NAMES.items() if isinstance(kind, type) and issubclass(kind, known)), "text")


# ── the errors page ───────────────────────────────────────────────────────────────────────────────────────────────────

_ERRORS_HEAD = """\
# Errors

This page is made from the program by `oidc-proxy config errors`.

Whatever goes wrong has a code. The visitor's page shows it, and so do the JSON answer (`code`, RFC 9457), the log line
and the metric `oidc_proxy_errors_total`. What the visitor reads never says more than is here; the log line of the same
request id has the reason. Codes do not change from release to release.

Problems of the configuration have codes of their own; see [settings](settings.md#problems).
"""


def errors_page(families: Sequence[type[ProxyError]]) -> str:
    """Markdown: every code by whose fault it is, what the visitor reads, and what whoever runs the gateway can do."""
    parts = [_ERRORS_HEAD]
    for family in families:
        parts.append(f"\n## {family.__name__}\n\n{(family.__doc__ or '').strip()}\n")
        for code, entry in family.codes.items():
            parts.append(f"\n### {code}\n\n**{entry.status}** {entry.title}. The visitor reads:\n")
            parts.append(f"\n> {entry.public}\n\n{entry.remedy}\n")
    return "".join(parts)
