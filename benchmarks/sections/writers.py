"""Writers: how many single-row transactions a second commit, by 1 to 64 clients."""

from __future__ import annotations

from functools import partial

import psycopg

from ..harness import Findings, Plot, Row, Target, in_turns, medians
from ..pgbench import commits_per_second
from ..place import Place
from ..variants import (
    BARE_INSERT,
    BY_HAND,
    EMPTY_TRIGGER,
    NONE,
    OURS,
    PGPUBSUB,
    PGPUBSUB_STORED,
    TEXT_ALONE,
    TRIGGER_ALONE,
    Variant,
    bounds,
    variants,
)

CLIENTS = {1: 1, 8: 1, 32: 5, 64: 1}
"""Clients of pgbench, and runs of each. Those of 32 writers are judged; the machine's mood changes
from one second to the next by more than what is looked for."""
JUDGED = 32
PEER_RUNS = 2
"""Of packages, behind the others: no target is about them, and each starts a process of its own."""
SECONDS = 2
SECONDS_FULL = 10
ROWS = 100_000
"""In each table beforehand: 64 writers seldom want the same one."""
OF_FLOOR = Target(sign=">=", value=0.75)
OF_NOTIFY = Target(sign=">=", value=3.0)


def run(place: Place) -> Findings:
    """Half of the transactions insert a row, half update one, each by itself."""
    found = Findings()
    project = place.project("writers")
    ways = variants(place, project, "writers")
    limits = bounds(project)
    for way in [*ways, *limits]:
        if way.name != TRIGGER_ALONE:  # the table is ours, and full already
            _fill(way)
    seconds = place.size(SECONDS, full=SECONDS_FULL)
    by_clients: dict[int, dict[str, float]] = {}
    for clients, usual in CLIENTS.items():
        runs = place.runs(usual)
        here = [*ways, *limits] if clients == JUDGED else ways
        calls = {way.name: partial(_commits, way, clients, seconds) for way in here}
        peers = {name: calls.pop(name) for name in (PGPUBSUB, PGPUBSUB_STORED)}
        figures = in_turns(calls, runs) | in_turns(peers, min(runs, PEER_RUNS))
        found.figures[f"{clients} writers"] = figures
        by_clients[clients] = medians(figures)
        if clients < max(CLIENTS):
            found.rows += _rows(by_clients[clients], clients, runs)
    found.rows += _limit_rows(by_clients[JUDGED], place.runs(CLIENTS[JUDGED]))
    found.plots.append(_plot(by_clients))
    found.notes.append(
        "Half of the transactions insert one row, half update one; pgbench is the client, and"
        " whoever listens (pglisten, a psycopg loop, `manage.py listen`) runs meanwhile on the"
        " same cores. What pglisten has not relayed by the end of a run it catches up with before"
        f" its next one is timed. Of {JUDGED} writers there is more: a trigger that does nothing"
        " and two that only insert a text put together by hand, with nothing of what else is"
        " promised, say what can't be undercut, and ours with a bell that is off and no pglisten"
        " says what the writers pay themselves."
    )
    return found


def _rows(median: dict[str, float], clients: int, runs: int) -> list[Row]:
    targets = {NONE: OF_FLOOR, BY_HAND: OF_NOTIFY} if clients == JUDGED else {}
    return [
        Row(
            what=f"commits of {clients} writer{'s' if clients > 1 else ''}",
            unit="1/s",
            ours=median[OURS],
            base=median[name],
            base_name=name,
            target=targets.get(name),
            runs=runs,
        )
        for name in (NONE, BY_HAND, PGPUBSUB, PGPUBSUB_STORED)
    ]


def _limit_rows(median: dict[str, float], runs: int) -> list[Row]:
    """How near ours is to what no trigger goes below."""
    rows: list[tuple[str, float, float, str, Target | None]] = [
        (f"{JUDGED} writers, {name}", median[name], median[base], base, None)
        for name, base in (
            (EMPTY_TRIGGER, NONE),
            (BARE_INSERT, NONE),
            (TEXT_ALONE, NONE),
            (TEXT_ALONE, BY_HAND),
        )
    ]
    alone = f"{JUDGED} writers, {TRIGGER_ALONE}"
    rows += [
        (alone, median[TRIGGER_ALONE], median[NONE], NONE, OF_FLOOR),
        (alone, median[TRIGGER_ALONE], median[BY_HAND], BY_HAND, OF_NOTIFY),
    ]
    return [
        Row(
            what=what,
            unit="1/s",
            ours=figure,
            base=base,
            base_name=base_name,
            target=target,
            runs=runs,
        )
        for what, figure, base, base_name, target in rows
    ]


def _commits(way: Variant, clients: int, seconds: int) -> float:
    scripts = [
        f"\\set value random(1, 1000000)\nINSERT INTO {way.table} (name, room, value)"
        " VALUES ('a thing of which one speaks', :value % 100, :value);",
        f"\\set id random(1, {ROWS})\nUPDATE {way.table} SET value = value + 1 WHERE id = :id;",
    ]
    with way.listening():
        return commits_per_second(
            way.url, scripts, clients=clients, seconds=seconds, options=way.options
        )


def _fill(way: Variant) -> None:
    with psycopg.connect(way.url, autocommit=True) as connection:
        # Not an event each: nobody listens yet, and a full notify queue would make it fail.
        connection.execute("SET session_replication_role = replica")
        connection.execute(
            f"INSERT INTO {way.table} (name, room, value)"
            f" SELECT 'a thing of which one speaks', n % 100, n FROM generate_series(1, {ROWS}) n"
        )
        connection.execute(f"VACUUM ANALYZE {way.table}")


def _plot(by_clients: dict[int, dict[str, float]]) -> Plot:
    names = list(by_clients[1])
    return Plot(
        name="writers",
        title="Commits of single-row transactions",
        x="writers",
        y="commits / s",
        log_x=True,
        lines={
            name: [(clients, median[name]) for clients, median in by_clients.items()]
            for name in names
        },
    )
