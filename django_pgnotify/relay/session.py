"""Session: one life of the relay's connections. The first that fails ends them all."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from ..conf import settings
from ..connecting import abort
from ..ending import end
from ..handling.handlers import HandlersToRun
from ..ledger.retention import trim
from ..ledger.ticks import Connection
from ..metrics import Metrics
from .connections import check
from .leader import PINGS_PER_TIMEOUT, Leader
from .listener import Listener
from .live import LiveRelay
from .notify_queue import Watch
from .relay import Relay
from .sender import Layer
from .trimmer import trim_now_and_then

logger = logging.getLogger("django_pgnotify")

T = TypeVar("T")


HEARTBEATS_UNTIL_LOST = 2
"""Heartbeats after which a bell of our own that has not come back is lost."""


ONCE_PATIENCE_SECONDS = 15.0
"""Of ``--once`` with a channel layer that is down: a restart of Redis takes less, and who runs it
by cron runs it again."""


PROOFS_PER_WATCH = 2
"""Proofs between two looks at the server's notify queue, which fills in minutes at the fastest: a
relay without work is quiet."""


class Session:
    """LISTEN first, then stand by until nobody else leads; then catch up, announce beside it."""

    def __init__(
        self,
        alias: str,
        metrics: Metrics,
        handlers: HandlersToRun,
        on_ready: Callable[[], None],
    ) -> None:
        self.leading = False
        """True from taking the lock to the end: then there may be something to drain."""
        self._alias = alias
        self._metrics = metrics
        self._handlers = handlers
        self._on_ready = on_ready
        self._stopping = asyncio.Event()
        self._all_handled = asyncio.Event()
        self._connections: list[Connection] = []
        self._relay: Relay | None = None

    async def run(self) -> None:
        """Relay until `stop`; raises what ended it, most often in an ExceptionGroup."""
        try:
            await self._run()
        finally:
            self.leading = False
            self._metrics.leader = 0
            for connection in self._opened():
                await connection.close()

    def stop(self) -> None:
        """Call no handler again, relay until the calls that run have ended, and end."""
        self._stopping.set()
        if self._relay is not None:
            self._relay.stop_handling()

    def abort(self) -> None:
        """End all connections at once, so that nobody waits for a server that has frozen."""
        for connection in self._opened():
            abort(connection)

    def _opened(self) -> list[Connection]:
        return self._connections + (self._relay.connections if self._relay else [])

    async def _run(self) -> None:
        layer = Layer(self._alias, self._metrics)
        live = LiveRelay(layer, self._metrics)
        listener = await Listener.open(self._alias, live.queue)
        self._connections.append(listener.connection)
        await check(listener.connection)
        leader = await Leader.open(self._alias)
        self._connections.append(leader.connection)
        await listener.listen()
        async with asyncio.TaskGroup() as tasks:
            beside = [self._start(tasks, "listener", listener.run())]
            # Before anything is announced: a pooler lets LISTEN succeed and hears nothing.
            await self._guard(self._prove(listener, leader))
            beside += [
                self._start(tasks, "keep alive", self._keep_alive(listener, leader)),
                self._start(tasks, "live", live.run()),
            ]
            await self._guard(self._stand_by(leader))
            live.leading = True
            await self._guard(self._lead(tasks, beside, layer, listener, leader))
            await end(beside)

    async def _stand_by(self, leader: Leader) -> None:
        """Return when we lead."""
        if not await leader.try_lead():
            logger.info("standing by: another pglisten leads", extra={"action": "standby"})
            self._on_ready()
            # Tried, not waited for: a connection that waits for a lock can't show that it lives.
            while not await leader.try_lead():  # noqa: ASYNC110 - the lock is in the database
                await asyncio.sleep(settings.POLL_SECONDS)
        self.leading = True
        self._metrics.leader = 1

    async def _lead(
        self,
        tasks: asyncio.TaskGroup,
        beside: list[asyncio.Task[None]],
        layer: Layer,
        listener: Listener,
        leader: Leader,
    ) -> None:
        relay = self._relay = await Relay.open(
            self._alias, leader, layer=layer, metrics=self._metrics, handlers=self._handlers
        )
        if self._stopping.is_set():
            relay.stop_handling()  # meanwhile there was none to stop
        work = relay.tasks()
        work["trimmer"] = trim_now_and_then(
            self._alias, leader.schema, self._handlers.names, self._metrics
        )
        for name, coroutine in work.items():
            beside.append(self._start(tasks, name, coroutine))
        handling = self._start(tasks, "handlers", relay.handle())
        beside.append(self._start(tasks, "announce", self._announce(relay)))
        beside.append(self._start(tasks, "stop", self._stop_reading(handling, listener.bell)))
        await relay.catch_up(self._all_handled)
        await relay.run(listener.bell, self._all_handled)
        await relay.finish()

    async def _stop_reading(self, handling: asyncio.Task[None], bell: asyncio.Event) -> None:
        """Only after the last call: as long as it runs, nobody else may lead."""
        await self._stopping.wait()
        await asyncio.wait([handling])
        self._all_handled.set()
        bell.set()

    async def _announce(self, relay: Relay) -> None:
        """Beside the relay, which reads on while the layer is down, until its queue is full."""
        await relay.wait_connected()
        self._on_ready()
        await relay.wait_live()
        if not self._stopping.is_set():
            logger.info("listening", extra={"action": "listening"})

    async def _keep_alive(self, listener: Listener, leader: Leader) -> None:
        """Prove the way of the bell again and again, which also shows the server that we live."""
        watch = Watch(self._metrics)
        while True:
            await watch.look(leader.connection)
            for _ in range(PROOFS_PER_WATCH):
                pings = settings.LEADER_TIMEOUT_SECONDS / PINGS_PER_TIMEOUT
                await asyncio.sleep(min(settings.HEARTBEAT_SECONDS, pings))
                await self._prove(listener, leader)

    async def _prove(self, listener: Listener, leader: Leader) -> None:
        timeout = settings.HEARTBEAT_SECONDS * HEARTBEATS_UNTIL_LOST
        with leader.proof():
            await listener.probe(leader.connection, timeout)

    def _start(
        self, tasks: asyncio.TaskGroup, name: str, work: Coroutine[Any, Any, None]
    ) -> asyncio.Task[None]:
        return tasks.create_task(self._guard(work), name=name)

    async def _guard(self, work: Awaitable[T]) -> T:
        try:
            return await work
        except Exception:
            # The group cancels the others next, and psycopg would wait for a frozen server.
            self.abort()
            raise


async def relay_once(alias: str, metrics: Metrics, handlers: HandlersToRun) -> bool:
    """Relay, handle and trim what the ledger holds; False if another relay leads. LayerDown if
    the channel layer does not take it."""
    layer = Layer(alias, metrics, patience=ONCE_PATIENCE_SECONDS)
    async with await Leader.open(alias) as leader:
        if not await leader.try_lead():
            return False
        relay = await Relay.open(alias, leader, layer=layer, metrics=metrics, handlers=handlers)
        async with relay:
            async with asyncio.TaskGroup() as tasks:
                beside = [
                    tasks.create_task(work, name=name) for name, work in relay.tasks().items()
                ]
                beside.append(tasks.create_task(leader.keep_alive(), name="keep alive"))
                await relay.catch_up(asyncio.Event())
                await relay.wait_live()
                await relay.handle(read_only=True)
                await relay.empty_if_full()
                await end(beside)
            await relay.finish()
        # Who relays by cron has nobody else for it.
        await trim(
            leader.connection,
            leader.schema,
            retention=settings.RETENTION,
            handlers=handlers.names,
        )
    return True
