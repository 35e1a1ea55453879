"""What only our channel layer promises: its cost, its connections, its counters."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import threading
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import psycopg
import pytest
from asgiref.sync import async_to_sync
from channels.consumer import AsyncConsumer
from channels.exceptions import ChannelFull
from channels.generic.websocket import AsyncJsonWebsocketConsumer
from channels.layers import get_channel_layer
from channels.testing import WebsocketCommunicator
from channels.worker import Worker as ChannelsWorker
from django.db import connection as django_connection
from django.db import transaction

from django_pgnotify.connecting import connect
from django_pgnotify.exceptions import LedgerMissing, ListenerRefused
from django_pgnotify.layers import PostgresChannelLayer, sending
from django_pgnotify.layers.envelope import Envelope, Kind, groups_pg_channel
from django_pgnotify.layers.storing import SWEEP_EVERY
from tests.layer_kit import drained, numbered, received, wait_for_connections
from tests.sessions import open_session

pytestmark = pytest.mark.django_db


@pytest.fixture
def prefix() -> str:
    return f"test-{uuid.uuid4().hex[:8]}"


@pytest.fixture
async def admin(prefix: str) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    """A stranger's connection to the same database."""
    connection = await connect("default", application_name="admin")
    yield connection
    await connection.close()


# cost


async def test_a_group_send_is_one_notify_however_many_members(
    prefix: str, admin: psycopg.AsyncConnection[Any]
) -> None:
    layer, other = PostgresChannelLayer(prefix=prefix), PostgresChannelLayer(prefix=prefix)
    pg_channel = groups_pg_channel(prefix)
    for member in [await layer.new_channel() for _ in range(30)]:
        await layer.group_add("room", member)
    await admin.execute(f'LISTEN "{pg_channel}"')
    await other.group_send("room", numbered(1))
    await admin.execute("SELECT pg_notify(%s, 'marker')", [pg_channel])
    payloads = []
    async for notification in admin.notifies(timeout=10):
        if notification.payload == "marker":
            break
        payloads.append(notification.payload)
    assert len(payloads) == 1


def test_a_process_holds_two_connections() -> None:
    layer = PostgresChannelLayer(prefix="two")

    async def use() -> int:
        for _ in range(20):
            name = await layer.new_channel()
            await layer.group_add("room", name)
            await layer.group_send("room", numbered(1))
            await received(layer, name)
        return await asyncio.to_thread(count)

    def count() -> int:
        try:
            return wait_for_connections(2)
        finally:
            django_connection.close()

    assert asyncio.run(use()) == 2


def test_calls_from_sync_code_leave_no_connection() -> None:
    layer = PostgresChannelLayer(prefix="sync")
    for n in range(50):
        async_to_sync(layer.group_send)("room", numbered(n))
    assert wait_for_connections(0) == 0


def test_a_loop_closed_by_hand_leaves_no_connection_and_no_task() -> None:
    layer = PostgresChannelLayer(prefix="by-hand")
    loop = asyncio.new_event_loop()
    name = loop.run_until_complete(layer.new_channel())
    loop.run_until_complete(layer.group_add("room", name))
    loop.close()
    gc.collect()  # would warn of a task or a connection that was left
    assert loop.is_closed()
    assert wait_for_connections(0) == 0


async def test_a_closed_layer_can_be_used_again(prefix: str) -> None:
    layer = PostgresChannelLayer(prefix=prefix)
    await layer.new_channel()
    await layer.close()
    name = await layer.new_channel()
    await layer.send(name, numbered(1))
    assert await received(layer, name) == numbered(1)


@pytest.mark.parametrize("size", [10, 10_000])
async def test_a_cancelled_send_leaves_the_layer_usable(prefix: str, size: int) -> None:
    here, there = PostgresChannelLayer(prefix=prefix), PostgresChannelLayer(prefix=prefix)
    name = await here.new_channel()
    await here.group_add("room", name)
    for turns in range(10):
        sending = asyncio.create_task(there.group_send("room", {"text": "x" * size}))
        for _ in range(turns):
            await asyncio.sleep(0)
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
    await there.group_send("room", {"marker": True})
    messages = [await received(here, name)]
    while "marker" not in messages[-1]:
        messages.append(await received(here, name))
    assert len(messages) <= 11


