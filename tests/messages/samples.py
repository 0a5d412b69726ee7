"""What the tests of this folder start from: a request to one of our origins, and the cookies that are ours."""

from __future__ import annotations

from multidict import CIMultiDict, CIMultiDictProxy

from oidc_proxy.messages import OwnCookies, RequestHead, split_target
from oidc_proxy.values import Origin

APP = Origin.parse("https://app.test")
OURS = "__Host-oidc_proxy"
COOKIES = OwnCookies(OURS)

Lines = list[tuple[bytes, bytes]]


def head(target: str = "/", **headers: str) -> RequestHead:
    """A GET of this target; ``Sec_Fetch_Mode="cors"`` is the header ``Sec-Fetch-Mode: cors``."""
    path, query = split_target(target)
    named = CIMultiDict({name.replace("_", "-"): value for name, value in headers.items()})
    raw = tuple((name.encode(), value.encode()) for name, value in named.items())
    return RequestHead("GET", target, path, query, APP, "192.0.2.1", raw, CIMultiDictProxy(named), "0123456789")


def lines(*texts: str) -> Lines:
    """Raw headers, as a parser gives them."""
    pairs = (text.partition(":") for text in texts)
    return [(name.encode("latin-1"), value.strip(" \t").encode("latin-1")) for name, _, value in pairs]
