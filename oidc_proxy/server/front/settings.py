"""How much a client may send, and how long it may take."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from oidc_proxy.values import ByteSize, Duration, Settings


class HttpLimits(Settings):
    """How much a client may send."""

    header_bytes: ByteSize = Field(
        ByteSize.parse("32KiB"),
        ge=1024,
        description="Most bytes of all headers of a request together, cookies included; more is answered with 431.",
        examples=["32KiB"],
    )
    headers: int = Field(128, ge=16, le=1000, description="Most headers of a request; more are answered with 431.")
    url_bytes: ByteSize = Field(
        ByteSize.parse("16KiB"),
        ge=1024,
        description="Most bytes of a request's path and query; more is answered with 414.",
        examples=["16KiB"],
    )
    body_bytes: ByteSize = Field(
        ByteSize(0),
        ge=0,
        description="Most bytes of a request body; more is answered with 413. 0 means no limit.",
        examples=["100MiB"],
    )
    connections: int = Field(
        10_000,
        ge=1,
        description="Most connections of clients that one worker holds at a time; those beyond are closed at once.",
    )


class HttpTimeouts(Settings):
    """How long a client may take."""

    header: Duration = Field(
        Duration(15),
        gt=0,
        description="Longest time for the line and headers of a request, from their first byte on, and for the first "
        "byte on a new connection; answered with 408.",
        examples=["15s"],
    )
    body: Duration = Field(
        Duration(60),
        gt=0,
        description="Longest pause inside a request body; answered with 408.",
        examples=["60s"],
    )
    write: Duration = Field(
        Duration(60),
        gt=0,
        description="Longest time in which a client takes nothing of an answer that waits for it; it is cut off then.",
        examples=["60s"],
    )
    keep_alive: Duration = Field(
        Duration(75),
        gt=0,
        description="How long a connection without a request is kept.",
        examples=["75s"],
    )


class HttpSettings(Settings):
    """What clients may send, and how long they may take."""

    limits: HttpLimits = Field(HttpLimits(), description="How much a client may send.")
    timeouts: HttpTimeouts = Field(HttpTimeouts(), description="How long a client may take.")

    @model_validator(mode="after")
    def _order(self) -> Self:
        if self.limits.header_bytes > 2**20 or self.limits.url_bytes > 2**20:
            raise ValueError("limits.header_bytes and limits.url_bytes may be 1MiB at most")
        return self
