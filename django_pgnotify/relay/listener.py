"""Listener: hears bells and live events, and drains its connection whatever stalls."""

from __future__ import annotations

import asyncio
import secrets

from psycopg import errors, sql

from ..connecting import aborted_after, connect_listener
from ..exceptions import ListenerRefused
from ..hearing import Hearing
from ..ledger.bell import BELL_PG_CHANNEL
from ..ledger.ticks import Connection
from ..publish.live import LIVE_PG_CHANNEL
from .queues import LiveQueue

APPLICATION_NAME = "django_pgnotify listener"


class Listener:
    """One LISTEN connection, which is for nothing else once `run` has begun."""

    def __init__(self, connection: Connection, live: LiveQueue) -> None:
        self.connection = connection
        self.bell = asyncio.Event()
        """Set when a bell rang: bells carry nothing, so any number of them is one flag."""
        self._live = live
        self._probes: dict[str, asyncio.Future[None]] = {}
        self._hearing = Hearing(connection, self._hear)

    @classmethod
    async def open(cls, alias: str, live: LiveQueue) -> Listener:
        """Connect."""
        return cls(await connect_listener(alias, application_name=APPLICATION_NAME), live)

    async def listen(self) -> None:
        """LISTEN: from here on nothing is missed."""
        for name in (BELL_PG_CHANNEL, LIVE_PG_CHANNEL):
            await self.connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(name)))

    async def run(self) -> None:
        """Hear until the connection is lost; that raises OperationalError."""
        await self._hearing.run()

    async def probe(self, sender: Connection, timeout_seconds: float) -> None:
        """Ring for ourselves over another connection, and return when it has been heard.

        A server that has frozen raises nothing by itself: then `sender` is ended. Raises
        ListenerRefused if the bell was rung and does not come back in time. While the server's
        notify queue is full nobody can ring, and its answer that this is so has to do.
        """
        token = secrets.token_hex(8)
        heard = self._probes[token] = asyncio.get_running_loop().create_future()
        try:
            with aborted_after(timeout_seconds, sender):
                await sender.execute("SELECT pg_notify(%s, %s)", [BELL_PG_CHANNEL, token])
            async with asyncio.timeout(timeout_seconds):
                await heard
        except errors.ProgramLimitExceeded:
            return  # the poll finds what the bell can't tell; the watch of the queue says why
        except TimeoutError:
            raise ListenerRefused(
                f"A bell of our own did not come back within {timeout_seconds:g} s: LISTEN goes"
                " through a pooler in transaction mode, or the server does not answer. Set"
                " PGNOTIFY['LISTENER'] to a direct connection to the primary."
            ) from None
        finally:
            del self._probes[token]

    def _hear(self, pg_channel: str, payload: str) -> None:
        if pg_channel == LIVE_PG_CHANNEL:
            self._live.put_nowait(payload)
        elif not payload:
            self.bell.set()
        # Any role may ring with any text: what is no token of ours is nothing.
        elif (heard := self._probes.get(payload)) is not None and not heard.done():
            heard.set_result(None)
