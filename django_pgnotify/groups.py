"""Group names: one rule, in Python and in SQL, from a declaration's template to the wire."""

from __future__ import annotations

import hashlib
import re
import string
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from enum import Enum
from functools import cached_property
from typing import Any
from uuid import UUID

from django.db import DEFAULT_DB_ALIAS

from .exceptions import InvalidGroup

MAX_NAME_LENGTH = 99  # characters; Channels wants group names of less than 100
HASH_DIGITS = 32  # hex digits of a SHA-256: 128 bits, so that two values never meet
RESERVED_PREFIX = "pgnotify."
HUB_GROUP = "pgnotify.hubs"
"""The group that every hub joins: heartbeats, truncates and control events travel there."""

NAME = re.compile(r"[A-Za-z0-9_.\-]+")
PLAIN = re.compile(r"[A-Za-z0-9_]+")
PLAIN_OR_HYPHEN = re.compile(r"[A-Za-z0-9_\-]+")


def check_group(group: object) -> str:
    """Give the group name back, or raise InvalidGroup: not a name, too long, or reserved."""
    if (
        not isinstance(group, str)
        or len(group) > MAX_NAME_LENGTH
        or not NAME.fullmatch(group)
        or group.startswith(RESERVED_PREFIX)
    ):
        raise InvalidGroup(
            f"{group!r:.200} is not a group name: use 1 to {MAX_NAME_LENGTH} of A-Z, a-z, 0-9, "
            f"'-', '_' and '.', not starting with {RESERVED_PREFIX!r}."
        )
    return group


def group_name(template: str, *args: Any, **kwargs: Any) -> str:
    """Fill a group template as the triggers do: ``group_name("customer-{}", 7)`` is
    ``"customer-7"``.

    Placeholders are ``{}``, filled in order, or ``{name}``, filled by keyword. Values are
    integers, text, UUIDs, booleans and dates; anything else, None too, raises InvalidGroup, and
    so does a template in which two values could blur.
    """
    parsed = GroupTemplate(template)
    parsed.check()
    named = [name for name in parsed.placeholders if name]
    if len(args) != len(parsed.placeholders) - len(named) or set(kwargs) != set(named):
        raise InvalidGroup(f"{template!r} needs one value for each of its placeholders.")
    positional = iter(args)
    values = [kwargs[name] if name else next(positional) for name in parsed.placeholders]
    return check_group(parsed.fill([value_text(value) for value in values]))


def value_text(value: object) -> str:
    """The text of a value as PostgreSQL's cast to text gives it."""
    if isinstance(value, Enum):
        value = value.value
    match value:
        case bool():
            return "true" if value else "false"
        case int() | UUID():
            return str(value)
        case str():
            return str(value)
        case date() if not isinstance(value, datetime):
            return value.isoformat()
    raise InvalidGroup(
        f"{value!r:.200} can't stand in a group name: "
        "use an integer, text, a UUID, a boolean or a date."
    )


def hashed(text: str) -> str:
    """``h.`` and the first 32 hex digits of the SHA-256 of the text in UTF-8."""
    return "h." + hashlib.sha256(text.encode()).hexdigest()[:HASH_DIGITS]


@dataclass(frozen=True)
class GroupTemplate:
    """A group name with ``{column}`` placeholders, as declared."""

    text: str
    """The template as declared, for instance ``"customer-{customer_id}"``."""

    @cached_property
    def parts(self) -> tuple[tuple[str, str | None], ...]:
        """Pairs of literal text and the placeholder that follows it (None at the end)."""
        try:
            parsed = list(string.Formatter().parse(self.text))
        except ValueError as error:
            raise InvalidGroup(f"Group template {self.text!r}: {error}.") from None
        if any(spec or conversion for _, _, spec, conversion in parsed):
            raise InvalidGroup(
                f"Group template {self.text!r}: use bare {{column}} placeholders."
            )
        return tuple((literal, name) for literal, name, _, _ in parsed)

    @cached_property
    def placeholders(self) -> tuple[str, ...]:
        """Names of the placeholders in order; '' for ``{}``."""
        return tuple(name for _, name in self.parts if name is not None)

    @property
    def is_static(self) -> bool:
        """True if it has no placeholder."""
        return not self.placeholders

    @property
    def allows_hyphen(self) -> bool:
        """With one placeholder a value may hold '-'; with two, values could blur."""
        return len(self.placeholders) == 1

    def check(self) -> None:
        """Raise InvalidGroup if no value, or two different ones, could give a valid name."""
        shortest = "".join(
            literal + ("x" if name is not None else "") for literal, name in self.parts
        )
        try:
            check_group(shortest)
        except InvalidGroup as error:
            raise InvalidGroup(f"{self.text!r} makes no group name: {error}") from None
        separators = [literal for literal, name in self.parts[1:] if name is not None]
        for separator in separators:
            if "-" not in separator and not (len(separators) == 1 and "." in separator):
                raise InvalidGroup(
                    f"Group template {self.text!r}: put a '-' between two placeholders, "
                    "so that two values never blur into one name."
                )

    def fill(self, texts: list[str]) -> str:
        """Put the values' texts in; the SQL twin is made by ``publish/compiler.py``."""
        allowed = PLAIN_OR_HYPHEN if self.allows_hyphen else PLAIN
        name = self._join([t if allowed.fullmatch(t) else hashed(t) for t in texts])
        if len(name) > MAX_NAME_LENGTH:
            name = self._join([hashed(text) for text in texts])
        return name if len(name) <= MAX_NAME_LENGTH else hashed(name)

    def _join(self, texts: list[str]) -> str:
        values = iter(texts)
        return "".join(
            literal + (next(values) if name is not None else "") for literal, name in self.parts
        )

    def render(self, values: Mapping[str, object]) -> str | None:
        """The name for a row's values by placeholder, or None if one of them is None."""
        row = [values[name] for name in self.placeholders]
        return None if None in row else self.fill([value_text(value) for value in row])

    def matches(self, group: str) -> bool:
        """True if some row's values could give this group."""
        return self._pattern.fullmatch(group) is not None

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        value = r"(?:[A-Za-z0-9_\-]+" if self.allows_hyphen else r"(?:[A-Za-z0-9_]+"
        value += rf"|h\.[0-9a-f]{{{HASH_DIGITS}}})"
        body = "".join(
            re.escape(literal) + ("" if name is None else _known(name) or value)
            for literal, name in self.parts
        )
        return re.compile(
            rf"{body}|h\.[0-9a-f]{{{HASH_DIGITS}}}" if self.placeholders else body
        )


def _known(name: str) -> str | None:
    """Pattern of a placeholder whose value the ledger tells, ``{schema=public}``: plain, or hashed
    where the whole name would be too long."""
    _, is_known, value = name.partition("=")
    if not is_known:
        return None
    forms = {value, value if value.startswith("h.") else hashed(value)}
    return f"(?:{'|'.join(map(re.escape, sorted(forms)))})"


def wire_name(group: str, alias: str) -> str:
    """The group's name in the channel layer: databases but ``default`` prefix their alias."""
    if alias == DEFAULT_DB_ALIAS:
        return group
    name = f"{alias}.{group}"
    return name if len(name) <= MAX_NAME_LENGTH else hashed(name)
