"""Texts: the events of ordinary ledger rows as they travel, cut out of the rows' text.

A trigger wrote final JSON, so that nothing need be built from what is parsed and written again:
an event's text is a piece of the row's, with what the row's columns say put around it. All pieces
are parsed all the same, since who may write the ledger may write anything: together, which takes
half the time. Whatever is not exactly as our SQL writes it is left to ``changes_of``.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from functools import lru_cache

from ..events import KINDS
from ..groups import RESERVED_PREFIX, check_group
from ..jsontext import Json, dumps, escape_non_ascii, loads_regular
from .exact import may_be_deep, may_be_odd
from .rows import REMEMBERED_GROUPS, LedgerRow

Ready = tuple[str, tuple[str, ...]]
"""An event's JSON in ASCII, and the groups that get it."""

KIND = '"kind":"'
FIRST, BETWEEN, LAST = "[{" + KIND, "},{" + KIND, "}]"
GROUPS = ',"groups":'
INSERTED = ("kind", "pk", "data")
UPDATED = (*INSERTED, "changed")
"""The keys of a usual change in their order, before ``groups``."""
REMEMBERED_TOPICS = 1000
REMEMBERED_LENGTH = 500
"""Characters of a topic and model, or of an event's groups, that are worth to be remembered."""

MARK = "".join(secrets.choice("abcdefghijklmnop") for _ in range(32))
"""A value between two pieces that are parsed together. It is random, and never leaves the process:
nobody could write a piece that holds it. So where it comes out as a value of its own between two
others, what stands on either side of it is one value each."""


def ready_texts(rows: Sequence[LedgerRow], max_bytes: int) -> list[Ready] | None:
    """What ``changes_of`` gives for all of the rows, encoded; None where one of them takes more
    than cutting, or an event has `max_bytes` or more. Never raises."""
    if may_be_odd("".join([row.changes for row in rows])):
        return None
    starts: list[str] = []
    bodies: list[str] = []
    groups: list[tuple[str, ...]] = []
    for number, topic, model, text, context, shown, _, at in rows:
        columns = None if context and shown else _columns(topic, model)
        if columns is None or not (text.startswith(FIRST) and text.endswith(LAST)):
            return None
        start = f'{{"id":"{number}-'
        middle = f'",{columns},"at":"{at}",{KIND}'
        # Between quotes a quote is escaped, so only a nested object can look like a boundary. Then
        # what is left and right of it is no object, and is not cut.
        for index, piece in enumerate(text[len(FIRST) : -len(LAST)].split(BETWEEN)):
            head, _, tail = piece.rpartition(GROUPS)
            names = (_remembered_groups if len(tail) < REMEMBERED_LENGTH else _groups)(tail)
            if names is None:
                return None
            starts.append(f"{start}{index}{middle}")
            # Without the groups, so that none can stand there twice, once to be shown.
            bodies.append(head)
            groups.append(names)
    return _framed(starts, bodies, groups, max_bytes)


def _framed(
    starts: list[str], bodies: list[str], groups: list[tuple[str, ...]], max_bytes: int
) -> list[Ready] | None:
    changes = _parsed(bodies)
    if changes is None:
        return None
    ready = []
    for start, body, change, names in zip(starts, bodies, changes, groups, strict=True):
        end = _end(change)
        # Not before it is parsed: what is no escape may become one (a backslash before an e acute).
        text = escape_non_ascii(f"{start}{body}{end}")
        if end is None or len(text) >= max_bytes or may_be_deep(body):
            return None
        ready.append((text, names))
    return ready


def _parsed(bodies: list[str]) -> list[dict[str, Json]] | None:
    """The object that each of the bodies makes behind KIND; None if one makes none."""
    between = f'}},"{MARK}",{{{KIND}'
    try:
        values = loads_regular(f"[{{{KIND}{between.join(bodies)}}}]")
    except (ValueError, RecursionError):
        return None
    marks = values[1::2]
    is_whole = len(values) == 2 * len(bodies) - 1 and marks == [MARK] * len(marks)
    return values[::2] if is_whole else None


def _end(change: dict[str, Json]) -> str | None:
    """What an event ends with whose change is this; None if that is not a usual one."""
    keys = tuple(change)
    if change.get("kind") not in KINDS:
        return None
    if keys == INSERTED:
        return ',"changed":[]}'
    if keys == UPDATED and isinstance(change["changed"], list):
        return "}"
    return None


def _columns(topic: str, model: str | None) -> str | None:
    """What a row's columns say of all its events; None of a row that is no usual one."""
    if len(topic) + len(model or "") > REMEMBERED_LENGTH:
        return None
    return _remembered_columns(topic, model)


@lru_cache(REMEMBERED_TOPICS)
def _remembered_columns(topic: str, model: str | None) -> str | None:
    if topic.startswith(RESERVED_PREFIX):
        return None  # concerns hubs only
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
