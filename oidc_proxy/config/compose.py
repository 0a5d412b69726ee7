"""The whole configuration: every module's settings, composed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from oidc_proxy.config.checks import CHECKS, DEFAULT_UPSTREAM
from oidc_proxy.config.reading import Loaded, read
from oidc_proxy.errors import SettingsFault
from oidc_proxy.forward_auth import ForwardAuthSettings
from oidc_proxy.identity import IdentitySettings
from oidc_proxy.messages import EndpointSettings
from oidc_proxy.oidc import LoginSettings, LogoutSettings, ProviderSettings
from oidc_proxy.pages import PageSettings
from oidc_proxy.policy import RouteSettings
from oidc_proxy.server.admin import AdminSettings
from oidc_proxy.server.front.settings import HttpSettings, ListenSettings
from oidc_proxy.server.store import MemoryStoreSettings, StoreSettings
from oidc_proxy.server.telemetry import LogSettings
from oidc_proxy.server.upstream import UpstreamSettings
from oidc_proxy.sessions import SessionSettings
from oidc_proxy.values import Origin, Settings


def _one_or_more(value: Any) -> Any:
    return (value,) if isinstance(value, str | Origin) else value


def _upstream_of_url(value: Any) -> Any:
    return {"url": value} if isinstance(value, str) else value


class Config(Settings):
    """Everything that can be set. Only `public_url`, `provider` and one upstream must be, or `forward_auth`."""

    version: Literal[1] = Field(1, description="Version of the configuration format.")
    public_url: Annotated[
        tuple[Origin, ...], BeforeValidator(_one_or_more, json_schema_input_type=Origin | tuple[Origin, ...])
    ] = Field(
        min_length=1,
        description="Origin under which browsers reach the gateway, or a list of them.",
        examples=["https://app.example.com", ["https://app.example.com", "https://app.example.org"]],
    )
    allow_insecure_http: bool = Field(
        False,
        description="Whether `public_url` may be http on a host that is not this machine; sessions can then be stolen.",
    )
    provider: ProviderSettings = Field(description="The OpenID Provider, and who we are there.")
    upstream: Annotated[
        UpstreamSettings | None, BeforeValidator(_upstream_of_url, json_schema_input_type=str | UpstreamSettings | None)
    ] = Field(
        None,
        description="The application behind the gateway, as an address or as a section like those of `upstreams`. "
        "Short for the upstream `default` and a route, after all others, that lets signed-in users in everywhere.",
        examples=["http://127.0.0.1:8080"],
    )
    upstreams: dict[str, UpstreamSettings] = Field(
        {},
        description="The applications behind the gateway by name; routes without a name go to `default`.",
        examples=[{"default": {"url": "http://127.0.0.1:8080"}, "api": {"url": "http://127.0.0.1:9000"}}],
    )
    routes: tuple[RouteSettings, ...] = Field(
        (),
        description="Which requests need sign-in, who may make them, and where they go.",
        examples=[[{"path": "/public/", "auth": "none"}, {"path": "/admin/", "groups": ["/staff/ops"]}]],
    )
    listen: ListenSettings = Field(
        ListenSettings(), description="Where the gateway listens, and whose forwarded headers it believes."
    )
    forward_auth: ForwardAuthSettings = Field(
        ForwardAuthSettings(), description="Which other proxies may ask whether a request may pass."
    )
    http: HttpSettings = Field(HttpSettings(), description="What clients may send, and how long they may take.")
    admin: AdminSettings = Field(
        AdminSettings(), description="Health, metrics and administration, on a listener of their own."
    )
    store: StoreSettings = Field(
        MemoryStoreSettings(type="memory"), description="Where sessions are kept: in memory, or in Redis."
    )
    session: SessionSettings = Field(SessionSettings(), description="How long sessions last, and what seals them.")
    login: LoginSettings = Field(
        LoginSettings(), description="How a sign-in is asked for, how long it may take and where it ends."
    )
    logout: LogoutSettings = Field(LogoutSettings(), description="What signing out does.")
    identity: IdentitySettings = Field(
        IdentitySettings(), description="Which claims say who the user is, and in which headers the backend reads it."
    )
    ui: PageSettings = Field(PageSettings(), description="What the gateway's own pages say.")
    endpoints: EndpointSettings = Field(EndpointSettings(), description="Where the gateway's own endpoints are.")
    log: LogSettings = Field(LogSettings(), description="What is logged.")

    @field_validator("upstreams")
    @classmethod
    def _named(cls, upstreams: dict[str, UpstreamSettings]) -> dict[str, UpstreamSettings]:
        if "" in upstreams:
            raise ValueError("has an upstream without a name")
        return upstreams

    @model_validator(mode="after")
    def _short_form(self) -> Self:
        """Write ``upstream`` out, so that whoever obeys the settings needs to know the long form only."""
        short = self.upstream is not None and DEFAULT_UPSTREAM not in self.upstreams
        if short:
            self.__dict__["upstreams"] = {DEFAULT_UPSTREAM: self.upstream, **self.upstreams}
        if short or (self.forward_auth.enabled and not self.upstreams):
            rest = RouteSettings(path="/")
            covered = any((route.path, route.host, route.methods) == ("/", None, None) for route in self.routes)
            self.__dict__["routes"] = self.routes if covered else (*self.routes, rest)
        return self


def read_config(
    files: Sequence[Path], environ: Mapping[str, str], overrides: Mapping[str, str] | None = None
) -> Loaded[Config]:
    """The configuration, or what is wrong with it; with warnings, and with where each value comes from."""
    return read(Config, files, environ, overrides, CHECKS)


def load(files: Sequence[Path], environ: Mapping[str, str], overrides: Mapping[str, str] | None = None) -> Config:
    """The configuration from ``files`` in order, ``OIDC_PROXY__…`` variables and ``overrides`` (dotted path → text).

    Raises SettingsFault with every error. Warnings are passed over; ``read_config`` has them.
    """
    loaded = read_config(files, environ, overrides)
    if loaded.settings is None:
        raise SettingsFault(list(loaded.errors))
    return loaded.settings
