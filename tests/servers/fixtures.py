"""The servers as fixtures. Each is started when the first test asks for it."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from django.db import connections

from tests.settings import BASE_DIR, database

from . import programs
from .left_out import skip_if_missing
from .pgbouncer import PgBouncer
from .postgres import (
    DEFAULT_VERSION,
    ForeignPostgres,
    Postgres,
    ThrowAwayPostgres,
    remove_abandoned,
)
from .proxy import TcpProxy
from .redis import Redis

StartPostgres = Callable[..., ThrowAwayPostgres]
StartPgBouncer = Callable[[str], PgBouncer]
StartProxy = Callable[[str], TcpProxy]

DATABASE_URL = os.environ.get("DATABASE_URL")
VERSION = os.environ.get("PGNOTIFY_TEST_POSTGRES", DEFAULT_VERSION)


def pytest_configure() -> None:
    """Let SIGTERM end the run as Ctrl-C does, so that it stops the servers it started."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # A shell has its background jobs ignore Ctrl-C, and so would all that tests start: those that
    # press it would wait for ever.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_report_header() -> str:
    """Say which PostgreSQL the run is about."""
    return f"PostgreSQL: {'DATABASE_URL' if DATABASE_URL else f'{VERSION}, throw-away'}"


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """The server of this run: the one of DATABASE_URL, else a throw-away one."""
    if DATABASE_URL:
        yield ForeignPostgres(DATABASE_URL)
        return
    remove_abandoned()
    server = ThrowAwayPostgres(VERSION).start()
    yield server
    server.remove()


@pytest.fixture(scope="session")
def django_db_modify_db_settings(
    django_db_modify_db_settings_parallel_suffix: None, postgres: Postgres
) -> None:
    """Point Django's databases to the server, before pytest-django makes them."""
    server = database(postgres.url())
    for alias in connections:
        for key in ("HOST", "PORT", "USER", "PASSWORD"):
            connections[alias].settings_dict[key] = server[key]


@pytest.fixture
def database_env(django_db_setup: None, postgres: Postgres) -> dict[str, str]:
    """The environment of a child process that works on the test databases.

    A test whose child must see its rows needs ``django_db(transaction=True)``.
    """
    name = str(connections["default"].settings_dict["NAME"])
    return dict(os.environ) | {
        "DATABASE_URL": postgres.url(name),
        "DJANGO_SETTINGS_MODULE": "tests.settings",
        "PYTHONPATH": str(BASE_DIR.parent),
    }


@pytest.fixture
def start_postgres() -> Iterator[StartPostgres]:
    """Start a server of the test's own: ``start_postgres("15", max_notify_queue_pages="64")``.

    The version defaults to that of the run. A version that is not installed skips the test.
    """
    with contextlib.ExitStack() as servers:

        def start(version: str = VERSION, **options: str) -> ThrowAwayPostgres:
            skip_if_missing(lambda: programs.postgres_binaries(version))
            server = ThrowAwayPostgres(version, options=options)
            servers.callback(server.remove)
            return server.start()

        yield start


@pytest.fixture(scope="session")
def redis() -> Iterator[Redis]:
    """A Redis of this run; mark the test ``redis``."""
    skip_if_missing(programs.redis_server)
    server = Redis()
    yield server.start()
    server.remove()


@pytest.fixture
def start_redis() -> Iterator[Callable[[], Redis]]:
    """Start a Redis of the test's own, to be frozen or killed; mark the test ``redis``."""
    with contextlib.ExitStack() as servers:

        def start() -> Redis:
            skip_if_missing(programs.redis_server)
            server = Redis()
            servers.callback(server.remove)
            return server.start()

        yield start


@pytest.fixture
def start_pgbouncer() -> Iterator[StartPgBouncer]:
    """Start a pool in front of a server: ``start_pgbouncer(postgres.url())``; mark the test
    ``pgbouncer``."""
    with contextlib.ExitStack() as servers:

        def start(server_url: str) -> PgBouncer:
            skip_if_missing(programs.pgbouncer)
            server = PgBouncer(server_url)
            servers.callback(server.remove)
            return server.start()

        yield start


@pytest.fixture
def start_proxy() -> Iterator[StartProxy]:
    """Put a proxy before a URL's server: ``proxy = start_proxy(url); proxy.url(url)``."""
    with contextlib.ExitStack() as proxies:

        def start(url: str) -> TcpProxy:
            parts = urlsplit(url)
            assert parts.hostname is not None
            assert parts.port is not None
            proxy = TcpProxy(parts.hostname, parts.port)
            proxies.callback(proxy.stop)
            return proxy.start()

        yield start


@pytest.fixture(scope="session")
def chromium() -> Path:
    """The browser's program; mark the test ``browser``."""
    return skip_if_missing(programs.chromium)
