"""After commit: live events leave in one round trip, once their transaction has committed."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from itertools import takewhile
from typing import TYPE_CHECKING, Any, TypeAlias

from django.db import transaction
from django.db.transaction import TransactionManagementError

from ..exceptions import LiveOutsideTransactionManagement
from .live import LIVE_PG_CHANNEL

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

logger = logging.getLogger("django_pgnotify")

Entry: TypeAlias = Any
"""What Django keeps of a callback: the savepoints around it, itself, robust or not."""


def send_after_commit(connection: BaseDatabaseWrapper, payloads: list[str]) -> None:
    """Send live payloads when the current transaction has committed; at once in autocommit.
    What fails then is logged. Raises LiveOutsideTransactionManagement."""
    batch = _Batch()
    if connection.in_atomic_block:
        batch = _batch_of(connection.run_on_commit) or batch
        batch.entries = connection.run_on_commit
    sending = _Sending(connection, payloads, batch)
    try:
        transaction.on_commit(sending, using=connection.alias, robust=True)
    except TransactionManagementError as error:
        raise LiveOutsideTransactionManagement from error


@dataclass
class _Batch:
    """What the live events of one transaction share."""

    entries: list[Entry] = field(default_factory=list)
    """``connection.run_on_commit`` as it was for the last of them."""


@dataclass(eq=False)
class _Sending:
    """The on_commit callback of one live event: the first to run sends all that committed."""

    connection: BaseDatabaseWrapper
    payloads: list[str]
    batch: _Batch
    sent: bool = False

    def __call__(self) -> None:
        if not self.sent:
            together = [self, *self._followers()]
            for sending in together:
                sending.sent = True
            _send(self.connection, [text for one in together for text in one.payloads])

    def _followers(self) -> list[_Sending]:
        """Those after this one that are known to have committed.

        At the commit Django takes entries off the very list that it filled, one by one: what
        is left follows. A list that still holds this callback is out of date (a savepoint was
        rolled back since, and Django began another list) or is run by a test: of it those
        follow whose savepoints are all around this one too, up to the first of others.
        """
        entries = [
            e for e in self.batch.entries if isinstance(e[1], _Sending) and not e[1].sent
        ]
        own = next((i for i, entry in enumerate(entries) if entry[1] is self), None)
        if own is not None:
            around = entries[own][0]
            entries = list(takewhile(lambda entry: entry[0] <= around, entries[own + 1 :]))
        return [callback for _, callback, _ in entries]


def _batch_of(entries: list[Entry]) -> _Batch | None:
    callbacks = (callback for _, callback, _ in reversed(entries))
    return next((one.batch for one in callbacks if isinstance(one, _Sending)), None)


def _send(connection: BaseDatabaseWrapper, payloads: list[str]) -> None:
    try:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(pg_notify(%s, payload)) FROM unnest(%s::text[]) AS payload",
                [LIVE_PG_CHANNEL, payloads],
            )
    except Exception:
        # The transaction has committed: nothing of the caller's may fail any more.
        logger.exception(
            "%d live notifications of database %r were not sent.",
            len(payloads),
            connection.alias,
            extra={"action": "live_not_sent", "database": connection.alias},
        )
