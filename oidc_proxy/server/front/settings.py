"""Where clients come in, how much they may send, and how long they may take."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from oidc_proxy.values import ByteSize, Duration, Settings

_TCP = r"(\[[0-9A-Fa-f:.]+\]|[^:\s]+):\d{1,5}"


class ListenTlsSettings(Settings):
    """TLS towards clients: 1.2 or newer. Changed files are taken up within seconds; connections go on."""

    cert_file: Path = Field(
        description="PEM file of the certificate, followed by its chain.", examples=["/etc/oidc-proxy/tls.crt"]
    )
    key_file: Path | None = Field(
        None,
        description="PEM file of the certificate's private key, if it is not in `cert_file`.",
        examples=["/etc/oidc-proxy/tls.key"],
    )


class ListenSettings(Settings):
    """Where the gateway listens, and whose forwarded headers it believes."""

    address: str = Field(
        "127.0.0.1:4180",
        description="Address and port that browsers (or the proxy in front) connect to; or a Unix domain socket, "
        "`unix:` and its path; or `fd:` and the number of a socket that whoever starts the program passes on, which is "
        "3 with systemd's socket activation.",
        examples=["0.0.0.0:4180", "[::]:4180", "unix:/run/oidc-proxy/public.sock", "fd:3"],
        pattern=rf"^(unix:/[^\x00-\x1f]+|fd:\d{{1,5}}|{_TCP})$",
    )
    socket_mode: str = Field(
        "0660",
        pattern=r"^0?[0-7]{3}$",
        description="Permissions of a Unix domain socket's file, in octal.",
        examples=["0666"],
    )
    workers: int = Field(
        1,
        ge=1,
        le=64,
        description="Processes that share the work: one for each processor core that there is for it. More than one "
        "needs Linux and `store: {type: redis}`.",
    )
    tls: ListenTlsSettings | None = Field(
        None, description="Certificate of the gateway; without one it speaks plain HTTP, to a proxy in front."
    )
    redirect_https: str | None = Field(
        None,
        pattern=rf"^{_TCP}$",
        description="Address and port of a second listener, for plain HTTP, which sends browsers to `public_url`.",
        examples=["0.0.0.0:80"],
    )
    trusted_proxies: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...] = Field(
        (),
        description="Networks of the proxies in front, whose word is believed: the client's address, X-Request-Id and "
        "the trace context (traceparent, tracestate, baggage). From everybody else these are replaced or removed. Who "
        "connects to a Unix domain socket counts as 127.0.0.1.",
        examples=[["10.0.0.0/8"]],
    )
    client_address_header: Literal["X-Forwarded-For", "Forwarded"] = Field(
        "X-Forwarded-For",
        description="Where trusted proxies say for whom they ask. Only this one is read: what a proxy does not write "
        "itself, it may pass on from the client. `Forwarded` is that of RFC 7239.",
    )
    trace_context: Literal["trusted", "anybody", "nobody"] = Field(
        "trusted",
        description="Whose trace context (traceparent, tracestate, baggage) goes on to the backend: that of trusted "
        "proxies, also that of browsers which take part in traces, or nobody's.",
    )


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
    drain_delay: Duration = Field(
        Duration(0),
        ge=0,
        description="After SIGTERM, /readyz says 503 at once, and connections are still accepted for this long: the "
        "time that load balancers take to notice.",
        examples=["5s"],
    )
    drain_max: Duration = Field(
        Duration(20),
        ge=0,
        description="Longest time for requests under way to finish after that; what is not finished then is cut off.",
        examples=["20s"],
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
