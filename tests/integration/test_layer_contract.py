"""The contract of a channel layer, one suite for ours and for both layers of channels_redis.

Where a layer of channels_redis makes no such promise, the test is not run over it. Two layer
objects of one prefix stand for two processes: they share nothing in memory.
"""

from __future__ import annotations

import asyncio
import json
import sys
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from channels.exceptions import ChannelFull
from django.utils.module_loading import import_string

from tests.layer_kit import drained, numbered, received

pytestmark = pytest.mark.django_db  # for the database to be there

NewLayer = Callable[..., Any]

POSTGRES = "django_pgnotify.layers.PostgresChannelLayer"
REDIS = "channels_redis.core.RedisChannelLayer"
PUBSUB = "channels_redis.pubsub.RedisPubSubChannelLayer"

MESSAGES: dict[str, dict[str, Any]] = {
    "empty": {},
    "nested": {"a": [1, {"b": [None, True, False, {}]}, []]},
    "unicode": {"text": "na\u00efve \u4e16\u754c \U0001f600 \u2028 \" ' \\"},
    "nul": {"text": "a\x00b", "\x00bytes": "\x00", "\x00": {"\x00\x00bytes": 1}},
    "integers": {"low": -(2**63), "high": 2**63 - 1, "zero": 0},
    "floats": {"values": [0.1, -1e300, 5e-324, 1.0]},
    "bytes": {"raw": bytes(range(256)), "list": [b"", b"\x00"], "in": {"deep": b"\xff"}},
    "marked_keys": {"\x00bytes": b"raw", "\x00\x00bytes": "text"},
    "megabyte": {"text": "x" * 1_000_000},
    "megabyte_of_bytes": {"raw": b"\xff" * 1_000_000},
}

BAD_NAMES = ["", "with space", "name:colon", "n\u00e4me", "x" * 100, 7, None]

SENDER = """
import asyncio, json, sys
import django
django.setup()
from django.utils.module_loading import import_string
path, config, calls = json.loads(sys.argv[1])
layer = import_string(path)(**config)
async def main():
    for method, target, message in calls:
        await getattr(layer, method)(target, message)
asyncio.run(main())
"""


def run_over(*paths: str) -> pytest.MarkDecorator:
    """Run a test over these layers."""
    layers = [
        pytest.param(
            path,
            id=path.rpartition(".")[2],
            marks=() if path == POSTGRES else pytest.mark.redis,
        )
        for path in paths
    ]
    return pytest.mark.parametrize("new_layer", layers, indirect=True)


every_layer = run_over(POSTGRES, REDIS, PUBSUB)
checking_layers = run_over(POSTGRES, REDIS)  # the Pub/Sub layer checks no names and no capacity


@pytest.fixture
def new_layer(request: pytest.FixtureRequest) -> NewLayer:
    """Make layers of one prefix; ``new_layer.description`` lets another process make one."""
    path = request.param
    config: dict[str, Any] = {"prefix": f"test-{uuid.uuid4().hex[:8]}"}
    if path != POSTGRES:
        config["hosts"] = [request.getfixturevalue("redis").url]

    def make(**options: Any) -> Any:
        return import_string(path)(**config, **options)

    make.description = [path, config]  # type: ignore[attr-defined]
    return make


# send and receive


@every_layer
async def test_a_message_arrives(new_layer: NewLayer) -> None:
    layer = new_layer()
    name = await layer.new_channel()
    await layer.send(name, {"type": "test.message", "text": "Ahoy"})
    assert await received(layer, name) == {"type": "test.message", "text": "Ahoy"}


@every_layer
@pytest.mark.parametrize("message", MESSAGES.values(), ids=MESSAGES)
async def test_a_message_comes_out_as_it_went_in(
    new_layer: NewLayer, message: dict[str, Any]
) -> None:
    here, there = new_layer(), new_layer()
    name = await here.new_channel()
    await here.group_add("types", name)
    await here.send(name, message)
    assert await received(here, name) == message
    await there.send(name, message)
    assert await received(here, name) == message
    await there.group_send("types", message)
    assert await received(here, name) == message


