"""Writers ring only for a relay that sleeps, and one that falls asleep misses nobody."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from itertools import count
from typing import Any

import psycopg
import pytest
from asgiref.sync import async_to_sync, sync_to_async
from channels.layers import BaseChannelLayer
from django.core.management import call_command
from django.db import connection

from django_pgnotify.connecting import connect
from django_pgnotify.ledger import ticks
from django_pgnotify.ledger.bell import BELL_PG_CHANNEL, gate_key
from django_pgnotify.relay import gate as module
from django_pgnotify.relay import pace
from django_pgnotify.relay.gate import Gate, State
from tests.pglisten import StartPglisten, execute, publish, receive_data
from tests.servers.process import free_port
from tests.ticking import store_tick

pytestmark = pytest.mark.django_db(transaction=True)

WRITE = "SELECT pgnotify_publish('t', '1')"
WRITE_TO_MANY = (
    "SELECT pgnotify_publish('t', '1', ARRAY(SELECT 'g' || n FROM generate_series(1, 50) AS n))"
)
MARKER = "test_gate_marker"
PATIENCE_SECONDS = 20.0
LEADER_TIMEOUT_SECONDS = 10.0
"""As shipped."""
GATE_IS_SHUT = (
    "SELECT count(*) > 0 FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ExclusiveLock'"
    " AND (classid::bigint << 32) | objid::bigint = %s"
)


@pytest.fixture(autouse=True)
def caught_up() -> None:
    """Begin with nothing new."""
    call_command("pglisten", once=True)


@pytest.fixture
def writer() -> Iterator[psycopg.Connection[Any]]:
    parameters = connection.get_connection_params()
    for key in ("cursor_factory", "context"):
        parameters.pop(key, None)
    with closing(psycopg.connect(**parameters, autocommit=True)) as opened:
        yield opened


@pytest.fixture
def rings(writer: psycopg.Connection[Any]) -> Iterator[Callable[[], int]]:
    """Counts the bells since the last call, up to a marker that is sent after them."""
    with closing(
        psycopg.connect(writer.info.dsn, password=writer.info.password, autocommit=True)
    ) as ear:
        ear.execute(f"LISTEN {BELL_PG_CHANNEL}; LISTEN {MARKER}")

        def count() -> int:
            ear.execute("SELECT pg_notify(%s, '')", [MARKER])
            heard = 0
            for notification in ear.notifies(timeout=PATIENCE_SECONDS):
                if notification.channel == MARKER:
                    return heard
                heard += not notification.payload
            raise AssertionError("the marker did not come")

        yield count


@pytest.fixture
def shut() -> Iterator[psycopg.Connection[Any]]:
    """A session that holds the gate as a relay does."""
    parameters = connection.get_connection_params()
    for key in ("cursor_factory", "context"):
        parameters.pop(key, None)
    with closing(psycopg.connect(**parameters, autocommit=True)) as holder:
        holder.execute("SELECT pg_advisory_lock(%s)", [gate_key("public")])
        yield holder


def test_a_commit_rings_for_a_relay_that_sleeps(
    writer: psycopg.Connection[Any], rings: Callable[[], int]
) -> None:
    writer.execute(WRITE)
    assert rings() == 1


def test_a_commit_does_not_ring_while_the_gate_is_shut(
    writer: psycopg.Connection[Any],
    rings: Callable[[], int],
    shut: psycopg.Connection[Any],
) -> None:
    writer.execute(WRITE)
    assert rings() == 0
    shut.execute("SELECT pg_advisory_unlock_all()")
    writer.execute(WRITE)
    assert rings() == 1


def test_a_gate_that_is_waited_for_is_shut_for_newcomers(
    writer: psycopg.Connection[Any],
    rings: Callable[[], int],
) -> None:
    with psycopg.connect(writer.info.dsn, password=writer.info.password) as early:
        early.execute(WRITE)  # it will ring, and holds the gate open until it has

        async def wait_behind_it() -> None:
            gate = await Gate.open("default", "public")
            async with gate.connection:
                gate._shut(0.0)
                await asyncio.to_thread(wait_until, is_shut)
                await asyncio.to_thread(writer.execute, WRITE)
                assert await asyncio.to_thread(rings) == 0
                await asyncio.to_thread(early.commit)
                assert await asyncio.to_thread(rings) == 1
                await gate._reopen()

        async_to_sync(wait_behind_it)()


def test_nobody_rings_for_a_relay_that_is_still_catching_up(
    start_pglisten: StartPglisten, writer: psycopg.Connection[Any], rings: Callable[[], int]
) -> None:
    writer.execute(WRITE_TO_MANY)
    assert rings() == 1
    # Its layer is down, lanes and queue are full: it does not come to the end of what there is.
    nowhere = {"hosts": [f"redis://127.0.0.1:{free_port()}/0"]}
    layer = {"BACKEND": "channels_redis.core.RedisChannelLayer", "CONFIG": nowhere}
    pglisten = start_pglisten(layers={"default": layer}, QUEUE_SIZE=1)
    wait_until(is_shut)
    writer.execute(WRITE)
    assert rings() == 0
    pglisten.process.kill()
    wait_until(lambda: not is_shut())
    writer.execute(WRITE)
    assert rings() == 1


def test_a_gate_that_was_shut_behind_an_open_writer_opens_at_once(
    writer: psycopg.Connection[Any],
) -> None:
    with psycopg.connect(writer.info.dsn, password=writer.info.password) as early:
        early.execute(WRITE)

        async def shut_and_open() -> None:
            gate = await Gate.open("default", "public")
            async with gate.connection, asyncio.timeout(LEADER_TIMEOUT_SECONDS / 2):
                # Its backend is busy elsewhere when it is asked, and told at once to forget it:
                # the server does so in this order, and what it was told first is lost.
                backend = gate.connection.info.backend_pid
                os.kill(backend, signal.SIGSTOP)
                asyncio.get_running_loop().call_later(0.05, os.kill, backend, signal.SIGCONT)
                async with gate.kept_shut():
                    pass
            assert not await asyncio.to_thread(is_shut)

        async_to_sync(shut_and_open)()


def test_a_gate_is_kept_shut_however_long_a_writer_that_rang_is_open(
    writer: psycopg.Connection[Any], rings: Callable[[], int], settings: Any
) -> None:
    settings.PGNOTIFY = {**getattr(settings, "PGNOTIFY", {}), "LEADER_TIMEOUT_SECONDS": 0.5}
    with psycopg.connect(writer.info.dsn, password=writer.info.password) as early:
        early.execute(WRITE)

        async def keep_shut() -> None:
            gate = await Gate.open("default", "public")
            backend = gate.connection.info.backend_pid
            asked = (
                "SELECT extract(epoch FROM query_start)::text FROM pg_stat_activity"
                f" WHERE pid = {backend} AND wait_event_type = 'Lock'"
            )
            seen: set[Any] = set()

            def asked_again() -> bool:
                seen.update(writer.execute(asked).fetchall())
                return len(seen) > 1

            async with gate.connection, gate.kept_shut():
                await asyncio.to_thread(wait_until, asked_again)
                await asyncio.to_thread(wait_until, is_shut)
                await asyncio.to_thread(early.commit)
                assert await asyncio.to_thread(rings) == 1
                await asyncio.to_thread(writer.execute, WRITE)
                assert await asyncio.to_thread(rings) == 0

        async_to_sync(keep_shut)()


def test_a_savepoint_that_is_rolled_back_takes_its_ring_with_it_and_the_next_statement_rings(
    writer: psycopg.Connection[Any], rings: Callable[[], int]
) -> None:
    with writer.transaction(), writer.transaction(force_rollback=True):
        writer.execute(WRITE)
    assert rings() == 0
    with writer.transaction():
        with writer.transaction(force_rollback=True):
            writer.execute(WRITE)
        writer.execute(WRITE)
    assert rings() == 1


def test_a_role_whose_bell_is_off_neither_rings_nor_touches_the_gate(
    writer: psycopg.Connection[Any], rings: Callable[[], int]
) -> None:
    writer.execute("SET django_pgnotify.bell = off")
    with writer.transaction():
        writer.execute(WRITE)
        locks = writer.execute(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"
        )
        assert locks.fetchone() == (0,)
    assert rings() == 0


def is_shut() -> bool:
    try:
        return bool(execute(GATE_IS_SHUT, gate_key("public"))[0])
    finally:
        connection.close()


def wait_until(happened: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not happened():
        assert time.monotonic() < end, happened


class Sleeper:
    """What the ticker does, without the relaying: looks, and lets the gate say when."""

    def __init__(self, gate: Gate, leader: Any, tick: ticks.Tick) -> None:
        self.gate = gate
        self.bell = asyncio.Event()
        self._leader = leader
        self.tick = tick

    async def look(self) -> bool:
        self.bell.clear()
        found = await store_tick(self._leader, "public", self.tick)
        self.tick = found or self.tick
        return found is not None

    async def wait(self, *, rows: int = 0) -> None:
        await self.gate.wait(self.bell, rows=rows, took=0.0)


def with_sleeper(work: Callable[[Sleeper], Awaitable[None]]) -> None:
    async def run() -> None:
        gate = await Gate.open("default", "public")
        async with gate.connection, await connect("default", application_name="test") as leader:
            await work(Sleeper(gate, leader, await ticks.latest_tick(leader, "public")))
            await gate.leave()

    async_to_sync(run)()


async def fall_asleep(sleeper: Sleeper) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while sleeper.gate.state is not State.ASLEEP:
            await sleeper.look()
            await sleeper.wait()


async def wake_up(sleeper: Sleeper) -> None:
    sleeper.gate._shut(asyncio.get_running_loop().time() - module.AWAKE_SECONDS)
    await asyncio.to_thread(wait_until, is_shut)


def test_a_writer_that_found_the_gate_shut_keeps_the_relay_from_sleeping_until_it_has_ended(
    writer: psycopg.Connection[Any], rings: Callable[[], int]
) -> None:
    async def doze(sleeper: Sleeper) -> None:
        await wake_up(sleeper)
        await asyncio.to_thread(writer.execute, "BEGIN")
        await asyncio.to_thread(writer.execute, WRITE)
        while sleeper.gate.state is not State.DOZING:
            await sleeper.wait()
        for _ in range(10):
            assert not await sleeper.look()
            await sleeper.wait()
            assert sleeper.gate.state is State.DOZING
        await asyncio.to_thread(writer.execute, "COMMIT")
        assert await asyncio.to_thread(rings) == 0
        await fall_asleep(sleeper)
        # The transaction has ended, so the look that follows must see what it wrote.
        seen = sleeper.tick.number
        await sleeper.look()
        assert sleeper.tick.number > seen or await saw(sleeper)

    async def saw(sleeper: Sleeper) -> bool:
        cursor = await sleeper.gate.connection.execute(
            "SELECT bool_and(pg_visible_in_snapshot(xid, %s::pg_snapshot))"
            " FROM django_pgnotify_ledger",
            [sleeper.tick.snapshot],
        )
        row = await cursor.fetchone()
        return bool(row and row[0])

    with_sleeper(doze)


def test_a_predecessor_that_still_shuts_the_gate_keeps_the_relay_looking(
    shut: psycopg.Connection[Any], writer: psycopg.Connection[Any]
) -> None:
    async def doze(sleeper: Sleeper) -> None:
        for _ in range(10):
            await sleeper.look()
            await sleeper.wait()
            assert sleeper.gate.state is State.DOZING
        await asyncio.to_thread(shut.close)
        await fall_asleep(sleeper)

    with_sleeper(doze)


def test_a_gate_that_ends_while_it_waits_leaves_no_backend_waiting(
    writer: psycopg.Connection[Any],
) -> None:
    waiting = (
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s AND state = 'active'"
    )
    writer.execute("BEGIN")
    writer.execute(WRITE)

    async def leave(sleeper: Sleeper) -> None:
        await wake_up(sleeper)
        await sleeper.gate.leave()

    with_sleeper(leave)
    wait_until(lambda: execute(waiting, module.APPLICATION_NAME) == (0,))
    writer.execute("ROLLBACK")


def test_a_time_limit_for_statements_is_not_for_the_one_who_waits(
    writer: psycopg.Connection[Any],
) -> None:
    execute("ALTER DATABASE test_pgnotify SET statement_timeout = '20ms'")
    try:
        writer.execute("BEGIN")
        writer.execute(WRITE)

        async def wait_longer(sleeper: Sleeper) -> None:
            await wake_up(sleeper)
            await asyncio.to_thread(writer.execute, "SELECT pg_sleep(0.2)")
            assert sleeper.gate._shutting is not None
            assert not sleeper.gate._shutting.done()

        with_sleeper(wait_longer)
    finally:
        execute("ALTER DATABASE test_pgnotify RESET statement_timeout")
        writer.execute("ROLLBACK")


def test_sleeping_at_once_would_miss_that_writer(
    writer: psycopg.Connection[Any],
    rings: Callable[[], int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The test before this one can fail."""

    async def nobody_is_waited_for(self: Gate) -> bool:
        return True

    monkeypatch.setattr(Gate, "_all_have_ended", nobody_is_waited_for)

    async def sleep_at_once(sleeper: Sleeper) -> None:
        await wake_up(sleeper)
        await asyncio.to_thread(writer.execute, "BEGIN")
        await asyncio.to_thread(writer.execute, WRITE)
        await fall_asleep(sleeper)
        assert not await sleeper.look()
        await asyncio.to_thread(writer.execute, "COMMIT")
        assert await asyncio.to_thread(rings) == 0

    with_sleeper(sleep_at_once)


