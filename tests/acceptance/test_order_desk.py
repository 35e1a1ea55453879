"""The order desk in real browsers: whoever writes, every page follows."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from uuid import uuid4

import psycopg
import pytest
import pytest_asyncio
from playwright.async_api import Page, expect
from psycopg import sql

from example_project.running import RunningDemo
from tests.servers.postgres import Postgres

from .conftest import Visits

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

SEEN_MS = 15_000
"""Milliseconds within which the page must show what was written; it takes a few."""
BULK = 1_000
ROWS_SHOWN = 100
PHONE = {"width": 360, "height": 740}

expect.set_options(timeout=SEEN_MS)


class Desk(RunningDemo):
    """A running order desk."""

    def place(self, status: str = "new") -> int:
        """Place an order by SQL; give its number."""
        return int(
            self.psql(
                "INSERT INTO orders_order"
                " (customer_id, status, total, note, created_at, updated_at)"
                f" VALUES (1, '{status}', 10, '', now(), now()) RETURNING id"
            )
        )


@pytest.fixture(scope="session")
def desk(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """One demo for all of these tests, on a database of its own on the run's server."""
    base = f"pgnotify_desk_{uuid4().hex[:8]}"
    url, name = postgres.url(base), sql.Identifier(base)
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(name))
        try:
            env = {"DATABASE_URL": url}
            with Desk(tmp_path_factory.mktemp("demo"), env=env) as desk:
                yield desk
        finally:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))


@pytest_asyncio.fixture(loop_scope="session")
async def visit(desk: Desk, visits: Visits) -> AsyncIterator[Visits]:
    """Visits to the desk: no page may complain, or ask another host for anything."""
    yield visits
    assert visits.complaints == []
    assert visits.hosts == {desk.host}


async def open_desk(desk: Desk, visits: Visits, path: str = "", **options: object) -> Page:
    """Open the desk's page and wait until it is live."""
    page = await visits.page(**options)
    await page.goto(desk.url + path)
    await expect(page.locator("#connection")).to_have_attribute("data-status", "live")
    await expect(page.locator("#rows tr").first).to_be_visible()
    return page


async def click(page: Page, label: str) -> str:
    """Click a button; give what the page says that it did."""
    said = page.locator("#said")
    before = await said.inner_text()
    await page.get_by_role("button", name=label).click()
    await expect(said).not_to_have_text(before)
    return await said.inner_text()


async def count(page: Page) -> int:
    """The number of open orders that the page shows."""
    return int((await page.locator("#count").inner_text()).replace(",", ""))


def order(page: Page, number: int) -> str:
    """The selector of an order's row."""
    return f"#rows tr[data-id='{number}']:not([data-leaving])"


async def expect_news(page: Page, *texts: str) -> None:
    """Wait until the feed has a line with all of these texts."""
    line = page.locator("#feed li")
    for text in texts:
        line = line.filter(has_text=text)
    await expect(line.first).to_be_visible()


async def test_an_update_by_psql_reaches_two_browsers(desk: Desk, visit: Visits) -> None:
    number = desk.place()
    pages = [await open_desk(desk, visit) for _ in range(2)]
    desk.psql(f"UPDATE orders_order SET status = 'paid' WHERE id = {number}")
    for page in pages:
        await expect(page.locator(order(page, number))).to_contain_text("paid")
        await expect_news(page, f"#{number} new → paid", "plain SQL")


async def test_a_thousand_orders_come_and_go_at_once(desk: Desk, visit: Visits) -> None:
    page = await open_desk(desk, visit)
    before = await count(page)
    await click(page, "1,000 at once")
    await expect(page.locator("#count")).to_have_text(f"{before + BULK:,}")
    await expect_news(page, f"{BULK:,} orders added", "a visitor")
    assert await page.locator("#rows tr").count() <= ROWS_SHOWN
    await click(page, "Ship the 1,000")
    await expect(page.locator("#count")).to_have_text(f"{before:,}")
    await expect_news(page, f"{BULK:,} orders left the desk")


async def test_what_was_rolled_back_never_shows(desk: Desk, visit: Visits) -> None:
    page = await open_desk(desk, visit)
    before = await count(page)
    said = await click(page, "Roll back")
    never = re.search(r"#(\d+)", said)
    assert never is not None
    marker = desk.place()  # committed after: what comes, comes before it
    await expect(page.locator(order(page, marker))).to_be_visible()
    assert await count(page) == before + 1
    assert await page.locator("body").get_by_text("never happened").count() == 0
    assert await page.locator(order(page, int(never[1]))).count() == 0


async def test_an_order_leaves_and_comes_back_as_its_status_moves(
    desk: Desk, visit: Visits
) -> None:
    number = desk.place("packed")
    page = await open_desk(desk, visit)
    row = page.locator(order(page, number))
    await expect(row).to_be_visible()
    desk.psql(f"UPDATE orders_order SET status = 'shipped' WHERE id = {number}")
    await expect(row).to_have_count(0)
    await expect_news(page, f"#{number} left the desk")
    desk.psql(f"UPDATE orders_order SET status = 'packed' WHERE id = {number}")
    await expect(row).to_be_visible()
    await expect_news(page, f"#{number} back on the desk")


