"""Heard: which of a process's listeners delivers what other processes notify.

Each event loop that uses the layer listens by itself, since any of them may end at any moment. So
everything is heard as often as there are such loops. The oldest listener delivers, in its order,
and leaves off when its loop does not run or its connection is lost: then the next one does.
"""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict

REMEMBERED_ORIGINS = 10_000
"""Senders whose last notification is remembered; one that sent nothing for so many others has
nothing under way."""


class Heard:
    """Safe for threads, and for finalizers that come in between."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._listeners: dict[object, asyncio.AbstractEventLoop] = {}
        """Those that hear, oldest first."""
        self._latest: OrderedDict[str, int] = OrderedDict()
        """The number delivered last by origin, the origin heard last at the end."""

    def begin(self, listener: object) -> None:
        """It hears from now on, in the running loop."""
        with self._lock:
            for other in [one for one, loop in self._listeners.items() if loop.is_closed()]:
                del self._listeners[other]
            self._listeners[listener] = asyncio.get_running_loop()

    def end(self, listener: object) -> None:
        """It hears no more."""
        with self._lock:
            self._listeners.pop(listener, None)

    def delivers(self, listener: object) -> bool:
        """Say whether it is this one that delivers: whether no older one is at work."""
        with self._lock:
            for other, loop in self._listeners.items():
                if other is listener:
                    break
                if loop.is_running():
                    return False
            return True

    def is_news(self, origin: str, number: int) -> bool:
        """Say whether this, the sender and its count, is to be delivered: whether it comes after
        all that was. What comes late is lost rather than out of its order."""
        with self._lock:
            if self._latest.get(origin, -1) >= number:
                return False
            self._latest[origin] = number
            self._latest.move_to_end(origin)
            if len(self._latest) > REMEMBERED_ORIGINS:
                self._latest.popitem(last=False)
            return True
