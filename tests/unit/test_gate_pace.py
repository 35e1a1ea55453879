"""How often a relay that is awake looks, and when it is time to be awake."""

from __future__ import annotations

from django_pgnotify.relay import gate, pace
from django_pgnotify.relay.pace import Rate, next_pause


def test_a_steady_rate_is_told_as_it_is_and_fades_when_nothing_comes() -> None:
    rate = Rate()
    for milliseconds in range(0, 3000, 10):
        rate.add(4, milliseconds / 1000)
    assert 390 < rate.per_second(2.99) < 410
    assert rate.per_second(2.99 + pace.RATE_SECONDS) < 0.4 * 410
    assert rate.per_second(10) < 1


def test_a_relay_leaves_most_of_the_time_to_the_writers_and_looks_seldom_when_quiet() -> None:
    assert next_pause(0.02, rows=10, took=0.004) == pace.PAUSE_SHARE * 0.004
    assert next_pause(0.02, rows=10, took=0.0001) == pace.MIN_PAUSE_SECONDS
    assert next_pause(0.02, rows=10, took=1.0) == pace.MAX_PAUSE_SECONDS
    pause, pauses = pace.MIN_PAUSE_SECONDS, []
    for _ in range(6):
        pause = next_pause(pause, rows=0, took=0.001)
        pauses.append(pause)
    assert pauses == sorted(pauses)
    assert pauses[-1] == pace.MAX_PAUSE_SECONDS


def test_it_goes_to_sleep_at_a_lower_rate_than_it_wakes_up_at() -> None:
    assert gate.OPEN_ROWS_PER_SECOND < gate.SHUT_ROWS_PER_SECOND
