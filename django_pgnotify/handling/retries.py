"""Retries: parked events of one handler that somebody asked to try once more."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Awaitable, Callable
from contextlib import suppress

from ..events import Event
from .calls import PARKED, Calls
from .order import Order, Room
from .parking import HandlerStore, Parked

RETRY_POLL_SECONDS = 2.0
"""Between looks for parked events that somebody asked to retry."""
RETRIES_AT_ONCE = 100
"""Parked events of one handler that are held at once, if `Room` has room for their bytes."""


class Stopping(Exception):
    """No call is begun any more."""


class Retries:
    """Looks for them, and calls the handler in their turn: behind what of their row is under way,
    and before what comes after."""

    def __init__(
        self,
        name: str,
        store: HandlerStore,
        calls: Calls,
        order: Order,
        may_begin: Callable[[], Awaitable[None]],
    ) -> None:
        self.news = asyncio.Event()
        """Set to look, or to see that it should stop."""
        self._name = name
        self._store = store
        self._calls = calls
        self._order = order
        self._may_begin = may_begin
        self._room = Room()
        self._under_way: set[int] = set()

    async def run(self, stopping: asyncio.Event, *, for_ever: bool) -> None:
        """Try all there are, or again and again until stopped."""
        async with asyncio.TaskGroup() as tasks:
            while not stopping.is_set():
                room = RETRIES_AT_ONCE - len(self._under_way)
                found = await self._store.requested(self._name, self._under_way, room)
                for parked in found:
                    await self._room.enter(parked.size)
                    self._under_way.add(parked.id)
                    tasks.create_task(self._retry(parked))
                if not for_ever and not self._under_way:
                    return
                await self._pause()

    async def _pause(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(RETRY_POLL_SECONDS):
                await self.news.wait()
        self.news.clear()

    async def _retry(self, parked: Parked) -> None:
        """Then it is gone, or parked with the new traceback."""
        text = await self._store.text_of(parked)
        if text is not None:
            with suppress(Stopping):
                await self._retry_text(parked, text)
        self._room.leave(parked.size)
        self._under_way.discard(parked.id)
        self.news.set()

    async def _retry_text(self, parked: Parked, text: str) -> None:
        try:
            event = self._store.event_of(text)
        except Exception:  # somebody has written into the table
            await self._store.park_again(parked, traceback.format_exc())
        else:
            await self._in_turn(parked, event)

    async def _in_turn(self, parked: Parked, event: Event) -> None:
        key = f"{PARKED}{parked.id}"
        turn = self._order.join(event)
        try:
            error = await self._calls.outcome(key, event, turn, self._may_begin)
        finally:
            self._order.end(turn)
        if error is None:
            await self._store.forget(parked)
        else:
            await self._store.park_again(parked, error)
        self._calls.forget([key])
