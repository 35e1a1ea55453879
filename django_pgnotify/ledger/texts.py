"""Texts: the events of an ordinary ledger row as they travel, cut out of its text.

A trigger wrote final JSON, so that nothing need be built from what is parsed and written again:
an event's text is a piece of the row's, with what the row's columns say put around it. The row is
parsed all the same, since who may write the ledger may write anything. Whatever is not exactly
as our SQL writes it is left to ``changes_of``.
"""

from __future__ import annotations

from functools import lru_cache

from ..events import KINDS, format_time
from ..exceptions import InvalidGroup
from ..groups import check_group
from ..jsontext import Json, dumps, escape_non_ascii, loads_regular
from .exact import may_be_deep, may_be_odd
from .rows import REMEMBERED_GROUPS, LedgerRow

Ready = tuple[str, tuple[str, ...]]
"""An event's JSON in ASCII, and the groups that get it."""

FIRST, BETWEEN, LAST = '[{"kind":"', '},{"kind":"', "}]"
ENDS = {
    ("kind", "pk", "data", "groups"): ',"changed":[]}',
    ("kind", "pk", "data", "changed", "groups"): "}",
}
"""The keys of a usual change in their order, and what its event ends with."""
REMEMBERED_TOPICS = 1000


def ready_texts(row: LedgerRow, max_bytes: int) -> list[Ready] | None:
    """What ``changes_of`` gives, encoded; None where that takes more than cutting, or where an
    event has `max_bytes` or more. Never raises."""
    text = row.changes
    if not (text.startswith(FIRST) and text.endswith(LAST)) or row.is_control:
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
        change = _parsed(body := f'"kind":"{piece}')
        end = ENDS.get(tuple(change))
        if end is None or change["kind"] not in KINDS or may_be_deep(body):
            return None
        known = _known(change["groups"])
        if known is None or not body.endswith(known[0]):
            return None
        text = f"{start}{index}{middle}{body[: -len(known[0])]}{end}"
        if len(text) >= max_bytes:
            return None
        ready.append((text, known[1]))
    return ready


def _parsed(body: str) -> dict[str, Json]:
    try:
        change: dict[str, Json] = loads_regular(f"{{{body}}}")
        return change
    except (ValueError, RecursionError):
        return {}


@lru_cache(REMEMBERED_TOPICS)
def _columns(topic: str, model: str | None) -> str:
    return f'"topic":{dumps(topic)},"model":{dumps(model)}'


def _known(names: Json) -> tuple[str, tuple[str, ...]] | None:
    try:
        return _tail(tuple(names))
    except TypeError:  # no list of names
        return None


@lru_cache(REMEMBERED_GROUPS)
def _tail(names: tuple[str, ...]) -> tuple[str, tuple[str, ...]] | None:
    """How a change ends that goes to these groups, and the groups; None if some are no names."""
    try:
        groups = tuple(dict.fromkeys(map(check_group, names)))
    except InvalidGroup:
        return None
    return f',"groups":{dumps(names)}', groups
