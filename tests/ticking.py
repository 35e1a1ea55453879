"""The next tick, stored as pglisten does it."""

from __future__ import annotations

from typing import Any

from django_pgnotify.ledger.taking import take_tick
from django_pgnotify.ledger.ticks import Tick


async def store_tick(connection: Any, schema: str, previous: Tick) -> Tick | None:
    """The tick without its rows; None if there is nothing new since `previous`."""
    taken = await take_tick(connection, schema, previous)
    return None if taken is None else taken[0]
