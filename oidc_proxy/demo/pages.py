"""The HTML of the demo's provider and backend: plain, accessible, dark where the reader prefers it, without scripts."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping
from html import escape

from oidc_proxy.demo.directory import User
from oidc_proxy.demo.listener import Answer, Pairs

STYLE = """
:root { color-scheme: light dark; font: 100%/1.5 system-ui, sans-serif; --page: #f3f5f8; --card: #ffffff;
  --text: #1b2430; --quiet: #55606f; --line: #d6dce4; --field: #7c8796; --accent: #1c5bb8; --on-accent: #ffffff;
  --fault: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --page: #12161b; --card: #1b2027; --text: #e7ebf0; --quiet: #a4aebb;
  --line: #38414d; --field: #7f8b9b; --accent: #8cb8fb; --on-accent: #0b1a2f; --fault: #ff8a80; } }
* { box-sizing: border-box; }
body { max-width: 50rem; margin: 0 auto; padding: 1.5rem 1rem; background: var(--page); color: var(--text);
  overflow-wrap: anywhere; }
main { padding: 1.5rem 2rem 2rem; background: var(--card); border: 1px solid var(--line); border-radius: 14px; }
h1 { margin: .5rem 0; font-size: 1.5rem; line-height: 1.25; }
a { color: var(--accent); text-underline-offset: .15em; }
nav ul { display: flex; flex-wrap: wrap; gap: .25rem 1.5rem; margin: 1rem 0; padding: 0; list-style: none; }
nav a { display: inline-block; padding: .4rem 0; }
label, input { display: block; width: 100%; max-width: 22rem; }
label { margin: 1rem 0 .25rem; font-weight: 600; }
input { padding: .5rem .75rem; border: 1px solid var(--field); border-radius: 9px; background: var(--page);
  color: inherit; font: inherit; }
button { margin: 1.25rem 0 .5rem; padding: .6rem 1.5rem; border: 1px solid transparent; border-radius: 9px;
  background: var(--accent); color: var(--on-accent); font: inherit; font-weight: 600; cursor: pointer; }
button:hover { text-decoration: underline; }
:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
table { border-collapse: collapse; width: 100%; }
caption { text-align: left; font-weight: 600; margin: 1.5rem 0 .25rem; }
th, td { text-align: left; vertical-align: top; padding: .35rem .75rem .35rem 0; border-bottom: 1px solid var(--line); }
thead th { color: var(--quiet); font-size: .9rem; font-weight: 400; }
tbody th { font-weight: 600; }
tr:last-child > * { border-bottom: 0; }
.fault { border-left: .3rem solid var(--fault); padding-left: .75rem; }
@media (min-width: 40rem) { th { white-space: nowrap; padding-right: 1.5rem; } td { width: 100%; }
  .even td { width: auto; } }
@media (max-width: 30rem) { main { padding: 1rem 1.2rem; } }
@media (forced-colors: active) { button { border-color: ButtonText; } }
""".strip()
_STYLE_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()


def page(title: str, content: str, *, status: int = 200, headers: Iterable[tuple[str, str]] = ()) -> Answer:
    """A whole document. `content` is HTML already; `title` is text."""
    html = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"<h1>{escape(title)}</h1>\n{content}\n</main>\n</body>\n</html>\n"
    )
    fixed = (
        ("Content-Type", "text/html; charset=utf-8"),
        ("Cache-Control", "no-store"),
        ("Content-Security-Policy", f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; frame-ancestors 'none'"),
        ("Referrer-Policy", "no-referrer"),
        ("X-Content-Type-Options", "nosniff"),
    )
    return Answer(status=status, headers=(*fixed, *headers), body=html.encode("utf-8", "replace"))


def sign_in_page(
    action: str, *, client_id: str, username: str = "", fault: str = "", users: Iterable[User] = (), status: int = 200
) -> Answer:
    """The sign-in form; `fault` says why the last attempt failed, `users` are offered with their passwords."""
    alert = f'<p class="fault" role="alert" id="fault">{escape(fault)}</p>\n' if fault else ""
    described = ' aria-describedby="fault" aria-invalid="true"' if fault else ""
    form = (
        f"<p>To continue to <strong>{escape(client_id)}</strong>.</p>\n{alert}"
        f'<form id="sign-in" method="post" action="{escape(action)}">\n'
        '<label for="username">Username</label>\n'
        f'<input id="username" name="username" value="{escape(username)}" autocomplete="username" required'
        f' autocapitalize="none" spellcheck="false"{"" if username else " autofocus"}{described}>\n'
        '<label for="password">Password</label>\n'
        '<input id="password" name="password" type="password" autocomplete="current-password" required'
        f"{' autofocus' if username else ''}{described}>\n"
        '<button type="submit">Sign in</button>\n</form>\n'
    )
    return page("Sign in to the demo provider", form + _offer(users), status=status)


def _offer(users: Iterable[User]) -> str:
    rows = [(user.username, user.password, ", ".join(user.groups) or "none") for user in users]
    return table("People to sign in as", ("Username", "Password", "Groups"), rows, kind="even") if rows else ""


def table(caption: str, columns: Iterable[str], rows: Iterable[Iterable[str]], *, kind: str = "") -> str:
    """A table of texts; the first cell of each row is its header. `kind` is a class of the style sheet."""
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
    lines = []
    for first, *rest in rows:
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in rest)
        lines.append(f'<tr><th scope="row">{escape(first)}</th>{cells}</tr>')
    body = "\n".join(lines)
    top = f"<caption>{escape(caption)}</caption>\n<thead><tr>{head}</tr></thead>"
    return f"<table{f' class={kind}' if kind else ''}>\n{top}\n<tbody>\n{body}\n</tbody>\n</table>"


def fault_page(title: str, text: str, *, status: int = 400) -> Answer:
    return page(title, f'<p class="fault" role="alert">{escape(text)}</p>', status=status)


def confirm_sign_out_page(action: str, fields: Mapping[str, str]) -> Answer:
    """Asks before a sign-out that nobody has proved to want."""
    hidden = "".join(
        f'<input type="hidden" name="{escape(name)}" value="{escape(value)}">\n' for name, value in fields.items()
    )
    button = '<button type="submit">Sign out</button>'
    form = f'<form id="sign-out" method="post" action="{escape(action)}">\n{hidden}{button}\n</form>'
    return page("Sign out of the demo provider?", form)


def signed_out_page(headers: Iterable[tuple[str, str]]) -> Answer:
    return page("You are signed out", "<p>Your session at the demo provider has ended.</p>", headers=headers)


def backend_page(user: str, headers: Pairs, target: str) -> Answer:
    """What the backend shows: who it thinks is there, and the headers it got, with tokens only measured."""
    who = f"The proxy says that you are <strong>{escape(user)}</strong>." if user else "The proxy names nobody."
    links = "".join(
        f'<li><a href="{path}">{escape(text)}</a></li>\n'
        for path, text in (
            ("/", "This page"),
            ("/public/", "Public page"),
            ("/admin/", "Administration"),
            ("/oauth2/sign_out", "Sign out"),
        )
    )
    content = (
        f'<p id="user">{who}</p>\n<p>You asked for <code>{escape(target)}</code>.</p>\n'
        f'<nav aria-label="Pages">\n<ul>\n{links}</ul>\n</nav>\n'
        f"{_headers('Headers that say who you are', headers, about_user=True)}\n"
        f"{_headers('The other headers that the backend received', headers, about_user=False)}"
    )
    return page("Demo backend", content)


_ABOUT_USER = frozenset({
    "authorization", "x-forwarded-user", "x-forwarded-email", "x-forwarded-preferred-username", "x-forwarded-groups",
})  # fmt: skip


def _headers(caption: str, headers: Pairs, *, about_user: bool) -> str:
    chosen = [(name, value) for name, value in headers if (name.lower() in _ABOUT_USER) is about_user]
    rows = [(name, _measured(value) if name.lower() == "authorization" else value) for name, value in chosen]
    return table(caption, ("Header", "Value"), rows) if rows else ""


def _measured(value: str) -> str:
    scheme, _, credentials = value.partition(" ")
    return f"{scheme} …({len(credentials)} characters)"
