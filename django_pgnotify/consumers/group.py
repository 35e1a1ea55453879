"""Group: how far one group has been delivered in this process, and whether a frame is next."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from ..ledger.positions import Look, Position
from .batches import EncodedEvent, Packer, make_batch
from .browser import Reason
from .outbox import Item
from .subscription import Subscription
from .wire import GroupFrame, Heartbeat, LiveFrame

MAX_HELD = 32
"""Frames of a group that wait while it catches up, 16 MiB at most. Of more, the oldest go: the
next one's `prev` tells that they are missing."""


class Group:
    """One group of one database in one process. Decisions only; the hub does the waiting."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.position: Position | None = None
        """Everything up to here has been delivered; None until the ledger has told it."""
        self.subscriptions: set[Subscription] = set()
        self.catching_up = False
        """True while the ledger is read for it; frames are held meanwhile."""
        self.held: deque[GroupFrame | Heartbeat] = deque(maxlen=MAX_HELD)
        self.was_quiet = True
        """False if a position went out since the last refresh."""
        self._told: Position | None = None
        """A position that all have been told, or one behind it."""
        self._part: tuple[int, int] | None = None
        self._live: tuple[str, int] | None = None

    def is_denied_by(self, position: Position) -> bool:
        """True if the tick of our number is another one there: ours is gone."""
        own = self._known
        return position.tick == own.tick and position.bits != own.bits

    def take(self, frame: GroupFrame) -> bool:
        """Deliver a frame, or ignore it if we had it; False if something before is missing."""
        own = self._known
        if frame.position.tick <= own.tick:
            return True
        if frame.prev > own.tick or not self._is_next_part(frame):
            return False
        # A first part is always next: a relay that starts anew sends the tick again.
        self._part = None if frame.last else (frame.position.tick, frame.part)
        self._send(frame.events, after=frame.position, more=not frame.last)
        return True

    def take_heartbeat(self, beat: Heartbeat) -> bool:
        """Advance over ticks that held nothing for this group; False if something is missing."""
        own = self._known
        # In the middle of a tick nothing before it is news, and the next part is waited for.
        if beat.position.tick <= own.tick or self._is_within_later(beat.position.tick):
            return True
        if beat.groups is None or beat.prev > own.tick:
            return False
        if beat.groups.get(self.name, 0) > own.tick:
            return False
        self.advance(beat.position)
        return True

    def take_live(self, frame: LiveFrame) -> None:
        """Deliver live events; announce a gap before them if the count tells one."""
        before, self._live = self._live, (frame.run, frame.seq)
        if before is not None and before[0] == frame.run and frame.seq <= before[1]:
            self._live = before
            return
        if before is not None and before != (frame.run, frame.seq - 1):
            self.announce("gap")
        for batch in Packer(self.name, tick=None, before=self._known, after=self._known).pack(
            frame.events
        ):
            self.deliver(batch)

    def begin(self, position: Position) -> None:
        """Go on from here, as all clients are told."""
        self.advance(position)
        self._told = position

    def advance(self, position: Position) -> None:
        """Everything up to here has been delivered."""
        self.position = position
        self._part = None

    def restart(self, look: Look, reason: Reason) -> None:
        """What is missing can't be read: go on from the latest tick, and tell everybody."""
        self.begin(look.position)
        self._live = None
        self.held.clear()
        for subscription in self.subscriptions:
            subscription.restart(look, reason)

    def announce(self, reason: Reason) -> None:
        """Tell everybody of a gap that moves no position."""
        for subscription in self.subscriptions:
            subscription.announce(reason, self._known)

    def refresh(self) -> None:
        """Tell the position to clients that have heard none for long, before it expires. One that
        has been told and is still the latest does not expire."""
        if self.position is not None:
            is_news = self.was_quiet and self.position != self._told
            batch = make_batch(self.name, (), tick=None, position=self.position)
            for subscription in self.subscriptions:
                if is_news or subscription.withheld:
                    subscription.withheld = False
                    subscription.deliver(batch)
            if is_news:
                self._told = self.position
        self.was_quiet = True

    def deliver(self, item: Item, to: Iterable[Subscription] | None = None) -> None:
        """Give an item to every subscription, or to some."""
        self.was_quiet = False
        for subscription in self.subscriptions if to is None else to:
            subscription.deliver(item)

    @property
    def _known(self) -> Position:
        assert self.position is not None  # the hub holds frames until it is known
        return self.position

    def _is_within_later(self, tick: int) -> bool:
        return self._part is not None and tick < self._part[0]

    def _is_next_part(self, frame: GroupFrame) -> bool:
        return frame.part == 1 or self._part == (frame.position.tick, frame.part - 1)

    def _send(self, events: Iterable[EncodedEvent], *, after: Position, more: bool) -> None:
        packer = Packer(self.name, tick=after.tick, before=self._known, after=after)
        batches = packer.pack(tuple(events), more=more)
        if not more:
            # Now, so that an overflow on the way tells the position to go on from.
            self.advance(after)
        for batch in batches:
            self.deliver(batch)
