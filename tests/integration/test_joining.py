"""A client that asks for a group which it has, and one whose position can't be used any more."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from django_pgnotify.consumers.returning import Returning
from django_pgnotify.ledger.positions import Position
from tests.hub_kit import PATIENCE_SECONDS, Browser, OpenConsumer, publish, query, relay, tell
from tests.integration.test_sse import EventSource, OpenStream

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "other"])


@pytest.fixture(autouse=True)
async def caught_up() -> None:
    """Begin after what earlier tests left in the ledger, which no flush empties."""
    await relay()


class Desk(OpenConsumer):
    """Has a snapshot of one of its groups."""

    groups_on_connect = ["orders", "notes"]
    state = 0

    def snapshot(self, group: str) -> Any:
        return [Desk.state] if group == "orders" else None


async def begun(browser: Browser) -> None:
    """Take what comes by itself."""
    types = [(await browser.receive())["type"] for _ in range(3)]
    assert types == ["subscribed", "snapshot", "subscribed"]


async def test_who_asks_late_for_a_group_of_the_server_gets_its_snapshot() -> None:
    Desk.state = 1
    async with Browser(Desk) as browser:
        await begun(browser)
        await tell(1, "orders")
        assert await browser.data() == [1]
        Desk.state = 2
        assert "recovered" not in await browser.subscribe("orders")
        snapshot = await browser.receive()
        assert (snapshot["type"], snapshot["data"]) == ("snapshot", [2])
        await tell(2, "orders")
        assert await browser.data() == [2]
        assert await browser.waiting() == []


async def test_a_second_snapshot_holds_what_its_events_told_not() -> None:
    """What commits before it and is relayed after is in the rows alone."""
    async with Browser(Desk) as browser:
        await begun(browser)
        await publish("in the rows", "orders")
        await browser.subscribe("orders")
        assert (await browser.receive())["type"] == "snapshot"
        await tell("after", "orders")
        assert await browser.data() == ["after"]


async def test_who_asks_again_for_a_group_without_a_snapshot_loses_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with Browser(Desk) as browser:
        await begun(browser)
        asked, gate = asyncio.Event(), asyncio.Event()

        async def authorize(self: Desk, group: str) -> bool:
            asked.set()
            await gate.wait()
            return True

        monkeypatch.setattr(Desk, "authorize", authorize)
        await browser.send(type="subscribe", group="notes")
        async with asyncio.timeout(PATIENCE_SECONDS):
            await asked.wait()
        await tell(1, "notes")
        gate.set()
        await publish(2, "notes")
        assert await browser.data() == [1]
        assert (await browser.receive())["type"] == "subscribed"
        await relay()
        assert await browser.data() == [2]


async def test_a_position_that_expires_before_its_replay_costs_one_snapshot(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    work = Returning._work

    async def worked_late(self: Returning, lane: int) -> None:
        for place in self._places.values():
            await query("UPDATE django_pgnotify_state SET trimmed = %s", place.number)
        await work(self, lane)

    class Orders(OpenConsumer):
        def snapshot(self, group: str) -> Any:
            return ["row"]

    async with Browser(Orders) as browser:
        await browser.subscribe("orders")
        position = (await browser.receive())["position"]
    await tell(1, "orders")
    monkeypatch.setattr(Returning, "_work", worked_late)
    async with Browser(Orders) as browser:
        answer = await browser.subscribe("orders", since=position)
        assert (answer["type"], answer["recovered"]) == ("subscribed", False)
        assert (await browser.receive())["reason"] == "expired"
        assert (await browser.receive())["data"] == ["row"]
        await tell(2, "orders")
        assert await browser.data() == [2]
        assert await browser.waiting() == []


async def test_a_stream_has_no_id_between_a_useless_position_and_its_reset() -> None:
    async with EventSource("orders", consumer=OpenStream, last_id="useless") as source:
        assert (await source.receive())["recovered"] is False
        assert source.last_id == "useless"
        reset = await source.receive()
        assert (reset["type"], source.last_id) == ("reset", reset["position"])
        assert Position.parse(reset["position"]) is not None
