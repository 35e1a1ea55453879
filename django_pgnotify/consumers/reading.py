"""Reading: what one read of the ledger serves, each group and each returning client its part."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Protocol

from ..groups import GroupTemplate
from ..ledger.positions import Look, Position
from ..ledger.reader import Snapshot
from ..ledger.rows import Change
from ..ledger.ticks import Tick
from .batches import Batch, EncodedEvent, Packer, encode_event
from .browser import Reason
from .group import Group
from .subscription import Subscription


class Sink(Protocol):
    """Where the events of a range go."""

    def deliver(self, batch: Batch) -> None:
        """Take a batch."""

    def finish(self, position: Position, tick: Tick) -> None:
        """All events up to the position, which is the tick's, have been delivered."""

    @property
    def waits_for(self) -> Collection[Subscription]:
        """Who must keep up, for a while."""


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

    @property
    def waits_for(self) -> Collection[Subscription]:
        """None: the group's other clients must not wait for a slow one."""
        return ()

    def _has(self, subscription: Subscription) -> bool:
        return beginning(subscription, self._stood) == self._begin


def beginning(subscription: Subscription, stood: int) -> int:
    """The tick from which a client's group is read for it, when the group stands at another."""
    return stood if subscription.floor is None else max(stood, subscription.floor.number)


class Resume:
    """Clients of a group that came back with one position.

    They hear ``subscribed`` once the first missed event is there, or that there is none; the
    latter's position is the latest one, as theirs may be about to expire.
    """

    def __init__(self, since: Position) -> None:
        self.since = since
        self.subscriptions: set[Subscription] = set()

    def deliver(self, batch: Batch) -> None:
        """Give them events that they missed."""
        for subscription in self._active():
            subscription.replay(batch, self.since)

    def finish(self, position: Position, tick: Tick) -> None:
        """They have all; what came meanwhile follows."""
        for subscription in self._active():
            subscription.caught_up(position, tick, self.since)

    def fail(self, look: Look, reason: Reason) -> None:
        """Tell them that they must read their state anew."""
        for subscription in self._active():
            subscription.fail(look, reason)

    @property
    def waits_for(self) -> Collection[Subscription]:
        """All, for they may have missed more than a queue holds."""
        return self._active()

    def _active(self) -> list[Subscription]:
        return [subscription for subscription in self.subscriptions if subscription.active]


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

    def add(self, xid: int, change: Change) -> list[Range]:
        """Take a change into all ranges that hold it; gives those that sent a full frame."""
        concerned = [one for one in self._concerned(change) if one.holds(xid)]
        if not concerned:
            return []
        event = encode_event(change.event)
        return [one for one in concerned if one.add(event)]

    def _concerned(self, change: Change) -> Iterator[Range]:
        groups = set(change.groups)
        for template in map(GroupTemplate, change.templates):
            groups.update(name for name in self.by_group if template.matches(name))
        for name in groups:
            yield from self.by_group.get(name, ())
