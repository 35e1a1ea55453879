"""Joining: how one client comes into a group, by a replay or with a snapshot, and out of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from ..conf import settings
from ..ledger.positions import Look, Position, ResetReason
from ..ledger.ticks import Tick
from . import hubs, snapshots
from .asking import Consumer, authorized
from .browser import ErrorCode, Subscribe, error, reset, snapshot, subscribed
from .hub import Hub
from .outbox import Outbox
from .snapshots import Taken
from .standing import Standing
from .subscription import Hidden, Subscription


class Joining:
    """Serves a session, one request after the other.

    `left(group)` is called when the client has left a group, `revoked(group)` when it must be
    authorized anew.
    """

    __slots__ = (
        "_consumer",
        "_left",
        "_outbox",
        "_revoked",
        "_standing",
        "_subscriptions",
        "_takes_snapshots",
    )

    def __init__(
        self,
        consumer: Consumer,
        standing: Standing,
        outbox: Outbox,
        *,
        takes_snapshots: bool,
        left: Callable[[str], None] | None,
        revoked: Callable[[str], None],
    ) -> None:
        self._consumer = consumer
        self._standing = standing
        self._subscriptions = standing.subscriptions
        self._outbox = outbox
        self._takes_snapshots = takes_snapshots
        self._left = left
        self._revoked = revoked

    async def subscribe(self, request: Subscribe) -> None:
        """Ask the consumer, and let the client into the group or refuse it."""
        group, since = request.group, request.since
        # None if nothing is known of revokes since the client was authorized.
        era = None if request.is_authorized else self._era()
        known = self._subscriptions.get(group)
        if known is None and len(self._subscriptions) >= settings.MAX_GROUPS_PER_SOCKET:
            limit = settings.MAX_GROUPS_PER_SOCKET
            self.refuse(group, "too_many", f"Subscribe to {limit} groups at most.")
        elif not (request.is_authorized or await authorized(self._consumer, group)):
            await self._forbid(group)
        elif known is not None and since is None:
            position = self._standing.position_of(known)
            if position is not None:
                self._outbox.put(subscribed(group, position))
        else:
            await self._leave(group)
            await self._enter(group, since, era)

    async def unsubscribe(self, group: str) -> None:
        """Take the client out of the group."""
        if group in self._subscriptions:
            await self._leave(group)
        else:
            self._outbox.put(error("unknown_group", "You are not subscribed to it.", group))

    async def authorize_again(self, group: str) -> Subscription | None:
        """Ask the consumer anew after a revoke; the subscription if the client may keep it."""
        subscription = self._subscriptions.get(group)
        if subscription is None or await authorized(self._consumer, group):
            return subscription
        await self._expel(subscription)
        return None

    def refuse(self, group: str, code: ErrorCode, message: str) -> None:
        """Tell the client that it does not get what it asked for."""
        self._standing.expected.discard(group)
        self._outbox.put(error(code, message, group))

    async def _enter(self, group: str, since: str | None, era: object | None) -> None:
        hub = self._standing.hub = self._standing.hub or hubs.enter(self._consumer.using)
        subscription = Subscription(group, self._outbox, self._revoked)
        self._subscriptions[group] = subscription
        self._standing.expected.discard(group)
        position = None if since is None else Position.parse(since)
        numbers = () if position is None else (position.tick,)
        look = await hub.attach(subscription, numbers)
        # Again, if a revoke may have come before it could reach this subscription.
        if hub.era is not era and not await authorized(self._consumer, group):
            await self._forbid(group)
            return
        if subscription.floor is None:  # another row of ticks has begun meanwhile
            look = await hub.look(subscription, numbers)
        found = None if since is None else look.resolve(position)
        if isinstance(found, Tick) and position is not None:
            await self._resume(hub, subscription, look, position, found)
        else:
            subscription.awaits_snapshot = self._takes_snapshots
            self._begin(subscription, look.position, cast("ResetReason | None", found))
            if self._takes_snapshots:
                await self._send_snapshot(hub, subscription, look)
            subscription.release()

    def _era(self) -> object | None:
        """That of the hub; None if nothing listens for revokes yet."""
        hub = self._standing.hub or hubs.running(self._consumer.using)
        return None if hub is None else hub.era

    async def _resume(
        self, hub: Hub, subscription: Subscription, look: Look, since: Position, tick: Tick
    ) -> None:
        def hide(look: Look) -> Hidden:
            return snapshots.seen_beyond(
                since, alias=self._consumer.using, group=subscription.group, tick=tick
            )

        if since.snapshot is not None:
            subscription.hidden, _ = await snapshots.read(hide, hub, subscription, look)
        hub.resume(subscription, since, tick)

    def _begin(
        self, subscription: Subscription, position: Position, reason: ResetReason | None
    ) -> None:
        """Begin with the latest tick; `reason` why that is not where the client left off."""
        subscription.stands = position
        recovered = None if reason is None else False
        self._outbox.put(subscribed(subscription.group, position, recovered))
        if reason is not None:
            self._outbox.put(reset(subscription.group, position, reason))

    async def _forbid(self, group: str) -> None:
        await self._leave(group)
        self.refuse(group, "forbidden", "You may not subscribe to this group.")

    async def _send_snapshot(self, hub: Hub, subscription: Subscription, look: Look) -> None:
        group = subscription.group

        def take(look: Look) -> Taken:
            return snapshots.take(
                lambda: self._consumer.snapshot(group),
                alias=self._consumer.using,
                group=group,
                epoch=look.epoch,
                after=subscription.floor or look.latest,
            )

        taken, look = await snapshots.read(take, hub, subscription, look)
        if taken.rows is None:
            subscription.awaits_snapshot = False
            return
        # Again: the rows may be younger than the answer that let the client in.
        if not await authorized(self._consumer, group):
            await self._expel(subscription)
            return
        for answer in snapshot(group, taken.rows, before=look.position, after=taken.position):
            await self._outbox.wait_for_room()
            subscription.awaits_snapshot = answer.more or answer.position is None
            self._outbox.put(answer)
        subscription.hidden = taken.hidden
        subscription.stands = taken.position

    async def _leave(self, group: str) -> None:
        subscription = self._subscriptions.pop(group, None)
        if subscription is not None and self._standing.hub is not None:
            await self._standing.hub.detach(subscription)
            self._outbox.forget(group)
            if self._left is not None:
                self._left(group)

    async def _expel(self, subscription: Subscription) -> None:
        group, position = subscription.group, self._standing.position_of(subscription)
        position = position or subscription.stands
        if position is None:
            await self._forbid(group)
        else:
            await self._leave(group)
            self._outbox.put(reset(group, position, "revoked"))
