"""Growth: how figures move with groups, sockets, web processes, pace and ledger; for pictures."""

from __future__ import annotations

import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import Any

import psycopg

from ..child import Child
from ..harness import Findings, Plot, percentile
from ..pgbench import commits_per_second
from ..place import POSTGRES, REDIS, Effort, Place, Project
from . import fanout, idle, latency

GROUPS = (1, 100, 1_000, 10_000)
GROUP_EVENTS = 20_000
SOCKETS = (1, 100, 1_000, 5_000)
WEBS = (1, 2, 4, 8)
SOCKETS_OF_WEB = 50
RATES = (100, 500, 2_000, 5_000)
RATE_SECONDS = 3
TRANSACTIONS = 500
"""A second at most; at higher rates each has more rows."""
LEDGER_ROWS = (0, 1_000_000, 10_000_000)
LEDGER_WRITERS = 8
LEDGER_SECONDS = 2
LEDGER_FILLERS = 2
"""One a core: it is the longest part of all pictures."""
EVENTS = 3
PATIENCE_SECONDS = 300.0
"""For 10,000 frames, one a group, or 5,000 handshakes on a busy machine."""
MILLI = 1000.0
ROOMED = """INSERT INTO roomed (name, room, value)
    SELECT 'a thing of which one speaks', n %% %s, n FROM generate_series(1, %s) AS n"""
# As many bytes as an event, and none in it: what counts is how the ledger grows. Defaults of
# ten million rows would take as long as all else of this picture.
FILLER = """INSERT INTO django_pgnotify_ledger (id, topic, model, changes, at)
    OVERRIDING SYSTEM VALUE
    SELECT n, 'filler', 'things.thing', %s, now() FROM generate_series(%s, %s) AS n"""
HELD = "SELECT coalesce(max(id), 0) FROM django_pgnotify_ledger"
FILLED = "SELECT setval(pg_get_serial_sequence('django_pgnotify_ledger', 'id'), %s)"
BLANK_EVENT = "[" + 150 * " " + "]"
# As if a relay had sent them: to read them all would take longer than to measure.
SENT = """
    WITH tick AS (INSERT INTO django_pgnotify_tick (number, snapshot, bits)
        SELECT max(number) + 1, pg_current_snapshot(), 1 FROM django_pgnotify_tick
        RETURNING number)
    UPDATE django_pgnotify_state SET sent = tick.number FROM tick"""
SINGLE = (
    "INSERT INTO thing (name, room, value) VALUES ('a thing of which one speaks', 1, 1);",
)


def run(place: Place) -> Findings:
    """Few quick points each."""
    found = Findings()
    for picture in (_groups, _sockets, _webs, _rates, _ledger):
        plot = picture(place)
        found.plots.append(plot)
        found.figures[plot.name] = plot.lines
    return found


def _some(place: Place, sizes: tuple[int, ...]) -> tuple[int, ...]:
    return sizes[:2] if place.effort is Effort.QUICK else sizes


def _groups(place: Place) -> Plot:
    project = place.project("growth_groups")
    lines: dict[str, list[tuple[float, float]]] = {}
    for layer in (POSTGRES, REDIS):
        lines[layer] = [
            (groups, _events_over(place, project.on(layer), groups))
            for groups in _some(place, GROUPS)
        ]
    return Plot(
        name="groups",
        title="Events of one transaction, spread over groups that one consumer has joined",
        x="groups",
        y="events / s",
        lines=lines,
        log_x=True,
    )


def _events_over(place: Place, project: Project, groups: int) -> float:
    events = max(place.size(GROUP_EVENTS), groups)
    with ExitStack() as stack:
        receiver = stack.enter_context(project.child("workers.receive", groups))
        receiver.answer()
        stack.enter_context(project.pglisten())
        receiver.tell(expect=events)
        with project.connect() as connection, connection.transaction():
            connection.execute(ROOMED, (groups, events))
            begin = time.monotonic()
        last: float = receiver.answer(PATIENCE_SECONDS)["last"]
        return events / (last - begin)


def _sockets(place: Place) -> Plot:
    project = place.project("growth_sockets", layer=REDIS)
    lines: dict[str, list[tuple[float, float]]] = {fanout.OURS: [], fanout.PLAIN: []}
    with ExitStack() as stack:
        stack.enter_context(project.pglisten())
        causes = fanout.causes(project, stack, ("ours", "plain"))
        for page, cause in causes.items():
            web, port = project.web()
            stack.enter_context(web)
            for sockets in _some(place, SOCKETS):
                with project.child("workers.crowd", port, f"/{page}/", sockets) as crowd:
                    crowd.answer(PATIENCE_SECONDS)
                    taken = statistics.median(
                        fanout.delivery(crowd, cause, 1) for _ in range(EVENTS)
                    )
                lines[fanout.NAMES[page]].append((sockets, taken * MILLI))
    return Plot(
        name="sockets",
        title="One event to all sockets of one Daphne",
        x="sockets",
        y="ms to the last socket",
        lines=lines,
        log_x=True,
        log_y=True,
    )


