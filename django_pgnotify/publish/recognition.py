"""Install: the part of a trigger function that tells whether its table is a declared one, and whether
the ledger takes events."""

from __future__ import annotations

from dataclasses import dataclass

from ..ledger.install import literal
from .relation import Relation


@dataclass(frozen=True, kw_only=True)
class Recognition:
    """What a function must know of its table and of the ledger."""

    ledger: str
    """The ledger's schema, quoted."""
    is_registered: bool
    """False before the ledger is there: then migrate registers the trigger later."""
    topic: str
    relation: Relation

    def _full(self) -> str:
        """True if the ledger is full. Raises without ledger or registry: a ``regclass`` is looked
        up when it is planned, and again after a DROP."""
        known = f"f.tableoid NOT IN ({self._table('ledger')}::regclass, {self._table('trigger')}::regclass)"
        return f"EXISTS (SELECT FROM {self.ledger}.django_pgnotify_full AS f WHERE {known})"

    def _is_full(self) -> str:
        """True if the ledger is full, where it is known to be there."""
        return f"EXISTS (SELECT FROM {self.ledger}.django_pgnotify_full)"

    def _table(self, name: str) -> str:
        return literal(f"{self.ledger}.django_pgnotify_{name}")

    def _registered(self) -> str:
        """End for a full ledger, and for a table that nobody declared; else set ``_pgn_schema``."""
        return f"""IF {self._full()} THEN
            RETURN NULL;
        END IF;
        {self._declared()}
        IF _pgn_schema IS NULL THEN
            RETURN NULL; -- attached to a table that nobody declared
        END IF;"""

    def _declared(self) -> str:
        """Set ``_pgn_schema`` if the table is declared: by the name that it had when this was
        installed and registered, which costs nothing; else by its oid, or its name after a
        restore that gave it another oid. Two look-ups by index: tenants make the registry long."""
        mine = f"FROM {self.ledger}.django_pgnotify_trigger AS r WHERE r.name = {literal(self.topic)} AND"
        if not self.relation.by_row:
            schema, name = literal(self.relation.schema), literal(self.relation.name)
            known = f"TG_TABLE_NAME = {name} AND TG_TABLE_SCHEMA = {schema}"
            return f"""IF {known if self.is_registered else "false"} THEN
            _pgn_schema := TG_TABLE_SCHEMA;
        ELSIF EXISTS (SELECT {mine} r.relation = TG_RELID)
            OR EXISTS (SELECT {mine} (r.schema, r."table") = (TG_TABLE_SCHEMA, TG_TABLE_NAME))
        THEN
            _pgn_schema := TG_TABLE_SCHEMA;
        END IF;"""
        # The trigger is cloned to partitions, so an ancestor may be what was declared.
        return (
            "SELECT s.nspname INTO _pgn_schema FROM pg_class AS c"
            " JOIN pg_namespace AS s ON s.oid = c.relnamespace"
            " WHERE c.oid IN (SELECT TG_RELID UNION SELECT pg_partition_ancestors(TG_RELID))"
            f" AND (EXISTS (SELECT {mine} r.relation = c.oid) OR EXISTS (SELECT {mine}"
            f' (r.schema, r."table") = (s.nspname, c.relname)));{self._note_declared()}'
        )

    def _note_declared(self) -> str:
        """Of a partition, which has an oid and a name of its own: the next rows of the transaction
        need not ask the registry again."""
        note = self._declared_note()
        return f"""
        IF _pgn_schema = {literal(self.relation.schema)} AND NOT {self._is_noted()} THEN
            PERFORM set_config('django_pgnotify.declared',
                coalesce(current_setting('django_pgnotify.declared', true), '') || {note}, true);
        END IF;"""

    def _is_noted(self) -> str:
        """True if _note_declared() has left a note in this transaction. Never NULL."""
        setting = "current_setting('django_pgnotify.declared', true)"
        return f"coalesce(strpos({setting}, {self._declared_note()}) > 0, false)"

    def _declared_note(self) -> str:
        return f"({literal(f',{self.topic} ')} || TG_RELID || ',')"
