"""A full notify queue: caused by others, survived and named by us; and never caused by us."""

from __future__ import annotations

import json
from collections.abc import Callable
from urllib.request import urlopen

import psycopg
import pytest
import pytest_django
from django.db import connection, transaction

from django_pgnotify import notify
from tests.own_server import NAME, PUBLISH, QUICK, Place, StartPlace, wait_until
from tests.pglisten import Process, StartPglisten
from tests.servers.process import free_port
from tests.servers.redis import Redis

FEW_PAGES = {"max_notify_queue_pages": "64"}
"""Half a megabyte, and a setting that PostgreSQL has from 17 on."""
PAYLOAD = "x" * 7000


def redis_layer(redis: Redis) -> dict[str, object]:
    return {
        "default": {
            "BACKEND": "channels_redis.core.RedisChannelLayer",
            "CONFIG": {"hosts": [redis.url]},
        }
    }


def fill(place: Place, pg_channel: str, count: int) -> str:
    """Send so many different notifications; gives the error that ended it, if one did."""
    try:
        for number in range(count):
            place.sql("SELECT pg_notify(%s, %s)", pg_channel, f"{number} {PAYLOAD}")
    except psycopg.Error as error:
        return str(error)
    return ""


def usage(place: Place) -> float:
    return float(place.sql("SELECT pg_notification_queue_usage()")[0])


def relayed(place: Place) -> bool:
    """True when every row of the ledger is in a tick that has been sent."""
    (done,) = place.sql(
        "SELECT NOT EXISTS (SELECT FROM django_pgnotify_ledger, django_pgnotify_state"
        " JOIN django_pgnotify_tick ON number = sent"
        " WHERE NOT pg_visible_in_snapshot(xid, snapshot))"
    )
    return bool(done)


@pytest.mark.redis
def test_full_notify_queue_fails_no_write_delays_no_event_and_is_named(
    start_place: StartPlace,
    start_pglisten: StartPglisten,
    redis: Redis,
    django_db_blocker: pytest_django.DjangoDbBlocker,
    caplog: pytest.LogCaptureFixture,
) -> None:
    place = start_place("18", **FEW_PAGES)
    port = free_port()
    layers = redis_layer(redis)
    pglisten = start_pglisten(
        "--metrics-port", str(port), url=place.url, layers=layers, **QUICK
    )
    pglisten.wait_for("listening")
    with psycopg.connect(place.server.url(NAME), autocommit=True) as stranger:
        stranger.execute("LISTEN strangers")
        stranger.execute("BEGIN")
        stranger.execute("SELECT 1")
        assert "too many notifications" in fill(place, "strangers", 200)

        # Whoever rings by himself fails; our writers do not ring.
        with pytest.raises(psycopg.Error, match="too many notifications"):
            place.sql("NOTIFY strangers, 'one more'")
        for number in range(3):
            place.publish(number)
        with django_db_blocker.unblock():
            with transaction.atomic():
                notify("told", "durable")
                notify("told", "live", durable=False)
            connection.close()
        assert "too many notifications" in caplog.text
        assert place.sql("SELECT count(*) FROM django_pgnotify_ledger") == (4,)
        wait_until(lambda: relayed(place), "events of a server whose queue is full")

        # Said at the half already, before anybody's COMMIT has failed.
        line = pglisten.wait_for("The server's notify queue is")
        assert f"pid {stranger.info.backend_pid} " in line
        assert "pg_terminate_backend" in line
        wait_until(lambda: metric(port) > 0.9, "the metric has seen it")
        check = start_pglisten("--check", url=place.url, layers=layers, **QUICK)
        assert check.wait() == 1
        (failed,) = (text for text in check.output().splitlines() if "notify queue:" in text)
        assert failed.startswith("FAIL notify queue: ")
        assert f"pid {stranger.info.backend_pid} " in failed
        assert "disconnected" not in "".join(pglisten.seen)
    pglisten.wait_for("full again")
    place.publish("free")
    wait_until(lambda: relayed(place), "events after it")
    wait_until(lambda: metric(port) < 0.1, "the metric has seen the end of it")


def metric(port: int) -> float:
    with urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    (found,) = (line for line in lines if line.startswith("pgnotify_notify_queue_ratio "))
    return float(found.split()[1])


@pytest.mark.redis
def test_pglisten_never_fills_the_notify_queue_however_stalled_the_layer_is(
    start_place: StartPlace, start_pglisten: StartPglisten, start_redis: Callable[[], Redis]
) -> None:
    place = start_place("18", **FEW_PAGES)
    redis = start_redis()
    pglisten = start_pglisten(url=place.url, layers=redis_layer(redis), QUEUE_SIZE=5, **QUICK)
    pglisten.wait_for("listening")
    redis.freeze()
    with psycopg.connect(place.server.url(NAME), autocommit=True) as writer:
        for number in range(300):
            writer.execute(PUBLISH, [json.dumps([number, PAYLOAD])])
            writer.execute("SELECT pg_notify('django_pgnotify_live', %s)", [PAYLOAD])
    # Four times what the queue holds went through it, and what waits, waits in the ledger.
    wait_until(lambda: usage(place) == 0, "the queue is drained")
    assert not relayed(place)
    assert still_leads(pglisten)
    redis.thaw()
    wait_until(lambda: relayed(place), "what has waited is sent")


def still_leads(pglisten: Process) -> bool:
    return pglisten.process.poll() is None and "disconnected" not in "".join(
        pglisten.lines.queue
    )
