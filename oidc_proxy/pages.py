"""The few HTML and JSON bodies that we ever send.

One skeleton for every page: no script, one form in all, nothing loaded from anywhere, at most 15 kB. What comes from
outside (names, addresses, the provider's words) goes through ``_text`` or ``_address`` and through nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from http import HTTPStatus
from typing import Any, NamedTuple
from urllib.parse import quote

from pydantic import Field

from .errors import InternalFault, LoginFault, ProviderFault, ProxyError, RequestFault, StoreFault, UpstreamFault
from .messages import Cookie, Reply
from .values import Instant, Origin, Settings, rfc3339


class PageSettings(Settings):
    """What the gateway's own pages say."""

    title: str | None = Field(
        None,
        description="Name of the site, shown at the top of the gateway's own pages.",
        examples=["Example intranet"],
        min_length=1,
        max_length=80,
    )
    contact: str | None = Field(
        None,
        description="Who helps when an error stays; an e-mail or web address becomes a link, other text stays text.",
        examples=["help@example.com", "https://status.example.com", "the help desk, extension 4711"],
        min_length=1,
        max_length=200,
    )
    error_details: bool = Field(
        False,
        description="Whether error pages show the details that otherwise only the log has; for test installations.",
    )


@dataclass(frozen=True, slots=True)
class ProviderAnswer:
    """The provider's own words about why it refused (RFC 6749 §4.1.2.1): to be shown, never to be followed."""

    error: str
    description: str | None = None
    uri: str | None = None


@dataclass(frozen=True, slots=True)
class _Frame:
    """What stands around the content of every page."""

    request_id: str
    now: Instant
    settings: PageSettings


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


# ── words from outside ────────────────────────────────────────────────────────────────────────────────────────────────

_LONGEST_ADDRESS = 2048
_LONGEST_FIELD = 4096
_ADDRESS = re.compile(r"(https?:/)?/(?![/\\])[!-~]*")
_MAIL = re.compile(r"[A-Za-z0-9._+-]+@[A-Za-z0-9.-]+")


def _text(value: str, limit: int = 300) -> str:
    """Escaped for elements and quoted attributes, on one line, in at most ``limit`` bytes (then "…").

    What does not print becomes U+FFFD: controls, lone surrogates, and the marks that turn the direction of text, with
    which a stranger's words could look like ours.
    """
    pieces: list[str] = []
    for character in value:
        piece = escape(character) if character.isprintable() else " " if character.isspace() else "\ufffd"
        limit -= len(piece.encode())
        if limit < 0:
            return "".join(pieces) + "…"
        pieces.append(piece)
    return "".join(pieces)


def _address(url: str | None) -> str | None:
    """The address escaped for an attribute; None if it is not a plain path or http(s) URL, or too long to be one."""
    if url is None or not _ADDRESS.fullmatch(url):
        return None
    escaped = escape(url)
    return escaped if len(escaped) <= _LONGEST_ADDRESS else None


def _code_spans(text: str) -> str:
    """Our own words with `code` in them, as HTML."""
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", escape(text))


def _contact(frame: _Frame) -> str:
    contact = frame.settings.contact
    if contact is None:
        return "your administrator"
    if _MAIL.fullmatch(contact):
        subject = quote(f"Reference {frame.request_id[:100]}", safe="", errors="replace")
        return f'<a href="mailto:{contact}?subject={subject}">{contact}</a>'
    address = _address(contact) if "://" in contact else None
    return f'<a href="{address}">{address}</a>' if address else _text(contact)


# ── the skeleton ──────────────────────────────────────────────────────────────────────────────────────────────────────

