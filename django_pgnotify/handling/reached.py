"""Reached: how far a handler has come, in memory and in the database.

One tick, up to which everything is handled or parked; and now and then the ids of those events
beyond it that are done too, at a stop above all: then the next start repeats nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass, field

from ..ledger.ticks import Tick
from .calls import Calls
from .parking import HandlerStore

QUIET_SECONDS = 5.0
"""Between two looks for the ticks without an event for the handler, and two records of a place that
has moved over such. Every handler would read and write at each tick, and all write on one
connection. Retention, which waits for the place, has minutes."""


@dataclass(slots=True)
class Stretch:
    """The events between two ticks of a handler's progress."""

    upto: Tick
    pending: int = 0
    read: bool = False
    is_quiet: bool = True
    """No event of the handler was in it."""
    done: list[str] = field(default_factory=list)
    """Ids of those that `Calls` remembers as handled."""

    @property
    def is_over(self) -> bool:
        """True if all its events are handled or parked."""
        return self.read and not self.pending


class Reached:
    """The progress of one handler in one session."""

    def __init__(
        self,
        name: str,
        store: HandlerStore,
        calls: Calls,
        begin: Tick,
        stopping: asyncio.Event,
    ) -> None:
        self._name = name
        self._store = store
        self._calls = calls
        self._stopping = stopping
        self._upto = self._stored = begin
        self._saved_at = time.monotonic()
        self._stretches: deque[Stretch] = deque()
        self._is_kept = not calls.handled

    def begin_stretch(self, upto: Tick) -> Stretch:
        """Go on up to this tick. One that is over, but waits for an earlier one, grows: there may
        be hours of them."""
        last = self._stretches[-1] if self._stretches else None
        if last is not None and last.is_over:
            last.upto, last.read = upto, False
            return last
        self._stretches.append(Stretch(upto))
        return self._stretches[-1]

    async def end_stretch(self, stretch: Stretch) -> None:
        """All its events have been read."""
        stretch.read = True
        await self._advance()

    def has_done(self, stretch: Stretch, event_id: str) -> bool:
        """Note that the stretch has this event; True if it is handled already, by an earlier
        session or start."""
        stretch.is_quiet = False
        if event_id not in self._calls.handled:
            return False
        stretch.done.append(event_id)
        return True

    async def note_done(self, stretch: Stretch, event_id: str) -> None:
        """An event is handled or parked."""
        if self._calls.note_handled(event_id):
            stretch.done.append(event_id)
            self._is_kept = False
        stretch.pending -= 1
        await self._advance()

    def forget_rest(self) -> None:
        """All has been read. What is still remembered was left to another process meanwhile."""
        if not self._stretches:
            self._calls.forget_events()

    async def keep_ahead(self) -> None:
        """Store what is done beyond the tick, if that is news: the next start leaves it out."""
        await self.save()
        if self._is_kept:
            return
        self._is_kept = True
        await self._store.keep_ahead(self._name, self._stored, self._calls.handled)

    async def save(self, *, at_once: bool = True) -> None:
        """Store the place, if it has moved over quiet stretches and is not stored."""
        if self._upto is self._stored:
            return
        if at_once or time.monotonic() - self._saved_at >= QUIET_SECONDS:
            await self._save([])

    async def _advance(self) -> None:
        over: list[str] = []
        is_quiet = True
        while self._stretches and self._stretches[0].is_over:
            stretch = self._stretches.popleft()
            self._upto = stretch.upto
            over += stretch.done
            is_quiet = is_quiet and stretch.is_quiet
        if is_quiet:
            await self.save(at_once=False)
        else:
            await self._save(over)
        if self._stopping.is_set():
            await self.keep_ahead()

    async def _save(self, over: list[str]) -> None:
        # At once: what is done meanwhile is news, and what is kept ahead comes behind this.
        self._stored = self._upto
        self._saved_at = time.monotonic()
        is_more = len(self._calls.handled) > len(over)
        self._is_kept = self._is_kept or not is_more
        await self._store.save(self._name, self._stored, keep_ahead=is_more)
        self._calls.forget(over)
