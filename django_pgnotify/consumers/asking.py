"""Asking: what a project's consumer is asked for its client."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Iterable
from typing import Protocol

from asgiref.sync import sync_to_async
from django.db import close_old_connections

from ..backoff import Backoff
from ..ending import heed_cancellation
from ..events import Event
from .away import is_away

logger = logging.getLogger(__name__)

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
    database that is away, which is waited for: nobody has lost a right by that."""
    backoff = Backoff()
    while True:
        try:
            answer = consumer.authorize(group)
            if inspect.isawaitable(answer):
                return bool(await answer)
            logger.error("authorize() must be an async function: %r refused", group)
            return False
        except (Exception, asyncio.CancelledError) as error:
            heed_cancellation()  # else it is one of what the consumer has waited for
            if not is_away(error):
                hint = (
                    NO_USER if isinstance(error, KeyError) and error.args == ("user",) else ""
                )
                logger.exception("authorize() failed: %r refused%s", group, hint)
                return False
            logger.warning(
                "authorize() of %r can't ask the database, tries again: %s", group, error
            )
        await asyncio.sleep(backoff.next_delay())
        # Those of the thread where its ORM calls run: they may be the ones that are lost.
        await sync_to_async(close_old_connections)()


async def visible(consumer: Consumer, events: list[Event]) -> list[Event]:
    """What the client may see of these events. Raises what goes wrong in the consumer."""
    answer = consumer.visible(events)
    if not inspect.isawaitable(answer):
        raise TypeError("visible() must be an async function")
    try:
        return await answer
    except asyncio.CancelledError as error:
        heed_cancellation()
        raise RuntimeError("what visible() has waited for was cancelled") from error
