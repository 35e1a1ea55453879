"""Order: which events of a handler may be under way, and which waits for which."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from ..conf import MIB, settings
from ..events import Event, dumps

WAITING_EVENTS = 1000
"""Events of one handler that are under way, most of them waiting: one whose turn has not come,
or that is tried again later, must not hold up the others."""
WAITING_BYTES = 64 * MIB
"""JSON bytes of these events."""


class Room:
    """Bounds what one reader may have under way, by number and by bytes."""

    def __init__(self) -> None:
        self._most = max(WAITING_EVENTS, settings.HANDLER_CONCURRENCY)
        self._events = 0
        self._bytes = 0
        self._left = asyncio.Event()

    async def enter(self, size: int) -> None:
        """Wait until there is room; an event larger than the bound comes alone."""
        while self._events and (
            self._events >= self._most or self._bytes + size > WAITING_BYTES
        ):
            self._left.clear()
            await self._left.wait()
        self._events += 1
        self._bytes += size

    def leave(self, size: int) -> None:
        """Make room."""
        self._events -= 1
        self._bytes -= size
        self._left.set()


@dataclass(frozen=True, slots=True, eq=False)
class Turn:
    """An event's place in the order."""

    key: str | None
    """None is every key."""
    after: tuple[asyncio.Event, ...]
    """Ends of the turns before it: not the turns, which would hold all that ever were."""
    ended: asyncio.Event

    async def wait(self) -> None:
        """Wait for the turn."""
        for ended in self.after:
            await ended.wait()


class Order:
    """One event of a row after the other, rows side by side.

    What happened to a whole table (a truncate) is of every key: it comes after all before it,
    and before all after it. Messages are one key.
    """

    def __init__(self) -> None:
        self._last: dict[str, Turn] = {}
        self._of_all: Turn | None = None

    def join(self, event: Event) -> Turn:
        """Take the event's turn, which ``end`` must end."""
        if event.model is not None and event.pk is None:
            before = [*self._last.values(), self._of_all]
            self._last.clear()
            turn = self._of_all = _turn(None, before)
        else:
            key = dumps([event.model, event.pk])
            turn = self._last[key] = _turn(key, [self._last.get(key) or self._of_all])
        return turn

    def end(self, turn: Turn) -> None:
        """Let those go on that wait for the turn."""
        turn.ended.set()
        if turn.key is None:
            self._of_all = None if self._of_all is turn else self._of_all
        elif self._last.get(turn.key) is turn:
            del self._last[turn.key]


def _turn(key: str | None, before: list[Turn | None]) -> Turn:
    after = tuple(turn.ended for turn in before if turn is not None)
    return Turn(key, after, asyncio.Event())
