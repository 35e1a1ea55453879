"""Many WebSockets in one cheap process: it parses frames only as far as counting events needs.

A client library spends more on a frame than the servers measured here, and would be the limit.
"""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import Callable

EVENT = b'"kind"'
"""Stands once in each event, whoever made the JSON, and in no other frame."""
TEXT, CLOSE, PING, PONG = 0x1, 0x8, 0x9, 0xA
SHORT, MEDIUM = 125, 126
REQUEST = (
    "GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\n"
    "Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


class Socket(asyncio.Protocol):
    """One WebSocket that is opened, and then only listens."""

    def __init__(
        self, path: str, port: int, received: Callable[[Socket, bytes, int], None]
    ) -> None:
        key = base64.b64encode(os.urandom(16)).decode()
        self._request = REQUEST.format(path=path, port=port, key=key).encode()
        self._received = received
        self._buffer = b""
        self._transport: asyncio.Transport | None = None
        self._open = False
        self.greeted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the first frame has come: the server has joined the group then."""
        self.events = 0
        """How many have come."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the upgrade."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Cut what came into frames."""
        buffer = self._buffer + data if self._buffer else data
        if not self._open:
            head, separator, rest = buffer.partition(b"\r\n\r\n")
            if not separator:
                self._buffer = buffer
                return
            if b" 101 " not in head.partition(b"\r\n")[0]:
                self._fail(head.decode(errors="replace"))
                return
            self._open, buffer = True, rest
        self._buffer = self._frames(buffer)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody asked for that."""
        self._fail(f"the server closed the socket ({exc})")

    def _frames(self, buffer: bytes) -> bytes:
        """Take the whole frames; gives the rest."""
        place = 0
        while (found := frame_at(buffer, place)) is not None:
            opcode, start, place = found
            if opcode == PING:
                self._pong(buffer[start:place])
            elif opcode == TEXT:
                self._text(buffer[start:place])
        return buffer[place:]

    def _text(self, payload: bytes) -> None:
        if not self.greeted.done():
            self.greeted.set_result(None)
        elif EVENT in payload:
            count = payload.count(EVENT)
            self.events += count
            self._received(self, payload, count)

    def _pong(self, payload: bytes) -> None:
        # A client's frames are masked; by zeros, which change nothing.
        assert self._transport is not None
        self._transport.write(bytes([0x80 | PONG, 0x80 | len(payload)]) + bytes(4) + payload)

    def _fail(self, reason: str) -> None:
        if not self.greeted.done():
            self.greeted.set_exception(ConnectionError(reason))


def frame_at(buffer: bytes, place: int) -> tuple[int, int, int] | None:
    """Opcode, start and end of the payload of an unmasked frame; None if it is not whole."""
    left = len(buffer) - place
    if left < 2:
        return None
    length, start = buffer[place + 1] & 0x7F, place + 2
    if length > SHORT:
        wide = 2 if length == MEDIUM else 8
        if left < 2 + wide:
            return None
        length, start = int.from_bytes(buffer[start : start + wide], "big"), start + wide
    end = start + length
    return None if end > len(buffer) else (buffer[place] & 0xF, start, end)
