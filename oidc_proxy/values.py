"""Small words that the rest is written in: each parses itself, prints itself, and cannot be wrong once it exists."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any, ClassVar, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

Instant: TypeAlias = float
"""Seconds since the epoch, UTC."""


def rfc3339(instant: Instant) -> str:
    """The instant as RFC 3339 text with milliseconds, in UTC."""
    return datetime.fromtimestamp(instant, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Settings(BaseModel):
    """Base of every settings class: immutable, and unknown keys are refused."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        validate_default=True,
        hide_input_in_errors=True,  # the input may be a secret
    )


class _Word:
    """Makes a value with a ``parse`` class method a field type of settings classes."""

    json_schema: ClassVar[JsonSchemaValue] = {"type": "string"}

    @classmethod
    def parse(cls, text: Any) -> Self:
        raise NotImplementedError

    @classmethod
    def _accept(cls, value: Any) -> Self:
        return value if isinstance(value, cls) else cls.parse(value)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls._accept, serialization=core_schema.plain_serializer_function_ser_schema(str)
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return dict(cls.json_schema)


class Secret(_Word):
    """A value that never prints itself. ``reveal`` is the only way out, so that one search lists every use."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    @classmethod
    def parse(cls, text: Any) -> Self:
        """Any non-empty string; ValueError otherwise."""
        if not isinstance(text, str):
            raise ValueError("must be a string; put it in quotes")
        if not text:
            raise ValueError("must not be empty")
        return cls(text)

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return "***"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash((Secret, self._value))


def _sum_of_units(text: Any, units: Mapping[str, float], what: str, example: str) -> Fraction:
    """Read ``1h30m`` or ``1.5MiB``: numbers, each followed by one of the units. Exact, whatever floats would make."""
    if isinstance(text, bool) or not isinstance(text, str | int) or (isinstance(text, int) and text != 0):
        raise ValueError(f"must be {what} with its unit, such as {example}")
    parts = re.findall(r"([0-9]{1,15}(?:\.[0-9]{1,6})?)([A-Za-z]+)", str(text))
    if text in {0, "0"}:
        return Fraction(0)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"must be {what} with its unit, such as {example}")
    unknown = [unit for _, unit in parts if unit not in units]
    if unknown:
        raise ValueError(f"has the unknown unit “{unknown[0]}”; write one of {', '.join(units)}, as in {example}")
    return sum((Fraction(number) * Fraction(str(units[unit])) for number, unit in parts), Fraction(0))


class Duration(float, _Word):
    """A length of time in seconds; written ``500ms``, ``30s``, ``1h30m``, ``7d``."""

    UNITS: ClassVar[Mapping[str, float]] = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
    json_schema: ClassVar[JsonSchemaValue] = {
        "type": "string",
        "pattern": r"^(0|(\d+(\.\d+)?(ms|s|m|h|d|w))+)$",
        "examples": ["15m"],
    }

    @classmethod
    def parse(cls, text: Any) -> Self:
        """``15m`` → 900.0 seconds; ``0`` needs no unit. ValueError for anything else."""
        return cls(_sum_of_units(text, cls.UNITS, "a duration", "15m"))

    def __str__(self) -> str:
        rest, text = round(self * 1000), ""
        for unit in ("d", "h", "m", "s", "ms"):
            count, rest = divmod(rest, round(self.UNITS[unit] * 1000))
            text += f"{count}{unit}" if count else ""
        return text or "0"

    __repr__ = __str__


class ByteSize(int, _Word):
    """A number of bytes; written ``512B``, ``64KiB``, ``1MiB`` (decimal ``kB``, ``MB`` as well)."""

    UNITS: ClassVar[Mapping[str, float]] = {
        "B": 1,
        "KiB": 2**10,
        "MiB": 2**20,
        "GiB": 2**30,
        "kB": 10**3,
        "MB": 10**6,
        "GB": 10**9,
    }
    json_schema: ClassVar[JsonSchemaValue] = {
        "type": "string",
        "pattern": r"^(0|\d+(\.\d+)?(B|KiB|MiB|GiB|kB|MB|GB))$",
        "examples": ["1MiB"],
    }

    @classmethod
    def parse(cls, text: Any) -> Self:
        """``1MiB`` → 1048576 bytes. ValueError for anything else."""
        return cls(int(_sum_of_units(text, cls.UNITS, "a size", "1MiB")))

    def __str__(self) -> str:
        for unit in ("GiB", "MiB", "KiB"):
            if self and self % self.UNITS[unit] == 0:
                return f"{int(self // self.UNITS[unit])}{unit}"
        return f"{int(self)}B" if self else "0"

    __repr__ = __str__


_DEFAULT_PORTS = {"http": 80, "https": 443}
_ORIGIN = re.compile(r"(https?)://(\[[0-9A-Fa-f:.]+\]|[^\s/?#@:\[\]\\]+)(?::([0-9]{1,5}))?/?", re.IGNORECASE)
_BRACKETED = re.compile(r"\[([0-9A-Fa-f:.]+)\]")
_HOST = re.compile(r"(?!.*\.\.)[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?")


def canonical_host(text: str) -> str:
    """A host name or address in the one spelling that is compared: lower case, IDNA, no trailing dot (RFC 3986 §3.2.2).

    Raises ValueError when it is no host.
    """
    if bracketed := _BRACKETED.fullmatch(text):
        return f"[{ipaddress.IPv6Address(bracketed[1])}]"
    try:
        host = text.removesuffix(".").encode("idna").decode("ascii").lower()
    except UnicodeError:
        raise ValueError(f"“{text}” is not a host name") from None
    if not _HOST.fullmatch(host):
        raise ValueError(f"“{text}” is not a host name")
    return host


@dataclass(frozen=True, slots=True)
class Origin(_Word):
    """Scheme, host and port (RFC 6454), in canonical spelling."""

    scheme: str
    host: str
    port: int
    _text: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_text", f"{self.scheme}://{self.authority}")

    @classmethod
    def parse(cls, text: Any) -> Self:
        """``https://App.example.com:443/`` → https://app.example.com. ValueError for anything beyond an origin."""
        found = _ORIGIN.fullmatch(text) if isinstance(text, str) else None
        if not found:
            raise ValueError("must be an origin without a path, such as https://app.example.com")
        scheme = found[1].lower()
        port = int(found[3] or _DEFAULT_PORTS[scheme])
        if not 0 < port < 65536:
            raise ValueError("has a port outside 1 to 65535")
        return cls(scheme, canonical_host(found[2]), port)

    @property
    def secure(self) -> bool:
        return self.scheme == "https"

    @property
    def loopback(self) -> bool:
        """Whether the host can only be this machine (RFC 6761 §6.3 for the name)."""
        if self.host == "localhost" or self.host.endswith(".localhost"):
            return True
        try:
            return ipaddress.ip_address(self.host.strip("[]")).is_loopback
        except ValueError:
            return False

    @property
    def authority(self) -> str:
        """Host, and the port where it is not the scheme's own."""
        return self.host if self.port == _DEFAULT_PORTS[self.scheme] else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        return self._text
