"""Where administration listens, and who may administer."""

from __future__ import annotations

import ipaddress
from pathlib import Path

from pydantic import Field

from ...values import Secret, Settings


class AdminSettings(Settings):
    """Health, metrics and session administration, for whoever runs the gateway."""

    address: str | None = Field(
        "127.0.0.1:9180",
        pattern=r"^(\[[0-9A-Fa-f:.]+\]|[^:\s]+):\d{1,5}$",
        description="Address and port of /livez, /readyz, /metrics and /sessions; null for none. Not for the public.",
        examples=["0.0.0.0:9180"],
    )
    token: Secret | None = Field(
        None,
        description="What `Authorization: Bearer …` must say to list and end sessions. Without it, /sessions answers "
        "only where `address` is a loopback address.",
    )
    token_file: Path | None = Field(None, description="File that holds `token`.")
    require_store: bool = Field(
        True,
        description="Whether /readyz is 503 while the session store cannot be reached. With several replicas behind a "
        "load balancer, write false: the store is the same for all, so all of them would be taken out of service at "
        "once, although they still serve the sessions in their memory for `store.outage_grace`.",
    )

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the listener."""
        return self.address is not None and is_loopback(self.address.rpartition(":")[0].strip("[]"))


def is_loopback(host: str) -> bool:
    """Whether a name or IP literal can only mean this machine (RFC 6761 §6.3)."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        name = host.lower().removesuffix(".")
        return name == "localhost" or name.endswith(".localhost")


def is_address(host: str) -> bool:
    """Whether this is an IP literal, which no name server can be made to answer for."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
