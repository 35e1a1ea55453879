"""Install: a declaration becomes the text of its function, triggers and registry entry.

The function must never fail the statement that fired it. So it works in a block with an
exception handler, and what the block can't say (a column renamed between two migrations, values
too large for memory) becomes one ``truncated`` event for the whole statement: without a key, since
in such a moment nobody can tell which groups may know it. The usual statement touches few rows: its
events are read into a variable and inserted outside of the block, so that no subtransaction gets an
xid; only bulk statements insert inside.
"""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from typing import TYPE_CHECKING, Any

from django.db import models
from django.db.backends.ddl_references import Statement, Table

from ..ledger.install import literal, schema_for_ledger
from . import declaration as declared
from .queries import EVENT_BYTES, EventQueries, may_be_large
from .relation import Relation, relation_of

if TYPE_CHECKING:
    from django.db.backends.base.schema import BaseDatabaseSchemaEditor

    from .trigger import NotifyTrigger

FUNCTION_PREFIX = "pgnotify_"
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


class TableLiteral(Table):
    """A table reference that stands as the literal of its quoted name."""

    def __str__(self) -> str:
        return literal(super().__str__())


def create_statement(
    trigger: NotifyTrigger, model: type[models.Model], schema_editor: BaseDatabaseSchemaEditor
) -> Statement:
    """Everything that installs the trigger, as one deferrable statement."""
    return Compiler(trigger, model, schema_editor).create()


def remove_statement(
    trigger: NotifyTrigger, model: type[models.Model], schema_editor: BaseDatabaseSchemaEditor
) -> Statement:
    """Everything that takes the trigger away."""
    return Compiler(trigger, model, schema_editor).remove()


