"""pgnotify.js in a real browser, against a server that says exactly what a test wants."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.async_api import Error, Page

from .client_kit import ScriptedServer, connect, ids, subscribe, told

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]


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


@pytest.mark.parametrize("reason", ["epoch", "unknown"])
async def test_an_id_is_another_event_s_in_another_history(
    page: Page, server: ScriptedServer, reason: str
) -> None:
    """A restored sequence, or that of a standby that lagged behind, gives them again."""
    await connect(page)
    await page.evaluate("follow('orders', {}, ['events'])")
    socket = await server.accepts_subscriber()
    await socket.says_events("p1", "1-0")
    await socket.says("reset", position="q0", reason=reason)
    await socket.says_events("q1", "1-0")
    assert ids(await told(page, "events", 2)) == [["1-0"], ["1-0"]]


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


async def test_a_group_that_can_not_be_followed_is_refused_at_once(
    page: Page, server: ScriptedServer
) -> None:
    await connect(page)
    await page.evaluate("feed.subscribe('orders')")
    for group, problem in (("'orders'", "already subscribed"), ("7", "a string")):
        with pytest.raises(Error, match=problem):
            await page.evaluate(f"() => {{ feed.subscribe({group}, {{}}); }}")
    await server.accepts_subscriber()
    assert await told(page, "status") == ["live"]


async def test_the_feed_stays_live_while_a_later_subscription_waits(
    page: Page, server: ScriptedServer
) -> None:
    socket = await subscribe(page, server)
    await page.evaluate("follow('others')")
    assert (await socket.hears())["group"] == "others"
    assert await page.evaluate("feed.status") == "live"
    await socket.says("subscribed", group="others", position="p1")
    assert len(await told(page, "subscribed", 2)) == 2
    assert await told(page, "status") == ["live"]


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
