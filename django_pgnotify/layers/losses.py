"""Losses: what the layer could not deliver, counted, and logged without flooding."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

logger = logging.getLogger(__name__)

LOG_SECONDS = 5.0
"""At most one line in this time: losses come in floods."""


class Losses:
    """Two counters. Threads may race for them; a count that is off by one harms nobody."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.dropped = 0
        """Messages that a full queue, or an outage, kept from a receiver."""
        self.refused = 0
        """Notifications that are malformed or not signed with our secret."""
        self._clock = clock
        self._logged_at = -LOG_SECONDS
        self._warned_of_refusal = False

    def drop(self, count: int, reason: str) -> None:
        """Count messages as lost."""
        if not count:
            return
        self.dropped += count
        if self._clock() < self._logged_at + LOG_SECONDS:
            return
        self._logged_at = self._clock()
        logger.warning(
            "channel layer dropped messages (%s); %d since the start",
            reason,
            self.dropped,
            extra={"action": "layer_dropped"},
        )

    def refuse(self, pg_channel: str) -> None:
        """Count a notification that is not ours."""
        self.refused += 1
        if self._warned_of_refusal:
            return
        self._warned_of_refusal = True
        logger.warning(
            "ignored a notification on %s that is not signed with SECRET_KEY, or whose stored"
            " body is gone: either a role of this database forges them, or processes differ in"
            " SECRET_KEY; said once",
            pg_channel,
            extra={"action": "layer_refused"},
        )
