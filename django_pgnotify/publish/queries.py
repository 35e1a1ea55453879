"""Install: the queries by which a trigger function turns changed rows into JSON events.

Each query gives one event a row, as JSON text. PostgreSQL sets up an expression anew for every
statement that fires the trigger, so that short expressions are what single writes pay for. Aliases
hold a ``~``, since a user's column of an alias's name would hide the row behind it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .columns import NEW, OLD
from .pieces import EVENT_BYTES, Pieces, any_of
from .text import Raw


@dataclass(frozen=True, kw_only=True)
class EventQueries(Pieces):
    """Builds the queries of one declaration."""

    @property
    def rows_move(self) -> bool:
        """True if an update can move a row between groups or over the condition."""
        return self.condition is not None or any(group.of_row for group in self.groups)

    def insert(self, source: str) -> str:
        """Events of inserted rows; ``source`` is what stands in FROM."""
        return self._plain("insert", source, NEW)

    def delete(self, source: str) -> str:
        """Events of deleted rows."""
        return self._plain("delete", source, OLD)

    def update(self, old: str, new: str) -> str:
        """Events of updated rows that stay where they are; NULL for each row that does not: its
        key has changed, or it moved between groups or over the condition."""
        return self._update(self._pairs(old, new), self._moves())

    def moves(self, old: str, new: str, *, all_if: str) -> str:
        """Events of the updated rows for which ``update`` gives NULL: deletes and inserts, and
        updates in the groups that they stay in; of all rows, image by image, if `all_if` is true,
        as it must be where a key is ``repeated``."""
        in_turn = f"CASE WHEN {all_if} THEN row_number() OVER () ELSE 0 END"
        numbered = [f'(SELECT "~r".*, {in_turn} AS "~i" FROM {t} AS "~r")' for t in (old, new)]
        kinds = "\"~v\".kind = 'insert', \"~v\".kind = 'update'"  # behind deletes
        order = f'ORDER BY coalesce({OLD}."~i", {NEW}."~i"), {kinds}'
        return self._told(
            f'{self._pairs(*numbered)} AND {OLD}."~i" = {NEW}."~i"',
            f'WHERE ({all_if} OR {self._moves()}) AND "~v".report\n{order}',
        )

    def stays_and_moves(self, old: str, new: str) -> str:
        """Events of all updated rows, more slowly than by ``update`` and ``moves``."""
        return self._told(self._pairs(old, new), 'WHERE "~v".report')

    def repeated(self, new: str) -> str:
        """True if a row was updated several times. What foreign keys do to a table, ``SET NULL`` by
        two of them for instance, counts as one statement of it; nothing else does so."""
        writing = (
            "SELECT FROM pg_catalog.pg_constraint AS c WHERE c.conrelid = TG_RELID AND c.contype = 'f'"
            " AND (c.confupdtype NOT IN ('a', 'r') OR c.confdeltype NOT IN ('a', 'r'))"
        )
        twice = f"SELECT FROM {new} GROUP BY {self._keys()} HAVING count(*) > 1"
        return f"EXISTS ({writing}) AND EXISTS ({twice})"

    def _told(self, pairs: str, where: str) -> str:
        gone, came = f"{NEW}.{self._key()} IS NULL", f"{OLD}.{self._key()} IS NULL"
        deleted = "\"~v\".kind = 'delete'"
        changed = (
            f"CASE WHEN \"~v\".kind = 'update' THEN {self.text(self._changed())} "
            f"WHEN {came} OR {gone} THEN '' ELSE ',\"moved\":true' END"
        )
        names = f'{self.columns.ledger}.pgnotify_names("~v".names)'
        return self._event(
            [Raw('{"kind":"'), '"~v".kind', Raw('","pk":'), self._either(deleted, self._pk)],
            [self._either(deleted, self._data)],
            [changed, *self._tail([names])],
            source=(
                f"{pairs}\n"
                # OFFSET 0 keeps the planner from repeating the expressions wherever they are used.
                f"CROSS JOIN LATERAL (SELECT {self._inside(OLD)}, {self._inside(NEW)},"
                f' {self._group_array(OLD)}, {self._group_array(NEW)} OFFSET 0) AS "~g"'
                " (was_in, is_in, old, new)\n"
                f'CROSS JOIN LATERAL (VALUES {self._kinds()}) AS "~v" (kind, report, names)\n'
                f"{where}"
            ),
        )

    def single(self, operation: str, old: str, new: str, *, unless: str) -> str:
        """Of a statement that changed one row: whether it must be gathered after all, since
        `unless` is true or the row ``moves``; and what goes into the ledger. No row if there is
        nothing to tell. `unless` must be true for several rows, of which the first is given."""
        if operation == "update":
            # The first pair of several rows is told, so that not each is paired with each.
            pair = f"{self._from(old, OLD)} CROSS JOIN {self._from(new, NEW)}"
            strange = f"({self._same_key()}) IS NOT TRUE"
            moves = any_of([strange, *self._relocations()])
            return self._update(
                pair, moves, slow=unless, told=[f"EXISTS (SELECT FROM {new} OFFSET 1)"]
            )
        source, row = (old, OLD) if operation == "delete" else (new, NEW)
        return self._plain(operation, source, row, slow=unless)

    def now(self, written: str, table: str) -> str:
        """What the rows of a statement have become since it wrote them, to stand in FROM."""
        keys = self._keys()
        return f'(SELECT "~u".* FROM {table} AS "~u" WHERE ({keys}) IN (SELECT {keys} FROM {written} AS "~k"))'

    def _event(
        self,
        head: list[str],
        data: list[str],
        tail: list[str],
        *,
        source: str,
        moves: str = "false",
        slow: str = "",
    ) -> str:
        """SELECT the event's text, in the pieces `head`, `data` and `tail`; NULL where it `moves`.
        Where the data may be too large for an event, it is built once, behind a fence, and looked
        at. With `slow` that comes first, true too where it moves, and then an array of the event.
        """
        if self._large:
            columns = {
                "head": self.text(head),
                "data": self.text(data),
                "tail": self.text(tail),
            }
            columns |= {"moves": moves, "slow": slow or "false"}
            source = (
                f"(SELECT {', '.join(columns.values())}\nFROM {source} OFFSET 0)"
                f' AS "~e" ({", ".join(columns)})'
            )
            head, tail = ['"~e".head'], ['"~e".tail']
            moves, slow = '"~e".moves', slow and '"~e".slow'
            data = [
                f'CASE WHEN octet_length("~e".data) <= {EVENT_BYTES} THEN "~e".data '
                "ELSE ',\"truncated\":true' END"
            ]
        event = [*head, *data, *tail]
        if slow:
            changes = self.text([Raw("["), *event, Raw("]")])
            return f"SELECT {slow} OR {moves}, {changes}\nFROM {source}"
        text = self.text(event)
        if moves != "false":
            text = f"CASE WHEN NOT {moves} THEN {text} END"
        return f"SELECT {text}\nFROM {source}"

    def _plain(self, kind: str, source: str, row: str, slow: str = "") -> str:
        where = f'\nWHERE {row}."~in"' if self.condition else ""
        return self._event(
            [Raw(f'{{"kind":"{kind}","pk":'), *self._pk(row)],
            self._data(row),
            self._tail(self._groups(row)),
            source=f"{self._from(source, row)}{where}",
            slow=slow,
        )

    def _update(self, pairs: str, moves: str, slow: str = "", told: Sequence[str] = ()) -> str:
        differs = self._differs(quickly=not slow) if "update" in self.on else "false"
        if self.condition:
            differs = f'{NEW}."~in" AND {differs}'
        return self._event(
            [Raw('{"kind":"update","pk":'), *self._pk(NEW)],
            self._data(NEW),
            [*self._changed(), *self._tail(self._groups(NEW))],
            source=f"{pairs}\nWHERE {any_of([*told, moves, differs])}",
            moves=moves,
            slow=slow,
        )

    def _pairs(self, old: str, new: str) -> str:
        # FULL JOIN, of which PostgreSQL makes no nested loop: the plan that a session keeps may
        # have been made for a statement of one row.
        return f"{self._from(old, OLD)}\nFULL JOIN {self._from(new, NEW)} ON {self._same_key()}"

    def _moves(self) -> str:
        """True of a pair that is no plain update. Never NULL."""
        lonely = [f"{row}.{self._key()} IS NULL" for row in (NEW, OLD)]
        return any_of([*lonely, *self._relocations()])

    def _kinds(self) -> str:
        both = f'{self.columns.ledger}.pgnotify_both("~g".old, "~g".new)'
        rows = []
        if {"update", "delete"} & set(self.on):
            rows.append(self._leaving("delete", "was_in", "is_in", "old", "new"))
        if "update" in self.on:
            # Also of a row in no group at all: handlers get it.
            stays = f"({both} <> '{{}}' OR \"~g\".old = '{{}}' AND \"~g\".new = '{{}}')"
            updated = f'"~g".was_in AND "~g".is_in AND {self._differs()} AND {stays}'
            rows.append(f"('update', {updated}, {both})")
        if {"update", "insert"} & set(self.on):
            rows.append(self._leaving("insert", "is_in", "was_in", "new", "old"))
        return ",\n".join(rows)

    def _leaving(self, kind: str, here: str, there: str, mine: str, its: str) -> str:
        """An entry of VALUES for the groups that the row has on one side only."""
        names = (
            f'CASE WHEN "~g".{there}'
            f' THEN {self.columns.ledger}.pgnotify_only("~g".{mine}, "~g".{its}) ELSE "~g".{mine} END'
        )
        return (
            f"('{kind}', \"~g\".{here} AND (NOT \"~g\".{there} OR {names} <> '{{}}'), {names})"
        )

    def _from(self, source: str, row: str) -> str:
        if self.condition is None:
            return f"{source} AS {row}"
        return f'(SELECT "~t".*, {self.condition} AS "~in" FROM {source} AS "~t") AS {row}'
