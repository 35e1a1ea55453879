"""Messages: ``notify()``, and the one door through which all events from code go."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from asgiref.sync import sync_to_async
from django.db import DEFAULT_DB_ALIAS, connections

from ..conf import MIB
from ..events import Event, dumps
from ..exceptions import InvalidEvent, InvalidGroup
from ..groups import check_group
from ..values import to_json_value
from .after_commit import send_after_commit
from .context import current_context
from .durable import append
from .live import fit_live

MAX_EVENT_BYTES = 16 * MIB
"""Bytes of JSON of one event's data, as in SQL; more goes without data and ``truncated``."""
MAX_GROUPS = 1000
"""Groups of one event: each of them is one frame that the relay sends."""


def notify(
    topic: str,
    data: Any = None,
    *,
    groups: Iterable[str] | None = None,
    durable: bool = True,
    using: str = DEFAULT_DB_ALIAS,
) -> None:
    """Publish a message to groups (default: the one named like the topic), by the transaction
    that is current on the database ``using``: a rollback, of a savepoint too, takes it back.

    Durable: a ledger row of that transaction; raises LedgerMissing before anything is sent, or
    the database's own error. ``durable=False``: sent after the commit, at once in autocommit,
    at most once; what fails then is logged. Raises InvalidEvent or InvalidGroup for what can't
    travel. Does nothing on other databases than PostgreSQL.
    """
    targets = check_groups([check_topic(topic)] if groups is None else groups)
    event = draft(
        topic=check_topic(topic), kind="message", data=to_json_value(data), using=using
    )
    publish(replace(event, durable=durable), targets)


async def anotify(
    topic: str,
    data: Any = None,
    *,
    groups: Iterable[str] | None = None,
    durable: bool = True,
    using: str = DEFAULT_DB_ALIAS,
) -> None:
    """See notify()."""
    # Thread-sensitive: where sync_to_async runs the ORM, so in the same transaction.
    await sync_to_async(notify)(topic, data, groups=groups, durable=durable, using=using)


def check_topic(topic: object) -> str:
    """Give the topic back, or raise InvalidEvent."""
    try:
        return check_group(topic)
    except InvalidGroup as error:
        raise InvalidEvent(str(error).replace("group name", "topic")) from None


def check_groups(groups: Iterable[str]) -> list[str]:
    """Give the groups back, each once, or raise InvalidGroup."""
    if isinstance(groups, str | bytes | Mapping) or not isinstance(groups, Iterable):
        raise InvalidGroup(f"groups is {groups!r:.200}: give a list, tuple or set of names.")
    names = list(dict.fromkeys(check_group(group) for group in groups))
    if len(names) > MAX_GROUPS:
        raise InvalidGroup(f"An event may have {MAX_GROUPS} groups, {len(names)} were given.")
    return names


def draft(**parts: Any) -> Event:
    """An event that happens now; the ledger gives a durable one its id, time and context."""
    return Event(id=str(uuid4()), at=datetime.now(UTC), context=current_context(), **parts)


def publish(event: Event, groups: Sequence[str]) -> None:
    """Publish an event whose every part is valid and JSON already: write it to the ledger, or
    send it after the commit."""
    connection = connections[event.using]
    if connection.vendor != "postgresql":
        return
    if len(dumps(event.data)) > MAX_EVENT_BYTES:
        event = replace(event, data=None, truncated=True)
    if event.durable:
        append(connection, event, groups)
    else:
        send_after_commit(connection, fit_live(event, groups))
