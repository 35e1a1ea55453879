"""Listening: one event loop's LISTEN connection, kept alive, always drained.

Two tasks live as long as the loop uses the layer. One holds the connection and never waits for
anything else, because a listener that does not read fills the server's notify queue until COMMITs
fail. A large body must be fetched: that, and what comes meanwhile, is the other's, which keeps the
order and outlives a lost connection. What is sent while the connection is down is lost: a channel
layer delivers at most once.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import uuid
from collections import deque
from collections.abc import Awaitable, Callable

from psycopg import sql

from ..backoff import Backoff
from ..conf import settings
from ..connecting import APPLICATION_NAME, connect_listener, execute_first
from ..ending import end, heed_cancellation
from ..exceptions import ListenerRefused
from ..hearing import Hearing
from .heard import Heard
from .losses import Losses
from .sending import Sender

logger = logging.getLogger(__name__)

INCOMING_PAYLOADS = 10_000
"""Payloads that wait for handling: 80 MB at most. They pile up behind a large body's fetch."""

BEAT = "beat "
"""Before the random text of a notification to ourselves."""
DEAF = (
    "LISTEN worked, but a notification of our own did not come back within {} seconds. Either"
    " the server is frozen, or the connection goes through a transaction pooler or to another"
    ' database: name a direct connection in PGNOTIFY["LISTENER"].'
)


class Closed(Exception):
    """What somebody waited for was closed meanwhile; a new one may be had."""


Handler = Callable[[str, str], Awaitable[None] | None]
"""Takes the pg channel and the payload; gives what is to be waited for, if anything."""


