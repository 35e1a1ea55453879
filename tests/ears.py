"""A plain listening connection, read up to a marker: so absence is proved without waiting."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any

from django.db import transaction

from django_pgnotify.publish.live import LIVE_PG_CHANNEL, unpack_live
from tests.sessions import open_session

MARKER = "the tests' marker"


class Rollback(Exception):
    """Raised by a test to roll back."""


@contextmanager
def rolled_back(using: str = "default") -> Iterator[None]:
    """A transaction, or a savepoint of one, that is rolled back by an error."""
    with suppress(Rollback), transaction.atomic(using):
        yield
        raise Rollback


class Ears:
    """Hears the live pg channel of one database from its creation on."""

    def __init__(self, using: str = "default") -> None:
        self.connection = open_session(using, autocommit=True)
        self.connection.execute(f"LISTEN {LIVE_PG_CHANNEL}")

    def payloads(self) -> list[str]:
        """Everything committed before this call."""
        self.connection.execute("SELECT pg_notify(%s, %s)", [LIVE_PG_CHANNEL, MARKER])
        found: list[str] = []
        for notification in self.connection.notifies():
            if notification.payload == MARKER:
                break
            found.append(notification.payload)
        return found

    def events(self) -> list[dict[str, Any]]:
        """The event objects, each with its ``groups``."""
        unpacked = [unpack_live(payload) for payload in self.payloads()]
        assert None not in unpacked
        return [{**event, "groups": groups} for event, groups in filter(None, unpacked)]

    def data(self) -> list[Any]:
        return [event.get("data") for event in self.events()]

    def __enter__(self) -> Ears:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.connection.close()


class LedgerReader:
    """Reads what has come into a database's ledger since the last look, as committed."""

    def __init__(self, using: str = "default") -> None:
        self.connection = open_session(using, autocommit=True)
        found = self.connection.execute(
            "SELECT coalesce(max(id), 0) FROM django_pgnotify_ledger"
        )
        (self.seen,) = found.fetchone() or (0,)

    def rows(self) -> list[dict[str, Any]]:
        """New rows, oldest first; ``changes`` and ``context`` parsed."""
        cursor = self.connection.execute(
            "SELECT id, topic, model, changes, context FROM django_pgnotify_ledger"
            " WHERE id > %s ORDER BY id",
            [self.seen],
        )
        names = [column.name for column in cursor.description or ()]
        rows = [dict(zip(names, row, strict=True)) for row in cursor]
        self.seen = rows[-1]["id"] if rows else self.seen
        return [
            {
                **row,
                "changes": json.loads(row["changes"]),
                "context": json.loads(row["context"] or "null"),
            }
            for row in rows
        ]

    def changes(self) -> list[dict[str, Any]]:
        """The changes of the new rows."""
        return [change for row in self.rows() for change in row["changes"]]

    def data(self) -> list[Any]:
        return [change.get("data") for change in self.changes()]

    def __enter__(self) -> LedgerReader:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.connection.close()
