"""Install: the queries by which a trigger function turns changed rows into JSON events.

Each query gives one event a row, as JSON text. PostgreSQL sets up an expression anew for every
statement that fires the trigger, so that short expressions are what single writes pay for. Aliases
hold a ``~``, since a user's column of an alias's name would hide the row behind it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..ledger.install import literal
from .columns import NEW, OLD, Columns, may_be_large
from .declaration import Column, Group
from .text import Raw, concatenated

EVENT_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class EventQueries:
    """Builds the queries of one declaration."""

    columns: Columns
    pk: list[Column]
    data: list[Column]
    changed: list[Column] | None
    groups: list[Group]
    condition: str | None
    """SQL over bare column names, never NULL."""
    on: tuple[str, ...]
    text: Callable[[Sequence[str]], str] = concatenated
    """Puts the pieces of a text together."""

    @property
    def rows_move(self) -> bool:
        """True if an update can move a row between groups or over the condition."""
        return self.condition is not None or any(group.of_row for group in self.groups)

    @property
    def _large(self) -> list[Column]:
        """Disclosed columns whose values could pass the size of an event."""
        return [column for column in self.data if may_be_large(column)]

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

    def moves(self, old: str, new: str) -> str:
        """Events of the updated rows for which ``update`` gives NULL: deletes and inserts, and
        updates in the groups that they stay in."""
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
                f"{self._pairs(old, new)}\n"
                # OFFSET 0 keeps the planner from repeating the expressions wherever they are used.
                f"CROSS JOIN LATERAL (SELECT {self._inside(OLD)}, {self._inside(NEW)},"
                f' {self._group_array(OLD)}, {self._group_array(NEW)} OFFSET 0) AS "~g"'
                " (was_in, is_in, old, new)\n"
                f'CROSS JOIN LATERAL (VALUES {self._kinds()}) AS "~v" (kind, report, names)\n'
                f'WHERE {self._moves()} AND "~v".report'
            ),
        )

    def single(self, operation: str, old: str, new: str, *, unless: str) -> str:
        """Of a statement that changed one row: whether it must be gathered after all, since
        `unless` is true or the row ``moves``; and what goes into the ledger. No row if there is
        nothing to tell. `unless` must be true for several rows, of which the first is given."""
        if operation == "update":
            # No pair for several rows: the planner might pair each with each.
            pair = (
                f"{self._from(old, OLD)} LEFT JOIN {self._from(new, NEW)}"
                f" ON NOT EXISTS (SELECT FROM {new} OFFSET 1)"
            )
            strange = f"({self._same_key()}) IS NOT TRUE"
            return self._update(pair, _any([strange, *self._relocations()]), slow=unless)
        source, row = (old, OLD) if operation == "delete" else (new, NEW)
        return self._plain(operation, source, row, slow=unless)

    def now(self, new: str, table: str) -> str:
        """What the rows of a statement have become since it wrote them, to stand in FROM."""
        keys = ", ".join(str(self.columns.quote(column.field.column)) for column in self.pk)
        return f'(SELECT "~u".* FROM {table} AS "~u" WHERE ({keys}) IN (SELECT {keys} FROM {new} AS "~k"))'

    def _groups(self, row: str) -> list[str]:
        """JSON of the names of a row's groups."""
        static = [group.template.text for group in self.groups if group.template.is_static]
        computed = [self.columns.group(g, row) for g in self.groups if not g.template.is_static]
        if not static and len(computed) > 1:
            return [f"{self.columns.ledger}.pgnotify_names({self._group_array(row)})"]
        first = json.dumps(static, separators=(",", ":"))[:-1]
        quote = ',"' if static else '"'
        names = [f"coalesce('{quote}' || {name} || '\"', '')" for name in computed]
        return [Raw(first), *names, Raw("]")]

    def static_groups_json(self) -> str:
        """JSON text of the groups that do not depend on a row."""
        return _array(
            [self.columns.group(group, NEW) for group in self.groups if not group.of_row]
        )

    # Shapes of events

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

    def _update(self, pairs: str, moves: str, slow: str = "") -> str:
        differs = self._differs(quickly=not slow) if "update" in self.on else "false"
        if self.condition:
            differs = f'{NEW}."~in" AND {differs}'
        return self._event(
            [Raw('{"kind":"update","pk":'), *self._pk(NEW)],
            self._data(NEW),
            [*self._changed(), *self._tail(self._groups(NEW))],
            source=f"{pairs}\nWHERE {moves} OR {differs}",
            moves=moves,
            slow=slow,
        )

    def _pairs(self, old: str, new: str) -> str:
        # FULL JOIN, of which PostgreSQL makes no nested loop: the plan that a session keeps may
        # have been made for a statement of one row.
        return f"{self._from(old, OLD)}\nFULL JOIN {self._from(new, NEW)} ON {self._same_key()}"

    def _tail(self, groups: list[str]) -> list[str]:
        return [Raw(',"groups":'), *groups, Raw("}")]

    def _moves(self) -> str:
        """True of a pair that is no plain update. Never NULL."""
        lonely = [f"{row}.{self._key()} IS NULL" for row in (NEW, OLD)]
        return _any([*lonely, *self._relocations()])

    def _relocations(self) -> list[str]:
        """What makes a row leave or enter a group."""
        moves = [f'{OLD}."~in" <> {NEW}."~in"'] if self.condition else []
        columns = {c.field.column: c for g in self.groups for c in g.columns if c is not None}
        return moves + [f"NOT {self.columns.same(column)}" for column in columns.values()]

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

    # Pieces of SQL

    def _from(self, source: str, row: str) -> str:
        if self.condition is None:
            return f"{source} AS {row}"
        return f'(SELECT "~t".*, {self.condition} AS "~in" FROM {source} AS "~t") AS {row}'

    def _inside(self, row: str) -> str:
        inside = f'coalesce({row}."~in", false)' if self.condition else "true"
        return f"{row}.{self._key()} IS NOT NULL AND {inside}"

    def _key(self) -> str:
        return str(self.columns.quote(self.pk[0].field.column))

    def _same_key(self) -> str:
        return " AND ".join(map(self.columns.same_key, self.pk))

    def _differs(self, *, quickly: bool = False) -> str:
        """True of a pair to report. `quickly` for many rows: to compare whole rows takes longer
        than to compare some columns, which are most often where the difference is."""
        if self.changed is not None:
            return self._any_differs(self.changed)
        whole = f"{OLD} *<> {NEW}"
        if quickly and (columns := self._without_key(self.data)):
            return f"({self._any_differs(columns)} OR {whole})"
        return whole

    def _any_differs(self, columns: list[Column]) -> str:
        return "NOT (" + " AND ".join(map(self.columns.same, columns)) + ")"

    def _without_key(self, columns: list[Column]) -> list[Column]:
        """Of a pair, which has the same key, only these can differ."""
        keys = {column.field.column for column in self.pk}
        return [column for column in columns if column.field.column not in keys]

    def _changed(self) -> list[str]:
        names = " || ".join(
            f"CASE WHEN {self.columns.same(column)} THEN '' ELSE {literal(',' + json.dumps(column.name))} END"
            for column in self._without_key(self.data)
        )
        listed = [f"ltrim({names}, ',')"] if names else []
        return [Raw(',"changed":['), *listed, Raw("]")]

    def _either(self, condition: str, pieces: Callable[[str], list[str]]) -> str:
        old, new = self.text(pieces(OLD)), self.text(pieces(NEW))
        return f"CASE WHEN {condition} THEN {old} ELSE {new} END"

    def _pk(self, row: str) -> list[str]:
        values = [self.columns.json(row, column) for column in self.pk]
        if len(values) == 1:
            return values
        first, *rest = values
        return [
            Raw("["),
            first,
            *(piece for value in rest for piece in (Raw(","), value)),
            Raw("]"),
        ]

    def _data(self, row: str) -> list[str]:
        """NULL where a value alone is too large."""
        pieces: list[str] = []
        for index, column in enumerate(self.data):
            start = ',"data":{' if index == 0 else ","
            pieces += [
                Raw(start + json.dumps(column.name) + ":"),
                self.columns.json(row, column),
            ]
        pieces.append(Raw("}"))
        if not self._large:
            return pieces
        size = " + ".join(self.columns.size(row, column) for column in self._large)
        return [f"CASE WHEN {size} <= {EVENT_BYTES} THEN {self.text(pieces)} END"]

    # Groups

    def _group_array(self, row: str) -> str:
        names = ", ".join(self.columns.group(group, row) for group in self.groups)
        return f"array_remove(ARRAY[{names}]::text[], NULL)"  # the relay takes each name once


def _any(conditions: list[str]) -> str:
    return "(" + " OR ".join(conditions) + ")"


def _array(names: list[str]) -> str:
    quoted = ", ".join(f"'\"' || {name} || '\"'" for name in names)
    return f"('[' || array_to_string(ARRAY[{quoted}], ',') || ']')" if names else "'[]'"
