"""Where somebody is signed in, for that very person."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..messages import Reply
from ..values import Instant, Origin, rfc3339
from .skeleton import Frame, PageSettings, address, html, html_headers, text

MOST_OTHERS = 12
"""Other browsers that are listed one by one; the page must not be large."""


@dataclass(frozen=True, slots=True)
class OtherSession:
    """A session of the same user in another browser. ``id`` is what a form sends to end it."""

    id: str
    browser: str
    address: str
    since: Instant


@dataclass(frozen=True, slots=True)
class OwnSession:
    """The session of the browser that looks at the page. ``token_until`` is None for a token without a known end."""

    browser: str
    address: str
    since: Instant
    idle_until: Instant
    until: Instant
    token_until: Instant | None
    renewable: bool


def my_sessions_page(
    own: OwnSession,
    others: Sequence[OtherSession],
    *,
    account: str,
    session_url: str,
    sign_out_url: str,
    request_id: str,
    now: Instant,
    settings: PageSettings,
    home_url: str | None = "/",
    form_targets: Sequence[Origin] = (),
) -> Reply:
    """Who is signed in, until when, and in which other browsers, each with a button that ends it.

    The buttons of other browsers post ``end`` to ``session_url``: an id, or "others" for all of them. Those that sign
    this browser out post to ``sign_out_url``, with ``all=1`` for every browser; through the ``form_targets`` their
    answer redirects.
    """
    session, sign_out, home = address(session_url), address(sign_out_url), address(home_url)
    if session is None or sign_out is None:
        raise ValueError("the forms need the addresses of endpoints of ours")
    content = (
        f"<p>You are signed in as <strong>{text(account)}</strong>.</p>",
        "<h2>This browser</h2>",
        _own(own),
        f'<form class="actions" method="post" action="{sign_out}"><button>Sign out</button>',
        f'<a href="{home}">Back to the site</a>' if home else "",
        "</form>",
        "<h2>Other browsers</h2>",
        *_others(others, session),
        "<h2>Everywhere</h2>",
        "<p>If you do not recognise one of these, sign out everywhere and change your password.</p>",
        f'<form class="actions" method="post" action="{sign_out}"><input type="hidden" name="all" value="1">',
        "<button>Sign out everywhere</button></form>",
    )
    # Under no-referrer a browser posts "Origin: null" (Fetch §3.2), which no check could tell from a stranger's form.
    headers = html_headers(forms=" ".join(["'self'", *map(str, form_targets)]), referrer="same-origin")
    return Reply(200, headers, html("lock", "Where you are signed in", content, Frame(request_id, now, settings)))


def _own(own: OwnSession) -> str:
    rows = [
        ("Browser", text(own.browser, 80) + _place(own.address)),
        ("Signed in", _moment(own.since)),
        ("Ends if not used", _moment(own.idle_until)),
        ("Ends in any case", _moment(own.until)),
    ]
    if own.token_until is not None:
        after = ", then renewed by itself" if own.renewable else ""
        rows.append(("Access token until", _moment(own.token_until) + after))
    return "<dl>" + "".join(f"<dt>{term}</dt><dd>{value}</dd>" for term, value in rows) + "</dl>"


def _others(others: Sequence[OtherSession], session_url: str) -> list[str]:
    if not others:
        return ["<p>You are not signed in anywhere else.</p>"]
    items = [_other(other, number, session_url) for number, other in enumerate(others[:MOST_OTHERS], start=1)]
    more = len(others) - MOST_OTHERS
    return [
        '<ul class="sessions">',
        *items,
        "</ul>",
        f"<p>There are {more} more.</p>" if more > 0 else "",
        _button(session_url, "others", "Sign out all others", ""),
    ]


def _other(other: OtherSession, number: int, session_url: str) -> str:
    # The button is named by the line that it belongs to: a screen reader may list buttons without their context.
    return (
        f'<li><div id="s{number}"><strong>{text(other.browser, 80)}</strong><br>'
        f'<span class="quiet">since {_moment(other.since)}{_place(other.address)}</span></div>'
        f"{_button(session_url, other.id, 'Sign out', f's{number}')}</li>"
    )


def _button(session_url: str, end: str, label: str, described_by: str) -> str:
    description = f' aria-describedby="{described_by}"' if described_by else ""
    return (
        f'<form method="post" action="{session_url}"><input type="hidden" name="end" value="{text(end, 64)}">'
        f'<button class="second"{description}>{label}</button></form>'
    )


def _place(from_address: str) -> str:
    return f", from {text(from_address, 60)}" if from_address else ""


def _moment(instant: Instant) -> str:
    moment = rfc3339(instant)[:16]
    return f'<time datetime="{moment}Z">{moment.replace("T", " ")} UTC</time>'
