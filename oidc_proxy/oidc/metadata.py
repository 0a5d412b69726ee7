"""The provider's metadata (OpenID Connect Discovery 1.0, RFC 8414), checked before any of it is used."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from ..errors import ProviderFault
from ..values import Origin
from .documents import shown
from .settings import JwksSettings, ProviderSettings
from .urls import split_url

_WELL_KNOWN = "/.well-known/openid-configuration"


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """What we know of the provider. None where it says nothing; ``extra`` is what nothing here reads."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    userinfo_endpoint: str | None = None
    end_session_endpoint: str | None = None
    introspection_endpoint: str | None = None
    revocation_endpoint: str | None = None
    iss_in_response: bool = False
    pkce_methods: tuple[str, ...] | None = None
    id_token_algorithms: tuple[str, ...] | None = None
    client_auth_methods: tuple[str, ...] | None = None
    extra: dict[str, Any] = field(default_factory=dict)


class _Endpoint(NamedTuple):
    override: str
    called_by: Literal["browser", "us"]
    required: bool = False
    old_name: str | None = None


_ENDPOINTS = {
    "authorization_endpoint": _Endpoint("authorization", "browser", required=True),
    "token_endpoint": _Endpoint("token", "us", required=True),
    "jwks_uri": _Endpoint("jwks", "us", required=True),
    "userinfo_endpoint": _Endpoint("userinfo", "us"),
    "end_session_endpoint": _Endpoint("end_session", "browser"),
    "introspection_endpoint": _Endpoint("introspection", "us", old_name="token_introspection_endpoint"),
    "revocation_endpoint": _Endpoint("revocation", "us"),
}
_LISTS = {
    "code_challenge_methods_supported": "pkce_methods",
    "id_token_signing_alg_values_supported": "id_token_algorithms",
    "token_endpoint_auth_methods_supported": "client_auth_methods",
}
_ISS_IN_RESPONSE = "authorization_response_iss_parameter_supported"
_READ = {"issuer", _ISS_IN_RESPONSE} | _ENDPOINTS.keys() | _LISTS.keys()


def discovery_url(settings: ProviderSettings) -> str:
    """Where the metadata is fetched: as configured, else below the issuer (Discovery §4.1), at the internal origin if
    there is one.
    """
    if settings.discovery_url is not None:
        return settings.discovery_url
    base = settings.issuer
    if settings.internal_base_url is not None:
        base = f"{settings.internal_base_url}{split_url(base)[1]}"
    return base.removesuffix("/") + _WELL_KNOWN


def read_metadata(document: object, settings: ProviderSettings) -> Provider:
    """The provider that a metadata document describes.

    Raises ProviderFault ``provider_misconfigured``, naming the key, what it says and what was expected: another issuer
    (Discovery §4.3), a required member missing, a member of the wrong type, an endpoint at a place that nobody named,
    PKCE without S256 (RFC 9700 §4.8.2), or pushed requests required, which we do not send.
    """
    if not isinstance(document, dict):
        raise _misconfigured("the metadata is not a JSON object")
    _check_issuer(document.get("issuer"), settings)
    endpoints = {key: _endpoint(document, key, settings) for key in _ENDPOINTS}
    lists = {name: _words(document, key) for key, name in _LISTS.items()}
    _check_pkce(lists["pkce_methods"], settings)
    _check_response_types(_words(document, "response_types_supported"))
    if _flag(document, "require_pushed_authorization_requests"):
        raise _misconfigured("require_pushed_authorization_requests is true, but pushed requests are not supported")
    return Provider(
        issuer=document["issuer"],
        iss_in_response=_flag(document, _ISS_IN_RESPONSE),
        extra={key: value for key, value in document.items() if key not in _READ},
        **endpoints,  # type: ignore[arg-type]  # the required ones are not None: _endpoint has seen to it
        **lists,  # type: ignore[arg-type]
    )


def provider_without_discovery(settings: ProviderSettings) -> Provider | None:
    """The provider as the settings alone describe it; None when it must be discovered."""
    if settings.discovery:
        return None
    named = {key: getattr(settings.endpoints, endpoint.override) for key, endpoint in _ENDPOINTS.items()}
    return Provider(issuer=settings.issuer, **named)


def _misconfigured(detail: str) -> ProviderFault:
    return ProviderFault("provider_misconfigured", detail)


