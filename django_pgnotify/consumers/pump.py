"""Pump: begins what all clients of an event loop have to send, without waking a task for each.

A server nearly always takes a frame at once. So the coroutine that sends it is begun by hand, in
the context and in the name of the client's own task; only if it has to wait does that task wake
up and go on with it.
"""

from __future__ import annotations

import asyncio
from asyncio.tasks import _enter_task, _leave_task
from collections import deque
from collections.abc import Coroutine, Generator
from contextvars import Context
from typing import Any, Protocol
from weakref import WeakKeyDictionary

TURN_SECONDS = 0.005
"""After so long the event loop looks after everything else: some 200 sockets, at 25 us each."""

_pumps: WeakKeyDictionary[asyncio.AbstractEventLoop, Pump] = WeakKeyDictionary()


class Line(Protocol):
    """What stands before the pump for one client."""

    def send_next(self) -> bool:
        """Begin one send; True to come again at once."""


class Pump:
    """Serves its lines in turn, each until it has nothing more that is taken at once: what Daphne
    is given in one go, it writes in one."""

    def __init__(self) -> None:
        self._lines: deque[Line] = deque()
        self._is_called = False
        # Not that of whoever puts the first line.
        self._context = Context()

    @classmethod
    def here(cls) -> Pump:
        """The pump of the running event loop."""
        loop = asyncio.get_running_loop()
        if loop not in _pumps:
            _pumps[loop] = cls()
        return _pumps[loop]

    def add(self, line: Line) -> None:
        """Serve a line soon, until it has nothing more."""
        self._lines.append(line)
        self._call()

    def _call(self) -> None:
        if self._lines and not self._is_called:
            self._is_called = True
            loop = asyncio.get_running_loop()
            loop.call_soon(self._take_turn, context=self._context)

    def _take_turn(self) -> None:
        clock = asyncio.get_running_loop().time
        end = clock() + TURN_SECONDS
        is_over = False
        try:
            while self._lines and not is_over:
                line = self._lines.popleft()
                has_more = True
                while has_more and not is_over:
                    has_more = line.send_next()
                    is_over = clock() >= end
                if has_more:
                    self._lines.append(line)
        finally:
            self._is_called = False
            self._call()


class Rest:
    """What is left of a coroutine that was begun: awaited, it goes on or raises its error."""

    __slots__ = ("_coroutine", "_error", "_thrown", "_waits_for")

    def __init__(
        self,
        coroutine: Coroutine[Any, Any, None],
        *,
        waits_for: Any = None,
        error: BaseException | None = None,
    ) -> None:
        self._coroutine = coroutine
        self._waits_for = waits_for
        self._error = error
        self._thrown: BaseException | None = None

    def throw(self, error: BaseException) -> None:
        """Raise this where the coroutine waits, when it is awaited."""
        self._thrown = error

    def __await__(self) -> Generator[Any, Any, None]:
        """``yield from coroutine``, for one that has yielded already."""
        if self._error is not None:
            raise self._error
        waits_for, thrown = self._waits_for, self._thrown
        try:
            while True:
                answer = None
                if thrown is None:
                    try:
                        answer = yield waits_for
                    except BaseException as caught:
                        thrown = caught
                if thrown is None:
                    waits_for = self._coroutine.send(answer)
                else:
                    to_throw, thrown = thrown, None
                    waits_for = self._coroutine.throw(to_throw)
        except StopIteration:
            return


def begin(
    coroutine: Coroutine[Any, Any, None], task: asyncio.Task[None], context: Context
) -> Rest | None:
    """Run a coroutine in the name of a task until it ends or has to wait.

    Gives None if it ended well, else what the task must await. Not to be called from a task.
    """
    loop = task.get_loop()
    _enter_task(loop, task)
    try:
        return Rest(coroutine, waits_for=context.run(coroutine.send, None))
    except StopIteration:
        return None
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        return Rest(coroutine, error=error)
    finally:
        _leave_task(loop, task)
