"""Tables made for one test, inside its transaction, and the events that they leave in the ledger."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.apps import apps
from django.apps.registry import Apps
from django.db import connection, models


def make(name: str = "Thing", *, constraints: list[Any], base: Any = models.Model, **fields: Any) -> Any:
    """A model of the app ``made``, with its table created by Django's schema editor."""
    meta = type(
        "Meta",
        (),
        {"app_label": "made", "apps": Apps(), "constraints": constraints, "db_table": fields.pop("db_table", f"made_{name.lower()}")},
    )
    model = type(name, (base,), {"__module__": __name__, "Meta": meta, **fields})
    with connection.schema_editor() as editor:
        editor.create_model(model)
    return model


def run(sql: str, *params: Any) -> list[tuple[Any, ...]]:
    """Run SQL as anybody's program would, past the ORM."""
    with connection.cursor() as cursor:
        cursor.execute(sql, params or None)
        return cursor.fetchall() if cursor.description else []


class Ledger:
    """Reads what came into the ledger since the last look."""

    def __init__(self) -> None:
        self.seen = 0
        self.take()

    def rows(self) -> list[dict[str, Any]]:
        """New ledger rows, oldest first, with their changes parsed."""
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT id, topic, model, changes, context, context_keys FROM django_pgnotify_ledger WHERE id > %s ORDER BY id",
                [self.seen],
            )
            names = [column.name for column in cursor.description]
            rows = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
        if rows:
            self.seen = rows[-1]["id"]
        return [{**row, "changes": json.loads(row["changes"])} for row in rows]

    def take(self) -> list[dict[str, Any]]:
        """New changes, flattened."""
        return [change for row in self.rows() for change in row["changes"]]
