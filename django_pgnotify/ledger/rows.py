"""Rows: what the ledger holds, turned into changes for the relay and events for handlers."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator
from functools import lru_cache
from typing import Any, LiteralString, NamedTuple

from ..events import KINDS, Event
from ..exceptions import InvalidGroup
from ..groups import RESERVED_PREFIX, check_group
from ..jsontext import Json, loads, loads_regular, refuse
from .exact import (
    approximate,
    exact_text,
    is_deep,
    loads_exact,
    may_be_deep,
    may_be_odd,
    without_data,
)

logger = logging.getLogger("django_pgnotify")

REMEMBERED_GROUPS = 10_000
"""Group names that are known to be valid, about 200 bytes each."""
COLUMNS: LiteralString = """
    id, topic, model, changes, context, context_keys, xid::text AS xid_text,
    replace(to_char(greatest('0001-01-01 UTC', least(at, '9999-12-31 UTC')) AT TIME ZONE 'UTC',
        'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), '.000000', '') AS at
"""
"""What to select for ``LedgerRow.of(row)``: its fields, in their order. The time as it travels,
since Python takes 3 us to read and write one, and PostgreSQL 0.5; of the years that Python knows,
whatever somebody may have written there."""


class LedgerRow(NamedTuple):
    """One row of the ledger: some changes of one statement. A tuple, since it is made for each."""

    id: int
    """Grows with the order of row locks, so within a tick the order by it is causal."""
    topic: str
    """Topic of all its events; control rows begin with ``pgnotify.``."""
    model: str | None
    """``label_lower`` of the model; None for messages."""
    changes: str
    """JSON text: an array with one object per event."""
    context: str | None
    """``event_context`` of its transaction, as JSON text."""
    context_keys: list[str] | None
    """Keys of the context that subscribers may see."""
    xid: str
    """Its transaction."""
    at: str
    """When it was written, as ``format_time`` gives it."""

    @classmethod
    def of(cls, values: Iterable[Any]) -> LedgerRow:
        """Build it from the values of ``COLUMNS``."""
        return cls._make(values)

    @property
    def is_control(self) -> bool:
        """True for rows that concern hubs only, never user groups or handlers."""
        return self.topic.startswith(RESERVED_PREFIX)


class Change(NamedTuple):
    """One event as it travels, and where to."""

    event: dict[str, Json]
    """The browser's event object. ``exact``, where present, is its JSON text to send verbatim,
    because the object holds approximations."""
    groups: tuple[str, ...]
    """Groups that get it."""
    templates: tuple[str, ...] = ()
    """Groups named by template, as declared: of truncates, and of statements whose rows could
    not be read."""


def changes_of(row: LedgerRow) -> list[Change]:
    """The row's changes with the context that subscribers may see. Never raises: what can't be
    read goes without data and ``truncated``, or is logged and left out."""
    return [
        Change(_for_the_wire(obj) if odd else obj, _groups(change, row), _templates(change))
        for change, obj, odd in _parsed(row, row.context_keys or ())
    ]


def events_of(row: LedgerRow, *, using: str) -> list[Event]:
    """The row's events with their whole context, for handlers. Never raises."""
    return [
        Event.from_json(approximate(obj, long_integers=True) if odd else obj, using=using)
        for _, obj, odd in _parsed(row, None)
    ]


def _parsed(
    row: LedgerRow, context_keys: Collection[str] | None
) -> Iterator[tuple[dict[str, Json], dict[str, Json], bool]]:
    """Each change as written, as event object, and whether it may hold odd values."""
    changes, odd = _changes(row)
    context, odd_context = _context(row, context_keys)
    odd = odd or odd_context
    check_depth = may_be_deep(row.changes)
    for index, change in enumerate(changes):
        if not _is_change(change):
            logger.error(
                "Ledger row %s: change %s can't be read and is left out.", row.id, index
            )
            continue
        if check_depth and is_deep(change.get("data")):
            change["truncated"] = True
        yield change, _event_object(row, index, change, context), odd


def _is_change(change: Json) -> bool:
    return isinstance(change, dict) and change.get("kind") in KINDS


def _changes(row: LedgerRow) -> tuple[list[Json], bool]:
    odd = may_be_odd(row.changes)
    try:
        return _list(loads_exact(row.changes) if odd else loads_regular(row.changes)), odd
    except (ValueError, RecursionError):
        logger.warning("Ledger row %s holds JSON that Python can't read: no data.", row.id)
    try:
        changes = _list(loads(without_data(row.changes), refuse))
    except (ValueError, RecursionError):
        logger.error("Ledger row %s holds no JSON and is left out.", row.id)
        return [], False
    return [{**c, "truncated": True} if isinstance(c, dict) else c for c in changes], False


def _context(row: LedgerRow, keys: Collection[str] | None) -> tuple[dict[str, Json], bool]:
    """The context's `keys` (None: all). Any role may set it to anything: no object is empty."""
    if not row.context or (keys is not None and not keys):
        return {}, False
    odd = may_be_odd(row.context)
    try:
        context = loads_exact(row.context) if odd else loads_regular(row.context)
    except (ValueError, RecursionError):
        return {}, False
    if not isinstance(context, dict) or is_deep(context):
        return {}, False
    return {key: context[key] for key in context if keys is None or key in keys}, odd


def _event_object(
    row: LedgerRow, index: int, change: dict[str, Json], context: dict[str, Json]
) -> dict[str, Json]:
    """The object of ``Event.to_json``, made directly: this runs for every event."""
    get = change.get
    obj: dict[str, Json] = {
        "id": f"{row.id}-{index}",
        "topic": row.topic,
        "kind": change["kind"],
        "model": row.model,
        "pk": get("pk"),
        "data": get("data"),
        "changed": _list(get("changed")),
        "at": row.at,
    }
    if get("truncated"):
        del obj["data"]
        obj["truncated"] = True
    if get("moved"):
        obj["moved"] = True
    if context:
        obj["context"] = context
    return obj


def _for_the_wire(obj: dict[str, Json]) -> dict[str, Json]:
    safe: dict[str, Json] = approximate(obj)
    return obj if safe == obj else {**safe, "exact": exact_text(obj)}


def _groups(change: dict[str, Json], row: LedgerRow) -> tuple[str, ...]:
    """The valid names, each once: a channel layer would refuse another one again and again."""
    names = dict.fromkeys(map(str, _list(change.get("groups"))))
    try:
        return tuple(map(_checked, names))
    except InvalidGroup:
        return tuple(name for name in names if _is_valid(name, row))


@lru_cache(REMEMBERED_GROUPS)
def _checked(name: str) -> str:
    return check_group(name)


def _is_valid(name: str, row: LedgerRow) -> bool:
    try:
        check_group(name)
    except InvalidGroup as error:
        logger.error("Ledger row %s: %s The event is not sent there.", row.id, error)
        return False
    return True


def _templates(change: dict[str, Json]) -> tuple[str, ...]:
    return tuple(map(str, _list(change["templates"]))) if "templates" in change else ()


def _list(value: Json) -> list[Json]:
    return value if isinstance(value, list) else []
