"""Ranges: the SQL of what stands in the ledger between two ticks."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, LiteralString

from psycopg import sql

from .ticks import Tick

MAX_GROUPS_TO_FILTER_BY = 32
"""Each group is one search in each row's text: beyond this, sending all rows is cheaper."""

RANGE: LiteralString = """
    SELECT * FROM {schema}.django_pgnotify_ledger
    WHERE (xid >= pg_snapshot_xmax(%(after)s::pg_snapshot)
                AND xid < pg_snapshot_xmax(%(upto)s::pg_snapshot)
            OR xid = ANY (ARRAY(SELECT pg_snapshot_xip(%(after)s::pg_snapshot))))
        AND pg_visible_in_snapshot(xid, %(upto)s::pg_snapshot)
        {concerns} {of_topic}
"""
# octet_length() of a stored text asks its header only.
SIZE: LiteralString = "(octet_length(changes) + coalesce(octet_length(context), 0))"
# A quoted group name stands in the JSON text as it is, since it needs no escape.
CONCERNS: LiteralString = """
        AND (starts_with(topic, 'pgnotify.') OR strpos(changes, '"templates":') > 0
            OR EXISTS (SELECT FROM unnest(%(groups)s::text[]) AS name
                WHERE strpos(changes, name) > 0))
"""


OF_TOPIC: LiteralString = " AND topic = %(topic)s"


def rows_between(
    schema: str, groups: Collection[str] | None, topic: str | None = None
) -> sql.Composed:
    """A query for the rows, with the parameters of ``parameters_of``, and ``topic`` if given."""
    return sql.SQL(RANGE).format(
        schema=sql.Identifier(schema),
        concerns=concerning(groups),
        of_topic=sql.SQL(OF_TOPIC if topic is not None else ""),
    )


def concerning(groups: Collection[str] | None) -> sql.SQL:
    """What leaves out rows that can't concern one of the groups, as far as that is cheap."""
    return sql.SQL(CONCERNS if filters(groups) else "")


def parameters_of(after: Tick, upto: Tick, groups: Collection[str] | None) -> dict[str, Any]:
    """The parameters of a range from one tick to another."""
    parameters: dict[str, Any] = {"after": after.snapshot, "upto": upto.snapshot}
    if filters(groups):
        parameters["groups"] = [f'"{name}"' for name in groups or ()]
    return parameters


def filters(groups: Collection[str] | None) -> bool:
    """True if each row's text is searched for the groups."""
    return groups is not None and len(groups) <= MAX_GROUPS_TO_FILTER_BY
