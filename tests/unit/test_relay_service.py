"""The loop around sessions, with sessions that only fail."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from django_pgnotify.metrics import Metrics
from django_pgnotify.relay import service
from django_pgnotify.relay.service import Service
from django_pgnotify.relay.session import HandlersToRun


class FailsWhenCancelled:
    """As a TaskGroup does when a connection of its breaks in the moment of its cancellation."""

    started = 0
    leading = False

    def __init__(self, *arguments: Any) -> None:
        type(self).started += 1

    async def run(self) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise OSError("the connection is lost") from None

    def stop(self) -> None:
        raise AssertionError("nothing is to be drained by who does not lead")

    def abort(self) -> None:
        """Nothing to end."""


async def test_no_session_begins_after_the_stop_even_if_the_last_one_ends_by_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(service, "Session", FailsWhenCancelled)
    pglisten = Service("default", Metrics(), HandlersToRun((), running=False))
    running = asyncio.create_task(pglisten.run())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    pglisten.stop()
    async with asyncio.timeout(1):
        await running
    assert FailsWhenCancelled.started == 1
    assert len(asyncio.all_tasks()) == 1


class DiesWhenReady(FailsWhenCancelled):
    """As one that finds no room for its last connection."""

    started = 0

    def __init__(self, alias: str, metrics: Metrics, handlers: Any, on_ready: Any) -> None:
        super().__init__()
        self.on_ready = on_ready

    async def run(self) -> None:
        self.on_ready()
        raise OSError("too many connections")


async def test_sessions_that_die_young_begin_ever_more_seldom_and_say_so_once(
    monkeypatch: pytest.MonkeyPatch, settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    settings.PGNOTIFY = {"RECONNECT_MIN_SECONDS": 0.001}
    monkeypatch.setattr(service, "Session", DiesWhenReady)
    caplog.set_level(logging.DEBUG, "django_pgnotify")
    pglisten = Service("default", Metrics(), HandlersToRun((), running=False))
    running = asyncio.create_task(pglisten.run())
    async with asyncio.timeout(5):
        while DiesWhenReady.started < 8:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    pglisten.stop()
    await running
    lost = [record for record in caplog.records if record.action == "reconnect"]  # type: ignore[attr-defined]
    assert [record.levelname for record in lost[:3]] == ["WARNING", "DEBUG", "DEBUG"]
    delays = [record.args[1] for record in lost if isinstance(record.args, tuple)]
    assert float(str(delays[6])) > 5 * float(str(delays[0]))
