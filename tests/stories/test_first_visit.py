"""Ann opens a deep link, signs in, works, and signs out."""

from __future__ import annotations

from tests.gateway import running_world
from tests.world import Page


def headers_of(page: Page) -> dict[str, str]:
    """The headers that the backend says it received."""
    return dict(page.json()["headers"])


async def test_a_deep_link_comes_back_as_it_was_with_the_user_announced() -> None:
    async with running_world() as world, world.browser() as ann:
        page = await ann.sign_in(f"{world.url}/echo/wiki/a%2Fb?x=1&d=%20+&u=https://x.y/z", "ann", "ann")
        assert page.status == 200
        assert page.json()["target"] == "/echo/wiki/a%2Fb?x=1&d=%20+&u=https://x.y/z"
        seen = headers_of(page)
        assert seen["X-Forwarded-Email"] == "ann@example.test"
        assert seen["X-Forwarded-Preferred-Username"] == "ann"
        assert seen["X-Forwarded-Groups"].split(",")[0] == "/staff/ops"
        assert "role:staff" in seen["X-Forwarded-Groups"].split(",")
        assert seen["Authorization"].startswith("Bearer ey")
        assert "Cookie" not in seen
