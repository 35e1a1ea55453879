"""Retention trims by tick what is sent, handled and older than the retention."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.core.management import call_command
from django.test import override_settings

from django_pgnotify.connecting import connect
from django_pgnotify.ledger import retention
from tests.pglisten import execute, publish
from tests.sessions import open_session

pytestmark = pytest.mark.django_db(transaction=True)

HOUR = timedelta(hours=1)


def trim(*handlers: str, older_than: timedelta = HOUR) -> int:
    async def run() -> int:
        async with await connect("default", application_name="test") as conn:
            return await retention.trim(conn, "public", retention=older_than, handlers=handlers)

    return async_to_sync(run)()


def topics() -> list[str]:
    return execute("SELECT array_agg(topic ORDER BY id) FROM django_pgnotify_ledger")[0] or []


def relay(*names: str, hours_ago: float = 0.0) -> int:
    """Publish, relay, and make the tick look old; give its number."""
    for name in names:
        publish(name, 1)
    with override_settings(PGNOTIFY={"RETENTION": timedelta(days=1000)}):  # it would trim too
        call_command("pglisten", once=True)
    number = execute("SELECT max(number) FROM django_pgnotify_tick")[0]
    execute(
        "UPDATE django_pgnotify_tick SET at = at - %s WHERE number = %s",
        timedelta(hours=hours_ago),
        number,
    )
    return int(number)


@pytest.fixture(autouse=True)
def empty() -> None:
    """Begin with an empty ledger."""
    relay("old", hours_ago=100)
    execute("UPDATE django_pgnotify_tick SET at = at - interval '100 hours'")
    trim()
    assert topics() == []


def test_old_ticks_go_and_young_ones_stay() -> None:
    relay("a", hours_ago=3)
    kept = relay("b", hours_ago=2)
    relay("c")
    assert trim() == 2
    assert topics() == ["c"]
    trimmed = execute("SELECT trimmed FROM django_pgnotify_state")[0]
    assert trimmed == kept - 1
    # The position of the newest old tick can still be replayed from.
    assert execute("SELECT min(number) FROM django_pgnotify_tick")[0] == kept
    assert trim() == 0


def test_row_of_a_transaction_that_was_open_for_long_is_not_old() -> None:
    with open_session() as other:
        other.execute("SELECT pgnotify_publish('late', '1'::jsonb)")
        relay("a", hours_ago=3)
        other.execute("UPDATE django_pgnotify_ledger SET at = at - interval '9 hours'")
    assert trim() == 1
    relay()
    assert trim() == 0
    assert topics() == ["late"]


def test_ticks_that_are_not_sent_stay() -> None:
    number = relay("a", hours_ago=3)
    execute("UPDATE django_pgnotify_state SET sent = %s", number - 1)
    assert trim() == 0
    assert topics() == ["a"]


def test_ticks_that_a_registered_handler_has_not_reached_stay() -> None:
    behind = relay("a", hours_ago=3)
    relay("b", hours_ago=2)
    execute(
        "INSERT INTO django_pgnotify_handler (name, tick, identity) VALUES ('slow', %s, '')",
        behind,
    )
    try:
        assert trim("slow", "without a place") == 1
        assert topics() == ["b"]
        assert trim("another") == 1
    finally:
        execute("DELETE FROM django_pgnotify_handler")


def test_more_rows_than_one_batch_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "ROWS_PER_BATCH", 10)
    execute(
        "SELECT pgnotify_append('bulk', NULL, '[]', NULL) FROM generate_series(1, 25)",
    )
    relay(*(f"single-{n}" for n in range(12)), hours_ago=3)
    assert trim() == 37
    assert topics() == []


def test_once_trims_too() -> None:
    relay("a", hours_ago=3)
    relay("b", hours_ago=2)
    relay("c")
    call_command("pglisten", once=True)
    assert topics() == ["c"]


def test_relay_trims_by_itself(settings: Any, start_pglisten: Any) -> None:
    pglisten = start_pglisten("--verbosity", "2", RETENTION_SECONDS=0.2)
    pglisten.wait_for("listening")
    publish("t", 1)
    pglisten.wait_for("Trimmed 1 ledger rows")
    assert topics() == []
