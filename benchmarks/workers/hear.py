"""A bare listener: psycopg's ``notifies()`` on one pg channel, the least that one can do.

With ``--count n`` it prints when each of n payloads came, by the machine's monotonic clock, and
ends.
"""

from __future__ import annotations

import argparse
import json
import os
import time

import psycopg
from psycopg import sql


def main(pg_channel: str, count: int | None) -> None:
    """Listen."""
    times: dict[str, float] = {}
    with psycopg.connect(os.environ["BENCH_DATABASE"], autocommit=True) as connection:
        connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(pg_channel)))
        print("listening", flush=True)
        for notification in connection.notifies():
            if count is not None:
                times[notification.payload] = time.monotonic()
                if len(times) == count:
                    break
    print(json.dumps({"times": times}), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pg_channel")
    parser.add_argument("--count", type=int)
    arguments = parser.parse_args()
    main(arguments.pg_channel, arguments.count)
