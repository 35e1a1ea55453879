"""Standing: where a client stands in its groups, and from where it could resume all of them."""

from __future__ import annotations

from collections.abc import Iterator

from ..ledger.positions import Position
from .browser import Answer
from .hub import Hub
from .outbox import Item
from .subscription import Subscription


class Standing:
    """One client's subscriptions, and the hub that serves them."""

    def __init__(self) -> None:
        self.subscriptions: dict[str, Subscription] = {}
        """By group."""
        self.expected: set[str] = set()
        """Groups that are about to be requested: no stamp leaves them out."""
        self.hub: Hub | None = None
        """From the first subscription on."""

    def position_of(self, subscription: Subscription) -> Position | None:
        """Where the client will stand in the group when it has what is queued; None while that
        lacks events and a reset is to come."""
        if subscription.is_cut:
            return None
        return subscription.place(self._reached(subscription))

    def hold(self, subscription: Subscription) -> None:
        """Let the client wait where it stands."""
        subscription.hold(self._reached(subscription))

    def stamp(self, item: Item) -> str | None:
        """The position from which a client could resume all of its groups after this item."""
        positions = [self._position_after(item, one) for one in self.subscriptions.values()]
        known = [position for position in positions if position is not None]
        if not known or len(known) < len(positions) or self.expected:
            return None
        if len({position.epoch for position in known}) > 1:
            return None  # some groups' resets are still to come
        if len(known) > 1 and any(position.snapshot for position in known):
            return None  # what one group's snapshot has seen, others may not have told
        return min(known, key=lambda position: position.tick).token

    def overflowed(self) -> Iterator[Answer]:
        """The resets of groups whose events had no room."""
        for subscription in self.subscriptions.values():
            answer = subscription.overflow(self._reached(subscription))
            if answer is not None:
                yield answer

    def _reached(self, subscription: Subscription) -> Position | None:
        group = None if self.hub is None else self.hub.groups.get(subscription.group)
        return None if group is None else group.position

    def _position_after(self, item: Item, subscription: Subscription) -> Position | None:
        # Who comes back with a position gets no snapshot, and no reset of before it.
        if subscription.awaits_snapshot or subscription.owes_reset:
            return None
        own = item.position if item.group == subscription.group else None
        return own or self.position_of(subscription)
