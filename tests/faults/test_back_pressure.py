"""A channel layer that stalls fills nothing: memory stays flat, and LISTEN is drained."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Callable
from typing import Any
from urllib.request import urlopen

import psutil
import pytest
from asgiref.sync import async_to_sync, sync_to_async
from channels_redis.core import RedisChannelLayer
from django.db import transaction

from django_pgnotify import notify
from tests.pglisten import StartPglisten, execute
from tests.servers.process import free_port
from tests.servers.redis import Redis

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.redis]

EVENTS = int(os.environ.get("PGNOTIFY_FLOOD_EVENTS", "200000"))
EVENTS_PER_ROW = 1000
FLAT_BYTES = 30_000_000
"""What the second half of the flood may add to the relay's memory."""
FLOOD = """
    SELECT pgnotify_append('flood', NULL, (
        SELECT '[' || string_agg('{"kind":"message","pk":null,"data":{"n":' || n || ',"pad":"'
            || repeat('x', 200) || '"},"groups":["flood"]}', ',') || ']'
        FROM generate_series(chunk * %s, chunk * %s + %s) AS n), NULL)
    FROM generate_series(%s, %s) AS chunk
"""
UNSIGNED = """
    SELECT count(pg_notify('django_pgnotify_live', n || repeat('x', 7000)))
    FROM generate_series(1, 5000) AS n
"""
"""35 MB that nobody has signed, through the connection that must not be left unread."""
LIVE_EVENTS = 3000
"""Three times what the queue of live events holds."""
PATIENCE_SECONDS = 60 + EVENTS / 1000
CONFIG = {"capacity": 1_000_000, "expiry": 600}


def wait_until(happened: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.1)


def flood(first: int, last: int) -> None:
    """Write the events of these thousands in one transaction."""
    per_row = EVENTS_PER_ROW
    execute(FLOOD, per_row, per_row, per_row - 1, first, last)


class Watched:
    """A pglisten whose memory and metrics can be read."""

    def __init__(self, start_pglisten: StartPglisten, redis: Redis) -> None:
        self.port = free_port()
        config = {"hosts": [redis.url], **CONFIG}
        backend = "channels_redis.core.RedisChannelLayer"
        layers = {"default": {"BACKEND": backend, "CONFIG": config}}
        self.process = start_pglisten("--metrics-port", str(self.port), layers=layers)
        self.process.wait_for("listening")

    def metric(self, name: str) -> float:
        with urlopen(f"http://127.0.0.1:{self.port}/metrics") as answer:
            found = re.search(rf"^pgnotify_{name} (\S+)$", answer.read().decode(), re.MULTILINE)
        assert found is not None
        return float(found[1])

    def memory_when_stalled(self) -> int:
        """Its memory once the reader waits: then no frame has been put for a while."""
        depths: list[float] = []

        def waits() -> bool:
            depths.append(self.metric("queue_depth"))
            return len(depths) > 15 and depths[-1] > 0 and len(set(depths[-15:])) == 1

        wait_until(waits)
        return int(psutil.Process(self.process.process.pid).memory_info().rss)


@pytest.mark.timeout(2 * PATIENCE_SECONDS)
def test_flood_over_a_stalled_layer_waits_in_the_ledger_and_arrives_in_order(
    start_pglisten: StartPglisten, start_redis: Callable[[], Redis]
) -> None:
    redis = start_redis()
    pglisten = Watched(start_pglisten, redis)
    rows = EVENTS // EVENTS_PER_ROW

    def stall() -> None:
        usage = execute("SELECT pg_notification_queue_usage()")[0]
        redis.freeze()
        flood(0, rows // 2 - 1)
        execute(UNSIGNED)
        half = pglisten.memory_when_stalled()
        flood(rows // 2, rows - 1)
        execute(UNSIGNED)
        with transaction.atomic():
            for number in range(LIVE_EVENTS):
                notify("typing", number, groups=["room"], durable=False)
        queued = "SELECT pg_notification_queue_usage() - %s < 0.001"
        wait_until(lambda: execute(queued, usage) == (True,))
        assert pglisten.memory_when_stalled() - half < FLAT_BYTES
        wait_until(lambda: pglisten.metric("live_dropped_total") > 0)
        redis.thaw()

    async def see() -> tuple[list[int], list[dict[str, Any]]]:
        layer = RedisChannelLayer(hosts=[redis.url], **CONFIG)
        flooded, room = await layer.new_channel(), await layer.new_channel()
        await layer.group_add("flood", flooded)
        await layer.group_add("room", room)
        await sync_to_async(stall)()
        numbers: list[int] = []
        live: list[dict[str, Any]] = []
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not numbers or numbers[-1] != EVENTS - 1:
                frame = await layer.receive(flooded)
                numbers += [event["data"]["n"] for event in frame["events"]]
            while not live or live[-1]["events"][-1]["data"] != LIVE_EVENTS - 1:
                live.append(await layer.receive(room))
        await layer.close_pools()
        return numbers, live

    numbers, live = async_to_sync(see)()
    # A frame that Redis took while it was frozen may be sent once more.
    assert list(dict.fromkeys(numbers)) == list(range(EVENTS))
    seen = [event["data"] for frame in live for event in frame["events"]]
    assert len(seen) < LIVE_EVENTS
    assert seen == sorted(seen)
    # Each event that was pushed out has left a hole in the numbers of the group's frames.
    assert live[-1]["seq"] > len(live)
