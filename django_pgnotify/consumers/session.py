"""Session: one client's requests, subscriptions and outbox, whatever it is connected by."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from contextvars import copy_context
from typing import cast

from ..conf import settings
from ..ending import end
from ..ledger.positions import Look, Position, ResetReason
from ..ledger.ticks import Tick
from . import snapshots
from .asking import Consumer, authorized
from .batches import Batch
from .browser import (
    ErrorCode,
    Subscribe,
    Unsubscribe,
    error,
    reset,
    snapshot,
    subscribed,
)
from .hub import Hub
from .outbox import Item, Outbox
from .seeing import Sight
from .snapshots import Taken
from .standing import Standing
from .subscription import Hidden, Subscription

logger = logging.getLogger(__name__)

MAX_REQUESTS = 1000
"""Requests of a client that may wait for the database; an honest one sends one a group."""

_closing: set[asyncio.Task[None]] = set()
"""Else nobody holds a task whose connection has gone."""


class ClientGone(Exception):
    """The connection does not take frames any more; the server is about to say so."""


class Session:
    """Works off requests one after the other, and everything that it does ends with close().

    `send(type, text, id)` sends one frame, without an id unless it asks for `stamps`; `failed()`
    is called when the client can't be served any more.
    """

    def __init__(
        self,
        consumer: Consumer,
        *,
        send: Callable[[str, str, str | None], Awaitable[None]],
        failed: Callable[[], Awaitable[None]],
        stamps: bool,
        filters: bool,
        takes_snapshots: bool,
    ) -> None:
        self.standing = Standing()
        self.subscriptions = self.standing.subscriptions
        self.outbox = Outbox(
            send=self._send,
            stamp=self.standing.stamp if stamps else None,
            overflowed=self.standing.overflowed,
        )
        self._consumer = consumer
        self._send_frame = send
        self._failed = failed
        self._sight = Sight(consumer, self.subscriptions) if filters else None
        self._takes_snapshots = takes_snapshots
        # A list and no deque, a task only while there is work: there are thousands of sessions.
        self._requests: list[Subscribe | Unsubscribe | str] = []
        self._is_open = False
        self._is_working = False
        """True while requests are worked off, and after a failure there."""
        self._context = copy_context()
        self._tasks: dict[str, asyncio.Task[None]] = {}

    @property
    def is_idle(self) -> bool:
        """True if it has no group, and none to come."""
        return not self.subscriptions and not self.standing.expected

    def expect(self, groups: Iterable[str]) -> None:
        """These groups are about to be requested: no stamp leaves them out."""
        self.standing.expected.update(groups)

    def start(self) -> None:
        """Begin to work and to send."""
        self._is_open = True
        self._tasks["outbox"] = self.outbox.start(self._guard)
        self._go_on()

    def request(self, request: Subscribe | Unsubscribe) -> None:
        """Take a request; it is answered when those before it are."""
        if len(self._requests) >= MAX_REQUESTS:
            self._refuse(request.group, "too_many", "Too many requests at once.")
            return
        self._requests.append(request)
        self._go_on()

    async def close(self) -> None:
        """Leave everything. Idempotent; goes on to its end even if the caller is cancelled, as
        servers do again and again with a connection that takes long to end."""
        closing = asyncio.create_task(self._close(), name="pgnotify session's end")
        _closing.add(closing)
        closing.add_done_callback(_closing.discard)
        await asyncio.shield(closing)

    async def _close(self) -> None:
        self._is_open = False
        tasks, self._tasks = list(self._tasks.values()), {}
        await end(tasks)
        self.outbox.close()
        hub, self.standing.hub = self.standing.hub, None
        if hub is None:
            return
        try:
            for subscription in list(self.subscriptions.values()):
                await hub.detach(subscription)
        finally:
            self.subscriptions.clear()
            await hub.leave()

    # Requests -----------------------------------------------------------------------------

    async def _guard(self, work: Awaitable[None]) -> None:
        """A mistake in here, or in the consumer, ends this client's connection and no other."""
        try:
            await work
        except ClientGone:
            pass
        except snapshots.Failed as failed:
            logger.error("%s: its client is disconnected", failed, exc_info=failed.__cause__)
            await self._failed()
        except Exception:
            logger.exception("a client can't be served any more")
            await self._failed()

    def _go_on(self) -> None:
        if self._is_open and self._requests and not self._is_working:
            self._is_working = True
            # In the connection's context: a revoke comes in that of the hub.
            task = asyncio.create_task(
                self._guard(self._work()), name="pgnotify session", context=self._context
            )
            if not task.done():  # an eager one may have ended already
                self._tasks["requests"] = task

    async def _work(self) -> None:
        while self._requests:
            match self._requests.pop(0):
                case Subscribe() as request:
                    await self._subscribe(request)
                case Unsubscribe(group=group):
                    await self._unsubscribe(group)
                case str(group):
                    await self._authorize_again(group)
        # Not if one has failed: then the connection ends.
        self._is_working = False
        self._tasks.pop("requests", None)

    async def _subscribe(self, request: Subscribe) -> None:
        group, since = request.group, request.since
        known = self.subscriptions.get(group)
        if known is None and len(self.subscriptions) >= settings.MAX_GROUPS_PER_SOCKET:
            limit = settings.MAX_GROUPS_PER_SOCKET
            self._refuse(group, "too_many", f"Subscribe to {limit} groups at most.")
        elif not (request.is_authorized or await authorized(self._consumer, group)):
            await self._forbid(group)
        elif known is not None and since is None:
            position = self.standing.position_of(known)
            if position is not None:
                self.outbox.put(subscribed(group, position))
        else:
            await self._leave(group)
            await self._enter(group, since)

    async def _enter(self, group: str, since: str | None) -> None:
        hub = self.standing.hub = self.standing.hub or Hub.enter(self._consumer.using)
        subscription = Subscription(group, self.outbox, self._check_again)
        self.subscriptions[group] = subscription
        self.standing.expected.discard(group)
        position = None if since is None else Position.parse(since)
        numbers = () if position is None else (position.tick,)
        look = await hub.attach(subscription, numbers)
        # Again: a revoke may have come before we could hear of it.
        if not await authorized(self._consumer, group):
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
        self.outbox.put(subscribed(subscription.group, position, recovered))
        if reason is not None:
            self.outbox.put(reset(subscription.group, position, reason))

    async def _forbid(self, group: str) -> None:
        await self._leave(group)
        self._refuse(group, "forbidden", "You may not subscribe to this group.")

    def _refuse(self, group: str, code: ErrorCode, message: str) -> None:
        self.standing.expected.discard(group)
        self.outbox.put(error(code, message, group))

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
            await self.outbox.wait_for_room()
            subscription.awaits_snapshot = answer.more or answer.position is None
            self.outbox.put(answer)
        subscription.hidden = taken.hidden
        subscription.stands = taken.position

    async def _unsubscribe(self, group: str) -> None:
        if group in self.subscriptions:
            await self._leave(group)
        else:
            self.outbox.put(error("unknown_group", "You are not subscribed to it.", group))

    async def _leave(self, group: str) -> None:
        subscription = self.subscriptions.pop(group, None)
        if subscription is not None and self.standing.hub is not None:
            await self.standing.hub.detach(subscription)
            self.outbox.forget(group)
            if self._sight is not None:
                self._sight.forget(group)

    def _check_again(self, group: str) -> None:
        if group not in self._requests:
            self._requests.append(group)
            self._go_on()

    async def _authorize_again(self, group: str) -> None:
        subscription = self.subscriptions.get(group)
        if subscription is None:
            return
        if not await authorized(self._consumer, group):
            await self._expel(subscription)
        elif group not in self._requests:
            # Else another revoke has come: the answer is older than what follows it.
            subscription.release("authorizing")

    async def _expel(self, subscription: Subscription) -> None:
        group, position = subscription.group, self.standing.position_of(subscription)
        position = position or subscription.stands
        if position is None:
            await self._forbid(group)
        else:
            await self._leave(group)
            self.outbox.put(reset(group, position, "revoked"))

    # What is sent -------------------------------------------------------------------------

    async def _send(self, item: Item, stamp: str | None) -> None:
        if self._sight is None or not isinstance(item, Batch) or not item.events:
            await self._send_frame(item.type, item.text, stamp)
            return
        async for seen in self._sight.of(item):
            is_whole = item.more or not seen.more
            await self._send_frame(seen.type, seen.text, stamp if is_whole else None)
