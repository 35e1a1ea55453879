"""Which frames of a group belong to the page's subscription, and what the page hears of them."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.async_api import Page

from .client_kit import ScriptedServer, connect, ids, subscribe, told

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

UNSUBSCRIBE = {"type": "unsubscribe", "group": "orders"}
SUBSCRIBE = {"type": "subscribe", "group": "orders"}


def since(position: str) -> dict[str, Any]:
    return {**SUBSCRIBE, "since": position}


# Groups that the server joins by itself ----------------------------------------------------


async def test_what_comes_before_the_answer_to_a_resume_is_not_taken(
    page: Page, server: ScriptedServer
) -> None:
    socket = await subscribe(page, server)
    await socket.cut()
    socket = await server.accepts()
    assert await socket.hears() == since("p1")
    await socket.says("subscribed", position="p5")  # the server has joined the group itself
    await socket.says("snapshot", position="p5", data=[])
    await socket.says_events("p6", "6-0")
    await socket.says("reset", position="p7", reason="gap")
    await socket.says("subscribed", position="p1", recovered=True)
    await socket.says_events("p6", "2-0", "6-0")
    assert ids(await told(page, "events")) == [["2-0", "6-0"]]
    assert [one["recovered"] for one in await told(page, "subscribed")] == [None, True]
    assert await told(page, "snapshot") == [[{"id": 1}]]
    assert await page.evaluate("log.some(([name]) => name === 'reset')") is False


async def test_a_cut_before_the_answer_to_a_resume_leaves_the_position_where_it_was(
    page: Page, server: ScriptedServer
) -> None:
    socket = await subscribe(page, server)
    await socket.cut()
    socket = await server.accepts()
    await socket.hears()
    await socket.says("subscribed", position="p5")
    await socket.says_events("p6", "6-0")
    await socket.cut()
    assert await (await server.accepts()).hears() == since("p1")


async def test_a_subscription_that_is_answered_twice_is_told_once_and_goes_on(
    page: Page, server: ScriptedServer
) -> None:
    await connect(page)
    await page.evaluate("follow('orders', {}, ['subscribed', 'events'])")
    socket = await server.accepts_subscriber()
    await socket.says_events("p2", "2-0")
    await socket.says("subscribed", position="p3")
    await socket.says_events("p4", "4-0")
    assert ids(await told(page, "events", 2)) == [["2-0"], ["4-0"]]
    assert len(await told(page, "subscribed")) == 1


async def test_a_page_that_begins_anew_has_no_position_before_its_snapshot(
    page: Page, server: ScriptedServer
) -> None:
    socket = await subscribe(page, server)
    await socket.says("subscribed", position="p3")
    await socket.says("snapshot", position="p3", data=[{"id": 2}], more=True)
    await socket.cut()
    assert await (await server.accepts()).hears() == SUBSCRIBE


async def test_a_refusal_after_the_servers_own_join_is_told(
    page: Page, server: ScriptedServer
) -> None:
    await connect(page)
    await page.evaluate("follow('orders')")
    socket = await server.accepts()
    await socket.hears()
    await socket.says("subscribed", position="p1")
    await socket.says("error", code="too_many", message="Too many requests at once.")
    await socket.says("error", code="forbidden", message="no")
    assert await told(page, "error") == [{"code": "forbidden", "message": "no"}]
    await page.evaluate("follow('orders')")
    assert await socket.hears() == SUBSCRIBE


# A group that is left and followed again at once --------------------------------------------


async def follow_twice(page: Page, server: ScriptedServer) -> Any:
    """Subscribe, unsubscribe and subscribe again in one go, as React does in its strict mode."""
    await connect(page)
    socket = await server.accepts()
    await told(page, "status")
    await page.evaluate("follow('orders'); orders.unsubscribe(); follow('orders')")
    for expected in (SUBSCRIBE, UNSUBSCRIBE, SUBSCRIBE):
        assert await socket.hears() == expected
    return socket


async def test_what_was_missed_between_two_subscriptions_is_asked_for(
    page: Page, server: ScriptedServer
) -> None:
    socket = await follow_twice(page, server)
    await socket.says("subscribed", position="p1")  # of the first one
    await socket.says_events("p2", "2-0")
    await socket.says("subscribed", position="p4")
    assert await socket.hears() == since("p2")
    await socket.says_events("p5", "5-0")
    await socket.says("subscribed", position="p2", recovered=True)
    await socket.says_events("p5", "3-0", "5-0")
    assert ids(await told(page, "events", 2)) == [["2-0"], ["3-0", "5-0"]]
    assert len(await told(page, "subscribed")) == 1


async def test_nothing_is_asked_for_if_nothing_was_missed(
    page: Page, server: ScriptedServer
) -> None:
    socket = await follow_twice(page, server)
    for _ in range(2):
        await socket.says("subscribed", position="p1")
        await socket.says("snapshot", position="p1", data=[{"id": 1}])
    await socket.says_events("p2", "2-0")
    assert ids(await told(page, "events")) == [["2-0"]]
    await page.evaluate("orders.unsubscribe()")
    assert await socket.hears() == UNSUBSCRIBE


async def test_an_error_of_an_earlier_subscription_ends_no_later_one(
    page: Page, server: ScriptedServer
) -> None:
    socket = await follow_twice(page, server)
    await socket.says("error", code="unknown_group", message="You are not subscribed to it.")
    await socket.says("error", code="too_large", message="A row exceeds a frame.")
    await socket.says("subscribed", position="p1")
    assert len(await told(page, "subscribed")) == 1


async def test_snapshot_and_reset_of_before_a_new_subscription_are_not_taken(
    page: Page, server: ScriptedServer
) -> None:
    socket = await subscribe(page, server)
    await socket.says("snapshot", position="p1", data=["old"], more=True)
    await socket.says("reset", position="p9", reason="overflow")
    assert await socket.hears() == UNSUBSCRIBE
    assert await socket.hears() == SUBSCRIBE
    await socket.says("snapshot", position="p9", data=["old, too"])
    await socket.says("reset", position="p9", reason="overflow")
    await socket.says("subscribed", position="p10")
    await socket.says("snapshot", position="p10", data=["new"])
    assert await told(page, "snapshot", 2) == [[{"id": 1}], ["new"]]
    assert await told(page, "reset") == ["overflow"]


# Positions that can't be used ---------------------------------------------------------------


async def test_a_stored_position_of_null_is_none(page: Page, server: ScriptedServer) -> None:
    await connect(page)
    await page.evaluate("follow('orders', {since: null})")
    socket = await server.accepts()
    assert await socket.hears() == SUBSCRIBE
    await socket.says("subscribed", position="p1")
    await told(page, "subscribed")
    assert await page.evaluate("orders.position") is None
    await socket.cut()
    assert await (await server.accepts()).hears() == SUBSCRIBE


async def test_no_position_is_taken_before_the_reset_that_tells_what_is_missing(
    page: Page, server: ScriptedServer
) -> None:
    await connect(page)
    await page.evaluate("follow('orders', {since: 'old'}, ['subscribed', 'reset'])")
    socket = await server.accepts()
    assert await socket.hears() == since("old")
    await socket.says("subscribed", position="p9", recovered=False)
    assert (await told(page, "subscribed"))[0]["recovered"] is False
    assert await page.evaluate("orders.position") == "old"
    await socket.cut()
    socket = await server.accepts()
    assert await socket.hears() == since("old")
    await socket.says("subscribed", position="p9", recovered=False)
    await socket.says("reset", position="p9", reason="expired")
    assert await told(page, "reset") == ["expired"]
    assert await page.evaluate("orders.position") == "p9"


async def test_a_position_that_can_not_be_used_costs_one_snapshot(
    page: Page, server: ScriptedServer
) -> None:
    await connect(page)
    await page.evaluate("follow('orders', {since: 'old'})")
    socket = await server.accepts()
    await socket.hears()
    await socket.says("subscribed", position="p9", recovered=False)
    await socket.says("reset", position="p9", reason="expired")
    await told(page, "reset")
    assert await page.evaluate("orders.position") is None
    await socket.says("snapshot", position="p9", data=[{"id": 9}])
    assert await told(page, "snapshot") == [[{"id": 9}]]
    assert await page.evaluate("orders.position") == "p9"
    await socket.says("reset", position="p12", reason="overflow")  # a later one brings another
    assert await socket.hears() == UNSUBSCRIBE
    assert await socket.hears() == SUBSCRIBE


# Batches ------------------------------------------------------------------------------------


async def told_of_events(page: Page, count: int) -> list[Any]:
    """Wait for so many calls of the handler; give the number of events and `more` of each."""
    await told(page, "events", count)
    calls: list[Any] = await page.evaluate(
        "log.filter(([name]) => name === 'events').map(([, all, info]) => [all.length, info.more])"
    )
    return calls


async def test_a_batch_has_an_end_even_if_its_last_frame_is_empty(
    page: Page, server: ScriptedServer
) -> None:
    socket = await subscribe(page, server)
    await socket.says_events("p1", "1-0", more=True)
    await socket.says_events("p1", "live")
    await socket.says_events("p2")
    await socket.says_events("p3")  # only the position is news
    await socket.says_events("p4", "4-0")
    assert await told_of_events(page, 4) == [[1, True], [1, True], [0, False], [1, False]]


async def test_a_batch_that_was_cut_and_holds_nothing_new_has_an_end(
    page: Page, server: ScriptedServer
) -> None:
    socket = await subscribe(page, server)
    await socket.says_events("p1", "1-0", "1-1", more=True)
    await told(page, "events")
    await socket.cut()
    socket = await server.accepts()
    assert await socket.hears() == since("p1")
    await socket.says("subscribed", position="p1", recovered=True)
    await socket.says_events("p2", "1-0", "1-1")
    assert await told_of_events(page, 2) == [[2, True], [0, False]]


async def test_no_batch_is_too_long_to_be_seen_once(page: Page, server: ScriptedServer) -> None:
    batch = [f"{number}-0" for number in range(260_000)]
    frames = [batch[begin : begin + 20_000] for begin in range(0, len(batch), 20_000)]
    await connect(page)
    await page.evaluate(
        """() => {
          window.seen = 0;
          window.orders = feed.subscribe("orders", { events: (all) => { seen += all.length; } });
        }"""
    )
    socket = await server.accepts_subscriber()
    for frame in frames:
        await socket.says_events("p1", *frame, more=True)
    await page.wait_for_function("() => seen === 260000")
    await socket.cut()
    socket = await server.accepts()
    await socket.hears()
    await socket.says("subscribed", position="p1", recovered=True)
    for frame in frames:
        await socket.says_events("p1", *frame, more=True)
    await socket.says_events("p2", "last")
    await page.wait_for_function("() => orders.position === 'p2'")
    assert await page.evaluate("seen") == 260_001
