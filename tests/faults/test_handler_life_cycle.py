"""Stops, lost connections and frozen processes make no handler run twice at once, and keep no
process from ending."""

from __future__ import annotations

import json
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from django.db import connections

from tests.handler_kit import HANDLERS, TABLE, publish_rows, wait_until, words
from tests.own_server import StartPlace
from tests.pglisten import Process, StartPglisten, execute, publish

pytestmark = [pytest.mark.django_db(transaction=True)]

needs_handled = pytest.mark.usefixtures("no_handlers", "handled")
TERMINATE = (
    "SELECT count(pg_terminate_backend(pid)) > 0 FROM pg_stat_activity"
    " WHERE datname = current_database() AND application_name = %s"
)
SENT = "SELECT sent FROM django_pgnotify_state"
PLACE = "SELECT tick FROM django_pgnotify_handler WHERE name LIKE '%%.obey'"
PARKED = "SELECT count(*) FROM django_pgnotify_parked"
AHEAD = "SELECT cardinality(ahead) FROM django_pgnotify_handler WHERE name LIKE '%%.obey'"


def lose_the_connection(pglisten: Process, role: str = "listener") -> None:
    """And wait until it has come back."""
    assert execute(TERMINATE, f"django_pgnotify {role}") == (True,)
    pglisten.wait_for("listening")


def stop(pglisten: Process) -> int:
    pglisten.process.send_signal(signal.SIGTERM)
    return pglisten.wait()


def repeated() -> list[tuple[int, str]]:
    return [word for word, count in Counter(words()).items() if count > 1]


@needs_handled
def test_a_stop_repeats_nothing_though_an_older_event_waits_for_its_retry(
    start_pglisten: StartPglisten,
) -> None:
    pglisten = start_pglisten(**HANDLERS | {"HANDLER_BACKOFF_SECONDS": 60.0})
    pglisten.wait_for("listening")
    publish_rows("told", (1, "raise"))
    wait_until(lambda: words("begun") == [(1, "raise")])
    for n in range(20):
        publish_rows("told", (2 + n % 3, n))
    wait_until(lambda: len(words()) == 20)
    assert stop(pglisten) == 0
    publish_rows("told", (2, "written meanwhile"))
    assert start_pglisten("--once", **HANDLERS).wait() == 0
    assert len(words()) == 21
    assert repeated() == []
    assert words("begun").count((1, "raise")) == 3


@needs_handled
def test_a_stop_in_the_middle_of_a_transaction_repeats_nothing(
    start_pglisten: StartPglisten,
) -> None:
    pglisten = start_pglisten(**HANDLERS, SHUTDOWN_SECONDS=0.5)
    pglisten.wait_for("listening")
    whats = ["hang", *range(1, 200)]
    changes = [
        {"kind": "update", "pk": n % 10, "data": what, "groups": []}
        for n, what in enumerate(whats)
    ]
    execute("SELECT pgnotify_append('told', 'shop.order', %s, NULL)", json.dumps(changes))
    wait_until(lambda: len(words()) > 30)
    assert stop(pglisten) == 0
    assert "not drained" in pglisten.output()
    execute("DELETE FROM handled WHERE what = 'hang'")
    second = start_pglisten(**HANDLERS, SHUTDOWN_SECONDS=0.5)
    wait_until(lambda: len(words()) >= 180)  # what is not behind the one that hangs
    assert stop(second) == 0
    assert repeated() == []


@needs_handled
def test_a_kill_repeats_nothing_that_was_recorded_before_the_place_moved(
    start_pglisten: StartPglisten, tmp_path: Path
) -> None:
    pglisten = start_pglisten(**HANDLERS)
    pglisten.wait_for("listening")
    first, second = tmp_path / "first", tmp_path / "second"
    for pk, path in enumerate((first, second)):  # a tick each
        publish_rows("told", (pk, str(path)))
        wait_until(lambda pk=pk, path=path: (pk, str(path)) in words("begun"))
    publish_rows("told", *((2 + n % 5, n) for n in range(30)))
    wait_until(lambda: execute(AHEAD) == (30,))
    before = execute(PLACE)
    first.touch()
    wait_until(lambda: execute(PLACE) != before)
    pglisten.process.kill()
    pglisten.wait()
    second.touch()
    assert start_pglisten("--once", **HANDLERS).wait() == 0
    assert len(words()) == 32
    assert repeated() == []


