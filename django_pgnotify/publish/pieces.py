"""Install: SQL of what an event says of one row, or of a pair of its old and its new image.

PostgreSQL sets up an expression anew for every statement that fires the trigger, so that short
expressions are what single writes pay for.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..ledger.install import literal
from .columns import Columns, is_quick_to_compare, may_be_large
from .declaration import Column, Group
from .text import Raw, concatenated

EVENT_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Pieces:
    """Builds them for one declaration."""

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
    def _large(self) -> list[Column]:
        """Disclosed columns whose values could pass the size of an event."""
        return [column for column in self.data if may_be_large(column)]

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
            [
                self.columns.group(group, self.columns.new)
                for group in self.groups
                if not group.of_row
            ]
        )

    def _tail(self, groups: list[str]) -> list[str]:
        return [Raw(',"groups":'), *groups, Raw("}")]

    def _relocations(self) -> list[str]:
        """What makes a row leave or enter a group."""
        was_in, is_in = self._in(self.columns.old), self._in(self.columns.new)
        moves = [f"{was_in} <> {is_in}"] if self.condition else []
        columns = {c.field.column: c for g in self.groups for c in g.columns if c is not None}
        return moves + [f"NOT {self.columns.same(column)}" for column in columns.values()]

    def _inside(self, row: str) -> str:
        inside = f"coalesce({self._in(row)}, false)" if self.condition else "true"
        return f"{row}.{self._key()} IS NOT NULL AND {inside}"

    def _in(self, row: str) -> str:
        """True if the row meets the condition; NULL if there is no row."""
        return f'{row}."~in"'

    def _key(self) -> str:
        return str(self.columns.quote(self.pk[0].field.column))

    def _keys(self) -> str:
        return ", ".join(str(self.columns.quote(column.field.column)) for column in self.pk)

    def _same_key(self) -> str:
        return " AND ".join(map(self.columns.same_key, self.pk))

    def _differs(self, *, quickly: bool = False) -> str:
        """True of a pair to report. `quickly` for many rows: to compare whole rows takes longer
        than to compare some columns, which are most often where the difference is."""
        if self.changed is not None:
            return self._any_differs(self.changed)
        whole = f"{self.columns.old} *<> {self.columns.new}"
        columns = [c for c in self._without_key(self.data) if is_quick_to_compare(c)]
        if quickly and columns:
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
        old, new = self.text(pieces(self.columns.old)), self.text(pieces(self.columns.new))
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

    def _group_array(self, row: str) -> str:
        names = ", ".join(self.columns.group(group, row) for group in self.groups)
        return f"array_remove(ARRAY[{names}]::text[], NULL)"  # the relay takes each name once


def any_of(conditions: list[str]) -> str:
    return "(" + " OR ".join(conditions) + ")"


def _array(names: list[str]) -> str:
    quoted = ", ".join(f"'\"' || {name} || '\"'" for name in names)
    return f"('[' || array_to_string(ARRAY[{quoted}], ',') || ']')" if names else "'[]'"
