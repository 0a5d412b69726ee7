"""What the door for other proxies needs to know: who may ask, where, and what an answer says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

from ..errors import RequestFault
from ..forward_auth import (
    Announcement,
    Answer,
    Demands,
    Dialect,
    Envoy,
    EnvoyGrpc,
    ForwardAuthSettings,
    allowed,
)
from ..messages import Origins, OwnCookies, RequestHead, is_trusted
from ..policy import Route
from ..values import Origin
from ..websocket import check_origin
from .archive import SignedIn


class Checks:
    """The questions of other proxies, whether a request may pass."""

    def __init__(
        self,
        settings: ForwardAuthSettings,
        dialects: Sequence[Dialect],
        announcement: Announcement,
        public: Sequence[Origin],
        grpc: EnvoyGrpc,
        cookies: OwnCookies,
    ) -> None:
        self.grpc, self._cookies = grpc, cookies
        self.trusted = settings.trusted_proxies
        self._dialects = {dialect.path: dialect for dialect in dialects}
        self._envoy = next((dialect for dialect in dialects if isinstance(dialect, Envoy)), None)
        self._below = self._envoy.path if self._envoy else ""
        self._nobody, self._origins = announcement.nobody, Origins(public)
        self._believed = lru_cache(256)(lambda peer: is_trusted(peer, self.trusted))
        self.find_on_public: Callable[[str], Dialect | None] = (
            self.find if settings.address is None else self._elsewhere
        )
        """The same on the public listener. RequestFault("not_found") where it is answered on another one."""

    def find(self, path: str) -> Dialect | None:
        """How whoever calls this address asks; None if it is no address for that."""
        dialect = self._dialects.get(path)
        return self._envoy if dialect is None and self._envoy and path.startswith(self._below) else dialect

    def _elsewhere(self, path: str) -> None:
        if self.find(path) is not None:
            raise RequestFault("not_found", "other proxies ask on forward_auth.address, and nowhere else")

    def read(self, peer: str, asked: RequestHead, dialect: Dialect) -> tuple[RequestHead, Demands]:
        """The request that is asked about, and what the proxy demands beside our routes."""
        self.admit(peer)
        head = dialect.read(asked, self._origins)
        return head, dialect.demands(asked, head)

    def admit(self, peer: str) -> None:
        """RequestFault("proxy_untrusted") for whoever may not ask."""
        if not self._believed(peer):
            raise RequestFault("proxy_untrusted", f"{peer or 'who asks'} is not in forward_auth.trusted_proxies")

    def nobody(self, dialect: Dialect, head: RequestHead) -> bytes:
        """The header lines that let a request pass, and say that it is nobody's."""
        return self._nobody + dialect.more(head, None)

    def over_grpc(self, lines: bytes, head: RequestHead, *, ours: bool) -> Answer:
        """The same lines for Envoy. What is ``ours`` comes to us next, with its cookies."""
        return allowed(lines, head, None if ours else self._cookies)

    def asked_for(self, head: RequestHead) -> str | None:
        """Where a visitor was going whom nginx, as it was set up for oauth2-proxy, shows the sign-in page instead."""
        return head.headers.get("X-Auth-Request-Redirect") if self._believed(head.peer) else None

    def answer(self, dialect: Dialect, head: RequestHead, route: Route, signed_in: SignedIn | None) -> bytes:
        """The header lines of the answer that lets a request pass.

        RequestFault("cross_site") for a WebSocket of a page that may not open it.
        """
        if "Sec-WebSocket-Key" in head.headers:
            check_origin(head, route.settings.websocket, signed_in=signed_in is not None)
        if signed_in is None:
            return self.nobody(dialect, head)
        return signed_in.announced + dialect.more(head, signed_in.plan)
