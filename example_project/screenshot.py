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
PICTURES: dict[str, ViewportSize] = {
    "order-desk": {"width": 1280, "height": 800},
    "order-desk-narrow": {"width": 390, "height": 844},
}
SHARPNESS = 2  # pixels of the picture per pixel of the page
MOMENT_MS = 150
"""Milliseconds after the last event: rows are lit, and the leaving one is still there."""

PAID = "UPDATE orders_order SET status = 'paid' WHERE id = 14"


def main() -> int:
    """Take the pictures; give the exit code."""
    chromium = next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)
    if chromium is None:
        sys.stderr.write("screenshot: Chromium is missing (apt-get install chromium)\n")
        return 1
    IMAGES.mkdir(parents=True, exist_ok=True)
    for name, size in PICTURES.items():
        # A demo for each, so that both begin with the same orders.
        with (
            tempfile.TemporaryDirectory(prefix="order-desk-") as folder,
            RunningDemo(Path(folder)) as demo,
        ):
            asyncio.run(_take(chromium, demo, name, size))
    return 0


async def _take(chromium: str, demo: RunningDemo, name: str, size: ViewportSize) -> None:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-gpu"]
        )
        await _picture(browser, demo, name, size)
        await browser.close()


async def _picture(browser: Browser, demo: RunningDemo, name: str, size: ViewportSize) -> None:
    """Let somebody look, while others write in every way."""
    page = await browser.new_page(viewport=size, device_scale_factor=SHARPNESS)
    colleague = await _log_in(browser, demo)
    for desk in (page, colleague):
        await desk.goto(demo.url)
        await desk.locator("#rows tr").first.wait_for()
    await _click(colleague, "New order")
    await _click(page, "Roll back")
    await asyncio.to_thread(demo.psql, PAID)
    await _click(page, "10 % off one")
    await _click(page, "New order")
    await _click(colleague, "Advance one")
    await page.mouse.move(0, 0)
    await page.wait_for_timeout(MOMENT_MS)
    await page.screenshot(path=IMAGES / f"{name}.png")
    for desk in (page, colleague):
        await desk.close()


async def _log_in(browser: Browser, demo: RunningDemo) -> Page:
    page = await browser.new_page()
    await page.goto(f"{demo.url}admin/login/")
    await page.get_by_label("Username").fill("demo")
    await page.get_by_label("Password").fill("demo")
    await page.get_by_role("button", name="Log in").click()
    await page.wait_for_url("**/admin/")
    return page


async def _click(page: Page, label: str) -> None:
    """Click a button, and wait until the server has said what it did."""
    said = await page.locator("#said").inner_text()
    await page.get_by_role("button", name=label).click()
    await page.wait_for_function(
        "(before) => document.querySelector('#said').innerText !== before", arg=said
    )


if __name__ == "__main__":
    sys.exit(main())
