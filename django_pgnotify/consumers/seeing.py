"""Seeing: what one client may see of a batch, where its consumer overrides visible()."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Mapping
from typing import Any

from ..events import Event, Json, dumps
from ..ledger.positions import Position
from ..values import row_json, to_json_value
from .asking import Consumer, visible
from .batches import Batch, EncodedEvent, Packer
from .browser import reset
from .outbox import Item
from .subscription import Subscription

logger = logging.getLogger(__name__)


class Sight:
    """One client's, by its consumer's visible()."""

    def __init__(self, consumer: Consumer, subscriptions: Mapping[str, Subscription]) -> None:
        self._consumer = consumer
        self._subscriptions = subscriptions
        self._begun: set[str] = set()
        """Groups of which the client has a batch without its end."""
        self._lost: dict[str, Position] = {}
        """Groups with a batch of which a part is lost, and where that batch begins."""

    def forget(self, group: str) -> None:
        """The client has left the group."""
        self._begun.discard(group)
        self._lost.pop(group, None)

    async def of(self, batch: Batch) -> AsyncIterator[Item]:
        """Frames with what the consumer leaves of the batch, as many as it takes.

        If visible() fails, the client gets a reset: an event that it should have seen may be
        missing. For events of the ledger its position must be a new one, which is not known to
        the client before the end of their batch.
        """
        encoded = None if self._is_lost(batch) else await self._try(batch)
        if encoded is None:
            if batch.is_live or not batch.more:
                yield reset(batch.group, batch.position, "gap")
            return
        packer = Packer(batch.group, tick=batch.tick, before=batch.before, after=batch.position)
        for part in packer.pack(encoded, more=batch.more):
            if self._says_something(part):
                yield part

    def _is_lost(self, batch: Batch) -> bool:
        """True for the rest of a batch of which a part is lost."""
        if batch.is_live or batch.group not in self._lost:
            return False
        # An overflow may have taken the end: what begins elsewhere is another batch.
        is_rest = self._lost[batch.group] == batch.before
        if not (is_rest and batch.more):
            self.forget(batch.group)
        return is_rest

    async def _try(self, batch: Batch) -> tuple[EncodedEvent, ...] | None:
        """What the consumer leaves of the batch; None if that is not to be had."""
        try:
            return await self._ask(batch)
        except Exception:
            logger.exception("visible() failed: its client gets a reset of %r", batch.group)
        if batch.is_live:
            return None
        self.forget(batch.group)
        if batch.more:
            self._lost[batch.group] = batch.before
        return None

    async def _ask(self, batch: Batch) -> tuple[EncodedEvent, ...]:
        if not batch.events:
            return ()
        sources = {event.id: event for event in batch.events}
        durable, using = batch.tick is not None, self._consumer.using

        def events() -> list[Event]:
            return [
                Event.from_json(event.decoded(), using=using, durable=durable)
                for event in batch.events
            ]

        seen = await visible(self._consumer, events)
        return tuple(_encode(event, sources.get(event.id)) for event in seen)

    def _says_something(self, seen: Batch) -> bool:
        """False for a batch of which nothing is left: its frame would tell that something has
        happened. The end of what was sent with ``more`` is told all the same."""
        begun = seen.group in self._begun
        if not seen.more:
            self._begun.discard(seen.group)
        elif seen.events:
            self._begun.add(seen.group)
        if seen.events or (begun and not seen.more):
            return True
        if (subscription := self._subscriptions.get(seen.group)) is not None:
            subscription.withheld = True
        return False


def _encode(event: Event, source: EncodedEvent | None) -> EncodedEvent:
    obj = event.to_json()
    sent: dict[str, Json] = {} if source is None else source.decoded()
    if source is not None and _is_same(obj, sent):
        return source  # whose text may hold what Python can't
    for key in ("pk", "context"):
        if key in obj and not _is_same(obj[key], sent.get(key)):
            obj[key] = to_json_value(obj[key], key)
    if "data" in obj:
        obj["data"] = _data_json(event, sent.get("data"))
    return EncodedEvent(id=event.id, text=dumps(obj))


def _data_json(event: Event, sent: Json) -> Json:
    """What visible() has made of the data: what it left alone stays as it was sent."""
    if not isinstance(event.data, dict):
        return sent if _is_same(event.data, sent) else to_json_value(event.data)
    old = sent if isinstance(sent, dict) else {}
    kept = {
        name: old[name]
        for name, value in event.data.items()
        if name in old and _is_same(value, old[name])
    }
    made = {name: value for name, value in event.data.items() if name not in kept}
    return kept | row_json(event.get_model(), made)


def _is_same(value: Any, sent: Json) -> bool:
    """As JSON: in Python 1, True and Decimal(1) are equal."""
    try:
        return value == sent and json.dumps(value) == json.dumps(sent)
    except TypeError:
        return False
