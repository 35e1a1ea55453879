"""Leader: the lock that lets one relay of all store ticks, and the session that holds it."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from ..conf import settings
from ..connecting import connect_listener
from ..ledger.taking import plan_once
from ..ledger.ticks import Connection
from .connections import check

APPLICATION_NAME = "django_pgnotify leader"
PINGS_PER_TIMEOUT = 2
"""Signs of life within LEADER_TIMEOUT_SECONDS, so that one may be late by half of it."""
PROOF_LOOK_SECONDS = 0.1
"""Between looks for a new one. Only who was frozen, or can't reach the server, waits."""
HELD_QUERY = """
    SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND classid = ((%(key)s::bigint >> 32) & 4294967295)::oid
    AND objid = (%(key)s::bigint & 4294967295)::oid
"""


def lock_key(schema: str) -> int:
    """The advisory lock's key: one leader for each ledger of a database."""
    digest = hashlib.sha256(f"django_pgnotify leader {schema}".encode()).digest()
    return int.from_bytes(digest[:8], signed=True)


async def pin_timeouts(connection: Connection) -> None:
    """Have the server end this session if its process falls silent for LEADER_TIMEOUT_SECONDS."""
    milliseconds = str(int(settings.LEADER_TIMEOUT_SECONDS * 1000))
    for name in (
        "idle_session_timeout",
        "idle_in_transaction_session_timeout",
        "tcp_user_timeout",
    ):
        await connection.execute("SELECT set_config(%s, %s, false)", [name, milliseconds])


class Leader:
    """The session that holds, or tries to hold, the leader's lock.

    The connection that holds it stores the ticks: who has lost the one can't do the other.
    """

    def __init__(self, connection: Connection, schema: str) -> None:
        self.connection = connection
        self.schema = schema
        self._proved = 0.0

    @classmethod
    async def open(cls, alias: str) -> Leader:
        """Connect; the server ends the session of a client that stays silent."""
        connection = await connect_listener(alias, application_name=APPLICATION_NAME)
        try:
            await pin_timeouts(connection)
            # A tick that is sent before it is durable could be lost and its number used again.
            await connection.execute("SET synchronous_commit = on")
            await plan_once(connection)
            return cls(connection, await check(connection))
        except BaseException:
            await connection.close()
            raise

    async def try_lead(self) -> bool:
        """Take the lock if nobody has it."""
        with self.proof():
            cursor = await self.connection.execute(
                "SELECT pg_try_advisory_lock(%s)", [lock_key(self.schema)]
            )
        row = await cursor.fetchone()
        return bool(row and row[0])

    async def keep_alive(self) -> None:
        """Show the server that we live, until cancelled: reading or handling may take long."""
        while True:
            await asyncio.sleep(settings.LEADER_TIMEOUT_SECONDS / PINGS_PER_TIMEOUT)
            with self.proof():
                await self.connection.execute("SELECT 1")

    @contextmanager
    def proof(self) -> Iterator[None]:
        """A statement in this block that does not fail proves that the lock was held as it began,
        if ever it was taken."""
        begin = time.monotonic()
        yield
        self._proved = begin

    async def still_leading(self) -> None:
        """Return when nobody else can have the lock. Who was frozen finds out here, before it
        begins what its successor has done; if the lock is lost, the connection fails soon."""
        # Hardly anybody ever waits here, and who proves it should not have to tell.
        while time.monotonic() - self._proved > settings.LEADER_TIMEOUT_SECONDS:  # noqa: ASYNC110
            await asyncio.sleep(PROOF_LOOK_SECONDS)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.connection.close()


async def somebody_leads(connection: Connection, schema: str) -> bool:
    """True if some relay of this ledger holds the lock."""
    row = await (await connection.execute(HELD_QUERY, {"key": lock_key(schema)})).fetchone()
    return bool(row and row[0])
