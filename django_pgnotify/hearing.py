"""Hearing: what a LISTEN connection is notified of, as soon as its socket can be read.

psycopg's ``notifies()`` is not used: it looks up ten times a second, which is two thirds of what an
idle process costs, and each notification goes through three turns of the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from psycopg import OperationalError

if TYPE_CHECKING:
    from psycopg import AsyncConnection

Handle = Callable[[str, str], None]
"""Takes the pg channel and the payload. It is called by the event loop, and must not raise."""


class Hearing:
    """Calls `handle` for each notification of a connection, in order, none left out.

    Make it before LISTEN: what comes while a statement runs is handled too. While `run` runs
    nobody may use the connection, or close it: cancel `run` first.
    """

    def __init__(self, connection: AsyncConnection[Any], handle: Handle) -> None:
        self._connection = connection
        self._handle = handle
        connection.add_notify_handler(lambda heard: handle(heard.channel, heard.payload))

    async def run(self) -> None:
        """Hear until the connection is lost, which raises OperationalError."""
        loop = asyncio.get_running_loop()
        lost: asyncio.Future[None] = loop.create_future()
        descriptor = self._connection.fileno()

        def read() -> None:
            try:
                self._read()
            except Exception as error:
                loop.remove_reader(descriptor)
                if not lost.done():
                    lost.set_exception(error)

        loop.add_reader(descriptor, read)
        read()  # what came behind the answer to LISTEN may have left the socket already
        try:
            await lost
        finally:
            # Not if it is removed already: by now the number may be another connection's.
            if lost.cancelled():
                loop.remove_reader(descriptor)

    def _read(self) -> None:
        """Handle what has come; the end of the connection raises."""
        pgconn, encoding = self._connection.pgconn, self._connection.info.encoding
        pgconn.consume_input()
        while (heard := pgconn.notifies()) is not None:
            self._handle(heard.relname.decode(encoding), heard.extra.decode(encoding))
        if self._connection.broken:
            raise OperationalError("the listening connection has ended")
