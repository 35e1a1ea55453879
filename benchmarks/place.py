"""Where a measurement takes place: servers of its own, with ordinary durable settings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import ExitStack
from enum import StrEnum
from functools import cached_property
from typing import Any, Self

import psycopg
from psycopg import sql

from tests.servers.postgres import ThrowAwayPostgres
from tests.servers.process import free_port
from tests.servers.redis import Redis

from .child import ROOT, Child

POSTGRES_OPTIONS = {
    # What a commit costs is what is measured, so nothing of it is switched off.
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "shared_buffers": "512MB",
    # No checkpoint falls into one run and not into the next.
    "max_wal_size": "8GB",
    "checkpoint_timeout": "30min",
    "max_connections": "300",
    "log_line_prefix": "%d %a ",
}
SETTINGS = "benchmarks.settings"
CAPACITY = 100_000
"""Messages that may wait for one name, in every layer: a layer that drops would look fast."""
DRAIN_SECONDS = 120.0
CATCH_UP_SECONDS = 600.0
"""For a pglisten that starts with millions of rows before it."""
POLL_SECONDS = 0.02
QUICKER = 10
"""A quick run's sizes are the usual ones divided by this."""

POSTGRES, REDIS, REDIS_PUBSUB = (
    "PostgresChannelLayer",
    "channels_redis",
    "channels_redis pub/sub",
)
MEMORY = "in memory"


class Effort(StrEnum):
    """How long a run may take."""

    QUICK = "quick"
    """A try of the benchmarks themselves; its figures mean little."""
    USUAL = "usual"
    """All sections in 20 minutes on two cores."""
    FULL = "full"
    """Longer runs, larger sizes."""


