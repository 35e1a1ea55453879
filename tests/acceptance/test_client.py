"""pgnotify.js in a real browser, against a server that says exactly what a test wants."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Page
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.http11 import Request, Response

import django_pgnotify

from .conftest import Visits

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

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


@pytest_asyncio.fixture(loop_scope="session")
async def server() -> AsyncIterator[ScriptedServer]:
    """The other side of the client."""
    server = ScriptedServer()
    await server.start()
    yield server
    await server.stop()


@pytest_asyncio.fixture(loop_scope="session")
async def page(visits: Visits, server: ScriptedServer) -> Page:
    """A page that holds the client, and notes down what it tells."""
    page = await visits.page()
    await page.goto(f"http://{server.host}/")
    return page


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


async def test_gives_events_to_the_handler_and_takes_the_position(
    page: Page, server: ScriptedServer
) -> None:
    socket = await subscribe(page, server)
    await socket.says_events("p2", "1-0", "1-1")
    assert await told(page, "snapshot") == [[{"id": 1}]]
    assert ids(await told(page, "events")) == [["1-0", "1-1"]]
    assert await page.evaluate("orders.position") == "p2"
    assert await told(page, "status") == ["live"]


async def test_resumes_each_group_from_its_position(page: Page, server: ScriptedServer) -> None:
    socket = await subscribe(page, server)
    await page.evaluate("follow('customers', {since: 'c7'})")
    assert await socket.hears() == {"type": "subscribe", "group": "customers", "since": "c7"}
    await socket.says_events("p2", "1-0")
    await told(page, "events")
    await socket.cut()
    socket = await server.accepts()
    assert await socket.hears() == {"type": "subscribe", "group": "orders", "since": "p2"}
    assert await socket.hears() == {"type": "subscribe", "group": "customers", "since": "c7"}
    await socket.says("subscribed", position="p2", recovered=True)
    assert (await told(page, "subscribed", 2))[1]["recovered"] is True
    assert await told(page, "status", 2) == ["live", "reconnecting"]
    await socket.says("subscribed", "customers", position="c7", recovered=True)
    assert await told(page, "status", 3) == ["live", "reconnecting", "live"]


async def test_a_batch_cut_in_the_middle_is_asked_for_again_and_seen_once(
    page: Page, server: ScriptedServer
) -> None:
    socket = await subscribe(page, server)
    await socket.says_events("p1", "1-0", "1-1", more=True)
    await told(page, "events")
    await socket.cut()
    socket = await server.accepts()
    assert (await socket.hears())["since"] == "p1"
    await socket.says("subscribed", position="p1", recovered=True)
    await socket.says_events("p1", "1-0", "1-1", more=True)
    await socket.says_events("p2", "1-1", "1-2")
    assert ids(await told(page, "events", 2)) == [["1-0", "1-1"], ["1-2"]]
    assert await page.evaluate("orders.position") == "p2"


async def test_a_live_event_in_the_middle_of_a_batch_lets_nothing_be_seen_twice(
    page: Page, server: ScriptedServer
) -> None:
    batch = [f"{number}-0" for number in range(6_000)]
    socket = await subscribe(page, server)
    await socket.says_events("p1", *batch, more=True)
    await socket.says_events("p1", "live")
    await socket.says_events("p1", *batch, more=True)
    await socket.says_events("p2", "last")
    assert ids(await told(page, "events", 3)) == [batch, ["live"], ["last"]]


async def test_a_reset_is_told_and_moves_the_position(
    page: Page, server: ScriptedServer
) -> None:
    await connect(page)
    await page.evaluate("follow('orders', {}, ['reset'])")
    socket = await server.accepts_subscriber()
    await socket.says("reset", position="p9", reason="expired")
    assert await told(page, "reset") == ["expired"]
    await socket.cut()
    assert (await (await server.accepts()).hears())["since"] == "p9"


async def test_after_a_reset_a_page_that_takes_snapshots_gets_one(
    page: Page, server: ScriptedServer
) -> None:
    socket = await subscribe(page, server)
    await socket.says("reset", position="p9", reason="overflow")
    assert await socket.hears() == {"type": "unsubscribe", "group": "orders"}
    assert await socket.hears() == {"type": "subscribe", "group": "orders"}
    await socket.says("subscribed", position="p9")
    await socket.says("snapshot", position="p9", data=[{"id": 2}])
    assert await told(page, "snapshot", 2) == [[{"id": 1}], [{"id": 2}]]


async def test_a_gap_of_live_events_is_told_and_changes_nothing(
    page: Page, server: ScriptedServer
) -> None:
    socket = await subscribe(page, server)
    await socket.says("reset", position="p1", reason="gap")
    await socket.says_events("p2", "1-0")
    await told(page, "events")
    assert await told(page, "reset") == ["gap"]
    assert await told(page, "snapshot") == [[{"id": 1}]]


async def test_a_gap_of_durable_events_brings_a_snapshot(
    page: Page, server: ScriptedServer
) -> None:
    socket = await subscribe(page, server)
    await socket.says("reset", position="p9", reason="gap")
    assert await socket.hears() == {"type": "unsubscribe", "group": "orders"}
    assert await socket.hears() == {"type": "subscribe", "group": "orders"}


async def test_a_group_that_was_refused_can_be_asked_for_again_at_once(
    page: Page, server: ScriptedServer
) -> None:
    await connect(page)
    await page.evaluate(
        """() => {
          const again = () => { first.unsubscribe(); follow('orders'); };
          const first = feed.subscribe('orders', { error: again });
        }"""
    )
    socket = await server.accepts()
    await socket.hears()
    await socket.says("error", code="forbidden", message="no")
    assert await socket.hears() == {"type": "subscribe", "group": "orders"}
    await socket.says("subscribed", position="p1")
    assert len(await told(page, "subscribed")) == 1


async def test_a_snapshot_in_several_frames_is_given_whole(
    page: Page, server: ScriptedServer
) -> None:
    await connect(page)
    await page.evaluate("follow('orders')")
    socket = await server.accepts()
    await socket.hears()
    await socket.says("subscribed", position="p1")
    await socket.says("snapshot", position="p1", data=[{"id": 1}], more=True)
    await socket.cut()  # a page with half of its rows must not resume
    socket = await server.accepts()
    assert await socket.hears() == {"type": "subscribe", "group": "orders"}
    await socket.says("subscribed", position="p1")
    await socket.says("snapshot", position="p1", data=[{"id": 1}], more=True)
    await socket.says("snapshot", position="p2", data=[{"id": 2}])
    assert await told(page, "snapshot") == [[{"id": 1}, {"id": 2}]]
    assert await page.evaluate("orders.position") == "p2"


@pytest.mark.parametrize("frame", ["reset", "error"])
async def test_a_group_that_is_refused_is_not_asked_for_again(
    page: Page, server: ScriptedServer, frame: str
) -> None:
    await connect(page)
    await page.evaluate("follow('orders')")
    socket = await server.accepts()
    await socket.hears()
    if frame == "reset":
        await socket.says("subscribed", position="p1")
        await socket.says("reset", position="p1", reason="revoked")
    else:
        await socket.says("error", code="forbidden", message="not yours")
    await told(page, frame)
    await page.evaluate("follow('customers')")
    assert (await socket.hears())["group"] == "customers"
    await socket.cut()
    assert (await (await server.accepts()).hears())["group"] == "customers"


async def test_frames_that_make_no_sense_disturb_nothing(
    page: Page, server: ScriptedServer
) -> None:
    socket = await subscribe(page, server)
    for text in ("", "no json", "[]", "null", "7", '{"type": 5}', b"\x00\x01"):
        await socket.connection.send(text)
    senseless: list[dict[str, Any]] = [{"events": 5}, {"events": [None, []]}, {"position": 5}]
    for frame in senseless:
        await socket.says("events", **frame)
    await socket.says("unheard-of", position="p1")
    await socket.says_events("p2", "1-0")
    assert ids(await told(page, "events")) == [["1-0"]]
    assert len(await told(page, "complaint")) == 7
    assert await page.evaluate("orders.position") == "p2"


async def test_answers_a_ping(page: Page, server: ScriptedServer) -> None:
    socket = await subscribe(page, server)
    await socket.connection.send('{"type": "ping"}')
    assert await socket.hears() == {"type": "pong"}


async def test_a_server_that_falls_silent_is_asked_and_then_left(
    page: Page, server: ScriptedServer
) -> None:
    socket = await subscribe(page, server, silence=400, answer=100)
    assert await socket.hears() == {"type": "ping"}
    socket = await server.accepts()
    assert (await socket.hears())["since"] == "p1"


async def test_a_server_that_answers_is_not_left(page: Page, server: ScriptedServer) -> None:
    socket = await subscribe(page, server, silence=400, answer=5_000)
    for _ in range(3):
        assert await socket.hears() == {"type": "ping"}
        await socket.connection.send('{"type": "pong"}')
    assert await told(page, "status") == ["live"]


async def test_waits_longer_from_attempt_to_attempt_up_to_the_maximum(
    page: Page, server: ScriptedServer
) -> None:
    await connect(page, reconnectMin=8, reconnectMax=64)
    for _ in range(6):
        await (await server.accepts()).cut()
    await told(page, "status", 12)
    info = await page.evaluate(
        "log.filter((call) => call[1] === 'reconnecting').map((call) => call[2])"
    )
    longest = [8, 16, 32, 64, 64, 64]
    assert [one["attempt"] for one in info[:6]] == [1, 2, 3, 4, 5, 6]
    for one, most in zip(info, longest, strict=False):
        assert most / 2 <= one["delay"] <= most


@pytest.mark.parametrize("event", ["online", "pageshow"])
async def test_does_not_wait_when_the_network_or_the_page_is_back(
    page: Page, server: ScriptedServer, event: str
) -> None:
    socket = await subscribe(page, server, reconnectMin=1e9, reconnectMax=1e9)
    await socket.cut()
    await told(page, "status", 2)
    await page.evaluate(f"window.dispatchEvent(new Event('{event}'))")
    assert (await (await server.accepts()).hears())["since"] == "p1"


async def test_an_unsubscribed_group_is_not_heard(page: Page, server: ScriptedServer) -> None:
    socket = await subscribe(page, server)
    await page.evaluate("orders.unsubscribe()")
    assert await socket.hears() == {"type": "unsubscribe", "group": "orders"}
    await page.evaluate("follow('orders')")
    assert await socket.hears() == {"type": "subscribe", "group": "orders"}
    await socket.says_events("p5", "1-0")  # of the earlier subscription, still on its way
    await socket.says("subscribed", position="p6")
    await socket.says_events("p7", "1-1")
    assert ids(await told(page, "events")) == [["1-1"]]


async def test_a_closed_feed_stays_closed_and_resumes_when_opened(
    page: Page, server: ScriptedServer
) -> None:
    socket = await subscribe(page, server)
    await page.evaluate("feed.close()")
    await socket.connection.wait_closed()
    await page.evaluate("window.dispatchEvent(new Event('online'))")
    assert await told(page, "status", 2) == ["live", "closed"]
    await page.evaluate("feed.open()")
    assert (await (await server.accepts()).hears())["since"] == "p1"


async def test_a_handler_that_throws_disturbs_nobody(
    page: Page, server: ScriptedServer
) -> None:
    socket = await subscribe(page, server)
    await page.evaluate(
        "feed.subscribe('faulty', {events() { throw new Error('of the page') }})"
    )
    await socket.hears()
    await socket.says("subscribed", "faulty", position="f1")
    await socket.says("events", "faulty", position="f2", events=[{"id": "1-0"}])
    await socket.says_events("p2", "1-0")
    assert ids(await told(page, "events")) == [["1-0"]]
    assert await page.evaluate("problems") == ["Uncaught Error: of the page"]
    assert await page.evaluate("feed.status") == "live"


async def test_a_relative_address_belongs_to_the_page(
    page: Page, server: ScriptedServer
) -> None:
    async with page.expect_websocket() as opened:
        await connect(page)
    assert (await opened.value).url == f"ws://{server.host}/socket/"
