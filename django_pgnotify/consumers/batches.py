"""Batches: events encoded once a process, packed into browser frames that every socket shares."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

from ..conf import settings
from ..events import Json, dumps
from ..ledger.positions import Position

ENVELOPE = '{"type":"events","group":"","position":"","events":[],"more":true}'
"""What a frame holds beside group, position and events."""


JOINED_BATCHES = 8
"""Joined batches that are kept for the next socket, 4 MiB of text at most. Sockets that read
nothing in common have nothing in common to send either."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedEvent:
    """An event as JSON text."""

    id: str
    text: str
    """ASCII JSON of the browser's event object."""
    approximation: Mapping[str, Json] | None = None
    """The nearest that Python's JSON can hold, where the text holds more."""

    @property
    def ledger_row(self) -> str:
        """Id of the ledger row that it came in."""
        return self.id.partition("-")[0]

    def decoded(self) -> dict[str, Json]:
        """A new object of it, the approximation where there is one."""
        obj: dict[str, Json] = json.loads(
            self.text if self.approximation is None else dumps(self.approximation)
        )
        return obj


def encode_event(obj: Mapping[str, Json]) -> EncodedEvent:
    """Encode an event object of a frame or a ``Change``; ``exact`` in it is its text verbatim."""
    exact = obj.get("exact")
    if not isinstance(exact, str):
        return EncodedEvent(id=obj["id"], text=dumps(obj))
    rest = {key: value for key, value in obj.items() if key != "exact"}
    return EncodedEvent(id=obj["id"], text=exact, approximation=rest)


# Compared by identity: the very object is shared by all sockets.
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Batch:
    """One ``events`` frame for the browsers of a group."""

    type = "events"
    group: str
    tick: int | None
    """The tick that it belongs to; None for live events, which no tick has."""
    before: Position
    """Where a client stood before it."""
    position: Position
    """Where a client stands after it; where it stood before if `more` follows."""
    more: bool
    events: tuple[EncodedEvent, ...]
    text: str
    """The ready frame."""

    @property
    def is_live(self) -> bool:
        """True for live events, which no replay repeats."""
        return self.tick is None

    @property
    def is_position(self) -> bool:
        """True if only the position is news, and no batch ends by it."""
        return self.is_live and not self.events

    @property
    def keep(self) -> bool:
        """Events give way when a socket's queue overflows."""
        return False


def make_batch(
    group: str,
    events: tuple[EncodedEvent, ...],
    *,
    tick: int | None,
    position: Position,
    before: Position | None = None,
    more: bool = False,
) -> Batch:
    """Build a batch and its text; without `before`, it moves nobody."""
    body = ",".join(event.text for event in events)
    text = (
        f'{{"type":"events","group":"{group}","position":"{position.token}","events":[{body}]'
        f"{',' + chr(34) + 'more' + chr(34) + ':true' if more else ''}}}"
    )
    return Batch(
        group=group,
        tick=tick,
        before=before or position,
        position=position,
        more=more,
        events=events,
        text=text,
    )


def with_events(
    batch: Batch, events: tuple[EncodedEvent, ...], *, before: Position, after: Position
) -> Batch:
    """The batch with these events and between these places."""
    if len(events) == len(batch.events) and (before, after) == (batch.before, batch.position):
        return batch
    return make_batch(
        batch.group, events, tick=batch.tick, before=before, position=after, more=batch.more
    )


def joinable(batches: Iterable[Batch | None], room: int) -> int:
    """How many of the first batches make one frame of so many bytes; None is no batch."""
    first: Batch | None = None
    count = 0
    for batch in batches:
        if batch is None or batch.more or not batch.events:
            break
        first = first or batch
        room -= len(batch.text)
        if batch.group != first.group or batch.is_live != first.is_live or room < 0:
            break
        count += 1
    return count


@lru_cache(maxsize=JOINED_BATCHES)
def join(*batches: Batch) -> Batch:
    """One batch of several: the same object for all sockets that have the same ones to come."""
    first, last = batches[0], batches[-1]
    events = tuple(event for batch in batches for event in batch.events)
    return make_batch(
        last.group, events, tick=last.tick, before=first.before, position=last.position
    )


class Packer:
    """Cuts the events on the way from `before` to `after` into frames of bounded size.

    All but the last say ``more`` and repeat `before`, so that no position ever points into the
    middle of a tick.
    """

    def __init__(
        self, group: str, *, tick: int | None, before: Position, after: Position
    ) -> None:
        self._group = group
        self._tick = tick
        self._before = before
        self._after = after
        self._room = settings.MAX_FRAME_BYTES - len(ENVELOPE) - len(group)
        self._room -= max(len(before.token), len(after.token))
        self._events: list[EncodedEvent] = []
        self._size = 0

    def add(self, event: EncodedEvent) -> Batch | None:
        """Take an event; give the frame that is full without it."""
        event = fitting(event, self._room)
        full = None
        if self._events and self._size + len(event.text) > self._room:
            full = self.finish(more=True)
        self._events.append(event)
        self._size += len(event.text) + 1  # a comma
        return full

    def finish(self, *, more: bool = False) -> Batch:
        """Give the frame with what is left; with `more` it is not the last."""
        events, self._events, self._size = tuple(self._events), [], 0
        position = self._before if more else self._after
        return make_batch(
            self._group,
            events,
            tick=self._tick,
            before=self._before,
            position=position,
            more=more,
        )

    def pack(self, events: tuple[EncodedEvent, ...], *, more: bool = False) -> Iterator[Batch]:
        """All frames of these events."""
        for event in events:
            if full := self.add(event):
                yield full
        yield self.finish(more=more)


SHRINKING: tuple[Callable[[dict[str, Json]], None], ...] = (
    lambda obj: obj.pop("data", None),
    lambda obj: obj.pop("context", None),
    lambda obj: obj.update(changed=[], pk=None),
)


def fitting(event: EncodedEvent, room: int) -> EncodedEvent:
    """The event itself, or ``truncated`` without its data, and what else must go, to fit."""
    if len(event.text) <= room:
        return event
    obj = {**event.decoded(), "truncated": True}
    for shrink in SHRINKING:
        shrink(obj)
        event = EncodedEvent(id=event.id, text=dumps(obj))
        if len(event.text) <= room:
            break
    return event