@every_layer
async def test_messages_of_one_sender_arrive_in_order(new_layer: NewLayer) -> None:
    here, there = new_layer(), new_layer()
    name = await here.new_channel()
    for n in range(50):
        await there.send(name, numbered(n))
    assert [(await received(here, name))["n"] for _ in range(50)] == list(range(50))


@every_layer
async def test_names_do_not_mix(new_layer: NewLayer) -> None:
    layer = new_layer()
    first, second = await layer.new_channel(), await layer.new_channel()
    await layer.send(second, numbered(2))
    await layer.send(first, numbered(1))
    assert await drained(layer, first) == [1]
    assert await drained(layer, second) == [2]


@every_layer
async def test_concurrent_receivers_get_their_own_messages(new_layer: NewLayer) -> None:
    layer, sender = new_layer(), new_layer()
    names = [await layer.new_channel() for _ in range(20)]
    waiting = [asyncio.create_task(received(layer, name)) for name in names]
    for n, name in enumerate(names):
        await sender.send(name, numbered(n))
    assert [(await task)["n"] for task in waiting] == list(range(20))


@every_layer
async def test_new_names_are_unique_and_valid(new_layer: NewLayer) -> None:
    layer = new_layer()
    names = [await layer.new_channel() for _ in range(100)]
    assert len(set(names)) == 100
    assert all(len(name) < 100 for name in names)


@every_layer
async def test_a_prefix_can_be_given_for_a_new_name(new_layer: NewLayer) -> None:
    layer = new_layer()
    assert "mine" in await layer.new_channel(prefix="mine")


@checking_layers
async def test_a_cancelled_receive_loses_no_message(new_layer: NewLayer) -> None:
    layer = new_layer()
    name = await layer.new_channel()
    waiting = asyncio.create_task(layer.receive(name))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await layer.send(name, numbered(1))
    assert await received(layer, name) == numbered(1)


@run_over(POSTGRES)
@pytest.mark.parametrize("turns", range(12))
async def test_a_receive_cancelled_at_any_moment_loses_no_message(
    new_layer: NewLayer, turns: int
) -> None:
    layer, sender = new_layer(), new_layer()
    for name in (await layer.new_channel(), "plain"):
        waiting = asyncio.create_task(layer.receive(name))
        await sender.send(name, numbered(1))
        for _ in range(turns):
            await asyncio.sleep(0)
        waiting.cancel()
        [result] = await asyncio.gather(waiting, return_exceptions=True)
        if isinstance(result, asyncio.CancelledError):
            result = await received(layer, name)
        assert result == numbered(1)


# plain names


@checking_layers
async def test_a_message_for_a_plain_name_waits_for_its_receiver(new_layer: NewLayer) -> None:
    await new_layer().send("thumbnails", numbered(1))
    assert await received(new_layer(), "thumbnails") == numbered(1)


@checking_layers
async def test_messages_for_a_plain_name_arrive_in_order(new_layer: NewLayer) -> None:
    sender, worker = new_layer(), new_layer()
    for n in range(20):
        await sender.send("thumbnails", numbered(n))
    assert [(await received(worker, "thumbnails"))["n"] for _ in range(20)] == list(range(20))


# RedisChannelLayer delivers some twice: a second receiver puts back what the first one has in
# hand.
@run_over(POSTGRES)
async def test_a_message_for_a_plain_name_has_one_receiver(new_layer: NewLayer) -> None:
    sender, workers = new_layer(), [new_layer() for _ in range(3)]
    done: list[int] = []

    async def work(worker: Any) -> None:
        while (message := await received(worker, "thumbnails"))["n"] is not None:
            done.append(message["n"])

    working = [asyncio.create_task(work(worker)) for worker in workers]
    for n in range(60):
        await sender.send("thumbnails", numbered(n))
    for _ in workers:
        await sender.send("thumbnails", {"type": "end", "n": None})
    await asyncio.gather(*working)
    assert sorted(done) == list(range(60))


