"""Calls: those of one handler that are under way, and what it has handled already.

They outlive the session in which they began. A lost connection ends no thread, and a function that
is cut in the middle is no better off: so the next session waits for a call instead of beginning it
anew, and leaves out what is done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from datetime import datetime
from functools import partial

from ..conf import settings
from ..events import Event, dumps, loads
from ..handlers import Handler
from .calling import call
from .order import Order, Turn

MAX_AHEAD = 20_000
"""Ids of events handled while an earlier one is not, about 2 MB of Python for each handler and 200
KB in its row. Those beyond are handled again after a stop or a lost connection."""

PARKED = "parked "
"""Before a parked event's id: its key. That of another one is the event's own id."""

Outcome = asyncio.Task[str | None]
"""The traceback, or None if it succeeded."""


class Calls:
    """The calls of one handler, for as long as the process runs."""

    def __init__(self, handler: Handler) -> None:
        self.handled: set[str] = set()
        """Keys of what is handled or parked, but not covered by the handler's tick yet."""
        self._handler = handler
        self._identity = ""
        self._places = asyncio.Semaphore(settings.HANDLER_CONCURRENCY)
        self._by_event: dict[tuple[str, datetime], tuple[Event, Outcome]] = {}
        """By key and time: after a fail-over an id may be another event's."""

    @property
    def running(self) -> Collection[Outcome]:
        """Those under way."""
        return [call for _, call in self._by_event.values()]

    def begin_order(self) -> Order:
        """The order of a new session: behind the calls that are under way, each in its turn."""
        order = Order()
        for event, running in self._by_event.values():
            turn = order.join(event)
            running.add_done_callback(partial(_end, order, turn))
        return order

    def belong_to(self, identity: str) -> None:
        """Forget what was handled in another history: an id may be another event's here."""
        if identity != self._identity:
            self._identity = identity
            self.handled.clear()

    def note_handled(self, key: str) -> bool:
        """Remember it until `forget`, if there is room."""
        if len(self.handled) < MAX_AHEAD:
            self.handled.add(key)
        return key in self.handled

    def forget(self, keys: Collection[str]) -> None:
        """They need not be remembered any more."""
        self.handled.difference_update(keys)

    def forget_events(self) -> None:
        """None of the ledger's events need be remembered any more."""
        self.handled = {key for key in self.handled if key.startswith(PARKED)}

    async def outcome(
        self, key: str, event: Event, turn: Turn, may_begin: Callable[[], Awaitable[None]]
    ) -> str | None:
        """Call the handler once in its turn, or wait for the call that runs, whose turn has come;
        the traceback if it raised. What `may_begin` raises keeps a new one from beginning."""
        if (key, event.at) not in self._by_event:
            await turn.wait()
        if key in self.handled:
            return None
        if (key, event.at) not in self._by_event:
            await self._places.acquire()
            try:
                await may_begin()
                self._begin(key, event)
            except BaseException:
                self._places.release()
                raise
        _, running = self._by_event[key, event.at]
        # Whoever is cancelled here leaves it running.
        await asyncio.wait([running])
        return running.result()

    def _begin(self, key: str, event: Event) -> None:
        name = f"{self._handler.name} {key}"
        running = asyncio.create_task(call(self._handler, anew(event)), name=name)
        self._by_event[key, event.at] = event, running
        running.add_done_callback(partial(self._ended, key, event.at, self._identity))

    def _ended(self, key: str, at: datetime, identity: str, ended: Outcome) -> None:
        self._places.release()
        del self._by_event[key, at]
        succeeded = not ended.cancelled() and ended.result() is None
        if succeeded and identity == self._identity:
            self.note_handled(key)


def _end(order: Order, turn: Turn, _: Outcome) -> None:
    order.end(turn)


def anew(event: Event) -> Event:
    """The same event for one call, which may change its data."""
    return Event.from_json(loads(dumps(event.to_json())), using=event.using)
