"""How the client keeps, leaves and reopens its connection, and in which order it tells of it."""

from __future__ import annotations

import asyncio

import pytest
from playwright.async_api import Page

from .client_kit import ScriptedServer, Socket, connect, subscribe, told

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

SILENCE, ANSWER = 200, 400
"""Milliseconds that the client waits before it asks, and then for the answer."""
TOO_LONG_SECONDS = 0.6
"""Longer than the client waits at first, shorter than twice that."""


async def pinged(server: ScriptedServer) -> Socket:
    """Give the next connection when it has been answered, and asks whether we live."""
    socket = await server.accepts()
    await socket.hears()
    await socket.says("subscribed", position="p1")
    assert await socket.hears() == {"type": "ping"}
    return socket


async def test_a_line_that_is_slower_than_a_frame_gets_more_time_from_loss_to_loss(
    page: Page, server: ScriptedServer
) -> None:
    await connect(page, silence=SILENCE, answer=ANSWER)
    await page.evaluate("follow('orders')")
    await pinged(server)
    socket = await pinged(server)
    for position in ("p1", "p2"):  # nor does a frame that took so long make it impatient
        await asyncio.sleep(TOO_LONG_SECONDS)
        await socket.says("snapshot", position=position, data=[position])
        assert await socket.hears() == {"type": "ping"}
    assert await told(page, "snapshot") == [["p1"], ["p2"]]


async def test_a_pong_in_time_makes_the_client_as_impatient_as_it_was(
    page: Page, server: ScriptedServer
) -> None:
    await connect(page, silence=SILENCE, answer=ANSWER)
    await page.evaluate("follow('orders')")
    await pinged(server)
    socket = await pinged(server)
    await socket.connection.send('{"type": "pong"}')
    assert await socket.hears() == {"type": "ping"}
    async with asyncio.timeout(TOO_LONG_SECONDS):
        await socket.connection.wait_closed()


async def test_patience_has_an_end(page: Page, server: ScriptedServer) -> None:
    await connect(page, silence=50, answer=100, answerMax=150)
    await page.evaluate("follow('orders')")
    for _ in range(5):
        socket = await pinged(server)
        async with asyncio.timeout(TOO_LONG_SECONDS):
            await socket.connection.wait_closed()


async def test_a_page_that_wakes_up_again_and_again_waits_no_longer_for_an_answer(
    page: Page, server: ScriptedServer
) -> None:
    socket = await subscribe(page, server, answer=ANSWER)
    await page.evaluate("setInterval(() => window.dispatchEvent(new Event('online')), 50); 0")
    assert await socket.hears() == {"type": "ping"}
    await told(page, "status", 2)
    assert (await told(page, "status"))[:2] == ["live", "reconnecting"]


async def test_a_browser_that_refuses_a_socket_is_asked_again(
    page: Page, server: ScriptedServer
) -> None:
    socket = await subscribe(page, server)
    await page.evaluate(
        """() => {
          const Real = WebSocket;
          let left = 3;
          window.WebSocket = class extends Real {
            constructor(url) {
              if (left-- > 0) throw new Error("not now");
              super(url);
            }
          };
        }"""
    )
    await socket.cut()
    assert (await (await server.accepts()).hears())["since"] == "p1"
    assert await page.evaluate("problems") == ["Uncaught Error: not now"] * 3
    attempts = "log.filter((call) => call[1] === 'reconnecting').map((call) => call[2].attempt)"
    assert await page.evaluate(attempts) == [1, 2, 3, 4]


async def test_an_address_that_no_socket_takes_is_told_and_the_feed_stays_closed(
    page: Page, server: ScriptedServer
) -> None:
    await subscribe(page, server)
    outcome = await page.evaluate(
        """() => {
          feed.close();
          window.WebSocket = class { constructor() { throw new Error("never"); } };
          try { feed.open(); } catch (problem) { return [problem.message, feed.status]; }
        }"""
    )
    assert outcome == ["never", "closed"]


async def test_a_listener_that_closes_the_feed_as_it_opens_leaves_no_socket(
    page: Page, server: ScriptedServer
) -> None:
    await subscribe(page, server)
    await page.evaluate("feed.close()")
    await page.evaluate(
        """() => {
          window.opened = 0;
          const Real = WebSocket;
          window.WebSocket = class extends Real {
            constructor(url) {
              super(url);
              opened += 1;
            }
          };
          const close = (status) => { if (status === "connecting") feed.close(); };
          const stop = feed.on("status", close);
          feed.open();
          stop();
        }"""
    )
    assert await page.evaluate("[feed.status, opened]") == ["closed", 0]
    await page.evaluate("feed.open()")
    assert (await (await server.accepts()).hears())["since"] == "p1"
    assert await page.evaluate("opened") == 1


async def test_all_listeners_hear_what_happens_in_its_order(
    page: Page, server: ScriptedServer
) -> None:
    heard = await page.evaluate(
        """() => new Promise((resolve) => {
          const second = [];
          connect("/socket/");
          feed.on("status", (status) => { if (status === "live") feed.close(); });
          feed.on("status", (status) => {
            second.push(status);
            if (status === "closed") resolve(second);
          });
        })"""
    )
    assert heard == ["live", "closed"]