class Place:
    """One PostgreSQL for all sections, a Redis when a section asks for it; ends with ``with``."""

    def __init__(self, effort: Effort = Effort.USUAL) -> None:
        self.effort = effort
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    @cached_property
    def postgres(self) -> ThrowAwayPostgres:
        """The server."""
        server = ThrowAwayPostgres(options=POSTGRES_OPTIONS)
        self._stack.callback(server.remove)
        server.start()
        with psycopg.connect(server.url(), autocommit=True) as connection:
            # 4,096 rounds for each of 64 clients are seconds in which nothing is measured.
            connection.execute("SET scram_iterations = 1")
            password = sql.Literal(server.password)
            connection.execute(sql.SQL("ALTER ROLE postgres PASSWORD {}").format(password))
        return server

    @cached_property
    def redis(self) -> Redis:
        """The Redis."""
        server = Redis()
        self._stack.callback(server.remove)
        server.start()
        return server

    def runs(self, usual: int) -> int:
        """How often to take a figure."""
        return 1 if self.effort is Effort.QUICK else usual

    def size(self, usual: int, *, full: int | None = None) -> int:
        """How many rows, events, sockets or seconds."""
        if self.effort is Effort.QUICK:
            return max(usual // QUICKER, 1)
        return full if full and self.effort is Effort.FULL else usual

    def create_database(self, name: str) -> str:
        """Make an empty database anew, and give its URL."""
        with psycopg.connect(self.postgres.url(), autocommit=True) as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
            connection.execute(f"CREATE DATABASE {name}")
        return self.postgres.url(name)

    def project(self, name: str, *, layer: str = POSTGRES) -> Project:
        """A database with our tables and triggers, and the settings to work on it."""
        url = self.create_database(name)
        project = Project(self, url, layer)
        project.manage("migrate", "--verbosity", "0")
        return project

    def layer(self, name: str) -> dict[str, Any]:
        """Give the settings of a channel layer."""
        if name == MEMORY:
            config = {"capacity": CAPACITY}
            return {"BACKEND": "channels.layers.InMemoryChannelLayer", "CONFIG": config}
        if name == POSTGRES:
            backend = "django_pgnotify.layers.PostgresChannelLayer"
            return {"BACKEND": backend, "CONFIG": {"capacity": CAPACITY}}
        module = "core.RedisChannelLayer" if name == REDIS else "pubsub.RedisPubSubChannelLayer"
        # redis-py 8 gives up reading after 5 seconds, which is just what channels_redis waits for a
        # message: a plain consumer would end with an error after 5 quiet seconds.
        hosts = {"hosts": [{"address": self.redis.url, "socket_timeout": None}]}
        sized = {"capacity": CAPACITY} if name == REDIS else {}
        return {"BACKEND": f"channels_redis.{module}", "CONFIG": {**hosts, **sized}}


class Project:
    """A Django project on one database and one channel layer."""

    def __init__(self, place: Place, url: str, layer: str) -> None:
        self.url = url
        self._place = place
        self._layer = layer

    @property
    def env(self) -> dict[str, str]:
        """Of its processes."""
        return {
            "BENCH_DATABASE": self.url,
            "BENCH_LAYER": json.dumps(self._place.layer(self._layer)),
            "DJANGO_SETTINGS_MODULE": SETTINGS,
        }

    def on(self, layer: str) -> Project:
        """The same database with another channel layer."""
        return Project(self._place, self.url, layer)

    def manage(self, *arguments: str) -> None:
        """Run a management command to its end."""
        subprocess.run(
            [sys.executable, "-m", "django", *arguments],
            cwd=ROOT,
            env={**os.environ, **self.env},
            check=True,
        )

    def child(self, module: str, *arguments: object, **env: str) -> Child:
        """Start ``python -m benchmarks.<module>``."""
        return Child(["-m", f"benchmarks.{module}", *map(str, arguments)], {**self.env, **env})

    def pglisten(self, *arguments: str) -> Child:
        """Start a real relay; it is live when this returns, unless it runs ``--once``."""
        child = Child(["-m", "django", "pglisten", *arguments], self.env)
        if "--once" not in arguments:
            child.wait_for("listening", CATCH_UP_SECONDS)
        return child

    def web(self, server: str = "daphne") -> tuple[Child, int]:
        """Start an ASGI server; gives it and its port, which answers."""
        port = free_port()
        child = Child(["-m", *server_arguments(server, port)], self.env)
        wait_for_port(port)
        return child, port

    def connect(self) -> psycopg.Connection[Any]:
        """An autocommit connection of our own."""
        return psycopg.connect(self.url, autocommit=True)

    def connect_to(self, url: str) -> psycopg.Connection[Any]:
        """The same to another database."""
        return psycopg.connect(url, autocommit=True)

    def wait_drained(self) -> None:
        """Return when the relay has read everything, and has sent what it read."""
        with self.connect() as connection:
            end = time.monotonic() + CATCH_UP_SECONDS
            while not _drained(connection):
                if time.monotonic() > end:
                    raise TimeoutError("the relay did not drain the ledger")
                time.sleep(POLL_SECONDS)


def server_arguments(server: str, port: int, app: str = "benchmarks.asgi") -> list[str]:
    """The arguments of ``python -m`` for an ASGI server that logs no requests."""
    target = f"{app}:application"
    if server == "daphne":
        return ["daphne", "-b", "127.0.0.1", "-p", str(port), "-v", "0", target]
    quiet = ["--log-level", "warning", "--ws", "websockets", "--lifespan", "off"]
    return ["uvicorn", "--host", "127.0.0.1", "--port", str(port), *quiet, target]


def wait_for_port(port: int) -> None:
    """Return when something answers there."""
    import socket

    end = time.monotonic() + DRAIN_SECONDS
    while time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(POLL_SECONDS)
    raise TimeoutError(f"nothing answers on port {port}")


def _drained(connection: psycopg.Connection[Any]) -> bool:
    row = connection.execute(
        """
        WITH last AS (
            SELECT number, snapshot FROM django_pgnotify_tick ORDER BY number DESC LIMIT 1
        )
        SELECT s.sent >= last.number AND NOT EXISTS (
            SELECT FROM django_pgnotify_ledger AS l
            WHERE l.xid >= pg_snapshot_xmax(last.snapshot)
                OR l.xid = ANY (ARRAY(SELECT pg_snapshot_xip(last.snapshot)))
        )
        FROM last, django_pgnotify_state AS s
        """
    ).fetchone()
    return row is not None and bool(row[0])
