"""What the tests of this folder start from: one provider, one client, one sign-in under way."""

from __future__ import annotations

from typing import Any

from oidc_proxy.oidc import PendingLogin, Provider, ProviderSettings

ISSUER = "https://idp.test/realms/main"
REDIRECT_URI = "https://app.test/oauth2/callback"
NOW = 1_700_000_000.0


def settings(**changed: Any) -> ProviderSettings:
    return ProviderSettings(**{"issuer": ISSUER, "client_id": "app", **changed})


def provider(**changed: Any) -> Provider:
    base = f"{ISSUER}/protocol"
    return Provider(
        **{
            "issuer": ISSUER,
            "authorization_endpoint": f"{base}/auth",
            "token_endpoint": f"{base}/token",
            "jwks_uri": f"{base}/certs",
            **changed,
        }
    )


def pending(**changed: Any) -> PendingLogin:
    return PendingLogin(
        **{
            "state": "s" * 43,
            "nonce": "n" * 43,
            "verifier": "v" * 43,
            "return_to": "/deep?link=1",
            "started_at": int(NOW),
            "issuer": ISSUER,
            "redirect_uri": REDIRECT_URI,
            **changed,
        }
    )


def metadata(**changed: Any) -> dict[str, Any]:
    """A document in the shape of Keycloak's; a value of ... removes the member."""
    base = f"{ISSUER}/protocol"
    document = {
        "issuer": ISSUER,
        "authorization_endpoint": f"{base}/auth",
        "token_endpoint": f"{base}/token",
        "jwks_uri": f"{base}/certs",
        "userinfo_endpoint": f"{base}/userinfo",
        "end_session_endpoint": f"{base}/logout",
        "introspection_endpoint": f"{base}/introspect",
        "revocation_endpoint": f"{base}/revoke",
        "response_types_supported": ["code", "none"],
        "code_challenge_methods_supported": ["plain", "S256"],
        "id_token_signing_alg_values_supported": ["RS256", "HS256"],
        "token_endpoint_auth_methods_supported": ["private_key_jwt", "client_secret_basic", "client_secret_post"],
        "authorization_response_iss_parameter_supported": True,
        "require_pushed_authorization_requests": False,
        **changed,
    }
    return {key: value for key, value in document.items() if value is not ...}
