"""Pace: how fast ledger rows come, and how often a relay that is awake looks for them."""

from __future__ import annotations

import math

RATE_SECONDS = 0.25
"""How long a ledger row counts for the rate: it fades by 63 % in this time."""
MIN_PAUSE_SECONDS = 0.002
MAX_PAUSE_SECONDS = 0.02
"""Between two looks of a relay that is awake: while much comes, and while little does."""
PAUSE_SHARE = 2.0
"""A pause is so many times as long as the look before it: the relay takes a third of one core's
time from the writers, and what comes meanwhile makes the next tick larger."""


class Rate:
    """Ledger rows a second, the latest counting most."""

    def __init__(self) -> None:
        self._rows = 0.0
        self._at = 0.0

    def add(self, rows: int, now: float) -> None:
        """Count rows that have been read at a time."""
        self._rows = self.per_second(now) * RATE_SECONDS + rows
        self._at = now

    def per_second(self, now: float) -> float:
        """What the rate has faded to."""
        return self._rows * math.exp((self._at - now) / RATE_SECONDS) / RATE_SECONDS


def next_pause(pause: float, rows: int, took: float) -> float:
    """Seconds until a relay that is awake looks again: after a look that found `rows` ledger
    rows and took `took` seconds; before it the pause was `pause`."""
    wanted = PAUSE_SHARE * took if rows else 2 * pause
    return min(max(wanted, MIN_PAUSE_SECONDS), MAX_PAUSE_SECONDS)
