"""What our channel layer promises about event loops: names and groups outlive theirs."""

from __future__ import annotations

import asyncio
import os
import uuid
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from channels.exceptions import ChannelFull

from django_pgnotify.layers import PostgresChannelLayer
from tests.layer_kit import drained, numbered, received

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


def test_a_loop_with_names_of_its_own_takes_over_what_another_has_left(
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


def test_a_name_that_was_taken_over_hears_other_processes(
    layer: PostgresChannelLayer, prefix: str
) -> None:
    left, other_process = member_of(layer, "room"), PostgresChannelLayer(prefix=prefix)

    async def use() -> None:
        await layer.group_add("second", left)  # which returns when it is heard
        await other_process.send(left, numbered(1))
        await other_process.group_send("room", numbered(2))
        await other_process.group_send("second", numbered(3))
        assert [(await received(layer, left))["n"] for _ in range(3)] == [1, 2, 3]
        await other_process.close()

    asyncio.run(use())


def test_a_name_of_a_loop_that_runs_is_not_taken_over(layer: PostgresChannelLayer) -> None:
    async def use() -> None:
        name = await layer.new_channel()
        with pytest.raises(ValueError, match="new_channel"):
            await asyncio.to_thread(async_to_sync(layer.receive), name)

    asyncio.run(use())


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
    member_of(layer, "other")  # a loop that ends looks for what is over
    assert [async_to_sync(drained)(layer, name) for name in names] == [[], [], []]


def test_nothing_is_kept_of_loops_that_left_nothing(layer: PostgresChannelLayer) -> None:
    for n in range(20):
        name = async_to_sync(layer.new_channel)()
        async_to_sync(layer.send)(name, numbered(n))
        async_to_sync(received)(layer, name)
        async_to_sync(layer.group_send)("room", numbered(n))
    assert (layer._branches._left, layer._branches._live) == ({}, {})


@pytest.mark.parametrize("end", ["close", "flush"])
def test_a_closed_or_flushed_layer_forgets(layer: PostgresChannelLayer, end: str) -> None:
    name = member_of(layer, "room")
    if end == "close":
        asyncio.run(closed(layer, name))
    else:
        async_to_sync(layer.flush)()
    async_to_sync(layer.group_send)("room", numbered(1))
    assert async_to_sync(drained)(layer, name) == []


async def closed(layer: PostgresChannelLayer, name: str) -> None:
    await layer.group_add("room", name)
    await layer.close()


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


def test_threads_take_turns_without_losing_a_name(layer: PostgresChannelLayer) -> None:
    """Loops begin and end at once in several threads; each thread gets what is its own."""

    def converse(thread: int) -> list[int]:
        name = member_of(layer, f"room-{thread}")
        arrived = []
        for n in range(10):
            async_to_sync(layer.group_send)(f"room-{thread}", numbered(n))
            arrived.append(async_to_sync(received)(layer, name)["n"])
        return arrived

    async def all_threads() -> list[Any]:
        return await asyncio.gather(*(asyncio.to_thread(converse, n) for n in range(6)))

    assert asyncio.run(all_threads()) == [list(range(10))] * 6


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
        return bool(layer._branches._process not in name)
    return False
