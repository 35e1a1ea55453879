"""Handle: runs every ``@on_event`` handler of one database, for as long as this process leads."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from ..handlers import Handler
from ..ledger.ticks import Connection, Identity, Tick
from .calls import Calls
from .parking import HandlerStore
from .runner import HandlerRunner

Connect = Callable[[], Awaitable[Connection]]


@dataclass(frozen=True, slots=True)
class HandlersToRun:
    """The registered handlers."""

    registered: Sequence[Handler]
    """Retention waits for all of them."""
    running: bool
    """False leaves their events in the ledger."""
    _calls: dict[str, Calls] = field(default_factory=dict, repr=False, compare=False)

    @property
    def names(self) -> list[str]:
        """Names of the registered ones."""
        return [handler.name for handler in self.registered]

    @property
    def to_run(self) -> Sequence[Handler]:
        """Those that this process calls."""
        return self.registered if self.running else ()

    def calls_of(self, handler: Handler) -> Calls:
        """Its calls, whichever session they began in."""
        if handler.name not in self._calls:
            self._calls[handler.name] = Calls(handler)
        return self._calls[handler.name]

    @property
    def are_called(self) -> bool:
        """True while a call is under way."""
        return any(calls.running for calls in self._calls.values())

    async def wait(self, seconds: float) -> None:
        """Wait for the calls that are under way, but no longer than this."""
        running = {task for calls in self._calls.values() for task in calls.running}
        if running:
            await asyncio.wait(running, timeout=seconds)


class Handlers:
    """All handlers of one database, in one session."""

    def __init__(
        self,
        handlers: HandlersToRun,
        *,
        schema: str,
        using: str,
        still_leading: Callable[[], Awaitable[None]],
    ) -> None:
        self.ready = asyncio.Event()
        """Set when all their connections are open."""
        self._handlers = handlers
        self._schema = schema
        self._using = using
        self._still_leading = still_leading
        self._runners: list[HandlerRunner] = []
        self._stopping = asyncio.Event()

    def wake(self, topics: Collection[str] | None) -> None:
        """Say that a tick has been stored, with events of these topics or, for None, of any. The
        other handlers come by themselves, now and then: at each tick they would find nothing."""
        for runner in self._runners:
            if topics is None or runner.handler.topic in topics:
                runner.wake()

    def stop(self) -> None:
        """Begin no further call; ``run`` ends when those under way have."""
        self._stopping.set()
        for runner in self._runners:
            runner.stop()

    async def run(
        self, connect: Connect, identity: Identity, now: Tick, upto: Tick | None = None
    ) -> None:
        """Run every handler: up to `upto`, or until stopped. `now` is where one begins whose
        place is gone.

        Opens one connection a handler, and one that keeps their progress.
        """
        async with AsyncExitStack() as stack:
            if self._handlers.to_run and not self._stopping.is_set():
                keeper = await stack.enter_async_context(await connect())
                store = HandlerStore(keeper, self._schema, self._using, identity)
                for handler in self._handlers.to_run:
                    self._runners.append(await self._runner(handler, store, now))
            connections = [
                await stack.enter_async_context(await connect()) for _ in self._runners
            ]
            self.ready.set()
            if self._stopping.is_set():
                self.stop()
            async with asyncio.TaskGroup() as tasks:
                for runner, connection in zip(self._runners, connections, strict=True):
                    tasks.create_task(runner.run(connection, upto))

    async def _runner(self, handler: Handler, store: HandlerStore, now: Tick) -> HandlerRunner:
        calls = self._handlers.calls_of(handler)
        calls.belong_to(store.identity.text)
        begin, ahead = await store.begin(handler, now)
        calls.handled.update(ahead)
        return HandlerRunner(
            handler,
            store,
            calls,
            begin,
            using=self._using,
            still_leading=self._still_leading,
        )
