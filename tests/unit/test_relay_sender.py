"""The sender, over a channel layer that does not take a cancellation for what it is."""

from __future__ import annotations

import asyncio
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
