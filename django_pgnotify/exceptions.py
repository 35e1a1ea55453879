"""Errors: one root, and leaves whose docstring says what happened and what to do.

PgnotifyError
├── UnknownSetting          a key of PGNOTIFY is not known
├── InvalidDeclaration      a NotifyTrigger or publish_signals() can't work as declared
├── InvalidGroup            a group name or template is not one
├── InvalidEvent            an event's topic or data can't travel
├── LedgerMissing           the ledger is not installed in this database
├── LiveOutsideTransactionManagement
└── ListenerRefused         the listener can't work with this server, role or pooler
"""

from __future__ import annotations


class PgnotifyError(Exception):
    """Root of all errors of django_pgnotify."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").strip())


class UnknownSetting(PgnotifyError, AttributeError):
    """A key of PGNOTIFY is not known. Correct it by the settings reference."""


class InvalidDeclaration(PgnotifyError, ValueError):
    """A declaration can't work. The message shows the value and what is allowed."""


class InvalidGroup(PgnotifyError, ValueError):
    """A group name or template is not valid. Use A-Z, a-z, 0-9, '-', '_' and '.', under 100
    characters, not starting with 'pgnotify.'."""


class InvalidEvent(PgnotifyError, ValueError):
    """An event's topic or data can't travel. The message shows the value and what is allowed."""


class LedgerMissing(PgnotifyError):
    """The ledger is not installed in this database. Run: manage.py migrate django_pgnotify"""


class LiveOutsideTransactionManagement(PgnotifyError):
    """A live event can't be tied to the outcome of its transaction, because autocommit was
    switched off by hand and Django refuses on_commit then. Use ``transaction.atomic()``, or a
    durable event."""


class ListenerRefused(PgnotifyError):
    """The listener can't work here. The message says what is wrong and the cure."""
