"""Returning: clients that came back, brought to the latest tick step by step, in two lanes.

In one a step begins with whoever stands last, and takes all others along as it comes by: so the
ledger is read once for a crowd. In the other one it begins with whoever stands first: so a client
that has missed little is not kept waiting by one that has missed an hour. Only those take part that
have room for a step.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial

from ..ledger.positions import Look
from ..ledger.rows import LedgerRow
from ..ledger.ticks import Tick
from .access import LANES, Access
from .browser import Reason
from .reading import Range, Ranges, Resume, in_turns, whenever
from .subscription import Subscription

BEGIN = (min, max)
"""The place that each lane begins a step with."""
PATIENCE_SECONDS = 2.0
"""How long a step waits in all for one client to take its frames. It begins with room for a step,
so that only a large tick needs any."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a client stands on its way."""

    epoch: str
    after: Tick
    is_first: bool
    """True before its first step."""

    @property
    def number(self) -> int:
        return self.after.number


class Returning:
    """The clients on their way. `still(epoch)` raises once another epoch has begun."""

    def __init__(self, access: Access, *, still: Callable[[str], None]) -> None:
        self._access = access
        self._still = still
        self._places: dict[Subscription, _Place] = {}
        self._under_way: set[Subscription] = set()
        self._asked = [asyncio.Event() for _ in range(LANES)]

    def add(self, subscription: Subscription, epoch: str, after: Tick) -> None:
        """Bring it from a tick to the latest one, then let it follow its group."""
        self._places[subscription] = _Place(epoch, after, is_first=True)
        self._wake()

    async def run(self) -> None:
        """Serve both lanes, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for lane, asked in enumerate(self._asked):
                tasks.create_task(whenever(asked, partial(self._work, lane)))

    def _wake(self) -> None:
        for asked in self._asked:
            asked.set()

    async def _work(self, lane: int) -> None:
        look = await self._access.look()
        self._settle(look, self._places)
        ready = [one for one in self._places if self._is_ready(one)]
        if not ready:
            return
        begin = BEGIN[lane](
            (self._places[one] for one in ready), key=lambda place: place.number
        )
        along = [one for one in ready if self._places[one].number >= begin.number]
        self._under_way.update(along)
        try:
            await self._step(lane, begin, along, look)
        finally:
            self._under_way.difference_update(along)
        self._settle(look, along)
        if self._places:
            self._wake()

    def _is_ready(self, one: Subscription) -> bool:
        return one not in self._under_way and one.outbox.has_room(self._wake)

    async def _step(
        self, lane: int, begin: _Place, along: list[Subscription], look: Look
    ) -> None:
        end = await self._read(lane, begin, along, look)
        for one in along:
            if self._places[one].number < end.number:
                self._places[one] = _Place(look.epoch, end, is_first=False)

    def _settle(self, look: Look, those: Iterable[Subscription]) -> None:
        """Let those go who have arrived, can't go on, or have left."""
        for one in [one for one in those if one not in self._under_way]:
            place = self._places[one]
            reason = _why_lost(place, look)
            if not one.active:
                del self._places[one]
            elif reason is not None:
                del self._places[one]
                one.fail(look, reason)
            elif one.cut_short or place.number == look.latest.number:
                del self._places[one]
                one.caught_up(look.position, look.latest)

    async def _read(
        self, lane: int, begin: _Place, along: list[Subscription], look: Look
    ) -> Tick:
        """Give them what stands in the step that begins at a place; gives its end."""
        ranges: Ranges | None = None
        patience = _Patience()
        groups = {one.group for one in along}
        parts = self._access.read_step(
            begin.after, look.latest, groups, is_first=begin.is_first, lane=lane
        )
        async with aclosing(parts):
            async for end, rows in parts:
                ranges = ranges or Ranges(list(self._ranges(along, end, look.epoch)))
                await self._take(ranges, rows, patience)
                self._still(look.epoch)
        assert ranges is not None  # there is one part at least
        ranges.finish()
        return end

    def _ranges(self, along: list[Subscription], end: Tick, epoch: str) -> list[Range]:
        standing: dict[tuple[str, int], list[Subscription]] = {}
        for one in along:
            standing.setdefault((one.group, self._places[one].number), []).append(one)
        return [
            Range(
                group,
                Resume(subscriptions),
                epoch=epoch,
                after=self._places[subscriptions[0]].after,
                upto=end,
            )
            for (group, number), subscriptions in standing.items()
            if number < end.number
        ]

    async def _take(self, ranges: Ranges, rows: list[LedgerRow], patience: _Patience) -> None:
        async for row in in_turns(rows):
            if row.is_control:
                continue  # who comes back was authorized after that
            for one in ranges.add(row):
                assert isinstance(one.sink, Resume)
                await patience.wait(one.sink.subscriptions)


def _why_lost(place: _Place, look: Look) -> Reason | None:
    """Why one can't go on from a place; None if it can."""
    if place.epoch != look.epoch:
        return "epoch"
    if place.number > look.latest.number:  # the row of ticks has begun anew
        return "unknown"
    return "expired" if place.number <= look.trimmed else None


class _Patience:
    """What a step has left for each client that is slow."""

    def __init__(self) -> None:
        self._left: dict[Subscription, float] = {}

    async def wait(self, subscriptions: list[Subscription]) -> None:
        """Let them take what they got, each for as long as it may."""
        await asyncio.sleep(0)
        slow = [one for one in subscriptions if not one.cut_short and not one.outbox.is_roomy]
        if slow:
            await asyncio.gather(*map(self._wait_for, slow))

    async def _wait_for(self, one: Subscription) -> None:
        left, begin = self._left.get(one, PATIENCE_SECONDS), time.monotonic()
        try:
            async with asyncio.timeout(left):
                await one.outbox.wait_for_room()
        except TimeoutError:
            one.cut_short = True
        self._left[one] = left - (time.monotonic() - begin)
