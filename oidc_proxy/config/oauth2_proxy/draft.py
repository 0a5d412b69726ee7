"""What an import makes: settings, the options that each section comes from, and what is to be said of options."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from oidc_proxy.config.oauth2_proxy.options import BY_KEY, OPTIONS, SENTENCES, key_of
from oidc_proxy.config.oauth2_proxy.reading import Values


@dataclass(frozen=True, slots=True)
class Note:
    """A sentence about an option, by its code."""

    code: str
    about: str

    def __str__(self) -> str:
        return f"{self.code} {self.about}: {SENTENCES[self.code]}"


@dataclass(frozen=True, slots=True)
class Given:
    """What is set, with the value of an option that is not."""

    values: Values

    def has(self, flag: str) -> bool:
        return self.values.get(flag) not in (None, "", [])

    def text(self, flag: str, default: str = "") -> str:
        return str(self.values.get(flag) or default)

    def truth(self, flag: str, *, default: bool = False) -> bool:
        return bool(self.values.get(flag, default))

    def listed(self, flag: str) -> list[str]:
        return list(dict.fromkeys(self.values.get(flag) or []))


@dataclass(slots=True)
class Draft:
    """Settings under way."""

    tree: dict[str, Any] = field(default_factory=dict)
    sources: dict[str, list[str]] = field(default_factory=dict)
    said: dict[Note, None] = field(default_factory=dict)

    def put(self, path: str, value: Any, *flags: str) -> None:
        """Set what is at the dotted path; ``flags`` are what it comes from."""
        *sections, last = path.split(".")
        place = self.tree
        for section in sections:
            place = place.setdefault(section, {})
        place[last] = value
        sources = self.sources.setdefault(path.partition(".")[0], [])
        sources += [key_of(flag) for flag in flags if key_of(flag) not in sources]

    def say(self, code: str, about: str) -> None:
        """Say it of an option, or of what it has, once."""
        note = Note(code, key_of(about) if about in OPTIONS else _CONTROL.sub("?", about)[:200])
        self.said[note] = None

    @property
    def notes(self) -> list[Note]:
        """What was said, in that order."""
        return list(self.said)

    def keep_sources(self, values: Values) -> None:
        """Forget the options that are not set: what stands for them is what oauth2-proxy does without."""
        for section, keys in self.sources.items():
            self.sources[section] = [key for key in keys if BY_KEY[key] in values]

    def yaml(self) -> str:
        """Our file. Nothing in it is filled in but the variables that stand for what is not copied or not known."""
        parts = ["# Made from the configuration of oauth2-proxy. Check it with: oidc-proxy config check FILE\n"]
        decide = [str(note) for note in self.notes if note.code.startswith("M3")]
        parts += ["#\n# To be done:\n", *(f"#   {line}\n" for line in decide)] if decide else []
        for section, value in self.tree.items():
            sources = ", ".join(self.sources.get(section, ()))
            parts.append(f"\n# {sources}\n" if sources else "\n")
            parts.append(_block(section, value))
        return "".join(parts)


def _block(section: str, value: Any) -> str:
    text = yaml.safe_dump(
        {section: _literal(value)}, sort_keys=False, allow_unicode=True, default_flow_style=None, width=10**6
    )
    return f"{text[1:-2]}\n" if text.startswith("{") else text


_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_REFERENCE = re.compile(r"\$\{[A-Za-z_][A-Za-z0-9_]*\}")


def _literal(value: Any) -> Any:
    """The value with its dollar signs escaped, except for one that is a variable as a whole."""
    match value:
        case str():
            return str(value) if _REFERENCE.fullmatch(value) else value.replace("$", "$$")
        case Mapping():
            return {_literal(key): _literal(inner) for key, inner in value.items()}
        case Iterable():
            return [_literal(inner) for inner in value]
    return value
