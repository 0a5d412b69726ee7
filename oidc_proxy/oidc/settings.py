"""Settings of the provider, the sign-in and the sign-out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from ..tokens import IdTokenSettings
from ..values import ByteSize, Duration, Origin, Secret, Settings
from .documents import read_json
from .urls import check_redirect_rule, split_url

RESERVED = frozenset({
    "client_id", "client_secret", "response_type", "response_mode", "redirect_uri", "state", "nonce", "code_challenge",
    "code_challenge_method", "request", "request_uri", "registration", "max_age",
})  # fmt: skip
"""Parameters of the authorization request that only the protocol itself sets.

``max_age`` is among them because whoever sends it must check ``auth_time`` (Core §3.1.3.7), and ``response_mode``
because it changes how the answer arrives.
"""

_SCOPE = re.compile(r"[!#-\[\]-~]+")  # RFC 6749 §3.3
_VISIBLE = re.compile(r"[ -~]+")  # VSCHAR, RFC 6749 appendix A
_LOCAL_PATH = re.compile(r"/(?![/\\])[!#-\[\]-~]*")


def _check_url(text: str) -> str:
    split_url(text)
    return text


def _check_visible(text: str) -> str:
    if not _VISIBLE.fullmatch(text):
        raise ValueError("must be printable ASCII and not empty")
    return text


def _split_words(value: Any) -> Any:
    return tuple(value.split()) if isinstance(value, str) else value


Url = Annotated[str, AfterValidator(_check_url)]


class TlsSettings(Settings):
    """How the provider's certificate is checked."""

    verify: bool = Field(
        True, description="Whether the provider's certificate is checked. Switching this off is for trials only."
    )
    ca_file: Path | None = Field(
        None,
        description="PEM file with the certificate authorities to trust, instead of the system's.",
        examples=["/etc/ssl/company-ca.pem"],
    )


