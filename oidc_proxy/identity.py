"""Verified claims → who the user is → the headers that say so to the backend."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any, Literal
from urllib.parse import quote

import msgspec
from pydantic import Field, field_validator

from .errors import LoginFault
from .messages import HOP_BY_HOP, HeaderPlan, canonical_name
from .tokens import VerifiedClaims
from .values import ByteSize, Settings

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_RESERVED = HOP_BY_HOP | {
    "host", "cookie", "set-cookie", "authorization", "content-type", "content-encoding", "x-request-id",
    "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-forwarded-port",
}  # fmt: skip


class IdentitySettings(Settings):
    """Which claims say who the user is, and in which headers the backend reads it."""

    user_claims: tuple[str, ...] = Field(
        ("sub",),
        min_length=1,
        description="Claims that name the user, the first that is there. Only `sub` never changes hands; put "
        "preferred_username before it where the provider keeps user names unique and fixed.",
        examples=[["preferred_username", "sub"]],
    )
    groups_claims: tuple[str, ...] = Field(
        ("groups",),
        description="Claims whose values are the user's groups. Dots descend; quote a part that has dots itself; "
        "`*` takes every member and puts its name and a colon in front of the value.",
        examples=[["groups", 'resource_access."my.app".groups']],
    )
    roles_claims: tuple[str, ...] = Field(
        ("realm_access.roles", "resource_access.*.roles"),
        description="Claims whose values are the user's roles, as in `groups_claims`. "
        "The default reads Keycloak's realm roles as `name` and client roles as `client:name`.",
    )
    roles_from_access_token: bool = Field(
        True,
        description="Also read groups and roles from the access token when it is a JWT that the provider signed for "
        "us; Keycloak puts roles only there unless told otherwise.",
    )
    userinfo: Literal["never", "if_missing", "always"] = Field(
        "if_missing",
        description="When to ask the userinfo endpoint: if_missing asks when the ID token lacks a configured claim.",
    )
    trust_unverified_email: bool = Field(
        False, description="Announce the e-mail address although the provider does not say that it verified it."
    )
    headers: dict[str, str] = Field(
        {
            "X-Forwarded-User": "user",
            "X-Forwarded-Email": "email",
            "X-Forwarded-Preferred-Username": "preferred_username",
            "X-Forwarded-Groups": "groups",
        },
        description="Header → what it carries: user, email, preferred_username, groups, roles, token, which is that of "
        "`authorization` without `Bearer`, or any other claim by its path. Whatever the client sends under these names "
        "is removed.",
    )
    authorization: Literal["access_token", "id_token", "none"] = Field(
        "access_token", description="Which token the backend gets as `Authorization: Bearer`."
    )
    encoding: Literal["percent", "utf8"] = Field(
        "percent",
        description="How characters beyond ASCII travel in headers: percent-encoded UTF-8, or UTF-8 as it is.",
    )
    max_header_bytes: ByteSize = Field(
        ByteSize(8192), description="Longest identity header. Values are never cut off; see `oversize`."
    )
    oversize: Literal["refuse", "omit"] = Field(
        "refuse", description="What happens to a user whose header would be longer: no sign-in, or no header."
    )

    @field_validator("headers")
    @classmethod
    def _usable_names(cls, headers: dict[str, str]) -> dict[str, str]:
        folded: dict[str, str] = {}
        for name, source in headers.items():
            if not _TOKEN.fullmatch(name) or canonical_name(name) in _RESERVED:
                raise ValueError(f"“{name}” cannot carry an identity; write a header name such as X-Forwarded-User")
            if canonical_name(name) in folded:
                raise ValueError(f"many backends cannot tell “{folded[canonical_name(name)]}” from “{name}”; keep one")
            folded[canonical_name(name)] = name
            claim_path(source)
        return headers

    @field_validator("user_claims", "groups_claims", "roles_claims")
    @classmethod
    def _usable_paths(cls, paths: tuple[str, ...]) -> tuple[str, ...]:
        for path in paths:
            claim_path(path)
        return paths


_TOKEN_ITSELF = "token"  # noqa: S105
"""What a header carries that has the token; as long as it is, since `Authorization` has it as well."""


class Identity(msgspec.Struct, frozen=True):
    """Who the user is. Made of verified claims and nothing else."""

    issuer: str
    subject: str
    user: str
    email: str | None
    preferred_username: str | None
    groups: frozenset[str]
    roles: frozenset[str]


_PATH_PART = re.compile(r'"([^"]+)"(?:\.|\Z)|([^."]+)(?:\.|\Z)')


def claim_path(text: str) -> tuple[str, ...]:
    """``resource_access."my.app".roles`` → its parts. ValueError for an empty part or an open quote."""
    parts: list[str] = []
    position = 0
    while position < len(text) or not parts:
        found = _PATH_PART.match(text, position)
        if not found or (found.end() == len(text) and text.endswith(".")):
            raise ValueError(
                f"“{text}” is not a claim path; write parts with dots between them, dotted parts in quotes"
            )
        parts.append(found[1] or found[2])
        position = found.end()
    return tuple(parts)


def look_up(claims: Mapping[str, Any], path: str) -> Iterator[tuple[str, Any]]:
    """What stands at a claim path, with the prefix that ``*`` parts add; a claim of exactly that name comes first."""
    if path in claims:
        yield "", claims[path]
        return
    found: list[tuple[str, Any]] = [("", claims)]
    for part in claim_path(path):
        deeper: list[tuple[str, Any]] = []
        for prefix, value in found:
            if isinstance(value, Mapping):
                if part == "*":
                    deeper += [(f"{prefix}{name}:", member) for name, member in sorted(value.items())]
                elif part in value:
                    deeper.append((prefix, value[part]))
        found = deeper
    yield from found


def _words(claims: Mapping[str, Any], paths: tuple[str, ...]) -> frozenset[str]:
    """All strings at these paths. A single string is one word; whatever is neither string nor list is none."""
    words: set[str] = set()
    for path in paths:
        for prefix, value in look_up(claims, path):
            items = value if isinstance(value, list) else [value]
            words |= {prefix + item for item in items if isinstance(item, str) and item}
    return frozenset(words)


def _text(claims: Mapping[str, Any], path: str) -> str | None:
    for _, value in look_up(claims, path):
        if isinstance(value, str) and value:
            return value
        if isinstance(value, int | float) and not isinstance(value, bool):
            return str(value)
    return None


def _believed(claims: VerifiedClaims, settings: IdentitySettings) -> Mapping[str, Any]:
    """The claims, without an e-mail address that the provider did not verify: whoever writes it there chooses it."""
    if claims.get("email_verified") is True or settings.trust_unverified_email:
        return claims.values
    return {name: value for name, value in claims.values.items() if name != "email"}


def identify(claims: VerifiedClaims, settings: IdentitySettings) -> Identity:
    """Who these claims say the user is."""
    values = _believed(claims, settings)
    named = (_text(values, path) for path in settings.user_claims)
    return Identity(
        issuer=claims.issuer,
        subject=claims.subject,
        user=next((name for name in named if name), claims.subject),
        email=_text(values, "email"),
        preferred_username=_text(values, "preferred_username"),
        groups=_words(values, settings.groups_claims),
        roles=_words(values, settings.roles_claims),
    )


def missing_claims(claims: VerifiedClaims, settings: IdentitySettings) -> bool:
    """Whether userinfo could add a claim that is configured and not here."""
    own = {"user", "groups", "roles", _TOKEN_ITSELF}
    simple = [path for path in settings.headers.values() if path not in own]
    wanted = [*simple, *settings.user_claims, *(settings.groups_claims if _announced(settings, "groups") else ())]
    return any(not list(look_up(claims.values, path)) for path in wanted)


def _announced(settings: IdentitySettings, source: str) -> bool:
    return source in settings.headers.values()


# ── headers ───────────────────────────────────────────────────────────────────────────────────────────────────────────

ROLE_PREFIX = "role:"


def announce(identity: Identity, claims: VerifiedClaims, token: str | None, settings: IdentitySettings) -> HeaderPlan:
    """The header lines that tell the backend who the user is; ``token`` is sent as the bearer (RFC 6750 §2.1).

    A claim that is not there gives no header. Raises LoginFault("identity_unusable") for values that no header can
    carry without becoming another value on the way.
    """
    lines: list[tuple[bytes, bytes]] = []
    for name, source in settings.headers.items():
        if source == _TOKEN_ITSELF:
            lines += [(name.encode(), token.encode("ascii"))] if token is not None else []
            continue
        value = _header_value(name, source, identity, claims, settings)
        if value is None:
            continue
        if len(value) > settings.max_header_bytes:
            if settings.oversize == "refuse":
                raise LoginFault(
                    "identity_unusable", f"{name} would have {len(value)} bytes; the limit is max_header_bytes"
                )
            continue
        lines.append((name.encode(), value))
    if token is not None:
        lines.append((b"Authorization", b"Bearer " + token.encode("ascii")))
    return HeaderPlan(tuple(lines))


def _header_value(
    name: str, source: str, identity: Identity, claims: VerifiedClaims, settings: IdentitySettings
) -> bytes | None:
    match source:
        case "user":
            return _encode(name, identity.user, settings)
        case "email":
            return _encode(name, identity.email, settings) if identity.email else None
        case "preferred_username":
            return _encode(name, identity.preferred_username, settings) if identity.preferred_username else None
        case "groups":
            # A group called "role:admin" must not pass for the role, so it is not announced at all.
            groups = {group for group in identity.groups if not group.startswith(ROLE_PREFIX)}
            return _list(name, groups | {ROLE_PREFIX + role for role in identity.roles}, settings)
        case "roles":
            return _list(name, identity.roles, settings)
        case path:
            values = _believed(claims, settings)
            text = _text(values, path)
            return _encode(name, text, settings) if text is not None else _list(name, _words(values, (path,)), settings)


def _list(name: str, items: frozenset[str] | set[str], settings: IdentitySettings) -> bytes | None:
    """Items joined by commas; a comma within an item is percent-encoded, so that it cannot pass for two."""
    encoded = [_encode(name, item, settings, also=",").replace(b",", b"%2C") for item in sorted(items)]
    return b",".join(encoded) if encoded else None


def _encode(name: str, text: str, settings: IdentitySettings, also: str = "") -> bytes:
    if text != text.strip() or any(unicodedata.category(c) in {"Cc", "Cs", "Zl", "Zp"} for c in text):
        raise LoginFault("identity_unusable", f"the value for {name} has control characters, or white space at an end")
    if settings.encoding == "percent":
        return quote(text, safe="".join(chr(c) for c in range(0x20, 0x7F) if chr(c) not in "%" + also)).encode("ascii")
    return (text.replace("%", "%25") if also else text).encode()
