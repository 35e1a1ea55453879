"""A crowd of clients of one page, and when an event has come to all of them."""

from __future__ import annotations

import asyncio
import re
import time

from .sse import Stream
from .websocket import Socket

VALUE = re.compile(rb'"value": ?(\d+)')
CONNECTING_AT_ONCE = 20
CONNECT_ATTEMPTS = 5
"""Of a socket: a plain consumer over Redis answers some of 5,000 with an error 500 now and then."""


class Crowd:
    """Sockets of one page, and when each event has come to all of them."""

    def __init__(
        self, kind: type[Socket] | type[Stream] = Socket, *, keep_times: bool = False
    ) -> None:
        self.sockets: list[Socket | Stream] = []
        self.times: dict[int, float] = {}
        """When the event with this ``value`` came to the first socket, if times are kept."""
        self.last = 0.0
        """When the last socket had all that is expected."""
        self._kind = kind
        self._keep_times = keep_times
        self._goal = 0
        self._behind = 0
        self._all = asyncio.Event()

    async def connect(self, count: int, port: int, path: str) -> None:
        """Open so many sockets; all are in their group when this returns."""
        few = asyncio.Semaphore(CONNECTING_AT_ONCE)

        async def connect() -> None:
            async with few:
                for left in reversed(range(CONNECT_ATTEMPTS)):
                    try:
                        await self._open(port, path)
                        break
                    except ConnectionError:
                        if not left:
                            raise

        async with asyncio.TaskGroup() as tasks:
            for _ in range(count):
                tasks.create_task(connect())

    async def _open(self, port: int, path: str) -> None:
        _, socket = await asyncio.get_running_loop().create_connection(
            lambda: self._kind(path, port, self._received), "127.0.0.1", port
        )
        await socket.greeted
        self.sockets.append(socket)

    def expect(self, events: int) -> None:
        """So many more are to come to each socket."""
        self._goal += events
        self._behind = sum(socket.events < self._goal for socket in self.sockets)
        self._all.clear()
        if not self._behind:
            self._all.set()

    async def wait(self, seconds: float) -> int:
        """Return when they have come, or time is up; gives how many sockets are behind."""
        try:
            async with asyncio.timeout(seconds):
                await self._all.wait()
        except TimeoutError:
            pass
        return self._behind

    def _received(self, socket: Socket | Stream, payload: bytes, count: int) -> None:
        now = time.monotonic()
        if self._keep_times and socket is self.sockets[0]:
            for value in VALUE.findall(payload):
                self.times.setdefault(int(value), now)
        if socket.events - count < self._goal <= socket.events:
            self._behind -= 1
            if not self._behind:
                self.last = now
                self._all.set()