@needs_handled
def test_a_stop_repeats_nothing_though_the_place_had_expired(
    start_pglisten: StartPglisten,
) -> None:
    assert start_pglisten("--once", **HANDLERS).wait() == 0
    execute("UPDATE django_pgnotify_handler SET tick = -5")
    execute(
        "DELETE FROM django_pgnotify_ledger"
    )  # what other tests left comes from the oldest on
    publish_rows("told", (1, "raise"), *((2 + n % 3, n) for n in range(20)))
    pglisten = start_pglisten(**HANDLERS | {"HANDLER_BACKOFF_SECONDS": 60.0})
    wait_until(lambda: len(words()) == 20)
    assert stop(pglisten) == 0
    assert "were trimmed" in pglisten.output()
    second = start_pglisten("--once", **HANDLERS)
    assert second.wait() == 0
    assert "were trimmed" not in second.output()
    assert repeated() == []


@needs_handled
def test_who_stops_relays_until_its_last_call_has_ended_and_a_standby_may_lead(
    start_pglisten: StartPglisten, tmp_path: Path
) -> None:
    first = start_pglisten(**HANDLERS)
    first.wait_for("listening")
    second = start_pglisten(**HANDLERS)
    second.wait_for("standing by")
    go = tmp_path / "go"
    publish_rows("told", (1, str(go)), (1, "behind it"))
    wait_until(lambda: words("begun") == [(1, str(go))])
    first.process.send_signal(signal.SIGTERM)
    first.wait_for("draining")
    sent = execute(SENT)
    publish("t", "meanwhile")
    wait_until(lambda: execute(SENT) > sent)
    go.touch()
    assert first.wait() == 0
    assert "not drained" not in first.output()
    second.wait_for("listening")
    wait_until(lambda: words() == [(1, str(go)), (1, "behind it")])


@needs_handled
@pytest.mark.parametrize("role", ["handlers", "listener"])
def test_call_goes_on_over_a_lost_connection_and_is_not_begun_again(
    start_pglisten: StartPglisten, role: str
) -> None:
    pglisten = start_pglisten(**HANDLERS)
    pglisten.wait_for("listening")
    publish_rows("told", (1, "slow"), (1, "behind it"))
    publish("told_async", "slow")
    wait_until(lambda: len(words("begun")) == 2)
    lose_the_connection(pglisten, role)
    wait_until(lambda: (1, "behind it") in words())
    assert [what for pk, what in words("begun") if pk] == ["slow", "behind it"]
    assert [what for pk, what in words() if pk] == ["slow", "behind it"]
    wait_until(lambda: (None, "slow") in words())
    assert words("begun").count((None, "slow")) == 1


@needs_handled
def test_retry_runs_beside_no_call_that_goes_on_over_a_lost_connection(
    start_pglisten: StartPglisten, tmp_path: Path
) -> None:
    pglisten = start_pglisten(**HANDLERS)
    pglisten.wait_for("listening")
    publish_rows("told", (1, "raise"))
    wait_until(lambda: execute(PARKED) == (1,))
    path = tmp_path / "may end"
    publish_rows("told", (1, str(path)))
    wait_until(lambda: (1, str(path)) in words("begun"))
    event = "replace(event, '\"raise\"', '\"mended\"')"
    execute(f"UPDATE django_pgnotify_parked SET event = {event}, retry = true")
    lose_the_connection(pglisten)
    # The retries that are asked for are looked at before the ledger is read.
    publish_rows("told", (2, "marker"))
    wait_until(lambda: (2, "marker") in words())
    path.touch()
    wait_until(lambda: execute(PARKED) == (0,))
    assert [what for pk, what in words() if pk == 1] == [str(path), "mended"]


