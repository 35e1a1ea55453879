"""Idle: what a pglisten costs while nothing happens, and how fast it wakes."""

from __future__ import annotations

import json
import time
from itertools import pairwise

from ..child import Child
from ..harness import Findings, Row, Target, percentile
from ..place import POSTGRES, REDIS, Place, Project
from ..variants import OURS
from ..workers.stepping import HANDED, HEARD, STORED

QUIET_SECONDS = 15
SETTLE_SECONDS = 3.0
"""After the start: catching up, and falling asleep."""
WAKES = 9
STEPPED_WAKES = 5
STEPS = {
    HEARD: "the bell is heard",
    STORED: "then its tick is stored",
    HANDED: "then its frame is handed to the channel layer",
    "received": "then it is received",
}
NAIVE = "naive loop"
PAUSE_SECONDS = 1.3
"""Between two commits: longer than the relay stays awake."""
NAIVE_PAUSE_SECONDS = 0.5
"""The naive loop never is."""
MILLI = 1000.0
STATEMENTS = Target(sign="<=", value=2.0, of="ours")
CPU = Target(sign="<=", value=0.5, of="ours")
WAKE_MS = Target(sign="<=", value=5.0, of="ours")
INSERT = "INSERT INTO thing (name, room, value) VALUES ('a thing of which one speaks', 1, 1)"


def run(place: Place) -> Findings:
    """Statements are counted in the server's log; CPU time is the process's own."""
    found = Findings()
    project = place.project("idle")
    with project.connect() as connection:
        connection.execute("ALTER DATABASE idle SET log_statement = 'all'")
        statements, cpu = _quiet(place, project)
        connection.execute("ALTER DATABASE idle RESET log_statement")
    found.rows += [
        Row(
            what="statements of an idle pglisten",
            unit="1/s",
            ours=statements,
            target=STATEMENTS,
        ),
        Row(what="CPU of an idle pglisten", unit="%", ours=cpu, target=CPU),
    ]
    for layer in (POSTGRES, REDIS):
        found.rows.append(_wake_row(place, project.on(layer), layer, found))
        found.rows += _step_rows(place, project.on(layer), layer)
    found.notes.append(
        f"{QUIET_SECONDS} s without events; every statement that reaches the server counts, also"
        " those of its channel layer. A wake is from before the COMMIT to a plain consumer; the"
        " naive loop (a row trigger's pg_notify, notifies(), a group_send) has nothing to wake, and"
        " stores nothing. The steps of a wake are medians of some more wakes, of a pglisten that"
        " prints when it gets where. A tick is stored when PostgreSQL has flushed it to disk."
    )
    return found


def _wake_row(place: Place, project: Project, layer: str, found: Findings) -> Row:
    count = place.size(WAKES)
    taken = {OURS: wakes(project, count), NAIVE: naive_wakes(project, count)}
    found.figures[f"wakes, {layer}"] = taken
    return Row(
        what=f"wake after a quiet second, p50, {layer}",
        unit="ms",
        ours=percentile(taken[OURS], 0.5),
        base=percentile(taken[NAIVE], 0.5),
        base_name=NAIVE,
        target=WAKE_MS,
        runs=count,
    )


def _step_rows(place: Place, project: Project, layer: str) -> list[Row]:
    count = place.size(STEPPED_WAKES)
    with project.child("workers.stepping") as child:
        child.wait_for("listening")
        project.wait_drained()
        taken = _wakes(project, "thing", count, steps=child)
    return [
        Row(
            what=f"of a wake, {layer}: {what}",
            unit="ms",
            ours=percentile(list(step), 0.5),
            runs=count,
        )
        for what, step in zip(STEPS.values(), zip(*taken, strict=True), strict=True)
    ]


def _quiet(place: Place, project: Project) -> tuple[float, float]:
    seconds = place.size(QUIET_SECONDS)
    with project.pglisten() as child:
        time.sleep(SETTLE_SECONDS)
        before, used, begin = _logged(place), _cpu(child), time.monotonic()
        time.sleep(seconds)
        took = time.monotonic() - begin
        return (_logged(place) - before) / took, (_cpu(child) - used) / took * 100


def _logged(place: Place) -> int:
    """Statements of our program in the log; a line begins with the database and the program."""
    lines = place.postgres.log.read_text(errors="replace").splitlines()
    return sum(
        line.startswith("idle django_pgnotify")
        and ("LOG:  statement:" in line or "LOG:  execute" in line)
        for line in lines
    )


def _cpu(child: Child) -> float:
    times = child.process.cpu_times()
    return float(times.user + times.system)


def wakes(project: Project, count: int) -> list[float]:
    """Milliseconds from a commit after a pause to a plain consumer."""
    with project.pglisten():
        project.wait_drained()  # what was written before must not be taken for a wake
        return [sum(steps) for steps in _wakes(project, "thing", count)]


def naive_wakes(project: Project, count: int) -> list[float]:
    """The same by the naive loop."""
    with project.child("workers.naive", BENCH_NOTED=project.url) as child:
        child.wait_for("listening")
        taken = _wakes(project, "noted", count, pause=NAIVE_PAUSE_SECONDS)
        return [sum(steps) for steps in taken]


def _wakes(
    project: Project,
    table: str,
    count: int,
    *,
    pause: float = PAUSE_SECONDS,
    steps: Child | None = None,
) -> list[list[float]]:
    """Milliseconds of each wake, from step to step if somebody tells them."""
    with project.child("workers.receive") as receiver, project.connect() as connection:
        receiver.answer()
        found = []
        for _ in range(count):
            time.sleep(pause)
            receiver.tell(expect=1)
            connection.execute("BEGIN")
            connection.execute(INSERT.replace("thing", table, 1))
            times = [time.monotonic()]
            connection.execute("COMMIT")
            last = receiver.answer()["last"]
            if steps is not None:
                times += [json.loads(steps.wait_for(step))["at"] for step in list(STEPS)[:-1]]
            times.append(last)
            found.append([(b - a) * MILLI for a, b in pairwise(times)])
        return found
