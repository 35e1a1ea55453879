"""The truth: what has been committed, hence which events each group must get, in which order.

It comes from row triggers of the oracle's own, and knows nothing of the package.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, LiteralString, TypeAlias

import psycopg

Row: TypeAlias = dict[str, Any]
Key: TypeAlias = tuple[str, int | None, tuple[Any, ...], str | None]
"""Kind, primary key, content and tag of an event. No two events of a group share one."""

TRUTH = "SELECT seq, xid, snapshot, context, op, old, new FROM oracle_truth ORDER BY seq"
TICKS = "SELECT number, bits, snapshot FROM oracle_tick"
LONGEST_PAUSE = """
    SELECT coalesce(max(extract(epoch FROM pause)), 0)::float
    FROM (SELECT at - lag(at) OVER (ORDER BY number) AS pause FROM oracle_tick
        WHERE number > 0) AS pauses
"""
HANDLED = "SELECT kind, pk, data FROM oracle_handled ORDER BY seq"
PARKED = "SELECT count(*) FROM django_pgnotify_parked"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A ``pg_snapshot``."""

    xmin: int
    xmax: int
    running: frozenset[int]

    @classmethod
    def of(cls, text: str) -> Snapshot:
        """From PostgreSQL's text."""
        xmin, xmax, running = text.split(":")
        return cls(int(xmin), int(xmax), frozenset(map(int, filter(None, running.split(",")))))

    def sees(self, xid: int) -> bool:
        """True if the transaction had committed."""
        return xid < self.xmax and xid not in self.running


@dataclass(frozen=True, slots=True)
class Happened:
    """One event that a group must get."""

    seq: int
    """Order of all writes to one row."""
    xid: int
    snapshot: Snapshot
    """What the transaction could know when it wrote."""
    key: Key


@dataclass(frozen=True)
class Write:
    """One row of ``oracle_truth``."""

    seq: int
    xid: int
    snapshot: Snapshot
    tag: str | None
    op: str
    old: Row | None
    new: Row | None

    def events(self) -> Iterator[tuple[str, Happened]]:
        """The group and the event, for all that it must cause."""
        for group, kind, row in self._causes():
            if kind == "message":
                key: Key = (kind, None, (), row["tag"])
            elif kind == "truncate":
                key = (kind, None, (), self.tag)
            else:
                content = (row["room"], row["value"], row["tag"], row["body"])
                key = (kind, row["id"], content, self.tag)
            yield group, Happened(self.seq, self.xid, self.snapshot, key)

    def _causes(self) -> Iterator[tuple[str, str, Row]]:
        if self.op == "message" and self.new is not None:
            yield from ((group, "message", self.new) for group in self.new["groups"])
        elif self.op == "truncate":
            yield from ((group, "truncate", {}) for group in ALL_GROUPS)
        else:
            yield from self._changes()

    def _changes(self) -> Iterator[tuple[str, str, Row]]:
        before, after = groups_of(self.old), groups_of(self.new)
        stays = self.old and self.new and self.old["id"] == self.new["id"]
        if self.old is not None:
            for group in before - after if stays else before:
                yield group, "delete", self.old
        if self.new is not None:
            for group in after - before if stays else after:
                yield group, "insert", self.new
            if stays and self.old != self.new:
                for group in before & after:
                    yield group, "update", self.new


ALL_GROUPS = ("all", *(f"room-{number}" for number in range(7)))


def groups_of(row: Row | None) -> set[str]:
    """The groups that a row is in."""
    if row is None or row["hidden"]:
        return set()
    return {"all"} | (set() if row["room"] is None else {f"room-{row['room']}"})


class Truth:
    """Everything that was written down by the end."""

    def __init__(self, url: str) -> None:
        with psycopg.connect(url) as connection:
            self.writes = [
                Write(seq, int(xid), Snapshot.of(snapshot), _tag(context), op, old, new)
                for seq, xid, snapshot, context, op, old, new in connection.execute(TRUTH)
            ]
            self.ticks = {
                number: (bits, Snapshot.of(snapshot))
                for number, bits, snapshot in connection.execute(TICKS)
            }
            self.handled = list(connection.execute(HANDLED))
            self.parked = _value(connection, PARKED)
            self.longest_pause = _value(connection, LONGEST_PAUSE)

    @cached_property
    def by_group(self) -> dict[str, list[Happened]]:
        """What each group must get, in the order of writing."""
        found: dict[str, list[Happened]] = {group: [] for group in ALL_GROUPS}
        for write in self.writes:
            for group, happened in write.events():
                found[group].append(happened)
        return found

    @property
    def transactions(self) -> int:
        """Committed ones that wrote something."""
        return len({write.xid for write in self.writes})

    def at(self, token: str) -> Snapshot:
        """What the tick of a position saw, or the snapshot after it. KeyError if there never was
        such a tick."""
        number, bits = token.split(".")[2:4]
        stored, snapshot = self.ticks[int(number)]
        if stored % 2**64 != int(bits, 16):
            raise KeyError(token)
        return snapshot_in(token) or snapshot


def snapshot_in(token: str) -> Snapshot | None:
    """The snapshot that a position names beside its tick, if it does."""
    parts = token.split(".")
    if len(parts) == 4:
        return None
    end, *before, _ = (int(number, 16) for number in parts[4].split("-"))
    running = frozenset(end - number for number in before)
    return Snapshot(min(running, default=end), end, running)


def _value(connection: psycopg.Connection[Any], query: LiteralString) -> Any:
    row = connection.execute(query).fetchone()
    return None if row is None else row[0]


def _tag(context: str | None) -> str | None:
    tag: str | None = json.loads(context)["tag"] if context else None
    return tag
