"""The world of a run: the servers, two relays, two web processes, writers, and proxies between."""

from __future__ import annotations

import contextlib
import json
import socket
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import psycopg

from tests.servers.postgres import ThrowAwayPostgres
from tests.servers.process import free_port
from tests.servers.proxy import TcpProxy
from tests.servers.redis import Redis

from .processes import Child, manage, wait_until

DATABASE = "oracle"
RELAYS = 2
WEBS = 2
WRITERS = 3
START_SECONDS = 60.0
POSTGRES_OPTIONS = {
    # Crashes are part of the game, and writers run into each other all the time.
    "fsync": "on",
    "full_page_writes": "on",
    "deadlock_timeout": "200ms",
    "max_connections": "200",
    "log_min_messages": "warning",
}

# Delays that let a minute hold many faults; the shipped ones are asserted by a test.
QUICK: dict[str, Any] = {
    "HEARTBEAT_SECONDS": 1.0,
    "POLL_SECONDS": 0.2,
    "RECONNECT_MAX_SECONDS": 1.0,
    "CONNECT_TIMEOUT_SECONDS": 2,
    "LEADER_TIMEOUT_SECONDS": 3.0,
    "SHUTDOWN_SECONDS": 3.0,
    "HANDLER_BACKOFF_SECONDS": 0.1,
    "HANDLER_ATTEMPTS": 50,
    "MAX_FRAME_BYTES": 24 * 1024,
}
ROOMY: dict[str, Any] = {}
"""Nothing may overflow or expire, and nobody is asked whether he may stay, which cuts a replay
short: then no reset is an excuse."""
TIGHT: dict[str, Any] = {"RETENTION": 6.0, "SOCKET_QUEUE_SIZE": 30, "QUEUE_SIZE": 5}
"""Resets must come, and be right. Writers revoke, too."""


@dataclass
class World:
    """Started by ``start()``, and gone with ``stack``."""

    stack: ExitStack
    postgres: ThrowAwayPostgres
    redis: Redis | None
    pgnotify: Mapping[str, Any]
    seed: str
    folder: Path = field(
        default_factory=lambda: Path(tempfile.mkdtemp(prefix="pgnotify-oracle-"))
    )
    relays: list[Child] = field(default_factory=list)
    webs: list[Child] = field(default_factory=list)
    writers: list[Child] = field(default_factory=list)
    proxies: dict[str, TcpProxy] = field(default_factory=dict)
    web_ports: list[int] = field(default_factory=list)
    urls: list[str] = field(default_factory=list)
    """Through the clients' proxies."""

    @property
    def database(self) -> str:
        """The direct URL."""
        return self.postgres.url(DATABASE)

    def start(self) -> Self:
        """Everything runs and answers when this returns; the writers do not write yet."""
        with psycopg.connect(self.postgres.url(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {DATABASE}")
        manage(self._env(None), "migrate")
        for name in ("relay", "web"):
            self._proxy(name, self.database)
        if self.redis is not None:
            self._proxy("redis", self.redis.url)
        for number in range(RELAYS):
            arguments = ["-m", "django", "pglisten"]
            self.relays.append(self._child(f"pglisten-{number}", arguments, "relay"))
        for number in range(WEBS):
            self._start_web(number)
        return self

    def start_writers(self) -> None:
        """Let them write."""
        for number in range(WRITERS):
            arguments = ["-m", "tests.oracle.writers", f"{self.seed}/{number}/{{start}}"]
            self.writers.append(self._child(f"writer-{number}", arguments, None))

    def stop_writers(self) -> None:
        """Each finishes its transaction."""
        for writer in self.writers:
            writer.stop()

    def heal(self) -> None:
        """Nothing is frozen, cut or silent any more."""
        for proxy in self.proxies.values():
            proxy.resume()
        self.postgres.thaw()
        if self.redis is not None:
            self.redis.thaw()
        for child in (*self.relays, *self.webs, *self.writers):
            child.thaw()

    def written(self) -> dict[str, int]:
        """What the writers counted in all of their lives, as far as they could tell."""
        total: dict[str, int] = {}
        for writer in self.writers:
            last: dict[str, int] = {}
            for line in writer.log.read_text(errors="replace").splitlines():
                if not line.startswith("{"):
                    continue
                counts = json.loads(line)
                if last and counts["committed"] < last["committed"]:
                    _add(total, last)  # a new life began
                last = counts
            _add(total, last)
        return total

    def tracebacks(self) -> dict[str, int]:
        """How many tracebacks each relay and web process logged."""
        logs = {child.name: child.log for child in (*self.relays, *self.webs)}
        counts = {
            name: log.read_text(errors="replace").count("Traceback")
            for name, log in logs.items()
        }
        return {name: count for name, count in counts.items() if count}

    def _start_web(self, number: int) -> None:
        port = free_port()
        self.web_ports.append(port)
        arguments = ["-m", "daphne", "-b", "127.0.0.1", "-p", str(port), "-v", "0"]
        web = self._child(f"web-{number}", [*arguments, "tests.oracle.asgi:application"], "web")
        self.webs.append(web)
        self._proxy(f"client-{number}", f"ws://127.0.0.1:{port}/")
        self.urls.append(f"ws://127.0.0.1:{self.proxies[f'client-{number}'].port}/")

    def _child(self, name: str, arguments: list[str], proxy: str | None) -> Child:
        child = Child(name, arguments, self._env(proxy), self.folder).start()
        self.stack.callback(child.stop)
        return child

    def _proxy(self, name: str, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        proxy = TcpProxy(parts.hostname, parts.port).start()
        self.stack.callback(proxy.stop)
        self.proxies[name] = proxy

    def _env(self, proxy: str | None) -> dict[str, str]:
        url = self.database if proxy is None else self.proxies[proxy].url(self.database)
        return {
            "DATABASE_URL": url,
            "DJANGO_SETTINGS_MODULE": "tests.oracle.settings",
            "ORACLE_PGNOTIFY": json.dumps({**QUICK, **self.pgnotify}),
            "ORACLE_REVOKES": "1" if self.pgnotify is TIGHT else "",
            "ORACLE_LAYER": json.dumps(self._layer()),
        }

    def _layer(self) -> dict[str, Any]:
        if self.redis is None:
            return {"BACKEND": "django_pgnotify.layers.PostgresChannelLayer"}
        proxy = self.proxies.get("redis")
        url = self.redis.url if proxy is None else proxy.url(self.redis.url)
        # So few that frames are dropped, silently, as under load.
        config = {"hosts": [url], "capacity": 30}
        return {"BACKEND": "channels_redis.core.RedisChannelLayer", "CONFIG": config}


def wait_for_web(world: World) -> None:
    """Return when both web processes take connections."""

    def takes(port: int) -> bool:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return True
        return False

    for port in world.web_ports:
        wait_until(partial(takes, port), START_SECONDS, f"port {port} answers")


def _add(total: dict[str, int], counts: Mapping[str, int]) -> None:
    for name, count in counts.items():
        total[name] = total.get(name, 0) + count