@pytest.mark.parametrize("text", ["x", "a\x00b", "\x00bytes", "x" * 20_000, "\x00" * 3000])
async def test_an_encoded_message_arrives_as_if_the_layer_had_encoded_it(
    prefix: str, text: str
) -> None:
    here, there = PostgresChannelLayer(prefix=prefix), PostgresChannelLayer(prefix=prefix)
    name = await here.new_channel()
    await here.group_add("room", name)
    message = {"text": text, text[:50]: [text[:50]]}
    await there.group_send_encoded("room", json.dumps(message))
    assert await received(here, name) == message


async def test_equal_messages_sent_at_once_all_arrive_in_order(prefix: str) -> None:
    # PostgreSQL makes one of two equal notifications of a transaction.
    here, there = PostgresChannelLayer(prefix=prefix), PostgresChannelLayer(prefix=prefix)
    name = await here.new_channel()
    await here.group_add("room", name)
    numbers = [n // 2 for n in range(2 * 40)] + [0, 1, 0, 1]
    await asyncio.gather(*(there.group_send("room", numbered(n)) for n in numbers))
    assert [(await received(here, name))["n"] for _ in numbers] == numbers


async def test_messages_that_wait_together_share_statements(
    prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    statements: list[Any] = []
    fetched = sending._fetched

    async def counted(connection: Any, statement: Any) -> Any:
        statements.append(statement.query)
        return await fetched(connection, statement)

    here, there = PostgresChannelLayer(prefix=prefix), PostgresChannelLayer(prefix=prefix)
    name = await here.new_channel()
    await here.group_add("room", name)
    await there.group_send("room", numbered(0))
    monkeypatch.setattr(sending, "_fetched", counted)
    await asyncio.gather(*(there.group_send("room", numbered(n)) for n in range(1, 50)))
    assert [(await received(here, name))["n"] for _ in range(50)] == list(range(50))
    assert len(statements) == 1


# transactions


@pytest.mark.django_db(transaction=True)
def test_what_a_rolled_back_transaction_sent_is_sent(prefix: str) -> None:
    layer = PostgresChannelLayer(prefix=prefix)
    subscribed, sent = threading.Event(), threading.Event()

    def roll_back() -> None:
        subscribed.wait(10)
        try:
            with transaction.atomic():
                async_to_sync(layer.group_send)("room", numbered(1))
                transaction.set_rollback(True)
        finally:
            django_connection.close()
            sent.set()

    async def subscribe() -> dict[str, Any]:
        name = await layer.new_channel()
        await layer.group_add("room", name)
        subscribed.set()
        return await received(layer, name)

    thread = threading.Thread(target=roll_back)
    thread.start()
    assert asyncio.run(subscribe()) == numbered(1)
    thread.join()


# losses


async def test_what_exceeds_the_capacity_elsewhere_is_dropped_newest_first_and_counted(
    prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    here = PostgresChannelLayer(prefix=prefix, capacity=3)
    there = PostgresChannelLayer(prefix=prefix, capacity=3)
    full, free = await here.new_channel(), await here.new_channel()
    for n in range(10):
        await there.send(full, numbered(n))
    await there.send(free, numbered(99))
    assert await received(here, free) == numbered(99)
    assert [(await received(here, full))["n"] for _ in range(3)] == [0, 1, 2]
    assert (here.dropped, there.dropped) == (7, 0)
    dropped = [r for r in caplog.records if getattr(r, "action", "") == "layer_dropped"]
    assert len(dropped) == 1


def test_a_full_name_of_another_event_loop_of_the_process_raises_channel_full(
    prefix: str,
) -> None:
    layer = PostgresChannelLayer(prefix=prefix, capacity=2)

    async def fill() -> None:
        name = await layer.new_channel()
        await layer.send(name, numbered(1))
        await layer.send(name, numbered(2))
        with pytest.raises(ChannelFull):
            await asyncio.to_thread(async_to_sync(layer.send), name, numbered(3))

    # In a thread, so that async_to_sync finds no loop to go back to.
    asyncio.run(fill())


async def test_a_send_to_a_name_that_nobody_made_is_counted(prefix: str) -> None:
    layer = PostgresChannelLayer(prefix=prefix)
    await layer.send("specific.nobody!name", numbered(1))
    assert layer.dropped == 1


async def test_a_name_of_another_process_cannot_be_read_here(prefix: str) -> None:
    here, there = PostgresChannelLayer(prefix=prefix), PostgresChannelLayer(prefix=prefix)
    name = await there.new_channel()
    with pytest.raises(ValueError, match="new_channel"):
        await here.receive(name)


async def test_a_name_of_another_process_joins_and_leaves_a_group_there(prefix: str) -> None:
    here, there = PostgresChannelLayer(prefix=prefix), PostgresChannelLayer(prefix=prefix)
    name = await there.new_channel()
    await here.group_add("room", name)
    await here.group_send("room", numbered(1))
    assert await received(there, name) == numbered(1)
    await here.group_discard("room", name)
    await here.group_send("room", numbered(2))
    assert await drained(there, name) == []


async def test_a_flush_reaches_the_members_of_other_processes(prefix: str) -> None:
    here, there = PostgresChannelLayer(prefix=prefix), PostgresChannelLayer(prefix=prefix)
    name = await there.new_channel()
    await there.group_add("room", name)
    await here.flush()
    await here.group_send("room", numbered(1))
    await here.send(name, {"type": "marker"})
    assert (await received(there, name))["type"] == "marker"


# trust


async def test_two_prefixes_do_not_hear_each_other(prefix: str) -> None:
    mine = PostgresChannelLayer(prefix=prefix)
    other = PostgresChannelLayer(prefix=prefix + ":other")
    name = await mine.new_channel()
    await mine.group_add("room", name)
    await other.group_send("room", numbered(1))
    await other.send("plain", numbered(1))
    await other.flush()
    await mine.group_send("room", numbered(2))
    assert await received(mine, name) == numbered(2)


async def test_a_process_with_the_old_secret_is_heard_during_rotation(
    prefix: str, settings: Any
) -> None:
    here, there = PostgresChannelLayer(prefix=prefix), PostgresChannelLayer(prefix=prefix)
    name = await here.new_channel()
    envelope = Envelope(origin="0", number=0, kind=Kind.GROUP, target="room", body='{"n":1}')
    await here.group_add("room", name)
    payload = envelope.sealed(groups_pg_channel(prefix))
    settings.SECRET_KEY_FALLBACKS = [settings.SECRET_KEY]
    settings.SECRET_KEY = "the new secret"
    await notify(groups_pg_channel(prefix), payload)
    await there.group_send("room", {"n": 2})
    assert [(await received(here, name))["n"] for _ in range(2)] == [1, 2]
    assert here.refused == 0


async def notify(pg_channel: str, payload: str) -> None:
    connection = await connect("default", application_name="stranger")
    await connection.execute("SELECT pg_notify(%s, %s)", [pg_channel, payload])
    await connection.close()


# the table


async def test_expired_rows_are_deleted_by_those_who_insert(
    prefix: str, admin: psycopg.AsyncConnection[Any]
) -> None:
    layer = PostgresChannelLayer(prefix=prefix, capacity=10_000)
    await admin.execute(
        "DELETE FROM django_pgnotify_message"
    )  # what others left, and expires too
    await admin.execute(
        "INSERT INTO django_pgnotify_message (channel, body, expires_at)"
        " SELECT %s, '', now() - interval '1 hour' FROM generate_series(1, 1000)",
        [f"{prefix}:expired"],
    )
    for n in range(SWEEP_EVERY * 2):
        await layer.send("plain", numbered(n))
    cursor = await admin.execute(
        "SELECT count(*) FROM django_pgnotify_message WHERE channel = %s",
        [f"{prefix}:expired"],
    )
    assert await cursor.fetchone() == (0,)


@pytest.fixture
def latin1_database(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty database without our table, in another encoding."""
    settings_dict = django_connection.settings_dict
    name = f"{settings_dict['NAME']}_latin1"
    with open_session(autocommit=True, dbname="postgres") as server:
        server.execute(f'DROP DATABASE IF EXISTS "{name}"')
        server.execute(
            f"CREATE DATABASE \"{name}\" TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'"
        )
        with monkeypatch.context() as patch:
            patch.setitem(settings_dict, "NAME", name)
            yield
        server.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


async def test_a_missing_table_is_named_and_small_messages_go_on(
    latin1_database: None, prefix: str
) -> None:
    layer = PostgresChannelLayer(prefix=prefix)
    with pytest.raises(LedgerMissing, match="migrate"):
        await layer.send("plain", numbered(1))
    with pytest.raises(LedgerMissing, match="migrate"):
        await layer.group_send("room", {"text": "x" * 10_000})
    name = await layer.new_channel()
    await layer.group_add("room", name)
    await layer.group_send("room", numbered(1))
    assert await received(layer, name) == numbered(1)


async def test_any_text_travels_through_a_latin1_database(
    latin1_database: None, prefix: str
) -> None:
    here, there = PostgresChannelLayer(prefix=prefix), PostgresChannelLayer(prefix=prefix)
    name = await here.new_channel()
    await here.group_add("room", name)
    message = {"text": "\u4e16\u754c \U0001f600 \x00"}
    await there.group_send("room", message)
    assert await received(here, name) == message


# configuration


async def test_the_listener_may_have_options_of_its_own(prefix: str, settings: Any) -> None:
    settings.PGNOTIFY = {"LISTENER": {"PORT": "1"}, "CONNECT_TIMEOUT_SECONDS": 1}
    settings.PGNOTIFY |= {"HEARTBEAT_SECONDS": 0.5}
    layer = PostgresChannelLayer(prefix=prefix)
    await layer.group_send("room", numbered(1))
    with pytest.raises(ListenerRefused, match="port 1 failed"):
        await layer.new_channel()


@pytest.mark.pgbouncer
async def test_behind_a_transaction_pooler_a_direct_listener_hears(
    prefix: str, request: pytest.FixtureRequest, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings_dict = django_connection.settings_dict
    direct = {"host": settings_dict["HOST"], "port": settings_dict["PORT"]}
    server = request.getfixturevalue("postgres").url()
    pool = request.getfixturevalue("start_pgbouncer")(server)
    monkeypatch.setitem(settings_dict, "HOST", "127.0.0.1")
    monkeypatch.setitem(settings_dict, "PORT", pool.port)

    settings.PGNOTIFY = {"HEARTBEAT_SECONDS": 0.5, "CONNECT_TIMEOUT_SECONDS": 2}
    deaf = PostgresChannelLayer(prefix=prefix)
    with pytest.raises(ListenerRefused, match="pooler"):
        await deaf.new_channel()

    settings.PGNOTIFY |= {"LISTENER": direct, "HEARTBEAT_SECONDS": 5}
    here, there = PostgresChannelLayer(prefix=prefix), PostgresChannelLayer(prefix=prefix)
    name = await here.new_channel()
    await here.group_add("room", name)
    await there.group_send("room", {"text": "x" * 10_000})
    assert (await received(here, name))["text"] == "x" * 10_000


async def test_nothing_is_logged_while_all_is_well(
    prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    here, there = PostgresChannelLayer(prefix=prefix), PostgresChannelLayer(prefix=prefix)
    name = await here.new_channel()
    await here.group_add("room", name)
    await there.group_send("room", numbered(1))
    await received(here, name)
    assert [r for r in caplog.records if r.name.startswith("django_pgnotify")] == []


# with Channels itself


class RoomConsumer(AsyncJsonWebsocketConsumer):
    groups = ["room"]

    async def room_message(self, message: dict[str, Any]) -> None:
        await self.send_json(message["n"])


@pytest.fixture
def as_default_layer(settings: Any, prefix: str) -> None:
    backend = "django_pgnotify.layers.PostgresChannelLayer"
    config = {"database": "default", "capacity": 100, "expiry": 60, "prefix": prefix}
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": backend, "CONFIG": config}}


async def test_a_consumer_of_channels_hears_its_groups(
    as_default_layer: None, prefix: str
) -> None:
    sockets = [WebsocketCommunicator(RoomConsumer.as_asgi(), "/") for _ in range(3)]
    for socket in sockets:
        assert await socket.connect() == (True, None)
    elsewhere = PostgresChannelLayer(prefix=prefix)
    await elsewhere.group_send("room", {"type": "room.message", "n": 1})
    assert [await socket.receive_json_from(5) for socket in sockets] == [1, 1, 1]
    await sockets[0].disconnect()
    await elsewhere.group_send("room", {"type": "room.message", "n": 2})
    assert [await socket.receive_json_from(5) for socket in sockets[1:]] == [2, 2]
    for socket in sockets[1:]:
        await socket.disconnect()


async def test_a_worker_of_channels_gets_what_any_process_leaves(
    as_default_layer: None, prefix: str
) -> None:
    done: asyncio.Queue[int] = asyncio.Queue()

    class Worker(AsyncConsumer):
        async def do_work(self, message: dict[str, Any]) -> None:
            done.put_nowait(message["n"])

    worker = ChannelsWorker(Worker.as_asgi(), ["thumbnails"], get_channel_layer())
    working = asyncio.create_task(worker.handle())
    try:
        elsewhere = PostgresChannelLayer(prefix=prefix)
        for n in range(3):
            await elsewhere.send("thumbnails", {"type": "do.work", "n": n})
        async with asyncio.timeout(5):
            assert [await done.get() for _ in range(3)] == [0, 1, 2]
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
