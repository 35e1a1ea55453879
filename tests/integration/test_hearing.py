"""A LISTEN connection's notifications are heard, all of them and in order, until it is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest

from django_pgnotify.connecting import abort, connect
from django_pgnotify.hearing import Hearing
from tests.servers.fixtures import StartProxy
from tests.servers.postgres import Postgres

pytestmark = pytest.mark.django_db(transaction=True)

MANY = 20_000
PATIENCE_SECONDS = 20.0


class Ear:
    """A connection that listens, and what it has heard."""

    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        self.connection = connection
        self.heard: list[str] = []
        self._stirred = asyncio.Event()
        self.hearing = Hearing(connection, self._hear)

    def _hear(self, pg_channel: str, payload: str) -> None:
        assert pg_channel == "hearing"
        self.heard.append(payload)
        self._stirred.set()

    async def wait_for(self, payload: str) -> None:
        """Return when this has been heard last."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not self.heard or self.heard[-1] != payload:
                self._stirred.clear()
                await self._stirred.wait()


@asynccontextmanager
async def listening() -> AsyncIterator[Ear]:
    async with await connect("default", application_name="test ear") as connection:
        ear = Ear(connection)
        await connection.execute("LISTEN hearing")
        yield ear


@asynccontextmanager
async def speaker() -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    async with await connect("default", application_name="test speaker") as connection:
        yield connection


async def say(connection: psycopg.AsyncConnection[Any], payload: str) -> None:
    await connection.execute("SELECT pg_notify('hearing', %s)", [payload])


async def test_all_are_heard_in_order() -> None:
    async with listening() as ear, speaker() as other:
        running = asyncio.create_task(ear.hearing.run())
        await other.execute(
            "SELECT pg_notify('hearing', n || ' über') FROM generate_series(1, %s) AS n", [MANY]
        )
        await ear.wait_for(f"{MANY} über")
        assert ear.heard == [f"{n} über" for n in range(1, MANY + 1)]
        running.cancel()


async def test_what_comes_before_it_runs_is_heard() -> None:
    async with listening() as ear, speaker() as other:
        await say(other, "while nothing reads")
        await say(ear.connection, "while a statement runs")
        assert "while a statement runs" in ear.heard
        await say(other, "behind it")
        running = asyncio.create_task(ear.hearing.run())
        await ear.wait_for("behind it")
        assert len(ear.heard) == 3
        running.cancel()


@pytest.mark.parametrize("how", ["terminated", "aborted"])
async def test_a_lost_connection_ends_it(how: str) -> None:
    async with listening() as ear, speaker() as other:
        running = asyncio.create_task(ear.hearing.run())
        await say(other, "alive")
        await ear.wait_for("alive")
        if how == "aborted":
            abort(ear.connection)
        else:
            pid = ear.connection.info.backend_pid
            await other.execute("SELECT pg_terminate_backend(%s)", [pid])
        with pytest.raises(psycopg.OperationalError):
            async with asyncio.timeout(PATIENCE_SECONDS):
                await running


async def test_a_connection_that_was_lost_before_ends_it_too() -> None:
    async with listening() as ear:
        abort(ear.connection)
        with pytest.raises(psycopg.OperationalError):
            async with asyncio.timeout(PATIENCE_SECONDS):
                await ear.hearing.run()


async def test_a_stream_that_makes_no_sense_any_more_ends_it(
    start_proxy: StartProxy, postgres: Postgres
) -> None:
    proxy = start_proxy(postgres.url())
    plain = proxy.url(postgres.url())
    async with await psycopg.AsyncConnection.connect(
        plain, autocommit=True, sslmode="disable", gssencmode="disable"
    ) as connection:
        running = asyncio.create_task(Ear(connection).hearing.run())
        await asyncio.sleep(0)
        # A message of no length: libpq gives the connection up then, and raises nothing.
        proxy.write_to_all(b"A\x00\x00\x00\x00")
        with pytest.raises(psycopg.OperationalError):
            async with asyncio.timeout(PATIENCE_SECONDS):
                await running


async def test_cancelled_it_leaves_the_connection_to_others() -> None:
    async with listening() as ear:
        running = asyncio.create_task(ear.hearing.run())
        await asyncio.sleep(0)
        running.cancel()
        await asyncio.wait([running])
        await say(ear.connection, "heard by a statement again")
        assert ear.heard == ["heard by a statement again"]
