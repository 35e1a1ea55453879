"""The last hop: whatever happens to the channel layer or the ledger, a browser misses nothing."""

from __future__ import annotations

import asyncio
import itertools
import logging
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from channels.layers import channel_layers, get_channel_layer
from django.db import connections
from django.test import override_settings
from django.utils.module_loading import import_string
from redis import Redis as RedisClient

from django_pgnotify import Event
from django_pgnotify.consumers import access, membership
from django_pgnotify.consumers.membership import SILENT_HEARTBEATS, Membership
from django_pgnotify.ending import end
from django_pgnotify.groups import HUB_GROUP, wire_name
from tests.hub_kit import (
    Browser,
    OpenConsumer,
    execute,
    publish,
    publish_now,
    query,
    relay,
    relay_now,
    tell,
)
from tests.servers.fixtures import StartProxy
from tests.servers.proxy import TcpProxy
from tests.servers.redis import Redis
from tests.shop.models import Customer

POSTGRES = "django_pgnotify.layers.PostgresChannelLayer"
REDIS = "channels_redis.core.RedisChannelLayer"
PUBSUB = "channels_redis.pubsub.RedisPubSubChannelLayer"

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "other"])

QUICK = {
    "RECONNECT_MIN_SECONDS": 0.01,
    "RECONNECT_MAX_SECONDS": 0.1,
    "HEARTBEAT_SECONDS": 0.2,
}

on_each_layer = pytest.mark.parametrize(
    "path",
    [
        POSTGRES,
        pytest.param(REDIS, marks=pytest.mark.redis),
        pytest.param(PUBSUB, marks=pytest.mark.redis),
    ],
    ids=lambda path: path.rpartition(".")[2],
)


@pytest.fixture
async def use_layer() -> AsyncIterator[Callable[..., Any]]:
    """Make a layer the default one: ``use_layer(path, **config)``."""
    used = []
    before = get_channel_layer()

    def use(path: str, **config: Any) -> Any:
        layer = import_string(path)(prefix=f"test-{uuid.uuid4().hex[:8]}", **config)
        channel_layers.set("default", layer)
        used.append(layer)
        return layer

    yield use
    for layer in used:
        if hasattr(layer, "close_pools"):
            await layer.close_pools()
        if hasattr(layer, "close"):
            await layer.close()
    channel_layers.set("default", before)


def hosts_of(path: str, request: pytest.FixtureRequest) -> dict[str, list[str]]:
    """Where the layer's Redis is, if it has one."""
    return {} if path == POSTGRES else {"hosts": [request.getfixturevalue("redis").url]}


async def everything(browser: Browser, count: int) -> list[Any]:
    """The data of the next so many events; resets are no part of it."""
    seen: list[Any] = []
    while len(seen) < count:
        seen += await browser.data()
    return seen


@on_each_layer
@override_settings(PGNOTIFY=QUICK)
async def test_nothing_is_missed_over_a_layer_that_drops_at_capacity(
    path: str, use_layer: Callable[..., Any], request: pytest.FixtureRequest
) -> None:
    capacity = {} if path == PUBSUB else {"capacity": 2}
    use_layer(path, **hosts_of(path, request), **capacity)
    await relay()
    async with Browser() as browser:
        position = (await browser.subscribe("orders"))["position"]
        for number in range(20):
            await publish(number, "orders", "others")
            if number % 4 == 0:
                await relay()
        await relay()
        assert await everything(browser, 20) == list(range(20))
    async with Browser() as browser:
        await browser.subscribe("orders", since=position)
        assert await everything(browser, 20) == list(range(20))


@on_each_layer
@override_settings(PGNOTIFY=QUICK)
async def test_a_hub_that_heard_nothing_for_long_hears_again(
    path: str, use_layer: Callable[..., Any], request: pytest.FixtureRequest
) -> None:
    use_layer(path, **hosts_of(path, request))
    await relay()
    async with Browser() as browser:
        await browser.subscribe("orders")
        # No pglisten runs meanwhile. It begins to suspect the layer, more than once.
        await asyncio.sleep(3 * SILENT_HEARTBEATS * QUICK["HEARTBEAT_SECONDS"])
        await tell(1, "orders")
        assert await browser.data() == [1]


