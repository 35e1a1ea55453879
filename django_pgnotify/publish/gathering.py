"""Install: the part of a trigger function that deals with everything but the usual statement.

Events are gathered in an array. Those of a small statement fit one ledger row, which the caller
inserts outside of the block that catches errors; only a bulk statement inserts within.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..ledger.install import literal
from .declaration import SCHEMA_PLACEHOLDER, Group
from .queries import EventQueries
from .recognition import Recognition

OLD_ROWS, NEW_ROWS = "pgnotify_old", "pgnotify_new"
CHUNK_ROWS = 1000  # events of a bulk statement in one ledger row
CHUNK_BYTES = 4 * 1024 * 1024  # of one ledger row, unless a single event is larger
EVENTS = "'[' || array_to_string(_pgn_events, ',') || ']'"
MISSING = "('42P01', '3F000')"  # undefined_table, invalid_schema_name


@dataclass(frozen=True, kw_only=True)
class Gathering(Recognition):
    """What a declaration's function for one operation is made of, and its part that gathers."""

    operation: str
    model: str
    """``label_lower``."""
    context: tuple[str, ...]
    """Keys of the context that subscribers may see."""
    operations: list[str]
    """Those that have a trigger."""
    queries: EventQueries

    def _gather_all(self) -> str:
        """A block that sets ``_pgn_changes`` to what is still to be inserted, NULL for nothing."""
        return f"""DECLARE
            _pgn_schema text; -- of the declared table
            _pgn_nested boolean := false;
            _pgn_moved boolean := false;
            _pgn_repeated boolean;
            _pgn_event text;
            _pgn_events text[] := '{{}}';
            _pgn_bytes bigint := 0;
        BEGIN
            BEGIN
                {self._registered()}
                {self._note_nesting()}{self._events()}
            EXCEPTION WHEN OTHERS THEN
                IF _pgn_schema IS NULL AND SQLSTATE IN {MISSING} THEN
                    RETURN NULL; -- the ledger is not installed yet, or any more
                END IF;
                RAISE WARNING 'django_pgnotify: trigger % on % could not tell what happened: %',
                    TG_NAME, TG_TABLE_NAME, SQLERRM;
                IF _pgn_schema IS NULL THEN
                    RETURN NULL; -- not even if it may
                END IF;
                _pgn_events := ARRAY[{self._whole(truncated=True)}];
            END;
            _pgn_changes := nullif({EVENTS}, '[]');
        END;"""

    def _note_nesting(self) -> str:
        """A user's AFTER ROW triggers run before statement triggers. Where they wrote this table,
        their events are in the ledger already, and those of the outer statement come too late: so
        a nested run leaves a note for the outer one, which then tells what its rows have become.
        The note holds the time of the client's statement, and is void in the next one."""
        setting = "current_setting('django_pgnotify.nested', true)"
        topic = literal(f",{self.topic},")
        stamp = "extract(epoch FROM statement_timestamp())::text"
        return f"""IF {setting} <> '' THEN
            _pgn_nested := strpos({setting}, {topic}) > 0 AND starts_with({setting}, {stamp});
        END IF;
        IF pg_trigger_depth() > 1 AND NOT _pgn_nested THEN
            PERFORM set_config('django_pgnotify.nested',
                CASE WHEN starts_with({setting}, {stamp}) THEN {setting} ELSE {stamp} END || {topic}, true);
        END IF;"""

    def _events(self) -> str:
        """Gather the operation's events."""
        if self.operation == "truncate":
            return f"""
            _pgn_events := ARRAY[{self._whole()}];"""
        old, new = OLD_ROWS, NEW_ROWS
        if self.relation.by_row:
            old, new = self.relation.record("OLD"), self.relation.record("NEW")
        if self.operation == "update":
            return self._gather_update(old, new) + self._gather_become(new)
        plain = (
            self.queries.insert(new) if self.operation == "insert" else self.queries.delete(old)
        )
        written = new if self.operation == "insert" else old
        return self._gather(plain) + self._gather_become(written)

    def _gather_update(self, old: str, new: str) -> str:
        repeated = "false" if self.relation.by_row else self.queries.repeated(new)
        moves = self._gather(self.queries.moves(old, new, all_if="_pgn_repeated"))
        if "update" not in self.queries.on:
            stays = "_pgn_moved := true;"
        else:
            stays = self._gather(self.queries.update(old, new), unless="_pgn_moved := true;")
        return f"""
            _pgn_repeated := {repeated};
            IF NOT _pgn_repeated THEN {stays}
            END IF;
            IF _pgn_moved OR _pgn_repeated THEN{moves}
            END IF;"""

    def _gather_become(self, written: str) -> str:
        """Add what the statement's rows have become by writes of triggers that ran before."""
        others = {"insert": {"update", "delete"}, "update": {"update"}, "delete": {"insert"}}
        if not others[self.operation] & set(self.operations):
            return ""
        now = self.queries.now(written, self.relation.qualified)
        if self.operation == "delete":
            become = self.queries.insert(now)
        else:
            become = self.queries.stays_and_moves(written, now)
        return f"""
            IF _pgn_nested THEN
                IF row_security_active(TG_RELID) THEN
                    RAISE 'row-level security hides what has become of the rows';
                END IF;{self._gather(become)}
            END IF;"""

    def _gather(self, query: str, unless: str = "") -> str:
        """Add the query's events to the array, and put it into the ledger when it is full.
        `unless` is done instead for an event that is NULL."""
        skip = f"IF _pgn_event IS NULL THEN {unless} CONTINUE; END IF;" if unless else ""
        return f"""
            FOR _pgn_event IN
                {query}
            LOOP
                {skip}
                IF cardinality(_pgn_events) >= {CHUNK_ROWS}
                    OR _pgn_bytes + octet_length(_pgn_event) > {CHUNK_BYTES} AND _pgn_bytes > 0
                THEN
                    {self._insert(EVENTS)};
                    _pgn_events := '{{}}';
                    _pgn_bytes := 0;
                    PERFORM {self.ledger}.pgnotify_watch();
                END IF;
                _pgn_events := array_append(_pgn_events, _pgn_event);
                _pgn_bytes := _pgn_bytes + octet_length(_pgn_event);
            END LOOP;"""

    def _insert(self, changes: str, *, unless: str = "") -> str:
        keys = ", ".join(literal(key) for key in self.context)
        columns = ", ".join(
            [
                literal(self.topic),
                literal(self.model),
                changes,
                "nullif(current_setting('django_pgnotify.context', true), '')",
                f"ARRAY[{keys}]" if keys else "NULL",
            ]
        )
        values = f"SELECT {columns} WHERE NOT {unless}" if unless else f"VALUES ({columns})"
        return (
            f"INSERT INTO {self.ledger}.django_pgnotify_ledger (topic, model, changes, context, context_keys)\n"
            f"        {values}"
        )

    def _whole(self, *, truncated: bool = False) -> str:
        """One event for the whole statement: to the plain groups, and by template to the rest."""
        flag = ',"truncated":true' if truncated else ""
        pieces = [
            literal(f'{{"kind":"{self.operation}","pk":null{flag},"groups":'),
            self.queries.static_groups_json(),
            *self._templates(),
            literal("}"),
        ]
        return " || ".join(pieces)

    def _templates(self) -> list[str]:
        """Templates that a row fills. What ``{schema}`` stands for is said: other tenants must not
        learn of it."""
        texts = [self._template(group) for group in self.queries.groups if group.of_row]
        if not texts:
            return []
        separator = literal('","')
        listed = f" || {separator} || ".join(texts)
        return [literal(',"templates":["'), listed, literal('"]')]

    def _template(self, group: Group) -> str:
        text = literal(group.template.text)
        if None not in group.columns:
            return text
        part = f"{self.ledger}.pgnotify_group_part({self.queries.columns.schema}, false)"
        known = f"{literal('{schema=')} || {part} || {literal('}')}"
        return f"replace({text}, {literal(SCHEMA_PLACEHOLDER)}, {known})"
