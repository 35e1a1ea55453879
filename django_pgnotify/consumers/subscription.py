"""Subscription: one client in one group, from the moment it is noted until it leaves."""

from __future__ import annotations

from collections.abc import Callable

from ..conf import settings
from ..ledger.positions import Look, Position
from ..ledger.ticks import Tick
from .batches import Batch, make_batch, with_events
from .browser import Answer, Reason, reset, subscribed
from .hidden import Hidden
from .outbox import Item, Outbox


class Subscription:
    """Takes what its group gets. While held, it collects; ticks up to its floor it has had.

    So nothing is lost or doubled: it is noted in its group first, then the ledger tells the
    latest tick, the client is brought there, and what the group got meanwhile follows.
    """

    def __init__(self, group: str, outbox: Outbox, check_again: Callable[[str], None]) -> None:
        self.group = group
        self.outbox = outbox
        self.floor: Tick | None = None
        """Where reading begins for it when its group must be read from an earlier tick; None
        until the ledger has told it, and again if the row of ticks begins anew before the client
        is subscribed."""
        self.stands: Position | None = None
        """Where the client stands by what it was told itself; None before it is subscribed."""
        self.active = True
        self.replaying = False
        """True while the ledger is read for it from where the client left off."""
        self.cut_short = False
        """True after an overflow or a revoke in a replay: the client is to read its state anew at
        its end."""
        self.awaits_snapshot = False
        """True until the client has been sent the end of its snapshot."""
        self.withheld = False
        """True if a position has not been told, since no event with it was visible."""
        self.hidden: Hidden | None = None
        self.begin_anew: Callable[[], None] | None = None
        """Called instead of failing a replay that has not begun: there is a snapshot to give."""
        self._check_again = check_again
        self._holds = {"subscribing"}
        self._held: list[Item] = []
        self._since: Position | None = None
        """Where it came back from."""
        self._dropped: Item | None = None
        """What was held last when it had become too much."""
        self._within = False
        """True if the batch that was told last has more to come."""
        self._cut = False
        """True if the begin of that batch is gone: at its end the client is told to read anew."""
        self._is_to_reset = False
        """True while the client is told that it is subscribed, and then by a reset from where."""

    @property
    def is_cut(self) -> bool:
        """True while events of a tick are gone and the reset at its end is to come."""
        return self._cut

    @property
    def owes_reset(self) -> bool:
        """True while a reset is to come that the client's place is beyond already."""
        if self._is_to_reset or self._dropped is not None:
            return True
        return bool(self._held) and not isinstance(self._held[0], Batch)

    def place(self, reached: Position | None) -> Position | None:
        """Where the client stands when its group has reached a position."""
        stands = self.stands
        if stands is None or reached is None or self._holds:
            return stands
        if self.hidden is not None and reached.tick < self.hidden.until:
            return stands  # how much of the snapshot is in that tick, nobody knows
        return reached if reached.tick > stands.tick else stands

    def deliver(self, item: Item) -> None:
        """Take an item of the group."""
        if not self._holds:
            self._pass(item)
        elif len(self._held) < settings.SOCKET_QUEUE_SIZE:
            self._held.append(item)
        else:
            self._held.clear()
            self._dropped = item

    def release(self, hold: str = "subscribing") -> None:
        """Follow the group, unless held otherwise too."""
        self._holds.discard(hold)
        if self._holds or not self.active:
            return
        held, self._held = self._held, []
        dropped, self._dropped = self._dropped, None
        if self.stands is not None and dropped is not None and not self._has_had(dropped):
            self._cut = isinstance(dropped, Batch) and dropped.more
            if not self._cut:
                self._read_anew(self.place(dropped.position) or self.stands)
        for item in held:
            self._pass(item)

    def hold(self, reached: Position | None, hold: str = "subscribing") -> None:
        """Collect what comes until it is released; the client stays where it stands now."""
        self.stands = self.place(reached)
        self._holds.add(hold)

    def revoke(self, reached: Position | None) -> None:
        """Hold everything until the client has been authorized anew."""
        self.hold(reached, "authorizing")
        self._check_again(self.group)

    def restart(self, look: Look, reason: Reason) -> None:
        """The row of ticks begins anew: forget what is held, tell the client where to go on."""
        self._held.clear()
        self._dropped, self._within, self._cut = None, False, False
        self.floor = None
        if self.replaying:
            return  # it has a place of its own, and hears at its end what became of it
        self.hidden = None
        if self.stands is not None:
            self.stands, self.floor = look.position, look.latest
            self.deliver(reset(self.group, look.position, reason))

    def overflow(self, reached: Position | None) -> Answer | None:
        """What was queued is gone: what the client is told instead, if anything."""
        if self.replaying:
            self.cut_short = self.stands is not None
            return None
        if self._within:
            self._cut = True
            return None
        place = self.place(reached)
        return None if place is None else reset(self.group, place, "overflow")

    def announce(self, reason: Reason, reached: Position) -> None:
        """Tell of a gap, unless the client has not even been told that it is subscribed."""
        place = self.place(reached)
        if place is not None:
            self.deliver(reset(self.group, place, reason))

    def begin(self, position: Position, reason: Reason | None) -> None:
        """Begin with the latest tick; `reason` why that is not where the client left off."""
        self._subscribe(position, recovered=None if reason is None else False)
        if reason is not None:
            self._read_anew(position, reason)

    def has_seen(self, position: Position, hidden: Hidden) -> None:
        """The client has a snapshot of there, and needs nothing of what was told before."""
        self.stands, self.hidden = position, hidden
        self._within = self._cut = False

    # A client that came back --------------------------------------------------------------

    def come_back(self, since: Position) -> None:
        """It has seen everything up to a position, and is brought on from there."""
        self._since, self.replaying = since, True

    def replay(self, batch: Batch) -> None:
        """Give it events that it missed. It hears that it is subscribed with the first ones."""
        self._subscribe(self._since or batch.before, recovered=True)
        if "authorizing" in self._holds:
            # It may be behind a revoke. Who may stay reads anew: nobody holds a whole replay.
            self.cut_short = True
        if not self.cut_short:
            self._pass(batch)

    def caught_up(self, position: Position, tick: Tick) -> None:
        """It has all up to a tick, of which it may not have heard; what came meanwhile follows."""
        hidden = self.hidden is not None and position.tick < self.hidden.until
        if hidden and not self.cut_short:
            place = self.stands or self._since or position
        else:
            place = position
        self._subscribe(place, recovered=True)
        if self.stands != place and not self.cut_short:
            # What it was told last may be about to expire.
            self.outbox.put(make_batch(self.group, (), tick=None, position=place))
        self._arrive(place, tick, "overflow" if self.cut_short else None)

    def fail(self, look: Look, reason: Reason) -> None:
        """What it missed can't be read: it must read its state anew."""
        if self.stands is None and self.begin_anew is not None:
            self.begin_anew()
            return
        self._subscribe(look.position, recovered=False)
        self._arrive(look.position, look.latest, reason)

    def _subscribe(self, position: Position, *, recovered: bool | None) -> None:
        if self.stands is None:
            self.stands = position
            self._is_to_reset = recovered is False
            self.outbox.put(subscribed(self.group, position, recovered))

    def _arrive(self, position: Position, tick: Tick, reason: Reason | None) -> None:
        self.stands, self.floor = position, tick
        self.replaying = self.cut_short = self._within = False
        if reason is not None:
            self._read_anew(position, reason)
        self.release()

    # What is told -------------------------------------------------------------------------

    def _pass(self, item: Item) -> None:
        if not isinstance(item, Batch):
            self.outbox.put(item)
        elif item.tick is None and self._cut:
            pass  # Its place would be beyond what is gone; the reset to come covers it.
        elif item.tick is None:
            place = self.place(item.position) or item.position
            self.outbox.put(with_events(item, item.events, before=place, after=place))
        elif not self._has_had(item):
            self._tell(item)

    def _has_had(self, item: Item) -> bool:
        if not isinstance(item, Batch) or item.tick is None or self.stands is None:
            return False
        return item.tick <= self.stands.tick

    def _tell(self, batch: Batch) -> None:
        """Tell a batch of the ledger that the client has not had."""
        fitting = batch if self.hidden is None else self._without(self.hidden, batch)
        if self._cut:
            if not batch.more:
                self._read_anew(batch.position)
        elif fitting is not None:
            # Before it is put: an overflow on the way tells where the client is to go on from.
            self._within = fitting.more
            self.stands = self.stands if fitting.more else fitting.position
            self.outbox.put(fitting)

    def _read_anew(self, position: Position, reason: Reason = "overflow") -> None:
        self.stands, self.hidden = position, None
        self._within = self._cut = self._is_to_reset = False
        self.outbox.put(reset(self.group, position, reason))

    def _without(self, hidden: Hidden, batch: Batch) -> Batch | None:
        rest = hidden.without(batch)
        shows = bool(rest) or (self._within and not batch.more)
        if not batch.more and (shows or (batch.tick or 0) >= hidden.until):
            # A tick with an event that the snapshot did not see has all that the snapshot saw.
            self.hidden = None
        if not shows:
            self.withheld = True
            return None
        before = self.stands or batch.before
        return with_events(
            batch, rest, before=before, after=before if batch.more else batch.position
        )
