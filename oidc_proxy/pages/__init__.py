"""The few HTML and JSON bodies that we ever send.

One skeleton for every page: no script, nothing loaded from anywhere, at most 15 kB. What comes from outside (names,
addresses, the provider's words) goes through ``text`` or ``address`` and through nothing else.
"""

from .farewell import confirm_sign_out_page, signed_out_page
from .faults import ProviderAnswer, back_off, error_page, problem, retry_after
from .my_sessions import OtherSession, OwnSession, my_sessions_page
from .replies import empty_frame, json_reply, redirect
from .skeleton import PageSettings
from .visitors import browser_words

__all__ = [
    "OtherSession",
    "OwnSession",
    "PageSettings",
    "ProviderAnswer",
    "back_off",
    "browser_words",
    "confirm_sign_out_page",
    "empty_frame",
    "error_page",
    "json_reply",
    "my_sessions_page",
    "problem",
    "redirect",
    "retry_after",
    "signed_out_page",
]
