"""The way that a request has come: believed only as far as trusted hops vouch for it."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from oidc_proxy.messages.request import RequestHead

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network


def client_address(peer: str, forwarded_for: Iterable[str], trusted: Sequence[Network]) -> str:
    """The right-most address of the chain that is no trusted hop; the peer itself if it is not trusted or lies.

    ``forwarded_for`` are the values of all X-Forwarded-For lines, in order. A malformed entry ends the walk.
    """
    if not trusted:
        return peer
    client = peer
    for entry in reversed([part.strip(" \t") for line in forwarded_for for part in line.split(",")]):
        address = _address(entry) if is_trusted(client, trusted) else None
        if address is None:
            return client
        client = str(address)
    return client


_CHARACTERS = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_FORWARDED_PAIR = re.compile(
    rf"[ \t]*(?P<name>{_CHARACTERS})="
    rf'(?:(?P<token>{_CHARACTERS})|"(?P<quoted>(?:[^"\\]|\\.)*)")'
    rf"[ \t]*(?P<end>[;,]|\Z)"
)
_NODE = re.compile(r"(?P<address>\[[0-9A-Fa-f:.]+\]|[0-9.]+)(?::(?:\d{1,5}|_[A-Za-z0-9._-]+))?", re.ASCII)


def forwarded_for(lines: Iterable[str]) -> list[str]:
    """The addresses of the ``for`` parameters of Forwarded headers, in order (RFC 7239 §4).

    What names no address (``unknown``, an obfuscated node, an element without ``for``) becomes "", which ends the walk
    of ``client_address``. So does a malformed line, of which not even the last element can be told.
    """
    found: list[str] = []
    for line in lines:
        elements = _forwarded_elements(line)
        found = [""] if elements is None else found + elements
    return found


def _forwarded_elements(line: str) -> list[str] | None:
    found, address, position = [], "", 0
    while pair := _FORWARDED_PAIR.match(line, position):
        if pair["name"].lower() == "for":
            node = _NODE.fullmatch(pair["token"] or re.sub(r"\\(.)", r"\1", pair["quoted"] or ""))
            address = node["address"].strip("[]") if node else ""
        if pair["end"] != ";":
            found.append(address)
            address = ""
        if not pair["end"]:
            return found
        position = pair.end()
    return None


def forwarded_element(address: str) -> str:
    """``for=`` and an address, as Forwarded wants it (RFC 7239 §6); a peer without one is ``unknown``."""
    parsed = _address(address.partition("%")[0])
    if parsed is None:
        return "for=unknown"
    return f"for={parsed}" if parsed.version == 4 else f'for="[{parsed}]"'


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address, an IPv4 one also where it is written as IPv6 (RFC 4291 §2.5.5.2); None for anything else."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv4Address):
        return address
    # A zone may be any text, and says nothing to another host (RFC 4007 §11.2).
    return None if address.scope_id else address.ipv4_mapped or address


def is_trusted(address: str, trusted: Sequence[Network]) -> bool:
    """Whether the address is in one of the networks."""
    if not trusted:
        return False
    parsed = _address(address.partition("%")[0])
    return parsed is not None and any(parsed in network for network in trusted)


_REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{7,127}")


def request_id(offered: str | None, fresh: str) -> str:
    """The request id that a trusted hop gave if it is well-formed, else the fresh one."""
    return offered if offered is not None and _REQUEST_ID.fullmatch(offered) else fresh


_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


def trace_id(head: RequestHead) -> str | None:
    """The id of the trace that the request goes on in (W3C Trace Context §3.2.2); None if there is none."""
    given = head.headers.getall("traceparent", ()) if head.traced else ()
    match = _TRACEPARENT.fullmatch(given[0]) if len(given) == 1 else None
    return match[1] if match else None
