"""The page of an event stream, as the reference shows it, in a real browser."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from playwright.async_api import Page

from tests.markdown import blocks

from .client_kit import ANSWER_SECONDS

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

HEADERS = "Cache-Control: no-store\r\nConnection: close\r\n\r\n"
PAGE = f"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n{HEADERS}<!doctype html>"
NOTHING = f"HTTP/1.1 404 Not Found\r\n{HEADERS}"
AWAY = f"HTTP/1.1 502 Bad Gateway\r\n{HEADERS}"
STREAM = f"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n{HEADERS}retry: 10\n\n"


class Proxy:
    """Gives the requests for the stream one answer after the other, and then 502."""

    def __init__(self) -> None:
        self.host = ""
        self.answers: list[str] = []
        self._asked: asyncio.Queue[tuple[str, str]] = asyncio.Queue()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        path = head.split()[1]
        if path.startswith("/events/"):
            last_id = head.lower().partition("last-event-id: ")[2].partition("\r\n")[0]
            self._asked.put_nowait((path, last_id))
            writer.write((self.answers.pop(0) if self.answers else AWAY).encode())
        else:
            writer.write((PAGE if path == "/" else NOTHING).encode())
        await writer.drain()
        writer.close()

    async def asked(self) -> tuple[str, str]:
        """The address and the Last-Event-ID of the next request for the stream."""
        async with asyncio.timeout(ANSWER_SECONDS):
            return await self._asked.get()


@pytest_asyncio.fixture(loop_scope="session")
async def proxy() -> AsyncIterator[Proxy]:
    """A proxy, whose web server is there or not."""
    proxy = Proxy()
    server = await asyncio.start_server(proxy.answer, "127.0.0.1", 0)
    proxy.host = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    yield proxy
    server.close()
    await server.wait_closed()


async def test_a_stream_resumes_after_a_cut_and_after_the_502_of_a_proxy(
    page: Page, proxy: Proxy
) -> None:
    (shown,) = [block for block in blocks("reference/python.md") if block.language == "js"]
    proxy.answers = [
        STREAM + "id: p1\nevent: subscribed\ndata: {}\n\n",
        AWAY,
        STREAM + "id: p2\nevent: events\ndata: {}\n\n",
        STREAM,
    ]
    await page.goto(f"http://{proxy.host}/")
    await page.evaluate("Math.random = () => 0")
    await page.add_script_tag(content=shown.text)
    assert await proxy.asked() == ("/events/?group=orders&since=", "")
    assert await proxy.asked() == ("/events/?group=orders&since=", "p1")
    assert await proxy.asked() == ("/events/?group=orders&since=p1", "")
    assert await proxy.asked() == ("/events/?group=orders&since=p1", "p2")
    assert await proxy.asked() == ("/events/?group=orders&since=p1", "p2")
    assert await proxy.asked() == ("/events/?group=orders&since=p2", "")
