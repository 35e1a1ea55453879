"""What our channel layer promises about event loops: names and groups outlive theirs."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import uuid
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from channels.exceptions import ChannelFull
from django.db import connection

from django_pgnotify.layers import PostgresChannelLayer
from django_pgnotify.layers.storing import Claim, Store
from tests.layer_kit import drained, numbered, received, wait_for_connections

EAGER = getattr(asyncio, "eager_task_factory", None)

pytestmark = pytest.mark.django_db  # for the database to be there


@pytest.fixture
def prefix() -> str:
    return f"test-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def layer(prefix: str) -> PostgresChannelLayer:
    return PostgresChannelLayer(prefix=prefix)


def member_of(layer: PostgresChannelLayer, group: str) -> str:
    """A name that a loop which has ended made and joined to the group."""
    name: str = async_to_sync(layer.new_channel)()
    async_to_sync(layer.group_add)(group, name)
    return name


def test_calls_from_sync_code_share_names_and_groups(layer: PostgresChannelLayer) -> None:
    name, other = member_of(layer, "room"), member_of(layer, "room")
    async_to_sync(layer.group_send)("room", numbered(1))
    async_to_sync(layer.group_discard)("room", other)
    async_to_sync(layer.group_send)("room", numbered(2))
    async_to_sync(layer.send)(name, numbered(3))
    async_to_sync(layer.send)(other, numbered(4))
    assert [async_to_sync(received)(layer, name)["n"] for _ in range(3)] == [1, 2, 3]
    assert [async_to_sync(received)(layer, other)["n"] for _ in range(2)] == [1, 4]


def test_a_loop_reads_names_of_its_own_and_of_loops_that_have_ended(
    layer: PostgresChannelLayer,
) -> None:
    left = member_of(layer, "room")

    async def use() -> None:
        own = await layer.new_channel()
        await layer.group_add("room", own)
        await layer.group_send("room", numbered(1))
        assert await received(layer, left) == numbered(1)
        await layer.group_send("room", numbered(2))
        assert await received(layer, left) == numbered(2)
        assert await drained(layer, own) == [1, 2]

    asyncio.run(use())
    async_to_sync(layer.group_send)("room", numbered(3))
    assert async_to_sync(received)(layer, left) == numbered(3)


def test_a_name_of_an_ended_loop_hears_other_processes(
    layer: PostgresChannelLayer, prefix: str
) -> None:
    left, other_process = member_of(layer, "room"), PostgresChannelLayer(prefix=prefix)

    async def use() -> None:
        await layer.group_add("second", left)  # which returns when it is heard
        await other_process.send(left, numbered(1))
        await other_process.group_send("room", numbered(2))
        await other_process.group_send("second", numbered(3))
        assert [(await received(layer, left))["n"] for _ in range(3)] == [1, 2, 3]

    asyncio.run(use())


def test_many_names_of_ended_loops_take_no_connection_more(
    layer: PostgresChannelLayer,
) -> None:
    names = [member_of(layer, "room") for _ in range(5)]

    async def use() -> tuple[int, int]:
        for name in names:
            await layer.group_add("second", name)
        await layer.group_send("second", numbered(1))
        connections = await asyncio.to_thread(settled_connections)
        return connections, len(asyncio.all_tasks())

    assert asyncio.run(use()) == (2, 4)


def settled_connections() -> int:
    try:
        return wait_for_connections(2)
    finally:
        connection.close()  # this thread's


def test_a_thread_adds_a_name_of_a_loop_that_runs(layer: PostgresChannelLayer) -> None:
    async def use() -> None:
        name = await layer.new_channel()
        await asyncio.to_thread(async_to_sync(layer.group_add), "room", name)
        await asyncio.to_thread(async_to_sync(layer.group_send), "room", numbered(1))
        assert await received(layer, name) == numbered(1)

    asyncio.run(use())


def test_a_plain_name_keeps_its_groups(layer: PostgresChannelLayer) -> None:
    async_to_sync(layer.group_add)("room", "worker")
    async_to_sync(layer.group_send)("room", numbered(1))
    assert async_to_sync(received)(layer, "worker") == numbered(1)
    async_to_sync(layer.group_send)("room", numbered(2))
    async_to_sync(layer.group_discard)("room", "worker")
    async_to_sync(layer.group_send)("room", numbered(3))
    assert async_to_sync(drained)(layer, "worker") == [2]


def test_a_full_name_that_nobody_reads_raises_channel_full(prefix: str) -> None:
    layer = PostgresChannelLayer(prefix=prefix, capacity=2)
    name = async_to_sync(layer.new_channel)()
    async_to_sync(layer.group_add)("room", name)
    async_to_sync(layer.send)(name, numbered(1))
    async_to_sync(layer.group_send)("room", numbered(2))
    with pytest.raises(ChannelFull):
        async_to_sync(layer.send)(name, numbered(3))
    async_to_sync(layer.group_send)("room", numbered(4))
    assert layer.dropped == 1
    assert [async_to_sync(received)(layer, name)["n"] for _ in range(2)] == [1, 2]


def test_what_waits_for_a_left_name_expires(prefix: str) -> None:
    layer = PostgresChannelLayer(prefix=prefix, expiry=0.2)
    name = member_of(layer, "room")
    async_to_sync(layer.group_send)("room", numbered(1))
    async_to_sync(asyncio.sleep)(0.25)
    async_to_sync(layer.group_send)("room", numbered(2))
    assert async_to_sync(received)(layer, name) == numbered(2)


def test_a_membership_ends_when_nobody_reads_for_long(prefix: str) -> None:
    layer = PostgresChannelLayer(prefix=prefix, expiry=0.1, group_expiry=0.2)
    names = [member_of(layer, "room") for _ in range(3)]
    async_to_sync(asyncio.sleep)(0.25)
    async_to_sync(layer.group_send)("room", numbered(1))
    assert [async_to_sync(drained)(layer, name) for name in names] == [[], [], []]


def test_nothing_is_kept_of_loops_that_left_nothing(layer: PostgresChannelLayer) -> None:
    for n in range(20):
        name = async_to_sync(layer.new_channel)()
        async_to_sync(layer.send)(name, numbered(n))
        async_to_sync(received)(layer, name)
        async_to_sync(layer.group_send)("room", numbered(n))
    box = layer._mailbox
    assert (box._inboxes, box._groups, layer._branches._by_loop) == ({}, {}, {})


def test_a_flushed_layer_forgets_what_loops_have_left(layer: PostgresChannelLayer) -> None:
    name = member_of(layer, "room")
    async_to_sync(layer.flush)()
    async_to_sync(layer.group_send)("room", numbered(1))
    assert async_to_sync(drained)(layer, name) == []


def test_a_closed_layer_keeps_names_and_groups(layer: PostgresChannelLayer) -> None:
    async def use() -> None:
        name = await layer.new_channel()
        await layer.group_add("room", name)
        for n in range(3):
            await layer.close()
            await layer.group_send("room", numbered(n))
        assert await drained(layer, name) == [0, 1, 2]

    asyncio.run(use())


def test_a_flush_of_another_process_reaches_what_loops_have_left(
    layer: PostgresChannelLayer, prefix: str
) -> None:
    name, other_process = member_of(layer, "room"), PostgresChannelLayer(prefix=prefix)

    async def use() -> None:
        witness = await layer.new_channel()
        await other_process.flush()
        await other_process.send(witness, numbered(0))
        await received(layer, witness)
        await other_process.close()

    asyncio.run(use())
    async_to_sync(layer.group_send)("room", numbered(1))
    assert async_to_sync(drained)(layer, name) == []


def test_threads_send_to_each_other_once_and_in_order(prefix: str) -> None:
    """Loops begin and end all the time, in four threads that read and three that send."""
    layer = PostgresChannelLayer(prefix=prefix, capacity=1000)
    names = [member_of(layer, "room") for _ in range(4)]

    def send(sender: int) -> None:
        for n in range(20):
            async_to_sync(layer.group_send)("room", numbered(100 * sender + n))

    def read(name: str) -> list[int]:
        return [async_to_sync(received)(layer, name)["n"] for _ in range(60)]

    async def all_threads() -> list[Any]:
        reading = [asyncio.to_thread(read, name) for name in names]
        sending = [asyncio.to_thread(send, sender) for sender in range(3)]
        return (await asyncio.gather(*reading, *sending))[:4]

    for numbers in asyncio.run(all_threads()):
        assert sorted(numbers) == [100 * sender + n for sender in range(3) for n in range(20)]
        for sender in range(3):
            from_sender = [n for n in numbers if n // 100 == sender]
            assert from_sender == sorted(from_sender)
    assert [async_to_sync(drained)(layer, name) for name in names] == [[]] * 4


def test_what_another_process_sends_comes_once_however_many_loops_listen(
    prefix: str, layer: PostgresChannelLayer
) -> None:
    other_process = PostgresChannelLayer(prefix=prefix)
    ready, sent = threading.Barrier(4), threading.Event()

    async def read() -> list[int]:
        name = await layer.new_channel()
        await layer.group_add("room", name)
        await asyncio.to_thread(ready.wait)
        numbers = [(await received(layer, name))["n"] for _ in range(30)]
        await asyncio.to_thread(sent.wait)
        return numbers + await drained(layer, name)

    async def send() -> None:
        for n in range(29):
            await other_process.group_send("room", numbered(n))
        await other_process.group_send("room", {**numbered(29), "text": "x" * 20_000})

    async def all_threads() -> list[list[int]]:
        reading = [
            asyncio.create_task(asyncio.to_thread(asyncio.run, read())) for _ in range(3)
        ]
        await asyncio.to_thread(ready.wait)
        await asyncio.to_thread(asyncio.run, send())
        sent.set()
        return list(await asyncio.gather(*reading))

    assert asyncio.run(all_threads()) == [list(range(30))] * 3


def test_a_loop_of_a_moment_overtakes_no_other(prefix: str) -> None:
    """The main loop has not read yet what another process sent, when a thread begins to listen."""
    layer = PostgresChannelLayer(prefix=prefix)
    other_process = PostgresChannelLayer(prefix=prefix)

    async def send(*numbers: int) -> None:
        for n in numbers:
            await other_process.group_send("room", {**numbered(n), "text": "x" * (n * 3_000)})

    async def use() -> list[int]:
        name = await layer.new_channel()
        await layer.group_add("room", name)
        thread = threading.Thread(target=disturb)
        thread.start()
        thread.join()  # so that this loop reads nothing meanwhile
        return [(await received(layer, name))["n"] for _ in range(6)]

    def disturb() -> None:
        asyncio.run(send(0, 1, 2, 3))
        asyncio.run(listen_and_send())

    async def listen_and_send() -> None:
        await layer.group_add("room", await layer.new_channel())
        await send(4, 5)
        await asyncio.sleep(0.2)  # it hears them first

    assert asyncio.run(use()) == list(range(6))
    assert layer.dropped == 0


def test_a_loop_that_does_not_run_holds_up_no_other(
    prefix: str, layer: PostgresChannelLayer
) -> None:
    other_process = PostgresChannelLayer(prefix=prefix)
    idle = asyncio.new_event_loop()
    name = idle.run_until_complete(layer.new_channel())
    idle.run_until_complete(layer.group_add("room", name))

    async def use() -> None:
        own = await layer.new_channel()
        await layer.group_add("room", own)
        await other_process.group_send("room", numbered(1))
        assert await received(layer, own) == numbered(1)
        await other_process.close()

    asyncio.run(use())
    assert idle.run_until_complete(received(layer, name)) == numbered(1)
    assert idle.run_until_complete(drained(layer, name)) == []
    idle.close()


def test_a_layer_works_where_tasks_are_eager(layer: PostgresChannelLayer) -> None:
    async def use() -> None:
        if EAGER is not None:
            asyncio.get_running_loop().set_task_factory(EAGER)
        name = await layer.new_channel()
        await layer.group_add("room", name)
        await asyncio.gather(*(layer.group_send("room", numbered(n)) for n in range(5)))
        assert sorted(await drained(layer, name)) == list(range(5))

    asyncio.run(use())


def test_a_layer_is_closed_and_used_again_for_long(layer: PostgresChannelLayer) -> None:
    loop = asyncio.new_event_loop()
    for _ in range(sys.getrecursionlimit()):
        loop.run_until_complete(use_and_close(layer))
    loop.close()
    assert layer._branches._by_loop == {}


async def use_and_close(layer: PostgresChannelLayer) -> None:
    layer._branches.here().listening.start()
    await layer.close()


def test_a_forked_process_is_another_one(layer: PostgresChannelLayer) -> None:
    name = member_of(layer, "room")
    child = os.fork()
    if not child:
        os._exit(0 if is_foreign(layer, name) else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    async_to_sync(layer.send)(name, numbered(1))
    assert async_to_sync(received)(layer, name) == numbered(1)


def is_foreign(layer: PostgresChannelLayer, name: str) -> bool:
    try:
        async_to_sync(layer.receive)(name)
    except ValueError:
        return layer._process not in name
    return False


def test_a_loop_that_ends_while_it_claims_loses_no_message(layer: PostgresChannelLayer) -> None:
    async def claim(turns: int) -> asyncio.Task[dict[str, Any]]:
        await layer.send("plain", numbered(turns))
        receiving = asyncio.create_task(layer.receive("plain"))
        for _ in range(turns):
            await asyncio.sleep(0)
        return receiving

    tasks = [asyncio.run(claim(turns)) for turns in range(60)]
    taken = [task.result()["n"] for task in tasks if not task.cancelled()]
    left = async_to_sync(drained)(layer, "plain")
    assert sorted(taken + left) == list(range(60))
    assert taken
    assert left
    assert layer.dropped == 0


def count_claims(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    claims = []
    claim = Store.claim

    async def counted(store: Store, name: str, **kwargs: Any) -> Claim | None:
        claims.append(name)
        return await claim(store, name, **kwargs)

    monkeypatch.setattr(Store, "claim", counted)
    return claims


def test_a_message_wakes_one_reader_of_many(
    layer: PostgresChannelLayer, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims = count_claims(monkeypatch)

    async def use() -> None:
        readers = [asyncio.create_task(received(layer, "plain")) for _ in range(20)]
        await layer.new_channel()
        while len(claims) < 20:  # noqa: ASYNC110
            await asyncio.sleep(0)
        for n in range(20):
            await PostgresChannelLayer(prefix=prefix).send("plain", numbered(n))
        assert sorted([(await reader)["n"] for reader in readers]) == list(range(20))

    asyncio.run(use())
    # Each looks at the start, is woken, and wakes another one, which may find nothing.
    assert len(claims) <= 3 * 20
