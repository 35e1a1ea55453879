"""Notify queue: says who lets the server's queue of notifications fill, before COMMITs fail."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import LiteralString

from ..ledger.ticks import Connection
from ..metrics import Metrics

logger = logging.getLogger("django_pgnotify")

ALARMING_USAGE = 0.5
"""Where PostgreSQL begins to warn, and the bell falls silent."""
# The queue keeps what its slowest listener has not read, and a listener in a transaction reads
# nothing. Which sessions listen is in no view, so the oldest transactions are the suspects; a
# role without pg_read_all_stats sees those of its own only.
QUERY: LiteralString = """
    SELECT pg_notification_queue_usage(), ARRAY(
        SELECT format('pid %%s (%%s of %%s in database %%s)', pid,
            coalesce(nullif(application_name, ''), 'a session'), usename, datname)
        FROM pg_stat_activity
        WHERE xact_start IS NOT NULL AND datname IS NOT NULL AND pid <> pg_backend_pid()
            AND pg_notification_queue_usage() >= %s
        ORDER BY xact_start LIMIT 3)
"""


@dataclass(frozen=True, slots=True)
class Usage:
    """What one look at the queue has found."""

    ratio: float
    """From 0, empty, to 1, full."""
    suspects: tuple[str, ...]
    """The sessions with the oldest transactions, if the ratio is alarming."""

    @property
    def alarming(self) -> bool:
        """True if the queue is about to fail other people's COMMITs."""
        return self.ratio >= ALARMING_USAGE

    def __str__(self) -> str:
        if not self.alarming:
            return f"{self.ratio:.0%} full"
        suspects = ", ".join(self.suspects) or "none that this role may see"
        return (
            f"{self.ratio:.0%} full: a session that listens sits in a transaction. When it is"
            " full, every COMMIT after a NOTIFY fails, in all databases of the server. End that"
            f" session by pg_terminate_backend(pid); the oldest transactions: {suspects}."
        )


async def look(connection: Connection) -> Usage:
    """Ask the server how full its queue is, and who may be the cause."""
    row = await (await connection.execute(QUERY, [ALARMING_USAGE])).fetchone()
    ratio, suspects = row or (0.0, ())
    return Usage(ratio, tuple(suspects))


class Watch:
    """Keeps the metric, and logs once when the queue fills and once when it has emptied."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._alarmed = False

    async def look(self, connection: Connection) -> None:
        """Look now."""
        usage = await look(connection)
        self._metrics.notify_queue_ratio = usage.ratio
        if usage.alarming and not self._alarmed:
            extra = {"action": "notify-queue-full"}
            logger.error("The server's notify queue is %s", usage, extra=extra)
        elif self._alarmed and not usage.alarming:
            extra = {"action": "notify-queue-free"}
            logger.warning("The server's notify queue is %s again", usage, extra=extra)
        self._alarmed = usage.alarming
