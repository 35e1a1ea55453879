"""Reading: what one read of the ledger serves, each group and each returning client its part."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Protocol

from ..backoff import Backoff
from ..groups import GroupTemplate
from ..ledger.positions import Position
from ..ledger.reader import Expired, Snapshot
from ..ledger.rows import Change, LedgerRow, changes_of
from ..ledger.ticks import Tick
from .batches import Batch, EncodedEvent, Packer, encode_event
from .group import Group
from .subscription import Subscription

logger = logging.getLogger(__name__)

ROWS_PER_TURN = 50
"""Ledger rows that are worked on without a pause: about 2 ms."""


class NewEpoch(Exception):
    """The database history changed during a read: what was read is of no use."""


class Sink(Protocol):
    """Where the events of a range go."""

    def deliver(self, batch: Batch) -> None:
        """Take a batch."""

    def finish(self, position: Position, tick: Tick) -> None:
        """All events up to the position, which is the tick's, have been delivered."""


class Refill:
    """Those clients of a group that missed something and go on from one tick.

    Most go on from where the group stands. Who came when it was behind the ledger was told a
    later tick, and gets nothing from before that.
    """

    def __init__(self, group: Group, begin: int) -> None:
        self._group = group
        self._stood = -1 if group.position is None else group.position.tick
        self._begin = begin

    def deliver(self, batch: Batch) -> None:
        """Give it to all of them."""
        self._group.deliver(batch, [one for one in self._group.subscriptions if self._has(one)])

    def finish(self, position: Position, tick: Tick) -> None:
        """The group stands there."""
        self._group.advance(position)

    def _has(self, subscription: Subscription) -> bool:
        return beginning(subscription, self._stood) == self._begin


def beginning(subscription: Subscription, stood: int) -> int:
    """The tick from which a client's group is read for it, when the group stands at another."""
    return stood if subscription.floor is None else max(stood, subscription.floor.number)


class Resume:
    """Clients of a group that came back and stand at one tick."""

    def __init__(self, subscriptions: list[Subscription]) -> None:
        self.subscriptions = subscriptions

    def deliver(self, batch: Batch) -> None:
        """Give them events that they missed."""
        for subscription in self.subscriptions:
            if subscription.active:
                subscription.replay(batch)

    def finish(self, position: Position, tick: Tick) -> None:
        """They may have a long way to go still: see ``Returning``."""


class Range:
    """The events of one group between two ticks, on their way to a sink."""

    def __init__(self, group: str, sink: Sink, *, epoch: str, after: Tick, upto: Tick) -> None:
        self.group = group
        self.sink = sink
        self.after = after
        self.upto = upto
        self.position = Position(epoch=epoch, tick=upto.number, bits=upto.bits)
        self._seen = Snapshot.parse(after.snapshot)
        self._sees = Snapshot.parse(upto.snapshot)
        before = Position(epoch=epoch, tick=after.number, bits=after.bits)
        self._packer = Packer(group, tick=upto.number, before=before, after=self.position)
        self._is_empty = True

    def holds(self, xid: int) -> bool:
        """True if a transaction's rows stand between the two ticks."""
        return self._sees.sees(xid) and not self._seen.sees(xid)

    def add(self, event: EncodedEvent) -> bool:
        """Take an event; True if a full frame went out."""
        self._is_empty = False
        full = self._packer.add(event)
        if full is not None:
            self.sink.deliver(full)
        return full is not None

    def finish(self) -> None:
        """Deliver the rest."""
        if not self._is_empty:
            self.sink.deliver(self._packer.finish())
        self.sink.finish(self.position, self.upto)


class Ranges:
    """All ranges of one read, found by group."""

    def __init__(self, ranges: list[Range]) -> None:
        self.all = ranges
        self.by_group: dict[str, list[Range]] = {}
        for one in ranges:
            self.by_group.setdefault(one.group, []).append(one)

    @property
    def after(self) -> Tick:
        """The lowest tick that any begins at."""
        return min((one.after for one in self.all), key=lambda tick: tick.number)

    @property
    def upto(self) -> Tick:
        """The highest tick that any ends at."""
        return max((one.upto for one in self.all), key=lambda tick: tick.number)

    def add(self, row: LedgerRow) -> Iterator[Range]:
        """Take a row's changes into all ranges that hold it; gives those that sent a full frame."""
        xid = int(row.xid)
        for change in changes_of(row):
            concerned = [one for one in self._concerned(change) if one.holds(xid)]
            if concerned:
                event = encode_event(change.event)
                yield from [one for one in concerned if one.add(event)]

    def finish(self) -> None:
        """End them all."""
        for one in self.all:
            one.finish()

    def _concerned(self, change: Change) -> Iterator[Range]:
        groups = set(change.groups)
        for template in map(GroupTemplate, change.templates):
            groups.update(name for name in self.by_group if template.matches(name))
        for name in groups:
            yield from self.by_group.get(name, ())


async def in_turns(rows: list[LedgerRow]) -> AsyncIterator[LedgerRow]:
    """The rows, with a turn for the rest of the process now and then."""
    for number, row in enumerate(rows, 1):
        yield row
        if number % ROWS_PER_TURN == 0:
            await asyncio.sleep(0)


async def whenever(asked: asyncio.Event, work: Callable[[], Awaitable[None]]) -> None:
    """Work each time that it is asked for, until cancelled. What fails is tried again with
    backoff, and never given up."""
    backoff = Backoff()
    while True:
        await asked.wait()
        asked.clear()
        try:
            await work()
            backoff.reset()
        except (Expired, NewEpoch):
            asked.set()
        except Exception as error:
            logger.warning(
                "hub can't catch up, tries again: %s",
                error,
                extra={"action": "hub_catch_up_failed"},
            )
            asked.set()
            await asyncio.sleep(backoff.next_delay())
