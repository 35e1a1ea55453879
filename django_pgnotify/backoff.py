"""Backoff: how long to wait before the next try, for everything here that reconnects."""

from __future__ import annotations

import random
from collections.abc import Callable

from .conf import settings


class Backoff:
    """Delays that double from `minimum` to `maximum` seconds, each with jitter.

    Jitter takes up to a half off, so that processes that lost one server together don't
    come back together. `rng` returns numbers in [0, 1).
    """

    def __init__(
        self,
        minimum: float | None = None,
        maximum: float | None = None,
        rng: Callable[[], float] = random.random,
    ) -> None:
        self._minimum: float = settings.RECONNECT_MIN_SECONDS if minimum is None else minimum
        self._maximum: float = settings.RECONNECT_MAX_SECONDS if maximum is None else maximum
        self._rng = rng
        self._ceiling = min(self._minimum, self._maximum)

    def next_delay(self) -> float:
        """Return the seconds to wait now, and double the next ones."""
        ceiling = self._ceiling
        self._ceiling = min(self._maximum, ceiling * 2)
        return ceiling * (1 - self._rng() / 2)

    def reset(self) -> None:
        """Start over at the minimum: the thing worked again."""
        self._ceiling = min(self._minimum, self._maximum)