class JwksSettings(Settings):
    """How long the provider's keys are kept."""

    min_ttl: Duration = Field(
        Duration(600), description="Shortest time that the keys are kept, whatever the provider's Cache-Control says."
    )
    max_ttl: Duration = Field(Duration(86400), description="Longest time that the keys are kept.")
    refetch_cooldown: Duration = Field(
        Duration(30), description="Shortest time between two fetches that an unknown key id causes."
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_ttl > self.max_ttl:
            raise ValueError("min_ttl must not be longer than max_ttl")
        return self


class EndpointOverrides(Settings):
    """Endpoints that win over the provider's metadata, exactly as written."""

    authorization: Url | None = Field(None, description="Where browsers are sent to sign in.")
    token: Url | None = Field(None, description="Where codes and refresh tokens are exchanged for tokens.")
    jwks: Url | None = Field(None, description="Where the provider's public keys are.")
    userinfo: Url | None = Field(None, description="Where the claims of the user can be asked for.")
    end_session: Url | None = Field(None, description="Where browsers are sent to sign out at the provider.")
    introspection: Url | None = Field(None, description="Where tokens can be introspected.")
    revocation: Url | None = Field(None, description="Where tokens can be revoked.")


class ProviderSettings(Settings):
    """The OpenID Provider, and who we are there."""

    issuer: Url = Field(
        description="The provider's issuer, exactly as its tokens and its metadata spell it.",
        examples=["https://keycloak.example.com/realms/main"],
    )
    client_id: Annotated[str, AfterValidator(_check_visible)] = Field(
        description="The client id that the provider knows us by.", examples=["app"]
    )
    client_secret: Secret | None = Field(
        None, description="The client secret; leave it out for a public client. `client_secret_file` is safer."
    )
    client_secret_file: Path | None = Field(
        None, description="File that holds `client_secret`.", examples=["/run/secrets/oidc_client_secret"]
    )
    client_auth: Literal["auto", "basic", "post", "none"] = Field(
        "auto",
        description="How we prove who we are at the token endpoint; `auto` takes what the provider announces, "
        "Basic first.",
    )
    scopes: tuple[str, ...] = Field(
        ("openid", "profile", "email"),
        description="Scopes that are asked for, as a list or as one string; `openid` is always the first.",
        examples=[["openid", "profile", "email", "groups"]],
    )
    offline_access: bool = Field(
        False,
        description="Whether to ask for a refresh token that outlives the provider's own session. Some providers want "
        "`prompt: consent` in `login.params` besides.",
    )
    internal_base_url: Origin | None = Field(
        None,
        description="Scheme, host and port under which we reach the provider, when browsers use another one. "
        "Metadata, keys, tokens and userinfo are then fetched there; redirects and the issuer stay as they are.",
        examples=["http://keycloak:8080"],
    )
    allow_insecure_http: bool = Field(
        False, description="Whether the provider may be used over plain http on a host that is not this machine."
    )
    issuer_slash_tolerant: bool = Field(
        False, description="Whether the issuer of the metadata may differ from ours by one slash at the end."
    )
    discovery: bool = Field(
        True,
        description="Whether the provider's metadata is fetched. Without it, `endpoints` must name what is needed.",
    )
    discovery_url: Url | None = Field(
        None,
        description="Where the metadata is, if not at the issuer's `/.well-known/openid-configuration`.",
        examples=["https://idp.example.com/custom/openid-configuration"],
    )
    endpoints: EndpointOverrides = Field(
        EndpointOverrides(), description="Endpoints that win over the provider's metadata."
    )
    endpoint_origins: tuple[Origin, ...] = Field(
        (),
        description="Other origins on which the provider's metadata may name endpoints, besides the issuer's own.",
        examples=[["https://oauth2.googleapis.com", "https://www.googleapis.com"]],
    )
    require_pkce_s256: bool = Field(
        True,
        description="Whether a provider is refused whose metadata lists PKCE methods without S256. "
        "PKCE is used in any case.",
    )
    id_token: IdTokenSettings = Field(IdTokenSettings(), description="What is accepted as an ID token.")
    clock_skew: Duration = Field(
        Duration(30), description="How far the provider's clock and ours may differ when tokens are checked."
    )
    tls: TlsSettings = Field(TlsSettings(), description="How the provider's certificate is checked.")
    timeout: Duration = Field(Duration(10), description="Longest time that one call to the provider may take.")
    response_limit: ByteSize = Field(ByteSize(2**20), description="Largest answer of the provider that is read.")
    metadata_ttl: Duration = Field(Duration(3600), description="How long the provider's metadata is kept.")
    jwks: JwksSettings = Field(JwksSettings(), description="How long the provider's keys are kept.")

    @field_validator("issuer")
    @classmethod
    def _no_query(cls, issuer: str) -> str:
        if "?" in issuer:
            raise ValueError("must not have a query (OpenID Connect Discovery §3)")
        return issuer

    @field_validator("scopes", mode="before")
    @classmethod
    def _scopes_as_words(cls, value: Any) -> Any:
        return _split_words(value)

    @field_validator("scopes")
    @classmethod
    def _openid_first(cls, scopes: tuple[str, ...]) -> tuple[str, ...]:
        bad = [scope for scope in scopes if not _SCOPE.fullmatch(scope)]
        if bad:
            raise ValueError(f"“{bad[0]}” is not a scope: no spaces, quotes or backslashes, and printable ASCII only")
        return tuple(dict.fromkeys(["openid", *scopes]))

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        problems = [*self._insecure_urls(), *self._missing_endpoints(), *self._contradictions()]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def issuers(self) -> tuple[str, ...]:
        """What the provider may call itself, our own word first."""
        own = self.issuer
        if not self.issuer_slash_tolerant:
            return (own,)
        return own, own.removesuffix("/") if own.endswith("/") else f"{own}/"

    def _insecure_urls(self) -> list[str]:
        written = [("issuer", self.issuer), ("discovery_url", self.discovery_url)]
        written += [(f"endpoints.{name}", url) for name, url in self.endpoints]
        origins = [(name, split_url(url)[0]) for name, url in written if url]
        origins += [("endpoint_origins", origin) for origin in self.endpoint_origins]
        return [
            f"{name} must be https: {origin} is neither this machine nor `internal_base_url` "
            "(`allow_insecure_http: true` permits it)"
            for name, origin in origins
            if not self._protected(origin)
        ]

    def _protected(self, origin: Origin) -> bool:
        """Whether the way there is safe, or plain http was asked for in so many words."""
        return origin.secure or origin.loopback or self.allow_insecure_http or origin == self.internal_base_url

    def _missing_endpoints(self) -> list[str]:
        if self.discovery:
            return []
        needed = ("authorization", "token", "jwks")
        missing = [name for name in needed if getattr(self.endpoints, name) is None]
        return [f"endpoints.{name} is needed when `discovery` is off" for name in missing]

    def _contradictions(self) -> list[str]:
        if self.client_auth in {"basic", "post"} and self.client_secret is None:
            return [f"client_secret is needed when `client_auth` is {self.client_auth}"]
        if self.client_auth == "none" and self.client_secret is not None:
            return ["client_secret is given, but `client_auth` is none: leave one of them out"]
        return []


class LoginSettings(Settings):
    """How a sign-in is asked for, how long it may take and where it ends."""

    timeout: Duration = Field(
        Duration(600), description="Longest time between the redirect to the provider and the way back."
    )
    max_pending: int = Field(
        32, ge=1, le=100, description="How many unfinished sign-ins one browser may have; the oldest gives way."
    )
    loop_limit: int = Field(
        3, ge=1, description="How many sign-ins in one minute that the browser did not keep lead to an error page."
    )
    auth_origin: Origin | None = Field(
        None,
        description="The one of several `public_url` where every sign-in happens and the provider sends browsers back "
        "to; the others are handed its session. Without it, each signs in by itself.",
        examples=["https://auth.example.com"],
    )
    landing: str = Field("/", description="Path to open after a sign-in that came from nowhere.", examples=["/home"])
    allowed_redirects: tuple[Annotated[str, AfterValidator(check_redirect_rule)], ...] = Field(
        (),
        description="Other origins to which a sign-in or sign-out may return.",
        examples=[["https://other.example.com", "https://*.apps.example.com"]],
    )
    params: dict[str, str] = Field(
        {},
        description="Further parameters of every authorization request. None that the protocol itself needs.",
        examples=[{"kc_idp_hint": "github"}],
    )
    allowed_params: dict[str, tuple[str, ...]] = Field(
        {},
        description="Parameters that the address which starts a sign-in may set, each with its permitted values. "
        "A value between slashes is a regular expression for the whole value.",
        examples=[{"prompt": ["login", "none"], "login_hint": ["/[^@]+@example[.]com/"]}],
    )
    acr_values: tuple[str, ...] = Field(
        (),
        description="Authentication context classes to ask for, the preferred one first. The provider may answer with "
        "another one.",
        examples=[["gold", "silver"]],
    )
    ui_locales: tuple[str, ...] = Field(
        (), description="Languages of the provider's pages, the preferred one first.", examples=[["de", "en"]]
    )
    claims: dict[str, Any] | None = Field(
        None,
        description="The `claims` parameter (OpenID Connect Core 5.5): claims to ask for one by one.",
        examples=[{"userinfo": {"groups": None}}],
    )

    @field_validator("acr_values", "ui_locales", mode="before")
    @classmethod
    def _words(cls, value: Any) -> Any:
        return _split_words(value)

    @field_validator("claims", mode="before")
    @classmethod
    def _claims_as_json(cls, value: Any) -> Any:
        return read_json(value.encode()) if isinstance(value, str) else value

    @field_validator("landing")
    @classmethod
    def _landing_is_here(cls, path: str) -> str:
        if not _LOCAL_PATH.fullmatch(path):
            raise ValueError("must be a path on this site that starts with one slash, such as /home")
        return path

    @field_validator("params", "allowed_params")
    @classmethod
    def _not_protocol(cls, parameters: dict[str, Any]) -> dict[str, Any]:
        taken = sorted(RESERVED & parameters.keys())
        if taken:
            raise ValueError(f"cannot set “{taken[0]}”: it belongs to the protocol")
        return parameters

    @field_validator("params")
    @classmethod
    def _not_scope(cls, parameters: dict[str, str]) -> dict[str, str]:
        if "scope" in parameters:
            raise ValueError("cannot set “scope”: write it to `provider.scopes`")
        return parameters

    @field_validator("allowed_params")
    @classmethod
    def _patterns_compile(cls, parameters: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        patterns = [value for values in parameters.values() for value in values if is_pattern(value)]
        for pattern in patterns:
            try:
                re.compile(pattern[1:-1])
            except re.error as error:
                raise ValueError(f"{pattern} is not a regular expression: {error}") from None
        return parameters


def is_pattern(value: str) -> bool:
    """Whether an entry of ``allowed_params`` is a regular expression between slashes."""
    return len(value) > 2 and value[0] == value[-1] == "/"


class LogoutSettings(Settings):
    """What signing out does."""

    redirect_uri: Url | None = Field(
        None,
        description="Where the browser ends up after signing out, instead of our own page; register it there.",
        examples=["https://www.example.com/goodbye"],
    )
    allow_get: bool = Field(
        False,
        description="Whether a plain link signs out at once. Any site can then sign its visitors out of this one.",
    )
    provider: bool = Field(True, description="Whether the browser also visits the provider to sign out there.")
    revoke: bool = Field(
        True, description="Whether the refresh token is revoked at the provider when its user signs out."
    )
