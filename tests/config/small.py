"""A small configuration of our own, so that the loader can be tested by itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from oidc_proxy.config import Loaded
from oidc_proxy.config.problems import Problem
from oidc_proxy.values import ByteSize, Duration, Secret, Settings


class Tls(Settings):
    """TLS."""

    ca_file: Path | None = Field(None, description="CA.")


class Provider(Settings):
    """The provider."""

    issuer: str = Field(description="Issuer.", examples=["https://op.example.com"])
    client_id: str = Field(description="Client id.", examples=["app"])
    scopes: tuple[str, ...] = Field(("openid",), description="Scopes.")
    secret: Secret | None = Field(None, description="Secret.")
    secret_file: Path | None = Field(None, description="File that holds `secret`.")
    tls: Tls = Field(Tls(), description="TLS.")

    @field_validator("issuer")
    @classmethod
    def _url(cls, value: str) -> str:
        if "://" not in value:
            raise ValueError("must be a URL such as https://op.example.com")
        return value

    @model_validator(mode="after")
    def _together(self) -> Provider:
        if self.client_id == "alone":
            raise ValueError("client_id is lonely; scopes are few; tls.ca_file is needed; something else")
        return self


class Round(Settings):
    """A shape."""

    type: Literal["round"] = Field("round", description="Kind.")
    radius: int = Field(1, description="Radius.", ge=1)


class Square(Settings):
    """A shape."""

    type: Literal["square"] = Field("square", description="Kind.")
    side: float = Field(1.0, description="Side.", lt=10, gt=0)
    round: str = Field("", description="Named as the other's tag.")


class Key(Settings):
    """One key."""

    key: Secret | None = Field(None, description="Key.")
    key_file: str | None = Field(None, description="File that holds `key`.")


class Root(Settings):
    """Everything."""

    listen: str = Field("127.0.0.1:80", description="Address.")
    provider: Provider = Field(description="Provider.")
    session_ttl: int = Field(60, ge=60, description="Seconds.")
    verbose: bool = Field(False, description="Say more.")
    idle: Duration = Field(Duration(60), ge=1, description="Idle time.")
    limit: ByteSize = Field(ByteSize(10), description="Size.")
    shape: Annotated[Round | Square, Field(discriminator="type")] = Field(Round(), description="Shape.")
    keys: tuple[Key, ...] = Field((), description="Keys.")
    by_name: dict[str, Key] = Field({}, description="Keys by name.")
    headers: dict[str, str] = Field({}, description="Headers.")
    either: int | tuple[int, ...] = Field(0, description="A number or several.")
    names: frozenset[str] = Field(frozenset(), max_length=2, description="Names.")
    code: str = Field("AB", pattern="^[A-Z]+$", max_length=3, description="Code.")
    level: Literal[1, 2] = Field(1, description="Level.")


GOOD = "provider: {issuer: https://op.example.com, client_id: app}\n"


def said(loaded: Loaded[Any]) -> list[tuple[str, str, str]]:
    """Place, path and message of each problem."""

    def place(problem: Problem) -> str:
        shown = problem.fields()
        return f"{shown['line']}:{shown['column']}" if shown["line"] else str(problem.mark or "")

    return [(place(problem), problem.path, problem.message) for problem in loaded.problems]


Read = Callable[..., Loaded[Any]]