@checking_layers
async def test_a_waiting_worker_gets_a_message_of_another_process(new_layer: NewLayer) -> None:
    sender, worker = new_layer(), new_layer()
    waiting = asyncio.create_task(received(worker, "thumbnails"))
    await sender.send("thumbnails", numbered(1))
    assert await waiting == numbered(1)


@checking_layers
async def test_a_large_message_for_a_plain_name_arrives(new_layer: NewLayer) -> None:
    await new_layer().send("thumbnails", MESSAGES["megabyte"])
    assert await received(new_layer(), "thumbnails") == MESSAGES["megabyte"]


# capacity and expiry


@checking_layers
async def test_a_full_specific_name_raises_channel_full(new_layer: NewLayer) -> None:
    layer = new_layer(capacity=3)
    name = await layer.new_channel()
    for n in range(3):
        await layer.send(name, numbered(n))
    with pytest.raises(ChannelFull):
        await layer.send(name, numbered(3))
    assert [(await received(layer, name))["n"] for _ in range(3)] == [0, 1, 2]
    await layer.send(name, numbered(4))
    assert await received(layer, name) == numbered(4)


@checking_layers
async def test_a_full_plain_name_raises_channel_full(new_layer: NewLayer) -> None:
    layer = new_layer(capacity=3)
    for n in range(3):
        await layer.send("thumbnails", numbered(n))
    with pytest.raises(ChannelFull):
        await layer.send("thumbnails", numbered(3))
    assert await received(layer, "thumbnails") == numbered(0)


@checking_layers
async def test_channel_capacity_is_given_by_pattern(new_layer: NewLayer) -> None:
    layer = new_layer(capacity=1, channel_capacity={"special*": 2})
    await layer.send("special-1", numbered(1))
    await layer.send("special-1", numbered(2))
    await layer.send("plain", numbered(1))
    with pytest.raises(ChannelFull):
        await layer.send("plain", numbered(2))


@checking_layers
async def test_group_send_leaves_full_members_out_in_silence(new_layer: NewLayer) -> None:
    layer = new_layer(capacity=2)
    full, free = await layer.new_channel("full"), await layer.new_channel("free")
    await layer.group_add("room", full)
    await layer.group_add("room", free)
    await layer.group_send("room", numbered(0))
    await layer.group_send("room", numbered(1))
    assert [(await received(layer, free))["n"] for _ in range(2)] == [0, 1]
    await layer.group_send("room", numbered(2))
    assert await received(layer, free) == numbered(2)
    assert [(await received(layer, full))["n"] for _ in range(2)] == [0, 1]


@run_over(POSTGRES)
@pytest.mark.parametrize("sender", ["same_process", "other_process"])
async def test_an_expired_message_is_not_delivered(new_layer: NewLayer, sender: str) -> None:
    layer = new_layer(expiry=0.5)
    source = layer if sender == "same_process" else new_layer(expiry=0.5)
    for name in (await layer.new_channel(), "plain"):
        await source.send(name, numbered(1))
        await asyncio.sleep(0.7)  # the time is what is tested
        await source.send(name, numbered(2))
        assert await received(layer, name) == numbered(2)


# groups


@every_layer
async def test_a_group_reaches_its_members_and_nobody_else(new_layer: NewLayer) -> None:
    layer = new_layer()
    first, second, other = [await layer.new_channel() for _ in range(3)]
    await layer.group_add("room", first)
    await layer.group_add("room", second)
    await layer.group_add("hall", other)
    await layer.group_send("room", numbered(1))
    assert await received(layer, first) == numbered(1)
    assert await received(layer, second) == numbered(1)
    assert await drained(layer, other) == []


@every_layer
async def test_a_discarded_member_hears_no_more(new_layer: NewLayer) -> None:
    layer = new_layer()
    gone, stays = await layer.new_channel(), await layer.new_channel()
    await layer.group_add("room", gone)
    await layer.group_add("room", stays)
    await layer.group_discard("room", gone)
    await layer.group_send("room", numbered(1))
    assert await received(layer, stays) == numbered(1)
    assert await drained(layer, gone) == []


