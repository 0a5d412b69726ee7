"""Sessions in the hands of an administrator: list, show, end.

No token, and nothing that opens a session, ever leaves here. No browser may get in either: neither another site's page
(which sends ``Origin`` or ``Sec-Fetch-Site``), nor one whose name has been made to mean this machine (whose ``Host`` is
that name: DNS rebinding).
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from aiohttp import web

from ...errors import ProxyError
from ...sessions import Card
from ...values import rfc3339
from ..archive import record_key
from ..sessions import Sessions
from ..telemetry import Telemetry
from .answers import answer, refusal
from .settings import AdminSettings, is_address, is_loopback

_ID = re.compile(r"[0-9a-f]{64}")


class Administration:
    """``/sessions`` and what is below it. ``issuers`` are those whose subjects are meant by ``sub``."""

    def __init__(
        self, sessions: Sessions, settings: AdminSettings, issuers: tuple[str, ...], telemetry: Telemetry
    ) -> None:
        self._sessions, self._settings, self._issuers, self._telemetry = sessions, settings, issuers, telemetry
        self._token = settings.token.reveal().encode() if settings.token else None

    async def handle(self, request: web.BaseRequest) -> web.Response:
        """Answer one request."""
        refused = self._refused(request)
        if refused is not None:
            return refused
        try:
            return await self._answer(request)
        except ProxyError as fault:
            retry = {"Retry_After": str(fault.retry_after)} if fault.retry_after else {}
            return answer(fault.status, {"error": fault.public, "code": fault.code}, **retry)

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        record_id = request.path.removeprefix("/sessions").removeprefix("/")
        subjects = request.query.getall("sub", [])
        actions: dict[str, tuple[Callable[[str], Awaitable[web.Response]], Callable[[str], Awaitable[web.Response]]]]
        actions = {"GET": (self._show, self._list), "DELETE": (self._end, self._end_all)}
        if request.method not in actions:
            return refusal(405, "use GET or DELETE", Allow="DELETE, GET")
        of_one, of_all = actions[request.method]
        if record_id:
            if not _ID.fullmatch(record_id) or request.query:
                return refusal(400, "a session is named by the 64 hexadecimal digits of its id, and nothing else")
            return await of_one(record_id)
        if len(subjects) != 1 or not subjects[0] or len(request.query) != 1:
            return refusal(400, "say whose sessions are meant: /sessions?sub=…")
        return await of_all(subjects[0])

    # ── who may ──

    def _refused(self, request: web.BaseRequest) -> web.Response | None:
        """Why this client gets no answer; None if it may ask."""
        headers = request.headers
        if "Origin" in headers or headers.get("Sec-Fetch-Site", "none") != "none":
            return refusal(403, "browsers may not administer sessions")
        if self._settings.loopback and not _names_this_machine(headers.get("Host", "")):
            return refusal(403, "the Host header names another machine; use 127.0.0.1 or localhost")
        if self._token is None:
            if self._settings.loopback:
                return None
            return refusal(403, "session administration is off: set admin.token_file, or a loopback admin.address")
        scheme, _, given = headers.get("Authorization", "").partition(" ")
        told = given.strip().encode("utf-8", "surrogateescape")
        if scheme.lower() != "bearer" or not hmac.compare_digest(told, self._token):
            return refusal(401, "say Authorization: Bearer and admin.token", WWW_Authenticate='Bearer realm="admin"')
        return None

    # ── what they may do ──

    async def _list(self, subject: str) -> web.Response:
        found = [entry for index in self._indexes(subject) for entry in await self._sessions.cards(index)]
        return answer(200, {"sessions": [_shown(card, alive) for card, alive in found]})

    async def _show(self, record_id: str) -> web.Response:
        card = await self._sessions.archive.card(record_id)
        if card is None:
            return refusal(404, "there is no session with this id")
        alive = await self._sessions.archive.store.get(record_key(record_id)) is not None
        return answer(200, _shown(card, alive))

    async def _end(self, record_id: str) -> web.Response:
        card = await self._sessions.archive.card(record_id)
        was_there = await self._sessions.end(record_id)
        if was_there:
            self._revoked([record_id], card.subject if card else None)
        elif card is None:
            return refusal(404, "there is no session with this id")
        return answer(200, {"ended": [record_id] if was_there else []})

    async def _end_all(self, subject: str) -> web.Response:
        ended = [record_id for index in self._indexes(subject) for record_id in await self._sessions.end_all(index)]
        self._revoked(ended, subject)
        return answer(200, {"ended": ended})

    def _indexes(self, subject: str) -> list[str]:
        return [self._sessions.archive.registry.of_subject(issuer, subject) for issuer in self._issuers]

    def _revoked(self, ended: list[str], subject: str | None) -> None:
        for record_id in ended:
            self._telemetry.metrics.logouts.inc("admin")
            self._telemetry.audit("admin.session_revoked", session=record_id[:16], sub=subject)


def _names_this_machine(authority: str) -> bool:
    """Whether the host of a Host header is a loopback name, or an address."""
    try:
        host = urlsplit(f"//{authority}").hostname or ""
    except ValueError:
        return False
    return is_loopback(host) or is_address(host)


def _shown(card: Card, alive: bool) -> dict[str, object]:
    return {
        "id": card.record_id,
        "user": card.user,
        "sub": card.subject,
        # The provider's own id would do for a logout token's claim; its hash does for comparing.
        "sid_hash": hashlib.sha256(card.sid.encode()).hexdigest()[:16] if card.sid is not None else None,
        "origin": card.origin,
        "created_at": rfc3339(card.created_at),
        "ends_at": rfc3339(card.ends_at),
        "alive": alive,
        "address": card.address,
        "user_agent": card.user_agent,
    }
