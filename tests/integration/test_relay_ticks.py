"""Ticks are stored by one session only, in order, durably."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest
from asgiref.sync import async_to_sync
from django.core.management import call_command

from django_pgnotify.connecting import connect
from django_pgnotify.ledger import ticks
from django_pgnotify.relay.leader import Leader, lock_key, somebody_leads
from tests.pglisten import execute, publish

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
        assert await ticks.store_tick(one, "public", previous) is None
        await one.execute("SELECT pgnotify_publish('t', '1')")
        stored = await ticks.store_tick(one, "public", previous)
        assert stored is not None
        assert stored.number == previous.number + 1
        with pytest.raises(ticks.NotTheLatestTick):
            await ticks.store_tick(two, "public", previous)

    on_connections(store_twice)


def test_storers_at_the_same_moment_collide_in_the_key() -> None:
    async def collide(one: Any, two: Any) -> None:
        previous = await ticks.latest_tick(one, "public")
        await one.execute("SELECT pgnotify_publish('t', '1')")
        async with one.transaction():
            assert await ticks.store_tick(one, "public", previous) is not None
            await two.execute("SET lock_timeout = '50ms'")
            # It waits for the other's commit, and must then fail: neither goes unnoticed.
            with pytest.raises(ticks.errors.LockNotAvailable):
                await ticks.store_tick(two, "public", previous)
        with pytest.raises(ticks.NotTheLatestTick):
            await ticks.store_tick(two, "public", previous)

    on_connections(collide)


def test_tick_read_back_is_the_one_that_was_stored() -> None:
    async def read_back(one: Any, two: Any) -> None:
        previous = await ticks.latest_tick(one, "public")
        await one.execute("SELECT pgnotify_publish('t', '1')")
        stored = await ticks.store_tick(one, "public", previous)
        assert stored == await ticks.latest_tick(two, "public")
        assert stored == await ticks.tick_by_number(two, "public", previous.number + 1)
        assert await ticks.tick_by_number(two, "public", previous.number + 2) is None

    on_connections(read_back)


def test_search_for_news_goes_by_the_index_whatever_the_statistics_say() -> None:
    publish("t", 1)
    execute(
        "INSERT INTO django_pgnotify_ledger (topic, changes)"
        " SELECT 't', '[]' FROM generate_series(1, 20000)"
    )
    call_command("pglisten", once=True)

    async def plan(one: Any, two: Any) -> str:
        latest = await ticks.latest_tick(one, "public")
        query = ticks._in_schema("EXPLAIN " + ticks.STORE_IF_NEW, "public")
        parameters = {"n": latest.number, "previous": latest.snapshot, "bits": 0}
        rows = await (await one.execute(query, parameters)).fetchall()
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
