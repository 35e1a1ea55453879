"""Handlers lose nothing when pglisten is killed, stopped or cut off, and never end it."""

from __future__ import annotations

import signal
import time
from collections import defaultdict
from collections.abc import Iterator

import pytest

from django_pgnotify.handling.reached import QUIET_SECONDS
from tests.handler_kit import HANDLERS, parked, publish_rows, wait_until, words
from tests.pglisten import NO_REDIS, Process, StartPglisten, execute, publish

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("no_handlers", "handled"),
]


@pytest.fixture
def pglisten(start_pglisten: StartPglisten) -> Process:
    """A running one."""
    process = start_pglisten(**HANDLERS)
    process.wait_for("listening")
    return process


def test_killed_midway_it_loses_nothing_and_each_key_keeps_its_order(
    start_pglisten: StartPglisten, pglisten: Process
) -> None:
    publish_rows("told", *((n % 7, n) for n in range(150)))
    wait_until(lambda: len(words()) > 40)
    pglisten.process.kill()
    pglisten.wait()
    assert len(words()) < 150
    assert start_pglisten("--once", **HANDLERS).wait() == 0
    by_key = defaultdict(list)
    for pk, what in words():
        by_key[pk].append(int(what))
    # After the kill a key may go back, but never leaves one out or overtakes.
    for pk, seen in by_key.items():
        assert list(dict.fromkeys(seen)) == list(range(pk, 150, 7))
    assert len(by_key) == 7


def test_progress_is_durable(start_pglisten: StartPglisten, pglisten: Process) -> None:
    publish_rows("told", (1, "first"))
    behind = "SELECT (SELECT max(number) FROM django_pgnotify_tick) - max(tick) FROM"
    wait_until(lambda: words() == [(1, "first")])
    wait_until(lambda: execute(f"{behind} django_pgnotify_handler") == (0,))
    pglisten.process.kill()
    pglisten.wait()
    publish_rows("told", (2, "second"))
    assert start_pglisten("--once", **HANDLERS).wait() == 0
    assert words() == [(1, "first"), (2, "second")]


def test_sigterm_lets_a_running_call_end_and_leaves_a_retry_for_the_next_start(
    start_pglisten: StartPglisten,
) -> None:
    patient = {**HANDLERS, "HANDLER_BACKOFF_SECONDS": 60.0}
    pglisten = start_pglisten(**patient)
    pglisten.wait_for("listening")
    publish_rows("told", (1, "slow"), (1, "after slow"), (2, "raise"))
    wait_until(lambda: {(1, "slow"), (2, "raise")} <= set(words("begun")))
    pglisten.process.send_signal(signal.SIGTERM)
    assert pglisten.wait() == 0
    assert "not drained" not in pglisten.output()
    assert words() == [(1, "slow")]
    assert parked() == []
    assert start_pglisten("--once", **HANDLERS).wait() == 0
    assert words()[-1] == (1, "after slow")
    assert words("begun").count((2, "raise")) == 3
    assert len(parked()) == 1


def test_handler_that_hangs_keeps_neither_others_nor_the_end_waiting(
    start_pglisten: StartPglisten,
) -> None:
    pglisten = start_pglisten(**HANDLERS, SHUTDOWN_SECONDS=0.5)
    pglisten.wait_for("listening")
    publish_rows("told", (1, "hang"), (1, "behind it"), (2, "other"))
    wait_until(lambda: words() == [(2, "other")])
    publish_rows("told", (3, "later"))
    wait_until(lambda: words() == [(2, "other"), (3, "later")])
    pglisten.process.send_signal(signal.SIGTERM)
    assert pglisten.wait() == 0
    assert "not drained" in pglisten.output()


def test_handler_that_exits_does_not_end_pglisten(pglisten: Process) -> None:
    publish_rows("told", (1, "exit"), (2, "other"))
    pglisten.wait_for("parked")
    publish_rows("told", (3, "later"))
    wait_until(lambda: words() == [(2, "other"), (3, "later")])
    assert pglisten.process.poll() is None
    assert "SystemExit: 7" in parked()[0][1]


@pytest.mark.parametrize("what", ["gather", "wait_for", "a group"])
def test_handler_that_exits_in_a_branch_does_not_end_pglisten(
    pglisten: Process, what: str
) -> None:
    publish("told_async", f"exit in {what}")
    pglisten.wait_for("parked")
    publish("told_async", "later")
    wait_until(lambda: words() == [(None, "later")])
    assert pglisten.process.poll() is None
    assert "SystemExit: 7" in parked()[0][1]


def test_branch_that_exits_behind_its_call_does_not_end_pglisten(pglisten: Process) -> None:
    publish("told_async", "exit and nobody waits")
    pglisten.wait_for("SystemExit: 7")
    publish("told_async", "later")
    wait_until(lambda: (None, "later") in words())
    assert pglisten.process.poll() is None
    assert parked() == []


def test_parked_event_is_retried_by_the_running_pglisten(pglisten: Process) -> None:
    publish_rows("told", (1, "raise"))
    pglisten.wait_for("parked")
    wait_until(lambda: len(parked()) == 1)
    event = "replace(event, '\"raise\"', '\"mended\"')"
    execute(f"UPDATE django_pgnotify_parked SET event = {event}, retry = true")
    wait_until(lambda: parked() == [])
    assert words() == [(1, "mended")]


