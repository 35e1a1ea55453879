"""Branches: the tasks that a call of a handler begins beside its own, by ``gather`` and so on."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

EXITS = (SystemExit, KeyboardInterrupt)
"""What asyncio lets out of any task, and so out of the loop: it would end the whole process, and
the next one too, with the same event."""

Branches = set[asyncio.Task[Any]]
_branches: ContextVar[Branches] = ContextVar("django_pgnotify_branches")


class BranchExited(Exception):
    """A task that a handler has begun would have ended the process."""


@contextmanager
def branches() -> Iterator[Branches]:
    """Those of what is called within, as long as each runs. They fail instead of exiting."""
    asyncio.get_running_loop().set_task_factory(_task)
    begun: Branches = set()
    token = _branches.set(begun)
    try:
        yield begun
    finally:
        _branches.reset(token)


def _task(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> asyncio.Task[Any]:
    begun = _branches.get(None)
    if begun is None:
        return asyncio.Task(work, loop=loop, **options)
    branch = asyncio.Task(_Contained(work), loop=loop, **options)
    begun.add(branch)
    branch.add_done_callback(begun.discard)
    return branch


class _Contained(Coroutine[Any, Any, Any]):
    """A coroutine that does not exit. Not an async function around it: cancelled before its first
    step, that would leave a coroutine behind that was never awaited."""

    def __init__(self, work: Coroutine[Any, Any, Any]) -> None:
        self._work = work

    def send(self, value: Any) -> Any:
        try:
            return self._work.send(value)
        except EXITS as error:
            raise BranchExited(repr(error)) from error

    def throw(self, *error: Any) -> Any:
        try:
            return self._work.throw(*error)
        except EXITS as exit:
            raise BranchExited(repr(exit)) from exit

    def close(self) -> None:
        self._work.close()

    def __await__(self) -> Any:
        return self._work.__await__()
