"""A TCP proxy that breaks connections as networks do: cut, refused, or silent."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Self
from urllib.parse import urlsplit

CHUNK_BYTES = 64 * 1024


class TcpProxy:
    """Passes connections to its port of 127.0.0.1 on to ``host`` and ``port``.

    It runs in a thread of its own, so that it works for sync and async tests alike.
    """

    def __init__(self, host: str, port: int) -> None:
        self.target = (host, port)
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._server: asyncio.Server | None = None
        self._flowing = asyncio.Event()
        self._refusing = False
        self._last_words = b""
        self._era = 0
        self.delay_seconds = 0.0
        """How long all bytes take, each way."""
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> Self:
        """Listen; connections flow."""
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()
        return self

    def url(self, url: str) -> str:
        """Give the URL that leads to the same place through this proxy."""
        parts = urlsplit(url)
        login = parts.netloc.rpartition("@")[0]
        return parts._replace(netloc=f"{login}@127.0.0.1:{self.port}").geturl()

    def cut(self) -> None:
        """End all connections; new ones flow."""
        self._call(self._cut)

    def refuse(self) -> None:
        """End all connections, and each new one at once, until ``resume()``."""
        self._refusing = True
        self._call(self._cut)

    def write_to_all(self, data: bytes) -> None:
        """Put bytes of our own into all connections, in both directions."""

        def write() -> None:
            for writer in self._writers:
                writer.write(data)

        self._call(write)

    def silence(self) -> None:
        """Hold all bytes back, in both directions, until ``resume()``: a black hole."""
        self._call(self._flowing.clear)

    def silence_at(self, words: bytes) -> None:
        """The same, as soon as somebody says these words, which are not heard any more."""
        self._last_words = words

    def bury(self) -> None:
        """Hold back for ever what goes over the connections of now, as if their host had been
        replaced; new ones flow."""
        self._era += 1

    def resume(self) -> None:
        """Let everything flow again, what was held back first."""
        self._refusing = False
        self._last_words = b""
        self._call(self._flowing.set)

    def stop(self) -> None:
        """End everything."""
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _call(self, function: Callable[[], object]) -> None:
        """Run the function in the loop, and return when it is done."""

        async def run() -> None:
            function()

        asyncio.run_coroutine_threadsafe(run(), self._loop).result()

    async def _listen(self) -> None:
        self._flowing.set()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        self._refusing = True  # what was accepted just now
        if self._server is not None:
            self._server.close()
        await asyncio.sleep(0.01)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._cut()

    def _cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refusing:
            writer.transport.abort()
            return
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._join(reader, writer)
        except* (OSError, asyncio.CancelledError):
            pass  # one side is gone, and so is the other by now; or we are stopped
        finally:
            self._tasks.discard(task)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            await self._flowing.wait()
            far_reader, far_writer = await asyncio.open_connection(*self.target)
            self._writers.add(far_writer)
            try:
                async with asyncio.TaskGroup() as directions:
                    directions.create_task(self._pump(reader, far_writer))
                    directions.create_task(self._pump(far_reader, writer))
            finally:
                self._end(far_writer)
        finally:
            self._end(writer)

    def _end(self, writer: asyncio.StreamWriter) -> None:
        self._writers.discard(writer)
        writer.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        era = self._era
        while data := await reader.read(CHUNK_BYTES):
            if self._last_words and self._last_words in data:
                self._flowing.clear()
            await self._flowing.wait()
            await asyncio.sleep(self.delay_seconds)
            if self._era != era:
                await asyncio.Event().wait()
            writer.write(data)
            await writer.drain()
        await self._flowing.wait()  # a farewell does not cross a black hole either
        writer.close()
