"""The demo starts by one command, stops what it started, and says in one line what is wrong."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import psutil
import psycopg
import pytest
from psycopg import sql
from websockets.asyncio.client import connect

from example_project.running import DemoFailed, RunningDemo
from tests.servers.postgres import Postgres
from tests.servers.redis import Redis

UPDATE = "UPDATE orders_order SET note = 'by hand' WHERE id = 14"
END_SECONDS = 20.0


@pytest.fixture
def database_url(postgres: Postgres) -> Iterator[str]:
    """A database of the test's own on the run's server."""
    name = sql.Identifier(base := f"pgnotify_demo_{uuid4().hex[:8]}")
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(name))
        yield postgres.url(base)
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))


def status(demo: RunningDemo, path: str) -> int:
    """The HTTP status of a page."""
    connection = http.client.HTTPConnection(demo.host, timeout=END_SECONDS)
    connection.request("GET", path)
    answer = connection.getresponse().status
    connection.close()
    return answer


def family(demo: RunningDemo) -> list[psutil.Process]:
    """The demo's process and all that it started."""
    assert demo.process is not None
    launcher = psutil.Process(demo.process.pid)
    return [launcher, *launcher.children(recursive=True)]


def failure(folder: Path, **env: str) -> str:
    """Start a demo that can't start; give the one line that says why."""
    with pytest.raises(DemoFailed) as caught:
        RunningDemo(folder, env=env).start()
    lines = str(caught.value).splitlines()
    assert len(lines) == 1
    return lines[0]


def test_starts_by_one_command_and_leaves_nothing_running(tmp_path: Path) -> None:
    with RunningDemo(tmp_path) as demo:
        assert demo.greeting.startswith(f"ready {demo.url.rstrip('/')}\n")
        assert [status(demo, path) for path in ("/", "/admin/login/")] == [200, 200]
        demo.psql(UPDATE)
        processes = family(demo)
        assert demo.stop() == 0
        _, alive = psutil.wait_procs(processes, END_SECONDS)
        assert alive == []
        demo.start()
        assert demo.psql("SELECT note FROM orders_order WHERE id = 14") == "by hand"
        assert demo.psql("SELECT count(*) FROM orders_order") == "16"


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGHUP])
def test_ctrl_c_or_a_closed_terminal_ends_it_without_complaint(
    database_url: str, tmp_path: Path, how: signal.Signals
) -> None:
    demo = RunningDemo(tmp_path, env={"DATABASE_URL": database_url}).start()
    processes = family(demo)
    assert demo.stop(how) == 0
    _, alive = psutil.wait_procs(processes, END_SECONDS)
    assert alive == []


@pytest.mark.parametrize("part", ["pglisten", "daphne"])
def test_says_which_part_ended_and_stops_the_rest(
    database_url: str, tmp_path: Path, part: str
) -> None:
    demo = RunningDemo(tmp_path, env={"DATABASE_URL": database_url}).start()
    launcher, *children = family(demo)
    next(child for child in children if part in child.cmdline()).kill()
    assert demo.process is not None
    output, _ = demo.process.communicate(timeout=END_SECONDS)
    name = {"daphne": "web"}.get(part, part)
    assert f"demo: {name} ended (SIGKILL)" in output
    assert demo.process.returncode == 1
    _, alive = psutil.wait_procs([launcher, *children], END_SECONDS)
    assert alive == []


@pytest.mark.skipif(os.uname().sysname != "Linux", reason="only Linux tells the children")
def test_children_end_with_a_launcher_that_was_killed(
    database_url: str, tmp_path: Path
) -> None:
    demo = RunningDemo(tmp_path, env={"DATABASE_URL": database_url}).start()
    _, *children = family(demo)
    demo.stop(signal.SIGKILL)
    _, alive = psutil.wait_procs(children, END_SECONDS)
    assert alive == []


def test_a_busy_port_is_told_in_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(DemoFailed) as caught:
            RunningDemo(tmp_path, port=port).start()
    assert str(caught.value) == (
        f"demo: port {port} can't be used (Address already in use);"
        f" try make demo PORT={port + 1}\n"
    )


def test_an_unreachable_database_is_told_in_one_line(tmp_path: Path) -> None:
    line = failure(tmp_path, DATABASE_URL="postgresql://nobody@127.0.0.1:1/nothing")
    assert line.startswith("demo: the database of DATABASE_URL can't be reached: ")


def test_an_unreachable_redis_is_told_in_one_line(database_url: str, tmp_path: Path) -> None:
    line = failure(tmp_path, DATABASE_URL=database_url, REDIS_URL="redis://127.0.0.1:1")
    assert line.startswith("demo: the Redis of REDIS_URL can't be reached: ")


def test_a_server_that_cannot_start_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "postgres").write_text("a file where a folder should be")
    assert failure(tmp_path).startswith("demo: PostgreSQL can't use ")


async def first_events(demo: RunningDemo, write: str) -> list[str]:
    """Subscribe like the page, write, and give the notes of the events that follow."""
    headers = {"Origin": f"http://{demo.host}"}
    async with (
        asyncio.timeout(END_SECONDS),
        connect(f"ws://{demo.host}/ws/orders/", additional_headers=headers) as socket,
    ):
        await socket.send(json.dumps({"type": "subscribe", "group": "orders"}))
        while json.loads(await socket.recv())["type"] != "subscribed":
            pass
        demo.psql(write)
        while (frame := json.loads(await socket.recv()))["type"] != "events":
            pass
        return [event["data"]["note"] for event in frame["events"]]


@pytest.mark.redis
async def test_runs_on_redis_where_redis_url_names_one(
    database_url: str, redis: Redis, tmp_path: Path
) -> None:
    env = {"DATABASE_URL": database_url, "REDIS_URL": redis.url}
    with RunningDemo(tmp_path, env=env) as demo:
        assert await first_events(demo, UPDATE) == ["by hand"]


DAPHNE_LIMIT = 1024 * 1024
"""Bytes of a message beyond which Daphne ends the connection."""
ROWS = 100_000
MANY = """
    INSERT INTO orders_order (customer_id, status, total, note, created_at, updated_at)
    SELECT (SELECT min(id) FROM orders_customer), 'new', 1, 'many', now(), now()
    FROM generate_series(1, 100000)
"""
HUGE = "SELECT pgnotify_publish('desk', to_jsonb(repeat('x', 20000000)), ARRAY['orders'])"


async def test_a_transaction_of_100_000_rows_and_an_event_of_20_mb_pass_daphne(
    database_url: str, tmp_path: Path
) -> None:
    seen: set[int] = set()
    with RunningDemo(tmp_path, env={"DATABASE_URL": database_url}) as demo:
        headers = {"Origin": f"http://{demo.host}"}
        url = f"ws://{demo.host}/ws/orders/"
        async with (
            asyncio.timeout(3 * END_SECONDS),
            connect(url, additional_headers=headers, max_size=DAPHNE_LIMIT) as socket,
        ):
            await socket.send(json.dumps({"type": "subscribe", "group": "orders"}))
            while json.loads(await socket.recv())["type"] != "subscribed":
                pass
            await asyncio.to_thread(demo.psql, MANY)
            await asyncio.to_thread(demo.psql, HUGE)
            while True:
                frame = json.loads(await socket.recv())
                events = frame["events"] if frame["type"] == "events" else []
                seen.update(e["pk"] for e in events if e["topic"] == "order_changes")
                if events and events[-1]["topic"] == "desk":
                    break
    assert len(seen) == ROWS
    assert events[-1]["truncated"] is True
    assert "data" not in events[-1]
