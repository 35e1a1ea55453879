"""Claims: the messages of plain names that one event loop has taken out of the table.

A row that is deleted is nobody else's, so that a claim whose receive() was cancelled meanwhile
must be given back: soon, and at the latest when the loop is closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

import psycopg

from .listening import Closed
from .losses import Losses
from .storing import Claim, Store


class Claims:
    """Takes and gives back. `announce(name)` tells readers that there is a message."""

    def __init__(
        self, store: Store, *, announce: Callable[[str], Awaitable[None]], losses: Losses
    ) -> None:
        self._store = store
        self._announce = announce
        self._losses = losses
        self._under_way = 0
        self._none_under_way = asyncio.Event()
        self._none_under_way.set()
        self._owed: dict[int, tuple[str, Claim]] = {}
        """Claims that no receive() has taken, with their names, by row."""
        self._returning: asyncio.Task[None] | None = None
        self._is_closed = False

    async def take(self, name: str) -> str | None:
        """Claim the oldest message of a plain name, if there is one; Closed after close()."""
        if self._is_closed:
            raise Closed
        self._under_way += 1
        self._none_under_way.clear()
        try:
            return await self._take(name)
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._none_under_way.set()

    def close(self) -> None:
        """Take no more: what is under way will be owed."""
        self._is_closed = True

    async def finish(self) -> None:
        """Return when nothing is under way any more."""
        await self._none_under_way.wait()

    async def settle(self) -> bool:
        """Return when all that is owed has been given back; True if there was any."""
        was_owing = bool(self._owed)
        while self._owed:
            # The task may have been cancelled, as all are when a loop ends.
            await asyncio.wait({self._giving_back()})
        return was_owing

    async def _take(self, name: str) -> str | None:
        try:
            claim = await self._store.claim(name, unwanted=partial(self._owe, name))
        except psycopg.OperationalError:
            return None  # a worker outlives the server; that it is gone, the listener has said
        if claim is not None and self._is_closed:
            self._owe(name, claim)
            raise Closed
        return None if claim is None else claim.body.decode("ascii")

    def _owe(self, name: str, claim: Claim) -> None:
        self._owed[claim.row] = (name, claim)
        self._giving_back()

    def _giving_back(self) -> asyncio.Task[None]:
        if self._returning is None or self._returning.done():
            self._returning = asyncio.get_running_loop().create_task(self._give_back())
        return self._returning

    async def _give_back(self) -> None:
        while self._owed:
            row, (name, claim) = next(iter(self._owed.items()))
            try:
                await self._store.give_back(claim, then=partial(self._owed.pop, row, None))
            except Exception as error:
                self._losses.drop(1, f"a claimed message could not be given back: {error!r}")
                self._owed.pop(row, None)
            else:
                await self._announce(name)
