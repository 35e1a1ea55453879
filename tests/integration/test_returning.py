"""Clients that come back after long get there step by step, whatever those beside them do."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest
from django.test import override_settings

from django_pgnotify.consumers import hubs, returning, revoke
from django_pgnotify.consumers.outbox import ROOM
from django_pgnotify.ledger import steps
from tests.hub_kit import Browser, OpenConsumer, publish, query, relay, tell

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "other"])

MANY = 20_000
"""Events of one transaction: one tick, which no step can cut."""
LONG = "x" * 3500
"""Of which a frame of SMALL_FRAMES holds one."""
NEW_GENERATION = "UPDATE django_pgnotify_state SET generation = gen_random_uuid()"
SMALL_FRAMES = {"MAX_FRAME_BYTES": 4096}


class Stalled(OpenConsumer):
    """Takes no events."""

    async def send_frame(self, type: str, text: str, position: str | None) -> None:
        if type == "events":
            await asyncio.Event().wait()
        await super().send_frame(type, text, position)


async def position_of(group: str) -> str:
    """Where a page stood that has left."""
    await relay()
    async with Browser() as browser:
        return str((await browser.subscribe(group))["position"])


async def publish_many(group: str) -> None:
    await query(
        "SELECT count(pgnotify_publish('t', to_jsonb(n), ARRAY[%s]))"
        " FROM generate_series(1, %s) AS n",
        group,
        MANY,
    )
    await relay()


async def publish_ticks(count: int, group: str = "a") -> None:
    for number in range(count):
        await publish([number, LONG], group)
        await relay()


async def numbers_upto(browser: Browser, last: int) -> list[int]:
    found: list[int] = []
    while not found or found[-1] != last:
        found += [event["data"][0] for event in (await browser.events())["events"]]
    return found


@override_settings(PGNOTIFY=SMALL_FRAMES)
async def test_a_replay_that_is_cut_again_and_again_gets_there() -> None:
    since = await position_of("a")
    await publish_ticks(9)
    seen: list[int] = []
    for _ in range(9):
        async with Browser() as browser:
            await browser.subscribe("a", since=since)
            for _ in range(3):
                frame = await browser.events()
                since = frame["position"]
                seen += [event["data"][0] for event in frame["events"]]
                if 8 in seen:
                    break
        if 8 in seen:
            break
    assert sorted(set(seen)) == list(range(9))


@override_settings(PGNOTIFY=SMALL_FRAMES | {"SOCKET_QUEUE_SIZE": 5})
@pytest.mark.parametrize("ticks", [1, 15])
async def test_a_client_that_stalls_costs_those_beside_it_nothing(
    monkeypatch: pytest.MonkeyPatch, ticks: int
) -> None:
    monkeypatch.setattr(returning, "PATIENCE_SECONDS", 0.5)
    since = await position_of("a")
    if ticks == 1:
        await query(
            "SELECT count(pgnotify_publish('t', jsonb_build_array(n, %s::text), ARRAY['a']))"
            " FROM generate_series(0, 14) AS n",
            LONG,
        )
        await relay()
    else:
        await publish_ticks(ticks)
    async with Browser(Stalled) as stalled, Browser() as steady:
        assert (await stalled.subscribe("a", since=since))["recovered"] is True
        assert (await steady.subscribe("a", since=since))["recovered"] is True
        assert await numbers_upto(steady, 14) == list(range(15))


@override_settings(PGNOTIFY=SMALL_FRAMES)
async def test_a_client_that_does_not_read_takes_no_more_than_room() -> None:
    since = await position_of("a")
    await publish_ticks(14)
    async with Browser(Stalled) as stalled, Browser() as steady:
        await stalled.subscribe("a", since=since)
        await steady.subscribe("a", since=since)
        await numbers_upto(steady, 13)
        hub = hubs.running("default")
        assert hub is not None
        queued = [len(one.outbox._items) for one in hub.groups["a"].subscriptions]
        assert max(queued) <= ROOM + 2


async def test_one_that_missed_little_does_not_wait_for_one_that_missed_much() -> None:
    long_ago = await position_of("a")
    await publish_many("a")
    lately = await position_of("b")
    await tell("little", "b")
    async with Browser() as far, Browser() as near:
        await far.subscribe("a", since=long_ago)
        await near.subscribe("b", since=lately)
        assert await near.data() == ["little"]
        assert [item for item in await far.waiting() if item.get("more") is None] == []


async def test_pages_that_are_there_do_not_wait_for_one_that_comes_back() -> None:
    long_ago = await position_of("a")
    await publish_many("a")
    async with Browser() as far, Browser() as live:
        await live.subscribe("b")
        await far.subscribe("a", since=long_ago)
        hub = hubs.running("default")
        assert hub is not None
        hub._refill_all()  # as after a frame that the channel layer lost
        await tell("now", "b")
        assert await live.data() == ["now"]
        assert [item for item in await far.waiting() if item.get("more") is None] == []


async def test_a_crowd_with_places_of_its_own_is_read_for_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taken: list[Any] = []
    all_are_there = asyncio.Event()
    work, step = returning.Returning._work, returning.Returning._step

    async def worked_late(self: Any, lane: int) -> None:
        await all_are_there.wait()
        await work(self, lane)

    async def counted(self: Any, *args: Any) -> None:
        taken.append(args)
        await step(self, *args)

    monkeypatch.setattr(returning.Returning, "_work", worked_late)
    monkeypatch.setattr(returning.Returning, "_step", counted)
    places = []
    for number in range(6):
        places.append(await position_of("a"))
        await publish([number], "a")
    await relay()
    async with AsyncExitStack() as stack:
        browsers = [await stack.enter_async_context(Browser()) for _ in places]
        for browser, since in zip(browsers, places, strict=True):
            await browser.send(type="subscribe", group="a", since=since)
            await browser.waiting()
        all_are_there.set()
        for number, browser in enumerate(browsers):
            assert (await browser.receive())["recovered"] is True
            assert await numbers_upto(browser, 5) == list(range(number, 6))
    assert len(taken) == 1


async def test_the_latest_position_is_told_at_the_end_of_a_way_without_events() -> None:
    since = await position_of("a")
    await publish([0], "a")
    await publish_many("b")
    await tell("x", "b")
    async with Browser() as browser:
        await browser.subscribe("a", since=since)
        frame = await browser.events()
        assert [event["data"] for event in frame["events"]] == [[0]]
        latest = await position_of("c")
        assert latest in [frame["position"]] + [
            one["position"] for one in await browser.waiting()
        ]


async def test_a_place_that_is_gone_before_the_first_step_is_answered_with_a_reset(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    work = returning.Returning._work

    async def worked_late(self: Any, lane: int) -> None:
        for place in self._places.values():
            await query("DELETE FROM django_pgnotify_tick WHERE number >= %s", place.number)
        await work(self, lane)

    await tell(1, "a")
    since = await position_of("a")
    monkeypatch.setattr(returning.Returning, "_work", worked_late)
    async with Browser() as browser:
        assert (await browser.subscribe("a", since=since))["recovered"] is False
        assert (await browser.receive())["reason"] == "unknown"


@override_settings(PGNOTIFY=SMALL_FRAMES)
async def test_who_stands_far_behind_takes_nobody_along_for_the_whole_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    long_ago = await position_of("a")
    await publish_ticks(10)
    lately = await position_of("b")
    await tell("little", "b")
    begun: list[int] = []
    both_are_there, near_has_it = asyncio.Event(), asyncio.Event()
    work, step = returning.Returning._work, returning.Returning._step

    async def worked_late(self: Any, lane: int) -> None:
        await both_are_there.wait()
        await work(self, lane)

    async def counted(self: Any, lane: int, *args: Any) -> None:
        begun.append(lane)
        if begun.count(0) > 2:
            await near_has_it.wait()
        await step(self, lane, *args)

    monkeypatch.setattr(returning.Returning, "_work", worked_late)
    monkeypatch.setattr(returning.Returning, "_step", counted)
    async with Browser() as far, Browser() as near:
        await far.send(type="subscribe", group="a", since=long_ago)
        await near.send(type="subscribe", group="b", since=lately)
        await far.waiting()
        await near.waiting()
        both_are_there.set()
        await near.receive()
        assert await near.data() == ["little"]
        near_has_it.set()
        assert (await far.receive())["recovered"] is True
        assert await numbers_upto(far, 9) == list(range(10))


async def test_a_revoke_that_was_dealt_with_costs_a_returning_client_nothing() -> None:
    async with Browser() as other:
        await other.subscribe("b")  # keeps the hub
        since = await position_of("a")
        await revoke("a")
        await publish([0], "a")
        await relay()
        await tell("dealt with", "b")
        assert await other.data() == ["dealt with"]
        async with Browser() as browser:
            assert (await browser.subscribe("a", since=since))["recovered"] is True
            assert await browser.data() == [[0]]
            assert await browser.waiting() == []


async def test_an_epoch_that_begins_at_the_end_of_a_step_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checked = steps.read_batches
    epoch_begins = False

    async def read_batches(*args: Any, **options: Any) -> Any:
        async for batch in checked(*args, **options):
            yield batch
        if epoch_begins:
            await query(NEW_GENERATION)
            hub = hubs.running("default")
            assert hub is not None
            await hub._access.look()  # as one that comes meanwhile

    since = await position_of("a")
    await publish_many("a")
    monkeypatch.setattr(steps, "read_batches", read_batches)
    async with Browser() as other, Browser() as browser:
        await other.subscribe("b")
        epoch_begins = True
        await browser.subscribe("a", since=since)
        frame = await browser.receive()
        while frame["type"] != "reset":
            frame = await browser.receive()
        epoch_begins = False
        assert frame["reason"] == "epoch"
        await relay()  # begins at now
        await tell("of the new epoch", "a")
        found = await browser.receive()
        while found["type"] != "events":
            found = await browser.receive()
        assert [event["data"] for event in found["events"]] == ["of the new epoch"]
