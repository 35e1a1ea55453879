"""Queues: what may wait between reading and sending, bounded by number and by bytes."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from ..conf import MIB
from ..ledger.ticks import Tick
from .frames import Outgoing

MAX_QUEUED_BYTES = 8 * MIB
"""JSON bytes that may wait; a thousand full frames would be half a gigabyte. The tick that is
being put may hold four times as much beside them, see frames.py."""

NEXT_TICK_SECONDS = 0.05
"""The longest that a tick waits for the one before it. Far more than a busy channel layer needs for
some frames, and short enough for handlers, which get no event before its tick is stored."""

Item = Outgoing | Tick
"""A frame, or the tick whose frames have all been put."""


class FrameQueue:
    """Frames in order; `put` waits while the queue is full, so that the reader stops reading.

    `size` 0 is unbounded: nothing ever waits, whatever the memory.
    """

    def __init__(self, size: int, max_bytes: int = MAX_QUEUED_BYTES) -> None:
        self._size = size
        self._max_bytes = max_bytes
        self._items: deque[Item] = deque()
        self._bytes = 0
        self._ticks = 0
        self._filled = asyncio.Event()
        self._drained = asyncio.Event()

    def __len__(self) -> int:
        return len(self._items)

    async def put(self, item: Item) -> None:
        """Append when there is room."""
        while not self._has_room():
            self._drained.clear()
            await self._drained.wait()
        self._items.append(item)
        self._bytes += _size(item)
        self._ticks += isinstance(item, Tick)
        self._filled.set()

    async def get(self) -> Item:
        """Take the oldest, when there is one."""
        while not self._items:
            self._filled.clear()
            await self._filled.wait()
        item = self._items.popleft()
        self._bytes -= _size(item)
        self._ticks -= isinstance(item, Tick)
        self._drained.set()
        return item

    async def wait_for_turn(self) -> None:
        """Wait, but not for long, until no tick waits here: what is committed meanwhile makes one
        larger tick, where many small ones would wait for each other."""
        if self._size == 0 or not self._ticks:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(NEXT_TICK_SECONDS):
                while self._ticks:
                    self._drained.clear()
                    await self._drained.wait()

    def _has_room(self) -> bool:
        return self._size == 0 or (
            len(self._items) < self._size and self._bytes < self._max_bytes
        )


class LiveQueue:
    """Payloads of live events; `put_nowait` never waits, but pushes out the oldest.

    `on_dropped` is told each one that was pushed out.
    """

    def __init__(self, size: int, on_dropped: Callable[[str], None]) -> None:
        self._size = size
        self._on_dropped = on_dropped
        self._payloads: deque[str] = deque()
        self._filled = asyncio.Event()

    def __len__(self) -> int:
        return len(self._payloads)

    def put_nowait(self, payload: str) -> None:
        """Append."""
        if self._size and len(self._payloads) >= self._size:
            self._on_dropped(self._payloads.popleft())
        self._payloads.append(payload)
        self._filled.set()

    async def get_all(self) -> list[str]:
        """Take all, when there are some."""
        await self._filled.wait()
        self._filled.clear()
        payloads = list(self._payloads)
        self._payloads.clear()
        return payloads


def _size(item: Item) -> int:
    return item.size if isinstance(item, Outgoing) else 0