def _webs(place: Place) -> Plot:
    project = place.project("growth_webs")
    return Plot(
        name="webs",
        title=f"One event to all web processes, {SOCKETS_OF_WEB} sockets each",
        x="web processes",
        y="ms to the last socket",
        lines={
            layer: _to_more_and_more(project.on(layer), _some(place, WEBS))
            for layer in (POSTGRES, REDIS)
        },
    )


def _to_more_and_more(project: Project, sizes: tuple[int, ...]) -> list[tuple[float, float]]:
    """Milliseconds until the last socket of the last process; those that are there stay."""
    with ExitStack() as stack:
        stack.enter_context(project.pglisten())
        connection = stack.enter_context(project.connect())
        crowds: list[Child] = []
        points: list[tuple[float, float]] = []
        for webs in sizes:
            new = [_crowd(project, stack) for _ in range(webs - len(crowds))]
            for crowd in new:
                crowd.answer()
            crowds += new
            taken = [_to_all(crowds, connection) for _ in range(EVENTS)]
            points.append((webs, statistics.median(taken) * MILLI))
        return points


def _crowd(project: Project, stack: ExitStack) -> Child:
    web, port = project.web()
    stack.enter_context(web)
    crowd = project.child("workers.crowd", port, "/ours/", SOCKETS_OF_WEB)
    return stack.enter_context(crowd)


def _to_all(crowds: list[Child], connection: psycopg.Connection[Any]) -> float:
    for crowd in crowds:
        crowd.tell(expect=1)
        crowd.answer()
    begin = time.monotonic()
    connection.execute(idle.INSERT)
    return max(float(crowd.answer()["last"]) for crowd in crowds) - begin


def _rates(place: Place) -> Plot:
    project = place.project("growth_rates")
    p50, p99 = [], []
    for rate in _some(place, RATES):
        taken = latency.measure(
            project,
            place,
            rate=rate,
            rows=max(rate // TRANSACTIONS, 1),
            seconds=place.size(RATE_SECONDS),
        )
        p50.append((taken.rate, percentile(taken.ours, 0.5)))
        p99.append((taken.rate, percentile(taken.ours, 0.99)))
    return Plot(
        name="rates",
        title="From the COMMIT to a WebSocket's frame, by events a second",
        x="events / s",
        y="ms",
        lines={"p50": p50, "p99": p99},
        log_x=True,
        log_y=True,
    )


def _ledger(place: Place) -> Plot:
    """Commits of some writers, and a wake, as the ledger grows under them."""
    project = place.project("growth_ledger")
    commits, wakes = [], []
    for rows in _some(place, LEDGER_ROWS):
        _fill(project, rows)
        with project.connect() as connection:
            connection.execute(SENT)
            connection.execute("VACUUM ANALYZE django_pgnotify_ledger")
        with project.pglisten():
            tps = partial(commits_per_second, project.url, SINGLE, clients=LEDGER_WRITERS)
            commits.append((rows, tps(seconds=place.size(LEDGER_SECONDS))))
        wakes.append((rows, statistics.median(idle.wakes(project, EVENTS))))
    return Plot(
        name="ledger",
        title="As the ledger grows",
        x="rows in the ledger",
        y="commits / s, microseconds",
        lines={
            f"commits / s of {LEDGER_WRITERS} writers": commits,
            "microseconds to a sleeping consumer": [(n, ms * MILLI) for n, ms in wakes],
        },
        log_y=True,
    )


def _fill(project: Project, rows: int) -> None:
    """Have so many rows in the ledger."""
    with project.connect() as connection:
        [first] = connection.execute(HELD).fetchone() or [0]
    each = (rows - first) // LEDGER_FILLERS + 1

    def fill(before: int) -> None:
        with project.connect() as connection:
            connection.execute(FILLER, (BLANK_EVENT, before + 1, min(before + each, rows)))

    with ThreadPoolExecutor(LEDGER_FILLERS) as pool:
        list(pool.map(fill, range(first, rows, max(each, 1))))
    if rows:
        with project.connect() as connection:
            connection.execute(FILLED, (rows,))
