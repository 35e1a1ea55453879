"""Wire: messages of the channel layer, checked on arrival. Anything else is a ValueError."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from ..events import Json
from ..ledger.positions import Position
from .batches import EncodedEvent, encode_event

VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupFrame:
    """A group's durable events of one tick, or a part of them."""

    group: str
    position: Position
    """Where the group stands after the tick."""
    prev: int
    """The group had no durable event in the ticks between this one and `position`."""
    part: int
    """From 1."""
    last: bool
    """True if no further part follows."""
    control: int
    """The latest control event's tick that the relay knew; 0 if it does not say."""
    events: tuple[EncodedEvent, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class LiveFrame:
    """A group's live events."""

    group: str
    run: str
    """The relay process that counts."""
    seq: int
    """Counts the group's live frames of a run, from 1."""
    events: tuple[EncodedEvent, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Heartbeat:
    """How far the relay has sent, and which groups got something."""

    position: Position
    prev: int
    """Tick of the heartbeat before."""
    control: int | None
    """The latest control event's tick; None if the relay does not say."""
    groups: Mapping[str, int] | None
    """Last tick with events in (prev, tick] by group; None if they are too many to list."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Control:
    """A truncate or a revoke stands in the ledger."""

    position: Position


Frame: TypeAlias = GroupFrame | LiveFrame | Heartbeat | Control


def parse(message: Mapping[str, Any]) -> Frame:
    """The frame in a message of the channel layer; ValueError if it is none of ours."""
    if message.get("v") != VERSION:
        raise ValueError(f"version {message.get('v')!r:.50} is not {VERSION}")
    match message.get("type"):
        case "pgnotify.frame" if "run" in message:
            return _live(message)
        case "pgnotify.frame":
            return _durable(message)
        case "pgnotify.heartbeat":
            return _heartbeat(message)
        case "pgnotify.control":
            return Control(position=_position(message))
    raise ValueError(f"type {message.get('type')!r:.100} is not known")


def _durable(message: Mapping[str, Any]) -> GroupFrame:
    part = _get(message, "part", list | tuple)
    if len(part) != 2 or not all(type(number) is int for number in part):
        raise ValueError(f"part is {part!r:.100}")
    return GroupFrame(
        group=_get(message, "group", str),
        position=_position(message),
        prev=_get(message, "prev", int),
        part=part[0],
        last=part[0] == part[1],
        control=_get(message, "control", int) if "control" in message else 0,
        events=_events(message),
    )


def _live(message: Mapping[str, Any]) -> LiveFrame:
    return LiveFrame(
        group=_get(message, "group", str),
        run=_get(message, "run", str),
        seq=_get(message, "seq", int),
        events=_events(message),
    )


def _heartbeat(message: Mapping[str, Any]) -> Heartbeat:
    groups = message.get("groups")
    if groups is not None:
        groups = {str(name): int(tick) for name, tick in _get(message, "groups", dict).items()}
    return Heartbeat(
        position=_position(message),
        prev=_get(message, "prev", int),
        control=_get(message, "control", int) if "control" in message else None,
        groups=groups,
    )


def _position(message: Mapping[str, Any]) -> Position:
    return Position(
        epoch=_get(message, "epoch", str),
        tick=_get(message, "tick", int),
        bits=int(_get(message, "bits", str)),
    )


def _events(message: Mapping[str, Any]) -> tuple[EncodedEvent, ...]:
    return tuple(_event(obj) for obj in _get(message, "events", list | tuple))


def _event(obj: Json) -> EncodedEvent:
    if not isinstance(obj, dict) or not isinstance(obj.get("id"), str):
        raise ValueError(f"{obj!r:.100} is not an event")
    return encode_event(obj)


def _get(message: Mapping[str, Any], key: str, kind: Any) -> Any:
    value = message.get(key)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f"{key} is {value!r:.100}")
    return value
