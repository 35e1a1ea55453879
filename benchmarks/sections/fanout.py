"""Fan-out: one event to many sockets of one web process."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack

from ..child import Child
from ..harness import Findings, Row, Target, in_turns, medians
from ..place import REDIS, Place, Project

SOCKETS = 500
EVENTS = 20
INSERT = "INSERT INTO thing (name, room, value) VALUES ('a thing of which one speaks', 1, 1)"
TARGETS = {
    "daphne": Target(sign=">=", value=10),
    "uvicorn": Target(sign=">=", value=20),
}
OURS, PLAIN = "django_pgnotify", "plain consumer"
NAMES = {"ours": OURS, "plain": PLAIN}
"""By page."""


def run(place: Place) -> Findings:
    """One event at a time, to the last of the sockets."""
    found = Findings()
    project = place.project("fanout", layer=REDIS)
    sockets = place.size(SOCKETS)
    for server, target in TARGETS.items():
        seconds = _seconds(place, project, server, sockets)
        found.figures[server] = seconds
        median = {name: sockets / value for name, value in medians(seconds).items()}
        found.rows.append(
            Row(
                what=f"deliveries to {sockets} sockets, {server}",
                unit="1/s",
                ours=median[OURS],
                base=median[PLAIN],
                base_name=PLAIN,
                target=target,
                runs=place.runs(EVENTS),
            )
        )
    found.notes.append(
        "One event at a time over channels_redis: for ours from before the COMMIT of a row, through"
        " trigger, ledger and pglisten, for the plain AsyncJsonWebsocketConsumer from before the"
        " group_send, until the last socket has its frame. The client counts frames and parses"
        " nothing."
    )
    return found


def _seconds(
    place: Place, project: Project, server: str, sockets: int
) -> dict[str, list[float]]:
    with ExitStack() as stack:
        stack.enter_context(project.pglisten())
        calls = {}
        for page, cause in causes(project, stack).items():
            web, port = project.web(server)
            stack.enter_context(web)
            crowd = project.child("workers.crowd", port, f"/{page}/", sockets)
            stack.enter_context(crowd)
            crowd.answer()
            calls[NAMES[page]] = delivery(crowd, cause)
        in_turns(calls, 1)  # the first event of a process pays for what is made once
        return in_turns(calls, place.runs(EVENTS))


def causes(project: Project, stack: ExitStack) -> dict[str, Callable[[], float]]:
    """What makes one event at each page; gives the time of before."""
    sender = stack.enter_context(project.child("workers.send", "plain"))
    sender.answer()
    connection = stack.enter_context(project.connect())

    def commit() -> float:
        begin = time.monotonic()
        connection.execute(INSERT)
        return begin

    def send() -> float:
        sender.tell(count=1)
        begin: float = sender.answer()["begin"]
        return begin

    return {"ours": commit, "plain": send}


def delivery(crowd: Child, cause: Callable[[], float]) -> Callable[[], float]:
    """Seconds from the cause of one event to its last socket."""

    def measure() -> float:
        crowd.tell(expect=1)
        crowd.answer()
        begin = cause()
        answer = crowd.answer()
        if answer["behind"]:
            raise RuntimeError(f"{answer['behind']} sockets did not get the event")
        last: float = answer["last"]
        return last - begin

    return measure
