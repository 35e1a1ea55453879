"""Retention: sustained writing at a short retention leaves the ledger bounded, and writers wait
for nothing of it.

``python -m benchmarks.retention --minutes 60 --out docs/retention.json``: a PostgreSQL of its
own, a real ``pglisten``, paced writers, and a reader that replays the whole ledger now and then.
Every other writer's transaction has a twin on a table without triggers, so that what the machine
does to both can be told from what the ledger does to one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import platform
import queue
import random
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import psutil
import psycopg

from django_pgnotify.ledger.reader import Expired, read_range
from django_pgnotify.ledger.ticks import latest_tick, tick_by_number
from tests.pglisten import LAYER, Process
from tests.servers.postgres import ThrowAwayPostgres
from tests.settings import BASE_DIR

DATABASE = "retention"
WRITERS = 3
WRITER = "writer"
RATE = 150.0
"""Transactions a second that write a ledger row, of all writers: a busy small site, on a machine
that has other work."""
PLAIN_SHARE = 0.2
"""Of a twin transaction on the table without triggers."""
ORDERS = 2000
RETENTION_SECONDS = 60.0
SAMPLE_SECONDS = 10.0
KEPT_SAMPLES = 6
"""One of so many is kept for the documentation: a minute's."""
REPLAY_SECONDS = 60.0
WARM_UP_RETENTIONS = 3.0
"""Before it the ledger still fills: its growth is judged afterwards."""
LOCK_WAIT_MILLISECONDS = 10
"""The server logs who waits for a lock longer than this."""
LOCK_WAIT = re.compile(
    r"^(.*): LOG: .* acquired (\w+ on [a-z ]+?) \d.* after ([\d.]+) ms$", re.MULTILINE
)
"""Who, for what, and how long in the end."""
OPTIONS = {
    "fsync": "on",
    "full_page_writes": "on",
    "log_line_prefix": "%a: ",
    "log_lock_waits": "on",
    "deadlock_timeout": f"{LOCK_WAIT_MILLISECONDS}ms",
    "max_wal_size": "512MB",
}
PERCENTILES = {"p50": 0.50, "p99": 0.99, "p999": 0.999, "max": 1.0}
MIB = 1024**2
GIB = 1024**3

SIZES = """
    SELECT pg_total_relation_size('django_pgnotify_ledger'),
        pg_total_relation_size('django_pgnotify_tick'),
        pg_total_relation_size('django_pgnotify_state'),
        (SELECT n_dead_tup FROM pg_stat_user_tables WHERE relname = 'django_pgnotify_ledger'),
        (SELECT count(*) FROM django_pgnotify_ledger),
        (SELECT count(*) FROM django_pgnotify_tick)
"""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """The ledger at one moment."""

    second: float
    ledger_bytes: int
    tick_bytes: int
    state_bytes: int
    dead_rows: int
    rows: int
    ticks: int


def write(number: int, url: str, seconds: float, results: Any) -> None:
    """One writer: transactions at even distances; every now and then it reports how long each
    took, by kind of table, in milliseconds."""
    source = random.Random(number)
    with closing(psycopg.connect(url, application_name=WRITER)) as connection:
        begin = due = time.monotonic()
        told: list[float] = []
        plain: list[float] = []
        while (now := time.monotonic()) < begin + seconds:
            if now < due:
                time.sleep(due - now)
            due += WRITERS / RATE
            told.append(_timed(connection, "orders_order", source))
            if source.random() < PLAIN_SHARE:
                plain.append(_timed(connection, "plain_order", source))
            if len(told) >= RATE:
                results.put((told, plain))
                told, plain = [], []
        results.put((told, plain))


def _timed(connection: psycopg.Connection[Any], table: str, source: random.Random) -> float:
    order = source.randint(1, ORDERS)
    begin = time.perf_counter()
    with connection.transaction():
        connection.execute(f"UPDATE {table} SET total = total + 1 WHERE id = %s", [order])
    return (time.perf_counter() - begin) * 1000


async def replay(url: str) -> int | None:
    """Read all that the ledger holds, as a client does that was away; None if it expired."""
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        row = await (
            await connection.execute("SELECT trimmed FROM django_pgnotify_state")
        ).fetchone()
        assert row is not None
        after = await tick_by_number(connection, "public", max(row[0] + 1, 0))
        if after is None:
            return None
        upto = await latest_tick(connection, "public")
        rows = 0
        try:
            async for _ in read_range(connection, "public", after, upto, ["orders"]):
                rows += 1
        except Expired:
            return None
        return rows


