"""Positions: opaque tokens that name a tick of an epoch, and what a ledger answers to them.

A token resolves to the very tick that it was given for, or to the reason why it can't be used;
never to another set of events.
"""

from __future__ import annotations

import re
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
TOKEN = re.compile(r"1\.([A-Za-z0-9_-]{1,40})\.(0|[1-9][0-9]{0,18})\.([0-9a-f]{16})", re.ASCII)
TOKEN_LENGTH = 100
"""Characters that no token exceeds: 1 + 1 + 40 + 1 + 19 + 1 + 16 = 79."""
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

    @property
    def token(self) -> str:
        """The text that a browser keeps: URL-safe, below 100 characters."""
        return f"{VERSION}.{self.epoch}.{self.tick}.{self.bits & ALL_BITS:016x}"

    @classmethod
    def parse(cls, token: str) -> Position | None:
        """The position of a token, None if the text is not exactly one that we give."""
        match = TOKEN.fullmatch(token) if len(token) <= TOKEN_LENGTH else None
        if match is None or int(match[2]) > BIGINT_MAX:
            return None
        unsigned = int(match[3], 16)
        bits = unsigned - 2**64 if unsigned > BIGINT_MAX else unsigned
        return cls(epoch=match[1], tick=int(match[2]), bits=bits)


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


async def resolve(
    connection: AsyncConnection[Any], schema: str, token: str
) -> Tick | ResetReason:
    """The tick that a token was given for, or "epoch", "expired" or "unknown"."""
    position = Position.parse(token)
    numbers = () if position is None else (position.tick,)
    return (await look(connection, schema, numbers)).resolve(position)


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
