"""Install: the statements by which a row trigger's function tells what has become of one row.

NEW and OLD are at hand, so expressions do what is else done by queries, each of which PostgreSQL sets
up for every row. In a session that has run the function before, an ALTER COLUMN TYPE of another one
makes them fail: the caller catches that, and goes the long way.
"""

from __future__ import annotations

from dataclasses import dataclass

from .pieces import EVENT_BYTES, Pieces, any_of
from .relation import Relation
from .text import Raw


@dataclass(frozen=True, kw_only=True)
class RowStatements(Pieces):
    """Builds the statements of one declaration, whose `columns` are those of OLD and NEW.

    They set ``_pgn_changes`` to what goes into the ledger, if there is something to tell, and
    ``_pgn_slow`` to true for a row that moves.
    """

    relation: Relation

    def of(self, operation: str) -> str:
        """The statements for insert, update or delete."""
        if operation == "update":
            return self._update()
        row = self.columns.old if operation == "delete" else self.columns.new
        event = self._event(
            [Raw(f'{{"kind":"{operation}","pk":'), *self._pk(row)],
            self._data(row),
            self._tail(self._groups(row)),
        )
        return f"IF {self._in(row)} THEN {event} END IF;" if self.condition else event

    def _update(self) -> str:
        moves = any_of([f"({self._same_key()}) IS NOT TRUE", *self._relocations()])
        otherwise = ""
        if "update" in self.on:
            inside = f"{self._in(self.columns.new)} AND " if self.condition else ""
            otherwise = f"ELSIF {inside}{self._differs()} THEN {self._update_event()}"
        return f"IF {moves} THEN _pgn_slow := true; {otherwise} END IF;"

    def _update_event(self) -> str:
        row = self.columns.new
        return self._event(
            [Raw('{"kind":"update","pk":'), *self._pk(row)],
            self._data(row),
            [*self._changed(), *self._tail(self._groups(row))],
        )

    def _event(self, head: list[str], data: list[str], tail: list[str]) -> str:
        """Where the data may be too large for an event, they are built first, and looked at."""
        if not self._large:
            return self._assign([*head, *data, *tail])
        kept = (
            f"CASE WHEN octet_length(_pgn_changes) <= {EVENT_BYTES} THEN _pgn_changes"
            " ELSE ',\"truncated\":true' END"
        )
        return f"_pgn_changes := {self.text(data)}; {self._assign([*head, kept, *tail])}"

    def _assign(self, event: list[str]) -> str:
        return f"_pgn_changes := {self.text([Raw('['), *event, Raw(']')])};"

    def _in(self, row: str) -> str:
        # By record(): else a plan that the session has kept takes renamed columns for others.
        return f'(SELECT {self.condition} FROM {self.relation.record(row)} AS "~t")'
