"""Queues are bounded, progress is told, and an odd message stops nobody."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from channels.layers import BaseChannelLayer

from django_pgnotify.events import Event
from django_pgnotify.ledger.ticks import Tick
from django_pgnotify.metrics import Metrics, serving
from django_pgnotify.publish.live import pack_live
from django_pgnotify.relay import live as live_module
from django_pgnotify.relay import queues, sender
from django_pgnotify.relay.frames import Outgoing
from django_pgnotify.relay.live import LiveRelay
from django_pgnotify.relay.progress import MAX_LISTED_GROUPS, Progress
from django_pgnotify.relay.queues import FrameQueue, LiveQueue
from django_pgnotify.relay.sender import Layer
from django_pgnotify.relay.trimmer import interval_seconds


def frame(number: int, size: int = 10) -> Outgoing:
    return Outgoing("g", {"n": number}, size)


def tick(number: int) -> Tick:
    return Tick(number=number, snapshot="1:1:", bits=1)


async def put_all(queue: FrameQueue, count: int, size: int = 10) -> None:
    for number in range(count):
        await queue.put(frame(number, size))


async def settle() -> None:
    """Let every task go as far as it can."""
    for _ in range(50):
        await asyncio.sleep(0)


@pytest.mark.parametrize(("size", "max_bytes"), [(3, 10_000), (100, 30)])
async def test_full_queue_makes_the_reader_wait(size: int, max_bytes: int) -> None:
    queue = FrameQueue(size, max_bytes)
    writer = asyncio.create_task(put_all(queue, 5))
    await settle()
    assert len(queue) == 3
    assert not writer.done()
    numbers = [(await queue.get()).message["n"] for _ in range(5)]
    assert numbers == [0, 1, 2, 3, 4]
    await writer


async def test_queue_of_size_0_never_waits() -> None:
    queue = FrameQueue(0, max_bytes=1)
    await put_all(queue, 5000)
    assert len(queue) == 5000


async def test_next_tick_waits_until_the_one_before_is_taken() -> None:
    queue = FrameQueue(10)
    await queue.wait_for_turn()
    await queue.put(frame(1))
    await queue.put(tick(1))
    waiting = asyncio.create_task(queue.wait_for_turn())
    await queue.get()
    await settle()
    assert not waiting.done()
    await queue.get()
    await waiting


async def test_next_tick_does_not_wait_for_a_channel_layer_that_is_down(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert queues.NEXT_TICK_SECONDS == 0.05
    monkeypatch.setattr(queues, "NEXT_TICK_SECONDS", 0.001)
    queue = FrameQueue(10)
    await queue.put(tick(1))
    async with asyncio.timeout(1):
        await queue.wait_for_turn()
    assert len(queue) == 1


async def test_full_live_queue_pushes_out_the_oldest() -> None:
    dropped: list[str] = []
    queue = LiveQueue(2, dropped.append)
    for payload in "abcd":
        queue.put_nowait(payload)
    assert dropped == ["a", "b"]
    assert await queue.get_all() == ["c", "d"]


async def heartbeat(progress: Progress) -> dict[str, Any]:
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await progress.tell_now(send)
    return sent[0]


async def test_heartbeats_are_chained_and_list_the_groups_in_between() -> None:
    progress = Progress(epoch="e", tick=tick(5))
    progress.frame_sent("a", 6)
    progress.tick_sent(tick(6))
    first = await heartbeat(progress)
    second = await heartbeat(progress)
    assert (first["prev"], first["tick"], first["groups"]) == (5, 6, {"a": 6})
    assert (second["prev"], second["tick"], second["groups"]) == (6, 6, {})


async def test_heartbeat_with_too_many_groups_lists_none() -> None:
    progress = Progress(epoch="e", tick=tick(5))
    for number in range(MAX_LISTED_GROUPS + 1):
        progress.frame_sent(f"group-{number}", 6)
    progress.tick_sent(tick(6))
    assert (await heartbeat(progress))["groups"] is None
    assert (await heartbeat(progress))["groups"] == {}


class FakeLayer(BaseChannelLayer):
    """Fails as told; keeps what it took."""

    def __init__(self, *failures: Exception) -> None:
        super().__init__()
        self.failures = list(failures)
        self.taken: list[dict[str, Any]] = []

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        if self.failures:
            raise self.failures.pop(0)
        self.taken.append(message)


def layer_over(fake: FakeLayer, monkeypatch: pytest.MonkeyPatch) -> Layer:
    monkeypatch.setattr(sender, "get_channel_layer", lambda alias: fake)
    return Layer("default", Metrics())


MESSAGE = {"group": "g", "events": [{"id": "1-0", "pk": 2**70, "data": {}, "exact": "..."}]}


async def test_message_that_the_encoder_refuses_goes_without_data(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake = FakeLayer(OverflowError("too big"))
    await layer_over(fake, monkeypatch).send_surely(Outgoing("g", MESSAGE, 0))
    assert fake.taken == [
        {"group": "g", "events": [{"id": "1-0", "pk": None, "truncated": True}]}
    ]


async def test_layer_that_is_down_is_tried_again_and_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, settings: Any
) -> None:
    settings.PGNOTIFY = {"RECONNECT_MIN_SECONDS": 0.001, "RECONNECT_MAX_SECONDS": 0.001}
    fake = FakeLayer(*(ConnectionError("down") for _ in range(5)))
    await layer_over(fake, monkeypatch).send_surely(Outgoing("g", MESSAGE, 0))
    assert fake.taken == [MESSAGE]
    actions = [record.action for record in caplog.records if hasattr(record, "action")]
    assert actions == ["layer-down", "layer-up"]


async def test_metrics_are_served_as_text() -> None:
    metrics = Metrics(ticks=3)
    async with serving(metrics, 0) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = (await reader.read()).decode()
        writer.close()
    assert answer.startswith("HTTP/1.1 200 OK\r\n")
    assert "# TYPE pgnotify_ticks_total counter\npgnotify_ticks_total 3\n" in answer
    assert "# TYPE pgnotify_leader gauge\npgnotify_leader 0\n" in answer


def test_retention_runs_four_times_a_period_and_once_a_minute() -> None:
    assert interval_seconds(timedelta(hours=1)) == 60
    assert interval_seconds(timedelta(seconds=40)) == 10


def payload(number: int) -> str:
    event = Event(
        id=f"live-{number}",
        topic="t",
        kind="message",
        data=number,
        at=datetime.now(UTC),
        context={"secret": 1},
        durable=False,
    )
    return pack_live(event, ["room"])


async def relay_live(live: LiveRelay, *payloads: str) -> None:
    for text in payloads:
        live.queue.put_nowait(text)
    running = asyncio.create_task(live.run())
    await settle()
    running.cancel()


async def test_live_events_pushed_out_leave_a_gap_in_seq(
    monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    settings.PGNOTIFY = {"QUEUE_SIZE": 2}
    fake, metrics = FakeLayer(), Metrics()
    monkeypatch.setattr(sender, "get_channel_layer", lambda alias: fake)
    live = LiveRelay(Layer("default", metrics), metrics)
    live.leading = True
    await relay_live(live, *(payload(number) for number in range(4)))
    (frame,) = fake.taken
    assert [event["data"] for event in frame["events"]] == [2, 3]
    assert frame["seq"] == 3
    assert metrics.live_dropped == 2
    assert all("context" not in event for event in frame["events"])


async def test_relay_that_does_not_lead_sends_no_live_events(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake, metrics = FakeLayer(), Metrics()
    live = LiveRelay(layer_over(fake, monkeypatch), metrics)
    await relay_live(live, payload(1), "forged")
    assert fake.taken == []


def test_a_live_group_that_was_forgotten_does_not_begin_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its hub would take the numbers for repetitions, and drop the events in silence."""
    monkeypatch.setattr(live_module, "REMEMBERED_GROUPS", 3)
    metrics = Metrics()
    live = LiveRelay(Layer("default", metrics), metrics)
    before = [live._next_seq("room") for _ in range(50)][-1]
    for number in range(4):
        live._next_seq(f"other-{number}")
    assert live._next_seq("room") > before
