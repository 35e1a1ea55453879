"""Membership: a hub's one channel in the channel layer, and the groups that it belongs to.

Redis may be down, restarted or flushed: then every group is joined anew, and the hub is told
that it may have missed something.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from channels.layers import get_channel_layer

from ..backoff import Backoff
from ..conf import settings
from ..ending import end, heed_cancellation
from ..exceptions import PgnotifyError
from ..groups import HUB_GROUP, wire_name

logger = logging.getLogger(__name__)

HEARTBEAT = "pgnotify.heartbeat"
"""Type of the message that each hub gets, whatever happens. It proves that we are a member."""
SILENT_HEARTBEATS = 3
"""Heartbeats that may fail to come before the layer is thought to have forgotten us."""
JOIN_SECONDS = 15.0
"""A Redis whose host was replaced says nothing at all. Our own layer says sooner why it can't."""
LEAVE_SECONDS = 2.0
"""A client that goes does not wait longer for a channel layer that is frozen."""


class ChannelLayerMissing(PgnotifyError):
    """CHANNEL_LAYERS has no layer of the name in PGNOTIFY["CHANNEL_LAYER"]. Configure one."""


class Membership:
    """Receives until cancelled. `received` takes each message; `joined` is called after an
    outage, when all groups have been joined anew."""

    def __init__(
        self,
        alias: str,
        *,
        received: Callable[[dict[str, Any]], None],
        joined: Callable[[], None],
    ) -> None:
        self._alias = alias
        self._received = received
        self._joined = joined
        layer = get_channel_layer(settings.CHANNEL_LAYER)
        if layer is None:
            raise ChannelLayerMissing()
        self._layer = layer
        self._channel = ""
        self._wanted: set[str] = {HUB_GROUP}
        self._members: set[str] = set()
        self._lock = asyncio.Lock()
        self._was_told = False
        """True from the first failure until a heartbeat is heard."""
        self._heard_now()

    async def join(self, group: str) -> None:
        """Return when messages to the group reach us. Waits for the channel layer."""
        self._wanted.add(group)
        backoff = Backoff()
        while group in self._wanted and group not in self._members:
            try:
                await self._add(group)
            except Exception as error:
                self._say_lost(error)
                await asyncio.sleep(backoff.next_delay())

    async def leave(self, group: str) -> None:
        """Leave the group, unless somebody joined it again meanwhile."""
        self._wanted.discard(group)
        try:
            # The lock too: who holds it may be waiting for a layer that is frozen.
            async with asyncio.timeout(LEAVE_SECONDS), self._lock:
                if group in self._wanted or group not in self._members:
                    return
                self._members.discard(group)
                await self._layer.group_discard(wire_name(group, self._alias), self._channel)
        except Exception as error:
            # It stays a member of a group that it ignores, until the layer forgets it.
            logger.info("hub can't leave a group: %s", error)
            if group not in self._wanted:
                self._members.discard(group)

    async def renew(self) -> None:
        """Join all groups anew. Raises what the channel layer raises."""
        for group in list(self._members):
            async with self._lock:
                if group in self._members:
                    await self._join(group)

    async def run(self) -> None:
        """Receive, until cancelled."""
        await self.join(HUB_GROUP)
        backoff = Backoff()
        was_lost = False
        while True:
            heed_cancellation()
            try:
                if was_lost:
                    receiving = await self._come_back()
                    was_lost = False
                    await receiving
                else:
                    await self._receive_once()
                backoff.reset()
            except TimeoutError:
                was_lost = True
            except Exception as error:
                if _is_silence(error) and not self._is_silent_for_long():
                    logger.debug("hub heard nothing, goes on: %s", error)
                    continue
                was_lost = True
                self._say_lost(error)
                await asyncio.sleep(backoff.next_delay())

    async def close(self) -> None:
        """Leave all groups, as far as that is quick: the layer forgets the others."""
        with suppress(TimeoutError):
            async with asyncio.timeout(LEAVE_SECONDS):
                for group in list(self._members):
                    await self.leave(group)

    async def _come_back(self) -> asyncio.Task[None]:
        """Join all groups anew and give the task that receives meanwhile: channels_redis' pub/sub
        layer knows no channel whose receive() was cancelled, until there is another one."""
        receiving = asyncio.create_task(self._receive_once())
        try:
            await asyncio.sleep(0)  # it begins
            await self.renew()
        except BaseException:
            await end({receiving})
            raise
        self._heard_now()
        self._joined()
        return receiving

    async def _receive_once(self) -> None:
        async with asyncio.timeout(_patience_seconds()):
            message = await self._layer.receive(self._channel)
        if message.get("type") == HEARTBEAT:
            self._heard_now()
        self._received(message)
        # A full channel gives its messages without waiting; others want to run too.
        await asyncio.sleep(0)
        if self._is_silent_for_long():
            # The layer may have forgotten all but the one group that is busy.
            raise TimeoutError("no heartbeat among what is heard")

    def _heard_now(self) -> None:
        self._heard_at = asyncio.get_running_loop().time()
        self._was_told = False

    def _is_silent_for_long(self) -> bool:
        return asyncio.get_running_loop().time() - self._heard_at > _patience_seconds()

    def _say_lost(self, error: Exception) -> None:
        logger.log(
            logging.DEBUG if self._was_told else logging.WARNING,
            "hub lost the channel layer, tries again: %s",
            error,
            extra={"action": "hub_layer_lost"},
        )
        self._was_told = True

    async def _add(self, group: str) -> None:
        async with self._lock:
            if group not in self._members:
                await self._join(group)
                self._members.add(group)

    async def _join(self, group: str) -> None:
        async with asyncio.timeout(JOIN_SECONDS):
            if not self._channel:
                self._channel = await self._layer.new_channel()
            await self._layer.group_add(wire_name(group, self._alias), self._channel)


def _patience_seconds() -> float:
    return float(SILENT_HEARTBEATS * settings.HEARTBEAT_SECONDS)


def _is_silence(error: Exception) -> bool:
    """True for the time-out of a read. redis-py 8 gives up after 5 seconds by itself, which is
    just what channels_redis waits for a message: then nothing has come, and nothing is lost."""
    return type(error).__name__ == "TimeoutError"
