"""Drain: a backlog of many events and the memory of the pglisten that works it off."""

from __future__ import annotations

import time

from ..harness import Findings, Row, Target
from ..place import POSTGRES, REDIS, Place, Project

EVENTS = 1_000_000
STATEMENT_ROWS = 10_000
MIB = 1024**2
SPEED = Target(sign=">=", value=50_000, of="ours")
MEMORY_MB = Target(sign="<", value=150, of="ours")
INSERT = f"""INSERT INTO thing (name, room, value)
    SELECT 'a thing of which one speaks', n % 100, n
    FROM generate_series(1, {STATEMENT_ROWS}) AS n"""


def run(place: Place) -> Findings:
    """``pglisten --once``, from its start to its end."""
    found = Findings()
    events = place.size(EVENTS)
    for layer in (POSTGRES, REDIS):
        project = place.project("drain", layer=layer)
        project.manage("pglisten", "--once")
        _write(project, events)
        begin = time.monotonic()
        with project.pglisten("--once") as child:
            memory = child.finish(seconds=300) / MIB
        speed = events / (time.monotonic() - begin)
        found.figures[layer] = {"events": events, "events/s": speed, "MiB": memory}
        found.rows += [
            Row(
                what=f"backlog of {events:,} events, {layer}",
                unit="1/s",
                ours=speed,
                target=SPEED,
            ),
            Row(
                what=f"peak memory of pglisten, {layer}",
                unit="MiB",
                ours=memory,
                target=MEMORY_MB,
            ),
        ]
    found.notes.append(
        f"Written by statements of {STATEMENT_ROWS:,} rows while no pglisten runs; timed with the"
        " start of the process. Memory is the process's peak (RSS), Python and Django included."
    )
    return found


def _write(project: Project, events: int) -> None:
    with project.connect() as connection:
        for _ in range(events // STATEMENT_ROWS):
            connection.execute(INSERT)
