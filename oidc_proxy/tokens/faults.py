"""Why a token was refused."""

from __future__ import annotations

from typing import Literal

from oidc_proxy.errors import LoginFault

Reason = Literal[
    "malformed", "critical", "algorithm", "key", "signature", "type", "issuer", "audience", "azp", "subject",
    "expired", "issued_at", "not_before", "nonce", "at_hash", "auth_time", "acr", "events", "sid", "jti",
]  # fmt: skip


class TokenInvalid(LoginFault):
    """The token proves nothing. ``reason`` names the check that it failed."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__("id_token_invalid", f"{reason}: {detail}")
        self.reason = reason


class KeyUnknown(TokenInvalid):
    """No key that we have can have signed this. The provider may have new keys: fetch them once, and try again."""
