"""Snapshots that are taken while somebody else is just joining the same group."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any

import pytest

from django_pgnotify.consumers.access import Access
from django_pgnotify.consumers.hub import Hub
from django_pgnotify.ledger.positions import Look
from tests.hub_kit import PATIENCE_SECONDS, Browser, OpenConsumer, query, relay, tell

pytestmark = pytest.mark.django_db(transaction=True)


class WithSnapshot(OpenConsumer):
    """Gives no rows; what it must hide all the same is told by the ledger."""

    def snapshot(self, group: str) -> Any:
        return []


class Looks:
    """Lets looks into the ledger return, or begin, when a test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls = 0
        self.first_is_read = asyncio.Event()
        self.first_may_return = asyncio.Event()
        self.second_may_begin = asyncio.Event()
        self._original = Access.look
        looks = self

        async def look(access: Access, numbers: Collection[int] = ()) -> Look:
            return await looks.look(access, numbers)

        monkeypatch.setattr(Access, "look", look)

    async def look(self, access: Access, numbers: Collection[int]) -> Look:
        self.calls += 1
        call = self.calls
        if call == 2:
            await self.second_may_begin.wait()
        found = await self._original(access, numbers)
        if call == 1:
            self.first_is_read.set()
            await self.first_may_return.wait()
        return found


async def test_snapshot_of_the_second_to_join_hides_what_the_first_ones_look_has_not_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks = Looks(monkeypatch)
    received, deaf = Hub._received, False
    joined: asyncio.Queue[Hub] = asyncio.Queue()

    def hear(hub: Hub, message: dict[str, Any]) -> None:
        if not deaf:
            received(hub, message)

    def note(hub: Hub, *arguments: Any) -> Any:
        joined.put_nowait(hub)
        return attach(hub, *arguments)

    attach = Hub.attach
    monkeypatch.setattr(Hub, "_received", hear)
    monkeypatch.setattr(Hub, "attach", note)
    async with Browser(WithSnapshot) as first, Browser(WithSnapshot) as second:
        await first.send(type="subscribe", group="orders")
        async with asyncio.timeout(PATIENCE_SECONDS):
            await looks.first_is_read.wait()
            await second.send(type="subscribe", group="orders")
            assert await joined.get() is await joined.get()
        deaf = True  # the frame is dropped on its way, as channel layers do
        await tell("in the snapshot", "orders")
        looks.first_may_return.set()
        assert [(await first.receive())["type"] for _ in range(2)] == ["subscribed", "snapshot"]
        looks.second_may_begin.set()
        assert [(await second.receive())["type"] for _ in range(2)] == [
            "subscribed",
            "snapshot",
        ]
        deaf = False
        await tell("after it", "orders")
        assert await second.data() == ["after it"]


async def test_what_follows_an_epoch_that_begins_while_a_snapshot_is_sent_arrives() -> None:
    """The ticks of the new one, a standby's that lagged behind, are lower than the snapshot's."""
    asked, gate = asyncio.Event(), asyncio.Event()

    class Desk(OpenConsumer):
        is_taken = False

        async def authorize(self, group: str) -> bool:
            if Desk.is_taken and not gate.is_set():
                asked.set()
                await gate.wait()
            return True

        def snapshot(self, group: str) -> Any:
            Desk.is_taken = True
            return []

    await relay()
    (kept,) = (await query("SELECT max(number) FROM django_pgnotify_tick"))[0]
    for number in range(5):
        await tell(number, "customers")
    async with Browser() as other, Browser(Desk) as browser:
        await other.subscribe("customers")
        await browser.subscribe("orders")
        async with asyncio.timeout(PATIENCE_SECONDS):
            await asked.wait()
        await query("DELETE FROM django_pgnotify_tick WHERE number > %s", kept)
        await query(
            "UPDATE django_pgnotify_state SET sent = %s, generation = gen_random_uuid()", kept
        )
        await relay()
        assert (await other.receive())["reason"] == "epoch"
        gate.set()
        assert (await browser.receive())["type"] == "snapshot"
        reset = await browser.receive()
        assert (reset["type"], reset["reason"]) == ("reset", "epoch")
        await tell("in the new epoch", "orders")
        assert await browser.data() == ["in the new epoch"]
