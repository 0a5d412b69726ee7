"""Where the backend is, how it is spoken to, and how long it may take."""

from __future__ import annotations

import math
import re
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, Self

from pydantic import Field, field_validator, model_validator

from oidc_proxy.errors import SettingsFault
from oidc_proxy.values import Duration, Origin, Secret, Settings

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


class Waits(NamedTuple):
    """Seconds for which an exchange waits: for the head of the response, and inside its body."""

    response: float
    idle: float

    @classmethod
    def of(cls, response: Duration, idle: Duration) -> Self:
        """From settings, where 0 means no limit."""
        return cls(float(response) or math.inf, float(idle) or math.inf)


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


class SecretHeader(Settings):
    """A header whose value nobody should read."""

    value: Secret | None = Field(None, description="The value; `value_file` is safer.")
    value_file: Path | None = Field(
        None, description="File that holds `value`.", examples=["/run/secrets/backend_api_key"]
    )

    @model_validator(mode="after")
    def _has_a_value(self) -> Self:
        if self.value is None:
            raise ValueError("needs value_file, or value")
        return self

    def reveal(self) -> str:
        return self.value.reveal() if self.value is not None else ""


class HealthSettings(Settings):
    """When a server of several is passed over."""

    failures: int = Field(
        3,
        ge=1,
        description="Failed exchanges in a row after which a server gets no requests for `pause`; a server that lets "
        "nobody connect gets none at once.",
    )
    pause: Duration = Field(
        Duration(10), gt=0, description="How long it gets none; then one request tries it.", examples=["10s"]
    )
    path: str | None = Field(
        None,
        pattern=r"^/[!\"$-~]*$",
        description="Path, and query, that every server is asked for with GET each `interval`, without a user and "
        "with the host of the first `public_url` (or as `host_header` says); a status from 200 to 399 is well. Left "
        "out, servers are judged by the requests of visitors alone.",
        examples=["/healthz"],
    )
    interval: Duration = Field(Duration(10), gt=0, description="How often that is asked.", examples=["10s"])
    timeout: Duration = Field(Duration(3), gt=0, description="How long the answer may take.", examples=["3s"])


class UpstreamSettings(Settings):
    """One backend."""

    url: str = Field(
        description="Address of the backend, without a path: http, https or a Unix domain socket.",
        examples=["http://127.0.0.1:8080", "https://app.internal", "unix:/run/app.sock"],
    )
    servers: tuple[str, ...] = Field(
        (),
        description="Addresses of further servers of the same application. A request goes to the one with the fewest "
        "under way, and to the next if it cannot connect.",
        examples=[["http://10.0.0.12:8080", "http://10.0.0.13:8080"]],
    )
    health: HealthSettings = Field(HealthSettings(), description="When a server of several is passed over.")
    timeouts: UpstreamTimeouts = Field(UpstreamTimeouts(), description="How long the backend may take.")
    max_connections: int = Field(
        256,
        ge=1,
        le=65535,
        description="Most connections that one worker holds to each server at a time; event streams are not counted.",
    )
    max_websockets: int = Field(
        8000,
        ge=0,
        description="Most WebSockets that one worker holds to this backend at a time, each on a connection of its own "
        "that is not one of `max_connections`; those beyond are answered with 503.",
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
    secret_headers: dict[str, SecretHeader] = Field(
        {},
        description="The same for headers whose values nobody should read, such as keys: they are never shown.",
        examples=[{"Ocp-Apim-Subscription-Key": {"value_file": "/run/secrets/backend_api_key"}}],
    )
    rewrite_location: bool = Field(
        True,
        description="Whether Location, Content-Location and Refresh of redirects (and of 201) that lead to the backend "
        "itself, by its own origin or by a path without `strip_prefix`, lead visitors to the public address.",
    )
    rewrite_cookie_path: bool = Field(
        False, description="Whether the Path of the backend's cookies gets back what `strip_prefix` or `rewrite` took."
    )
    rewrite_cookie_domain: bool = Field(
        False, description="Whether the Domain of the backend's cookies is left out where it is the backend's own host."
    )
    internal_urls: tuple[Origin, ...] = Field(
        (),
        description="Origins besides those of `url` and `servers` by which the backend calls itself in its answers.",
        examples=[["http://app.internal:8080"]],
    )
    tls: UpstreamTlsSettings = Field(UpstreamTlsSettings(), description="TLS towards the backend, for https addresses.")

    @field_validator("url")
    @classmethod
    def _address(cls, url: str) -> str:
        Address.parse(url)
        return url

    @field_validator("servers")
    @classmethod
    def _addresses(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(cls._address, urls))

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

    @field_validator("secret_headers")
    @classmethod
    def _sendable_secrets(cls, headers: dict[str, SecretHeader]) -> dict[str, SecretHeader]:
        cls._sendable({name: header.reveal() for name, header in headers.items()})
        return headers

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        addresses = [Address.parse(url) for url in self.addresses]
        if len(set(addresses)) < len(addresses):
            raise ValueError("names a server twice in `url` and `servers`")
        if twice := {name.lower() for name in self.headers} & {name.lower() for name in self.secret_headers}:
            raise ValueError(f"has {min(twice)} in `headers` and in `secret_headers`")
        return self

    @property
    def addresses(self) -> tuple[str, ...]:
        """Of every server."""
        return (self.url, *self.servers)

    @property
    def fixed_headers(self) -> dict[str, str]:
        """Those of the settings, secret ones too."""
        return self.headers | {name: header.reveal() for name, header in self.secret_headers.items()}

    @property
    def own_origins(self) -> tuple[Origin, ...]:
        """By which the backend may call itself. On a Unix socket it only knows what Host tells it."""
        urls = [url for url in self.addresses if not url.startswith("unix:")]
        named = [Origin.parse("http://localhost")] if not urls and self.host_header == "upstream" else []
        return (*map(Origin.parse, urls), *named, *self.internal_urls)


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
