"""Tables made for one test, and the events that they leave in the ledger."""

from __future__ import annotations

import copy
import json
from typing import Any

from django.apps.registry import Apps
from django.db import connection, models


def make(
    name: str = "Thing",
    *,
    constraints: list[Any],
    base: Any = models.Model,
    create: bool = True,
    apps: Apps | None = None,
    db_table: str | None = None,
    **fields: Any,
) -> Any:
    """A model of the app ``made``, with its table created by Django's schema editor.

    In a plain ``django_db`` test both are gone with its transaction; else see ``drop``.
    """
    options = {
        "app_label": "made",
        "apps": apps or Apps(),
        "constraints": constraints,
        "db_table": db_table or f"made_{name.lower()}",
    }
    meta = type("Meta", (), options)
    own = {
        key: copy.deepcopy(field) for key, field in fields.items()
    }  # a model binds its fields
    model = type(name, (base,), {"__module__": __name__, "Meta": meta, **own})
    if create:
        with connection.schema_editor() as editor:
            editor.create_model(model)
    return model


def drop(model: Any) -> None:
    """Drop the table, its trigger functions and their entries."""
    with connection.schema_editor() as editor:
        for constraint in model._meta.constraints:
            editor.remove_constraint(model, constraint)
        editor.delete_model(model)


def run(sql: str, *params: Any) -> list[tuple[Any, ...]]:
    """Run SQL as anybody's program would, past the ORM."""
    with connection.cursor() as cursor:
        cursor.execute(sql, params or None)
        return cursor.fetchall() if cursor.description else []


class Ledger:
    """Reads what came into the ledger since the last look."""

    def __init__(self, schema: str = "public") -> None:
        self.table = f'"{schema}".django_pgnotify_ledger'
        self.seen = run(f"SELECT coalesce(max(id), 0) FROM {self.table}")[0][0]

    def rows(self) -> list[dict[str, Any]]:
        """New ledger rows, oldest first, with their changes parsed."""
        names = ("id", "topic", "model", "changes", "context", "context_keys")
        found = run(
            f"SELECT {', '.join(names)} FROM {self.table} WHERE id > %s ORDER BY id", self.seen
        )
        rows = [dict(zip(names, row, strict=True)) for row in found]
        if rows:
            self.seen = rows[-1]["id"]
        return [{**row, "changes": json.loads(row["changes"])} for row in rows]

    def take(self) -> list[dict[str, Any]]:
        """New changes, flattened."""
        return [change for row in self.rows() for change in row["changes"]]
