"""Throw-away PostgreSQL servers that can be frozen, killed and restarted."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import psutil

from example_project.embedded import (
    FAST,
    EmbeddedPostgres,
    EmbeddedPostgresError,
    wheel_binaries,
)
from example_project.embedded_account import reachable_binaries

from .programs import postgres_binaries

DEFAULT_VERSION = "18"
PREFIX = "pgnotify-test-"
OPTIONS = {"max_connections": "200", "max_prepared_transactions": "10"}


class Postgres(Protocol):
    """A server that the tests may use: ours, or the one that DATABASE_URL names."""

    def url(self, database: str = "postgres") -> str:
        """Give the ``postgresql://`` URL of one of its databases, for the superuser."""


@dataclass(frozen=True)
class ForeignPostgres:
    """The server that DATABASE_URL names; it is used and left alone."""

    database_url: str

    def url(self, database: str = "postgres") -> str:
        """See Postgres.url()."""
        return urlsplit(self.database_url)._replace(path=f"/{database}").geturl()


class ThrowAwayPostgres(EmbeddedPostgres):
    """A server of one test or one run, whose data goes with it.

    ``version`` is a major version; ``options`` are server settings by name. Raises ``Missing``
    when this version is not installed.
    """

    def __init__(
        self, version: str = DEFAULT_VERSION, *, options: Mapping[str, str] | None = None
    ) -> None:
        binaries = postgres_binaries(version)
        super().__init__(
            Path(tempfile.mkdtemp(prefix=PREFIX)),
            binaries=binaries,
            options=OPTIONS | dict(options or {}),
            durable=False,
        )

    def restart(self, how: signal.Signals = FAST) -> None:
        """Stop and start it on the same port; ``IMMEDIATE`` makes it recover first."""
        self._chosen_port = self.port
        self.stop(how)
        self.start()

    def crash(self) -> None:
        """Kill the postmaster without a word; ``restart()`` brings the server back."""
        os.kill(self.pid, signal.SIGKILL)
        if self._process is not None:
            self._process.wait()

    def freeze(self) -> None:
        """Stop the clocks of all its processes: connections stand, and nothing answers."""
        self._signal_all(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on where ``freeze()`` stopped it."""
        self._signal_all(signal.SIGCONT)

    def stop(self, how: signal.Signals = FAST) -> None:
        """Stop it, frozen or not."""
        if self._process is not None and self._process.poll() is None:
            self.thaw()
        super().stop(how)

    def remove(self) -> None:
        """Stop it and remove its data."""
        self.stop()
        _remove(self.folder)

    def client(self, program: str) -> Path:
        """Find psql, pg_dump and the like: the server's own, else the newest, which serve older
        servers too."""
        own = self.binaries / program
        if own.exists():
            return own
        return reachable_binaries(wheel_binaries(), self._account) / program

    def _signal_all(self, what: signal.Signals) -> None:
        # The postmaster first: once it is stopped, it starts no further process.
        postmaster = psutil.Process(self.pid)
        postmaster.send_signal(what)
        for child in postmaster.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                child.send_signal(what)


def remove_abandoned() -> None:
    """Stop and remove the servers of test runs that were killed before they could."""
    for lock in Path(tempfile.gettempdir()).glob(f"{PREFIX}*/lock"):
        # In use by another run, or another user's.
        with contextlib.suppress(EmbeddedPostgresError, OSError):
            EmbeddedPostgres(lock.parent).end_abandoned()
            _remove(lock.parent)


def _remove(folder: Path) -> None:
    shutil.rmtree(folder.resolve(), ignore_errors=True)
    if folder.is_symlink():
        folder.unlink()
