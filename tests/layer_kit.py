"""What the tests of channel layers share."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

import psycopg
from asgiref.sync import async_to_sync
from django.db import connection

from tests.tables import run

PATIENCE_SECONDS = 10.0


async def received(layer: Any, name: str) -> dict[str, Any]:
    async with asyncio.timeout(PATIENCE_SECONDS):
        message: dict[str, Any] = await layer.receive(name)
        return message


async def drained(layer: Any, name: str) -> list[Any]:
    """Receive the numbers sent before a marker, which proves that nothing else came."""
    await layer.send(name, {"type": "marker"})
    numbers = []
    while (message := await received(layer, name))["type"] != "marker":
        numbers.append(message["n"])
    return numbers


def numbered(n: int) -> dict[str, Any]:
    return {"type": "test.message", "n": n}


OUR_CONNECTIONS = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND application_name LIKE 'django_pgnotify layer%'
"""


def wait_for_connections(expected: int) -> int:
    """Return how many connections the layers here hold: `expected` as soon as there are so many,
    since a backend ends a moment after its client has gone."""
    end = time.monotonic() + PATIENCE_SECONDS
    while (count := count_our_connections()) != expected and time.monotonic() < end:
        time.sleep(0.05)
    return count


def count_our_connections() -> int:
    # Else a transaction goes on seeing what it saw first.
    run("SELECT pg_stat_clear_snapshot()")
    return int(run(OUR_CONNECTIONS)[0][0])


def run_to_its_end(main: Callable[[], Coroutine[Any, Any, Any]]) -> None:
    """``asyncio.run`` that fails instead of hanging."""
    running = threading.Thread(target=lambda: asyncio.run(main()), daemon=True)
    running.start()
    running.join(2 * PATIENCE_SECONDS)
    assert not running.is_alive(), "the loop has not ended"


def own_connection() -> psycopg.Connection[Any]:
    """One that commits for itself, to be used in any thread."""
    parameters = connection.get_connection_params()
    for key in ("cursor_factory", "context"):
        parameters.pop(key, None)
    return psycopg.connect(**parameters, autocommit=True)


def all_received(layer: Any, tasks: list[asyncio.Task[Any]]) -> list[int]:
    """The numbers that tasks took, and those that are still there."""
    taken = [task.result()["n"] for task in tasks if task.done() and not task.cancelled()]
    left: list[int] = async_to_sync(drained)(layer, "plain")
    return sorted(taken + left)