@pytest.mark.parametrize(
    ("label", "said"),
    [
        ("New order", r"Saved order #\d+"),
        ("Advance one", r"Moved order #\d+"),
        ("Delete one", r"Deleted order #\d+"),
        ("10 % off one", r"Took 10 % off order #\d+"),
        ("5 by COPY", r"Streamed 5 orders"),
    ],
)
async def test_each_button_writes_and_the_page_follows(
    desk: Desk, visit: Visits, label: str, said: str
) -> None:
    for _ in range(2):
        desk.place()
    page = await open_desk(desk, visit)
    seen = page.locator("#seen")
    before = await seen.inner_text()
    assert re.match(said, await click(page, label))
    await expect(seen).not_to_have_text(before)


async def test_what_the_admin_changes_shows_with_the_name_of_who_did_it(
    desk: Desk, visit: Visits
) -> None:
    number = desk.place()
    page = await open_desk(desk, visit)
    admin = await visit.page()
    await admin.goto(f"{desk.url}admin/orders/order/{number}/change/")
    await admin.get_by_label("Username").fill("demo")
    await admin.get_by_label("Password").fill("demo")
    await admin.get_by_role("button", name="Log in").click()
    await admin.get_by_label("Note").fill("from the admin")
    await admin.get_by_role("button", name="Save", exact=True).click()
    await expect(page.locator(order(page, number))).to_contain_text("from the admin")
    await expect_news(page, f"#{number} note “from the admin”", "demo")


async def test_a_renamed_customer_changes_in_every_row(desk: Desk, visit: Visits) -> None:
    number = desk.place()
    page = await open_desk(desk, visit)
    name = f"Bookshop {uuid4().hex[:6]}"
    desk.psql(f"UPDATE orders_customer SET name = '{name}' WHERE id = 1")
    await expect(page.locator(order(page, number))).to_contain_text(name)


async def test_a_page_that_was_offline_resumes(desk: Desk, visit: Visits) -> None:
    page = await open_desk(desk, visit)
    await page.get_by_role("button", name="Go offline").click()
    await expect(page.locator("#connection")).to_have_text("Offline")
    number = desk.place()
    desk.psql(f"UPDATE orders_order SET status = 'paid' WHERE id = {number}")
    await page.get_by_role("button", name="Go online").click()
    await expect(page.locator("#connection")).to_have_text("Live, resumed")
    await expect(page.locator(order(page, number))).to_contain_text("paid")
    await expect_news(page, "Resumed")
    await expect_news(page, f"#{number} new → paid")  # not only the state: each event


async def test_a_page_that_was_away_for_too_long_says_so_and_reads_the_desk_anew(
    desk: Desk, visit: Visits
) -> None:
    page, witness = [await open_desk(desk, visit) for _ in range(2)]
    await page.get_by_role("button", name="Go offline").click()
    await expect(page.locator("#connection")).to_have_text("Offline")
    number = desk.place()
    await expect(witness.locator(order(witness, number))).to_be_visible()
    trimmed = "SELECT max(number) - 1 FROM django_pgnotify_tick"
    desk.psql(f"UPDATE django_pgnotify_state SET trimmed = ({trimmed})")
    await page.get_by_role("button", name="Go online").click()
    await expect_news(page, "Too much was missed (expired)")
    await expect(page.locator(order(page, number))).to_be_visible()
    desk.psql(f"UPDATE orders_order SET status = 'paid' WHERE id = {number}")
    for each in (page, witness):
        await expect(each.locator(order(each, number))).to_contain_text("paid")


async def test_a_page_shows_what_it_missed_while_the_servers_were_down(
    desk: Desk, visit: Visits
) -> None:
    page = await open_desk(desk, visit)
    desk.stop()
    await expect(page.locator("#connection")).to_have_text("Reconnecting")
    number = desk.place()
    desk.start()
    await expect(page.locator(order(page, number))).to_be_visible(timeout=4 * SEEN_MS)
    await expect_news(page, "Resumed")
    await expect(page.locator("#connection")).to_have_attribute("data-status", "live")
    visit.complaints.clear()  # Chromium itself complains of each refused attempt


@pytest.mark.parametrize("path", ["", "admin/login/"])
async def test_a_phone_scrolls_down_only(desk: Desk, visit: Visits, path: str) -> None:
    page = await visit.page(viewport=PHONE)
    await page.goto(desk.url + path)
    if not path:
        await expect(page.locator("#rows tr").first).to_be_visible()
    assert await page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


async def test_everything_can_be_reached_and_read_without_eyes(
    desk: Desk, visit: Visits
) -> None:
    page = await open_desk(desk, visit)
    await expect(page.get_by_role("status").filter(has_text="Live")).to_be_visible()
    for name in ("On the desk", "As it happens"):
        await expect(page.get_by_role("region", name=name).first).to_be_visible()
    unnamed = (
        "[...document.querySelectorAll('button, a')].filter((one) => !one.innerText.trim())"
    )
    assert await page.evaluate(f"{unnamed}.length") == 0
