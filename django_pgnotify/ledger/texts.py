"""Texts: the events of an ordinary ledger row as they travel, cut out of its text.

A trigger wrote final JSON, so that nothing need be built from what is parsed and written again:
an event's text is a piece of the row's, with what the row's columns say put around it. The row is
parsed all the same, since who may write the ledger may write anything. Whatever is not exactly
as our SQL writes it is left to ``changes_of``.
"""

from __future__ import annotations

from functools import lru_cache

from ..events import KINDS, format_time
from ..groups import check_group
from ..jsontext import Json, dumps, escape_non_ascii, loads_regular
from .exact import may_be_deep, may_be_odd
from .rows import REMEMBERED_GROUPS, LedgerRow

Ready = tuple[str, tuple[str, ...]]
"""An event's JSON in ASCII, and the groups that get it."""

FIRST, BETWEEN, LAST = '[{"kind":"', '},{"kind":"', "}]"
GROUPS = ',"groups":'
INSERTED = ("kind", "pk", "data")
UPDATED = (*INSERTED, "changed")
"""The keys of a usual change in their order, before ``groups``."""
REMEMBERED_TOPICS = 1000
REMEMBERED_LENGTH = 500
"""Characters of a topic and model, or of an event's groups, that are worth to be remembered."""


def ready_texts(row: LedgerRow, max_bytes: int) -> list[Ready] | None:
    """What ``changes_of`` gives, encoded; None where that takes more than cutting, or where an
    event has `max_bytes` or more. Never raises."""
    text = row.changes
    if not (text.startswith(FIRST) and text.endswith(LAST)) or row.is_control:
        return None
    if len(row.topic) + len(row.model or "") > REMEMBERED_LENGTH:
        return None
    if may_be_odd(text) or (row.context and row.context_keys):
        return None
    # Between quotes a quote is escaped, so only a nested object can look like a boundary. Then
    # what is left and right of it is no object, and the row is not cut.
    pieces = escape_non_ascii(text)[len(FIRST) : -len(LAST)].split(BETWEEN)
    return _framed(row, pieces, max_bytes)


def _framed(row: LedgerRow, pieces: list[str], max_bytes: int) -> list[Ready] | None:
    start = f'{{"id":"{row.id}-'
    middle = f'",{_columns(row.topic, row.model)},"at":"{format_time(row.at)}",'
    ready = []
    for index, piece in enumerate(pieces):
        head, _, tail = piece.rpartition(GROUPS)
        # Parsed without the groups, so that none can stand there twice, once to be shown.
        body = f'"kind":"{head}'
        end = _end(body)
        groups = (_remembered_groups if len(tail) < REMEMBERED_LENGTH else _groups)(tail)
        if end is None or groups is None:
            return None
        text = f"{start}{index}{middle}{body}{end}"
        if len(text) >= max_bytes:
            return None
        ready.append((text, groups))
    return ready


def _end(body: str) -> str | None:
    """What an event ends with whose change begins so; None if that is not a usual one."""
    try:
        change: dict[str, Json] = loads_regular(f"{{{body}}}")
    except (ValueError, RecursionError):
        return None
    if change.get("kind") not in KINDS or may_be_deep(body):
        return None
    keys = tuple(change)
    if keys == INSERTED:
        return ',"changed":[]}'
    if keys == UPDATED and isinstance(change["changed"], list):
        return "}"
    return None


@lru_cache(REMEMBERED_TOPICS)
def _columns(topic: str, model: str | None) -> str:
    return f'"topic":{dumps(topic)},"model":{dumps(model)}'


def _groups(text: str) -> tuple[str, ...] | None:
    """The groups of a JSON array, each once; None if it is none of valid names."""
    try:
        names = loads_regular(text)
        return (
            tuple(dict.fromkeys(map(check_group, names))) if isinstance(names, list) else None
        )
    except (ValueError, RecursionError):  # InvalidGroup is one
        return None


_remembered_groups = lru_cache(REMEMBERED_GROUPS)(_groups)
