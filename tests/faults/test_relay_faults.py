"""pglisten is killed at each step, loses connections mid-batch, or leads beside another."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from asgiref.sync import async_to_sync, sync_to_async
from channels.layers import BaseChannelLayer
from django.db import connections

from django_pgnotify.conf import Defaults
from tests.own_server import wait_until
from tests.pglisten import (
    StartPglisten,
    execute,
    publish,
    receive_data,
)
from tests.servers.redis import Redis

pytestmark = pytest.mark.django_db(transaction=True)

QUICK: dict[str, Any] = {"RECONNECT_MAX_SECONDS": 0.3, "POLL_SECONDS": 0.2}
TICKS_WITHOUT_GAP = "SELECT count(*) = max(number) - min(number) + 1 FROM django_pgnotify_tick"
WAITS_FOR_LOCK = (
    "SELECT count(*) > 0 FROM pg_stat_activity WHERE datname = current_database()"
    " AND application_name ~ '^django_pgnotify (leader|reader)$' AND wait_event_type = 'Lock'"
)
UNSENT = (
    "SELECT sent < (SELECT max(number) FROM django_pgnotify_tick) FROM django_pgnotify_state"
)
TERMINATE_ALL = (
    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
    " WHERE datname = current_database() AND application_name ~ %s"
)
PUBLISH = "SELECT pgnotify_publish('t', %s::jsonb)"


def own_session(alias: str = "default") -> psycopg.Connection[Any]:
    """A session that no Django knows of."""
    parameters = connections[alias].get_connection_params()
    wanted = ("dbname", "user", "password", "host", "port")
    return psycopg.connect(**{key: parameters[key] for key in wanted if key in parameters})


STEPS = {
    # Which of the two depends on what it had seen when the lock came.
    "look or read": "LOCK TABLE django_pgnotify_ledger IN ACCESS EXCLUSIVE MODE",
    "store": "LOCK TABLE django_pgnotify_tick IN SHARE MODE",
    "record": "LOCK TABLE django_pgnotify_state IN SHARE MODE",
}


@pytest.mark.parametrize("step", STEPS)
def test_sigkill_at_any_step_loses_nothing(
    start_pglisten: StartPglisten, pg_layer: BaseChannelLayer, step: str
) -> None:
    first = start_pglisten(**QUICK)
    first.wait_for("listening")

    def kill_in_the_step() -> None:
        with own_session() as blocker:
            publish("t", "killed")
            blocker.execute(STEPS[step])
            if step != "look or read":
                publish("t", "killed too")
            wait_until(lambda: execute(WAITS_FOR_LOCK)[0], f"pglisten stands at {step}")
            first.process.send_signal(signal.SIGKILL)
        start_pglisten(**QUICK).wait_for("listening")

    async def see() -> list[Any]:
        channel = await pg_layer.new_channel()
        await pg_layer.group_add("t", channel)
        await sync_to_async(kill_in_the_step)()
        await sync_to_async(publish)("t", "last")
        return await receive_data(pg_layer, channel, "last")

    found = list(dict.fromkeys(async_to_sync(see)()))
    assert found == ["killed", *(["killed too"] if step != "look or read" else []), "last"]
    assert execute(TICKS_WITHOUT_GAP) == (True,)


@pytest.mark.redis
def test_sigkill_between_store_and_send_loses_nothing(
    start_pglisten: StartPglisten, start_redis: Callable[[], Redis]
) -> None:
    from channels_redis.core import RedisChannelLayer

    redis = start_redis()
    layers = {
        "default": {
            "BACKEND": "channels_redis.core.RedisChannelLayer",
            "CONFIG": {"hosts": [redis.url]},
        }
    }
    first = start_pglisten(layers=layers, **QUICK)
    first.wait_for("listening")

    def kill() -> None:
        # What tests before this one have left is sent again, unless it is recorded.
        wait_until(lambda: not execute(UNSENT)[0], "all that was before is known to be sent")
        redis.freeze()
        publish("t", "killed")
        wait_until(lambda: execute(UNSENT)[0], "a tick is stored and can't be sent")
        first.process.send_signal(signal.SIGKILL)
        first.wait()
        redis.thaw()
        start_pglisten(layers=layers, **QUICK).wait_for("listening")
        publish("t", "last")

    async def see() -> list[Any]:
        layer = RedisChannelLayer(hosts=[redis.url])
        channel = await layer.new_channel()
        await layer.group_add("t", channel)
        await sync_to_async(kill)()
        found = await receive_data(layer, channel, "last")
        await layer.close_pools()
        return found

    assert list(dict.fromkeys(async_to_sync(see)())) == ["killed", "last"]


def test_connections_terminated_in_the_middle_of_batches_lose_nothing_and_repeat_nothing_new(
    start_pglisten: StartPglisten, pg_layer: BaseChannelLayer
) -> None:
    start_pglisten(**QUICK).wait_for("listening")
    count = 400

    def write_and_terminate() -> None:
        for number in range(count):
            publish("t", number)
            if number % 40 == 20:
                execute(TERMINATE_ALL, "^django_pgnotify (listener|leader|reader)$")

    async def see() -> list[Any]:
        channel = await pg_layer.new_channel()
        await pg_layer.group_add("t", channel)
        await sync_to_async(write_and_terminate)()
        return await receive_data(pg_layer, channel, count - 1)

    assert list(dict.fromkeys(async_to_sync(see)())) == list(range(count))
    assert execute(TICKS_WITHOUT_GAP) == (True,)


def test_leader_that_loses_its_lock_connection_only_is_followed_without_a_gap(
    start_pglisten: StartPglisten, pg_layer: BaseChannelLayer
) -> None:
    assert Defaults.LEADER_TIMEOUT_SECONDS == 10.0
    assert Defaults.POLL_SECONDS == 1.0
    quick = {**QUICK, "RECONNECT_MIN_SECONDS": 2.0, "RECONNECT_MAX_SECONDS": 2.0}
    first = start_pglisten(**quick)
    first.wait_for("listening")
    second = start_pglisten(**quick)
    second.wait_for("standing by")

    def take_the_lock_connection() -> None:
        leaders = (
            "SELECT count(pg_terminate_backend(pid)) FROM pg_locks JOIN pg_stat_activity"
            " USING (pid) WHERE locktype = 'advisory' AND datname = current_database()"
            " AND application_name = 'django_pgnotify leader'"
        )
        assert execute(leaders) == (1,)
        publish("t", "meanwhile")
        second.wait_for("listening")
        first.wait_for("standing by")
        publish("t", "last")

    async def see() -> list[Any]:
        channel = await pg_layer.new_channel()
        await pg_layer.group_add("t", channel)
        await sync_to_async(take_the_lock_connection)()
        return await receive_data(pg_layer, channel, "last")

    assert list(dict.fromkeys(async_to_sync(see)())) == ["meanwhile", "last"]
    assert execute(TICKS_WITHOUT_GAP) == (True,)


# Transactions of others -------------------------------------------------------------------


@pytest.mark.django_db(transaction=True, databases=["default", "other"])
def test_long_and_orphaned_prepared_transactions_of_strangers_delay_nobody(
    start_pglisten: StartPglisten, pg_layer: BaseChannelLayer
) -> None:
    # No poll for a minute: what arrives was not waited for.
    start_pglisten(POLL_SECONDS=60.0).wait_for("listening")
    begin = "SELECT pg_current_xact_id()"
    with own_session() as same, own_session("other") as other, own_session() as preparing:
        same.execute(begin)
        other.execute(begin)
        preparing.execute("SET django_pgnotify.bell = off")
        preparing.execute(PUBLISH, ['"prepared"'])
        preparing.execute("PREPARE TRANSACTION 'orphan'")
        try:
            beginning = time.monotonic()
            assert see_after(pg_layer, lambda: [publish("t", n) for n in range(5)], 4) == [
                *range(5)
            ]
            assert time.monotonic() - beginning < 10
        finally:
            # Not in a transaction block, and not before the other side has looked.
            execute("COMMIT PREPARED 'orphan'")


def test_prepared_transaction_with_the_bell_off_is_delivered_after_commit_prepared(
    start_pglisten: StartPglisten, pg_layer: BaseChannelLayer
) -> None:
    start_pglisten(**QUICK).wait_for("listening")
    with own_session() as preparing:
        preparing.execute(PUBLISH, [json.dumps("bell on")])
        with pytest.raises(psycopg.errors.FeatureNotSupported, match="NOTIFY"):
            preparing.execute("PREPARE TRANSACTION 'forbidden'")
        preparing.rollback()
        preparing.execute("SET django_pgnotify.bell = off")
        preparing.execute(PUBLISH, [json.dumps("two-phase")])
        preparing.execute("PREPARE TRANSACTION 'allowed'")

        def marker() -> None:
            publish("t", "not committed yet")

        def finish() -> None:
            execute("COMMIT PREPARED 'allowed'")

        assert see_after(pg_layer, marker, "not committed yet") == ["not committed yet"]
        assert see_after(pg_layer, finish, "two-phase") == ["two-phase"]
        preparing.rollback()


def see_after(layer: BaseChannelLayer, work: Callable[[], Any], last: Any) -> list[Any]:
    """What a subscriber gets, up to the last one, of what this work commits."""

    async def see() -> list[Any]:
        channel = await layer.new_channel()
        await layer.group_add("t", channel)
        await sync_to_async(work)()
        return await receive_data(layer, channel, last)

    return async_to_sync(see)()
