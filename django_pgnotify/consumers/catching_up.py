"""Catching up: what a hub reads from the ledger, for all who need it at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextlib import aclosing

from ..ledger.positions import Look, Position
from ..ledger.rows import LedgerRow, changes_of
from ..ledger.ticks import Tick
from .access import Access
from .group import Group
from .reading import NewEpoch, Range, Ranges, Refill, beginning, in_turns, whenever
from .returning import Returning
from .subscription import Subscription

CONTROL = "pgnotify.control"
"""Stands in for a group's name in the range of the control rows; no group can have it."""


class CatchingUp:
    """Gathers groups that missed something, and serves them all by one look and one read. Clients
    that came back go their own way: see ``Returning``."""

    def __init__(
        self,
        access: Access,
        *,
        revoked: Callable[[Iterable[str] | None], None],
        caught_up: Callable[[Group], None],
    ) -> None:
        self.control: Position | None = None
        """Truncates and revokes up to here have been dealt with."""
        self._access = access
        self._revoked = revoked
        self._caught_up = caught_up
        self._groups: set[Group] = set()
        self._control_is_behind = False
        self._asked = asyncio.Event()
        self._epoch = ""
        self._returning = Returning(access, still=self._still)

    def refill(self, group: Group) -> None:
        """Bring a group to the latest tick; its frames are held until then."""
        group.catching_up = True
        self._groups.add(group)
        self._asked.set()

    def read_control(self) -> None:
        """Look for truncates and revokes."""
        self._control_is_behind = True
        self._asked.set()

    def skip_control(self, position: Position) -> None:
        """There was no truncate or revoke up to here."""
        if self.control is not None and position.tick > self.control.tick:
            self.control = position

    def resume(self, subscription: Subscription, since: Position, after: Tick) -> None:
        """Bring a client from its position to the latest tick, then let it follow its group."""
        subscription.come_back(since)
        control = -1 if self.control is None else self.control.tick
        self._returning.add(subscription, since.epoch, after, control=control)

    def restart(self, look: Look) -> None:
        """An epoch has begun: what is being read of the one before is of no use."""
        is_first = not self._epoch
        self._epoch = look.epoch
        self.control = look.position
        if not is_first:
            self._revoked(None)  # what was revoked meanwhile, nobody can tell

    async def run(self) -> None:
        """Serve what is asked for, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(whenever(self._asked, self._work))
            tasks.create_task(self._returning.run())

    async def _work(self) -> None:
        groups, self._groups = self._groups, set()
        try:
            await self._serve(groups)
        except Exception:
            self._groups |= {group for group in groups if group.subscriptions}
            self._go_on(groups)
            raise
        self._go_on(groups)

    def _go_on(self, groups: set[Group]) -> None:
        for group in groups - self._groups:
            group.catching_up = False
            self._caught_up(group)

    async def _serve(self, groups: set[Group]) -> None:
        positions = [group.position for group in groups if group.position]
        # A heartbeat may move it while the look is on its way, to a tick that was not asked for.
        control = self.control
        if control is not None:
            positions.append(control)
        look = await self._access.look([position.tick for position in positions])
        reads_control, self._control_is_behind = self._control_is_behind, False
        try:
            ranges = [
                *self._refills(groups, look),
                *(self._controls(control, look) if reads_control else ()),
            ]
            if ranges:
                await self._read(Ranges(ranges), look)
        except BaseException:
            self._control_is_behind |= reads_control
            raise

    def _refills(self, groups: set[Group], look: Look) -> list[Range]:
        found = []
        for group in groups:
            tick = look.resolve(group.position)
            if group.position is None or isinstance(tick, str):
                group.restart(look, tick if isinstance(tick, str) else "unknown")
            else:
                begins = {tick.number: tick}
                begins |= {one.number: one for one in _floors_beyond(group, tick)}
                found += [
                    self._range(group.name, Refill(group, number), one, look)
                    for number, one in begins.items()
                    if number < look.latest.number
                ]
        return found

    def _controls(self, control: Position | None, look: Look) -> list[Range]:
        if control is None or control.epoch != look.epoch:
            return []  # the look has begun an epoch: see restart()
        tick = look.resolve(control)
        if isinstance(tick, str):
            # Nobody can tell what was revoked meanwhile: everybody is asked.
            self._revoked(None)
            self.control = look.position
            return []
        return [self._range(CONTROL, _ControlSink(self), tick, look)]

    def _range(self, group: str, sink: Refill | _ControlSink, after: Tick, look: Look) -> Range:
        return Range(group, sink, epoch=look.epoch, after=after, upto=look.latest)

    async def _read(self, ranges: Ranges, look: Look) -> None:
        batches = self._access.read(ranges.after, ranges.upto, list(ranges.by_group))
        async with aclosing(batches):
            async for rows in batches:
                async for row in in_turns(rows):
                    self._take(ranges, row)
                self._still(look.epoch)
        self._still(look.epoch)
        ranges.finish()

    def _take(self, ranges: Ranges, row: LedgerRow) -> None:
        if row.is_control:
            self._revoked(group for change in changes_of(row) for group in change.groups)
        else:
            for _ in ranges.add(row):
                pass  # nobody waits for a slow client of the group

    def _still(self, epoch: str) -> None:
        if epoch != self._epoch:
            raise NewEpoch


class _ControlSink:
    """Takes no events: control rows are dealt with as they are read."""

    def __init__(self, owner: CatchingUp) -> None:
        self._owner = owner

    def deliver(self, batch: object) -> None:
        """Never called: no event is in the group CONTROL."""

    def finish(self, position: Position, tick: Tick) -> None:
        """Control rows up to here have been read."""
        self._owner.control = position


def _floors_beyond(group: Group, tick: Tick) -> Iterator[Tick]:
    """The ticks from which clients go on that came when the group was behind."""
    for subscription in group.subscriptions:
        floor = subscription.floor
        if floor is not None and beginning(subscription, tick.number) != tick.number:
            yield floor
