"""Ticker: stores ticks and turns their rows into frames."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import aclosing

from ..conf import settings
from ..connecting import aborted_after
from ..groups import HUB_GROUP
from ..ledger.reader import read_batches
from ..ledger.rows import Change, LedgerRow, changes_of
from ..ledger.taking import take_tick
from ..ledger.texts import ready_texts
from ..ledger.ticks import Connection, Tick
from ..metrics import Metrics
from . import frames
from .ahead import ahead
from .epoch import Start, unsent_ticks
from .frames import Chain, Outgoing, TickFrames
from .fullness import FullLedger
from .gate import Gate
from .leader import Leader
from .queues import FrameQueue, Item

REVOKE_TOPIC = "pgnotify.revoke"


class Ticker:
    """Goes from tick to tick; a full queue makes it wait, and the ledger holds the rest."""

    def __init__(
        self,
        *,
        leader: Leader,
        reader: Connection,
        start: Start,
        queue: FrameQueue,
        metrics: Metrics,
        on_tick: Callable[[Collection[str] | None], None],
        full: FullLedger,
    ) -> None:
        self.tick = start.tick
        """The tick that was read last."""
        self._leader = leader
        self._reader = reader
        self._epoch = start.identity.epoch
        self._queue = queue
        self._metrics = metrics
        self._on_tick = on_tick
        self._full = full
        self._chain = Chain(floor=start.tick.number)
        self._last_control = start.tick.number
        self._rows = 0
        """Ledger rows that have been read."""

    async def catch_up(self, stopping: asyncio.Event) -> None:
        """Read the ticks that are not known to be sent, then what has committed since. One look
        sees all that; under steady writes there would always be something for another one."""
        async for tick in unsent_ticks(self._leader.connection, self._leader.schema, self.tick):
            if stopping.is_set():
                return
            await self._read(tick)
        if not stopping.is_set():
            await self.read_next()

    async def run(self, gate: Gate, bell: asyncio.Event, stopping: asyncio.Event) -> None:
        """Read whenever the gate says that it is time, until `stopping` is set; who sets it
        rings the bell."""
        while True:
            await self._queue.wait_for_turn()
            # Cleared before the look: what commits during it rings for the next one.
            bell.clear()
            if stopping.is_set():
                return
            begin, before = time.monotonic(), self._rows
            if not await self.read_next():
                await self.empty_if_full()
            await gate.wait(bell, rows=self._rows - before, took=time.monotonic() - begin)

    async def read_next(self) -> bool:
        """Store the next tick and put its frames; False if there is nothing new."""
        connection = self._leader.connection
        with aborted_after(settings.LEADER_TIMEOUT_SECONDS, connection):
            taken = await take_tick(connection, self._leader.schema, self.tick)
        if taken is None:
            return False
        tick, few = taken
        self._on_tick(None if few is None else {row.topic for row in few})
        await self._read(tick, few, is_long=True)
        return True

    async def empty_if_full(self) -> bool:
        """Empty a ledger that is full and sent, and go on after the gap; True if done."""
        with aborted_after(settings.LEADER_TIMEOUT_SECONDS, self._leader.connection):
            tick = await self._full.emptied(self.tick)
        if tick is None:
            return False
        self.tick = tick
        self._chain = Chain(floor=tick.number)
        self._last_control = tick.number
        self._on_tick(None)
        return True

    async def _read(
        self, tick: Tick, few: list[LedgerRow] | None = None, *, is_long: bool = False
    ) -> None:
        """Put the tick's frames; `few` are its rows if they are known already."""
        self._metrics.in_progress.append(time.monotonic())
        built = TickFrames(
            epoch=self._epoch,
            tick=tick,
            chain=self._chain,
            max_bytes=settings.MAX_FRAME_BYTES,
            control=self._last_control,
        )
        if few is not None:
            await self._put_frames(few, built, tick)
        else:
            batches = read_batches(
                self._reader,
                self._leader.schema,
                self.tick,
                tick,
                None,
                hold=True,
                is_long=is_long,
            )
            async with aclosing(ahead(batches)) as upcoming:
                async for rows in upcoming:
                    await self._put_frames(rows, built, tick)
        for frame in built.finish():
            await self._put(frame)
        await self._put(tick)
        self.tick = tick

    async def _put_frames(self, rows: list[LedgerRow], built: TickFrames, tick: Tick) -> None:
        self._rows += len(rows)
        for frame in self._frames(rows, built, tick):
            await self._put(frame)

    async def _put(self, item: Item) -> None:
        await self._queue.put(item)
        self._metrics.queue_depth = len(self._queue)

    def _frames(
        self, rows: list[LedgerRow], built: TickFrames, tick: Tick
    ) -> Iterator[Outgoing]:
        texts = ready_texts(rows, built.max_event_bytes)
        if texts is None:
            # One that is unusual takes its time; the others of its batch are cut one by one.
            for row in rows:
                if len(rows) == 1:
                    yield from self._frames_of_changes(row, built, tick)
                else:
                    yield from self._frames([row], built, tick)
            return
        self._metrics.events += len(texts)
        for text, groups in texts:
            # One by one: what a row with many groups fills must go before it fills more.
            if frames := built.add_text(text, groups):
                yield from frames

    def _frames_of_changes(
        self, row: LedgerRow, built: TickFrames, tick: Tick
    ) -> Iterator[Outgoing]:
        for change in changes_of(row):
            if row.topic == REVOKE_TOPIC:
                yield self._control("revoke", row, change, tick, built)
            if row.is_control:
                continue
            if change.templates:
                yield self._control("truncate", row, change, tick, built)
            self._metrics.events += 1
            yield from built.add(change)

    def _control(
        self, kind: str, row: LedgerRow, change: Change, tick: Tick, built: TickFrames
    ) -> Outgoing:
        message = frames.control(
            kind=kind,
            change=change,
            topic=row.topic,
            epoch=self._epoch,
            tick=tick,
            prev=self._last_control,
        )
        self._last_control = built.control = tick.number
        return Outgoing(HUB_GROUP, message, 0)
