"""Signed tokens: from the text that a provider sent to claims that can be believed, or to the reason why not.

A token is taken apart here, strictly and once; joserfc only imports keys and verifies signatures, so no second parser
can read a token differently. Nothing of a payload is looked at before its signature has been verified. The rules of the
kinds of token exclude each other (RFC 8725 §3.12), so none passes for another.

Faults are ``TokenInvalid`` with the name of the check that failed. Their details go to the log: they show what the
provider says about itself (issuer, audience, times), never the token, the nonce, or a claim about the user.
"""

from oidc_proxy.tokens.faults import KeyUnknown, Reason, TokenInvalid
from oidc_proxy.tokens.keys import IdTokenSettings, Key, KeySet, allowed_algorithms
from oidc_proxy.tokens.verify import (
    Expectation,
    LogoutClaims,
    VerifiedClaims,
    accept_userinfo,
    merge,
    verify_access_token,
    verify_id_token,
    verify_logout_token,
    verify_refreshed_id_token,
    verify_userinfo_token,
)

__all__ = [
    "Expectation",
    "IdTokenSettings",
    "Key",
    "KeySet",
    "KeyUnknown",
    "LogoutClaims",
    "Reason",
    "TokenInvalid",
    "VerifiedClaims",
    "accept_userinfo",
    "allowed_algorithms",
    "merge",
    "verify_access_token",
    "verify_id_token",
    "verify_logout_token",
    "verify_refreshed_id_token",
    "verify_userinfo_token",
]
