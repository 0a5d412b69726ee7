"""Signing out: the question before it, and the end of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..messages import Reply
from ..values import Instant, Origin
from .skeleton import LONGEST_FIELD, Frame, PageSettings, address, html, html_headers, text


def signed_out_page(
    *, request_id: str, now: Instant, settings: PageSettings, sign_in_url: str | None = None, clear_site_data: str = ""
) -> Reply:
    """The end of a sign-out. It never signs in by itself: ``sign_in_url`` is a link.

    ``clear_site_data`` is the value of a Clear-Site-Data header, such as ``"cache"`` with its quotes; empty sends none.
    """
    url = address(sign_in_url)
    content = (
        "<p>You can close this page now. On a computer that others use too, close the browser as well.</p>",
        f'<p class="actions"><a class="button" href="{url}">Sign in again</a></p>' if url else "",
    )
    headers = html_headers() + ((("Clear-Site-Data", clear_site_data),) if clear_site_data else ())
    return Reply(200, headers, html("done", "You are signed out", content, Frame(request_id, now, settings)))


_REACH = {
    False: ("Sign out", "Signing out ends your sign-in here in this browser."),
    True: ("Sign out everywhere", "This ends your sign-in here in every browser that you have signed in with."),
}


def confirm_sign_out_page(
    *,
    action: str,
    request_id: str,
    now: Instant,
    settings: PageSettings,
    fields: Mapping[str, str] | None = None,
    cancel_url: str | None = "/",
    account: str | None = None,
    everywhere: bool = False,
    form_targets: Sequence[Origin] = (),
) -> Reply:
    """Asks before signing out, because a GET changes nothing: a form that posts ``fields`` to ``action``.

    ``everywhere`` says that every browser of the user is meant, and not only this one.

    ``form_targets`` are the other origins through which the answer of that POST redirects (the provider's
    ``end_session_endpoint``, the landing page after it): browsers hold ``form-action`` against redirects as well.
    """
    target, cancel = address(action), address(cancel_url)
    if target is None:
        raise ValueError("the form needs the address of an endpoint of ours")
    heading, reach = _REACH[everywhere]
    hidden = "".join(
        f'<input type="hidden" name="{text(name)}" value="{text(value, LONGEST_FIELD)}">'
        for name, value in (fields or {}).items()
    )
    content = (
        f"<p>You are signed in as <strong>{text(account)}</strong>.</p>" if account else "",
        f"<p>{reach} What has not been saved may be lost.</p>",
        f'<form class="actions" method="post" action="{target}">{hidden}<button>{heading}</button>',
        f'<a href="{cancel}">Stay signed in</a>' if cancel else "",
        "</form>",
    )
    # Under no-referrer a browser posts "Origin: null" (Fetch §3.2), which no check could tell from a stranger's form.
    headers = html_headers(forms=" ".join(["'self'", *map(str, form_targets)]), referrer="same-origin")
    return Reply(200, headers, html("leave", f"{heading}?", content, Frame(request_id, now, settings)))
