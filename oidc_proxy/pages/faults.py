"""What went wrong, for a person and for a program."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, NamedTuple

from ..errors import InternalFault, LoginFault, ProviderFault, ProxyError, RequestFault, StoreFault, UpstreamFault
from ..messages import Reply
from ..values import Instant
from .skeleton import Frame, PageSettings, address, code_spans, html, html_headers, security_headers, text, whom_to_ask


@dataclass(frozen=True, slots=True)
class ProviderAnswer:
    """The provider's own words about why it refused (RFC 6749 §4.1.2.1): to be shown, never to be followed."""

    error: str
    description: str | None = None
    uri: str | None = None


# ── what a visitor can do about each error ────────────────────────────────────────────────────────────────────────────


class _Advice(NamedTuple):
    icon: str
    text: str
    action: str = ""
    """Which address helps: "retry" or "start"; neither against a fault that another try only repeats."""
    label: str = ""
    plea: str = "If this keeps happening"


_CHECK_ADDRESS = _Advice("warn", "Please check the address for typing errors, or go back.")
_SIGN_IN_AGAIN = _Advice("warn", "Please sign in again.", "start", "Sign in again")
_TRY_AGAIN = _Advice("wait", "You can try again in a moment.", "retry", "Try again")
_TRY_NOW = _Advice("wait", "You can also try again right now.", "retry", "Try again")  # beside the reload
_ADMINISTRATOR = _Advice("warn", "Only an administrator can correct this.", "retry", "Try again", "If it is urgent")
_CHECK_WORK = _Advice(
    "wait", "If you were saving something, check first whether it arrived, then try again.", "retry", "Try again"
)
_OTHER_ACCOUNT = _Advice(
    "lock",
    "If you have another account, you can sign in with that one.",
    "start",
    "Use another account",
    "If you should have access",
)

_ADVICE_BY_FAMILY: Mapping[type[ProxyError], _Advice] = {
    RequestFault: _Advice("warn", "Please go back and try another way."),
    LoginFault: _SIGN_IN_AGAIN,
    ProviderFault: _TRY_AGAIN,
    UpstreamFault: _TRY_AGAIN,
    StoreFault: _TRY_NOW,
    InternalFault: _TRY_AGAIN,
}

_ADVICE: Mapping[str, _Advice] = {
    "path_ambiguous": _CHECK_ADDRESS,
    "wrong_host": _CHECK_ADDRESS,
    "not_found": _CHECK_ADDRESS,
    "uri_too_long": _CHECK_ADDRESS,
    "sign_in_required": _Advice("lock", "", "start", "Sign in"),
    "access_denied": _OTHER_ACCOUNT,
    "cross_site": _Advice("lock", "Nothing was changed. Open this site itself and repeat what you wanted to do."),
    "request_timeout": _Advice("wait", "", "retry", "Try again"),
    "body_too_large": _Advice("warn", "Please go back and send less at once."),
    "headers_too_large": _Advice("warn", "Then try again.", "retry", "Try again"),
    "login_unknown": _Advice(
        "warn",
        "The back button, a bookmark or a second tab are the usual reasons. Signing in again is safe.",
        "start",
        "Sign in again",
    ),
    "login_expired": _Advice("wait", "Please sign in again.", "start", "Sign in again"),
    "login_loop": _Advice("warn", "Then sign in again.", "start", "Sign in again"),
    "access_denied_by_provider": _Advice("lock", "You can start again at any time.", "start", "Sign in again"),
    "identity_unusable": _OTHER_ACCOUNT,
    "provider_unavailable": _TRY_NOW,
    "provider_timeout": _Advice("wait", "", "retry", "Try again"),
    "provider_misconfigured": _ADMINISTRATOR,
    "client_rejected": _ADMINISTRATOR,
    "upstream_invalid_response": _CHECK_WORK,
    "upstream_timeout": _CHECK_WORK,
    "upstream_saturated": _Advice("wait", "This page also tries again by itself.", "retry", "Try again"),
}


def _advice(error: ProxyError) -> _Advice:
    return _ADVICE.get(error.code) or next(
        advice for family, advice in _ADVICE_BY_FAMILY.items() if isinstance(error, family)
    )


# ── for a person ──


