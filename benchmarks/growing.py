"""Growing past one machine: what the measured costs of one unit add up to for many."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SOCKETS = 1_000_000
WEBS = 100
KIB_OF_GIB = 1024**2


def markdown(read: Mapping[str, Any]) -> str:
    """The arithmetic as a table; each figure of one unit is one of the run."""
    ours = {row["what"]: row["ours"] for row in _rows(read)}
    try:
        kib = _starting(ours, "memory for a socket")
        delivered = _starting(ours, "deliveries to ", ending="one event, uvicorn")
        relayed = _starting(ours, "events to a consumer, channels_redis, one statement")
    except StopIteration:
        return "Not all of its parts have been measured."
    each = SOCKETS // WEBS
    lines = [
        ("sockets of one web process", f"{SOCKETS:,} / {WEBS}", f"{each:,}"),
        (
            "memory of one web process",
            f"{each:,} * {kib:.0f} KiB",
            f"{each * kib / KIB_OF_GIB:.1f} GiB",
        ),
        ("memory of all", f"* {WEBS}", f"{SOCKETS * kib / KIB_OF_GIB:,.0f} GiB"),
        (
            "time to hand one event to all sockets",
            f"{each:,} / {_round(delivered)} a second, in all processes at once",
            f"{each / delivered:.2g} s",
        ),
        (
            "deliveries of all web processes",
            f"{WEBS} * {_round(delivered)} a second",
            f"{_round(WEBS * delivered)} a second",
        ),
        (
            "events that one pglisten relays",
            "measured, channels_redis",
            f"{_round(relayed)} a second",
        ),
        (
            "sockets that each event may go to, at that pace",
            "deliveries of all / events",
            f"{WEBS * delivered / relayed:,.0f}",
        ),
    ]
    table = ["| for a million sockets | arithmetic | makes |", "| --- | --- | --: |"]
    return "\n".join(table + [f"| {' | '.join(line)} |" for line in lines])


def _rows(read: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [row for section in read["sections"].values() for row in section["rows"]]


def _starting(ours: Mapping[str, float], start: str, *, ending: str = "") -> float:
    return next(
        v for what, v in ours.items() if what.startswith(start) and what.endswith(ending)
    )


def _round(value: float) -> str:
    return f"{float(f'{value:.2g}'):,.0f}"