@every_layer
async def test_to_discard_what_is_no_member_does_nothing(new_layer: NewLayer) -> None:
    layer = new_layer()
    name = await layer.new_channel()
    await layer.group_discard("room", name)
    await layer.group_add("room", name)
    await layer.group_discard("hall", name)
    await layer.group_send("room", numbered(1))
    assert await received(layer, name) == numbered(1)


@every_layer
async def test_to_add_a_member_twice_delivers_once(new_layer: NewLayer) -> None:
    layer = new_layer()
    name = await layer.new_channel()
    await layer.group_add("room", name)
    await layer.group_add("room", name)
    await layer.group_send("room", numbered(1))
    assert await received(layer, name) == numbered(1)
    assert await drained(layer, name) == []


@every_layer
async def test_a_group_of_fifty_is_reached(new_layer: NewLayer) -> None:
    layer, sender = new_layer(), new_layer()
    names = [await layer.new_channel() for _ in range(50)]
    for name in names:
        await layer.group_add("room", name)
    await sender.group_send("room", numbered(1))
    assert [await received(layer, name) for name in names] == [numbered(1)] * 50


@every_layer
async def test_a_group_without_members_swallows_messages(new_layer: NewLayer) -> None:
    await new_layer().group_send("nobody", numbered(1))


@every_layer
async def test_a_group_spans_processes(new_layer: NewLayer) -> None:
    here, there = new_layer(), new_layer()
    mine, theirs = await here.new_channel(), await there.new_channel()
    await here.group_add("room", mine)
    await there.group_add("room", theirs)
    await here.group_send("room", numbered(1))
    assert await received(here, mine) == numbered(1)
    assert await received(there, theirs) == numbered(1)


@every_layer
async def test_group_messages_of_one_sender_arrive_in_order_large_ones_too(
    new_layer: NewLayer,
) -> None:
    here, there = new_layer(), new_layer()
    name = await here.new_channel()
    await here.group_add("room", name)
    for n in range(30):
        padding = "x" * 200_000 if n % 3 == 0 else ""
        await there.group_send("room", numbered(n) | {"padding": padding})
    assert [(await received(here, name))["n"] for _ in range(30)] == list(range(30))


@run_over(POSTGRES, PUBSUB)  # the other layer gives all members of a process one object
async def test_what_one_member_does_to_its_message_is_not_seen_by_another(
    new_layer: NewLayer,
) -> None:
    layer = new_layer()
    first, second = await layer.new_channel(), await layer.new_channel()
    await layer.group_add("room", first)
    await layer.group_add("room", second)
    await layer.group_send("room", {"type": "test", "list": [1]})
    (await received(layer, first))["list"].append(2)
    assert (await received(layer, second))["list"] == [1]


@every_layer
async def test_what_the_sender_does_to_its_message_later_is_not_seen(
    new_layer: NewLayer,
) -> None:
    layer = new_layer()
    name = await layer.new_channel()
    message = numbered(1)
    await layer.send(name, message)
    message["n"] = 2
    assert await received(layer, name) == numbered(1)


# names and messages that are refused


@checking_layers
@pytest.mark.parametrize("name", BAD_NAMES)
async def test_a_bad_name_is_refused_with_a_type_error(
    new_layer: NewLayer, name: object
) -> None:
    layer = new_layer()
    good = await layer.new_channel()
    for call in (
        layer.send(name, numbered(1)),
        layer.group_send(name, numbered(1)),
        layer.group_add(name, good),
        layer.group_add("room", name),
        layer.group_discard(name, good),
        layer.group_discard("room", name),
    ):
        with pytest.raises(TypeError):
            await call


@checking_layers
async def test_a_name_may_have_99_characters(new_layer: NewLayer) -> None:
    layer = new_layer()
    name = await layer.new_channel()
    await layer.group_add("g" * 99, name)
    await layer.group_send("g" * 99, numbered(1))
    assert await received(layer, name) == numbered(1)