def _check_issuer(announced: object, settings: ProviderSettings) -> None:
    if not isinstance(announced, str) or announced not in settings.issuers:
        raise _misconfigured(
            f"issuer is {shown(announced)} in the metadata, but `provider.issuer` is {shown(settings.issuer)}"
        )


def _check_pkce(methods: tuple[str, ...] | None, settings: ProviderSettings) -> None:
    if settings.require_pkce_s256 and methods is not None and "S256" not in methods:
        raise _misconfigured(
            f"code_challenge_methods_supported is {shown(methods)}, without S256 (`provider.require_pkce_s256: false` "
            "tolerates that)"
        )


def _check_response_types(types: tuple[str, ...] | None) -> None:
    if types is not None and "code" not in types:
        raise _misconfigured(f"response_types_supported is {shown(types)}, without code")


def _words(document: dict[str, Any], key: str) -> tuple[str, ...] | None:
    value = document.get(key)
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise _misconfigured(f"{key} is {shown(value)}, not a list of strings")
    return tuple(value)


def _flag(document: dict[str, Any], key: str) -> bool:
    value = document.get(key)
    if value is None or isinstance(value, bool):
        return bool(value)
    raise _misconfigured(f"{key} is {shown(value)}, not true or false")


def _endpoint(document: dict[str, Any], key: str, settings: ProviderSettings) -> str | None:
    endpoint = _ENDPOINTS[key]
    override: str | None = getattr(settings.endpoints, endpoint.override)
    if override is not None:
        return override
    value = document.get(key, endpoint.old_name and document.get(endpoint.old_name))
    if value is not None and value != "":
        return _placed(key, value, endpoint, settings)
    if endpoint.required:
        raise _misconfigured(f"{key} is missing in the metadata")
    return None


def _placed(key: str, value: object, endpoint: _Endpoint, settings: ProviderSettings) -> str:
    """The endpoint as we use it, if it lies where the operator said that the provider is.

    The document must not choose the hosts that we talk to: whoever can change it would reach into our network, and
    receive codes and the client secret. Only what the settings name counts, down to scheme and port.
    """
    try:
        origin, rest = split_url(value) if isinstance(value, str) else (None, "")
    except ValueError:
        origin, rest = None, ""
    if origin is None:
        raise _misconfigured(f"{key} is {shown(value)}, not an absolute http(s) URL")
    if origin in settings.endpoint_origins:
        return str(value)
    own = _own_origins(settings, endpoint.called_by)
    if origin not in own:
        raise _misconfigured(
            f"{key} is on {origin}, but the provider is on {', '.join(map(str, own))} "
            f"(`provider.endpoint_origins` permits others, `provider.endpoints.{endpoint.override}` replaces it)"
        )
    if endpoint.called_by == "browser" or settings.internal_base_url is None:
        return str(value)
    return f"{settings.internal_base_url}{rest}"


def _own_origins(settings: ProviderSettings, called_by: Literal["browser", "us"]) -> list[Origin]:
    origins = [split_url(settings.issuer)[0]]
    if called_by == "us":
        origins += [settings.internal_base_url] if settings.internal_base_url else []
        origins += [split_url(settings.discovery_url)[0]] if settings.discovery_url else []
    return list(dict.fromkeys(origins))


# ── how long to keep what was fetched ─────────────────────────────────────────────────────────────────────────────────

_DIRECTIVE = re.compile(r"([^\s,;=\"]+)(?:\s*=\s*(\"(?:[^\"\\]|\\.)*\"|[^\s,;\"]*))?")


def cache_seconds(cache_control: str | None, settings: JwksSettings) -> float:
    """How long the keys may be kept, in seconds: ``max-age`` of Cache-Control (RFC 9111 §5.2.2.1) within the limits.

    Read tolerantly, and never an error: what cannot be understood counts as absent, and absent means ``min_ttl``.
    """
    directives = [(name.lower(), value.strip('"').strip()) for name, value in _DIRECTIVE.findall(cache_control or "")]
    names = {name for name, _ in directives}
    ages = [int(value[:10]) for name, value in directives if name == "max-age" and re.fullmatch("[0-9]+", value)]
    if not ages or names & {"no-store", "no-cache"}:
        return float(settings.min_ttl)
    return float(min(max(ages[0], settings.min_ttl), settings.max_ttl))
