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
    qualified: str
    """Schema and name, quoted."""

    def record(self, variable: str) -> str:
        """A FROM item for NEW or OLD of a row trigger. Through JSON, because in a session that ran
        the function before, ``NEW.column`` fails after another session's ALTER COLUMN TYPE."""
        return f"jsonb_populate_record(NULL::{self.qualified}, to_jsonb({variable}))"


def relation_of(connection: BaseDatabaseWrapper, table: str) -> Relation:
    """Look the table up by the connection's search_path."""
    quoted = connection.ops.quote_name(table)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT c.relkind = 'p' OR c.relispartition,"
            " quote_ident(n.nspname) || '.' || quote_ident(c.relname)"
            " FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE c.oid = to_regclass(%s)",
            [quoted],
        )
        row = cursor.fetchone()
    if row is None:
        return Relation(exists=False, by_row=False, qualified=quoted)
    return Relation(exists=True, by_row=row[0], qualified=row[1])
