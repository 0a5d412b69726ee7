"""What the administration listener answers with: JSON that nobody keeps."""

from __future__ import annotations

import msgspec
from aiohttp import web


def answer(status: int, content: object, **headers: str) -> web.Response:
    """A JSON answer. Keyword ``Retry_After`` is the header ``Retry-After``."""
    fixed = {"Content-Type": "application/json", "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return web.Response(status=status, body=msgspec.json.encode(content), headers={**fixed, **given})


def refusal(status: int, error: str, **headers: str) -> web.Response:
    """What is wrong, as a sentence."""
    return answer(status, {"error": error}, **headers)
