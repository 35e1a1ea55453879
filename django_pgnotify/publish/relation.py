"""Install: what kind of table a trigger stands on, which decides how it reads rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper


@dataclass(frozen=True, kw_only=True)
class Relation:
    """A table as the database has it."""

    exists: bool
    by_row: bool
    """True for partitioned tables and partitions: PostgreSQL clones row triggers to partitions,
    statement triggers not, so only those see a write straight into one (CREATE TRIGGER, Notes)."""
    schema: str
    """The table's schema, or the one in which CREATE TABLE would make it."""
    name: str

    @property
    def qualified(self) -> str:
        """Schema and name, quoted."""
        return ".".join(
            '"' + name.replace('"', '""') + '"' for name in (self.schema, self.name)
        )

    def record(self, variable: str) -> str:
        """A FROM item for NEW or OLD of a row trigger. In a session that ran the function before,
        ``NEW.column`` fails after another session's ALTER COLUMN TYPE; so it is the whole row, and
        the table stands beside it, since it is by naming it that a plan learns of the change."""
        return (
            f"(SELECT {variable}.* WHERE NOT EXISTS (SELECT FROM {self.qualified} WHERE false))"
        )


def relation_of(connection: BaseDatabaseWrapper, table: str) -> Relation:
    """Look the table up by the connection's search_path."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT c.oid IS NOT NULL, coalesce(c.relkind = 'p' OR c.relispartition, false),"
            " coalesce(n.nspname, current_schema(), 'public'), coalesce(c.relname, %s)"
            " FROM (SELECT to_regclass(%s)::oid AS oid) AS t"
            " LEFT JOIN pg_class AS c ON c.oid = t.oid"
            " LEFT JOIN pg_namespace AS n ON n.oid = c.relnamespace",
            [table, connection.ops.quote_name(table)],
        )
        exists, by_row, schema, name = cursor.fetchone()
    return Relation(exists=exists, by_row=by_row, schema=schema, name=name)
