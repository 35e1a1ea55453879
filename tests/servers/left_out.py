"""Says which tests were left out and why; with PGNOTIFY_TEST_ALL=1 that is a failure.

A test marked ``redis``, ``pgbouncer`` or ``browser`` is skipped where the program is missing.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from . import programs

NEEDS: dict[str, Callable[[], Path]] = {
    "redis": programs.redis_server,
    "pgbouncer": programs.pgbouncer,
    "browser": programs.chromium,
}
TEST_ALL = os.environ.get("PGNOTIFY_TEST_ALL") == "1"

skips = pytest.StashKey[Counter[str]]()


def pytest_configure(config: pytest.Config) -> None:
    """Begin with no skip."""
    config.stash[skips] = Counter()
    config.pluginmanager.register(SkipCounter(config.stash[skips]))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose program is missing."""
    for marker, find in NEEDS.items():
        if item.get_closest_marker(marker) is not None:
            skip_if_missing(find)


def skip_if_missing(find: Callable[[], Path]) -> Path:
    """Give the program; skip the test that asks where it is missing."""
    try:
        return find()
    except programs.Missing as missing:
        pytest.skip(str(missing))


class SkipCounter:
    """Counts the reasons of all skips, those of whole modules too."""

    def __init__(self, reasons: Counter[str]) -> None:
        self.reasons = reasons

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count a skipped test; an expected failure is none."""
        if report.skipped and not hasattr(report, "wasxfail"):
            self._count(report.longrepr)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Count a skipped module."""
        if report.skipped:
            self._count(report.longrepr)

    def _count(self, longrepr: object) -> None:
        reason = longrepr[2] if isinstance(longrepr, tuple) else str(longrepr)
        self.reasons[reason.removeprefix("Skipped: ")] += 1


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run that may leave nothing out, and did."""
    passed = session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
    if TEST_ALL and passed and session.config.stash[skips]:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Count the tests that were left out, by reason."""
    reasons = config.stash[skips]
    if reasons:
        verdict = "LEFT OUT, and PGNOTIFY_TEST_ALL=1 allows none" if TEST_ALL else "left out"
        terminalreporter.section(verdict)
    for reason, count in reasons.most_common():
        terminalreporter.line(f"{count} test{'s' if count > 1 else ''}: {reason}")
