"""A thousand browsers that lose their connection at once and return with a position."""

from __future__ import annotations

import re
from collections import Counter

from django.test import override_settings

from django_pgnotify.layers import PostgresChannelLayer
from tests.hub_kit import Browser
from tests.own_server import QUICK, StartPlace, data_upto, in_thread
from tests.pglisten import StartPglisten

SOCKETS = 1000
HANDFUL = 20


@override_settings(PGNOTIFY=QUICK)
async def test_server_logs_a_handful_of_ledger_reads_for_a_thousand_sockets_that_return(
    start_place: StartPlace, start_pglisten: StartPglisten, pg_layer_here: PostgresChannelLayer
) -> None:
    place = await in_thread(start_place, log_statement="all", log_line_prefix="<%a> ")
    pglisten = start_pglisten(url=place.url, **QUICK)
    await in_thread(pglisten.wait_for, "listening")
    async with Browser() as witness:
        since = (await witness.subscribe("orders"))["position"]
        await in_thread(place.publish, "missed")
        assert await data_upto(witness, "missed") == ["missed"]
        before = statements_of_hub(place.server.log.read_text())
        crowd = [await Browser().__aenter__() for _ in range(SOCKETS)]
        for browser in crowd:
            await browser.send(type="subscribe", group="orders", since=since)
        for browser in crowd:
            assert (await browser.receive())["recovered"] is True
            assert await browser.data() == ["missed"]
        spent = statements_of_hub(place.server.log.read_text()) - before
        assert spent.total() > 0
        assert spent["django_pgnotify_ledger"] <= HANDFUL
        for browser in crowd:
            await browser.__aexit__()


def statements_of_hub(log: str) -> Counter[str]:
    """How often each table is named in the statements that hubs have sent."""
    sent = re.findall(
        r"^<django_pgnotify hub[^>]*> LOG:  (.*(?:\n(?!<).*)*)", log, re.MULTILINE
    )
    named = (set(re.findall(r"django_pgnotify_\w+", statement)) for statement in sent)
    return Counter(table for tables in named for table in tables)