@run_over(POSTGRES)
@pytest.mark.parametrize(
    "message", [None, "text", [1], 7, {"a": object()}, {1: "a"}, {"s": {1}}]
)
async def test_what_is_no_message_is_refused_with_a_type_error(
    new_layer: NewLayer, message: object
) -> None:
    layer = new_layer()
    name = await layer.new_channel()
    with pytest.raises(TypeError):
        await layer.send(name, message)
    with pytest.raises(TypeError):
        await layer.group_send("room", message)


# flush


@every_layer
async def test_a_flushed_layer_is_as_new(new_layer: NewLayer) -> None:
    layer = new_layer()
    name = await layer.new_channel()
    await layer.group_add("room", name)
    await layer.group_send("room", numbered(1))
    await layer.flush()
    await layer.group_send("room", numbered(2))
    fresh = await layer.new_channel()
    await layer.group_add("room", fresh)
    await layer.group_send("room", numbered(3))
    assert await received(layer, fresh) == numbered(3)
    assert await drained(layer, fresh) == []


@checking_layers
async def test_a_flush_deletes_what_waits_for_plain_names(new_layer: NewLayer) -> None:
    layer = new_layer()
    await layer.send("thumbnails", numbered(1))
    await layer.flush()
    assert await drained(layer, "thumbnails") == []


# tasks, loops, threads and processes


@every_layer
async def test_many_tasks_may_send_at_once(new_layer: NewLayer) -> None:
    here, there = new_layer(), new_layer()
    name = await here.new_channel()
    await here.group_add("room", name)
    sends = [there.group_send("room", numbered(n)) for n in range(90)]
    await asyncio.gather(*sends)
    assert sorted([(await received(here, name))["n"] for _ in range(90)]) == list(range(90))


@every_layer
def test_many_calls_from_sync_code_work(new_layer: NewLayer) -> None:
    layer, receiver = new_layer(), new_layer()

    async def receive_fifty() -> list[int]:
        name = await receiver.new_channel()
        await receiver.group_add("room", name)
        sending = asyncio.create_task(asyncio.to_thread(send_fifty))
        numbers = [(await received(receiver, name))["n"] for _ in range(50)]
        await sending
        return numbers

    def send_fifty() -> None:
        for n in range(50):
            async_to_sync(layer.group_send)("room", numbered(n))

    assert asyncio.run(receive_fifty()) == list(range(50))


@every_layer
def test_a_layer_outlives_its_event_loops(new_layer: NewLayer) -> None:
    layer = new_layer()

    async def round_trip(n: int) -> dict[str, Any]:
        name = await layer.new_channel()
        await layer.group_add("room", name)
        await layer.group_send("room", numbered(n))
        return await received(layer, name)

    for n in range(3):
        assert asyncio.run(round_trip(n)) == numbered(n)


@every_layer
async def test_another_process_reaches_names_and_groups(
    new_layer: NewLayer, request: pytest.FixtureRequest
) -> None:
    layer = new_layer()
    name = await layer.new_channel()
    await layer.group_add("room", name)
    calls = [
        ["send", name, {"type": "small"}],
        ["group_send", "room", {"type": "large", "text": "x" * 20_000}],
        ["group_send", "room", {"type": "last"}],
    ]
    await run_sender(new_layer, calls, request.getfixturevalue("database_env"))
    assert [(await received(layer, name))["type"] for _ in calls] == ["small", "large", "last"]


@checking_layers
async def test_another_process_leaves_work_for_a_plain_name(
    new_layer: NewLayer, request: pytest.FixtureRequest
) -> None:
    calls = [["send", "thumbnails", numbered(1)]]
    await run_sender(new_layer, calls, request.getfixturevalue("database_env"))
    assert await received(new_layer(), "thumbnails") == numbered(1)


async def run_sender(new_layer: Any, calls: list[Any], environment: dict[str, str]) -> None:
    argument = json.dumps([*new_layer.description, calls])
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", "-c", SENDER, argument, env=environment
    )
    assert await process.wait() == 0
