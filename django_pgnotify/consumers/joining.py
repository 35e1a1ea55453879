"""Joining: how one client comes into a group, by a replay or with a snapshot, and out of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import cast

from ..conf import settings
from ..ledger.positions import Look, Position, ResetReason
from ..ledger.ticks import Tick
from . import hubs, snapshots
from .asking import Consumer, authorized
from .browser import FORBIDDEN, ErrorCode, Subscribe, error, reset, snapshot, subscribed
from .hidden import Hidden
from .hub import Hub
from .outbox import Outbox
from .snapshots import Taken
from .standing import Standing
from .subscription import Subscription


class Joining:
    """Serves a session, one request after the other.

    `left(group)` is called when the client has left a group, `revoked(group)` when it must be
    authorized anew, `again(request)` when a request has come to nothing and is to be served anew.
    """

    __slots__ = (
        "_again",
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
        again: Callable[[Subscribe], None],
    ) -> None:
        self._consumer = consumer
        self._standing = standing
        self._subscriptions = standing.subscriptions
        self._outbox = outbox
        self._takes_snapshots = takes_snapshots
        self._left = left
        self._revoked = revoked
        self._again = again

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
        elif known is None or since is not None:
            await self._leave(group)
            await self._enter(group, since, era)
        elif not self._takes_snapshots:
            self._confirm(known)
        else:
            await self._begin_again(known)

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
            if self._takes_snapshots:
                subscription.begin_anew = partial(self._again, Subscribe(group, since))
            await self._resume(hub, subscription, look, position, found)
        else:
            subscription.awaits_snapshot = self._takes_snapshots
            subscription.begin(look.position, cast("ResetReason | None", found))
            if self._takes_snapshots:
                taken, look = await self._take(hub, subscription, look, is_new=True)
                await self._send_snapshot(subscription, taken, before=look.position)
            subscription.release()

    def _confirm(self, known: Subscription) -> None:
        """The client is in the group, and stays there."""
        # While it lacks events, it stands where it stood: the reset to come tells the rest.
        position = self._standing.position_of(known) or known.stands
        if position is not None:
            self._outbox.put(subscribed(known.group, position))

    async def _begin_again(self, known: Subscription) -> None:
        """Give a client that is in the group its snapshot anew: it may have begun to listen just
        now. It does not leave, so that nothing is lost if there is none for this group."""
        hub = self._standing.hub
        if hub is None or known.stands is None or known.replaying:
            await self._leave(known.group)
            await self._enter(known.group, None, self._era())
            return
        self._standing.hold(known)
        look = await hub.look(known)
        taken, _ = await self._take(hub, known, look, is_new=False)
        self._outbox.put(subscribed(known.group, known.stands))
        await self._send_snapshot(known, taken, before=known.stands)
        known.release()

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

    async def _forbid(self, group: str) -> None:
        await self._leave(group)
        self.refuse(group, "forbidden", FORBIDDEN)

    async def _take(
        self, hub: Hub, subscription: Subscription, look: Look, *, is_new: bool
    ) -> tuple[Taken, Look]:
        group = subscription.group

        def take(look: Look) -> Taken:
            return snapshots.take(
                lambda: self._consumer.snapshot(group),
                alias=self._consumer.using,
                group=group,
                epoch=look.epoch,
                after=(subscription.floor if is_new else None) or look.latest,
            )

        return await snapshots.read(take, hub, subscription, look)

    async def _send_snapshot(
        self, subscription: Subscription, taken: Taken, *, before: Position
    ) -> None:
        group = subscription.group
        if taken.rows is None:
            subscription.awaits_snapshot = False
            return
        stood = subscription.stands
        # Again: the rows may be younger than the answer that let the client in.
        if not await authorized(self._consumer, group):
            await self._expel(subscription)
            return
        for answer in snapshot(group, taken.rows, before=before, after=taken.position):
            await self._outbox.wait_for_room()
            subscription.awaits_snapshot = answer.more or answer.position is None
            self._outbox.put(answer)
        # Held, it moves only if an epoch begins: the reset that follows tells from where.
        if subscription.stands is stood:
            subscription.has_seen(taken.position, taken.hidden)

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
