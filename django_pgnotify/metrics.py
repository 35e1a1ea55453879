"""Metrics: the relay's counters, and a tiny endpoint that gives them to Prometheus."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, fields

READ_TIMEOUT_SECONDS = 5.0
"""A client that connects and stays silent is let go after this."""
GAUGES = ("queue_depth", "lag_seconds", "leader", "notify_queue_ratio", "ledger_bytes")


@dataclass(slots=True)
class Metrics:
    """What one ``pglisten`` process has done. Each field is one metric, ``pgnotify_<field>``."""

    ticks: int = 0
    """Ticks sent."""
    events: int = 0
    """Durable events relayed."""
    frames: int = 0
    """Messages handed to the channel layer."""
    live: int = 0
    """Live events relayed."""
    live_dropped: int = 0
    """Live events pushed out of a full queue, or refused by the channel layer."""
    reconnects: int = 0
    """Sessions that ended by an error."""
    queue_depth: int = 0
    """Frames that wait between reading and sending."""
    lag_seconds: float = 0.0
    """Age of the oldest tick that is being sent; 0 when there is none."""
    leader: int = 0
    """1 while this process leads."""
    notify_queue_ratio: float = 0.0
    """How full the server's notify queue is, from 0 to 1; at 1 COMMITs fail."""
    ledger_bytes: int = 0
    """Size of the ledger with its indexes, measured when it is trimmed; bounded by
    LEDGER_MAX_BYTES."""
    in_progress: deque[float] = field(default_factory=deque)
    """Monotonic seconds when each tick that is not sent yet was stored."""

    def text(self) -> str:
        """Prometheus text format."""
        oldest = self.in_progress[0] if self.in_progress else None
        self.lag_seconds = 0.0 if oldest is None else time.monotonic() - oldest
        names = [item.name for item in fields(self) if item.name != "in_progress"]
        return "".join(map(self._lines, names))

    def _lines(self, name: str) -> str:
        kind, suffix = ("gauge", "") if name in GAUGES else ("counter", "_total")
        full = f"pgnotify_{name}{suffix}"
        return f"# TYPE {full} {kind}\n{full} {getattr(self, name)}\n"


@asynccontextmanager
async def serving(metrics: Metrics, port: int) -> AsyncIterator[int]:
    """Serve ``/metrics`` on every interface while the block runs; gives the port.

    It runs in the relay's event loop on purpose: a relay that hangs does not answer.
    """

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(READ_TIMEOUT_SECONDS):
                await reader.readuntil(b"\r\n\r\n")
                body = metrics.text().encode()
                writer.write(_head(len(body)) + body)
                await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # the client's own affair
        finally:
            writer.close()

    server = await asyncio.start_server(answer, port=port)
    # With port 0 the IPv6 socket has a port of its own; IPv4's number is the lower family.
    listening = min(server.sockets, key=lambda one: one.family)
    try:
        yield listening.getsockname()[1]
    finally:
        server.close()


def _head(length: int) -> bytes:
    return (
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"
        f"Content-Length: {length}\r\nConnection: close\r\n\r\n"
    ).encode()