class Compiler:
    """The SQL of one declaration on one model in one database."""

    def __init__(
        self,
        trigger: NotifyTrigger,
        model: type[models.Model],
        schema_editor: BaseDatabaseSchemaEditor,
    ) -> None:
        self.trigger = trigger
        self.model = model
        self.editor = schema_editor
        self.quote = schema_editor.connection.ops.quote_name
        self.ledger = self.quote(schema_for_ledger(schema_editor.connection))

    @cached_property
    def function(self) -> str:
        """The function's name. Qualified: of two tenants each has its own, wherever the
        search_path begins, and dropping one takes nothing from the other."""
        name = self.quote(FUNCTION_PREFIX + self.trigger.topic)
        return f"{self.quote(self.relation.schema)}.{name}"

    @cached_property
    def relation(self) -> Relation:
        """What the table is in the database now; a plain table if it is not there yet."""
        return relation_of(self.editor.connection, self.model._meta.db_table)

    @cached_property
    def queries(self) -> EventQueries:
        """The event queries of the declaration."""
        trigger, model = self.trigger, self.model
        changed, condition = trigger.changed, trigger.condition
        return EventQueries(
            ledger=self.ledger,
            pk=declared.primary_key(model),
            data=declared.disclosed(trigger, model),
            changed=None if changed is None else [declared.resolve(model, n) for n in changed],
            groups=declared.groups(trigger, model),
            condition=None
            if condition is None
            else declared.condition_sql(condition, model, self.editor),
            on=trigger.on,
            quote=self.quote,
        )

    @property
    def operations(self) -> list[str]:
        """The operations that get a trigger. Without "update" in ``on`` an UPDATE matters only
        if it can move rows."""
        on = set(self.trigger.on)
        if self.queries.rows_move and on & {"insert", "delete"}:
            on.add("update")
        return [
            operation
            for operation in ("insert", "update", "delete", "truncate")
            if operation in on
        ]

    @cached_property
    def version(self) -> str:
        """Short hash of all that is installed: a different one is outdated."""
        text = self.function_sql() + self.triggers_sql()
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def create(self) -> Statement:
        """See create_statement()."""
        return self._statement(
            self.triggers_sql() + self._register(), function=self.function_sql()
        )

    def remove(self) -> Statement:
        """See remove_statement()."""
        drops = "".join(
            f"DROP TRIGGER IF EXISTS {self._name(operation)} ON %(table)s;\n"
            for operation in ("insert", "update", "delete", "truncate")
        )
        return self._statement(drops + self._unregister(), function="")

    def _statement(self, template: str, *, function: str) -> Statement:
        table = self.model._meta.db_table
        escaped = template.replace("%", "%%").replace("%%(table", "%(table")
        return Statement(
            "%(function)s" + escaped,
            function=function,
            table=Table(table, self.quote),
            table_literal=TableLiteral(table, self.quote),
        )

    def declaration(self) -> dict[str, Any]:
        """The declaration as the registry keeps it."""
        _, _, kwargs = self.trigger.deconstruct()
        condition = self.queries.condition
        known = {"condition": condition} if condition else {}
        return {
            **kwargs,
            **known,
            "model": self.model._meta.label_lower,
            "groups": list(self.trigger.group_templates),
        }

    # The triggers

    def triggers_sql(self) -> str:
        """CREATE TRIGGER for each operation; ``%(table)s`` stands for the table."""
        return "".join(self._trigger(operation) for operation in self.operations)

    def _trigger(self, operation: str) -> str:
        rows = {
            "insert": f"REFERENCING NEW TABLE AS {NEW_ROWS} ",
            "update": f"REFERENCING OLD TABLE AS {OLD_ROWS} NEW TABLE AS {NEW_ROWS} ",
            "delete": f"REFERENCING OLD TABLE AS {OLD_ROWS} ",
            "truncate": "",
        }[operation]
        by_row = self.relation.by_row and operation != "truncate"
        each = "FOR EACH ROW" if by_row else f"{rows}FOR EACH STATEMENT"
        return (
            f"CREATE OR REPLACE TRIGGER {self._name(operation)} AFTER {operation.upper()} ON %(table)s\n"
            f"    {each} EXECUTE FUNCTION {self.function}();\n"
        )

    @property
    def trigger_names(self) -> list[str]:
        """Names of the triggers that ought to stand on the table."""
        return [f"{self.trigger.topic}_{operation}" for operation in self.operations]

    def _name(self, operation: str) -> str:
        return str(self.quote(f"{self.trigger.topic}_{operation}"))

    # The function

    def function_sql(self) -> str:
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
            f"CREATE OR REPLACE FUNCTION {self.function}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER\n"
            f"SET search_path = pg_catalog, pg_temp SET extra_float_digits = 1\nAS $pgnotify${body}$pgnotify$;\n"
            f"COMMENT ON FUNCTION {self.function}() IS 'django_pgnotify';\n"
            f"REVOKE ALL ON FUNCTION {self.function}() FROM PUBLIC;\n"
        )

    def _registered(self, registry: str) -> str:
        """Set ``_pgn_schema`` if the table is declared: by oid, or by name after a restore that
        gave it another. Two look-ups by index: tenants make the registry long. And not if the
        ledger is full: one query costs less than two."""
        room = f"NOT EXISTS (SELECT FROM {self.ledger}.django_pgnotify_full)"
        mine = f"FROM {registry} AS r WHERE r.name = {literal(self.trigger.topic)} AND"
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
        topic = literal(f",{self.trigger.topic},")
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
        keys = ", ".join(literal(key) for key in self.trigger.context)
        return (
            f"{literal(self.trigger.topic)}, {literal(self.model._meta.label_lower)}, {changes}, "
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

    # The registry

    def _register(self) -> str:
        return f"""DO $pgnotify$
BEGIN
    IF to_regclass({literal(self.ledger + ".django_pgnotify_trigger")}) IS NOT NULL THEN
        INSERT INTO {self.ledger}.django_pgnotify_trigger AS r
            (schema, "table", name, relation, function, declaration, version)
        SELECT s.nspname, c.relname, {literal(self.trigger.topic)}, c.oid,
            pg_catalog.quote_ident(f.nspname) || '.' || pg_catalog.quote_ident(p.proname) || '()',
            {literal(json.dumps(self.declaration()))}, '{self.version}'
        FROM pg_catalog.pg_class AS c
        JOIN pg_catalog.pg_namespace AS s ON s.oid = c.relnamespace
        JOIN pg_catalog.pg_trigger AS t ON t.tgrelid = c.oid
        JOIN pg_catalog.pg_proc AS p ON p.oid = t.tgfoid
        JOIN pg_catalog.pg_namespace AS f ON f.oid = p.pronamespace
        WHERE c.oid = to_regclass(%(table_literal)s)
            AND t.tgname = {literal(self.trigger_names[0])}
        ON CONFLICT (schema, name) DO UPDATE SET "table" = excluded."table", relation = excluded.relation,
            function = excluded.function, declaration = excluded.declaration, version = excluded.version;
    END IF;
END $pgnotify$;
"""

    def _unregister(self) -> str:
        return f"""DROP FUNCTION IF EXISTS {self.function}();
DO $pgnotify$
BEGIN
    IF to_regclass({literal(self.ledger + ".django_pgnotify_trigger")}) IS NOT NULL THEN
        DELETE FROM {self.ledger}.django_pgnotify_trigger AS r
        WHERE r.name = {literal(self.trigger.topic)} AND r.relation = to_regclass(%(table_literal)s)::oid;
    END IF;
END $pgnotify$;
"""
