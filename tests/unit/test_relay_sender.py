"""The sender, over a channel layer that does not take a cancellation for what it is."""

from __future__ import annotations

import asyncio
import itertools
import json
from typing import Any

import pytest
from channels.layers import BaseChannelLayer

from django_pgnotify.ledger.ticks import Tick
from django_pgnotify.metrics import Metrics
from django_pgnotify.relay import sender
from django_pgnotify.relay.frames import Outgoing
from django_pgnotify.relay.progress import Progress
from django_pgnotify.relay.queues import FrameQueue
from django_pgnotify.relay.sender import Layer, Sender


class SwallowsCancellation(BaseChannelLayer):
    """As redis-py during a connect: goes on, or fails, instead of ending."""

    def __init__(self, then: Exception | None) -> None:
        super().__init__()
        self.called = asyncio.Event()
        self._then = then

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        self.called.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if self._then is not None:
                raise self._then from None


@pytest.mark.parametrize("then", [None, ConnectionError("cancelled")])
async def test_sender_ends_at_the_first_cancellation_even_if_the_channel_layer_swallows_it(
    monkeypatch: pytest.MonkeyPatch, then: Exception | None
) -> None:
    channel_layer = SwallowsCancellation(then)
    monkeypatch.setattr(sender, "configured_layer", lambda: channel_layer)
    queue = FrameQueue(10)
    progress = Progress(epoch="e", tick=Tick(number=0, snapshot="1:1:", bits=0))
    sending = Sender(Layer("default", Metrics()), queue, progress, Metrics())
    task = asyncio.create_task(sending.run())
    await queue.put(Outgoing("orders", {"tick": 1}, 0))
    async with asyncio.timeout(1):
        await channel_layer.called.wait()
        task.cancel()
        await asyncio.wait({task})
    assert task.cancelled()


class OneGroupWaits(BaseChannelLayer):
    """Takes all groups at once, but one only when told."""

    def __init__(self, group: str) -> None:
        super().__init__()
        self.go = asyncio.Event()
        self.took_two = asyncio.Event()
        self.taken: list[tuple[str, int]] = []
        self._group = group

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        if group == self._group:
            await self.go.wait()
        self.taken.append((group, message["tick"]))
        if len(self.taken) == 2:
            self.took_two.set()


def other_lane(group: str) -> str:
    """A group that does not share the lane."""
    names = (f"group-{number}" for number in itertools.count())
    return next(n for n in names if hash(n) % sender.LANES != hash(group) % sender.LANES)


async def test_ticks_overlap_but_none_counts_as_sent_before_an_earlier_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slow, quick = "slow", other_lane("slow")
    layer = OneGroupWaits(slow)
    monkeypatch.setattr(sender, "configured_layer", lambda: layer)
    queue = FrameQueue(100)
    metrics = Metrics()
    metrics.in_progress.extend([0.0, 0.0])
    progress = Progress(epoch="e", tick=Tick(number=0, snapshot="1:1:", bits=0))
    task = asyncio.create_task(
        Sender(Layer("default", metrics), queue, progress, metrics).run()
    )
    for number, groups in (1, [slow, quick]), (2, [quick, slow]):
        for group in groups:
            await queue.put(Outgoing(group, {"tick": number}, 0))
        await queue.put(Tick(number=number, snapshot="1:1:", bits=0))
    async with asyncio.timeout(1):
        await layer.took_two.wait()
        assert layer.taken == [(quick, 1), (quick, 2)]
        assert progress.sent.number == 0
        layer.go.set()
        await progress.wait_sent(2)
    assert [number for group, number in layer.taken if group == slow] == [1, 2]
    assert metrics.ticks == 2
    task.cancel()
    await asyncio.wait({task})


class TakesText(BaseChannelLayer):
    """As ours: what is encoded already needs no second encoding."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    async def group_send_encoded(self, group: str, text: str) -> None:
        self.texts.append(text)


async def test_layer_that_takes_encoded_frames_gets_them_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    channel_layer = TakesText()
    monkeypatch.setattr(sender, "configured_layer", lambda: channel_layer)
    frame = Outgoing("orders", {"tick": 1}, 8, '{"id":1}')
    await Layer("default", Metrics()).send(frame)
    assert [json.loads(text) for text in channel_layer.texts] == [frame.message]
