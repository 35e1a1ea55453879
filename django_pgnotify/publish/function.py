"""Install: the text of a trigger function.

The function must never fail the statement that fired it. So it works in a block with an
exception handler, and what the block can't say (a column renamed between two migrations, values
too large for memory) becomes one ``truncated`` event for the whole statement: without a key, since
in such a moment nobody can tell which groups may know it. The usual statement touches few rows: its
events are read into a variable and inserted outside of the block, so that no subtransaction gets an
xid; only bulk statements insert inside.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from ..ledger.install import literal
from .queries import EVENT_BYTES, EventQueries, may_be_large
from .relation import Relation

OLD_ROWS, NEW_ROWS = "pgnotify_old", "pgnotify_new"
# Rows of a statement whose events fit into one ledger row, and into one value of 1 GB even if each
# is as large as EVENT_BYTES allows.
SMALL_ROWS = 50
CHUNK_ROWS = 1000  # rows of a bulk statement in one ledger row
CHUNK_BYTES = 4 * 1024 * 1024  # of one ledger row, unless a single event is larger
# After larger rows, and after one of so many smaller ones, the trigger looks how large the ledger
# is: 16 MiB go by between two looks, some microseconds each.
WATCH_BYTES = 64 * 1024
WATCH_EVERY = 256


@dataclass(frozen=True, kw_only=True)
class TriggerFunction:
    """What one declaration's function is made of."""

    name: str
    """Qualified and quoted."""
    ledger: str
    """The ledger's schema, quoted."""
    topic: str
    model: str
    """``label_lower``."""
    context: tuple[str, ...]
    """Keys of the context that subscribers may see."""
    operations: list[str]
    """Those that have a trigger."""
    relation: Relation
    queries: EventQueries

    def create_sql(self) -> str:
        """CREATE FUNCTION with everything that it needs."""
        branches = "\n        ELSIF ".join(
            f"TG_OP = '{operation.upper()}' THEN{self._branch(operation)}"
            for operation in self.operations
        )
        registry, ledger = (f"{self.ledger}.django_pgnotify_{t}" for t in ("trigger", "ledger"))
        body = f"""
#variable_conflict use_column
DECLARE
    _pgn_schema text; -- of the declared table
    _pgn_nested boolean;
    _pgn_rows bigint;
    _pgn_changes text;
BEGIN
    BEGIN
        IF to_regclass({literal(registry)}) IS NULL OR to_regclass({literal(ledger)}) IS NULL THEN
            RETURN NULL; -- not installed yet, or any more
        END IF;
        {self._registered(registry)}
        IF _pgn_schema IS NULL THEN
            RETURN NULL; -- attached to a table that nobody declared; or the ledger is full
        END IF;
        {self._note_nesting()}
        IF {branches}
        END IF;
    EXCEPTION WHEN OTHERS THEN
        RAISE WARNING 'django_pgnotify: trigger % on % could not tell what happened: %',
            TG_NAME, TG_TABLE_NAME, SQLERRM;
        IF _pgn_schema IS NULL THEN
            RETURN NULL; -- not even if it may
        END IF;
        _pgn_changes := {self._whole(truncated=True)};
    END;
    IF _pgn_changes IS NOT NULL THEN
        INSERT INTO {self.ledger}.django_pgnotify_ledger (topic, model, changes, context, context_keys)
        VALUES ({self._row("_pgn_changes")});
        PERFORM {self.ledger}.pgnotify_ring();
        IF octet_length(_pgn_changes) > {WATCH_BYTES}
            OR date_part('microseconds', clock_timestamp())::int % {WATCH_EVERY} = 0
        THEN
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

    def _registered(self, registry: str) -> str:
        """Set ``_pgn_schema`` if the table is declared: by oid, or by name after a restore that
        gave it another. Two look-ups by index: tenants make the registry long. And not if the
        ledger is full: one query costs less than two."""
        room = f"NOT EXISTS (SELECT FROM {self.ledger}.django_pgnotify_full)"
        mine = f"FROM {registry} AS r WHERE r.name = {literal(self.topic)} AND"
        if not self.relation.by_row:
            return (
                f"IF (EXISTS (SELECT {mine} r.relation = TG_RELID) OR EXISTS (SELECT {mine}"
                f' (r.schema, r."table") = (TG_TABLE_SCHEMA, TG_TABLE_NAME))) AND {room}'
                " THEN _pgn_schema := TG_TABLE_SCHEMA; END IF;"
            )
        # The trigger is cloned to partitions, so an ancestor may be what was declared.
        return (
            "SELECT s.nspname INTO _pgn_schema FROM pg_class AS c"
            " JOIN pg_namespace AS s ON s.oid = c.relnamespace"
            " WHERE c.oid IN (SELECT TG_RELID UNION SELECT pg_partition_ancestors(TG_RELID))"
            f" AND (EXISTS (SELECT {mine} r.relation = c.oid) OR EXISTS (SELECT {mine}"
            f' (r.schema, r."table") = (s.nspname, c.relname))) AND {room};'
        )

    def _branch(self, operation: str) -> str:
        if operation == "truncate":
            return f"""
            _pgn_changes := {self._whole()};"""
        query = self._query(operation)
        few = f"""SELECT '[' || string_agg({self._event()}, ',') || ']' INTO _pgn_changes
            FROM ({query}) AS "~e" (head, data, tail);"""
        if self.relation.by_row:
            count = "_pgn_rows := 1;"
        else:
            rows = OLD_ROWS if operation == "delete" else NEW_ROWS
            count = f'SELECT count(*) INTO _pgn_rows FROM (SELECT FROM {rows} LIMIT {SMALL_ROWS + 1}) AS "~c";'
        return f"""
            {count}
            IF _pgn_rows BETWEEN 1 AND {SMALL_ROWS} AND NOT _pgn_nested THEN
            {few}
            END IF;
            IF _pgn_rows > {SMALL_ROWS} OR _pgn_nested
                OR _pgn_rows > 1 AND octet_length(_pgn_changes) > {CHUNK_BYTES}
            THEN
                _pgn_changes := NULL;
                {self._bulk(query)}
            END IF;{self._catch_up(operation)}"""

    def _note_nesting(self) -> str:
        """A user's AFTER ROW triggers run before statement triggers. Where they wrote this table,
        their events are in the ledger already, and those of the outer statement come too late: so
        a nested run leaves a note for the outer one, which then tells what its rows have become.
        The note holds the time of the client's statement, and is void in the next one."""
        setting = "current_setting('django_pgnotify.nested', true)"
        topic = literal(f",{self.topic},")
        stamp = "extract(epoch FROM statement_timestamp())::text"
        return f"""_pgn_nested := coalesce(
            strpos({setting}, {topic}) > 0 AND starts_with({setting}, {stamp}), false);
        IF pg_trigger_depth() > 1 AND NOT _pgn_nested THEN
            PERFORM set_config('django_pgnotify.nested',
                CASE WHEN starts_with({setting}, {stamp}) THEN {setting} ELSE {stamp} END || {topic}, true);
        END IF;"""

    def _catch_up(self, operation: str) -> str:
        if operation == "delete" or "update" not in self.operations:
            return ""
        new = self.relation.record("NEW") if self.relation.by_row else NEW_ROWS
        return f"""
            IF _pgn_nested THEN
                {self._bulk(self.queries.caught_up(new, self.relation.qualified))}
            END IF;"""

    def _query(self, operation: str) -> str:
        old, new = (
            (self.relation.record("OLD"), self.relation.record("NEW"))
            if self.relation.by_row
            else (OLD_ROWS, NEW_ROWS)
        )
        match operation:
            case "insert":
                return self.queries.insert(new)
            case "delete":
                return self.queries.delete(old)
        return self.queries.update(old, new)

    def _event(self) -> str:
        data = '"~e".data'
        if any(may_be_large(column) for column in self.queries.data):
            data = (
                f'CASE WHEN octet_length("~e".data) <= {EVENT_BYTES} THEN "~e".data '
                "ELSE ',\"truncated\":true' END"
            )
        return f'"~e".head || {data} || "~e".tail'

    def _bulk(self, query: str) -> str:
        changes = """'[' || string_agg("~c".event, ',') || ']'"""
        return f"""INSERT INTO {self.ledger}.django_pgnotify_ledger
                    (topic, model, changes, context, context_keys)
                SELECT {self._row(changes)}
                FROM (
                    SELECT "~w".event, ("~w".place - 1) / {CHUNK_ROWS} AS by_rows,
                        "~w".bytes / {CHUNK_BYTES} AS by_bytes
                    FROM (
                        SELECT "~x".event, row_number() OVER () AS place,
                            sum(octet_length("~x".event)) OVER (ROWS UNBOUNDED PRECEDING) AS bytes
                        FROM (SELECT {self._event()} AS event
                            FROM ({query}) AS "~e" (head, data, tail)) AS "~x"
                    ) AS "~w"
                ) AS "~c"
                GROUP BY by_rows, by_bytes ORDER BY by_rows, by_bytes;
                IF FOUND THEN
                    PERFORM {self.ledger}.pgnotify_ring();
                    PERFORM {self.ledger}.pgnotify_watch();
                END IF;"""

    def _row(self, changes: str) -> str:
        keys = ", ".join(literal(key) for key in self.context)
        return (
            f"{literal(self.topic)}, {literal(self.model)}, {changes}, "
            "nullif(current_setting('django_pgnotify.context', true), ''), "
            + (f"ARRAY[{keys}]" if keys else "NULL")
        )

    def _whole(self, *, truncated: bool = False) -> str:
        """One event for the whole statement: to the plain groups, and by template to the rest."""
        flag = ',"truncated":true' if truncated else ""
        templates = [g.template.text for g in self.queries.groups if g.of_row]
        shown = f',"templates":{json.dumps(templates)}' if templates else ""
        pieces = [
            literal('[{"kind":"'),
            "lower(TG_OP)",
            literal(f'","pk":null{flag},"groups":'),
            self.queries.static_groups_json(),
            literal(shown + "}]"),
        ]
        return " || ".join(pieces)
