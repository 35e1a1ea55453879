"""Positions: opaque tokens that name a tick of an epoch, and what a ledger answers to them.

A token resolves to the very tick that it was given for, or to the reason why it can't be used;
never to another set of events.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, LiteralString, TypeAlias

from psycopg import sql

from .ticks import Tick, read_epoch

if TYPE_CHECKING:
    from psycopg import AsyncConnection

ResetReason: TypeAlias = Literal["epoch", "expired", "unknown"]

VERSION = "1"
# An epoch of up to 40 characters leaves a token below 100; a tick is a positive bigint.
TICK_TOKEN = r"1\.([A-Za-z0-9_-]{1,40})\.(0|[1-9][0-9]{0,18})\.([0-9a-f]{16})"
SNAPSHOT_TOKEN = r"\.([0-9a-f]+(?:-[0-9a-f]+)*)-[0-9a-f]{8}"
TOKEN = re.compile(f"{TICK_TOKEN}(?:{SNAPSHOT_TOKEN})?", re.ASCII)
TOKEN_LENGTH = 1000
"""Characters that no token exceeds: 1 + 1 + 40 + 1 + 19 + 1 + 16 = 79 for a tick; a snapshot adds
26, and up to 5 for each transaction that was writing then, of which there is room for 170."""
XID_MAX = 2**64 - 1
BIGINT_MAX = 2**63 - 1
ALL_BITS = 2**64 - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Position:
    """A place in the row of ticks: everything up to this tick has been seen."""

    epoch: str
    """The database history that the tick belongs to."""
    tick: int
    """The tick's number."""
    bits: int
    """Its 64 random bits, signed as PostgreSQL keeps them."""
    snapshot: str | None = None
    """A ``pg_snapshot`` beyond the tick, of which everything has been seen too."""

    @property
    def token(self) -> str:
        """The text that a browser keeps: URL-safe, and short."""
        tick = f"{VERSION}.{self.epoch}.{self.tick}.{self.bits & ALL_BITS:016x}"
        if self.snapshot is None:
            return tick
        packed = _pack(self.snapshot)
        return f"{tick}.{packed}-{zlib.crc32(f'{tick}.{packed}'.encode()):08x}"

    @classmethod
    def parse(cls, token: str) -> Position | None:
        """The position of a token, None if the text is not exactly one that we give."""
        match = TOKEN.fullmatch(token) if len(token) <= TOKEN_LENGTH else None
        if match is None or int(match[2]) > BIGINT_MAX:
            return None
        unsigned = int(match[3], 16)
        bits = unsigned - 2**64 if unsigned > BIGINT_MAX else unsigned
        snapshot = None if match[4] is None else _unpack(match[4])
        position = cls(epoch=match[1], tick=int(match[2]), bits=bits, snapshot=snapshot)
        return position if position.token == token else None


def _pack(snapshot: str) -> str:
    """Its end, and how far before that each transaction is that was running, in hexadecimal."""
    _, end, running = snapshot.split(":")
    before = (int(end) - int(xid) for xid in running.split(",") if xid)
    return "-".join(f"{number:x}" for number in (int(end), *before))


def _unpack(packed: str) -> str | None:
    """The snapshot; None if it can't be one."""
    end, *before = (int(number, 16) for number in packed.split("-"))
    running = [end - number for number in before]
    first = min(running, default=end)
    if running != sorted(set(running)) or end in running or first < 1 or end > XID_MAX:
        return None
    return f"{first}:{end}:{','.join(map(str, running))}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """What the ledger said in one look."""

    epoch: str
    latest: Tick
    """The tick stored last."""
    trimmed: int
    """Ticks up to this number can't be replayed from any more."""
    ticks: Mapping[int, Tick]
    """The ticks that were asked for, as far as they are stored."""

    @property
    def position(self) -> Position:
        """Where someone stands who has seen everything up to the latest tick."""
        return Position(epoch=self.epoch, tick=self.latest.number, bits=self.latest.bits)

    def tick_of(self, number: int) -> Tick | None:
        """The tick of a number that was asked for, or of the latest; None if it is not stored."""
        return self.latest if number == self.latest.number else self.ticks.get(number)

    def resolve(self, position: Position | None) -> Tick | ResetReason:
        """The position's tick, or why events can't go on from it.

        The tick must have been asked for.
        """
        if position is None:
            return "unknown"
        if position.epoch != self.epoch:
            return "epoch"
        if position.tick <= self.trimmed:
            return "expired"
        tick = self.tick_of(position.tick)
        return tick if tick is not None and tick.bits == position.bits else "unknown"


async def look(connection: AsyncConnection[Any], schema: str, numbers: Collection[int]) -> Look:
    """Read where the ledger stands, and the ticks of these numbers, in three short queries."""
    epoch = await read_epoch(connection, schema)
    ticks = await _ticks(connection, schema, numbers) if numbers else {}
    # Last, so that a tick trimmed meanwhile is known to be trimmed.
    latest, trimmed = await _head(connection, schema)
    return Look(epoch=epoch, latest=latest, trimmed=trimmed, ticks=ticks)


TICKS: LiteralString = (
    "SELECT number, snapshot::text, bits FROM {schema}.django_pgnotify_tick"
    " WHERE number = ANY(%s::bigint[])"
)
HEAD: LiteralString = (
    "SELECT number, snapshot::text, bits, trimmed"
    " FROM {schema}.django_pgnotify_state, {schema}.django_pgnotify_tick"
    " ORDER BY number DESC LIMIT 1"
)


async def _ticks(
    connection: AsyncConnection[Any], schema: str, numbers: Collection[int]
) -> dict[int, Tick]:
    query = sql.SQL(TICKS).format(schema=sql.Identifier(schema))
    cursor = await connection.execute(query, [list(numbers)])
    return {
        number: Tick(number=number, snapshot=snapshot, bits=bits)
        async for number, snapshot, bits in cursor
    }


async def _head(connection: AsyncConnection[Any], schema: str) -> tuple[Tick, int]:
    query = sql.SQL(HEAD).format(schema=sql.Identifier(schema))
    row = await (await connection.execute(query)).fetchone()
    assert row is not None  # migrate stores tick 0 and the state's only row
    number, snapshot, bits, trimmed = row
    return Tick(number=number, snapshot=snapshot, bits=bits), trimmed
