"""The list of one's sessions in the browser that people use: its forms pass the page's own policy, in both themes."""

from __future__ import annotations

from pathlib import Path

from playwright.async_api import Page

from tests.gateway import World, running_world
from tests.real.browser import Chromium, screenshots


async def signed_in(world: World, chromium: Chromium) -> Page:
    page = await chromium.page()
    await page.goto(f"{world.url}/")
    await page.fill("input[name=username]", "ann")
    await page.fill("input[type=password]", "ann")
    await page.click("button")
    await page.wait_for_url(f"{world.url}/")
    return page


async def test_f261_f265_f259_the_buttons_do_what_they_say(chromium: Chromium, tmp_path: Path) -> None:
    async with running_world() as world:
        page, phone, tablet = [await signed_in(world, chromium) for _ in range(3)]
        refused: list[str] = []
        page.on("console", lambda message: refused.append(message.text))
        await page.goto(f"{world.url}/oauth2/session")
        assert await page.locator("ul.sessions li").count() == 2
        for file in await screenshots(page, "my-sessions", tmp_path):
            assert file.stat().st_size > 10_000
        first = page.locator("ul.sessions li").first
        assert "Chrome on Linux" in (await first.text_content() or "")
        await first.get_by_role("button", name="Sign out").click()
        await page.wait_for_url(f"{world.url}/oauth2/session")
        assert await page.locator("ul.sessions li").count() == 1
        assert (await phone.request.get(f"{world.url}/echo")).status == 401
        assert (await tablet.request.get(f"{world.url}/echo")).status == 200
        await page.get_by_role("button", name="Sign out everywhere").click()
        await page.wait_for_url(f"{world.url}/oauth2/signed_out*")
        assert (await tablet.request.get(f"{world.url}/echo")).status == 401
        assert not refused, "the page's own policy stood in the way"
        await page.context.browser.close()  # type: ignore[union-attr]
