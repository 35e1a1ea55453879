"""The ledger is trimmed while it is read, or lives in a database of another encoding."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from random import Random
from typing import Any

import pytest
from django.db import connections
from django.test import override_settings

from django_pgnotify.connecting import connect
from django_pgnotify.layers import PostgresChannelLayer
from django_pgnotify.ledger.reader import Expired, read_range
from django_pgnotify.ledger.retention import trim
from django_pgnotify.ledger.ticks import (
    Tick,
    latest_tick,
    mark_sent,
    schema_of_ledger,
)
from tests.hub_kit import Browser
from tests.own_server import PUBLISH, QUICK, StartPlace, data_upto, in_thread, migrate
from tests.pglisten import StartPglisten
from tests.ticking import store_tick

ROUNDS = 60
ROWS = 60


@pytest.mark.django_db(transaction=True)
async def test_replay_that_races_with_a_trim_is_whole_or_a_reset() -> None:
    random = Random("trim")
    outcomes = set()
    async with (
        await connect("default", application_name="writer") as writer,
        await connect("default", application_name="reader") as reader,
    ):
        schema = await schema_of_ledger(writer)
        assert schema is not None
        latest = await latest_tick(writer, schema)
        first = await store_tick(writer, schema, latest) or latest
        for _ in range(ROUNDS):
            last = await write_ticks(writer, schema, first)
            found, _ = await asyncio.gather(
                replay(reader, schema, first, last),
                trim_soon(writer, schema, random.uniform(0, 0.02)),
            )
            assert found in (None, list(range(ROWS)))
            outcomes.add(found is None)
            first = last
    assert outcomes == {True, False}


async def write_ticks(connection: Any, schema: str, tick: Tick) -> Tick:
    """Write rows in several ticks; gives the last one."""
    for number in range(ROWS):
        await connection.execute(PUBLISH, [json.dumps(number)])
        if number % 20 == 19:
            stored = await store_tick(connection, schema, tick)
            assert stored is not None
            tick = stored
    await mark_sent(connection, schema, tick.number)
    return tick


async def trim_soon(connection: Any, schema: str, seconds: float) -> None:
    await asyncio.sleep(seconds)
    await trim(connection, schema, retention=timedelta(0))


async def replay(connection: Any, schema: str, after: Tick, upto: Tick) -> list[Any] | None:
    """The data of the rows between, or None for a reset."""
    found = []
    try:
        async for row in read_range(connection, schema, after, upto, None):
            found += [change["data"] for change in json.loads(row.changes)]
    except Expired:
        return None
    return found


@override_settings(PGNOTIFY=QUICK)
async def test_database_in_latin1_tells_all_that_it_can_hold(
    start_place: StartPlace, start_pglisten: StartPglisten, pg_layer_here: PostgresChannelLayer
) -> None:
    place = await in_thread(start_place)
    create = "CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0"
    await in_thread(place.sql, create, name="postgres")
    await in_thread(migrate, place.server.url("latin"))
    connections["default"].settings_dict["NAME"] = "latin"
    url = place.proxy.url(place.server.url("latin"))
    pglisten = start_pglisten(url=url, **QUICK)
    await in_thread(pglisten.wait_for, "listening")
    text = "".join(map(chr, range(0x20, 0x100)))
    async with Browser() as browser:
        since = (await browser.subscribe("orders"))["position"]
        await in_thread(place.sql, PUBLISH, json.dumps(text, ensure_ascii=False), name="latin")
        assert await data_upto(browser, text) == [text]
    async with Browser() as browser:
        assert (await browser.subscribe("orders", since=since))["recovered"] is True
        assert await data_upto(browser, text) == [text]
