"""Browser frames, version 1: what a client may send, and what it gets beside events."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NoReturn, TypeAlias

from django.db import DEFAULT_DB_ALIAS, connections

from ..conf import settings
from ..events import Json, dumps
from ..exceptions import InvalidGroup
from ..groups import check_group
from ..ledger.positions import Position

MAX_REQUEST_BYTES = 64 * 1024
"""Bytes of a frame from a browser: the largest honest one has a group and a position, 300."""

MAX_ECHO = 1000
"""Characters of a name that is no group's and comes back with the error, so that the page can tell
which of its subscriptions is meant. A group's name has fewer than 100."""

FORBIDDEN = "You may not subscribe to this group."

ErrorCode = Literal["bad_frame", "forbidden", "unknown_group", "too_many", "too_large"]
Reason = Literal["expired", "epoch", "unknown", "overflow", "revoked", "gap"]


class BadRequest(ValueError):
    """A browser's frame can't be answered with anything but an error."""

    def __init__(self, code: ErrorCode, message: str, group: object = None) -> None:
        super().__init__(message)
        self.code: ErrorCode = code
        self.group = group if isinstance(group, str) and len(group) <= MAX_ECHO else None


@dataclass(frozen=True, slots=True)
class Subscribe:
    """The client wants a group's events, from a position on if it has one."""

    group: str
    since: str | None = None
    is_authorized: bool = False
    """True if the consumer has allowed it already."""


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    """The client has enough of a group."""

    group: str


@dataclass(frozen=True, slots=True)
class Ping:
    """The client wants to know whether we are there."""


@dataclass(frozen=True, slots=True)
class Pong:
    """The client is there; it needs no answer."""


Request: TypeAlias = Subscribe | Unsubscribe | Ping | Pong


def parse_request(text: object, using: str) -> Request:
    """The request in a text frame; raises BadRequest for everything else."""
    if not isinstance(text, str):
        raise BadRequest("bad_frame", "Send text frames, not binary ones.")
    if len(text) > MAX_REQUEST_BYTES:
        raise BadRequest("too_large", f"A frame may have {MAX_REQUEST_BYTES} bytes.")
    obj = _json_object(text)
    match obj.get("type"):
        case "subscribe":
            return Subscribe(_group(obj, using), _since(obj))
        case "unsubscribe":
            return Unsubscribe(_group(obj, using))
        case "ping":
            return Ping()
        case "pong":
            return Pong()
    raise BadRequest("bad_frame", "Use the type 'subscribe', 'unsubscribe' or 'ping'.")


def check_wanted_group(group: object, using: str) -> str:
    """The group's name, or InvalidGroup: no name, or one that is another alias's on the wire."""
    name = check_group(group)
    if using == DEFAULT_DB_ALIAS and name.partition(".")[0] in set(connections) - {using}:
        raise InvalidGroup(f"{name!r} begins with the alias of another database.")
    return name


def _json_object(text: str) -> dict[str, Json]:
    try:
        obj = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise BadRequest("bad_frame", "The frame is not JSON.") from None
    if not isinstance(obj, dict):
        raise BadRequest("bad_frame", "A frame is a JSON object.")
    return obj


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _group(obj: dict[str, Json], using: str) -> str:
    group = obj.get("group")
    try:
        return check_wanted_group(group, using)
    except InvalidGroup as error:
        raise BadRequest("bad_frame", str(error), group) from None


def _since(obj: dict[str, Json]) -> str | None:
    since = obj.get("since")
    # What is no text is a position that was never given, like any malformed one.
    return since if since is None or isinstance(since, str) else ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """A frame for one client, beside events."""

    type: str
    text: str
    group: str | None = None
    position: Position | None = None
    keep: bool = False
    """True if it must reach the client even when its queue overflows."""
    more: bool = False
    """True if it is a part, and not the last."""


PONG = Answer(type="pong", text='{"type":"pong"}')


def subscribed(group: str, position: Position, recovered: bool | None = None) -> Answer:
    """The group is live; `recovered` if the client asked for what it missed."""
    extra = {} if recovered is None else {"recovered": recovered}
    return _answer("subscribed", group, position, keep=True, **extra)


def reset(group: str, position: Position, reason: Reason) -> Answer:
    """Events are missing: read the state anew and go on from the position."""
    return _answer("reset", group, position, keep=reason == "revoked", reason=reason)


def error(code: ErrorCode, message: str, group: str | None = None) -> Answer:
    """The client asked for something that it can't have."""
    extra = {} if group is None else {"group": group}
    text = dumps({"type": "error", "code": code, "message": message, **extra})
    # Of a group it is what the client waits for instead of ``subscribed``.
    return Answer(type="error", text=text, group=group, keep=group is not None)


def snapshot(
    group: str, rows: list[str], *, before: Position, after: Position
) -> Iterator[Answer]:
    """Frames of bounded size with the rows' JSON texts; a row that fits in none is an error."""
    room = settings.MAX_FRAME_BYTES - len(_snapshot(group, "", before, more=True).text)
    room -= max(len(after.token) - len(before.token), 0)
    part: list[str] = []
    size = 0
    for row in rows:
        if len(row) > room:
            yield error("too_large", "A row of the snapshot exceeds a frame.", group)
            continue
        if part and size + len(row) > room:
            yield _snapshot(group, ",".join(part), before, more=True)
            part, size = [], 0
        part.append(row)
        size += len(row) + 1  # a comma
    yield _snapshot(group, ",".join(part), after, more=False)


def _snapshot(group: str, data: str, position: Position, *, more: bool) -> Answer:
    head = dumps({"type": "snapshot", "group": group, "position": position.token})[:-1]
    text = f'{head},"data":[{data}]' + (',"more":true}' if more else "}")
    return Answer(
        type="snapshot", text=text, group=group, position=position, keep=True, more=more
    )


def _answer(type: str, group: str, position: Position, *, keep: bool, **extra: Any) -> Answer:
    text = dumps({"type": type, "group": group, "position": position.token, **extra})
    return Answer(type=type, text=text, group=group, position=position, keep=keep)
