"""A hot standby of a throw-away server, to be promoted."""

from __future__ import annotations

import time

import psycopg

from .postgres import ThrowAwayPostgres
from .process import POLL_SECONDS

REPLAY_SECONDS = 20.0


class Standby(ThrowAwayPostgres):
    """A copy of ``primary`` that follows it until ``promote()``."""

    def __init__(self, primary: ThrowAwayPostgres, version: str) -> None:
        super().__init__(version)
        self.primary = primary

    def caught_up(self) -> None:
        """Return when it has replayed what the primary has written."""
        with psycopg.connect(self.primary.url(), autocommit=True) as primary:
            written = one(primary, "SELECT pg_current_wal_insert_lsn()::text")
        with psycopg.connect(self.url(), autocommit=True) as standby:
            end = time.monotonic() + REPLAY_SECONDS
            while not one(standby, "SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", written):
                assert time.monotonic() < end, "the standby does not follow"
                time.sleep(POLL_SECONDS)

    def promote(self) -> None:
        """Make it a primary, on a timeline of its own."""
        with psycopg.connect(self.url(), autocommit=True) as standby:
            assert one(standby, "SELECT pg_promote()")

    def _create(self) -> None:
        password = self._home / "password"
        password.touch(mode=0o600)
        password.write_text(self.primary.password)
        self.data.mkdir(mode=0o700)
        if self._account is not None:
            self._account.own(self.data, password)
        copying = self._spawn(
            [
                *(self.client("pg_basebackup"), "--dbname", self.primary.url()),
                *("--pgdata", self.data, "--write-recovery-conf", "--checkpoint=fast"),
                "--no-sync",
            ]
        )
        if copying.wait() != 0:
            raise self._failure("pg_basebackup failed")


def one(
    connection: psycopg.Connection[tuple[object, ...]], query: str, *params: object
) -> object:
    """The first value of the first row."""
    row = connection.execute(query, params).fetchone()
    assert row is not None
    return row[0]
