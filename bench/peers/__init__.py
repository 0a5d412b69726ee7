"""The peers, in the order of the table. Each has a file: how it is configured, started, and signed in to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from bench.ground import PATH, Ground
from bench.process import Program


@dataclass(frozen=True, slots=True)
class Stand:
    """A peer that runs."""

    programs: Sequence[Program]
    """Those whose CPU and memory are counted."""
    origin: str
    target: str = PATH
    """What is asked for under load."""
    sign_in: str | None = PATH
    """Where a browser goes to sign in; None where nobody has to."""
    check: bool = False
    """The target only says whether the request may pass, and by whom; it does not come from the backend."""


class Peer(Protocol):
    """A way to put sign-in in front of the backend."""

    @property
    def name(self) -> str:
        """As the table has it."""

    @property
    def setup(self) -> str:
        """How it is configured, as far as that matters to the figures."""

    @property
    def check(self) -> bool:
        """Whether only its answer to "may this request pass" is measured."""

    async def start(self, ground: Ground) -> Stand:
        """Start it. Missing when it cannot be had on this machine."""


def everyone() -> Sequence[Peer]:
    from bench.peers import auth_request, mod_auth_openidc, nginx, oauth2_proxy, ours

    return (
        nginx.Plain(),
        auth_request.AuthRequest(),
        mod_auth_openidc.ModAuthOpenidc(),
        oauth2_proxy.OAuth2Proxy(),
        ours.Ours(store="memory", access_log=False),
        ours.Ours(store="redis", access_log=False),
        ours.Ours(store="redis", access_log=True),
        oauth2_proxy.OAuth2Proxy(check=True),
        ours.Ours(store="redis", access_log=False, check=True),
    )
