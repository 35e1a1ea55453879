"""Sessions: what a database session keeps of a trigger, and what a new connection pays for it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import partial
from typing import Any

import psycopg

from ..harness import Findings, Row, in_turns, medians
from ..place import Place, Project
from ..variants import BY_HAND, NONE, OURS

TABLES = {OURS: "thing", BY_HAND: "noted", NONE: "plain"}
WRITES = {
    "insert": "INSERT INTO {0} (name, room, value) VALUES ('a thing of which one speaks', 1, 1)",
    "update": "UPDATE {0} SET value = value + 1 WHERE id = 1",
    "delete": "DELETE FROM {0} WHERE id = (SELECT max(id) FROM {0})",
}
BEFORE = "roomed"
"""Another table of ours, written first: the rest of what a session learns is not the table's."""
ROWS = 100
CONNECTIONS = 60
MEMORY = "SELECT sum(total_bytes)::bigint FROM pg_backend_memory_contexts"
USAGE = re.compile(r"([\d.]+) s user, ([\d.]+) s system")
KIB, MILLI = 1024, 1000.0


def run(place: Place) -> Findings:
    """PostgreSQL itself tells both: the memory of its contexts, and what a statement used."""
    found = Findings()
    project = place.project("sessions")
    with project.connect() as connection:
        for table in (*TABLES.values(), BEFORE):
            for _ in range(ROWS):
                connection.execute(WRITES["insert"].format(table))
    for what, writes in (("insert only", ["insert"]), ("insert, update, delete", list(WRITES))):
        kept = {name: _kept(project, table, writes) for name, table in TABLES.items()}
        found.figures[f"KiB, {what}"] = kept
        found.rows.append(
            Row(
                what=f"memory that a session keeps for a table, {what}",
                unit="KiB",
                ours=kept[OURS],
                base=kept[BY_HAND],
                base_name=BY_HAND,
            )
        )
    firsts = {name: partial(_first_write, project, table) for name, table in TABLES.items()}
    count = place.runs(CONNECTIONS)
    taken = in_turns(firsts, count)
    found.figures["ms, first write"] = taken
    took = medians(taken)
    found.rows += [
        Row(
            what="first INSERT of a new connection, processor time",
            unit="ms",
            ours=took[OURS],
            base=took[name],
            base_name=name,
            runs=count,
        )
        for name in (NONE, BY_HAND)
    ]
    found.notes.append(
        "What PostgreSQL sets up at a session's first write of a table, and keeps until the"
        " connection ends: growth of all memory contexts by the writes of one table, after another"
        " one of ours was written in the same session; processor time by log_statement_stats."
    )
    return found


def _kept(project: Project, table: str, writes: Iterable[str]) -> float:
    with project.connect() as connection:
        for write in WRITES.values():
            connection.execute(write.format(BEFORE))
        _memory(connection)  # the query's own
        before = _memory(connection)
        for write in writes:
            connection.execute(WRITES[write].format(table))
        return (_memory(connection) - before) / KIB


def _memory(connection: psycopg.Connection[Any]) -> int:
    row = connection.execute(MEMORY).fetchone()
    assert row is not None
    return int(row[0])


def _first_write(project: Project, table: str) -> float:
    """Milliseconds of processor time."""
    told: list[str] = []
    with project.connect() as connection:
        connection.add_notice_handler(lambda notice: told.append(str(notice.message_detail)))
        connection.execute("SET client_min_messages = log")
        connection.execute("SET log_statement_stats = on")
        told.clear()
        connection.execute(WRITES["insert"].format(table))
    usage = USAGE.search(told[-1])
    assert usage is not None, told
    return sum(map(float, usage.groups())) * MILLI
