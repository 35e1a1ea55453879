"""Whatever happens to the PostgreSQL server, what committed arrives, and who waits knows why."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
from django.db import connections
from django.test import override_settings

from django_pgnotify.conf import Defaults
from django_pgnotify.layers import PostgresChannelLayer
from django_pgnotify.relay.session import HEARTBEATS_UNTIL_LOST, PINGS_PER_TIMEOUT
from example_project.embedded import IMMEDIATE
from tests.handler_kit import TABLE
from tests.hub_kit import Browser
from tests.markdown import page
from tests.own_server import (
    NAME,
    PUBLISH,
    QUICK,
    Place,
    StartPlace,
    data_upto,
    in_thread,
    wait_until,
)
from tests.pglisten import StartPglisten
from tests.servers.fixtures import VERSION, StartProxy
from tests.servers.postgres import ThrowAwayPostgres
from tests.servers.standby import Standby

HANDLERS = "tests.told_handler"
REFUSED_SECONDS = 10
MAX_BUSY_SHARE = 0.05
"""Of a core, by somebody who waits; who spins takes all of it."""
ENDINGS: dict[str, Callable[[ThrowAwayPostgres], None]] = {
    "fast": lambda server: server.restart(),
    "immediate": lambda server: server.restart(IMMEDIATE),
    "crash": lambda server: (server.crash(), server.restart())[1],
}


def test_shipped_delays_are_those_of_the_page_before_tests_shrink_them() -> None:
    assert set(QUICK) == {
        *("HEARTBEAT_SECONDS", "POLL_SECONDS", "RECONNECT_MAX_SECONDS"),
        *("CONNECT_TIMEOUT_SECONDS", "LEADER_TIMEOUT_SECONDS"),
    }
    told = page("explanation/faults.md")
    assert Defaults.RECONNECT_MIN_SECONDS == 0.1
    assert "tries again after 0.1 seconds" in told
    assert Defaults.RECONNECT_MAX_SECONDS == 15
    assert "at most every 15 seconds" in told
    ping = min(Defaults.HEARTBEAT_SECONDS, Defaults.LEADER_TIMEOUT_SECONDS / PINGS_PER_TIMEOUT)
    noticed = ping + Defaults.HEARTBEAT_SECONDS * HEARTBEATS_UNTIL_LOST
    assert noticed == 15
    assert "finds it out within 15 seconds" in told
    assert Defaults.LEADER_TIMEOUT_SECONDS == 10
    assert "ends its session after 10 seconds" in told
    assert Defaults.SHUTDOWN_SECONDS == 10
    assert "for at most 10 seconds" in told
    assert Defaults.POLL_SECONDS == 1
    assert "finds the row within a second" in told
    assert Defaults.CONNECT_TIMEOUT_SECONDS == 5


@override_settings(PGNOTIFY=QUICK)
async def test_restarts_and_crashes_with_unread_notifications_lose_nothing(
    start_place: StartPlace, start_pglisten: StartPglisten, pg_layer_here: PostgresChannelLayer
) -> None:
    place = await in_thread(start_place)
    pglisten = start_pglisten(url=place.url, **QUICK)
    await in_thread(pglisten.wait_for, "listening")
    async with Browser() as browser:
        start = (await browser.subscribe("orders"))["position"]
        for name, end in ENDINGS.items():
            # Frozen, it reads neither the bell nor the row before the server is gone.
            pglisten.process.send_signal(signal.SIGSTOP)
            await in_thread(place.publish, f"before {name}")
            await in_thread(end, place.server)
            pglisten.process.send_signal(signal.SIGCONT)
            await in_thread(place.publish, f"after {name}")
            found = await data_upto(browser, f"after {name}")
            assert found == [f"before {name}", f"after {name}"]
    async with Browser() as browser:
        assert (await browser.subscribe("orders", since=start))["recovered"] is True
        everything = [f"{when} {name}" for name in ENDINGS for when in ("before", "after")]
        assert await data_upto(browser, everything[-1]) == everything


@override_settings(PGNOTIFY=QUICK)
async def test_session_of_the_gate_that_freezes_alone_is_noticed(
    start_place: StartPlace, start_pglisten: StartPglisten, pg_layer_here: PostgresChannelLayer
) -> None:
    place = await in_thread(start_place)
    pglisten = start_pglisten(url=place.url, **QUICK)
    await in_thread(pglisten.wait_for, "listening")
    async with Browser() as browser:
        await browser.subscribe("orders")
        (gate,) = place.sql("SELECT pid FROM pg_stat_activity WHERE application_name ~ 'gate$'")
        os.kill(gate, signal.SIGSTOP)
        try:
            await in_thread(pglisten.wait_for, "disconnected")
            await in_thread(place.publish, "after")
            assert await data_upto(browser, "after") == ["after"]
        finally:
            os.kill(gate, signal.SIGCONT)


@override_settings(PGNOTIFY=QUICK)
async def test_server_that_freezes_refuses_or_comes_back_read_only_is_told_once_and_outlived(
    start_place: StartPlace, start_pglisten: StartPglisten, pg_layer_here: PostgresChannelLayer
) -> None:
    place = await in_thread(start_place)
    pglisten = start_pglisten(url=place.url, **QUICK, SHUTDOWN_SECONDS=0.5)
    await in_thread(pglisten.wait_for, "listening")
    async with Browser() as browser:
        await browser.subscribe("orders")

        place.server.freeze()
        await in_thread(pglisten.wait_for, "disconnected")
        place.server.thaw()
        await in_thread(place.publish, "thawed")
        assert await data_upto(browser, "thawed") == ["thawed"]

        await in_thread(pglisten.wait_for, "listening")
        await in_thread(set_read_only, place, "on")
        await in_thread(place.server.restart)
        await in_thread(pglisten.wait_for, "is read-only")
        said = len(pglisten.seen)
        # Several attempts, of which only the first is worth a line.
        await in_thread(time.sleep, 2)
        await in_thread(set_read_only, place, "off")
        await in_thread(pglisten.wait_for, "listening")
        assert [line for line in pglisten.seen[said:] if "read-only" in line] == []
        await in_thread(place.publish, "writable")
        assert await data_upto(browser, "writable") == ["writable"]

    # A frozen server keeps nobody from leaving.
    place.server.freeze()
    pglisten.process.send_signal(signal.SIGTERM)
    assert await in_thread(pglisten.wait) == 0
    place.server.thaw()

    wrong = start_pglisten(url=place.url.replace("postgres:", "postgres:not-"), **QUICK)
    line = await in_thread(wrong.wait_for, "password authentication failed")
    assert "disconnected" in line
    place.sql("ALTER SYSTEM SET default_transaction_read_only = on")
    place.sql("SELECT pg_reload_conf()")
    refused = start_pglisten(url=place.url, **QUICK)
    assert await in_thread(refused.wait) == 1
    assert "read-only" in refused.output()


def set_read_only(place: Place, value: str) -> None:
    with psycopg.connect(place.server.url(NAME), autocommit=True) as connection:
        connection.execute("SET default_transaction_read_only = off")
        connection.execute(f"ALTER SYSTEM SET default_transaction_read_only = {value}")
        connection.execute("SELECT pg_reload_conf()")


@pytest.mark.django_db(transaction=True)
def test_pglisten_does_not_spin_while_connections_are_refused(
    start_pglisten: StartPglisten, start_proxy: StartProxy, database_env: dict[str, str]
) -> None:
    url = database_env["DATABASE_URL"]
    proxy = start_proxy(url)
    pglisten = start_pglisten(url=proxy.url(url))
    pglisten.wait_for("listening")
    process = psutil.Process(pglisten.process.pid)
    before, threads = cpu_seconds(process), process.num_threads()
    proxy.refuse()
    time.sleep(REFUSED_SECONDS)
    assert cpu_seconds(process) - before < REFUSED_SECONDS * MAX_BUSY_SHARE
    assert process.num_threads() <= threads + 2
    # Said when the connections break, and again when the cause is another one.
    pglisten.wait_for("disconnected")
    lines = [*pglisten.seen, *pglisten.lines.queue]
    assert len([line for line in lines if "disconnected" in line]) <= 3
    proxy.resume()
    pglisten.wait_for("listening")
    pglisten.process.send_signal(signal.SIGTERM)
    assert pglisten.wait() == 0


def cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def handled(place: Place, name: str = NAME) -> list[str]:
    """What handlers were given, in order, whatever was given again after a fault."""
    (found,) = place.sql("SELECT array_agg(what ORDER BY id) FROM handled", name=name)
    return list(dict.fromkeys(found or []))


@pytest.fixture
def start_standby() -> Any:
    standbys: list[Standby] = []

    def start(primary: ThrowAwayPostgres, version: str) -> Standby:
        standbys.append(Standby(primary, version))
        standbys[-1].start()
        return standbys[-1]

    yield start
    for standby in standbys:
        standby.remove()


@override_settings(PGNOTIFY=QUICK)
async def test_promoted_standby_goes_on_and_every_position_is_reset(
    start_place: StartPlace,
    start_pglisten: StartPglisten,
    start_standby: Callable[..., Standby],
    pg_layer_here: PostgresChannelLayer,
) -> None:
    place = await in_thread(start_place, VERSION)
    standby = await in_thread(start_standby, place.server, VERSION)

    refused = start_pglisten(url=standby.url(NAME), **QUICK)
    assert await in_thread(refused.wait) == 1
    assert "is a replica" in refused.output()
    assert "PGNOTIFY['LISTENER']" in refused.output()

    await in_thread(place.sql, TABLE)
    pglisten = start_pglisten(url=place.url, handlers=HANDLERS, **QUICK)
    await in_thread(pglisten.wait_for, "listening")
    async with Browser() as browser, Browser() as away:
        await browser.subscribe("orders")
        await in_thread(place.publish, "on the primary")
        assert await data_upto(browser, "on the primary") == ["on the primary"]
        old = (await away.subscribe("orders"))["position"]
        await away.socket.disconnect()

        pglisten.process.send_signal(signal.SIGSTOP)
        await in_thread(place.publish, "not relayed yet")
        await in_thread(standby.caught_up)
        await in_thread(place.server.stop, IMMEDIATE)
        await in_thread(standby.promote)
        place.move_to(standby)
        pglisten.process.send_signal(signal.SIGCONT)
        await in_thread(pglisten.wait_for, "new timeline")
        await in_thread(pglisten.wait_for, "listening")
        # Nobody can know what the standby lacks, so the browser reads its state again.
        found = await data_upto(browser, "reset: epoch")
        assert found in (["reset: epoch"], ["not relayed yet", "reset: epoch"])
        await in_thread(place.publish, "on the standby")
        assert await data_upto(browser, "on the standby") == ["on the standby"]
    async with Browser() as browser:
        answer = await browser.subscribe("orders", since=old)
        assert answer["recovered"] is False
        reset = await browser.receive()
        assert (reset["type"], reset["reason"]) == ("reset", "epoch")
    expected = ["on the primary", "not relayed yet", "on the standby"]
    await in_thread(wait_until, lambda: handled(place) == expected, "all were handled once")


@override_settings(PGNOTIFY=QUICK)
def test_call_that_runs_over_a_promotion_is_not_begun_again(
    start_place: StartPlace,
    start_pglisten: StartPglisten,
    start_standby: Callable[..., Standby],
    tmp_path: Path,
) -> None:
    place = start_place(VERSION)
    standby = start_standby(place.server, VERSION)
    place.sql(TABLE)
    pglisten = start_pglisten(url=place.url, handlers=HANDLERS, **QUICK)
    pglisten.wait_for("listening")
    until = str(tmp_path / "promoted")
    write = partial(place.sql, "SELECT pgnotify_append('told', 'shop.order', %s, NULL)")
    write(told(1, until))
    wait_until(lambda: handled(place) == [until], "the call has begun")
    standby.caught_up()
    place.server.stop(IMMEDIATE)
    standby.promote()
    place.move_to(standby)
    pglisten.wait_for("new timeline")
    write(told(1, "behind it"))
    write(told(2, "beside it"))
    wait_until(lambda: "beside it" in handled(place), "its handlers work")
    Path(until).touch()
    wait_until(lambda: "behind it" in handled(place), "the call has ended")
    query = "SELECT array_agg(word ORDER BY id) FROM handled WHERE what = %s"
    assert place.sql(query, until) == (["begun", "done"],)


def told(pk: int, what: str) -> str:
    """A change of a row, for the handlers."""
    return json.dumps([{"kind": "update", "pk": pk, "data": what, "groups": []}])


def dump(place: Place, *options: str) -> bytes:
    """What people keep of the database."""
    return subprocess.run(
        [place.server.client("pg_dump"), *options, "--dbname", place.server.url(NAME)],
        check=True,
        capture_output=True,
        cwd="/",
    ).stdout


def restore(place: Place, dumped: bytes, *options: str, name: str = NAME) -> None:
    """Do what it says, in a database."""
    subprocess.run(
        [place.server.client("psql"), "--quiet", *options, "--dbname", place.server.url(name)],
        input=dumped,
        check=True,
        capture_output=True,
        cwd="/",
    )


def dump_and_restore(place: Place, target: str) -> None:
    """Copy the database as people do."""
    place.sql(f"CREATE DATABASE {target}", name="postgres")
    restore(place, dump(place), name=target)


@override_settings(PGNOTIFY=QUICK)
async def test_restored_dump_starts_at_now_and_knows_no_position_of_the_original(
    start_place: StartPlace, start_pglisten: StartPglisten, pg_layer_here: PostgresChannelLayer
) -> None:
    place = await in_thread(start_place)
    await in_thread(place.sql, TABLE)
    pglisten = start_pglisten(url=place.url, handlers=HANDLERS, **QUICK)
    await in_thread(pglisten.wait_for, "listening")
    async with Browser() as browser:
        old = (await browser.subscribe("orders"))["position"]
        await in_thread(place.publish, "of the original")
        assert await data_upto(browser, "of the original") == ["of the original"]
    before = ["of the original"]
    await in_thread(wait_until, lambda: handled(place) == before, "the original has handled it")
    pglisten.process.send_signal(signal.SIGTERM)
    assert await in_thread(pglisten.wait) == 0
    await in_thread(place.publish, "not relayed by the original")

    await in_thread(dump_and_restore, place, "copy")
    url = place.url.replace(f"/{NAME}", "/copy")
    assert handled(place, "copy") == before
    connections["default"].settings_dict["NAME"] = "copy"
    await pg_layer_here.close()
    async with Browser() as browser:
        answer = await browser.subscribe("orders", since=old)
        assert answer["recovered"] is False
        assert (await browser.receive())["reason"] in ("epoch", "unknown")
    copy = start_pglisten(url=url, handlers=HANDLERS, **QUICK)
    await in_thread(copy.wait_for, "another server or database: starting at now")
    await in_thread(copy.wait_for, "listening")
    async with Browser() as browser:
        await browser.subscribe("orders")
        await in_thread(place.sql, PUBLISH, '"of the copy"', name="copy")
        assert await data_upto(browser, "of the copy") == ["of the copy"]
    everything = [*before, "of the copy"]
    done = partial(handled, place, "copy")
    await in_thread(wait_until, lambda: done() == everything, "the copy's own is handled")


@override_settings(PGNOTIFY=QUICK)
async def test_dump_restored_over_its_own_database_is_another_one_to_everybody(
    start_place: StartPlace, start_pglisten: StartPglisten, pg_layer_here: PostgresChannelLayer
) -> None:
    place = await in_thread(start_place)
    await in_thread(place.sql, TABLE)
    pglisten = start_pglisten(url=place.url, handlers=HANDLERS, **QUICK)
    await in_thread(pglisten.wait_for, "listening")
    async with Browser() as old:
        position = (await old.subscribe("orders"))["position"]
        await in_thread(place.publish, "handled before")
        assert await data_upto(old, "handled before") == ["handled before"]
        await in_thread(wait_until, lambda: handled(place) == ["handled before"], "handled")
        pglisten.process.send_signal(signal.SIGSTOP)
        await in_thread(place.publish, "handled later")
        backup = await in_thread(dump, place, "--clean", "--if-exists")
        pglisten.process.send_signal(signal.SIGCONT)
        lost = ["handled later", *(f"lost {number}" for number in range(5))]
        for what in lost[1:]:
            await in_thread(place.publish, what)
        assert await data_upto(old, lost[-1]) == lost
        everything = ["handled before", *lost]
        await in_thread(wait_until, lambda: handled(place) == everything, "handled")

        await in_thread(restore, place, backup)
        await in_thread(pglisten.wait_for, "starting at now")
        await in_thread(pglisten.wait_for, "listening")
        assert await data_upto(old, "reset: epoch") == ["reset: epoch"]
        async with Browser() as new:
            await new.subscribe("orders")
            await in_thread(place.publish, "after it")
            for browser in (old, new):
                assert await data_upto(browser, "after it") == ["after it"]
        await in_thread(
            wait_until, lambda: handled(place) == ["handled before", "after it"], "handled"
        )
        answer = await old.subscribe("orders", since=position)
        assert answer["recovered"] is False
        assert (await old.receive())["reason"] == "epoch"

        # Even if nothing has happened since, down to the last tick.
        backup = await in_thread(dump, place, "--clean", "--if-exists")
        await in_thread(restore, place, backup, "--single-transaction")
        await in_thread(pglisten.wait_for, "starting at now")
        assert await data_upto(old, "reset: epoch") == ["reset: epoch"]
        await in_thread(place.publish, "once more")
        assert await data_upto(old, "once more") == ["once more"]
