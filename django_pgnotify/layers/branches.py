"""Branches: those of one layer, by event loop, from their first use until the loop is closed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import TypeVar
from weakref import WeakSet

from ..ending import before_close
from .branch import Branch
from .listening import Closed

T = TypeVar("T")


class Branches:
    """Has one branch in use for each event loop, made by `new`."""

    def __init__(self, new: Callable[[], Branch]) -> None:
        self._new = new
        self._by_loop: dict[asyncio.AbstractEventLoop, list[Branch]] = {}
        """The last one of a loop is in use, unless it is closed; others are being closed."""
        self._told: WeakSet[asyncio.AbstractEventLoop] = WeakSet()
        """Loops that say goodbye."""
        self._left: WeakSet[asyncio.AbstractEventLoop] = WeakSet()
        """Loops that have, and are about to be closed."""

    def here(self) -> Branch:
        """The branch of the running loop."""
        loop = asyncio.get_running_loop()
        branches = self._by_loop.get(loop)
        if not branches or branches[-1].is_closed:
            return self._begin(loop)
        return branches[-1]

    async def use(self, work: Callable[[Branch], Awaitable[T]]) -> T:
        """Do something in this loop's branch; again in a new one if that is closed meanwhile."""
        loop = asyncio.get_running_loop()
        while loop not in self._left:
            with suppress(Closed):
                return await work(self.here())
        # Whoever closes a loop by hand leaves its tasks where they are.
        never: asyncio.Future[T] = loop.create_future()
        return await never

    async def leave(self, loop: asyncio.AbstractEventLoop) -> None:
        """Close the loop's branches, those too whose closing was cancelled."""
        branches = self._by_loop.get(loop, [])
        for branch in list(branches):
            await branch.close()
            if branch in branches:  # two may be at it
                branches.remove(branch)
        if not branches:
            self._by_loop.pop(loop, None)

    def _begin(self, loop: asyncio.AbstractEventLoop) -> Branch:
        for other in [other for other in list(self._by_loop) if other.is_closed()]:
            # Closed past our goodbye: what it held is collected. Another thread may be faster.
            self._by_loop.pop(other, None)
        branch = self._new()
        self._by_loop.setdefault(loop, []).append(branch)
        if loop not in self._told:
            self._told.add(loop)
            # Else each call of async_to_sync would leave a connection behind.
            before_close(loop, partial(self._leave_for_good, loop))
        return branch

    async def _leave_for_good(self, loop: asyncio.AbstractEventLoop) -> None:
        self._left.add(loop)
        await self.leave(loop)
