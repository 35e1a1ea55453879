"""Relay: what a leader runs, from the stored tick to the channel layer."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Self

from ..conf import settings
from ..connecting import connect_listener
from ..handlers import Handler
from ..metrics import Metrics
from .connections import Connection
from .epoch import Start, find_start
from .handlers import Handlers
from .leader import Leader
from .progress import Progress
from .queues import FrameQueue
from .sender import Layer, Sender
from .ticker import Ticker

APPLICATION_NAME = "django_pgnotify reader"
HANDLERS_APPLICATION_NAME = "django_pgnotify handlers"


class Relay:
    """Ticker, queue and sender of one time of leading, and the handlers beside them."""

    def __init__(
        self,
        alias: str,
        leader: Leader,
        reader: Connection,
        *,
        start: Start,
        layer: Layer,
        metrics: Metrics,
        handlers: Sequence[Handler],
    ) -> None:
        self.reader = reader
        self._alias = alias
        self._leader = leader
        self._start = start
        self._handlers = Handlers(handlers, using=alias, schema=leader.schema)
        metrics.in_progress.clear()
        queue = FrameQueue(settings.QUEUE_SIZE)
        self._progress = Progress(epoch=start.identity.epoch, tick=start.tick)
        self._sender = Sender(layer, queue, self._progress, metrics)
        self._ticker = Ticker(
            leader=leader,
            reader=reader,
            start=start,
            queue=queue,
            metrics=metrics,
            on_tick=self._handlers.wake,
        )

    @classmethod
    async def open(
        cls,
        alias: str,
        leader: Leader,
        *,
        layer: Layer,
        metrics: Metrics,
        handlers: Sequence[Handler],
    ) -> Self:
        """Find out where to go on, for a `leader` that holds the lock, and connect to read."""
        start = await find_start(leader.connection, leader.schema)
        reader = await connect_listener(alias, application_name=APPLICATION_NAME)
        return cls(
            alias, leader, reader, start=start, layer=layer, metrics=metrics, handlers=handlers
        )

    def tasks(self) -> dict[str, Coroutine[Any, Any, None]]:
        """What must run beside `catch_up` and `run`, by name."""
        return {
            "sender": self._sender.run(),
            "record": self._progress.record(self._leader.connection, self._leader.schema),
            "tell": self._progress.tell(self._sender.send_to_hubs),
        }

    async def handle(self, *, read_only: bool = False) -> None:
        """Call the handlers: until `stop_handling`, or with what has been read only. A handler
        without a place begins where this relay did."""
        connect = partial(
            connect_listener, self._alias, application_name=HANDLERS_APPLICATION_NAME
        )
        upto = self._ticker.tick if read_only else None
        await self._handlers.run(connect, self._start.identity, self._start.tick, upto)

    def stop_handling(self) -> None:
        """Begin no further call."""
        self._handlers.stop()

    async def catch_up(self, stopping: asyncio.Event) -> None:
        """Read all there is, and return when it has been sent."""
        await self._ticker.catch_up(stopping)
        await self._progress.wait_sent(self._ticker.tick.number)

    async def run(self, bell: asyncio.Event, stopping: asyncio.Event) -> None:
        """Relay until `stopping` is set, and all that has been read is sent."""
        await self._ticker.run(bell, stopping)
        await self._progress.wait_sent(self._ticker.tick.number)

    async def finish(self) -> None:
        """Record what has been sent, and tell the hubs for the last time."""
        await self._progress.record_now(self._leader.connection, self._leader.schema)
        await self._progress.tell_now(self._sender.send_to_hubs)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.reader.close()
