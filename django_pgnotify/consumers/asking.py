"""Asking: what a project's consumer is asked for its client."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol, TypeVar

from asgiref.sync import sync_to_async
from django.db import close_old_connections

from ..backoff import Backoff
from ..ending import heed_cancellation
from ..events import Event
from .away import is_away

logger = logging.getLogger(__name__)

T = TypeVar("T")

NO_USER = ". Put AuthMiddlewareStack around the consumer in asgi.py: the scope has no user."


class Consumer(Protocol):
    """What a session asks of the consumer that it belongs to."""

    using: str

    def authorize(self, group: str) -> Awaitable[bool]:
        """May this client have the group's events?"""

    def visible(self, events: list[Event]) -> Awaitable[list[Event]]:
        """Which of these events, and in what shape?"""

    def snapshot(self, group: str) -> Iterable[object] | None:
        """The state that the group's events change."""


async def authorized(consumer: Consumer, group: str) -> bool:
    """May the client have the group? Whatever goes wrong in the consumer is a refusal, but for a
    database that is away: nobody has lost a right by that."""
    try:
        return bool(await _answer("authorize()", lambda: consumer.authorize(group)))
    except Exception as error:
        hint = NO_USER if isinstance(error, KeyError) and error.args == ("user",) else ""
        logger.exception("authorize() failed: %r refused%s", group, hint)
        return False


async def visible(consumer: Consumer, events: Callable[[], list[Event]]) -> list[Event]:
    """What the client may see of these events. Raises what goes wrong in the consumer.

    `events` makes them anew for each try, since the one before may have changed them.
    """
    return await _answer("visible()", lambda: consumer.visible(events()))


async def _answer(method: str, ask: Callable[[], Awaitable[T]]) -> T:
    """What a method of the consumer answers; a database that is away is waited for.

    What it waits for may be cancelled by others, which is a mistake and no end of the client's.
    """
    backoff = Backoff()
    while True:
        try:
            answer = ask()
            if not inspect.isawaitable(answer):
                raise TypeError(f"{method} must be an async function")
            return await answer
        except asyncio.CancelledError as error:
            heed_cancellation()
            raise RuntimeError(f"what {method} has waited for was cancelled") from error
        except Exception as error:
            heed_cancellation()
            if not is_away(error):
                raise
            logger.warning("%s can't ask the database, tries again: %s", method, error)
        await asyncio.sleep(backoff.next_delay())
        # Those of the thread where its ORM calls run: they may be the ones that are lost.
        await sync_to_async(close_old_connections)()
