"""Where a client stands: every position that it is told means just the events it has not had."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from channels.layers import channel_layers, get_channel_layer
from django.db import InterfaceError, OperationalError, transaction
from django.test import override_settings

from django_pgnotify.consumers import EventStreamConsumer, hubs, session
from django_pgnotify.consumers.catching_up import CatchingUp
from django_pgnotify.consumers.outbox import Outbox
from tests.hub_kit import Browser, OpenConsumer, publish, publish_now, relay, tell
from tests.integration.test_hub import LossyLayer, live
from tests.shop.models import Customer

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
async def layer() -> AsyncIterator[LossyLayer]:
    layer = LossyLayer(capacity=1000)
    before = get_channel_layer()
    channel_layers.set("default", layer)
    await relay()
    yield layer
    channel_layers.set("default", before)


def everything(group: str, message: dict[str, Any]) -> bool:
    return True


class Names(OpenConsumer):
    def snapshot(self, group: str) -> Any:
        return list(Customer.objects.order_by("pk").values_list("name", flat=True))


@sync_to_async
def write(name: str) -> None:
    """A row and its event, in one transaction."""
    with transaction.atomic():
        Customer.objects.create(name=name)
        publish_now(name, "customers")


# A group that is behind -------------------------------------------------------------------


async def heard(browser: Browser, last: int) -> list[int]:
    """All data up to this. In one frame or several: it depends on whether the relay's first
    heartbeat came before its first tick."""
    data: list[int] = []
    while last not in data:
        data += await browser.data()
    return data


async def test_who_joins_a_group_that_is_behind_gets_nothing_from_before_its_position(
    layer: LossyLayer,
) -> None:
    async with Browser() as first, Browser() as second:
        await first.subscribe("orders")
        layer.drops = everything
        await tell(1, "orders")
        await second.subscribe("orders")
        layer.drops = lambda group, message: False
        await tell(2, "orders")
        assert await heard(first, 2) == [1, 2]
        assert await second.data() == [2]
        await tell(3, "orders")
        assert await first.data() == await second.data() == [3]


async def test_who_resumes_in_a_group_that_is_behind_gets_no_event_twice(
    layer: LossyLayer,
) -> None:
    async with Browser() as first, Browser() as second:
        since = (await first.subscribe("orders"))["position"]
        layer.drops = everything
        await tell(1, "orders")
        await second.subscribe("orders", since=since)
        assert await second.data() == [1]
        layer.drops = lambda group, message: False
        await tell(2, "orders")
        assert await heard(first, 2) == [1, 2]
        assert await second.data() == [2]


async def test_live_events_of_a_group_that_is_behind_move_no_client_back(
    layer: LossyLayer,
) -> None:
    async with Browser() as first, Browser() as second:
        behind = (await first.subscribe("orders"))["position"]
        layer.drops = everything
        await tell(1, "orders")
        position = (await second.subscribe("orders"))["position"]
        layer.drops = lambda group, message: False
        for seq in (1, 3):
            await layer.group_send("orders", live(seq, "now"))
        for browser, stands in ((first, behind), (second, position)):
            frames = [await browser.receive() for _ in range(3)]
            assert [frame["type"] for frame in frames] == ["events", "reset", "events"]
            assert {frame["position"] for frame in frames} == {stands}


# Snapshots --------------------------------------------------------------------------------


async def test_resuming_at_a_snapshot_repeats_nothing_that_it_held(layer: LossyLayer) -> None:
    await write("relayed")
    await relay()
    await write("in the snapshot, not relayed yet")
    async with Browser(Names) as browser:
        await browser.subscribe("customers")
        snapshot = await browser.receive()
        assert snapshot["data"] == ["relayed", "in the snapshot, not relayed yet"]
    async with Browser(Names) as browser:
        answer = await browser.subscribe("customers", since=snapshot["position"])
        assert answer["recovered"] is True
        assert answer["position"] == snapshot["position"]  # no tick has come since
        await write("after")
        await relay()
        assert await browser.data() == ["after"]
        await tell("later", "customers")
        assert await browser.data() == ["later"]
    async with Browser(Names) as browser:
        await browser.subscribe("customers", since=snapshot["position"])
        assert await browser.data() == ["after", "later"]


async def test_resuming_at_a_snapshot_hides_it_though_its_tick_is_the_last_one(
    layer: LossyLayer,
) -> None:
    await relay()
    await write("in the snapshot")
    async with Browser(Names) as browser:
        await browser.subscribe("customers")
        snapshot = await browser.receive()
    await relay()
    async with Browser(Names) as browser:
        await browser.subscribe("customers", since=snapshot["position"])
        assert await browser.waiting() == []
        await tell("after", "customers")
        assert await browser.data() == ["after"]


async def test_snapshot_of_who_joins_a_group_that_is_behind_hides_what_it_holds(
    layer: LossyLayer,
) -> None:
    async with Browser() as first, Browser(Names) as second:
        await first.subscribe("customers")
        layer.drops = everything
        await write("relayed, and dropped")
        await relay()
        await write("not relayed yet")
        await second.subscribe("customers")
        assert (await second.receive())["type"] == "snapshot"
        layer.drops = lambda group, message: False
        await write("after")
        await relay()
        assert await second.data() == ["after"]


async def test_position_of_a_snapshot_that_holds_no_more_than_its_tick_is_the_ticks(
    layer: LossyLayer,
) -> None:
    await write("relayed")
    await relay()
    await publish("of another group", "elsewhere")
    async with Browser(Names) as browser:
        subscribed = await browser.subscribe("customers")
        assert (await browser.receive())["position"] == subscribed["position"]


async def test_stream_of_two_groups_gets_no_id_from_the_snapshot_of_one(
    layer: LossyLayer,
) -> None:
    class Stream(EventStreamConsumer):
        async def authorize(self, group: str) -> bool:
            return True

        def snapshot(self, group: str) -> Any:
            return [] if group == "customers" else None

    sent: asyncio.Queue[tuple[str, str | None]] = asyncio.Queue()

    async def send(type: str, text: str, position: str | None) -> None:
        sent.put_nowait((type, position))

    await relay()
    await write("not relayed yet")
    stream = Stream()
    one = session.Session(
        stream,
        send=send,
        failed=asyncio.sleep,
        stamps=True,
        filters=False,
        takes_snapshots=True,
    )
    one.expect(["customers", "orders"])
    one.start()
    try:
        for group in ("customers", "orders"):
            one.request(session.Subscribe(group, is_authorized=True))
        async with asyncio.timeout(5):
            assert [(await sent.get())[0] for _ in range(2)] == ["subscribed", "snapshot"]
            assert await sent.get() == ("subscribed", None)
            await relay()
            await tell("after", "orders", "customers")
            ids = [(await sent.get())[1] for _ in range(2)]
            assert ids[-1] is not None
    finally:
        await one.close()


# A database that is away ------------------------------------------------------------------


@pytest.mark.parametrize("error", [OperationalError, InterfaceError])
@override_settings(PGNOTIFY={"RECONNECT_MAX_SECONDS": 0.01})
async def test_snapshot_waits_for_a_database_that_is_away(
    layer: LossyLayer, caplog: pytest.LogCaptureFixture, error: type[Exception]
) -> None:
    class Unlucky(Names):
        failures = 3

        def snapshot(self, group: str) -> Any:
            if Unlucky.failures:
                Unlucky.failures -= 1
                raise error("server closed the connection unexpectedly")
            return super().snapshot(group)

    await write("there")
    async with Browser(Unlucky) as browser:
        await browser.subscribe("customers")
        assert (await browser.receive())["data"] == ["there"]
    told = [one for one in caplog.records if getattr(one, "action", "") == "snapshot_failed"]
    assert [one.levelno for one in told] == [logging.WARNING] * 3
    assert not any(one.exc_info for one in caplog.records)


async def test_snapshot_with_a_mistake_is_logged_once_and_ends_its_own_connection(
    layer: LossyLayer, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(OpenConsumer):
        def snapshot(self, group: str) -> Any:
            raise RuntimeError("bug")

    async with Browser(Broken) as browser:
        await browser.subscribe("orders")
        assert (await browser.socket.receive_output(timeout=5))["code"] == 4500
    (record,) = [one for one in caplog.records if one.levelno >= logging.ERROR]
    assert record.getMessage() == "snapshot() of 'orders' failed: its client is disconnected"
    assert record.exc_info is not None


# Overflows --------------------------------------------------------------------------------


async def replay_that_overflows(
    monkeypatch: pytest.MonkeyPatch, browser: Browser, since: str
) -> list[dict[str, Any]]:
    """Resume in two groups; the queue overflows once the first event of one is in it."""
    put = Outbox.put

    def overflowing(outbox: Outbox, item: Any) -> None:
        put(outbox, item)
        if item.type == "events" and item.group == "long":
            monkeypatch.setattr(Outbox, "put", put)
            outbox._overflow()

    monkeypatch.setattr(Outbox, "put", overflowing)
    resume, waiting = CatchingUp.resume, []

    def both_at_once(self: CatchingUp, *arguments: Any) -> None:
        waiting.append(arguments)
        if len(waiting) == 2:
            for one in waiting:
                resume(self, *one)

    monkeypatch.setattr(CatchingUp, "resume", both_at_once)
    for group in ("long", "short"):
        await browser.send(type="subscribe", group=group, since=since)
    frames: list[dict[str, Any]] = []
    while {frame["group"] for frame in frames if frame["type"] != "subscribed"} < {
        "long",
        "short",
    }:
        frames.append(await browser.receive())
    return [*frames, *await browser.waiting()]


@override_settings(PGNOTIFY={"MAX_FRAME_BYTES": 1_000})
async def test_overflow_in_a_replay_loses_nothing_of_a_group_whose_replay_has_not_begun(
    layer: LossyLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Browser() as browser:
        since = (await browser.subscribe("long"))["position"]
    for number in range(8):
        await publish("x" * 400 + str(number), "long")
    await tell("must come", "short")
    async with Browser() as browser:
        frames = await replay_that_overflows(monkeypatch, browser, since)
    short = [frame for frame in frames if frame["group"] == "short"]
    assert [frame["type"] for frame in short] == ["subscribed", "events"]
    assert [event["data"] for event in short[1]["events"]] == ["must come"]


@override_settings(PGNOTIFY={"MAX_FRAME_BYTES": 1_000})
async def test_overflow_in_a_replay_is_told_at_its_end_with_the_place_to_go_on_from(
    layer: LossyLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Browser() as browser:
        since = (await browser.subscribe("long"))["position"]
    for number in range(8):
        await publish("x" * 400 + str(number), "long")
    await tell("short", "short")
    async with Browser() as browser:
        frames = await replay_that_overflows(monkeypatch, browser, since)
        last = [frame for frame in frames if frame["group"] == "long"][-1]
        assert (last["type"], last["reason"]) == ("reset", "overflow")
        shared = hubs.enter("default")
        here = shared.groups["long"].position
        await hubs.leave(shared)
        assert here is not None
        assert last["position"] == here.token
