"""Progress: what has been sent, recorded in the ledger's state and told to the hubs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from ..conf import settings
from ..ledger.ticks import Connection, Tick, mark_sent
from . import frames

AFTER_BURST_SECONDS = 0.25
"""Between a tick and its heartbeat, so that a hub learns soon of a frame that was dropped; also
the least between two heartbeats."""
RECORD_SECONDS = 0.1
"""Between two records of what has been sent, which share a connection with the storing of ticks. A
crash repeats the ticks since the last one."""
MAX_LISTED_GROUPS = 1000
"""Groups in one heartbeat, up to 120 KB of JSON; with more, a hub that is behind reads."""

Send = Callable[[dict[str, Any]], Awaitable[None]]


class Progress:
    """The tick that was sent last, and the groups with events since the last heartbeat."""

    def __init__(self, *, epoch: str, tick: Tick) -> None:
        self.epoch = epoch
        self.sent = tick
        self._told = tick.number
        self._control = tick.number
        self._recorded = tick.number
        self._groups: dict[str, int] | None = {}
        """None if they are too many to list."""
        self._latest = tick.number
        """Tick of the latest frame that has been handed over, of a tick that may still be sent."""
        self._advanced = asyncio.Event()
        self._news = asyncio.Event()
        self._moved = asyncio.Event()

    def frame_sent(self, group: str, tick: int) -> None:
        """Note that the group has events in this tick."""
        self._latest = max(self._latest, tick)
        if self._groups is not None:
            self._groups[group] = tick
            if len(self._groups) > MAX_LISTED_GROUPS:
                self._groups = None

    def control_sent(self, tick: int) -> None:
        """Note that the hubs have been told of a truncate or revoke in this tick."""
        self._control = tick

    def tick_sent(self, tick: Tick) -> None:
        """Note that all frames of the tick have been handed over."""
        self.sent = tick
        for happened in (self._advanced, self._news, self._moved):
            happened.set()

    def begin_at(self, tick: Tick) -> None:
        """Go on from this tick, which follows a gap: hubs that are before it learn nothing of
        what lies between, so they read the ledger, and find that it is gone."""
        self.sent = tick
        self._told = self._control = self._recorded = tick.number
        self._groups = {}
        self._news.set()

    async def wait_sent(self, number: int) -> None:
        """Wait until the tick of this number has been sent."""
        while self.sent.number < number:
            self._moved.clear()
            await self._moved.wait()

    async def record(self, connection: Connection, schema: str) -> None:
        """Record what has been sent, whenever that advances. Ends by cancellation."""
        while True:
            await self._advanced.wait()
            await asyncio.sleep(RECORD_SECONDS)
            await self.record_now(connection, schema)

    async def record_now(self, connection: Connection, schema: str) -> None:
        """Record what has been sent. Ticks in between need no record of their own."""
        self._advanced.clear()
        number = self.sent.number
        if number > self._recorded:
            await mark_sent(connection, schema, number)
            self._recorded = number

    async def tell(self, send: Send) -> None:
        """Send heartbeats, soon after a tick and every HEARTBEAT_SECONDS, until cancelled."""
        while True:
            await self.tell_now(send)
            await asyncio.sleep(AFTER_BURST_SECONDS)
            try:
                async with asyncio.timeout(settings.HEARTBEAT_SECONDS):
                    await self._news.wait()
            except TimeoutError:
                continue
            await asyncio.sleep(AFTER_BURST_SECONDS)

    async def tell_now(self, send: Send) -> None:
        """Send one heartbeat."""
        self._news.clear()
        tick, groups, self._groups = self.sent, self._groups, {}
        prev, self._told = self._told, tick.number
        # A frame of a tick that is still being sent belongs to the next heartbeat.
        early = {g: n for g, n in (groups or {}).items() if n > tick.number}
        if groups is not None:
            self._groups.update(early)
            # It may have had events of an earlier tick too: listed, at the worst for nothing.
            groups = {g: min(n, tick.number) for g, n in groups.items()}
        elif self._latest > tick.number:
            # Some of those that were not listed had frames of the next heartbeat's ticks.
            self._groups = None
        beat = frames.heartbeat(
            epoch=self.epoch, tick=tick, prev=prev, control=self._control, groups=groups
        )
        await send(beat)
