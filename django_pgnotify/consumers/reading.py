"""Reading: what one read of the ledger serves, each group and each returning client its part."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Protocol

from ..groups import GroupTemplate
from ..ledger.positions import Position
from ..ledger.reader import Snapshot
from ..ledger.rows import Change
from ..ledger.ticks import Tick
from .batches import Batch, EncodedEvent, Packer, encode_event
from .browser import Reason, reset, subscribed
from .group import Group
from .subscription import Subscription


class Sink(Protocol):
    """Where the events of a range go."""

    def deliver(self, batch: Batch) -> None:
        """Take a batch."""

    def finish(self, position: Position) -> None:
        """All events up to the position have been delivered."""

    def fail(self, position: Position, reason: Reason) -> None:
        """They can't be read: go on from the position."""

    @property
    def waits_for(self) -> Collection[Subscription]:
        """Who must keep up, for a while."""


class Refill:
    """A group that missed something."""

    def __init__(self, group: Group) -> None:
        self._group = group

    def deliver(self, batch: Batch) -> None:
        """Give it to everybody in the group."""
        self._group.deliver(batch)

    def finish(self, position: Position) -> None:
        """The group stands there."""
        self._group.advance(position)

    def fail(self, position: Position, reason: Reason) -> None:
        """Everybody in the group gets a reset."""
        self._group.restart(position, reason)

    @property
    def waits_for(self) -> Collection[Subscription]:
        """None: the group's other clients must not wait for a slow one."""
        return ()


class Resume:
    """Clients of a group that came back with one position.

    They hear ``subscribed`` once the first missed event is there, or that there is none; the
    latter's position is the latest one, as theirs may be about to expire.
    """

    def __init__(self, group: str, since: Position) -> None:
        self._group = group
        self._since = since
        self._subscribed: set[Subscription] = set()
        self.subscriptions: set[Subscription] = set()

    def deliver(self, batch: Batch) -> None:
        """Give them events that they missed."""
        for subscription in self._active():
            self._subscribe(subscription, self._since)
            if not subscription.skips_replay:
                subscription.outbox.put(batch)

    def finish(self, position: Position) -> None:
        """They have all; what came meanwhile follows."""
        for subscription in self._active():
            self._subscribe(subscription, position)
            subscription.stands = position
            subscription.release()

    def fail(self, position: Position, reason: Reason) -> None:
        """Tell them that they must read their state anew."""
        for subscription in self._active():
            if subscription not in self._subscribed:
                subscription.outbox.put(subscribed(self._group, position, recovered=False))
            subscription.stands = position
            subscription.outbox.put(reset(self._group, position, reason))
            subscription.release()

    @property
    def waits_for(self) -> Collection[Subscription]:
        """All, for they may have missed more than a queue holds."""
        return self._active()

    def _subscribe(self, subscription: Subscription, position: Position) -> None:
        if subscription not in self._subscribed:
            self._subscribed.add(subscription)
            subscription.stands = position
            subscription.outbox.put(subscribed(self._group, position, recovered=True))

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
        self.sink.finish(self.position)


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
