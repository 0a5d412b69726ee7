"""RP-initiated logout (OpenID Connect RP-Initiated Logout 1.0)."""

from __future__ import annotations

from .metadata import Provider
from .settings import ProviderSettings
from .urls import add_parameters


def logout_url(
    provider: Provider,
    settings: ProviderSettings,
    *,
    id_token: str | None,
    return_to: str | None,
    state: str | None,
    ui_locales: str | None = None,
    limit: int = 8000,
) -> str | None:
    """Where to send the browser so that the provider signs the user out as well (§2); None if it has no such endpoint.

    ``return_to`` is the absolute, registered post_logout_redirect_uri; ``state`` comes back with it and is sent only
    then. ``client_id`` is always sent: it keeps the request valid when there is no ID token left, or when the URL would
    be longer than ``limit`` characters and the ID token is left out for that (the provider then asks the user).
    """
    if provider.end_session_endpoint is None:
        return None
    parameters = {
        "id_token_hint": id_token,
        "client_id": settings.client_id,
        "post_logout_redirect_uri": return_to,
        "state": state if return_to else None,
        "ui_locales": ui_locales,
    }
    given = {name: value for name, value in parameters.items() if value}
    url = add_parameters(provider.end_session_endpoint, given)
    if len(url) > limit:
        given.pop("id_token_hint", None)
        return add_parameters(provider.end_session_endpoint, given)
    return url
