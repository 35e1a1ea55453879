"""Process: what pglisten does to a process that is its own."""

from __future__ import annotations

import gc
import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

NEW_OBJECTS = 50_000
"""New containers that make the garbage collector look at them: a batch of 2,000 events is parsed to
some 10,000, all in use. Python's default is 700, which took a seventh of an event's time."""
LEAVE_SECONDS = 5.0
"""For the process to end by itself once all is done: reporters of errors send their last in two."""


@contextmanager
def frozen() -> Iterator[None]:
    """Keep what Django has loaded out of the garbage collector's way: looked through at each full
    collection, of which a million events cause many, it would take a tenth of the time. Let it look
    at new objects less often, too. What a caller had frozen is thawed with the rest: some Pythons
    begin with a few hundred objects frozen, so that nobody can tell, and it costs time only."""
    usual = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(NEW_OBJECTS, *usual[1:])
    try:
        yield
    finally:
        gc.set_threshold(*usual)
        gc.unfreeze()


def leave(*, at_once: bool) -> None:
    """See to it that this process ends, whatever handlers have left behind: asyncio waits for tasks
    that take no cancellation, Python for the threads of pools. A call that still runs would go on
    beside an interpreter that is taken down."""
    timer = threading.Timer(LEAVE_SECONDS, os._exit, [0])
    timer.daemon = True
    timer.start()
    if at_once:
        logging.shutdown()
        sys.stdout.flush()
        os._exit(0)
