"""Hub: the one object per process, event loop and database that receives group frames and
serves the local clients.

The channel layer may drop messages and the ledger may be away for a while: the chain of ticks in
the frames tells what is missing, the ledger has it, and the hub never dies of either. Who makes
and ends it stands in ``hubs.py``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ..conf import settings
from ..ending import end
from ..groups import HUB_GROUP
from ..ledger.positions import Look, Position
from ..ledger.ticks import Tick
from .access import Access
from .catching_up import CatchingUp
from .group import Group
from .membership import Membership
from .subscription import Subscription
from .wire import Control, Frame, GroupFrame, Heartbeat, LiveFrame, parse

logger = logging.getLogger(__name__)

REFRESHES_PER_RETENTION = 4
"""A quiet client hears its position so often, hence always has one to resume from."""
MIN_REFRESH_SECONDS = 1.0
"""A retention of less than four seconds is a test's."""
MAX_REFRESH_SECONDS = 3600.0
"""Channel layers forget members of groups after a day; each refresh joins anew."""
SNAPSHOT_THREADS = 4
"""Snapshots taken at once in a process, each on a database connection of its own."""


class Hub:
    """Groups, their subscriptions, and the tasks that feed them. `uses_layer` is called whenever
    a group of the channel layer has been joined."""

    def __init__(self, alias: str, *, uses_layer: Callable[[Hub], None]) -> None:
        self.alias = alias
        self.clients = 0
        self.era = object()
        """Another one after each revoke, and after what may have hidden one: the first look into
        the ledger, and an epoch that begins."""
        self.groups: dict[str, Group] = {}
        self.snapshot_threads = ThreadPoolExecutor(SNAPSHOT_THREADS, "pgnotify-snapshot")
        self._uses_layer = uses_layer
        self._epoch: str | None = None
        self._beat: Position | None = None
        """That of the latest heartbeat."""
        self._access = Access(alias, self._seen)
        self._catching_up = CatchingUp(
            self._access, revoked=self._revoke, caught_up=self._caught_up
        )
        self._membership = Membership(alias, received=self._received, joined=self._joined)
        self._tasks = [
            self._start(self._membership.run()),
            self._start(self._catching_up.run()),
            self._start(self._keep_refreshing()),
        ]

    @property
    def epoch(self) -> str | None:
        """That of the latest look."""
        return self._epoch

    async def end(self) -> None:
        """End all tasks and connections. Idempotent: whoever ends it may be cancelled."""
        await end(self._tasks)
        self.snapshot_threads.shutdown(wait=False)
        await self._membership.close()
        await self._access.close()

    async def attach(self, subscription: Subscription, numbers: Iterable[int] = ()) -> Look:
        """Put a held subscription into its group, and look into the ledger once nothing in the
        group can be missed any more. Waits for channel layer and database."""
        group = self.groups.setdefault(subscription.group, Group(subscription.group))
        group.subscriptions.add(subscription)
        await self._membership.join(HUB_GROUP)
        await self._membership.join(group.name)
        self._uses_layer(self)
        look = await self.look(subscription, numbers)
        if group.position is None:
            group.begin(look.position)
            self._caught_up(group)
        return look

    async def look(self, subscription: Subscription, numbers: Iterable[int] = ()) -> Look:
        """Where the ledger stands. A client that has no beginning yet begins there."""
        look = await self._access.look(list(numbers))
        if subscription.floor is None:
            subscription.floor = look.latest
        return look

    def resume(self, subscription: Subscription, since: Position, tick: Tick) -> None:
        """Bring an attached subscription from a position, and its tick, to where its group is."""
        self._catching_up.resume(subscription, since, tick)

    async def detach(self, subscription: Subscription) -> None:
        """Take a subscription out; the last one's group is left."""
        subscription.active = False
        group = self.groups.get(subscription.group)
        if group is None or subscription not in group.subscriptions:
            return
        group.subscriptions.discard(subscription)
        if not group.subscriptions:
            del self.groups[group.name]
            await self._membership.leave(group.name)

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return asyncio.create_task(coroutine, name=f"pgnotify hub of {self.alias}")

    # What comes from the channel layer ----------------------------------------------------

    def _received(self, message: dict[str, Any]) -> None:
        try:
            frame = parse(message)
        except (ValueError, TypeError, KeyError) as error:
            logger.warning(
                "hub ignores a malformed message: %s", error, extra={"action": "hub_malformed"}
            )
        else:
            self._take(frame)

    def _take(self, frame: Frame) -> None:
        match frame:
            case LiveFrame():
                if (group := self._ready(frame.group)) is not None:
                    group.take_live(frame)
            case GroupFrame():
                if (group := self.groups.get(frame.group)) is not None:
                    self._take_for(group, frame)
            case Heartbeat():
                if self._goes_back(frame):
                    self._refill_all()
                self._check_control(frame)
                for group in list(self.groups.values()):
                    self._take_for(group, frame)
            case Control():
                self._check_control(frame)

    def _take_for(self, group: Group, frame: GroupFrame | Heartbeat) -> None:
        if group.position is None or group.catching_up:
            group.held.append(frame)
        elif (
            frame.position.epoch != self._epoch
            or group.is_denied_by(frame.position)
            or not self._knows_control(frame)
        ):
            self._refill_all()
        elif isinstance(frame, Heartbeat):
            if not group.take_heartbeat(frame):
                self._catching_up.refill(group)
        elif not group.take(frame):
            self._catching_up.refill(group)

    def _goes_back(self, beat: Heartbeat) -> bool:
        """True if ticks that were told may be gone: their rows were put back, or a disk had lied.
        Or another relay goes on from before them, and the ledger says that nothing is missing."""
        before, self._beat = self._beat, beat.position
        return before is not None and before != self._beat and before.tick >= self._beat.tick

    def _ready(self, name: str) -> Group | None:
        group = self.groups.get(name)
        return group if group is not None and group.position is not None else None

    def _check_control(self, frame: Heartbeat | Control) -> None:
        """A truncate or revoke that we have not dealt with: the ledger tells it, in its order."""
        control = self._catching_up.control
        if control is None:
            return
        told = frame.control if isinstance(frame, Heartbeat) else frame.position.tick
        if frame.position.epoch != self._epoch or (told or 0) > control.tick:
            self._refill_all()
        elif isinstance(frame, Heartbeat) and told is not None:
            self._catching_up.skip_control(frame.position)

    def _knows_control(self, frame: GroupFrame | Heartbeat) -> bool:
        control = self._catching_up.control
        return control is None or (frame.control or 0) <= control.tick

    def _refill_all(self) -> None:
        self._catching_up.read_control()
        for group in self.groups.values():
            if group.position is not None:
                self._catching_up.refill(group)

    # What comes from the ledger -----------------------------------------------------------

    def _seen(self, look: Look) -> None:
        """Each look, in order: another epoch starts everything anew."""
        if look.epoch == self._epoch:
            return
        is_first = self._epoch is None
        self._epoch = look.epoch
        self.era = object()
        self._catching_up.restart(look)
        if not is_first:
            logger.warning("hub sees another epoch", extra={"action": "hub_epoch"})
            for group in self.groups.values():
                if group.position is not None:
                    group.restart(look, "epoch")

    def _caught_up(self, group: Group) -> None:
        """Take what was held, by the same rules."""
        held = list(group.held)
        group.held.clear()
        for frame in held:
            # The look that brought us here told the epoch: a frame of another one is a late one.
            if frame.position.epoch == self._epoch:
                self._take_for(group, frame)

    def _revoke(self, names: Iterable[str] | None) -> None:
        """Have every subscriber of these groups (None: all) authorized anew."""
        self.era = object()
        for name in list(self.groups) if names is None else names:
            if name in self.groups:
                for subscription in list(self.groups[name].subscriptions):
                    subscription.revoke(self.groups[name].position)

    # What comes with time -----------------------------------------------------------------

    def _joined(self) -> None:
        """The channel layer has all our groups again: what was sent meanwhile is missing."""
        self._refill_all()

    async def _keep_refreshing(self) -> None:
        while True:
            seconds = settings.RETENTION.total_seconds() / REFRESHES_PER_RETENTION
            await asyncio.sleep(min(max(seconds, MIN_REFRESH_SECONDS), MAX_REFRESH_SECONDS))
            for group in list(self.groups.values()):
                group.refresh()
            try:
                await self._membership.renew()
            except Exception as error:
                # Receiving meets the same trouble, and deals with it.
                logger.info("hub can't renew its memberships: %s", error)
