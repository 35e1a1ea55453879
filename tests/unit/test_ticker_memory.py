"""What a row fills goes out before it fills more, however many groups its events have."""

from __future__ import annotations

import json
import tracemalloc
from types import SimpleNamespace
from typing import Any, cast

from django_pgnotify.conf import MIB
from django_pgnotify.ledger.rows import LedgerRow
from django_pgnotify.ledger.ticks import Tick
from django_pgnotify.metrics import Metrics
from django_pgnotify.relay.frames import HELD_BYTES, Chain, TickFrames
from django_pgnotify.relay.ticker import Ticker

GROUPS = 300
EVENTS = 400
TICK = Tick(number=7, snapshot="1:1:", bits=3)


def ticker() -> Ticker:
    """One that only turns rows into frames."""
    unused = cast("Any", None)
    start = SimpleNamespace(tick=TICK, identity=SimpleNamespace(epoch="e"))
    return Ticker(
        leader=unused,
        reader=unused,
        start=cast("Any", start),
        queue=unused,
        metrics=Metrics(),
        on_tick=lambda topics: None,
        full=unused,
    )


def wide_row() -> LedgerRow:
    groups = json.dumps([f"user-{n}" for n in range(GROUPS)], separators=(",", ":"))
    event = f'{{"kind":"insert","pk":1,"data":{{"x":"{"x" * 2000}"}},"groups":{groups}}}'
    changes = f"[{','.join([event] * EVENTS)}]"
    return LedgerRow(1, "t", "m.n", changes, None, None, "9", "2026-01-02T03:04:05Z")


def test_a_row_with_many_groups_is_not_held_in_memory_for_each_of_them() -> None:
    row = wide_row()
    built = TickFrames(epoch="e", tick=TICK, chain=Chain(0), max_bytes=MIB, control=0)
    tracemalloc.start()
    try:
        sent = sum(frame.size for frame in ticker()._frames([row], built, TICK))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    sent += sum(frame.size for frame in built.finish())
    assert sent > 200 * MIB  # each event to each group
    assert peak < 3 * HELD_BYTES
