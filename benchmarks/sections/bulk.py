"""Bulk: what a statement that writes many rows takes, and a transaction of many statements."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import psycopg

from ..child import Child
from ..harness import Findings, Row, Target, in_turns, medians
from ..place import Place
from ..variants import (
    BARE_INSERT,
    NONE,
    OURS,
    PGPUBSUB_STORED,
    ROWS_ALONE,
    TEXT_ALONE,
    Variant,
    bulk_bounds,
    variants,
)

ROWS = 10_000
SINGLES = 1_000
SINGLE_ROWS = f"{SINGLES:,} inserts in one transaction"
RUNS = 5
SINGLE_RUNS = 2
"""In each of these: a thousand round trips wander by a third from one time to the next."""
STATEMENTS = {
    "INSERT": "INSERT INTO {table} (name, room, value)"
    " SELECT 'a thing of which one speaks', n % 100, n FROM generate_series(1, {rows}) AS n",
    "UPDATE": "UPDATE {table} SET value = value + 1",
    "DELETE": "DELETE FROM {table}",
}
SINGLE = "INSERT INTO {table} (name, room, value) VALUES (%s, %s, %s)"
OF_STATEMENT = Target(sign="<=", value=1.6)
OF_SINGLES = Target(sign="<=", value=1.3)
SKETCHES = (ROWS_ALONE, BARE_INSERT, TEXT_ALONE)
SETTLE_SECONDS = 1.0
"""What a listener gets to work off a statement before the next one, if it needs that long."""
MILLI = 1000.0


def run(place: Place) -> Findings:
    """Times from a psycopg client, commits included."""
    found = Findings()
    # The stored kind takes seconds for each statement, and `writers` has it.
    project = place.project("bulk")
    every = variants(place, project, "bulk") + bulk_bounds(project)
    ways = [way for way in every if way.name != PGPUBSUB_STORED]
    # One look at a way gives several figures, so that its listener starts once for all of them.
    taken: dict[str, dict[str, list[float]]] = {}
    calls = {way.name: partial(_measure, way, taken) for way in ways}
    in_turns(calls, place.runs(RUNS))
    found.figures = taken
    for what, figures in taken.items():
        median = medians(figures)
        for name in median:
            if name != OURS and not (what == SINGLE_ROWS and name in SKETCHES):
                found.rows.append(_row(what, median, name, place.runs(RUNS)))
    found.notes.append(
        f"Milliseconds from the statement until it has committed, {ROWS:,} rows each, with whoever"
        " listens running meanwhile, in a session that has written a row before; the singles are"
        " sent one after the other by psycopg. Three sketches that nobody listens to say what can't"
        " be undercut: a trigger that counts its rows, and two that put their text together by hand"
        " and insert it, for each row and for the statement, with nothing of what else is promised."
    )
    return found


def _row(what: str, median: dict[str, float], name: str, runs: int) -> Row:
    target = OF_SINGLES if what == SINGLE_ROWS else OF_STATEMENT
    return Row(
        what=what,
        unit="ms",
        ours=median[OURS],
        base=median[name],
        base_name=name,
        target=target if name == NONE else None,
        runs=runs,
    )


def _measure(way: Variant, taken: dict[str, dict[str, list[float]]]) -> float:
    with (
        way.listening() as listener,
        psycopg.connect(way.url, autocommit=True) as connection,
    ):
        for statement in STATEMENTS.values():
            connection.execute(statement.format(table=way.table, rows=1))
        for name, statement in STATEMENTS.items():
            query = statement.format(table=way.table, rows=ROWS)
            _note(taken, f"{name} of {ROWS:,} rows", way, _timed(connection, query))
            if isinstance(listener, Child):
                listener.wait_idle(SETTLE_SECONDS)
        for _ in range(SINGLE_RUNS):
            took = _singles(connection, way.table)
            _note(taken, SINGLE_ROWS, way, took)
        # Emptied without an event, so that each round finds what the first one found.
        connection.execute("SET session_replication_role = replica")
        connection.execute(f"DELETE FROM {way.table}")
        connection.execute("RESET session_replication_role")
        connection.execute(f"VACUUM ANALYZE {way.table}")
    return took


def _timed(connection: psycopg.Connection[Any], query: str) -> float:
    begin = time.perf_counter()
    connection.execute(query)
    return (time.perf_counter() - begin) * MILLI


def _singles(connection: psycopg.Connection[Any], table: str) -> float:
    query = SINGLE.format(table=table)
    begin = time.perf_counter()
    with connection.transaction():
        for number in range(SINGLES):
            row = ("a thing of which one speaks", number % 100, number)
            connection.execute(query, row, prepare=True)
    return (time.perf_counter() - begin) * MILLI


def _note(
    taken: dict[str, dict[str, list[float]]], what: str, way: Variant, figure: float
) -> None:
    taken.setdefault(what, {}).setdefault(way.name, []).append(figure)
