"""Inbox: what a process keeps of one name of the channel layer."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field

Waiter = asyncio.Future[None]
"""Done when a reader should look again. It belongs to the reader's event loop."""


@dataclass(kw_only=True)
class Inbox:
    """What is kept of one name."""

    used_at: float
    """Seconds of the clock when somebody last read the name or joined it to a group."""
    letters: deque[tuple[float, str]] = field(default_factory=deque)
    """(time when it expires, encoded message), oldest first."""
    groups: set[str] = field(default_factory=set)
    """Groups that the name is a member of."""
    waiters: list[Waiter] = field(default_factory=list)
    """Of receive() calls that wait now."""

    def drop_expired(self, now: float) -> None:
        while self.letters and self.letters[0][0] <= now:
            self.letters.popleft()

    def woken(self, now: float) -> list[Waiter]:
        """Take the waiters, which are about to read."""
        if self.waiters:
            self.used_at = now
        waiters, self.waiters = self.waiters, []
        return waiters

    def next_woken(self, now: float) -> list[Waiter]:
        """Take the one that has waited longest, in a loop that runs; all if none does."""
        for waiter in self.waiters:
            if waiter.get_loop().is_running():
                self.used_at = now
                self.waiters.remove(waiter)
                return [waiter]
        return self.woken(now)

    @property
    def is_read(self) -> bool:
        return any(not waiter.get_loop().is_closed() for waiter in self.waiters)

    @property
    def is_needed(self) -> bool:
        return bool(self.letters or self.groups or self.waiters)
