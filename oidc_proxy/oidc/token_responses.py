"""Answers of the token and userinfo endpoints: understood completely, or refused by whose fault it is."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from ..errors import LoginFault, ProviderFault, ProxyError
from .documents import is_json, is_outage, media_type, quotable, read_document, read_json, shown

_LONGEST_LIFE = 10 * 365 * 86400
_LONGEST_RETRY = 3600
_TOKEN = re.compile(r"[!-~]+")  # fits into a header: VSCHAR of RFC 6749 appendix A.12 without the space


class Tokens(msgspec.Struct, frozen=True, kw_only=True):
    """What a token response gave us. Times are seconds since the epoch; None is what the provider did not say.

    ``id_token`` is text that nobody has verified yet, and legally absent after a refresh; a sign-in needs one.
    """

    access_token: str
    expires_at: float | None = None
    refresh_token: str | None = None
    refresh_expires_at: float | None = None
    id_token: str | None = None
    scope: str | None = None

    def __repr__(self) -> str:
        held = [name for name in ("access_token", "refresh_token", "id_token") if getattr(self, name) is not None]
        return f"Tokens({', '.join(held)})"


def read_token_response(
    status: int, content_type: str, body: bytes, *, now: float, retry_after: str | None = None
) -> Tokens:
    """The tokens of a token endpoint's answer (RFC 6749 §5.1, §5.2). ``retry_after`` is the header of that name.

    LoginFault ``code_refused`` for invalid_grant (the code, or the refresh token, is no longer good) and
    ``provider_refused`` for other errors; ProviderFault ``client_rejected`` if the provider does not accept us,
    ``provider_unavailable`` for 5xx and 429, ``provider_response_invalid`` for whatever is not to be understood.
    """
    if is_outage(status):
        raise ProviderFault(
            "provider_unavailable",
            f"the token endpoint answered with status {status}",
            retry_after=_retry_seconds(retry_after),
        )
    if 400 <= status < 500:
        raise _refusal(status, content_type, body)
    return _tokens(read_document("token endpoint", status, content_type, body), now)


def _retry_seconds(header: str | None) -> int | None:
    """Retry-After in its form as seconds (RFC 9110 §10.2.3), an hour at most; None for anything else."""
    if header is None or not re.fullmatch(r"[0-9]{1,9}", header.strip()):
        return None
    return min(int(header), _LONGEST_RETRY)


def _invalid(detail: str) -> ProviderFault:
    return ProviderFault("provider_response_invalid", f"the token endpoint's answer: {detail}")


# Keycloak answers unauthorized_client to a wrong secret.
_REFUSALS: dict[str, tuple[type[ProxyError], str]] = {
    "invalid_grant": (LoginFault, "code_refused"),
    "invalid_client": (ProviderFault, "client_rejected"),
    "unauthorized_client": (ProviderFault, "client_rejected"),
}


def _error_members(content_type: str, body: bytes) -> dict[str, Any]:
    """The members of an OAuth error (RFC 6749 §5.2), none if it is not one."""
    try:
        answer = read_json(body) if is_json(content_type) else None
    except ValueError:
        answer = None
    return answer if isinstance(answer, dict) else {}


def _refusal(status: int, content_type: str, body: bytes) -> ProxyError:
    members = _error_members(content_type, body)
    error, description = members.get("error"), members.get("error_description")
    if not isinstance(error, str):
        return _invalid(f"status {status} without an OAuth error in JSON")
    words = quotable(f"{error}: {description if isinstance(description, str) else 'no description'}")
    family, code = _REFUSALS.get(error, (LoginFault, "provider_refused"))
    return family(code, words)


def _tokens(answer: Any, now: float) -> Tokens:
    if not isinstance(answer, dict):
        raise _invalid("not a JSON object")
    kind = answer.get("token_type")
    if not isinstance(kind, str) or kind.lower() != "bearer":
        # A token of a kind that we do not know how to present must not be used (RFC 6749 §7.1).
        raise _invalid("token_type is not Bearer")
    access_token = _token(answer, "access_token")
    if access_token is None:
        raise _invalid("there is no access_token")
    life, refresh_life = _seconds(answer, "expires_in"), _seconds(answer, "refresh_expires_in")
    return Tokens(
        access_token=access_token,
        expires_at=None if life is None else now + life,
        refresh_token=_token(answer, "refresh_token"),
        refresh_expires_at=now + refresh_life if refresh_life else None,  # Keycloak: 0 is a token without an end
        id_token=_token(answer, "id_token"),
        scope=_scope(answer.get("scope")),
    )


def _token(answer: dict[str, Any], name: str) -> str | None:
    value = answer.get(name)
    if value is None or (isinstance(value, str) and _TOKEN.fullmatch(value)):
        return value
    raise _invalid(f"{name} is not a string of printable ASCII")


def _seconds(answer: dict[str, Any], name: str) -> float | None:
    value = answer.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise _invalid(f"{name} is not a number of seconds")
    return float(min(value, _LONGEST_LIFE))


def _scope(value: Any) -> str | None:
    if isinstance(value, list) and all(isinstance(word, str) for word in value):
        return " ".join(value)
    if value is None or isinstance(value, str):
        return value
    raise _invalid("scope is not a string")


def check_revocation(status: int, content_type: str, body: bytes, *, retry_after: str | None = None) -> None:
    """Return if a token has been revoked (RFC 7009 §2.2), or need not be because the provider does not know it.

    A token of a kind that the provider does not revoke (``unsupported_token_type``) is left to expire. Else the faults
    of ``read_token_response``; ``provider_unavailable`` invites to try again.
    """
    if is_outage(status):
        raise ProviderFault(
            "provider_unavailable",
            f"the revocation endpoint answered with status {status}",
            retry_after=_retry_seconds(retry_after),
        )
    error = _error_members(content_type, body).get("error")
    if status == 200 or error == "unsupported_token_type":
        return
    if not isinstance(error, str):
        raise ProviderFault("provider_response_invalid", f"the revocation endpoint answered with status {status}")
    raise _refusal(status, content_type, body)


def read_userinfo(status: int, content_type: str, body: bytes) -> dict[str, Any] | str:
    """The answer of the userinfo endpoint (Core §5.3.2): claims, or a JWT that is still to be verified.

    LoginFault ``provider_refused`` when it does not accept the access token (401, 403); ProviderFault otherwise.
    """
    if status in {401, 403}:
        raise LoginFault("provider_refused", f"userinfo answered with status {status}")
    if status == 200 and media_type(content_type) == "application/jwt":
        token = body.strip().decode("latin-1")
        if not _TOKEN.fullmatch(token):
            raise ProviderFault("provider_response_invalid", "userinfo is not a JWT")
        return token
    claims = read_document("userinfo", status, content_type, body)
    if not isinstance(claims, dict):
        raise ProviderFault("provider_response_invalid", f"userinfo is not a JSON object but {shown(type(claims))}")
    return claims
