"""Access: a hub's own connections to the ledger, and looks that many callers share."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from ..backoff import Backoff
from ..conf import settings
from ..connecting import APPLICATION_NAME, aborted_after, connect
from ..ending import end
from ..exceptions import LedgerMissing
from ..ledger.positions import Look, look
from ..ledger.reader import Expired, read_batches
from ..ledger.rows import LedgerRow
from ..ledger.steps import read_step
from ..ledger.ticks import Tick, schema_of_ledger

if TYPE_CHECKING:
    from psycopg import AsyncConnection

logger = logging.getLogger(__name__)

T = TypeVar("T")

LOOK_SECONDS = 10.0
"""A look takes a millisecond. A frozen server says nothing at all, so it is given up and tried
on a new connection."""
LANES = 2
"""Reads at once for clients that came back: see ``Returning``."""
READ_SECONDS = 60.0
"""For the next rows of a read: milliseconds, or as long as it takes to search a million."""


class Link:
    """One connection, opened on demand, used by one at a time, replaced after any error."""

    def __init__(self, alias: str, purpose: str) -> None:
        self._alias = alias
        self._application_name = f"{APPLICATION_NAME} hub {purpose}"
        self._lock = asyncio.Lock()
        self._connection: AsyncConnection[Any] | None = None
        self._schema = ""

    @asynccontextmanager
    async def use(self) -> AsyncIterator[tuple[AsyncConnection[Any], str]]:
        """The connection and the ledger's schema."""
        async with self._lock:
            try:
                if self._connection is None:
                    await self._open()
                assert self._connection is not None
                yield self._connection, self._schema
            except Expired:
                raise
            except BaseException:
                await self.close()
                raise

    async def close(self) -> None:
        """Close the connection; the next use opens another one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def _open(self) -> None:
        self._connection = await connect(self._alias, application_name=self._application_name)
        with aborted_after(LOOK_SECONDS, self._connection):
            schema = await schema_of_ledger(self._connection)
        if schema is None:
            raise LedgerMissing()
        self._schema = schema


class _Next:
    """The look that callers of now will share: it has not begun yet."""

    def __init__(self) -> None:
        self.numbers: set[int] = set()
        self.answer: asyncio.Future[Look] = asyncio.get_running_loop().create_future()


class Access:
    """Looks, reads for what groups have missed, and two lanes of reads for clients that came back
    have links of their own, so that none keeps another one waiting.

    `seen` is called with each look, in their order, before anybody else gets it.
    """

    def __init__(self, alias: str, seen: Callable[[Look], None]) -> None:
        self._looks = Link(alias, "looks")
        self._reads = Link(alias, "reads")
        self._lanes = [Link(alias, "replays") for _ in range(LANES)]
        self._seen = seen
        self._next: _Next | None = None
        self._task: asyncio.Task[None] | None = None

    async def look(self, numbers: Collection[int] = ()) -> Look:
        """Where the ledger stands at some moment after this call; waits for the database.

        However many call it at once, it is read once for those that came before it began.
        """
        if self._next is None:
            self._next = _Next()
        mine = self._next
        mine.numbers.update(numbers)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work())
        return await asyncio.shield(mine.answer)

    async def read(
        self, after: Tick, upto: Tick, groups: Collection[str] | None
    ) -> AsyncGenerator[list[LedgerRow], None]:
        """See read_batches()."""
        async with self._reads.use() as (connection, schema):
            batches = read_batches(connection, schema, after, upto, groups)
            async with aclosing(_in_time(batches, connection)) as rows:
                async for batch in rows:
                    yield batch

    async def read_step(
        self,
        after: Tick,
        upto: Tick,
        groups: Collection[str] | None,
        *,
        is_first: bool,
        lane: int,
    ) -> AsyncGenerator[tuple[Tick, list[LedgerRow]], None]:
        """See read_step(). A step fills about one frame."""
        max_bytes = settings.MAX_FRAME_BYTES
        async with self._lanes[lane].use() as (connection, schema):
            step = read_step(
                connection, schema, after, upto, groups, max_bytes=max_bytes, is_first=is_first
            )
            async with aclosing(_in_time(step, connection)) as parts:
                async for part in parts:
                    yield part

    async def close(self) -> None:
        """Close all links; looks that still wait are cancelled."""
        if self._task is not None:
            await end([self._task])
        if self._next is not None:
            self._next.answer.cancel()
        await self._looks.close()
        for link in (self._reads, *self._lanes):
            await link.close()

    async def _work(self) -> None:
        while self._next is not None:
            # Taken now: who comes later must not get an answer that was read before.
            current, self._next = self._next, None
            try:
                found = await self._look_until_answered(current.numbers)
                self._seen(found)
                current.answer.set_result(found)
            finally:
                current.answer.cancel()

    async def _look_until_answered(self, numbers: Collection[int]) -> Look:
        backoff = Backoff()
        while True:
            try:
                async with self._looks.use() as (link, schema):
                    with aborted_after(LOOK_SECONDS, link):
                        return await look(link, schema, numbers)
            except Exception as error:
                logger.warning(
                    "hub can't read the ledger, tries again: %s",
                    error,
                    extra={"action": "hub_look_failed"},
                )
            await asyncio.sleep(backoff.next_delay())


async def _in_time(
    source: AsyncGenerator[T, None], connection: AsyncConnection[Any]
) -> AsyncGenerator[T, None]:
    """The items of `source`; the connection is ended where one takes too long."""
    async with aclosing(source):
        while True:
            with aborted_after(READ_SECONDS, connection):
                item = await anext(source, None)
            if item is None:
                return
            yield item
