"""Live: events that no ledger keeps, from their signed payloads into frames."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import OrderedDict
from collections.abc import Iterable, Iterator

from ..conf import settings
from ..events import Json
from ..metrics import Metrics
from ..publish.live import unpack_live
from . import frames
from .frames import ENVELOPE_BYTES, REMEMBERED_GROUPS
from .queues import LiveQueue
from .sender import LANES, Layer

logger = logging.getLogger("django_pgnotify")

LiveEvent = tuple[dict[str, Json], list[str]]


class LiveRelay:
    """At most once: what can't be sent now is gone, and leaves a gap in its groups' ``seq``."""

    def __init__(self, layer: Layer, metrics: Metrics) -> None:
        self.leading = False
        """False discards: only the leader sends, else each event would arrive twice."""
        self.queue = LiveQueue(settings.QUEUE_SIZE, self._count_dropped)
        # A new run with each LISTEN, because what was sent before it is missing.
        self._run = secrets.token_hex(8)
        self._seqs: OrderedDict[str, int] = OrderedDict()
        self._forgotten = 0
        """The highest number that a forgotten group had: an unknown one goes on behind it. A hub
        takes a number that it had for a repetition; a gap that is none costs a reset."""
        self._layer = layer
        self._metrics = metrics
        self._lanes = asyncio.Semaphore(LANES)

    async def run(self) -> None:
        """Relay what comes in until cancelled."""
        while True:
            events = list(_unpacked(await self.queue.get_all()))
            if not self.leading:
                continue
            by_group: dict[str, list[dict[str, Json]]] = {}
            for event, groups in events:
                for group in groups:
                    by_group.setdefault(group, []).append(event)
            self._metrics.live += len(events)
            async with asyncio.TaskGroup() as sending:
                for group, of_group in by_group.items():
                    sending.create_task(self._send(group, of_group), name=f"live {group}")

    async def _send(self, group: str, events: list[dict[str, Json]]) -> None:
        async with self._lanes:
            for batch in _batches(events, settings.MAX_FRAME_BYTES - ENVELOPE_BYTES):
                seq = self._next_seq(group)
                try:
                    await self._layer.send(
                        frames.live(group=group, run=self._run, seq=seq, texts=batch)
                    )
                except Exception as error:
                    self._metrics.live_dropped += len(batch)
                    logger.debug("Live events of group %r were lost: %s", group, error)

    def _next_seq(self, group: str) -> int:
        seq = self._seqs.pop(group, self._forgotten) + 1
        self._seqs[group] = seq
        if len(self._seqs) > REMEMBERED_GROUPS:
            _, forgotten = self._seqs.popitem(last=False)
            self._forgotten = max(self._forgotten, forgotten)
        return seq

    def _count_dropped(self, payload: str) -> None:
        for _, groups in _unpacked([payload]):
            if self.leading:
                self._metrics.live_dropped += 1
            for group in groups:
                self._next_seq(group)


def _unpacked(payloads: Iterable[str]) -> Iterator[LiveEvent]:
    """The events that are signed; anybody may send the others. Context is not for browsers."""
    for payload in payloads:
        if (unpacked := unpack_live(payload)) is None:
            logger.debug("A live payload is not signed by this project and is left out.")
            continue
        event, groups = unpacked
        event.pop("context", None)
        yield event, groups


def _batches(events: list[dict[str, Json]], max_bytes: int) -> Iterator[list[str]]:
    """The events as JSON, in lists of bounded size."""
    batch: list[str] = []
    size = 0
    for event in events:
        text = frames.fitting(event, max_bytes)
        if batch and size + len(text) + 1 > max_bytes:
            yield batch
            batch, size = [], 0
        batch.append(text)
        size += len(text) + 1  # a comma
    if batch:
        yield batch
