"""Who may keep an answer that depends on who asked."""

from __future__ import annotations

import pytest

from oidc_proxy.caching import for_one_user, for_shared_caches


@pytest.mark.parametrize(
    ("said", "passed"),
    [
        ("public", "private"),
        ("max-age=60", "private, max-age=60"),
        ("PUBLIC, s-maxage=5 , Max-Age=60", "private, Max-Age=60"),
        ('public, ext="a, private, b", immutable', 'private, ext="a, private, b", immutable'),
        ('private="Set-Cookie", max-age=60', "private, max-age=60"),
        ('no-cache="Set-Cookie", max-age=60', 'private, no-cache="Set-Cookie", max-age=60'),
        ("must-revalidate,proxy-revalidate", "private, must-revalidate, proxy-revalidate"),
        ('ext="never closed, private', 'private, ext="never closed, private'),
        (", ,", "private"),
        ("", "private"),
        ("private", "private"),
        ("No-Store", "No-Store"),
        (" max-age=0 ,\tno-cache ", " max-age=0 ,\tno-cache "),
    ],
)
def test_br1_only_private_caches_may_store(said: str, passed: str) -> None:
    assert for_one_user(said.encode()) == passed.encode()


@pytest.mark.parametrize(
    ("name", "shared"),
    [
        ("CDN-Cache-Control", True),
        ("Cloudflare-CDN-Cache-Control", True),
        ("surrogate-control", True),
        ("X-Accel-Expires", True),
        ("Edge-Control", True),
        ("Cache-Control", False),
        ("Expires", False),
        ("X-Surrogate-Control", False),
    ],
)
def test_br1_what_only_shared_caches_heed(name: str, shared: bool) -> None:
    assert for_shared_caches(name.encode()) is shared
