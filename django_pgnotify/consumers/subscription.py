"""Subscription: one client in one group, from the moment it is noted until it leaves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..conf import settings
from ..ledger.positions import Position
from .batches import Batch, make_batch
from .browser import Answer, Reason, reset
from .outbox import Item, Outbox


@dataclass(frozen=True, kw_only=True, slots=True)
class Hidden:
    """Ledger rows that the client has seen in a snapshot, until the group is past them."""

    rows: frozenset[str]
    """Ids of ledger rows."""
    until: int
    """The first tick that is known to begin after the snapshot's end."""

    def without(self, batch: Batch) -> Batch:
        """The batch without these rows' events."""
        events = tuple(event for event in batch.events if event.ledger_row not in self.rows)
        if len(events) == len(batch.events):
            return batch
        return make_batch(
            batch.group, events, tick=batch.tick, position=batch.position, more=batch.more
        )


class Subscription:
    """Takes what its group gets. While held, it collects; ticks up to its floor it has had.

    So nothing is lost or doubled: it is noted in its group first, then the ledger tells the
    latest tick, the client is brought there, and what the group got meanwhile follows.
    """

    def __init__(self, group: str, outbox: Outbox, check_again: Callable[[str], None]) -> None:
        self.group = group
        self.outbox = outbox
        self.stands: Position | None = None
        """Where the client stands apart from its group; None before it is subscribed."""
        self.joined_at = -1
        """The tick at which the group stood when it came; -1 if the group came with it."""
        self.active = True
        self.skips_replay = False
        """True after an overflow: the client reads its state anew, past events are no use."""
        self.withheld = False
        """True if a position has not been told, since no event with it was visible."""
        self.hidden: Hidden | None = None
        self._begun = False
        self._check_again = check_again
        self._holds = {"subscribing"}
        self._held: list[Item] = []
        self._held_too_much = False

    @property
    def is_held(self) -> bool:
        """True while it does not follow its group."""
        return bool(self._holds)

    def deliver(self, item: Item) -> None:
        """Take an item of the group."""
        if not self._holds:
            self._pass(item)
        elif len(self._held) < settings.SOCKET_QUEUE_SIZE:
            self._held.append(item)
        else:
            self._held.clear()
            self._held_too_much = True

    def release(self, hold: str = "subscribing") -> None:
        """Follow the group, unless held otherwise too."""
        self._holds.discard(hold)
        if self._holds or not self.active:
            return
        held, self._held = self._held, []
        if self._held_too_much and self.stands is not None:
            self._held_too_much = False
            self.outbox.put(reset(self.group, self.stands, "overflow"))
        for item in held:
            self._pass(item)

    def revoke(self) -> None:
        """Hold everything until the client has been authorized anew."""
        self._holds.add("authorizing")
        self._check_again(self.group)

    def restart(self, position: Position, reason: Reason) -> None:
        """The row of ticks begins anew: forget what is held, tell the client where to go on."""
        self._held.clear()
        self.hidden = None
        self.skips_replay = True
        if self.stands is not None:
            self.stands = position
            self.deliver(reset(self.group, position, reason))

    def announce(self, answer: Answer) -> None:
        """Deliver an answer, unless the client has not even been told that it is subscribed."""
        if self.stands is not None:
            self.deliver(answer)

    def _pass(self, item: Item) -> None:
        if isinstance(item, Batch) and item.tick is not None:
            if self.stands is not None and item.tick <= self.stands.tick:
                return
            if self.hidden is not None and not self._shows(
                item := self._without(self.hidden, item)
            ):
                self.withheld = True
                return
        self.outbox.put(item)

    def _without(self, hidden: Hidden, batch: Batch) -> Batch:
        rest = hidden.without(batch)
        if batch.tick is not None and batch.tick >= hidden.until and not batch.more:
            self.hidden = None
        return rest

    def _shows(self, rest: Batch) -> bool:
        """False for a batch of which nothing is left, unless it ends what went with ``more``."""
        shows = bool(rest.events) or (self._begun and not rest.more)
        self._begun = rest.more and (self._begun or shows)
        return shows
