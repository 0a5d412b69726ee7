"""Chromium: the browser that people use, driven by playwright."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from playwright.async_api import Browser, BrowserContext, Error, Page, async_playwright

from tests.real.parts import Unavailable

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


class Chromium:
    """A browser without any memory; every context is somebody else's."""

    def __init__(self, browser: Browser) -> None:
        self.browser = browser
        self.version = browser.version

    def __str__(self) -> str:
        return f"Chromium {self.version}"

    async def person(self) -> BrowserContext:
        """Somebody who has never been here: no cookies, no cache."""
        return await self.browser.new_context(locale="en-GB", viewport={"width": 1024, "height": 720})

    async def page(self) -> Page:
        return await (await self.person()).new_page()


@asynccontextmanager
async def launched() -> AsyncIterator[Chromium]:
    """:raises Unavailable: there is no Chromium, or it does not start"""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        raise Unavailable("no chromium in PATH")
    async with async_playwright() as playwright:
        try:
            browser = await playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        except Error as error:
            raise Unavailable(f"{path} did not start: {error.message}") from error
        try:
            yield Chromium(browser)
        finally:
            await browser.close()


async def screenshots(page: Page, name: str, folder: Path) -> tuple[Path, Path]:
    """The page as it looks in a light and in a dark colour scheme, as PNG files, to be looked at or compared.

    $OIDC_PROXY_TEST_SCREENSHOTS names another folder than `folder`.
    """
    folder = Path(os.environ.get("OIDC_PROXY_TEST_SCREENSHOTS") or folder)
    folder.mkdir(parents=True, exist_ok=True)
    light, dark = folder / f"{name}-light.png", folder / f"{name}-dark.png"
    await page.emulate_media(color_scheme="light", reduced_motion="reduce")
    await page.screenshot(path=light, full_page=True)
    await page.emulate_media(color_scheme="dark", reduced_motion="reduce")
    await page.screenshot(path=dark, full_page=True)
    await page.emulate_media(color_scheme="null", reduced_motion="null")
    return light, dark