@pytest.mark.redis
@override_settings(PGNOTIFY=QUICK)
async def test_a_group_that_redis_has_forgotten_hears_again_beside_a_busy_one(
    use_layer: Callable[..., Any], start_redis: Callable[[], Redis]
) -> None:
    redis = await sync_to_async(start_redis)()
    layer = use_layer(REDIS, hosts=[redis.url])
    await relay()

    async def keep_busy() -> None:
        for number in itertools.count():
            frame = {"type": "pgnotify.frame", "v": 1, "group": "busy", "run": "r"}
            await layer.group_send(
                wire_name("busy", "default"), {**frame, "seq": number, "events": []}
            )
            await asyncio.sleep(0.05)

    async with Browser() as browser, Browser() as other:
        await browser.subscribe("orders")
        await tell(1, "orders")
        assert await browser.data() == [1]
        with RedisClient.from_url(redis.url) as client:
            await sync_to_async(client.flushall)()
        await other.subscribe("busy")
        busy = asyncio.create_task(keep_busy())
        await tell(2, "orders")  # to nobody
        assert await browser.data() == [2]
        await end([busy])


@pytest.mark.redis
@override_settings(PGNOTIFY=QUICK)
async def test_a_redis_that_was_replaced_without_a_word_is_joined_anew(
    use_layer: Callable[..., Any],
    redis: Redis,
    start_proxy: StartProxy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(membership, "JOIN_SECONDS", 0.5)
    proxy = await sync_to_async(start_proxy)(redis.url)
    use_layer(REDIS, hosts=[proxy.url(redis.url)])
    await relay()
    async with Browser() as browser, Browser() as other:
        await browser.subscribe("orders")
        await tell(1, "orders")
        assert await browser.data() == [1]
        proxy.bury()
        assert (await other.subscribe("others"))["type"] == "subscribed"
        await tell(2, "orders", "others")
        assert await browser.data() == [2]
        assert await other.data() == [2]


@pytest.mark.redis
@override_settings(PGNOTIFY=QUICK)
async def test_restart_of_redis_loses_nothing(
    use_layer: Callable[..., Any], start_redis: Callable[[], Redis]
) -> None:
    redis = await sync_to_async(start_redis)()
    use_layer(REDIS, hosts=[redis.url])
    await relay()
    async with Browser() as browser:
        await browser.subscribe("orders")
        await tell(1, "orders")
        assert await browser.data() == [1]
        await sync_to_async(redis.stop)()
        await publish(2, "orders")
        await sync_to_async(redis.start)()
        await relay()
        assert await browser.data() == [2]
        await tell(3, "orders")
        assert await browser.data() == [3]


@pytest.mark.redis
@override_settings(PGNOTIFY=QUICK)
async def test_redis_that_was_flushed_loses_nothing(
    use_layer: Callable[..., Any], start_redis: Callable[[], Redis]
) -> None:
    redis = await sync_to_async(start_redis)()
    layer = use_layer(REDIS, hosts=[redis.url])
    await relay()
    async with Browser() as browser:
        await browser.subscribe("orders")
        await layer.flush()
        await publish(1, "orders")
        await relay()
        assert await browser.data() == [1]


@override_settings(PGNOTIFY=QUICK)
async def test_hub_outlives_the_loss_of_its_database_connections() -> None:
    await relay()
    async with Browser() as browser:
        position = (await browser.subscribe("orders"))["position"]
        await tell(1, "orders")
        assert await browser.data() == [1]
        await query(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name LIKE %s",
            "django_pgnotify hub%",
        )
        assert (await browser.subscribe("orders", since=position))["recovered"] is True
        assert await browser.data() == [1]
        await tell(2, "orders")
        assert await browser.data() == [2]


async def apart(call: Callable[..., Any], *args: Any) -> None:
    """Call something on a database connection that is not that of the ORM calls of consumers."""

    def run() -> None:
        try:
            call(*args)
        finally:
            connections.close_all()

    await asyncio.to_thread(run)


@override_settings(PGNOTIFY=QUICK)
async def test_visible_that_asks_over_a_lost_connection_is_asked_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Asks(OpenConsumer):
        async def visible(self, events: list[Event]) -> list[Event]:
            events[0].data["tries"] = events[0].data.get("tries", 0) + 1  # type: ignore[index, union-attr]
            await Customer.objects.acount()
            return events

    await relay()
    async with Browser(Asks) as browser:
        await browser.subscribe("orders")
        await tell({"number": 0}, "orders")
        assert await browser.data() == [{"number": 0, "tries": 1}]
        (backend,) = (await query("SELECT pg_backend_pid()"))[0]
        await apart(execute, "SELECT pg_terminate_backend(%s)", backend)
        for number in (1, 2):
            await apart(publish_now, {"number": number}, "orders")
            await apart(relay_now)
            assert await browser.data() == [{"number": number, "tries": 1}]
    assert caplog.text.count("visible() can't ask the database, tries again") == 1


@pytest.fixture
def proxied(start_proxy: Callable[[str], TcpProxy], postgres: Any) -> Any:
    """A proxy before the database; ``with proxied.used():`` makes new connections go through."""
    proxy = start_proxy(postgres.url())
    settings = connections["default"].settings_dict
    before = settings["HOST"], settings["PORT"]
    yield proxy
    settings["HOST"], settings["PORT"] = before


def redirect(proxy: TcpProxy) -> None:
    connections["default"].settings_dict.update(HOST="127.0.0.1", PORT=str(proxy.port))


@override_settings(PGNOTIFY=QUICK)
async def test_subscribed_waits_for_a_database_that_is_away(proxied: TcpProxy) -> None:
    await relay()
    redirect(proxied)
    proxied.refuse()
    async with Browser() as browser:
        await browser.send(type="subscribe", group="orders")
        assert await browser.waiting() == []
        proxied.resume()
        assert (await browser.receive())["type"] == "subscribed"


@override_settings(PGNOTIFY=QUICK | {"CONNECT_TIMEOUT_SECONDS": 1})
async def test_look_at_a_frozen_database_is_given_up_and_tried_again(
    proxied: TcpProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "LOOK_SECONDS", 0.3)
    await relay()
    redirect(proxied)
    async with Browser() as browser:
        await browser.subscribe("first")
        proxied.silence()
        await browser.send(type="subscribe", group="orders")
        assert await browser.waiting() == []
        # Longer than a look may take, so that it has been given up.
        await asyncio.sleep(0.5)
        proxied.cut()
        proxied.resume()
        assert (await browser.receive())["group"] == "orders"


@override_settings(PGNOTIFY=QUICK | {"CONNECT_TIMEOUT_SECONDS": 1})
async def test_what_asks_over_a_connection_that_died_unnoticed_asks_over_another_one(
    proxied: TcpProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As behind a pooler, which says that it has cancelled the query; no answer ever comes."""
    async with Browser() as browser:
        position = (await browser.subscribe("orders"))["position"]
    await tell("missed", "orders")
    redirect(proxied)
    async with Browser() as first, Browser() as second:
        await first.subscribe("orders", since=position)
        assert await first.data() == ["missed"]
        for patience in ("LOOK_SECONDS", "READ_SECONDS"):
            monkeypatch.setattr(access, patience, 0.3)
        proxied.bury()
        await second.subscribe("orders", since=position)
        assert await second.data() == ["missed"]


@override_settings(PGNOTIFY=QUICK)
async def test_connection_lost_during_a_replay_repeats_it_whole(proxied: TcpProxy) -> None:
    async with Browser() as browser:
        position = (await browser.subscribe("orders"))["position"]
    await query(
        "SELECT pgnotify_publish('t', to_jsonb(repeat('x', 1000000)), ARRAY['orders'])"
        " FROM generate_series(1, 30)"
    )
    await relay()
    redirect(proxied)
    async with Browser() as browser:
        await browser.send(type="subscribe", group="orders", since=position)
        ids: list[str] = []
        cut = False
        while True:
            frame = await browser.receive()
            ids += [event["id"] for event in frame.get("events", ())]
            if frame["type"] == "events" and not frame.get("more"):
                break
            if ids and not cut:
                cut = True
                proxied.cut()
        assert len(set(ids)) == 30
        assert ids[-30:] == sorted(set(ids), key=lambda id: int(id.partition("-")[0]))


@pytest.mark.redis
async def test_redis_that_is_silent_for_longer_than_its_client_waits_is_no_outage(
    redis: Redis, use_layer: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """redis-py 8 gives up a read after 5 seconds, channels_redis waits as long for a message."""
    layer = use_layer(REDIS, hosts=[{"address": redis.url, "socket_timeout": 0.1}])
    caplog.set_level(logging.DEBUG, "django_pgnotify.consumers.membership")
    messages: asyncio.Queue[Any] = asyncio.Queue()
    outages: list[None] = []
    membership = Membership(
        "default", received=messages.put_nowait, joined=lambda: outages.append(None)
    )
    running = asyncio.create_task(membership.run())
    async with asyncio.timeout(20):
        while caplog.text.count("hub heard nothing") < 3:  # noqa: ASYNC110 - logs have no event
            await asyncio.sleep(0.01)
        await layer.group_send(HUB_GROUP, {"type": "after"})
        assert (await messages.get())["type"] == "after"
    running.cancel()
    assert not outages
    assert "lost the channel layer" not in caplog.text
