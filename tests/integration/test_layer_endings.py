"""Event loops and layers that end in the middle of something: nothing hangs, nothing is lost."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection

from django_pgnotify.connecting import connect
from django_pgnotify.layers import PostgresChannelLayer
from django_pgnotify.layers.storing import CLAIM
from tests.layer_kit import (
    PATIENCE_SECONDS,
    all_received,
    numbered,
    own_connection,
    received,
    run_to_its_end,
    wait_for_connections,
)
from tests.tables import run

pytestmark = pytest.mark.django_db(transaction=True)

MESSAGES = 60
TERMINATE = (
    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
    " WHERE application_name = 'django_pgnotify layer listen' AND datname = current_database()"
)


@pytest.fixture
def prefix() -> str:
    return f"test-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def layer(prefix: str) -> PostgresChannelLayer:
    return PostgresChannelLayer(prefix=prefix, capacity=1000)


@pytest.mark.parametrize("milliseconds", [0, 1, 2, 3, 4, 5, 6])
def test_who_says_goodbye_while_the_loop_ends_holds_up_nobody(
    layer: PostgresChannelLayer, milliseconds: int
) -> None:
    async def stay() -> None:
        try:
            await asyncio.sleep(100)
        finally:
            await layer.group_send("room", numbered(1))

    async def main() -> list[asyncio.Task[None]]:
        tasks = [asyncio.create_task(stay()) for _ in range(3)]
        tasks.append(asyncio.create_task(layer.group_send("room", numbered(2))))
        await asyncio.sleep(milliseconds / 1000)
        return tasks

    run_to_its_end(main)


def test_what_is_half_open_when_its_loop_ends_is_not_left_until_it_is_collected(
    prefix: str,
) -> None:
    async def begin(seconds: float) -> asyncio.Task[str]:
        layer = PostgresChannelLayer(prefix=prefix)
        task = asyncio.create_task(layer.new_channel())
        await asyncio.sleep(seconds)
        return task

    gc.disable()
    try:
        for milliseconds in range(10):
            asyncio.run(begin(milliseconds / 1000))
        assert wait_for_connections(0) == 0
    finally:
        gc.enable()


def test_a_goodbye_behind_a_statement_that_waits_for_a_lock_holds_up_nobody(
    layer: PostgresChannelLayer,
) -> None:
    async def stay() -> None:
        try:
            await asyncio.sleep(100)
        finally:
            with contextlib.suppress(psycopg.OperationalError):
                await layer.group_send("room", numbered(1))

    async def main() -> list[asyncio.Task[None]]:
        await layer.group_send("room", numbered(0))
        tasks = [asyncio.create_task(stay())]
        tasks.append(asyncio.create_task(layer.send("plain", numbered(2))))
        await asyncio.sleep(0.05)
        return tasks

    with own_connection() as other, other.transaction():
        other.execute("LOCK TABLE django_pgnotify_message")
        run_to_its_end(main)


def test_a_layer_that_is_closed_while_its_loop_ends_loses_no_message(
    layer: PostgresChannelLayer,
) -> None:
    tasks = []

    async def keep() -> None:
        try:
            await asyncio.sleep(100)
        finally:
            await layer.close()

    async def main(turns: int) -> asyncio.Task[None]:
        await layer.send("plain", numbered(turns))
        keeping = asyncio.create_task(keep())
        tasks.append(asyncio.create_task(layer.receive("plain")))
        for _ in range(turns % 40):
            await asyncio.sleep(0)
        return keeping

    for turns in range(MESSAGES):
        asyncio.run(main(turns))
    assert all_received(layer, tasks) == list(range(MESSAGES))
    assert wait_for_connections(0) == 0


def test_a_loop_that_is_closed_by_hand_with_a_reader_in_it_loses_no_message(
    layer: PostgresChannelLayer,
) -> None:
    tasks = []

    async def main(turns: int) -> None:
        await layer.send("plain", numbered(turns))
        tasks.extend(asyncio.create_task(layer.receive("plain")) for _ in range(2))
        for _ in range(turns % 40):
            await asyncio.sleep(0)

    for turns in range(MESSAGES):
        loop = asyncio.new_event_loop()
        loop.set_exception_handler(lambda loop, context: None)  # tasks that were pending
        loop.run_until_complete(main(turns))
        loop.close()
    assert all_received(layer, tasks) == list(range(MESSAGES))
    tasks.clear()
    gc.collect()
    assert wait_for_connections(0) == 0


@pytest.fixture
def slow_inserts() -> Iterator[None]:
    """A slow server: 0.3 s to send to ``slow``, 30 ms to send, or give back, to ``plain``."""
    run(
        "CREATE FUNCTION made_slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " PERFORM pg_sleep(CASE WHEN NEW.channel LIKE '%:slow' THEN 0.3 ELSE 0.03 END);"
        " RETURN NEW; END $$;"
        "CREATE TRIGGER made_slow BEFORE INSERT ON django_pgnotify_message"
        " FOR EACH ROW EXECUTE FUNCTION made_slow()"
    )
    yield
    run("DROP FUNCTION made_slow CASCADE")


def test_what_is_given_back_while_its_loop_ends_comes_once(
    layer: PostgresChannelLayer, prefix: str, slow_inserts: None
) -> None:
    taken: list[int] = []
    stop = threading.Event()

    def take_all() -> None:
        with own_connection() as other:
            while not stop.is_set():
                rows = other.execute(CLAIM, [f"{prefix}:plain"]).fetchall()
                taken.extend(row for row, *_ in rows)

    async def main() -> None:
        await layer.send("plain", numbered(1))
        receiving = asyncio.create_task(layer.receive("plain"))
        sending = asyncio.create_task(layer.send("slow", numbered(2)))
        for _ in range(2):
            await asyncio.sleep(0)  # both are in the queue, the claim first
        receiving.cancel()
        await asyncio.sleep(0.1)  # the claim is owed; the slow statement runs
        taking.start()
        await asyncio.sleep(0.1)
        assert not sending.done()

    taking = threading.Thread(target=take_all)
    asyncio.run(main())
    with own_connection() as other:
        waiting = "SELECT count(*) FROM django_pgnotify_message WHERE channel = %s"
        while other.execute(waiting, [f"{prefix}:plain"]).fetchone() != (0,):
            pass
    stop.set()
    taking.join()
    assert len(taken) == 1


@pytest.mark.parametrize("turns", range(7))
@pytest.mark.parametrize("is_closed", [True, False])
def test_a_connection_that_is_lost_while_all_ends_holds_up_nobody(
    layer: PostgresChannelLayer, turns: int, is_closed: bool
) -> None:
    async def main() -> None:
        await layer.new_channel()
        with own_connection() as other:  # which blocks the loop, as sync code does
            other.execute(TERMINATE)
        for _ in range(turns):
            await asyncio.sleep(0)
        if is_closed:
            await layer.close()

    run_to_its_end(main)


async def test_a_reader_outlives_the_closing_of_its_layer(
    layer: PostgresChannelLayer, prefix: str
) -> None:
    name = await layer.new_channel()
    readers = [
        asyncio.create_task(received(layer, "plain")),
        asyncio.create_task(received(layer, name)),
    ]
    await asyncio.sleep(0)
    await layer.close()
    await layer.group_add("room", name)  # returns when it is heard
    other = PostgresChannelLayer(prefix=prefix)
    await other.send("plain", numbered(1))
    await other.group_send("room", numbered(2))
    assert [(await reader)["n"] for reader in readers] == [1, 2]


async def test_a_name_that_is_made_while_the_layer_is_closed_is_made(
    layer: PostgresChannelLayer,
) -> None:
    making = asyncio.create_task(layer.new_channel())
    await asyncio.sleep(0.001)
    await layer.close()
    async with asyncio.timeout(PATIENCE_SECONDS):
        assert "!" in await making


@pytest.mark.parametrize("query", ["SELECT 1", "SELECT 1 / 0"])
async def test_a_cancellation_that_comes_with_the_answer_is_heard(
    monkeypatch: pytest.MonkeyPatch, query: str
) -> None:
    """psycopg before 3.3.6 swallows it on Python 3.11."""
    wait = AsyncConnection.wait

    async def swallow(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return await wait(self, *args, **kwargs)
        finally:
            if (task := asyncio.current_task()) is swallowing:
                assert task is not None
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(0)

    link = await connect("default", application_name="test")
    monkeypatch.setattr(AsyncConnection, "wait", swallow)
    swallowing: asyncio.Task[Any] = asyncio.create_task(link.execute(query))
    [result] = await asyncio.gather(swallowing, return_exceptions=True)
    assert isinstance(result, asyncio.CancelledError)
    await link.close()


@pytest.mark.parametrize("host", ["", "no-such-host.invalid"])
async def test_a_cancellation_that_comes_with_a_connection_is_heard(
    monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    connect_psycopg = AsyncConnection.connect.__func__  # type: ignore[attr-defined]
    opened: list[AsyncConnection[Any]] = []

    async def swallow(cls: Any, **kwargs: Any) -> Any:
        try:
            opened.append(await connect_psycopg(cls, **kwargs))
            return opened[0]
        finally:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0)

    monkeypatch.setattr(AsyncConnection, "connect", classmethod(swallow))
    overrides = {"host": host} if host else {}
    connecting = connect("default", application_name="test", overrides=overrides)
    [result] = await asyncio.gather(asyncio.create_task(connecting), return_exceptions=True)
    assert isinstance(result, asyncio.CancelledError)
    assert all(one.closed for one in opened)
    assert bool(opened) == (not host)
