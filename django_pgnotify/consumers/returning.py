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
from dataclasses import dataclass, replace
from functools import partial

from ..ledger.positions import Look
from ..ledger.rows import LedgerRow, changes_of
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
    control: int
    """Revokes up to this tick had been dealt with when it came: it was asked behind them."""
    is_first: bool = True
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

    def add(self, subscription: Subscription, epoch: str, after: Tick, *, control: int) -> None:
        """Bring it from a tick to the latest one, then let it follow its group. Revokes up to the
        tick `control` have been dealt with."""
        self._places[subscription] = _Place(epoch, after, control)
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
                self._places[one] = replace(self._places[one], after=end, is_first=False)

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
                if ranges is None:
                    self._let_go(along, end)
                    ranges = Ranges(self._ranges(along, end, look.epoch))
                await self._take(ranges, rows, patience)
                self._still(look.epoch)
        self._still(look.epoch)  # behind the last part something was asked
        assert ranges is not None  # there is one part at least
        ranges.finish()
        return end

    def _let_go(self, along: list[Subscription], end: Tick) -> None:
        """Leave those to the other lane who stand at the end of the step, or beyond."""
        idle = [one for one in along if self._places[one].number >= end.number]
        if idle:
            along[:] = [one for one in along if one not in idle]
            self._under_way.difference_update(idle)
            self._wake()

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
            for (group, _), subscriptions in standing.items()
        ]

    async def _take(self, ranges: Ranges, rows: list[LedgerRow], patience: _Patience) -> None:
        async for row in in_turns(rows):
            if row.is_control:
                self._revoke(ranges, row)
                continue
            for one in ranges.add(row):
                assert isinstance(one.sink, Resume)
                await patience.wait(one.sink.subscriptions)

    def _revoke(self, ranges: Ranges, row: LedgerRow) -> None:
        """Have those asked again who were authorized before a revoke in the step, of which the hub
        may not have heard yet: the ledger is ahead of the channel layer."""
        for group in {name for change in changes_of(row) for name in change.groups}:
            for one in ranges.by_group.get(group, ()):
                if one.holds(int(row.xid)):
                    assert isinstance(one.sink, Resume)
                    for subscription in one.sink.subscriptions:
                        if subscription.active and one.upto.number > self._asked_at(
                            subscription
                        ):
                            subscription.revoke(None)

    def _asked_at(self, subscription: Subscription) -> int:
        return self._places[subscription].control


def _why_lost(place: _Place, look: Look) -> Reason | None:
    """Why one can't go on from a place; None if it can."""
    if place.epoch != look.epoch:
        return "epoch"
    latest = look.latest
    if place.number > latest.number or (
        place.number == latest.number and place.after != latest
    ):
        return "unknown"  # the row of ticks has begun anew
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
