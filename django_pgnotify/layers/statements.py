"""Statements: what waits for the sender's connection, and which of it goes together."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, LiteralString

from ..jsontext import dumps

NOTIFICATIONS_AT_ONCE = 100
"""Notifications in one statement: 800 KB at most."""
NOTIFY: LiteralString = "SELECT pg_notify(%s, %s)"
# As JSON: psycopg takes longer to write an array than the server to send what is in it.
NOTIFY_ALL: LiteralString = """
    SELECT pg_notify(sent ->> 0, sent ->> 1)
    FROM json_array_elements(%s::json) WITH ORDINALITY AS pairs (sent, place)
    ORDER BY place
"""

Parameters = Sequence[Any] | Mapping[str, Any]
Rows = list[tuple[Any, ...]]


@dataclass(frozen=True, slots=True, eq=False)
class Statement:
    """One that waits for its turn, and whoever waits for its rows."""

    query: LiteralString
    parameters: Parameters
    done: asyncio.Future[Rows]
    binary: bool = False
    """Ask for the rows in PostgreSQL's binary form."""
    unwanted: Callable[[Rows], object] | None = None
    """Gets the rows where nobody waits any more."""
    is_repeatable: bool = False
    """True if it must be run again where nobody knows whether it was."""

    @property
    def is_void(self) -> bool:
        """True if nobody waits for it any more, and what it gives would only be given back."""
        return self.unwanted is not None and self.done.cancelled()

    @property
    def is_notification(self) -> bool:
        """True if it may go together with others of the kind."""
        return self.query is NOTIFY


def taken(waiting: deque[Statement]) -> list[Statement]:
    """Take from the left what goes together: one statement, or some notifications that are all
    different, for of two equal ones in a transaction PostgreSQL sends one; or nothing."""
    while waiting and waiting[0].is_void:
        waiting.popleft()
    if not waiting:
        return []
    batch = [waiting.popleft()]
    if not batch[0].is_notification:
        return batch
    seen = {tuple(batch[0].parameters)}
    while waiting and waiting[0].is_notification and len(batch) < NOTIFICATIONS_AT_ONCE:
        if (parameters := tuple(waiting[0].parameters)) in seen:
            break
        seen.add(parameters)
        batch.append(waiting.popleft())
    return batch


def joined(batch: list[Statement]) -> Statement:
    """The one statement that does what all of the batch do."""
    if len(batch) == 1:
        return batch[0]
    pairs = dumps([statement.parameters for statement in batch])
    return Statement(NOTIFY_ALL, (pairs,), batch[0].done)


def succeed(batch: Iterable[Statement], rows: Rows) -> None:
    """Give the rows to whoever still waits."""
    for statement in batch:
        if not statement.done.done():
            statement.done.set_result(rows)
        elif statement.unwanted is not None:
            statement.unwanted(rows)


def fail(batch: Iterable[Statement], error: Exception) -> None:
    """Give the error to whoever still waits."""
    for statement in batch:
        if not statement.done.done():
            statement.done.set_exception(error)
