"""Ticks are stored by one session only, in order, durably."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any, TypeVar

import psycopg
import pytest
from asgiref.sync import async_to_sync
from django.core.management import call_command
from django.db import connection

from django_pgnotify.connecting import connect
from django_pgnotify.events import format_time
from django_pgnotify.ledger import reader, taking, ticks
from django_pgnotify.ledger.reader import read_batches, read_range
from django_pgnotify.ledger.rows import LedgerRow, events_of
from django_pgnotify.ledger.taking import take_tick
from django_pgnotify.ledger.ticks import Tick
from django_pgnotify.relay.leader import Leader, lock_key, somebody_leads
from tests.pglisten import execute, publish
from tests.ticking import store_tick

pytestmark = pytest.mark.django_db(transaction=True)

T = TypeVar("T")


def on_connections(work: Callable[..., Awaitable[T]]) -> T:
    """Run with two connections."""

    async def run() -> T:
        async with (
            await connect("default", application_name="test") as one,
            await connect("default", application_name="test") as two,
        ):
            return await work(one, two)

    return async_to_sync(run)()


@pytest.fixture(autouse=True)
def caught_up() -> None:
    """Begin with nothing new."""
    call_command("pglisten", once=True)


def test_second_storer_of_the_same_number_is_told_to_step_down() -> None:
    async def store_twice(one: Any, two: Any) -> None:
        previous = await ticks.latest_tick(one, "public")
        assert await store_tick(one, "public", previous) is None
        await one.execute("SELECT pgnotify_publish('t', '1')")
        stored = await store_tick(one, "public", previous)
        assert stored is not None
        assert stored.number == previous.number + 1
        with pytest.raises(ticks.NotTheLatestTick):
            await store_tick(two, "public", previous)

    on_connections(store_twice)


def test_storers_at_the_same_moment_collide_in_the_key() -> None:
    async def collide(one: Any, two: Any) -> None:
        previous = await ticks.latest_tick(one, "public")
        await one.execute("SELECT pgnotify_publish('t', '1')")
        async with one.transaction():
            assert await store_tick(one, "public", previous) is not None
            await two.execute("SET lock_timeout = '50ms'")
            # It waits for the other's commit, and must then fail: neither goes unnoticed.
            with pytest.raises(ticks.errors.LockNotAvailable):
                await store_tick(two, "public", previous)
        with pytest.raises(ticks.NotTheLatestTick):
            await store_tick(two, "public", previous)

    on_connections(collide)


def test_tick_read_back_is_the_one_that_was_stored() -> None:
    async def read_back(one: Any, two: Any) -> None:
        previous = await ticks.latest_tick(one, "public")
        await one.execute("SELECT pgnotify_publish('t', '1')")
        stored = await store_tick(one, "public", previous)
        assert stored == await ticks.latest_tick(two, "public")
        assert stored == await ticks.tick_by_number(two, "public", previous.number + 1)
        assert await ticks.tick_by_number(two, "public", previous.number + 2) is None

    on_connections(read_back)


@pytest.mark.parametrize(
    "query",
    [
        taking._query("public", nothing_ran=True),
        taking._query("public", nothing_ran=False),
    ],
    ids=["take", "take after running ones"],
)
def test_search_for_news_goes_by_the_index_whatever_the_statistics_say(
    query: bytes,
) -> None:
    publish("t", 1)
    execute(
        "INSERT INTO django_pgnotify_ledger (topic, changes)"
        " SELECT 't', '[]' FROM generate_series(1, 20000)"
    )
    call_command("pglisten", once=True)

    async def plan(one: Any, two: Any) -> str:
        if b"few AS" in query:  # as the leader's session does, the only one that runs it
            await taking.plan_once(one)
        latest = await ticks.latest_tick(one, "public")
        parameters = {"n": latest.number, "previous": latest.snapshot, "bits": 0}
        rows = await (await one.execute(b"EXPLAIN " + query, parameters)).fetchall()
        return "\n".join(row[0] for row in rows)

    text = on_connections(plan)
    assert "Seq Scan on django_pgnotify_ledger" not in text
    assert "django_pgnotify_ledger_xid" in text


def test_mark_of_what_is_sent_never_goes_back() -> None:
    async def mark(one: Any, two: Any) -> None:
        latest = await ticks.latest_tick(one, "public")
        await ticks.mark_sent(one, "public", latest.number)
        await ticks.mark_sent(two, "public", 0)

    on_connections(mark)
    sent = execute("SELECT sent FROM django_pgnotify_state")[0]
    assert sent == execute("SELECT max(number) FROM django_pgnotify_tick")[0]


def test_leader_session_would_not_outlive_a_frozen_process() -> None:
    async def settings_of_leader() -> dict[str, str]:
        async with await Leader.open("default") as leader:
            assert await leader.try_lead()
            assert await somebody_leads(leader.connection, leader.schema)
            query = (
                "SELECT name, setting FROM pg_settings WHERE name IN ('idle_session_timeout',"
                " 'idle_in_transaction_session_timeout', 'synchronous_commit')"
            )
            return dict(await (await leader.connection.execute(query)).fetchall())

    assert async_to_sync(settings_of_leader)() == {
        "idle_session_timeout": "10000",
        "idle_in_transaction_session_timeout": "10000",
        "synchronous_commit": "on",
    }


def test_two_ledgers_have_leaders_of_their_own() -> None:
    assert lock_key("public") != lock_key("tenant")


async def rows_between(connection: Any, after: Tick, upto: Tick) -> list[LedgerRow]:
    rows = read_range(connection, "public", after, upto, None, hold=True)
    async with aclosing(rows):
        return [row async for row in rows]


def test_rows_that_come_with_a_tick_are_those_that_a_replay_gives() -> None:
    async def take(one: Any, two: Any) -> None:
        previous = await ticks.latest_tick(one, "public")
        for turn in range(3):
            # Begun before the others and committed after: in the next tick, by its snapshot.
            async with two.transaction():
                await two.execute("SELECT pgnotify_publish('t', '\"slow\"')")
                await one.execute("SELECT pgnotify_publish('t', %s)", [str(turn)])
                taken = await take_tick(one, "public", previous)
            assert taken is not None
            tick, rows = taken
            assert rows == await rows_between(two, previous, tick)
            assert len(rows) == (1 if turn == 0 else 2)
            previous = tick

    on_connections(take)


@pytest.mark.parametrize(("number", "size"), [(taking.ROWS_AT_ONCE + 1, 1), (3, 400_000)])
def test_many_or_large_rows_are_left_to_the_reader(number: int, size: int) -> None:
    execute(
        "INSERT INTO django_pgnotify_ledger (topic, changes)"
        " SELECT 't', repeat('x', %s) FROM generate_series(1, %s)",
        size,
        number,
    )

    async def take(one: Any, two: Any) -> None:
        previous = await ticks.latest_tick(one, "public")
        taken = await take_tick(one, "public", previous)
        assert taken is not None
        tick, rows = taken
        assert rows is None
        assert len(await rows_between(two, previous, tick)) == number

    on_connections(take)
    execute("TRUNCATE django_pgnotify_ledger")  # what stands in it is no JSON


async def next_tick(connection: Any) -> tuple[Tick, Tick]:
    """The latest tick, and the one that is stored now."""
    previous = await ticks.latest_tick(connection, "public")
    tick = await store_tick(connection, "public", previous)
    assert tick is not None
    return previous, tick


async def read_next_tick(one: Any, two: Any) -> list[LedgerRow]:
    previous, tick = await next_tick(one)
    return await rows_between(two, previous, tick)


def test_reader_holds_a_bounded_number_of_bytes_and_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bound, largest = 10_000, 30_000
    monkeypatch.setattr(reader, "BYTES_AT_ONCE", bound)
    monkeypatch.setattr(reader, "ROWS_AT_ONCE", 50)
    fetched: list[list[tuple[Any, ...]]] = []
    fetch = reader._fetch

    async def recorded(*args: Any) -> list[tuple[Any, ...]]:
        fetched.append(await fetch(*args))
        return fetched[-1]

    monkeypatch.setattr(reader, "_fetch", recorded)
    execute(
        "INSERT INTO django_pgnotify_ledger (topic, changes)"
        " SELECT 't', repeat('x', CASE WHEN n %% 10 = 0 THEN %s ELSE n END)"
        " FROM generate_series(1, 1000) AS n",
        largest,
    )

    rows = on_connections(read_next_tick)
    execute("TRUNCATE django_pgnotify_ledger")
    assert [row.id for row in rows] == sorted({row.id for row in rows})
    assert len(rows) == 1000
    pieces = [piece for piece in fetched if len(piece[0] if piece else ()) > 1]
    assert max(len(piece) for piece in pieces) <= 50
    texts = [[len(str(value)) for row in piece for value in row] for piece in pieces]
    assert max(sum(lengths) for lengths in texts) <= bound + largest + 50 * 100


@pytest.mark.parametrize("column", ["changes", "context"])
@pytest.mark.parametrize("trimmed", [False, True])
def test_reader_holds_a_bounded_number_of_bytes_whatever_is_large_or_trimmed_meanwhile(
    column: str, trimmed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    size, number = 100_000, 1500
    values = {"topic": "'t'", "changes": "'[]'", column: f"repeat('x', {size})"}
    execute(
        f"INSERT INTO django_pgnotify_ledger ({', '.join(values)})"
        f" SELECT {', '.join(values.values())} FROM generate_series(1, {number})"
    )
    declared = reader._fetches

    async def after_a_trim(connection: Any, *args: Any) -> Any:
        if trimmed:
            async with await connect("default", application_name="trimmer") as trimmer:
                await trimmer.execute("DELETE FROM django_pgnotify_ledger")
        return await declared(connection, *args)

    monkeypatch.setattr(reader, "_fetches", after_a_trim)

    async def read(one: Any, two: Any) -> list[int]:
        previous, tick = await next_tick(one)
        batches = read_batches(two, "public", previous, tick, None, hold=True, is_long=True)
        async with aclosing(batches):
            return [len(rows) async for rows in batches]

    numbers = on_connections(read)
    execute("TRUNCATE django_pgnotify_ledger")
    assert sum(numbers) == number
    assert max(numbers) <= max(reader.ROWS_PER_FETCH, reader.BYTES_AT_ONCE // size + 1)


@pytest.mark.parametrize("at", ["infinity", "-infinity", "12345-01-01", "0044-03-15 BC"])
def test_a_time_that_python_does_not_know_stops_nobody(at: str) -> None:
    execute(
        "INSERT INTO django_pgnotify_ledger (topic, changes, at)"
        """ VALUES ('t', '[{"kind":"insert","pk":1,"data":{},"groups":["g"]}]', %s)""",
        at,
    )

    (row,) = on_connections(read_next_tick)
    (event,) = events_of(row, using="default")
    assert event.at.tzinfo is not None


@pytest.mark.parametrize("style", ["ISO", "German", "SQL, DMY", "Postgres"])
@pytest.mark.parametrize("zone", ["UTC", "Asia/Kathmandu", "America/New_York"])
def test_the_time_of_a_row_is_the_same_text_in_every_session(zone: str, style: str) -> None:
    times = [
        datetime(2026, 1, 2, 3, 4, 5, 678900, UTC),
        datetime(999, 2, 3, 4, 5, 6, 1, UTC),
        datetime(2024, 10, 27, 1, 30, tzinfo=UTC),
    ]
    for at in times:
        execute(
            "INSERT INTO django_pgnotify_ledger (topic, changes, at) VALUES ('t', '[]', %s)", at
        )

    async def read(one: Any, two: Any) -> list[LedgerRow]:
        previous, tick = await next_tick(one)
        query = "SELECT set_config('TimeZone', %s, false), set_config('DateStyle', %s, false)"
        await two.execute(query, [zone, style])
        return await rows_between(two, previous, tick)

    assert [row.at for row in on_connections(read)] == [format_time(at) for at in times]


def test_catching_up_ends_while_others_write_all_the_time() -> None:
    parameters = connection.get_connection_params()
    for key in ("cursor_factory", "context"):
        parameters.pop(key, None)
    done = threading.Event()

    def write() -> None:
        with psycopg.connect(**parameters, autocommit=True) as writer:
            while not done.is_set():
                writer.execute("SELECT pgnotify_publish('t', '1')")

    with ThreadPoolExecutor() as pool:
        writing = [pool.submit(write) for _ in range(3)]
        try:
            for _ in range(3):
                call_command("pglisten", once=True)
        finally:
            done.set()
        for one in writing:
            one.result()
