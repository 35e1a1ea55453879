"""The tutorial, done as it stands: its files, its commands, its SQL, and what it says one sees."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import psycopg
import pytest
from psycopg import sql
from websockets.asyncio.client import ClientConnection, connect

from tests.markdown import Block, blocks
from tests.servers.postgres import Postgres
from tests.servers.process import free_port

from .conftest import Visits

PAGE = "tutorial.md"
ROOT = Path(__file__).resolve().parent.parent.parent
AT_THE_END = " (at the end)"
COMMAND_SECONDS = 60.0
START_SECONDS = 60.0
SEEN_SECONDS = 30.0
STOP_SECONDS = 15.0
POLL_SECONDS = 0.05
BUILD = [
    "2. A project with one app",
    "3. Declare",
    "4. Install the trigger",
    "5. Let browsers subscribe",
    "6. The page",
]
RUN, CHANGE, BREAK = "7. Run it", "8. Change a row, from anywhere", "9. Break it"


class Shop:
    """A reader's project folder, and what runs in it."""

    def __init__(self, folder: Path, database_url: str) -> None:
        self.folder = folder
        self.url = database_url
        self.port = free_port()
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def name(self) -> str:
        """Of the database."""
        return urlsplit(self.url).path.lstrip("/")

    def do(self, block: Block) -> None:
        """Do what a reader does with a block."""
        text = block.text.replace("live_shop", self.name)
        if block.language == "sql":
            self.execute(text)
        elif block.language == "shell":
            for line in text.splitlines():
                self.command(line)
        else:
            self.write(block.options["caption"], text)

    def write(self, caption: str, text: str) -> None:
        """Write a file, or lengthen it."""
        path = self.folder / caption.removesuffix(AT_THE_END)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a" if caption.endswith(AT_THE_END) else "w") as file:
            file.write(text)

    def execute(self, text: str) -> None:
        """Run SQL as psql does: statement by statement, in autocommit."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            for statement in filter(str.strip, text.split(";")):
                connection.execute(statement.encode())

    def query(self, text: str) -> list[tuple[Any, ...]]:
        """Give the rows of a query."""
        with psycopg.connect(self.url) as connection:
            return connection.execute(text.encode()).fetchall()

    def command(self, line: str) -> None:
        """Run a command to its end; the two that have none are left running."""
        if line.endswith((" pglisten", " runserver")):
            self.start(line.split()[-1])
            return
        done = subprocess.run(
            self._arguments(line),
            cwd=self.folder,
            env=self._environment(),
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"

    def start(self, command: str) -> None:
        """Start a long-running command of manage.py."""
        more = ["--noreload", str(self.port)] if command == "runserver" else []
        with (self.folder / f"{command}.log").open("wb") as log:
            self._running[command] = subprocess.Popen(
                [*self._arguments(f"python manage.py {command}"), *more],
                cwd=self.folder,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def stop(self, command: str) -> int:
        """Press Ctrl-C, and give the exit code."""
        process = self._running.pop(command)
        process.send_signal(signal.SIGINT)
        try:
            return process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            raise

    def stop_all(self) -> None:
        """Leave nothing running."""
        for command in list(self._running):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.stop(command)

    def logs(self) -> str:
        """What the long-running commands said."""
        return "\n".join(
            f"--- {path.name}\n{path.read_text()}" for path in self.folder.glob("*.log")
        )

    def _arguments(self, line: str) -> list[str]:
        program, *rest = shlex.split(line)
        python = {"python": [sys.executable], "django-admin": [sys.executable, "-m", "django"]}
        return [*python[program], *rest]

    def _environment(self) -> dict[str, str]:
        """The settings of the tutorial name the database only: libpq finds the server."""
        parts = urlsplit(self.url)
        server = {
            "PGHOST": parts.hostname,
            "PGPORT": parts.port and str(parts.port),
            "PGUSER": parts.username and unquote(parts.username),
            "PGPASSWORD": parts.password and unquote(parts.password),
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
        }
        inherited = {k: v for k, v in os.environ.items() if k != "DJANGO_SETTINGS_MODULE"}
        return inherited | {key: value for key, value in server.items() if value}


class Watcher:
    """A subscriber of the tutorial's group, who keeps the state that its frames tell."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.orders: dict[int, dict[str, Any]] = {}
        self.seen: list[dict[str, Any]] = []

    async def sees(self, *lines: str) -> None:
        """Read frames until the state is what the page would show."""
        async with asyncio.timeout(SEEN_SECONDS):
            while self.lines() != sorted(lines):
                self._take(json.loads(await self.socket.recv()))

    def lines(self) -> list[str]:
        """The lines of the page."""
        return sorted(f"{order['item']}: {order['status']}" for order in self.orders.values())

    def _take(self, frame: dict[str, Any]) -> None:
        assert frame["type"] != "error", frame
        if frame["type"] == "snapshot":
            self.orders |= {row["id"]: row for row in frame["data"]}
        for event in frame.get("events", []):
            self.seen.append(event)
            if event["kind"] == "delete":
                del self.orders[event["pk"]]
            else:
                self.orders[event["pk"]] = event["data"]


