"""pglisten goes on after whatever happens to its connections and its channel layer."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from channels.layers import BaseChannelLayer
from channels_redis.core import RedisChannelLayer
from django.db import connection

from tests.pglisten import (
    NO_REDIS,
    WAIT_SECONDS,
    Process,
    StartPglisten,
    execute,
    publish,
    receive_data,
)
from tests.servers.fixtures import StartProxy
from tests.servers.postgres import Postgres
from tests.servers.redis import Redis

pytestmark = pytest.mark.django_db(transaction=True)

TERMINATE = (
    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
    " WHERE datname = current_database() AND application_name = %s"
)


def events_around(
    layer: BaseChannelLayer, pglisten: Process, fault: Callable[[], Any]
) -> list[Any]:
    """What a subscriber gets of events before, during and after a fault, each once."""

    async def see() -> list[Any]:
        channel = await layer.new_channel()
        await layer.group_add("t", channel)
        await sync_to_async(publish)("t", "before")
        found = await receive_data(layer, channel, "before")
        await sync_to_async(fault)()
        await sync_to_async(publish)("t", "meanwhile")
        found += await receive_data(layer, channel, "meanwhile")
        await sync_to_async(publish)("t", "after")
        return found + await receive_data(layer, channel, "after")

    pglisten.wait_for("listening")
    return list(dict.fromkeys(async_to_sync(see)()))


ALL = ["before", "meanwhile", "after"]


@pytest.mark.parametrize("role", ["listener", "leader", "reader", "gate"])
def test_events_go_on_after_a_backend_was_terminated(
    start_pglisten: StartPglisten, pg_layer: BaseChannelLayer, role: str
) -> None:
    pglisten = start_pglisten()

    def terminate() -> None:
        assert execute(TERMINATE, f"django_pgnotify {role}") == (1,)

    assert events_around(pg_layer, pglisten, terminate) == ALL
    pglisten.wait_for("disconnected")
    pglisten.wait_for("listening")


def test_network_that_falls_silent_is_noticed_by_the_bell_that_does_not_come_back(
    start_pglisten: StartPglisten,
    start_proxy: StartProxy,
    postgres: Postgres,
    pg_layer: BaseChannelLayer,
) -> None:
    name = str(connection.settings_dict["NAME"])
    proxy = start_proxy(postgres.url())
    listener = {"host": "127.0.0.1", "port": proxy.port, "dbname": name}
    pglisten = start_pglisten(
        LISTENER=listener, HEARTBEAT_SECONDS=0.3, CONNECT_TIMEOUT_SECONDS=2
    )

    def fall_silent() -> None:
        proxy.silence()
        pglisten.wait_for("disconnected")
        proxy.resume()

    assert events_around(pg_layer, pglisten, fall_silent) == ALL


def test_frozen_leader_loses_its_place_and_repeats_nothing_new_when_it_thaws(
    start_pglisten: StartPglisten, pg_layer: BaseChannelLayer
) -> None:
    first = start_pglisten(LEADER_TIMEOUT_SECONDS=1.0)
    first.wait_for("listening")
    second = start_pglisten(LEADER_TIMEOUT_SECONDS=1.0, POLL_SECONDS=0.1)
    second.wait_for("standing by")

    def freeze() -> None:
        first.process.send_signal(signal.SIGSTOP)
        second.wait_for("listening")
        first.process.send_signal(signal.SIGCONT)
        first.wait_for("disconnected")
        first.wait_for("standing by")

    first.lines.put("listening")
    assert events_around(pg_layer, first, freeze) == ALL
    numbers = execute(
        "SELECT count(*), max(number) - min(number) + 1 FROM django_pgnotify_tick"
    )
    assert numbers[0] == numbers[1]


def test_rows_without_a_bell_are_found_by_the_poll(
    start_pglisten: StartPglisten, pg_layer: BaseChannelLayer
) -> None:
    pglisten = start_pglisten(POLL_SECONDS=0.1)
    assert (
        events_around(pg_layer, pglisten, lambda: execute("SET django_pgnotify.bell = off"))
        == ALL
    )
    execute("RESET django_pgnotify.bell")


@pytest.mark.redis
@pytest.mark.parametrize("kind", ["core.RedisChannelLayer", "pubsub.RedisPubSubChannelLayer"])
def test_events_reach_redis(start_pglisten: StartPglisten, redis: Redis, kind: str) -> None:
    from django.utils.module_loading import import_string

    backend = f"channels_redis.{kind}"
    layers = {"default": {"BACKEND": backend, "CONFIG": {"hosts": [redis.url]}}}
    start_pglisten(layers=layers).wait_for("listening")

    async def see() -> list[Any]:
        layer = import_string(backend)(hosts=[redis.url])
        channel = await layer.new_channel()
        await layer.group_add("t", channel)
        for number in range(3):
            await sync_to_async(publish)("t", number)
        found = await receive_data(layer, channel, 2)
        await _close(layer)
        return found

    assert async_to_sync(see)() == [0, 1, 2]


@pytest.mark.redis
def test_events_wait_in_order_while_redis_is_down(
    start_pglisten: StartPglisten, start_redis: Callable[[], Redis]
) -> None:
    redis = start_redis()
    layers = {
        "default": {
            "BACKEND": "channels_redis.core.RedisChannelLayer",
            "CONFIG": {"hosts": [redis.url]},
        }
    }
    pglisten = start_pglisten(layers=layers, RECONNECT_MAX_SECONDS=0.3)
    pglisten.wait_for("listening")
    redis.stop()
    for number in range(5):
        publish("t", number)
    pglisten.wait_for("does not take frames")
    redis.start()

    async def see() -> list[Any]:
        layer = RedisChannelLayer(hosts=[redis.url])
        channel = await layer.new_channel()
        await layer.group_add("t", channel)
        await sync_to_async(pglisten.wait_for)("takes frames again")
        await sync_to_async(publish)("t", "last")
        found = await receive_data(layer, channel, "last")
        await _close(layer)
        return found

    # What was sent between Redis' return and our joining went to a group without members.
    found = async_to_sync(see)()
    assert found == [*range(5), "last"][-len(found) :]


def test_redis_that_is_down_does_not_keep_pglisten_from_leaving(
    start_pglisten: StartPglisten,
) -> None:
    publish("t", 1)
    pglisten = start_pglisten(layers=NO_REDIS, SHUTDOWN_SECONDS=0.5)
    pglisten.wait_for("does not take frames")
    wait_until(lambda: ticks_that_wait() > 0)
    pglisten.process.send_signal(signal.SIGTERM)
    assert pglisten.wait() == 0
    assert "not drained" in pglisten.output()
    assert ticks_that_wait() > 0


def wait_until(happened: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT_SECONDS
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.05)


def ticks_that_wait() -> int:
    sent, stored = execute(
        "SELECT sent, (SELECT max(number) FROM django_pgnotify_tick) FROM django_pgnotify_state"
    )
    return int(stored) - int(sent)


def test_redis_that_is_down_is_noticed_before_anything_happens(
    start_pglisten: StartPglisten,
) -> None:
    start_pglisten(layers=NO_REDIS).wait_for("does not take frames")


def test_live_events_arrive_in_frames_with_run_and_seq(
    start_pglisten: StartPglisten, pg_layer: BaseChannelLayer
) -> None:
    from django_pgnotify import notify

    start_pglisten().wait_for("listening")

    async def see() -> list[dict[str, Any]]:
        channel = await pg_layer.new_channel()
        await pg_layer.group_add("room", channel)
        frames = []
        for number in range(3):
            send = sync_to_async(notify)
            await send("typing", {"n": number}, groups=["room"], durable=False)
            async with asyncio.timeout(WAIT_SECONDS):
                frames.append(await pg_layer.receive(channel))
        return frames

    frames = async_to_sync(see)()
    assert [frame["events"][0]["data"] for frame in frames] == [{"n": 0}, {"n": 1}, {"n": 2}]
    assert [frame["seq"] for frame in frames] == [1, 2, 3]
    assert len({frame["run"] for frame in frames}) == 1
    assert "tick" not in frames[0]


def test_forged_live_payload_and_bell_reach_nobody(
    start_pglisten: StartPglisten, pg_layer: BaseChannelLayer
) -> None:
    start_pglisten().wait_for("listening")

    async def see() -> list[Any]:
        channel = await pg_layer.new_channel()
        await pg_layer.group_add("t", channel)
        forged = '{"s": "forged", "e": {"id": "x", "data": "forged"}, "g": ["t"]}'
        await sync_to_async(execute)("SELECT pg_notify('django_pgnotify_live', %s)", forged)
        await sync_to_async(execute)("SELECT pg_notify('django_pgnotify_bell', 'forged')")
        await sync_to_async(publish)("t", "marker")
        return await receive_data(pg_layer, channel, "marker")

    assert async_to_sync(see)() == ["marker"]


async def _close(layer: Any) -> None:
    if hasattr(layer, "close_pools"):
        await layer.close_pools()
    else:
        await layer.flush()
