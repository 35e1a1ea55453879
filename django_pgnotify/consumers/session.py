"""Session: one client's requests, groups and outbox, whatever it is connected by."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from contextvars import copy_context

from ..conf import settings
from ..ending import end, heed_cancellation, start_last
from . import hubs, snapshots
from .asking import Consumer
from .batches import Batch
from .browser import Subscribe, Unsubscribe
from .joining import Joining
from .outbox import Item, Outbox
from .seeing import Sight
from .standing import Standing

logger = logging.getLogger(__name__)

MIN_MAX_REQUESTS = 1000
"""Requests of a client that may wait for the database, where it may have few groups."""
REQUESTS_PER_GROUP = 2
"""What an honest client sends at once, at most: it leaves each of its groups and comes back."""


class ClientGone(OSError):
    """The server does not take frames for this client any more; the cause is what it said."""


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
        self.outbox = Outbox(
            send=self._send,
            stamp=self.standing.stamp if stamps else None,
            overflowed=self.standing.overflowed,
        )
        self._send_frame = send
        self._failed = failed
        self._sight = Sight(consumer, self.standing.subscriptions) if filters else None
        self._joining = Joining(
            consumer,
            self.standing,
            self.outbox,
            takes_snapshots=takes_snapshots,
            left=None if self._sight is None else self._sight.forget,
            revoked=self._check_again,
            again=self._serve_next,
        )
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
        return not self.standing.subscriptions and not self.standing.expected

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
        most = max(MIN_MAX_REQUESTS, REQUESTS_PER_GROUP * settings.MAX_GROUPS_PER_SOCKET)
        if len(self._requests) >= most:
            self._joining.refuse(request.group, "too_many", "Too many requests at once.")
            return
        self._requests.append(request)
        self._go_on()

    async def close(self) -> None:
        """Leave everything. Idempotent; goes on to its end even if the caller is cancelled, as
        servers do again and again with a connection that takes long to end."""
        await asyncio.shield(start_last(self._close(), name="pgnotify session's end"))

    async def _close(self) -> None:
        self._is_open = False
        tasks, self._tasks = list(self._tasks.values()), {}
        await end(tasks)
        self.outbox.close()
        hub, self.standing.hub = self.standing.hub, None
        if hub is None:
            return
        try:
            for subscription in list(self.standing.subscriptions.values()):
                await hub.detach(subscription)
        finally:
            self.standing.subscriptions.clear()
            await hubs.leave(hub)

    # Requests -----------------------------------------------------------------------------

    async def _guard(self, work: Awaitable[None]) -> None:
        """A mistake in here, or in the consumer, ends this client's connection and no other."""
        try:
            await work
        except ClientGone:
            # Or it is not: a time limit that a project puts around the server leaves it there.
            await self._give_up()
        except snapshots.Failed as failed:
            logger.error("%s: its client is disconnected", failed, exc_info=failed.__cause__)
            await self._give_up()
        except (Exception, asyncio.CancelledError):
            heed_cancellation()
            logger.exception("a client can't be served any more")
            await self._give_up()

    async def _give_up(self) -> None:
        try:
            await self._failed()
        except Exception:  # who is gone need not be told
            logger.debug("a client could not be disconnected", exc_info=True)

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
                    await self._joining.subscribe(request)
                case Unsubscribe(group=group):
                    await self._joining.unsubscribe(group)
                case str(group):
                    await self._authorize_again(group)
        # Not if one has failed: then the connection ends.
        self._is_working = False
        self._tasks.pop("requests", None)

    def _serve_next(self, request: Subscribe) -> None:
        """Before those that came after it was begun."""
        self._requests.insert(0, request)
        self._go_on()

    def _check_again(self, group: str) -> None:
        if group not in self._requests:
            self._requests.append(group)
            self._go_on()

    async def _authorize_again(self, group: str) -> None:
        subscription = await self._joining.authorize_again(group)
        # Not if another revoke has come: the answer is older than what follows it.
        if subscription is not None and group not in self._requests:
            subscription.release("authorizing")

    # What is sent -------------------------------------------------------------------------

    async def _send(self, item: Item, stamp: str | None) -> None:
        if self._sight is None or not isinstance(item, Batch) or item.is_position:
            await self._send_frame(item.type, item.text, stamp)
            return
        async for seen in self._sight.of(item):
            is_whole = item.more or not seen.more
            await self._send_frame(seen.type, seen.text, stamp if is_whole else None)
