"""Install: the text of a trigger function, of which each operation has one.

A session keeps in memory what it has run of a function, for each trigger anew: with all operations
in one it would keep three times what it needs.

The function must never fail the statement that fired it. So it works in a block with an
exception handler, and what the block can't say (a column renamed between two migrations, values
too large for memory) becomes one ``truncated`` event for the whole statement: without a key, since
in such a moment nobody can tell which groups may know it. What is inserted outside of the block
gives no subtransaction an xid.

What a statement of one row costs is hardly its rows but the number of queries: PostgreSQL sets each
up anew. An expression without a table is none, and costs next to nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from ..ledger.bell import PULL, needed_sql
from ..ledger.install import literal
from .gathering import NEW_ROWS, OLD_ROWS, Gathering
from .pieces import Pieces
from .rows import RowStatements
from .text import formatted

# After larger rows, and after one of so many smaller ones, the trigger looks how large the ledger
# is: 16 MiB go by between two looks, some microseconds each.
WATCH_BYTES = 64 * 1024
WATCH_EVERY = 256


@dataclass(frozen=True, kw_only=True)
class TriggerFunction(Gathering):
    """The function of a declaration for one operation."""

    name: str
    """Qualified and quoted."""
    schema: str
    """The ledger's."""

    def create_sql(self) -> str:
        """CREATE FUNCTION with everything that it needs."""
        body = f"""
#variable_conflict use_column
DECLARE
    _pgn_slow boolean;
    _pgn_changes text;
    _pgn_watches boolean;
    _pgn_rings boolean;
BEGIN
    {self._look_quickly()}
    IF _pgn_slow THEN
        {self._gather_all()}
    END IF;
    IF _pgn_changes IS NOT NULL THEN
        {self._insert("_pgn_changes", unless=self._is_full() if self.relation.by_row else "")}
            RETURNING octet_length(_pgn_changes) > {WATCH_BYTES}
                OR date_part('microseconds', clock_timestamp())::int % {WATCH_EVERY} = 0,
                {needed_sql(self.schema)} -- no column, which would take a right to SELECT
            INTO _pgn_watches, _pgn_rings;
        IF _pgn_rings THEN
            {PULL}
        END IF;
        IF _pgn_watches THEN
            PERFORM {self.ledger}.pgnotify_watch();
        END IF;
    END IF;
    RETURN NULL;
END """
        # Floats as text follow extra_float_digits; 1 is the shortest exact form.
        return (
            f"CREATE OR REPLACE FUNCTION {self.name}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER\n"
            f"SET search_path = pg_catalog, pg_temp SET extra_float_digits = 1\nAS $pgnotify${body}$pgnotify$;\n"
            f"COMMENT ON FUNCTION {self.name}() IS 'django_pgnotify';\n"
            f"REVOKE ALL ON FUNCTION {self.name}() FROM PUBLIC;\n"
        )

    def _look_quickly(self) -> str:
        """Deal with the usual statement, which changes one row of the declared table, by a single
        query. Whatever is unusual about it, an error included, is left to the rest: there a
        session also pays for each variable and expression that it comes by."""
        if not self.is_registered or self.operation == "truncate":
            return "_pgn_slow := true;"
        look = self._row() if self.relation.by_row else self._single()
        return f"""BEGIN
        IF pg_trigger_depth() > 1 OR current_setting('django_pgnotify.nested', true) <> ''
            OR {self._is_strange()}
        THEN
            _pgn_slow := true;
        ELSE
            {look}
        END IF;
    EXCEPTION WHEN OTHERS THEN
        _pgn_slow := true;
    END;"""

    def _single(self) -> str:
        rows = OLD_ROWS if self.operation == "delete" else NEW_ROWS
        columns = replace(self.queries.columns, schema=literal(self.relation.schema))
        queries = replace(self.queries, columns=columns, text=formatted)
        unless = f"EXISTS (SELECT FROM {rows} OFFSET 1) OR {self._full()}"
        query = queries.single(self.operation, OLD_ROWS, NEW_ROWS, unless=unless)
        # LIMIT, since plpgsql.extra_warnings would tell of a second row.
        return f"{query}\nLIMIT 1 INTO _pgn_slow, _pgn_changes;"

    def _row(self) -> str:
        columns = replace(
            self.queries.columns, schema=literal(self.relation.schema), old="OLD", new="NEW"
        )
        pieces = {field.name: getattr(self.queries, field.name) for field in fields(Pieces)}
        pieces |= {"columns": columns, "text": formatted}
        return RowStatements(relation=self.relation, **pieces).of(self.operation)

    def _is_strange(self) -> str:
        """True of another table than the declared one, and, where no query says so by failing,
        without a ledger."""
        if not self.relation.by_row:
            return f"TG_RELID <> {literal(self.relation.qualified)}::regclass"
        tables = (self._table(name) for name in ("ledger", "full", "trigger"))
        missing = (f"to_regclass({table}) IS NULL" for table in tables)
        return "\n            OR ".join([f"NOT {self._is_noted()}", *missing])