def test_retry_that_fails_or_has_no_handler_is_told(pglisten: Process) -> None:
    publish_rows("told", (1, "raise"))
    wait_until(lambda: len(parked()) == 1)
    execute("UPDATE django_pgnotify_parked SET retry = true")
    pglisten.wait_for("Handler tests.told_handler.obey failed again on parked event")
    execute("UPDATE django_pgnotify_parked SET retry = true, handler = 'shop.handlers.thank'")
    pglisten.wait_for("No handler is named shop.handlers.thank")


def test_handlers_go_on_after_their_backends_were_terminated(pglisten: Process) -> None:
    publish_rows("told", (1, "before"))
    wait_until(lambda: words() == [(1, "before")])
    execute(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name = 'django_pgnotify handlers'"
    )
    publish_rows("told", (2, "after"))
    wait_until(lambda: (2, "after") in words())


TERMINATE = (
    "SELECT count(pg_terminate_backend(pid)) > 0 FROM pg_stat_activity"
    " WHERE datname = current_database() AND application_name = 'django_pgnotify listener'"
)
READ_ONLY = (
    "DO $$ BEGIN EXECUTE format('ALTER DATABASE %%I SET default_transaction_read_only = {}',"
    " current_database()); END $$"
)


def test_channel_layer_that_is_down_holds_up_no_handler_at_a_start_or_a_reconnect(
    start_pglisten: StartPglisten,
) -> None:
    assert start_pglisten("--once", **HANDLERS).wait() == 0
    publish_rows("told", (1, "before the start"))
    pglisten = start_pglisten(**HANDLERS, layers=NO_REDIS)
    wait_until(lambda: (1, "before the start") in words())
    publish_rows("told", (2, "after it"))
    wait_until(lambda: (2, "after it") in words())
    assert execute(TERMINATE) == (True,)
    pglisten.wait_for("disconnected")
    publish_rows("told", (3, "during the reconnect"))
    wait_until(lambda: (3, "during the reconnect") in words())
    publish_rows("told", (4, "after it"))
    wait_until(lambda: (4, "after it") in words())
    assert "listening" not in pglisten.output()


def test_who_has_worked_outlives_a_refusal_though_its_channel_layer_was_always_down(
    start_pglisten: StartPglisten,
) -> None:
    publish_rows("told", (1, "before the start"))
    pglisten = start_pglisten(**HANDLERS, layers=NO_REDIS, RECONNECT_MAX_SECONDS=0.2)
    wait_until(lambda: (1, "before the start") in words())
    execute(READ_ONLY.format("on"))
    try:
        assert execute(TERMINATE) == (True,)
        pglisten.wait_for("is read-only")
    finally:
        execute(READ_ONLY.format("off"))
    publish_rows("told", (2, "after it"))
    wait_until(lambda: (2, "after it") in words())


def test_handler_that_is_stuck_keeps_vacuum_from_nothing(pglisten: Process) -> None:
    publish_rows("told", (1, "hang"))
    wait_until(lambda: words("begun") == [(1, "hang")])
    # More than may be under way, so that the reader too is stuck.
    execute(
        'SELECT pgnotify_append(\'told\', \'shop.order\', \'[{"kind":"insert","pk":1,'
        '"data":1,"groups":[]}]\', NULL) FROM generate_series(1, 1500)'
    )
    reached = "SELECT sent >= (SELECT max(number) FROM django_pgnotify_tick)"
    wait_until(lambda: execute(f"{reached} FROM django_pgnotify_state") == (True,))
    in_transaction = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND application_name = 'django_pgnotify handlers'"
        " AND (state LIKE 'idle in transaction%%' OR backend_xmin IS NOT NULL)"
    )
    publish_rows("told", (2, "marker"))
    wait_until(lambda: execute(in_transaction) == (0,))


SAVES = """
    CREATE TABLE saves (name text);
    CREATE FUNCTION note_save() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN INSERT INTO saves VALUES (new.name); RETURN NULL; END';
    CREATE TRIGGER note_save AFTER UPDATE ON django_pgnotify_handler
        FOR EACH ROW EXECUTE FUNCTION note_save()
"""
FORGET_SAVES = """
    DROP TRIGGER note_save ON django_pgnotify_handler;
    DROP FUNCTION note_save; DROP TABLE saves
"""
SAVED = "SELECT count(*) FROM saves WHERE name LIKE %s"


@pytest.fixture
def saves(no_handlers: None) -> Iterator[None]:
    """Count what is written about the progress of handlers."""
    execute(SAVES)
    yield
    execute(FORGET_SAVES)


@pytest.mark.usefixtures("saves")
def test_handler_without_events_records_its_place_seldom_and_follows(pglisten: Process) -> None:
    begin = time.monotonic()
    for n in range(30):
        publish_rows("told", (1, n))
        wait_until(lambda n=n: execute(SAVED, "%.obey") == (n + 1,))
    (quiet,) = execute(SAVED, "%.obey_in_the_loop")
    assert quiet <= (time.monotonic() - begin) / QUIET_SECONDS + 1
    behind = "SELECT (SELECT max(number) FROM django_pgnotify_tick) - min(tick) FROM"
    wait_until(lambda: execute(f"{behind} django_pgnotify_handler") == (0,))
