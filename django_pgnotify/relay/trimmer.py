"""Trimmer: runs the ledger's retention beside the relay, on a connection of its own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from datetime import timedelta

from psycopg import Error

from ..conf import settings
from ..connecting import connect_listener
from ..ledger.retention import give_back, ledger_bytes, trim
from ..ledger.ticks import Connection
from ..metrics import Metrics

logger = logging.getLogger("django_pgnotify")

APPLICATION_NAME = "django_pgnotify retention"
RUNS_PER_RETENTION = 4
MAX_INTERVAL_SECONDS = 60.0
PATIENT_SHARE = 0.5
"""Of LEDGER_MAX_BYTES: above it nothing waits for handlers that are late."""
RETAINED_SHARE = 0.75
"""Above it nothing is kept for replays either: soon the triggers would stop, which is worse."""
MIN_INTERVAL_SECONDS = 0.1
"""Even with a tiny retention: each run connects anew."""


def interval_seconds(retention: timedelta) -> float:
    """Between two runs: a quarter of the retention, and at most a minute."""
    quarter = retention.total_seconds() / RUNS_PER_RETENTION
    return max(MIN_INTERVAL_SECONDS, min(quarter, MAX_INTERVAL_SECONDS))


async def trim_now_and_then(
    alias: str, schema: str, handlers: Collection[str], metrics: Metrics
) -> None:
    """Trim until cancelled. A failure is logged, and the next run comes all the same."""
    while True:
        try:
            async with await connect_listener(
                alias, application_name=APPLICATION_NAME
            ) as connection:
                metrics.ledger_bytes = await trim_to_fit(connection, schema, handlers)
        except (Error, OSError) as error:
            logger.warning("The ledger was not trimmed: %s", error)
        await asyncio.sleep(interval_seconds(settings.RETENTION))


async def trim_to_fit(connection: Connection, schema: str, handlers: Collection[str]) -> int:
    """Trim what is old and done with, and more where the ledger nears LEDGER_MAX_BYTES; return
    its size."""
    rows = await trim(connection, schema, retention=settings.RETENTION, handlers=handlers)
    logger.debug("Trimmed %s ledger rows.", rows, extra={"action": "trimmed"})
    limit = settings.LEDGER_MAX_BYTES
    size = await ledger_bytes(connection, schema)
    if size > limit * PATIENT_SHARE:
        size = await give_back(connection, schema)
    if size > limit * PATIENT_SHARE:
        retention = timedelta(0) if size > limit * RETAINED_SHARE else settings.RETENTION
        dropped = await trim(connection, schema, retention=retention)
        if dropped:
            logger.error(
                "The ledger has %s of at most %s bytes: %s rows were dropped before their time or"
                " before all handlers had them.",
                size,
                limit,
                dropped,
                extra={"action": "ledger-tight"},
            )
            size = await give_back(connection, schema)
    return size
