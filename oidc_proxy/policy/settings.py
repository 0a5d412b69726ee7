"""What can be said in a rule, and which of it makes sense together."""

from __future__ import annotations

import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Literal, Self, TypeAlias

from pydantic import Field, field_validator, model_validator

from ..messages import Reply
from ..values import Duration, Origin, Settings, canonical_host
from ..websocket import WebSocketSettings

_NOT_IN_RULES = re.compile(r"//|/\.\.?(?=/|\Z)|[%\\;?#*\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_METHOD = re.compile(r"[!#$%&'+.^_`|~0-9A-Z-]+")
_DOMAIN = re.compile(r"[^\s@.*]+(\.[^\s@.*]+)*")
_EMAIL = re.compile(rf"[^\s@]+@{_DOMAIN.pattern}")

Kind: TypeAlias = Literal["groups", "roles", "emails", "email domains"]
DEMANDS: Mapping[str, Kind] = {
    "groups": "groups", "roles": "roles", "emails": "emails", "email_domains": "email domains",
}  # fmt: skip
"""Setting of a rule → the kind of condition that it makes."""

_BODILESS = frozenset({204, 205})


class RespondSettings(Settings):
    """An answer that is always the same."""

    status: int = Field(200, ge=200, le=599, description="Status; redirects cannot be made this way.")
    body: str = Field("", max_length=65536, description="The body, sent as UTF-8.", examples=["User-agent: *\n"])
    content_type: str = Field(
        "text/plain; charset=utf-8",
        pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+/[!-~]+(; ?[!-~]+)*$",
        description="What the body is.",
        examples=["application/json"],
    )

    @model_validator(mode="after")
    def _sendable(self) -> Self:
        if self.status not in set(HTTPStatus) or 300 <= self.status < 400:
            raise ValueError(f"status {self.status} cannot be answered here")
        if self.body and self.status in _BODILESS:
            raise ValueError(f"status {self.status} has no body")
        return self

    def reply(self, *, shared: bool) -> Reply:
        """The answer; ``shared`` says that caches may keep it for everybody."""
        headers = [("Content-Type", self.content_type)] if self.body else []
        headers.append(("X-Content-Type-Options", "nosniff"))
        if not shared:
            headers += [("Cache-Control", "private, no-store"), ("Vary", "Cookie")]
        return Reply(self.status, tuple(headers), self.body.encode())


class RouteSettings(Settings):
    """One rule: which requests it is for, who may make them, and where they go.

    The most specific host wins, then the longest path, then the rule that is written first.
    """

    name: str | None = Field(
        None,
        min_length=1,
        max_length=100,
        description="What logs, metrics and `policy test` call the rule; made of methods, host and path when left out.",
        examples=["admin pages"],
    )
    host: str | None = Field(
        None,
        description="Host that the rule is for, or `*.` and a domain for every host below that domain; "
        "left out for every host.",
        examples=["admin.example.com", "*.example.com"],
    )
    path: str = Field(
        description="Path that the rule is for, written decoded. With a slash at the end it is for everything below, "
        "else for exactly this path. A rule that requires sign-in holds with and without the final slash; "
        "a rule that opens something opens only what is written.",
        examples=["/", "/admin/", "/healthz"],
    )
    methods: tuple[str, ...] | None = Field(
        None,
        min_length=1,
        description="Methods that the rule is for, HEAD going with GET; left out for all. "
        "Other methods fall to the next rule that matches.",
        examples=[["GET"], ["POST", "PUT", "DELETE"]],
    )
    auth: Literal["required", "optional", "none"] = Field(
        "required",
        description="required: only signed-in users. optional: everybody, and the backend is told who is signed in. "
        "none: everybody, and nobody is announced.",
    )
    groups: tuple[str, ...] = Field(
        (),
        description="The user must be in at least one of these groups, compared character by character.",
        examples=[["/staff/ops"]],
    )
    roles: tuple[str, ...] = Field(
        (),
        description="The user must have at least one of these roles (and be in one of `groups`, when both are given).",
        examples=[["admin", "billing:editor"]],
    )
    emails: tuple[str, ...] = Field(
        (),
        description="The user's e-mail address must be one of these, in whatever case, and verified by the provider "
        "(`identity.trust_unverified_email`). What else is given must hold as well.",
        examples=[["ann@example.com"]],
    )
    email_domains: tuple[str, ...] = Field(
        (),
        description="What follows the @ of that address must be one of these; a domain stands for no other below it.",
        examples=[["example.com"]],
    )
    shared_cache: bool = Field(
        False,
        description="Whether caches between the gateway and browsers may keep an answer where its Cache-Control allows "
        "that; else it is narrowed to `private`. Without a Cache-Control, nobody may keep the answer in any case. What "
        "is open to everybody (`auth: none`) is passed on as it is.",
    )
    upstream: str | None = Field(
        None, description="Name of the upstream that the requests go to; left out for the default one."
    )
    respond: RespondSettings | None = Field(
        None,
        description="Answer that is given instead of passing the request on, to those who may make it.",
        examples=[{"status": 200, "body": "User-agent: *\nDisallow: /\n"}],
    )
    strip_prefix: str | None = Field(
        None,
        description="First part of `path`, up to a slash, that the backend does not see; it is told the part in "
        "X-Forwarded-Prefix. What follows it goes on byte for byte.",
        examples=["/api"],
    )
    rewrite: str | None = Field(
        None,
        description="What the backend sees in the place of `path`, with a slash at the end where `path` has one. "
        "What follows it goes on byte for byte.",
        examples=["/v2/"],
    )
    timeout: Duration | None = Field(
        None,
        description="What `timeouts.response` and `timeouts.idle` of the upstream are on this route; 0 means no limit.",
        examples=["10m"],
    )
    authorization: Literal["replace", "keep"] = Field(
        "replace",
        description="replace: the client's Authorization header is removed, and the backend gets the user's token, if "
        "any. keep: what the client sends in Authorization goes on, and the user's token only without it.",
    )
    cross_site: Literal["allow", "refuse"] = Field(
        "allow",
        description="refuse: whatever is not GET, HEAD or OPTIONS must come from a page of the same origin, which the "
        "browser says in Sec-Fetch-Site or Origin; a request with neither is refused as well.",
    )
    allowed_origins: tuple[Origin, ...] = Field(
        (),
        description="Other origins whose pages may send what `cross_site: refuse` keeps out.",
        examples=[["https://www.example.com"]],
    )

    websocket: WebSocketSettings = Field(
        WebSocketSettings(), description="Which pages may open WebSockets here, and how long one may be silent."
    )

    @field_validator("host")
    @classmethod
    def _canonical_host(cls, host: str | None) -> str | None:
        if host is None:
            return None
        wildcard = "*." if host.startswith("*.") else ""
        try:
            return wildcard + canonical_host(host.removeprefix("*."))
        except ValueError:
            raise ValueError(
                "must be a host name without scheme, port and path, or `*.` and a domain; leave it out for every host"
            ) from None

    @field_validator("path", "strip_prefix", "rewrite")
    @classmethod
    def _plain_path(cls, path: str | None) -> str | None:
        if path is None:
            return None
        if not path.startswith("/"):
            raise ValueError("must start with a slash")
        if path.endswith("/*"):
            raise ValueError(f"must not end with a star; write {path.rstrip('*')} for everything below")
        found = _NOT_IN_RULES.search(path)
        if found:
            raise ValueError(
                f"must not contain {found[0]!a}: write the path decoded, without patterns, query and dot segments"
            )
        return path

    @field_validator("methods")
    @classmethod
    def _usable_methods(cls, methods: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for method in methods or ():
            if not _METHOD.fullmatch(method):
                raise ValueError(
                    f"has “{method}”; write methods in upper case, such as GET, or leave `methods` out for all"
                )
        return methods

    @field_validator("emails")
    @classmethod
    def _addresses(cls, emails: tuple[str, ...]) -> tuple[str, ...]:
        for email in emails:
            if not _EMAIL.fullmatch(email):
                raise ValueError(f"has “{email}”, which is no e-mail address")
        return emails

    @field_validator("email_domains")
    @classmethod
    def _domains(cls, domains: tuple[str, ...]) -> tuple[str, ...]:
        for domain in domains:
            if not _DOMAIN.fullmatch(domain):
                raise ValueError(f"has “{domain}”; write what follows the @, such as example.com, without patterns")
        return domains

    @field_validator("groups", "roles")
    @classmethod
    def _no_empty_names(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if "" in names:
            raise ValueError("has an empty name")
        return names

    @model_validator(mode="after")
    def _goes_one_way(self) -> Self:
        if self.respond is not None:
            given = ("upstream", "strip_prefix", "rewrite", "timeout")
            if useless := [name for name in given if getattr(self, name) is not None]:
                raise ValueError(f"`respond` passes nothing on, so `{useless[0]}` has no effect; leave one of them out")
        if self.allowed_origins and self.cross_site == "allow":
            raise ValueError("`allowed_origins` has no effect without `cross_site: refuse`")
        return self

    @model_validator(mode="after")
    def _rewritten_at_a_slash(self) -> Self:
        stripped, moved = self.strip_prefix, self.rewrite
        if stripped is not None and moved is not None:
            raise ValueError("`rewrite` already says what becomes of `path`; leave `strip_prefix` out")
        if stripped is not None:
            prefix = stripped.removesuffix("/")
            if not prefix or not f"{self.path}/".startswith(f"{prefix}/"):
                raise ValueError(
                    f"strip_prefix {stripped} is no first part of the path {self.path} that ends at a slash"
                )
        if moved is not None and moved != "/" and moved.endswith("/") != self.path.endswith("/"):
            raise ValueError(f"rewrite {moved} and path {self.path} must both end with a slash, or neither")
        return self

    @model_validator(mode="after")
    def _conditions_need_a_user(self) -> Self:
        given = [name for name in DEMANDS if getattr(self, name)]
        if self.auth != "required" and given:
            raise ValueError(
                f"`auth: {self.auth}` lets everybody in, so `{given[0]}` would keep nobody out; "
                "write `auth: required`, or leave it out"
            )
        return self