_STYLE = """
:root{color-scheme:light dark;--page:#f3f5f8;--card:#ffffff;--text:#1b2430;--quiet:#55606f;--line:#d6dce4;\
--accent:#1c5bb8;--on-accent:#ffffff;--tint:#e8f0fb}
@media (prefers-color-scheme:dark){:root{--page:#12161b;--card:#1b2027;--text:#e7ebf0;--quiet:#a4aebb;--line:#38414d;\
--accent:#8cb8fb;--on-accent:#0b1a2f;--tint:#22314a}}
*{box-sizing:border-box}
body{margin:0;min-height:100vh;padding:1.5rem 1rem;display:flex;flex-direction:column;align-items:center;\
justify-content:center;gap:1.25rem;background:var(--page);color:var(--text);overflow-wrap:anywhere;\
font:1rem/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans","Liberation Sans",sans-serif}
header,main,footer{width:100%;max-width:34rem}
header{padding:0 .25rem;font-weight:600}
main{padding:2rem;background:var(--card);border:1px solid var(--line);border-radius:14px}
svg{display:block;width:3rem;height:3rem;padding:.7rem;border-radius:50%;background:var(--tint);color:var(--accent);\
fill:none;stroke:currentColor;stroke-width:2;stroke-linecap:round;stroke-linejoin:round}
h1{margin:1.1rem 0 .6rem;font-size:1.5rem;line-height:1.25;font-weight:650;text-wrap:balance}
p{margin:.6rem 0}
a{color:var(--accent);text-underline-offset:.15em}
.actions{display:flex;flex-wrap:wrap;align-items:center;gap:.75rem 1.25rem;margin:1.5rem 0 1.4rem}
.actions:last-child{margin-bottom:0}
.actions a,button{display:inline-block;min-height:2.75rem;padding:.6rem 0}
.actions .button,button{padding:.6rem 1.25rem;border:1px solid transparent;border-radius:9px;\
background:var(--accent);color:var(--on-accent);font:inherit;font-weight:600;line-height:1.5;text-decoration:none;cursor:pointer}
.button:hover,button:hover{text-decoration:underline}
:focus-visible{outline:3px solid var(--accent);outline-offset:3px}
.quiet,footer,dt{color:var(--quiet);font-size:.9rem}
blockquote{margin:1rem 0;padding:.7rem 1rem;border-left:3px solid var(--line)}
blockquote p{margin:0}
code,.id{font-family:ui-monospace,"SF Mono",Menlo,Consolas,"Liberation Mono",monospace;font-size:.9em}
.id{user-select:all}
details{margin-top:1.4rem;border-top:1px solid var(--line);padding-top:.6rem}
summary{padding:.35rem 0;color:var(--quiet);font-size:.9rem;cursor:pointer}
dl{margin:.4rem 0 0}
dt{margin-top:.5rem}
dd{margin:0}
footer{padding:0 .25rem}
footer dl{display:flex;flex-wrap:wrap;gap:.15rem 1.75rem;margin:0}
footer div{display:flex;flex-wrap:wrap;align-items:baseline;gap:0 .5rem}
footer dt{margin:0}
@media (max-width:30rem){main{padding:1.35rem 1.2rem}body{justify-content:flex-start}}
@media (forced-colors:active){.actions .button,button{border-color:ButtonText}}
"""

_STYLE_DIRECTIVE = f"style-src 'sha256-{base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()}'; "

_CIRCLE = "M12 3a9 9 0 1 0 0 18a9 9 0 0 0 0-18"
_ICONS = {
    "warn": f"{_CIRCLE}m0 4.5v5.5m0 3.5v.01",
    "wait": f"{_CIRCLE}m0 4.5v4.5l3 2",
    "lock": "M7 11h10a2 2 0 0 1 2 2v5a2 2 0 0 1-2 2H7a2 2 0 0 1-2-2v-5a2 2 0 0 1 2-2m1 0V8a4 4 0 0 1 8 0v3",
    "done": f"{_CIRCLE}m-4 9.5l2.7 2.7l5.5-5.7",
    "leave": "M10 4H6a2 2 0 0 0-2 2v12a2 2 0 0 0 2 2h4m0-8h10m-4-4l4 4l-4 4",
}


def _security_headers(
    content_type: str, *, style: str = "", forms: str = "'self'", referrer: str = "no-referrer"
) -> tuple[tuple[str, str], ...]:
    policy = f"default-src 'none'; {style}base-uri 'none'; form-action {forms}; frame-ancestors 'none'"
    return (
        ("Content-Type", content_type),
        ("Content-Security-Policy", policy),
        ("Referrer-Policy", referrer),
        ("X-Content-Type-Options", "nosniff"),
        ("X-Frame-Options", "DENY"),
        ("Cache-Control", "no-store"),
    )


