"""Sender: frames into the channel layer, groups side by side, in order within a group."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

from channels.exceptions import InvalidChannelLayerError
from channels.layers import BaseChannelLayer, get_channel_layer

from ..backoff import Backoff
from ..conf import settings
from ..ending import heed_cancellation
from ..exceptions import ListenerRefused, PgnotifyError
from ..groups import HUB_GROUP, wire_name
from ..ledger.ticks import Tick
from ..metrics import Metrics
from .frames import Outgoing
from .progress import Progress
from .queues import FrameQueue

logger = logging.getLogger("django_pgnotify")

LANES = 16
"""Groups that are sent to at once: enough to hide a round trip, few enough for Redis."""
SEND_TIMEOUT_SECONDS = 10.0
"""A channel layer that takes longer counts as down: a peer that vanished raises nothing."""
REFUSALS = (TypeError, ValueError, OverflowError, RecursionError, AssertionError)
"""What encoders raise for a message that they will never take."""


def configured_layer() -> BaseChannelLayer:
    """The channel layer of the settings, or ListenerRefused with the cure."""
    alias = settings.CHANNEL_LAYER
    try:
        layer = get_channel_layer(alias)
    except (InvalidChannelLayerError, ImportError, TypeError) as error:
        raise ListenerRefused(f"CHANNEL_LAYERS[{alias!r}] does not work: {error}") from error
    if layer is None:
        raise ListenerRefused(
            f"CHANNEL_LAYERS has no {alias!r}: frames have nowhere to go. Set it to"
            " django_pgnotify.layers.PostgresChannelLayer or channels_redis."
        )
    return layer


class LayerDown(PgnotifyError):
    """The channel layer takes no frames: what is left waits in the ledger. Run it again when the
    layer is up."""


class Layer:
    """The channel layer, with one log line when it fails and one when it is back.

    `patience` is the seconds that a frame may fail, by default for ever.
    """

    def __init__(self, alias: str, metrics: Metrics, *, patience: float = math.inf) -> None:
        self._layer = configured_layer()
        # Ours takes what is encoded already; another one wants an object, and encodes it.
        self._send_encoded = getattr(self._layer, "group_send_encoded", None)
        self._alias = alias
        self._metrics = metrics
        self._patience = patience
        self._down = False

    async def send(self, frame: Outgoing) -> None:
        """Hand over one message; raises whatever the layer raises."""
        group = wire_name(frame.group, self._alias)
        try:
            async with asyncio.timeout(SEND_TIMEOUT_SECONDS):
                if self._send_encoded is not None and (text := frame.text) is not None:
                    await self._send_encoded(group, text)
                else:
                    await self._layer.group_send(group, frame.message)
        finally:
            heed_cancellation()  # which redis-py takes for a success or a failure, connecting
        self._metrics.frames += 1
        if self._down:
            self._down = False
            logger.warning(
                "The channel layer takes frames again.", extra={"action": "layer-up"}
            )

    async def send_surely(self, frame: Outgoing) -> None:
        """Hand over one message, however long the layer is down: the ledger is the buffer.
        LayerDown when the patience is at an end."""
        backoff, begin = Backoff(), time.monotonic()
        while True:
            try:
                return await self._send_reduced(frame)
            except Exception as error:
                self.note_down(error)
                if time.monotonic() - begin > self._patience:
                    raise LayerDown(f"{LayerDown.__doc__} ({error})") from error
                await asyncio.sleep(backoff.next_delay())

    def note_down(self, error: Exception) -> None:
        """Log that the layer has failed, if it is news."""
        if not self._down:
            self._down = True
            logger.error(
                "The channel layer does not take frames (%s: %s): events wait in the ledger.",
                type(error).__name__,
                error,
                extra={"action": "layer-down"},
            )

    async def _send_reduced(self, frame: Outgoing) -> None:
        """Send; what the layer's encoder refuses, without data, and at the worst not at all: one
        odd event must not stop all others. A hub finds the gap and reads the ledger."""
        try:
            await self.send(frame)
        except REFUSALS:
            logger.exception(
                "The channel layer refuses a frame of %r: sent without data.", frame.group
            )
            try:
                await self.send(Outgoing(frame.group, without_data(frame.message), frame.size))
            except REFUSALS:
                logger.exception("A frame of group %r is left out.", frame.group)


@dataclass(slots=True, eq=False)
class _Sending:
    """A tick whose frames are under way."""

    unsent: int = 0
    tick: Tick | None = None
    """Known when all of its frames have been read."""


class Sender:
    """Takes frames from the queue and hands them over; a group always goes the same lane.

    Frames of the next tick go while another lane is still busy with this one's; a tick counts
    as sent when all its frames and all ticks before it are.
    """

    def __init__(
        self, layer: Layer, queue: FrameQueue, progress: Progress, metrics: Metrics
    ) -> None:
        self._layer = layer
        self._queue = queue
        self._progress = progress
        self._metrics = metrics
        self._lanes = [asyncio.Queue[tuple[Outgoing, _Sending]](1) for _ in range(LANES)]
        self._ticks = deque([_Sending()])

    async def run(self) -> None:
        """Send until cancelled."""
        async with asyncio.TaskGroup() as lanes:
            for number, lane in enumerate(self._lanes):
                lanes.create_task(self._send_lane(lane), name=f"lane {number}")
            while True:
                item = await self._queue.get()
                self._metrics.queue_depth = len(self._queue)
                sending = self._ticks[-1]
                if isinstance(item, Outgoing):
                    sending.unsent += 1
                    await self._lanes[hash(item.group) % LANES].put((item, sending))
                else:
                    sending.tick = item
                    self._ticks.append(_Sending())
                    self._note_sent()

    async def send_to_hubs(self, message: dict[str, Any]) -> None:
        """Hand a heartbeat over, now or never: the next one says the same. So a layer that is down
        is noticed even if nothing happens."""
        try:
            await self._layer.send(Outgoing(HUB_GROUP, message, 0))
        except Exception as error:
            self._layer.note_down(error)

    async def _send_lane(self, lane: asyncio.Queue[tuple[Outgoing, _Sending]]) -> None:
        while True:
            frame, sending = await lane.get()
            await self._layer.send_surely(frame)
            if frame.group == HUB_GROUP:
                self._progress.control_sent(frame.head["tick"])
            else:
                self._progress.frame_sent(frame.group, frame.head["tick"])
            sending.unsent -= 1
            self._note_sent()

    def _note_sent(self) -> None:
        """Tell the progress of the ticks at the front that are done."""
        while (tick := self._ticks[0].tick) is not None and not self._ticks[0].unsent:
            self._ticks.popleft()
            self._metrics.ticks += 1
            self._metrics.in_progress.popleft()
            self._progress.tick_sent(tick)


def without_data(message: dict[str, Any]) -> dict[str, Any]:
    """The same frame with its events truncated."""
    return {**message, "events": [_truncated(event) for event in message.get("events", ())]}


def _truncated(event: dict[str, Any]) -> dict[str, Any]:
    kept = {key: event[key] for key in event if key not in ("data", "exact", "context")}
    return {**kept, "pk": None, "truncated": True}
