"""Relay: how many events a second come from a commit to a plain consumer in another process."""

from __future__ import annotations

import time
from contextlib import ExitStack
from functools import partial

from ..child import Child
from ..harness import Findings, Row, Target, in_turns, medians
from ..place import CAPACITY, MEMORY, POSTGRES, REDIS, REDIS_PUBSUB, Place, Project

EVENTS = 100_000
NAIVE_EVENTS = 3_000
"""It is so much slower."""
BARE_EVENTS = 30_000
RUNS = 3
TARGET = Target(sign=">=", value=50_000, of="ours")
VALUES = "(name, room, value) SELECT 'a thing of which one speaks', n % 100, n"
BULK = f"INSERT INTO thing {VALUES} FROM generate_series(1, {{}}) AS n"
SINGLES = f"DO $$ BEGIN FOR n IN 1..{{}} LOOP INSERT INTO thing {VALUES}; END LOOP; END $$"
NOTED = f"INSERT INTO noted {VALUES} FROM generate_series(1, {{}}) AS n"
ONE_STATEMENT, MANY_STATEMENTS, NAIVE = "one statement", "a statement each", "naive loop"
BARE = "bare NOTIFY"


def run(place: Place) -> Findings:
    """A burst is one transaction, timed from its COMMIT to the last event at the consumer."""
    found = Findings()
    project = place.project("relay")
    noted = place.project("relay_noted")
    found.figures[BARE] = in_turns({BARE: partial(_bare, place, noted)}, place.runs(RUNS))
    bare = medians(found.figures[BARE])
    for layer in (POSTGRES, REDIS, REDIS_PUBSUB):
        figures = _on_layer(place, project.on(layer), noted)
        found.figures[layer] = figures
        median = medians(figures) | bare
        runs = place.runs(RUNS)
        found.rows += [
            _row(layer, ONE_STATEMENT, median, runs, NAIVE, TARGET),
            _row(layer, MANY_STATEMENTS, median, runs, NAIVE, TARGET),
            _row(layer, ONE_STATEMENT, median, runs, BARE, None),
        ]
    found.figures[MEMORY] = _in_memory(place, noted)
    memory = medians(found.figures[MEMORY])[NAIVE]
    found.notes.append(
        f"Events of one transaction of {place.size(EVENTS):,} rows"
        f" ({place.size(NAIVE_EVENTS):,} for the naive loop: a row"
        " trigger's pg_notify, psycopg's notifies(), one group_send each), written by one statement"
        f" or by one each. A bare NOTIFY is what psycopg's notifies() takes of"
        f" {place.size(BARE_EVENTS):,}, with no channel layer and no consumer behind it. Queues"
        f" hold {CAPACITY:,} messages, so that nothing is dropped. In"
        f" memory, in one process, the naive loop makes {memory:,.0f} a second."
    )
    return found


def _row(
    layer: str, way: str, median: dict[str, float], runs: int, base: str, target: Target | None
) -> Row:
    return Row(
        what=f"events to a consumer, {layer}, {way}",
        unit="1/s",
        ours=median[way],
        base=median[base],
        base_name=base,
        target=target,
        runs=runs,
    )


def _on_layer(place: Place, project: Project, noted: Project) -> dict[str, list[float]]:
    with ExitStack() as stack:
        receiver = stack.enter_context(project.child("workers.receive"))
        receiver.answer()
        stack.enter_context(project.pglisten())
        stack.enter_context(_naive(project, noted)).wait_for("listening")
        events, few = place.size(EVENTS), place.size(NAIVE_EVENTS)
        calls = {
            ONE_STATEMENT: partial(_burst, project, receiver, BULK, events),
            MANY_STATEMENTS: partial(_burst, project, receiver, SINGLES, events),
            NAIVE: partial(_burst, noted, receiver, NOTED, few),
        }
        return in_turns(calls, place.runs(RUNS))


def _in_memory(place: Place, noted: Project) -> dict[str, list[float]]:
    with _naive(noted.on(MEMORY), noted, "--here") as both:
        both.answer()
        call = partial(_burst, noted, both, NOTED, place.size(NAIVE_EVENTS))
        return in_turns({NAIVE: call}, place.runs(RUNS))


def _bare(place: Place, noted: Project) -> float:
    """Notifications a second that psycopg takes, with nobody behind it."""
    events = place.size(BARE_EVENTS)
    with noted.child("workers.hear", "data_change", "--count", str(events)) as child:
        child.wait_for("listening")
        begin = _commit(noted, NOTED, events)
        times: dict[str, float] = child.answer()["times"]
    return events / (max(times.values()) - begin)


def _naive(project: Project, noted: Project, *arguments: str) -> Child:
    return project.child("workers.naive", *arguments, BENCH_NOTED=noted.url)


def _burst(project: Project, receiver: Child, statement: str, events: int) -> float:
    """Events a second."""
    receiver.tell(expect=events)
    begin = _commit(project, statement, events)
    last: float = receiver.answer()["last"]
    return events / (last - begin)


def _commit(project: Project, statement: str, events: int) -> float:
    """Write in one transaction; gives when its COMMIT began."""
    with project.connect() as connection:
        connection.execute("BEGIN")
        connection.execute(statement.format(events))
        begin = time.monotonic()
        connection.execute("COMMIT")
    return begin