def test_a_transaction_of_a_stranger_that_stays_open_does_not_keep_it_looking(
    writer: psycopg.Connection[Any],
) -> None:
    async def give_up_dozing(sleeper: Sleeper) -> None:
        await asyncio.to_thread(writer.execute, "BEGIN")
        await asyncio.to_thread(writer.execute, "SELECT pg_current_xact_id()")
        await wake_up(sleeper)
        while sleeper.gate._opened_xid is None:
            await sleeper.wait()
        sleeper.gate._opened_at -= module.DOZE_SECONDS
        waiting = asyncio.create_task(sleeper.wait())
        # It waits for the bell now, as long as POLL_SECONDS.
        await asyncio.wait({waiting}, timeout=module.DOZE_PAUSE_SECONDS * 10)
        assert not waiting.done()
        sleeper.bell.set()
        await waiting

    with_sleeper(give_up_dozing)


def test_a_sleeper_that_has_found_something_looks_again_only_for_a_bell() -> None:
    async def wait_for_the_bell(sleeper: Sleeper) -> None:
        await fall_asleep(sleeper)
        waiting = asyncio.create_task(sleeper.wait(rows=1))
        await asyncio.wait({waiting}, timeout=module.DOZE_PAUSE_SECONDS * 10)
        assert not waiting.done()
        sleeper.bell.set()
        await waiting

    with_sleeper(wait_for_the_bell)