class Listening:
    """Hears `pg_channels` and calls `handle` for each notification, one after the other."""

    def __init__(
        self,
        alias: str,
        *,
        pg_channels: tuple[str, ...],
        own_pg_channel: str,
        sender: Sender,
        handle: Handler,
        losses: Losses,
        heard: Heard,
    ) -> None:
        self._alias = alias
        self._pg_channels = pg_channels
        self._own_pg_channel = own_pg_channel
        self._sender = sender
        self._handle = handle
        self._losses = losses
        self._heard = heard
        self._incoming: deque[tuple[str, str]] = deque()
        self._rest: Awaitable[None] | None = None
        self._is_behind = False
        self._fell_behind = asyncio.Event()
        self._live = asyncio.Event()
        self._beat = ""
        self._beat_returned = asyncio.Event()
        self._heard_something = False
        self._tasks: list[asyncio.Task[None]] = []
        self._problem: BaseException | None = None
        self._is_closed = False

    def start(self) -> None:
        """Begin to listen, unless it has begun; never waits."""
        if self._is_closed:
            raise Closed
        # All tasks are cancelled when a loop ends, and who says goodbye may still want to hear.
        if self._tasks and not any(task.done() or task.cancelling() for task in self._tasks):
            return
        for task in self._tasks:
            task.cancel()
        self._incoming.clear()
        self._is_behind = False
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._keep_listening()), loop.create_task(self._work())]

    async def wait_live(self) -> None:
        """Return when what is sent from now on is heard; ListenerRefused if nothing can be, Closed
        if it is closed meanwhile."""
        self.start()
        patience = settings.CONNECT_TIMEOUT_SECONDS + settings.HEARTBEAT_SECONDS
        try:
            async with asyncio.timeout(patience):
                await self._live.wait()
        except TimeoutError:
            raise ListenerRefused(
                f"The channel layer can't listen on database {self._alias!r}: {self._problem}"
            ) from self._problem
        if self._is_closed:
            raise Closed

    async def close(self) -> None:
        """Stop listening, for good."""
        self._is_closed = True
        self._live.set()
        await end(self._tasks)
        if inspect.iscoroutine(self._rest):
            self._rest.close()  # what nobody has begun to wait for

    async def _keep_listening(self) -> None:
        """Listen again after every loss, until cancelled."""
        backoff = Backoff()
        while True:
            try:
                await self._listen_once(backoff)
            except* Exception as errors:  # whatever it is, a listener must never stay dead
                self._say_lost(errors.exceptions[0])
            heed_cancellation()
            await asyncio.sleep(backoff.next_delay())

    async def _listen_once(self, backoff: Backoff) -> None:
        connection = await connect_listener(
            self._alias, application_name=f"{APPLICATION_NAME} layer listen"
        )
        try:
            hearing = Hearing(connection, self._hear)
            listen = sql.SQL("LISTEN {}")
            names = map(sql.Identifier, self._pg_channels)
            await execute_first(connection, *map(listen.format, names))
            async with asyncio.TaskGroup() as group:
                group.create_task(hearing.run())
                await self._prove()
                backoff.reset()
                self._say_live()
                await self._keep_proving()
        finally:
            self._live.clear()
            self._heard.end(self)
            await connection.close()

    def _hear(self, pg_channel: str, payload: str) -> None:
        self._heard_something = True
        if payload == self._beat:
            self._beat_returned.set()
        elif not payload.startswith(BEAT):  # those of other loops of this process
            self._take(pg_channel, payload)

    def _take(self, pg_channel: str, payload: str) -> None:
        """Handle at once what has nothing to wait for and nobody before it."""
        if not self._is_behind:
            self._rest = self._begun(pg_channel, payload)
            if self._rest is not None:
                self._is_behind = True
                self._fell_behind.set()
        elif len(self._incoming) < INCOMING_PAYLOADS:
            self._incoming.append((pg_channel, payload))
        else:
            self._losses.drop(1, "notifications came faster than they are handled")

    def _begun(self, pg_channel: str, payload: str) -> Awaitable[None] | None:
        try:
            return self._handle(pg_channel, payload)
        except Exception as error:
            self._say_unhandled(error)
            return None

    async def _finished(self, rest: Awaitable[None] | None) -> None:
        try:
            if rest is not None:
                await rest
        except Exception as error:
            self._say_unhandled(error)

    def _say_unhandled(self, error: Exception) -> None:
        self._losses.drop(1, f"a notification could not be handled: {error!r}")

    async def _keep_proving(self) -> None:
        """Probe the connection whenever it was silent for a heartbeat; ends by raising."""
        while True:
            self._heard_something = False
            await asyncio.sleep(settings.HEARTBEAT_SECONDS)
            if not self._heard_something:
                await self._prove()

    async def _prove(self) -> None:
        """Send ourselves a notification and wait for it: a frozen server raises nothing."""
        self._beat = f"{BEAT}{uuid.uuid4().hex}"
        self._beat_returned.clear()
        try:
            async with asyncio.timeout(settings.HEARTBEAT_SECONDS):
                await self._sender.notify(self._own_pg_channel, self._beat)
                await self._beat_returned.wait()
        except TimeoutError:
            self._sender.give_up()
            raise ListenerRefused(DEAF.format(settings.HEARTBEAT_SECONDS)) from None

    async def _work(self) -> None:
        """Finish what has to wait, and then what came meanwhile, which keeps the order. Ends by
        cancellation."""
        while True:
            await self._fell_behind.wait()
            self._fell_behind.clear()
            await self._finished(self._rest)
            while self._incoming:
                await self._finished(self._begun(*self._incoming.popleft()))
            self._is_behind = False

    def _say_live(self) -> None:
        self._live.set()
        self._heard.begin(self)
        if self._problem is not None:
            logger.info("channel layer listens again", extra={"action": "layer_recovered"})
        self._problem = None

    def _say_lost(self, problem: BaseException) -> None:
        if self._problem is None:
            logger.warning(
                "channel layer does not listen, messages of other processes are lost until it"
                " does: %s",
                problem,
                extra={"action": "layer_lost"},
            )
        self._problem = problem
