"""Revoking: tell every process that what a group's subscribers may have has changed."""

from __future__ import annotations

from asgiref.sync import sync_to_async
from django.db import DEFAULT_DB_ALIAS, connections

from ..groups import check_group
from ..publish.durable import append
from ..publish.message import draft

REVOKE_TOPIC = "pgnotify.revoke"
"""Topic of the control row; hubs know it, handlers and groups never see it."""


async def revoke(group: str, using: str = DEFAULT_DB_ALIAS) -> None:
    """Have every subscriber of the group authorized anew; who is refused is unsubscribed.

    It is a durable event of the current transaction on `using`, so commit the change of
    permissions in the same one; ``async_to_sync(revoke)(group)`` works inside ``atomic()``.
    Raises InvalidGroup, or LedgerMissing before anything is sent. Does nothing on other databases
    than PostgreSQL.
    """
    # Thread-sensitive: where the ORM runs, hence in its transaction.
    await sync_to_async(_append)(check_group(group), using)


def _append(group: str, using: str) -> None:
    if connections[using].vendor == "postgresql":
        event = draft(topic=REVOKE_TOPIC, kind="message", data=None, using=using)
        append(connections[using], event, [group])
