"""What all pages have in common: the frame around the content, the style, and the only way for words into a page."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from urllib.parse import quote

from pydantic import Field

from ..values import Instant, Settings, rfc3339


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
class Frame:
    """What stands around the content of every page."""

    request_id: str
    now: Instant
    settings: PageSettings


# ── words from outside ────────────────────────────────────────────────────────────────────────────────────────────────

_LONGEST_ADDRESS = 2048
LONGEST_FIELD = 4096
_ADDRESS = re.compile(r"(https?:/)?/(?![/\\])[!-~]*")
_MAIL = re.compile(r"[A-Za-z0-9._+-]+@[A-Za-z0-9.-]+")


def text(value: str, limit: int = 300) -> str:
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


def address(url: str | None) -> str | None:
    """The address escaped for an attribute; None if it is not a plain path or http(s) URL, or too long to be one."""
    if url is None or not _ADDRESS.fullmatch(url):
        return None
    escaped = escape(url)
    return escaped if len(escaped) <= _LONGEST_ADDRESS else None


def code_spans(text: str) -> str:
    """Our own words with `code` in them, as HTML."""
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", escape(text))


def whom_to_ask(frame: Frame) -> str:
    """The contact that is configured, as HTML."""
    contact = frame.settings.contact
    if contact is None:
        return "your administrator"
    if _MAIL.fullmatch(contact):
        subject = quote(f"Reference {frame.request_id[:100]}", safe="", errors="replace")
        return f'<a href="mailto:{contact}?subject={subject}">{contact}</a>'
    url = address(contact) if "://" in contact else None
    return f'<a href="{url}">{url}</a>' if url else text(contact)


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
h2{margin:1.8rem 0 .5rem;font-size:1.1rem;line-height:1.3}
p{margin:.6rem 0}
a{color:var(--accent);text-underline-offset:.15em}
.actions{display:flex;flex-wrap:wrap;align-items:center;gap:.75rem 1.25rem;margin:1.5rem 0 1.4rem}
.actions:last-child{margin-bottom:0}
.actions a,button{display:inline-block;min-height:2.75rem;padding:.6rem 0}
.actions .button,button{padding:.6rem 1.25rem;border:1px solid transparent;border-radius:9px;\
background:var(--accent);color:var(--on-accent);font:inherit;font-weight:600;line-height:1.5;text-decoration:none;cursor:pointer}
button.second{border-color:var(--accent);background:none;color:var(--accent)}
.sessions{margin:0 0 1rem;padding:0;list-style:none}
.sessions li{display:flex;flex-wrap:wrap;align-items:center;justify-content:space-between;gap:.5rem 1rem;\
padding:.75rem 0;border-top:1px solid var(--line)}
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


def security_headers(
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


def html_headers(**variation: str) -> tuple[tuple[str, str], ...]:
    return security_headers("text/html; charset=utf-8", style=_STYLE_DIRECTIVE, **variation)


def html(icon: str, heading: str, content: Iterable[str], frame: Frame, head: str = "") -> bytes:
    name, moment = text(frame.settings.title or ""), rfc3339(frame.now)[:19]
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
<div><dt>Reference</dt><dd class="id">{text(frame.request_id)}</dd></div>
<div><dt>Time</dt><dd><time datetime="{moment}Z">{moment.replace("T", " ")} UTC</time></dd></div>
</dl>
</footer>
</body>
</html>
"""
    return page.encode()
