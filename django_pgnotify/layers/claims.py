"""Claims: the messages of plain names that one event loop has taken out of the table.

A row that is deleted is nobody else's, so that a claim whose receive() was cancelled meanwhile
must be given back: soon, and at the latest when the loop is closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import psycopg

from .listening import Closed
from .losses import Losses
from .statements import Rows
from .storing import Claim, Store


class Claims:
    """Takes and gives back. `announce(name)` tells readers that there is a message."""

    def __init__(
        self,
        store: Store,
        *,
        announce: Callable[[str], Coroutine[Any, Any, None]],
        losses: Losses,
    ) -> None:
        self._store = store
        self._announce = announce
        self._losses = losses
        self._under_way = 0
        self._none_under_way = asyncio.Event()
        self._none_under_way.set()
        self._owed: dict[asyncio.Future[Rows], str] = {}
        """Claims that no receive() has taken, and that are being given back: their names."""
        self._announcing: set[asyncio.Task[None]] = set()
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

    async def settle(self) -> None:
        """Return when all that is owed has been given back."""
        while self._owed or self._announcing:
            owed: list[asyncio.Future[Any]] = [*self._owed, *self._announcing]
            await asyncio.wait(owed)
            await asyncio.sleep(0)  # what is done may still wait for _returned()

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
        # No task: all are cancelled when a loop ends, and this must be done exactly once.
        returned = self._store.give_back(claim)
        self._owed[returned] = name
        returned.add_done_callback(self._returned)

    def _returned(self, returned: asyncio.Future[Rows]) -> None:
        name = self._owed.pop(returned)
        if (error := returned.exception()) is not None:
            self._losses.drop(1, f"a claimed message could not be given back: {error!r}")
            return
        announcing = asyncio.get_running_loop().create_task(self._announce(name))
        self._announcing.add(announcing)
        announcing.add_done_callback(self._announcing.discard)
