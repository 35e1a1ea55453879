"""Clients: the state that a page would show, built from frames as ``pgnotify.js`` does.

What a client accepted is kept too, for the account at the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import psycopg
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidHandshake, WebSocketException

# The same numbers as in pgnotify.js.
IDS_WITHIN_BATCH = 250_000
IDS_AFTER_BATCH = 5_000
# Smaller than there, to try more often within a minute.
SILENCE_SECONDS = 4.0
ANSWER_SECONDS = 3.0
OPEN_SECONDS = 4.0
RECONNECT_SECONDS = (0.1, 1.0)
MAX_BYTES = 2 * 1024 * 1024

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Accepted:
    """An event that a client took."""

    stood: int
    """The tick of the position at which the client stood: no event up to there is still to come."""
    id: str
    kind: str
    pk: int | None
    content: tuple[Any, ...]
    """What it said: see content_of()."""
    tag: str | None
    """Of the statement, from its context; of a message, from its data."""


@dataclass(slots=True)
class Segment:
    """What a client took from one beginning or reset to the next."""

    start: str
    """The position that it goes on from."""
    snapshot: str | None = None
    """The ``pg_snapshot`` that its state was read in, if the state came with the events."""
    reached: str = ""
    """The last position."""
    reason: str = "begin"
    """Why it began: of a reset, its reason."""
    life: int = 0
    """Which page it is: one that was opened anew knows nothing of the one before."""
    accepted: list[Accepted] = field(default_factory=list)


def tick_of(token: str) -> int:
    """The number of a position's tick."""
    return int(token.split(".")[2])


def content_of(data: Row) -> tuple[Any, ...]:
    """What is compared of a row; the text by its hash."""
    body = hashlib.md5(data["body"].encode()).hexdigest()
    return (data["room"], data["value"], data["tag"], body)


