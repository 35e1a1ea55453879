"""Sockets: the memory of a web process with thousands of them, and whether all get an event."""

from __future__ import annotations

import resource
from contextlib import ExitStack

from ..harness import Findings, Row, Target
from ..place import REDIS, Place, Project
from .fanout import INSERT, OURS, PLAIN

SOCKETS = 5_000
FILES = 12_000
"""Descriptors for them on either side, and some more."""
KIB = 1024
ALL = Target(sign=">=", value=1.0)
PATIENCE_SECONDS = 300.0
"""For thousands of handshakes on a busy machine."""


def run(place: Place) -> Findings:
    """A Daphne for ours and one for the plain consumer, with the same crowd."""
    found = Findings()
    _raise_limit()
    project = place.project("sockets", layer=REDIS)
    sockets = place.size(SOCKETS)
    memory, reached = {}, 0
    for page, name in (("ours", OURS), ("plain", PLAIN)):
        memory[name], got = _open(project, page, sockets)
        if name == OURS:
            reached = got
    found.rows += [
        Row(
            what=f"memory for a socket, of {sockets:,} on Daphne",
            unit="KiB",
            ours=memory[OURS],
            base=memory[PLAIN],
            base_name=PLAIN,
        ),
        Row(
            what=f"of {sockets:,} sockets that get an event",
            unit="sockets",
            ours=reached,
            base=sockets,
            base_name="open sockets",
            target=ALL,
        ),
    ]
    found.figures = {"KiB for a socket": memory, "sockets": sockets, "reached": reached}
    found.notes.append(
        "Growth of the web process's memory (RSS) from before the first socket to the last, divided"
        " by the sockets."
    )
    return found


def _open(project: Project, page: str, sockets: int) -> tuple[float, int]:
    """KiB for a socket, and how many got an event."""
    with ExitStack() as stack:
        stack.enter_context(project.pglisten())
        web, port = project.web()
        stack.enter_context(web)
        # The first socket starts what the process needs once, hub and channel layer.
        first = stack.enter_context(project.child("workers.crowd", port, f"/{page}/", 1))
        first.answer()
        before = web.process.memory_info().rss
        crowd = project.child("workers.crowd", port, f"/{page}/", sockets)
        stack.enter_context(crowd).answer(PATIENCE_SECONDS)
        grown = (web.process.memory_info().rss - before) / KIB / sockets
        if page == "plain":
            return grown, 0
        crowd.tell(expect=1)
        crowd.answer()
        with project.connect() as connection:
            connection.execute(INSERT)
        return grown, sockets - crowd.answer(PATIENCE_SECONDS)["behind"]


def _raise_limit() -> None:
    """Children inherit it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < FILES:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(FILES, hard), hard))
