"""Outbox: one client's queue and the task that sends from it, so that nobody waits for another."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeAlias

from ..conf import settings
from .batches import Batch
from .browser import Answer

logger = logging.getLogger(__name__)

Item: TypeAlias = Batch | Answer

ROOM = 16
"""Frames below which a replay goes on: enough to keep a socket busy, 8 MiB at most."""


class Outbox:
    """Sends items in order by `send(item, stamp)`; `stamp(item)` is taken when an item is put.

    When the queue is full, it is cleared and `overflowed()` gives what the client gets instead.
    """

    def __init__(
        self,
        *,
        send: Callable[[Item, str | None], Awaitable[None]],
        stamp: Callable[[Item], str | None],
        overflowed: Callable[[], Iterable[Answer]],
    ) -> None:
        self._send = send
        self._stamp = stamp
        self._overflowed = overflowed
        self._items: deque[tuple[Item, str | None]] = deque()
        self._filled = asyncio.Event()
        self._has_room = asyncio.Event()
        self._has_room.set()

    def put(self, item: Item) -> None:
        """Queue an item; never waits."""
        if len(self._items) >= settings.SOCKET_QUEUE_SIZE:
            self._overflow()
            if not item.keep:
                return
        self._append(item)

    def forget(self, group: str) -> None:
        """Drop the queued events of a group."""
        left = [entry for entry in self._items if entry[0].group != group or entry[0].keep]
        self._items = deque(left)

    async def wait_for_room(self) -> None:
        """Return when few items wait."""
        await self._has_room.wait()

    async def run(self) -> None:
        """Send what is put, until cancelled."""
        while True:
            while not self._items:
                self._filled.clear()
                await self._filled.wait()
            item, stamp = self._items.popleft()
            if len(self._items) < ROOM:
                self._has_room.set()
            await self._send(item, stamp)

    def close(self) -> None:
        """Drop everything, and let nobody wait for room."""
        self._items.clear()
        self._has_room.set()

    def _append(self, item: Item) -> None:
        self._items.append((item, self._stamp(item)))
        self._filled.set()
        if len(self._items) >= ROOM:
            self._has_room.clear()

    def _overflow(self) -> None:
        logger.info("a slow client's queue overflowed", extra={"action": "socket_overflow"})
        # What must arrive is little, for an honest client: one answer for each group.
        kept = [entry for entry in self._items if entry[0].keep]
        self._items = deque(kept[-settings.SOCKET_QUEUE_SIZE :])
        for answer in self._overflowed():
            self._append(answer)
