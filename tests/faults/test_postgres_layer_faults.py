"""What our channel layer does when connections die, servers freeze, and strangers notify."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import psycopg
import pytest
from django.db import connection as django_connection

from django_pgnotify.connecting import connect
from django_pgnotify.layers import PostgresChannelLayer, sending
from django_pgnotify.layers.envelope import (
    PAYLOAD_MAX_BYTES,
    Envelope,
    Kind,
    groups_pg_channel,
    process_pg_channel,
)
from tests.layer_kit import PATIENCE_SECONDS, numbered, received

SOON_SECONDS = 2.0

TERMINATE = """
    SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = %s
"""
TABLE = """
    CREATE TABLE IF NOT EXISTS django_pgnotify_message (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        channel text, body bytea NOT NULL, expires_at timestamptz NOT NULL
    )
"""


@pytest.fixture
def prefix() -> str:
    return f"test-{uuid.uuid4().hex[:8]}"


@pytest.fixture
async def admin() -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    """A stranger's connection to the same database."""
    connection = await connect("default", application_name="admin")
    yield connection
    await connection.close()


@pytest.fixture
def use_server(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Point the alias ``default`` to another server, made ready for large messages."""

    def use(url: str, port: int | None = None) -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(TABLE)
            settings_dict = {
                "NAME": connection.info.dbname,
                "USER": connection.info.user,
                "PASSWORD": connection.info.password,
                "HOST": connection.info.host,
                "PORT": str(port or connection.info.port),
            }
        for key, value in settings_dict.items():
            monkeypatch.setitem(django_connection.settings_dict, key, value)

    return use


async def member_of(layer: PostgresChannelLayer, group: str) -> str:
    name = await layer.new_channel()
    await layer.group_add(group, name)
    return name


async def arrives(
    sender: PostgresChannelLayer, receiver: PostgresChannelLayer, name: str, within: float
) -> bool:
    """Send to the group until one message arrives."""
    waiting = asyncio.create_task(receiver.receive(name))
    deadline = asyncio.get_running_loop().time() + within
    while not waiting.done() and asyncio.get_running_loop().time() < deadline:
        with contextlib.suppress(psycopg.OperationalError):
            await sender.group_send("room", numbered(1))
        await asyncio.wait({waiting}, timeout=0.05)
    arrived = waiting.done()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    return arrived


async def logged(caplog: pytest.LogCaptureFixture, action: str) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not any(getattr(r, "action", "") == action for r in caplog.records):  # noqa: ASYNC110
            await asyncio.sleep(0.05)


# lost connections


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The actions that were logged."""
    return [action for r in caplog.records if (action := getattr(r, "action", ""))]


@pytest.mark.django_db
async def test_a_terminated_listener_listens_again_without_any_restart(
    prefix: str, admin: psycopg.AsyncConnection[Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    here, there = PostgresChannelLayer(prefix=prefix), PostgresChannelLayer(prefix=prefix)
    name = await member_of(here, "room")
    for _ in range(3):
        caplog.clear()
        cursor = await admin.execute(TERMINATE, ["django_pgnotify layer listen"])
        assert await cursor.fetchone() == (1,)
        assert await arrives(there, here, name, within=SOON_SECONDS)
        # A message may be there a moment before the layer's own probe is.
        await logged(caplog, "layer_recovered")
        assert said(caplog) == ["layer_lost", "layer_recovered"]


@pytest.mark.django_db
async def test_a_terminated_sender_sends_again_and_loses_nothing(
    prefix: str, admin: psycopg.AsyncConnection[Any]
) -> None:
    here, there = PostgresChannelLayer(prefix=prefix), PostgresChannelLayer(prefix=prefix)
    name = await member_of(here, "room")
    await there.group_send("room", numbered(0))
    for n in range(1, 4):
        await admin.execute(TERMINATE, ["django_pgnotify layer send"])
        await there.group_send("room", numbered(n))
    assert [(await received(here, name))["n"] for _ in range(4)] == [0, 1, 2, 3]


@pytest.mark.django_db
async def test_a_group_add_during_an_outage_returns_when_it_is_live(
    prefix: str, admin: psycopg.AsyncConnection[Any], caplog: pytest.LogCaptureFixture
) -> None:
    here, there = PostgresChannelLayer(prefix=prefix), PostgresChannelLayer(prefix=prefix)
    name = await here.new_channel()
    await admin.execute(TERMINATE, ["django_pgnotify layer listen"])
    await logged(caplog, "layer_lost")
    await here.group_add("room", name)
    await there.group_send("room", numbered(1))
    assert await received(here, name) == numbered(1)


async def test_a_restarted_server_is_found_again(
    prefix: str, start_postgres: Any, use_server: Callable[[str], None]
) -> None:
    server = start_postgres()
    use_server(server.url())
    here, there = PostgresChannelLayer(prefix=prefix), PostgresChannelLayer(prefix=prefix)
    name = await member_of(here, "room")
    await asyncio.to_thread(server.restart)
    assert await arrives(there, here, name, within=PATIENCE_SECONDS)
    await there.group_send("room", {"text": "x" * 10_000})
    while "text" not in await received(here, name):
        pass


async def test_a_waiting_worker_outlives_a_restart_of_the_server(
    prefix: str, start_postgres: Any, use_server: Callable[[str], None]
) -> None:
    server = start_postgres()
    use_server(server.url())
    sender, worker = PostgresChannelLayer(prefix=prefix), PostgresChannelLayer(prefix=prefix)
    working = asyncio.create_task(received(worker, "plain"))
    await sender.send("other", numbered(0))
    await asyncio.to_thread(server.stop)
    with pytest.raises(psycopg.OperationalError):
        await sender.send("plain", numbered(1))
    worker._mailbox.wake("plain")  # it looks during the outage, for sure
    await asyncio.to_thread(server.restart)
    await sender.send("plain", numbered(2))
    assert await working == numbered(2)


async def test_a_frozen_connection_is_noticed_and_replaced(
    prefix: str,
    start_postgres: Any,
    start_proxy: Any,
    use_server: Callable[..., None],
    settings: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings.PGNOTIFY = {"HEARTBEAT_SECONDS": 0.3, "CONNECT_TIMEOUT_SECONDS": 2}
    caplog.set_level(logging.INFO)
    server = start_postgres()
    proxy = start_proxy(server.url())
    use_server(server.url(), proxy.port)
    here, there = PostgresChannelLayer(prefix=prefix), PostgresChannelLayer(prefix=prefix)
    name = await member_of(here, "room")
    await there.new_channel()
    proxy.silence()
    await logged(caplog, "layer_lost")
    caplog.clear()
    proxy.resume()
    await logged(caplog, "layer_recovered")
    assert await arrives(there, here, name, within=PATIENCE_SECONDS)


async def test_a_frozen_server_fails_senders_and_is_used_again_when_it_thaws(
    prefix: str,
    start_postgres: Any,
    use_server: Callable[..., None],
    settings: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert sending.STATEMENT_SECONDS == 15
    monkeypatch.setattr(sending, "STATEMENT_SECONDS", 1.0)
    settings.PGNOTIFY = {"HEARTBEAT_SECONDS": 0.3, "CONNECT_TIMEOUT_SECONDS": 2}
    server = start_postgres()
    use_server(server.url())
    here, there = PostgresChannelLayer(prefix=prefix), PostgresChannelLayer(prefix=prefix)
    name = await member_of(here, "room")
    await there.group_send("room", numbered(0))
    assert await received(here, name) == numbered(0)
    server.freeze()
    for text in ("small", "x" * 10_000):
        with pytest.raises(psycopg.OperationalError):
            await there.group_send("room", {"text": text})
    # Without the server, a process still reaches itself.
    await here.send(name, numbered(1))
    assert await received(here, name) == numbered(1)
    server.thaw()
    assert await arrives(there, here, name, within=PATIENCE_SECONDS)


# limits


@pytest.mark.django_db
async def test_a_payload_of_every_size_around_the_limit_arrives(prefix: str) -> None:
    here, there = PostgresChannelLayer(prefix=prefix), PostgresChannelLayer(prefix=prefix)
    name = await member_of(here, "room")
    lengths: list[int] = []
    for length in range(7_700, 8_100):
        await there.group_send("room", {"text": "x" * length})
        lengths.append(len((await received(here, name))["text"]))
    assert lengths == list(range(7_700, 8_100))


@pytest.mark.django_db
async def test_the_longest_payload_travels_inline_and_one_more_byte_by_reference(
    prefix: str, admin: psycopg.AsyncConnection[Any]
) -> None:
    layer = PostgresChannelLayer(prefix=prefix)
    pg_channel = groups_pg_channel(prefix)
    bare = Envelope(origin="0" * 34, number=0, kind=Kind.GROUP, target="room", body='{"t":""}')
    room_for_text = PAYLOAD_MAX_BYTES - len(bare.sealed(pg_channel))
    await admin.execute(f'LISTEN "{pg_channel}"')
    await layer.group_send("room", {"t": "x" * room_for_text})
    await layer.group_send("room", {"t": "x" * (room_for_text + 1)})
    payloads = [n.payload async for n in admin.notifies(timeout=10, stop_after=2)]
    assert len(payloads[0]) == PAYLOAD_MAX_BYTES
    assert payloads[1].rpartition(" ")[2].startswith("#")


@pytest.mark.django_db
async def test_a_reader_that_stalls_does_not_fill_the_queue_of_the_server(
    prefix: str, admin: psycopg.AsyncConnection[Any]
) -> None:
    here, there = PostgresChannelLayer(prefix=prefix), PostgresChannelLayer(prefix=prefix)
    name, witness = await member_of(here, "room"), await here.new_channel()
    for _ in range(2_000):
        await there.group_send("room", {"text": "x" * 1_000})
    await there.send(witness, numbered(1))
    assert await received(here, witness) == numbered(1)
    cursor = await admin.execute("SELECT pg_notification_queue_usage()")
    assert (await cursor.fetchone() or (1,))[0] < 0.001
    assert here.dropped == 2_000 - here.capacity
    assert await received(here, name) == {"text": "x" * 1_000}


# strangers


@pytest.mark.django_db
async def test_forged_notifications_are_ignored_counted_and_named_once(
    prefix: str, admin: psycopg.AsyncConnection[Any], caplog: pytest.LogCaptureFixture
) -> None:
    layer = PostgresChannelLayer(prefix=prefix)
    name = await member_of(layer, "room")
    groups = groups_pg_channel(prefix)
    own = process_pg_channel(prefix, name.split(".")[1].split("!")[0])
    good = Envelope(origin="0" * 34, number=0, kind=Kind.GROUP, target="room", body='{"n":1}')
    genuine = good.sealed(groups)
    forgeries = [
        "",
        "nonsense",
        "1 2 3 4 5 6 7",
        '1 sig origin 0 group "room" {"n":1}',
        '1 sig origin 0 group "room" #1',
        '1 sig origin 0 group "room" #-99999999999999999999999999',
        '1 sig origin 0 group "room" #notanumber',
        '1 sig origin 0 group [ {"n":1}',
        '1 sig origin 0 explode "room" {}',
        '9 sig origin 0 group "room" {}',
        '1 sig origin 0 flush "" ',
        "1 sig origin 0 group " + "[" * 5_000 + " {}",
        genuine.replace('{"n":1}', '{"n":2}'),
        genuine.replace('"room"', '"hall"').replace(" group ", " wake "),
        "\u4e16\u754c \U0001f600",
    ]
    for payload in forgeries:
        await admin.execute("SELECT pg_notify(%s, %s)", [groups, payload])
        await admin.execute("SELECT pg_notify(%s, %s)", [own, payload])
    await admin.execute("SELECT pg_notify(%s, %s)", [groups, good.sealed(own)])
    await admin.execute("SELECT pg_notify(%s, %s)", [groups, genuine])
    assert await received(layer, name) == {"n": 1}
    await layer.send(name, {"marker": True})
    assert await received(layer, name) == {"marker": True}
    assert layer.refused > len(forgeries)
    refused = [r for r in caplog.records if getattr(r, "action", "") == "layer_refused"]
    assert len(refused) == 1
    assert layer.dropped == 0
