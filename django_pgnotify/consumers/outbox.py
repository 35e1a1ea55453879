"""Outbox: one client's queue, so that nobody waits for another."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextvars import Context, copy_context
from typing import Any, TypeAlias, cast

from ..conf import settings
from .batches import Batch, join, joinable
from .browser import Answer
from .pump import Pump, Rest, begin

logger = logging.getLogger(__name__)

Item: TypeAlias = Batch | Answer

ROOM = 8
"""Frames below which a replay goes on: enough to keep a socket busy, 4 MiB at most."""


class Outbox:
    """Sends items in order by `send(item, stamp)`; `stamp(item)` is taken when an item is put.

    When the queue is full, it is cleared and `overflowed()` gives what the client gets instead.
    The pump begins each send. One that has to wait goes on in the outbox's own task, and the pump
    has nothing to do with this client meanwhile.
    """

    __slots__ = (
        "_context",
        "_is_closed",
        "_is_in_line",
        "_items",
        "_on_room",
        "_overflowed",
        "_parked",
        "_pump",
        "_rest",
        "_send",
        "_stamp",
        "_task",
    )

    def __init__(
        self,
        *,
        send: Callable[[Item, str | None], Coroutine[Any, Any, None]],
        stamp: Callable[[Item], str | None] | None,
        overflowed: Callable[[], Iterable[Answer]],
    ) -> None:
        self._send = send
        self._stamp = stamp
        self._overflowed = overflowed
        # A list, as it is short: an empty deque takes 600 bytes, and there are thousands.
        self._items: list[tuple[Item, str | None]] = []
        self._on_room: list[Callable[[], None]] = []
        self._pump: Pump | None = None
        self._task: asyncio.Task[None] | None = None
        self._context: Context | None = None
        self._parked: asyncio.Future[None] | None = None
        """What the task waits for while no send does; None otherwise."""
        self._rest: Rest | None = None
        self._is_in_line = False
        self._is_closed = False

    def start(
        self, guard: Callable[[Awaitable[None]], Coroutine[Any, Any, None]]
    ) -> asyncio.Task[None]:
        """Begin to send; gives the task, which `guard` wraps. It ends by what a send raises."""
        self._pump = Pump.here()
        self._context = copy_context()
        self._task = asyncio.create_task(
            guard(self._finish_sends()), name="pgnotify outbox", context=self._context
        )
        return self._task

    def put(self, item: Item) -> None:
        """Queue an item; never waits."""
        if self._is_closed:
            return
        if self._items and len(self._items) >= settings.SOCKET_QUEUE_SIZE:
            self._overflow()
            if not item.keep:
                return
        self._append(item)

    def forget(self, group: str) -> None:
        """Drop the queued events of a group."""
        self._items = [
            entry for entry in self._items if entry[0].group != group or entry[0].keep
        ]
        self._tell_room()

    async def wait_for_room(self) -> None:
        """Return when few items wait."""
        while not self.is_roomy:
            roomy = asyncio.Event()
            self._on_room.append(roomy.set)
            await roomy.wait()

    def has_room(self, call: Callable[[], None]) -> bool:
        """True if few items wait; else `call` is called once they do."""
        if not self.is_roomy and call not in self._on_room:
            self._on_room.append(call)
        return self.is_roomy

    def close(self) -> None:
        """Drop everything, now and later, and let nobody wait for room."""
        self._is_closed = True
        self._items.clear()
        self._tell_room()

    def send_next(self) -> bool:
        """Begin to send an item; True if the server took it at once and there is another."""
        parked = self._parked
        if parked is None or parked.done() or not self._items:
            self._is_in_line = False
            return False
        assert self._task is not None  # whoever parked has both
        assert self._context is not None
        item, stamp = self._take()
        self._rest = begin(self._send(item, stamp), self._task, self._context)
        if self._rest is not None:
            self._parked = None
            if not parked.done():
                parked.set_result(None)
        self._is_in_line = self._rest is None and bool(self._items)
        return self._is_in_line

    def _take(self) -> tuple[Item, str | None]:
        """The next item; batches that have piled up become one."""
        item, stamp = self._items.pop(0)
        if self._items and isinstance(item, Batch):
            entries = [(item, stamp), *self._items]
            count = joinable(
                (one if isinstance(one, Batch) else None for one, _ in entries),
                settings.MAX_FRAME_BYTES,
            )
            if count > 1:
                stamp = entries[count - 1][1]
                item = join(*(cast(Batch, one) for one, _ in entries[:count]))
                del self._items[: count - 1]
        self._tell_room()
        return item, stamp

    async def _finish_sends(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while True:
                self._parked = loop.create_future()
                self._step_in_line()
                await self._finish_one(self._parked)
        finally:
            self.close()

    async def _finish_one(self, parked: asyncio.Future[None]) -> None:
        try:
            await parked
        except asyncio.CancelledError as error:
            if self._rest is None:
                raise
            # It came just before we took over: the end, or the send's own time-out.
            self._rest.throw(error)
        if self._rest is not None:
            rest, self._rest = self._rest, None
            await rest

    def _step_in_line(self) -> None:
        if self._items and self._parked is not None and not self._is_in_line:
            assert self._pump is not None  # whoever parked has been started
            self._is_in_line = True
            self._pump.add(self)

    def _append(self, item: Item) -> None:
        self._items.append((item, None if self._stamp is None else self._stamp(item)))
        self._step_in_line()

    def _overflow(self) -> None:
        logger.info("a slow client's queue overflowed", extra={"action": "socket_overflow"})
        # What must arrive is little, for an honest client: one answer for each group.
        kept = [item for item, _ in self._items if item.keep]
        # A stamp stands for all groups: none before each has been told what it lost.
        self._items = [(item, None) for item in kept[-settings.SOCKET_QUEUE_SIZE :]]
        self._tell_room()
        answers = list(self._overflowed())
        self._items += [(answer, None) for answer in answers[:-1]]
        for answer in answers[-1:]:
            self._append(answer)

    @property
    def is_roomy(self) -> bool:
        """True if few items wait."""
        room: int = min(ROOM, settings.SOCKET_QUEUE_SIZE)
        return len(self._items) < room

    def _tell_room(self) -> None:
        if self._on_room and self.is_roomy:
            calls, self._on_room = self._on_room, []
            for call in calls:
                call()
