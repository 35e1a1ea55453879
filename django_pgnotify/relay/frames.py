"""Frames: which messages for which groups a tick makes. Decisions only, no input or output."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ..conf import MIB
from ..jsontext import Json, dumps, loads
from ..ledger.rows import Change
from ..ledger.ticks import Tick

VERSION = 1
ENVELOPE_BYTES = 430
"""The most JSON bytes of a frame without its events: keys 110, group 99, epoch 16, four numbers
of up to 20 digits, part 20, control 30."""
EARLY_BYTES = 4 * MIB
"""Full frames that one tick may hold back to count its parts beforehand. With more of them the
first ones go, and are received and worked on while the next are made."""
HELD_BYTES = 32 * MIB
"""JSON that one tick may hold in all; beyond that frames that are not full go as well. So large,
since each of their groups then needs one more to end its tick: from 50,000 groups in a tick on."""
REMEMBERED_GROUPS = 10_000
"""Groups whose last tick is remembered, about 200 bytes each."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One message for one group."""

    group: str
    """Without the alias prefix of the wire."""
    head: dict[str, Any]
    """The message, but for its events."""
    size: int
    """Bytes of JSON of its events."""
    events: str | None = None
    """The events as ASCII JSON, with commas between; None for what is no group frame. Text, since
    Python's objects take five times the memory and would be encoded once more."""

    @property
    def message(self) -> dict[str, Any]:
        """The whole message, made anew."""
        if self.events is None:
            return self.head
        return {**self.head, "events": loads(f"[{self.events}]")}

    @property
    def text(self) -> str | None:
        """The whole message as ASCII JSON; None if it was not encoded yet."""
        if self.events is None:
            return None
        return f'{dumps(self.head)[:-1]},"events":[{self.events}]}}'


class Chain:
    """The tick of each group's frame before, for ``prev``; forgets the groups unused longest."""

    def __init__(self, floor: int, remembered: int = REMEMBERED_GROUPS) -> None:
        self._floor = floor
        self._remembered = remembered
        self._last: OrderedDict[str, int] = OrderedDict()

    def follow(self, group: str, tick: int) -> int:
        """Give the group's tick before and remember this one."""
        prev = self._last.pop(group, self._floor)
        self._last[group] = tick
        if len(self._last) > self._remembered:
            _, forgotten = self._last.popitem(last=False)
            self._floor = max(self._floor, forgotten)
        return prev


@dataclass(slots=True)
class _Part:
    """What a group has got of this tick."""

    prev: int
    finished: int = 0
    texts: list[str] = field(default_factory=list)
    """Its events as JSON."""
    size: int = 0