@needs_handled
def test_calls_that_hang_do_not_pile_up_over_lost_connections(
    start_pglisten: StartPglisten,
) -> None:
    pglisten = start_pglisten(**HANDLERS, HANDLER_CONCURRENCY=2)
    pglisten.wait_for("listening")
    publish_rows("told", *((n, "hang") for n in range(4)))
    wait_until(lambda: len(words("begun")) == 2)
    for _ in range(3):
        lose_the_connection(pglisten)
    # What comes last is begun by nobody: so nothing else was.
    publish("told_async", "ordinary")
    wait_until(lambda: (None, "ordinary") in words())
    assert words("begun").count((0, "hang")) + words("begun").count((1, "hang")) == 2
    assert len(words("begun")) == 3


@needs_handled
@pytest.mark.parametrize("what", ["block its thread", "take no cancellation"])
def test_async_handler_that_hangs_keeps_neither_the_relay_nor_the_end_waiting(
    start_pglisten: StartPglisten, what: str
) -> None:
    pglisten = start_pglisten(**HANDLERS, SHUTDOWN_SECONDS=0.5)
    pglisten.wait_for("listening")
    publish("told_async", what)
    wait_until(lambda: words("begun") == [(None, what)])
    lose_the_connection(pglisten)
    assert stop(pglisten) == 0
    assert "not drained" in pglisten.output()
    assert "stopped" in pglisten.output()


@needs_handled
def test_sigterm_while_it_takes_the_lead_begins_no_call(
    start_pglisten: StartPglisten,
) -> None:
    assert start_pglisten("--once", **HANDLERS).wait() == 0
    publish_rows("told", (1, "relayed and not handled"))
    assert start_pglisten("--once", "--no-handlers", **HANDLERS).wait() == 0
    other = connections["default"].copy()
    waits = (
        "SELECT count(*) > 0 FROM pg_stat_activity WHERE datname = current_database()"
        " AND application_name = 'django_pgnotify leader' AND wait_event_type = 'Lock'"
    )
    try:
        other.set_autocommit(False)
        with other.cursor() as cursor:
            cursor.execute("LOCK TABLE django_pgnotify_handler")
        pglisten = start_pglisten(**HANDLERS)
        wait_until(lambda: execute(waits) == (True,))
        pglisten.process.send_signal(signal.SIGTERM)
        pglisten.wait_for("draining")
    finally:
        other.close()
    assert pglisten.wait() == 0
    assert words("begun") == []


def test_sigterm_while_it_waits_for_a_reconnect_begins_no_session(
    start_place: StartPlace, start_pglisten: StartPglisten
) -> None:
    place = start_place()
    place.sql(TABLE)
    pglisten = start_pglisten(url=place.url, **HANDLERS, RECONNECT_MIN_SECONDS=15.0)
    pglisten.wait_for("listening")
    place.proxy.cut()
    pglisten.wait_for("disconnected")
    place.sql("SELECT pgnotify_publish('told', '1')")
    assert stop(pglisten) == 0
    assert "draining" not in pglisten.output()
    assert place.sql("SELECT count(*) FROM handled") == (0,)


@needs_handled
def test_leader_that_thaws_begins_no_call_and_takes_no_progress_back(
    start_pglisten: StartPglisten,
) -> None:
    quick: dict[str, Any] = HANDLERS | {"LEADER_TIMEOUT_SECONDS": 1.0}
    first = start_pglisten(**quick)
    first.wait_for("listening")
    second = start_pglisten(**quick)
    second.wait_for("standing by")
    publish_rows("told", (1, "slow"), *((1, n) for n in range(5)))
    wait_until(lambda: words("begun") == [(1, "slow")])
    first.process.send_signal(signal.SIGSTOP)
    second.wait_for("listening")
    publish_rows("told", (1, "last"))
    wait_until(lambda: (1, "last") in words())
    behind = f"SELECT (SELECT max(number) FROM django_pgnotify_tick) - ({PLACE})"
    wait_until(lambda: execute(behind) == (0,))
    begun, place = words("begun"), execute(PLACE)
    first.process.send_signal(signal.SIGCONT)
    first.wait_for("standing by")
    assert words("begun") == begun
    assert execute(PLACE) == place
