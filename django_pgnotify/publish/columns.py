"""Install: SQL of single columns and group names, for the queries of a trigger function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from django.db import models

from ..groups import MAX_NAME_LENGTH
from ..ledger.install import literal
from .declaration import Column, Group

OLD, NEW = '"~o"', '"~n"'
"""The two images of a row. A ``~``, since a user's column of an alias's name would hide the row."""
INTEGER_CHARACTERS = 20  # of the longest bigint with its sign
PART_CHARACTERS = 36  # of a UUID; what stands for a value that is not plain has 34
SMALL_CHARACTERS = (
    10_000  # of a text column that needs no look at its size: far below EVENT_BYTES
)
FIXED_SIZE = (
    models.IntegerField,
    models.BooleanField,
    models.UUIDField,
    models.DateField,
    models.TimeField,
    models.DurationField,
    models.FloatField,
    models.DecimalField,  # 131,072 digits before the point and 16,383 after it
)

COMPARED = (
    models.IntegerField,
    models.BooleanField,
    models.UUIDField,
    models.DateField,
    models.DecimalField,
    models.CharField,
)
"""Fields with an overload of ``pgnotify_same`` of their own."""


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Names columns of a row, and makes text of them by the functions of the ledger's schema."""

    ledger: str
    """The ledger's schema, quoted."""
    quote: Callable[[str], str]
    """``quote_name`` of the connection."""
    schema: str = "_pgn_schema"
    """SQL that gives the declared table's schema; by default a variable of the function."""
    old: str = OLD
    new: str = NEW
    """SQL of the row's images."""

    def ref(self, row: str, column: Column) -> str:
        """The column."""
        return f"{row}.{self.quote(column.field.column)}"

    def json(self, row: str, column: Column) -> str:
        """Its JSON, never NULL."""
        return f"{self.ledger}.pgnotify_json({self.ref(row, column)})"

    def size(self, row: str, column: Column) -> str:
        """Its bytes, about."""
        return f"{self.ledger}.pgnotify_size({self.ref(row, column)})"

    def same(self, column: Column) -> str:
        """True if OLD and NEW have the same stored image."""
        return f"{self.ledger}.pgnotify_same({self.ref(self.old, column)}, {self.ref(self.new, column)})"

    def same_key(self, column: Column) -> str:
        """True if OLD and NEW have the same key."""
        old, new = self.ref(self.old, column), self.ref(self.new, column)
        # Text where "=" is not exact: citext keys 'A' and 'a' are two keys to a browser.
        if isinstance(column.target, (models.IntegerField, models.UUIDField, models.DateField)):
            return f"{old} = {new}"
        return f'{old}::text COLLATE "C" = {new}::text COLLATE "C"'

    def group(self, group: Group, row: str) -> str:
        """The name of the row's group, NULL if it is in none."""
        template = group.template
        if template.is_static:
            return literal(template.text)
        literals = [text for text, _ in template.parts]
        literals += [""] * (len(group.columns) + 1 - len(literals))
        values = [self._value_text(column, row) for column in group.columns]
        if len(values) == 1 and (value := self._short_value(group, values[0])):
            return f"({literal(literals[0])} || {value} || {literal(literals[1])})"
        arrays = ", ".join(literal(text) for text in literals), ", ".join(values)
        return f"{self.ledger}.pgnotify_group(ARRAY[{arrays[0]}], ARRAY[{arrays[1]}])"

    def _value_text(self, column: Column | None, row: str) -> str:
        if column is None:
            return self.schema
        reference = self.ref(row, column)
        if isinstance(column.target, models.DateField):
            # ::text would follow DateStyle, and to_char() calls 44 BC and 44 AD the same.
            return f"btrim(to_json({reference})::text, '\"')"
        # A name is compared byte by byte, whatever the column's collation calls equal.
        return f'({reference}::text COLLATE "C")'

    def _short_value(self, group: Group, value: str) -> str | None:
        column = group.columns[0]
        room = MAX_NAME_LENGTH - sum(len(text) for text, _ in group.template.parts)
        if column is None:
            return None
        if isinstance(column.target, models.IntegerField) and room >= INTEGER_CHARACTERS:
            return value
        length = getattr(column.target, "max_length", None)
        if length is not None and max(length, PART_CHARACTERS) <= room:
            return f"{self.ledger}.pgnotify_group_part({value}, true)"
        return None


def may_be_large(column: Column) -> bool:
    """True if a value of the column could pass the size of an event."""
    target = column.target
    if isinstance(target, FIXED_SIZE):
        return False
    length = getattr(target, "max_length", None)
    return length is None or length > SMALL_CHARACTERS


def is_quick_to_compare(column: Column) -> bool:
    """True if ``pgnotify_same`` compares the values themselves and not texts of theirs."""
    return isinstance(column.target, COMPARED) and not may_be_large(column)