def test_bells_that_ring_during_each_look_wake_it_up_and_quiet_lets_it_sleep() -> None:
    async def toss(sleeper: Sleeper) -> None:
        await fall_asleep(sleeper)
        for _ in range(module.SHUT_RINGS):
            assert sleeper.gate.state is State.ASLEEP
            sleeper.bell.set()
            await sleeper.wait(rows=1)
        assert sleeper.gate.state is State.AWAKE
        await fall_asleep(sleeper)
        assert not await asyncio.to_thread(is_shut)

    with_sleeper(toss)


def test_who_writes_at_any_moment_of_the_gate_is_seen_before_the_slow_poll(
    monkeypatch: pytest.MonkeyPatch, settings: Any, writer: psycopg.Connection[Any]
) -> None:
    """Many rounds of waking and sleeping, with writers that commit whenever it suits them and
    wait until they have been seen: one that is missed would wait for the poll, an hour."""
    settings.PGNOTIFY = {"POLL_SECONDS": 3600}
    monkeypatch.setattr(module, "AWAKE_SECONDS", 0.0)
    monkeypatch.setattr(module, "SHUT_RINGS", 1)
    monkeypatch.setattr(pace, "RATE_SECONDS", 0.005)
    rounds, writers, enough_naps = 60, 3, 4
    has_napped = threading.Event()
    seen, lock = {"ids": 0}, threading.Condition()

    def write(number: int) -> None:
        dsn, password = writer.info.dsn, writer.info.password
        with psycopg.connect(dsn, password=password) as mine:
            for turn in count():
                if turn >= rounds and has_napped.is_set():
                    return
                mine.execute(WRITE)
                mine.execute("SELECT pg_sleep(%s)", [(turn * (number + 3) % 7) / 1000])
                [wrote] = mine.execute(
                    "SELECT max(id) FROM django_pgnotify_ledger"
                    " WHERE xid = pg_current_xact_id()"
                ).fetchone() or [0]
                mine.commit()
                with lock:
                    assert lock.wait_for(lambda wrote=wrote: wrote in seen, PATIENCE_SECONDS)

    async def look(sleeper: Sleeper) -> None:
        ear = await connect("default", application_name="test")
        async with ear:
            await ear.execute(f"LISTEN {BELL_PG_CHANNEL}")
            listening = asyncio.create_task(hear(ear, sleeper.bell))
            threads = [asyncio.to_thread(write, number) for number in range(writers)]
            writing = asyncio.gather(*threads)
            naps = 0
            while not writing.done():
                found = await sleeper.look()
                if found:
                    await tell(sleeper)
                before = sleeper.gate.state
                waiting = asyncio.ensure_future(sleeper.wait(rows=int(found)))
                await asyncio.wait({waiting, writing}, return_when=asyncio.FIRST_COMPLETED)
                if not waiting.done():
                    waiting.cancel()
                naps += before is not State.ASLEEP and sleeper.gate.state is State.ASLEEP
                if naps >= enough_naps:
                    has_napped.set()
            listening.cancel()
            await writing

    async def hear(ear: Any, bell: asyncio.Event) -> None:
        async for _ in ear.notifies():
            bell.set()

    async def tell(sleeper: Sleeper) -> None:
        cursor = await sleeper._leader.execute(
            "SELECT id FROM django_pgnotify_ledger"
            " WHERE pg_visible_in_snapshot(xid, %s::pg_snapshot)",
            [sleeper.tick.snapshot],
        )
        ids = [row[0] async for row in cursor]
        with lock:
            seen.update(dict.fromkeys(ids, 1))
            lock.notify_all()

    with_sleeper(look)


def test_a_busy_relay_shuts_the_gate_and_opens_it_when_quiet(
    start_pglisten: StartPglisten,
    pg_layer: BaseChannelLayer,
    writer: psycopg.Connection[Any],
) -> None:
    pglisten = start_pglisten()
    pglisten.wait_for("listening")
    writer.execute(f"{WRITE} FROM generate_series(1, 2000)")
    wait_until(is_shut)
    wait_until(lambda: not is_shut())

    async def hear() -> list[Any]:
        channel = await pg_layer.new_channel()
        await pg_layer.group_add("t", channel)
        await sync_to_async(publish)("t", "last")
        return await receive_data(pg_layer, channel, "last")

    assert async_to_sync(hear)()[-1] == "last"
