"""Seeing: what one client may see of a batch, where its consumer overrides visible()."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable

from ..events import Event, dumps
from .batches import Batch, EncodedEvent, Packer
from .browser import reset
from .outbox import Item

logger = logging.getLogger(__name__)

Visible = Callable[[list[Event]], Awaitable[list[Event]]]


async def see(visible: Visible, batch: Batch, *, using: str) -> AsyncIterator[Item]:
    """Frames with what `visible` leaves of the batch, as many as it takes.

    One of them may be empty. If `visible` fails, the client gets a reset: an event that it
    should have seen may be missing.
    """
    try:
        encoded = await _ask(visible, batch, using)
    except Exception:
        logger.exception("visible() failed: its client gets a reset of %r", batch.group)
        yield reset(batch.group, batch.position, "gap")
        return
    packer = Packer(batch.group, tick=batch.tick, before=batch.before, after=batch.position)
    for part in packer.pack(encoded, more=batch.more):
        yield part


async def _ask(visible: Visible, batch: Batch, using: str) -> tuple[EncodedEvent, ...]:
    sources = {event.id: event for event in batch.events}
    durable = batch.tick is not None
    events = [
        Event.from_json(event.decoded(), using=using, durable=durable) for event in batch.events
    ]
    return tuple(_encode(event, sources.get(event.id)) for event in await visible(events))


def _encode(event: Event, source: EncodedEvent | None) -> EncodedEvent:
    obj = event.to_json()
    # Untouched, so its exact text still holds what Python can't.
    if source is not None and source.approximation is not None and obj == source.decoded():
        return source
    return EncodedEvent(id=event.id, text=dumps(obj))
