"""What the tests of channel layers share."""

from __future__ import annotations

import asyncio
import time
from typing import Any

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
