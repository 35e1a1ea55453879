"""What an event loop leaves open is closed with it, whatever goes wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from django_pgnotify.ending import before_close


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

    loop, said = asyncio.new_event_loop(), []
    before_close(loop, note(said, "first"))
    before_close(loop, fail)
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
