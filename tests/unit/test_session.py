"""Session: which position goes with which frame, where one id stands for all groups."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
from django.test import override_settings

from django_pgnotify import Event
from django_pgnotify.consumers.batches import EncodedEvent
from django_pgnotify.consumers.browser import Unsubscribe, subscribed
from django_pgnotify.consumers.group import Group
from django_pgnotify.consumers.hub import Hub
from django_pgnotify.consumers.session import Session
from django_pgnotify.consumers.subscription import Subscription
from django_pgnotify.consumers.wire import GroupFrame
from django_pgnotify.events import dumps
from django_pgnotify.ledger.positions import Look, Position
from django_pgnotify.ledger.ticks import Tick

EAGER = getattr(asyncio, "eager_task_factory", None)
PATIENCE_SECONDS = 5.0
FRAME_BYTES = 2000
BEGIN = 5
"""The tick at which all groups stand."""


def at(tick: int, epoch: str = "e") -> Position:
    return Position(epoch=epoch, tick=tick, bits=tick)


def event(tick: int) -> EncodedEvent:
    blank: dict[str, Any] = {"topic": "t", "kind": "message", "model": None, "pk": None}
    blank |= {"data": "x" * 450, "changed": [], "at": "2026-01-01T00:00:00Z"}
    return EncodedEvent(id=f"{tick}-0", text=dumps({"id": f"{tick}-0", **blank}))


class Page:
    """A consumer, its session and a browser that takes nothing after its first frame at first."""

    using = "default"

    def __init__(self, *groups: str, filters: bool = False) -> None:
        self.sent: list[tuple[str, str, int, int | None]] = []
        """Type, group, tick of the position and tick of the id."""
        self.is_reading = asyncio.Event()
        self.took_one = asyncio.Event()
        self.session = Session(
            cast(Any, self),
            send=self._send,
            failed=self._failed,
            stamps=True,
            filters=filters,
            takes_snapshots=False,
        )
        self.groups = {name: Group(name) for name in groups}
        self.session.standing.hub = cast(
            Hub, SimpleNamespace(groups=self.groups, detach=self._nothing, clients=2)
        )
        for name, group in self.groups.items():
            group.position = at(BEGIN)
            one = Subscription(name, self.session.outbox, lambda group: None)
            one.stands = at(BEGIN)
            one.release()
            group.subscriptions.add(one)
            self.session.standing.subscriptions[name] = one

    async def visible(self, events: list[Event]) -> list[Event]:
        return [replace(one, data=f"{one.data}{'y' * 250}") for one in events]

    def happens(self, name: str, tick: int) -> None:
        """Something in one group; the others hear that there was nothing for them."""
        for group in self.groups.values():
            if group.name == name:
                group.take(_frame(name, tick))
            else:
                group.advance(at(tick))

    async def read(self, count: int) -> list[tuple[str, str, int, int | None]]:
        """The first frames, and no more than these have come."""
        self.is_reading.set()
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(self.sent) < count or self.session.outbox._items:
                self.took_one.clear()
                await self.took_one.wait()
        return self.sent

    async def _send(self, type: str, text: str, id: str | None) -> None:
        frame = json.loads(text)
        place = _tick(frame["position"]) if "position" in frame else 0
        tick = None if id is None else _tick(id)
        self.sent.append((type, frame["group"], place, tick))
        self.took_one.set()
        await self.is_reading.wait()

    async def _failed(self) -> None:
        raise AssertionError("nothing here fails")

    async def _nothing(self, *args: object) -> None:
        return None


def _tick(token: str) -> int:
    return int(token.split(".")[2])


def _frame(group: str, tick: int) -> GroupFrame:
    return GroupFrame(
        group=group,
        position=at(tick),
        prev=tick - 1,
        part=1,
        last=True,
        control=0,
        events=(event(tick),),
    )


@pytest.fixture(autouse=True)
async def small() -> AsyncIterator[None]:
    with override_settings(PGNOTIFY={"MAX_FRAME_BYTES": FRAME_BYTES, "SOCKET_QUEUE_SIZE": 3}):
        yield


async def test_what_visible_makes_too_large_for_a_frame_has_its_place_at_its_end() -> None:
    page = Page("x", filters=True)
    page.session.start()
    page.happens("x", 6)
    async with asyncio.timeout(PATIENCE_SECONDS):
        await page.took_one.wait()
    for tick in (7, 8, 9):
        page.happens("x", tick)
    assert await page.read(3) == [
        ("events", "x", 6, 6),
        ("events", "x", 6, None),
        ("events", "x", 9, 9),
    ]
    await page.session.close()


async def test_no_id_of_an_overflow_stands_for_a_group_whose_reset_is_still_to_come() -> None:
    page = Page("x", "y")
    page.session.start()
    page.happens("x", 6)
    async with asyncio.timeout(PATIENCE_SECONDS):
        await page.took_one.wait()
    page.session.outbox.put(subscribed("y", at(6)))  # must be kept
    for tick in (7, 8, 9):
        page.happens("y", tick)
    assert await page.read(4) == [
        ("events", "x", 6, BEGIN),
        ("subscribed", "y", 6, None),
        ("reset", "x", 9, None),
        ("reset", "y", 9, 9),
    ]
    await page.session.close()


async def test_no_id_of_a_restart_stands_for_a_group_whose_reset_is_still_to_come() -> None:
    page = Page("x", "y")
    page.session.start()
    tick = Tick(number=2, snapshot="1:1:", bits=2)
    look = Look(epoch="f", latest=tick, trimmed=0, ticks={})
    for group in page.groups.values():
        group.restart(look, "epoch")
    assert await page.read(2) == [("reset", "x", 2, None), ("reset", "y", 2, 2)]
    await page.session.close()


async def test_requests_are_answered_where_tasks_are_eager() -> None:
    """Eager tasks came with Python 3.12; before it None stands for the usual ones."""
    loop = asyncio.get_running_loop()
    loop.set_task_factory(EAGER)
    try:
        page = Page()
        page.session.start()
        for number in range(3):
            page.session.request(Unsubscribe(f"g{number}"))
        page.is_reading.set()
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(page.sent) < 3:
                page.took_one.clear()
                await page.took_one.wait()
        await page.session.close()
    finally:
        loop.set_task_factory(None)
