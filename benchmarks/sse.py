"""Many streams of Server-Sent Events in one cheap process; see ``websocket``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from .websocket import EVENT

REQUEST = (
    "GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAccept: text/event-stream\r\n"
    "Connection: keep-alive\r\n\r\n"
)
GREETINGS = (b"event: subscribed", b"event: stream-open")
"""Ours, and django-eventstream's."""


class Stream(asyncio.Protocol):
    """One stream; it looks for events in what comes, and does not care for the rest."""

    def __init__(
        self, path: str, port: int, received: Callable[[Stream, bytes, int], None]
    ) -> None:
        self._request = REQUEST.format(path=path, port=port).encode()
        self._received = received
        self._tail = b""
        self.greeted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the server says that the stream is live."""
        self.events = 0
        """How many have come."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the stream."""
        assert isinstance(transport, asyncio.Transport)
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Count, also what was cut in two."""
        data = self._tail + data
        count = data.count(EVENT)
        self._tail = data[data.rfind(EVENT) + len(EVENT) if count else 0 :][-len(EVENT) + 1 :]
        if not self.greeted.done():
            self._tail = data
            if any(greeting in data for greeting in GREETINGS):
                self._tail = b""
                self.greeted.set_result(None)
        elif count:
            self.events += count
            self._received(self, data, count)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody asked for that."""
        if not self.greeted.done():
            self.greeted.set_exception(ConnectionError(f"{self._tail!r} ({exc})"))
