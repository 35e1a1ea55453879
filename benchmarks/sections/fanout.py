"""Fan-out: events to many sockets of one web process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial

from ..child import Child
from ..harness import Findings, Row, Target, in_turns, medians
from ..place import REDIS, Place, Project

SOCKETS = 1_000
ONE_EVENTS = 9
"""Times that one event is sent."""
STREAM = 20
"""Events in a row, each of a transaction of its own."""
STREAMS = 1
"""Of them: a plain consumer takes 12 seconds for one."""
INSERT = "INSERT INTO thing (name, room, value) VALUES ('a thing of which one speaks', 1, 1)"
TARGETS = {
    "daphne": Target(sign=">=", value=10),
    "uvicorn": Target(sign=">=", value=20),
}
OURS, PLAIN, BARE = "django_pgnotify", "plain consumer", "bare loop"
NAMES = {"ours": OURS, "plain": PLAIN, "bare": BARE}
"""By page."""
PATIENCE_SECONDS = 120.0

Cause = Callable[[int], float]
"""Makes so many events; gives the time of before the first."""


def run(place: Place) -> Findings:
    """One event, and some in a row, to the last of the sockets."""
    found = Findings()
    project = place.project("fanout", layer=REDIS)
    sockets = place.size(SOCKETS)
    for server, target in TARGETS.items():
        one, row = _seconds(place, project, server, sockets)
        found.figures[server] = {"one": one, "in a row": row}
        for events, seconds in ((1, one), (STREAM, row)):
            speed = {name: events * sockets / took for name, took in medians(seconds).items()}
            what = "one event" if events == 1 else f"{events} events in a row"
            found.rows += [
                Row(
                    what=f"deliveries to {sockets} sockets, {what}, {server}",
                    unit="1/s",
                    ours=speed[OURS],
                    base=speed[name],
                    base_name=name,
                    target=target if name == PLAIN else None,
                    runs=len(seconds[OURS]),
                )
                for name in (PLAIN, BARE)
            ]
    found.notes.append(
        "Over channels_redis: for ours from before the COMMIT of a row, through trigger, ledger and"
        " pglisten, for the plain AsyncJsonWebsocketConsumer from before the group_send, until the"
        f" last socket has its frame. {STREAM} events in a row are as many transactions, or"
        " group_sends, one after the other; ours puts several events into a frame. The bare loop is"
        " a sketch of what can't be undercut: from a group_send, one loop that hands the same text"
        " to the server for each socket, past Channels, with no queue, no filter and no resume."
    )
    return found


def _seconds(
    place: Place, project: Project, server: str, sockets: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    with ExitStack() as stack:
        stack.enter_context(project.pglisten())
        deliveries = {}
        for page, cause in causes(project, stack).items():
            web, port = project.web(server)
            stack.enter_context(web)
            crowd = project.child("workers.crowd", port, f"/{page}/", sockets)
            stack.enter_context(crowd)
            crowd.answer()
            deliveries[NAMES[page]] = partial(delivery, crowd, cause)
        one = {name: partial(deliver, 1) for name, deliver in deliveries.items()}
        row = {name: partial(deliver, STREAM) for name, deliver in deliveries.items()}
        in_turns(one, 1)  # the first event of a process pays for what is made once
        return in_turns(one, place.runs(ONE_EVENTS)), in_turns(row, place.runs(STREAMS))


def causes(
    project: Project, stack: ExitStack, pages: Iterable[str] = tuple(NAMES)
) -> dict[str, Cause]:
    """What makes events at each page."""
    connection = stack.enter_context(project.connect())

    def commit(count: int) -> float:
        begin = time.monotonic()
        for _ in range(count):
            connection.execute(INSERT)
        return begin

    def sends_to(group: str) -> Cause:
        sender = stack.enter_context(project.child("workers.send", group))
        sender.answer()

        def send(count: int) -> float:
            sender.tell(count=count)
            begin: float = sender.answer()["begin"]
            return begin

        return send

    return {page: commit if page == "ours" else sends_to(page) for page in pages}


def delivery(crowd: Child, cause: Cause, events: int) -> float:
    """Seconds from the cause of the first event until the last socket has all of them."""
    crowd.tell(expect=events)
    crowd.answer()
    begin = cause(events)
    answer = crowd.answer(PATIENCE_SECONDS)
    if answer["behind"]:
        raise RuntimeError(f"{answer['behind']} sockets did not get their events")
    last: float = answer["last"]
    return last - begin