@pytest.fixture(scope="module")
def shop(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """The tutorial up to its running processes."""
    name = f"pgnotify_tutorial_{os.getpid()}"
    with psycopg.connect(postgres.url("postgres"), autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        shop = Shop(tmp_path_factory.mktemp("live"), postgres.url(name))
        try:
            for block in _sections(*BUILD, RUN):
                shop.do(block)
            _wait_for_log(shop, "pglisten", "listening")
            _wait_for_page(shop)
            yield shop
        finally:
            shop.stop_all()
            connection.execute(
                sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name))
            )
            shutil.rmtree(shop.folder, ignore_errors=True)


@pytest.fixture
async def watcher(shop: Shop) -> AsyncIterator[Watcher]:
    """A subscriber to an empty table."""
    shop.execute("DELETE FROM orders_order")
    address = f"ws://127.0.0.1:{shop.port}/ws/orders/"
    async with connect(address, origin=f"http://127.0.0.1:{shop.port}", proxy=None) as socket:
        await socket.send(json.dumps({"type": "subscribe", "group": "orders"}))
        watcher = Watcher(socket)
        async with asyncio.timeout(SEEN_SECONDS):
            while (frame := json.loads(await socket.recv()))["type"] != "subscribed":
                watcher._take(frame)
        yield watcher


async def test_every_change_by_sql_is_seen_and_a_rollback_is_not(
    shop: Shop, watcher: Watcher
) -> None:
    insert, update, rollback, delete = _sections(CHANGE)
    shop.do(insert)
    await watcher.sees("Tea: new", "Coffee: new")
    shop.do(update)
    await watcher.sees("Tea: paid", "Coffee: new")
    shop.do(rollback)
    shop.do(delete)
    await watcher.sees("Tea: paid")
    assert "lost" in rollback.text
    assert "lost" not in json.dumps(watcher.seen)


async def test_what_changed_while_nobody_listened_is_seen_later(
    shop: Shop, watcher: Watcher
) -> None:
    update, restart = _sections(BREAK)
    shop.execute("INSERT INTO orders_order (item, status) VALUES ('Tea', 'paid')")
    await watcher.sees("Tea: paid")
    assert shop.stop("pglisten") == 0, shop.logs()
    shop.do(update)
    shop.do(restart)
    await watcher.sees("Tea: shipped")


@pytest.mark.browser
@pytest.mark.asyncio(loop_scope="session")
async def test_the_page_shows_what_the_tutorial_says(shop: Shop, visits: Visits) -> None:
    insert, update, rollback, delete = _sections(CHANGE)
    shop.execute("DELETE FROM orders_order")
    page = await visits.page()
    await page.goto(f"http://127.0.0.1:{shop.port}/")
    await page.wait_for_function("document.querySelector('#status').textContent === 'live'")
    for block, lines in [
        (insert, ["Tea: new", "Coffee: new"]),
        (update, ["Tea: paid", "Coffee: new"]),
        (rollback, ["Tea: paid", "Coffee: new"]),
        (delete, ["Tea: paid"]),
    ]:
        shop.do(block)
        await page.wait_for_function(SHOWS, arg=lines)
    shop.execute(TOO_LARGE)
    await page.wait_for_function(SHOWS, arg=["Tea: read anew"])
    assert visits.hosts == {f"127.0.0.1:{shop.port}"}
    # The browser asks for an icon by itself, and the tutorial has none.
    assert [one for one in visits.complaints if "404" not in one] == []


