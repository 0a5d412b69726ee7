"""Where the backend is, how it is spoken to, and how long it may take."""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from oidc_proxy.errors import SettingsFault
from oidc_proxy.values import Duration, Origin, Settings

_FIELD_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_FIELD_VALUE = re.compile(r"[\x21-\x7e\x80-\U0010ffff]([\t\x20-\x7e\x80-\U0010ffff]*[\x21-\x7e\x80-\U0010ffff])?")
_FRAMING = frozenset(
    {"connection", "content-length", "host", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"}
)


@dataclass(frozen=True, slots=True)
class Address:
    """Where connections go: a TCP host and port, or the path of a Unix domain socket."""

    authority: str
    """What a Host header says that names the backend itself (RFC 9110 §7.2)."""
    host: str = ""
    port: int = 0
    path: str = ""
    secure: bool = False

    @classmethod
    def parse(cls, url: str) -> Self:
        """``http://host:port``, ``https://host:port`` or ``unix:/path``. ValueError for anything else."""
        if url.startswith("unix:"):
            path = re.sub("^//(?=/)", "", url.removeprefix("unix:"))
            if not path.startswith("/") or path.startswith("//") or "\0" in path:
                raise ValueError("must have an absolute path after unix:, such as unix:/run/app.sock")
            return cls(authority="localhost", path=path)
        try:
            origin = Origin.parse(url)
        except ValueError:
            raise ValueError(
                "must be an address without a path, such as http://127.0.0.1:8080, or a socket: unix:/run/app.sock"
            ) from None
        return cls(origin.authority, origin.host.strip("[]"), origin.port, secure=origin.secure)


class UpstreamTimeouts(Settings):
    """How long the backend may take."""

    connect: Duration = Field(
        Duration(5),
        gt=0,
        description="Longest wait for a new connection, and for a place when `max_connections` are in use.",
        examples=["5s"],
    )
    response: Duration = Field(
        Duration(60),
        description="Longest wait for the head of the response once the request is sent, and for the backend to take "
        "more of a request body; 0 means no limit.",
        examples=["60s"],
    )
    idle: Duration = Field(
        Duration(300),
        description="Longest pause inside a response body; 0, for event streams without a heartbeat, means no limit.",
        examples=["5m"],
    )
    keep_alive: Duration = Field(
        Duration(30),
        description="How long an unused connection is kept; a shorter `Keep-Alive: timeout` of the backend wins.",
        examples=["30s"],
    )


class UpstreamTlsSettings(Settings):
    """TLS towards the backend."""

    verify: bool = Field(
        True, description="Verify the backend's certificate; switch it off only in a network that you trust as a whole."
    )
    ca_file: Path | None = Field(
        None,
        description="PEM file of the certificate authorities to trust instead of the system's.",
        examples=["/etc/ssl/backend-ca.pem"],
    )
    cert_file: Path | None = Field(
        None,
        description="PEM file of the client certificate, with its chain.",
        examples=["/run/secrets/client.pem"],
    )
    key_file: Path | None = Field(
        None,
        description="PEM file of the client certificate's private key, if it is not in `cert_file`.",
        examples=["/run/secrets/client.key"],
    )
    server_name: str | None = Field(
        None,
        min_length=1,
        description="Name to ask for (SNI) and to verify, if it is not the host of `url`.",
        examples=["app.internal"],
    )

    @model_validator(mode="after")
    def _key_has_certificate(self) -> Self:
        if self.key_file and not self.cert_file:
            raise ValueError("key_file needs cert_file as well")
        return self


class UpstreamSettings(Settings):
    """One backend."""

    url: str = Field(
        description="Address of the backend, without a path: http, https or a Unix domain socket.",
        examples=["http://127.0.0.1:8080", "https://app.internal", "unix:/run/app.sock"],
    )
    timeouts: UpstreamTimeouts = Field(UpstreamTimeouts(), description="How long the backend may take.")
    max_connections: int = Field(
        256, ge=1, le=65535, description="Most connections that one worker holds to this backend at a time."
    )
    host_header: Literal["public", "upstream"] = Field(
        "public", description="Which host the backend sees in Host: the one that the visitor used, or that of `url`."
    )
    forwarded: bool = Field(
        True, description="Tell the way of the request in `Forwarded` (RFC 7239) as well, beside X-Forwarded-*."
    )
    via: bool = Field(
        False,
        description="Add ourselves to the `Via` of requests (RFC 9110 §7.6.3). Off, because nginx and others compress "
        "nothing for a request that has it.",
    )
    headers: dict[str, str] = Field(
        {},
        repr=False,
        description="Headers that every request to this backend carries besides; they replace those of the same name.",
        examples=[{"X-Environment": "production"}],
    )
    tls: UpstreamTlsSettings = Field(UpstreamTlsSettings(), description="TLS towards the backend, for https addresses.")

    @field_validator("url")
    @classmethod
    def _address(cls, url: str) -> str:
        Address.parse(url)
        return url

    @field_validator("headers")
    @classmethod
    def _sendable(cls, headers: dict[str, str]) -> dict[str, str]:
        for name, value in headers.items():
            if not _FIELD_NAME.fullmatch(name):
                raise ValueError(f"“{name}” is not a header name")
            if name.lower() in _FRAMING:
                raise ValueError(f"{name} cannot be set here")
            if value and not _FIELD_VALUE.fullmatch(value):
                raise ValueError(f"the value of {name} has control characters, or white space at its ends")
        return headers


def tls_context(settings: UpstreamTlsSettings) -> ssl.SSLContext:
    """The context for https backends. SettingsFault when a file cannot be read or used."""
    try:
        context = ssl.create_default_context(cafile=settings.ca_file)
        if settings.cert_file:
            # A password callback of our own: without one, OpenSSL would ask for it on the terminal.
            context.load_cert_chain(settings.cert_file, settings.key_file, password=_no_password)
    except (OSError, ValueError) as error:
        names = ", ".join(f"{name} {path}" for name, path in settings if name.endswith("_file") and path)
        raise SettingsFault([f"tls of the upstream cannot be set up ({names}): {error}"]) from error
    if not settings.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _no_password() -> str:
    raise ValueError("the private key is encrypted; give one without a pass phrase")
