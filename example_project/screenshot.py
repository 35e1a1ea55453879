"""``python -m example_project.screenshot``: takes the pictures of the order desk for the docs.

Needs Chromium and Playwright's Python package; starts a demo of its own.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
from pathlib import Path

from playwright.async_api import Browser, Page, ViewportSize, async_playwright

from .demo import ROOT
from .running import RunningDemo

IMAGES = ROOT / "docs" / "images"
CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
WIDE: ViewportSize = {"width": 1280, "height": 760}
NARROW: ViewportSize = {"width": 390, "height": 844}
SHARPNESS = 2  # pixels of the picture per pixel of the page
MOMENT_MS = 150
"""Milliseconds after the last event: rows are lit, and the leaving one is still there."""

# The clicks before a picture, by the names of the buttons; the last ones are still lit.
STORY = ["New order", "Advance one", "5 by COPY", "Roll back", "10 % off one", "Advance one"]


def main() -> int:
    """Take the pictures; give the exit code."""
    chromium = next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)
    if chromium is None:
        sys.stderr.write("screenshot: Chromium is missing (apt-get install chromium)\n")
        return 1
    IMAGES.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="order-desk-") as folder,
        RunningDemo(Path(folder)) as demo,
    ):
        asyncio.run(_take(chromium, demo))
    return 0


async def _take(chromium: str, demo: RunningDemo) -> None:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-gpu"]
        )
        await _picture(browser, demo, "order-desk", WIDE)
        await _picture(browser, demo, "order-desk-narrow", NARROW)
        await browser.close()


async def _picture(browser: Browser, demo: RunningDemo, name: str, size: ViewportSize) -> None:
    page = await browser.new_page(viewport=size, device_scale_factor=SHARPNESS)
    await page.goto(demo.url)
    await page.locator("#rows tr").first.wait_for()
    for label in STORY:
        await _click(page, label)
    await page.wait_for_timeout(MOMENT_MS)
    await page.screenshot(path=IMAGES / f"{name}.png")
    await page.close()


async def _click(page: Page, label: str) -> None:
    """Click a button, and wait until the server has said what it did."""
    said = await page.locator("#said").inner_text()
    await page.get_by_role("button", name=label).click()
    await page.wait_for_function(
        "(before) => document.querySelector('#said').innerText !== before", arg=said
    )


if __name__ == "__main__":
    sys.exit(main())