class GroupState:
    """One group of one client."""

    def __init__(self, client: Client, name: str) -> None:
        self.name = name
        self.client = client
        self.segments: list[Segment] = []
        self.rows: dict[int, tuple[Any, ...]] = {}
        self.position: str | None = None
        self.live = False
        self.whole = not client.takes_snapshots
        self.problems: list[str] = []
        self.resumes = 0
        self.duplicates_dropped = 0
        self._asked_since = False
        self._reason = "begin"
        self._life = 0
        self._seen: dict[str, None] = {}
        self._snapshot: list[Row] = []
        self._reading: asyncio.Task[None] | None = None
        self._waiting: list[dict[str, Any]] = []

    def asks_since(self, does: bool) -> None:
        """The group is asked for, from a position or not: the answer must fit."""
        self._snapshot = []
        self._asked_since = does

    def request(self) -> dict[str, Any]:
        """The frame that asks for the group."""
        since = self.position if self.whole else None
        self.asks_since(since is not None)
        return {"type": "subscribe", "group": self.name} | ({"since": since} if since else {})

    def receive(self, frame: dict[str, Any]) -> None:
        """Take a frame of this group."""
        kind = frame["type"]
        if kind == "events" and not self.live:
            return
        position, more = frame.get("position"), frame.get("more") is True
        if isinstance(position, str):
            self.position = position
        match kind:
            case "subscribed":
                self._subscribed(frame)
            case "snapshot":
                self._take_rows(frame["data"], more)
            case "events":
                self._take_events(frame["events"], more)
            case "reset" if frame["reason"] != "gap":
                self._reset(frame["reason"])
            case "error":
                self.problems.append(f"error frame {frame}")

    def renew(self) -> None:
        """Begin anew as a page that has been opened again: nothing is known."""
        self._life += 1
        self.position = None
        self.whole = not self.client.takes_snapshots
        self._seen.clear()
        self._stop_reading()

    @property
    def is_settled(self) -> bool:
        """True if it shows a state, and follows."""
        return self.live and self.whole and self._reading is None

    def _subscribed(self, frame: dict[str, Any]) -> None:
        self.live = True
        recovered = frame.get("recovered")
        if self._asked_since != (recovered is not None):
            self.problems.append(f"asked since={self._asked_since}, got {frame}")
        if recovered:
            self.resumes += 1
        elif recovered is None and not self.client.takes_snapshots:
            self._begin("begin")

    def _begin(self, reason: str) -> None:
        """Events go on from the position, and the state must be read."""
        assert self.position is not None
        self.segments.append(
            Segment(self.position, reached=self.position, reason=reason, life=self._life)
        )
        self._stop_reading()
        self._reading = asyncio.create_task(self._read_state())

    def _reset(self, reason: str) -> None:
        if not self.client.takes_snapshots:
            self._begin(reason)
            return
        self.live = False
        self.whole = False
        self._reason = reason
        self.client.send({"type": "unsubscribe", "group": self.name})
        self.client.send(self.request())

    def _take_rows(self, rows: list[Row], more: bool) -> None:
        self._snapshot += rows
        self.whole = not more
        if more:
            return
        (head, *rows), self._snapshot = self._snapshot, []
        assert self.position is not None
        segment = Segment(self.position, snapshot=head["snapshot"], reached=self.position)
        segment.life = self._life
        segment.reason, self._reason = self._reason, "begin"
        self.segments.append(segment)
        self.rows = {row["id"]: content_of(row) for row in rows}

    def _take_events(self, events: list[dict[str, Any]], more: bool) -> None:
        fresh = []
        for event in events:
            if event["id"] in self._seen:
                self.duplicates_dropped += 1
                continue
            self._seen[event["id"]] = None
            fresh.append(event)
        self._forget(IDS_WITHIN_BATCH if more else IDS_AFTER_BATCH)
        if not self.segments:
            self.problems.append("events before anything else")
            return
        for event in fresh:
            self._account(event)
            if self._reading is None:
                self._apply(event)
            else:
                self._waiting.append(event)
        if not more:
            self.whole = True
            self._reach()

    def _reach(self) -> None:
        """Stand at the position of the last frame; a stream's replay may begin before it."""
        assert self.position is not None
        if tick_of(self.position) > tick_of(self.segments[-1].reached):
            self.segments[-1].reached = self.position

    def _forget(self, limit: int) -> None:
        for id in list(self._seen)[: max(len(self._seen) - limit, 0)]:
            del self._seen[id]

    def _account(self, event: dict[str, Any]) -> None:
        kind, data = event["kind"], event.get("data")
        if kind == "message":
            accepted = (None, (), data["tag"])
        elif kind == "truncate":
            accepted = (None, (), event["context"]["tag"])
        elif data is None:
            self.problems.append(f"truncated {event}")
            return
        else:
            context = event.get("context") or {}
            accepted = (event["pk"], content_of(data), context.get("tag"))
            if event["pk"] != data["id"] or set(context) - {"tag"}:
                self.problems.append(f"odd event {event}")
        segment = self.segments[-1]
        stood = tick_of(segment.reached)
        segment.accepted.append(Accepted(stood, event["id"], kind, *accepted))

    def _apply(self, event: dict[str, Any]) -> None:
        match event["kind"]:
            case "truncate":
                self.rows.clear()
            case "delete":
                self.rows.pop(event["pk"], None)
            case "insert" | "update":
                self.rows[event["pk"]] = content_of(event["data"])

    async def _read_state(self) -> None:
        """Read the state at, or after, the position; then apply what came meanwhile."""
        rows = None
        while rows is None:
            with contextlib.suppress(psycopg.Error):
                rows = await asyncio.to_thread(rows_of, self.client.database, self.name)
            await asyncio.sleep(0 if rows is not None else 0.2)
        self.rows = rows
        self._reading = None
        waiting, self._waiting = self._waiting, []
        for event in waiting:
            self._apply(event)

    def _stop_reading(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None
        self._waiting.clear()


def rows_of(url: str, group: str) -> dict[int, tuple[Any, ...]]:
    """The rows of a group as the table has them now."""
    room = None if group == "all" else int(group.removeprefix("room-"))
    query = (
        "SELECT id, room, value, tag, md5(body) FROM things_thing"
        " WHERE NOT hidden AND (%(room)s::int IS NULL OR room = %(room)s)"
    )
    options = "-c statement_timeout=5000"
    with psycopg.connect(url, connect_timeout=3, options=options) as connection:
        return {id: tuple(row) for id, *row in connection.execute(query, {"room": room})}


class Client:
    """One browser: a socket, any number of groups, and reconnects."""

    shares_position = False
    """True if all groups resume from one position, that of the group that is last."""

    def __init__(
        self,
        name: str,
        *,
        urls: Sequence[str],
        path: str,
        groups: Sequence[str],
        database: str,
        random: Random,
    ) -> None:
        self.name = name
        self.takes_snapshots = path == "snapshot/"
        self.database = database
        self.groups = {group: GroupState(self, group) for group in groups}
        self.connects = 0
        self.frames = 0
        self._urls = urls
        self._path = path
        self._random = random
        self._socket: Any = None
        self._unsent: list[dict[str, Any]] = []
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._here = asyncio.Event()
        self._here.set()

    async def run(self) -> None:
        """Follow until cancelled."""
        while True:
            await self._here.wait()
            with contextlib.suppress(
                OSError, TimeoutError, WebSocketException, InvalidHandshake, EOFError
            ):
                async with self._connected() as socket:
                    await self._follow(socket)
            await asyncio.sleep(self._random.uniform(*RECONNECT_SECONDS))

    def send(self, frame: dict[str, Any]) -> None:
        """Send soon; what is not sent when the connection ends, is not."""
        self._unsent.append(frame)

    def abort(self) -> None:
        """The network is gone."""
        socket, self._socket = self._socket, None
        if socket is not None:
            socket.transport.abort()

    def pause(self) -> None:
        """Read nothing more, as a page in the background on a slow machine."""
        self._flowing.clear()

    def resume(self) -> None:
        """Read on."""
        self._flowing.set()

    def leave(self) -> None:
        """Close the socket and stay away until ``come()``; positions are kept."""
        self._here.clear()
        self.abort()

    def come(self) -> None:
        """Be back."""
        self._here.set()

    def renew(self) -> None:
        """Close the page and open it again."""
        for group in self.groups.values():
            group.renew()
        self.abort()

    @contextlib.asynccontextmanager
    async def _connected(self) -> AsyncIterator[ClientConnection]:
        url = self._random.choice(list(self._urls)) + self._path
        socket = await connect(
            url, open_timeout=OPEN_SECONDS, ping_interval=None, max_size=MAX_BYTES, max_queue=4
        )
        self.connects += 1
        self._socket = socket
        try:
            yield socket
        finally:
            self._socket = None
            socket.transport.abort()
            for group in self.groups.values():
                group.live = False

    async def _follow(self, socket: ClientConnection) -> None:
        self._unsent.clear()
        for group in self.groups.values():
            await socket.send(json.dumps(group.request()))
        while True:
            frame = await self._next(socket)
            await self._flowing.wait()
            if self._socket is not socket:
                return  # given up meanwhile: what it still says is not heard
            self.frames += 1
            if frame.get("group") in self.groups:
                self.groups[frame["group"]].receive(frame)
            unsent, self._unsent = self._unsent, []
            for answer in unsent:
                await socket.send(json.dumps(answer))

    async def _next(self, socket: ClientConnection) -> dict[str, Any]:
        """The next frame; a silent server is asked whether it lives."""
        try:
            async with asyncio.timeout(SILENCE_SECONDS):
                text = await socket.recv()
        except TimeoutError:
            await socket.send('{"type":"ping"}')
            async with asyncio.timeout(ANSWER_SECONDS):
                text = await socket.recv()
        frame: dict[str, Any] = json.loads(text)
        return frame
