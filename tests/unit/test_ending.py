"""What an event loop leaves open is closed with it, whatever goes wrong."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from django_pgnotify.ending import before_close, heed_cancellation


def note(said: list[str], word: str) -> Callable[[], Coroutine[Any, Any, None]]:
    async def goodbye() -> None:
        await asyncio.sleep(0)
        said.append(word)

    return goodbye


def test_the_latest_is_done_first_and_an_error_keeps_nobody_from_closing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fail() -> None:
        raise ValueError("no luck")

    async def give_up() -> None:
        raise asyncio.CancelledError

    loop, said = asyncio.new_event_loop(), []
    before_close(loop, note(said, "first"))
    before_close(loop, fail)
    before_close(loop, give_up)
    before_close(loop, note(said, "last"))
    loop.close()
    assert said == ["last", "first"]
    assert loop.is_closed()
    assert "no luck" in caplog.text
    loop.close()
    assert said == ["last", "first"]


def test_a_close_that_is_refused_is_no_close() -> None:
    loop, said = asyncio.new_event_loop(), []
    before_close(loop, note(said, "bye"))

    async def early() -> None:
        with pytest.raises(RuntimeError, match="running"):
            loop.close()

    loop.run_until_complete(early())
    assert said == []
    loop.close()
    assert said == ["bye"]


async def test_a_loop_is_closed_inside_of_another_one_all_the_same() -> None:
    loop, said = asyncio.new_event_loop(), []
    before_close(loop, note(said, "bye"))
    loop.close()
    assert loop.is_closed()
    assert said == []


def test_thousands_may_say_goodbye() -> None:
    loop, said = asyncio.new_event_loop(), []
    for number in range(2000):
        before_close(loop, note(said, str(number)))
    loop.close()
    assert said == list(map(str, reversed(range(2000))))


async def test_a_cancellation_that_was_swallowed_is_heeded_once_it_is_asked_for() -> None:
    async def swallow() -> str:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(100)
        heed_cancellation(known=1)
        heed_cancellation()
        return "went on"

    task = asyncio.create_task(swallow())
    await asyncio.sleep(0)
    task.cancel()
    [result] = await asyncio.gather(task, return_exceptions=True)
    assert isinstance(result, asyncio.CancelledError)
    heed_cancellation()