def error_page(
    error: ProxyError,
    *,
    request_id: str,
    now: Instant,
    settings: PageSettings,
    retry_url: str | None = None,
    reload_url: str | None = None,
    start_url: str | None = None,
    answer: ProviderAnswer | None = None,
    account: str | None = None,
) -> Reply:
    """What a person sees when something went wrong: what happened, what they can do, and the reference to give.

    ``retry_url`` repeats what failed; ``start_url`` starts a sign-in (for ``access_denied`` and ``identity_unusable``
    one with another account). Both are paths or http(s) URLs of ours; the one that helps against this error is offered.
    A 503 tries again by itself, at ``reload_url``, else at ``retry_url``, else at the address that was asked.
    ``answer`` is shown for ``provider_refused`` only, ``account`` (who is signed in) where another account helps.
    """
    advice, retry, frame = _advice(error), address(retry_url), Frame(request_id, now, settings)
    url = {"retry": retry, "start": address(start_url), "": None}[advice.action]
    content = (
        f"<p>{text(error.public)}</p>",
        _answer(answer) if answer is not None and error.code == "provider_refused" else "",
        f"<p>Your account here is <strong>{text(account)}</strong>.</p>"
        if account and advice is _OTHER_ACCOUNT
        else "",
        f"<p>{advice.text}</p>" if advice.text else "",
        f'<p class="actions"><a class="button" href="{url}">{advice.label}</a></p>' if url else "",
        f'<p class="quiet">{advice.plea}, contact {whom_to_ask(frame)} and give the reference below.</p>',
        _for_administrators(error, settings),
    )
    head = ""
    if error.status == HTTPStatus.SERVICE_UNAVAILABLE:
        again = address(reload_url) or retry
        head = f'<meta http-equiv="refresh" content="{retry_after(error)}{f"; url={again}" if again else ""}">\n'
    return Reply(
        error.status,
        (*html_headers(), *status_headers(error)),
        html(advice.icon, text(error.title), content, frame, head),
    )


def _answer(answer: ProviderAnswer) -> str:
    # The address stays text: it is the provider's, or whoever could speak for it.
    uri = answer.uri if answer.uri and address(answer.uri) and answer.uri.startswith("https://") else ""
    lines = [text(answer.description or "", 600), f"<code>{text(answer.error, 150)}</code>", text(uri)]
    return (
        "<p>The sign-in service answered:</p>\n<blockquote>"
        + "".join(f'<p dir="auto">{line}</p>' for line in lines if line)
        + "</blockquote>"
    )


def _for_administrators(error: ProxyError, settings: PageSettings) -> str:
    rows = [
        ("Error code", f"<code>{error.code}</code>"),
        ("HTTP status", str(error.status)),
        ("Hint", code_spans(error.remedy)),
    ]
    if settings.error_details and error.detail:
        rows.append(("Detail", text(error.detail, 2000)))
    body = "".join(f"<dt>{term}</dt><dd>{value}</dd>" for term, value in rows)
    return f"<details><summary>For administrators</summary><dl>{body}</dl></details>"


# ── for a program ──


def problem(error: ProxyError, *, request_id: str, login_url: str | None = None) -> Reply:
    """The same error for a program: application/problem+json (RFC 9457) with the members ``code`` and ``request_id``.

    ``login_url`` is where a person could sign in; it is for the 401s, and left out elsewhere.
    """
    members: dict[str, Any] = {
        "title": HTTPStatus(error.status).phrase,  # of "about:blank", the type that is left out (RFC 9457 §4.2.1)
        "status": error.status,
        "detail": error.public,
        "code": error.code,
        "request_id": request_id,
    }
    if login_url is not None and error.status == HTTPStatus.UNAUTHORIZED:
        members["login_url"] = login_url
    headers = (*security_headers("application/problem+json"), *status_headers(error))
    return Reply(error.status, headers, json.dumps(members).encode())


_DEFAULT_RETRY_AFTER = 5  # seconds


def retry_after(error: ProxyError) -> int:
    return _DEFAULT_RETRY_AFTER if error.retry_after is None else max(1, error.retry_after)


_LONGEST_WAIT = 60  # seconds


def back_off(tries: int, chance: float) -> int:
    """Seconds until a page tries again that has tried so often: longer each time, and not for all pages the same.

    ``chance`` is from 0 to 1. Pages that were all refused at once come back one by one.
    """
    wait = min(_DEFAULT_RETRY_AFTER << min(tries, 9), _LONGEST_WAIT // 2)
    return wait + round(wait * chance)


def status_headers(error: ProxyError) -> Iterable[tuple[str, str]]:
    if error.status == HTTPStatus.UNAUTHORIZED:
        yield (
            "WWW-Authenticate",
            "Bearer",
        )  # a 401 must have one (RFC 9110 §15.5.2); no error without a token (RFC 6750 §3.1)
    if error.status == HTTPStatus.SERVICE_UNAVAILABLE or error.retry_after is not None:
        yield "Retry-After", str(retry_after(error))
