"""A server that says exactly what a test wants, and a page whose client talks to it."""

from __future__ import annotations

import asyncio
import json
from http import HTTPStatus
from pathlib import Path
from typing import Any

from playwright.async_api import Page
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.http11 import Request, Response

import django_pgnotify

CLIENT = Path(django_pgnotify.__file__).parent / "static/django_pgnotify/pgnotify.js"
PAGE = """
<!doctype html><title>client</title><script type="module">
  import { PgNotify } from "/pgnotify.js";
  const log = [], problems = [];
  const note = (name) => (...values) => log.push([name, ...values]);
  const all = ["subscribed", "snapshot", "events", "reset", "error"];
  window.addEventListener("error", (event) => problems.push(event.message));
  Object.assign(window, { log, problems,
    connect(url, options) {
      window.feed = new PgNotify(url, { reconnectMin: 10, ...options });
      feed.on("status", note("status"));
      feed.on("error", note("complaint"));
    },
    follow(group, options, names = all) {
      const handlers = Object.fromEntries(names.map((name) => [name, note(name)]));
      window[group] = feed.subscribe(group, handlers, options);
    },
  });
</script>
"""
ANSWER_SECONDS = 10.0


class Socket:
    """The server's end of one connection."""

    def __init__(self, connection: ServerConnection) -> None:
        self.connection = connection

    async def hears(self) -> Any:
        """Give the next frame of the client."""
        async with asyncio.timeout(ANSWER_SECONDS):
            return json.loads(await self.connection.recv())

    async def says(self, type: str, group: str = "orders", **frame: Any) -> None:
        """Send a frame."""
        await self.connection.send(json.dumps({"type": type, "group": group, **frame}))

    async def says_events(self, position: str, *ids: str, **extra: Any) -> None:
        """Send events of which only the ids matter."""
        events = [{"id": id} for id in ids]
        await self.says("events", position=position, events=events, **extra)

    async def cut(self) -> None:
        """End the connection without a word."""
        self.connection.transport.abort()
        await self.connection.wait_closed()


class ScriptedServer:
    """Serves a page with the client and takes connections; the test does the talking."""

    def __init__(self) -> None:
        self._sockets: asyncio.Queue[Socket] = asyncio.Queue()
        self._server: Server | None = None

    async def start(self) -> None:
        """Listen on a free port."""
        self._server = await serve(self._take, "127.0.0.1", 0, process_request=_page)

    async def stop(self) -> None:
        """Close every connection."""
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    @property
    def host(self) -> str:
        """Where it listens."""
        assert self._server is not None
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def _take(self, connection: ServerConnection) -> None:
        self._sockets.put_nowait(Socket(connection))
        await connection.wait_closed()

    async def accepts(self) -> Socket:
        """Give the next connection."""
        async with asyncio.timeout(ANSWER_SECONDS):
            return await self._sockets.get()

    async def accepts_subscriber(self, position: str = "p1", **extra: Any) -> Socket:
        """Give the next connection, when it has subscribed."""
        socket = await self.accepts()
        assert (await socket.hears())["type"] == "subscribe"
        await socket.says("subscribed", position=position, **extra)
        await socket.says("snapshot", position=position, data=[{"id": 1}])
        return socket


def _page(connection: ServerConnection, request: Request) -> Response | None:
    """Answer a request for the page or its script; the others open a WebSocket."""
    if "Upgrade" in request.headers:
        return None
    script = request.path == "/pgnotify.js"
    response = connection.respond(HTTPStatus.OK, CLIENT.read_text() if script else PAGE)
    del response.headers["Content-Type"]
    response.headers["Content-Type"] = "text/javascript" if script else "text/html"
    return response


async def connect(page: Page, **options: float) -> None:
    """Connect the page's client."""
    await page.evaluate("([url, options]) => connect(url, options)", ["/socket/", options])


async def subscribe(page: Page, server: ScriptedServer, **options: float) -> Socket:
    """Connect the page's client and let it follow one group."""
    await connect(page, **options)
    await page.evaluate("follow('orders')")
    socket = await server.accepts_subscriber()
    await told(page, "snapshot")
    return socket


async def told(page: Page, name: str, count: int = 1) -> list[Any]:
    """Wait until a handler was called so often; give the first value of each call."""
    calls = "log.filter((call) => call[0] === name)"
    await page.wait_for_function(
        f"([name, count]) => {calls}.length >= count", arg=[name, count]
    )
    return list(await page.evaluate(f"(name) => {calls}.map((call) => call[1])", name))


def ids(calls: list[Any]) -> list[list[str]]:
    """The ids of the events of each call."""
    return [[event["id"] for event in events] for events in calls]
