"""Handle: runs every ``@on_event`` handler of one database, for as long as this process leads."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass

from ..handlers import Handler
from ..ledger.ticks import Identity, Tick
from .connections import Connection
from .parking import HandlerStore
from .runner import HandlerRunner

RETRY_POLL_SECONDS = 2.0
"""Between looks for parked events that somebody asked to retry."""

Connect = Callable[[], Awaitable[Connection]]


@dataclass(frozen=True, slots=True)
class HandlersToRun:
    """The registered handlers."""

    registered: Sequence[Handler]
    """Retention waits for all of them."""
    running: bool
    """False leaves their events in the ledger."""

    @property
    def names(self) -> list[str]:
        """Names of the registered ones."""
        return [handler.name for handler in self.registered]

    @property
    def to_run(self) -> Sequence[Handler]:
        """Those that this process calls."""
        return self.registered if self.running else ()


class Handlers:
    """All handlers of one database."""

    def __init__(self, handlers: Sequence[Handler], *, using: str, schema: str) -> None:
        self._handlers = handlers
        self._using = using
        self._schema = schema
        self._runners: dict[str, HandlerRunner] = {}
        self._stopping = asyncio.Event()

    def wake(self) -> None:
        """Say that a tick has been stored."""
        for runner in self._runners.values():
            runner.news.set()

    def stop(self) -> None:
        """Begin no further call; ``run`` ends when those under way have."""
        self._stopping.set()
        for runner in self._runners.values():
            runner.stopping.set()
            runner.news.set()

    async def run(
        self, connect: Connect, identity: Identity, now: Tick, upto: Tick | None = None
    ) -> None:
        """Run every handler: up to `upto`, or until stopped. `now` is where one begins whose
        place is gone.

        Opens one connection a handler, and one that keeps their progress.
        """
        if not self._handlers:
            return
        async with AsyncExitStack() as stack:
            keeper = await stack.enter_async_context(await connect())
            store = HandlerStore(keeper, self._schema, self._using, identity)
            self._runners = {
                handler.name: HandlerRunner(handler, store, using=self._using)
                for handler in self._handlers
            }
            if self._stopping.is_set():
                self.stop()
            async with asyncio.TaskGroup() as tasks:
                for runner in self._runners.values():
                    begin = await store.begin(runner.handler, now)
                    connection = await stack.enter_async_context(await connect())
                    tasks.create_task(runner.run(connection, begin, upto))
                tasks.create_task(self._retry_requested(store, for_ever=upto is None))

    async def _retry_requested(self, store: HandlerStore, *, for_ever: bool) -> None:
        """Call handlers again with the parked events for which somebody asked: with all there
        are, or again and again until stopped."""
        while not self._stopping.is_set():
            for parked in await store.requested(self._runners):
                await self._runners[parked.handler].retry(parked)
            if not for_ever:
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(RETRY_POLL_SECONDS):
                    await self._stopping.wait()
