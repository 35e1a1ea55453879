"""Catching up: the one task of a hub that reads the ledger, for all who need it at once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import aclosing

from ..backoff import Backoff
from ..ledger.positions import Look, Position
from ..ledger.reader import Expired
from ..ledger.rows import LedgerRow, changes_of
from ..ledger.ticks import Tick
from .access import Access
from .group import Group
from .reading import Range, Ranges, Refill, Resume, beginning
from .subscription import Subscription

logger = logging.getLogger(__name__)

CONTROL = "pgnotify.control"
"""Stands in for a group's name in the range of the control rows; no group can have it."""
PATIENCE_SECONDS = 2.0
"""How long one read waits in all for slow returning clients to take their frames."""


class NewEpoch(Exception):
    """The database history changed during a read: what was read is of no use."""


class CatchingUp:
    """Gathers groups that missed something and clients that came back, and serves them all by
    one look and one read. Never gives up: what fails is tried again with backoff."""

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
        self._resumes: dict[tuple[str, Position], tuple[Resume, Tick]] = {}
        self._control_is_behind = False
        self._asked = asyncio.Event()
        self._epoch = ""

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
        key = (subscription.group, since)
        if key not in self._resumes:
            self._resumes[key] = (Resume(since), after)
        self._resumes[key][0].subscriptions.add(subscription)
        subscription.replaying = True
        self._asked.set()

    def restart(self, look: Look) -> None:
        """An epoch has begun: what is being read of the one before is of no use."""
        is_first = not self._epoch
        self._epoch = look.epoch
        self.control = look.position
        if not is_first:
            self._revoked(None)  # what was revoked meanwhile, nobody can tell

    async def run(self) -> None:
        """Serve what is asked for, until cancelled."""
        backoff = Backoff()
        while True:
            await self._asked.wait()
            self._asked.clear()
            groups, self._groups = self._groups, set()
            try:
                await self._serve(groups)
                backoff.reset()
            except (Expired, NewEpoch):
                self._again(groups)
            except Exception as error:
                logger.warning(
                    "hub can't catch up, tries again: %s",
                    error,
                    extra={"action": "hub_catch_up_failed"},
                )
                self._again(groups)
                await asyncio.sleep(backoff.next_delay())
            for group in groups - self._groups:
                group.catching_up = False
                self._caught_up(group)

    def _again(self, groups: set[Group]) -> None:
        self._groups |= {group for group in groups if group.subscriptions}
        self._asked.set()

    async def _serve(self, groups: set[Group]) -> None:
        positions = [group.position for group in groups if group.position]
        # A heartbeat may move it while the look is on its way, to a tick that was not asked for.
        control = self.control
        if control is not None:
            positions.append(control)
        look = await self._access.look([position.tick for position in positions])
        reads_control, self._control_is_behind = self._control_is_behind, False
        resumes, self._resumes = self._resumes, {}
        try:
            ranges = [
                *self._refills(groups, look),
                *self._returns(resumes, look),
                *(self._controls(control, look) if reads_control else ()),
            ]
            if ranges:
                await self._read(Ranges(ranges))
        except BaseException:
            for key, (resume, after) in resumes.items():
                if key in self._resumes:
                    resume.subscriptions |= self._resumes[key][0].subscriptions
                self._resumes[key] = (resume, after)
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

    def _returns(
        self, resumes: dict[tuple[str, Position], tuple[Resume, Tick]], look: Look
    ) -> list[Range]:
        found = []
        for key, (resume, after) in list(resumes.items()):
            group, since = key
            if since.epoch == look.epoch and since.tick > look.trimmed:
                found.append(self._range(group, resume, after, look))
            else:
                resume.fail(look, "epoch" if since.epoch != look.epoch else "expired")
                del resumes[key]
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

    def _range(
        self, group: str, sink: Refill | Resume | _ControlSink, after: Tick, look: Look
    ) -> Range:
        return Range(group, sink, epoch=look.epoch, after=after, upto=look.latest)

    async def _read(self, ranges: Ranges) -> None:
        epoch = self._epoch
        patience = PATIENCE_SECONDS
        rows = self._access.read(ranges.after, ranges.upto, list(ranges.by_group))
        async with aclosing(rows):
            async for row in rows:
                for one in self._add(ranges, row):
                    patience -= await _wait_for_room(one, patience)
                if self._epoch != epoch:
                    break
        if self._epoch != epoch:
            raise NewEpoch
        for one in ranges.all:
            one.finish()

    def _add(self, ranges: Ranges, row: LedgerRow) -> list[Range]:
        changes = changes_of(row)
        if row.is_control:
            self._revoked(group for change in changes for group in change.groups)
            return []
        return [one for change in changes for one in ranges.add(int(row.xid), change)]


class _ControlSink:
    """Takes no events: control rows are dealt with as they are read."""

    waits_for: Collection[Subscription] = ()

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


async def _wait_for_room(one: Range, patience: float) -> float:
    """Let slow clients take what they got; gives the seconds that it took."""
    loop = asyncio.get_running_loop()
    begin = loop.time()
    await asyncio.sleep(0)
    waiting = [subscription.outbox.wait_for_room() for subscription in one.sink.waits_for]
    if waiting and patience > 0:
        gathered = asyncio.gather(*waiting)
        await asyncio.wait([gathered], timeout=patience)
        gathered.cancel()
    elif waiting:
        for coroutine in waiting:
            coroutine.close()
    return loop.time() - begin
