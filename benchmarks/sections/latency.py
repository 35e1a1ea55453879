"""Latency: from the COMMIT of a row to its frame at a WebSocket, beside NOTIFY itself."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from ..harness import Findings, Row, Target, percentile
from ..place import POSTGRES, REDIS, Place, Project

MILLI = 1000.0
CALM = 200
"""Events a second, a transaction each."""
CALM_SECONDS = 5
CALM_RUNS = 2
"""Of ours and the naive loop in turns: one stall of a disk would be a p99 of its own."""
BUSY = 5_000
BUSY_ROWS = 10
"""Of one transaction: so the writer takes a small part of two cores."""
BUSY_SECONDS = 60
FULL_SECONDS = 60
BARE, WITH_ROW, NAIVE = "bare NOTIFY", "NOTIFY with a row", "naive loop"
P50_OF_FLOOR = Target(sign="<=", value=5.0)
P99_CALM_MS = Target(sign="<=", value=15.0, of="ours")
P99_BUSY_MS = Target(sign="<=", value=50.0, of="ours")
KEPT = 0.95
NOTHING = Target(sign="<=", value=0.0, of="ours")


@dataclass(frozen=True, kw_only=True)
class Way:
    """How a row comes to a browser."""

    table: str
    page: str
    relay: Callable[[Project], AbstractContextManager[Any]]


@contextmanager
def _naive(project: Project) -> Iterator[None]:
    with project.child("workers.naive", "--plain", BENCH_NOTED=project.url) as child:
        child.wait_for("listening")
        yield


OURS_WAY = Way(table="thing", page="/ours/", relay=Project.pglisten)
NAIVE_WAY = Way(table="noted", page="/plain/", relay=_naive)


@dataclass(frozen=True, kw_only=True)
class Taken:
    """Milliseconds of each event."""

    ours: Sequence[float]
    floor: Mapping[str, Sequence[float]]
    lost: int
    rate: float
    """Events a second that the writer really made."""


def run(place: Place) -> Findings:
    """A real Daphne, one WebSocket, both channel layers."""
    found = Findings()
    project = place.project("latency")
    for layer in (POSTGRES, REDIS):
        calm, naive = _calm(project.on(layer), place)
        found.rows += _calm_rows(layer, calm, naive)
        seconds = place.size(BUSY_SECONDS)
        busy = measure(project.on(layer), place, rate=BUSY, rows=BUSY_ROWS, seconds=seconds)
        found.rows += _busy_rows(layer, busy)
        found.figures[layer] = {
            "calm": _summary(calm),
            "naive": _summary(naive),
            "busy": _summary(busy),
        }
    found.notes.append(
        f"From before the COMMIT to the frame in the client's process; the floor is psycopg's"
        " notifies(), in the same seconds. The naive loop (a row trigger's pg_notify, notifies(), a"
        " group_send, a plain AsyncJsonWebsocketConsumer) goes the same way through the same"
        f" servers, taking turns with ours, and promises nothing. {BUSY:,} events a second are"
        f" transactions of {BUSY_ROWS} rows, for {place.size(BUSY_SECONDS)} s."
    )
    return found


def _calm(project: Project, place: Place) -> tuple[Taken, Taken]:
    """Ours and the naive loop, all runs of each as one."""
    seconds = place.size(CALM_SECONDS, full=FULL_SECONDS)
    taken: dict[str, list[Taken]] = {OURS_WAY.table: [], NAIVE_WAY.table: []}
    for _ in range(place.runs(CALM_RUNS)):
        for way in (OURS_WAY, NAIVE_WAY):
            one = measure(project, place, rate=CALM, rows=1, seconds=seconds, way=way)
            taken[way.table].append(one)
    ours, naive = map(_together, taken.values())
    return ours, naive


def _together(several: Sequence[Taken]) -> Taken:
    return Taken(
        ours=[ms for taken in several for ms in taken.ours],
        floor={
            name: [ms for taken in several for ms in taken.floor[name]]
            for name in several[0].floor
        },
        lost=sum(taken.lost for taken in several),
        rate=statistics.mean(taken.rate for taken in several),
    )


def _calm_rows(layer: str, taken: Taken, naive: Taken) -> list[Row]:
    what = f"{CALM} events/s{_made(taken, CALM)}, {layer}"
    others = {**taken.floor, NAIVE: naive.ours}
    compared = (
        (50, BARE, P50_OF_FLOOR),
        (50, WITH_ROW, None),
        (50, NAIVE, None),
        (99, BARE, P99_CALM_MS),
        (99, NAIVE, None),
    )
    return [
        *(
            Row(
                what=f"p{share} at {what}",
                unit="ms",
                ours=percentile(taken.ours, share / 100),
                base=percentile(others[name], share / 100),
                base_name=name,
                target=target,
            )
            for share, name, target in compared
        ),
        Row(what=f"lost at {what}", unit="events", ours=taken.lost, target=NOTHING),
    ]


def _busy_rows(layer: str, taken: Taken) -> list[Row]:
    what = f"{BUSY:,} events/s{_made(taken, BUSY)}, {layer}"
    return [
        Row(what=f"p50 at {what}", unit="ms", ours=percentile(taken.ours, 0.5)),
        Row(
            what=f"p99 at {what}",
            unit="ms",
            ours=percentile(taken.ours, 0.99),
            target=P99_BUSY_MS,
        ),
        Row(what=f"lost at {what}", unit="events", ours=taken.lost, target=NOTHING),
    ]


def measure(
    project: Project,
    place: Place,
    *,
    rate: int,
    rows: int,
    seconds: int,
    server: str = "daphne",
    way: Way = OURS_WAY,
) -> Taken:
    """Write at this pace while one WebSocket and, where each transaction has one row, a bare
    listener hear of it."""
    events = rate * seconds
    floor = place.create_database("latency_floor")
    with ExitStack() as stack:
        stack.enter_context(way.relay(project))
        web, port = project.web(server)
        stack.enter_context(web)
        crowd = stack.enter_context(
            project.child("workers.crowd", port, way.page, 1, "--times")
        )
        crowd.answer()
        crowd.tell(expect=events)
        crowd.answer()
        arguments = ["--table", way.table, "--rate", rate, "--rows", rows, "--seconds", seconds]
        hearer = None
        if rows == 1:
            with project.connect_to(floor) as connection:
                connection.execute("CREATE TABLE plain (name text, room int, value bigint)")
            hearer = project.child(
                "workers.hear", "floor", "--count", events, BENCH_DATABASE=floor
            )
            stack.enter_context(hearer).wait_for("listening")
            arguments.append("--floor")
        writer = project.child("workers.write", *arguments, BENCH_FLOOR=floor)
        written = stack.enter_context(writer).answer(seconds * 3 + 30)
        heard = hearer.answer()["times"] if hearer else {}
        arrived = {int(n): at for n, at in crowd.answer()["times"].items()}
    return Taken(
        ours=[
            (arrived[n] - written["times"][n // rows]) * MILLI
            for n in range(events)
            if n in arrived
        ],
        floor={
            name: [
                (at - written["floor"][key]) * MILLI
                for key, at in heard.items()
                if key.startswith(start)
            ]
            for name, start in ((BARE, "bare"), (WITH_ROW, "with"))
        },
        lost=events - len(arrived),
        rate=events / written["seconds"],
    )


def _made(taken: Taken, wanted: float) -> str:
    """Said where the writer did not keep the pace: then the row is about another one."""
    return "" if taken.rate > KEPT * wanted else f" ({taken.rate:,.0f} were written)"


def _summary(taken: Taken) -> dict[str, float]:
    figures = {"ours": taken.ours, **{k: v for k, v in taken.floor.items() if v}}
    return {
        f"{name} p{share}": percentile(values, share / 100)
        for name, values in figures.items()
        for share in (50, 95, 99)
    } | {"lost": taken.lost, "rate": taken.rate}
