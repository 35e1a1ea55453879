"""A server of the test's own: the ledger in it, pglisten beside it, browsers in this process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import psycopg
import pytest
from asgiref.sync import sync_to_async
from channels.layers import channel_layers, get_channel_layer
from django.db import connections

from django_pgnotify.layers import PostgresChannelLayer
from tests.hub_kit import Browser
from tests.servers.fixtures import StartPostgres, StartProxy
from tests.servers.postgres import ThrowAwayPostgres
from tests.servers.proxy import TcpProxy
from tests.settings import BASE_DIR, database

PATIENCE_SECONDS = 20.0
NAME = "shop"
PUBLISH = "SELECT pgnotify_publish('told', %s::jsonb, ARRAY['orders'])"

QUICK: dict[str, Any] = {
    "HEARTBEAT_SECONDS": 0.5,
    "POLL_SECONDS": 0.2,
    "RECONNECT_MAX_SECONDS": 0.3,
    "CONNECT_TIMEOUT_SECONDS": 2,
    "LEADER_TIMEOUT_SECONDS": 2.0,
}
"""Delays that make a fault last a second; a test asserts the shipped ones."""


class Place:
    """A database with a ledger, at an address that can lead to another server later."""

    def __init__(self, server: ThrowAwayPostgres, proxy: TcpProxy) -> None:
        self.server = server
        self.proxy = proxy

    @property
    def url(self) -> str:
        """Where pglisten and the web processes think that it is."""
        return self.proxy.url(self.server.url(NAME))

    def sql(self, query: str, *params: Any, name: str = NAME) -> Any:
        """Run one statement on the server, past the proxy; gives the first row."""
        with psycopg.connect(self.server.url(name), autocommit=True) as connection:
            cursor = connection.execute(query, params or None)
            return cursor.fetchone() if cursor.description else None

    def publish(self, data: Any) -> None:
        """Commit one event."""
        self.sql(PUBLISH, json.dumps(data))

    def move_to(self, server: ThrowAwayPostgres) -> None:
        """Let the address lead to another server."""
        self.server = server
        self.proxy.target = ("127.0.0.1", server.port)
        self.proxy.cut()


StartPlace = Callable[..., Place]


@pytest.fixture
def start_place(
    start_postgres: StartPostgres, start_proxy: StartProxy, django_db_setup: None
) -> Iterator[StartPlace]:
    """Start a server with a ledger, and make it the ``default`` database of this process."""
    settings = connections["default"].settings_dict
    before = dict(settings)

    def start(version: str | None = None, **options: str) -> Place:
        server = start_postgres(*[version] if version else [], **options)
        place = Place(server, start_proxy(server.url()))
        place.sql(f"CREATE DATABASE {NAME}", name="postgres")
        migrate(server.url(NAME))
        settings.update(database(place.url))
        return place

    yield start
    settings.update(before)


def migrate(url: str, app: str = "django_pgnotify") -> None:
    """Make the tables of one app; of ours, this is the ledger."""
    environment = {
        "DATABASE_URL": url,
        "DJANGO_SETTINGS_MODULE": "tests.settings",
        "PYTHONPATH": str(BASE_DIR.parent),
    }
    command = [sys.executable, "-m", "django", "migrate", app]
    subprocess.run(command, env={**os.environ, **environment}, check=True, capture_output=True)


@pytest.fixture
async def pg_layer_here() -> AsyncIterator[PostgresChannelLayer]:
    """Our layer for the browsers of this process; pglisten's has the same prefix."""
    before = get_channel_layer()
    layer = PostgresChannelLayer()
    channel_layers.set("default", layer)
    yield layer
    await layer.close()
    channel_layers.set("default", before)


async def data_upto(browser: Browser, last: Any) -> list[Any]:
    """The data of all events up to one; a reset stands as its reason."""
    seen: dict[str, Any] = {}
    while last not in seen.values():
        frame = json.loads(await browser.socket.receive_from(timeout=PATIENCE_SECONDS))
        if frame["type"] == "reset":
            seen[uuid.uuid4().hex] = f"reset: {frame['reason']}"
        for event in frame.get("events", ()):
            seen.setdefault(event["id"], event["data"])
    return list(seen.values())


async def in_thread(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Run what blocks, so that hub and browsers go on meanwhile."""
    return await sync_to_async(function, thread_sensitive=False)(*args, **kwargs)


def wait_until(condition: Callable[[], Any], what: str) -> None:
    """Return when it holds."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < end, f"not within {PATIENCE_SECONDS} s: {what}"
        time.sleep(0.05)
