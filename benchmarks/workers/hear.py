"""A bare listener: psycopg's ``notifies()`` on one pg channel, and nothing done with what comes."""

from __future__ import annotations

import os
import sys

import psycopg
from psycopg import sql


def main(pg_channel: str) -> None:
    """Listen until killed."""
    with psycopg.connect(os.environ["BENCH_DATABASE"], autocommit=True) as connection:
        connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(pg_channel)))
        print("listening", flush=True)
        for _ in connection.notifies():
            pass


if __name__ == "__main__":
    main(sys.argv[1])
