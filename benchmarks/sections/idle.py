"""Idle: what a pglisten costs while nothing happens, and how fast it wakes."""

from __future__ import annotations

import time
from contextlib import ExitStack

from ..child import Child
from ..harness import Findings, Row, Target, percentile
from ..place import POSTGRES, REDIS, Place, Project

QUIET_SECONDS = 20
SETTLE_SECONDS = 3.0
"""After the start: catching up, and falling asleep."""
WAKES = 15
PAUSE_SECONDS = 1.3
"""Between two commits: longer than the relay stays awake."""
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
        taken = wakes(project.on(layer), place.size(WAKES))
        found.figures[f"wakes, {layer}"] = taken
        found.rows.append(
            Row(
                what=f"wake after a quiet second, p50, {layer}",
                unit="ms",
                ours=percentile(taken, 0.5),
                target=WAKE_MS,
                runs=len(taken),
            )
        )
    found.notes.append(
        f"{QUIET_SECONDS} s without events; every statement that reaches the server counts, also"
        " those of its channel layer. A wake is from before the COMMIT to a plain consumer."
    )
    return found


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
    with ExitStack() as stack:
        stack.enter_context(project.pglisten())
        project.wait_drained()  # what was written before must not be taken for a wake
        receiver = stack.enter_context(project.child("workers.receive"))
        receiver.answer()
        connection = stack.enter_context(project.connect())
        found = []
        for _ in range(count):
            time.sleep(PAUSE_SECONDS)
            receiver.tell(expect=1)
            connection.execute("BEGIN")
            connection.execute(INSERT)
            begin = time.monotonic()
            connection.execute("COMMIT")
            found.append((receiver.answer()["last"] - begin) * MILLI)
    return found
