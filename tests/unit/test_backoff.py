"""Delays between tries."""

from __future__ import annotations

import pytest

from django_pgnotify.backoff import Backoff
from django_pgnotify.conf import Defaults


def test_delays_double_up_to_the_maximum() -> None:
    backoff = Backoff(1, 5, rng=lambda: 0.0)
    assert [backoff.next_delay() for _ in range(5)] == [1, 2, 4, 5, 5]


def test_jitter_takes_up_to_a_half_off() -> None:
    backoff = Backoff(2, 8, rng=lambda: 0.999_999)
    assert backoff.next_delay() == pytest.approx(1, rel=1e-3)
    assert backoff.next_delay() == pytest.approx(2, rel=1e-3)


def test_success_starts_over_at_the_minimum() -> None:
    backoff = Backoff(1, 100, rng=lambda: 0.0)
    backoff.next_delay()
    backoff.next_delay()
    backoff.reset()
    assert backoff.next_delay() == 1


def test_a_minimum_above_the_maximum_gives_the_maximum() -> None:
    assert Backoff(10, 5, rng=lambda: 0.0).next_delay() == 5


def test_the_shipped_delays_begin_fast_and_stay_bounded() -> None:
    backoff = Backoff(rng=lambda: 0.0)
    delays = [backoff.next_delay() for _ in range(20)]
    assert delays[0] == Defaults.RECONNECT_MIN_SECONDS == 0.1
    assert delays[-1] == Defaults.RECONNECT_MAX_SECONDS == 15


def test_delays_follow_the_settings(settings: object) -> None:
    settings.PGNOTIFY = {"RECONNECT_MIN_SECONDS": 3}  # type: ignore[attr-defined]
    assert Backoff(rng=lambda: 0.0).next_delay() == 3