TOO_LARGE = """
BEGIN;
SET LOCAL session_replication_role = replica;
UPDATE orders_order SET status = 'read anew';
SELECT pgnotify_append(
    'order_changes', 'orders.order', json_build_array(json_build_object('kind', 'update', 'pk', id,
    'changed', '{}'::text[], 'groups', '{orders}'::text[], 'truncated', true))::text, '{}'
) FROM orders_order;
COMMIT
"""
"""The event of an update without its data."""

SHOWS = """lines => JSON.stringify(
    [...document.querySelectorAll("#orders li")].map((line) => line.textContent)
) === JSON.stringify(lines)"""


def test_the_tests_of_the_testing_page_pass_in_the_project(shop: Shop) -> None:
    files = [block for block in blocks("howto/testing.md") if "caption" in block.options]
    assert len(files) == 4
    for block in files:
        shop.do(block)
    shop.command("python -m pytest -p no:cacheprovider test_published.py")
    shop.command("python -m pytest -p no:cacheprovider --nomigrations test_consumer.py")


def test_the_page_of_third_party_models_works_in_the_project(shop: Shop) -> None:
    (migration,) = (
        block for block in blocks("howto/third-party-models.md") if "caption" in block.options
    )
    shop.do(migration)
    try:
        shop.command("python manage.py migrate")
        shop.command("python manage.py makemigrations --check")
        shop.execute(NEW_USER.format("ada"))
        shop.command("python manage.py migrate orders 0001")
        shop.execute(NEW_USER.format("bob"))
    finally:
        (shop.folder / migration.options["caption"]).unlink()
    published = shop.query(
        "SELECT changes::json -> 0 -> 'data' ->> 'username' FROM django_pgnotify_ledger"
        " WHERE topic = 'user_changes'"
    )
    assert published == [("ada",)]


NEW_USER = """
INSERT INTO auth_user (username, password, first_name, last_name, email,
    is_superuser, is_staff, is_active, date_joined)
VALUES ('{}', '', '', '', '', false, false, true, now())
"""


def test_the_commands_that_look_for_faults_find_none_in_the_project(shop: Shop) -> None:
    shell = (block for block in blocks("howto/troubleshooting.md") if block.language == "shell")
    for block in shell:
        shop.do(block)


def test_what_the_tutorial_installs_are_the_packages_of_this_run() -> None:
    (install,) = (block for block in blocks(PAGE) if block.options.get("class") == "set-up")
    line = next(line for line in install.text.splitlines() if line.startswith("pip install"))
    names = [re.split(r"[\[<>=]", word)[0] for word in shlex.split(line)[2:]]
    assert names == ["django-pgnotify", "daphne"]
    assert importlib.metadata.version("daphne")


def test_every_section_of_the_tutorial_is_run() -> None:
    done = {*BUILD, RUN, CHANGE, BREAK}
    assert {block.section for block in blocks(PAGE)} - done == {"1. Install"}


def _sections(*names: str) -> list[Block]:
    return [block for block in blocks(PAGE) if block.section in names]


def _wait_for_log(shop: Shop, command: str, text: str) -> None:
    process = shop._running[command]
    _wait(shop, lambda: text in (shop.folder / f"{command}.log").read_text(), process)


def _wait_for_page(shop: Shop) -> None:
    # Not through a proxy of the environment.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def answers() -> bool:
        with contextlib.suppress(OSError):
            return bool(opener.open(f"http://127.0.0.1:{shop.port}/", timeout=5).status == 200)
        return False

    _wait(shop, answers, shop._running["runserver"])


def _wait(shop: Shop, ready: Any, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + START_SECONDS
    while not ready():
        assert process.poll() is None, shop.logs()
        assert time.monotonic() < end, shop.logs()
        time.sleep(POLL_SECONDS)
