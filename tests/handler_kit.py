"""Handlers for tests: registered for one test, or in a module of their own for processes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connections

from django_pgnotify import handlers
from tests.pglisten import WAIT_SECONDS, execute, publish

FAST = {"HANDLER_BACKOFF_SECONDS": 0.01, "POLL_SECONDS": 0.1}
HANDLERS: dict[str, Any] = {
    "handlers": "tests.told_handler",
    "HANDLER_BACKOFF_SECONDS": 0.05,
    "HANDLER_ATTEMPTS": 2,
    "POLL_SECONDS": 0.1,
}
"""For a pglisten process."""
TABLE = "CREATE TABLE handled (id bigserial, pk integer, what text, word text)"
"""What the handlers of told_handler.py write to."""


def forget_handlers(using: str = "default") -> None:
    """No handler is known, has a place, or has parked anything."""
    handlers._registered.clear()
    with connections[using].cursor() as cursor:
        cursor.execute("DELETE FROM django_pgnotify_handler")
        cursor.execute("DELETE FROM django_pgnotify_parked")


@pytest.fixture
def no_handlers(settings: Any, transactional_db: None) -> Iterator[None]:
    """Begin after what earlier tests left in the ledger, and leave no handler to later ones."""
    settings.PGNOTIFY = dict(FAST)
    forget_handlers()
    call_command("pglisten", once=True)
    yield
    forget_handlers()


def handle_now(**options: Any) -> None:
    """Relay and handle what the ledger holds."""
    call_command("pglisten", once=True, **options)


def publish_rows(topic: str, *changes: tuple[int, Any], kind: str = "update") -> None:
    """Write (primary key, data) as a trigger of ``shop.order`` would: a ledger row each."""
    import json

    for pk, data in changes:
        change = {"kind": kind, "pk": pk, "data": data, "groups": ["a", "b"]}
        text = json.dumps([change])
        execute("SELECT pgnotify_append(%s, 'shop.order', %s, NULL)", topic, text)


def parked() -> list[tuple[Any, ...]]:
    """Handler and traceback of the parked events."""
    with connections["default"].cursor() as cursor:
        cursor.execute("SELECT handler, traceback FROM django_pgnotify_parked ORDER BY id")
        return list(cursor.fetchall())


@pytest.fixture
def handled(no_handlers: None) -> Iterator[None]:
    """The table that the handlers of processes write to."""
    execute(TABLE)
    yield
    execute("DROP TABLE handled")


def words(word: str = "done") -> list[tuple[int, str]]:
    """What was handled, in order."""
    query = "SELECT array_agg(pk ORDER BY id), array_agg(what ORDER BY id) FROM handled"
    pks, whats = execute(f"{query} WHERE word = %s", word)
    return list(zip(pks or [], whats or [], strict=True))


def wait_until(happened: Callable[[], Any]) -> None:
    """Return when it has happened."""
    end = time.monotonic() + WAIT_SECONDS
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.02)


__all__ = [
    "FAST",
    "HANDLERS",
    "handle_now",
    "handled",
    "no_handlers",
    "parked",
    "publish",
    "publish_rows",
    "wait_until",
    "words",
]
