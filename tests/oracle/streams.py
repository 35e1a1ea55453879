"""A client by Server-Sent Events, as a browser's EventSource: one id resumes all groups."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlencode, urlsplit

from .clients import OPEN_SECONDS, Client

SILENCE_SECONDS = 8.0
"""An EventSource would wait for ever; a run has no time for that."""
LIMIT_BYTES = 2 * 1024 * 1024


class StreamClient(Client):
    """A browser with an EventSource."""

    shares_position = True
    last_id: str | None = None
    _reader: asyncio.StreamReader

    def renew(self) -> None:
        """See Client.renew(): a new EventSource has no last id."""
        self.last_id = None
        super().renew()

    @contextlib.asynccontextmanager
    async def _connected(self) -> AsyncIterator[Any]:
        host = urlsplit(self._random.choice(list(self._urls)))
        async with asyncio.timeout(OPEN_SECONDS):
            reader, writer = await asyncio.open_connection(
                host.hostname, host.port, limit=LIMIT_BYTES
            )
        self.connects += 1
        self._reader, self._socket = reader, writer
        try:
            yield writer
        finally:
            self._socket = None
            writer.transport.abort()
            for group in self.groups.values():
                group.live = False

    async def _follow(self, socket: Any) -> None:
        for group in self.groups.values():
            group.asks_since(self.last_id is not None)
        query = urlencode({"group": list(self.groups)}, doseq=True)
        lines = [f"GET /{self._path}?{query} HTTP/1.1", "Host: localhost"]
        lines += [f"Last-Event-ID: {self.last_id}"] if self.last_id is not None else []
        socket.write(("\r\n".join(lines) + "\r\n\r\n").encode())
        head = await self._timed(self._reader.readuntil(b"\r\n\r\n"))
        if b" 200 " not in head.split(b"\r\n")[0]:
            return
        text = ""
        while True:
            text += (await self._chunk()).decode()
            *events, text = text.split("\n\n")
            for event in events:
                await self._flowing.wait()
                if self._socket is not socket:
                    return  # given up meanwhile
                self._take(event)

    def _take(self, event: str) -> None:
        fields = dict(line.split(": ", 1) for line in event.split("\n") if line[0] != ":")
        self.last_id = fields.get("id", self.last_id)
        if "data" in fields:
            frame = json.loads(fields["data"])
            self.frames += 1
            self.groups[frame["group"]].receive(frame)

    async def _chunk(self) -> bytes:
        """The next piece of the body; EOFError when it ends."""
        size = int(await self._timed(self._reader.readuntil(b"\r\n")), 16)
        if size == 0:
            raise EOFError
        piece: bytes = await self._timed(self._reader.readexactly(size + 2))
        return piece[:-2]

    async def _timed(self, reading: Any) -> Any:
        async with asyncio.timeout(SILENCE_SECONDS):
            return await reading