class TickFrames:
    """The frames of one tick, while its changes come in.

    `add` and `finish` return what is ready to go. Nothing is, before the end, in a tick of
    usual size, so that ``part`` is exact; a larger one goes as it fills, its parts counted 0 but
    for the last.
    """

    def __init__(
        self,
        *,
        epoch: str,
        tick: Tick,
        chain: Chain,
        max_bytes: int,
        control: int,
        max_early: int = EARLY_BYTES,
        max_held: int = HELD_BYTES,
    ) -> None:
        self.control = control
        """Tick of the latest truncate or revoke; a hub that does not know it reads the ledger,
        so that it sees both in their order."""
        self._epoch = epoch
        self._tick = tick
        self._chain = chain
        self.max_event_bytes = max(max_bytes - ENVELOPE_BYTES, 0)
        """What one event must stay below, with a comma."""
        self._max_early = max_early
        self._max_held = max_held
        self._parts: dict[str, _Part] = {}
        self._held: list[Outgoing] = []
        self._held_bytes = 0
        self._open_bytes = 0
        self._spilled = False

    def add(self, change: Change) -> list[Outgoing]:
        """Take one change into the frames of its groups."""
        if not change.groups:
            return []
        return self.add_text(fitting(change.event, self.max_event_bytes), change.groups)

    def add_text(self, text: str, groups: tuple[str, ...]) -> list[Outgoing]:
        """Take an event that is encoded already, and below `max_event_bytes`."""
        for group in groups:
            self._append(group, text)
        goes = self._held_bytes > self._max_early
        # What goes anyway leaves room: what has just begun need not go with it.
        if self._open_bytes + (0 if goes else self._held_bytes) > self._max_held:
            self._close_open()
        elif not goes:
            return []
        self._spilled = True
        return self._take_held()

    def finish(self) -> Iterator[Outgoing]:
        """End all frames."""
        for group, part in self._parts.items():
            # A group whose events have all gone needs an end all the same, even if empty.
            self._close(group, part)
            if self._spilled:
                # One by one: there may be as many as rows.
                yield from self._take_held()
        for frame in self._take_held():
            frame.head["part"][1] = self._parts[frame.group].finished
            yield frame

    def _append(self, group: str, text: str) -> None:
        part = self._parts.get(group)
        if part is None:
            prev = self._chain.follow(group, self._tick.number)
            part = self._parts[group] = _Part(prev)
        size = len(text) + 1  # a comma
        if part.texts and part.size + size > self.max_event_bytes:
            self._close(group, part, last=False)
        if not part.texts:
            self._open_bytes += ENVELOPE_BYTES
        part.texts.append(text)
        part.size += size
        self._open_bytes += size

    def _close(self, group: str, part: _Part, *, last: bool = True) -> None:
        part.finished += 1
        head = {
            "type": "pgnotify.frame",
            "v": VERSION,
            "group": group,
            "epoch": self._epoch,
            "tick": self._tick.number,
            "prev": part.prev,
            "bits": str(self._tick.bits),
            "part": [part.finished, part.finished if last else 0],
            "control": self.control,
        }
        self._held.append(Outgoing(group, head, part.size, ",".join(part.texts)))
        self._held_bytes += part.size + ENVELOPE_BYTES
        self._open_bytes -= part.size + (ENVELOPE_BYTES if part.texts else 0)
        part.texts, part.size = [], 0

    def _close_open(self) -> None:
        for group, part in self._parts.items():
            if part.texts:
                self._close(group, part, last=False)

    def _take_held(self) -> list[Outgoing]:
        held, self._held, self._held_bytes = self._held, [], 0
        for frame in held:
            frame.head["control"] = self.control
        return held


def fitting(event: dict[str, Json], max_bytes: int) -> str:
    """The event's JSON; without data, then without context too, if it would not fit."""
    text = dumps(event)
    for left_out in ("data", "exact"), ("data", "exact", "context"):
        # One byte for a comma.
        if len(text) < max_bytes:
            break
        event = {key: event[key] for key in event if key not in left_out}
        event["truncated"] = True
        text = dumps(event)
    return text


def control(
    *,
    kind: str,
    change: Change,
    topic: str,
    epoch: str,
    tick: Tick,
    prev: int,
) -> dict[str, Any]:
    """The message by which hubs learn of a truncate or a revoke."""
    return {
        "type": "pgnotify.control",
        "v": VERSION,
        "epoch": epoch,
        "tick": tick.number,
        "prev": prev,
        "bits": str(tick.bits),
        "control": kind,
        "event": change.event if kind == "truncate" else None,
        "topic": topic,
        "templates": list(change.templates),
        "groups": list(change.groups),
    }


def heartbeat(
    *, epoch: str, tick: Tick, prev: int, control: int, groups: dict[str, int] | None
) -> dict[str, Any]:
    """The message by which hubs learn how far the relay is, and so what they have missed."""
    return {
        "type": "pgnotify.heartbeat",
        "v": VERSION,
        "epoch": epoch,
        "tick": tick.number,
        "prev": prev,
        "bits": str(tick.bits),
        "control": control,
        "groups": groups,
    }


def live(*, group: str, run: str, seq: int, texts: list[str]) -> Outgoing:
    """A frame of live events, each given as JSON."""
    head = {"type": "pgnotify.frame", "v": VERSION, "group": group, "run": run, "seq": seq}
    events = ",".join(texts)
    return Outgoing(group, head, len(events), events)
