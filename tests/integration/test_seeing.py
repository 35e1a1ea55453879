"""visible() that raises for a part of a batch that comes in several frames."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import override_settings

from django_pgnotify import Event
from tests.hub_kit import Browser, OpenConsumer, query, relay, tell

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "other"])

EVENTS = 8
LARGE = """
    SELECT pgnotify_publish('t', jsonb_build_object('n', n, 'x', repeat('x', 900)), ARRAY['orders'])
    FROM generate_series(1, 8) AS n
"""


@pytest.fixture(autouse=True)
async def caught_up() -> None:
    """Begin after what earlier tests left in the ledger, which no flush empties."""
    await relay()


@pytest.fixture(autouse=True)
def two_events_a_frame() -> Any:
    with override_settings(PGNOTIFY={"MAX_FRAME_BYTES": 3_000}):
        yield


class Flaky(OpenConsumer):
    """Has a mistake that one event of a transaction brings out."""

    odd = 0

    async def visible(self, events: list[Event]) -> list[Event]:
        if any(event.data == {**(event.data or {}), "n": self.odd} for event in events):
            raise RuntimeError("bug")
        return events


async def until_reset(browser: Browser) -> tuple[list[int], dict[str, Any]]:
    """The numbers of the events before a reset, and the reset."""
    numbers: list[int] = []
    while (frame := await browser.receive())["type"] == "events":
        assert frame["more"] is True
        numbers += [event["data"]["n"] for event in frame["events"]]
    return numbers, frame


@pytest.mark.parametrize("odd", range(1, EVENTS + 1))
async def test_the_rest_of_a_batch_is_dropped_and_its_end_told_by_a_reset(odd: int) -> None:
    consumer = type("FlakyOnce", (Flaky,), {"odd": odd})
    async with Browser(consumer) as browser, Browser() as other:
        before = (await browser.subscribe("orders"))["position"]
        await other.subscribe("orders")
        await query(LARGE)
        await relay()
        numbers, reset = await until_reset(browser)
        assert numbers == list(range(1, len(numbers) + 1))
        assert len(numbers) < odd
        while (frame := await other.events()).get("more"):
            pass
        assert (reset["type"], reset["reason"]) == ("reset", "gap")
        assert reset["position"] == frame["position"] != before
        await tell({"n": 99}, "orders")
        assert await browser.data() == [{"n": 99}]
        assert await browser.waiting() == []


async def test_a_replay_is_dropped_to_its_end_too() -> None:
    async with Browser() as browser:
        since = (await browser.subscribe("orders"))["position"]
    await query(LARGE)
    await relay()
    consumer = type("FlakyAtFirst", (Flaky,), {"odd": 1})
    async with Browser(consumer) as browser:
        assert (await browser.subscribe("orders", since=since))["recovered"] is True
        numbers, reset = await until_reset(browser)
        assert numbers == []
        assert reset["position"] != since
        assert await browser.waiting() == []


async def test_live_events_that_are_lost_move_nobody() -> None:
    class Never(OpenConsumer):
        async def visible(self, events: list[Event]) -> list[Event]:
            raise RuntimeError("bug")

    from channels.layers import get_channel_layer

    async with Browser(Never) as browser:
        position = (await browser.subscribe("orders"))["position"]
        event = {"id": "l-1", "topic": "t", "kind": "message", "model": None, "pk": None}
        event |= {"data": 1, "changed": [], "at": "2026-01-01T00:00:00Z"}
        await get_channel_layer().group_send(
            "orders",
            {"type": "pgnotify.frame", "v": 1, "group": "orders", "run": "r", "seq": 1}
            | {"events": [event]},
        )
        reset = await browser.receive()
        assert (reset["reason"], reset["position"]) == ("gap", position)
