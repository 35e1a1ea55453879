"""A tick so long that its first frames go while the relay still reads the rest."""

from __future__ import annotations

import json

import pytest
from asgiref.sync import sync_to_async
from channels.layers import get_channel_layer
from django.db import connections, transaction

from tests.hub_kit import Browser, relay

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "other"])

EVENTS = 60
SIZE = 100_000
"""Characters of each event: together more than EARLY_BYTES."""
PUBLISH = "SELECT pgnotify_publish('t', to_jsonb(%s::text), ARRAY['orders'])"
TRUNCATE = "INSERT INTO django_pgnotify_ledger (topic, model, changes) VALUES ('t', 'm.n', %s)"
TRUNCATED = [{"kind": "truncate", "pk": None, "groups": ["orders"], "templates": ["orders"]}]


@sync_to_async
def write(*, truncates: bool) -> None:
    with transaction.atomic(), connections["default"].cursor() as cursor:
        for number in range(EVENTS):
            cursor.execute(PUBLISH, [f"{number} {'x' * SIZE}"])
        if truncates:
            cursor.execute(TRUNCATE, [json.dumps(TRUNCATED)])
        cursor.execute(PUBLISH, ["last"])


async def seen(browser: Browser) -> list[str]:
    """What a page sees of the tick that drops what it has seen."""
    told: dict[str, str] = {}
    more = True
    while more:
        frame = await browser.events()
        more = frame.get("more", False)
        for event in frame["events"]:
            what = "truncate" if event["kind"] == "truncate" else event["data"].split()[0]
            told.setdefault(event["id"], what)
    return list(told.values())


async def test_first_frames_go_uncounted_and_the_last_one_tells_their_number() -> None:
    await relay()
    layer = get_channel_layer()
    name = await layer.new_channel()
    await layer.group_add("orders", name)
    await write(truncates=False)
    await relay()
    frames = [await layer.receive(name)]
    while frames[-1]["part"][0] != frames[-1]["part"][1]:
        frames.append(await layer.receive(name))
    assert frames[0]["part"] == [1, 0]
    assert [frame["part"][0] for frame in frames] == list(range(1, len(frames) + 1))
    assert sum(len(frame["events"]) for frame in frames) == EVENTS + 1


async def test_truncate_behind_frames_that_have_gone_is_seen_in_its_place() -> None:
    await relay()
    async with Browser() as browser:
        await browser.subscribe("orders")
        await write(truncates=True)
        await relay()
        assert await seen(browser) == [*map(str, range(EVENTS)), "truncate", "last"]