@dataclass
class Measured:
    """What a run found."""

    samples: list[Sample] = field(default_factory=list)
    told: list[float] = field(default_factory=list)
    plain: list[float] = field(default_factory=list)
    replays: list[int | None] = field(default_factory=list)
    lock_waits: dict[str, list[float]] = field(default_factory=dict)
    """Milliseconds, by who waited for what."""
    seconds: float = 0.0

    def take(self, results: Any) -> None:
        """Take what the writers have reported."""
        while True:
            try:
                told, plain = results.get_nowait()
            except queue.Empty:
                return
            self.told += told
            self.plain += plain

    def as_json(self) -> dict[str, Any]:
        """For the documentation."""
        warm = WARM_UP_RETENTIONS * RETENTION_SECONDS
        settled = [one for one in self.samples if one.second > warm] or self.samples
        half = len(settled) // 2
        memory = psutil.virtual_memory().total / GIB
        return {
            "date": date.today().isoformat(),
            "machine": f"{os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()}"
            f" {platform.machine()}, Python {platform.python_version()}, shared with other work",
            "minutes": round(self.seconds / 60, 1),
            "retention seconds": RETENTION_SECONDS,
            "transactions": len(self.told),
            "transactions a second": round(len(self.told) / max(self.seconds, 1)),
            "ledger MiB, most in the first half": _most(settled[:half]),
            "ledger MiB, most in the second half": _most(settled[half:]),
            "dead rows, most": max(one.dead_rows for one in settled),
            "rows, most": max(one.rows for one in settled),
            "ticks, most": max(one.ticks for one in settled),
            "tick table MiB, most": round(max(one.tick_bytes for one in settled) / MIB, 1),
            "state table MiB, most": round(max(one.state_bytes for one in settled) / MIB, 2),
            "told transaction, ms": _percentiles(self.told),
            "plain transaction, ms": _percentiles(self.plain),
            f"waits for a lock over {LOCK_WAIT_MILLISECONDS} ms": {
                what: {"times": len(waits), "longest ms": max(waits)}
                for what, waits in sorted(self.lock_waits.items())
            },
            "replays": len(self.replays),
            "replays expired": self.replays.count(None),
            "rows in the longest replay": max((rows or 0 for rows in self.replays), default=0),
            "samples": [asdict(one) for one in self.samples[::KEPT_SAMPLES]],
        }


def _most(samples: Sequence[Sample]) -> float:
    return round(max((one.ledger_bytes for one in samples), default=0) / MIB, 1)


def _percentiles(values: list[float]) -> dict[str, float]:
    ordered = sorted(values) or [0.0]
    last = len(ordered) - 1
    return {name: round(ordered[int(last * share)], 2) for name, share in PERCENTILES.items()}


@contextmanager
def world() -> Iterator[ThrowAwayPostgres]:
    """A server with the order desk's tables and their twin, and pglisten on it."""
    server = ThrowAwayPostgres(options=OPTIONS)
    try:
        server.start()
        with psycopg.connect(server.url(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {DATABASE}")
        environment = {
            **os.environ,
            "DATABASE_URL": server.url(DATABASE),
            "DJANGO_SETTINGS_MODULE": "tests.settings",
            "PYTHONPATH": str(BASE_DIR.parent),
            "TEST_PGNOTIFY": json.dumps({"RETENTION_SECONDS": RETENTION_SECONDS}),
            "TEST_CHANNEL_LAYERS": json.dumps(LAYER),
        }
        migrate = [sys.executable, "-m", "django", "migrate", "-v", "0"]
        subprocess.run(migrate, env=environment, check=True, capture_output=True)
        with psycopg.connect(server.url(DATABASE)) as connection:
            _fill(connection)
        pglisten = Process(environment)
        try:
            pglisten.wait_for("listening")
            yield server
        finally:
            pglisten.close()
    finally:
        server.remove()


def _fill(connection: psycopg.Connection[Any]) -> None:
    connection.execute(
        "INSERT INTO orders_customer (name, city)"
        " SELECT 'customer ' || n, 'here' FROM generate_series(1, 10) AS n"
    )
    connection.execute(
        "INSERT INTO orders_order (customer_id, status, total, note, created_at, updated_at)"
        " SELECT n %% 10 + 1, 'new', 1, repeat('x', 100), now(), now()"
        " FROM generate_series(1, %s) AS n",
        [ORDERS],
    )
    connection.execute("CREATE TABLE plain_order (LIKE orders_order INCLUDING ALL)")
    connection.execute("INSERT INTO plain_order SELECT * FROM orders_order")


def measure(server: ThrowAwayPostgres, seconds: float) -> Measured:
    """Write, sample and replay for so long."""
    url = server.url(DATABASE)
    spawn = multiprocessing.get_context("spawn")
    results = spawn.Queue()
    writers = [
        spawn.Process(target=write, args=(number, url, seconds, results), daemon=True)
        for number in range(WRITERS)
    ]
    for writer in writers:
        writer.start()
    measured = Measured()
    begin = time.monotonic()
    next_replay = begin + REPLAY_SECONDS
    with closing(psycopg.connect(url, autocommit=True)) as connection:
        while (second := time.monotonic() - begin) < seconds:
            measured.samples.append(_sample(connection, second))
            measured.take(results)
            if time.monotonic() > next_replay:
                next_replay += REPLAY_SECONDS
                measured.replays.append(asyncio.run(replay(url)))
            time.sleep(SAMPLE_SECONDS)
    while any(writer.is_alive() for writer in writers) or not results.empty():
        measured.take(results)
        time.sleep(0.1)  # a writer ends only when its last report has been taken
    measured.seconds = time.monotonic() - begin
    log = server.log.read_text(errors="replace")
    for who, what, milliseconds in LOCK_WAIT.findall(log):
        measured.lock_waits.setdefault(f"{who}: {what}", []).append(float(milliseconds))
    return measured


def _sample(connection: psycopg.Connection[Any], second: float) -> Sample:
    row = connection.execute(SIZES).fetchone()
    assert row is not None
    names = ("ledger_bytes", "tick_bytes", "state_bytes", "dead_rows", "rows", "ticks")
    return Sample(second=round(second), **dict(zip(names, row, strict=True)))


def main() -> None:
    """Measure, print, and keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--out", type=Path, help="where the figures go, as JSON")
    arguments = parser.parse_args()
    with world() as server:
        figures = measure(server, arguments.minutes * 60).as_json()
    text = json.dumps(figures, indent=1)
    if arguments.out is not None:
        arguments.out.write_text(text + "\n")
    print(json.dumps({**figures, "samples": len(figures["samples"])}, indent=2))


if __name__ == "__main__":
    main()
