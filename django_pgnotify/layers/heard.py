"""Heard: which notifications of other processes have been delivered here.

Each event loop that uses the layer listens by itself, since any of them may end at any moment. So a
notification comes as often as there are such loops, and the first one that hears it delivers it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

MANY_ORIGINS = 1_000
"""Above so many, those of which nothing came for long are forgotten."""


class Heard:
    """Remembers the latest number of each origin for `seconds` at least. Safe for threads.

    An origin numbers its notifications, and every listener hears them in their order: so what is
    not above the latest number has been heard before.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._latest: dict[str, tuple[int, float]] = {}
        self._forget_above = MANY_ORIGINS

    def once(self, origin: str, number: int, deliver: Callable[[], None]) -> None:
        """Call `deliver` if this is heard for the first time. Nobody else delivers meanwhile, lest
        what another loop hears next overtakes it; so it must be quick."""
        now = self._clock()
        with self._lock:
            latest, _ = self._latest.get(origin, (-1, now))
            if number <= latest:
                return
            self._latest[origin] = (number, now)
            if len(self._latest) > self._forget_above:
                self._forget(now)
            deliver()

    def _forget(self, now: float) -> None:
        self._latest = {
            origin: known
            for origin, known in self._latest.items()
            if known[1] + self._seconds > now
        }
        # Else a thousand busy ones would be gone through at each notification.
        self._forget_above = max(MANY_ORIGINS, 2 * len(self._latest))
