"""Relay: what a leader runs, from the stored tick to the channel layer."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Self

from ..conf import settings
from ..connecting import connect_listener
from ..handling.handlers import Handlers, HandlersToRun
from ..handling.parking import HandlerStore
from ..ledger.ticks import Connection
from ..metrics import Metrics
from .epoch import Start, find_start, watch_history
from .fullness import FullLedger, tell_max_bytes
from .gate import Gate
from .leader import Leader
from .progress import Progress
from .queues import FrameQueue
from .sender import Layer, Sender
from .ticker import Ticker
from .unclaimed import tell_of_unclaimed

APPLICATION_NAME = "django_pgnotify reader"
HANDLERS_APPLICATION_NAME = "django_pgnotify handlers"


class Relay:
    """Ticker, queue and sender of one time of leading, and the handlers beside them."""

    def __init__(
        self,
        alias: str,
        leader: Leader,
        reader: Connection,
        gate: Gate,
        *,
        start: Start,
        layer: Layer,
        metrics: Metrics,
        handlers: HandlersToRun,
    ) -> None:
        self.connections = [reader, gate.connection]
        """What this relay has opened."""
        self._alias = alias
        self._leader = leader
        self._gate = gate
        self._start = start
        self._registered = handlers.names
        self._caught_up = asyncio.Event()
        self._committed_before = start.tick.number
        """Tick that a relay which is live has sent, once it is known."""
        self._handlers = Handlers(
            handlers, schema=leader.schema, using=alias, still_leading=leader.still_leading
        )
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
            full=FullLedger(leader.connection, leader.schema, self._progress, handlers.names),
        )

    @classmethod
    async def open(
        cls,
        alias: str,
        leader: Leader,
        *,
        layer: Layer,
        metrics: Metrics,
        handlers: HandlersToRun,
    ) -> Self:
        """Find out where to go on, for a `leader` that holds the lock, and connect to read."""
        start = await find_start(leader.connection, leader.schema)
        store = HandlerStore(leader.connection, leader.schema, alias, start.identity)
        await store.register(handlers.registered, start.tick)
        await tell_max_bytes(leader.connection, leader.schema)
        async with AsyncExitStack() as stack:
            reader = await connect_listener(alias, application_name=APPLICATION_NAME)
            stack.push_async_callback(reader.close)
            gate = await Gate.open(alias, leader.schema)
            stack.pop_all()
        return cls(
            alias,
            leader,
            reader,
            gate,
            start=start,
            layer=layer,
            metrics=metrics,
            handlers=handlers,
        )

    def tasks(self) -> dict[str, Coroutine[Any, Any, None]]:
        """What must run beside `catch_up` and `run`, by name."""
        leader = self._leader
        return {
            "sender": self._sender.run(),
            "record": self._progress.record(leader.connection, leader.schema),
            "tell": self._progress.tell(self._sender.send_to_hubs),
            "gate": self._gate.keep_alive(),
            "reader": watch_history(self.connections[0], leader.schema, self._start.identity),
            "unclaimed": tell_of_unclaimed(leader.connection, leader.schema, self._registered),
        }

    async def handle(self, *, read_only: bool = False) -> None:
        """Call the handlers: until `stop_handling`, or with what has been read only."""
        upto = self._ticker.tick if read_only else None
        start = self._start
        await self._handlers.run(self._connect_handler, start.identity, start.tick, upto)

    async def _connect_handler(self) -> Connection:
        name = HANDLERS_APPLICATION_NAME
        connection = await connect_listener(self._alias, application_name=name)
        self.connections.append(connection)
        return connection

    async def wait_connected(self) -> None:
        """Return when the handlers have their connections too."""
        await self._handlers.ready.wait()

    async def wait_live(self) -> None:
        """Return when all that `catch_up` has read is sent."""
        await self._caught_up.wait()
        await self._progress.wait_sent(self._committed_before)

    def stop_handling(self) -> None:
        """Begin no further call."""
        self._handlers.stop()

    async def catch_up(self, stopping: asyncio.Event) -> None:
        """Read all there is. Who waits for it to be sent, waits as long as the layer is down:
        then no tick would be stored, and handlers would get nothing."""
        async with self._gate.kept_shut():
            await self._ticker.catch_up(stopping)
        self._committed_before = self._ticker.tick.number
        self._caught_up.set()

    async def empty_if_full(self) -> None:
        """Empty a ledger in which the triggers have stopped to write, if all is done with."""
        await self._ticker.empty_if_full()

    async def run(self, bell: asyncio.Event, stopping: asyncio.Event) -> None:
        """Relay until `stopping` is set, and all that has been read is sent."""
        await self._ticker.run(self._gate, bell, stopping)
        await self._progress.wait_sent(self._ticker.tick.number)

    async def finish(self) -> None:
        """Record what has been sent, and tell the hubs for the last time."""
        await self._gate.leave()
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
        for connection in self.connections:
            await connection.close()
