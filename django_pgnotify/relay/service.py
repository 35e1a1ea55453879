"""Service: one session after another, with growing delays between failures, until told to stop."""

from __future__ import annotations

import asyncio
import logging
import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from psycopg import Error

from ..backoff import Backoff
from ..conf import settings
from ..exceptions import LedgerMissing, ListenerRefused, PgnotifyError
from ..handling.handlers import HandlersToRun
from ..metrics import Metrics
from .connections import first_cause
from .session import Session

logger = logging.getLogger("django_pgnotify")

REFUSALS = (ListenerRefused, LedgerMissing)
"""What waiting does not cure. Later on it may: after a fail-over the old primary is a replica
until the name points elsewhere."""
SIGNALS = (signal.SIGTERM, signal.SIGINT)
END_SECONDS = 2.0
"""For a session that was cancelled to close its connections."""
STEADY_SECONDS = 5.0
"""After which a session that is ready counts as a success. One that finds no room for its last
connection ends sooner, and would come back at full speed for ever."""


class Service:
    """What ``pglisten`` runs."""

    def __init__(self, alias: str, metrics: Metrics, handlers: HandlersToRun) -> None:
        self._alias = alias
        self._metrics = metrics
        self._handlers = handlers
        self._backoff = Backoff()
        self._stopping = asyncio.Event()
        self._session: Session | None = None
        self._was_ready = False
        self._ready_at = math.inf
        self._last_cause = ""
        self._end_at = 0.0
        self._drained = True

    async def run(self) -> None:
        """Relay until SIGTERM, SIGINT or `stop`; raises ListenerRefused or LedgerMissing if it
        can't ever work."""
        work = asyncio.create_task(self._work(), name="pglisten")
        stop = asyncio.create_task(self._stopping.wait(), name="stop")
        try:
            with self._signals():
                await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                await self._drain(work)
        finally:
            stop.cancel()
            await self._end(work)
        if self._stopping.is_set():
            await self._wait_for_calls()
        if not work.cancelled() and not self._stopping.is_set():
            work.result()
        logger.info("stopped", extra={"action": "stopped"})

    def stop(self) -> None:
        """Send what has been read, and end."""
        self._stopping.set()

    async def _work(self) -> None:
        """Run sessions until one ends by itself, which it does only after its `stop`."""
        while not self._stopping.is_set():
            self._ready_at = math.inf
            self._session = Session(self._alias, self._metrics, self._handlers, self._ready)
            try:
                await self._session.run()
                return
            except Exception as error:
                if self._stopping.is_set():
                    return  # a TaskGroup that is cancelled and fails tells the failure alone
                cause = first_cause(error)
                if isinstance(cause, REFUSALS) and not self._was_ready:
                    raise cause from None
                await self._wait_after(cause)

    async def _wait_after(self, cause: Exception) -> None:
        self._metrics.reconnects += 1
        if time.monotonic() - self._ready_at > STEADY_SECONDS:
            self._last_cause = ""
            self._backoff.reset()
        delay = self._backoff.next_delay()
        text = " ".join(str(cause).split()) or type(cause).__name__
        # Said once, however long it lasts.
        level = logging.DEBUG if text == self._last_cause else logging.WARNING
        self._last_cause = text
        logger.log(
            level,
            "disconnected (%s), trying again in %.1f s",
            text,
            delay,
            # A database that goes away is told in a line; for the rest one wants the place.
            exc_info=None if isinstance(cause, (PgnotifyError, Error, OSError)) else cause,
            extra={"action": "reconnect"},
        )
        await asyncio.sleep(delay)

    def _ready(self) -> None:
        self._was_ready = True
        self._ready_at = min(self._ready_at, time.monotonic())

    async def _drain(self, work: asyncio.Task[None]) -> None:
        self._end_at = time.monotonic() + settings.SHUTDOWN_SECONDS
        if self._session is None or not self._session.leading:
            return
        logger.info("draining", extra={"action": "draining"})
        self._session.stop()
        await asyncio.wait({work}, timeout=settings.SHUTDOWN_SECONDS)
        if not work.done():
            self._say_not_drained()

    async def _wait_for_calls(self) -> None:
        """Those of a session that was lost go on without one."""
        await self._handlers.wait(max(0.0, self._end_at - time.monotonic()))
        if self._handlers.are_called:
            self._say_not_drained()

    def _say_not_drained(self) -> None:
        if self._drained:
            self._drained = False
            logger.warning(
                "not drained within %s s: the next start does the rest",
                settings.SHUTDOWN_SECONDS,
                extra={"action": "not-drained"},
            )

    async def _end(self, work: asyncio.Task[None]) -> None:
        if work.done():
            return
        if self._session is not None:
            self._session.abort()
        work.cancel()
        await asyncio.wait({work}, timeout=END_SECONDS)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Listen to SIGTERM and SIGINT; a second one ends the process as usual."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, self.stop)
        try:
            yield
        finally:
            for number in SIGNALS:
                loop.remove_signal_handler(number)
