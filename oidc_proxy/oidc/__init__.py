"""OpenID Connect as values: metadata, the authorization request, its answer, token requests and logout.

Nothing here talks to anybody. What will be sent is a value first (``authorization_url``, ``TokenRequest``,
``logout_url``); what came back is bytes that one of the ``read_*`` functions either understands completely or refuses.
"""

from .authorization import (
    Callback,
    PendingLogin,
    authorization_url,
    begin_login,
    check_callback,
    code_challenge,
    read_callback,
    requested_params,
)
from .documents import read_document, read_json
from .logout import logout_url
from .metadata import Provider, cache_seconds, discovery_url, provider_without_discovery, read_metadata
from .settings import (
    EndpointOverrides,
    JwksSettings,
    LoginSettings,
    LogoutSettings,
    ProviderSettings,
    TlsSettings,
)
from .token_requests import (
    BasicAuth,
    ClientAuth,
    PostAuth,
    PublicClient,
    TokenRequest,
    client_auth,
    code_request,
    refresh_request,
    revocation_request,
)
from .token_responses import Tokens, check_revocation, read_token_response, read_userinfo
from .urls import redirect_allowed

__all__ = [
    "BasicAuth",
    "Callback",
    "ClientAuth",
    "EndpointOverrides",
    "JwksSettings",
    "LoginSettings",
    "LogoutSettings",
    "PendingLogin",
    "PostAuth",
    "Provider",
    "ProviderSettings",
    "PublicClient",
    "TlsSettings",
    "TokenRequest",
    "Tokens",
    "authorization_url",
    "begin_login",
    "cache_seconds",
    "check_callback",
    "check_revocation",
    "client_auth",
    "code_challenge",
    "code_request",
    "discovery_url",
    "logout_url",
    "provider_without_discovery",
    "read_callback",
    "read_document",
    "read_json",
    "read_metadata",
    "read_token_response",
    "read_userinfo",
    "redirect_allowed",
    "refresh_request",
    "requested_params",
    "revocation_request",
]
