"""Asking: what a project's consumer is asked for its client."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Iterable
from typing import Protocol

from ..events import Event

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
    """May the client have the group? Whatever goes wrong in the consumer is a refusal."""
    try:
        answer = consumer.authorize(group)
        if inspect.isawaitable(answer):
            return bool(await answer)
        logger.error("authorize() must be an async function: %r refused", group)
    except Exception as error:
        hint = NO_USER if isinstance(error, KeyError) and error.args == ("user",) else ""
        logger.exception("authorize() failed: %r refused%s", group, hint)
    return False


async def visible(consumer: Consumer, events: list[Event]) -> list[Event]:
    """What the client may see of these events. Raises what goes wrong in the consumer."""
    answer = consumer.visible(events)
    if not inspect.isawaitable(answer):
        raise TypeError("visible() must be an async function")
    return await answer