def _html_headers(**variation: str) -> tuple[tuple[str, str], ...]:
    return _security_headers("text/html; charset=utf-8", style=_STYLE_DIRECTIVE, **variation)


def _html(icon: str, heading: str, content: Iterable[str], frame: _Frame, head: str = "") -> bytes:
    name, moment = _text(frame.settings.title or ""), rfc3339(frame.now)[:19]
    page = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex">
{head}<title>{heading}{name and f" – {name}"}</title>
<style>{_STYLE}</style>
</head>
<body>
{name and f"<header>{name}</header>"}
<main>
<svg viewBox="0 0 24 24" aria-hidden="true"><path d="{_ICONS[icon]}"/></svg>
<h1>{heading}</h1>
{chr(10).join(filter(None, content))}
</main>
<footer>
<dl>
<div><dt>Reference</dt><dd class="id">{_text(frame.request_id)}</dd></div>
<div><dt>Time</dt><dd><time datetime="{moment}Z">{moment.replace("T", " ")} UTC</time></dd></div>
</dl>
</footer>
</body>
</html>
"""
    return page.encode()


# ── pages ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def error_page(
    error: ProxyError,
    *,
    request_id: str,
    now: Instant,
    settings: PageSettings,
    retry_url: str | None = None,
    start_url: str | None = None,
    answer: ProviderAnswer | None = None,
    account: str | None = None,
) -> Reply:
    """What a person sees when something went wrong: what happened, what they can do, and the reference to give.

    ``retry_url`` repeats what failed; ``start_url`` starts a sign-in (for ``access_denied`` and ``identity_unusable``
    one with another account). Both are paths or http(s) URLs of ours; the one that helps against this error is offered.
    A 503 tries again by itself, at ``retry_url`` or else at the address that was asked. ``answer`` is shown for
    ``provider_refused`` only, ``account`` (who is signed in) where another account helps.
    """
    advice, retry, frame = _advice(error), _address(retry_url), _Frame(request_id, now, settings)
    url = {"retry": retry, "start": _address(start_url), "": None}[advice.action]
    content = (
        f"<p>{_text(error.public)}</p>",
        _answer(answer) if answer is not None and error.code == "provider_refused" else "",
        f"<p>Your account here is <strong>{_text(account)}</strong>.</p>"
        if account and advice is _OTHER_ACCOUNT
        else "",
        f"<p>{advice.text}</p>" if advice.text else "",
        f'<p class="actions"><a class="button" href="{url}">{advice.label}</a></p>' if url else "",
        f'<p class="quiet">{advice.plea}, contact {_contact(frame)} and give the reference below.</p>',
        _for_administrators(error, settings),
    )
    head = ""
    if error.status == HTTPStatus.SERVICE_UNAVAILABLE:
        head = f'<meta http-equiv="refresh" content="{_retry_after(error)}{f"; url={retry}" if retry else ""}">\n'
    return Reply(
        error.status,
        (*_html_headers(), *_status_headers(error)),
        _html(advice.icon, _text(error.title), content, frame, head),
    )


def _answer(answer: ProviderAnswer) -> str:
    # The address stays text: it is the provider's, or whoever could speak for it.
    uri = answer.uri if answer.uri and _address(answer.uri) and answer.uri.startswith("https://") else ""
    lines = [_text(answer.description or "", 600), f"<code>{_text(answer.error, 150)}</code>", _text(uri)]
    return (
        "<p>The sign-in service answered:</p>\n<blockquote>"
        + "".join(f'<p dir="auto">{line}</p>' for line in lines if line)
        + "</blockquote>"
    )


def _for_administrators(error: ProxyError, settings: PageSettings) -> str:
    rows = [
        ("Error code", f"<code>{error.code}</code>"),
        ("HTTP status", str(error.status)),
        ("Hint", _code_spans(error.remedy)),
    ]
    if settings.error_details and error.detail:
        rows.append(("Detail", _text(error.detail, 2000)))
    body = "".join(f"<dt>{term}</dt><dd>{value}</dd>" for term, value in rows)
    return f"<details><summary>For administrators</summary><dl>{body}</dl></details>"


def signed_out_page(
    *, request_id: str, now: Instant, settings: PageSettings, sign_in_url: str | None = None, clear_site_data: str = ""
) -> Reply:
    """The end of a sign-out. It never signs in by itself: ``sign_in_url`` is a link.

    ``clear_site_data`` is the value of a Clear-Site-Data header, such as ``"cache"`` with its quotes; empty sends none.
    """
    url = _address(sign_in_url)
    content = (
        "<p>You can close this page now. On a computer that others use too, close the browser as well.</p>",
        f'<p class="actions"><a class="button" href="{url}">Sign in again</a></p>' if url else "",
    )
    headers = _html_headers() + ((("Clear-Site-Data", clear_site_data),) if clear_site_data else ())
    return Reply(200, headers, _html("done", "You are signed out", content, _Frame(request_id, now, settings)))


def confirm_sign_out_page(
    *,
    action: str,
    request_id: str,
    now: Instant,
    settings: PageSettings,
    fields: Mapping[str, str] | None = None,
    cancel_url: str | None = "/",
    account: str | None = None,
    form_targets: Sequence[Origin] = (),
) -> Reply:
    """Asks before signing out, because a GET changes nothing: a form that posts ``fields`` to ``action``.

    ``form_targets`` are the other origins through which the answer of that POST redirects (the provider's
    ``end_session_endpoint``, the landing page after it): browsers hold ``form-action`` against redirects as well.
    """
    target, cancel = _address(action), _address(cancel_url)
    if target is None:
        raise ValueError("the form needs the address of an endpoint of ours")
    hidden = "".join(
        f'<input type="hidden" name="{_text(name)}" value="{_text(value, _LONGEST_FIELD)}">'
        for name, value in (fields or {}).items()
    )
    content = (
        f"<p>You are signed in as <strong>{_text(account)}</strong>.</p>" if account else "",
        "<p>Signing out ends your sign-in here in this browser. What has not been saved may be lost.</p>",
        f'<form class="actions" method="post" action="{target}">{hidden}<button>Sign out</button>',
        f'<a href="{cancel}">Stay signed in</a>' if cancel else "",
        "</form>",
    )
    # Under no-referrer a browser posts "Origin: null" (Fetch §3.2), which no check could tell from a stranger's form.
    headers = _html_headers(forms=" ".join(["'self'", *map(str, form_targets)]), referrer="same-origin")
    return Reply(200, headers, _html("leave", "Sign out?", content, _Frame(request_id, now, settings)))


# ── answers for programs ──────────────────────────────────────────────────────────────────────────────────────────────


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
    headers = (*_security_headers("application/problem+json"), *_status_headers(error))
    return Reply(error.status, headers, json.dumps(members).encode())


def userinfo_reply(claims: Mapping[str, Any]) -> Reply:
    """Who is signed in, as JSON. The caller chooses the claims; no token is ever one of them."""
    return Reply(200, _security_headers("application/json"), json.dumps(claims).encode())


_REDIRECTS = frozenset({302, 303, 307, 308})
_LOCATION = re.compile(r"[!-~]+")


def redirect(status: int, location: str, cookies: Iterable[Cookie] = ()) -> Reply:
    """A redirect that nobody stores and that tells the next site nothing about this one.

    Raises ValueError for a status that is no redirect, and for a location that is not one word of printable ASCII.
    """
    if status not in _REDIRECTS or not _LOCATION.fullmatch(location):
        raise ValueError("not a redirect that can be sent")
    headers = (("Location", location), ("Cache-Control", "no-store"), ("Referrer-Policy", "no-referrer"))
    return Reply(status, headers).with_cookies(cookies)


_DEFAULT_RETRY_AFTER = 5  # seconds


def _retry_after(error: ProxyError) -> int:
    return _DEFAULT_RETRY_AFTER if error.retry_after is None else max(1, error.retry_after)


def _status_headers(error: ProxyError) -> Iterable[tuple[str, str]]:
    if error.status == HTTPStatus.UNAUTHORIZED:
        yield (
            "WWW-Authenticate",
            "Bearer",
        )  # a 401 must have one (RFC 9110 §15.5.2); no error without a token (RFC 6750 §3.1)
    if error.status == HTTPStatus.SERVICE_UNAVAILABLE or error.retry_after is not None:
        yield "Retry-After", str(_retry_after(error))
