"""Writes at a steady pace, and says when each transaction began to commit.

Open loop: a transaction that is late does not delay the next one's time. With ``--floor`` there
stands between two of them a NOTIFY: a bare one and one in a transaction that writes a row, in
turns, both in another database of the server.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from typing import Any

import psycopg

ROWS = """INSERT INTO {} (name, room, value)
    SELECT 'a thing of which one speaks', 1, n FROM generate_series(%s::int, %s::int) AS n"""
PLAIN_ROW = "INSERT INTO plain (name, room, value) VALUES ('a thing of which one speaks', 1, 1)"

Connection = psycopg.Connection[Any]


def main(arguments: argparse.Namespace) -> None:
    """Write for so many seconds."""
    steps = round(arguments.rate * arguments.seconds / arguments.rows)
    pause = arguments.rows / arguments.rate
    rows = ROWS.format(arguments.table)
    times: list[float] = []
    floor: dict[str, float] = {}
    with psycopg.connect(os.environ["BENCH_DATABASE"], autocommit=True) as connection:
        other = (
            psycopg.connect(os.environ["BENCH_FLOOR"], autocommit=True)
            if arguments.floor
            else None
        )
        begin = time.monotonic()
        for step in range(steps):
            _wait_until(begin + step * pause)
            first = step * arguments.rows
            times.append(_commit(connection, rows, (first, first + arguments.rows - 1)))
            if other is not None:
                _wait_until(begin + (step + 0.5) * pause)
                name = f"{'bare' if step % 2 else 'with'}-{step}"
                floor[name] = _notify(other, name)
        took = time.monotonic() - begin
    print(json.dumps({"times": times, "floor": floor, "seconds": took}), flush=True)


def _commit(connection: Connection, query: str, values: tuple[int, int]) -> float:
    """Gives the time before the COMMIT."""
    with connection.transaction():
        connection.execute(query, values, prepare=True)
        return time.monotonic()


def _notify(connection: Connection, payload: str) -> float:
    notify = "SELECT pg_notify('floor', %s)"
    if payload.startswith("bare"):
        begin = time.monotonic()
        connection.execute(notify, (payload,), prepare=True)
        return begin
    with connection.transaction():
        connection.execute(PLAIN_ROW, prepare=True)
        connection.execute(notify, (payload,), prepare=True)
        return time.monotonic()


def _wait_until(moment: float) -> None:
    if (left := moment - time.monotonic()) > 0:
        time.sleep(left)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", default="thing")
    parser.add_argument("--rate", type=float, required=True, help="rows a second")
    parser.add_argument("--rows", type=int, default=1, help="in one transaction")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--floor", action="store_true")
    main(parser.parse_args())
